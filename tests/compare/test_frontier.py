"""The frontier of runs written by hand."""

import json
from pathlib import Path

import pytest

from anytrain.compare.frontier import frontier, horizon_kind, unit_tokens, warmup_tokens
from anytrain.errors import UserError
from anytrain.evaluations import best_so_far, evaluations
from anytrain.files import append_line
from anytrain.rundir import RunDir
from fake_runs import PER_STEP, UNIT, evaluation, losses, write_cooldown, write_run


def test_rows_are_the_doublings_of_the_unit(trunk: RunDir, cooldowns: list[RunDir]) -> None:
    found = frontier(trunk, cooldowns)
    assert [row.units for row in found.rows] == [1, 2, 4, 8]
    assert [row.step for row in found.rows] == [250, 500, 1000, 2000]
    assert [row.tokens for row in found.rows] == [s * PER_STEP for s in (250, 500, 1000, 2000)]
    assert found.weights == ["raw", "ema6.25", "ema12.5", "ema25", "ema50", "ema100"]
    assert found.kinds == ["cooldown"]
    for row in found.rows:
        assert row.step is not None
        assert row.losses == losses(row.step)
        assert row.best == ("ema25", losses(row.step)["ema25"])
        assert row.minus_raw == pytest.approx(row.best[1] - row.losses["raw"])
    assert [row.minus("cooldown") for row in found.rows] == pytest.approx([-0.03, -0.03, -0.02, 0])
    assert found.notes == ()


def test_a_moment_between_units_is_the_last_row(tmp_path: Path) -> None:
    found = frontier(write_run(tmp_path / "a", end=700))
    assert [row.units for row in found.rows] == [1, 2, 2.8]
    assert frontier(write_run(tmp_path / "b", end=100)).rows[0].units == pytest.approx(0.4)


