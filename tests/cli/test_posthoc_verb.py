"""`anytrain merge` of one moment of a run: averages rebuilt, widths searched, weights combined."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from anytrain.grammar import weights_name
from anytrain.merging.rebuild import history
from anytrain.references import open_weights
from anytrain.rules import AnytimeEma, PowerEma
from anytrain.rundir import RunDir
from anytrain.selection.combine import _moved, combine, mixture, of_checkpoint
from anytrain.selection.scoring import Scorer
from anytrain.selection.widths import best_of, search, tensors_of
from anytrain.training.evaluate import Loss
from tiny import cli, write_recipe

AVERAGES = {"f12": "anytime_ema:f=12", "f25": "anytime_ema:f=25", "p": "power_ema:sigma_rel=0.07"}
STEPS = 700


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """Seven hundred steps, snapshots on, a checkpoint at 600 and at the end."""
    folder = tmp_path_factory.mktemp("posthoc")
    made = write_recipe(folder / "r.toml", corpus, snapshots={}, averages=AVERAGES,
                        checkpoint={"every": "300-steps"}, unit="1T-tokens")  # fmt: skip
    assert cli("train", made, "--run", folder / "run", "--until", str(STEPS)).code == 0
    return folder / "run"


@pytest.fixture(scope="module")
def scorer(run: Path) -> Scorer:
    return Scorer(RunDir(run))


def online(text: str) -> dict[str, Tensor]:
    with open_weights(text) as weights:
        return {name: tensor.clone() for name, tensor in weights.tensors.items()}


def furthest(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The largest difference, over the largest weight of its tensor."""
    assert a.keys() == b.keys()
    return max(float((a[k] - b[k]).abs().max() / b[k].abs().max()) for k in a)


def _resized(checkpoint: Path) -> None:
    """Make the manifest agree with a state.json that was changed."""
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest["files"]["state.json"]["bytes"] = (checkpoint / "state.json").stat().st_size
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))


# --- rebuilding ------------------------------------------------------------------------------


def test_a_rebuilt_average_is_the_online_one(run: Path, tmp_path: Path, scorer: Scorer) -> None:
    """The kernel law, to the error of the profile; its validation loss within 1e-3 nats."""
    without = shutil.copytree(run, tmp_path / "without")  # its checkpoints would say the answer
    for checkpoint in RunDir(without).checkpoints():
        state = json.loads((checkpoint.path / "state.json").read_text())
        state["averages"]["rules"] = {}
        (checkpoint.path / "state.json").write_text(json.dumps(state, indent=1))
        _resized(checkpoint.path)
    for name, rule in AVERAGES.items():
        said = cli("merge", f"{without}@{STEPS}", "--rule", rule, "--out", tmp_path / name)
        assert said.code == 0, said.err
        found = re.search(r"error of the profile ([\d.]+)%", said.out)
        assert found is not None
        assert float(found[1]) < 1.5
        rebuilt = load_file(tmp_path / name / "model.safetensors")
        kept = online(f"{run}@{STEPS}:{name}")
        moved = furthest(online(f"{run}@{STEPS}:raw"), kept)
        assert furthest(rebuilt, kept) < 0.05 * moved
        losses = [scorer.losses(tensors, "all").mean() for tensors in (rebuilt, kept)]
        assert float(losses[0]) == pytest.approx(float(losses[1]), abs=1e-3)
        record = json.loads((tmp_path / name / "merge.json").read_text())
        assert record["rule"] == rule
        assert record["profile_error"] < 0.015
        assert sum(row["weight"] for row in record["inputs"]) == pytest.approx(1, abs=1e-9)


