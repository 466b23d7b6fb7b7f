"""The points of a sweep on the disk: one line each, rows of each in a file, kept models beside.

DIR/finetune.json    what every point has in common; a sweep that goes on has to ask the same
DIR/points.jsonl     a point a line, written when all else of it is there
DIR/rows/POINT.jsonl every held-out row: its part, loss, tokens, correct or not
DIR/models/POINT     fine-tuned weights that are kept
DIR/bases/NAME       what was fine-tuned

No torch: a study reads them too.
"""

import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from anytrain.errors import UserError
from anytrain.files import append_line, read_json, read_lines, write_atomic
from anytrain.posttrain.rows import Part

if TYPE_CHECKING:
    from anytrain.posttrain.measure import Measured

Phase = Literal["before", "tune", "report"]
Point = dict[str, Any]


@dataclass(frozen=True)
class Key:
    """Which point: a base, and the rate and the seed of its fine-tuning (None: before it)."""

    base: str
    lr: float | None = None
    seed: int | None = None

    @property
    def name(self) -> str:
        return self.base if self.lr is None else f"{self.base}-lr{self.lr:g}-seed{self.seed}"


class Points:
    """The directory of a sweep."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory; the lock dies with its process. UserError where another has it."""
        with (self.path / "lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(
                    f"{self.path} is in use by another finetune; another --out is valid"
                ) from error
            yield

    @contextmanager
    def beginning(self) -> Iterator[None]:
        """What is made inside goes again where it fails, if nothing was here before."""
        there = self.path.exists()
        fresh = not (self.path / "finetune.json").exists() and not (self.path / "bases").exists()
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            yield
        except BaseException:
            if fresh:
                shutil.rmtree(self.path / "bases", ignore_errors=True)
                for name in ("finetune.json", "lock"):
                    (self.path / name).unlink(missing_ok=True)
            if fresh and not there:
                self.path.rmdir()
            raise

    def begin(self, asked: Mapping[str, Any]) -> None:
        """Record what all points have in common, or check that it is what it was.

        Raises UserError that names the first difference.
        """
        file = self.path / "finetune.json"
        if not file.is_file():
            write_atomic(file, json.dumps(asked, indent=2) + "\n")
            return
        before = read_json(file)
        for name in sorted(before.keys() | asked.keys()):
            if before.get(name) != asked.get(name):
                raise UserError(
                    f"{self.path} was begun with {name} = {before.get(name)!r}, not "
                    f"{asked.get(name)!r}; the same, or another --out, is valid"
                )

    def read(self) -> dict[Key, Point]:
        """Every point there is, by its key."""
        found = read_lines(self.path / "points.jsonl")
        return {Key(point["base"], point["lr"], point["seed"]): point for point in found}

    def add(self, key: Key, point: Point, rows: Mapping[Part, Sequence["Measured"]]) -> None:
        """One point: its rows first, so that a line in points.jsonl has them."""
        folder = self.path / "rows"
        folder.mkdir(exist_ok=True)
        lines = [
            json.dumps(
                {
                    "part": part,
                    "row": one.key,
                    "loss": one.loss if abs(one.loss) < float("inf") else None,
                    "tokens": one.tokens,
                    "correct": one.correct,
                }
            )
            for part, found in rows.items()
            for one in found
        ]
        write_atomic(folder / f"{key.name}.jsonl", "\n".join(lines) + "\n")
        append_line(self.path / "points.jsonl", point)


def chosen_in(path: Path, metric: str) -> float:
    """The rate that a sweep of one base chose. Raises UserError where there is no such one."""
    points = Points(path).read() if path.is_dir() else {}
    bases = {key.base for key in points}
    rate = chosen(points, bases.pop(), metric) if len(bases) == 1 else None
    if rate is None:
        raise UserError(f"--lr-of {path}: a sweep of one base that chose a rate is valid")
    return rate


def chosen(points: Mapping[Key, Point], base: str, metric: str) -> float | None:
    """The rate of the seed-0 point that is best on the selection part; None where all diverged.

    The lower loss decides among equal scores, then the lower rate.
    """
    tuned = [
        point
        for key, point in points.items()
        if key.base == base and point["phase"] == "tune" and not point["diverged"]
    ]
    if not tuned:
        return None

    def rank(point: Point) -> tuple[float, float, float]:
        loss = point["selection_loss"]
        score = 0.0 if metric == "loss" else -point["selection_score"]
        return score, loss, point["lr"]

    return float(min(tuned, key=rank)["lr"])
