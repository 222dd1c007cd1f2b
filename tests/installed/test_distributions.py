"""The sdist and the wheel that is built from it: what is in them, and that an index would take them."""

import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import darwin_align

ROOT = Path(__file__).parents[2]
LEFT_OUT = shutil.ignore_patterns(".*", "build", "dist", "site", "*.egg-info", "__pycache__", "results", "*.log")


def shipped() -> set[str]:
    """Every file of the library and of the integrations but their tests, by its name in the wheel."""
    files = [file for name in ("darwin_align", "integrations") for file in (ROOT / name).rglob("*") if file.is_file()]
    names = [file.relative_to(ROOT) for file in files]
    kept = [name for name in names if not {"__pycache__", "tests"} & {*name.parts}]
    return {str(Path("darwin_align") / name if name.parts[0] == "integrations" else name) for name in kept}


def test_there_is_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == darwin_align.__version__
    assert f"\n## {project['version']} — 2026-11-30\n" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.slow
def test_sdist_and_wheel(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=LEFT_OUT)
    built = tmp_path / "dist"
    subprocess.run([sys.executable, "-m", "build", "--outdir", built, source], check=True)
    [wheel], [sdist] = built.glob("*.whl"), built.glob("*.tar.gz")
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", wheel, sdist], check=True)
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert inside == shipped()
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"CHANGELOG.md", "LICENSE", "README.md", "SECURITY.md", "pyproject.toml", "setup.py"} <= names
    assert not any("tests" in Path(name).parts for name in names)
    assert wheel.name == f"darwin_align-{darwin_align.__version__}-py3-none-any.whl"
