"""Answers to many prompts, in files: ``darwin-align batch``, and :func:`run_batch` for programs.

**In**: JSONL, one object a line, or parquet (extra ``parquet``), one row a prompt. Blank lines are passed over.

===================  ===========================================================================================
field                meaning
===================  ===========================================================================================
``prompt``           a text; or instead of it
``messages``         a conversation in OpenAI's shape, tool calls and tool results included
``id``               text or whole number, different for each prompt. Without one the line's number and a digest of
                     its content are the key, so give ids if lines may move
``seed``             of this prompt's search. Without one it follows from the run's seed and the prompt's key, and
                     from nothing else: neither order nor concurrency matters
``settings``         an object of settings for this prompt, e.g. ``{"cycles": 1, "temperature": 0.2}``
``tools`` …          ``tools``, ``tool_choice``, ``parallel_tool_calls``, ``response_format``, ``stop``: as OpenAI's
``grounded``         whether values of calls and of the format are copied: true, false or "where_possible". A row's goes
                     before the model's own, false too
``grounded_in``      a list of texts to copy them from, where it is not the conversation
===================  ===========================================================================================

:class:`Fields` gives the first five other names. Any other field is not used, and named at the end. In parquet, a null
stands for a field that is not there, and objects and lists may also be JSON texts.

**Out**: JSONL, a line for each answer, in the order in which they come.

===================  ===========================================================================================
field                meaning
===================  ===========================================================================================
``id``               the prompt's key
``answer``           the text
``tool_calls``       in OpenAI's shape, only where there are any; likewise ``invalid_tool_calls``, those that
                     cannot be made
``finish_reason``    "stop", "length" or "tool_calls"
``reward``           the reward model's, of the answer; ``first_reward`` that of the plain sample
``instruction``      the wording under which the answer was found
``seed``             of this search: ``search.invoke(prompt, seed=…)`` gives the same answer
``usage``            ``decoded_tokens``, ``policy_calls``, ``reward_calls``. What else is counted depends on what
                     caches had, so it is in the run's summary only
``stop_reason``      what ended the search; ``failure`` where that was an operator
``input``            digest of the prompt and its settings
``fingerprint``      digest of models and settings, which are in ``OUT.run.json``
===================  ===========================================================================================

**Beside it**, for ``--out answers.jsonl``: ``answers.errors.jsonl``, a line for each prompt without an answer
(``line``, ``id`` where known, ``kind`` "bad" for lines that no run can answer and "failed" for those that the next run
tries again, ``reason``); and ``answers.run.json``, the settings that the answers were made under.

**Going on.** The same command goes on where the last run ended, whether it was done, interrupted or killed: every
answer is appended whole, a line that a kill cut in two is taken off, and nothing is answered twice. The file then holds
the lines of a run that was never interrupted. In single precision the last digits of a reward depend on what else was
computed beside it, and a token may turn on one, seldom; with ``concurrency=1``, or models in double precision
(``dtype="float64"``), the lines are the same byte for byte. Other settings, or an input that lacks answered prompts,
are refused; so is a second process on the same output.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from darwin_align.lazy import lazy_getattr

if TYPE_CHECKING:
    from darwin_align.batch.answers import Answer, Answerer, fingerprint, settings_of
    from darwin_align.batch.index import Index
    from darwin_align.batch.job import BatchReport, run_batch
    from darwin_align.batch.output import Errors, RunFile
    from darwin_align.batch.prompt import BadPromptError, Fields, Prompt
    from darwin_align.batch.row_checks import check_row, error_record, refuse_orphaned_answers
    from darwin_align.batch.source import prompts
    from darwin_align.storage.lock import lock
    from darwin_align.storage.workers import Stop

_HOMES = {
    "Answer": f"{__name__}.answers",
    "Answerer": f"{__name__}.answers",
    "BadPromptError": f"{__name__}.prompt",
    "BatchReport": f"{__name__}.job",
    "Errors": f"{__name__}.output",
    "Fields": f"{__name__}.prompt",
    "Index": f"{__name__}.index",
    "Prompt": f"{__name__}.prompt",
    "RunFile": f"{__name__}.output",
    "Stop": "darwin_align.storage.workers",
    "error_record": f"{__name__}.row_checks",
    "fingerprint": f"{__name__}.answers",
    "lock": "darwin_align.storage.lock",
    "prompts": f"{__name__}.source",
    "refuse_orphaned_answers": f"{__name__}.row_checks",
    "run_batch": f"{__name__}.job",
    "settings_of": f"{__name__}.answers",
    "check_row": f"{__name__}.row_checks",
}

__all__ = [
    "Answer",
    "Answerer",
    "BadPromptError",
    "BatchReport",
    "Errors",
    "Fields",
    "Index",
    "Prompt",
    "RunFile",
    "Stop",
    "check_row",
    "error_record",
    "fingerprint",
    "lock",
    "prompts",
    "refuse_orphaned_answers",
    "run_batch",
    "settings_of",
]


# The command line's parser must not wait for LangChain.
__getattr__ = lazy_getattr(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
