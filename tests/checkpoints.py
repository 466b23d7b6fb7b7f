"""Checkpoints as nanoGPT and litgpt write them, of random weights."""

from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from anytrain.models.decoder import Decoder
from anytrain.models.shape import DecoderShape

ARGS = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 24, "vocab_size": 64,
        "dropout": 0.0}  # fmt: skip


def nano_weights(bias: bool) -> dict[str, Tensor]:
    """Random weights under nanoGPT's names, its head the embedding."""
    draw = torch.Generator().manual_seed(1)
    d, v, t = ARGS["n_embd"], ARGS["vocab_size"], ARGS["block_size"]
    dims: dict[str, tuple[int, ...]] = {"wte.weight": (v, d), "wpe.weight": (t, d)}
    for layer in range(ARGS["n_layer"]):
        matrices = {"attn.c_attn": (3 * d, d), "attn.c_proj": (d, d)}
        matrices |= {"mlp.c_fc": (4 * d, d), "mlp.c_proj": (d, 4 * d)}
        for name, (out, into) in matrices.items():
            dims[f"h.{layer}.{name}.weight"], dims[f"h.{layer}.{name}.bias"] = (out, into), (out,)
        for name in ("ln_1", "ln_2"):
            dims[f"h.{layer}.{name}.weight"] = dims[f"h.{layer}.{name}.bias"] = (d,)
    dims["ln_f.weight"] = dims["ln_f.bias"] = (d,)
    found = {
        f"transformer.{name}": torch.randn(size, generator=draw) * 0.3
        for name, size in dims.items()
        if bias or not name.endswith("bias")
    }
    found["lm_head.weight"] = found["transformer.wte.weight"]
    return found


def save_nano(path: Path, weights: dict[str, Tensor], before: str = "_orig_mod.") -> Path:
    """What nanoGPT's train.py puts into ckpt.pt."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2, 2))])
    torch.save(
        {
            "model": {f"{before}{name}": value for name, value in weights.items()},
            "optimizer": optimizer.state_dict(),
            "model_args": {**ARGS, "bias": "transformer.ln_f.bias" in weights},
            "iter_num": 2000,
            "best_val_loss": torch.tensor(3.25),
            "config": {"dataset": "shakespeare", "compile": True, "learning_rate": 1e-3},
        },
        path,
    )
    return path


LLAMA = DecoderShape(layers=2, width=16, heads=4, vocab=64, kv_heads=2, mlp=24, context=32)
WIDE = DecoderShape(layers=1, width=16, heads=2, vocab=64, head_dim=16, mlp=24, rope_theta=5e5)


def lit_config(shape: DecoderShape, **changed: Any) -> dict[str, Any]:
    """The settings of model_config.yaml that Llama's function needs, and some beside."""
    shape = shape.resolved()
    return {
        "name": "tiny-llama", "hf_config": {"org": "x", "name": "y"}, "block_size": shape.context,
        "n_layer": shape.layers, "n_embd": shape.width, "n_head": shape.heads,
        "n_query_groups": shape.kv_heads, "head_size": shape.head_dim, "vocab_size": 60,
        "padding_multiple": 64, "padded_vocab_size": shape.vocab, "intermediate_size": shape.mlp,
        "norm_class_name": "RMSNorm", "norm_eps": 1e-5, "mlp_class_name": "LLaMAMLP",
        "bias": False, "parallel_residual": False, "rotary_percentage": 1.0, "rope_n_elem": 4,
        "rope_base": shape.rope_theta, "rope_condense_ratio": 1, "shared_attention_norm": False,
        "gelu_approximate": "none", **changed,
    }  # fmt: skip


def lit_weights(shape: DecoderShape, old: bool) -> tuple[Decoder, dict[str, Tensor]]:
    """A decoder, which `test_huggingface` compares to Llama, and its weights as litgpt has them."""
    model = Decoder.seeded(shape, 3)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.manual_seed(5))
    own = {name: value.detach() for name, value in model.named_parameters()}
    embedding = own["model.embed_tokens.weight"]
    found = {
        "transformer.wte.weight": embedding,
        "transformer.ln_f.weight": own["model.norm.weight"],
        "lm_head.weight": own.get("lm_head.weight", embedding),
    }
    for layer in range(shape.layers):
        a, b = f"model.layers.{layer}", f"transformer.h.{layer}"
        q, k, v = (own[f"{a}.self_attn.{n}_proj.weight"] for n in "qkv")
        if old:  # each group's queries, its key, its value
            parts = [x.unflatten(0, (shape.kv, -1)) for x in (q, k, v)]
            found[f"{b}.attn.attn.weight"] = torch.cat(parts, 1).flatten(0, 1)
        else:
            found[f"{b}.attn.qkv.weight"] = torch.cat([q, k, v])
        for theirs, ours in (("attn.proj", "self_attn.o_proj"), ("mlp.fc_1", "mlp.gate_proj"),
                             ("mlp.fc_2", "mlp.up_proj"), ("mlp.proj", "mlp.down_proj"),
                             ("norm_1", "input_layernorm"),
                             ("norm_2", "post_attention_layernorm")):  # fmt: skip
            found[f"{b}.{theirs}.weight"] = own[f"{a}.{ours}.weight"]
    return model, found


def save_lit(folder: Path, config: dict[str, Any], weights: dict[str, Tensor], **more: Any) -> Path:
    folder.mkdir()
    (folder / "model_config.yaml").write_text(yaml.dump(config))
    torch.save({"model": weights, **more} if more else weights, folder / "lit_model.pth")
    return folder
