"""What follows from scores after fine-tuning."""

from dataclasses import replace
from statistics import fmean

import pytest

from anytrain.compare.correlation import against, correlation, pearson
from anytrain.compare.paired import over_seeds
from anytrain.compare.post import (
    answers,
    best,
    decimals,
    forgetting,
    leave_one_out,
    loss_minus,
    members,
    minus,
    minus_means,
)
from tuned import KINDS, results


def test_differences_are_paired_by_seed() -> None:
    """Seeds move all bases alike, which does not widen the interval."""
    found = minus(results(), "wso", "cosine")
    assert found is not None
    assert found.mean == pytest.approx(0.06, abs=0.002)
    assert found.half is not None
    assert found.half < 0.006
    assert found.sure
    one = minus(results((1,)), "wso", "cosine")
    assert one is not None
    assert one.half is None


def test_the_best_of_each_kind() -> None:
    assert [best(results(), kind) for kind in ("raw", "decayed", "averaged")] == [
        "wso", "wsd", "ema"
    ]  # fmt: skip


def test_the_answers() -> None:
    said = answers(results())
    assert [a.word for a in said] == ["yes", "yes", "no", "yes", "yes", "yes"]
    assert said[0].numbers.startswith("wso − mean of 2 decayed: +5.0")
    assert said[3].numbers.startswith("ema − wso: −0.1200")
    missing = replace(results(), outcomes=tuple(
        o for o in results().outcomes if (o.base, o.task) != ("wsd", "b")
    ))  # fmt: skip
    assert [a.word for a in answers(missing)][:3] == ["not measured", "not measured", "no"]
    assert answers(missing)[0].numbers == "wsd has no score on every task yet"
    assert said[4].numbers.startswith("wso − wsd: +4.00 (")
    single = answers(results((1,)))
    assert {a.word for a in single} == {"not settled"}
    assert "one seed, no interval" in single[0].numbers
    empty = replace(results(), outcomes=(), pretrained=())
    assert {a.word for a in answers(empty)} == {"not measured"}


def test_a_mean_of_bases_is_of_the_seeds_that_all_of_them_have() -> None:
    whole = results()
    both = minus_means(whole, ["wso"], members(whole, "decayed"))
    apart = [minus(whole, "wso", base) for base in members(whole, "decayed")]
    assert both is not None
    assert both.mean == pytest.approx(fmean(one.mean for one in apart if one is not None))
    part = replace(whole, outcomes=tuple(
        o for o in whole.outcomes if (o.base, o.seed) != ("wsd", 2)
    ))  # fmt: skip
    fewer = minus_means(part, ["wso"], members(part, "decayed"))
    assert fewer is not None
    assert fewer.seeds == both.seeds - 1
    assert minus_means(whole, ["wso"], []) is None


def test_decimals_of_points() -> None:
    """By the width of intervals; from one seed by what there is."""
    assert decimals([over_seeds([0.50, 0.501, 0.502])]) == 2
    assert decimals([over_seeds([0.50, 0.55, 0.60]), None]) == 1
    assert decimals([over_seeds([0.001])]) == 2
    assert decimals([over_seeds([0.5])]) == 1
    assert decimals([None]) == 1


def test_a_base_without_every_task_is_not_compared() -> None:
    whole = results()
    part = replace(whole, outcomes=tuple(
        o for o in whole.outcomes if (o.base, o.task) != ("wso", "b")
    ))  # fmt: skip
    assert minus(part, "wso", "cosine") is None
    assert minus(part, "wso", "cosine", ["a"]) is not None
    assert best(part, "raw") is None


def test_one_task_that_carries_the_difference() -> None:
    whole = results()
    carried = replace(whole, outcomes=tuple(
        replace(o, scores=(o.scores[0] + 0.3 * (o.base == "cosine" and o.task == "b"),))
        for o in whole.outcomes
    ))  # fmt: skip
    every = minus(carried, "wso", "cosine")
    rest = leave_one_out(carried, ["wso"], ["cosine"])
    assert every is not None
    assert every.mean < 0 < rest["b"].mean
    assert rest["a"].mean < 0


def test_losses_and_forgetting() -> None:
    found = loss_minus(results(), ["ema"], ["wso"])
    assert found is not None
    assert found.mean == pytest.approx(-0.12)
    both = loss_minus(results(), ["ema"], members(results(), "decayed"))
    assert both is not None
    assert both.mean == pytest.approx(2.88 - (2.9 + 2.92) / 2)
    assert loss_minus(results(), ["ema"], []) is None
    rise = forgetting(results(), "wso")
    assert rise is not None
    assert rise.mean == pytest.approx(0.5 - 0.04)


def test_correlations() -> None:
    """Of bases, not of seeds; the p of r = −0.709 over seven is the paper's 0.07."""
    found = correlation(results(), "trace")
    assert found is not None
    assert (found.n, found.r < -0.9) == (4, True)
    assert [p.base for p in against(results(), "loss")] == list(KINDS)
    assert pearson([(1.0, 2.0)]) is None
    assert pearson([(1.0, 2.0), (1.0, 3.0)]) is None
    exact = pearson([(1.0, 2.0), (2.0, 4.0), (3.0, 6.0)])
    assert exact is not None
    assert (exact.r, exact.p) == (1.0, 0.0)


def test_the_p_of_the_paper() -> None:
    from math import sqrt

    # seven points with r = −0.709 exactly: x, and y = r·x + √(1 − r²)·e with e orthogonal to x
    x = [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0]
    e = [5.0, 0.0, -3.0, -4.0, -3.0, 0.0, 5.0]
    sx, se = sqrt(sum(v * v for v in x)), sqrt(sum(v * v for v in e))
    y = [-0.709 * a / sx + sqrt(1 - 0.709**2) * b / se for a, b in zip(x, e, strict=True)]
    found = pearson(list(zip(x, y, strict=True)))
    assert found is not None
    assert found.r == pytest.approx(-0.709)
    assert found.p == pytest.approx(0.074, abs=0.001)
