"""Validation losses of a run, as its metrics hold them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from anytrain.files import Record, read_line
from anytrain.forms import METRIC
from anytrain.rundir import RunDir
from anytrain.schema import LOSS, Each, check

RAW = "raw"
_VALIDATION = _LOSS, _STDERR = "val/loss/", "val/stderr/"


@dataclass(frozen=True)
class Evaluation:
    """Validation losses of one moment."""

    step: int
    tokens: int
    losses: dict[str, float]  # weights -> nats/token
    stderr: dict[str, float] = field(default_factory=dict)  # weights -> nats/token
    t: float | None = None  # progress, steps at the reference batch
    validated: int | None = None  # validation tokens

    @property
    def best(self) -> tuple[str, float]:
        """(name, loss) of the lowest loss; the first named wins a tie."""
        return min(self.losses.items(), key=lambda item: item[1])

    def shown(self, name: str) -> str:
        """`3.2923 ± 0.0580`, for a person."""
        if name not in self.losses:
            return "not measured"
        stderr = f" ± {self.stderr[name]:.4f}" if name in self.stderr else ""
        return f"{self.losses[name]:.4f}{stderr}"


def evaluations(run: RunDir) -> list[Evaluation]:
    """Every evaluation of a run, oldest first; two of the same step are one."""
    found: dict[int, Evaluation] = {}
    for record in _evaluation_records(run):
        losses, stderr = _named(record, _LOSS), _named(record, _STDERR)
        if not losses:
            continue
        step = int(record["step"])
        if step in found:  # a step taken up again after a stop may be evaluated twice
            losses = found[step].losses | losses
            stderr = found[step].stderr | stderr
        validated = record.get("val/tokens")
        found[step] = Evaluation(
            step, int(record["tokens"]), losses, stderr, record.get("t"), validated
        )
    return [found[step] for step in sorted(found)]


def _evaluation_records(run: RunDir) -> Iterator[Record]:
    """Records with a validation loss. Other lines, the most by far, are not even parsed."""
    path = run.path / "metrics.jsonl"
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if b'"val/loss/' not in line or not line.endswith(b"\n"):
                continue
            where = f"{path}, line {number}"
            record = read_line(line, where, METRIC)
            check(where, {k: v for k, v in record.items() if k.startswith(_VALIDATION)}, Each(LOSS))
            yield record


def _named(record: Record, prefix: str) -> dict[str, float]:
    return {k.removeprefix(prefix): float(v) for k, v in record.items() if k.startswith(prefix)}


def last_evaluation(run: RunDir, step: int) -> Evaluation | None:
    """The evaluation at a step, or the last before it."""
    return max(
        (found for found in evaluations(run) if found.step <= step),
        key=lambda found: found.step,
        default=None,
    )


def best_so_far(found: Iterable[Evaluation]) -> Evaluation | None:
    """The evaluation with the lowest loss of all, the later one in a tie."""
    return min(found, key=lambda e: (e.best[1], -e.tokens), default=None)
