"""Plain values: what the kit speaks of, and how it is written down. The standard library only."""
