"""Operators: the doors that a user swaps."""
