"""Other ways to a faster Vision Transformer, written anew from their papers, to be measured beside ours."""
