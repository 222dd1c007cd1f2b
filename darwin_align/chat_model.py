"""DarwinChatModel: a thin LangChain face over :class:`~darwin_align.search.DarwinSearch`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    CallbackManager,
    CallbackManagerForLLMRun,
)
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.base import LangSmithParams, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableConfig
from pydantic import ConfigDict, model_validator

from darwin_align.core import Beam, SearchResult
from darwin_align.core.errors import ConfigError
from darwin_align.core.noun import did_you_mean, plain_errors
from darwin_align.model_errors import model_errors
from darwin_align.operators.together import RunsTogether
from darwin_align.search import DarwinSearch

if TYPE_CHECKING:
    import torch

__all__ = ["DarwinChatModel"]

Bypass = Callable[[list[BaseMessage]], bool]


class DarwinChatModel(RunsTogether[LanguageModelInput, AIMessage], BaseChatModel):
    """A chat model whose answers are searched for under a reward model while they are decoded.

    Without arguments it is the embedded pair. Give ``search``, or what :class:`DarwinSearch` takes (``policy``,
    ``scorer``, ``selector``, ``config`` …), or use :meth:`from_pretrained` for models of your own. Without a policy,
    the embedded pair does what is not given.

    Raises:
        ConfigError: an unknown argument, or arguments that contradict each other.

    >>> from darwin_align import DarwinChatModel
    >>> model = DarwinChatModel()
    >>> answer = model.invoke("How do I brew green tea?", seed=1)
    >>> answer.response_metadata["darwin"]["reward"] >= answer.response_metadata["darwin"]["first_reward"]
    True
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    search: DarwinSearch
    bypass: Bypass | None = None
    """Says of a conversation that it is answered by one plain sample, without a search. Never, by default."""
    model_name: str = "darwin"

    def __init__(self, **arguments: Any) -> None:
        with plain_errors(type(self)):
            super().__init__(**arguments)

    @model_validator(mode="before")
    @classmethod
    def _build_search(cls, given: dict[str, Any]) -> dict[str, Any]:
        own = {name: given[name] for name in given if name in cls.model_fields and name != "search"}
        parts = {name: given[name] for name in given if name not in cls.model_fields}
        if unknown := sorted(parts.keys() - DarwinSearch.model_fields.keys()):
            known = cls.model_fields.keys() | DarwinSearch.model_fields.keys()
            raise ConfigError(f"DarwinChatModel has no argument {unknown[0]!r}: {did_you_mean(unknown[0], known)}")
        if "search" not in given:
            return {**own, **_embedded(own, parts)}
        if parts:
            raise ConfigError(f"search=… already holds its parts: leave out {', '.join(sorted(parts))}, or search")
        return {**own, "search": given["search"]}

    @classmethod
    def from_pretrained(
        cls,
        policy: str | Path,
        reward: str | Path,
        *,
        device: str = "auto",
        dtype: str | torch.dtype = "auto",
        threads: int | None = None,
        trust_remote_code: bool = False,
        policy_options: Mapping[str, Any] | None = None,
        reward_options: Mapping[str, Any] | None = None,
        **arguments: Any,
    ) -> Self:
        """Load a policy and a reward model from folders or hub ids.

        What holds for one of the two alone goes into its options. So they share two GPUs:

        >>> DarwinChatModel.from_pretrained(
        ...     "Qwen/Qwen3-8B",
        ...     "Skywork/Skywork-Reward-V2-Qwen3-8B",
        ...     dtype="bfloat16",
        ...     policy_options={"device": "cuda:0"},
        ...     reward_options={"device": "cuda:1", "quantization": "8bit"},
        ... )  # doctest: +SKIP

        Args:
            policy: a causal language model with a chat template.
            reward: a sequence-classification model with one logit.
            device: "auto", "cpu", "cuda:0" …
            dtype: "auto", "float32", "bfloat16" … or a torch dtype.
            threads: CPU threads while these models work; ``None`` leaves torch's number. One is best for tiny models.
            trust_remote_code: run Python code that comes with the models. Off by default, for it can do anything.
            policy_options: options of :meth:`LocalPolicy.from_pretrained
                <darwin_align.backends.local.policy.LocalPolicy.from_pretrained>` that overrule the ones above for the
                policy. A ``device_map`` among them overrules ``device``.
            reward_options: the same for the reward model, as
                :meth:`RewardModel.from_pretrained <darwin_align.backends.local.reward.RewardModel.from_pretrained>`
                takes them.
            arguments: further arguments of :class:`DarwinChatModel`, e.g. ``config``.

        Raises:
            ModelLoadError: a folder is missing or does not fit its role, or cannot be loaded as asked.
            ConfigError: an unknown argument or option, or options that contradict each other.
        """
        from darwin_align.backends.local import LocalPolicy, LocalScorer, RewardModel

        how: dict[str, Any] = {
            "device": device,
            "dtype": dtype,
            "threads": threads,
            "trust_remote_code": trust_remote_code,
        }
        policy_how = _overruled(how, "policy_options", policy_options or {}, LocalPolicy.from_pretrained)
        reward_how = _overruled(how, "reward_options", reward_options or {}, RewardModel.from_pretrained)
        arguments.setdefault("model_name", str(policy))
        return cls(
            policy=LocalPolicy.from_pretrained(policy, **policy_how),
            scorer=LocalScorer.from_pretrained(reward, **reward_how),
            **arguments,
        )

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        n, settings = self._settings(messages, stop, kwargs)
        with model_errors():
            result = self.search.invoke(messages, _config(run_manager), **settings)
        return _chat_result(result, n, self.model_name)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        n, settings = self._settings(messages, stop, kwargs)
        with model_errors():
            result = await self.search.ainvoke(messages, _config(run_manager), **settings)
        return _chat_result(result, n, self.model_name)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        """Yield the answer once it is decided: until then every word may still be replaced."""
        yield _chunk(self._generate(messages, stop, run_manager, **kwargs))

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        yield _chunk(await self._agenerate(messages, stop, run_manager, **kwargs))

    def _settings(
        self, messages: list[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]
    ) -> tuple[int, dict[str, Any]]:
        settings = {**kwargs, **({"stop": stop} if stop else {})}
        n = 1 if (asked := settings.pop("n", None)) is None else asked
        if not isinstance(n, int) or n < 1:
            raise ConfigError(f"n = {n!r}: it is the number of answers to return, best first, so at least 1")
        if self.bypass is not None and self.bypass(messages):
            settings.update(cycles=0, lookahead=0)
        return n, settings

    @property
    def _llm_type(self) -> str:
        return "darwin"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """Every setting that decides the answer: LangChain's cache keys are made of it."""
        operators = self.search.operators(self.search.config)
        return {
            "model_name": self.model_name,
            "config": self.search.config.model_dump(mode="json"),
            "sampling": self.search.sampling.model_dump(mode="json"),
            "bypass": repr(self.bypass),
            "operators": {role: repr(operator) for role, operator in operators.items()},
        }

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        params["ls_provider"] = "darwin_align"
        params["ls_model_name"] = self.model_name
        return params


