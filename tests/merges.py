"""What merges are made of: a run with every step kept, small Llamas, tensors read and compared."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from anytrain.models.decoder import Decoder
from anytrain.models.huggingface import write_directory
from anytrain.models.shape import DecoderShape
from anytrain.rundir import RunDir
from anytrain.training import checkpoint
from cases import RULES
from tiny import Tiny, as_bytes, cli, recipe, specs, write_recipe

STEPS = 8
SHAPE = DecoderShape(layers=2, width=16, heads=2, vocab=280, context=16)


def kept_run(folder: Path, corpus: Path, **tables: Any) -> Path:
    """A run of eight steps that keeps all of them and the beginning, every rule among them."""
    tables = {"checkpoint": {"every": "1h", "at": list(range(1, STEPS + 1))},
              "averages": specs(RULES), **tables}  # fmt: skip
    said = cli("train", write_recipe(folder / "r.toml", corpus, **tables), "--run",
               folder / "run", "--until", str(STEPS))  # fmt: skip
    assert said.code == 0, said.err
    begun = Tiny.begin(recipe(corpus, **tables))
    checkpoint.save(begun.run, RunDir(folder / "run"))
    return folder / "run"


def llama(folder: Path, seed: int = 0, shape: DecoderShape = SHAPE, **settings: Any) -> Path:
    """A Llama in Hugging Face's form, its weights by the seed."""
    torch.manual_seed(seed)
    model = Decoder(shape)
    tensors = {name: torch.randn(t.shape) for name, t in model.state_dict().items()}
    write_directory(folder, shape, tensors, eot=0, card="# mine\n", **settings)
    return folder


def tensors_of(path: Path) -> dict[str, Tensor]:
    """Everything in a file, or in the files of a directory."""
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def weighted_sum(inputs: list[dict[str, Tensor]], weights: list[float]) -> dict[str, Tensor]:
    """Σ c_j x_j by hand, rounded to the type of the last."""
    found = {}
    for name, last in inputs[-1].items():
        total = torch.zeros(last.shape, dtype=torch.float64)
        for tensors, weight in zip(inputs, weights, strict=True):
            total += weight * tensors[name].double()
        found[name] = total.to(last.dtype)
    return found


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert as_bytes(tensor) == as_bytes(expected[name]), name


def write_file(path: Path, tensors: dict[str, Tensor], **metadata: str) -> Path:
    save_file(tensors, path, metadata or None)
    return path


def merged_json(*arguments: str | Path) -> dict[str, Any]:
    """`anytrain merge … --json`, which went well."""
    said = cli("merge", *arguments, "--json")
    assert said.code == 0, said.err
    found: dict[str, Any] = json.loads(said.out)
    return found
