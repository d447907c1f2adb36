"""A model whose tokens can be dropped: the wrap, the backbones under it, and what it costs."""
