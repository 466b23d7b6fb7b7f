"""Means, leave-one-task-out and paired differences, by hand; coverage of the interval."""

import json
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anytrain.compare.student import quantile
from anytrain.compare.task_scores import TaskScores, task_scores
from anytrain.compare.task_table import lines, summary
from anytrain.errors import UserError

Table = dict[str, dict[str, list[float]]]  # weights -> task -> scores of documents


def made(folder: Path, table: Table, **changes: Any) -> TaskScores:
    """Records and files as `posttrain.tasks` leaves them."""
    records = []
    (folder / "documents").mkdir(parents=True, exist_ok=True)
    for weights, tasks in table.items():
        for task, scores in tasks.items():
            values = np.asarray(scores)
            file = f"{weights}-{task}.jsonl"
            rows = ({"task": task, "doc": i, "hash": f"{task}{i}", "score": s}
                    for i, s in enumerate(scores))  # fmt: skip
            (folder / "documents" / file).write_text("".join(json.dumps(r) + "\n" for r in rows))
            records.append({
                "weights": weights, "label": task, "metric": "acc", "in_mean": True,
                "score": float(values.mean()), "documents": len(scores), "truncated": 0,
                "stderr": float(values.std(ddof=1) / sqrt(len(scores))), "file": file,
                **changes.get(task, {}),
            })  # fmt: skip
    return task_scores(records, folder)


TABLE: Table = {
    "a": {"t": [1, 0, 1, 0], "u": [1, 1, 0]},
    "b": {"t": [1, 1, 1, 1], "u": [0, 1, 0]},
}


def test_means_and_differences_by_hand(tmp_path: Path) -> None:
    found = made(tmp_path, TABLE)
    mean = found.mean("a")
    assert mean is not None
    assert mean[0] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert mean[1] == pytest.approx(sqrt(1 / 3 / 4 + 1 / 3 / 3) / 2)
    t, u, whole = found.difference("b", "t"), found.difference("b", "u"), found.mean_difference("b")
    assert t is not None
    assert u is not None
    assert whole is not None
    # differences 0, 1, 0, 1 and −1, 0, 0
    assert (t.mean, u.mean) == (0.5, pytest.approx(-1 / 3))
    assert t.half == pytest.approx(quantile(0.975, 3) * sqrt(1 / 3 / 4))
    e, f = 1 / 3 / 4, 1 / 3 / 3  # squared errors on 3 and 2 degrees of freedom
    assert whole.mean == pytest.approx((0.5 - 1 / 3) / 2)
    assert whole.error == pytest.approx(sqrt(e + f) / 2)
    assert whole.freedom == pytest.approx((e + f) ** 2 / (e * e / 3 + f * f / 2))


def test_one_task_that_decides(tmp_path: Path) -> None:
    found = made(tmp_path, TABLE)
    without = {one.task: one for one in found.left_out()}
    assert without["t"].means == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert without["t"].flips  # b is better by t alone
    assert not without["u"].flips
    text = "\n".join(lines(found))
    assert "the order of the means flips without 1 of 2 tasks" in text
    assert "A  a\nB  b\n" in text
    assert "+0.5000 ± 0.9187" in text
    assert summary(found)["without"]["t"] == {"means": {"a": 2 / 3, "b": 1 / 3}, "flips": True}
    calm = made(
        tmp_path / "calm", {"a": {"t": [1, 1], "u": [1, 1]}, "b": {"t": [0, 1], "u": [0, 0]}}
    )
    assert "no single task decides the order of the means" in lines(calm)


def test_what_is_not_averaged_or_paired(tmp_path: Path) -> None:
    """A metric that is no share, and documents that are not the same."""
    found = made(tmp_path, TABLE, u={"metric": "word_perplexity", "in_mean": False})
    assert found.averaged == ("t",)
    assert "not in the mean: u" in lines(found)
    longer = {"a": TABLE["a"], "b": {"t": [1, 1], "u": [0, 1, 0]}}
    found = made(tmp_path, longer)
    assert found.difference("b", "t") is None
    assert found.mean_difference("b") is None
    assert found.difference("b", "u") is not None


def test_records_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="b has no score on u; the others have"):
        made(tmp_path, {"a": TABLE["a"], "b": {"t": [1.0, 0.0]}})
    with pytest.raises(UserError, match="which lies outside it"):
        made(tmp_path, TABLE, t={"file": "../../t.jsonl"})
    with pytest.raises(UserError, match=r"gone\.jsonl is missing"):
        made(tmp_path, TABLE, t={"file": "gone.jsonl"})


def test_the_interval_of_a_difference_covers(tmp_path: Path) -> None:
    """95% of the intervals hold the true difference of right answers that go together."""
    rng, means, halves = np.random.default_rng(0), [], []
    for _ in range(200):
        ease = rng.random((2, 80))  # of 80 documents of two tasks, the same for both weights
        right = {
            name: {task: (rng.random(80) < np.clip(ease[k] + lift, 0, 1)).astype(float).tolist()
                   for k, task in enumerate("tu")}
            for name, lift in (("a", 0.0), ("b", 0.1))
        }  # fmt: skip
        interval = made(tmp_path, right).mean_difference("b")
        assert interval is not None
        means.append(interval.mean)
        halves.append(interval.half or 0.0)
    # E[min(ease + 0.1, 1)] − E[ease] of a uniform ease = 0.1 − 0.1²/2
    held = np.mean(np.abs(np.array(means) - 0.095) <= halves)
    assert abs(held - 0.95) < 3 * sqrt(0.95 * 0.05 / len(means))
    assert np.mean(halves) == pytest.approx(1.98 * np.std(means), rel=0.15)  # and not by width
