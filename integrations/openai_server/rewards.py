"""Reward models over the wire: a call of our own, and those of OpenRLHF and vLLM."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from math import exp, isfinite
from typing import Any

from pydantic import JsonValue
from starlette.requests import Request

from darwin_align import Population, Scorer
from darwin_align import Request as Conversation
from darwin_align.backends.local import LocalScorer, RewardModel
from darwin_align.core import Beam, Message
from darwin_align.core.errors import RewardError
from darwin_align.operators.observers import observing
from darwin_align.operators.policy import current_search
from darwin_align.operators.portal import acall, off_loop
from darwin_align.operators.resources import released, resources_of

from .conversation import check_texts, messages_of, texts_of
from .faults import Fault, invalid, unsupported
from .gate import ClientGone, Gate, client_of, while_connected
from .metrics import Metrics
from .served import chosen
from .settings import ServerSettings
from .wire import AssistantTurn, ClassifyRequest, GetRewardRequest, RewardsRequest, Turn

__all__ = ["Rewards"]

Scored = tuple[list[float], int]
"""Rewards, and tokens."""
Work = Callable[[], Awaitable[Scored]]


class Rewards:
    """Answers requests for rewards.

    Args:
        scorers: by the names that requests give.
        settings: of the server.
        metrics: count the rewards.
    """

    def __init__(self, scorers: Mapping[str, Scorer], settings: ServerSettings, metrics: Metrics) -> None:
        self.scorers, self.settings, self.metrics = scorers, settings, metrics
        self.gate = Gate(settings.max_scorings, "requests for rewards", settings.per_key("scorings"))
        self._by_ids = {
            name: scorer.reward_model
            for name, scorer in scorers.items()
            if isinstance(scorer, LocalScorer) and scorer.reward_model.reads_ids
        }

    def card(self, name: str) -> dict[str, JsonValue]:
        """Fields of a scorer's entry in ``/v1/models``."""
        scorer = self.scorers[name]
        length = scorer.reward_model.context_length if isinstance(scorer, LocalScorer) else None
        return {"max_model_len": length}

    # -- the calls

    async def rewards(self, request: Request, body: RewardsRequest) -> dict[str, Any]:
        """``POST /v1/rewards``."""
        name = self._name(body.model)

        def prepared() -> Work:
            self._check_count(len(body.responses or body.conversations or ()), "responses")
            check_texts(limits, body.responses or (), "responses")
            check_texts(limits, texts_of(body.messages or ()), "messages")
            for turns in body.conversations or ():
                check_texts(limits, texts_of(turns), "conversations")
            return partial(_all, self.scorers[name], _conversations(body))

        limits = self.settings.limits
        rewards, tokens = await self._score(request, name, prepared)
        data = [{"object": "reward", "index": i, "reward": reward} for i, reward in enumerate(rewards)]
        return {"object": "list", "model": name, "data": data, "usage": _usage(tokens)}

    async def get_reward(self, request: Request, body: GetRewardRequest) -> dict[str, Any]:
        """``POST /get_reward``. OpenRLHF's server tokenises without special tokens."""
        name = self._name(None)
        self._check_count(len(body.query), "query")
        model = self._reader(name, "query")

        def prepared() -> Work:
            check_texts(self.settings.limits, body.query, "query")
            return partial(_of_ids, model, [model.encode(text) for text in body.query])

        rewards, _ = await self._score(request, name, prepared)
        return {"rewards": rewards, "scores": rewards, "extra_logs": {}}

    async def classify(self, request: Request, body: ClassifyRequest) -> dict[str, Any]:
        """``POST /classify``."""
        name, numbers, tokens = await self._activated(request, body)
        data = [
            {"index": i, "label": "LABEL_0", "probs": [number], "num_classes": 1} for i, number in enumerate(numbers)
        ]
        return self._vllm("classify", name, data, tokens)

    async def pooling(self, request: Request, body: ClassifyRequest) -> dict[str, Any]:
        """``POST /pooling`` with the task "classify"."""
        if body.task is None:
            raise invalid("give task='classify': a reward model has nothing else to pool", "task")
        name, numbers, tokens = await self._activated(request, body)
        data = [{"index": i, "object": "pooling", "data": [number]} for i, number in enumerate(numbers)]
        return self._vllm("pool", name, data, tokens)

    async def _activated(self, request: Request, body: ClassifyRequest) -> tuple[str, list[float], int]:
        name = self._name(body.model)
        rewards, tokens = await self._score(request, name, lambda: self._work(name, body))
        return name, [_sigmoid(reward) for reward in rewards] if body.use_activation else rewards, tokens

    def _work(self, name: str, body: ClassifyRequest) -> Work:
        if body.messages is not None:
            check_texts(self.settings.limits, texts_of(body.messages), "messages")
            return partial(_all, self.scorers[name], [_ended(body.messages, "messages")])
        return partial(_of_ids, self._reader(name, "input"), self._rows(name, body))

    def _rows(self, name: str, body: ClassifyRequest) -> list[list[int]]:
        given: Any = body.input
        rows = [given] if isinstance(given, str) or isinstance(given[0], int) else given
        self._check_count(len(rows), "input")
        check_texts(self.settings.limits, (row for row in rows if isinstance(row, str)), "input")
        model, special = self._reader(name, "input"), body.add_special_tokens
        return [model.encode(row, special_tokens=special) if isinstance(row, str) else row for row in rows]

    # -- scoring

    async def _score(self, request: Request, name: str, prepare: Callable[[], Work]) -> Scored:
        """Prepare work in a thread and do it, as one of the requests that are limited."""
        task = self.gate.run(lambda: self._in_time(prepare), client_of(request))
        try:
            rewards, tokens = await while_connected(request.receive, task)
        except ClientGone:
            self.metrics.cancelled.labels("reward").inc()
            raise
        self.metrics.scored(name, len(rewards), tokens)
        return rewards, tokens

    async def _in_time(self, prepare: Callable[[], Work]) -> Scored:
        async with asyncio.timeout(self.settings.limits.seconds):
            work: Work = await acall(prepare)
            with observing(self.metrics.observer):
                return await work()

    def _name(self, name: str | None) -> str:
        return chosen({name: name for name in self.scorers}, name)

    def _reader(self, name: str, param: str) -> RewardModel:
        if (model := self._by_ids.get(name)) is None:
            raise unsupported(param, f"{name} does not read rendered texts or token ids: use /v1/rewards")
        return model

    def _check_count(self, count: int, param: str) -> None:
        if count > (most := self.settings.limits.reward_inputs):
            raise Fault(400, f"{count} responses are more than this server scores at once: {most} at most", param=param)

    @staticmethod
    def _vllm(kind: str, name: str, data: list[dict[str, Any]], tokens: int) -> dict[str, Any]:
        head = {"id": f"{kind}-{uuid.uuid4().hex}", "object": "list", "created": int(time.time()), "model": name}
        return {**head, "data": data, "usage": _usage(tokens)}


