"""Rules on how an answer begins and ends, its case, its language, and patterns of one's own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec

from pydantic_core import SchemaError, SchemaValidator, core_schema

from darwin_align.core.errors import ConfigError, MissingPackageError
from darwin_align.operators.scorers.rules.base import BROKEN, KEPT, Decides, Rule, Verdict, check_text, still_open
from darwin_align.operators.scorers.rules.languages import detected
from darwin_align.operators.scorers.rules.texts import lower

__all__ = ["EndsWith", "Language", "Lowercase", "OneOf", "Quoted", "Regex", "StartsWith", "Uppercase"]

_LANGUAGE_CODE = re.compile(r"[a-z]{2,3}(?:-[a-z]{2,4})?")
_DEPENDS_ON_END = re.compile(r"\$|\\[bBzZ<>]|\(\?[=!]")
"""Parts of a pattern that a longer text may undo."""
_ENOUGH_LETTERS = 20
"""Letters from which on the language of a beginning counts."""


@dataclass(frozen=True)
class StartsWith(Rule):
    """The answer begins with a text, whatever its case; whitespace before it does not count.

    >>> StartsWith("Dear Ann").judge("Dear", finished=False), StartsWith("Dear Ann").judge("Hi", finished=False).state
    (Verdict(state='open', credit=0.5), 'broken')
    """

    text: str

    def __post_init__(self) -> None:
        super().__post_init__()
        check_text(self, "text", self.text)

    @property
    def decides(self) -> Decides:
        """Another beginning breaks it."""
        return "broken"

    def holds(self, text: str) -> bool:
        """Whether it begins so."""
        return lower(text.strip()).startswith(lower(self.text.strip()))

    def on_prefix(self, text: str) -> Verdict:
        """Kept by the text, broken by another."""
        begun, wanted = lower(text.lstrip()), lower(self.text.strip())
        if begun.startswith(wanted):
            return KEPT
        return still_open(len(begun) / len(wanted)) if wanted.startswith(begun) else BROKEN


@dataclass(frozen=True)
class EndsWith(Rule):
    """The answer ends with a text, whatever its case; whitespace and double quotes behind it do not count.

    >>> EndsWith("Any questions?").judge("Boil it. Any questions?", finished=True).state
    'kept'
    """

    text: str

    def __post_init__(self) -> None:
        super().__post_init__()
        check_text(self, "text", self.text)

    def holds(self, text: str) -> bool:
        """Whether it ends so."""
        return lower(text.strip().strip('"')).endswith(lower(self.text.strip()))


@dataclass(frozen=True)
class Quoted(Rule):
    """The whole answer stands in double quotes, ``"``.

    >>> Quoted().judge("Tea", finished=False).state
    'broken'
    """

    @property
    def decides(self) -> Decides:
        """Another first character breaks it."""
        return "broken"

    def holds(self, text: str) -> bool:
        """Whether it begins and ends with one."""
        text = text.strip()
        return len(text) > 1 and text[0] == text[-1] == '"'

    def on_prefix(self, text: str) -> Verdict:
        """Broken by another first character."""
        text = text.strip()
        return still_open(0.5 + 0.5 * self.holds(text)) if text[:1] in ("", '"') else BROKEN


@dataclass(frozen=True)
class OneOf(Rule):
    """One of these texts stands in the answer, in this case.

    >>> OneOf(("Yes.", "No.")).judge("My answer: No.", finished=False).state
    'kept'
    """

    options: tuple[str, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        given = (self.options,) if isinstance(self.options, str) else tuple(self.options)
        if not given:
            raise ConfigError("OneOf(()) leaves no answer: give an option or more")
        for option in given:
            check_text(self, "options", option)
        object.__setattr__(self, "options", given)

    @property
    def decides(self) -> Decides:
        """An option keeps it."""
        return "kept"

    def holds(self, text: str) -> bool:
        """Whether there is one."""
        return any(option in text for option in self.options)

    def on_prefix(self, text: str) -> Verdict:
        """Kept by the first; a text that is the beginning of one is on its way."""
        if self.holds(text):
            return KEPT
        begun = text.strip()
        shares = [len(begun) / len(option) for option in self.options if begun and option.startswith(begun)]
        return still_open(max(shares, default=0.0))


@dataclass(frozen=True)
class _Case(Rule):
    language: str | None = None
    """Code of the language that the answer must be in as well, e.g. ``"en"``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.language is not None:
            check_language(self, self.language)

    @property
    def decides(self) -> Decides:
        """A letter of the other case breaks it."""
        return "broken"

    def holds(self, text: str) -> bool:
        """Whether the letters are so, and the language."""
        return self._in_case(text) and (self.language is None or detected(text) in (self.language, None))

    def on_prefix(self, text: str) -> Verdict:
        """Broken by a letter of the other case."""
        return BROKEN if any(map(self._other, text)) else still_open(1.0)

    def _in_case(self, text: str) -> bool:
        raise NotImplementedError

    def _other(self, letter: str) -> bool:
        raise NotImplementedError


