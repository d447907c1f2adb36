"""What models answer to pictures, and what is said and drawn of it."""
