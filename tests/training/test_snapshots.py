"""Snapshots: what they hold, when they are taken, and that nothing which happens to a run tells."""

import errno
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open

from anytrain.averaging import canonical_tensors
from anytrain.averaging.snapshots import StoredSnapshot, snapshots
from anytrain.errors import UserError
from anytrain.rules import PowerEma, weights
from anytrain.rundir import RunDir
from anytrain.training import checkpoint, recipes, snapshot
from anytrain.training.run import Clock
from tiny import (
    Tiny,
    at,
    cli,
    differing,
    evaluations,
    events,
    files,
    recipe,
    saved_bits,
    steps_kept,
    table,
    write_recipe,
)

MOMENTS = [1, 2, 3, 4, 5, 6, 7, 8, 10, 12]  # 13 a decade
TWO = {"tracks": [0.1, 0.25], "per_decade": 13}


@pytest.fixture
def toml(tmp_path: Path, corpus: Path) -> Path:
    return write_recipe(tmp_path / "r.toml", corpus, snapshots=TWO, unit="1T-tokens")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """Twelve steps in one sitting, a checkpoint after each third."""
    folder = tmp_path_factory.mktemp("calm")
    made = write_recipe(folder / "r.toml", corpus, snapshots=TWO, unit="1T-tokens",
                        checkpoint={"every": "3-steps", "newest": 9})  # fmt: skip
    assert cli("train", made, "--run", folder / "run", "--until", "12").code == 0
    return folder / "run"


@pytest.fixture
def copied(calm: Path, run: Path) -> Path:
    return Path(shutil.copytree(calm, run))


def taken(run: Path) -> list[int]:
    return [found.step for found in snapshots(RunDir(run))]


def since(found: StoredSnapshot) -> dict[str, float]:
    return {name: track.since for name, track in found.tracks.items()}


def read(found: StoredSnapshot, track: str) -> dict[str, NDArray[np.float32]]:
    """Tensors of a track, by the places that `entries` gives."""
    tensors = {}
    for name, entry in found.entries(track).items():
        (box,) = entry.boxes
        flat = np.fromfile(box.file, "<f4", entry.elements, offset=box.offset)
        tensors[name] = flat.reshape(entry.shape)
    return tensors


# --- what they hold --------------------------------------------------------------------------


def test_a_snapshot_is_the_rule_applied_to_the_iterates(corpus: Path, tmp_path: Path) -> None:
    """The kernel law, over a run whose batch doubles half way; the tolerance is that law's."""
    tracks = {"snapshots": {"tracks": [0.03, 0.1, 0.25], "per_decade": 13}}
    tiny, rundir = Tiny.begin(recipe(corpus, **tracks)), RunDir(tmp_path)
    iterates, times, steps = [flat(live(tiny))], [0.0], []
    for batch in (4, 8):
        sized = (f"train.batch={batch}", "train.reference_batch=4")
        tiny.run.recipe = recipe(corpus, *sized, **tracks)
        for _ in range(10):
            before = Clock(**vars(tiny.run.clock))
            tiny.take(1)
            iterates.append(flat(live(tiny)))
            times.append(tiny.run.clock.t)
            if snapshot.due(tiny.run, before):
                steps.append(snapshot.take(tiny.run, rundir).step)
    later = [11, 12, 14, 15, 17, 20]  # t = 12, 14, 18 for 17, 20, 24, 30
    assert steps == [*MOMENTS[:-1], *later]
    stacked = np.stack(iterates)
    for found in snapshots(rundir):
        found.verify()
        assert found.t == times[found.step]
        for name, track in found.tracks.items():
            assert (name, track.since) == (str(track.rule.sigma_rel), 0.0)
            kernel = weights(track.rule, times[1 : found.step + 1])
            exact = kernel @ stacked[: found.step + 1]
            tolerance = 2 * len(kernel) * 2**-24 * float(np.abs(stacked).max())
            assert np.abs(flat(read(found, name)) - exact).max() <= tolerance
            if found.step >= 10:  # and is not within it for a width a tenth larger
                other = weights(PowerEma(1.1 * track.rule.sigma_rel), times[1 : found.step + 1])
                off = np.abs(flat(read(found, name)) - other @ stacked[: found.step + 1]).max()
                assert off > tolerance


