"""At which batch and peaks have cosine and WSD an equal chance? Writes regime.csv beside this.

python experiments/0006-every-horizon/regime.py RUNS [BATCH ARM HORIZON PEAK [KEY=VALUE …]]

Trains `TABLE`, or the one run that is named, under RUNS, and keeps what regime.csv holds already.
ARM is one of `ARMS`, HORIZON in million tokens; data/text512 is corpora.py's.
"""

import csv
import subprocess
import sys
from pathlib import Path

from anytrain.evaluations import evaluations
from anytrain.rundir import RunDir

HERE = Path(__file__).parent
CONTEXT = 128
WARMUP = 51_200  # tokens, where no warmup=STEPS is among the settings: 200 steps at 2 sequences
ARMS = {  # parameters beside peak and warmup, which are told the horizon or nothing
    "cosine0": "cosine:horizon={T},final=0",
    "cosine10": "cosine:horizon={T},final=0.1",
    "linear0": "linear:horizon={T},final=0",
    "wsd": "wsd:horizon={T},decay=0.1",
    "constant": "constant:",
    "invsqrt500": "inverse_sqrt:offset=500-steps",
    "invsqrt1000": "inverse_sqrt:offset=1000-steps",
    "invsqrt2000": "inverse_sqrt:offset=2000-steps",
    "invsqrt4000": "inverse_sqrt:offset=4000-steps",
}
FAST, SLOW = "optimizer.beta2=0.95", "optimizer.beta2=0.99"
SMALL = (SLOW, "model.width=48", "model.mlp=192")
BOTH = ("cosine0", "wsd")
TABLE = [  # batch, arm, horizon, peak, further settings
    *((2, arm, 1, peak, FAST) for arm in BOTH for peak in ("3e-3", "6e-3", "1.2e-2")),
    (2, "wsd", 1, "1.5e-3", FAST),
    *((2, arm, 2, "4.2e-3", FAST) for arm in BOTH),
    *((2, arm, 1, peak, SLOW) for arm in BOTH for peak in ("3e-3", "6e-3")),
    *((2, arm, 1, "6e-3", SLOW, "warmup=1000") for arm in BOTH),
    (2, "cosine0", 1, "1.2e-2", SLOW, "warmup=1000"),
    (2, "wsd", 1, "3e-3", SLOW, "warmup=1000"),
    (2, "wsd", 1, "3e-3", *SMALL),
    *((4, arm, 1, peak, SLOW, "warmup=781") for arm in BOTH for peak in ("3e-3", "6e-3", "1.2e-2")),
    (4, "cosine0", 1, "2.4e-2", SLOW, "warmup=781"),
    *((8, arm, 1, peak, SLOW, "warmup=390") for arm in BOTH for peak in ("6e-3", "1.2e-2")),
    (4, "cosine0", 2, "1.2e-2", SLOW, "warmup=781"),
    (4, "wsd", 2, "6e-3", SLOW, "warmup=781"),
    (4, "constant", 1, "6e-3", SLOW, "warmup=781"),
    (2, "constant", 4, "6e-3", FAST),
    (2, "constant", 4, "3e-3", SLOW),
    (2, "wsd", 4, "3e-3", SLOW, "warmup=1000"),
    (2, "cosine0", 4, "6e-3", SLOW, "warmup=1000"),
]
Spec = tuple[str | int, ...]


def main(runs: Path, spec: Spec | None) -> None:
    for row in [spec] if spec else TABLE:
        if key(row) not in done():
            measure(runs, row)


def key(row: Spec) -> str:
    return " ".join(map(str, row))


def done() -> set[str]:
    path = HERE / "regime.csv"
    return {row[0] for row in csv.reader(path.open())} if path.exists() else set()


def measure(runs: Path, row: Spec) -> None:
    """One line for each evaluation: the run, tokens, validation loss of each weights, nats."""
    batch, arm, horizon, peak, *settings = row
    run = runs / key(row).replace(" ", "_").replace("/", "-")
    kind = ARMS[str(arm)].format(T=f"{horizon}M-tokens").rstrip(":")
    told = [str(s) for s in settings if str(s).startswith("warmup=")]
    default = f"warmup={WARMUP // (int(batch) * CONTEXT)}"
    schedule = f"{kind}{',' if ':' in kind else ':'}peak={peak},{(told or [default])[0]}-steps"
    tied = "{T}" in ARMS[str(arm)]
    asked = [f"schedule={schedule}", f"train.batch={batch}"]
    asked += [str(s) for s in settings if s not in told]
    asked += ["averages={}", f'evaluate.at=["{horizon}M-tokens"]'] if tied else []
    command = [sys.executable, "-m", "anytrain", "train", str(HERE / "recipe.toml")]
    command += ["--run", str(run), "--until", f"{horizon}M-tokens", *asked]
    subprocess.run(command, check=True, capture_output=True)
    with (HERE / "regime.csv").open("a", newline="") as file:
        for found in evaluations(RunDir.open(run)):
            losses = " ".join(f"{name}={loss:.4f}" for name, loss in found.losses.items())
            csv.writer(file).writerow([key(row), found.tokens, losses])
            print(key(row), found.tokens, losses, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), tuple(sys.argv[2:]) or None)
