"""From the run directories of a study to its results. No torch."""

from collections import deque
from collections.abc import Iterable, Iterator
from math import isfinite
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from anytrain import words
from anytrain.compare.results import Choice, Curve, Observation, Results, Spent
from anytrain.errors import UserError
from anytrain.evaluations import Evaluation, evaluations
from anytrain.files import write_atomic
from anytrain.losses import Losses, kept
from anytrain.rundir import RunDir
from anytrain.study.choose import choose
from anytrain.study.design import Design
from anytrain.study.facts import facts
from anytrain.study.jobs import Job, Plan, Use, plan
from anytrain.study.later import Missing, joined, missing


class Study:
    """A study's directory: what is to be trained, what is there, what it says.

    OUT/study.toml, recipe.toml    the design
    OUT/runs/NAME/                 run directories
    OUT/jobs/NAME.json             what the process that trains one reads
    OUT/logs/NAME.log              what it said
    """

    DESIGN: ClassVar[str] = "study.toml"

    def __init__(self, design: Design, out: Path) -> None:
        self.design = design
        self.out = out
        self._ended: dict[str, list[Evaluation]] = {}  # of jobs that are done: they do not change
        self._lacking: dict[str, Missing] = {}  # run -> the rules that came after it
        self.refresh()

    def keep_design(self) -> None:
        """Write the study file and its recipe into the directory: `report` needs nothing else."""
        self.out.mkdir(parents=True, exist_ok=True)
        for name, text in self.design.files().items():
            write_atomic(self.out / name, text)

    def refresh(self) -> None:
        """Read what was trained since, and plan what follows from it."""
        first = self._with_later(plan(self.design))
        self.choices: list[Choice] = []
        for arm in self.design.arms().values():
            uses = [use for use in first.uses if use.arm == arm.name]
            names = {use.job for use in uses}
            if all(self.over(job) for job in first.jobs.values() if job.of in names):
                tuned = (o for use in uses for o in self._observed(use, first))
                self.choices += choose(arm, self.design.table.horizons, tuned)
        self.plan: Plan = self._with_later(plan(self.design, self.choices))
        self._check_horizons()

    def _check_horizons(self) -> None:
        """A run that is done has to be evaluated wherever it is read."""
        for use in self.plan.uses:
            job = self.plan.jobs[use.job]
            for horizon in use.horizons if self.done(job) else ():
                if self._at(job, horizon) is None:
                    raise UserError(
                        f"{self.run(job).path} is trained and was not evaluated at {horizon:g} "
                        "units, which became a horizon later; remove it to train it again, or "
                        "leave the horizon out"
                    )

    def _with_later(self, made: Plan) -> Plan:
        """With what is to be done for rules that runs which are there do not have."""
        read = {use.job for use in made.uses}  # of a trunk alone no average is read
        for job in list(made.jobs.values()):
            if job.leave is not None or not job.recipe.averages or job.name not in read:
                continue
            if not self.done(job):
                continue
            if job.name not in self._lacking or self._lacking[job.name].job.until != job.until:
                end = self._own(job)[-1].losses
                self._lacking[job.name] = missing(self.run(job), job, end, self.design.horizons)
            for more in self._lacking[job.name].jobs():
                made.jobs[more.name] = more
        return made

    def choice_of(self, arm: str) -> Choice | None:
        """Any choice of an arm; None while it is being tuned."""
        return next((choice for choice in self.choices if choice.arm == arm), None)

    def later(self) -> list[Missing]:
        """Runs of the plan that lack rules."""
        found = [self._lacking[name] for name in self.plan.jobs if name in self._lacking]
        return [one for one in found if one.rules]

    def run(self, job: Job) -> RunDir:
        """Where a job's metrics are."""
        return RunDir(self.out / ("runs" if job.rebuilds is None else "later") / job.name)

    def over(self, job: Job) -> bool:
        """Whether a job is done, or never will be: it diverged, or its trunk did."""
        if self.done(job) or diverged(self.run(job)):
            return True
        if job.leave is None or self.can_leave(job):
            return False
        return diverged(RunDir(self.out / "runs" / job.leave.trunk))

    def ready(self) -> Iterator[Job]:
        """Jobs that can be trained now, the longest first: what they branch from is there."""
        jobs = self.plan.jobs
        missing = [job for job in jobs.values() if not self.over(job)]
        for job in sorted(missing, key=lambda job: -job.cost):
            if job.leave is None or self.can_leave(job) or self.done(jobs[job.leave.trunk]):
                yield job

    def count(self) -> int:
        """Runs and branches."""
        return len(self.plan.jobs)

    def progress(self) -> str:
        """In words."""
        jobs = self.plan.jobs.values()
        over = sum(self.over(job) for job in jobs)
        left = sum(job.cost for job in jobs if not self.over(job))
        return f"{over} of {len(jobs)} runs and branches done, {words.tokens(left)} tokens left"

    def can_leave(self, job: Job) -> bool:
        """Whether what a branch begins from is there: its own state, or its trunk's at 90%."""
        assert job.leave is not None
        if self.run(job).exists:
            return True
        train = job.recipe.train
        step = train.batch * train.context  # tokens
        kept = RunDir(self.out / "runs" / job.leave.trunk).checkpoints()
        return any(0 <= c.tokens - job.leave.begins < step for c in kept)

    def done(self, job: Job) -> bool:
        """Whether a job's last evaluation is there."""
        found = self._own(job)
        return bool(found) and found[-1].tokens >= job.until

    def _own(self, job: Job) -> list[Evaluation]:
        """A job's own evaluations so far."""
        if job.name in self._ended and self._ended[job.name][-1].tokens >= job.until:
            return self._ended[job.name]
        found = evaluations(self.run(job))
        if found and found[-1].tokens >= job.until:
            self._ended[job.name] = found
        return found

    def evaluations(self, job: Job) -> list[Evaluation]:
        """Of a run so far, with those of averages that came later."""
        found = self._own(job)
        for more in self._lacking[job.name].jobs() if job.name in self._lacking else ():
            found = joined(job.name, found, self._own(more))
        return found

    def _at(self, job: Job, horizon: float) -> Evaluation | None:
        """The evaluation of the first step that reaches a horizon."""
        tokens = round(horizon * self.design.unit)
        train = job.recipe.train
        step = train.batch * train.context  # tokens; a grid may have several batches
        found = (e for e in self.evaluations(job) if 0 <= e.tokens - tokens < step)
        return next(found, None)

    def _observed(self, use: Use, of: Plan) -> Iterator[Observation]:
        for horizon in use.horizons:
            found = self._at(of.jobs[use.job], horizon)
            if found is None:
                continue
            for weights, loss in found.losses.items():
                if not isfinite(loss):
                    continue
                yield Observation(
                    use.arm, use.phase, use.seed, use.setting, horizon, weights,
                    found.tokens, loss, found.stderr.get(weights, float("nan")), use.job,
                )  # fmt: skip

    # --- results ------------------------------------------------------------------------------

    def results(self, sequences: bool = True) -> Results:
        """All that was measured so far; `sequences` reads the loss of each, of the report."""
        design, plan_ = self.design, self.plan
        jobs = plan_.jobs.values()
        observed = [o for use in plan_.uses for o in self._observed(use, plan_)]
        return Results(
            name=design.table.name,
            unit=design.unit,
            horizons=tuple(design.table.horizons),
            baseline=design.baseline,
            tune_seeds=tuple(design.table.seeds.tune),
            report_seeds=tuple(design.table.seeds.report),
            arms=design.arms(),
            observations=tuple(dict.fromkeys(observed)),
            choices=tuple(self.choices),
            curves=tuple(self._curves()),
            spent=tuple(self._spent(arm) for arm in design.table.arms),
            trained=sum(self._trained(job) for job in jobs),
            diverged=tuple(self._diverged()),
            jobs=(sum(self.over(job) for job in jobs), len(plan_.jobs)),
            facts=facts(self.design, self._begun()),
            sequences=self._sequences(observed) if sequences else {},
        )

    def _begun(self) -> RunDir | None:
        """Any run that is there."""
        runs = (self.run(job) for job in self.plan.jobs.values() if job.rebuilds is None)
        return next((run for run in runs if run.exists), None)

    def _curves(self) -> Iterable[Curve]:
        seen = set()
        for use in self.plan.uses:
            job = self.plan.jobs[use.job]
            found = self.evaluations(job)
            key = (use.arm, use.job)
            if not found or key in seen:
                continue
            seen.add(key)
            names = list(dict.fromkeys(n for e in found for n in e.losses))
            kind = self.design.kind(use.arm)
            yield Curve(
                use.arm, use.phase, use.seed, use.setting, use.job,
                None if kind == "free" else use.horizons[-1],
                job.leave.begins if job.leave else None,
                tuple(e.tokens for e in found),
                {n: tuple(e.losses.get(n, float("nan")) for e in found) for n in names},
            )  # fmt: skip

    def _diverged(self) -> Iterator[tuple[str, float, int]]:
        """What of the report was never reached, as a loss stopped being a number."""
        for use in self.plan.uses:
            job = self.plan.jobs[use.job]
            if use.phase == "report" and self.over(job) and not self.done(job):
                for horizon in use.horizons:
                    if self._at(job, horizon) is None:
                        yield use.arm, horizon, use.seed

    def _trained(self, job: Job) -> int:
        found = self.evaluations(job)
        begun = job.leave.begins if job.leave else 0
        return max(0, found[-1].tokens - begun) if found else 0

    def _spent(self, arm: str) -> Spent:
        """What an arm would cost alone: its runs, and of branches the trunks as far as needed."""
        uses = [use for use in self.plan.uses if use.arm == arm]
        cost = {phase: self._cost(u for u in uses if u.phase == phase)
                for phase in ("tune", "report")}  # fmt: skip
        seeds = self.design.table.seeds.report
        chosen = [u for u in uses if u.phase == "report" and u.seed == seeds[0]]
        if self.design.kind(arm) == "free":  # the one setting for all horizons
            one = {c.setting for c in self.choices if c.arm == arm and c.horizon is None}
            chosen = [u for u in chosen if u.setting in one]
        return Spent(arm, cost["tune"], cost["report"], self._cost(chosen))

    def _cost(self, uses: Iterable[Use]) -> int:
        own: dict[str, int] = {}
        for use in uses:
            job = self.plan.jobs[use.job]
            last = round(use.horizons[-1] * self.design.unit)
            if job.leave is None:
                own[job.name] = max(own.get(job.name, 0), last)
                continue
            own[job.name] = job.cost
            own[job.leave.trunk] = max(own.get(job.leave.trunk, 0), job.leave.begins)
        return sum(own.values())

    def _sequences(
        self, observed: Iterable[Observation]
    ) -> dict[tuple[str, float, str], NDArray[np.float32]]:
        """The loss of every sequence, of what was observed in reporting."""
        found: dict[tuple[str, float, str], NDArray[np.float32]] = {}
        read: dict[tuple[str, int], Losses] = {}
        for o in observed:
            if o.phase != "report":
                continue
            key = (o.run, o.tokens)
            if key not in read:
                read[key] = self._kept(self.plan.jobs[o.run], o.tokens)
            if o.weights in read[key]:
                found[(o.run, o.horizon, o.weights)] = read[key][o.weights]
        return found

    def _kept(self, job: Job, tokens: int) -> Losses:
        """Of a run, and of the averages that came later."""
        later = self._lacking[job.name].jobs() if job.name in self._lacking else []
        step = next(e.step for e in self._own(job) if e.tokens == tokens)
        both: Losses = {}
        for one in [*later, job]:
            both |= kept(self.run(one), step)
        return both


def diverged(run: RunDir) -> bool:
    """Whether a run stopped because its loss is no longer a number."""
    last = deque(run.events(), maxlen=1)  # a line that is being written is none yet
    return bool(last) and last[0].get("by") == "diverged"
