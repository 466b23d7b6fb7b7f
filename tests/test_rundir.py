"""The run directory: torn and damaged files, pins, locks, and finding a checkpoint."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from anytrain.errors import UserError
from anytrain.files import append_line, read_json, read_lines, sha256, write_atomic
from anytrain.grammar import Quantity, moment
from anytrain.rundir import Checkpoint, RunDir


def made(path: Path, steps: tuple[int, ...] = ()) -> RunDir:
    """A run of 64 tokens a step with checkpoints, written by hand."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "recipe.toml").write_text(
        'name = "a"\nschedule = "constant:peak=1"\n[model]\n[train]\nbatch = 4\ncontext = 16\n'
        '[optimizer]\nkind = "adamw"\nbeta1 = 0.9\nweight_decay = 0.0\n'
    )
    (path / "run.json").write_text("{}")
    run = RunDir(path)
    for step in steps:
        folder = run.checkpoint_path(step)
        folder.mkdir(parents=True)
        (folder / "state.json").write_text(json.dumps({"step": step}))
        entry = {"bytes": (folder / "state.json").stat().st_size,
                 "sha256": sha256(folder / "state.json")}  # fmt: skip
        manifest = {"format": 1, "step": step, "tokens": 64 * step, "weights": ["raw"],
                    "t": step, "lr": 0.1, "files": {"state.json": entry}}  # fmt: skip
        (folder / "manifest.json").write_text(json.dumps(manifest))
    return run


def full_disk(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# --- files -----------------------------------------------------------------------------------


def test_write_atomic_leaves_the_old_file_on_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.json"
    write_atomic(path, "old")
    write_atomic(path, "new")
    assert path.read_text() == "new"
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, "newer")
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]  # nothing half-written beside it


