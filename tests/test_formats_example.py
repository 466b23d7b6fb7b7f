"""The example of formats does what its page says."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "formats.py"


@pytest.mark.slow  # a process that loads transformers
def test_the_example_of_formats(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "--out", str(tmp_path / "formats")],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    line = next(line for line in done.stdout.splitlines() if "LlamaForCausalLM: " in line)
    assert float(line.rpartition(": ")[2]) < 1e-5
    assert "GPT2LMHeadModel with" in done.stdout
