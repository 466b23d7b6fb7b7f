"""How fast checkpoints are merged: 8 × 0.76 GB of fp32, warm, whole processes by the wall clock.

python -m benchmarks.merge        (about 5 minutes)

Every process merges the same Hugging Face directories with equal weights; runs are interleaved,
and the inputs are read right before each, so that they are in the page cache. The floor reads the
inputs and writes as much as the output, in this process, and syncs it as ours does; the others do
not. mergekit (its linear merge, as it comes) is installed with pip into an environment of its own:
it asks for other versions than we do.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from anytrain.headers import SINGLE, plan_file, read_header
from anytrain.layout import Entry
from anytrain.models.description import write_description
from anytrain.models.shape import DecoderShape
from benchmarks.harness import Row, Target, cpu_name, report

BLOCK = 1 << 20  # elements, of numbers that are made or compared
SIZE, INPUTS, REPEATS = 0.76, 8, 3  # GB of one input, how many, rounds

NUMPY = """
import sys, numpy as np
from pathlib import Path
from safetensors import safe_open
from safetensors.numpy import save_file
*inputs, out = sys.argv[1:]
files = [safe_open(Path(path) / "model.safetensors", "np") for path in inputs]
merged = {}
for name in files[0].keys():
    total = np.zeros(files[0].get_slice(name).get_shape())
    for file in files:
        total += file.get_tensor(name) * np.float64(1 / len(files))
    merged[name] = total.astype(np.float32)
