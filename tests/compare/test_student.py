"""Student's t against printed tables and its closed forms."""

from math import atan, pi, sqrt

import pytest

from anytrain.compare.student import distribution, quantile


@pytest.mark.parametrize(
    ("p", "freedom", "expected"),
    [
        (0.975, 1, 12.706204736),
        (0.975, 2, 4.302652730),
        (0.975, 4, 2.776445105),
        (0.95, 10, 1.812461123),
        (0.975, 30, 2.042272456),
        (0.9995, 5, 6.868826626),
        (0.975, 1e7, 1.959964),
    ],
)
def test_quantiles_are_the_tables(p: float, freedom: float, expected: float) -> None:
    assert quantile(p, freedom) == pytest.approx(expected, rel=1e-6)
    assert quantile(1 - p, freedom) == pytest.approx(-expected, rel=1e-6)


@pytest.mark.parametrize("t", [-30.0, -1.0, -1e-3, 0.0, 0.2, 3.0, 100.0])
def test_distribution_has_its_closed_forms(t: float) -> None:
    assert distribution(t, 1) == pytest.approx(0.5 + atan(t) / pi, abs=1e-13)
    assert distribution(t, 2) == pytest.approx(0.5 + t / (2 * sqrt(2 + t * t)), abs=1e-13)


@pytest.mark.parametrize("freedom", [0.7, 2.5, 17.3, 400.0])
def test_quantile_inverts_the_distribution(freedom: float) -> None:
    for p in (0.01, 0.3, 0.5, 0.9, 0.999):
        assert distribution(quantile(p, freedom), freedom) == pytest.approx(p, abs=1e-12)


def test_what_is_no_probability_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        quantile(1.0, 3)
    with pytest.raises(ValueError, match="positive"):
        distribution(0.0, 0)
