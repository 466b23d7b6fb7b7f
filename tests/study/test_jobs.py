"""What a study trains: shared, named by what decides the weights, and no more than is read."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from small_studies import PER_STEP, RECIPE, UNIT, arms, write

from anytrain.compare.results import Choice
from anytrain.study.design import Design
from anytrain.study.jobs import Job, Plan, plan

PEAKS = {"schedule.peak": [0.01, 0.02, 0.04]}


def planned(folder: Path, tables: dict[str, Any] | None = None, **keys: Any) -> Plan:
    return plan(Design(write(folder, tables, **keys)))


def jobs_of(made: Plan, arm: str, phase: str = "tune") -> list[Job]:
    return [made.jobs[use.job] for use in made.uses if (use.arm, use.phase) == (arm, phase)]


def amounts(moments: Iterable[Any]) -> list[float]:
    return [moment.amount for moment in moments]


def test_tuning(tmp_path: Path) -> None:
    """Three runs without a horizon, two cosines for each horizon, a branch of each trunk at each.

    Nothing of reporting, of which nothing was chosen.
    """
    made = planned(tmp_path)
    assert len(jobs_of(made, "constant")) == 3
    assert len(jobs_of(made, "cosine")) == 2 * 2
    assert len(jobs_of(made, "wsd")) == 3 * 2
    assert len(made.jobs) == 3 + 4 + 6, "the trunks are the runs of the constant rate"
    assert {use.phase for use in made.uses} == {"tune"}
    assert {use.seed for use in made.uses} == {0}


def test_a_trunk_is_the_run_of_its_arm(tmp_path: Path) -> None:
    made = planned(tmp_path)
    trunks = {job.leave.trunk for job in jobs_of(made, "wsd") if job.leave}
    assert trunks == {job.name for job in jobs_of(made, "constant")}
    for trunk in trunks:
        assert made.jobs[trunk].until == 2 * UNIT
        assert made.jobs[trunk].keeps == {round(0.9 * UNIT), round(0.9 * 2 * UNIT)}


def test_arms_with_the_same_runs_share_them(tmp_path: Path) -> None:
    """The same schedule under two names, and two trunks' worth of branches."""
    again = {"schedule": "constant:warmup=2-steps", "grid": {"schedule.peak": [0.02, 0.08]}}
    shapes = {"trunk": "constant", "shape": "sqrt"}
    one, both = planned(tmp_path / "1"), planned(tmp_path / "2", arms=arms(b=again, d=shapes))
    assert len(both.jobs) == len(one.jobs) + 1 + 6
    shared = {j.name for j in jobs_of(both, "b")} & {j.name for j in jobs_of(both, "constant")}
    assert len(shared) == 1


