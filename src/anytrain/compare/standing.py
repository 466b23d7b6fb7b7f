"""Where a run stands: position, pace, data and disk left, lineage, and what to release.

All of it is read from the run directory (and the corpora it pins), live or stopped. No torch.
"""

import fcntl
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from anytrain.errors import UserError
from anytrain.evaluations import RAW, Evaluation
from anytrain.files import Record, read_line
from anytrain.forms import METRIC
from anytrain.rundir import Checkpoint, RunDir

DAY = 86400.0  # seconds
_TAIL = 2**17  # bytes of metrics.jsonl that say how fast it is now


def readable(run: RunDir) -> list[Checkpoint]:
    """Checkpoints with every file in full length, oldest first: a live run removes some."""
    found = []
    for checkpoint in run.checkpoints():
        try:
            checkpoint.verify(checksums=False)
        except UserError:
            continue
        found.append(checkpoint)
    return found


# --- position and pace -----------------------------------------------------------------------


@dataclass(frozen=True)
class Position:
    """The last thing a run wrote."""

    step: int
    tokens: int
    seconds: float | None  # trained so far, all sittings
    tokens_per_second: float | None  # over the last records
    loss: float | None  # nats/token, of the last training batch
    lr: float | None


def position(run: RunDir, checkpoints: Sequence[Checkpoint]) -> Position:
    """From the last metric records; from the newest checkpoint where there are none."""
    records = _tail(run.path / "metrics.jsonl")
    steps = [r for r in records if "loss" in r]
    newest = checkpoints[-1] if checkpoints else None
    if not records:
        return Position(
            newest.step if newest else 0, newest.tokens if newest else 0, None, None, None, None
        )
    last = steps[-1] if steps else {}
    return Position(
        int(records[-1]["step"]),
        int(records[-1]["tokens"]),
        last.get("seconds"),
        _pace(steps),
        last.get("loss"),
        last.get("lr"),
    )


def _tail(path: Path) -> list[Record]:
    """The last whole records of a JSONL file, whatever its length."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _TAIL))
        lines = file.read().split(b"\n")
    whole = lines[1:-1] if size > _TAIL else lines[:-1]  # the first may be cut, the last torn
    records: deque[Record] = deque(maxlen=500)
    for line in whole:
        records.append(read_line(line, f"{path}: a line near its end", METRIC))
    return list(records)


def _pace(steps: Sequence[Record]) -> float | None:
    """Tokens a second from the first to the last of these records, evaluation time included."""
    timed = [r for r in steps if r.get("seconds") is not None]
    if len(timed) > 1:
        seconds = timed[-1]["seconds"] - timed[0]["seconds"]
        tokens = timed[-1]["tokens"] - timed[0]["tokens"]
        if seconds > 0 and tokens > 0:
            return float(tokens / seconds)
    rate = steps[-1].get("tokens_per_second") if steps else None
    return float(rate) if rate else None


# --- running or stopped ----------------------------------------------------------------------


@dataclass(frozen=True)
class Activity:
    """Whether a process trains the run now, and what ended the last sitting if none does."""

    running: bool
    holder: str | None  # who has the lock, as it says itself
    stopped_by: str | None  # SIGTERM, --for 20M-tokens, horizon, …; None: it ended without a word
    time: str | None  # of the last start or stop, ISO


def activity(run: RunDir) -> Activity:
    """From the lock, which dies with its process, and the last start or stop."""
    last: Record = {}
    for event in run.events():
        if event.get("event") in ("start", "stop"):
            last = event
    holder = _holder(run.path / "lock")
    by = last.get("by") if last.get("event") == "stop" and holder is None else None
    return Activity(holder is not None, holder, by, last.get("time"))


def _holder(lock: Path) -> str | None:
    """What the lock's holder wrote into it; None where nobody holds it."""
    try:
        with lock.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read().strip() or "another process"
    except OSError:
        pass
    return None


# --- lineage and release ---------------------------------------------------------------------


@dataclass(frozen=True)
class Ancestor:
    """A run that another was forked from, and what the fork changed."""

    path: str
    step: int
    tokens: int
    changes: dict[str, list[object]]  # key -> [old, new]
    present: bool  # whether that run is still there
    stage: str | None  # mid, cooldown; None: the fork of a run is all that is known


def lineage(run: RunDir) -> list[Ancestor]:
    """Parents upwards, the nearest first, as far as their directories are still there."""
    found: list[Ancestor] = []
    seen: set[str] = set()
    here = run
    while True:
        identity = here.identity
        parent = identity.get("parent")
        if not parent or str(parent.get("id")) in seen:
            return found
        seen.add(str(parent.get("id")))
        there = _parent(here, parent)
        found.append(
            Ancestor(
                str(parent["path"]),
                int(parent.get("step", 0)),
                int(parent.get("tokens", 0)),
                dict(identity.get("changes") or {}),
                there is not None,
                parent.get("stage"),
            )
        )
        if there is None:
            return found
        here = there


def _parent(run: RunDir, parent: Record) -> RunDir | None:
    """The parent's directory as written, or beside the run where both were moved together."""
    written = Path(str(parent["path"]))
    for path in (written, run.path / written, run.path.resolve().parent / written.name):
        there = RunDir(path)
        if there.exists and there.identity.get("id") == parent.get("id"):
            return there
    return None


@dataclass(frozen=True)
class Candidate:
    """Weights that a checkpoint holds, and the loss they are known by."""

    step: int
    tokens: int
    weights: str
    loss: float | None  # nats/token
    evaluated_at: int | None  # step; earlier than `step` where that one was not evaluated

    def command(self, run: Path) -> str:
        """The command that releases them."""
        out = f"{run.resolve().name}-{self.step}-{self.weights}"
        return f"anytrain release {quote(f'{run}@{self.step}:{self.weights}')} --out {quote(out)}"


def candidate(found: Sequence[Evaluation], checkpoints: Sequence[Checkpoint]) -> Candidate | None:
    """The best weights that a checkpoint holds; a later checkpoint wins a tie.

    A checkpoint that was not evaluated itself counts with the last evaluation before it.
    """
    best: Candidate | None = None
    for checkpoint in checkpoints:
        held, tokens = checkpoint.weights, checkpoint.tokens
        known = [e for e in found if e.step <= checkpoint.step]
        losses = {n: v for n, v in known[-1].losses.items() if n in held} if known else {}
        if losses:
            name, loss = min(losses.items(), key=lambda item: item[1])
            if best is None or best.loss is None or loss <= best.loss:
                best = Candidate(checkpoint.step, tokens, name, loss, known[-1].step)
        elif best is None or best.loss is None:
            best = Candidate(checkpoint.step, tokens, RAW if RAW in held else held[0], None, None)
    return best
