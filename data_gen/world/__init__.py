"""A made-up encyclopaedia: what is true in it, what of it is taught, what is asked, and how one searches in it."""
