"""What a post-training study found, as plain data, and what follows from it. No torch.

A base model is known by two numbers that need not agree: its loss on held-out pre-training text,
and the score of what it becomes. arXiv:2603.16127 says to choose by the second, and that weights
whose rate never decayed are ahead there. Here the seeds are those of pre-training; the scores of a
seed are means over its fine-tuning seeds, and differences are paired by seed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any, Literal

from anytrain.compare.paired import Interval, over_seeds

Kind = Literal["raw", "decayed", "averaged"]


@dataclass(frozen=True)
class Outcome:
    """One base, of one pre-training seed, after fine-tuning on one task."""

    base: str
    seed: int  # of pre-training
    task: str
    lr: float  # chosen on the selection rows
    scores: tuple[float, ...]  # of each fine-tuning seed, on the report rows; 0 to 1
    tuned: tuple[tuple[float, float | None], ...]  # rate -> selection score; None: diverged
    retention: float | None = None  # loss on pre-training text after it, nats/token

    @property
    def score(self) -> float:
        return fmean(self.scores)


@dataclass(frozen=True)
class Pretrained:
    """One base of one pre-training seed before it."""

    base: str
    seed: int
    loss: float | None  # on held-out pre-training text, nats/token
    trace: float | None = None  # of the Hessian, on the same
    trace_stderr: float | None = None  # over probes
    task_traces: Mapping[str, float] = field(default_factory=dict)  # on each task's rows


@dataclass(frozen=True)
class PostResults:
    """Everything that was measured so far."""

    name: str
    bases: dict[str, Kind]  # in the file's order
    seeds: tuple[int, ...]
    tasks: tuple[str, ...]
    outcomes: tuple[Outcome, ...]
    pretrained: tuple[Pretrained, ...]
    facts: dict[str, str]
    steps: tuple[int, int] = (0, 0)  # done, of all
    along: tuple[Mapping[str, Any], ...] = ()  # `anytrain sharpness` at moments of each run
    arms: Mapping[str, str] = field(default_factory=dict)  # base -> arXiv:2603.16127's name for it

    def score(self, base: str, seed: int, task: str) -> float | None:
        found = (o.score for o in self.outcomes
                 if (o.base, o.seed, o.task) == (base, seed, task))  # fmt: skip
        return next(found, None)

    def mean(self, base: str, seed: int, tasks: Iterable[str]) -> float | None:
        """Over tasks; None where one is missing."""
        scores = [self.score(base, seed, task) for task in tasks]
        known = [score for score in scores if score is not None]
        return fmean(known) if scores and len(known) == len(scores) else None

    def before(self, base: str, seed: int) -> Pretrained | None:
        return next((p for p in self.pretrained if (p.base, p.seed) == (base, seed)), None)


def per_seed(results: PostResults, base: str, tasks: Sequence[str]) -> dict[int, float]:
    """The mean score over tasks of each seed that has them all."""
    found = {seed: results.mean(base, seed, tasks) for seed in results.seeds}
    return {seed: score for seed, score in found.items() if score is not None}


def minus(
    results: PostResults, base: str, other: str, tasks: Sequence[str] | None = None
) -> Interval | None:
    """Score of a base minus another's on the seeds that both have; None where there is none."""
    return minus_means(results, [base], [other], tasks)


def minus_means(
    results: PostResults,
    bases: Sequence[str],
    others: Sequence[str],
    tasks: Sequence[str] | None = None,
) -> Interval | None:
    """Mean score of some bases minus that of others, on the seeds that have all of both."""
    tasks = results.tasks if tasks is None else tasks
    first, second = _means(results, bases, tasks), _means(results, others, tasks)
    both = [seed for seed in first if seed in second]
    return over_seeds([first[s] - second[s] for s in both]) if both else None


def _means(results: PostResults, bases: Sequence[str], tasks: Sequence[str]) -> dict[int, float]:
    found = [per_seed(results, base, tasks) for base in bases]
    whole = [s for s in results.seeds if found and all(s in scores for scores in found)]
    return {seed: fmean(scores[seed] for scores in found) for seed in whole}


def members(results: PostResults, kind: Kind) -> list[str]:
    """The bases of a kind, in the file's order."""
    return [base for base, of in results.bases.items() if of == kind]


def loss_minus(
    results: PostResults, bases: Sequence[str], others: Sequence[str]
) -> Interval | None:
    """Mean pre-training loss of some bases minus that of others, paired by seed."""
    apart = []
    for seed in results.seeds:
        of, than = ([_loss(results, base, seed) for base in kind] for kind in (bases, others))
        known, theirs = ([x for x in found if x is not None] for found in (of, than))
        if known and theirs and len(known) + len(theirs) == len(of) + len(than):
            apart.append(fmean(known) - fmean(theirs))
    return over_seeds(apart) if apart else None


