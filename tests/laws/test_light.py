"""Light: who asks for no service and no other trainer loads none; a version is printed at once."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import anytrain
from tiny import write_recipe

ROOT = Path(anytrain.__file__).parent

# Package -> where it may be imported: files, or folders with a slash. Nowhere else, ever.
CONTRACT: dict[str, tuple[str, ...]] = {
    "lm_eval": ("posttrain/",),
    "trl": ("posttrain/", "cli/finetune.py", "cli/release.py"),
    "datasets": ("posttrain/",),
    "lightning": ("integrations/",),
    "ray": ("study/executors/ray.py",),
    "submitit": ("study/executors/slurm.py",),
    "wandb": ("training/loggers.py",),
    "trackio": ("training/loggers.py",),
    "mlflow": ("training/loggers.py",),
    "tensorboard": (),
    "torch.utils.tensorboard": ("training/loggers.py",),
    "shtab": ("cli/completion.py",),
    "fsspec": ("training/mirror.py",),
    "gguf": (),
}

# Loaded as a whole only by those who need the package anyway; elsewhere imports are in functions.
AT_THE_TOP = ("posttrain/", "models/modeling_anytrain.py", "integrations/")

HEAVY = {name for name in CONTRACT if "." not in name} | {"transformers", "accelerate", "plotly"}


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """(dotted name, whether loading the module imports it) of every import of a file."""

    def within(node: ast.AST, late: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from ((alias.name, not late) for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and not child.level:
                yield from ((f"{child.module}.{alias.name}", not late) for alias in child.names)
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            checking = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            yield from within(child, late or function or checking)

    return within(ast.parse(path.read_text(encoding="utf-8")), False)


def allowed(path: str, places: tuple[str, ...]) -> bool:
    return any(path.startswith(p) if p.endswith("/") else path == p for p in places)


def found() -> Iterator[tuple[str, str, bool]]:
    """(file, package of the contract, whether at the top) over the whole package."""
    for path in sorted(ROOT.rglob("*.py")):
        for name, top in imports(path):
            for package in CONTRACT:
                if f"{name}.".startswith(f"{package}."):
                    yield path.relative_to(ROOT).as_posix(), package, top


def test_each_package_is_imported_where_the_contract_says() -> None:
    seen = set(found())
    assert ("training/loggers.py", "wandb", False) in seen  # the reader of imports sees them
    assert ("training/loggers.py", "torch.utils.tensorboard", False) in seen
    assert ("posttrain/harness.py", "lm_eval", True) in seen
    for path, package, top in seen:
        assert allowed(path, CONTRACT[package]), f"{path} imports {package}"
        if top:
            assert allowed(path, AT_THE_TOP), f"{path} imports {package} when it is loaded"


@pytest.mark.slow  # the whole job in a new process
def test_the_main_job_loads_none_of_them(tmp_path: Path, corpus: Path) -> None:
    """Prepare, plan, train, go on, fork, merge, generate, release, report: in one process."""
    (tmp_path / "a.txt").write_text("a few words to begin with\n" * 50)
    recipe = write_recipe(tmp_path / "r.toml", corpus)
    jobs = [
        "prepare a.txt --out data --tokenizer bpe:260 --validation 0",
        f"plan {recipe}",
        f"train {recipe} --run run --until 4",
        "train --run run --until 6",
        "fork run --out cold --cooldown 50% --end 12-steps",
        "status run",
        "merge run:raw run:ema25 --out soup",
        "generate run the --tokens 2",
        "release run --out model",
        "report run --json",
        "doctor",
    ]
    code = (
        "import sys\n"
        "from anytrain.cli.main import main\n"
        "for job in sys.argv[2:]:\n"
        "    assert main(job.split()) == 0, job\n"
        "    loaded = set(sys.argv[1].split()) & sys.modules.keys()\n"
        "    assert not loaded, (job, loaded)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, " ".join(HEAVY), *jobs],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("word", ["--version", "--help"])
def test_a_word_is_answered_at_once(word: str) -> None:
    """Within half a second of processor time, the best of three: about five times what it takes."""
    command = [sys.executable, "-m", "anytrain", word]
    took = []
    for _ in range(3):
        before = os.times()
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        after = os.times()
        assert done.returncode == 0
        assert done.stdout.startswith(f"anytrain {anytrain.__version__}")
        children = after.children_user + after.children_system
        took.append(children - before.children_user - before.children_system)
    assert min(took) < 0.5
