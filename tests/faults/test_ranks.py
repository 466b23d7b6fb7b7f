"""Every way in which processes that train together can die, and what is left of the run then.

In each case: all processes end, soon, and one of them says why in one sentence; every checkpoint
there is is whole; the same command goes on, to the bits and the losses of a run left alone.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import ranks
from anytrain.rundir import RunDir
from ranks import Ranks, trained
from tiny import cli, differing, events, losses, saved_bits, steps_kept

CODE = Path(__file__).with_name("faulty.py").read_text()
MODEL = {"layers": 1, "width": 20, "heads": 2, "mlp": 28}  # rows that two cannot share equally
END = 10  # steps
slow = pytest.mark.slow


@pytest.fixture(scope="module")
def toml(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "r.toml"
    return ranks.recipe(path, corpus, model=MODEL, checkpoint={"every": "4-steps", "newest": 9})


@pytest.fixture(scope="module")
def calm(toml: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two processes left alone: what every other run has to become."""
    run = tmp_path_factory.mktemp("calm") / "run"
    trained(2, run, END, toml)
    assert steps_kept(run) == [4, 8, 10]
    return run


def struck(fault: str, rank: int | str, run: Path, *words: object, **env: str) -> Ranks:
    """Two processes, of which one or all meet the fault; all have ended."""
    words = ("train", *words, "--run", run, "--until", f"{END}-steps")
    started = Ranks(2, fault, rank, *words, code=CODE, **env)
    started.codes = started.wait()
    return started


def is_whole(run: Path) -> list[int]:
    """The steps of the checkpoints, each with every byte that its manifest promises."""
    for checkpoint in RunDir(run).checkpoints():
        checkpoint.verify()
    return steps_kept(run)


def goes_on(run: Path, calm: Path) -> str:
    """The same command again: the same run to the bit as without the fault. Returns what it says.

    The data it read are not part of it where a test had to copy them.
    """
    said = trained(2, run, END).err[0]
    assert differing(saved_bits(run, END, ["recipe"]), saved_bits(calm, END, ["recipe"])) == []
    assert losses(run) == losses(calm)
    left = [path.name for path in RunDir(run).checkpoint_root.iterdir()]
    assert not [name for name in left if name.startswith((".writing", ".deleting"))]
    return said


def sentences(started: Ranks) -> list[str]:
    """What all processes said, without progress; nobody shows a traceback."""
    said = "".join(started.err)
    assert "Traceback" not in said, said
    return [line for line in said.splitlines() if line and ": validation " not in line]


ENDED = "anytrain: another process of this run ended or did not answer; "


