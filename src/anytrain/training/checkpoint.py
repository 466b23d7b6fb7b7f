"""Saving and loading the complete state of a run, atomically.

Tensors lie in safetensors files with the names and metadata of PyTorch's distributed checkpoint
(one process is a mesh of one), whose reader loads them; counters and settings are JSON beside
them. A checkpoint is written aside, synced, and renamed; its manifest has the size and checksum of
every file. No pickle anywhere.

What is written is a `Content`. Its writing computes nothing and leaves the interpreter to others
for as long as the operating system copies, so that it can be done beside training.
"""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anytrain import schedules
from anytrain.averaging import canonical_tensors
from anytrain.errors import UserError
from anytrain.files import sha256, sync
from anytrain.headers import plan_file
from anytrain.layout import Entry
from anytrain.models.tensors import TYPES
from anytrain.rundir import FORMAT, Checkpoint, RunDir
from anytrain.training.cadence import previous
from anytrain.training.distributed import Elsewhere, World
from anytrain.training.reading import Parts
from anytrain.training.run import Run
from anytrain.training.sharding import Place
from anytrain.versions import versions

_NAMES = {type_: name for name, type_ in TYPES.items()}


@dataclass(frozen=True)
class Content:
    """What a checkpoint holds: the complete state of a run after a step."""

    tensors: Mapping[str, Tensor]
    places: Mapping[str, Place]  # of the tensors in the whole ones
    world: World  # who writes
    state: dict[str, Any]  # what of it is not a tensor, as plain data
    summary: dict[str, Any]  # for the manifest

    @property
    def step(self) -> int:
        return int(self.summary["step"])


def content(run: Run) -> Content:
    """The run's state now. The tensors are the live ones, which the next step changes."""
    before = previous(run.clock, run.recipe)
    free = ["schedule_free"] if run.optimizer.kind == "schedule_free" else []
    summary = {
        "step": run.clock.step,
        "tokens": run.clock.tokens,
        "t": run.clock.t,
        "lr": schedules.rate(run.recipe.built_schedule(), before.t, run.clock.t),
        "weights": ["raw", *free, *run.averages.rules],
    }
    tensors = run.tensors()
    return Content(tensors, run.places(tensors), run.world, run.state(), summary)


def save(run: Run, rundir: RunDir) -> Checkpoint:
    """Write the run's state as a checkpoint; on any failure the directory has what it had."""
    return write(content(run), rundir)


def write(what: Content, rundir: RunDir) -> Checkpoint:
    """Write a state that nobody changes meanwhile; on any failure the directory is as it was.

    Every process of `what.world` writes its parts, and returns when all have and the checkpoint is
    in place; where one fails, all raise.
    """
    final, world = rundir.checkpoint_path(what.step), what.world
    if world.once(lambda: _is_whole(final, what.step)):
        return Checkpoint(final, what.step)
    try:
        if world.size == 1:
            with written(final) as aside:
                _write_tensors(aside, what.tensors, what.places)
                _write_rest(aside, what, sealed(aside))
        else:
            _write_together(what, final)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"{rundir.path}: the disk is full; {last_good(rundir)}") from error
        raise
    return Checkpoint(final, what.step)


def _write_together(what: Content, final: Path) -> None:
    """The first process makes the draft, all fill it, the first seals and names it."""
    world = what.world
    with contextlib.ExitStack() as draft:
        aside = Path(world.once(lambda: str(draft.enter_context(written(final)))))
        files: dict[str, Any] = {}
        error: BaseException | None = None
        try:
            _write_tensors(aside, what.tensors, what.places, world.rank)
            files = sealed(aside, f"shard-{world.rank + 1:05d}-*")
        except BaseException as caught:
            error = caught
        world.agreed(error)
        everyone = world.collected(files)
        world.once(lambda: _write_rest(aside, what, {k: v for f in everyone for k, v in f.items()}))
        world.once(lambda: draft.close())


