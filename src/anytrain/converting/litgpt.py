"""litgpt's checkpoint directory (`lit_model.pth` beside `model_config.yaml`) as Llama.

litgpt has one model with a switch for each difference between families (Lightning-AI/litgpt,
model.py and config.py). Those that leave Llama's function can be converted; every other value is
refused by its name, since leaving one out would change what the model computes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

import torch
from torch import Tensor

from anytrain import archives
from anytrain.converting.target import Model, number
from anytrain.errors import UserError, missing_extra
from anytrain.layout import Entry
from anytrain.models.description import config_of, made_of
from anytrain.models.shape import DecoderShape
from anytrain.models.tensors import rows

WEIGHTS, CONFIG = "lit_model.pth", "model_config.yaml"

# What Llama needs of litgpt's switches; absent keys have litgpt's defaults, some of them others.
_NEEDED: dict[str, tuple[Any, Any]] = {  # key -> (value of Llama, litgpt's default)
    "norm_class_name": ("RMSNorm", "LayerNorm"),
    "mlp_class_name": ("LLaMAMLP", "GptNeoxMLP"),
    "bias": (False, True),
    "parallel_residual": (False, True),
    "rotary_percentage": (1.0, 0.25),
    "attn_bias": (False, False),
    "lm_head_bias": (False, False),
    "norm_qk": (False, False),
    "post_attention_norm": (False, False),
    "post_mlp_norm": (False, False),
    "scale_embeddings": (False, False),
    "rope_condense_ratio": (1, 1),
    "rope_adjustments": (None, None),
    "rope_interleave": (False, False),
    "rope_local_base_freq": (None, None),
    "attention_scores_scalar": (None, None),
    "attention_logit_softcapping": (None, None),
    "final_logit_softcapping": (None, None),
    "sliding_window_size": (None, None),
    "latent_attention": (None, None),
    "n_expert": (0, 0),
    "norm_1": (True, True),
    "norm_2": (True, True),
}

_NAMES = {
    "input_layernorm": "norm_1",
    "post_attention_layernorm": "norm_2",
    "self_attn.o_proj": "attn.proj",
    "mlp.gate_proj": "mlp.fc_1",
    "mlp.up_proj": "mlp.fc_2",
    "mlp.down_proj": "mlp.proj",
}


def is_litgpt(path: Path) -> bool:
    """Whether a directory is a checkpoint of litgpt."""
    return (path / WEIGHTS).is_file()


def convert(path: Path) -> Model:
    """The model of a directory; UserError where Llama does not compute the same."""
    config = _config(path / CONFIG)
    shape = shape_of(config, path / CONFIG)
    entries = archives.read(path / WEIGHTS).entries
    head = entries.get("lm_head.weight")
    if head is None:
        raise UserError(f"{path / WEIGHTS}: tensor 'lm_head.weight' is missing")
    if entries.get("transformer.wte.weight", head).boxes == head.boxes:
        shape = replace(shape, tied=True)
    sources = _Sources(path / WEIGHTS, entries, shape)
    sources.check()
    name = config.get("name")
    what = f"litgpt {name}" if isinstance(name, str) else "litgpt"
    what += f", {shape.layers} layers of {shape.width}, context {shape.context}"
    described = config_of(shape, eot=None, dtype="float32")
    return Model(path, what, described, sources.tensors(), head.dtype, shape.tokens, shape.context)


def _config(file: Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError as error:
        raise missing_extra("PyYAML", "transformers", str(file)) from error
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except Exception as error:  # of damaged dates, numbers and tags PyYAML says anything
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{file} cannot be read: {said}") from error
    if not isinstance(found, dict):
        raise UserError(f"{file} is damaged: it holds no table")
    return found


def shape_of(config: dict[str, Any], file: Path) -> DecoderShape:
    """The shape that litgpt's settings describe."""
    for key, (valid, default) in _NEEDED.items():
        value = config.get(key, default)
        if value != valid:
            raise UserError(
                f"{file}: {key} = {shortened(value)}; {valid!r} is what Llama computes, and all "
                "that is converted"
            )
    heads, width = number(config, "n_head", file), number(config, "n_embd", file)
    given = {key: config.get(key) for key in ("n_query_groups", "head_size")}
    groups, size = (None if v is None else number(config, k, file) for k, v in given.items())
    for key in ("norm_eps", "rope_base"):
        if type(value := config.get(key, 1)) not in (int, float):
            raise UserError(f"{file}: {key} = {shortened(value)}; a number is valid")
    return made_of(
        {
            "layers": number(config, "n_layer", file),
            "width": width,
            "heads": heads,
            "kv_heads": groups or heads,
            "head_dim": size or width // heads,
            "mlp": number(config, "intermediate_size", file),
            "vocab": number(config, "padded_vocab_size", file),
            "context": number(config, "block_size", file),
            "norm_eps": config.get("norm_eps", 1e-5),
            "rope_theta": config.get("rope_base", 10000),
        },
        file,
    )


class _Sources:
    """Tensors of Llama's names, from litgpt's."""

    def __init__(self, path: Path, entries: Mapping[str, Entry], shape: DecoderShape) -> None:
        self.path, self.entries, self.shape = path, entries, shape

    def check(self) -> None:
        """Raise a UserError unless exactly the tensors of the shape are there."""
        shape, used = self.shape, set()
        width = shape.q_width + 2 * shape.kv_width
        for name, dims in shape.tensors().items():
            source = self._source(name)
            if self._joint(name):
                dims = (width, shape.width)
            entry = self.entries.get(source)
            if entry is None:
                raise UserError(f"{self.path}: tensor {source!r} is missing")
            if entry.shape != dims:
                raise UserError(f"{self.path}: tensor {source!r} is {entry.shape}; {dims} is valid")
            used.add(source)
        left = self.entries.keys() - used - {"lm_head.weight"}
        if left:
            raise UserError(f"{self.path}: tensor {min(left)!r} is not part of Llama")

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        for name in self.shape.tensors():
            value = rows(self.entries[self._source(name)])
            part = name.split(".")[-2][0]  # of q_proj, k_proj, v_proj
            yield name, self._split(name, value)[part] if self._joint(name) else value

    def _joint(self, name: str) -> bool:
        return name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight"))

    def _source(self, name: str) -> str:
        """litgpt's tensor for one of Llama's."""
        if name == "lm_head.weight":
            return name
        if name == "model.embed_tokens.weight":
            return "transformer.wte.weight"
        if name == "model.norm.weight":
            return "transformer.ln_f.weight"
        _, _, layer, rest = name.removesuffix(".weight").split(".", 3)
        if not self._joint(name):
            return f"transformer.h.{layer}.{_NAMES[rest]}.weight"
        new, old = (f"transformer.h.{layer}.attn.{kind}.weight" for kind in ("qkv", "attn"))
        return old if old in self.entries and new not in self.entries else new

    def _split(self, name: str, joint: Tensor) -> dict[str, Tensor]:
        """q, k and v of one matrix: all q, all k, all v; until litgpt 0.5 group by group."""
        shape = self.shape
        if self._source(name).endswith("qkv.weight"):
            q, k, v = joint.split([shape.q_width, shape.kv_width, shape.kv_width])
            return {"q": q, "k": k, "v": v}
        each = shape.heads // shape.kv * shape.head
        groups = joint.unflatten(0, (shape.kv, each + 2 * shape.head))
        q, k, v = torch.split(groups, [each, shape.head, shape.head], dim=1)
        return {"q": q.flatten(0, 1), "k": k.flatten(0, 1), "v": v.flatten(0, 1)}
