"""The two examples of docs/in_transformers.md, shorter."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, *words: object) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *map(str, words)],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_trainers(tmp_path: Path) -> None:
    said = run("transformers_trainer.py", "--out", tmp_path, "--steps", 20)
    assert "after 40 steps, nats/byte: raw" in said
    assert (tmp_path / "checkpoint-20" / "averages" / "ema6.safetensors").exists()
    assert (tmp_path / "released" / "model.safetensors").exists()


@pytest.mark.slow
def test_trls(tmp_path: Path) -> None:
    said = run("trl_sft.py", "--out", tmp_path, "--rows", 200)
    assert "ema6: " in said
    assert "after 23 steps, ema6 is in" in said
    assert (tmp_path / "released" / "model.safetensors").exists()
