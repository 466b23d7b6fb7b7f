"""From run directories, written by a formula, to choices, observations and costs."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from small_studies import (
    PER_STEP,
    RECIPE,
    SEQUENCES,
    STUDY,
    UNIT,
    arms,
    fake,
    fake_all,
    loss,
    small,
    tuning,
    write,
)

from anytrain.errors import UserError
from anytrain.study import tidy
from anytrain.study.design import Design
from anytrain.study.facts import facts
from anytrain.study.gather import Study
from anytrain.study.jobs import Job


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Nothing was trained."""
    return small(tmp_path)


@pytest.fixture
def done(tmp_path: Path) -> Study:
    """Everything was."""
    made = small(tmp_path)
    fake_all(made)
    return made


def chosen(study: Study, arm: str) -> dict[float | None, tuple[str, str]]:
    return {c.horizon: (c.setting, c.weights) for c in study.choices if c.arm == arm}


# --- tuning and then reporting ---------------------------------------------------------------


def test_nothing_is_there(study: Study) -> None:
    found = study.results()
    assert found.observations == ()
    assert found.choices == ()
    assert found.curves == ()
    assert found.trained == 0
    assert found.jobs == (0, 13)
    assert not study.out.exists(), "looking makes nothing"


def test_an_arm_is_chosen_when_its_tuning_is_over_and_no_earlier(study: Study) -> None:
    *most, last = tuning(study, "cosine")
    fake_all(study, most)
    assert study.choices == []
    fake(study, last, reach=0.9)
    study.refresh()
    assert study.choices == []
    assert not any(use.phase == "report" for use in study.plan.uses)
    fake_all(study, [last])
    best = ("schedule.peak=0.02", "raw")
    assert chosen(study, "cosine") == {1.0: best, 2.0: best}
    reports = {use.arm for use in study.plan.uses if use.phase == "report"}
    assert reports == {"cosine"}, "other arms are still being tuned"


def test_what_is_chosen(done: Study) -> None:
    best = "schedule.peak=0.02"
    assert chosen(done, "constant") == dict.fromkeys((None, 1.0, 2.0), (best, "ema25"))
    assert chosen(done, "wsd") == dict.fromkeys((1.0, 2.0), (best, "raw"))
    assert done.choice_of("wsd") in done.choices
    edges = {choice.arm: choice.at_edge for choice in done.choices}
    assert edges == {"constant": (), "cosine": ("schedule.peak",), "wsd": ()}


def test_a_diverged_run_is_over_and_not_chosen(study: Study) -> None:
    """Neither it nor what would have branched from it is waited for."""
    trunk = next(j for j in tuning(study, "constant") if "0.02" in j.name)
    fake(study, trunk, reach=0.2, end="diverged")
    branches = [j for j in tuning(study, "wsd") if j.leave and j.leave.trunk == trunk.name]
    assert len(branches) == 2
    assert all(study.over(job) for job in [trunk, *branches])
    assert not study.done(trunk)
    fake_all(study)
    for arm in ("constant", "wsd"):
        assert {setting for setting, _ in chosen(study, arm).values()} == {"schedule.peak=0.01"}
    found = study.results()
    assert found.jobs[0] == found.jobs[1]


def test_a_run_stopped_for_another_reason_is_not_over(study: Study) -> None:
    job = tuning(study, "cosine")[0]
    fake(study, job, reach=0.5, end="SIGTERM")
    assert not study.over(job)


def test_a_run_that_diverged_after_its_last_evaluation_before_that(study: Study) -> None:
    """`diverged` counts where it is the last word: a run that went on has not."""
    job = tuning(study, "constant")[0]
    run = fake(study, job, reach=0.5, end="diverged")
    assert study.over(job)
    run.event({"event": "started", "step": 8})
    assert not study.over(job)


# --- observations ----------------------------------------------------------------------------


