"""Commands on this machine, on a local Ray and by submitit: output, status, and a clean end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from anytrain.errors import UserError
from anytrain.study.executors import Executor, Local, Slurm, executor, local
from anytrain.study.executors.command import hear_interrupts

# says that it runs, saves on SIGTERM as a training does, and ends with status 3
SAVES = """
import signal, sys, time
def save(*_):
    print("saved", flush=True)
    sys.exit(3)
signal.signal(signal.SIGTERM, save)
print("running", flush=True)
time.sleep(60)
"""


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def until(true: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)


def says(log: Path, word: str) -> bool:
    return log.exists() and word in log.read_text()


def check_runs(made: Executor, tmp_path: Path) -> None:
    """What every executor does: status, output appended, the working directory."""
    assert isinstance(made, Executor)
    log = tmp_path / "logs" / "a.log"
    assert made.submit(python("print('one')"), log).result(40) == 0
    assert made.submit(python("import sys; print('two'); sys.exit(5)"), log).result(40) == 5
    assert log.read_text().split() == ["one", "two"]
    here = made.submit(python("import os; print(os.getcwd())"), tmp_path / "cwd.log")
    assert here.result(40) == 0
    assert (tmp_path / "cwd.log").read_text().strip() == str(Path.cwd())


def check_stops(made: Executor, tmp_path: Path) -> None:
    """`close` lets a command that runs save."""
    log = tmp_path / "saves.log"
    made.submit(python(SAVES), log)
    until(lambda: says(log, "running"), 40)
    made.close()
    until(lambda: says(log, "saved"))


# --- this machine ----------------------------------------------------------------------------


def test_local(tmp_path: Path) -> None:
    made = Local(1)
    check_runs(made, tmp_path)
    assert made.submit(["/no/such/program"], tmp_path / "none.log").result(20) == 127
    assert says(tmp_path / "none.log", "No such file")
    check_stops(made, tmp_path)
    with pytest.raises(RuntimeError, match="closed"):
        made.submit(["true"], tmp_path / "x")


def test_the_highest_rank_begins_first(tmp_path: Path) -> None:
    """Also what is submitted after lower ranks that wait; of equals, the first."""
    executor, order = Local(slots=1), tmp_path / "order"
    first = executor.submit(python("import time; time.sleep(2)"), tmp_path / "log")
    until(first.running)
    says = f"import sys; open({str(order)!r}, 'a').write(sys.argv[1])"
    ranks = {"a": 0.0, "b": 2.0, "c": 0.0, "d": 7.5, "e": 2.0}
    rest = [
        executor.submit([*python(says), name], tmp_path / "log", rank)
        for name, rank in ranks.items()
    ]
    assert [future.result() for future in (first, *rest)] == [0] * 6
    executor.close()
    assert order.read_text() == "dbeac"


def test_what_waits_is_dropped_and_what_runs_ends_by_itself(tmp_path: Path) -> None:
    made = Local(1)
    first = made.submit(python(SAVES), tmp_path / "first.log")
    second = made.submit(python("print('never')"), tmp_path / "second.log")
    until(lambda: says(tmp_path / "first.log", "running"))
    made.close()
    assert first.result(0) == 3
    with pytest.raises(CancelledError):
        second.result(0)
    assert not (tmp_path / "second.log").exists()


def test_a_slot_has_its_own_cores_and_threads(tmp_path: Path) -> None:
    cores = sorted(os.sched_getaffinity(0))
    code = "import os; print(os.environ['OMP_NUM_THREADS'], sorted(os.sched_getaffinity(0)))"
    made = Local(1, threads=3)
    assert made.submit(python(code), tmp_path / "log").result(20) == 0
    made.close()
    assert (tmp_path / "log").read_text().strip() == f"3 {cores}"


def test_slots_share_the_cores_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 5})
    monkeypatch.setattr(local, "_gpus", lambda: [])
    assert [s.cores for s in local._slots(None, None)] == [(0,), (1,), (2,), (5,)]
    assert [(s.cores, s.threads) for s in local._slots(2, None)] == [((0, 1), 2), ((2, 5), 2)]
    assert [s.cores for s in local._slots(6, None)] == [(0,), (0,), (1,), (2,), (2,), (5,)]
    monkeypatch.setattr(local, "_gpus", lambda: ["0", "3"])
    found = local._slots(None, None)
    assert [s.environment for s in found] == [
        {"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": "0"},
        {"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": "3"},
    ]


@pytest.mark.parametrize(
    ("visible", "gpus"), [("", []), ("-1", []), ("2,0", ["2", "0"]), ("1,-1,0", ["1"])]
)
def test_visible_gpus(visible: str, gpus: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert local._gpus() == gpus


def test_gpus_are_counted_as_cuda_counts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    there = [Path("/dev") / name for name in ("nvidia3", "nvidiactl", "nvidia-uvm", "nvidia7")]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter(there))
    assert local._gpus() == ["0", "1"]


PARENT = """
import sys
from pathlib import Path
from anytrain.study.executors import executor
made = executor("local:slots=1")
log = Path(sys.argv[1])
future = made.submit([sys.executable, "-c", sys.argv[2]], log)
made.submit([sys.executable, "-c", "print('never')"], log)
future.result()
"""


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, -2), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_commands_never_outlive_the_study(number: int, status: int, tmp_path: Path) -> None:
    """Interrupted, asked to end or killed: the training saves, nothing else begins."""
    log = tmp_path / "log"
    parent = subprocess.Popen([*python(PARENT), log, SAVES], stderr=subprocess.DEVNULL)
    until(lambda: says(log, "running"))
    parent.send_signal(number)
    assert parent.wait(20) == status
    until(lambda: says(log, "saved"))
    if number != signal.SIGKILL:
        assert log.read_text().split() == ["running", "saved"]  # it was waited for


def test_a_second_signal_kills(tmp_path: Path) -> None:
    log = tmp_path / "log"
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print('running', flush=True)"
    parent = subprocess.Popen(
        [*python(PARENT), log, deaf + "; time.sleep(60)"], stderr=subprocess.DEVNULL
    )
    until(lambda: says(log, "running"))
    parent.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert parent.poll() is None
    parent.send_signal(signal.SIGINT)
    parent.wait(20)


def test_what_a_command_leaves_behind_is_killed(tmp_path: Path) -> None:
    leaves = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid)\n"
    )
    made = Local(1)
    assert made.submit(python(leaves), tmp_path / "log").result(20) == 0
    made.close()
    left = Path("/proc") / (tmp_path / "log").read_text().strip() / "stat"
    until(lambda: not left.exists() or left.read_text().split()[2] == "Z")


# --- clusters --------------------------------------------------------------------------------


@pytest.mark.slow
def test_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("0" * 64)  # else Ray makes one in the home directory
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    ray = pytest.importorskip("ray")
    hear_interrupts()
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        made = executor("ray:cpus=1")
        check_runs(made, tmp_path)
        check_stops(made, tmp_path)
    finally:
        ray.shutdown()


@pytest.mark.slow
def test_submitit(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    made = Slurm(cluster="local", folder=str(tmp_path / "slurm"), timeout_min=5, cpus=1)
    check_runs(made, tmp_path)
    check_stops(made, tmp_path)


# --- as text ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("loacl", "unknown kind 'loacl' (did you mean 'local'?)"),
        ("local:slot=2", "local has no parameter 'slot' (did you mean 'slots'?)"),
        ("local:slots=two", "local:slots = 'two' is not a number (int)"),
        ("local:slots=0", "local:slots = 0; 1 or more is valid"),
        ("ray:cpus=-1", "ray:cpus = -1; a number above 0 is valid"),
        ("slurm:partitoin=x", "slurm has no parameter 'partitoin' (did you mean 'partition'?)"),
        ("slurm:timeout_min=0", "slurm:timeout_min = 0; 1 or more is valid"),
    ],
)
def test_sentences(text: str, sentence: str) -> None:
    with pytest.raises(UserError) as found:
        executor(text)
    assert str(found.value) == sentence


@pytest.mark.parametrize(("text", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_a_missing_package(text: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=f"needs {package}: pip install 'anytrain\\[{text}\\]'"):
        executor(text)
