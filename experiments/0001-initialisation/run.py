"""Which initialisation for the demo? Trains both on two seeds and writes results.csv beside this.

python experiments/0001-initialisation/run.py FOLDER      (about five minutes on one core)
"""

import csv
import subprocess
import sys
from pathlib import Path

from anytrain.evaluations import evaluations
from anytrain.rundir import RunDir

STEPS = (200, 400)
WEIGHTS = ("raw", "ema25")


def main(folder: Path) -> None:
    rows = []
    for init in ("normal", "anytime"):
        for seed in (0, 1):
            name = f"{init}-{seed}"
            command = ["train", "demo", "--run", f"runs/{name}", "--until", str(STEPS[-1])]
            settings = [f"model.init={init}", f"train.seed={seed}"]
            subprocess.run(
                [sys.executable, "-m", "anytrain", *command, *settings], cwd=folder, check=True
            )
            run = RunDir.open(folder / "runs" / name)
            for step in STEPS:
                (found,) = (e for e in evaluations(run) if e.step == step)
                rows.append([init, seed, step, *(f"{found.losses[w]:.4f}" for w in WEIGHTS)])
    with (Path(__file__).parent / "results.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["init", "seed", "step", *WEIGHTS])
        writer.writerows(rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
