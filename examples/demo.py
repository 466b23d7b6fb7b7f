"""The main job on real text, end to end: what `make demo` runs.

Prepares the Python standard library's own source as a corpus, pretrains a small decoder without a
horizon, stops, goes on, branches cooldowns, releases the best weights, continues a prompt with
plain `transformers`, and compares. Every step is a command that can be typed in the folder.
"""

import argparse
import shlex
import subprocess
import sys
import time
from pathlib import Path

UNIT = 200  # steps
HORIZONS = (1, 2, 4, 8)  # units


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"))
    parser.add_argument("--recipe", default="demo")
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()

    def anytrain(command: str) -> None:
        print(f"\n[{time.monotonic() - began:4.0f} s] $ anytrain {command}", flush=True)
        arguments = [sys.executable, "-m", "anytrain", *shlex.split(command)]
        subprocess.run(arguments, cwd=folder, check=True)

    last = UNIT * HORIZONS[-1]
    anytrain("prepare stdlib --out data/stdlib --tokenizer bpe:4096")
    anytrain("plan demo")
    anytrain(f"train demo --run runs/demo --for {last // 2}-steps")
    anytrain("status runs/demo")
    anytrain(f"train --run runs/demo --until {last}")
    for horizon in HORIZONS:
        branch = f"runs/cooldown-{horizon}x"
        end = UNIT * horizon
        anytrain(f"fork runs/demo --cooldown 10% --end {end}-steps --out {branch}")
        anytrain(f"train --run {branch}")
    anytrain("release runs/demo --out models/demo")
    anytrain("generate models/demo 'def main(' --tokens 60")
    sample(folder / "models/demo")
    branches = " ".join(f"runs/cooldown-{horizon}x" for horizon in HORIZONS)
    anytrain("status runs/demo")
    anytrain(f"report runs/demo {branches} --out report")
    print(f"\n[{time.monotonic() - began:4.0f} s] page: {folder / 'report' / 'page.html'}")


def sample(model: Path) -> None:
    """A continuation by plain `transformers`, with none of our code."""
    code = (
        "from transformers import pipeline\n"
        f"write = pipeline('text-generation', model={str(model)!r})\n"
        "print(write('import ', max_new_tokens=40, do_sample=False)[0]['generated_text'])\n"
    )
    print(f"\n$ python -c {shlex.quote(code)}", flush=True)
    subprocess.run([sys.executable, "-c", code], check=True)


if __name__ == "__main__":
    main()
