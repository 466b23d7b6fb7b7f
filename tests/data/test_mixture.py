"""Mixtures: exact proportions in every block, and counters that are arithmetic."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anytrain.data.mixture import BLOCK, Mixture, apportion
from anytrain.errors import UserError

WEIGHTS = st.lists(st.floats(0.05, 10), min_size=1, max_size=6).map(tuple)


@given(WEIGHTS, st.integers(0, 10**6))
def test_every_block_has_the_same_exact_counts(weights: tuple[float, ...], block: int) -> None:
    mixture = Mixture((1,), weights)
    corpus, _ = mixture.block(block)
    assert tuple(np.bincount(corpus, minlength=len(weights))) == mixture.counts
    for weight, count in zip(weights, mixture.counts, strict=True):
        assert abs(count - BLOCK * weight / sum(weights)) < 1


@given(WEIGHTS)
def test_counters_count(weights: tuple[float, ...]) -> None:
    """Sample by sample over three blocks, against counting by hand."""
    mixture = Mixture((3,), weights)
    seen = [0] * len(weights)
    for block in range(3):
        for corpus, before in zip(*mixture.block(block), strict=True):
            assert before == seen[corpus]
            seen[corpus] += 1
    assert mixture.before(3 * BLOCK) == tuple(seen)


@given(WEIGHTS, st.integers(0, 5 * BLOCK))
def test_before_agrees_with_the_blocks(weights: tuple[float, ...], samples: int) -> None:
    mixture = Mixture((3,), weights)
    drawn = np.concatenate([mixture.block(b)[0] for b in range(6)])[:samples]
    assert mixture.before(samples) == tuple(np.bincount(drawn, minlength=len(weights)))


def test_blocks_differ_in_their_order() -> None:
    mixture = Mixture((1,), (1.0, 1.0))
    assert not np.array_equal(mixture.block(0)[0], mixture.block(1)[0])


@given(st.integers(0, 5000), WEIGHTS)
def test_apportionment_adds_up_and_keeps_the_quota(total: int, weights: tuple[float, ...]) -> None:
    counts = apportion(total, weights)
    assert sum(counts) == total
    for count, weight in zip(counts, weights, strict=True):
        assert abs(count - total * weight / sum(weights)) < 1 + 1e-9


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_weights_are_refused(weight: float) -> None:
    with pytest.raises(UserError, match="above 0"):
        Mixture((1,), (1.0, weight))


def test_a_weight_that_would_never_be_drawn_is_refused() -> None:
    with pytest.raises(UserError, match="too small"):
        Mixture((1,), (1.0, 1e-4))
    with pytest.raises(UserError, match="no corpus"):
        Mixture((1,), ())
