"""What a study found: regret, the transient, saved tokens, and the answers to its questions."""

from collections.abc import Sequence
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
from anytrain.words import signed, tokens

CLOSE = 8e-3  # nats/token: as close to a tuned cosine as arXiv:2602.03702, figure 2
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
class Verdict:
    """A question the study was made for, and its answer.

    None: not settled, as seeds are missing or an interval has both answers inside.
    """

    question: str
    answer: bool | None
    numbers: str

    @property
    def word(self) -> str:
        return {True: "Yes", False: "No", None: "Not settled"}[self.answer]


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
    verdicts: tuple[Verdict, ...]
    at_edge: tuple[Choice, ...]

    @property
    def one(self) -> dict[float, Difference]:
        """The anytime arm at its one choice."""
        return self.differences.get((self.anytime, "one"), {}) if self.anytime else {}

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
    settled = _settled(found.get((best, "one"), {}) if best else {}, transient)
    return Findings(
        results,
        best,
        branch,
        found,
        means,
        settled,
        _regrets(results),
        transient,
        _verdicts(results, best, branch, found, means, settled),
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


def _verdicts(
    results: Results,
    best: str | None,
    branch: str | None,
    found: dict[tuple[str, Variant], dict[float, Difference]],
    means: dict[tuple[str, Variant], Interval],
    settled: Interval | None,
) -> tuple[Verdict, ...]:
    """The three questions, of the anytime arm at its one choice."""
    name, base = best or "the horizon-free arm", results.baseline
    one = found.get((best, "one"), {}) if best else {}
    whole = _whole(results, one)
    mean = means.get((best, "one")) if best else None
    worst = max(one.values(), key=lambda d: d.seeds.mean, default=None)
    close = f"Is {name} at no horizon more than {CLOSE:g} nats/token above a tuned {base}?"
    ahead = f"Is it ahead of a tuned {base} on average?"
    return (
        Verdict(
            close,
            _all([_below(d.seeds, CLOSE) for d in one.values()]) if whole else None,
            f"at worst {interval(worst.seeds)} at {worst.horizon:g}×" if worst else "",
        ),
        Verdict(
            ahead,
            _below(mean) if whole and mean else None,
            (f"{interval(mean)} over {_count(len(one))}" if mean else "")
            + (f"; {interval(settled)} outside the transient" if settled else ""),
        ),
        _both(results, branch, one, whole),
    )


def _both(
    results: Results, branch: str | None, one: dict[float, Difference], whole: bool
) -> Verdict:
    """Ahead of the baseline and of the branch at every horizon."""
    names = f"a tuned {results.baseline}" + (f" and {branch}" if branch else "")
    question = f"Is it ahead of {names} at every horizon, with one run and one setting?"
    parts, gaps = [], [d.seeds.mean for d in one.values()]
    sides = [_below(d.seeds) for d in one.values()]
    if gaps:
        parts.append(f"ahead of {results.baseline} at {_share(gaps)}")
    if branch:
        pairs = (difference(results, d.arm, h, "one", branch) for h, d in one.items())
        more = [d for d in pairs if d is not None]
        whole = whole and _whole(results, {d.horizon: d for d in more})
        sides += [_below(d.seeds) for d in more]
        if more:
            worst = max(more, key=lambda d: d.seeds.mean)
            share = _share([d.seeds.mean for d in more])
            parts.append(f"of {branch} at {share}, at worst {interval(worst.seeds)} to it")
    return Verdict(question, _all(sides) if whole else None, ", ".join(parts))


def _whole(results: Results, found: dict[float, Difference]) -> bool:
    """Whether every report seed is there at every horizon."""
    seeds = len(results.report_seeds)
    return len(found) == len(results.horizons) and all(
        len(d.by_seed) == seeds for d in found.values()
    )


def _below(found: Interval, limit: float = 0.0) -> bool | None:
    """Whether a difference lies below a limit; None where its interval has the limit inside."""
    if found.low is None or found.high is None:
        return None
    return True if found.high <= limit else False if found.low > limit else None


def _all(answers: Sequence[bool | None]) -> bool | None:
    """No where one is no, yes where all are yes, else not settled."""
    if any(answer is False for answer in answers):
        return False
    return True if answers and all(answers) else None


def _share(gaps: Sequence[float]) -> str:
    return f"{sum(gap < 0 for gap in gaps)} of {len(gaps)}"


def _count(horizons: int) -> str:
    return f"{horizons} horizon{'s' * (horizons != 1)}"


def interval(found: Interval) -> str:
    """+0.0031 (−0.0010 to +0.0072), or what is known from one seed."""
    if found.low is None or found.high is None:
        return f"{signed(found.mean)} (one seed, no interval)"
    return f"{signed(found.mean)} ({signed(found.low)} to {signed(found.high)})"


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
        f" a {results.baseline} tuned and trained for each of {_count(len(one))} "
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
        return f"on average level with ({interval(mean)} nats/token)"
    side = "ahead of" if mean.mean < 0 else "behind"
    return f"on average {abs(mean.mean):.4f} nats/token {side}"
