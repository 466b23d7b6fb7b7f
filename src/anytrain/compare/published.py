"""What arXiv:2603.16127 reports, and our own arms beside it. No torch.

An arm is named as in the paper's tables: "WSD a=0.1" ends pre-training at α_pre = 0.1 of its peak;
"WSD (0.1,0)" then ends mid-training at α_mid = 0 of that.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

from anytrain.compare.paired import Interval
from anytrain.compare.post import PostResults, best, minus

Stage = Literal["two", "three"]


@dataclass(frozen=True)
class Published:
    """One row of the paper's tables 1 to 3."""

    model: str  # 1B, 8B
    arm: str
    loss: float  # on pre-training text, with three stages after mid-training; nats/token
    score: float  # mean over tasks after fine-tuning, points
    rate: str = ""  # of fine-tuning, where it is told

    @property
    def decayed(self) -> bool:
        return not self.arm.startswith("WSO")


@cache
def published(stage: Stage) -> tuple[Published, ...]:
    """Tables 1 and 2 (two stages) or 3 (three), one seed."""
    text = files("anytrain.compare").joinpath(f"wso_{stage}_stage.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    names = {
        "two": ("schedule", "valid_loss"),
        "three": ("schedule (alpha_pre, alpha_mid)", "valid_loss_after_mid"),
    }
    arm, loss = names[stage]
    return tuple(
        Published(
            row["model"], row[arm], float(row[loss]), float(row["sft_task_avg"]),
            row.get("selected_sft_lr") or "",
        )
        for row in rows
    )  # fmt: skip


@dataclass(frozen=True)
class Beside:
    """Score of an arm minus the best decayed arm's, points: here, and in the paper."""

    base: str
    arm: str
    ours: Interval | None  # as shares; None: it is the best decayed one, or has no score
    theirs: Mapping[str, float]  # model ->


def beside(results: PostResults, stage: Stage) -> tuple[str | None, list[Beside]]:
    """Our best decayed arm among those that the paper has, and a row for each of them."""
    rows = published(stage)
    ours = {base: arm for base, arm in results.arms.items() if arm in {row.arm for row in rows}}
    other = best(results, "decayed", ours)
    out = []
    for base, arm in ours.items():
        found = minus(results, base, other) if other is not None and base != other else None
        theirs = {
            row.model: row.score - best_published(stage, row.model).score
            for row in rows if row.arm == arm
        }  # fmt: skip
        out.append(Beside(base, arm, found, theirs))
    return other, out


def best_published(stage: Stage, model: str) -> Published:
    """The decayed arm of a model with the highest score in the paper."""
    return max((row for row in published(stage) if row.model == model and row.decayed),
               key=lambda row: row.score)  # fmt: skip
