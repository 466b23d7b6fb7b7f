"""Tiny bases and conversations that a tiny model can learn."""

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from anytrain.models.decoder import Decoder
from anytrain.models.huggingface import write_directory
from anytrain.models.shape import DecoderShape
from anytrain.posttrain.rows import Row

CONTEXT = 64
WORDS = "the of and to in is that for it as was with be by on not he his but at are"

_LLAMA = DecoderShape(layers=2, width=32, heads=2, vocab=280, context=CONTEXT)
SHAPES = {
    "llama": _LLAMA,
    "own": replace(_LLAMA, norm="layernorm", activation="gelu", qk_norm=True),
    "tied": replace(_LLAMA, qk_norm=True, tied=True),
}


def write_base(out: Path, shape: DecoderShape, corpus: Path, **more: Any) -> Path:
    model = Decoder.seeded(shape, 0)
    options = {"tokenizer": corpus / "tokenizer.json", "eot": 0} | more
    write_directory(out, shape, model.state_dict(), **options)
    return out


def conversations(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """A word to be said twice."""
    rng = random.Random(seed)
    words = [rng.choice(WORDS.split()) for _ in range(count)]
    return [{"prompt": f"{n} {word}", "completion": f"{word} {word}"}
            for n, word in enumerate(words)]  # fmt: skip


def preferences(count: int) -> list[dict[str, Any]]:
    """The same word is better, whatever was said."""

    def turn(role: str, content: str) -> list[dict[str, str]]:
        return [{"role": role, "content": content}]

    return [
        {"prompt": turn("user", f"{n} the"), "chosen": turn("assistant", "that is"),
         "rejected": turn("assistant", "not by he")}
        for n in range(count)
    ]  # fmt: skip


def write_rows(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def row(*turns: tuple[str, str]) -> Row:
    """A conversation of (role, content)."""
    said = tuple({"role": role, "content": content} for role, content in turns)
    return Row("chat.jsonl, line 1", "0" * 16, (), said)