def live(tiny: Tiny) -> dict[str, Any]:
    return {n: t.detach().numpy() for n, t in canonical_tensors(tiny.run.model).items()}


def flat(tensors: dict[str, Any]) -> NDArray[np.float64]:
    return np.concatenate([np.asarray(t, np.float64).ravel() for t in tensors.values()])


def test_the_directory(calm: Path) -> None:
    assert taken(calm) == MOMENTS
    last = snapshots(RunDir(calm))[-1]
    assert last.path == calm / "snapshots/step-000000012"
    manifest = json.loads((last.path / "manifest.json").read_text())
    assert set(manifest) == {"format", "step", "tokens", "t", "tracks", "files"}
    assert (manifest["format"], last.step, last.tokens, last.t) == (1, 12, 768, 12.0)
    assert manifest["tracks"] == {
        "0.1": {"sigma_rel": 0.1, "since": 0.0, "file": "track-0.1.safetensors"},
        "0.25": {"sigma_rel": 0.25, "since": 0.0, "file": "track-0.25.safetensors"},
    }
    assert set(manifest["files"]) == {"track-0.1.safetensors", "track-0.25.safetensors"}
    assert {p.name for p in last.path.iterdir()} == {"manifest.json", *manifest["files"]}
    saved = checkpoint.read_tensors(at(calm, 12).path)
    for name, track in last.tracks.items():
        with safe_open(track.file, framework="pt") as file:  # anyone can read it
            found = {f"track/{name}/{key}": file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        assert found.keys() == {key for key in saved if key.startswith(f"track/{name}/")}
        assert all(torch.equal(found[key], saved[key]) for key in found)


def test_tracks_are_no_candidates(calm: Path, tmp_path: Path) -> None:
    assert at(calm, 12).weights == ["raw", "ema25", "uniform"]
    assert [key for r in evaluations(calm) for key in r if "0.1" in key or "0.25" in key] == []
    said = cli("release", f"{calm}:0.1", "--out", tmp_path / "out")
    assert said.code == 2
    # a file of their own in a checkpoint: who reads an average does not read them
    groups = []
    for path in at(calm, 12).path.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            groups.append({checkpoint._group(key) for key in file.keys()})  # noqa: SIM118
    assert {"track/0.1"} in groups
    assert {"track/0.25"} in groups


def test_they_touch_nothing_else(calm: Path, run: Path, corpus: Path, tmp_path: Path) -> None:
    plain = write_recipe(tmp_path / "plain.toml", corpus, unit="1T-tokens")
    assert cli("train", plain, "--run", run, "--until", "12").code == 0
    assert not (run / "snapshots").exists()
    without = saved_bits(run, 12, ["recipe"])
    with_them = saved_bits(calm, 12, ["recipe", "tracks"])
    assert differing(without, {k: v for k, v in with_them.items() if k[:6] != "track/"}) == []


def test_half_the_bytes(run: Path, toml: Path) -> None:
    assert cli("train", toml, "--run", run, "--until", "3", "snapshots.dtype=bfloat16").code == 0
    last = snapshots(RunDir(run))[-1]
    assert {entry.dtype for entry in last.entries("0.1").values()} == {"BF16"}
    saved = checkpoint.read_tensors(at(run, 3).path)
    with safe_open(last.tracks["0.1"].file, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118
            assert torch.equal(file.get_tensor(key), saved[f"track/0.1/{key}"].bfloat16())


# --- prefix and resume -----------------------------------------------------------------------


def test_prefix(calm: Path, run: Path, toml: Path) -> None:
    """Whether a run stops at 6 or goes on to 12 is not told by what it left until 6."""
    assert cli("train", toml, "--run", run, "--until", "6").code == 0
    longer = {k: v for k, v in files(calm / "snapshots").items() if int(k[5:14]) <= 6}
    assert files(run / "snapshots") == longer
    assert len(longer) == 3 * 6


def test_many_sittings_are_one(calm: Path, run: Path, toml: Path) -> None:
    for until in ("1", "2", "7", "10", "12"):
        assert cli("train", toml, "--run", run, "--until", until).code == 0
    assert files(run / "snapshots") == files(calm / "snapshots")
    assert differing(saved_bits(run, 12, ["recipe"]), saved_bits(calm, 12, ["recipe"])) == []


class Ended(BaseException):
    """The process ends here."""


def ends(module: Any, name: str, call: int, after: bool) -> Callable[[pytest.MonkeyPatch], None]:
    """A patch with which the process ends at a call of a function, before or after its work."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        whole, calls = getattr(module, name), 0

        def ending(*arguments: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == call and not after:
                raise Ended
            found = whole(*arguments, **named)
            if calls == call:
                raise Ended
            return found

        monkeypatch.setattr(module, name, ending)

    return patch


ENDS = {
    "before a snapshot": ends(snapshot, "take", 6, False),
    "after it, before the checkpoint of its step": ends(snapshot, "take", 6, True),
    "between two tracks": ends(snapshot, "write_file", 8, True),
    "before its manifest": ends(snapshot, "seal", 5, False),
    "before it has its name": ends(snapshot, "seal", 5, True),
    "in a checkpoint": ends(checkpoint, "_write_tensors", 2, True),
    "two steps after a checkpoint": ends(snapshot, "take", 8, True),
}


@pytest.mark.parametrize("name", ENDS)
def test_an_end_anywhere(
    name: str, calm: Path, run: Path, toml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed there and begun again, a run leaves the files that one which was left alone leaves."""
    command = ("train", toml, "--run", run, "--until", 12, "checkpoint.every=3-steps")
    ENDS[name](monkeypatch)
    with pytest.raises(Ended):
        cli(*command)
    assert 2 < len(taken(run)) < len(MOMENTS)
    monkeypatch.undo()
    assert cli(*command).code == 0
    assert files(run / "snapshots") == files(calm / "snapshots")
    assert [path for path in (run / "snapshots").iterdir() if path.name[0] == "."] == []


def test_a_run_that_went_back_keeps_nothing_of_what_it_lost(copied: Path) -> None:
    """Even if the steps that come now are others, and what it was writing is never taken again."""
    before = files(copied / "snapshots")
    (copied / "snapshots/.writing-step-000000011").mkdir()
    for step in (9, 12):
        (at(copied, step).path / "state.json").write_text("{")
    said = cli("train", "--run", copied, "--until", "9", "train.batch=8", "snapshots.tracks=[0.25]")
    assert "going back to step 6" in said.err
    assert taken(copied) == [1, 2, 3, 4, 5, 6, 7, 8, 9]  # t = 8, 10 and 12
    assert len(list((copied / "snapshots").iterdir())) == 9
    after = files(copied / "snapshots")
    assert {k for k, v in after.items() if before.get(k) == v} == {
        k for k in before if int(k[5:14]) <= 6
    }
    assert [since(found) for found in snapshots(RunDir(copied))[5:7]] == [
        {"0.1": 0, "0.25": 0}, {"0.25": 0}]  # fmt: skip


def test_retention_never_takes_one(calm: Path, run: Path, toml: Path) -> None:
    settings = ("checkpoint.disk=1", "checkpoint.newest=1", "checkpoint.every=2-steps")
    assert cli("train", toml, "--run", run, "--until", 12, *settings).code == 0
    assert steps_kept(run) == [12]
    assert files(run / "snapshots") == files(calm / "snapshots")


@pytest.mark.parametrize("place", ["write_file", "seal"])
def test_a_full_disk(
    place: str, calm: Path, run: Path, toml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli("train", toml, "--run", run, "--until", "3").code == 0

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(snapshot, place, full)
    said = cli("train", "--run", run, "--until", "6")
    assert said.code == 2
    assert "the disk is full; the last good checkpoint is step 3" in said.err
    assert sorted(path.name[:5] for path in (run / "snapshots").iterdir()) == ["step-"] * 3
    monkeypatch.undo()
    assert cli("train", "--run", run, "--until", "12").code == 0
    assert files(run / "snapshots") == files(calm / "snapshots")


# --- on, off, other tracks -------------------------------------------------------------------


def test_turned_on_late_and_off_again(run: Path, corpus: Path, tmp_path: Path) -> None:
    """Each change is recorded; tracks that began late say so, and what was taken stays."""
    plain = write_recipe(tmp_path / "plain.toml", corpus, unit="1T-tokens")
    assert cli("train", plain, "--run", run, "--until", "3").code == 0
    assert taken(run) == []
    three = ("snapshots.tracks=[0.03, 0.1, 0.25]", "snapshots.per_decade=13")
    assert cli("train", "--run", run, "--until", "5", *three).code == 0
    assert cli("train", "--run", run, "--until", "6", "snapshots.tracks=[0.1, 0.2]").code == 0
    assert taken(run) == [4, 5, 6]
    stored = snapshots(RunDir(run))
    assert since(stored[0]) == {"0.03": 3, "0.1": 3, "0.25": 3}
    assert since(stored[2]) == {"0.1": 3, "0.2": 5}
    before = files(run / "snapshots")
    assert cli("train", plain, "--run", run, "--until", "8").code == 0
    assert files(run / "snapshots") == before
    assert "tracks" not in at(run, 8).state
    changed = [event["settings"] for event in events(run, "changed")]
    assert changed[0] == {
        "snapshots.tracks": [None, [0.03, 0.1, 0.25]],
        "snapshots.per_decade": [None, 13],
        "snapshots.dtype": [None, "float32"],
    }
    assert changed[1] == {"snapshots.tracks": [[0.03, 0.1, 0.25], [0.1, 0.2]]}
    assert changed[2]["snapshots.tracks"] == [[0.1, 0.2], None]


WRONG = {
    "snapshots.tracks=[]": "snapshots.tracks = []; one or more different widths",
    "snapshots.tracks=[0.1, 0.10]": "snapshots.tracks = [0.1, 0.1]; one or more different widths",
    "snapshots.tracks=[0.3]": "snapshots.tracks: sigma_rel = 0.3; above 0 and at most 0.2887",
    "snapshots.tracks=0.1": "snapshots.tracks = 0.1",
    "snapshots.per_decade=0": "snapshots.per_decade = 0; 1 to 1000 is valid",
    "snapshots.dtype=float16": "snapshots.dtype = 'float16'",
    "snapshots.track=[0.1]": "unknown key snapshots.track (did you mean 'tracks'?)",
}


@pytest.mark.parametrize("setting", WRONG)
def test_what_is_wrong_in_a_recipe(setting: str) -> None:
    with pytest.raises(UserError) as caught:
        recipes.recipe(recipes.override(table(Path("nowhere")), [setting]))
    assert WRONG[setting] in str(caught.value)


def test_a_recipe_with_them_is_read_back() -> None:
    made = recipes.recipe(recipes.override(table(Path("nowhere")), ["snapshots={}"]))
    assert made.snapshots is not None
    assert made.snapshots.tracks == (0.033, 0.061, 0.133, 0.275)
    assert recipes.recipe(made.table()) == made
    assert list(made.built_tracks()) == ["0.033", "0.061", "0.133", "0.275"]
    assert recipes.recipe(table(Path("nowhere"))).snapshots is None


def test_a_plan_counts_them(calm: Path) -> None:
    made = json.loads(cli("plan", calm / "recipe.toml", "--json").out)
    plain = json.loads(cli("plan", "demo", "--json").out)
    assert made["averages"] == 4 * made["weights"]  # two averages, two tracks
    assert (plain["snapshot"], plain["month_snapshots"]) == (0, 0)
    on_disk = snapshots(RunDir(calm))[-1].bytes
    assert 0 < on_disk - made["snapshot"] < 8000  # the heads of the files
    saved = at(calm, 12).bytes
    assert 0 < saved - made["checkpoint"] < 60_000
    month = made["month_tokens"] / 64  # steps
    moments = {round(10 ** (k / 13)) for k in range(13 * 20)}  # 13 a decade: none at a half
    count = sum(moment <= month for moment in moments)
    assert made["month_snapshots"] == count * made["snapshot"]
    assert "snapshots" in cli("plan", calm / "recipe.toml").out


def test_a_status_counts_them(calm: Path) -> None:
    disk = json.loads(cli("status", calm, "--json").out)["disk"]
    stored = snapshots(RunDir(calm))
    assert disk["snapshots"] == sum(found.bytes for found in stored)
    ahead = 13 * math.log10(1 + 86400 * pace(calm) / stored[-1].tokens) * stored[-1].bytes
    kept = 2 * math.log2(1 + 86400 * pace(calm) / stored[-1].tokens) * at(calm, 12).bytes
    written = (calm / "metrics.jsonl").stat().st_size * 86400 * pace(calm) / stored[-1].tokens
    assert disk["per_day"] == pytest.approx(ahead + kept + written)
    assert " · snapshots, " in cli("status", calm).out


def pace(run: Path) -> float:
    return float(json.loads(cli("status", run, "--json").out)["tokens_per_second"])


# --- forks and replays -----------------------------------------------------------------------


def test_a_fork_has_its_parents(calm: Path, run: Path) -> None:
    before = files(calm)
    assert cli("fork", f"{calm}@6", "--out", run).code == 0
    theirs = {k: v for k, v in files(calm / "snapshots").items() if int(k[5:14]) <= 6}
    assert files(run / "snapshots") == theirs
    one = "snapshots/step-000000005/track-0.1.safetensors"
    assert (run / one).stat().st_ino == (calm / one).stat().st_ino  # no bytes of its own
    assert cli("train", "--run", run, "--until", "12").code == 0
    assert files(run / "snapshots") == files(calm / "snapshots")
    assert files(calm) == before


def test_a_replayed_fork_loses_none(calm: Path, run: Path) -> None:
    said = cli("fork", f"{calm}@8", "--out", run)
    assert "replaying about 2 steps" in said.err
    assert taken(run) == MOMENTS[:8]
    assert cli("train", "--run", run, "--until", "12").code == 0
    assert files(run / "snapshots") == files(calm / "snapshots")
    assert differing(saved_bits(run, 12), saved_bits(calm, 12)) == []


def test_a_replay_follows_what_changed(run: Path, corpus: Path, tmp_path: Path) -> None:
    plain = write_recipe(tmp_path / "plain.toml", corpus, unit="1T-tokens")
    steps = (
        ("2",),
        ("4", "snapshots.tracks=[0.1, 0.2]"),
        ("6", "snapshots.tracks=[0.2, 0.05]", "snapshots.dtype=bfloat16"),
    )
    assert cli("train", plain, "--run", run, "--until", "1").code == 0
    for until, *settings in steps:
        assert cli("train", "--run", run, "--until", until, *settings).code == 0
    assert cli("train", plain, "--run", run, "--until", "8", "checkpoint.at=[7]").code == 0
    expected = {step: saved_bits(run, step, ["recipe"]) for step in steps_kept(run)}
    for step in steps_kept(run)[:-1]:
        shutil.rmtree(at(run, step).path)
    for step, tracks in ((6, {"0.2": 2, "0.05": 4}), (7, {})):
        out = tmp_path / str(step)
        said = cli("fork", f"{run}@{step}", "--out", out)
        assert "from step 0" in said.err
        state = at(out, step).state.get("tracks", {"since": {}})
        assert state["since"] == tracks
        if step in expected:
            assert differing(saved_bits(out, step, ["recipe"]), expected[step]) == []


# --- reading ---------------------------------------------------------------------------------


def test_what_is_damaged_is_said(copied: Path) -> None:
    last, before, *_ = reversed(snapshots(RunDir(copied)))
    with pytest.raises(UserError, match=r"has no track '0\.3' \(known: 0\.1, 0\.25\)|did you mean"):
        last.entries("0.3")
    file = last.tracks["0.1"].file
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(UserError, match=r"track-0\.1\.safetensors has \d+ bytes, its manifest"):
        last.verify(checksums=False)
    (before.path / "manifest.json").unlink()
    assert taken(copied) == [*MOMENTS[:-2], 12]  # without it, it is none
