"""One schedule at many peaks: every run is `simulate`'s, and divergent ones are inf."""

import numpy as np
import pytest

from anytrain.rules import AnytimeEma, Uniform
from anytrain.schedules import WSD, InverseSqrt
from anytrain.theory import Problem, simulate, stability_limit
from anytrain.theory.grid import peak_grid


@pytest.mark.parametrize("workers", [1, 3])
def test_every_peak_is_a_simulation(workers: int) -> None:
    problem, rules = Problem(3_000, 1.5, 3.0, noise=0.01), {"a": AnytimeEma(25), "u": Uniform()}
    limit = stability_limit(problem, 2)
    peaks = [0.01 * limit, 0.9 * limit, 1e9]
    grid = peak_grid(
        problem, InverseSqrt(1.0, warmup=3, offset=20), peaks, rules, at=[10, 50, 200], batch=2,
        workers=workers,
    )  # fmt: skip
    assert {name: values.shape for name, values in grid.items()} == dict.fromkeys(
        ("last", "a", "u"), (3, 3)
    )
    for row, peak in enumerate(peaks[:2]):
        schedule = InverseSqrt(peak, warmup=3, offset=20)
        risk = simulate(problem, schedule, rules, steps=200, at=[10, 50, 200], batch=2)
        for name, values in grid.items():
            np.testing.assert_allclose(values[row], risk[name], rtol=1e-11)
    for values in grid.values():
        assert np.all(np.isinf(values[2]))


def test_it_ends_at_the_last_step_asked_for() -> None:
    """A horizon has to reach that far, and no further."""
    problem, shape = Problem(30, 1.5, 3.0), WSD(horizon=40, peak=1.0)
    assert peak_grid(problem, shape, [0.1], at=[5, 40])["last"].shape == (1, 2)
    with pytest.raises(ValueError, match="steps = 41 lies beyond the horizon of 40 steps"):
        peak_grid(problem, shape, [0.1], at=[5, 41])
