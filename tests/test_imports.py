"""What importing costs, and what core must not know."""

import json
import subprocess
import sys

import pytest

HEAVY = ["torch", "transformers", "httpx", "langchain_core"]
SCRIPT = """
import json, sys, time
before = time.process_time()
import {module}
seconds = time.process_time() - before
print(json.dumps([seconds, [name for name in {heavy} if name in sys.modules]]))
"""


@pytest.mark.parametrize("module", ["darwin_align", "darwin_align.core"])
def test_heavy_names_load_lazily(module: str) -> None:
    script = SCRIPT.format(module=module, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True)
    seconds, loaded = json.loads(done.stdout)
    assert loaded == []
    assert seconds < 0.5


@pytest.mark.parametrize("module", ["darwin_align.operators", "darwin_align.search", "darwin_align.chat_model"])
def test_what_needs_no_model_loads_no_torch(module: str) -> None:
    script = SCRIPT.format(module=module, heavy=["torch", "transformers"])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)[1] == []


@pytest.mark.parametrize(
    "module", ["darwin_align.search", "darwin_align.chat_model", "darwin_align.langchain.model_errors"]
)
def test_what_tells_errors_apart_loads_httpx_only_for_one(module: str) -> None:
    script = SCRIPT.format(module=module, heavy=["httpx"])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)[1] == []


USED = """DarwinChatModel DarwinSearch SearchConfig Budget LocalPolicy LocalScorer EndpointPolicy EndpointScorer
JudgeScorer Mutator Decoder Scorer Selector PolicyMutator ClauseMutator RuleMutator IdentityMutator TopKReplacement
Policy Row Continuation Message Request check trace DarwinError ConfigError EndpointError"""


def test_what_people_use_is_at_the_top() -> None:
    import darwin_align

    assert set(USED.split()) <= set(darwin_align.__all__)
    assert len(darwin_align.__all__) == len(set(darwin_align.__all__))


def test_every_public_name_loads_and_others_are_refused() -> None:
    import darwin_align

    for name in darwin_align.__all__:
        assert getattr(darwin_align, name).__name__ == name
        assert name in dir(darwin_align)
    with pytest.raises(AttributeError, match=r"module 'darwin_align' has no attribute 'Darwin'"):
        darwin_align.Darwin  # noqa: B018
