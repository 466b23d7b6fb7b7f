"""The points of a fine-tuning sweep as a table: each base, each rate, and what seeds say."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

from anytrain.compare.student import quantile

Point = Mapping[str, Any]

FIELDS = (
    *("base", "lr", "chosen", "diverged", "selection_loss", "selection_score", "seeds"),
    *("report_score", "report_score_low", "report_score_high"),
    *("report_loss", "report_loss_low", "report_loss_high"),
    *("retention_loss", "retention_loss_low", "retention_loss_high"),
)


@dataclass(frozen=True)
class Mean:
    """A mean over seeds with its 95% interval of Student's t; of one seed it has none."""

    value: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Mean":
        n = len(values)
        mean = sum(values) / n
        if n < 2:
            return cls(mean, None, None)
        spread = sqrt(sum((v - mean) ** 2 for v in values) / (n - 1))
        half = quantile(0.975, n - 1) * spread / sqrt(n)
        return cls(mean, mean - half, mean + half)

    def shown(self, digits: int) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.{digits}f}"
        return f"{self.value:.{digits}f} ± {self.high - self.value:.{digits}f}"


def table(points: Sequence[Point], chosen: Mapping[str, float | None]) -> list[dict[str, Any]]:
    """A row for every base before fine-tuning and at every rate; the chosen one has its seeds.

    A row that has no seeds to report (all but the chosen) has only what it was chosen by; one whose
    rate was chosen elsewhere has seeds alone.
    """
    rows = []
    for base in chosen:
        own = [p for p in points if p["base"] == base]
        first = [p for p in own if p["phase"] == "before"]
        tuned = {p["lr"]: p for p in own if p["phase"] == "tune"}
        untuned = {p["lr"]: dict(p, selection_loss=None, selection_score=None)
                   for p in own if p["phase"] == "report"}  # fmt: skip
        by_rate = untuned | tuned
        for point in [*first, *(by_rate[rate] for rate in sorted(by_rate))]:
            best = point["lr"] is not None and point["lr"] == chosen[base]
            seeds = [p for p in own if p["phase"] == "report" and p["lr"] == chosen[base]]
            found = first if point["lr"] is None else seeds if best else []
            rows.append(_row(point, best, found))
    return rows


def _row(point: Point, best: bool, seeds: Sequence[Point]) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(FIELDS)
    row |= {name: point[name] for name in ("base", "lr", "selection_loss", "selection_score")}
    row |= {"chosen": int(best), "diverged": int(point["diverged"])}
    row["seeds"] = len(seeds) if point["lr"] is not None else 0
    for name in ("report_score", "report_loss", "retention_loss"):
        values = [p[name] for p in seeds]
        if values and None not in values:
            mean = Mean.of(values)
            row |= {name: mean.value, f"{name}_low": mean.low, f"{name}_high": mean.high}
    return row


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table as CSV; a number in all its digits, what is not known as nothing."""
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def shown(rows: Sequence[Mapping[str, Any]], score: str) -> list[str]:
    """The table for a person: lines of columns, the chosen rate of each base marked by a star."""
    head = ["base", "lr", "selection loss", score, "report loss", score, "retention"]
    body = [head]
    for row in rows:
        lr = "before" if row["lr"] is None else f"{row['lr']:g}{' *' if row['chosen'] else ''}"
        loss = "diverged" if row["diverged"] else _number(row["selection_loss"], 4)
        body.append(
            [
                str(row["base"]),
                lr,
                loss,
                _number(row["selection_score"], 3),
                _mean(row, "report_loss", 4),
                _mean(row, "report_score", 3),
                _mean(row, "retention_loss", 4),
            ]
        )
    width = [max(len(line[n]) for line in body) for n in range(len(head))]
    return ["  ".join(cell.ljust(w) for cell, w in zip(line, width, strict=True)).rstrip()
            for line in body]  # fmt: skip


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _mean(row: Mapping[str, Any], name: str, digits: int) -> str:
    if row[name] is None:
        return ""
    return Mean(row[name], row[f"{name}_low"], row[f"{name}_high"]).shown(digits)


def at_the_edge(rows: Sequence[Mapping[str, Any]], chosen: Mapping[str, float | None]) -> list[str]:
    """A sentence for every base whose rate is the first or the last of its grid."""
    says = []
    for base, rate in chosen.items():
        grid = [r["lr"] for r in rows if r["base"] == base and r["lr"] is not None]
        if rate is not None and len(grid) > 1 and rate in (grid[0], grid[-1]):
            which, more = ("lowest", "lower") if rate == grid[0] else ("highest", "higher")
            says.append(f"{base}: {rate:g} is the {which} rate of its grid; a {more} one may do "
                        "better (the same command with it added to --lr goes on)")  # fmt: skip
    return says
