"""The engines, one module each; importing this package loads none of them."""
