"""A checkpoint written beside training is the state of its own step, whole, and never forgotten."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from anytrain.rundir import RunDir
from anytrain.training import checkpoint, loop
from anytrain.training.background import Saved, Saver
from anytrain.training.cadence import Cadence
from anytrain.training.staging import Staging
from tiny import Tiny, at, bits, cli, differing, events, losses, recipe, steps_kept, write_recipe
from tiny import saved_bits as saved

PATIENCE = 30  # seconds
SLOW = 0.5  # seconds, for writing a checkpoint


def finished(saver: Saver) -> Saved | None:
    """What has been written meanwhile, as a sitting asks at every step."""
    return saver.wait() if saver.done else None


@pytest.fixture
def tiny(corpus: Path) -> Tiny:
    made = Tiny.begin(recipe(corpus, checkpoint={"every": "1h", "newest": 9}, snapshots={}))
    made.take(2)
    return made


@pytest.fixture
def saver(tiny: Tiny, tmp_path: Path) -> Saver:
    return Saver(RunDir(tmp_path / "run"), Cadence(tiny.run.recipe))


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Nothing is written before it is set."""
    opened, whole = threading.Event(), checkpoint._write_tensors

    def held(*arguments: Any) -> None:
        assert opened.wait(PATIENCE)
        whole(*arguments)

    monkeypatch.setattr(checkpoint, "_write_tensors", held)
    return opened


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing takes longer than the steps until whatever ends the sitting."""
    whole = checkpoint._write_tensors

    def late(*arguments: Any) -> None:
        time.sleep(SLOW)
        whole(*arguments)

    monkeypatch.setattr(checkpoint, "_write_tensors", late)


def test_it_holds_the_state_of_its_step(
    tiny: Tiny, saver: Saver, gate: threading.Event, tmp_path: Path
) -> None:
    """To the bit and to the byte, although training went on before a byte was written."""
    expected = tiny.bits()
    gate.set()
    calm = checkpoint.save(tiny.run, RunDir(tmp_path / "calm"))
    gate.clear()
    assert saver.save(tiny.run) is None
    tiny.take(3)
    assert (saver.done, finished(saver)) == (False, None)
    gate.set()
    found = saver.wait()
    assert found is not None
    assert (found.step, found.tokens, found.said) == (2, 128, [])
    assert 0 < found.blocked < PATIENCE
    assert differing(saved(saver.rundir.path, 2), expected) == []
    assert differing(tiny.bits(), expected) != []
    assert at(saver.rundir.path, 2).manifest == calm.manifest  # it has every file's checksum
    assert (saver.done, finished(saver), saver.wait()) == (True, None, None)


def test_the_next_waits_for_the_one_before(slow: None, tiny: Tiny, saver: Saver) -> None:
    """One at a time, none left out, and the waiting is counted."""
    states, blocked = {}, {}
    for step in (2, 3, 4):
        states[step] = tiny.bits()
        earlier = saver.save(tiny.run)
        assert (earlier.step if earlier else 1) == step - 1
        if earlier:
            blocked[earlier.step] = earlier.blocked
        tiny.take(1)
    found = saver.wait()
    assert found is not None
    assert blocked[2] < 0.5 * SLOW < blocked[3]
    assert found.blocked > 0.5 * SLOW
    for step, state in states.items():
        assert differing(saved(saver.rundir.path, step), state) == []


def test_memory_is_allocated_once(tiny: Tiny) -> None:
    """And again only for another state, such as one with a further average."""
    staging, places = Staging(), []
    for _ in range(3):
        copied = staging.copy(tiny.run.tensors())
        places.append({name: tensor.data_ptr() for name, tensor in copied.items()})
        assert differing(bits(copied, {}), bits(tiny.run.tensors(), {})) == []
        assert places[-1] == places[0]
        tiny.take(1)
    tiny.run.averages.remove("uniform")
    assert differing(bits(staging.copy(tiny.run.tensors()), {}), bits(tiny.run.tensors(), {})) == []


def test_any_tensor_is_copied_to_the_bit() -> None:
    odd = torch.tensor([1, 2, 3], dtype=torch.uint8)
    tensors = {
        "bytes": odd,
        "nan": torch.tensor([float("nan"), -0.0, float("inf")], dtype=torch.float64),
        "scalar": torch.tensor(3.0),
        "half": torch.randn(5, 3).bfloat16(),
        "empty": torch.empty(0, 4),
        "turned": torch.randn(4, 7).t(),
        "flags": torch.tensor([True, False, True]),
        "counter": torch.tensor(2**40),
    }
    assert differing(bits(Staging().copy(tensors), {}), bits(tensors, {})) == []


ASKING: dict[str, Callable[[Saver, Tiny], Any]] = {
    "save": lambda saver, tiny: saver.save(tiny.run),
    "wait": lambda saver, _: saver.wait(),
    "finished": lambda saver, _: finished(saver),
}


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, PermissionError])
@pytest.mark.parametrize("asking", ASKING)
def test_what_goes_wrong_beside_training_is_raised_in_it(
    asking: str,
    error: type[BaseException],
    tiny: Tiny,
    saver: Saver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once, as what it is; then it can be tried again."""

    def broken(*_: Any) -> None:
        raise error("inside")

    monkeypatch.setattr(checkpoint, "plan_file", broken)
    saver.save(tiny.run)
    deadline = time.monotonic() + PATIENCE
    while not saver.done:
        assert time.monotonic() < deadline
    with pytest.raises(error, match="inside"):
        ASKING[asking](saver, tiny)
    assert checkpoint.newest_good(saver.rundir, pytest.fail) is None
    monkeypatch.undo()
    assert saver.save(tiny.run) is None
    saver.wait()
    checkpoint.clean(saver.rundir)
    at(saver.rundir.path, 2).verify()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it is that of the process")
