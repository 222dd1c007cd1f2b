"""The built-in scorers that need no model of their own."""