def test_observations_are_of_the_horizons(done: Study) -> None:
    found = done.results()
    constant = [o for o in found.observations if o.arm == "constant" and o.phase == "report"]
    assert {(o.seed, o.horizon, o.weights) for o in constant} == {
        (seed, horizon, weights)
        for seed in (1, 2) for horizon in (1.0, 2.0) for weights in ("raw", "ema25", "uniform")
    }  # fmt: skip
    assert len(constant) == 12, "one row each, though two choices read the same run"
    for o in found.observations:
        job = done.plan.jobs[o.run]
        assert o.tokens == o.horizon * UNIT
        assert o.loss == loss(job, o.weights, o.tokens)
        assert o.stderr == 0.01
    assert found.reported("constant", 1.0, found.choices[0]).keys() == {1, 2}


def test_a_horizon_between_two_steps_is_read_at_the_next(tmp_path: Path) -> None:
    """Of each run's own batch: 1.03 units are 20.6 steps of 64 tokens, 10.3 of 128."""
    grid = {"schedule.peak": [0.02], "train.batch": [4, 8]}
    one = {"c": {"schedule": "constant", "grid": grid}}
    study = Study(Design(write(tmp_path, {"unit": f"{UNIT}-tokens"}, arms=one, horizons=[1.03])),
                  tmp_path / "out")  # fmt: skip
    for job in tuning(study):
        run = fake(study, job)
        own = job.recipe.train.batch * job.recipe.train.context
        step = math.ceil(round(1.03 * UNIT) / own)
        run.log({"step": step, "tokens": step * own, "val/loss/raw": 1.0 + own})
    study.refresh()
    found = {o.setting: (o.tokens, o.loss) for o in study.results().observations
             if o.weights == "raw" and o.phase == "tune"}  # fmt: skip
    assert found == {
        "schedule.peak=0.02 train.batch=4": (21 * 64, 65.0),
        "schedule.peak=0.02 train.batch=8": (11 * 128, 129.0),
    }


def test_a_run_half_way_gives_what_it_reached(study: Study) -> None:
    job = tuning(study, "constant")[0]
    fake(study, job, reach=0.6, end="SIGTERM")
    study.refresh()
    found = study.results()
    assert {o.horizon for o in found.observations} == {1.0}
    assert found.trained == UNIT
    assert found.jobs == (0, 13)
    [curve] = found.curves
    assert curve.tokens[-1] == UNIT
    assert curve.losses["ema25"][-1] == loss(job, "ema25", UNIT)


def test_a_run_is_read_again_until_it_is_done(study: Study) -> None:
    job = tuning(study, "constant")[0]
    fake(study, job, reach=0.6)
    assert not study.done(job)
    fake(study, job)
    assert study.done(job)
    longer = replace(job, until=4 * UNIT)
    assert not study.done(longer), "a horizon more was asked for"


# --- costs -----------------------------------------------------------------------------------


def test_costs(done: Study) -> None:
    """A trunk counts for both arms that use it, and was trained once."""
    found = done.results()
    spent = {s.arm: s for s in found.spent}
    tenths = 3 * UNIT - round(0.9 * UNIT) - round(1.8 * UNIT)
    assert spent["constant"].tuning == 3 * 2 * UNIT
    assert spent["constant"].reporting == 2 * 2 * UNIT
    assert spent["cosine"].tuning == 2 * 3 * UNIT
    assert spent["cosine"].reporting == 2 * 3 * UNIT
    assert spent["wsd"].tuning == 3 * (round(1.8 * UNIT) + tenths)
    assert spent["wsd"].reporting == 2 * (round(1.8 * UNIT) + tenths)
    tuned = (3 * 2 + 2 * 3) * UNIT + 3 * tenths
    reported = (2 * 2 + 2 * 3) * UNIT + 2 * tenths
    assert sum(job.cost for job in done.plan.jobs.values()) == tuned + reported
    assert found.jobs == (len(done.plan.jobs), len(done.plan.jobs))
    assert found.trained == tuned + reported


def test_what_one_answer_costs(done: Study) -> None:
    """Of the arm without a horizon, one run; of the others a run or branch for each."""
    one = {s.arm: s.one for s in done.results().spent}
    tenths = 3 * UNIT - round(0.9 * UNIT) - round(1.8 * UNIT)
    assert one == {"constant": 2 * UNIT, "cosine": 3 * UNIT, "wsd": round(1.8 * UNIT) + tenths}


