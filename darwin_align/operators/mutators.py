"""The built-in mutators."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Annotated, Any, ClassVar, NamedTuple

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.runnables import Runnable
from pydantic import BeforeValidator, Field, field_validator

from darwin_align.core.budget import Usage
from darwin_align.core.clauses import Clause, sentences, with_clauses
from darwin_align.core.seeds import below, derive, gumbel
from darwin_align.core.types import Request, Sampling
from darwin_align.formats.thoughts import without_thoughts
from darwin_align.operators.base import Check, Mutator, Resource, policy_of
from darwin_align.operators.context import MutationContext
from darwin_align.operators.messages import to_langchain
from darwin_align.operators.policy import Continuation, Policy, Row, current_allowance, current_search, usage_of
from darwin_align.operators.portal import acall
from darwin_align.operators.prompts import MANY, MutationPrompt, MutationPromptField, parse_list
from darwin_align.operators.report import Report
from darwin_align.operators.rewording import unread
from darwin_align.operators.signatures import check_signature, check_variables, first_argument, takes
from darwin_align.operators.timed import generate_call
from darwin_align.operators.usage import counting, with_policy_usage
from darwin_align.operators.wording import REWORDING_CHECKS

__all__ = [
    "ChainMutator",
    "ChatModelMutator",
    "ClauseMutator",
    "FunctionMutator",
    "IdentityMutator",
    "PolicyMutator",
    "RuleMutator",
]

_ONLY_THOUGHTS = (
    "a reply ended within its thoughts, after at most {} tokens: raise PolicyMutator(max_tokens=…), or give "
    "max_thinking_tokens=…"
)
MUTATE = "mutate(context) -> list[str]"
"""The call of a mutator's function."""


class Replies(NamedTuple):
    """What a policy wrote, without its thoughts."""

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
        found, notes = _read(self.prompt, report.answer.texts, report.answer.cut)
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
        texts = tuple(without_thoughts("" if c.thinking else c.text) for c in continuations)
        cut = frozenset(text for text, c in zip(texts, continuations, strict=True) if limited and not c.finish_reason)
        thinking = (_ONLY_THOUGHTS.format(most),) if any(c.thinking for c in continuations) else ()
        return Report(Replies(texts, cut), usage_of(continuations) + report.usage, (*report.notes, *thinking))


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
        found, notes = _read(self.prompt, [reply.text for reply in replies])
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


def _read(
    prompt: MutationPrompt, replies: Sequence[str], cut: Collection[str] = ()
) -> tuple[list[str], tuple[str, ...]]:
    """The rewordings in the replies, and notes of the replies that hold none.

    A list in a model's thoughts holds none. The last rewording of a reply that the budget ``cut`` is not whole.
    """
    read = {reply: prompt.read(without_thoughts(reply))[: -1 if reply in cut else None] for reply in replies}
    return [one for reply in replies for one in read[reply]], unread(reply for reply in read if not read[reply])


class RuleMutator(Mutator):
    """A table of templates with ``{instruction}``, drawn without repetition as long as there are enough.

    >>> rules = RuleMutator(templates=("{instruction} Explain step by step.", "{instruction} Name what can go wrong."))
    >>> sorted(rules.mutate(MutationContext.of("Hi", n=2, seed=1)))
    ['Hi Explain step by step.', 'Hi Name what can go wrong.']
    """

    templates: tuple[str, ...] = Field(min_length=1)

    def mutate(self, context: MutationContext) -> list[str]:
        """Fill n templates."""
        base = context.request.instruction  # templates on top of templates would pile up over the cycles
        chosen: list[str] = []
        for i in range(context.n):
            rest = [template for template in self.templates if template not in chosen] or list(self.templates)
            chosen.append(rest[below(len(rest), context.seed, i)])
        return [template.replace("{instruction}", base) for template in chosen]


class ClauseMutator(Mutator):
    """Adds clauses that have served before: no tokens are spent on rewording.

    Each mutation is the instruction with one or more clauses, drawn without replacement in proportion to
    ``exp(worth / temperature)``. Clauses that stand there already are left out.

    >>> clauses = (Clause(text="Leave nothing out.", worth=0.6), Clause(text="Be brief.", worth=-0.6))
    >>> ClauseMutator(clauses=clauses, most=1).mutate(MutationContext.of("Hi!", n=2, seed=1))
    ['Hi! Leave nothing out.', 'Hi! Leave nothing out.']
    """

    clauses: tuple[Clause, ...] = Field(min_length=1)
    """From :func:`~darwin_align.core.learning.learn_clauses`, or your own."""
    most: int = Field(3, gt=0)
    """Clauses that one mutation adds at most; their number is drawn uniformly."""
    temperature: float = Field(0.15, gt=0)
    """In standard deviations of the reward: the smaller, the more the best clauses are preferred."""

    def mutate(self, context: MutationContext) -> list[str]:
        """Add clauses n times."""
        instruction = context.instruction
        here = set(sentences(instruction))
        pool = [clause for clause in self.clauses if not set(sentences(clause.text)) <= here]
        drawn = [self._drawn(pool, derive(context.seed, i)) for i in range(context.n)]
        return [with_clauses(instruction, clauses) for clauses in drawn]

    def _drawn(self, pool: Sequence[Clause], seed: int) -> list[str]:
        perturbed = {clause.text: clause.worth / self.temperature + gumbel(seed, clause.text) for clause in pool}
        return sorted(perturbed, key=perturbed.__getitem__, reverse=True)[: 1 + below(self.most, seed)]


class IdentityMutator(Mutator):
    """No exploration: every beam decodes the parent instruction (best-of-n and sample-and-replace).

    >>> IdentityMutator().mutate(MutationContext.of("Hi", n=2))
    ['Hi', 'Hi']
    """

    explores: ClassVar[bool] = False

    def mutate(self, context: MutationContext) -> list[str]:
        """Return the instruction n times."""
        return [context.instruction] * context.n


class FunctionMutator(Mutator):
    """A function of one context, ``(context) -> up to n rewordings``, plain or ``async``.

    One of four arguments, ``(request, instruction, n, seed)``, is taken as well.

    >>> FunctionMutator(function=lambda context: [f"{context.instruction} Be kind."]).mutate(MutationContext.of("Hi!"))
    ['Hi! Be kind.']
    """

    function: Callable[..., object]

    @field_validator("function")
    @classmethod
    def _callable_so(cls, function: Callable[..., object]) -> Callable[..., object]:
        if not takes(function, 4):
            check_signature("mutator", function, MUTATE)
        return function

    def mutate(self, context: MutationContext) -> Any:
        """Call the function; tokens of LangChain models that it calls are counted."""
        four = (context.request, context.instruction, context.n, context.seed)
        arguments = four if takes(self.function, 4) and first_argument(self.function) != "context" else (context,)
        reply, spent = with_policy_usage(self.function)(*arguments)
        return reply if isinstance(reply, Report) or spent == Usage() else Report(reply, spent)
