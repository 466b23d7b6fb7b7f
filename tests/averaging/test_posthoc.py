"""Post-hoc averages: the fit against its promises, every step by hand, and real averages."""

import time
from collections.abc import Sequence
from itertools import pairwise
from math import floor

import numpy as np
import pytest
from numpy.typing import NDArray

from anytrain.averaging import posthoc
from anytrain.averaging.posthoc import Fit, Snapshot, fit, moments, next_moment, snapshot_due
from anytrain.errors import UserError
from anytrain.rules import AnytimeEma, Ema, Polynomial, PowerEma, Rule, Uniform, weights

Array = NDArray[np.float64]

TRACKS: tuple[Rule, ...] = tuple(PowerEma(s) for s in (0.275, 0.133, 0.061, 0.033))
KEPT: tuple[Rule, ...] = tuple(AnytimeEma(f) for f in (6.25, 12.5, 25, 50))
START = Snapshot(0, PowerEma(0.1))
ASKED: list[Rule] = [
    *(PowerEma(float(s)) for s in np.geomspace(0.03, 0.28, 12)),
    *(AnytimeEma(f) for f in (1.7, 3, 6.25, 25, 45)),
]


def stored(tracks: Sequence[Rule], per_decade: int, last: int) -> list[Snapshot]:
    return [START, *(Snapshot(m, rule) for m in moments(per_decade, last) for rule in tracks)]


def by_hand(snapshots: Sequence[Snapshot], found: Fit, t: int) -> Array:
    """The weight of every iterate in the sum of snapshots (t + 1,)."""
    profile = np.zeros(t + 1)
    for i in found.used:
        snapshot = snapshots[i]
        profile[: int(snapshot.t) + 1] += found.coefficients[i] * weights(
            snapshot.rule, int(snapshot.t)
        )
    return profile


# --- when ------------------------------------------------------------------------------------


def test_the_moments() -> None:
    assert moments(4, 100) == [1, 2, 3, 6, 10, 18, 32, 56, 100]
    assert moments(4, 99.5) == [1, 2, 3, 6, 10, 18, 32, 56]
    assert moments(4, 0.5) == []
    for per_decade in (1, 2, 4, 13, 40, 1000):
        ideal = {floor(10 ** (k / per_decade) + 0.5) for k in range(5 * per_decade + 1)}
        assert moments(per_decade, 10**5) == sorted(ideal)


