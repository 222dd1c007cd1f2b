"""An OpenAI-compatible server for searches and reward models (extra ``serve``).

Run ``python -m darwin_align.integrations.openai_server``, or host
:func:`~darwin_align.integrations.openai_server.app.create_app` yourself. Nothing is imported here: FastAPI and uvicorn
load with the modules that need them.
"""
