"""What a conversion ends in: a config, named tensors, and the directory that holds them."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

import torch
from torch import Tensor

from anytrain.errors import UserError
from anytrain.files import appearing
from anytrain.models.description import install_code, install_tokenizer
from anytrain.models.tensors import TYPES, write_tensors

SHARD = 5 * 10**9  # bytes above which the weights are split


@dataclass(frozen=True)
class Model:
    """A model under Hugging Face's names."""

    source: Path
    what: str  # for a person: "nanoGPT, 12 layers"
    config: dict[str, Any]  # config.json
    tensors: Iterable[tuple[str, Tensor]]  # made when they are asked for
    dtype: str  # of the weights where none is asked for: F32, BF16, …
    vocab: int
    context: int


def write(model: Model, out: Path, dtype: str | None, tokenizer: Path | None) -> int | None:
    """The directory, whole or not at all; the end-of-text token that the tokenizer names.

    Raises UserError where `out` is in use and where the tokenizer has more tokens than the model.
    """
    chosen = TYPES[model.dtype] if dtype is None else getattr(torch, dtype)
    with appearing(out) as draft:
        eot = None
        if model.config["model_type"] == "anytrain":
            install_code(draft)
        if tokenizer is not None:
            eot = install_tokenizer(draft, tokenizer, model.vocab, model.context)
        end = {"bos_token_id": None, "eos_token_id": eot, "pad_token_id": eot}
        config = {**model.config, **end, "dtype": str(chosen).removeprefix("torch.")}
        for name, value in (("config.json", config), ("generation_config.json", end)):
            (draft / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
        write_tensors(draft, model.tensors, chosen, SHARD)
    return eot


def number(table: dict[str, Any], key: str, where: Path) -> int:
    """A whole number of 1 or more in a table of settings."""
    value = table.get(key)
    if type(value) is not int or value < 1:
        raise UserError(
            f"{where}: {key} = {shortened(value)}; a whole number of 1 or more is valid"
        )
    return value
