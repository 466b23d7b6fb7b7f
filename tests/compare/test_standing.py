"""Position, pace, data, disk, lineage and the release candidate of runs written by hand."""

import json
import shutil
from math import log2
from pathlib import Path

import pytest

from anytrain.compare import standing, supplies
from anytrain.compare.standing import Position
from anytrain.errors import UserError
from anytrain.evaluations import evaluations
from anytrain.rundir import RunDir
from fake_runs import BATCH, NAMES, PER_STEP, UNIT, write_checkpoint, write_cooldown, write_run

NOWHERE = Position(0, 0, None, None, None, None)


def test_position_is_the_last_record(trunk: RunDir) -> None:
    now = standing.position(trunk, [])
    assert (now.step, now.tokens) == (2000, 2000 * PER_STEP)
    assert now.seconds == pytest.approx(200)
    assert now.tokens_per_second == pytest.approx(PER_STEP / 0.1)


def test_position_without_metrics_is_the_newest_checkpoint(trunk: RunDir) -> None:
    (trunk.path / "metrics.jsonl").unlink()
    now = standing.position(trunk, standing.readable(trunk))
    assert (now.step, now.tokens, now.tokens_per_second) == (2000, 2000 * PER_STEP, None)
    assert standing.position(trunk, []) == NOWHERE


def test_position_of_a_long_torn_file_reads_its_end_alone(trunk: RunDir) -> None:
    with (trunk.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2001, "tok')
    assert (trunk.path / "metrics.jsonl").stat().st_size > standing._TAIL
    assert standing.position(trunk, []).step == 2000


def test_a_run_is_running_while_its_lock_is_held(trunk: RunDir) -> None:
    assert not standing.activity(trunk).running
    with trunk.locked():
        found = standing.activity(trunk)
        assert found.running
        assert found.holder is not None
        assert found.holder.startswith("pid ")
    assert not standing.activity(trunk).running


def test_what_stopped_it_is_the_last_event(trunk: RunDir) -> None:
    trunk.event({"event": "start", "step": 0, "time": "2026-01-01T00:00:00+00:00"})
    assert standing.activity(trunk).stopped_by is None
    trunk.event({"event": "stop", "step": 9, "by": "SIGTERM", "time": "2026-01-01T01:00:00+00:00"})
    trunk.event({"event": "changed", "step": 9})
    assert standing.activity(trunk).stopped_by == "SIGTERM"
    assert standing.activity(trunk).time == "2026-01-01T01:00:00+00:00"
    with trunk.locked():
        assert standing.activity(trunk).stopped_by is None


def pin(path: Path, *eras: tuple[int, list[int]], weight: float = 1.0) -> dict[str, object]:
    return {
        "path": str(path),
        "weight": weight,
        "eras": [
            {"start": start, "segments": len(windows), "windows": windows, "sha256": "ab" * 32}
            for start, windows in eras
        ],
    }


def test_passes_of_one_corpus(tmp_path: Path) -> None:
    identity = {"data": [pin(tmp_path, (0, [100]))]}
    (found,) = supplies.corpora(identity, 0)
    assert (found.turn, found.read, found.left) == (1, 0, 100)
    (found,) = supplies.corpora(identity, 230)
    assert (found.turn, found.read, found.left) == (3, 30, 70)
    assert supplies.corpora({"data": []}, 10) == []


def test_a_corpus_that_grew(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"segments": [{}, {}, {}]}))
    identity = {"data": [pin(tmp_path, (0, [100]), (150, [100, 60]))]}
    (found,) = supplies.corpora(identity, 160)
    assert (found.turn, found.read, found.windows) == (2, 60, 160)
    assert found.new_segments == 1


def test_a_mixture_by_its_shares(tmp_path: Path) -> None:
    pins = [pin(tmp_path, (0, [1000]), weight=3.0), pin(tmp_path, (0, [1000]), weight=1.0)]
    a, b = supplies.corpora({"data": pins}, 1024)
    assert (a.read, b.read) == (768, 256)
    assert (a.share, b.share) == (0.75, 0.25)


def test_samples_go_on_from_the_checkpoint(trunk: RunDir) -> None:
    now = standing.position(trunk, [])
    checkpoints = standing.readable(trunk)
    assert supplies.samples_at(now, checkpoints, 256) == 2000 * BATCH
    assert supplies.samples_at(now, checkpoints[:-1], 256) == 2000 * BATCH
    assert supplies.samples_at(now, [], 256) == 2000 * BATCH


