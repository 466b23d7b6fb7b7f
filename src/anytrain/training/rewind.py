"""Going back to a checkpoint and on past the samples that made the loss spike.

The event `rewound` is what lasts of it: whoever goes on from that checkpoint, or replays the run
through it, reads there that its data go on later.
"""

from collections.abc import Callable, Mapping
from typing import Any

from anytrain.errors import UserError
from anytrain.rundir import Checkpoint, RunDir
from anytrain.training import checkpoint, snapshot
from anytrain.training.run import Run


def rewind(run: Run, rundir: RunDir, say: Callable[[str], Any]) -> Checkpoint | None:
    """Make `run` its last whole checkpoint, its data going on after what was read by now.

    None, and nothing happens, where there is none, or where it was gone back to already.
    """
    step = run.world.once(lambda: _last(rundir, say))
    if run.guard is None or step is None or step == run.guard.rewound:
        return None
    samples = run.clock.samples
    found = Checkpoint(rundir.checkpoint_path(step), step)
    checkpoint.load(run, found)
    go_past(run, {step: samples})
    run.world.once(lambda: drop_after(rundir, step))
    return found


def rewinds(rundir: RunDir) -> dict[int, int]:
    """Checkpoints that the run went back to: step -> the sample that was read next."""
    return {event["step"]: event["samples"] for event in rundir.changes("rewound")}


def go_past(run: Run, rewound: Mapping[int, int]) -> None:
    """Where a run at this step was a rewound one, read on from the sample that it read on from."""
    step = run.clock.step
    if step in rewound:
        run.clock.samples = max(run.clock.samples, rewound[step])
        if run.guard is not None:
            run.guard.rewound = step


def drop_after(rundir: RunDir, step: int) -> None:
    """Remove the records of steps that are about to be taken again."""
    rundir.drop_after(step)
    snapshot.drop_after(rundir, step)


def _last(rundir: RunDir, say: Callable[[str], Any]) -> int | None:
    try:
        found = checkpoint.newest_good(rundir, say)
    except UserError:  # none is whole: no reason to end a run that is
        return None
    return found.step if found else None
