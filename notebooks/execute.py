"""Run the notebooks, each with a kernel of its own, and keep what they show: ``python -m notebooks.execute [NAME …]``."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

__all__ = ["FOLDER", "execute", "notebooks", "place"]

FOLDER = Path(__file__).parent
_SECONDS = 300
"""What one cell may take, on a machine that is busy with other things."""
_SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "LANGSMITH_TRACING": "false",
    "OMP_NUM_THREADS": "1",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    # Whatever is to be said shall be said, on stderr, but for tqdm's wish for a package of widgets.
    "PYTHONWARNINGS": "default,ignore:IProgress not found",
    "TOKENIZERS_PARALLELISM": "false",
}


def notebooks() -> list[Path]:
    """Paths of all notebooks, in their order."""
    return sorted(FOLDER.glob("*.ipynb"))


def place() -> dict[str, str]:
    """Say where a seed gives the same answer: on the same kind of processor, under the same versions."""
    import torch

    return {
        "processor": f"{platform.system()} {platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        **{
            name: version(name)
            for name in ("matplotlib", "tokenizers", "torch", "transformers", "xllamacpp")
        },
    }


def execute(path: Path) -> NotebookNode:
    """Run a notebook in an empty folder, away from the settings of whoever runs it.

    Returns:
        The notebook with its outputs, and nothing in it that tells when and by whom it was run.

    Raises:
        CellExecutionError: a cell raised; the message shows it.
    """
    import matplotlib.font_manager  # noqa: F401 - looks for fonts now: where that takes long, a cell would be told of it

    notebook = nbformat.read(path, as_version=4)
    with TemporaryDirectory(prefix="notebook-") as folder, _alone(Path(folder)) as empty:
        client = NotebookClient(
            notebook,
            timeout=_SECONDS,
            kernel_name="python3",
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": str(empty)}},
        )
        manager = client.create_kernel_manager()
        if os.name == "posix":
            # Sockets in a folder that nobody else can open, in place of ports.
            manager.transport, manager.ip = "ipc", str(Path(folder) / "socket")
        client.execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "kept_from": place(),
    }
    return notebook


@contextmanager
def _alone(folder: Path) -> Iterator[Path]:
    """Let Jupyter and IPython find this interpreter's kernel and nobody's settings."""
    empty = folder / "empty"
    empty.mkdir()
    own = {
        name: str(folder / name.lower())
        for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR")
    }
    settings = {
        **own,
        "JUPYTER_DATA_DIR": str(folder / "data"),
        "JUPYTER_PREFER_ENV_PATH": "1",
        **_SETTINGS,
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield empty
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def main(arguments: Sequence[str] | None = None) -> int:
    """Run notebooks and keep their outputs."""
    parser = argparse.ArgumentParser(
        prog="python -m notebooks.execute", description=__doc__, allow_abbrev=False
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="part of a notebook's name (default: all notebooks)",
    )
    names: list[str] = parser.parse_args(arguments).names
    chosen = [
        path for path in notebooks() if not names or any(name in path.name for name in names)
    ]
    if not chosen:
        parser.error(
            f"no notebook is called so: there are {', '.join(path.name for path in notebooks())}"
        )
    for path in chosen:
        start = perf_counter()
        try:
            notebook = execute(path)
        except CellExecutionError as error:
            parser.exit(1, f"{path.name}: {error}\n")
        nbformat.write(notebook, path)
        sys.stdout.write(
            f"{perf_counter() - start:6.1f} s  {path.stat().st_size / 1024:6.0f} KiB  {path.name}\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
