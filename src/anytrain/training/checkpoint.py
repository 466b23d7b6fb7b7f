"""Saving and loading the complete state of a run, atomically.

Tensors go through PyTorch's distributed checkpoint (one process is a mesh of one) in its
safetensors storage; counters and settings are JSON beside them. A checkpoint is written aside,
synced, and renamed; its manifest has the size and checksum of every file. No pickle anywhere.
"""

import contextlib
import errno
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

from anytrain import schedules
from anytrain.errors import UserError
from anytrain.files import sha256, sync
from anytrain.rundir import FORMAT, Checkpoint, RunDir
from anytrain.training.cadence import previous
from anytrain.training.run import Run
from anytrain.versions import versions


def save(run: Run, rundir: RunDir) -> Checkpoint:
    """Write the run's state as a checkpoint; on any failure the directory has what it had."""
    final = rundir.checkpoint_path(run.clock.step)
    if _is_whole(final, run.clock.step):
        return Checkpoint(final, run.clock.step)
    try:
        with written(final) as aside:
            tensors, state = run.tensors(), run.state()
            _write_tensors(aside, tensors)
            (aside / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
            _write_manifest(aside, run)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"{rundir.path}: the disk is full; {last_good(rundir)}") from error
        raise
    return Checkpoint(final, run.clock.step)


@contextlib.contextmanager
def written(final: Path) -> Iterator[Path]:
    """A draft beside `final`, to be sealed, that then takes its name; an OSError removes it."""
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
    except OSError:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def seal(folder: Path, what: Mapping[str, Any]) -> None:
    """Sync every file of a draft, then write its manifest: `what`, and the files' checksums."""
    files = {}
    for path in sorted(folder.iterdir()):
        sync(path)
        files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    path = folder / "manifest.json"
    with path.open("w", encoding="utf-8") as file:
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


def _write_tensors(folder: Path, tensors: dict[str, Tensor]) -> None:
    """One file for each group of tensors that is read together: raw, each average or track, the
    rest."""
    groups: dict[str, int] = {}
    index = {name: groups.setdefault(_group(name), len(groups) + 1) for name in tensors}
    writer = HuggingFaceStorageWriter(
        str(folder), fqn_to_index_mapping=index, save_distributed=True
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that there is only one process: so it is
        try:
            dcp_save(tensors, storage_writer=writer, no_dist=True)
        except CheckpointException as error:  # no Exception: it would pass every `except` above
            raise next(iter(error.failures.values()))[0] from error


def _group(name: str) -> str:
    kind, _, rest = name.partition("/")
    return f"{kind}/{rest.partition('/')[0]}" if kind in ("average", "track") else kind


def _write_manifest(folder: Path, run: Run) -> None:
    before = previous(run.clock, run.recipe)
    free = ["schedule_free"] if run.optimizer.kind == "schedule_free" else []
    what = {
        "step": run.clock.step,
        "tokens": run.clock.tokens,
        "t": run.clock.t,
        "lr": schedules.rate(run.recipe.built_schedule(), before.t, run.clock.t),
        "weights": ["raw", *free, *run.averages.rules],
        "versions": versions(),
    }
    seal(folder, what)


def load(run: Run, checkpoint: Checkpoint) -> None:
    """Make `run` the run that was saved."""
    run.restore(read_tensors(checkpoint.path), checkpoint.state)


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint, whole, on the CPU."""
    reader = HuggingFaceStorageReader(str(folder))
    entries = reader.read_metadata().state_dict_metadata
    tensors = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in entries.items()
        if isinstance(entry, TensorStorageMetadata)
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp_load(tensors, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    return tensors


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
