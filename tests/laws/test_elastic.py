"""The elastic law: a run goes on on any number of processes, with the same batches in order.

On as many as before, bit for bit; on others, to rounding. Averages are sums of what each process
has, so they follow without a message.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from anytrain.headers import of_checkpoint
from anytrain.rundir import RunDir
from anytrain.training import checkpoint
from cases import OPTIMIZERS
from ranks import recipe, trained
from tiny import at, cli, differing, events, losses, saved_bits

HALF, END = 5, 9  # steps
SNAPSHOTS = {"tracks": [0.1], "per_decade": 10}
NEAR = {"rtol": 2e-4, "atol": 2e-5}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Token files as nanoGPT has them; skewed, so that there is something to learn."""
    folder = tmp_path_factory.mktemp("elastic")
    rng = np.random.default_rng(0)
    for name, count in (("train", 20_000), ("val", 3_000)):
        tokens = (rng.random(count) ** 3 * 67).astype(np.uint16)
        tokens.tofile(folder / f"{name}.bin")
    return folder


@pytest.fixture(scope="module")
def alone(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process, undisturbed."""
    return fresh(corpus, tmp_path_factory.mktemp("alone"), 1, END)


@pytest.fixture(scope="module")
def two(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two processes, undisturbed, with a checkpoint half-way."""
    return fresh(corpus, tmp_path_factory.mktemp("two"), 2, END)


def fresh(corpus: Path, folder: Path, size: int, until: int, **tables: object) -> Path:
    tables = {"checkpoint": {"every": "1h", "at": [HALF]}, "snapshots": SNAPSHOTS, **tables}
    folder.mkdir(exist_ok=True)
    trained(size, folder / "run", until, recipe(folder / "r.toml", corpus, **tables))
    return folder / "run"


def stopped_half_way(corpus: Path, folder: Path, size: int) -> Path:
    return fresh(corpus, folder, size, HALF)


def near(a: Path, b: Path, step: int) -> None:
    """The same state to rounding: every tensor, every loss."""
    one, other = (checkpoint.read_tensors(at(run, step).path) for run in (a, b))
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        if not name.startswith("rng/"):
            torch.testing.assert_close(tensor, other[name], **NEAR)
    alike(a, b, NEAR["rtol"])


def alike(a: Path, b: Path, within: float) -> None:
    """The same losses; what is computed in bf16 depends on how matrices are cut."""
    assert losses(a).keys() == losses(b).keys()
    for taken, loss in losses(a).items():
        assert losses(b)[taken] == pytest.approx(loss, rel=within)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1), (2, 3), (1, 2), (3, 2)])
def test_another_number_of_processes(
    before: int, after: int, alone: Path, corpus: Path, tmp_path: Path
) -> None:
    run = stopped_half_way(corpus, tmp_path, before)
    trained(after, run, END)
    near(alone, run, END)
    assert RunDir(run).checkpoints()[-1].state["clock"] == at(alone, END).state["clock"]


def test_the_same_number_of_processes(two: Path, alone: Path, corpus: Path, tmp_path: Path) -> None:
    """Bit for bit, stopping (prefix) and going on (resume) alike; and one process is near."""
    run = stopped_half_way(corpus, tmp_path, 2)
    assert differing(saved_bits(run, HALF), saved_bits(two, HALF)) == []
    trained(2, run, END)
    assert differing(saved_bits(run, END), saved_bits(two, END)) == []
    assert losses(run) == losses(two)
    near(alone, two, END)
    assert [event["processes"] for event in events(run, "start")] == [2, 2]


def test_every_process_writes_its_own_rows_once(two: Path) -> None:
    """Uneven: 67 rows are 34 and 33; what both have whole is written by the first."""
    entries = of_checkpoint(at(two, END))
    embedding = entries["average/ema25/model.embed_tokens.weight"]
    assert [(box.at, box.shape) for box in embedding.boxes] == [
        ((0, 0), (34, 20)),
        ((34, 0), (33, 20)),
    ]
    assert len(embedding.files) == 2
    step = entries["optimizer/step/model.norm.weight"]
    assert len(step.boxes) == 1
    first = {file.name for file in embedding.files} | {next(iter(step.files)).name}
    assert {name[:11] for name in first} == {"shard-00001", "shard-00002"}


