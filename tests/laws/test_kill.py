"""Resume, for real: a process killed with SIGKILL again and again = one that was left alone.

The same command is started each time, as a requeued job would be, and killed at a random moment
of its training, most often while it writes a checkpoint; nothing is cleaned up between. At the
end every bit of the state is compared: weights, averages, optimizer, counters, random numbers.
"""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from anytrain.rundir import RunDir
from cases import OPTIMIZERS, RULES
from tiny import (
    cli,
    differing,
    evaluations,
    events,
    files,
    losses,
    saved_bits,
    specs,
    write_recipe,
)

PATIENCE = 120  # seconds, for a process to get anywhere


def killed(command: list[str], run: Path, wait: float) -> bool:
    """Start, kill `wait` seconds after its first new step; False where it ended before that."""
    low = metrics_size(run)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + PATIENCE
    while (size := metrics_size(run)) <= low and process.poll() is None:
        low = size  # it shrinks first: what the last kill lost is cut away
        assert time.monotonic() < deadline, "no step was taken"
        time.sleep(0.002)
    time.sleep(wait)
    process.send_signal(signal.SIGKILL)
    _, err = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), err
    return process.returncode != 0


def metrics_size(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.stat().st_size if path.exists() else 0


def battery(
    optimizer: str, kills: int, steps: int, wait: float, corpus: Path, tmp_path: Path
) -> None:
    toml = write_recipe(
        tmp_path / "r.toml",
        corpus,
        optimizer=OPTIMIZERS[optimizer],
        averages=specs(RULES),
        checkpoint={"every": "3-steps", "newest": 2},
        train={"batch": 4, "context": 16, "micro_batch": 2},
        snapshots={},
    )
    run, calm = tmp_path / "killed", tmp_path / "calm"
    command = [sys.executable, "-m", "anytrain", "train", str(toml), "--run", str(run),
               "--until", str(steps)]  # fmt: skip
    seed = random.SystemRandom().randrange(10**6)
    chance, done = random.Random(seed), 0
    while done < kills:
        done += killed(command, run, chance.uniform(0, wait))
        reached = max(losses(run), default=0)
        assert reached < steps, f"seed {seed}: {steps} steps were too few for {kills} kills"
    assert subprocess.run(command, stderr=subprocess.PIPE, timeout=PATIENCE).returncode == 0
    assert cli("train", toml, "--run", calm, "--until", steps).code == 0

    assert differing(saved_bits(run, steps), saved_bits(calm, steps)) == [], f"seed {seed}"
    assert losses(run) == losses(calm), f"seed {seed}"  # each step once, none lost, none twice
    assert len(events(run, "start")) == kills + 1
    ours, theirs = ({r["step"]: r for r in evaluations(path)} for path in (run, calm))
    for step in ours.keys() & theirs.keys():
        for key in ours[step].keys() & theirs[step].keys():
            if key.startswith("val/"):
                assert ours[step][key] == theirs[step][key], f"seed {seed}: {step} {key}"
    left = {path.name for path in RunDir(run).checkpoint_root.iterdir()}
    assert not [name for name in left if name.startswith(".")], f"seed {seed}: {left}"
    assert files(run / "snapshots") == files(calm / "snapshots"), f"seed {seed}"


def test_killed_twice(corpus: Path, tmp_path: Path) -> None:
    battery("adamw", 2, 90, 0.3, corpus, tmp_path)


@pytest.mark.slow
def test_killed_often(corpus: Path, tmp_path: Path) -> None:
    battery("adamw", 15, 600, 0.5, corpus, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_killed(optimizer: str, corpus: Path, tmp_path: Path) -> None:
    battery(optimizer, 3, 200, 0.5, corpus, tmp_path)
