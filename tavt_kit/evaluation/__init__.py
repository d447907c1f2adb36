"""What models answer to images, and what is said and drawn of it."""
