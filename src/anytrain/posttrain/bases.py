"""Bases of a sweep: any weights, released once into the sweep's directory, with a chat template."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anytrain.errors import UserError
from anytrain.files import appearing, read_json
from anytrain.models.description import end_of_text, read_config, shape_of
from anytrain.models.shape import DecoderShape
from anytrain.posttrain import template
from anytrain.posttrain.quiet import quiet
from anytrain.references import open_weights
from anytrain.release import release

SOURCE = "base.json"  # beside a base's weights: what they are


@dataclass(frozen=True)
class Base:
    """One model to start from."""

    name: str  # a folder of DIR/bases
    path: Path
    shape: DecoderShape
    source: str  # runs/a@2000:ema25

    @property
    def eot(self) -> int | None:
        """The end-of-text token."""
        return end_of_text(self.path)

    @property
    def template(self) -> str:
        """Its chat template."""
        return (self.path / template.FILE).read_text(encoding="utf-8")

    def model(self) -> Any:
        """A fresh copy of the weights as transformers has it, fp32; no code beside them runs."""
        import torch
        from transformers import LlamaForCausalLM

        from anytrain.models.modeling_anytrain import AnytrainForCausalLM

        kind = LlamaForCausalLM if self.shape.is_llama else AnytrainForCausalLM
        with quiet():
            return kind.from_pretrained(self.path, dtype=torch.float32)

    def tokenizer(self) -> Any:
        """As a release has it; the automatic class would ask to run the model's code."""
        from transformers import PreTrainedTokenizerFast

        with quiet():
            return PreTrainedTokenizerFast.from_pretrained(self.path)


def names(texts: Sequence[str]) -> list[str]:
    """A folder's name for each: the last part of its path, with more of it where two are alike."""
    last = [_slug(Path(text).name) for text in texts]
    pairs = zip(last, texts, strict=True)
    found = [name if last.count(name) == 1 else _slug(text) for name, text in pairs]
    for name in found:
        if found.count(name) > 1:
            text = texts[found.index(name)]
            raise UserError(f"{text} is named twice, or another has its name; each once is valid")
    return found


def _slug(text: str) -> str:
    slug = re.sub(r"[^\w.]+", "-", text).strip("-.")
    if not slug:
        raise UserError(f"{text!r} names no weights; RUN[@WHEN][:WEIGHTS] or a directory is valid")
    return slug


def opened(text: str, name: str, out: Path, asked: Path | None) -> Base:
    """The base in DIR/bases/NAME, released there first where it is not yet.

    Raises UserError for weights without a tokenizer or end of text, a template that does not do,
    and a folder that holds another base.
    """
    path = out / "bases" / name
    if not path.is_dir():
        _release(text, path, asked)
    found = read_json(path / SOURCE)
    if found.get("asked") != text:
        raise UserError(
            f"{path} is of {found.get('asked')!r}, not of {text!r}; another --out is valid"
        )
    shape = shape_of(read_config(path), path / "config.json")
    base = Base(name, path, shape, str(found.get("source")))
    if asked is not None and base.template != template.chosen(asked, None, text):
        raise UserError(f"--template {asked} is not the one that {out} has; another --out is valid")
    return base


def _release(text: str, path: Path, asked: Path | None) -> None:
    with open_weights(text) as weights, appearing(path) as draft:
        if weights.tokenizer is None:
            raise UserError(f"{text} has no tokenizer; weights beside a tokenizer.json are valid")
        if weights.eot is None:
            raise UserError(
                f"{text} has no end-of-text token to end a turn with; an eos_token_id in its "
                "config.json is valid"
            )
        own = template.own(weights.tokenizer.parent) if weights.origin is None else None
        chosen = template.chosen(asked, own, text)
        release(weights, draft)
        (draft / template.FILE).write_text(chosen, encoding="utf-8")
        (draft / SOURCE).write_text(
            json.dumps({"asked": text, "source": weights.source}) + "\n", encoding="utf-8"
        )
        shape, source = weights.shape, weights.source
        template.check(Base(path.name, draft, shape, source).tokenizer(), text)