def test_readers_on_one_process(two: Path, tmp_path: Path) -> None:
    """Verbs put the shards together: a release has the weights that the checkpoint has whole."""
    for weights, name in (("ema25", "average/ema25"), ("raw", "raw")):
        out = tmp_path / weights
        said = cli("release", f"{two}:{weights}", "--out", out)
        assert said.code == 0, said.err
        from safetensors.torch import load_file

        released = load_file(out / "model.safetensors")
        saved = checkpoint.read_tensors(at(two, END).path)
        for key, tensor in released.items():
            assert torch.equal(tensor, saved[f"{name}/{key}"])
    merged = cli("merge", f"{two}:raw", f"{two}:ema25", "--out", tmp_path / "merged")
    assert merged.code == 0, merged.err
    assert cli("status", two).code == 0
    forked = cli("fork", f"{two}@{HALF}", "--out", tmp_path / "fork", "schedule.peak=1e-3")
    assert forked.code == 0, forked.err
    trained(1, tmp_path / "fork", HALF + 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_every_optimizer(name: str, corpus: Path, tmp_path: Path) -> None:
    one, many = (
        fresh(corpus, tmp_path / str(size), size, 4, optimizer=OPTIMIZERS[name]) for size in (1, 2)
    )
    if name == "muon":  # its Newton–Schulz iteration is in bf16
        alike(one, many, 1e-3)
    else:
        near(one, many, 4)


WAYS = {
    "bf16": {"train": {"batch": 12, "context": 16, "micro_batch": 3, "precision": "bf16"}},
    "recomputed": {"parallel": {"recompute": True}},
    "offloaded": {"parallel": {"offload_averages": True}},
    "tied": {"model": {"layers": 1, "width": 20, "heads": 2, "vocab": 67, "tied": True}},
    "every third": {"train": {"batch": 12, "context": 16, "average_every": 3}},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WAYS)
def test_ways_of_training(name: str, corpus: Path, tmp_path: Path) -> None:
    one, many = (fresh(corpus, tmp_path / str(size), size, 4, **WAYS[name]) for size in (1, 2))
    if name == "bf16":
        alike(one, many, 3e-3)
    else:
        near(one, many, 4)


@pytest.mark.slow
def test_groups_that_share_the_state(alone: Path, corpus: Path, tmp_path: Path) -> None:
    """Hybrid sharding: two groups of two, of which the first writes; goes on on two."""
    folder = tmp_path / "hybrid"
    run = fresh(corpus, folder, 4, HALF, parallel={"shard": 2})
    files = {file.name[:11] for file in at(run, HALF).path.glob("*.safetensors")}
    assert files == {"shard-00001", "shard-00002"}
    trained(2, run, END, "parallel.shard=2")
    near(alone, run, END)


@pytest.mark.slow
def test_our_launcher_and_torchrun_are_the_same(two: Path, corpus: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    toml = recipe(tmp_path / "r.toml", corpus, checkpoint={"every": "1h"}, snapshots=SNAPSHOTS)
    words = ["train", str(toml), "--until", f"{HALF}-steps", "--run"]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--"]
    for name, command in {
        "ours": ["-m", "anytrain", *words, str(tmp_path / "ours"), "--devices", "2"],
        "torchrun": [*launch, "anytrain", *words, str(tmp_path / "torchrun")],
    }.items():
        done = subprocess.run([sys.executable, *command], capture_output=True, timeout=300)
        assert done.returncode == 0, done.stderr.decode()
        found = tmp_path / name
        assert (
            differing(saved_bits(found, HALF, ["recipe"]), saved_bits(two, HALF, ["recipe"])) == []
        )


@pytest.mark.parametrize(
    ("size", "settings", "sentence"),
    [
        (2, ["train.batch=9", "train.micro_batch=1"], "train.batch = 9 cannot be shared equally"),
        (2, ["parallel.shard=3"], "parallel.shard = 3 does not divide 2 processes"),
    ],
)
def test_what_cannot_be_shared(
    size: int, settings: list[str], sentence: str, corpus: Path, tmp_path: Path
) -> None:
    from ranks import Ranks

    toml = recipe(tmp_path / "r.toml", corpus)
    ranks = Ranks(size, "train", toml, "--run", tmp_path / "run", "--until", "2", *settings)
    assert ranks.wait() == [2] * size
    assert sentence in "".join(ranks.err)
    assert "Traceback" not in "".join(ranks.err)


def test_devices_that_are_not_there(corpus: Path, tmp_path: Path) -> None:
    said = cli("train", recipe(tmp_path / "r.toml", corpus), "--devices", 0)
    assert (said.code, said.out) == (2, "")
    assert "--devices 0; 1 or more is valid" in said.err


def test_a_parallel_setting_may_change(two: Path) -> None:
    recorded = json.loads((at(two, END).path / "state.json").read_text())["recipe"]["parallel"]
    assert recorded == {"recompute": False, "offload_averages": False}
