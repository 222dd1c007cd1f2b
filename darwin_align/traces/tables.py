"""The page's tables: cost, archive, settings and the request."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from darwin_align.core.budget import Usage
from darwin_align.core.record import Record
from darwin_align.core.result import SearchResult
from darwin_align.core.types import Message
from darwin_align.traces.markup import Markup, count, cut, element, head, join, number, section
from darwin_align.traces.texts import LONGEST

if TYPE_CHECKING:
    from darwin_align.traces.record import Cost

__all__ = ["archive", "conversation", "cost", "settings"]

_COLUMNS = ("decoded_tokens", "prefilled_tokens", "reward_tokens", "reward_calls", "seconds")
_HEADS = ("n:decoded", "n:prefilled", "n:read by reward", "n:scored", "n:seconds")


def cost(costs: Sequence[Cost], result: SearchResult) -> Markup:
    """What every cycle and every step cost."""
    top = max((cost.decoded_tokens for cost in _summed(costs, by_step=True).values()), default=1)
    cycles = _rows(_summed(costs, by_step=False), None)
    total = element("tfoot", element("tr", element("th", "Whole search", scope="row"), *_cells(result.usage, None)))
    steps = _rows(_summed(costs, by_step=True), max(1, top))
    lead = "Tokens decoded and prefilled by the policy, tokens read by the reward model, and seconds in the operators."
    return section(
        "Cost",
        "cost",
        element("div", element("table", head("", *_HEADS), element("tbody", *cycles), total), class_="tables"),
        element(
            "details",
            element("summary", f"Step by step ({len(steps)})"),
            element("div", element("table", head("", *_HEADS), element("tbody", *steps)), class_="tables"),
            class_="fold",
        ),
        lead=lead,
    )


def _summed(costs: Sequence[Cost], *, by_step: bool) -> dict[str, Usage]:
    sums: dict[str, Usage] = {}
    for cost in costs:
        place = f"Cycle {cost.cycle + 1}"
        if by_step:
            place += ", rewording" if cost.operator == "mutate" else f", step {cost.step + 1}"
        sums[place] = sums.get(place, Usage()) + cost.usage
    return sums


def _rows(sums: dict[str, Usage], top: int | None) -> list[Markup]:
    return [element("tr", element("th", place, scope="row"), *_cells(usage, top)) for place, usage in sums.items()]


def _cells(usage: Usage, top: int | None) -> Iterator[Markup]:
    for column in _COLUMNS:
        amount = getattr(usage, column)
        shown: list[str] = [f"{amount:.3f}" if column == "seconds" else count(amount)]
        if top and column == "decoded_tokens":
            width = f"{72 * amount / top:.1f}"
            shown.append(
                element("svg", element("rect", width=width, height="8", rx="1"), class_="meter", aria_hidden="true")
            )
        yield element("td", *shown, class_="n")


def archive(result: SearchResult) -> Markup:
    """The instructions that were left at the end."""
    if not result.archive.entries:
        return section("Archive", "archive", lead="Empty: the search ended before the plain sample did.")
    rows = [
        element(
            "tr",
            element("td", element("span", cut(entry.instruction, LONGEST), class_="instruction", dir="auto")),
            element("td", number(entry.reward), class_="n"),
        )
        for entry in sorted(result.archive.entries, key=lambda entry: -entry.reward)
    ]
    lead = "The instructions left at the end, best first: parents of a further cycle."
    table = element("table", head("instruction", "n:reward"), element("tbody", *rows))
    return section("Archive", "archive", element("div", table, class_="tables"), lead=lead)


def settings(result: SearchResult) -> Markup:
    """What the search was set to, what it used, and what its operators noted."""
    notes = [element("li", element("bdi", cut(note, LONGEST))) for note in result.notes]
    return section(
        "Settings",
        "settings",
        element(
            "div",
            _pairs("The search", _fields(result.config)),
            element(
                "div", _pairs("Sampling", _fields(result.request.sampling)), _pairs("Usage", _fields(result.usage))
            ),
            class_="two",
        ),
        join(element("h3", "Notes of the operators", class_="cycle-head"), element("ul", *notes))
        if notes
        else Markup(),
        lead="What was set to another value than the default is bold.",
    )


def _fields(noun: Record) -> list[tuple[str, str, bool]]:
    shown: list[tuple[str, str, bool]] = []
    for field, value in noun:
        if isinstance(value, Record):
            shown += [(f"{field}, {inner}", text, given) for inner, text, given in _fields(value)]
        else:
            shown.append((field.replace("_", " "), _shown(field, value), _changed(noun, field, value)))
    return shown


def _shown(field: str, value: Any) -> str:
    if value is None or value == ():
        return "–"
    if field == "clauses":
        return " | ".join(clause.text for clause in value)
    if field == "seconds" and isinstance(value, float):
        return f"{value:.3f}"
    return f"{value:,}" if type(value) is int and field != "seed" else str(value)


def _changed(record: Record, field: str, value: object) -> bool:
    # Neither alone will do: JSON leaves out what is as by default, and a default may give way to a small search.
    default = type(record).model_fields[field].get_default(call_default_factory=True)
    return field in record.model_fields_set and value != default and not isinstance(record, Usage)


def _pairs(title: str, fields: Sequence[tuple[str, str, bool]]) -> Markup:
    rows = [
        element("tr", element("th", field, scope="row"), element("td", value, class_="given" if given else None))
        for field, value, given in fields
    ]
    table = element("table", element("tbody", *rows), class_="pairs")
    return element("div", element("h3", title, class_="cycle-head"), table)


def conversation(result: SearchResult) -> Markup:
    """The request, turn by turn."""
    request = result.request
    turns = [_turn(message) for message in request.conversation]
    extras: dict[str, object] = {
        "tools": request.tools,
        "tool choice": request.tool_choice,
        "response format": request.response_format,
        "stop": request.stop,
    }
    more = [
        element("div", element("h3", label), element("pre", cut(_json(value), LONGEST)), class_="turn")
        for label, value in extras.items()
        if value
    ]
    caption = f"The whole request ({count(len(turns), 'turn')}{', tools' if request.tools else ''})"
    return section("Request", "request", element("details", element("summary", caption), *turns, *more, class_="fold"))


def _turn(message: Message) -> Markup:
    about = " ".join(filter(None, (message.name, message.tool_call_id)))
    calls = [element("pre", cut(f"{call.name}({_json(call.arguments)})", LONGEST)) for call in message.tool_calls]
    content = message.content if isinstance(message.content, str) else _json(message.content)
    return element(
        "div",
        element("h3", message.role, *([element("bdi", f" {about}")] if about else [])),
        element("div", cut(content, LONGEST), class_="text", dir="auto"),
        *calls,
        class_="turn",
    )


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2, default=lambda record: record.model_dump(mode="json"))
