"""A wheel and a source archive: the same bytes from the same source, and everything in them."""

import hashlib
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

import anytrain

ROOT = Path(__file__).parents[1]

pytest.importorskip("hatchling")


def built(folder: Path, moment: float, mask: int) -> dict[str, Path]:
    """A copy of the source, touched at a moment, built there: suffix -> file."""
    for name in ("pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    for name in ("src", "tests", "examples"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in folder.rglob("*"):
        os.utime(path, (moment, moment))
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(folder / "dist")],
        cwd=folder, capture_output=True, text=True, timeout=120, umask=mask,
        env=os.environ | {"SOURCE_DATE_EPOCH": "1700000000"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {path.suffix: path for path in (folder / "dist").iterdir()}


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Path]]:
    now = time.time()
    return [
        built(tmp_path_factory.mktemp(f"build{number}"), now - 86400 * number, mask)
        for number, mask in enumerate((0o022, 0o077))
    ]


@pytest.mark.parametrize("suffix", [".whl", ".gz"])
def test_two_builds_are_the_same_bytes(suffix: str, twice: list[dict[str, Path]]) -> None:
    one, other = (hashlib.sha256(found[suffix].read_bytes()).hexdigest() for found in twice)
    assert one == other


def test_everything_that_is_no_python_is_in_the_wheel(twice: list[dict[str, Path]]) -> None:
    names = set(zipfile.ZipFile(twice[0][".whl"]).namelist())
    assert "anytrain/py.typed" in names
    for path in (ROOT / "src").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert path.relative_to(ROOT / "src").as_posix() in names
    assert not [name for name in names if name.startswith(("tests/", "examples/"))]


def test_the_wheel_runs(twice: list[dict[str, Path]], tmp_path: Path) -> None:
    """From the zip itself, without installing."""
    wheel = str(twice[0][".whl"])
    code = "import sys; sys.path.insert(0, sys.argv[1]); from anytrain.cli.main import main; "
    code += "assert sys.argv[1] in sys.modules['anytrain'].__file__; sys.exit(main(sys.argv[2:]))"
    command = [sys.executable, "-c", code, wheel]
    done = subprocess.run(
        [*command, "--version"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, f"anytrain {anytrain.__version__}\n"), done.stderr
