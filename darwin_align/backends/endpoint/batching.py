"""Groups rows into as few completion requests as a server allows."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from darwin_align.backends.endpoint.continue_by_text import ByPrefill
from darwin_align.backends.endpoint.dialects.base import CompletionRequest
from darwin_align.backends.endpoint.rendezvous import home
from darwin_align.backends.endpoint.row_tasks import PendingRow
from darwin_align.backends.endpoint.server_profile import ServerProfile
from darwin_align.core.seeds import derive

__all__ = ["RequestBatcher", "RowBatch"]


@dataclass(frozen=True)
class RowBatch:
    """One request and the rows of its choices, in order."""

    request: CompletionRequest
    rows: tuple[PendingRow, ...]


class RequestBatcher:
    """Makes requests of rows. No two rows share a seed unless the server gives their choices different noise.

    Args:
        profile: the server's.
        seeded: whether to send seeds, where the server takes any.
        rows_per_request: the most prompts in one request.
        extra_body: the user's further fields.
        replicas: base URLs of the servers: a list of prompts goes to one of them, so it has prompts of that one only.
    """

    def __init__(
        self,
        profile: ServerProfile,
        *,
        seeded: bool,
        rows_per_request: int,
        extra_body: Mapping[str, Any],
        replicas: Sequence[str],
    ) -> None:
        self._replicas = replicas
        self._profile, self._rows_per_request, self._extra_body = profile, rows_per_request, extra_body
        self._seeded = seeded and profile.dialect.seeds

    def batches(self, rows: Sequence[PendingRow]) -> Iterator[RowBatch]:
        """Group rows: as choices of one prompt, as a list of prompts, else one by one."""
        dialect = self._profile.dialect
        lists = dialect.lists and not isinstance(self._profile.strategy, ByPrefill)
        several = dialect.several_seeded if self._seeded else dialect.several
        listed: dict[Hashable, list[PendingRow]] = {}
        for group in _equal_but_for_noise(rows, several):
            first = group[0]
            needs_own_seed = self._seeded and first.row.request.sampling.temperature > 0 and not dialect.lists_seeded
            if len(group) > 1 or needs_own_seed or not lists:
                yield self.batch(group, n=len(group))
            else:
                listed.setdefault((first.settings, home(first.prefix, self._replicas)), []).append(first)
        for settings_rows in listed.values():
            for start in range(0, len(settings_rows), self._rows_per_request):
                yield self.batch(settings_rows[start : start + self._rows_per_request])

    def batch(self, rows: Sequence[PendingRow], n: int = 1) -> RowBatch:
        """One request for rows with the same settings; with n > 1 they are the choices of one prompt."""
        first, dialect = rows[0], self._profile.dialect
        prompted = rows[: len(rows) // n]
        seeds = [_seed(one) for one in (prompted if dialect.lists_seeded else [first])]
        request = CompletionRequest(
            model=self._profile.served.id,
            prompts=tuple(one.prompt for one in prompted),
            max_tokens=first.max_tokens,
            sampling=first.row.request.sampling,
            n=n,
            seeds=tuple(seeds) if self._seeded else (),
            stop=first.stop,
            extra=self._extra_body,
            constraint=first.constraint,
        )
        return RowBatch(request, tuple(rows))


def _equal_but_for_noise(rows: Sequence[PendingRow], several: bool) -> Iterable[list[PendingRow]]:
    """Groups of rows that differ in nothing but their noise, if the server returns several choices for one prompt.

    Greedy rows have no noise: each stays alone, so that equal ones can go into one list.
    """
    groups: dict[Hashable, list[PendingRow]] = {}
    for one in rows:
        alone = one.index if not several or one.row.request.sampling.temperature == 0 else None
        groups.setdefault((one.settings, repr(one.prompt), alone), []).append(one)
    return groups.values()


def _seed(pending: PendingRow) -> int:
    """The seed of one request: the row's own seed is that of its whole answer, and each chunk needs different noise."""
    row, again = pending.row, (pending.tries,) if pending.tries else ()
    done = len(row.tokens) or len(row.thoughts) + len(row.text)
    return derive(row.seed, "endpoint", done, *again) % (2**31 - 1) + 1  # TGI takes no 0
