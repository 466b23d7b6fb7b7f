"""How soon the command line answers: CPU time of whole processes, the interpreter's included.

python -m benchmarks.startup                                         (under a minute)

The run that `status` looks at is trained here: a few hundred steps of a tiny model, enough for its
frontier and its forecast. The floor is `python -c pass`.
"""

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from anytrain.cli import status
from anytrain.cli.main import overview
from benchmarks.harness import Row, Target, cpu_name, interleaved, report

LIMIT = 0.4  # CPU seconds
HEAVY = {"torch", "pydantic", "pyarrow", "tokenizers", "matplotlib"}
STEPS = 300
RECIPE = """
name = "tiny"
unit = "64-steps"
schedule = "constant:peak=5e-3,warmup=8-steps"

[model]
layers = 1
width = 32
heads = 2

[data]
path = "corpus"

[train]
batch = 4
context = 16
micro_batch = 4

[averages]
ema25 = "anytime_ema:f=25"

[evaluate]
tokens = "512-tokens"
share = 1.0
"""


def anytrain(*words: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own; what fails is an error."""
    command = [sys.executable, *options, "-m", "anytrain", *words]
    one = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=one, capture_output=True, text=True, check=True)


def children() -> float:
    """CPU seconds of all processes that were started here and have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def trained(folder: Path) -> Path:
    """A run of `STEPS` steps on made-up text."""
    recipe, text = folder / "tiny.toml", folder / "text"
    text.mkdir()
    for number in range(200):
        words = " ".join(str((number * k * k) % 97) for k in range(150))
        (text / f"{number}.txt").write_text(words, encoding="utf-8")
    corpus, run = str(folder / "corpus"), folder / "run"
    recipe.write_text(RECIPE, encoding="utf-8")
    anytrain("prepare", str(text), "--out", corpus, "--tokenizer", "bpe:300")
    length = ("--for", f"{STEPS}-steps")
    anytrain("train", str(recipe), f"data.path={corpus}", "--run", str(run), *length)
    return run


def steady(text: str) -> list[str]:
    """The lines without that of the disk, on which others write too."""
    return [line for line in text.splitlines() if not line.startswith("disk ")]


def row(name: str, words: tuple[str, ...], floor: float, seconds: float, wanted: str) -> Row:
    """CPU seconds of one command, once its words and its imports are seen to be right."""
    said = anytrain(*words).stdout
    assert steady(said) == steady(wanted), f"{name} says {said!r}, not {wanted!r}"
    imported = anytrain(*words, options=("-X", "importtime")).stderr
    names = {line.rpartition("|")[2].strip().partition(".")[0] for line in imported.splitlines()}
    assert "anytrain" in names, f"{name}: the import times were not understood"
    assert not names & HEAVY, f"{name} imports {', '.join(sorted(names & HEAVY))}"
    check = f"the words with those of the function behind it; imports none of {len(HEAVY)} packages"
    return Row(name, "s", seconds, check, floor=floor, targets=(Target("", "≤", LIMIT),))


def rows() -> list[Row]:
    """Row 10: `anytrain --help` and `anytrain status RUN`."""
    with tempfile.TemporaryDirectory(prefix="anytrain-startup-") as name:
        run = str(trained(Path(name)))
        commands = {"--help": ("--help",), "status": ("status", run)}
        runs: dict[str, Callable[[], object]] = {
            word: partial(anytrain, *words) for word, words in commands.items()
        }
        nothing = [sys.executable, "-c", "pass"]
        runs["floor"] = lambda: subprocess.run(nothing, check=True)
        seconds = interleaved(runs, clock=children)
        wanted = {"--help": overview(), "status": "\n".join(status.lines(status.status(run)))}
        return [
            row(f"anytrain {word}", words, seconds["floor"], seconds[word], wanted[word])
            for word, words in commands.items()
        ]


def main() -> None:
    report(rows(), cpu_name())
