"""What a study found: regret, the transient, saved tokens, and the answers to its questions."""

from dataclasses import dataclass
from statistics import fmean

from anytrain.compare.paired import Interval
from anytrain.compare.readings import (
    Difference,
    Variant,
    anytime,
    average,
    branched,
    difference,
    differences,
    reading,
    variants,
)
from anytrain.compare.results import Choice, Results, Spent
from anytrain.compare.verdicts import Verdict, count, verdicts
from anytrain.words import signed, tokens

FAIR = 0.02  # nats/token: further ahead of cosine, a constant rate has not left its transient


@dataclass(frozen=True)
class Regret:
    """What not choosing the best arm of each horizon costs an arm, at the worst horizon."""

    arm: str
    variant: Variant
    nats: float  # loss minus the best arm's there, nats/token
    ratio: float  # loss over the best arm's there, at its own worst horizon
    horizon: float  # units, of `nats`
    best: str  # the arm that is best there


@dataclass(frozen=True)
class Transient:
    """Tuned baseline minus tuned branch at a horizon.

    So early that a high rate counts for more than decay, the arms that never decay early lead by a
    margin that says nothing of longer runs: where they lead by more than `FAIR`, the horizon is
    inside the transient. |gap| <= `FAIR` is a fair regime.
    """

    horizon: float  # units
    gap: float  # nats/token

    @property
    def inside(self) -> bool:
        return self.gap > FAIR

    @property
    def fair(self) -> bool:
        return abs(self.gap) <= FAIR


@dataclass(frozen=True)
class Findings:
    """All of it."""

    results: Results
    anytime: str | None  # the free arm that tuning prefers
    branch: str | None  # the branch arm
    differences: dict[tuple[str, Variant], dict[float, Difference]]
    averages: dict[tuple[str, Variant], Interval]  # mean difference over the measured horizons
    settled: Interval | None  # of the anytime arm outside the transient, where a horizon is in it
    regrets: tuple[Regret, ...]  # the smallest first
    transient: tuple[Transient, ...]
    asked: dict[str, tuple[Verdict, ...]]  # every free arm, at its one choice
    at_edge: tuple[Choice, ...]

    @property
    def one(self) -> dict[float, Difference]:
        """The anytime arm at its one choice."""
        return self.differences.get((self.anytime, "one"), {}) if self.anytime else {}

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """Of the anytime arm."""
        if self.anytime is None:
            return verdicts(self.results, None, self.branch, {}, None, None)
        return self.asked[self.anytime]

    def spent(self, arm: str | None) -> Spent | None:
        return next((s for s in self.results.spent if s.arm == arm), None)


def findings(results: Results) -> Findings:
    """Everything that can be said of a study as far as it is."""
    found: dict[tuple[str, Variant], dict[float, Difference]] = {
        (arm, variant): differences(results, arm, variant)
        for arm in results.arms
        for variant in variants(results, arm)
        if arm != results.baseline
    }
    means = {key: mean for key, value in found.items() if (mean := average(value)) is not None}
    best, branch = anytime(results), branched(results)
    transient = _transient(results, branch)
    free = {arm: one for (arm, variant), one in found.items() if variant == "one"}
    settled = {arm: _settled(one, transient) for arm, one in free.items()}
    return Findings(
        results,
        best,
        branch,
        found,
        means,
        settled[best] if best else None,
        _regrets(results),
        transient,
        {
            arm: verdicts(results, arm, branch, one, means.get((arm, "one")), settled[arm])
            for arm, one in free.items()
        },
        tuple(choice for choice in results.choices if choice.at_edge),
    )


def _settled(one: dict[float, Difference], transient: tuple[Transient, ...]) -> Interval | None:
    """The mean difference over the horizons outside the transient, where some are inside."""
    inside = {t.horizon for t in transient if t.inside}
    if not inside & set(one):
        return None
    return average({h: d for h, d in one.items() if h not in inside})


def _regrets(results: Results) -> tuple[Regret, ...]:
    """Of what was read at every horizon that anything was read at, on the seeds that all have."""
    keys = [(arm, variant) for arm in results.arms for variant in variants(results, arm)]
    table: dict[tuple[str, Variant], dict[float, float]] = {key: {} for key in keys}
    for h in results.horizons:
        found = {key: r for key in keys if (r := reading(results, key[0], h, key[1]))}
        seeds = set.intersection(*(set(r.observations) for r in found.values())) if found else ()
        for key, r in found.items():
            if seeds:
                table[key][h] = fmean(r.observations[seed].loss for seed in seeds)
    measured = {h for losses in table.values() for h in losses}
    best = {
        h: min((losses[h], arm) for (arm, _), losses in table.items() if h in losses)
        for h in measured
    }
    out = []
    for (arm, variant), losses in table.items():
        if measured and set(losses) == measured:
            worst = max(measured, key=lambda h: losses[h] - best[h][0])
            nats = losses[worst] - best[worst][0]
            ratio = max(losses[h] / best[h][0] for h in measured)
            out.append(Regret(arm, variant, nats, ratio, worst, best[worst][1]))
    return tuple(sorted(out, key=lambda regret: regret.nats))


def _transient(results: Results, branch: str | None) -> tuple[Transient, ...]:
    out = []
    for h in results.horizons:
        d = difference(results, branch, h) if branch else None
        if d is not None:
            out.append(Transient(h, -d.seeds.mean))
    return tuple(out)


def headline(found: Findings) -> str:
    """The answer in one sentence."""
    results, one = found.results, found.one
    if not one or found.anytime is None:
        done, known = results.jobs
        return f"Not enough is measured yet to answer: {done} of {known} jobs are done."
    choice = next(iter(one.values())).reading.choice
    mean = found.averages.get((found.anytime, "one"))
    worst = max(one.values(), key=lambda d: d.seeds.mean)
    text = f"One {found.anytime} run, read from {choice.weights}, is {_side(mean, worst)}"
    text += (
        f" a {results.baseline} tuned and trained for each of {count(len(one))} "
        f"(at worst {signed(worst.seeds.mean)}, at {worst.horizon:g}×)"
    )
    ours, theirs = found.spent(found.anytime), found.spent(results.baseline)
    if ours and theirs and ours.one and theirs.one:
        text += f", with {tokens(ours.one)} tokens instead of {tokens(theirs.one)}"
    inside = [f"{t.horizon:g}×" for t in found.transient if t.inside]
    if inside and found.settled:
        text += (
            f"; without {', '.join(inside)}, inside the transient, "
            f"the average is {signed(found.settled.mean)}"
        )
    elif inside:
        text += "; every horizon is inside the transient, so it says little of longer runs"
    return text + "."


def _side(mean: Interval | None, worst: Difference) -> str:
    """On average 0.0097 nats/token ahead of; no claim where zero is inside the interval."""
    if mean is None:
        return f"at most {signed(worst.seeds.mean)} nats/token from"
    if mean.low is not None and not mean.sure:
        return f"on average level with ({mean.text()} nats/token)"
    side = "ahead of" if mean.mean < 0 else "behind"
    return f"on average {abs(mean.mean):.4f} nats/token {side}"
