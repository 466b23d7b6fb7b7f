"""The loss of every held-out sequence: kept at the moments asked for, of the half asked for."""

from pathlib import Path

import pytest
import torch

from anytrain.errors import UserError
from anytrain.evaluations import evaluations
from anytrain.losses import kept
from anytrain.rundir import RunDir
from anytrain.training.evaluate import half
from tiny import cli


def test_halves_share_nothing_and_miss_nothing() -> None:
    held_out = torch.arange(9)
    selection, report = half(held_out, "selection"), half(held_out, "report")
    assert sorted([*selection.tolist(), *report.tolist()]) == held_out.tolist()
    assert half(held_out, "all") is held_out
    with pytest.raises(UserError, match="3 held-out sequences cannot be split"):
        half(held_out[:3], "report")


def trained(recipe: Path, run: Path, *settings: str) -> RunDir:
    said = cli("train", recipe, "--run", run, "--until", "5", "evaluate.at=[4]", *settings)
    assert said.code == 0, said.err
    return RunDir(run)


def test_their_mean_is_the_loss(recipe_file: Path, tmp_path: Path) -> None:
    found = {}
    for split in ("all", "selection", "report"):
        settings = f"evaluate.split={split}", "evaluate.each=true"
        run = trained(recipe_file, tmp_path / split, *settings)
        asked = next(e for e in evaluations(run) if e.step == 4)
        each = kept(run, 4)
        assert each.keys() == asked.losses.keys()
        for name, loss in asked.losses.items():
            assert float(each[name].mean()) == pytest.approx(loss, rel=1e-6)
        found[split] = each
    for name, each in found["all"].items():
        assert (each[0::2] == found["selection"][name]).all()
        assert (each[1::2] == found["report"][name]).all()


def test_only_where_asked(recipe_file: Path, tmp_path: Path) -> None:
    run = trained(recipe_file, tmp_path / "run")
    assert kept(run, 4) == {}
    assert not (run.path / "losses").exists()


@pytest.mark.parametrize("lost", ["record", "losses", "neither"])
def test_what_a_kill_took_is_made_up(lost: str, recipe_file: Path, tmp_path: Path) -> None:
    """The checkpoint of a step is saved before it is evaluated: a kill may come between."""
    run, settings = tmp_path / "run", ["evaluate.each=true", "checkpoint.at=[4]"]
    first = cli("train", recipe_file, "--run", run, "--until", "4", "evaluate.at=[4]", *settings)
    assert first.code == 0, first.err
    there = RunDir(run)
    whole = {e.step: e.losses for e in evaluations(there)}[4]
    if lost == "record":
        metrics = run / "metrics.jsonl"
        lines = metrics.read_text().splitlines(keepends=True)
        metrics.write_text("".join(line for line in lines if '"val/loss/' not in line))
    if lost == "losses":
        (run / "losses" / "step-000000004.safetensors").unlink()
    again = cli("train", "--run", run, "--until", "6")
    assert again.code == 0, again.err
    found = [e for e in evaluations(there) if e.step == 4]
    assert [e.losses for e in found] == [whole]
    assert kept(there, 4).keys() == whole.keys()
    records = [record for record in there.metrics() if record["step"] == 4 and "eval_why" in record]
    assert len(records) == (2 if lost == "losses" else 1)
