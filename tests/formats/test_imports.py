"""What the modules of formats must not load."""

import json
import pkgutil
import subprocess
import sys

import darwin_align.formats

HEAVY = ["torch", "transformers", "httpx", "langchain_core", "llguidance", "requests"]


def test_reading_and_checking_formats_loads_no_model_and_no_http_client() -> None:
    names = [info.name for info in pkgutil.iter_modules(darwin_align.formats.__path__, "darwin_align.formats.")]
    assert len(names) > 10
    script = f"import json, sys\nimport {', '.join(names)}\nprint(json.dumps([n for n in {HEAVY} if n in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
