"""Kernel: the running average = `weights(rule, T)` applied by hand to the iterates = the simulator.

Weights are compared in float64. Tensors: the recursion rounds once or twice a step, to 2^-24 of
the largest number in play, and every later step shrinks an error that is there. So after T steps
a fp32 average is within 2·T·2^-24·max|w| of the exact one.
"""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from anytrain.averaging import Averages, canonical_tensors
from anytrain.rules import AnytimeEma, Rule, Uniform, weights
from anytrain.theory import Spectrum, simulate, stability_limit
from cases import RULES
from tiny import Tiny, recipe, specs

T = 40
ONES = [1.0] * T
VARYING = [1.0, 0.25, 2.0, 0.5, 0.125, 3.0, 1.0, 1.5] * (T // 8)


def tolerance(iterates: NDArray[np.float64], epsilon: float) -> float:
    return 2 * len(iterates) * epsilon * float(np.abs(iterates).max())


def online(
    rule: Rule, dts: Sequence[float], begin: int, dtype: torch.dtype = torch.float32
) -> tuple[NDArray[np.float64], NDArray[np.float64], Averages]:
    """(average, iterates since it was begun, averages) of a walk; the average begins late."""
    torch.manual_seed(0)
    model = nn.Linear(5, 3, bias=False, dtype=dtype)
    averages = Averages(model, {})
    iterates = []
    for number, dt in enumerate([*dts, 0.0]):
        if number == begin:
            averages.add("a", rule)
        if number >= begin:
            iterates.append(model.weight.detach().double().numpy().ravel().copy())
        if dt:
            with torch.no_grad():
                model.weight.add_(torch.randn(3, 5, dtype=dtype))
            averages.update(dt)
    average = averages.tensors["a"]["weight"].double().numpy().ravel()
    return average, np.stack(iterates), averages


@pytest.mark.parametrize("begin", [0, 9])
@pytest.mark.parametrize("dts", [ONES, VARYING], ids=["unit steps", "varying steps"])
@pytest.mark.parametrize("name", RULES)
def test_online_is_weights_by_hand(name: str, dts: list[float], begin: int) -> None:
    rule = RULES[name]
    average, iterates, averages = online(rule, dts, begin)
    times = np.cumsum(dts)
    since = float(times[begin - 1]) if begin else 0.0
    assert averages.since["a"] == since
    kernel = weights(rule, times[begin:].tolist(), since)
    assert kernel.sum() == pytest.approx(1, abs=1e-14)
    assert np.all(kernel >= 0)
    off = np.abs(average - kernel @ iterates).max()
    assert off <= tolerance(iterates, 2**-24)
    # and would not be within it for another rule, or had the start been forgotten
    other = weights(
        Uniform() if rule != Uniform() else AnytimeEma(25), times[begin:].tolist(), since
    )
    if np.abs(other - kernel).max() > 1e-6:
        assert np.abs(average - other @ iterates).max() > tolerance(iterates, 2**-24)


@pytest.mark.parametrize("name", RULES)
def test_float64_average(name: str) -> None:
    average, iterates, averages = online(RULES[name], VARYING, 0, torch.float64)
    assert averages.tensors["a"]["weight"].dtype == torch.float64
    kernel = weights(RULES[name], np.cumsum(VARYING).tolist())
    # ρ itself is a product of float64 roundings in one and a cumulative product in the other
    assert np.abs(average - kernel @ iterates).max() <= 8 * tolerance(iterates, 2**-53)


def test_weights_by_the_definition() -> None:
    """c_s = ρ_s ∏_{u>s} (1 − ρ_u), written out."""
    for rule in RULES.values():
        rho = [rule(float(t)) for t in range(1, 9)]
        by_hand = [np.prod([1 - r for r in rho])]
        by_hand += [rho[s] * np.prod([1 - r for r in rho[s + 1 :]]) for s in range(8)]
        np.testing.assert_allclose(weights(rule, 8), by_hand, rtol=0, atol=1e-15)


def test_the_start_is_where_the_average_began() -> None:
    rule = AnytimeEma(6.25)
    late, early = weights(rule, 8, start=100), weights(rule, 8)
    assert late[0] > 0.6 > early[0]  # a short stretch late in a run hardly moves it
    with pytest.raises(ValueError, match="increasing"):
        weights(rule, [1.0, 1.0])
    assert weights(rule, 0).tolist() == [1.0]


def test_a_training_run(corpus: Path) -> None:
    """All rules over a real run whose batch doubles half way; t then goes by twos."""
    tiny = Tiny.begin(recipe(corpus, averages=specs(RULES)))
    iterates, times = [_flat(tiny)], [0.0]
    for batch in (4, 8):
        tiny.run.recipe = recipe(
            corpus, f"train.batch={batch}", "train.reference_batch=4", averages=specs(RULES)
        )
        for _ in range(T // 4):
            tiny.take(1)
            iterates.append(_flat(tiny))
            times.append(tiny.run.clock.t)
    assert times == [*range(11), *range(12, 32, 2)]
    stacked = np.stack(iterates)
    for name, rule in RULES.items():
        tensors = tiny.run.averages.tensors[name]
        average = np.concatenate([t.double().numpy().ravel() for t in tensors.values()])
        off = np.abs(average - weights(rule, times[1:]) @ stacked).max()
        assert off <= tolerance(stacked, 2**-24), name


def _flat(tiny: Tiny) -> NDArray[np.float64]:
    live = canonical_tensors(tiny.run.model).values()
    return np.concatenate([tensor.detach().double().numpy().ravel() for tensor in live])


@pytest.mark.parametrize("batch", [1, 8])
def test_the_simulator(batch: int) -> None:
    """Risk of an average = cᵀMc, M_su = ½ Σ λ E[e_s e_u] of the iterates, c = weights(rule, T).

    For s <= u, E[e_s e_u] = E[e_s²] ∏_{s < r <= u} (1 − η_r λ).
    """
    problem = Spectrum([1.0, 0.3, 0.3, 0.02], [1.0, 0.5, -2.0, 3.0], noise=0.2)
    eta = 0.9 * stability_limit(problem, batch) * np.array(VARYING) / max(VARYING)
    lam, s = problem.eigenvalues, problem.target_squared
    matrix = np.zeros((T + 1, T + 1, lam.size))
    for u in range(T + 1):
        if u:
            keep, per = 1 - eta[u - 1] * lam, eta[u - 1] ** 2 / batch
            s = keep**2 * s + per * (lam**2 * s + lam * (lam @ s + problem.noise))
            matrix[u, :u] = matrix[:u, u] = keep * matrix[u - 1, :u]
        matrix[u, u] = s
    moments = 0.5 * matrix @ lam
    pairs = {f"{one} − {two}": {one: 1.7, two: -0.7} for one, two in combinations(RULES, 2)}
    pairs["beyond"] = {"last": -0.4, "ema": 0.4, "uniform": 1.0}
    at = [1, T // 2, T]
    risk = simulate(
        problem, eta, RULES, steps=T, batch=batch, at=at, combinations=pairs, method="exact"
    )
    for row, t in enumerate(at):
        kernels = {name: weights(rule, t) for name, rule in RULES.items()}
        kernels["last"] = np.eye(t + 1)[t]
        every = {**{name: {name: 1.0} for name in kernels}, **pairs}
        for name, parts in every.items():
            c = sum(x * kernels[part] for part, x in parts.items())
            expected = c @ moments[: t + 1, : t + 1] @ c
            assert risk[name][row] == pytest.approx(expected, rel=1e-11), (name, t)