def _loss(results: PostResults, base: str, seed: int) -> float | None:
    found = results.before(base, seed)
    return None if found is None else found.loss


def best(results: PostResults, kind: Kind, among: Iterable[str] | None = None) -> str | None:
    """The base of a kind with the highest mean score; chosen on what it is reported on."""
    scored = {
        base: fmean(found.values())
        for base in (results.bases if among is None else among)
        if results.bases[base] == kind and (found := per_seed(results, base, results.tasks))
    }
    return max(scored, key=scored.__getitem__) if scored else None


def leave_one_out(
    results: PostResults, bases: Sequence[str], others: Sequence[str]
) -> dict[str, Interval]:
    """`minus_means` without each task in turn: whether one task carries it."""
    found = {}
    for left_out in results.tasks if len(results.tasks) > 1 else ():
        rest = [task for task in results.tasks if task != left_out]
        apart = minus_means(results, bases, others, rest)
        if apart is not None:
            found[left_out] = apart
    return found


def forgetting(results: PostResults, base: str) -> Interval | None:
    """Pre-training loss after fine-tuning minus before, mean over tasks, over seeds."""
    apart = []
    for seed in results.seeds:
        before = results.before(base, seed)
        after = [o.retention for o in results.outcomes
                 if (o.base, o.seed) == (base, seed) and o.retention is not None]  # fmt: skip
        if before is not None and before.loss is not None and after:
            apart.append(fmean(after) - before.loss)
    return over_seeds(apart) if apart else None


@dataclass(frozen=True)
class Answer:
    """One question of the study, and what its intervals say."""

    question: str
    word: Literal["yes", "no", "not settled", "not measured"]
    numbers: str


def answers(results: PostResults) -> tuple[Answer, ...]:
    """Whether weights without decay are ahead after tuning, and whether averages keep that.

    Of kinds as wholes first, which chooses nothing; then of the best of each, as the paper asks.
    """
    raw, decayed, averaged = (best(results, kind) for kind in ("raw", "decayed", "averaged"))
    better = "fine-tune better than"
    return (
        _of_kinds(f"Do raw weights {better} decayed ones?", results, "raw", "decayed"),
        _of_kinds(f"Do averaged weights {better} decayed ones?", results, "averaged", "decayed"),
        _of_kinds(f"Do averaged weights {better} raw ones?", results, "averaged", "raw"),
        _recovered(results),
        _of_best(f"Do raw weights {better} the best decayed ones?", results, raw, decayed),
        _of_best(f"Do averaged weights {better} the best decayed ones?",
                 results, averaged, decayed),
    )  # fmt: skip


def _of_kinds(question: str, results: PostResults, kind: Kind, other: Kind) -> Answer:
    bases, others = members(results, kind), members(results, other)
    found = minus_means(results, bases, others)
    if found is None:
        return Answer(question, "not measured", _missing(results, [*bases, *others]))
    return _answer(question, _kinds(results, kind, other), found)


def _missing(results: PostResults, bases: Sequence[str]) -> str:
    """The first of some bases that has no seed with a score on every task."""
    for base in bases:
        if not per_seed(results, base, results.tasks):
            return f"{base} has no score on every task yet"
    return ""


def _kinds(results: PostResults, kind: Kind, other: Kind) -> str:
    bases = ((k, members(results, k)) for k in (kind, other))
    one, two = (names[0] if len(names) == 1 else f"mean of {len(names)} {k}" for k, names in bases)
    return f"{one} − {two}"


def _of_best(question: str, results: PostResults, base: str | None, other: str | None) -> Answer:
    found = minus(results, base, other) if base and other else None
    if found is None:
        return Answer(question, "not measured", "")
    return _answer(question, f"{base} − {other}", found)


def _answer(question: str, what: str, found: Interval) -> Answer:
    said = f"{what}: {found.text(decimals([found]), 100)} points"
    return Answer(question, _word(found, found.mean > 0), said)


def _word(found: Interval, ahead: bool) -> Literal["yes", "no", "not settled"]:
    if not found.sure:
        return "not settled"
    return "yes" if ahead else "no"


def _recovered(results: PostResults) -> Answer:
    question = "Do averaged weights have a lower pre-training loss than raw ones?"
    found = loss_minus(results, members(results, "averaged"), members(results, "raw"))
    if found is None:
        return Answer(question, "not measured", "")
    said = f"{_kinds(results, 'averaged', 'raw')}: {found.text()} nats/token"
    return Answer(question, _word(found, found.mean < 0), said)


def decimals(found: Iterable[Interval | None]) -> int:
    """Of points: two where intervals, or from one seed the numbers, are typically below a half."""
    known = [one for one in found if one is not None]
    sizes = [100 * one.half for one in known if one.half is not None]
    sizes = sizes or [100 * abs(one.mean) for one in known]
    return 2 if sizes and median(sizes) < 0.5 else 1