def test_training_goes_first(tiny: Tiny, saver: Saver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where cores are scarce: the writer's priority is lower, and only the writer's."""
    found: dict[str, int] = {}
    monkeypatch.setattr(
        checkpoint, "_write_tensors", lambda *_: found.update(writer=os.getpriority(0, 0))
    )
    before = os.getpriority(os.PRIO_PROCESS, 0)
    saver.save(tiny.run)
    saver.wait()
    assert found["writer"] > before == os.getpriority(os.PRIO_PROCESS, 0)


# --- through the command line ----------------------------------------------------------------


@pytest.fixture
def toml(corpus: Path, tmp_path: Path) -> Path:
    return write_recipe(tmp_path / "r.toml", corpus, checkpoint={"every": "4-steps", "newest": 9})


def nothing_is_left(run: Path) -> bool:
    hidden = [path for path in (run / "checkpoints").iterdir() if path.name[0] == "."]
    return not hidden and "checkpoint" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("until", [4, 5])  # with the moment of a checkpoint, and after it
def test_a_sitting_ends_with_everything_on_the_disk(
    until: int, slow: None, toml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, there = tmp_path / "run", []
    whole = RunDir.event

    def event(self: RunDir, record: Any) -> None:
        if record["event"] == "stop":
            there.append((steps_kept(run), nothing_is_left(run)))
        whole(self, record)

    monkeypatch.setattr(RunDir, "event", event)
    assert cli("train", toml, "--run", run, "--until", until).code == 0
    steps = [4] if until == 4 else [4, 5]
    assert there == [(steps, True)]
    found = events(run, "checkpoint")
    assert [(e["step"], e["tokens"]) for e in found] == [(step, 64 * step) for step in steps]
    assert found[0]["blocked_seconds"] < SLOW <= found[0]["background_seconds"]
    if until == 5:
        assert found[1]["background_seconds"] == 0 < SLOW <= found[1]["blocked_seconds"]


def test_a_slow_disk_changes_nothing(slow: None, toml: Path, tmp_path: Path) -> None:
    """Against a run that saved only where it stopped: the prefix law beside a writer."""
    run = tmp_path / "run"
    assert cli("train", toml, "--run", run, "--until", "9").code == 0
    assert steps_kept(run) == [4, 8, 9]
    for step in (4, 8, 9):
        calm = tmp_path / f"calm-{step}"
        assert cli("train", toml, "--run", calm, "--until", step, "checkpoint.every=1h").code == 0
        assert differing(saved(run, step, ["recipe"]), saved(calm, step, ["recipe"])) == []


def test_divergence_waits_for_the_checkpoint_under_way(
    slow: None, toml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, whole = tmp_path / "run", loop.backward

    def backward(run_: Any, batch: Any) -> Any:
        return whole(run_, batch) * (float("nan") if run_.clock.step == 5 else 1.0)

    monkeypatch.setattr(loop, "backward", backward)
    said = cli("train", toml, "--run", run, "--until", "9")
    assert (said.code, "the last good checkpoint is step 4" in said.err) == (2, True)
    assert events(run)[-1]["by"] == "diverged"
    assert nothing_is_left(run)


def test_a_disk_that_fills_up_beside_training(
    toml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence, after the step in which it happens, and the run can go on."""
    run, whole = tmp_path / "run", loop.backward
    assert cli("train", toml, "--run", run, "--until", "3").code == 0

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def backward(*arguments: Any) -> Any:
        for thread in threading.enumerate():
            if thread.name == "checkpoint":
                thread.join(PATIENCE)
        return whole(*arguments)

    monkeypatch.setattr(checkpoint, "sha256", full)
    monkeypatch.setattr(loop, "backward", backward)
    said = cli("train", "--run", run, "--until", "99")
    assert said.code == 2
    assert "the disk is full; the last good checkpoint is step 3" in said.err
    assert "Traceback" not in said.err
    assert max(losses(run)) == 5
    assert nothing_is_left(run)
    assert steps_kept(run) == [3]
    monkeypatch.undo()
    assert cli("train", "--run", run, "--until", "9").code == 0
    assert list(losses(run)) == list(range(1, 10))


def test_what_retention_says_is_said(slow: None, toml: Path, tmp_path: Path) -> None:
    said = cli("train", toml, "--run", tmp_path / "run", "--until", "9", "checkpoint.disk=1")
    assert "checkpoint.disk = 1 bytes; removing the checkpoint of step 4" in said.err
    assert steps_kept(tmp_path / "run") == [9]


KILLED = """
import os, signal, sys
from anytrain.cli.main import main
from anytrain.training import checkpoint

whole = checkpoint._write_manifest

def killed(folder, what, files):
    if what["step"] == 8:
        os.kill(os.getpid(), signal.SIGKILL)
    whole(folder, what, files)

checkpoint._write_manifest = killed
main(sys.argv[1:])
"""


def test_killed_while_it_is_written(toml: Path, tmp_path: Path) -> None:
    """The one before is there, the draft is no checkpoint, and the run goes on to the same bits."""
    run, calm = tmp_path / "run", tmp_path / "calm"
    command = [sys.executable, "-c", KILLED, "train", toml, "--run", run, "--until", "99"]
    died = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert died.returncode == -signal.SIGKILL
    assert steps_kept(run) == [4]
    at(run, 4).verify()
    assert (run / "checkpoints/.writing-step-000000008").is_dir()
    assert cli("train", "--run", run, "--until", "12").code == 0
    assert cli("train", toml, "--run", calm, "--until", "12").code == 0
    assert steps_kept(run) == [4, 8, 12]
    assert differing(saved(run, 12), saved(calm, 12)) == []
    assert losses(run) == losses(calm)
    assert nothing_is_left(run)
