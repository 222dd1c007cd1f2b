"""One prompt's answer as plain data, and the settings that decide it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from darwin_align.batch.prompt import BadPromptError, Prompt, digest_of
from darwin_align.core import SearchResult, Usage
from darwin_align.core.errors import ConfigError, RequestError
from darwin_align.core.figures import figures_of
from darwin_align.core.seeds import below
from darwin_align.langchain.identity import identity
from darwin_align.langchain.tools import answer_message, bound_tools
from darwin_align.operators.portal import acall
from darwin_align.search import DarwinSearch

if TYPE_CHECKING:
    from langchain_core.messages import AIMessage

    from darwin_align.chat_model import DarwinChatModel

__all__ = ["Answer", "Answerer", "fingerprint", "settings_of"]

_NAMELESS = re.compile(r" [0-9a-f]{32}(?=>)")
"""The name of a function in :func:`identity`: another process does not have it."""
_PARTS = ("policy", "scorer", "decoder", "mutator", "selector", "mutation_prompt", "guard")


class Answer(NamedTuple):
    """A line of the output, and what it cost."""

    record: dict[str, Any]
    usage: Usage


class Answerer:
    """Answers prompts one by one, under the settings of one run.

    Args:
        model: a chat model or a search.
        seed: of the run; ``None`` takes the search's own, else 0.

    Raises:
        ConfigError: the model is neither, or has a setting that a batch cannot keep.

    >>> from darwin_align.backends.scripted import ScriptedPolicy, ScriptedScorer
    >>> from darwin_align.operators.portal import call
    >>> answerer = Answerer(DarwinSearch(policy=ScriptedPolicy(), scorer=ScriptedScorer()))
    >>> record, _ = call(answerer.answer, Prompt.read({"prompt": "Say something good."}, line=1))
    >>> record["id"], record["stop_reason"], record["reward"] >= record["first_reward"]
    ('1-6fd4d97d81b7', 'cycles', True)
    """

    def __init__(self, model: DarwinChatModel | DarwinSearch, seed: int | None = None) -> None:
        self.search, self._stop = _search_of(model)
        own = self.search.config.seed
        self.seed: int = seed if seed is not None else own if own is not None else 0
        self.settings = settings_of(model, self.seed)
        self.fingerprint = fingerprint(self.settings)
        # An answer that a failing server cut short would be kept for good; raised, the next run makes a whole one.
        by_hand = "on_failure" in self.search.config.model_fields_set
        self._defaults: dict[str, Any] = {} if by_hand else {"on_failure": "raise"}

    async def answer(self, prompt: Prompt) -> Answer:
        """Search for a prompt's answer.

        Raises:
            BadPromptError: no run can answer it.
            Exception: whatever an operator raised.
        """
        seed = below(2**31, self.seed, "batch", prompt.key) if prompt.seed is None else prompt.seed
        with _bad_prompts(reading=True):
            settings = {**self._defaults, **prompt.settings, **self._request_fields(prompt)}
            request, _ = self.search.request(prompt.conversation, {**settings, "seed": seed})
            request.instruction  # noqa: B018 - refuses a conversation that cannot be answered
        with _bad_prompts(reading=False):
            result = await self.search.arun(request, **settings, seed=seed, progress=False)
        message: AIMessage = await acall(answer_message, result, result.best, self.search.policy_for())
        return Answer(self._record(prompt, result, message), result.usage)

    def _request_fields(self, prompt: Prompt) -> dict[str, Any]:
        fields = {**({"stop": self._stop} if self._stop else {}), **prompt.request}
        if "tools" in fields or "tool_choice" in fields:
            parallel = fields.pop("parallel_tool_calls", None)
            fields |= bound_tools(fields.pop("tools", ()), fields.pop("tool_choice", None), None, parallel)
        return fields

    def _record(self, prompt: Prompt, result: SearchResult, message: AIMessage) -> dict[str, Any]:
        invalid = [
            {"name": call["name"], "arguments": call["args"], "error": call["error"]}
            for call in message.invalid_tool_calls
        ]
        found = {
            "id": prompt.key,
            "answer": message.text,
            **figures_of(result, "thoughts"),
            "tool_calls": [_openai_call(call) for call in message.tool_calls],
            "invalid_tool_calls": invalid,
            **figures_of(result, "finish_reason", "reward", "first_reward", "instruction", "seed"),
            "usage": {name: getattr(result.usage, name) for name in ("decoded_tokens", "policy_calls", "reward_calls")},
            **figures_of(result, "stop_reason", "failure"),
            "input": prompt.digest,
            "fingerprint": self.fingerprint,
        }
        optional = ("thoughts", "tool_calls", "invalid_tool_calls", "failure")
        return {name: value for name, value in found.items() if value or name not in optional}


def settings_of(model: DarwinChatModel | DarwinSearch, seed: int) -> dict[str, Any]:
    """All that decides the answers of a run, as plain JSON data that another process finds equal.

    Functions and objects of your own are identified by their names: a change of their code is not seen.

    >>> from darwin_align.backends.scripted import ScriptedPolicy, ScriptedScorer
    >>> search = DarwinSearch(policy=ScriptedPolicy(), scorer=ScriptedScorer())
    >>> settings_of(search, 7)["seed"], settings_of(search, 7)["policy"]
    (7, '<ScriptedPolicy>')
    """
    from darwin_align import __version__

    search, stop = _search_of(model)
    config = {n: v for n, v in search.config.model_dump(mode="json").items() if n not in ("seed", "on_failure")}
    parts = {name: value for name in _PARTS if (value := getattr(search, name)) is not None}
    settings = {
        "darwin_align": __version__,
        "seed": seed,
        "config": config,
        "sampling": search.sampling.model_dump(mode="json"),
        "clauses": [clause.model_dump() for clause in search.clauses],
        "grounded": search.grounded,
        "stop": list(stop),
        **{name: _lasting(identity(part)) for name, part in parts.items()},
    }
    return dict(json.loads(json.dumps(settings)))


def fingerprint(settings: Mapping[str, Any]) -> str:
    """A short digest of settings.

    >>> fingerprint({"seed": 7})
    'beced1fe6963'
    """
    return digest_of(dict(settings))[:12]


def _lasting(text: str) -> str:
    """An identity without what is different in another process or folder."""
    import darwin_align

    home = str(Path(darwin_align.__file__).parent)
    return _NAMELESS.sub("", text).replace(home, "darwin_align")


def _search_of(model: object) -> tuple[DarwinSearch, tuple[str, ...]]:
    if isinstance(model, DarwinSearch):
        return model, ()
    from darwin_align.chat_model import DarwinChatModel

    if not isinstance(model, DarwinChatModel):  # what is bound to one has a `search` too, and settings beside it
        raise ConfigError(
            f"a batch is answered by a DarwinChatModel or a DarwinSearch, not by a {type(model).__name__}: give the "
            "model itself, and what was bound to it as settings"
        )
    if model.bypass is not None:
        raise ConfigError("bypass= is not for batches: give settings {'cycles': 0} to prompts that need no search")
    return model.search, tuple(model.stop)


@contextmanager
def _bad_prompts(*, reading: bool) -> Iterator[None]:
    """Raise errors of the prompt as :class:`BadPromptError`, and all others as they are."""
    # Every error while a conversation is read is the prompt's; in the search only a RequestError is.
    kinds: tuple[type[Exception], ...] = (Exception,) if reading else (RequestError,)
    try:
        yield
    except BadPromptError:
        raise
    except kinds as error:
        raise BadPromptError(str(error) or type(error).__name__) from error


def _openai_call(call: Mapping[str, Any]) -> dict[str, Any]:
    arguments = json.dumps(call["args"], ensure_ascii=False)
    return {"id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": arguments}}