def test_the_choice_of_one_horizon_costs_a_run_of_its_own(tmp_path: Path) -> None:
    def early(job: Job, weights: str, tokens: float) -> float:
        """The largest rate is best at one unit, and by less than it is worse at two."""
        large = "0.04" in job.recipe.schedule
        return loss(job, weights, tokens) - (0.06 if large and tokens == UNIT else 0.0)

    study = small(tmp_path, arms=arms(cosine=None, wsd=None))
    fake_all(study, formula=early)
    assert chosen(study, "constant") == {
        None: ("schedule.peak=0.02", "ema25"),
        1.0: ("schedule.peak=0.04", "ema25"),
        2.0: ("schedule.peak=0.02", "ema25"),
    }
    [spent] = study.results().spent
    assert spent.reporting == 2 * (2 + 1) * UNIT
    assert spent.one == 2 * UNIT


# --- curves, sequences, facts ----------------------------------------------------------------


def test_curves(done: Study) -> None:
    found = done.results().curves
    assert len({(c.arm, c.run) for c in found}) == len(found)
    for curve in found:
        job = done.plan.jobs[curve.run]
        assert curve.horizon == (None if curve.arm == "constant" else job.until / UNIT)
        moments = [round(moment.amount) for moment in job.recipe.evaluate.at]
        first = sorted({m + -m % PER_STEP for m in moments if m <= job.until})
        assert list(curve.tokens) == first, "the first step that reaches each"
        assert curve.forked_at == (job.leave.begins if job.leave else None)


def test_sequences_are_of_the_report(done: Study) -> None:
    found = done.results()
    expected = {(o.run, o.horizon, o.weights) for o in found.observations if o.phase == "report"}
    assert found.sequences.keys() == expected
    for o in found.observations:
        if o.phase == "report":
            each = found.sequences[o.run, o.horizon, o.weights]
            assert each.shape == (SEQUENCES,)
            assert float(np.mean(each)) == pytest.approx(o.loss, abs=1e-6)
    assert done.results(sequences=False).sequences == {}


def test_facts(done: Study) -> None:
    found = done.results().facts
    assert found["batch"] == "4 × 16 = 64 tokens a step"
    assert found["steps"] == "20 a unit"
    assert "device cpu" in found["decided once"]
    assert "anytrain 0.1.0" in found["versions"]


def test_what_an_arm_has_of_its_own_is_not_the_study_s(tmp_path: Path) -> None:
    own = {**STUDY["arms"]["constant"], "settings": {"optimizer.weight_decay": 0.5}}
    arms = {**STUDY["arms"], "constant": own}
    found = facts(Design(write(tmp_path, arms=arms)), None)
    assert "weight decay 0.5" not in found["optimizer"]
    assert found["constant alone"] == "optimizer.weight_decay 0.5"
    assert "cosine alone" not in found


def test_the_directory_alone_gives_the_same(done: Study) -> None:
    """`report` reads the design that was kept."""
    done.keep_design()
    again = Study(Design(done.out / Study.DESIGN), done.out)
    assert list(again.plan.jobs) == list(done.plan.jobs)
    assert again.results().observations == done.results().observations
    assert again.results().choices == done.results().choices


# --- rules added later -----------------------------------------------------------------------

MORE = {"averages": {**RECIPE["averages"], "later": "anytime_ema:f=3"}}


def with_rule(done: Study, tmp_path: Path) -> Study:
    return Study(Design(write(tmp_path, MORE)), done.out)


def test_a_rule_that_comes_later_is_trained_again_where_nothing_was_kept(
    done: Study, tmp_path: Path
) -> None:
    """The formula's runs kept nothing: what tuned first, and not what is chosen when it is there.

    Only runs without a horizon, and their choices wait.
    """
    study = with_rule(done, tmp_path)
    assert chosen(study, "constant") == {}
    assert chosen(study, "cosine") != {}
    late = [job for job in study.plan.jobs.values() if "~" in job.name]
    assert {job.of for job in late} == {job.name for job in tuning(study, "constant")}
    for job in late:
        assert job.rebuilds is None
        assert list(job.recipe.averages) == ["later"]
        assert job.until == 2 * UNIT
        assert not study.over(job)
    assert all(one.replayed == {"later": "anytime_ema:f=3"} for one in study.later())