@contextlib.contextmanager
def written(final: Path) -> Iterator[Path]:
    """A draft beside `final`, to be sealed, that then takes its name; a failed one is removed."""
    if not final.parent.exists():
        final.parent.mkdir(parents=True)
        sync(final.parent.parent)
    aside = final.with_name(f".writing-{final.name}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        yield aside
        if final.exists():  # a damaged one that a resume stepped over
            shutil.rmtree(final)
        aside.rename(final)
        sync(final.parent)
    except (OSError, Elsewhere):
        shutil.rmtree(aside, ignore_errors=True)
        raise


def seal(folder: Path, what: Mapping[str, Any]) -> None:
    """Sync every file of a draft, then write its manifest: `what`, and the files' checksums."""
    _write_manifest(folder, what, sealed(folder))


def sealed(folder: Path, pattern: str = "*") -> dict[str, Any]:
    """Sync files of a draft; their sizes and checksums by name."""
    files = {}
    for path in sorted(folder.glob(pattern)):
        sync(path)
        files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    return files


def _write_rest(folder: Path, what: Content, files: dict[str, Any]) -> None:
    """What the first process writes when all tensors are there."""
    (folder / "state.json").write_text(json.dumps(what.state, indent=1), encoding="utf-8")
    files |= sealed(folder, "state.json")
    _write_manifest(folder, what.summary | {"versions": versions()}, files)


def _write_manifest(folder: Path, what: Mapping[str, Any], files: Mapping[str, Any]) -> None:
    with (folder / "manifest.json").open("w", encoding="utf-8") as file:
        json.dump({"format": FORMAT, **what, "files": files}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    sync(folder)


def _is_whole(path: Path, step: int) -> bool:
    """Whether there is a checkpoint already; a damaged one that a resume passed over is none."""
    try:
        Checkpoint(path, step).verify()
    except UserError:
        return False
    return True


def last_good(rundir: RunDir) -> str:
    """A clause that says what is safe."""
    checkpoints = rundir.checkpoints()
    if not checkpoints:
        return "there was no checkpoint yet"
    return f"the last good checkpoint is step {checkpoints[-1].step}"


def clean(rundir: RunDir) -> None:
    """Remove what a killed process left half-written or half-deleted."""
    for root in (rundir.checkpoint_root, rundir.snapshot_root):
        for pattern in (".writing-*", ".deleting-*"):
            for path in root.glob(pattern):
                shutil.rmtree(path, ignore_errors=True)


def _write_tensors(
    folder: Path, tensors: Mapping[str, Tensor], at: Mapping[str, Place], rank: int = 0
) -> None:
    """One file for each group of tensors that is read together: raw, each average or track, the
    rest; named and described as `HuggingFaceStorageWriter` of PyTorch does it for each process.
    """
    groups: dict[str, list[str]] = {}
    for name in tensors:
        if at[name].mine and at[name].rows:
            groups.setdefault(_group(name), []).append(name)
    for number, names in enumerate(groups.values(), 1):
        # the largest elements first, so that all are aligned: the library's order
        names.sort(key=lambda name: (-tensors[name].itemsize, name))
        places = {
            name: {
                "saved_offsets": [at[name].first, *[0] * tensors[name].ndim][: tensors[name].ndim]
            }
            for name in names
        }
        write_file(
            folder / f"shard-{rank + 1:05d}-model-{number:05d}-of-{len(groups):05d}.safetensors",
            {name: tensors[name] for name in names},
            {"format": "pt", "DCP_VERSION": "1.0", "DCP_SHARDING_INFO": json.dumps(places)},
        )


def write_file(
    file: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    dtype: torch.dtype | None = None,
) -> None:
    """A safetensors file, a tensor at a time, floating point ones as `dtype` if there is one.

    A full disk is an OSError, which the library's own `save_file` hides.
    """
    types = {n: dtype if dtype and t.is_floating_point() else t.dtype for n, t in tensors.items()}
    entries = {n: Entry(_NAMES[types[n]], tuple(t.shape), ()) for n, t in tensors.items()}
    head, _ = plan_file(file, entries, metadata)
    with file.open("wb") as opened:
        opened.write(head)
        for name, tensor in tensors.items():
            value = tensor.detach().to("cpu", types[name]).contiguous()
            opened.write(value.reshape(-1).view(torch.uint8).numpy().data)


def _group(name: str) -> str:
    kind, _, rest = name.partition("/")
    return f"{kind}/{rest.partition('/')[0]}" if kind in ("average", "track") else kind


def load(run: Run, checkpoint: Checkpoint) -> None:
    """Make `run` the run that was saved, on however many processes."""
    run.restore(Parts(checkpoint, canonical_tensors(run.model)), checkpoint.state)


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint, whole, on the CPU."""
    return dict(Parts(Checkpoint(folder, 0)))


def newest_good(rundir: RunDir, say: Callable[[str], Any]) -> Checkpoint | None:
    """The newest checkpoint whose files are what its manifest says; damaged ones are passed over.

    Raises a UserError where there are checkpoints and none is whole.
    """
    checkpoints, damaged = rundir.checkpoints(), []
    for checkpoint in reversed(checkpoints):
        try:
            checkpoint.verify()
            _ = checkpoint.state
        except UserError as error:
            damaged.append((checkpoint, str(error)))
            continue
        for passed, why in damaged:
            say(f"{why}; going back to step {checkpoint.step}")
            rundir.event({"event": "fallback", "step": passed.step, "why": why})
            # out of the way of readers, and of retention, which would count it as the newest
            aside = passed.path.with_name(f".damaged-{passed.path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            passed.path.rename(aside)
        return checkpoint
    if damaged:
        raise UserError(f"{rundir.path}: none of its checkpoints is whole; {damaged[0][1]}")
    return None
