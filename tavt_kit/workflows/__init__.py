"""What the verbs do, for them and for Python: the only layer beside them that imports the parts."""
