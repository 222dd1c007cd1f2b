"""What makes a search a good citizen of LangChain: runs and events, settings, tools, structured output, cache keys.

:mod:`darwin_align.search` and :mod:`darwin_align.chat_model` are built on it; no package below them imports it.
"""
