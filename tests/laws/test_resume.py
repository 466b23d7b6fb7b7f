"""Resume: stopped and restarted anywhere, the next step is the same to the bit."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from anytrain.rundir import RunDir
from anytrain.training import checkpoint
from cases import OPTIMIZERS, RULES
from tiny import Tiny, cli, differing, losses, recipe, saved_bits, specs, write_recipe

STOPS = (1, 5, 11)  # steps; in warmup, near its end, after it
MORE = 4  # steps after the restart


def restarted(tiny: Tiny, folder: Path) -> Tiny:
    """A fresh run, its weights drawn anew, loaded from a checkpoint of `tiny`."""
    rundir = RunDir(folder)
    rundir.checkpoint_root.mkdir(parents=True, exist_ok=True)
    saved = checkpoint.save(tiny.run, rundir)
    saved.verify()
    torch.manual_seed(12345)  # whatever else the process did
    again = Tiny.begin(tiny.run.recipe)
    checkpoint.load(again.run, saved)
    return again


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer(name: str, corpus: Path, tmp_path: Path) -> None:
    settings = recipe(corpus, optimizer=OPTIMIZERS[name], averages=specs(RULES))
    going, done = Tiny.begin(settings), 0
    for stop in STOPS:
        going.take(stop - done)
        back = restarted(going, tmp_path / str(stop))
        assert differing(back.bits(), going.bits()) == []
        random = torch.get_rng_state()
        expected = going.take(MORE)
        done = stop + MORE
        torch.set_rng_state(random)
        assert back.take(MORE) == expected
        assert differing(back.bits(), going.bits()) == []


WAYS: dict[str, dict[str, Any]] = {
    "accumulated": {"train": {"batch": 4, "context": 16, "micro_batch": 2}},
    "one at a time": {"train": {"batch": 4, "context": 16, "micro_batch": 1, "clip": 0.1}},
    "bf16": {"train": {"batch": 4, "context": 16, "micro_batch": 4, "precision": "bf16"}},
    "snapshots": {"snapshots": {"tracks": [0.1, 0.25]}},
    "half steps": {"train": {"batch": 4, "context": 16, "micro_batch": 4, "reference_batch": 8}},
    "every third step": {"train": {"batch": 4, "context": 16, "average_every": 3}},
    "tied": {"model": {"layers": 1, "width": 16, "heads": 2, "tied": True}},
    "guarded": {"guard": {"deviations": 0.5, "window": 4}},
    "anytime shape": {
        "model": {
            "layers": 2, "width": 16, "heads": 2, "norm": "layernorm", "activation": "gelu",
            "qk_norm": True, "init": "anytime",
        }
    },
}  # fmt: skip


@pytest.mark.parametrize("name", WAYS)
def test_way_of_training(name: str, corpus: Path, tmp_path: Path) -> None:
    going = Tiny.begin(recipe(corpus, averages=specs(RULES), **WAYS[name]))
    going.take(7)
    back = restarted(going, tmp_path)
    assert back.take(MORE) == going.take(MORE)
    assert differing(back.bits(), going.bits()) == []


def test_document_mask(corpus: Path, tmp_path: Path) -> None:
    long = {"batch": 4, "context": 64, "micro_batch": 4}
    settings = recipe(corpus, "data.document_mask=true", train=long)
    plain, masked = Tiny.begin(recipe(corpus, train=long)), Tiny.begin(settings)
    assert masked.take(3) != plain.take(3)  # there are documents to mask
    back = restarted(masked, tmp_path)
    assert back.take(MORE) == masked.take(MORE)


# --- the state is complete, and nothing in it is idle ----------------------------------------


def _forgotten(kind: str, optimizer: str) -> Any:
    """What a checkpoint would be that had lost a part of the state."""

    def lose(tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> None:
        if kind in state["clock"]:
            state["clock"][kind] = 0
        elif kind == "since t":
            state["averages"]["t"] = 0.0
        elif kind == "numbers":
            for group in state["optimizer"][0]:
                group.update(dict.fromkeys(group, 0))
        else:
            for name in tensors:
                if name.startswith(kind):
                    tensors[name] = torch.zeros_like(tensors[name])

    return lose


LOST = [
    ("raw/", "adamw"),
    ("optimizer/exp_avg/", "adamw"),
    ("optimizer/exp_avg_sq/", "adamw"),
    ("optimizer/step/", "adamw"),
    ("optimizer/momentum_buffer/", "muon"),
    ("optimizer/momentum_buffer/", "sgd"),
    ("optimizer/z/", "schedule_free"),
    ("numbers", "schedule_free"),
    ("average/ema25/", "adamw"),
    ("track/0.133/", "adamw"),
    ("samples", "adamw"),
]


@pytest.mark.parametrize(("kind", "optimizer"), LOST)
def test_every_part_of_the_state_matters(kind: str, optimizer: str, corpus: Path) -> None:
    """Without any part of it the run goes on differently: the battery above can fail."""
    settings = recipe(corpus, optimizer=OPTIMIZERS[optimizer], snapshots={})
    going = Tiny.begin(settings)
    going.take(6)
    tensors = {name: tensor.clone() for name, tensor in going.run.tensors().items()}
    state = json.loads(json.dumps(going.run.state()))
    assert any(n.startswith(kind) for n in tensors) or not kind.endswith("/")
    _forgotten(kind, optimizer)(tensors, state)
    back = Tiny.begin(settings)
    back.run.restore(tensors, state)
    going.take(2)
    back.take(2)
    assert differing(back.bits(), going.bits()) != []


def test_random_numbers_go_on(corpus: Path, tmp_path: Path) -> None:
    tiny = Tiny.begin(recipe(corpus))
    tiny.take(2)
    torch.manual_seed(99)
    torch.randn(5)
    saved = checkpoint.save(tiny.run, RunDir(tmp_path))
    expected = torch.randn(3)
    torch.manual_seed(1)
    checkpoint.load(Tiny.begin(tiny.run.recipe).run, saved)
    assert torch.equal(torch.randn(3), expected)


# --- through the command line ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["adamw", "schedule_free"])
def test_many_sittings_are_one(name: str, corpus: Path, tmp_path: Path) -> None:
    toml = write_recipe(tmp_path / "r.toml", corpus, optimizer=OPTIMIZERS[name])
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert cli("train", toml, "--run", whole, "--until", 20).code == 0
    assert cli("train", toml, "--run", parts, "--for", "1-steps").code == 0
    for length in ("2-steps", "192-tokens", "9-steps", "5-steps"):
        assert cli("train", "--run", parts, "--for", length).code == 0
    assert differing(saved_bits(parts, 20), saved_bits(whole, 20)) == []
    assert losses(parts) == losses(whole)
    assert list(losses(parts)) == list(range(1, 21))


def test_no_pickle_is_written(corpus: Path, tmp_path: Path) -> None:
    tiny = Tiny.begin(recipe(corpus))
    tiny.take(1)
    saved = checkpoint.save(tiny.run, RunDir(tmp_path))
    suffixes = {path.suffix for path in saved.path.iterdir()}
    assert suffixes == {".json", ".safetensors"}
    for path in saved.path.glob("*.safetensors"):
        assert path.read_bytes()[8:9] == b"{"  # eight bytes of length, then JSON


def test_a_checkpoint_tells_its_settings(corpus: Path, tmp_path: Path) -> None:
    tiny = Tiny.begin(recipe(corpus))
    tiny.take(3)
    saved = checkpoint.save(tiny.run, RunDir(tmp_path))
    assert saved.manifest["step"] == 3
    assert saved.manifest["weights"] == ["raw", "ema25", "uniform"]
    assert saved.state["clock"] == dataclasses.asdict(tiny.run.clock)
    assert saved.state["recipe"] == json.loads(json.dumps(tiny.run.recipe.table()))
