"""How other systems host the library: runnable examples on public names, each with a README and tests."""
