"""Which checkpoints stay."""

import dataclasses

from anytrain.rundir import Checkpoint, RunDir
from anytrain.training.cadence import Cadence, previous
from anytrain.training.run import Clock


def prune(rundir: RunDir, cadence: Cadence) -> list[str]:
    """Delete checkpoints that the recipe does not keep; returns what a person should know.

    The newest N, and every one at a moment that stays, are kept; under `checkpoint.disk` the
    oldest of those go first. One that a reader has pinned waits for the next time.
    """
    settings = cadence.recipe.checkpoint
    found = rundir.checkpoints()
    newest = found[-settings.newest :]
    kept = [c for c in found if c in newest or _stays(c, cadence)]
    said = []
    while settings.disk is not None and len(kept) > 1:
        used = sum(c.bytes for c in kept)
        if used <= settings.disk:
            break
        said.append(
            f"checkpoint.disk = {settings.disk} bytes; removing the checkpoint of step "
            f"{kept[0].step}, {used - settings.disk} bytes over"
        )
        kept = kept[1:]
    for old in found:
        if old not in kept:
            old.delete()
    return said


def _stays(found: Checkpoint, cadence: Cadence) -> bool:
    at = Clock(found.step, float(found.manifest["t"]), found.tokens, 0)
    # the step that led there had the batch of its day, not the present one
    train = found.state["recipe"]["train"]
    then = dataclasses.replace(
        cadence.recipe.train,
        batch=train["batch"],
        micro_batch=None,
        reference_batch=train.get("reference_batch"),
    )
    return cadence.stays(previous(at, dataclasses.replace(cadence.recipe, train=then)), at)