def test_a_stored_track_is_itself(run: Path, tmp_path: Path) -> None:
    rule = "power_ema:sigma_rel=0.061"
    assert cli("merge", f"{run}@{STEPS}", "--rule", rule, "--out", tmp_path / "m").code == 0
    with history(weights_name(f"{run}@{STEPS}")) as past:
        own = next(one for one in past.kept if one.t == STEPS and one.track == "track/0.061/")
        boxes = {name: entry.boxes[0] for name, entry in own.entries().items()}
    merged = load_file(tmp_path / "m" / "model.safetensors")
    for name, box in boxes.items():
        raw = np.fromfile(box.file, np.float32, int(np.prod(box.shape)), offset=box.offset)
        assert merged[name].numpy().tobytes() == raw.tobytes()


def test_at_a_step_that_has_snapshots_alone(run: Path, tmp_path: Path) -> None:
    """No checkpoint is at 178, a snapshot is; tokens name the same moment."""
    moments = (f"{run}@178", f"{run}@{178 * 64}-tokens")
    for moment, out in zip(moments, ("a", "b"), strict=True):
        said = cli("merge", moment, "--rule", "anytime_ema:f=6", "--out", tmp_path / out)
        assert said.code == 0, said.err
        assert "at step 178" in said.out
    files = [(tmp_path / out / "model.safetensors").read_bytes() for out in ("a", "b")]
    assert files[0] == files[1]
    with history(weights_name(f"{run}@178")) as past:
        assert max(one.t for one in past.kept) == 178
        assert past.rebuild(AnytimeEma(6)).fit.error < 0.02


def test_averages_of_a_run_without_snapshots_do(tmp_path: Path, corpus: Path) -> None:
    """The default averages of a checkpoint are enough for one between them."""
    made = write_recipe(tmp_path / "r.toml", corpus, averages={
        name: f"anytime_ema:f={name}" for name in ("6.25", "12.5", "25")})  # fmt: skip
    assert cli("train", made, "--run", tmp_path / "run", "--until", "200").code == 0
    said = cli("merge", tmp_path / "run", "--rule", "anytime_ema:f=15", "--out", tmp_path / "m")
    assert said.code == 0, said.err
    assert "run@200:12.5" in said.out
    assert "snapshots@" not in said.out


def test_the_last_moment_is_meant_where_none_is_named(run: Path, tmp_path: Path) -> None:
    said = cli("merge", run, "--rule", "anytime_ema:f=12", "--out", tmp_path / "m")
    assert said.code == 0, said.err
    assert f"at step {STEPS}" in said.out


def test_what_cannot_be_rebuilt_is_refused(run: Path, tmp_path: Path, corpus: Path) -> None:
    out = tmp_path / "m"
    said = cli("merge", f"{run}@{STEPS}", "--rule", "ema:half_life=2-steps", "--out", out)
    assert said.code == 2
    assert "at most 5.0% is valid" in said.err
    assert "ema:half_life=2-steps" in said.err
    assert not out.exists()
    narrow = ("merge", f"{run}@{STEPS}", "--rule", "ema:half_life=2-steps", "--out", out)
    assert cli(*narrow, "--max-error", "3").code == 0
    shutil.rmtree(out)

    plain = write_recipe(tmp_path / "r.toml", corpus, averages={})
    assert cli("train", plain, "--run", tmp_path / "plain", "--until", "3").code == 0
    said = cli("merge", tmp_path / "plain", "--rule", "anytime_ema:f=12", "--out", out)
    assert said.code == 2
    assert "keeps no snapshots and no averages" in said.err
    for option in (("--search", "val"), ("--combine",)):
        said = cli("merge", f"{run}@1..600", *option)
        assert said.code == 2
        assert "takes one moment of one run" in said.err


# --- the width -------------------------------------------------------------------------------


