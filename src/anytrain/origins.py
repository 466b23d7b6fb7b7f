"""Which weights of which checkpoint a name means. No torch: nothing is read yet."""

from dataclasses import dataclass

from anytrain.errors import UserError, nearest
from anytrain.evaluations import Evaluation, last_evaluation
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
