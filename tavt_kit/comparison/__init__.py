"""Two records laid side by side: what belongs together, what changed, and with which doubt."""
