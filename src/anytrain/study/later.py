"""A rule that is added to a study whose runs are there: rebuilt afterwards, or trained again.

From the averages that a run kept (its snapshots and checkpoints) where the profile of the nearest
sum is within 2% of the asked one at every horizon; else the same run again, bit for bit, with the
new averages beside it, and its raw losses have to be the same. What either finds lies beside the
run, OUT/later/NAME, in the form of a run's metrics.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from anytrain import rules as rule_book
from anytrain.errors import UserError
from anytrain.evaluations import RAW, Evaluation
from anytrain.grammar import Quantity, WeightsName
from anytrain.merging.rebuild import history
from anytrain.rundir import RunDir
from anytrain.study.jobs import Job, digest

WITHIN = 0.02  # relative L2 error of a profile


@dataclass(frozen=True)
class Missing:
    """Rules that a trained run lacks, and how far the best rebuild of each is from it."""

    job: Job
    rules: Mapping[str, str]  # name -> rule
    errors: Mapping[str, float]  # name -> the worst relative L2 error over the horizons
    horizons: list[int]  # tokens, as far as the run goes

    @property
    def rebuilt(self) -> dict[str, str]:
        """Those that are near enough."""
        return {name: spec for name, spec in self.rules.items() if self.errors[name] <= WITHIN}

    @property
    def replayed(self) -> dict[str, str]:
        """Those that need the iterates again."""
        return {name: spec for name, spec in self.rules.items() if name not in self.rebuilt}

    def jobs(self) -> list[Job]:
        """What has to be done: a rebuild, a replay, or both."""
        return [self._job(rules) for rules in (self.rebuilt, self.replayed) if rules]

    def _job(self, rules: Mapping[str, str]) -> Job:
        name = f"{self.job.name}~{digest([rules, self.horizons])}"
        job = replace(self.job, name=name, until=self.horizons[-1], keeps=frozenset(self.horizons))
        if rules == self.rebuilt:
            return replace(job, rebuilds=rules)
        recipe = replace(job.recipe, name=name, averages=dict(rules), snapshots=None)
        return replace(job, recipe=recipe)


def missing(run: RunDir, job: Job, known: Mapping[str, float], horizons: list[int]) -> Missing:
    """What a run lacks of its recipe's averages; `known` are the weights evaluated at its end."""
    _check_rules(run, job)
    horizons = [tokens for tokens in horizons if tokens <= job.until]
    lacking = {n: spec for n, spec in job.recipe.averages.items() if n not in known and horizons}
    per_step = job.recipe.train.tokens_per_step
    errors = dict.fromkeys(lacking, 0.0)
    for tokens in horizons if lacking else ():
        when = Quantity(float(tokens), "tokens")
        try:
            with history(WeightsName(str(run.path), when)) as past:
                for name, spec in lacking.items():
                    found = past.rebuild(rule_book.rule(spec, per_step)).fit.error
                    errors[name] = max(errors[name], found)
        except UserError:  # nothing was kept: only the iterates themselves will do
            errors = dict.fromkeys(lacking, float("inf"))
    return Missing(job, lacking, errors, horizons)


def _check_rules(run: RunDir, job: Job) -> None:
    """A rule that is another one now would mix two averages under one name."""
    for name, begun in (run.identity.get("averages") or {}).items():
        asked = job.recipe.averages.get(name, begun["rule"])
        if rule_book.rule(asked, 1.0) != rule_book.rule(begun["rule"], 1.0):
            raise UserError(
                f"average {name!r} is {asked} in the recipe and {begun['rule']} in {run.path}; "
                "give the new rule a name of its own"
            )


def joined(name: str, first: list[Evaluation], more: list[Evaluation]) -> list[Evaluation]:
    """A run's evaluations with those of its averages that came later, step by step.

    A UserError where a replay was not the same run: its raw losses differ.
    """
    by_step = {e.step: e for e in more}
    found = []
    for e in first:
        late = by_step.get(e.step)
        if late is None:
            found.append(e)
            continue
        if RAW in late.losses and late.losses[RAW] != e.losses[RAW]:
            raise UserError(
                f"{name}: trained again, its loss at step {e.step} is {late.losses[RAW]!r} instead "
                f"of {e.losses[RAW]!r}; the machine, the versions or the threads have changed since"
            )
        found.append(replace(e, losses={**late.losses, **e.losses},
                             stderr={**late.stderr, **e.stderr}))  # fmt: skip
    return found