def test_a_unit_without_an_evaluation_has_no_row(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", evaluated={500: {"raw": 3.0}, 1999: {"raw": 2.0}}, end=2000)
    assert [row.step for row in frontier(run).rows] == [500, 1999]


def test_only_the_step_that_reaches_a_moment_counts(tmp_path: Path) -> None:
    """A unit that is no multiple of a step is read at the first step past it, not before it."""
    run = write_run(tmp_path / "a", evaluated={249: {"raw": 3.1}, 250: {"raw": 3.0}}, end=260)
    recipe = run.path / "recipe.toml"
    tokens = UNIT * PER_STEP - 100
    recipe.write_text(recipe.read_text().replace('"250-steps"', f'"{tokens}-tokens"'))
    (row,) = frontier(run).rows
    assert (row.tokens, row.step, row.losses) == (tokens, 250, {"raw": 3.0})


def test_the_best_of_several_branches_of_a_kind_counts(
    trunk: RunDir, cooldowns: list[RunDir], tmp_path: Path
) -> None:
    better = write_cooldown(tmp_path / "better", 500, 3.6)
    cosine = write_run(
        tmp_path / "cosine",
        end=500,
        schedule="cosine:horizon=500-steps,peak=5e-3",
        evaluated={500: {"raw": 3.9}},
    )
    found = frontier(trunk, [*cooldowns, better, cosine])
    assert found.kinds == ["cooldown", "cosine"]
    row = found.rows[1]
    assert row.decayed["cooldown"].name == "better"
    assert row.minus("cooldown") == pytest.approx(3.65 - 3.6)
    assert row.minus("cosine") == pytest.approx(3.65 - 3.9)
    assert found.rows[0].minus("cosine") is None
    assert len(found.branches) == 6


def test_a_branch_short_of_its_horizon_is_left_out_and_said(trunk: RunDir, tmp_path: Path) -> None:
    branch = write_run(tmp_path / "half", end=1900, schedule="cosine:horizon=2000-steps,peak=5e-3")
    found = frontier(trunk, [branch])
    assert found.branches == ()
    assert found.notes == ("half is left out: it is at step 1900 of its horizon of 2000",)


def test_a_branch_off_the_units_gets_a_row(trunk: RunDir, tmp_path: Path) -> None:
    found = frontier(trunk, [write_cooldown(tmp_path / "cd", 631, 3.5)])
    assert [row.step for row in found.rows] == [250, 500, 631, 1000, 2000]
    assert found.rows[2].minus("cooldown") == pytest.approx(losses(631)["ema25"] - 3.5)


def test_another_run_without_a_horizon_is_read_at_the_same_moments(
    trunk: RunDir, tmp_path: Path
) -> None:
    other = write_run(tmp_path / "other", evaluated={500: {"raw": 4.0, "schedule_free": 3.5}})
    found = frontier(trunk, [other])
    assert [row.others.get("other") for row in found.rows] == [
        None,
        ("schedule_free", 3.5),
        None,
        None,
    ]


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    a = write_run(tmp_path / "x" / "demo", end=300)
    b = write_run(tmp_path / "y" / "demo", end=300)
    assert list(frontier(a, [b]).others) == [str(b.path)]


def test_another_validation_set_is_said(trunk: RunDir, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", evaluated={})
    append_line(other.path / "metrics.jsonl", evaluation(2000, {"raw": 2.0}) | {"val/tokens": 1000})
    (note,) = frontier(trunk, [other]).notes
    assert note.startswith("other is validated on 1000 tokens and the trunk on 500000")


def test_a_step_evaluated_twice_is_one_evaluation(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", evaluated={10: {"raw": 5.0, "ema25": 4.0}}, end=10)
    append_line(run.path / "metrics.jsonl", evaluation(10, {"raw": 5.0}, "stop"))
    (found,) = evaluations(run)
    assert found.losses == {"raw": 5.0, "ema25": 4.0}
    assert found.best == ("ema25", 4.0)


def test_a_torn_last_line_is_not_a_record(trunk: RunDir) -> None:
    before = evaluations(trunk)
    with (trunk.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2001, "tokens": 8196096, "val/loss/raw": 2.')
    assert evaluations(trunk) == before


def test_a_damaged_line_is_named(trunk: RunDir) -> None:
    path = trunk.path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "val/loss/raw": nothing}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2 is damaged"):
        evaluations(trunk)


def test_without_metrics_there_is_nothing(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", evaluated={})
    assert frontier(run).rows == ()
    (run.path / "metrics.jsonl").unlink()
    assert frontier(run).rows == ()
    assert best_so_far(evaluations(run)) is None


@pytest.mark.parametrize(
    ("spec", "kind", "warmup"),
    [
        ("constant:peak=1e-3,warmup=100-steps", None, 100),
        ("constant:peak=1e-3", None, 0),
        ("my_module.Mine:peak=1e-3", None, 0),
        ("wsd:horizon=100-steps,peak=1e-3,warmup=40960-tokens", "wsd", 10),
        (
            "cooldown:horizon=9-steps,trunk=(constant:peak=1,warmup=7-steps),start=8-steps",
            "cooldown",
            7,
        ),
        ({"kind": "cosine", "horizon": "9-steps", "peak": 1, "warmup": "2-steps"}, "cosine", 2),
    ],
)
def test_schedules_are_recognised_by_their_kind(
    spec: object, kind: str | None, warmup: float
) -> None:
    recipe = {"schedule": spec, "train": {"batch": 16, "context": 256}}
    assert horizon_kind(recipe) == kind
    assert warmup_tokens(recipe) == warmup * PER_STEP


def test_the_unit_counts_at_the_reference_batch() -> None:
    recipe = {"unit": "250-steps", "train": {"batch": 64, "reference_batch": 16, "context": 256}}
    assert unit_tokens(recipe) == 250 * 16 * 256
    assert unit_tokens(recipe | {"unit": "3.2768B-tokens"}) == 3_276_800_000


def test_lines_that_are_no_evaluation_are_not_parsed(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", evaluated={}, end=1)
    path = run.path / "metrics.jsonl"
    path.write_text("not json\n" + json.dumps(evaluation(1, {"raw": 2.0})) + "\n")
    assert len(evaluations(run)) == 1
