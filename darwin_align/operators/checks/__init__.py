"""Checks of rewordings: their intent and their wording."""
