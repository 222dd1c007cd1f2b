"""The built-in mutators."""
