"""The text that a chat template renders around an answer."""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = ["Frame"]


@dataclass(frozen=True)
class Frame:
    """The text that a template renders around the assistant's last turn."""

    before: str
    after: str

    def around(self, answer: str) -> Frame:
        """The frame of this answer."""
        return self.without_space() if answer.startswith(" ") else self

    def without_space(self) -> Frame:
        """The frame of an answer that brings the space before it.

        Some templates put a space before answers, and a policy that was trained on that generates the space itself.
        """
        return replace(self, before=self.before.removesuffix(" "))