def test_a_branch_leaves_at_its_share_of_the_horizon(tmp_path: Path) -> None:
    made = planned(tmp_path)
    found = {(job.until, job.leave.begins) for job in jobs_of(made, "wsd") if job.leave}
    assert found == {(UNIT, round(0.9 * UNIT)), (2 * UNIT, round(1.8 * UNIT))}
    earlier = planned(tmp_path, arms=arms(wsd={"trunk": "constant", "cooldown": 0.25}))
    found = {(job.until, job.leave.begins) for job in jobs_of(earlier, "wsd") if job.leave}
    assert found == {(UNIT, 3 * UNIT // 4), (2 * UNIT, 3 * UNIT // 2)}


def test_a_branch_is_raw_and_evaluated_along_its_decay(tmp_path: Path) -> None:
    for job in jobs_of(planned(tmp_path), "wsd"):
        assert job.recipe.averages == {}
        assert job.recipe.snapshots is None
        moments = amounts(job.recipe.evaluate.at)
        assert len(moments) == 4
        assert moments[-1] == job.until
        assert job.leave is not None
        parts = [(moment - job.leave.begins) / job.cost for moment in moments]
        assert parts == pytest.approx([0.25, 0.5, 0.75, 1.0], abs=0.01)


def test_a_trunk_goes_no_further_than_its_furthest_use(tmp_path: Path) -> None:
    """Alone for reporting, as far as where the last branch leaves; for its own arm to the end."""
    design = Design(write(tmp_path))
    branch = Choice("wsd", 2.0, "schedule.peak=0.04", "raw", 1.0)
    made = plan(design, [branch])
    trunks = {job.leave.trunk for job in jobs_of(made, "wsd", "report") if job.leave}
    assert len(trunks) == 2, "one for each reporting seed"
    assert {made.jobs[trunk].until for trunk in trunks} == {round(1.8 * UNIT)}
    whole = Choice("constant", None, "schedule.peak=0.04", "ema25", 1.0)
    for order in ([branch, whole], [whole, branch]):
        both = plan(design, order)
        assert {both.jobs[trunk].until for trunk in trunks} == {2 * UNIT}
        assert len(both.jobs) == len(made.jobs)


# --- reporting -------------------------------------------------------------------------------


def test_reporting_is_of_what_was_chosen(tmp_path: Path) -> None:
    design = Design(write(tmp_path))
    made = plan(design, [Choice("cosine", 1.0, "schedule.peak=0.02", "raw", 1.0)])
    found = [use for use in made.uses if use.phase == "report"]
    assert {(u.arm, u.setting, u.horizons) for u in found} == {
        ("cosine", "schedule.peak=0.02", (1.0,))
    }
    assert sorted(use.seed for use in found) == [1, 2]
    assert {made.jobs[use.job].until for use in found} == {UNIT}


def test_a_choice_of_a_horizon_is_trained_to_that_horizon(tmp_path: Path) -> None:
    """And is the same run where another setting was chosen for all: it goes as far as is read."""
    design = Design(write(tmp_path, seeds={"tune": [0], "report": [1]}))
    every = Choice("constant", None, "schedule.peak=0.02", "ema25", 1.0)
    first = Choice("constant", 1.0, "schedule.peak=0.04", "ema25", 1.0)
    last = Choice("constant", 2.0, "schedule.peak=0.02", "raw", 1.0)
    made = plan(design, [every, first, last])
    until = {u.setting: made.jobs[u.job].until for u in made.uses if u.phase == "report"}
    assert until == {"schedule.peak=0.02": 2 * UNIT, "schedule.peak=0.04": UNIT}
    assert len(jobs_of(made, "constant", "report")) == 3
    assert len({job.name for job in jobs_of(made, "constant", "report")}) == 2


def test_tuning_and_reporting_have_halves_of_their_own(tmp_path: Path) -> None:
    made = plan(Design(write(tmp_path)), [Choice("cosine", 1.0, "schedule.peak=0.02", "raw", 1.0)])
    halves = {"tune": "selection", "report": "report"}
    for use in made.uses:
        recipe = made.jobs[use.job].recipe
        assert recipe.evaluate.split == halves[use.phase]
        assert recipe.train.seed == use.seed
        assert recipe.evaluate.each


# --- names -----------------------------------------------------------------------------------

SAME: dict[str, dict[str, Any]] = {
    "an arm": {"arms": arms(linear={"schedule": "linear", "grid": PEAKS})},
    "a horizon": {"horizons": [0.5, 1.0, 2.0, 4.0]},
    "more evaluations": {"per_doubling": 5},
    "a point of a grid": {"arms": arms(constant={"schedule": "constant:warmup=2-steps",
                                        "grid": {"schedule.peak": [0.01, 0.02, 0.04, 0.08]}})},
    "a tuning seed": {"seeds": {"tune": [0, 7], "report": [1, 2]}},
    "a reporting seed": {"seeds": {"tune": [0], "report": [1, 2, 3]}},
    "an average": {"tables": {"averages": {**RECIPE["averages"], "more": "anytime_ema:f=50"}}},
    "checkpoints": {"tables": {"checkpoint": {"every": "1h", "newest": 5}}},
    "moments of evaluations": {"tables": {"evaluate": {"tokens": "512-tokens", "share": 0.5}}},
    "a name": {"name": "another", "tables": {"name": "another"}},
    "snapshots": {"tables": {"snapshots": {"per_decade": 9}}},
    "logging": {"tables": {"log": {"every": 10}}},
    "the same unit in tokens": {"tables": {"unit": f"{UNIT}-tokens"}},
}  # fmt: skip


@pytest.mark.parametrize("what", SAME)
def test_names_stay_when_something_is_added(what: str, tmp_path: Path) -> None:
    before, after = planned(tmp_path / "1"), planned(tmp_path / "2", **SAME[what])
    assert set(before.jobs) <= set(after.jobs)


ANOTHER: dict[str, dict[str, Any]] = {
    "the seed": {"seeds": {"tune": [9], "report": [1, 2]}},
    "the model": {"tables": {"model": {**RECIPE["model"], "width": 32}}},
    "the optimizer": {"settings": {"optimizer.beta2": 0.9}},
    "the batch": {"tables": {"unit": f"{UNIT}-tokens"}, "settings": {"train.batch": 8}},
    "how much is held out": {"tables": {"evaluate": {"tokens": "1k-tokens"}}},
    "the data": {"tables": {"data": {"path": "elsewhere"}}},
    "the guard": {"tables": {"guard": {"deviations": 10.0}}},
}


@pytest.mark.parametrize("what", ANOTHER)
def test_names_change_with_what_decides_the_losses(what: str, tmp_path: Path) -> None:
    before, after = planned(tmp_path / "1"), planned(tmp_path / "2", **ANOTHER[what])
    assert len(before.jobs) == len(after.jobs)
    assert not set(before.jobs) & set(after.jobs)


def test_names_change_with_rate_phase_and_horizon(tmp_path: Path) -> None:
    """Of the same seed, two phases are two runs: they read different sequences."""
    names = []
    for seeds in ({"tune": [0], "report": [1]}, {"tune": [1], "report": [0]}):
        design = Design(write(tmp_path, seeds=seeds))
        choices = [Choice("cosine", h, "schedule.peak=0.02", "raw", 1.0) for h in (1.0, 2.0)]
        made = plan(design, choices)
        assert len({job.name for job in jobs_of(made, "cosine")}) == 4
        names.append({job.name for job in jobs_of(made, "cosine", "report")})
        names.append({job.name for job in jobs_of(made, "cosine", "tune")})
    assert not names[0] & names[3], "seed 1, reported and tuned"


@pytest.mark.parametrize("how", [{"cooldown": 0.2}, {"shape": "sqrt"}, {"final": 0.1}])
def test_names_of_branches_change_with_the_decay(how: dict[str, Any], tmp_path: Path) -> None:
    before = planned(tmp_path)
    after = planned(tmp_path, arms=arms(wsd={"trunk": "constant", **how}))
    same = {job.name for job in jobs_of(before, "wsd")} & {
        job.name for job in jobs_of(after, "wsd")
    }
    assert not same
    assert {j.name for j in jobs_of(before, "constant")} <= set(after.jobs)


# --- moments and costs -----------------------------------------------------------------------


def test_what_a_run_keeps_and_when_it_is_evaluated(tmp_path: Path) -> None:
    design = Design(write(tmp_path))
    made = plan(design)
    for job in jobs_of(made, "constant"):
        assert amounts(job.recipe.evaluate.at) == design.moments()
        begins = {round(0.9 * UNIT), round(1.8 * UNIT)}
        assert set(amounts(job.recipe.checkpoint.at)) == begins | {UNIT, 2 * UNIT}
        assert job.recipe.snapshots is not None, "a rule added later is rebuilt from them"
        assert list(job.recipe.averages) == ["ema25", "uniform"]
    for job in jobs_of(made, "cosine"):
        assert amounts(job.recipe.evaluate.at) == design.moments()
        assert job.recipe.averages == {}
        assert job.recipe.snapshots is None


def test_costs(tmp_path: Path) -> None:
    """3 runs to two units, cosines of one and two, and the last tenths of the branches."""
    made = planned(tmp_path)
    cost = {arm: sum(job.cost for job in jobs_of(made, arm)) for arm in ("constant", "cosine")}
    assert cost == {"constant": 3 * 2 * UNIT, "cosine": 2 * (1 + 2) * UNIT}
    tenths = (UNIT - round(0.9 * UNIT)) + (2 * UNIT - round(1.8 * UNIT))
    assert sum(job.cost for job in jobs_of(made, "wsd")) == 3 * tenths
    assert sum(job.cost for job in made.jobs.values()) == sum(cost.values()) + 3 * tenths


def test_a_job_is_plain_data_with_every_setting(tmp_path: Path) -> None:
    job = jobs_of(planned(tmp_path), "wsd")[0]
    found = job.to_json()
    assert job.leave is not None
    assert found["leave"] == {"trunk": job.leave.trunk, "begins": job.leave.begins,
                              "cooldown": 0.1, "shape": "linear", "final": 0.0}  # fmt: skip
    assert found["until"] == job.until
    assert found["recipe"]["train"]["seed"] == 0
    assert found["recipe"]["train"]["batch"] * found["recipe"]["train"]["context"] == PER_STEP
