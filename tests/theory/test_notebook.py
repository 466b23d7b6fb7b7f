"""The notebook-style example runs, and its own claims hold (it asserts them)."""

import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "theory_notebook.py"


def test_the_notebook_runs() -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "t^-0.5 + averaging" in done.stdout
    table = [line.split() for line in done.stdout.splitlines() if "staircase" in line]
    assert len(table) == 4 + 2  # every average over the budgets, then bias and variance of two
    assert all(float(value) > 0 for value in table[1][2:])