def _overruled(shared: dict[str, Any], name: str, own: Mapping[str, Any], loader: Callable[..., Any]) -> dict[str, Any]:
    """The shared options for a loader, overruled by its own."""
    known = signature(loader).parameters.keys() - {"path"}
    if unknown := sorted(own.keys() - known):
        raise ConfigError(f"{name} has no {unknown[0]!r}: {did_you_mean(unknown[0], known)}")
    placed = {"device": "auto"} if own.get("device_map") is not None else {}
    return {**shared, **placed, **own}


def _embedded(own: dict[str, Any], parts: dict[str, Any]) -> dict[str, Any]:
    if parts.keys() & {"policy", "decoder"}:
        return {"search": DarwinSearch(**parts)}
    from darwin_align.pocket.pair import pocket_search

    return {"model_name": own.get("model_name", "pocket"), "search": pocket_search(**parts)}


def _config(run_manager: Any) -> RunnableConfig | None:
    """Run the operators as children of the model's own run. LangChain's LLM run managers have no ``get_child``."""
    if run_manager is None:
        return None
    children = CallbackManager(handlers=[], parent_run_id=run_manager.run_id)
    children.set_handlers(run_manager.inheritable_handlers)
    children.add_tags(run_manager.inheritable_tags)
    children.add_metadata(run_manager.inheritable_metadata)
    return RunnableConfig(callbacks=children)


def _chat_result(result: SearchResult, n: int, model_name: str) -> ChatResult:
    beams = result.ranking[:n] or (result.best,)
    usage = UsageMetadata(
        input_tokens=result.usage.prefilled_tokens,
        output_tokens=result.usage.decoded_tokens,
        total_tokens=result.usage.prefilled_tokens + result.usage.decoded_tokens,
    )
    generations = []
    for rank, beam in enumerate(beams):
        metadata = {
            "model_name": model_name,
            "finish_reason": beam.finish_reason,
            "darwin": _darwin_metadata(result, beam),
        }
        # What the whole search spent is counted once, on its best answer.
        message = AIMessage(beam.text, response_metadata=metadata, usage_metadata=usage if rank == 0 else None)
        generations.append(ChatGeneration(message=message, generation_info={"finish_reason": beam.finish_reason}))
    return ChatResult(generations=generations, llm_output={"model_name": model_name, "usage": usage})


def _darwin_metadata(result: SearchResult, beam: Beam) -> dict[str, Any]:
    return {
        "reward": beam.reward,
        "first_response": result.first_response.text,
        "first_reward": result.first_response.reward,
        "instruction": beam.instruction,
        "cycles": result.cycles,
        "stop_reason": result.stop_reason,
        "failure": result.failure,
        "seed": result.config.seed,
        "usage": result.usage.model_dump(),
    }


def _chunk(result: ChatResult) -> ChatGenerationChunk:
    message = result.generations[0].message
    assert isinstance(message, AIMessage)  # noqa: S101 - built by _chat_result
    chunk = AIMessageChunk(
        content=message.content,
        response_metadata=message.response_metadata,
        usage_metadata=message.usage_metadata,
    )
    return ChatGenerationChunk(message=chunk, generation_info=result.generations[0].generation_info)
