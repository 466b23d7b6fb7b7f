"""Two processes killed again and again, at random: the run is that of two left alone, to the bit.

python tests/faults/soak.py --kills 100 --seed 1        `make soak`; ten seconds a kill

The same command is started each time, as a requeued job would be. One process or both are killed,
mostly while they train, evaluate and save, and once in eight while they start. At the end every
tensor and counter of the state and every loss are compared with a run that was left alone.
"""

import argparse
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import ranks
from ranks import Ranks, trained
from tiny import differing, events, losses, saved_bits

PATIENCE = 120  # seconds until a step is taken
STARTING, TRAINING = 8.0, 1.0  # seconds in which a kill may come: from the start, from a step on
MODEL = {"layers": 1, "width": 20, "heads": 2, "mlp": 28}


def new_step(run: Path, started: Ranks) -> None:
    """Return when the run has gone on by a step, or a process has ended."""
    metrics, low = run / "metrics.jsonl", 1 << 60
    deadline = time.monotonic() + PATIENCE
    while all(process.poll() is None for process in started.processes):
        size = metrics.stat().st_size if metrics.exists() else 0
        if size > low:  # it shrinks first: what the last kill lost is cut away
            return
        low = size
        assert time.monotonic() < deadline, "no step was taken"
        time.sleep(0.002)


def kill(run: Path, words: Sequence[object], chance: random.Random) -> None:
    """Start two processes and kill one or both; the other ends by itself, without a traceback."""
    started = Ranks(2, *words)
    if chance.random() < 1 / 8:
        time.sleep(chance.uniform(0, STARTING))
    else:
        new_step(run, started)
        time.sleep(chance.uniform(0, TRAINING))
    victims = chance.choice([[0], [1], [0, 1]])
    for rank in victims:
        started.processes[rank].send_signal(signal.SIGKILL)
    codes = started.wait()  # raises where one hangs
    said = "".join(started.err)
    assert "Traceback" not in said, said
    dead = [code == -signal.SIGKILL for code in codes]
    assert dead == [rank in victims for rank in (0, 1)], (codes, said)
    assert 0 not in codes, said


def soak(toml: Path, folder: Path, kills: int, seed: int) -> int:
    """So many kills, then the comparison; an AssertionError says what differs. Returns steps."""
    chance = random.Random(seed)
    run, calm = folder / "killed", folder / "calm"
    for number in range(1, kills + 1):
        # endless: the kill ends it
        kill(run, ("train", toml, "--run", run), chance)
        reached = max(losses(run), default=0) if (run / "metrics.jsonl").exists() else 0
        print(f"{number} of {kills} kills, step {reached}", file=sys.stderr, flush=True)
    until = reached + 5
    trained(2, run, until, toml)
    trained(2, calm, until, toml, timeout=600)
    assert differing(saved_bits(run, until), saved_bits(calm, until)) == [], f"seed {seed}"
    assert losses(run) == losses(calm), f"seed {seed}"  # each step once, none lost, none twice
    assert len(events(run, "start")) > kills / 2
    return until


def recipe(path: Path, corpus: Path) -> Path:
    """Saves every third step, so that most kills come while a checkpoint is written."""
    every = {"every": "3-steps", "newest": 2}
    return ranks.recipe(path, corpus, model=MODEL, checkpoint=every, snapshots={})


def main() -> None:
    from anytrain.data.tokenize import prepare

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    args = parser.parse_args()
    print(f"seed {args.seed}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = folder / "text.txt"
        text.write_text(" ".join(str(number**3) for number in range(20_000)))
        prepare([str(text)], folder / "tokens", tokenizer="bpe:280", validation=0.1, bar=False)
        steps = soak(recipe(folder / "r.toml", folder / "tokens"), folder, args.kills, args.seed)
    print(f"{args.kills} kills, {steps} steps: every bit is that of a run left alone")


if __name__ == "__main__":
    main()
