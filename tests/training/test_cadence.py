"""When to evaluate and what to keep: each moment is due at exactly one step, whatever the batch."""

from fractions import Fraction
from itertools import pairwise
from math import log10
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anytrain.grammar import Quantity, moment
from anytrain.training import recipes
from anytrain.training.cadence import Cadence, log_spaced, previous, reached
from anytrain.training.config import Recipe
from anytrain.training.run import Clock
from tiny import CONTEXT, table


def planned(*settings: str) -> Recipe:
    return recipes.recipe(recipes.override(table(Path("nowhere")), settings))


def clocks(batches: list[int], reference: int) -> list[Clock]:
    """Where a run is after each step of these batches, and before the first."""
    seen = [Clock()]
    for batch in batches:
        last = seen[-1]
        seen.append(Clock(last.step + 1, last.t + batch / reference,
                          last.tokens + batch * CONTEXT, last.samples + batch))  # fmt: skip
    return seen


stretches = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 60)), min_size=1, max_size=4).map(
    lambda parts: [batch for batch, steps in parts for _ in range(steps)]
)


def moments(unit: int, fraction: Fraction, last: int) -> list[Fraction]:
    found, k = [], 0
    while fraction * unit * 2**k <= last:
        found.append(fraction * unit * 2**k)
        k += 1
    return found


@given(stretches, st.integers(1, 50_000))
def test_each_power_of_two_of_the_unit_is_due_once(batches: list[int], unit: int) -> None:
    """At the first step that reaches it, and at no other: held against exact fractions."""
    cadence = Cadence(planned(f"unit={unit}-tokens", "evaluate.per_decade=0"))
    seen = clocks(batches, 4)
    units = moments(unit, Fraction(1), seen[-1].tokens)
    nineties = moments(unit, Fraction(9, 10), seen[-1].tokens)
    for before, now in pairwise(seen):
        at_unit = any(before.tokens < m <= now.tokens for m in units)
        at_ninety = any(before.tokens < m <= now.tokens for m in nineties)
        assert (cadence.evaluation(before, now) == "units") == at_unit
        assert cadence.stays(before, now) == (at_unit or at_ninety)
        assert cadence.checkpoint(before, now) == (at_unit or at_ninety)


@given(stretches, st.integers(1, 300), st.integers(1, 20_000))
def test_each_asked_moment_is_due_once(batches: list[int], step: int, tokens: int) -> None:
    settings = (f'checkpoint.at=[{step}, "{tokens}-tokens"]', f'evaluate.at=["{tokens}-tokens"]',
                "unit=1T-tokens")  # fmt: skip
    cadence = Cadence(planned(*settings))
    seen = clocks(batches, 4)
    pairs = list(pairwise(seen))
    kept = [now.step for before, now in pairs if cadence.stays(before, now)]
    first = [next((c.step for c in seen if c.step >= step), None),
             next((c.step for c in seen if c.tokens >= tokens), None)]  # fmt: skip
    assert kept == sorted({s for s in first if s is not None})
    asked = [now.step for before, now in pairs if cadence.evaluation(before, now) == "asked"]
    assert asked == [s for s in first[1:] if s is not None]


@given(stretches, st.integers(1, 5_000))
def test_every_so_many(batches: list[int], every: int) -> None:
    seen = clocks(batches, 4)
    pairs = list(pairwise(seen))
    by_tokens = Cadence(planned(f"checkpoint.every={every}-tokens", "unit=1T-tokens"))
    due = [now for before, now in pairs if by_tokens.checkpoint(before, now)]
    assert len(due) == len({now.tokens // every for now in seen[1:]} - {0})
    by_steps = Cadence(planned(f"checkpoint.every={every}-steps", "unit=1T-tokens"))
    due = [now for before, now in pairs if by_steps.checkpoint(before, now)]
    assert [now.step for now in due] == [s for s in range(1, len(seen)) if s % every == 0]


def test_evaluation_every_so_many() -> None:
    """In steps and tokens as in time."""
    seen = clocks([4] * 40, 4)
    pairs = list(pairwise(seen))
    for every, expected in (("10-steps", [10, 20, 30, 40]), ("1000-tokens", [16, 32])):
        cadence = Cadence(planned(f"evaluate.every={every}", "evaluate.per_decade=0",
                                  "unit=1T-tokens"))  # fmt: skip
        assert [now.step for before, now in pairs if cadence.evaluation(before, now)] == expected


@given(st.integers(1, 50), st.integers(2, 6))
def test_log_spaced(per_decade: int, decades: int) -> None:
    """round(10^(k/n)) from 10 on and nothing else; at most n a decade."""
    last = 10**decades if decades < 4 else 10**3
    expected = {round(10 ** (k / per_decade)) for k in range(per_decade * decades + 1)}
    found = {step for step in range(1, last + 1) if log_spaced(step, per_decade)}
    assert found == {step for step in expected if 10 <= step <= last}


def test_log_spaced_moments_as_documented() -> None:
    found = [step for step in range(1, 101) if log_spaced(step, 10)]
    assert found == [10, 13, 16, 20, 25, 32, 40, 50, 63, 79, 100]
    assert not any(log_spaced(step, 0) for step in range(1, 1000))
    assert log_spaced(10**9, 10)
    far = sum(log_spaced(step, 10) for step in range(10**5, 10**6))
    assert far == 10 * (log10(10**6) - log10(10**5))


def test_reached() -> None:
    clock = Clock(step=10, t=5.0, tokens=640, samples=40)
    assert reached(moment("10"), clock)
    assert not reached(moment("11"), clock)
    assert reached(moment("640-tokens"), clock)
    assert not reached(moment("641-tokens"), clock)
    with pytest.raises(ValueError, match="is a time"):
        reached(Quantity(1.0, "seconds"), clock)


def test_previous() -> None:
    recipe = planned("train.batch=8", "train.micro_batch=8", "train.reference_batch=4")
    seen = clocks([8, 8, 8], 4)
    assert [previous(clock, recipe) for clock in seen[1:]] == seen[:-1]


@pytest.mark.parametrize("key", ["checkpoint.every", "evaluate.every"])
@pytest.mark.parametrize("never", ["0-steps", "0-tokens", "0s"])
def test_a_cadence_of_nothing_is_refused(key: str, never: str) -> None:
    with pytest.raises(ValueError, match=rf"{key} = 0.*above 0"):
        planned(f"{key}={never}")
