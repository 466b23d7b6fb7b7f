"""How much spaced checkpoints weigh: by name, by shape, by a rule's mass."""

import itertools
from math import ceil

import numpy as np
import pytest

from anytrain import rules, schedules
from anytrain.averaging.mass import ByRule, Equal, Last, Spaced, Wsm, mass, weigh
from anytrain.errors import UserError
from anytrain.rules import weights
from anytrain.schedules import decay
from cases import RULES

SHAPES = ("linear", "sqrt", "cosine", "square")
EVEN = np.arange(11, dtype=float) * 100
UNEVEN = np.array([3.0, 4.0, 10.0, 11.5, 40.0])


def test_names() -> None:
    assert mass("uniform") == Equal()
    assert mass("last:k=5") == Last(5)
    assert mass("spaced:n=10") == Spaced(10)
    assert mass("wsm") == Wsm("linear")
    assert mass("wsm:shape=sqrt") == Wsm("sqrt")
    assert mass("anytime_ema:f=25") == ByRule(rules.AnytimeEma(25.0))
    # with a start it is the trainer's rule, which counts steps
    assert mass("uniform:start=10-steps") == ByRule(rules.Uniform(10.0))
    assert mass("uniform:start=10k-tokens", 1000.0) == ByRule(rules.Uniform(10.0))
    for name, rule in RULES.items():
        if rule != rules.Uniform():
            assert mass(rules.spec(rule)) == ByRule(rule), name


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("unifrom", r"unknown kind 'unifrom' \(did you mean 'uniform'\?\)"),
        ("lawa:k=5", "unknown kind 'lawa'"),
        ("last", "last needs k"),
        ("last:n=5", "last has no parameter 'n'"),
        ("last:k=0", "k = 0; 1 or more is valid"),
        ("spaced:n=-1", "n = -1; 1 or more is valid"),
        ("wsm:shape=cubic", "wsm:shape = 'cubic'; valid are linear, sqrt, cosine, square"),
        ("anytime_ema:f=-1", "f = -1"),
        ("mine.Rule:f=1", "add --import mine"),
    ],
)
def test_specs_that_are_none(spec: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        mass(spec)
    with pytest.raises(ValueError, match="shape = 'cubic'"):
        Wsm("cubic")  # type: ignore[arg-type]


# --- named merges ----------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 7])
def test_uniform(count: int) -> None:
    assert weigh(mass("uniform"), range(1, count + 1)).tolist() == [1 / count] * count


def test_last() -> None:
    assert weigh(mass("last:k=2"), EVEN).tolist() == [0.0] * 9 + [0.5, 0.5]
    assert weigh(mass("last:k=1"), EVEN).tolist() == [0.0] * 10 + [1.0]
    assert weigh(mass("last:k=11"), EVEN).tolist() == [1 / 11] * 11
    with pytest.raises(UserError, match="last:k=12 of 11 inputs; at most 11 is valid"):
        weigh(mass("last:k=12"), EVEN)


@pytest.mark.parametrize(
    ("count", "n", "chosen"),
    [
        (10, 10, list(range(10))),
        (10, 5, [1, 3, 5, 7, 9]),
        (20, 10, [1, 3, 5, 7, 9, 11, 13, 15, 17, 19]),
        (11, 3, [0, 5, 10]),
        (12, 4, [2, 5, 8, 11]),
        (9, 1, [8]),
        (9, 2, [0, 8]),
    ],
)
def test_spaced(count: int, n: int, chosen: list[int]) -> None:
    """Evenly, and as wide as that goes; the newest is always among them."""
    found = weigh(mass(f"spaced:n={n}"), range(count))
    assert np.flatnonzero(found).tolist() == chosen
    assert set(found[chosen].tolist()) == {1 / n}


def test_more_than_there_are() -> None:
    with pytest.raises(UserError, match="spaced:n=12 of 11 inputs; at most 11 is valid"):
        weigh(mass("spaced:n=12"), EVEN)


# --- WSM -------------------------------------------------------------------------------------


def means(shape: str, t: np.ndarray, points: int = 200_000) -> np.ndarray:
    """w_i, the mean of the decay over each interval, by the midpoint rule."""
    x = (t - t[0]) / (t[-1] - t[0])
    found = []
    for a, b in itertools.pairwise(x):
        middles = a + (b - a) * (np.arange(points) + 0.5) / points
        values = {
            "linear": lambda v: 1 - v,
            "sqrt": lambda v: 1 - np.sqrt(v),
            "cosine": lambda v: (1 + np.cos(np.pi * v)) / 2,
            "square": lambda v: 1 - v**2,
        }[shape](middles)
        assert values[points // 3] == pytest.approx(decay(shape, middles[points // 3], 0.0))
        found.append(values.mean())
    return np.array(found)


@pytest.mark.parametrize("t", [EVEN, UNEVEN, np.array([7.0, 9.0])], ids=["even", "uneven", "two"])
@pytest.mark.parametrize("shape", SHAPES)
def test_wsm_against_integration(shape: str, t: np.ndarray) -> None:
    w = means(shape, t)
    by_hand = [1 - w[0], *(w[j] - w[j + 1] for j in range(len(w) - 1)), w[-1]]
    found = weigh(mass(f"wsm:shape={shape}"), t)
    np.testing.assert_allclose(found, by_hand, rtol=0, atol=1e-8)
    assert found.sum() == pytest.approx(1, abs=1e-15)
    assert (found > 0).all()  # the decay falls, so no checkpoint counts against another
    assert found[-1] == pytest.approx(w[-1], abs=1e-8)  # and the last counts


def test_wsm_of_a_linear_decay_in_closed_form() -> None:
    """w_i = 1 − (i − ½)/k: all inner weights 1/k, the ends half of it."""
    found = weigh(mass("wsm"), [5.0, 6.0, 7.0, 8.0, 9.0])
    np.testing.assert_allclose(found, [1 / 8, 1 / 4, 1 / 4, 1 / 4, 1 / 8], atol=1e-15)


@pytest.mark.parametrize("shape", SHAPES)
def test_wsm_stands_for_the_cooldown(shape: str) -> None:
    """The merge of a trunk's checkpoints is the trunk with its updates decayed."""
    rng = np.random.default_rng(0)
    updates = rng.standard_normal((400, 5))
    trunk = np.concatenate([np.zeros((1, 5)), np.cumsum(updates, 0)])
    factors = [decay(shape, (s - 0.5) / 400, 0.0) for s in range(1, 401)]  # type: ignore[arg-type]
    cooled = np.tensordot(factors, updates, 1)
    merged = weigh(mass(f"wsm:shape={shape}"), range(401)) @ trunk
    np.testing.assert_allclose(merged, cooled, atol=5e-3)
    coarse = weigh(mass(f"wsm:shape={shape}"), range(0, 401, 40)) @ trunk[::40]
    in_steps = np.repeat(means(shape, np.arange(0.0, 401.0, 40)), 40)
    np.testing.assert_allclose(coarse, in_steps @ updates, atol=1e-6)


def test_wsm_of_one() -> None:
    with pytest.raises(UserError, match="wsm merges a span of checkpoints; 2 inputs or more"):
        weigh(mass("wsm"), [5.0])


# --- rules by their mass ---------------------------------------------------------------------


@pytest.mark.parametrize("name", RULES)
def test_a_rule_is_its_weights_summed(name: str) -> None:
    """The first checkpoint stands for everything up to it, each later one for its interval."""
    rule = RULES[name]
    t = [10, 25, 26, 60, 100]
    kernel = weights(rule, 100)
    by_hand = [kernel[: t[0] + 1].sum()]
    by_hand += [kernel[a + 1 : b + 1].sum() for a, b in itertools.pairwise(t)]
    found = weigh(ByRule(rule), t)
    np.testing.assert_allclose(found, by_hand, rtol=1e-12, atol=1e-15)
    assert found.sum() == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize("name", RULES)
def test_of_every_step_a_rule_is_its_kernel(name: str) -> None:
    rule = RULES[name]
    np.testing.assert_allclose(
        weigh(ByRule(rule), range(51)), weights(rule, 50), rtol=1e-12, atol=1e-15
    )


@pytest.mark.parametrize("name", RULES)
def test_of_one_a_rule_is_the_identity(name: str) -> None:
    for t in (0.0, 1.0, 77.0):
        assert weigh(ByRule(RULES[name]), [t]).tolist() == [1.0]


def test_progress_between_steps() -> None:
    """After a change of the batch size a checkpoint may be at half a step."""
    found = weigh(ByRule(rules.Uniform()), [2.5, 4.0, 7.5])
    np.testing.assert_allclose(found, [2 / 7, 2 / 7, 3 / 7])


def test_a_start_after_the_first() -> None:
    found = weigh(mass("uniform:start=40-steps"), [20.0, 40.0, 50.0, 80.0])
    np.testing.assert_allclose(found, [0, 0, 0.25, 0.75])


def test_steps_have_to_rise_where_they_matter() -> None:
    for spec in ("wsm", "anytime_ema:f=3"):
        with pytest.raises(UserError, match=r"at steps \[5\.0, 5\.0\]; each later than the one"):
            weigh(mass(spec), [5.0, 5.0])
        with pytest.raises(UserError, match="each later"):
            weigh(mass(spec), [5.0, 4.0])
    for spec in ("uniform", "last:k=2", "spaced:n=2"):
        assert weigh(mass(spec), [5.0, 5.0]).tolist() == [0.5, 0.5]


def test_every_shape_is_there() -> None:
    """A shape that a cooldown can have, WSM can stand for."""
    for shape in SHAPES:
        schedules.schedule(
            f"cooldown:trunk=(constant:peak=1),start=5-steps,horizon=10-steps,shape={shape}"
        )
        assert weigh(mass(f"wsm:shape={shape}"), EVEN).size == ceil(len(EVEN))
