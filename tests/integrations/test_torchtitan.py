"""The released torchtitan on CPUs, in the environment that `make titan` builds."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from anytrain import schedules
from ranks import Ranks

pytest.importorskip("torchtitan", reason="make titan builds an environment that has it")

HERE = Path(__file__).parent
SCHEDULE = schedules.schedule("inverse_sqrt:peak=1e-2,warmup=4-steps,offset=16-steps")


def run(job: str, out: Path, size: int = 1) -> list[dict[str, Any]]:
    """What every process says."""
    paths = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    code = (HERE / "titan.py").read_text()
    processes = Ranks(size, job, out, code=code, PYTHONPATH=paths)
    assert processes.wait() == [0] * size, processes.err
    return [json.loads(text.splitlines()[-1]) for text in processes.out]


@pytest.mark.parametrize("size", [1, 2])
def test_extended_it_is_a_training_that_never_stopped(tmp_path: Path, size: int) -> None:
    """FSDP2 as torchtitan sets it up; and one process goes on with what several saved."""
    for found in run("resume", tmp_path, size):
        assert found["rates"] == [SCHEDULE(t) for t in range(1, 11)]
        assert found["later"] == found["rates"][5:]
        assert found["t"] == 10
        assert found["weights"]
        assert found["averages"] == [True, True]
        assert found["by_hand"] < 2e-6
        losses = found["validated"]
        names = ("loss", "ema2/loss", "uniform/loss")
        assert losses.keys() == {f"validation_metrics/{name}" for name in names}
        assert len(set(losses.values())) == 3
    (alone,) = run("reshard", tmp_path)
    assert alone == {"t": 5, "ema2": True, "uniform": True}


def test_what_cannot_go_on_is_a_sentence_and_the_rest_goes_on(tmp_path: Path) -> None:
    (found,) = run("refusals", tmp_path)
    assert "step-5 holds no average 'ema2'; one that does is valid" in found["no averages"]
    assert "training.steps = 10 lies beyond the horizon of 8 steps" in found["horizon"]
    assert found["unknown"] == "evaluated names 'ema3' (did you mean 'ema2'?)"
    assert "took step 10 at the rate 0.00852803 of inverse_sqrt" in found["jump"]
    assert found["begun"] == f"5 steps, first rate {SCHEDULE(6):.6g}"
    rates = json.loads(found["cooldown"])
    assert rates[0] < SCHEDULE(10)
    assert rates[-1] == 0


def test_what_torchtitan_does_by_itself(tmp_path: Path) -> None:
    """Its cosine jumps where it is extended, and its last checkpoint cannot be resumed."""
    (found,) = run("peer", tmp_path)
    first, second, *_ = found["extended"]
    assert first == 0  # the old curve's end, brought by the optimizer's state
    page = (HERE.parents[1] / "docs" / "in_torchtitan.md").read_text(encoding="utf-8")
    assert f"{found['planned'][-1]:.5f}, {first:.5f}, {second:.5f}" in page
    assert not found["same"]
    assert "Missing key in checkpoint" in found["refused"]