def _conversations(body: RewardsRequest) -> list[tuple[tuple[Message, ...], list[str]]]:
    """Conversations, and the responses to each."""
    if body.conversations is not None:
        return [_ended(turns, f"conversations.{i}") for i, turns in enumerate(body.conversations)]
    return [(messages_of(body.messages or []), body.responses or [])]


def _ended(turns: Sequence[Turn], param: str) -> tuple[tuple[Message, ...], list[str]]:
    if not turns or not isinstance(last := turns[-1], AssistantTurn) or last.tool_calls:
        raise invalid(f"{param} must end with the assistant's response, a text, which is to be rewarded", param)
    *before, response = messages_of(turns)
    return tuple(before), [response.text]


async def _all(scorer: Scorer, pairs: Sequence[tuple[tuple[Message, ...], list[str]]]) -> Scored:
    """Score all, those of one conversation in one call."""
    together: dict[str, tuple[Conversation, dict[str, None]]] = {}
    keys = []
    for messages, texts in pairs:
        conversation = Conversation(conversation=messages)
        keys.append(key := conversation.to_json())
        together.setdefault(key, (conversation, {}))[1].update(dict.fromkeys(texts))
    tasks = []
    try:
        for conversation, answers in together.values():
            tasks.append(asyncio.create_task(_scored(scorer, conversation, list(answers))))
            await asyncio.sleep(0)  # hundreds that start in one turn of the loop would block the other requests
        scored = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
    rewards_of = dict(zip(together, scored, strict=True))
    rewards = [rewards_of[key][0][text] for key, (_, texts) in zip(keys, pairs, strict=True) for text in texts]
    return rewards, sum(tokens for _, tokens in scored)


async def _scored(scorer: Scorer, conversation: Conversation, texts: list[str]) -> tuple[dict[str, float], int]:
    """Score texts as a search does: as a population of finished answers."""
    instruction = conversation.instruction
    beams = {i: Beam(instruction=instruction, text=text, finish_reason="stop") for i, text in enumerate(texts)}
    population = Population.start(conversation, mutations=len(texts), search_id=uuid.uuid4().hex).with_beams(beams)
    with released(resources_of([scorer]), population.search_id):
        population = await scorer.ainvoke(population)
    rewards = {beam.text: beam.reward for beam in population.beams if beam.reward is not None}
    return rewards, population.usage.reward_tokens


async def _of_ids(model: RewardModel, rows: Sequence[Sequence[int]]) -> Scored:
    """Reward token ids, and count all of them, as vLLM does."""
    search_id = uuid.uuid4().hex
    token = current_search.set(search_id)
    try:
        with released([model], search_id):
            rewards = await asyncio.wrap_future(off_loop(lambda: model.submit_ids(rows, lambda rewards, _: rewards)))
    finally:
        current_search.reset(token)
    if not all(map(isfinite, rewards)):
        raise RewardError("the reward model gave something that is no finite number")
    return rewards, sum(map(len, rows))


def _sigmoid(number: float) -> float:
    return 1 / (1 + exp(-number)) if number >= 0 else exp(number) / (1 + exp(number))


def _usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": tokens, "total_tokens": tokens}
