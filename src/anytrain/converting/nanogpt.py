"""nanoGPT's `ckpt.pt` as GPT-2 of transformers.

nanoGPT's model is GPT-2 with the names of GPT-2 (karpathy/nanoGPT, model.py): the differences are
that its matrices are (out, in) where transformers' Conv1D has (in, out), that it may have no
biases, which are zeros there, and that its GELU is the exact one.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from anytrain.archives import Archive
from anytrain.converting.target import Model, number
from anytrain.errors import UserError
from anytrain.layout import Entry
from anytrain.models.tensors import rows

_MATRICES = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")


def is_nanogpt(archive: Archive) -> bool:
    """Whether a file of torch.save is a checkpoint of nanoGPT."""
    return isinstance(archive.rest.get("model_args"), dict)


def convert(archive: Archive) -> Model:
    """The model of a checkpoint; UserError where its tensors are not those of its settings."""
    path, args = archive.path, archive.rest["model_args"]
    layers, width = number(args, "n_layer", path), number(args, "n_embd", path)
    heads, context = number(args, "n_head", path), number(args, "block_size", path)
    vocab = number(args, "vocab_size", path)
    if width % heads:
        raise UserError(f"{path}: n_embd = {width} is no multiple of n_head = {heads}")
    # older ones keep the causal mask as a buffer, which is `attn.bias` too
    entries = {k: e for k, e in archive.entries.items() if not k.endswith(".attn.bias")}
    expected = shapes(layers, width, context, vocab)
    _check(path, entries, expected)
    head, embedding = entries["lm_head.weight"], entries["transformer.wte.weight"]
    tied = head.boxes == embedding.boxes or torch.equal(rows(head), rows(embedding))
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_layer": layers,
        "n_head": heads,
        "n_embd": width,
        "n_positions": context,
        "vocab_size": vocab,
        "activation_function": "gelu",
        "layer_norm_epsilon": 1e-5,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "tie_word_embeddings": tied,
    }
    what = f"nanoGPT, {layers} layers of {width}, context {context}"
    return Model(
        path, what, config, _tensors(entries, expected, tied), embedding.dtype, vocab, context
    )


def shapes(layers: int, width: int, context: int, vocab: int) -> dict[str, tuple[int, ...]]:
    """Dimensions of every tensor of nanoGPT's, the biases included that may not be there."""
    found: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (vocab, width),
        "transformer.wpe.weight": (context, width),
    }
    for layer in range(layers):
        at = f"transformer.h.{layer}"
        for name, out, into in zip(
            _MATRICES, (3 * width, width, 4 * width, width), (width, width, width, 4 * width),
            strict=True,
        ):  # fmt: skip
            found |= {f"{at}.{name}.weight": (out, into), f"{at}.{name}.bias": (out,)}
        for name in ("ln_1", "ln_2"):
            found |= {f"{at}.{name}.weight": (width,), f"{at}.{name}.bias": (width,)}
    found |= {"transformer.ln_f.weight": (width,), "transformer.ln_f.bias": (width,)}
    return {**found, "lm_head.weight": (vocab, width)}


def _check(
    path: Path, entries: Mapping[str, Entry], expected: Mapping[str, tuple[int, ...]]
) -> None:
    for name, entry in entries.items():
        if expected.get(name) != entry.shape:
            valid = f"{expected[name]} is valid" if name in expected else "nanoGPT has none"
            raise UserError(f"{path}: tensor {name!r} is {entry.shape}; {valid}")
    for name in expected:
        if name not in entries and not name.endswith(".bias"):
            raise UserError(f"{path}: tensor {name!r} is missing")


def _tensors(
    entries: Mapping[str, Entry], expected: Mapping[str, tuple[int, ...]], tied: bool
) -> Iterator[tuple[str, Tensor]]:
    for name, dims in expected.items():
        if name == "lm_head.weight" and tied:
            continue
        value = rows(entries[name]) if name in entries else torch.zeros(dims)
        conv = name.removesuffix(".weight").endswith(_MATRICES) and value.dim() == 2
        yield name, value.T.contiguous() if conv else value
