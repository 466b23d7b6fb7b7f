"""`anytrain merge` as a process: little memory whatever it reads, and no torch."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from anytrain.headers import plan_file
from anytrain.layout import Entry
from merges import kept_run, llama

CODE = """
import json, sys, threading, time
from anytrain.cli.main import main

peak, over = 0, threading.Event()

def watch():
    global peak
    while not over.wait(0.002):
        with open("/proc/self/status") as file:
            anonymous = next(line for line in file if line.startswith("RssAnon"))
        peak = max(peak, int(anonymous.split()[1]) * 1024)

watching = threading.Thread(target=watch)
watching.start()
try:
    code = main(sys.argv[1:])
finally:
    over.set()
    watching.join()
loaded = sorted({"torch", "transformers", "safetensors"} & sys.modules.keys())
print(json.dumps({"code": code, "peak": peak, "loaded": loaded}))
"""


def measured(*arguments: str | Path) -> dict[str, Any]:
    """What a merge in a process of its own says of itself."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, "merge", *map(str, arguments)],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert found["code"] == 0, done.stderr
    return found


def sparse(path: Path, tensors: dict[str, Entry]) -> Path:
    """A file of zeros that takes no room on the disk."""
    head, entries = plan_file(path, tensors, {})
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + sum(entry.bytes for entry in entries.values()))
    return path


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize(
    ("dtype", "megabytes", "inputs"), [("F32", 320, 4), ("BF16", 4, 200), ("F64", 64, 3)]
)
def test_memory_is_bounded(dtype: str, megabytes: int, inputs: int, tmp_path: Path) -> None:
    """Few large inputs, many inputs, and the type that needs most: 0.3 GB at most."""
    count = megabytes * 10**6 // (int(dtype.lstrip("BF")) // 8)
    shapes = {"embedding": (count // 2000, 1000), **{f"{i}": (count // 20,) for i in range(10)}}
    tensors = {name: Entry(dtype, shape, ()) for name, shape in shapes.items()}
    files = [sparse(tmp_path / f"{i}.safetensors", tensors) for i in range(inputs)]
    out = tmp_path / "out.safetensors"
    found = measured(*files, "--out", out)
    assert out.stat().st_size == files[0].stat().st_size
    assert 20e6 < found["peak"] <= 0.3e9
    out.unlink()


def test_no_torch(tmp_path: Path, corpus: Path) -> None:
    run = kept_run(tmp_path, corpus)
    model = llama(tmp_path / "model")
    file = model / "model.safetensors"
    for number, inputs in enumerate(([f"{run}@3..8"], [model, file], [f"{run}@3:raw"])):
        for arguments in (["--out", tmp_path / f"{number}"], ["--rule", "uniform", "--dry-run"]):
            assert measured(*inputs, *arguments)["loaded"] == []
