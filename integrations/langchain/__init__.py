"""LangChain hosts the library: one example a module. Nothing is imported here."""
