"""How well the loss-curve laws predict where decayed runs end, from runs of their seed and peak.

A law is fitted to the raw losses of a run at a constant rate and of the shortest decayed run,
because a constant rate alone says nothing of decay; of the two shortest, where the first was
evaluated fewer than three times, because one loss says how much a decay brought and not how fast.
It then predicts the end of every other decayed run of that family: of longer branches and of the
runs that were planned for a horizon. Two predictors that need no law stand beside it: that a decay
brings nothing, and that it brings what it brought in the last run that was fitted.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from anytrain.compare.frontier import schedule_table, tokens_per_step, warmup_tokens
from anytrain.compare.laws import LAWS, Law, Measured, fit, require
from anytrain.compare.results import Curve, Phase, Results
from anytrain.errors import UserError
from anytrain.evaluations import RAW
from anytrain.files import Record
from anytrain.rundir import RunDir
from anytrain.schedules import peak, rate, schedule

NO_DROP, SAME_DROP = "no drop", "the same drop again"
_ENOUGH = 3  # losses of a decay that is fitted
_Family = tuple[Phase, int, float | None]  # phase, seed, peak


@dataclass(frozen=True)
class Score:
    """One predicted end."""

    law: str  # or NO_DROP, SAME_DROP
    arm: str
    seed: int
    horizon: float  # units
    run: str
    tokens: int
    predicted: float  # nats/token
    measured: float  # nats/token

    @property
    def error(self) -> float:
        """Predicted − measured, nats/token."""
        return self.predicted - self.measured


def scores(results: Results, out: Path, laws: Sequence[Law] = LAWS) -> tuple[Score, ...]:
    """Of every seed and peak rate, tuning included; `out` is the study's directory.

    Left out is what has no constant run, no recipes any more, or no decayed run that was not
    fitted. Raises where scipy is not installed.
    """
    require()
    found: list[Score] = []
    for constant, decayed in _families(results, out):
        count = 1 if len(decayed[0].measured.steps) >= _ENOUGH else 2
        found += _of_family(constant, decayed[:count], decayed[count:], laws)
    return tuple(found)


def errors(found: Sequence[Score]) -> dict[tuple[str, str], tuple[int, float, float]]:
    """(law, arm) -> number of ends, median and largest absolute error, nats/token."""
    grouped: dict[tuple[str, str], list[float]] = {}
    for score in found:
        grouped.setdefault((score.law, score.arm), []).append(abs(score.error))
    return {key: (len(e), median(e), max(e)) for key, e in grouped.items()}


# --- the runs of a seed ----------------------------------------------------------------------


@dataclass(frozen=True)
class _Run:
    curve: Curve
    measured: Measured  # past the warmup

    @property
    def horizon(self) -> float:
        assert self.curve.horizon is not None
        return self.curve.horizon


def _families(results: Results, out: Path) -> Iterator[tuple[_Run, list[_Run]]]:
    """Runs of one seed and one peak: the constant one, and the decayed, branches first, the
    shortest first.

    The laws sum learning rates, and so know nothing of the harm that a high peak does: a run of
    another peak is none that they speak of.
    """
    constant: dict[_Family, _Run] = {}
    decayed: dict[_Family, list[tuple[bool, float, int, _Run]]] = {}
    seen: set[str] = set()
    for curve, recipe in _recipes(results, out):
        if curve.run in seen:  # arms may share one
            continue
        kind = results.arms[curve.arm].kind
        if kind == "free" and schedule_table(recipe)["kind"] != "constant":
            continue
        seen.add(curve.run)
        run = _Run(curve, measured(curve, recipe))
        family = (
            curve.phase,
            curve.seed,
            peak(schedule(recipe["schedule"], tokens_per_step(recipe))),
        )
        if kind != "free":
            same = decayed.setdefault(family, [])
            same.append((kind != "branch", run.horizon, len(same), run))
        elif family not in constant or len(run.measured.steps) > len(
            constant[family].measured.steps
        ):
            constant[family] = run
    for family, run in constant.items():
        within = [item for item in decayed.get(family, []) if _reaches(run, item[3])]
        if within:
            yield run, [r for *_, r in sorted(within, key=lambda item: item[:3])]


def _reaches(constant: _Run, run: _Run) -> bool:
    """Whether the constant run was trained to where the other ended, to a step."""
    return constant.measured.steps[-1] >= run.measured.steps[-1] - 1


def _recipes(results: Results, out: Path) -> Iterator[tuple[Curve, Record]]:
    """Curves that have reached their end, with their recipes."""
    for curve in results.curves:
        short = curve.horizon is not None and curve.tokens[-1] < curve.horizon * results.unit
        if short or not curve.losses.get(RAW):
            continue
        try:
            yield curve, RunDir(out / "runs" / curve.run).recipe
        except (UserError, OSError):
            continue


def measured(curve: Curve, recipe: Record) -> Measured:
    """A run's rates by its recipe's schedule, and its raw losses past the warmup."""
    per_step = tokens_per_step(recipe)
    steps = np.rint(np.array(curve.tokens) / per_step).astype(np.int64)
    lr = learning_rates(recipe, int(steps.max(initial=0)))
    kept = (np.array(curve.tokens) > warmup_tokens(recipe)) & (steps > 0)
    return Measured(lr, steps[kept], np.array(curve.losses[RAW], dtype=np.float64)[kept])


def learning_rates(recipe: Record, steps: int) -> NDArray[np.float64]:
    """The learning rate of steps 1 … `steps`; of a branch, the trunk's before it."""
    made = schedule(recipe["schedule"], tokens_per_step(recipe))
    return np.array([rate(made, t - 1.0, float(t)) for t in range(1, steps + 1)])


# --- predictions -----------------------------------------------------------------------------


def _of_family(
    constant: _Run, known: Sequence[_Run], rest: Sequence[_Run], laws: Sequence[Law]
) -> list[Score]:
    """Fit on the constant run and the decayed ones that are `known`, predict how `rest` ends."""
    if not rest:
        return []
    drop = _undecayed(constant, known[-1]) - float(known[-1].measured.losses[-1])
    found = []
    for run in rest:
        kept = _undecayed(constant, run)
        found += [_score(NO_DROP, run, kept), _score(SAME_DROP, run, kept - drop)]
    for law in laws:
        try:
            fitted = fit(law, [constant.measured, *(run.measured for run in known)])
        except UserError:  # too few evaluations for this law
            continue
        for run in rest:
            end = fitted.predict(run.measured.rates, run.measured.steps[-1:])
            found.append(_score(law.name, run, float(end[0])))
    return found


def _undecayed(constant: _Run, run: _Run) -> float:
    """The constant run's raw loss at the tokens where `run` ended, nats/token."""
    tokens = np.array(constant.curve.tokens, dtype=np.float64)
    losses = np.array(constant.curve.losses[RAW], dtype=np.float64)
    return float(np.interp(np.log(run.curve.tokens[-1]), np.log(tokens), losses))


def _score(law: str, run: _Run, predicted: float) -> Score:
    curve, end = run.curve, float(run.measured.losses[-1])
    return Score(
        *(law, curve.arm, curve.seed, run.horizon, curve.run, curve.tokens[-1], predicted, end)
    )
