"""Image files: which there are, and what is in them."""
