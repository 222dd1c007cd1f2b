"""A chat model or a chain of LangChain rewords the instruction."""

from __future__ import annotations

from typing import Any, ClassVar

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.runnables import Runnable
from pydantic import field_validator

from darwin_align.formats.thoughts import without_thoughts
from darwin_align.operators.checks.wording import REWORDING_CHECKS
from darwin_align.operators.context import MutationContext
from darwin_align.operators.messages import to_langchain
from darwin_align.operators.mutator import Check, Mutator
from darwin_align.operators.mutators.policy import read_replies
from darwin_align.operators.prompts import MANY, MutationPromptField, parse_list
from darwin_align.operators.report import Report
from darwin_align.operators.rewording import unread
from darwin_align.operators.signatures import check_variables
from darwin_align.operators.usage import counting

__all__ = ["ChainMutator", "ChatModelMutator"]


class ChatModelMutator(Mutator):
    """Any LangChain chat model rewords the instruction. A run repeats if the model repeats itself."""

    refuses_copies: ClassVar[bool] = True
    model: BaseChatModel
    prompt: MutationPromptField = MANY
    """A :class:`~darwin_align.operators.prompts.MutationPrompt`, or its template with ``{instruction}``."""
    checks: tuple[Check, ...] = REWORDING_CHECKS

    def mutate(self, context: MutationContext) -> Report[list[str]]:
        """Call the chat model, and report the token usage that it returns."""
        n = context.n
        prompt = self.prompt.render(context.request, context.instruction, n, context.seed)
        with counting() as counter:
            replies = self.model.batch([prompt] * (n if self.prompt.one_per_reply else 1))
        found, notes = read_replies(self.prompt, [reply.text for reply in replies])
        return Report(found[:n], counter.as_policy, notes)


class ChainMutator(Mutator):
    """A LangChain chain to a list of rewordings, e.g. ``prompt | model | parser``.

    The chain is given ``instruction``, ``n`` and ``messages`` (the conversation); besides, what the search knows:
    ``reward`` (the instruction's), ``best`` and ``worst`` (texts of answers so far, empty while there are none),
    ``best_reward`` and ``worst_reward``, ``archive`` (instructions and their rewards) and ``seed``. It answers with a
    list of texts, or with a text or message that holds one: JSON, numbered or bulleted.
    """

    refuses_copies: ClassVar[bool] = True
    chain: Runnable[Any, Any]
    checks: tuple[Check, ...] = REWORDING_CHECKS

    @field_validator("chain")
    @classmethod
    def _known_variables(cls, chain: Runnable[Any, Any]) -> Runnable[Any, Any]:
        check_variables("rewording", chain, _VARIABLES)
        return chain

    async def mutate(self, context: MutationContext) -> Report[list[str]]:
        """Run the chain, and report the token usage that its models return."""
        with counting() as counter:
            output = await self.chain.ainvoke(_inputs(context))
        text = output.text if isinstance(output, BaseMessage) else output
        if not isinstance(text, str):
            return Report(output, counter.as_policy)
        found = parse_list(without_thoughts(text))[: context.n]
        return Report(found, counter.as_policy, () if found else unread([text]))


_VARIABLES = (
    "instruction",
    "n",
    "messages",
    "reward",
    "best",
    "best_reward",
    "worst",
    "worst_reward",
    "archive",
    "seed",
)


def _inputs(context: MutationContext) -> dict[str, Any]:
    """The variables of a rewording chain."""
    best, worst = context.best, context.worst
    values = (
        context.instruction,
        context.n,
        to_langchain(context.request.with_instruction(context.instruction).conversation),
        context.reward,
        best.text if best else "",
        best.reward if best else None,
        worst.text if worst else "",
        worst.reward if worst else None,
        {entry.instruction: entry.reward for entry in context.archive},
        context.seed,
    )
    return dict(zip(_VARIABLES, values, strict=True))
