"""Taking snapshots: copies of a run's tracks at log-spaced moments, kept for good.

`anytrain.averaging.snapshots` reads them. They depend on nothing but the run's state: a run that
went back takes the same ones again, to the bit.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from anytrain.averaging.posthoc import snapshot_due
from anytrain.averaging.snapshots import StoredSnapshot, snapshots
from anytrain.headers import plan_file
from anytrain.layout import Entry
from anytrain.rundir import RunDir
from anytrain.training.checkpoint import seal, written
from anytrain.training.run import Clock, Run

_NAMES = {  # of types in safetensors files
    torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


def due(run: Run, before: Clock) -> bool:
    """Whether the step from `before` reached a moment of a snapshot."""
    settings = run.recipe.snapshots
    return settings is not None and snapshot_due(before.t, run.clock.t, settings.per_decade)


def take(run: Run, rundir: RunDir) -> StoredSnapshot:
    """Write the run's tracks as a snapshot; on any failure the directory has what it had."""
    assert run.recipe.snapshots is not None
    final = rundir.snapshot_path(run.clock.step)
    dtype = getattr(torch, run.recipe.snapshots.dtype)
    rows = {}
    with written(final) as aside:
        for name, rule in run.recipe.built_tracks().items():
            file, since = f"track-{name}.safetensors", run.tracks.since[name]
            _write(aside / file, run.tracks.tensors[name], dtype)
            rows[name] = {"sigma_rel": rule.sigma_rel, "since": since, "file": file}
        place = {"step": run.clock.step, "tokens": run.clock.tokens, "t": run.clock.t}
        seal(aside, {**place, "tracks": rows})
    return StoredSnapshot(final, run.clock.step)


def _write(file: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    """One file, a tensor at a time; a full disk is an OSError, which `save_file` hides."""
    types = {n: dtype if t.is_floating_point() else t.dtype for n, t in tensors.items()}
    entries = {n: Entry(_NAMES[types[n]], tuple(t.shape), ()) for n, t in tensors.items()}
    head, _ = plan_file(file, entries, {"format": "pt"})
    with file.open("wb") as opened:
        opened.write(head)
        for name, tensor in tensors.items():
            value = tensor.detach().to("cpu", types[name]).contiguous()
            opened.write(value.reshape(-1).view(torch.uint8).numpy().data)


def drop_after(rundir: RunDir, step: int) -> None:
    """Remove what is later than `step`: those steps were lost and will be taken again."""
    for found in snapshots(rundir):
        if found.step > step:
            aside = found.path.with_name(f".deleting-{found.path.name}")
            found.path.rename(aside)
            shutil.rmtree(aside, ignore_errors=True)


def copy(parent: RunDir, target: RunDir, step: int) -> None:
    """Give a fork its parent's snapshots up to the step it begins from, by links where possible."""
    for found in snapshots(parent):
        if found.step <= step:
            path = target.snapshot_path(found.step)
            path.mkdir(parents=True)
            for file in found.path.iterdir():
                link(file, path / file.name)


def link(file: Path, target: Path) -> None:
    """The same file under another name; its copy on another filesystem."""
    try:
        os.link(file, target)
    except OSError:
        shutil.copy2(file, target)
