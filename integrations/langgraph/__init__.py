"""LangGraph hosts the library: an agent, a graph, and a search's progress in a graph's stream.

Nothing is imported here: ``langgraph`` and ``langchain`` load with the modules that need them (extra ``langgraph``).
"""
