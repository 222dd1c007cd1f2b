"""Any LangChain chat model as the policy: it writes whole answers."""

from darwin_align.backends.chat_model.names import chat_model_of, names_chat_model
from darwin_align.backends.chat_model.policy import ChatModelPolicy

__all__ = ["ChatModelPolicy", "chat_model_of", "names_chat_model"]