def test_disk_grows_by_what_stays(trunk: RunDir) -> None:
    checkpoints = standing.readable(trunk)
    now = standing.position(trunk, checkpoints)
    metrics = (trunk.path / "metrics.jsonl").stat().st_size
    assert now.tokens_per_second is not None
    runs = now.tokens_per_second * 86400 / now.tokens  # so often the present length, in a day
    found = supplies.disk(trunk, checkpoints, now, trunk.recipe)
    assert (found.checkpoints, found.bytes) == (4, 80_000_000)
    # two checkpoints stay for each doubling; metrics grow as they did
    assert found.per_day == pytest.approx(2 * 20_000_000 * log2(1 + runs) + metrics * runs)
    assert supplies.disk(trunk, [], now, {}).per_day == pytest.approx(metrics * runs)
    assert supplies.disk(trunk, [], now, {"checkpoint": {"disk": 10**9}}).cap == 10**9


def test_a_checkpoint_that_vanishes_is_passed_over(trunk: RunDir) -> None:
    (trunk.checkpoint_path(1800) / "manifest.json").write_text("{")
    assert [c.step for c in standing.readable(trunk)] == [225, 450, 2000]


def test_lineage_upwards(tmp_path: Path) -> None:
    write_run(tmp_path / "trunk", run_id="trunk", end=5)
    child = write_cooldown(tmp_path / "cd", 500, 3.6)
    parent = {"path": str(child.path), "id": "cd", "step": 480, "tokens": 480 * PER_STEP}
    leaf = write_run(tmp_path / "leaf", end=5, parent=parent, changes={"train.clip": [1.0, 0.5]})
    first, second = standing.lineage(leaf)
    assert (first.step, first.changes, first.present) == (480, {"train.clip": [1.0, 0.5]}, True)
    assert (second.path, second.step, second.present) == ("trunk", 450, True)
    shutil.rmtree(tmp_path / "trunk")
    assert [ancestor.present for ancestor in standing.lineage(leaf)] == [True, False]


def test_another_run_in_the_parents_place_is_not_the_parent(tmp_path: Path) -> None:
    write_run(tmp_path / "trunk", run_id="someone else", end=5)
    (found,) = standing.lineage(write_cooldown(tmp_path / "cd", 500, 3.6))
    assert not found.present


def test_the_release_is_the_best_that_a_checkpoint_holds(trunk: RunDir) -> None:
    found = standing.candidate(evaluations(trunk), standing.readable(trunk))
    assert found is not None
    assert (found.step, found.weights, found.evaluated_at) == (2000, "ema25", 2000)
    assert found.command(Path("my runs/a")) == (
        "anytrain release 'my runs/a@2000:ema25' --out a-2000-ema25"
    )


def test_a_checkpoint_between_evaluations_goes_by_the_last_one(tmp_path: Path) -> None:
    evaluated = {100: {"raw": 3.0, "ema25": 2.5}, 300: {"raw": 4.0, "ema25": 3.5}}
    run = write_run(tmp_path / "a", end=300, evaluated=evaluated, checkpoints=(100, 200, 300))
    found = standing.candidate(evaluations(run), standing.readable(run))
    assert found is not None
    assert (found.step, found.evaluated_at, found.loss) == (200, 100, 2.5)


def test_weights_that_no_checkpoint_holds_are_not_offered(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", end=100, evaluated={100: {"raw": 3.0, "ema25": 2.5}})
    assert standing.candidate(evaluations(run), standing.readable(run)) is None
    write_checkpoint(run, 100, ("raw", NAMES[0]))
    found = standing.candidate(evaluations(run), standing.readable(run))
    assert found is not None
    assert found.weights == "raw"


def test_before_any_evaluation_the_raw_weights_are_offered(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", end=UNIT, evaluated={}, checkpoints=(100, 200))
    found = standing.candidate([], standing.readable(run))
    assert found is not None
    assert (found.step, found.weights, found.loss) == (200, "raw", None)


def test_a_damaged_end_is_named(trunk: RunDir) -> None:
    with (trunk.path / "metrics.jsonl").open("a") as file:
        file.write("{oops}\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl: a line near its end is damaged"):
        standing.position(trunk, [])
