"""The laws on curves of their own form, against their sums written out, and on a held-out decay."""

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from anytrain.compare.laws import LAWS, Annealing, Fitted, Law, Measured, MultiPower, Rates, fit
from anytrain.errors import UserError
from anytrain.schedules import schedule

CONSTANT = "constant:peak=3e-3,warmup=100-steps"
WSD = "wsd:peak=3e-3,warmup=100-steps,decay=0.2,final=0.1"
COSINE = "cosine:peak=3e-3,warmup=100-steps,final=0.1"
TRUE = {
    "annealing": Fitted(Annealing(), 2.2, 0.9, 0.6, 0.5, (2.0,), 0.0),
    "multi-power": Fitted(MultiPower(), 2.2, 0.9, 130.0, 0.5, (0.3, 0.6, 0.6), 0.0),
}


def rates(text: str, steps: int) -> NDArray[np.float64]:
    bound = not text.startswith("constant")
    made = schedule(f"{text},horizon={steps}-steps" if bound else text)
    return np.array([made(t) for t in range(1, steps + 1)])


def measured(truth: Fitted, text: str, steps: int, noise: float = 0.0, seed: int = 0) -> Measured:
    at = np.unique(np.geomspace(150, steps, 24).round().astype(np.int64))
    tail = np.linspace(0.8 * steps, steps, 9).round().astype(np.int64)  # where WSD decays
    at = np.union1d(at, tail)
    lr = rates(text, steps)
    jitter = np.random.default_rng(seed).normal(0, noise, len(at))
    return Measured(lr, at, truth.predict(lr, at) + jitter)


@pytest.mark.parametrize("name", TRUE)
def test_it_finds_its_own_parameters(name: str) -> None:
    truth = TRUE[name]
    runs = [
        measured(truth, CONSTANT, 3000),
        measured(truth, WSD, 1500),
        measured(truth, COSINE, 2000),
    ]
    found = fit(truth.law, runs)
    assert found.error < 2e-4
    assert found.floor == pytest.approx(truth.floor, abs=0.02)
    assert found.exponent == pytest.approx(truth.exponent, abs=0.02)
    if name == "annealing":  # of the other, C, β and γ trade against each other
        assert found.values == pytest.approx(truth.values, abs=0.02)
        assert found.strength == pytest.approx(truth.strength, rel=0.05)


@pytest.mark.parametrize("name", TRUE)
def test_it_predicts_a_decay_it_has_not_seen(name: str) -> None:
    """From a constant run and one short decayed one, with noise of 2e-3: a longer decay."""
    truth = TRUE[name]
    runs = [measured(truth, CONSTANT, 6000, 2e-3), measured(truth, WSD, 1500, 2e-3, seed=1)]
    found = fit(truth.law, runs)
    held = measured(truth, WSD, 6000)
    missed = found.predict(held.rates, held.steps)[-1] - held.losses[-1]
    undecayed = truth.predict(runs[0].rates, np.array([6000]))[0] - held.losses[-1]
    assert undecayed > 0.03
    assert abs(missed) < 0.1 * undecayed


def test_three_points_of_a_decay_do_not_promise_anything_at_all() -> None:
    """Losses of the other law, a constant run and a cooldown's last points: within the drop."""
    truth = TRUE["annealing"]
    constant = measured(truth, CONSTANT, 8000, 4e-3)
    wsd = rates(WSD, 1000)
    at = np.array([800, 900, 1000])
    found = fit(MultiPower(), [constant, Measured(wsd, at, truth.predict(wsd, at))])
    held = measured(truth, WSD, 8000)
    missed = found.predict(held.rates, held.steps)[-1] - held.losses[-1]
    undecayed = truth.predict(constant.rates, np.array([8000]))[0] - held.losses[-1]
    assert abs(missed) < 0.5 * undecayed


def written_out(law: Law, values: tuple[float, ...], lr: NDArray[np.float64], t: int) -> float:
    """D at step t as its paper has it, every sum by hand."""
    drops = {k: a - b for k, (a, b) in enumerate(pairwise(lr), 2) if k > int(np.argmax(lr)) + 1}
    if isinstance(law, Annealing):
        forget = 1 - 10 ** -values[0]
        terms = ((i, k) for i in range(1, t + 1) for k in drops if k <= i)
        return sum(drops[k] * forget ** (i - k) for i, k in terms)
    scale, beta, gamma = 10 ** values[0], values[1], values[2]
    return sum(
        drop * (1 - (1 + scale * lr[k - 1] ** -gamma * lr[k - 1 : t].sum()) ** -beta)
        for k, drop in drops.items()
        if k <= t and lr[k - 1] > 0
    )


@pytest.mark.parametrize("text", [CONSTANT, WSD, COSINE, COSINE.replace("0.1", "0")])
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
def test_the_fast_sums_are_the_written_ones(law: Law, text: str) -> None:
    lr = rates(text, 400)
    at = np.array([50, 100, 101, 330, 400])
    values = TRUE[law.name].values
    fast = law.drop(values, Rates(lr, at))
    slow = [written_out(law, values, lr, int(t)) for t in at]
    np.testing.assert_allclose(fast, slow, rtol=1e-9, atol=1e-15)


def test_many_decays_in_groups_are_nearly_the_same() -> None:
    lr = rates(COSINE, 4000)
    at = np.array([200, 1000, 3000, 4000])
    values = TRUE["multi-power"].values
    fast = MultiPower().drop(values, Rates(lr, at))
    slow = [written_out(MultiPower(), values, lr, int(t)) for t in at]
    np.testing.assert_allclose(fast, slow, rtol=2e-3, atol=1e-4 * slow[-1])


def test_sentences() -> None:
    truth = TRUE["annealing"]
    constant = measured(truth, CONSTANT, 1000)
    with pytest.raises(UserError, match="no run decays"):
        fit(truth.law, [constant])
    wsd = measured(truth, WSD, 1000)
    with pytest.raises(UserError, match="3 losses; 5 or more are valid"):
        fit(truth.law, [Measured(wsd.rates, wsd.steps[-3:], wsd.losses[-3:])])
    with pytest.raises(ValueError, match="steps 1 to 11 of 10 learning rates"):
        Rates(np.ones(10), np.array([1, 11]))
