"""Two processes with gloo: DDP, and FSDP2 as the Trainer sets it up through accelerate."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hf_tiny import RULES
from safetensors.torch import load_file

from anytrain.integrations import stored
from ranks import Ranks

CODE = (Path(__file__).parent / "hf_ranks.py").read_text()


def run(out: Path, kind: str) -> list[dict[str, Any]]:
    here = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    both = Ranks(2, out, kind, code=CODE, PYTHONPATH=here)
    assert both.wait() == [0, 0], both.err
    return [json.loads(text.splitlines()[-1]) for text in both.out]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp", "fsdp-full"])
def test_two_processes_resume_to_the_bit(tmp_path: Path, kind: str) -> None:
    first, second = run(tmp_path, kind)
    for found in (first, second):
        assert (found["t"], found["ranks"]) == (10, 2)
        assert found["weights"]
        assert all(found[name] for name in RULES)
        assert found["sharded"] == (kind != "ddp")
        assert len(set(found["losses"].values())) == 3
    assert first["losses"] == second["losses"]
    one, other = (tmp_path / name / "checkpoint-10" for name in ("straight", "parts"))
    for name in RULES:  # whole tensors, written once
        mine, theirs = stored.tensors(one, name), stored.tensors(other, name)
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)
        assert mine["lm_head.weight"].shape == (64, 16)
    if kind != "fsdp":  # with sharded state the Trainer itself writes no directory to load from
        released = load_file(tmp_path / "released" / "model.safetensors")
        average = stored.tensors(other, "ema2")
        assert all(torch.equal(released[key], average[key]) for key in average)
