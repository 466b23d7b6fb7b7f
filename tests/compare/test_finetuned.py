import csv
import io
from typing import Any

import pytest

from anytrain.compare import finetuned


def point(phase: str, lr: float | None, seed: int | None, loss: float | None) -> dict[str, Any]:
    return {
        "base": "a", "lr": lr, "seed": seed, "phase": phase, "diverged": loss is None,
        "selection_loss": loss, "selection_score": 0.5, "report_loss": loss, "report_score": 0.25,
        "retention_loss": None,
    }  # fmt: skip


POINTS = [
    point("before", None, None, 5.0),
    point("tune", 1e-3, 0, 2.0),
    point("tune", 1.0, 0, None),
    point("tune", 1e-4, 0, 3.0),
    point("report", 1e-3, 1, 1.0),
    point("report", 1e-3, 2, 2.0),
    point("report", 1e-3, 3, 3.0),
    point("report", 1e-4, 1, 9.0),  # of a rate that was chosen before the grid grew
]


def test_the_interval_over_seeds() -> None:
    """t of 2 degrees of freedom is 4.302653, the standard error of 1, 2, 3 is 1/√3."""
    found = finetuned.Mean.of([1.0, 2.0, 3.0])
    assert found.value == 2.0
    assert found.high == pytest.approx(2 + 4.302653 / 3**0.5, abs=1e-5)
    assert found.low == pytest.approx(2 - 4.302653 / 3**0.5, abs=1e-5)
    assert finetuned.Mean.of([1.0]) == finetuned.Mean(1.0, None, None)


def test_only_seeds_of_the_chosen_rate_are_reported() -> None:
    rows = finetuned.table(POINTS, {"a": 1e-3})
    assert [(r["lr"], r["chosen"], r["seeds"]) for r in rows] == [
        (None, 0, 0), (1e-4, 0, 0), (1e-3, 1, 3), (1.0, 0, 0),
    ]  # fmt: skip
    assert [r["report_loss"] for r in rows] == [5.0, None, 2.0, None]
    assert rows[3]["diverged"] == 1
    (line,) = [r for r in csv.DictReader(io.StringIO(finetuned.as_csv(rows))) if r["chosen"] == "1"]
    assert float(line["report_loss_low"]) == rows[2]["report_loss_low"]


def test_what_a_person_reads() -> None:
    lines = finetuned.shown(finetuned.table(POINTS, {"a": 1e-3}), "exact_match")
    head = "base lr selection loss exact_match report loss exact_match retention"
    assert lines[0].split() == head.split()
    assert lines[3].split() == ["a", "0.001", "*", "2.0000", "0.500", "2.0000", "±", "2.4841",
                                "0.250", "±", "0.000"]  # fmt: skip
    assert "diverged" in lines[4]


def test_a_rate_at_the_edge_is_said() -> None:
    rows = finetuned.table(POINTS, {"a": 1e-4})
    (says,) = finetuned.at_the_edge(rows, {"a": 1e-4})
    assert "a: 0.0001 is the lowest rate of its grid" in says
    assert finetuned.at_the_edge(rows, {"a": 1e-3}) == []
    assert finetuned.at_the_edge(rows, {"a": None}) == []


def test_a_base_that_always_diverged_has_rows_and_no_seeds() -> None:
    rows = finetuned.table(POINTS[:3], {"a": None})
    assert [r["chosen"] for r in rows] == [0, 0, 0]
    assert [r["report_loss"] for r in rows] == [5.0, None, None]