def test_its_losses_join_those_of_the_run(done: Study, tmp_path: Path) -> None:
    def best(job: Job, weights: str, tokens: float) -> float:
        return loss(job, weights, tokens) - (0.5 if weights == "later" else 0.0)

    study = with_rule(done, tmp_path)
    fake_all(study, formula=best)
    assert set(chosen(study, "constant").values()) == {("schedule.peak=0.02", "later")}
    found = study.results()
    rows = [o for o in found.observations if o.arm == "constant"]
    names = {o.weights for o in rows}
    assert names == {"raw", "ema25", "uniform", "later"}
    assert not any("~" in o.run for o in rows)
    keys = {key for key in found.sequences if key[2] == "later"}
    assert len(keys) == 2 * 2, "two seeds, two horizons"


def test_a_replay_that_is_another_run_is_refused(done: Study, tmp_path: Path) -> None:
    study = with_rule(done, tmp_path)
    job = next(job for job in study.plan.jobs.values() if "~" in job.name)
    fake(study, job, lambda job, weights, tokens: loss(job, weights, tokens) + 1e-9)
    with pytest.raises(UserError, match="trained again, its loss at step") as error:
        study.results()
    assert job.of in str(error.value)


# --- the tidy table --------------------------------------------------------------------------


def test_a_rule_of_another_meaning_is_refused(done: Study, tmp_path: Path) -> None:
    """Under its old name it would mix two averages."""
    for run in sorted((done.out / "runs").iterdir()):
        identity = json.loads((run / "run.json").read_text())
        identity["averages"] = {"ema25": {"rule": "anytime_ema:f=25", "since": 0.0}}
        (run / "run.json").write_text(json.dumps(identity))
    other = {"averages": {"ema25": "anytime_ema:f=3", "uniform": "uniform"}}
    with pytest.raises(UserError, match="'ema25' is anytime_ema:f=3 in the recipe and anytime_ema"):
        Study(Design(write(tmp_path / "other", other)), done.out)
    Study(Design(write(tmp_path / "same")), done.out)


def test_a_horizon_that_comes_between_is_refused(done: Study, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"was not evaluated at 1\.5 units"):
        Study(Design(write(tmp_path / "other", horizons=[1.0, 1.5, 2.0])), done.out)


def test_the_table_is_the_observations(done: Study, tmp_path: Path) -> None:
    found = done.results()
    paths = tidy.write(found, tmp_path)
    assert [path.name for path in paths] == ["table.parquet", "table.csv"]
    table = pq.read_table(paths[0]).to_pylist()
    with paths[1].open(newline="") as file:
        text = list(csv.DictReader(file))
    assert len(table) == len(text) == len(found.observations)
    for row, line, o in zip(table, text, found.observations, strict=True):
        assert {key: value for key, value in row.items() if key != "chosen"} == vars(o)
        assert line == {key: str(value) for key, value in row.items()}
    before = [path.read_bytes() for path in paths]
    tidy.write(found, tmp_path)
    assert before == [path.read_bytes() for path in paths]


def test_what_was_chosen_is_a_column(done: Study) -> None:
    choices = [c for c in done.choices if not (c.arm == "constant" and c.horizon == 1.0)]
    other = replace(done.choices[0], horizon=1.0, weights="uniform")
    assert other.arm == "constant"
    found = replace(done.results(), choices=(*choices, other))
    rows = {(r["arm"], r["setting"][14:], r["horizon"], r["weights"]): r["chosen"]
            for r in tidy.rows(found) if r["phase"] == "report"}  # fmt: skip
    assert rows["constant", "0.02", 1.0, "ema25"] == "all"
    assert rows["constant", "0.02", 1.0, "uniform"] == "horizon"
    assert rows["constant", "0.02", 2.0, "ema25"] == "both"
    assert rows["constant", "0.02", 2.0, "raw"] == ""
    assert rows["cosine", "0.02", 2.0, "raw"] == "horizon"
