"""Layers: a module imports from its own floor and those below; the rooms have no cycle."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import anytrain
from tiny import cli

ROOT = Path(anytrain.__file__).parent

FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "grammar", "words", "schedules", "rules", "theory", "testing"),
    (
        "files",
        "certificate",
        "advice",
        "schema",
        "forms",
        "rundir",
        "versions",
        "evaluations",
        "losses",
        "layout",
        "headers",
        "pickles",
        "foreign",
        "archives",
        "origins",
        "references",
        "averaging",
        "models",
        "data",
        "curvature",
    ),
    ("training", "posttrain", "release", "merging", "converting"),
    ("compare", "report", "study", "selection", "integrations", "doctor", "cli", "recipes"),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

# May load a module whose name is in a variable: verbs, lazy public names, and `--import`.
BY_NAME = {"cli/main.py", "cli/completion.py", "data/__init__.py", "grammar.py"}

# Read runs or print, and wait for no torch.
WITHOUT_TORCH = (
    *("anytrain", "anytrain.errors", "anytrain.grammar", "anytrain.schedules", "anytrain.rules"),
    *("anytrain.testing", "anytrain.rundir", "anytrain.data", "anytrain.data.stream"),
    *("anytrain.training.config", "anytrain.training.recipes", "anytrain.averaging.snapshots"),
    *("anytrain.cli.main", "anytrain.cli.status", "anytrain.cli.report", "anytrain.cli.train"),
    *("anytrain.cli.fork", "anytrain.cli.prepare", "anytrain.cli.merge", "anytrain.cli.doctor"),
    *("anytrain.doctor.needs", "anytrain.doctor.machine", "anytrain.certificate"),
    *("anytrain.cli.evaluate", "anytrain.posttrain.suites", "anytrain.posttrain.local_tasks"),
    *("anytrain.merging", "anytrain.averaging.merge", "anytrain.foreign", "anytrain.origins"),
)


def modules() -> dict[Path, str]:
    """File -> dotted name."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        found[path] = ".".join(part for part in parts if part != "__init__")
    return found


def imported(source: str, name: str, package: bool = False) -> Iterator[str]:
    """Dotted names that a module's source imports anywhere in it, in functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:  # from .x import y
                above = name.split(".")[: None if package and node.level == 1 else -node.level]
                base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                yield f"{base}.{alias.name}"


def room(dotted: str) -> str | None:
    """The room of one of our modules; None for what is not ours or is the bare package."""
    parts = dotted.split(".")
    return parts[1] if parts[0] == "anytrain" and len(parts) > 1 and parts[1] in FLOOR else None


def edges() -> Iterator[tuple[Path, str, str]]:
    """(file, its room, a room that it imports)."""
    for path, name in modules().items():
        here = room(name)
        if here is None:
            continue
        source = path.read_text(encoding="utf-8")
        for target in imported(source, name, package=path.name == "__init__.py"):
            there = room(target)
            if there is not None and there != here:
                yield path, here, there


def test_every_module_has_a_floor() -> None:
    for path, name in modules().items():
        if name not in ("anytrain", "anytrain.__main__"):
            assert room(name), f"{path.relative_to(ROOT)} is in no room of FLOORS"


def test_imports_go_down_or_sideways() -> None:
    found = list(edges())
    assert ("cli", "training") in {(here, there) for _, here, there in found}  # it sees them
    for path, here, there in found:
        assert FLOOR[there] <= FLOOR[here], f"{path.relative_to(ROOT)} imports {there}, above it"


def test_rooms_have_no_cycle() -> None:
    graph: dict[str, set[str]] = {}
    for _, here, there in edges():
        graph.setdefault(here, set()).add(there)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"rooms import each other: {' -> '.join(error.args[1])}")


def test_floor_0_has_no_torch() -> None:
    for path, name in modules().items():
        if FLOOR.get(room(name) or "", 9) == 0:
            tops = {t.split(".")[0] for t in imported(path.read_text(encoding="utf-8"), name)}
            assert tops.isdisjoint({"torch", "tokenizers", "pyarrow", "pydantic"}), path


def test_modules_are_imported_where_a_reader_sees_it() -> None:
    loading = set()
    for path in modules():
        text = path.read_text(encoding="utf-8")
        if "import_module(" in text or "__import__(" in text:
            loading.add(path.relative_to(ROOT).as_posix())
    assert loading <= BY_NAME


def test_the_reader_of_imports() -> None:
    """It finds what it has to: inside functions, under conditions, relative."""
    source = (
        "def f():\n    from anytrain.training import loop\n"
        "if TYPE_CHECKING:\n    import anytrain.report.page\n"
        "from anytrain import rules as r, __version__\n"
        "from .shape import X\nfrom ..data import stream\n"
    )
    found = set(imported(source, "anytrain.models.decoder"))
    assert found == {
        "anytrain.training.loop",
        "anytrain.report.page",
        "anytrain.rules",
        "anytrain.__version__",
        "anytrain.models.shape.X",
        "anytrain.data.stream",
    }
    assert set(imported("from . import b", "anytrain.models", package=True)) == {
        "anytrain.models.b"
    }
    assert [room(name) for name in sorted(found)][:2] == [None, "data"]


# --- no torch where nothing is computed ------------------------------------------------------


def python(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_modules_that_import_no_torch() -> None:
    names = [
        *WITHOUT_TORCH,
        *(n for n in modules().values() if room(n) in ("compare", "report", "study")),
    ]
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    if 'torch' in sys.modules: sys.exit(f'{name} imports torch')\n"
    )
    python(code, *names)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    from tiny import write_recipe

    folder = tmp_path_factory.mktemp("layers")
    assert cli("train", write_recipe(folder / "r.toml", corpus), "--run", folder / "run",
               "--for", "9-steps").code == 0  # fmt: skip
    return folder / "run"


@pytest.mark.parametrize(
    "verb",
    ["--help", "--version", "help", "status {run}", "status {run} --json", "report {run}",
     "report {run} --json", "train --help", "doctor", "doctor --json", "fork --help",
     "evaluate --help", "merge --help", "merge {run} --dry-run",
     "merge {run}@1..9 --dry-run --json"],
)  # fmt: skip
def test_verbs_that_load_no_torch(verb: str, run: Path) -> None:
    code = (
        "import sys\n"
        "from anytrain.cli.main import main\n"
        "try: code = main(sys.argv[1:])\n"
        "except SystemExit as end: code = end.code\n"
        "assert code == 0, code\n"
        "loaded = {'torch', 'matplotlib', 'pyarrow'} & sys.modules.keys()\n"
        "assert not loaded, loaded\n"
    )
    assert python(code, *verb.format(run=run).split())
