"""What tuning chooses, from losses written by hand."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import pytest

from anytrain.compare.results import Arm, Choice, Kind, Observation
from anytrain.study.choose import choose, edges
from anytrain.study.table import point_text

HORIZONS = (1.0, 2.0)
Losses = dict[tuple[str, str], tuple[float | None, ...]]  # setting, weights -> loss at each horizon

A, B, C = "schedule.peak=0.01", "schedule.peak=0.02", "schedule.peak=0.04"


def arm(kind: Kind, **grid: tuple[int | float | str, ...]) -> Arm:
    grid = grid or {"schedule.peak": (0.01, 0.02, 0.04)}
    points = (dict(zip(grid, values, strict=True)) for values in product(*grid.values()))
    return Arm("arm", kind, "constant", tuple(points))


def tuned(losses: Losses, seed: int = 0) -> Iterator[Observation]:
    for (setting, weights), values in losses.items():
        for horizon, value in zip(HORIZONS, values, strict=True):
            if value is not None:
                yield Observation(
                    "arm", "tune", seed, setting, horizon, weights, int(horizon * 512),
                    value, 0.01, f"{setting}-{seed}",
                )  # fmt: skip


def named(choices: list[Choice]) -> dict[float | None, tuple[str, str]]:
    return {choice.horizon: (choice.setting, choice.weights) for choice in choices}


FREE: Losses = {
    (A, "raw"): (3.0, 2.5), (A, "ema"): (2.9, 2.6),
    (B, "raw"): (3.1, 2.35), (B, "ema"): (2.95, 2.3),
    (C, "raw"): (2.8, 2.8), (C, "ema"): (2.85, 2.9),
}  # fmt: skip


def test_one_for_all_horizons_by_the_mean_and_the_best_of_each() -> None:
    found = choose(arm("free"), HORIZONS, tuned(FREE))
    assert named(found) == {None: (B, "ema"), 1.0: (C, "raw"), 2.0: (B, "ema")}
    assert [c.loss for c in found] == [pytest.approx((2.95 + 2.3) / 2), 2.8, 2.3]


@pytest.mark.parametrize("kind", ["bound", "branch"])
def test_arms_with_a_horizon_are_read_raw_and_for_each(kind: Kind) -> None:
    found = choose(arm(kind), HORIZONS, tuned(FREE))
    assert named(found) == {1.0: (C, "raw"), 2.0: (B, "raw")}


def test_the_mean_is_over_seeds_first() -> None:
    """A is better on one seed by less than it is worse on the other."""
    first: Losses = {(A, "raw"): (1.0, 1.0), (B, "raw"): (1.1, 1.1)}
    second: Losses = {(A, "raw"): (2.0, 2.0), (B, "raw"): (1.5, 1.5)}
    both = [*tuned(first, 0), *tuned(second, 1)]
    assert named(choose(arm("free"), HORIZONS, both[:4])) == dict.fromkeys(
        (None, 1.0, 2.0), (A, "raw")
    )
    found = choose(arm("free"), HORIZONS, both)
    assert named(found) == dict.fromkeys((None, 1.0, 2.0), (B, "raw"))
    assert found[0].loss == pytest.approx(1.3)


def test_a_run_that_diverged_is_never_chosen() -> None:
    """Its losses are absent, of every horizon or of the later ones."""
    losses: Losses = {(A, "raw"): (3.0, 2.5), (B, "raw"): (2.0, None), (C, "raw"): (None, None)}
    found = choose(arm("free"), HORIZONS, tuned(losses))
    assert named(found) == {None: (A, "raw"), 1.0: (B, "raw"), 2.0: (A, "raw")}


def test_a_setting_that_diverged_on_one_seed_is_not_the_mean_of_the_others() -> None:
    """Absent on one of two seeds, the seed that is left would flatter it."""
    first: Losses = {(A, "raw"): (1.0, 1.0), (B, "raw"): (0.9, 0.9)}
    second: Losses = {(A, "raw"): (1.0, 1.0)}
    both = [*tuned(first, 0), *tuned(second, 1)]
    found = choose(arm("free"), HORIZONS, both)
    assert named(found) == dict.fromkeys((None, 1.0, 2.0), (A, "raw"))


def test_nothing_to_choose_from() -> None:
    assert choose(arm("free"), HORIZONS, []) == []
    one: Losses = {(A, "raw"): (1.0, None)}
    assert named(choose(arm("free"), HORIZONS, tuned(one))) == {1.0: (A, "raw")}


def test_a_tie_goes_to_the_first_in_the_grid() -> None:
    losses: Losses = {(A, "raw"): (1.0, 1.0), (B, "raw"): (1.0, 1.0)}
    assert named(choose(arm("bound"), HORIZONS, tuned(losses))) == {
        1.0: (A, "raw"),
        2.0: (A, "raw"),
    }


def test_edges() -> None:
    """Both ends of a grid of numbers, in whatever order; of several keys, each by its own."""
    peaks = arm("free", **{"schedule.peak": (0.02, 0.04, 0.01)})
    assert edges(peaks, A) == ("schedule.peak",)
    assert edges(peaks, C) == ("schedule.peak",)
    assert edges(peaks, B) == ()
    two = arm("free", **{"schedule.peak": (0.01, 0.02, 0.04), "train.batch": (4, 8)})
    assert edges(two, "schedule.peak=0.02 train.batch=8") == ("train.batch",)
    assert edges(two, "schedule.peak=0.04 train.batch=4") == ("schedule.peak", "train.batch")


def test_no_edge_without_an_order() -> None:
    """Text has none, and a single value is no grid."""
    kinds = arm("free", **{"optimizer.kind": ("adamw", "muon")})
    assert edges(kinds, "optimizer.kind=muon") == ()
    assert edges(arm("free", **{"schedule.peak": (0.01,)}), A) == ()
    mixed = arm("free", **{"x": (1, 2, "off")})
    assert edges(mixed, "x=off") == ()
    assert edges(mixed, "x=2") == ("x",)


def test_the_edge_of_an_amount() -> None:
    """A warmup has an order, in whichever words."""
    warmups = arm("free", **{"schedule.warmup": ("100-steps", "1k-steps", "400-steps")})
    assert edges(warmups, "schedule.warmup=400-steps") == ()
    assert edges(warmups, "schedule.warmup=1k-steps") == ("schedule.warmup",)
    mixed = arm("free", **{"schedule.warmup": ("100-steps", "1k-tokens")})
    assert edges(mixed, "schedule.warmup=1k-tokens") == ()


def test_the_edge_of_several_grids() -> None:
    """What was tried with the choice's other values counts, nothing else."""
    first = arm("free", x=(1, 2, 3), y=(1, 2))
    both = replace(first, points=(*first.points, {"x": 4, "y": 1}))
    assert edges(both, "x=3 y=1") == ("y",)
    assert edges(both, "x=3 y=2") == ("x", "y")
    assert edges(both, "x=4 y=1") == ("x",)


def test_the_edge_of_a_number_with_many_digits() -> None:
    """A setting is text of six digits."""
    thirds = {"schedule.peak": (1 / 300, 1 / 30, 1 / 3)}
    assert edges(arm("free", **thirds), point_text({"schedule.peak": 1 / 300})) == (
        "schedule.peak",
    )
    assert edges(arm("free", **thirds), point_text({"schedule.peak": 1 / 30})) == ()


def test_the_edge_is_of_the_choice() -> None:
    found = choose(arm("bound"), HORIZONS, tuned(FREE))
    assert [choice.at_edge for choice in found] == [("schedule.peak",), ()]
