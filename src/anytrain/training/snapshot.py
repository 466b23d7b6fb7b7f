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

from anytrain.averaging import canonical_tensors
from anytrain.averaging.posthoc import snapshot_due
from anytrain.averaging.snapshots import StoredSnapshot, snapshots
from anytrain.rundir import RunDir
from anytrain.training.checkpoint import seal, write_file, written
from anytrain.training.run import Clock, Run
from anytrain.training.sharding import whole


def due(run: Run, before: Clock) -> bool:
    """Whether the step from `before` reached a moment of a snapshot."""
    settings = run.recipe.snapshots
    return settings is not None and snapshot_due(before.t, run.clock.t, settings.per_decade)


def take(run: Run, rundir: RunDir) -> StoredSnapshot:
    """Write the run's tracks as a snapshot; on any failure the directory has what it had."""
    assert run.recipe.snapshots is not None
    found = {
        name: {key: whole(tensor, live[key]) for key, tensor in tensors.items()}
        for live in (canonical_tensors(run.model),)
        for name, tensors in run.tracks.tensors.items()
    }
    run.world.once(lambda: _write(run, rundir, found))
    return StoredSnapshot(rundir.snapshot_path(run.clock.step), run.clock.step)


def _write(run: Run, rundir: RunDir, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
    final = rundir.snapshot_path(run.clock.step)
    assert run.recipe.snapshots is not None
    dtype = getattr(torch, run.recipe.snapshots.dtype)
    rows = {}
    with written(final) as aside:
        for name, rule in run.recipe.built_tracks().items():
            file, since = f"track-{name}.safetensors", run.tracks.since[name]
            write_file(aside / file, tensors[name], {"format": "pt"}, dtype)
            rows[name] = {"sigma_rel": rule.sigma_rel, "since": since, "file": file}
        place = {"step": run.clock.step, "tokens": run.clock.tokens, "t": run.clock.t}
        seal(aside, {**place, "tracks": rows})


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
