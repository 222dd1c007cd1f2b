"""The remote reward model: reward servers of many kinds, and their raw scores."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from darwin_align.backends.endpoint.client import Endpoint, gather_all
from darwin_align.backends.endpoint.rendezvous import prefix_of
from darwin_align.backends.endpoint.rewards import REWARD_DIALECTS, Form, Item, RewardDialect, UnexpectedReply
from darwin_align.backends.endpoint.rewards.input_format import RewardInputFormat, form_of
from darwin_align.backends.endpoint.rewards.remote import RemoteScorer
from darwin_align.backends.endpoint.server import ServedModel, ServerInfo, identify_server
from darwin_align.backends.endpoint.tokenizers import load_tokenizer, may_be_loaded
from darwin_align.backends.recipes import Recipe, recipe_for, recipe_named
from darwin_align.backends.templates import ChatTemplate, Turn
from darwin_align.core.budget import Usage
from darwin_align.core.errors import (
    ConfigError,
    ContextLengthError,
    EndpointNotFoundError,
    EndpointServerError,
    ModelLoadError,
    RewardError,
)
from darwin_align.core.record import did_you_mean
from darwin_align.core.types import Request, Response
from darwin_align.operators.portal import acall, call
from darwin_align.operators.report import Report

__all__ = ["EndpointScorer"]

logger = logging.getLogger(__name__)

_ENOUGH = 8
"""Rewards from which on it is unlikely by chance that all of them lie between 0 and 1."""
_TRIAL = Request.of("Which colour has the sky?"), Response(text="It is blue.")


class EndpointScorer(RemoteScorer):
    """Scores with a reward model on a server.

    The kind of server and its model are detected at the first use. vLLM and SGLang are sent the same token ids that a
    local reward model reads; servers that take texts are sent the rendered chat template, with one BOS at most. Both
    need the reward model's tokenizer on this machine. Where it cannot be loaded and the server renders chats itself,
    it is sent messages, with a note. Nothing is truncated here, and servers are never told to truncate.

    Raw scores are requested where the server has an option for them. If all rewards lie between 0 and 1 nevertheless,
    a warning says that a sigmoid was probably applied, which compresses the differences between good answers. Another
    warning says that all rewards are the same.

    >>> EndpointScorer(base_url="http://127.0.0.1:8001", model="Skywork/Skywork-Reward-V2-Qwen3-0.6B", api_key="secret")
    EndpointScorer('http://127.0.0.1:8001', model='Skywork/Skywork-Reward-V2-Qwen3-0.6B')

    Raises:
        ConfigError: an impossible option.
    """

    base_url: str | tuple[str, ...]
    """``http://host:port``, with or without ``/v1``; or several that serve the same model: all responses of
    a search go to the one whose cache has its conversation."""
    dialect: str | RewardDialect = "auto"
    """"auto" (for vLLM, SGLang, TEI and NVIDIA's own address), a name of
    :data:`~darwin_align.backends.endpoint.rewards.REWARD_DIALECTS`, or an object such as
    ``NIM(attribute=…)`` or a :class:`~darwin_align.backends.endpoint.rewards.RewardDialect` of your own."""
    model: str | None = None
    """The model's name on the server; ``None`` takes the only one."""
    tokenizer: str | Path | None = None
    """Folder or hub id of the reward model's tokenizer; ``None`` tries the model's own name. A name that the server
    reports is used as a hub id only, never as a path on this machine."""
    chat_template: str | Path | None = None
    """Jinja source, or a path to a file with it, in place of the tokenizer's own."""
    recipe: str | None = None
    """Name of a known family (:data:`~darwin_align.backends.recipes.RECIPES`): who writes the BOS, and whether question
    and answer are a pair. ``None`` recognises it by the model's name."""
    turn: Turn = "closed"
    """"closed" ends the assistant's turn as the template does, "open" stops behind the answer."""
    batch_size: int = Field(32, gt=0)
    """Responses in one request, where the server takes several."""
    context_length: int | None = Field(None, gt=0)
    """The model's context length in tokens; ``None`` takes what the server reports."""

    @field_validator("base_url", mode="before")
    @classmethod
    def _urls_as_tuple(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @field_validator("dialect")
    @classmethod
    def _known_dialect(cls, value: str | RewardDialect) -> str | RewardDialect:
        if isinstance(value, str) and value not in ("auto", *REWARD_DIALECTS):
            raise ConfigError(f"unknown dialect {value!r}: {did_you_mean(value, ['auto', *REWARD_DIALECTS])}")
        return value

    @field_validator("recipe")
    @classmethod
    def _known_recipe(cls, value: str | None) -> str | None:
        return value if value is None else recipe_named(value).name

    async def score(self, request: Request, responses: Sequence[Response]) -> Report[list[float]]:
        """Score the responses, and report the tokens that the server read.

        Raises:
            EndpointError: the server cannot be used, or its reply contains no rewards.
            RewardError: it returns more or fewer rewards than responses, or one that is no finite number.
            ContextLengthError: the conversation and an answer are longer than the model's context.
            ConfigError: the server's kind, model or tokenizer must be given.
        """
        return await acall(self._score, request, responses)  # type: ignore[no-any-return]

    def max_response_tokens(self, request: Request) -> int | None:
        """Tokens of an answer that still fit, where the tokenizer and the context length are known.

        The first call sends requests to the server. On a thread that runs an event loop it returns ``None`` instead of
        waiting for them.
        """
        input_format: RewardInputFormat | None = self._state.facts.get("input_format")
        if input_format is None:
            if _in_a_loop():
                return None
            input_format = call(self._input_format)
        if (
            input_format.context_length is None
            or (lengths := input_format.lengths(request, [Response(text="")])) is None
        ):
            return None
        return input_format.context_length - lengths[0]

    def _calls_address(self) -> bool:
        dialect = REWARD_DIALECTS.get(self.dialect) if isinstance(self.dialect, str) else self.dialect
        return dialect is not None and dialect.calls_address

    # -- requests

    async def _score(self, request: Request, responses: Sequence[Response]) -> Report[list[float]]:
        input_format = await self._input_format()
        items = input_format.items(request, responses)
        lengths = self._checked(input_format, request, responses, items)
        unique = list(dict.fromkeys(items))
        batches = [
            unique[start : start + input_format.max_batch] for start in range(0, len(unique), input_format.max_batch)
        ]
        answers = await gather_all(
            [self._request_rewards(input_format, batch, prefix_of(request)) for batch in batches]
        )
        rewards = dict(zip(unique, (reward for batch, _ in answers for reward in batch), strict=True))
        counts = [tokens for _, tokens in answers if tokens is not None]
        read = dict(zip(items, lengths or (), strict=False))
        tokens = sum(counts) if len(counts) == len(answers) else sum(read.values())
        return Report(
            [rewards[item] for item in items],
            Usage(reward_tokens=tokens),
            (
                *self._state.notes(
                    *input_format.notes, *input_format.unseen_notes(request), *self._suspicions(input_format, rewards)
                ),
                *input_format.adapted_notes(request),
            ),
        )

    def _checked(
        self, input_format: RewardInputFormat, request: Request, responses: Sequence[Response], items: Sequence[Item]
    ) -> list[int] | None:
        """Lengths of the inputs, none of which is too long."""
        lengths = (
            [len(item.ids) for item in items]
            if input_format.form == "ids"
            else input_format.lengths(request, responses)
        )
        if lengths and input_format.context_length is not None and max(lengths) > input_format.context_length:
            raise ContextLengthError(
                f"the conversation and an answer are {max(lengths)} tokens long and the context of the reward model on "
                f"{input_format.where} is {input_format.context_length}: lower max_new_tokens, shorten the "
                "conversation or use a reward model with a longer context"
            )
        return lengths

    async def _request_rewards(
        self, input_format: RewardInputFormat, items: Sequence[Item], prefix: int
    ) -> tuple[list[float], int | None]:
        path, body = input_format.dialect.request(input_format.model, items)
        try:
            reply = await self._endpoint.post(path, body, prefix=prefix)
        except EndpointNotFoundError as error:
            if not input_format.dialect.hint:
                raise
            raise EndpointNotFoundError(f"{error} ({input_format.dialect.hint})", status=error.status) from error
        call_name, data = f"{reply.url}{path} ({input_format.dialect.name})", self._without_secrets(reply.data)
        try:
            rewards, tokens = input_format.dialect.read(data), input_format.dialect.tokens(data)
        except UnexpectedReply as unexpected:
            raise EndpointServerError(
                f"{call_name} returned no rewards: {unexpected}. Its reply was {str(data)[:200]!r}. Is that the right "
                "dialect for this server?"
            ) from unexpected
        if len(rewards) != len(items):
            raise RewardError(
                f"{call_name} was sent {len(items)} responses and returned {len(rewards)} rewards: one for each was "
                "expected"
            )
        if wrong := [reward for reward in rewards if not isfinite(reward)]:
            raise RewardError(f"{call_name} returned the reward {wrong[0]}: rewards must be finite numbers")
        return rewards, tokens

    def _suspicions(self, input_format: RewardInputFormat, rewards: Mapping[Item, float]) -> Iterator[str]:
        """Warnings once enough rewards were seen that tell no answers apart, or look like a sigmoid's."""
        facts, where = self._state.facts, f"{input_format.where} ({input_format.dialect.name})"
        seen, between = facts.get("seen", (0, True))
        facts["seen"] = seen, between = seen + len(rewards), between and all(0 <= one <= 1 for one in rewards.values())
        if between and seen >= _ENOUGH:
            yield (
                f"all rewards of {where} lie between 0 and 1, as if a sigmoid had been applied, which presses good "
                "answers together: look for a setting of the server, or for a raw score in its answers. Let it be if "
                "the model was trained to give such numbers"
            )
        # By item: the same answer has the same reward in every request.
        if (tied := facts.setdefault("tied", {})) is None:
            return
        tied.update((hash(item), reward) for item, reward in rewards.items())
        if len(values := set(tied.values())) > 1:
            facts["tied"] = None
        elif len(tied) >= _ENOUGH:
            facts["tied"] = {}
            yield (
                f"the rewards of {_ENOUGH} different answers by {where} are all exactly {values.pop()}, which tells no "
                "answer from another: a sigmoid in half precision gives 1.0 for every good answer, so look for a "
                "setting of the server that gives raw scores; or the server does not read the answers"
            )

    # -- detection

    @property
    def _endpoint(self) -> Endpoint:
        endpoint = self._state.endpoint
        assert endpoint is not None  # noqa: S101 - base_url is required
        return endpoint

    async def _input_format(self) -> RewardInputFormat:
        async with self._endpoint.lock():
            facts = self._state.facts
            if "input_format" not in facts:
                facts["input_format"] = await self._detect_input_format()
            input_format: RewardInputFormat = facts["input_format"]
        return input_format

    async def _detect_input_format(self) -> RewardInputFormat:
        where = self._endpoint.roots[0]
        server = await self._server_info()
        dialect = self._dialect_for(server, where)
        served = ServedModel(self.model or "") if server is None else server.model(self.model, where)
        recipe = self._recipe_for(served)
        tokenizer, missing = await self._tokenizer_for(dialect, served)
        template = None
        if tokenizer is not None and recipe.inputs == "chat":
            name = f"the reward model {served.id!r}" if served.id else f"the reward model on {where}"
            try:
                template = ChatTemplate(tokenizer, self.chat_template, name=name, role="reward model", bos=recipe.bos)
            except ModelLoadError as error:
                if self.tokenizer is not None:
                    raise
                missing = str(error)  # found by name only: perhaps the server has a chat template
        form = form_of(dialect, recipe, template, missing, where)
        self._check_turn(dialect, form, recipe)
        limits = [self.batch_size, dialect.most(form), await self._max_batch_of(dialect)]
        notes = [f"{where}: {dialect.caution}"] if dialect.caution and self.context_length is None else []
        if form == "messages" and "ids" in dialect.forms:
            notes.append(f"{where} ({dialect.name}) renders the chats itself, because here {missing}")
        input_format = RewardInputFormat(
            dialect=dialect,
            model=served.id,
            where=where,
            form=form,
            turn=self.turn,
            recipe=recipe,
            tokenizer=tokenizer,
            template=template,
            context_length=_context_of(self.context_length or served.context_length, recipe, tokenizer),
            max_batch=min(limit for limit in limits if limit is not None),
        )
        mismatch = await asyncio.to_thread(input_format.token_mismatch)
        logger.info("%s (%s) is sent %s for rewards", where, dialect.name, form)
        return replace(input_format, notes=(*notes, *([mismatch] if mismatch else [])))

    async def _server_info(self) -> ServerInfo | None:
        """The server's kind and models; ``None`` where the dialect has no call for them."""
        dialect = REWARD_DIALECTS.get(self.dialect) if isinstance(self.dialect, str) else self.dialect
        return await identify_server(self._endpoint) if dialect is None or dialect.has_models else None

    def _dialect_for(self, server: ServerInfo | None, where: str) -> RewardDialect:
        if isinstance(self.dialect, RewardDialect):
            return self.dialect
        name = server.kind if self.dialect == "auto" and server else self.dialect
        if name not in REWARD_DIALECTS:
            raise ConfigError(
                f"{where} is a server of kind {name!r}, for which no call that returns rewards is known: give "
                f"dialect=… ({', '.join(REWARD_DIALECTS)}), or a RewardDialect of your own. For a chat model that is "
                "to judge answers, use JudgeScorer"
            )
        return REWARD_DIALECTS[name]

    def _recipe_for(self, served: ServedModel) -> Recipe:
        names = [str(name) for name in (self.tokenizer, self.model, served.root, served.id) if name]
        found = [recipe_for(name) for name in names]
        named = recipe_named(self.recipe) if self.recipe else None
        recipe = named or next((one for one in found if one.pattern), recipe_named("generic"))
        if recipe.reads == "get_score":
            raise ConfigError(
                f"the {recipe.name!r} recipe scores by the model's own code, which renders the chat itself: if "
                "your server reads the rendered chat template instead, give recipe='generic'"
            )
        return recipe

    async def _tokenizer_for(self, dialect: RewardDialect, served: ServedModel) -> tuple[Any, str]:
        """The reward model's tokenizer, given or found by name; else ``None`` and the reason."""
        if self.tokenizer is not None:
            return await asyncio.to_thread(load_tokenizer, str(self.tokenizer)), ""
        if self.chat_template is not None:
            raise ConfigError("chat_template=… is rendered here: give the reward model's tokenizer=… too")
        if not {"ids", "text"} & {*dialect.forms}:
            return None, "no tokenizer is needed"
        names = dict.fromkeys(name for name in (served.root, served.id) if name)
        for name in [name for name in names if may_be_loaded(name, self.model)]:
            try:
                return await asyncio.to_thread(load_tokenizer, name), ""
            except ModelLoadError as error:
                logger.info("no tokenizer by the name of %r: %s", name, error)
        reason = f"there is none here by the name of {' or '.join(map(repr, names))}" if names else "none was given"
        return None, f"the reward model's tokenizer is missing ({reason}): give tokenizer=…, a folder or a hub id"

    async def _max_batch_of(self, dialect: RewardDialect) -> int | None:
        if dialect.info_path is None:
            return None
        try:
            return dialect.most_in((await self._endpoint.get(dialect.info_path)).data)
        except EndpointNotFoundError:
            return None

    def _check_turn(self, dialect: RewardDialect, form: Form, recipe: Recipe) -> None:
        closes = form == "pair" or recipe.inputs == "pair" or (form == "messages" and not dialect.opens)
        if self.turn == "open" and closes:
            raise ConfigError(f"turn='open' is not supported by {dialect.name} with {form}: use turn='closed'")


def _context_of(length: int | None, recipe: Recipe, tokenizer: Any) -> int | None:
    if length is None or recipe.inputs != "pair" or tokenizer is None:
        return length
    # Some encoders reserve positions, which the tokenizer's limit takes into account.
    return min(length, int(tokenizer.model_max_length))


def _in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
