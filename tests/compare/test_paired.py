"""Intervals hold the true difference as often as they say."""

import numpy as np
import pytest

from anytrain.compare.paired import Interval, over_seeds, over_sequences

TRUE = 0.3
TRIALS = 600


def test_one_seed_has_no_interval() -> None:
    for found in (over_seeds([0.2]), over_sequences(np.full((1, 9), 0.2))):
        assert found == Interval(pytest.approx(0.2), 1)
        assert found.low is None
        assert found.high is None
        assert not found.sure


def test_five_seeds_by_hand() -> None:
    found = over_seeds([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (found.mean, found.seeds, found.freedom) == (3.0, 5, 4.0)
    assert found.high == pytest.approx(3.0 + 2.776445105 * (2.5 / 5) ** 0.5)
    assert found.sure


def test_equal_seeds_are_sure() -> None:
    assert over_seeds([-0.5, -0.5]).sure
    assert over_sequences(np.full((3, 4), -0.5)).half == 0.0


def test_what_is_no_matrix_is_refused() -> None:
    with pytest.raises(ValueError, match="one difference a seed"):
        over_seeds([])
    with pytest.raises(ValueError, match="seeds × sequences"):
        over_sequences(np.zeros(3))


def _sample(
    noise: np.random.Generator, seeds: int, count: int, spread: tuple[float, float, float]
) -> np.ndarray:
    a, b, e = spread
    return (
        TRUE
        + a * noise.standard_normal((seeds, 1))
        + b * noise.standard_normal((1, count))
        + e * noise.standard_normal((seeds, count))
    )


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize(
    "spread",
    [(1.0, 1.0, 1.0), (0.05, 2.0, 1.0), (1.0, 0.0, 3.0), (0.0, 0.0, 1.0)],
    ids=["both", "sequences", "seeds", "rest"],
)
def test_crossed_interval_covers(spread: tuple[float, float, float], seeds: int) -> None:
    noise = np.random.default_rng(7)
    found = [over_sequences(_sample(noise, seeds, 40, spread)) for _ in range(TRIALS)]
    held = np.mean([abs(f.mean - TRUE) <= (f.half or 0.0) for f in found])
    # 3 standard errors of a proportion at 0.95; a component held at zero errs to the wide side
    assert held > 0.95 - 3 * (0.95 * 0.05 / TRIALS) ** 0.5


def test_variance_of_the_mean_is_unbiased_where_no_component_is_near_zero() -> None:
    noise, spread = np.random.default_rng(8), (1.0, 2.0, 1.0)
    found = [over_sequences(_sample(noise, 8, 30, spread)) for _ in range(TRIALS)]
    expected = 1.0 / 8 + 4.0 / 30 + 1.0 / 240
    assert np.mean([(f.error or 0.0) ** 2 for f in found]) == pytest.approx(expected, rel=0.05)


def test_a_second_level_never_makes_it_surer() -> None:
    noise = np.random.default_rng(3)
    for _ in range(50):
        sample = _sample(noise, 2, 30, (1.0, 1.0, 1.0))
        both, alone = over_sequences(sample), over_seeds(list(sample.mean(axis=1)))
        assert (both.half or 0.0) >= (alone.half or 0.0) * (1 - 1e-12)


def test_seeds_alone_cover_less_where_sequences_are_drawn() -> None:
    """What the second level is for."""
    noise, spread = np.random.default_rng(9), (0.1, 2.0, 1.0)
    samples = [_sample(noise, 5, 40, spread) for _ in range(TRIALS)]
    found = [over_seeds(list(sample.mean(axis=1))) for sample in samples]
    held = np.mean([abs(f.mean - TRUE) <= (f.half or 0.0) for f in found])
    assert held < 0.9
