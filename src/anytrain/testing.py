"""`check_laws`: whether a rule or a schedule of your own may be used wherever ours are.

    from anytrain.testing import check_laws

    def test_my_rule():
        check_laws(MyRule(width=0.1))

No pytest and no torch; a broken law is an `AssertionError` that says which and where.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from math import isfinite, nextafter
from typing import Any, TypeGuard

from anytrain import rules, schedules
from anytrain.errors import UserError
from anytrain.grammar import build, describe
from anytrain.rules import Rule
from anytrain.schedules import BeyondHorizon, Cooldown, HorizonBound, Schedule

STEPS = 200  # of the runs on which averages are compared
RATIOS = (1.0, 0.125, 0.5, 3.0)  # Δt of a step: batch over reference batch
FAR = (1e3, 12_345.0, 1e6, 1e9)  # t; nothing that has no horizon ends
TOLERANCE = 1e-12  # of float64 sums over `STEPS` terms of size one


def check_laws(thing: Rule | Schedule) -> None:
    """Hold a rule (called with t and Δt) or a schedule (called with t) to the laws of the house.

    Both: a frozen dataclass that its own text rebuilds, and a pure function of its arguments, so
    that step t is the same whether a run stops there or goes on. A rule: ρ in [0, 1], weights
    that sum to one, and an online average equal to those weights applied by hand. A schedule: a
    finite rate of 0 or more for ever, or, if `HorizonBound`, up to its horizon and no further.
    """
    _is_plain_data(thing)
    if _is_rule(thing):
        for dt in RATIOS:
            times = [dt * n for n in (1, 2, 3, 7, 64, STEPS)] + [t for t in FAR if t >= dt]
            _is_pure(thing, [(t, dt) for t in times])
            for t in times:
                rho = thing(t, dt)
                _require(0.0 <= rho <= 1.0, thing, f"ρ({t:g}, {dt:g}) = {rho}; 0 to 1 is valid")
        _averages_as_weighted(thing)
    elif isinstance(thing, HorizonBound):
        _ends_at_its_horizon(thing)
    else:
        _never_ends(thing)


def _is_rule(thing: Rule | Schedule) -> TypeGuard[Rule]:
    """Whether it is called with two arguments, t and Δt."""
    _require(callable(thing), thing, "is not callable")
    taken = [
        p
        for p in inspect.signature(thing).parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    _require(
        len(taken) in (1, 2),
        thing,
        f"takes {len(taken)} arguments; a schedule takes t, a rule t and Δt",
    )
    return len(taken) == 2


# --- plain data, pure ------------------------------------------------------------------------


def _is_plain_data(thing: Any) -> None:
    """Frozen, equal to what its text rebuilds, and printed without an address in memory."""
    cls = type(thing)
    _require(
        dataclasses.is_dataclass(thing) and cls.__dataclass_params__.frozen,
        thing,
        "is not a frozen dataclass; write @dataclass(frozen=True) above its class",
    )
    _require(" at 0x" not in repr(thing), thing, "is printed with an address in memory")
    kinds = _kinds(thing)
    text = describe(thing, kinds)
    try:
        again: Any = build(text, kinds)
    except UserError as error:
        raise AssertionError(f"{thing!r}: its text {text!r} is not read back: {error}") from error
    _require(again == thing, thing, f"its text {text!r} gives {again!r}")


def _kinds(thing: Any) -> Mapping[str, type]:
    """Our kinds, and the classes of `thing` and of what it holds under names of their own."""
    kinds: dict[str, type] = {**rules.KINDS, **schedules.KINDS}
    if type(thing) not in kinds.values():
        kinds[f"{type(thing).__module__}.{type(thing).__name__}"] = type(thing)
    for field in dataclasses.fields(thing):
        value = getattr(thing, field.name)
        if dataclasses.is_dataclass(value):
            kinds |= _kinds(value)
    return kinds


def _is_pure(thing: Callable[..., float], calls: Sequence[tuple[float, ...]]) -> None:
    """The same value at the same t: in any order, again, and from a fresh equal object."""
    before = repr(thing)
    first = [thing(*call) for call in calls]
    backwards = [thing(*call) for call in reversed(calls)][::-1]
    fresh = [dataclasses.replace(thing)(*call) for call in calls]  # type: ignore[type-var]
    for call, *values in zip(calls, first, backwards, fresh, strict=True):
        _require(
            len(set(map(repr, values))) == 1,
            thing,
            f"at t = {call[0]:g} it gave {values}, depending on what it was asked before; a "
            "function of t alone is valid",
        )
    _require(repr(thing) == before, thing, f"changed when called; it was {before}")


# --- rules -----------------------------------------------------------------------------------


def _averages_as_weighted(rule: Rule) -> None:
    """Σ c_s = 1, and w̄ ← w̄ + ρ(w − w̄) over random iterates = Σ c_s w_s, from t = 0 and later."""
    import numpy as np

    rng = np.random.default_rng(0)
    ratios = rng.choice(RATIOS, STEPS)
    for start in (0.0, 37.0):
        for dts in (np.ones(STEPS), ratios):
            times = start + np.cumsum(dts)
            weights = rules.weights(rule, times.tolist(), start)
            total = float(weights.sum())
            _require(
                abs(total - 1) <= TOLERANCE, rule, f"weights sum to {total} over {STEPS} steps"
            )
            iterates = rng.standard_normal((STEPS + 1, 3))
            average = iterates[0].copy()
            for t, dt, iterate in zip(times, dts, iterates[1:], strict=True):
                average += rule(float(t), float(dt)) * (iterate - average)
            off = float(np.abs(average - weights @ iterates).max())
            _require(
                off <= TOLERANCE * 10,
                rule,
                f"the running average is {off:g} off its weights applied by hand",
            )


# --- schedules -------------------------------------------------------------------------------


def _never_ends(schedule: Schedule) -> None:
    for part in _parts(schedule):
        _require(
            not isinstance(part, HorizonBound) and not hasattr(part, "horizon"),
            schedule,
            "knows a horizon; derive from HorizonBound what ends, leave it out of what does not",
        )
    times = (0.0, 0.5, 1.0, 2.0, 3.25, 10.0, 99.0, 100.0, *FAR)
    _is_pure(schedule, [(t,) for t in times])
    _has_rates(schedule, times)


def _parts(thing: Any) -> list[Any]:
    """`thing` and every dataclass inside it."""
    inside = [getattr(thing, field.name) for field in dataclasses.fields(thing)]
    return [thing] + [p for v in inside if dataclasses.is_dataclass(v) for p in _parts(v)]


def _ends_at_its_horizon(schedule: HorizonBound) -> None:
    end = schedule.horizon
    times = [end * k / 16 for k in range(17)]
    _is_pure(schedule, [(t,) for t in times])
    _has_rates(schedule, times)
    fraction, of = getattr(schedule, "final", None), schedules.peak(schedule)
    if isinstance(schedule, Cooldown):
        of = schedule.trunk(schedule.start)
    if fraction is not None and of is not None:
        _require(
            schedule(end) == fraction * of,
            schedule,
            f"at its horizon the rate is {schedule(end)}, exactly {fraction * of} is valid",
        )
    for t in (nextafter(end, 2 * end), end + 1, 2 * end):
        try:
            rate = schedule(t)
        except BeyondHorizon:
            continue
        raise AssertionError(f"{schedule!r}: gave {rate} at t = {t!r}; BeyondHorizon is valid")


def _has_rates(schedule: Schedule, times: Sequence[float]) -> None:
    for t in times:
        rate = schedule(t)
        _require(
            isfinite(rate) and rate >= 0,
            schedule,
            f"lr({t:g}) = {rate}; a finite rate of 0 or more is valid",
        )


def _require(ok: bool, thing: Any, why: str) -> None:
    if not ok:
        raise AssertionError(f"{thing!r}: {why}")