Path(out).mkdir()
save_file(merged, Path(out) / "model.safetensors", {"format": "pt"})
"""


# --- models -----------------------------------------------------------------------------------


def shape(size: float) -> DecoderShape:
    """A Llama of about so many GB in fp32."""
    vocab, wanted = (32_000 if size >= 0.5 else 1000), size * 1e9 / 4
    one = DecoderShape(layers=1, width=1024, heads=16, mlp=2816, vocab=vocab)
    layer = DecoderShape(layers=2, width=1024, heads=16, mlp=2816, vocab=vocab).parameters
    layers = 1 + round((wanted - one.parameters) / (layer - one.parameters))
    return DecoderShape(layers=max(1, layers), width=1024, heads=16, mlp=2816, vocab=vocab)


def write_models(folder: Path, size: float, count: int) -> list[Path]:
    """Checkpoints of one run, as it were: common weights and a tenth of noise of their own."""
    model, made = shape(size), []
    for number in range(count):
        path = folder / f"model-{number}"
        path.mkdir()
        write_description(path, model)
        tensors = {name: Entry("F32", dims, ()) for name, dims in model.tensors().items()}
        head, entries = plan_file(path / SINGLE, tensors, {"format": "pt"})
        elements = sum(entry.elements for entry in entries.values())
        common, own = np.random.default_rng(0), np.random.default_rng(1 + number)
        with (path / SINGLE).open("wb") as file:
            file.write(head)
            for start in range(0, elements, BLOCK):
                many = min(BLOCK, elements - start)
                block = common.standard_normal(many, np.float32)
                block += np.float32(0.1) * own.standard_normal(many, np.float32)
                file.write((block * np.float32(0.02)).tobytes())
        made.append(path)
    return made


# --- what is timed ----------------------------------------------------------------------------


def warm(models: list[Path]) -> float:
    """Read all inputs; seconds."""
    buffer, begin = bytearray(1 << 20), perf_counter()
    for model in models:
        with (model / SINGLE).open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return perf_counter() - begin


def floor(models: list[Path], out: Path) -> tuple[float, float, float]:
    """Seconds to read the inputs, to write as much as the output, and to sync it."""
    reading = warm(models)
    buffer, left = os.urandom(1 << 20), (models[0] / SINGLE).stat().st_size
    begin = perf_counter()
    with out.open("wb", buffering=0) as file:
        while left > 0:
            left -= file.write(buffer[:left])
        written = perf_counter()
        os.fsync(file.fileno())
    ended = perf_counter()
    out.unlink()
    return reading, written - begin, ended - written


def process(command: list[str]) -> tuple[float, float, float]:
    """Seconds by the wall clock, CPU seconds, and the largest resident memory in GB."""
    free = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    begin = perf_counter()
    with subprocess.Popen(command, env=free, stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE) as running:  # fmt: skip
        assert running.stderr is not None
        said = running.stderr.read()
        _, status, usage = os.wait4(running.pid, 0)
        running.returncode = os.waitstatus_to_exitcode(status)
    seconds = perf_counter() - begin
    if running.returncode:
        raise RuntimeError(f"{command[0]} failed: {said.decode()[-2000:]}")
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e6


def mergekit(folder: Path) -> str | None:
    """Its command, freshly installed; None where that does not work."""
    import torch

    python = folder / "mergekit" / "bin" / "python"
    try:
        subprocess.run([sys.executable, "-m", "venv", folder / "mergekit"], check=True)
        # the torch that is here, so that theirs is no larger to load; any other where it is not had
        for wanted in (["mergekit", f"torch=={torch.__version__}"], ["mergekit"]):
            install = [python, "-m", "pip", "install", "--quiet", *wanted]
            if subprocess.run(install, capture_output=True).returncode == 0:
                return str(python.with_name("mergekit-yaml"))
    except (OSError, subprocess.CalledProcessError):
        pass
    return None


def commands(models: list[Path], folder: Path, theirs: str | None) -> dict[str, list[str]]:
    """What merges the models into `folder / "out"`."""
    out, paths = str(folder / "out"), [str(model) for model in models]
    found = {
        "anytrain merge": [sys.executable, "-m", "anytrain", "merge", *paths, "--out", out],
        "safetensors and numpy": [sys.executable, "-c", NUMPY, *paths, out],
    }
    if theirs is not None:
        config = folder / "linear.yaml"
        rows = [
            f"  - {{model: {path}, parameters: {{weight: {1 / len(paths)}}}}}" for path in paths
        ]
        config.write_text("\n".join(["models:", *rows, "merge_method: linear", "dtype: float32"]))
        found["mergekit linear"] = [theirs, str(config), out, "--quiet"]
    return found


# --- whether they agree -----------------------------------------------------------------------


def ulps(out: Path, models: list[Path]) -> float:
    """The largest distance from the mean in extended precision, in ulps of fp32."""
    where = {
        k: e for file in out.glob("*.safetensors") for k, e in read_header(file).entries.items()
    }
    worst = 0.0
    theirs = [read_header(model / SINGLE).entries for model in models]
    for name, entry in where.items():
        for start in range(0, entry.elements, BLOCK):
            count = min(BLOCK, entry.elements - start)
            mean = sum(_values(e[name], start, count).astype(np.longdouble) for e in theirs)
            mean /= len(models)
            off = np.abs(_values(entry, start, count) - mean)
            worst = max(worst, float((off / np.spacing(np.abs(mean).astype(np.float32))).max()))
    return worst


def _values(entry: Entry, start: int, count: int) -> Any:
    (box,) = entry.boxes
    return np.fromfile(box.file, np.float32, count, offset=box.offset + 4 * start)


# --- rows -------------------------------------------------------------------------------------


def measure(models: list[Path], folder: Path, theirs: str | None) -> Row:
    """Medians of whole processes; the first round is a rehearsal, whose output is looked at."""
    seconds: dict[str, list[tuple[float, ...]]] = {"floor": []}
    errors: dict[str, float] = {}
    for repeat in range(REPEATS + 1):
        seconds["floor"].append(floor(models, folder / "floor"))
        for name, command in commands(models, folder, theirs).items():
            warm(models)
            seconds.setdefault(name, []).append(process(command))
            if repeat == 0:
                errors[name] = ulps(folder / "out", models)
            shutil.rmtree(folder / "out")
    middle = {
        name: [median(column) for column in zip(*runs[1:], strict=True)]
        for name, runs in seconds.items()
    }
    floor_seconds, ours = sum(middle.pop("floor")), middle.pop("anytrain merge")
    assert errors["anytrain merge"] <= 1
    targets = [Target("floor", "≤", 2.0)]
    if theirs is not None:
        targets.append(Target("mergekit linear", "≤", 0.20))
    return Row(
        f"merge of {len(models)} × {SIZE} GB, peak {ours[2]:.2f} GB resident",
        "s of wall time",
        ours[0],
        ", ".join(f"{name} within {error:.2g} ulp of exact" for name, error in errors.items()),
        {name: values[0] for name, values in middle.items()},
        floor_seconds,
        tuple(targets),
    )


def rows() -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="merge-") as name:
        folder = Path(name)
        models = write_models(folder, SIZE, INPUTS)
        return [measure(models, folder, mergekit(folder))]


if __name__ == "__main__":
    report(rows(), cpu_name())
