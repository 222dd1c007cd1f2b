"""The language of a text by ``langdetect``, the same in every run."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

from darwin_align.core.errors import MissingPackageError

__all__ = ["detected"]


@lru_cache(maxsize=4096)
def detected(text: str) -> str | None:
    """The code of a text's language, ``None`` where nothing in it tells.

    >>> detected("Lassen Sie den Tee drei Minuten ziehen."), detected("1 + 1 = 2")
    ('de', None)

    Raises:
        MissingPackageError: ``langdetect`` is not installed.
    """
    factory, nothing = _detector()
    detector = factory.create()
    detector.append(text)
    try:
        return str(detector.detect())
    except nothing:
        return None


@cache
def _detector() -> tuple[Any, type[Exception]]:
    """A factory of detectors with a fixed seed, and what they raise on a text without letters."""
    try:
        from langdetect.detector_factory import PROFILES_DIRECTORY, DetectorFactory
        from langdetect.lang_detect_exception import LangDetectException
    except ImportError as error:
        raise MissingPackageError(
            f"languages are told by langdetect ({error}): pip install 'darwin-align[ifeval]'"
        ) from error
    factory = DetectorFactory()
    factory.set_seed(0)
    factory.load_profile(PROFILES_DIRECTORY)
    return factory, LangDetectException
