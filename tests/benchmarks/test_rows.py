"""Rows of the benchmarks: ratios, targets, JSON; and the GPU's workloads, tiny, on a CPU."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from anytrain.models.shape import DecoderShape
from benchmarks import gpu
from benchmarks.harness import Row, Target


def row(ours: float | None, *targets: Target) -> Row:
    return Row("a", "ms", ours, "equal", {"peer": 4.0}, floor=2.0, targets=targets)


@pytest.mark.parametrize(
    ("targets", "met"),
    [
        ((), None),
        ((Target("peer", "≤", 0.75),), True),
        ((Target("peer", "≤", 0.74),), False),
        ((Target("floor", "≥", 1.5),), True),
        ((Target("floor", "≥", 1.6), Target("peer", "≤", 0.75)), False),
        ((Target("", "≤", 3.0),), True),
        ((Target("", "≤", 2.9),), False),
    ],
)
def test_a_row_meets_all_its_targets_or_not(targets: tuple[Target, ...], met: bool | None) -> None:
    made = row(3.0, *targets)
    assert made.ratios == {"peer": 0.75, "floor": 1.5}
    assert made.met is met
    assert Row.from_json(made.to_json()) == made
    assert ("NO" in str(made)) == (met is False)


def test_what_was_not_measured_says_so() -> None:
    made = row(None, Target("peer", "≤", 1.0))
    assert (made.met, made.ratios) == (None, {})
    assert "not measured: equal" in str(made)
    if not torch.cuda.is_available():
        assert all(each.ours is None and each.met is None for each in gpu.rows())


def test_the_gpus_workloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "ROUNDS", 1)
    made = gpu.settings("150M", 2)
    assert made.train.batch * made.train.context == gpu.TOKENS
    small = DecoderShape(layers=1, width=16, heads=2, mlp=32, vocab=64)
    step = replace(made.train, batch=4, micro_batch=2, context=8, compile=False)
    made = replace(made, model=small, train=step)
    speed, share = gpu.training("tiny", made, "cpu", 1e12, str(tmp_path))
    assert set(speed.peers) == {"no averages", "nanoGPT loop", "transformers.Trainer"}
    assert all(value > 0 for value in speed.peers.values())
    assert 0 < share.ours < 1
    assert gpu.averages(small, "cpu").ours > 0
