"""Every benchmark, each in a process of its own with one thread, as one table.

python -m benchmarks [NAME…] [--out FILE]          (about fifteen minutes; `make bench`)

The rows also go to `benchmarks/results/DEVICE.json`; names narrow the run to some of them.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.harness import Row, device_name, record, report

NAMES = (
    "averages",
    "training",
    "trainers",
    "data",
    "checkpoint",
    "startup",
    "gpu",
    "theory",
    "merge",
    "curvature",
)
RUN = "from benchmarks import harness, {name} as it; harness.save(it.rows(), {out!r})"


def measured(name: str, folder: Path) -> list[Row]:
    """One module's rows, by a fresh process: one thread, nothing warm but the disk."""
    out = folder / f"{name}.json"
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"), "1")
    quiet = {"TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}
    code = RUN.format(name=name, out=str(out))
    print(f"{name} …", file=sys.stderr, flush=True)
    with (folder / f"{name}.log").open("w") as log:
        done = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, **one, **quiet}, stdout=log, stderr=log
        )
    if done.returncode:
        text = (folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")
        raise SystemExit(f"benchmarks.{name} failed:\n{text[-4000:]}")
    return [Row.from_json(row) for row in json.loads(out.read_text(encoding="utf-8"))]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--out", type=Path, help="another file for the rows")
    options = parser.parse_args()
    for name in options.names:
        if name not in NAMES:
            parser.error(f"{name!r} is no benchmark; {', '.join(NAMES)} are")
    device = device_name()
    slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    out = options.out or Path(__file__).parent / "results" / f"{slug}.json"
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.names or NAMES:
            found[name] = measured(name, Path(folder))
            record({name: found[name]}, device, out)
    report([row for rows in found.values() for row in rows], device)


if __name__ == "__main__":
    main()