@pytest.mark.parametrize(
    ("fault", "rank", "kept"),
    [
        ("killed in a step", 1, [4]),
        pytest.param("killed in a step", 0, [4], marks=slow),
        pytest.param("killed while evaluating", 1, [4, 8], marks=slow),
        pytest.param("killed while writing", 0, [4], marks=slow),
        pytest.param("killed while writing", 1, [4], marks=slow),
    ],
)
def test_killed(
    fault: str, rank: int, kept: list[int], toml: Path, calm: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    started = struck(fault, rank, run, toml)
    assert started.codes == [-9 if number == rank else 1 for number in (0, 1)]
    assert is_whole(run) == kept
    onward = f"step {kept[-1]}; go on: anytrain train --run {run}"
    assert sentences(started) == [f"{ENDED}the last good checkpoint is {onward}"]
    goes_on(run, calm)


def test_terminated_alone(toml: Path, calm: Path, tmp_path: Path) -> None:
    """A signal to one process: all stop after the same step, which is saved once."""
    run = tmp_path / "run"
    started = struck("terminated", 1, run, toml)
    assert started.codes == [0, 0]
    assert "stopped by SIGTERM at step 6" in started.err[0]
    assert is_whole(run) == [4, 6]
    assert [event["step"] for event in events(run, "checkpoint")] == [4, 6]
    assert events(run)[-1]["by"] == "SIGTERM"
    goes_on(run, calm)


@slow
def test_terminated_before_the_first_step(toml: Path, calm: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    started = struck("terminated early", 1, run, toml, "--preempted-exit-code", 7)
    assert started.codes == [7, 7]
    assert sentences(started) == [
        "anytrain: stopped by SIGTERM before the first step; nothing was lost"
    ]
    goes_on(run, calm)


@pytest.mark.parametrize("rank", [pytest.param(0, marks=slow), 1])
def test_the_disk_is_full(rank: int, toml: Path, calm: Path, tmp_path: Path) -> None:
    """For one process only: nobody believes in the checkpoint, and its draft is gone."""
    run = tmp_path / "run"
    started = struck("disk full", rank, run, toml)
    assert started.codes == [2, 2]
    full = f"anytrain: {run}: the disk is full; the last good checkpoint is step 4"
    assert sentences(started) == [full]
    assert is_whole(run) == [4]
    assert not (run / "checkpoints/.writing-step-000000008").exists()
    goes_on(run, calm)


@slow
@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_of_one(rank: int, toml: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    started = struck("wrong", rank, run, toml)
    assert started.codes == [2, 2]
    assert sentences(started) == ["anytrain: something is wrong in one process"]
    assert started.err[1 - rank] == ""
    assert is_whole(run) == [4]


@slow
def test_a_gradient_that_is_no_number(toml: Path, calm: Path, tmp_path: Path) -> None:
    """In the rows of one process: none applies it."""
    run = tmp_path / "run"
    started = struck("nan", 1, run, toml)
    assert started.codes == [2, 2]
    (said,) = sentences(started)
    assert said.startswith("anytrain: step 6: loss ")
    assert said.endswith("those of step 5; the last good checkpoint is step 4")
    assert max(losses(run)) == 5
    assert is_whole(run) == [4]
    assert [event["by"] for event in events(run, "stop")] == ["diverged"]
    goes_on(run, calm)


@slow
@pytest.mark.parametrize(("fault", "rank"), [("slow", 1), ("clock", "all")])
def test_what_changes_nothing(
    fault: str, rank: int | str, toml: Path, calm: Path, tmp_path: Path
) -> None:
    """A process that takes its time, clocks that run backwards."""
    run = tmp_path / "run"
    assert struck(fault, rank, run, toml).codes == [0, 0]
    assert is_whole(run) == [4, 8, 10]
    assert differing(saved_bits(run, END), saved_bits(calm, END)) == []
    assert losses(run) == losses(calm)


@slow
def test_a_silent_process(toml: Path, calm: Path, tmp_path: Path) -> None:
    """The others wait no longer than they were told to."""
    run = tmp_path / "run"
    words = ("train", toml, "--run", run, "--until", f"{END}-steps")
    started = Ranks(2, "silent", 1, *words, code=CODE, ANYTRAIN_TIMEOUT="45")
    _, said = started.processes[0].communicate(timeout=200)
    assert started.processes[0].returncode == 1
    assert said.startswith(f"{ENDED}the last good checkpoint is step 4")
    assert started.processes[1].poll() is None
    started.processes[1].kill()
    started.processes[1].communicate()
    assert is_whole(run) == [4]
    goes_on(run, calm)


@slow
def test_one_never_comes(toml: Path, tmp_path: Path) -> None:
    started = struck("absent", 1, tmp_path / "run", toml, ANYTRAIN_TIMEOUT="5")
    assert started.codes == [2, 3]
    assert sentences(started)[-1:] == ["anytrain: not all of 2 processes came within 5 s"]
    assert not (tmp_path / "run").exists()


def missing(file: Path) -> None:
    file.unlink()


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


SENTENCES = {
    missing: "is missing",
    truncated: "bytes, its manifest says",
    flipped: "was altered: its checksum is not the manifest's",
}


@pytest.mark.parametrize(
    "damage", [{10: flipped}, pytest.param({10: truncated, 8: missing}, marks=slow)]
)
def test_damaged_checkpoints(
    damage: dict[int, Callable[[Path], None]], calm: Path, tmp_path: Path
) -> None:
    """In a file of the second process: the one before it is used, and one line says so."""
    run = tmp_path / "run"
    shutil.copytree(calm, run)
    for step, how in damage.items():
        how(min((run / f"checkpoints/step-{step:09d}").glob("shard-00002-*")))
    said = [line for line in goes_on(run, calm).splitlines() if "going back" in line]
    back = max({4, 8} - damage.keys())
    for how, line in zip(damage.values(), said, strict=True):
        assert SENTENCES[how] in line
        assert line.endswith(f"; going back to step {back}")
    assert is_whole(run) == [4, 8, 10]


@slow
def test_a_shard_changed_under_the_run(
    toml: Path, calm: Path, corpus: Path, tmp_path: Path
) -> None:
    """What was learned from it is not saved, and the run goes on with the right one alone."""
    run, mine = tmp_path / "run", tmp_path / "corpus"
    shutil.copytree(corpus, mine)
    shard = mine / "segment-0000/train-00000.bin"
    started = struck("data altered", 0, run, toml, f"data.path={mine}")
    assert started.codes == [2, 2]
    changed = f"anytrain: {shard} was changed while it was read"
    assert sentences(started) == [f"{changed}; the last good checkpoint is step 4"]
    assert is_whole(run) == [4]
    refused = cli("train", "--run", run, "--until", f"{END}-steps")
    assert (refused.code, "was altered" in refused.err) == (2, True)
    shutil.copy(corpus / "segment-0000/train-00000.bin", shard)
    goes_on(run, calm)


@slow
def test_a_run_is_trained_once_at_a_time(toml: Path, calm: Path, tmp_path: Path) -> None:
    """The second trainer is refused; the lock of one that was killed is no obstacle."""
    run = tmp_path / "run"
    words = ("train", toml, "--run", run, "--until", f"{END}-steps")
    one = Ranks(2, "silent", 1, *words, code=CODE)
    while not (run / "checkpoints/step-000000004").exists():
        assert one.processes[0].poll() is None, one.wait()
    second = struck("none", 0, run)
    assert second.codes == [2, 2]
    holder = one.processes[0].pid
    (said,) = sentences(second)
    assert said.startswith(f"anytrain: {run} is being trained by another process (pid {holder} on")
    for process in one.processes:
        process.kill()
    assert one.wait() == [-9, -9]
    assert (run / "lock").read_text().startswith(f"pid {holder} ")
    goes_on(run, calm)
