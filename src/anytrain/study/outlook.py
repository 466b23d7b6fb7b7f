"""What a study would train, what that costs, and what is there already."""

import time
from collections.abc import Iterator
from itertools import islice

from anytrain.study.gather import Study
from anytrain.study.jobs import Job
from anytrain.words import span, tokens

_TIMED = 10  # steps


def outlook(study: Study) -> list[str]:
    """One line a job, then the sum, with hours at the measured pace."""
    jobs = list(study.plan.jobs.values())
    width = max(len(job.name) for job in jobs)
    pace, how = measured_pace(study)
    out = [f"{'run or branch':<{width}}  {'tokens':>8}  {'time':>8}"]
    for job in jobs:
        took = "done" if study.over(job) else span(job.cost / pace)
        out.append(f"{job.name:<{width}}  {tokens(job.cost):>8}  {took:>8}")
    out += before(study)
    left = sum(job.cost for job in jobs if not study.over(job))
    more = " and what they choose, on the reporting seeds" if _undecided(study) else ""
    out.append(f"{len(jobs)} runs and branches{more}: {tokens(sum(j.cost for j in jobs))} tokens, "
               f"{tokens(left)} left, {left / pace / 3600:.2g} hours one after another "
               f"({tokens(pace)} tokens/s, {how})")  # fmt: skip
    if _undecided(study):
        out.append(f"reporting will add at most {tokens(reporting(study))} tokens")
    return out


def before(study: Study) -> list[str]:
    """What rules that came later will cost, said before it is done."""
    out = []
    for one in study.later():
        for job in one.jobs():
            if study.over(job):
                continue
            names = ", ".join(job.rebuilds or job.recipe.averages)
            if job.rebuilds is not None:
                error = max(one.errors[name] for name in job.rebuilds)
                out.append(f"{names} of {one.job.name}: rebuilt from what it kept, profile error "
                           f"at most {error:.2%}")  # fmt: skip
            else:
                error = max(one.errors[name] for name in job.recipe.averages)
                out.append(f"{names} of {one.job.name}: its profile would be {error:.1%} off, so "
                           f"the run is trained again, {tokens(job.cost)} tokens")  # fmt: skip
    return out


def _undecided(study: Study) -> bool:
    return any(study.choice_of(arm) is None for arm in study.design.table.arms)


def reporting(study: Study) -> int:
    """Tokens of the reporting runs, arms that are not chosen yet counted at their dearest."""
    design, total = study.design, 0
    for arm in design.table.arms:
        if study.choice_of(arm) is not None:
            continue
        last, each = design.horizons[-1], sum(design.horizons)
        # at the dearest: another setting for each horizon than for all, a trunk for each branch
        total += last + each if design.kind(arm) == "free" else each
    return total * len(design.table.seeds.report)


# --- pace ------------------------------------------------------------------------------------


def measured_pace(study: Study) -> tuple[float, str]:
    """Tokens a second of one job, and where that is from: runs that are there, or ten steps."""
    paces = sorted(filter(None, (_pace(study, job) for job in study.plan.jobs.values())))
    if paces:
        return paces[len(paces) // 2], f"the median of {len(paces)} runs so far"
    return _tried(study), f"{_TIMED} steps tried now"


def _pace(study: Study, job: Job) -> float | None:
    """Of a run, evaluations included."""
    steps = [r for r in study.run(job).metrics() if r.get("seconds")]
    if not steps or job.rebuilds is not None:
        return None
    begun = job.leave.begins if job.leave else 0
    return float((steps[-1]["tokens"] - begun) / steps[-1]["seconds"])


def _tried(study: Study) -> float:
    import torch

    from anytrain.training import start
    from anytrain.training.loop import train
    from anytrain.training.pretrain import build

    recipe = study.design.first
    start.set_determinism(recipe)
    data = start.open_data(recipe)
    recipe = start.resolved(recipe, data)
    run = build(recipe, data)

    def batches() -> Iterator[torch.Tensor]:
        while True:
            yield torch.from_numpy(data.batch(run.clock.samples, recipe.train.batch))

    steps = train(run, batches(), recipe.built_schedule())
    list(islice(steps, _TIMED))  # the first ones compile and allocate
    began = time.perf_counter()
    list(islice(steps, _TIMED))
    return _TIMED * recipe.train.batch * recipe.train.context / (time.perf_counter() - began)
