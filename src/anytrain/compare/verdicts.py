"""The questions a study is made for, asked of every arm without a horizon, and their answers."""

from collections.abc import Sequence
from dataclasses import dataclass

from anytrain.compare.paired import Interval
from anytrain.compare.readings import Difference, difference
from anytrain.compare.results import Results

CLOSE = 8e-3  # nats/token: as close to a tuned cosine as arXiv:2602.03702, figure 2


@dataclass(frozen=True)
class Verdict:
    """A question the study was made for, and its answer.

    None: not settled, as seeds are missing or an interval has both answers inside.
    """

    question: str
    answer: bool | None
    numbers: str
    gap: Interval | None = None  # what it hangs on, nats/token

    @property
    def word(self) -> str:
        return {True: "Yes", False: "No", None: "Not settled"}[self.answer]


def verdicts(
    results: Results,
    arm: str | None,
    branch: str | None,
    one: dict[float, Difference],
    mean: Interval | None,
    settled: Interval | None,
) -> tuple[Verdict, Verdict, Verdict]:
    """Close to the baseline, ahead of it on average, and of it and the branch everywhere.

    `one`: the arm's differences to the baseline at its one choice, and `mean` their average over
    the horizons, `settled` over those outside the transient.
    """
    name, base = arm or "the horizon-free arm", results.baseline
    whole = _whole(results, one)
    worst = max(one.values(), key=lambda d: d.seeds.mean, default=None)
    close = f"Is {name} at no horizon more than {CLOSE:g} nats/token above a tuned {base}?"
    ahead = f"Is it ahead of a tuned {base} on average?"
    return (
        Verdict(
            close,
            _all([_below(d.seeds, CLOSE) for d in one.values()]) if whole else None,
            f"at worst {worst.seeds.text()} at {worst.horizon:g}×" if worst else "",
            worst.seeds if worst else None,
        ),
        Verdict(
            ahead,
            _below(mean) if whole and mean else None,
            (f"{mean.text()} over {count(len(one))}" if mean else "")
            + (f"; {settled.text()} outside the transient" if settled else ""),
            mean,
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
    gap = None
    if gaps:
        parts.append(f"ahead of {results.baseline} at {_share(gaps)}")
    if branch:
        pairs = (difference(results, d.arm, h, "one", branch) for h, d in one.items())
        more = [d for d in pairs if d is not None]
        whole = whole and _whole(results, {d.horizon: d for d in more})
        sides += [_below(d.seeds) for d in more]
        if more:
            worst = max(more, key=lambda d: d.seeds.mean)
            share, gap = _share([d.seeds.mean for d in more]), worst.seeds
            parts.append(f"of {branch} at {share}, at worst {gap.text()} to it")
    return Verdict(question, _all(sides) if whole else None, ", ".join(parts), gap)


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


def count(horizons: int) -> str:
    return f"{horizons} horizon{'s' * (horizons != 1)}"
