"""The policy rewords the instruction itself, as in the paper."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Annotated, ClassVar, NamedTuple

from pydantic import BeforeValidator, Field

from darwin_align.core.seeds import derive
from darwin_align.core.types import Request, Sampling
from darwin_align.formats.thoughts import without_thoughts
from darwin_align.operators.base import Resource, policy_of
from darwin_align.operators.checks.wording import REWORDING_CHECKS
from darwin_align.operators.context import MutationContext
from darwin_align.operators.mutator import Check, Mutator
from darwin_align.operators.policy import Continuation, Policy, Row, current_allowance, current_search, usage_of
from darwin_align.operators.portal import acall
from darwin_align.operators.prompts import MANY, MutationPrompt, MutationPromptField
from darwin_align.operators.report import Report
from darwin_align.operators.rewording import unread
from darwin_align.operators.timed import generate_call

__all__ = ["PolicyMutator", "Replies", "read_replies"]

_ONLY_THOUGHTS = (
    "a reply ended within its thoughts, after at most {} tokens: raise PolicyMutator(max_tokens=…), or give "
    "max_thinking_tokens=…"
)


class Replies(NamedTuple):
    """What a policy wrote; nothing for a reply that ended within its thoughts."""

    texts: tuple[str, ...] = ()
    cut: frozenset[str] = frozenset()
    """Those that the budget cut."""


class PolicyMutator(Mutator):
    """The policy rewords the instruction itself, as in the paper, by a prompt in our own words."""

    refuses_copies: ClassVar[bool] = True
    policy: Annotated[Policy, BeforeValidator(policy_of)]
    """A policy, or an object that :func:`~darwin_align.operators.coerce.as_policy` adapts."""
    prompt: MutationPromptField = MANY
    """A :class:`~darwin_align.operators.prompts.MutationPrompt`, or its template with ``{instruction}``."""
    sampling: Sampling = Sampling(temperature=1.0)
    max_tokens: int = Field(512, gt=0)
    """Tokens of one reply."""
    checks: tuple[Check, ...] = REWORDING_CHECKS

    @property
    def resources(self) -> tuple[Resource, ...]:
        """The policy."""
        return (self.policy,)

    async def mutate(self, context: MutationContext) -> Report[list[str]]:
        """Call the policy once for a list, or n times for one rewording, as the prompt requires."""
        text = self.prompt.render(context.request, context.instruction, context.n, context.seed)
        report = await self.replies(context, text, context.n if self.prompt.one_per_reply else 1)
        found, notes = read_replies(self.prompt, report.answer.texts, report.answer.cut)
        return Report(found[: context.n], report.usage, (*report.notes, *notes))

    async def replies(self, context: MutationContext, text: str, number: int) -> Report[Replies]:
        """Let the policy reply to a text so many times, within what is left of the search's budget.

        Args:
            context: of the mutation: its request's switches hold for the text, too.
            text: to reply to, as one user turn.
            number: of replies.

        Returns:
            The replies, none of them if the text is too long for the policy, which the notes then say.
        """
        request, sampling = context.request, self.sampling
        if sampling.max_thinking_tokens is None and (limit := request.sampling.max_thinking_tokens) is not None:
            sampling = sampling.model_copy(update={"max_thinking_tokens": limit})
        prompt = Request.of(text, sampling=sampling, chat_template_kwargs=request.chat_template_kwargs)
        if self.policy.has_own_refusal and (reason := await acall(self.policy.refusal, prompt, 1)):
            return Report(Replies(), notes=(f"nothing was reworded: the mutation prompt is too long: {reason}",))
        search, allowance = current_search.get(), current_allowance.get()
        most, seconds = allowance.each(self.max_tokens, number), allowance.seconds
        rows = [
            Row(prompt, most, seed=derive(context.seed, i), search_id=search, seconds=seconds) for i in range(number)
        ]
        generate, arguments = generate_call(self.policy, rows)
        report = Report.of(await acall(generate, *arguments))
        continuations: Sequence[Continuation] = report.answer
        limited = most < self.max_tokens or seconds is not None
        # A policy that takes thoughts for text may know no more of its model than that.
        texts = tuple("" if c.thinking else c.text for c in continuations)
        cut = frozenset(text for text, c in zip(texts, continuations, strict=True) if limited and not c.finish_reason)
        thinking = (_ONLY_THOUGHTS.format(most),) if any(c.thinking for c in continuations) else ()
        return Report(Replies(texts, cut), usage_of(continuations) + report.usage, (*report.notes, *thinking))


def read_replies(
    prompt: MutationPrompt, replies: Sequence[str], cut: Collection[str] = ()
) -> tuple[list[str], tuple[str, ...]]:
    """The rewordings in the replies, and notes of the replies that hold none.

    A list in a model's thoughts holds none. The last rewording of a reply that the budget ``cut`` is not whole.
    """
    read = {reply: prompt.read(without_thoughts(reply))[: -1 if reply in cut else None] for reply in replies}
    return [one for reply in replies for one in read[reply]], unread(reply for reply in read if not read[reply])
