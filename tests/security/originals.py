"""Real files to be damaged: a run, a corpus, models, checkpoints of torch.distributed."""

import shutil
import warnings
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp

from merges import llama
from tiny import cli, write_recipe

SNAPSHOTS = {"tracks": [0.1, 0.2], "per_decade": 4}


def run(folder: Path, corpus: Path) -> Path:
    """Sixteen steps with three checkpoints and a few snapshots."""
    checkpoints = {"every": "1h", "at": [4, 8]}
    recipe = write_recipe(folder / "r.toml", corpus, checkpoint=checkpoints, snapshots=SNAPSHOTS,
                          optimizer={"kind": "schedule_free"})  # fmt: skip
    said = cli("train", recipe, "--run", folder / "run", "--for", "16-steps")
    assert said.code == 0, said.err
    return folder / "run"


def model(folder: Path, corpus: Path) -> Path:
    """A Llama in several files, with an index and a tokenizer."""
    return llama(folder / "model", max_shard_bytes=20_000, tokenizer=corpus / "tokenizer.json")


def foreign(folder: Path) -> Path:
    """A checkpoint of torch.distributed."""
    torch.manual_seed(0)
    state = {
        "model": {"a": torch.randn(8, 4), "b": torch.randn(5).bfloat16()},
        "optim": {"step": torch.tensor(3)},
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(state, checkpoint_id=folder / "dcp", no_dist=True)
    return folder / "dcp"


def copy(corpus: Path, folder: Path) -> Path:
    return Path(shutil.copytree(corpus, folder / "tokens"))
