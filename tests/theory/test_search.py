"""The search: known minima, edges, and objectives without a value."""

from itertools import pairwise
from math import exp, inf, log

import pytest

from anytrain.theory.search import Axis, Values, search

X = Axis("x", -1.0, 3.0, (0.0, 2.0))
Y = Axis("y", 1e-3, 1e3, (0.01, 10.0), "log")
Z = Axis("z", 0.0, 100.0, (1.0, 50.0), "log1p")


@pytest.mark.parametrize("axis", [X, Y, Z])
def test_an_axis_maps_its_range_to_the_unit_interval(axis: Axis) -> None:
    assert axis.value(0.0) == axis.low
    assert axis.value(1.0) == axis.high
    assert axis.value(axis.unit(axis.starts[1])) == pytest.approx(axis.starts[1], rel=1e-12)
    assert axis.unit(axis.low - 1e-9) == 0.0
    assert axis.unit(2 * axis.high) == 1.0
    assert 0.0 < axis.unit(axis.starts[0]) < axis.unit(axis.starts[1]) < 1.0


def test_an_axis_has_a_range() -> None:
    with pytest.raises(ValueError, match="x from 2 to 2; low < high is valid"):
        Axis("x", 2, 2, ())


def test_the_largest_of_several_functions() -> None:
    """A minimum with a kink in every direction, as that of a regret."""

    def objective(values: Values) -> float:
        x, y, z = values["x"] - 0.7, log(values["y"] / 3.0), log((1 + values["z"]) / 8.0)
        return 1.0 + max(abs(x + y), abs(y - z), abs(z - 2 * x), abs(x))

    found = search(objective, [X, Y, Z])
    assert found.least < 1.003
    assert found.values["x"] == pytest.approx(0.7, abs=0.01)
    assert found.values["y"] == pytest.approx(3.0, rel=0.01)
    assert found.edges == ()


def test_a_narrow_valley() -> None:
    """Rosenbrock's function, from its far end."""

    def objective(values: Values) -> float:
        x, y = values["x"], values["y"]
        return 1.0 + (1.0 - x) ** 2 + 100.0 * (y - x * x) ** 2

    axes = [X, Axis("y", -1.0, 9.0, ())]
    found = search(objective, axes, begin=[{"x": -0.9, "y": 2.0}], keep=0)
    assert found.least < 1.001


def test_a_minimum_outside_lies_at_an_edge() -> None:
    found = search(lambda v: exp(v["x"]) + (log(v["y"]) - 1.0) ** 2 + 1.0, [X, Y])
    assert found.values["x"] == X.low
    assert found.edges == ("x",)


def test_of_two_valleys_the_grid_shows_the_lower_one() -> None:
    def objective(values: Values) -> float:
        x = values["x"]
        return 1.0 + min((x + 0.5) ** 2 + 0.2, 4 * (x - 2.2) ** 2)

    assert search(objective, [X]).values["x"] == pytest.approx(2.2, abs=0.02)
    stuck = search(objective, [X], begin=[{"x": -0.6}], keep=0)
    assert stuck.values["x"] == pytest.approx(-0.5, abs=0.05)
    assert search(objective, [X], begin=[{"x": -0.6}]).least == pytest.approx(1.0, abs=1e-3)
    assert search(objective, [X], keep=1).least == pytest.approx(1.0, abs=1e-3)


def test_a_simplex_that_collapses_is_built_anew() -> None:
    """A kinked valley along the diagonal: one simplex alone comes to 1.11."""
    axes = [Axis(f"x{k}", 0.0, 1.0, ()) for k in range(5)]

    def objective(values: Values) -> float:
        x = [values[axis.name] for axis in axes]
        return 1.0 + 3.0 * max(abs(b - a) for a, b in pairwise(x)) + abs(x[0] - 0.6)

    begin = [{axis.name: 0.1 for axis in axes}]
    assert search(objective, axes, begin=begin, keep=0, most=2_000).least < 1.001


def test_points_without_a_value() -> None:
    """Half of the box has none, and nan is none."""

    def objective(values: Values) -> float:
        x = values["x"]
        return float("nan") if x < 0.5 else inf if x < 1.0 else 2.0 + (x - 1.0)

    found = search(objective, [X])
    assert 1.0 <= found.values["x"] < 1.01
    assert search(lambda values: inf, [X, Y]).least == inf


def test_evaluations_are_counted() -> None:
    calls = []

    def objective(values: Values) -> float:
        calls.append(values)
        return 1.0 + values["x"] ** 2

    assert search(objective, [X]).evaluations == len(calls)
