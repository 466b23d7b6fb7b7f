"""What a merge reads: texts, and the tensors they name."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from anytrain import archives
from anytrain.archives import is_archive
from anytrain.averaging.merge import Source
from anytrain.errors import UserError
from anytrain.foreign import METADATA, Foreign, read
from anytrain.grammar import Quantity, WeightsSpan, weights_name, weights_span
from anytrain.headers import INDEX, SINGLE, of_checkpoint, of_directory, of_files, weight_files
from anytrain.layout import Entry, select
from anytrain.models.description import read_config
from anytrain.origins import choose, schedule_free_parts
from anytrain.rundir import Checkpoint, RunDir


@dataclass(frozen=True)
class Input:
    """One input of a merge, and what its output is modelled on."""

    source: Source
    t: float | None = None  # progress in steps; None where the input does not say
    run: RunDir | None = None  # that it is from
    directory: Path | None = None  # of Hugging Face
    files: tuple[Path, ...] = ()  # of safetensors, in their order
    foreign: Foreign | None = None  # of torch.distributed
    archive: Path | None = None  # of torch.save

    @property
    def places(self) -> list[Path]:
        """What it is read from, and an output must not be."""
        foreign = self.foreign.path if self.foreign else None
        own = [self.directory, foreign, self.archive, *self.files]
        return [place for place in own if place is not None]


@contextmanager
def opened(texts: Sequence[str], foreign: bool = False) -> Iterator[list[Input]]:
    """The inputs that texts name, their checkpoints pinned while the context is open.

    `foreign` allows those of torch.distributed and of torch.save, which hold pickles.
    """
    with ExitStack() as stack:
        yield [found for text in texts for found in _inputs(text, foreign, stack)]


def _inputs(text: str, foreign: bool, stack: ExitStack) -> list[Input]:
    path = Path(text)
    if is_archive(path):
        return [_of_archive(path, foreign)]
    if path.is_file():
        return [Input(Source.of(text, of_files([path])), files=(path,))]
    if any((path / name).is_file() for name in (SINGLE, INDEX)):
        return [_of_directory(path)]
    if (path / METADATA).is_file():
        return [_of_foreign(path, foreign)]
    if (path / "config.json").is_file():
        return [_of_directory(path)]
    span = weights_span(text)
    if span is not None:
        run = RunDir.open(span.run)
        return [_of_run(run, found, span.weights or "raw", stack) for found in within(run, span)]
    name = weights_name(text)
    asked = name.weights if text.endswith(f":{name.weights}") else "raw"
    checkpoint = _in_place(Path(name.run))
    if checkpoint is not None:
        return [_of_run(RunDir(checkpoint.path.parent.parent), checkpoint, asked, stack)]
    run = RunDir.open(name.run)
    return [_of_run(run, run.find(name.when), asked, stack)]


# --- directories -----------------------------------------------------------------------------


def _of_directory(path: Path) -> Input:
    entries = of_directory(path)
    if (path / "config.json").is_file() and read_config(path).get("quantization_config"):
        raise UserError(
            f"{path} is quantised (its config.json has a quantization_config), and a sum of "
            "quantised numbers is no model; weights in floating point are valid"
        )
    return Input(Source.of(str(path), entries), directory=path, files=tuple(weight_files(path)))


def _of_archive(path: Path, allowed: bool) -> Input:
    if not allowed:
        raise UserError(
            f"{path} is a pickle, which can run code when opened; --foreign reads it and refuses "
            "all that no checkpoint needs"
        )
    found = archives.read(path)
    return Input(Source.of(str(path), found.entries), archive=path)


def _of_foreign(path: Path, allowed: bool) -> Input:
    if not allowed:
        raise UserError(
            f"{path} is a checkpoint of torch.distributed, and its {METADATA} a pickle, which can "
            "run code when opened; --foreign reads it and refuses all that no checkpoint needs"
        )
    found = read(path)
    return Input(Source.of(str(path), found.entries), foreign=found)


# --- runs ------------------------------------------------------------------------------------


def _in_place(path: Path) -> Checkpoint | None:
    """The checkpoint that a path inside a run leads to."""
    path = path if path.name.startswith("step-") else path.resolve()
    run = RunDir(path.parent.parent)
    if not (run.exists and path.parent.name == run.checkpoint_root.name):
        return None
    return next((c for c in run.checkpoints() if c.path.name == path.name), None)


def within(run: RunDir, span: WeightsSpan) -> list[Checkpoint]:
    """The checkpoints of a span; UserError where there are none."""
    checkpoints = run.checkpoints()
    found = [c for c in checkpoints if _at(c, span.start) >= 0 >= _at(c, span.end)]
    if not found:
        there = ", ".join(f"{c.step} ({c.tokens} tokens)" for c in checkpoints[-5:]) or "none"
        raise UserError(
            f"{run.path} has no checkpoint from {span.start} to {span.end}; the last are at "
            f"steps {there}"
        )
    return found


def _at(checkpoint: Checkpoint, moment: Quantity) -> float:
    """How far a checkpoint is beyond a moment, in the moment's unit."""
    if moment.unit == "seconds":
        raise UserError(f"{moment}: a checkpoint is named by its step or its tokens")
    return (checkpoint.step if moment.unit == "steps" else checkpoint.tokens) - moment.amount


def _of_run(run: RunDir, checkpoint: Checkpoint, asked: str, stack: ExitStack) -> Input:
    stack.enter_context(checkpoint.pinned())
    checkpoint.verify(checksums=False)
    chosen = choose(run, checkpoint, asked).chosen
    stored, name = of_checkpoint(checkpoint), f"{run.path}@{checkpoint.step}:{chosen}"
    if chosen == "schedule_free":
        fast, beta1 = schedule_free_parts(run, checkpoint, stored)
        source = _schedule_free(name, select(stored, "raw/"), fast, beta1)
    else:
        prefix = "raw/" if chosen == "raw" else f"average/{chosen}/"
        source = Source.of(name, select(stored, prefix))
    return Input(source, float(checkpoint.manifest["t"]), run)


def _schedule_free(
    name: str, live: Mapping[str, Entry], fast: Mapping[str, Entry], beta1: float
) -> Source:
    """x = y/β₁ + (1 − 1/β₁)z, a sum of two stored tensors (see `online.schedule_free`)."""
    terms = {}
    for key, y in live.items():
        both = ((1.0 / beta1, y), (1.0 - 1.0 / beta1, fast[key])) if key in fast else ((1.0, y),)
        terms[key] = both
    return Source(name, terms)