def test_the_width_is_found_and_drawn(run: Path, tmp_path: Path, scorer: Scorer) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "width.png"
    said = cli("merge", f"{run}@{STEPS}", "--search", "val", "--curve", picture,
               "--out", tmp_path / "m", "--json")  # fmt: skip
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert picture.read_bytes().startswith(b"\x89PNG")
    with picture.with_suffix(".csv").open() as file:
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    best = min(rows, key=lambda row: row["selection"])
    assert found["sigma_rel"] == best["sigma_rel"]
    assert found["loss"] == pytest.approx(best["report"], abs=1e-6)
    assert len(rows) > 8  # the search went on around the best of the grid
    assert rows == sorted(rows, key=lambda row: row["sigma_rel"])
    merged = load_file(tmp_path / "m" / "model.safetensors")
    report = Loss.of(scorer.losses(merged, "report"))
    assert report.mean == pytest.approx(best["report"], abs=1e-5)


def test_every_width_is_the_loss_of_what_it_names(run: Path, scorer: Scorer) -> None:
    with history(weights_name(f"{run}@{STEPS}")) as past:
        widths = search(past, scorer, most=0.05)
        one = widths[2]
        tensors = tensors_of(past.rebuild(PowerEma(one.sigma_rel)))
    assert Loss.of(scorer.losses(tensors, "selection")).mean == pytest.approx(one.selection.mean)
    assert best_of(widths).selection.mean == min(w.selection.mean for w in widths)


# --- a combination ---------------------------------------------------------------------------


def test_a_combination_is_no_worse_where_it_was_chosen(
    run: Path, tmp_path: Path, scorer: Scorer
) -> None:
    rundir = RunDir(run)
    candidates = of_checkpoint(rundir, rundir.checkpoints()[-1])
    found = combine(scorer, candidates)
    assert sum(found.shares.values()) == pytest.approx(1)
    assert all(share > 0 for share in found.shares.values())
    mixed = mixture(candidates, found.shares)
    alone = {n: float(scorer.losses(t, "selection").mean()) for n, t in candidates.items()}
    assert float(scorer.losses(mixed, "selection").mean()) <= min(alone.values()) + 2e-4
    assert found.best == min(alone, key=lambda name: alone[name])
    assert found.gain.mean == pytest.approx(found.best_loss.mean - found.loss.mean, abs=1e-9)

    said = cli("merge", f"{run}@{STEPS}", "--combine", "--out", tmp_path / "m", "--json")
    assert said.code == 0, said.err
    merged = load_file(tmp_path / "m" / "model.safetensors")
    assert furthest(merged, mixed) < 1e-6
    assert json.loads(said.out)["loss"] == pytest.approx(found.loss.mean, abs=1e-6)


def test_the_slope_in_a_share_is_that_of_the_loss(run: Path, scorer: Scorer) -> None:
    from anytrain.selection.combine import _slopes

    rundir = RunDir(run)
    candidates = of_checkpoint(rundir, rundir.checkpoints()[-1])
    shares = dict.fromkeys(candidates, 1 / len(candidates))
    _, slopes = _slopes(scorer, candidates, shares)
    step = 0.05
    for a, b in (("raw", "f25"), ("p", "f12")):
        ends = []
        for sign in (1, -1):
            moved = shares | {a: shares[a] + sign * step, b: shares[b] - sign * step}
            ends.append(float(scorer.losses(mixture(candidates, moved), "selection").mean()))
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(
            slopes[a] - slopes[b], rel=0.05, abs=2e-4
        )


def test_a_step_stays_in_the_simplex_and_goes_down_the_slope() -> None:
    moved = _moved({"a": 0.5, "b": 0.3, "c": 0.2}, {"a": 1.0, "b": -1.0, "c": 0.0}, 0.5)
    assert sum(moved.values()) == pytest.approx(1)
    assert moved["b"] > 0.3
    assert moved["a"] < 0.5


def test_halves_share_nothing_and_are_everything(scorer: Scorer) -> None:
    halves = [scorer.splits[half] for half in ("selection", "report")]
    together = torch.cat(halves)
    assert len(together) == len(scorer.splits["all"])
    rows = {bytes(row.numpy().tobytes()) for row in scorer.splits["all"]}
    assert {bytes(row.numpy().tobytes()) for row in together} == rows
