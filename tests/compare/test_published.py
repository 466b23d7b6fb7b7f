"""arXiv:2603.16127's numbers, and ours beside them."""

from dataclasses import replace

import pytest

from anytrain.compare.published import beside, best_published, published
from tuned import results

ARMS = {"wso": "WSO", "cosine": "Cosine a=0.1", "wsd": "WSD a=0.1"}


def test_the_tables() -> None:
    """Seven arms of two models; eight with three stages; WSO is ahead of every decayed one."""
    assert [len(published(stage)) for stage in ("two", "three")] == [14, 16]
    for stage, gaps in (("two", (0.3, 1.1)), ("three", (0.8, 1.1))):
        for model, gap in zip(("1B", "8B"), gaps, strict=True):
            (wso,) = [r for r in published(stage) if r.model == model and not r.decayed]
            assert wso.score - best_published(stage, model).score == pytest.approx(gap)
    assert best_published("two", "8B").arm == "Linear a=0"


def test_ours_beside_theirs() -> None:
    other, rows = beside(replace(results(), arms=ARMS), "two")
    assert other == "wsd"
    found = {row.base: row for row in rows}
    assert list(found) == ["wso", "cosine", "wsd"]  # ema has no arm in the paper
    assert found["wso"].ours is not None
    assert found["wso"].ours.mean == pytest.approx(0.04, abs=2e-3)
    assert found["wsd"].ours is None
    assert found["wso"].theirs == pytest.approx({"1B": 0.3, "8B": 1.1})
    assert found["cosine"].theirs == pytest.approx({"1B": -0.7, "8B": -0.3})


def test_nothing_of_ours_is_beside_another_stage() -> None:
    assert beside(replace(results(), arms=ARMS), "three") == (None, [])
    other, rows = beside(replace(results(), arms=ARMS, outcomes=()), "two")
    assert other is None
    assert all(row.ours is None for row in rows)
