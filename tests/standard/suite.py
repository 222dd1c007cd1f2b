"""What LangChain's standard tests are told of our model, whatever it runs on."""

from langchain_core.language_models import BaseChatModel

from darwin_align import DarwinChatModel


class Suite:
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return DarwinChatModel


class IntegrationSuite(Suite):
    @property
    def supports_model_override(self) -> bool:
        return False  # a search has its models, and no call can name another

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True
