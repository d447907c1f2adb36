"""One file a verb: text in, calls, records out. With ``workflows`` the only layer that may import the parts."""
