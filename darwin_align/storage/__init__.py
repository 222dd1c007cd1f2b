"""Durable files: append-only journals, files replaced as a whole, one run a file, and the workers that fill them.

Standard library, ``filelock`` and :mod:`darwin_align.core` only: every other package may use it.
"""