@dataclass(frozen=True)
class Uppercase(_Case):
    """Capital letters alone, and one at least.

    >>> Uppercase().judge("BOIL WATEr", finished=False).state
    'broken'
    """

    def _in_case(self, text: str) -> bool:
        return text.isupper()

    def _other(self, letter: str) -> bool:
        return letter.islower() or (letter.istitle() and not letter.isupper())


@dataclass(frozen=True)
class Lowercase(_Case):
    """Small letters alone, and one at least.

    >>> Lowercase().judge("boil Water", finished=False).state
    'broken'
    """

    def _in_case(self, text: str) -> bool:
        return text.islower()

    def _other(self, letter: str) -> bool:
        return letter.istitle()


@dataclass(frozen=True)
class Language(Rule):
    """The answer's language, as ``langdetect`` finds it; a text without letters counts as any.

    >>> Language("de").judge("Lassen Sie den Tee drei Minuten ziehen.", finished=True).state
    'kept'
    """

    code: str
    """ISO 639-1, as ``langdetect`` names its 55 languages: ``"en"``, ``"de"``, ``"zh-cn"``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_language(self, self.code)

    def holds(self, text: str) -> bool:
        """Whether it is found."""
        return detected(text) in (self.code, None)

    def on_prefix(self, text: str) -> Verdict:
        """Always open: half progress until there are some letters to tell by."""
        if sum(map(str.isalpha, text)) < _ENOUGH_LETTERS:
            return still_open(0.5)
        return still_open(float(self.holds(text)))


def check_language(rule: Rule, code: object) -> None:
    """Refuse what is no code of a language, and all of them where ``langdetect`` is missing.

    Raises:
        ConfigError: it is no code.
        MissingPackageError: the extra is not installed.
    """
    if not isinstance(code, str) or not _LANGUAGE_CODE.fullmatch(code):
        raise ConfigError(f"{type(rule).__name__}({code!r}): give the code of a language, e.g. 'en', 'de', 'zh-cn'")
    if find_spec("langdetect") is None:
        raise MissingPackageError(
            f"{type(rule).__name__}({code!r}) needs langdetect: pip install 'darwin-align[ifeval]'"
        )


@dataclass(frozen=True)
class Regex(Rule):
    """A pattern that is found in the answer, or, with ``found=False``, is not.

    The syntax is that of Rust's ``regex``, which takes time linear in the text: no lookarounds and no backreferences.
    ``^…$`` makes it fit the whole answer.

    >>> Regex(r"[0-9]+ euros").judge("It costs 20 euros", finished=False).state
    'kept'
    >>> Regex(r"(?i)guarantee", found=False).judge("We guarantee", finished=False).state
    'broken'
    """

    pattern: str
    found: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.pattern, str):
            raise ConfigError(f"Regex({self.pattern!r:.80}): give the pattern as a text")
        try:
            _compiled(self.pattern)
        except SchemaError as error:
            reason = str(error).strip().splitlines()[-1].strip()
            raise ConfigError(
                f"Regex({self.pattern!r:.80}) is no pattern of Rust's regex syntax, which has no lookarounds and no "
                f"backreferences: {reason}"
            ) from None

    @property
    def decides(self) -> Decides:
        """What is found stays found, unless the pattern looks at the end of the text or of a word."""
        if _DEPENDS_ON_END.search(self.pattern):
            return "end"
        return "kept" if self.found else "broken"

    def holds(self, text: str) -> bool:
        """Whether it is found, or is not."""
        return _compiled(self.pattern).isinstance_python(text) == self.found

    def on_prefix(self, text: str) -> Verdict:
        """Kept, or broken, by what is found for good."""
        if self.decides != "end" and self.holds(text) == self.found:
            return KEPT if self.found else BROKEN
        return still_open(float(self.holds(text)))


@lru_cache(maxsize=512)
def _compiled(pattern: str) -> SchemaValidator:
    return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex", strict=True))
