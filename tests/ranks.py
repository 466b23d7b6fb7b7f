"""Runs of several real processes with gloo, started the way a launcher starts them."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from torch.distributed import TCPStore

from tiny import write_recipe

PLAIN = "import sys; from anytrain.cli.main import main; sys.exit(main(sys.argv[1:]))"
# odd sizes: rows that neither two nor three processes can share equally
MODEL = {"layers": 2, "width": 20, "heads": 2, "vocab": 67, "mlp": 28}
TRAIN = {"batch": 12, "context": 16, "micro_batch": 6}


def recipe(path: Path, corpus: Path, **tables: Any) -> Path:
    return write_recipe(path, corpus, **{"model": MODEL, "train": TRAIN, **tables})


class Ranks:
    """Processes 0 … n − 1 of one world; `code` runs in each, with the words as its arguments."""

    def __init__(
        self, size: int, *words: object, code: str = PLAIN, timeout: float = 240, **env: str
    ) -> None:
        self.store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        shared = {
            **os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(self.store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True", "ANYTRAIN_TIMEOUT": "180", **env,
        }  # fmt: skip
        self.timeout = timeout
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-c", code, *map(str, words)],
                env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for rank in range(size)
        ]  # fmt: skip
        self.out: list[str] = []
        self.err: list[str] = []
        self.codes: list[int] = []

    def wait(self) -> list[int]:
        """Exit codes, once all have ended; a hang is an error."""
        codes = []
        try:
            for process in self.processes:
                out, err = process.communicate(timeout=self.timeout)
                self.out.append(out)
                self.err.append(err)
                codes.append(process.returncode)
        finally:
            for process in self.processes:
                process.kill()
        return codes


def trained(size: int, run: Path, until: int, *words: object, **more: Any) -> Ranks:
    """Begin the run or go on with it on so many processes; all have to end well."""
    ranks = Ranks(size, "train", *words, "--run", run, "--until", f"{until}-steps", **more)
    codes = ranks.wait()
    assert codes == [0] * size, "\n".join(ranks.err)
    return ranks
