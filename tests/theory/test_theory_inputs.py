"""What is refused, each with its value and what would be valid; and names of the public module."""

import inspect
import re
from math import inf, nan

import numpy as np
import pytest

import anytrain.theory
from anytrain.rules import Uniform
from anytrain.schedules import WSD, Constant, Cooldown, Cosine
from anytrain.theory import Problem, Spectrum, averaged_exponent, rates, simulate
from anytrain.theory.along import averaging_along, rates_along

SMALL = Spectrum([1.0, 0.5], [1.0, 1.0], noise=0.1)
STEADY = Constant(0.1)


def refuses(sentence: str) -> "pytest.RaisesExc[ValueError]":
    return pytest.raises(ValueError, match=re.escape(sentence))


@pytest.mark.parametrize("dim", [0, -3, 2.5])
def test_dim(dim: int) -> None:
    with refuses(f"dim = {dim}; a whole number from 1 on is valid"):
        Problem(dim, 1.5, 3.0)
    assert Problem(1, 1.5, 3.0).eigenvalues.tolist() == [1.0]


@pytest.mark.parametrize("value", [1.0, 0.5, -2.0, inf, nan])
def test_exponents(value: float) -> None:
    for capacity, source, name in ((value, 3.0, "capacity"), (1.5, value, "source")):
        for make in (lambda a, b: Problem(9, a, b), rates, lambda a, b: averaged_exponent(a, b, 0)):
            with refuses(f"{name} = {value}; above 1 is valid"):
                make(capacity, source)


@pytest.mark.parametrize("noise", [-0.1, inf, nan])
def test_noise(noise: float) -> None:
    for make in (
        lambda: Problem(9, 1.5, 3.0, noise),
        lambda: Spectrum([1.0], [1.0], noise),
    ):
        with refuses(f"noise = {noise}; a variance, 0 or more, is valid"):
            make()


def test_spectra() -> None:
    with refuses("eigenvalues of shape (2, 2); one row of 1 or more is valid"):
        Spectrum(np.ones((2, 2)), np.ones((2, 2)))
    with refuses("eigenvalues of shape (0,); one row of 1 or more is valid"):
        Spectrum([], [])
    with refuses("target has shape (3,), eigenvalues (2,); the same shape is valid"):
        Spectrum([1.0, 2.0], [1.0, 2.0, 3.0])
    for value in (0.0, -0.25):
        with refuses(f"eigenvalues down to {value}; above 0 is valid"):
            Spectrum([1.0, value], [1.0, 1.0])
    for value in (inf, nan):
        with refuses("above 0 is valid"):
            Spectrum([1.0, value], [1.0, 1.0])
        with refuses("target holds a value that is not finite"):
            Spectrum([1.0, 1.0], [value, 1.0])


def test_a_spectrum_is_not_changed_from_outside() -> None:
    """Sums over it are kept."""
    eigenvalues = np.array([1.0, 0.5])
    problem = Spectrum(eigenvalues, eigenvalues)
    eigenvalues[0] = 9.0
    assert problem.eigenvalues.tolist() == [1.0, 0.5]
    with pytest.raises(ValueError, match="read-only"):
        problem.eigenvalues[0] = 2.0
    assert repr(problem) == "Spectrum(d=2, noise=0.0)"
    assert problem.trace == 1.5


def test_at_and_steps() -> None:
    for step in (11, -1, 2.5):
        with refuses(f"at = {step}; whole steps from 0 to steps = 10 are valid"):
            simulate(SMALL, STEADY, steps=10, at=[1, step])
    with refuses("at = [3, 1]; rising steps are valid"):
        simulate(SMALL, STEADY, steps=10, at=[3, 1])
    for steps in (0, -4, 1.5):
        with refuses(f"steps = {steps}; a whole number from 1 on is valid"):
            simulate(SMALL, STEADY, steps=steps)


def test_batch_and_method() -> None:
    for batch in (0, 0.5, -1, inf, nan):
        with refuses(f"batch = {batch}; 1 or more is valid"):
            simulate(SMALL, STEADY, steps=10, batch=batch)
    with refuses("method = 'fast'; exact, compressed and auto are valid"):
        simulate(SMALL, STEADY, steps=10, method="fast")


def test_a_horizon_shorter_than_steps() -> None:
    trunk = Cooldown(horizon=9, start=5, trunk=STEADY)
    for schedule, end in (
        (WSD(horizon=9, peak=0.1), "9 steps"),
        (Cosine(horizon=8.5, peak=0.1), "8.5 steps"),
        (trunk, "9 steps"),
    ):
        with refuses(
            f"steps = 10 lies beyond the horizon of {end} of {schedule!r}; "
            "at most 9 steps are valid"
        ):
            simulate(SMALL, schedule, steps=10)
        assert np.isfinite(simulate(SMALL, schedule, steps=9)["last"]).all()


def test_rates_along_a_schedule() -> None:
    for value in (-0.1, nan, inf):
        for schedule in ([0.1, 0.1, value], lambda t, v=value: v if t == 3 else 0.1):
            with refuses(f"the rate of step 3 is {value}; finite and 0 or more is valid"):
                rates_along(schedule, 3)
    for values in ([0.1] * 3, np.full((4, 1), 0.1)):
        shape = np.shape(values)
        with refuses(f"schedule has shape {shape}; a value a step, 4, is valid"):
            rates_along(values, 4)
    seen = []
    rates_along(lambda t: seen.append(t) or 0.5, 3)
    assert seen == [1, 2, 3]


def test_averaging_along_a_rule() -> None:
    for value in (-0.1, 1.0001, nan):
        with refuses(f"ρ of 'mine' is {value} at step 2; 0 to 1 is valid"):
            averaging_along("mine", [0.5, value, 0.5], 3)
    with refuses("rule 'mine' has shape (2,); a value a step, 3, is valid"):
        simulate(SMALL, STEADY, {"mine": [0.5, 0.5]}, steps=3)
    assert averaging_along("uniform", Uniform(), 4).tolist() == [1, 1 / 2, 1 / 3, 1 / 4]


def test_names() -> None:
    rules = {"a": Uniform(), "b": Uniform()}
    with refuses("the name 'last' is taken; one that is used once is valid"):
        simulate(SMALL, STEADY, {"last": Uniform()}, steps=3)
    for name in ("last", "a"):
        with refuses(f"the name {name!r} is taken; one that is used once is valid"):
            simulate(SMALL, STEADY, rules, steps=3, combinations={name: {"a": 1.0}})
    with refuses("combination 'sum' uses 'c'; last, a, b are valid"):
        simulate(SMALL, STEADY, rules, steps=3, combinations={"sum": {"a": 1.0, "c": 1.0}})


@pytest.mark.parametrize("name", anytrain.theory.__all__)
def test_every_public_name_says_what_it_is(name: str) -> None:
    value = getattr(anytrain.theory, name)
    assert inspect.getdoc(value)
    if inspect.isclass(value) and value.__module__.startswith("anytrain"):
        own = [n for n in vars(value) if not n.startswith("_") and callable(getattr(value, n))]
        assert all(inspect.getdoc(getattr(value, n)) for n in own)


def test_an_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'simulator'"):
        _ = anytrain.theory.simulator
