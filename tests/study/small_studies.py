"""Study files of a few steps, and their runs written by hand from a formula. No training."""

import copy
import json
from collections.abc import Callable, Iterable, Mapping
from math import ceil, log2
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from anytrain import losses as per_sequence
from anytrain.rundir import RunDir
from anytrain.schedules import peak
from anytrain.study.design import Design
from anytrain.study.gather import Study
from anytrain.study.jobs import Job

PER_STEP = 4 * 16  # tokens
UNIT = 20 * PER_STEP  # tokens
SEQUENCES = 6

RECIPE: dict[str, Any] = {
    "name": "tiny",
    "schedule": "constant:peak=1e-2,warmup=2-steps",
    "unit": "20-steps",
    "data": {"path": "nowhere"},
    "model": {"layers": 1, "width": 16, "heads": 2},
    "train": {"batch": 4, "context": 16, "micro_batch": 4},
    "averages": {"ema25": "anytime_ema:f=25", "uniform": "uniform"},
    "evaluate": {"tokens": "512-tokens"},
}

STUDY: dict[str, Any] = {
    "name": "small",
    "recipe": "recipe.toml",
    "horizons": [1.0, 2.0],
    "seeds": {"tune": [0], "report": [1, 2]},
    "arms": {
        "constant": {
            "schedule": "constant:warmup=2-steps",
            "grid": {"schedule.peak": [0.01, 0.02, 0.04]},
        },
        "cosine": {
            "schedule": "cosine:warmup=2-steps,final=0.1",
            "grid": {"schedule.peak": [0.01, 0.02]},
        },
        "wsd": {"trunk": "constant"},
    },
}


def write(folder: Path, tables: Mapping[str, Any] | None = None, **keys: Any) -> Path:
    """The study file, keys exchanged, or left out where they are None; `tables` of its recipe."""
    folder.mkdir(parents=True, exist_ok=True)
    table = {k: v for k, v in {**copy.deepcopy(STUDY), **keys}.items() if v is not None}
    (folder / "recipe.toml").write_text(tomli_w.dumps({**RECIPE, **(tables or {})}))
    (folder / "study.toml").write_text(tomli_w.dumps(table))
    return folder / "study.toml"


def arms(**changed: dict[str, Any] | None) -> dict[str, Any]:
    """The arms, some exchanged, added, or left out where they are None."""
    return {k: v for k, v in {**copy.deepcopy(STUDY["arms"]), **changed}.items() if v is not None}


# --- runs by a formula -----------------------------------------------------------------------


def loss(job: Job, weights: str, tokens: float) -> float:
    """A bowl in the log of the peak about 0.02; averages better than raw; decay better still."""
    rate = peak(job.recipe.built_schedule())
    assert rate is not None
    gain = {"raw": 0.0, "ema25": 0.02, "uniform": 0.01}.get(weights, 0.0)
    if job.leave is not None or job.recipe.schedule.startswith("cosine"):
        gain = 0.03
    seed = 0.001 * job.recipe.train.seed
    return 3.0 - 0.1 * log2(tokens / UNIT) + 0.05 * log2(rate / 0.02) ** 2 - gain + seed


Formula = Callable[[Job, str, float], float]


def fake(
    study: Study, job: Job, formula: Formula = loss, *, reach: float = 1.0, end: str = "until"
) -> RunDir:
    """What a training of `job` would leave, as far as `reach` of its way.

    `end` is why it stopped; it is evaluated at its moments, and where the last is reached.
    """
    run = study.run(job)
    run.path.mkdir(parents=True, exist_ok=True)
    (run.path / "recipe.toml").write_text(job.recipe.toml())
    (run.path / "run.json").write_text(json.dumps({
        "id": job.name, "versions": {"anytrain": "0.1.0"}, "imports": {}, "data": [],
        "decisions": {"device": "cpu", "threads": 1, "micro_batch": 4},
    }))  # fmt: skip
    names = ["raw", *job.recipe.averages]
    begun = job.leave.begins if job.leave else 0
    reached = begun + reach * (job.until - begun)
    (run.path / "metrics.jsonl").write_text("")
    for moment in job.recipe.evaluate.at:
        step = ceil(moment.amount / PER_STEP)
        if not begun < moment.amount <= min(reached, job.until):
            continue
        values = {name: formula(job, name, step * PER_STEP) for name in names}
        record: dict[str, Any] = {"step": step, "tokens": step * PER_STEP, "seconds": step * 0.5}
        for name, value in values.items():
            record |= {f"val/loss/{name}": value, f"val/stderr/{name}": 0.01}
        run.log(record | {"eval_why": "asked"})
        spread = np.arange(SEQUENCES) - (SEQUENCES - 1) / 2
        per_sequence.keep(run, step, {name: v + 0.1 * spread for name, v in values.items()})
    run.event({"event": "stopped", "step": int(reached / PER_STEP), "by": end})
    return run


def tuning(study: Study, *arms: str) -> list[Job]:
    """The jobs that tune an arm, without their trunks; of every arm where none is named."""
    names = [use.job for use in study.plan.uses
             if use.phase == "tune" and (not arms or use.arm in arms)]  # fmt: skip
    return [study.plan.jobs[name] for name in dict.fromkeys(names)]


def fake_all(study: Study, jobs: Iterable[Job] | None = None, formula: Formula = loss) -> None:
    """Train the jobs, or everything until nothing follows."""
    if jobs is not None:
        for job in jobs:
            fake(study, job, formula)
        study.refresh()
        return
    while missing := [job for job in study.plan.jobs.values() if not study.over(job)]:
        fake_all(study, missing, formula)


def small(folder: Path, **keys: Any) -> Study:
    """A study of which nothing was trained."""
    return Study(Design(write(folder, **keys)), folder / "out")
