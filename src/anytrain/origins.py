"""Which weights of which checkpoint a name means. No torch: nothing is read yet."""

from collections.abc import Mapping
from dataclasses import dataclass

from anytrain.errors import UserError, nearest
from anytrain.evaluations import Evaluation, last_evaluation
from anytrain.layout import Entry, select
from anytrain.rundir import Checkpoint, RunDir


@dataclass(frozen=True)
class Origin:
    """Which run a set of weights is from, and what it was chosen from."""

    run: RunDir
    checkpoint: Checkpoint
    chosen: str  # raw, ema25, …
    evaluation: Evaluation | None  # at the checkpoint, or the last before it

    @property
    def loss(self) -> float | None:
        """Validation loss of the chosen weights, nats/token, if measured."""
        return self.evaluation.losses.get(self.chosen) if self.evaluation else None


def choose(run: RunDir, checkpoint: Checkpoint, asked: str) -> Origin:
    """The weights `asked` of a checkpoint; `best` by validation loss. UserError where unknown."""
    evaluation = last_evaluation(run, checkpoint.step)
    chosen = _best(run, checkpoint, evaluation) if asked == "best" else asked
    if chosen not in checkpoint.weights:
        known = nearest(chosen, ["best", *checkpoint.weights])
        raise UserError(f"{checkpoint.path} has no weights {chosen!r}{known}")
    return Origin(run, checkpoint, chosen, evaluation)


def schedule_free_parts(
    run: RunDir, checkpoint: Checkpoint, stored: Mapping[str, Entry]
) -> tuple[dict[str, Entry], float]:
    """The optimizer's fast weights in a checkpoint, like the live ones in form, and its β₁."""
    live, fast = select(stored, "raw/"), select(stored, "optimizer/z/")
    for name, entry in fast.items():
        if name not in live or (live[name].shape, live[name].dtype) != (entry.shape, entry.dtype):
            raise UserError(f"{checkpoint.path}: optimizer/z/{name} has not the form of raw/{name}")
    beta1 = float(run.recipe["optimizer"]["beta1"])
    if not 0 < beta1 < 1:
        raise UserError(f"{run.path}: optimizer.beta1 = {beta1:g}; above 0 and below 1 is valid")
    return fast, beta1


def _best(run: RunDir, checkpoint: Checkpoint, evaluation: Evaluation | None) -> str:
    """The candidate with the lowest validation loss at the checkpoint, or last before it."""
    losses = evaluation.losses if evaluation else {}
    known = [name for name in losses if name in checkpoint.weights]
    if not known:
        raise UserError(
            f"{run.path}@{checkpoint.step}: nothing was evaluated up to there, so none is best; "
            f"name the weights: {', '.join(checkpoint.weights)}"
        )
    return min(known, key=lambda name: losses[name])
