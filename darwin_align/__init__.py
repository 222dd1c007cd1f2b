"""Aligned answers without retraining: DARWIN as a LangChain chat model."""