@pytest.mark.parametrize("step", [0.125, 1.0, 2.5, 64.0])
def test_a_snapshot_is_due_once_a_moment_has_been_reached(step: float) -> None:
    times = np.arange(0, 3000, step)
    due = [b for a, b in pairwise(times.tolist()) if snapshot_due(a, b, 13)]
    expected = {step * -(-m // step) for m in moments(13, times[-1])}
    assert due == sorted(expected)


def test_moments_far_away() -> None:
    assert next_moment(1e12 - 1, 13) == 10**12
    assert next_moment(1e12, 1) == 10**13
    with pytest.raises(ValueError, match="per_decade = 0; 1 or more is valid"):
        snapshot_due(0, 1, 0)


# --- what is promised ------------------------------------------------------------------------


@pytest.mark.parametrize("t", [18, 56, 562, 10_000])
def test_four_tracks_at_four_moments_a_decade_rebuild_everything(t: int) -> None:
    for rule in ASKED:
        found = fit(stored(TRACKS, 4, t), rule, t)
        assert found.error <= 0.02, (rule, found.error)
        assert found.amplification <= 3
        assert found.rounding("F32") <= 1e-7
        assert len(found.used) <= 20


@pytest.mark.parametrize("t", [1000, 1778, 10_000])
def test_two_decades_are_enough_for_the_newest(t: int) -> None:
    """At its beginning and its end; of the older one the two widest tracks are enough."""
    left = [
        s
        for s in stored(TRACKS, 4, 10_000)
        if s.t >= 1000 or (s.t >= 100 and s.rule in TRACKS[:2]) or s == START
    ]
    assert len(left) == 29
    assert max(fit(left, rule, t).error for rule in ASKED) <= 0.02


def test_two_tracks_are_not_enough() -> None:
    snapshots = stored([PowerEma(0.05), PowerEma(0.10)], 13, 1000)
    assert 0.11 < fit(snapshots, PowerEma(0.28), 1000).error < 0.14
    assert 0.11 < fit(snapshots, AnytimeEma(1.7), 1000).error < 0.14


def test_averages_that_are_kept_anyway_are_tracks() -> None:
    """One moment of four anytime EMAs and two wide power functions, and none before it."""
    tracks = (PowerEma(0.276), PowerEma(0.22), *KEPT)
    snapshots = [START, *(Snapshot(1000, rule) for rule in tracks)]
    assert max(fit(snapshots, rule, 1000).error for rule in ASKED) <= 0.02


def test_a_million_steps() -> None:
    snapshots = stored([PowerEma(s) for s in (0.25, 0.10, 0.03)], 13, 10**6)
    assert len(snapshots) > 200
    began = time.process_time()
    found = fit(snapshots, PowerEma(0.15), 10**6)
    assert time.process_time() - began < 2.0  # 0.2 on an idle core
    assert found.error <= 0.01


# --- the error is the error ------------------------------------------------------------------


@pytest.mark.parametrize(
    "rule",
    [PowerEma(0.033), PowerEma(0.05), PowerEma(0.28), AnytimeEma(1.7), AnytimeEma(45),
     AnytimeEma(400), Uniform(), Uniform(start=10_123), Uniform(start=19_990), Polynomial(3),
     Ema(half_life=5), Ema(half_life=2000)],
    ids=str,
)  # fmt: skip
def test_the_error_is_that_over_every_step(rule: Rule) -> None:
    """T is past the steps that are bins of their own, and some snapshots are of other rules."""
    t = 20_000
    assert t > posthoc.EXACT
    snapshots = [*stored(TRACKS, 4, t), Snapshot(t, PowerEma(0.2)), Snapshot(12_345, KEPT[1])]
    snapshots.append(Snapshot(t, Ema(half_life=7)))
    found = fit(snapshots, rule, t)
    asked = weights(rule, t)
    error = np.linalg.norm(by_hand(snapshots, found, t) - asked) / np.linalg.norm(asked)
    assert found.error == pytest.approx(error, rel=0.01, abs=1e-9)


def test_bins_change_no_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    t = 10_000
    snapshots = stored(TRACKS, 4, t)
    binned = [fit(snapshots, rule, t) for rule in ASKED]
    monkeypatch.setattr(posthoc, "EXACT", t + 1)
    for rule, found in zip(ASKED, binned, strict=True):
        full = fit(snapshots, rule, t)
        assert found.error == pytest.approx(full.error, rel=0.01)
        assert found.used == full.used
        np.testing.assert_allclose(found.coefficients, full.coefficients, atol=2e-3)


def test_what_is_too_narrow_is_said_to_be() -> None:
    t = 1000
    errors = {rule: fit(stored(TRACKS, 4, t), rule, t).error for rule in (
        Ema(5), AnytimeEma(100), AnytimeEma(50), Uniform(start=t // 2), Uniform(start=t - 10)
    )}  # fmt: skip
    assert list(errors.values()) == pytest.approx([0.5, 0.21, 0.02, 0.11, 0.8], rel=0.3)


def test_the_starting_point_counts() -> None:
    """f = 1.7 keeps 1.5% of it at step 56: an eighth of the profile's norm."""
    snapshots = stored(TRACKS, 4, 56)
    rule = AnytimeEma(1.7)
    lost = weights(rule, 56)[0] / np.linalg.norm(weights(rule, 56))
    assert fit(snapshots, rule, 56).error <= 0.02
    assert fit(snapshots[1:], rule, 56).error >= lost > 0.1


def test_the_best_of_all_sums() -> None:
    """No other coefficients that sum to one are nearer: the gradient is a constant."""
    t = 316
    snapshots = stored(TRACKS, 2, t)
    rule = PowerEma(0.05)
    found = fit(snapshots, rule, t, within=0.0)
    matrix = np.zeros((t + 1, len(found.used)))
    for column, i in enumerate(found.used):
        part = weights(snapshots[i].rule, int(snapshots[i].t))
        matrix[: part.size, column] = part
    a = np.array([found.coefficients[i] for i in found.used])
    asked = weights(rule, t)
    penalty = (posthoc.PENALTY * np.linalg.norm(asked)) ** 2
    gradient = matrix.T @ (matrix @ a - asked) + penalty * a
    np.testing.assert_allclose(gradient, gradient.mean(), atol=1e-12)


# --- coefficients ----------------------------------------------------------------------------


@pytest.mark.parametrize("t", [100, 10_000])
@pytest.mark.parametrize("rule", [*TRACKS, KEPT[0]], ids=str)
@pytest.mark.parametrize("within", [0.0, posthoc.WITHIN])
def test_what_is_stored_is_itself(t: int, rule: Rule, within: float) -> None:
    snapshots = stored((*TRACKS, KEPT[0]), 4, t)
    found = fit(snapshots, rule, t, within)
    assert found.used == (snapshots.index(Snapshot(t, rule)),)
    assert found.coefficients[found.used[0]] == 1.0
    assert found.error < 1e-12
    assert found.amplification == 1.0


def test_coefficients_sum_to_one() -> None:
    for rule in (*ASKED, Ema(5), Uniform(30)):
        for per_decade in (1, 4, 13):
            found = fit(stored(TRACKS, per_decade, 1000), rule, 1000)
            assert sum(found.coefficients) == pytest.approx(1.0, abs=1e-12)
            assert found.amplification == pytest.approx(np.abs(found.coefficients).sum())


def test_as_few_as_are_needed() -> None:
    snapshots = stored(TRACKS, 13, 1000)
    used = [len(fit(snapshots, PowerEma(0.17), 1000, within).used) for within in (0.0, 0.01, 0.05)]
    assert used == sorted(used, reverse=True)
    assert used[0] > 2 * used[1] > 2 * used[2]
    for within in (0.01, 0.05):
        assert fit(snapshots, PowerEma(0.17), 1000, within).error <= within


def test_many_tracks_do_not_amplify_rounding() -> None:
    """Without what coefficients cost, Σ|a| is in the thousands here."""
    tracks = [PowerEma(float(s)) for s in np.geomspace(0.03, 0.28, 7)]
    for rule in (PowerEma(0.037), PowerEma(0.2), AnytimeEma(100)):
        found = fit(stored(tracks, 13, 1000), rule, 1000, within=0.0)
        assert found.rounding("F32") < 1e-6 * (1 if found.error < 0.05 else 20)


def test_later_snapshots_are_not_used() -> None:
    snapshots = stored(TRACKS, 4, 1000)
    found = fit(snapshots, PowerEma(0.1), 150.5)
    assert max(snapshots[i].t for i in found.used) == 100
    assert len(found.coefficients) == len(snapshots)
    late = [fit(snapshots, TRACKS[3], t).error for t in (100, 100.25, 100.5, 101)]
    assert late == sorted(late)
    assert late[0] < 1e-12
    assert late[1] < 0.75 * late[2]
    # the mean of the iterates, the last of half the length, is the widest power function
    assert fit([Snapshot(150.5, PowerEma(12**-0.5))], Uniform(), 150.5).error < 1e-9
    now = fit([Snapshot(150.5, TRACKS[1]), *snapshots], TRACKS[1], 150.5)
    assert now.used == (0,)
    with pytest.raises(UserError, match="no snapshot is from step 9 or before"):
        fit(snapshots[-3:], PowerEma(0.1), 9)


# --- real averages ---------------------------------------------------------------------------


def averaged(rules: Sequence[Rule], theta: Array, times: Array) -> list[list[Array]]:
    """Every rule's running average after every step, θ₀ first."""
    running = [theta[0].copy() for _ in rules]
    history = [[average.copy() for average in running]]
    for now, t, dt in zip(theta[1:], times, np.diff(times, prepend=0.0), strict=True):
        for average, rule in zip(running, rules, strict=True):
            average += rule(float(t), float(dt)) * (now - average)
        history.append([average.copy() for average in running])
    return history


@pytest.mark.parametrize("walk", [False, True])
@pytest.mark.parametrize("longest", [1, 3])
def test_rebuilt_is_the_online_average(walk: bool, longest: int) -> None:
    """Kernel law. Rebuilt − online = Σ_s e_s (θ_s − c) for any c, e the error of the profile.

    Independent θ_s give its length in the mean; any others a bound. Steps of other lengths hold
    with power functions.
    """
    rng = np.random.default_rng(0)
    steps, size = 400, 3000
    times = np.cumsum(rng.integers(1, longest + 1, steps)).astype(float)
    theta = rng.standard_normal((steps + 1, size))
    theta = np.cumsum(theta, axis=0) if walk else theta
    asked: list[Rule] = [PowerEma(0.05), PowerEma(0.17), PowerEma(0.28)]
    asked += [AnytimeEma(1.7), AnytimeEma(30)] if longest == 1 else []
    history = averaged([*TRACKS, *asked], theta, times)
    snapshots, tensors = [START], [theta[0]]
    for n, (a, b) in enumerate(zip([0.0, *times], times, strict=False), start=1):
        if snapshot_due(a, b, 4) or n == steps:
            snapshots += [Snapshot(float(b), rule) for rule in TRACKS]
            tensors += history[n][: len(TRACKS)]
    for k, rule in enumerate(asked):
        online = history[-1][len(TRACKS) + k]
        found = fit(snapshots, rule, float(times[-1]))
        rebuilt = sum(found.coefficients[i] * tensors[i] for i in found.used)
        off = np.linalg.norm(rebuilt - online)
        unit = float(np.linalg.norm(weights(rule, int(times[-1]))))
        widths = np.diff(times, prepend=[-1.0, 0.0])
        bound = np.sqrt(widths @ ((theta - online) ** 2).sum(axis=1))
        assert off <= found.error * unit * bound * (1 + 1e-9)
        if not walk and longest == 1:
            assert off == pytest.approx(found.error * unit * np.sqrt(size), rel=0.1)


@pytest.mark.parametrize(("dtype", "type_"), [("F32", np.float32), ("F16", np.float16)])
def test_rounding_of_what_is_stored(dtype: str, type_: type) -> None:
    rng = np.random.default_rng(0)
    snapshots = stored(TRACKS, 4, 1000)
    found = fit(snapshots, PowerEma(0.05), 1000)
    tensors = [rng.standard_normal(20_000) for _ in snapshots]
    off = sum(a * (x.astype(type_) - x) for a, x in zip(found.coefficients, tensors, strict=True))
    assert np.sqrt(np.mean(off**2)) == pytest.approx(found.rounding(dtype), rel=0.15)