@pytest.mark.parametrize("content", ["", '{"a": 1', "[1]", "null", "\x00\x00"])
def test_json_that_is_damaged(content: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(UserError, match=r"run\.json is damaged"):
        read_json(tmp_path / "run.json")


def test_json_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run\.json: No such file"):
        read_json(tmp_path / "run.json")


def test_a_torn_last_line_is_no_record_yet(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    assert list(read_lines(path)) == []
    append_line(path, {"step": 1})
    append_line(path, {"step": 2})
    whole = path.read_bytes()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        assert len(list(read_lines(path))) == whole[:length].count(b"\n")


def test_what_follows_a_torn_line_is_readable(tmp_path: Path) -> None:
    """A full disk tears a line of events; the next sitting appends to the same file."""
    path = tmp_path / "events.jsonl"
    append_line(path, {"event": "start"})
    with path.open("a") as file:
        file.write('{"event": "st')
    append_line(path, {"event": "again"})
    assert [record["event"] for record in read_lines(path)] == ["start", "again"]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('{"step": 1}\n{"step": oops}\n{"step": 3}\n')
    with pytest.raises(UserError, match=r"m\.jsonl, line 2 is damaged"):
        list(read_lines(tmp_path / "m.jsonl"))


def test_metrics_are_cut_back(tmp_path: Path) -> None:
    run = made(tmp_path / "a")
    run.drop_after(3)  # there are none
    for step in range(1, 7):
        run.log({"step": step, "tokens": step})
        run.log({"step": step, "tokens": step, "val/loss/raw": 1.0})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "lo')
    run.drop_after(100)
    assert [r["step"] for r in run.metrics()] == [s for s in range(1, 7) for _ in range(2)]
    assert (run.path / "metrics.jsonl").read_bytes().endswith(b"\n")
    run.drop_after(4)
    assert [r["step"] for r in run.metrics()][-1] == 4
    run.drop_after(0)
    assert list(run.metrics()) == []


def test_damaged_metrics_are_a_sentence(tmp_path: Path) -> None:
    run = made(tmp_path / "a")
    (run.path / "metrics.jsonl").write_text('{"step": 1}\n\x00\x00\x00\n{"step": 3}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2 is damaged"):
        run.drop_after(2)


# --- what is a run ---------------------------------------------------------------------------


def test_open_names_the_runs_beside(tmp_path: Path) -> None:
    made(tmp_path / "a")
    made(tmp_path / "b")
    assert RunDir.open(tmp_path / "a").exists
    with pytest.raises(UserError, match=r"c is not a run: it has no run\.json; runs beside it:"):
        RunDir.open(tmp_path / "c")
    with pytest.raises(UserError, match=r"x is not a run: it has no run\.json$"):
        RunDir.open(tmp_path / "none" / "x")


def test_a_damaged_recipe(tmp_path: Path) -> None:
    run = made(tmp_path / "a")
    (run.path / "recipe.toml").write_text("[train\n")
    with pytest.raises(UserError, match=r"recipe\.toml is damaged"):
        _ = run.recipe


# --- finding a checkpoint --------------------------------------------------------------------


def test_find(tmp_path: Path) -> None:
    run = made(tmp_path / "a", (5, 10, 100, 1000))
    assert run.find("latest").step == 1000
    assert run.find(moment("100")).step == 100
    assert run.find(moment("640-tokens")).step == 10
    assert run.find(moment("577-tokens")).step == 10  # the first step that reaches it
    assert run.find(moment("9.5-steps")).step == 10
    for nowhere in ("576-tokens", "641-tokens", "99", "101", "9-steps", "2B-tokens"):
        with pytest.raises(UserError, match="no checkpoint there; nearest: "):
            run.find(moment(nowhere))
    with pytest.raises(UserError, match="named by its step or its tokens"):
        run.find(moment("10min"))


def test_the_nearest_are_listed(tmp_path: Path) -> None:
    run = made(tmp_path / "a", (5, 10, 100, 1000, 2000))
    with pytest.raises(UserError, match=r"@90-steps: .* nearest: 5 \(320-tokens\), 10 \(640-"):
        run.find(Quantity(90, "steps"))
    with pytest.raises(UserError, match=r"1000 \(64k-tokens\), 2000 \(128k-tokens\)$"):
        run.find(moment("1B-tokens"))


def test_none_yet(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a has no checkpoint yet"):
        made(tmp_path / "a").find("latest")


def test_only_whole_checkpoints_count(tmp_path: Path) -> None:
    run = made(tmp_path / "a", (5, 10))
    (run.checkpoint_path(10) / "manifest.json").unlink()
    (run.checkpoint_root / ".writing-step-000000011").mkdir()
    (run.checkpoint_root / "step-x").mkdir()
    (run.checkpoint_root / "notes.txt").write_text("mine")
    assert [c.step for c in run.checkpoints()] == [5]


# --- whole or not ----------------------------------------------------------------------------


def altered(found: Checkpoint, how: str) -> None:
    path = found.path / "state.json"
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(content[:-1])
    elif how == "altered":
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    else:
        manifest = read_json(found.path / "manifest.json")
        if how == "format":
            manifest["format"] = 99
        else:
            manifest["files"] = {"../../run.json": {"bytes": 2, "sha256": "0"}}
        (found.path / "manifest.json").write_text(json.dumps(manifest))


DAMAGES = {
    "missing": r"state\.json is missing",
    "truncated": r"state\.json has 10 bytes, its manifest says 11",
    "altered": r"state\.json was altered: its checksum",
    "format": "format 99; this version reads 1",
    "outside": "names .*; the name of a file beside it is valid",
}


@pytest.mark.parametrize("how", DAMAGES)
def test_verify(how: str, tmp_path: Path) -> None:
    found = made(tmp_path / "a", (5,)).checkpoints()[0]
    found.verify()
    altered(found, how)
    with pytest.raises(UserError, match=DAMAGES[how]):
        Checkpoint(found.path, 5).verify()
    if how == "altered":
        Checkpoint(found.path, 5).verify(checksums=False)


# --- pins and locks --------------------------------------------------------------------------


def test_a_pinned_checkpoint_is_not_deleted(tmp_path: Path) -> None:
    run = made(tmp_path / "a", (5,))
    found = run.checkpoints()[0]
    with found.pinned(), found.pinned():
        assert not found.delete()
        found.verify()
    assert found.delete()
    assert list(run.checkpoint_root.iterdir()) == []
    with pytest.raises(UserError, match="is gone: the run no longer keeps it"), found.pinned():
        pass


def other_process(code: str, *arguments: str) -> "subprocess.Popen[str]":
    """Python that holds something until it is told to end; its first line says that it does."""
    held = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert held.stdout is not None
    assert held.stdout.readline() == "held\n"
    return held


def test_a_pin_holds_between_processes_and_dies_with_its_own(tmp_path: Path) -> None:
    found = made(tmp_path / "a", (5,)).checkpoints()[0]
    code = (
        "import sys\nfrom pathlib import Path\nfrom anytrain.rundir import RunDir\n"
        "with RunDir(Path(sys.argv[1])).checkpoints()[0].pinned():\n"
        "    print('held', flush=True); input()\n"
    )
    reader = other_process(code, str(tmp_path / "a"))
    assert not found.delete()
    reader.send_signal(signal.SIGKILL)
    reader.wait()
    assert found.delete()


def test_one_trainer_at_a_time(tmp_path: Path) -> None:
    run = made(tmp_path / "a")
    code = (
        "import sys\nfrom pathlib import Path\nfrom anytrain.rundir import RunDir\n"
        "with RunDir(Path(sys.argv[1])).locked():\n"
        "    print('held', flush=True); input()\n"
    )
    trainer = other_process(code, str(run.path))
    with (
        pytest.raises(UserError, match=rf"by another process \(pid {trainer.pid} on "),
        run.locked(),
    ):
        pass
    trainer.send_signal(signal.SIGKILL)
    trainer.wait()
    with run.locked():  # the lock died with its process: nothing to clean up
        assert f"pid {os.getpid()} " in (run.path / "lock").read_text()
    with run.locked():
        pass


def test_changes_made_after_the_place_a_run_went_back_to_are_lost(tmp_path: Path) -> None:
    run = RunDir(tmp_path)

    def event(kind: str, step: int, **more: object) -> None:
        run.event({"event": kind, "step": step, **more})

    event("start", 0)
    event("changed", 100, settings={"train.batch": [4, 8]})
    event("start", 100)
    assert [change["step"] for change in run.changes()] == [100]
    event("start", 120)  # killed, and went on after the change
    assert [change["step"] for change in run.changes()] == [100]
    event("fallback", 120, why="altered")
    event("changed", 50, settings={"train.batch": [4, 8]})  # the same, but from here
    event("start", 50)
    assert [change["step"] for change in run.changes()] == [50]
