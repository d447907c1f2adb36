"""One file a verb: text in, calls, records out. The only layer that may import the parts."""
