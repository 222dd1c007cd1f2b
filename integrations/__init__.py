"""How other systems host the library."""
