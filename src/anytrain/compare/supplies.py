"""What a run has left: data and disk. Read from the run directory and the corpora it pins."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from math import log2, log10
from pathlib import Path

from anytrain.averaging.snapshots import snapshots
from anytrain.compare.standing import DAY, Position
from anytrain.errors import UserError
from anytrain.files import Record, read_json
from anytrain.rundir import Checkpoint, RunDir

# --- data ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Corpus:
    """How far one corpus has been read."""

    path: str
    turn: int  # the pass, from 1
    read: int  # windows of this pass read
    windows: int  # windows of this pass
    share: float  # of the samples that come from it
    new_segments: int  # in the corpus now, not yet seen by the run

    @property
    def left(self) -> int:
        return self.windows - self.read


def corpora(identity: Record, samples: int) -> list[Corpus]:
    """The corpora that run.json pins, after `samples` samples (of a mixture: to within a few)."""
    pins = [pin for pin in identity.get("data") or [] if pin.get("eras")]
    if not pins:
        return []
    from anytrain.data.mixture import BLOCK, Mixture  # these load numpy
    from anytrain.data.order import Order

    mixture = Mixture((0,), tuple(float(pin.get("weight", 1.0)) for pin in pins))
    counts = mixture.before(samples) if len(pins) > 1 else (samples,)
    found = []
    for number, (pin, count) in enumerate(zip(pins, counts, strict=True)):
        eras = pin["eras"]
        order = Order(
            (0,), tuple(int(e["start"]) for e in eras), tuple(_total(e["windows"]) for e in eras)
        )
        place = order.place(count)
        found.append(
            Corpus(
                str(pin["path"]),
                place.turn,
                place.read,
                place.windows,
                mixture.counts[number] / BLOCK,
                _grown(Path(pin["path"]), eras[-1]),
            )
        )
    return found


def _total(value: int | list[int]) -> int:
    return sum(value) if isinstance(value, list) else int(value)


def _grown(path: Path, era: Record) -> int:
    """Segments that the corpus has by now and the run has not pinned."""
    try:
        present = read_json(path / "manifest.json").get("segments")
    except UserError:
        return 0  # the corpus lies elsewhere; what is pinned is known all the same
    pinned = era.get("segments")
    seen = len(pinned) if isinstance(pinned, list) else int(pinned or 0)
    return max(0, len(present) - seen) if isinstance(present, list) and seen else 0


def samples_at(now: Position, checkpoints: Sequence[Checkpoint], context: int) -> int:
    """Samples read by now: those of the newest checkpoint, and the tokens since."""
    if not checkpoints:
        return now.tokens // context
    newest = checkpoints[-1]
    clock = newest.state.get("clock") or {}
    saved = int(clock.get("samples", newest.tokens // context))
    return saved + max(0, now.tokens - newest.tokens) // context


# --- disk ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Disk:
    """Bytes, and how they grow. What is kept is log-spaced: growth slows as a run gets old."""

    checkpoints: int
    bytes: int
    snapshots: int  # bytes
    free: int  # bytes, on the run's filesystem
    per_day: float | None  # bytes, of what stays and of metrics, at the present rate
    cap: int | None  # bytes, `checkpoint.disk`


def disk(run: RunDir, checkpoints: Sequence[Checkpoint], now: Position, recipe: Record) -> Disk:
    """Growth over the next day at the present rate: two checkpoints stay for each doubling of
    the tokens, snapshots are log-spaced, and metrics grow as they did."""
    sizes = [c.bytes for c in checkpoints]
    taken = [s.bytes for s in snapshots(run)]
    per_day = None
    if now.tokens_per_second and now.tokens:
        in_a_day = now.tokens_per_second * DAY  # tokens
        doublings = log2(1 + in_a_day / now.tokens)
        metrics = run.path / "metrics.jsonl"
        lines = metrics.stat().st_size if metrics.exists() else 0
        per_day = 2 * doublings * (sizes[-1] if sizes else 0) + lines * in_a_day / now.tokens
        if taken and (table := recipe.get("snapshots")):
            per_day += table["per_decade"] * log10(1 + in_a_day / now.tokens) * taken[-1]
    return Disk(
        len(sizes),
        sum(sizes),
        sum(taken),
        shutil.disk_usage(run.path).free,
        per_day,
        recipe.get("checkpoint", {}).get("disk"),
    )
