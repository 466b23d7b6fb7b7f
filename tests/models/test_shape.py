import tomllib
from importlib.resources import files

import pytest
import torch
from model_shapes import ANYTIME, SHAPES

from anytrain.models.decoder import Decoder
from anytrain.models.shape import DecoderShape

RECIPES = sorted(p.name.removesuffix(".toml") for p in files("anytrain.recipes").iterdir()
                 if p.name.endswith(".toml"))  # fmt: skip


def recipe_shape(name: str) -> DecoderShape:
    text = files("anytrain.recipes").joinpath(f"{name}.toml").read_text(encoding="utf-8")
    shape = DecoderShape(**tomllib.loads(text)["model"])
    return shape if shape.vocab else shape.with_vocab(4096)


def test_every_recipe_of_the_papers_is_here() -> None:
    assert RECIPES == ["anytime-150m", "anytime-1b", "anytime-300m", "demo", "wso-1b", "wso-8b"]


@pytest.mark.parametrize(
    ("name", "non_embedding", "total"),
    [
        ("anytime-150m", 151, 216),
        ("anytime-300m", 302, 367),  # 367.9: the paper rounds up here and down above
        ("wso-1b", 973, 1235),
        ("anytime-1b", 973, 1235),
        ("wso-8b", 6979, 8030),
        ("demo", 0, 0),
    ],
)
def test_parameters_of_recipes_in_millions(name: str, non_embedding: int, total: int) -> None:
    shape = recipe_shape(name)
    assert shape.non_embedding // 10**6 == non_embedding
    assert shape.parameters // 10**6 == total


def test_untied_1b() -> None:
    shape = recipe_shape("wso-1b")
    untied = DecoderShape(**{**vars(shape), "tied": False})
    assert round(shape.parameters / 1e9, 3) == 1.236
    assert round(untied.parameters / 1e9, 3) == 1.498


def test_demo_is_a_llama_of_three_quarters_of_a_million() -> None:
    shape = recipe_shape("demo")
    assert shape.is_llama
    assert 0.7e6 < shape.parameters < 0.75e6


@pytest.mark.parametrize("name", [*RECIPES, *SHAPES])
def test_tensors_are_the_modules_own(name: str) -> None:
    shape = SHAPES[name] if name in SHAPES else recipe_shape(name)
    with torch.device("meta"):
        model = Decoder(shape)
    assert {n: tuple(t.shape) for n, t in model.state_dict().items()} == shape.tensors()
    assert sum(p.numel() for p in model.parameters()) == shape.parameters
    assert list(model.buffers()) == []


def test_flops_match_the_counter_of_pytorch() -> None:
    """The counter sees full attention, so the causal half is added back; norms are in neither."""
    from torch.utils.flop_counter import FlopCounterMode

    shape, length = ANYTIME, 24
    with torch.device("meta"):
        model = Decoder(shape)
        tokens = torch.zeros(2, length, dtype=torch.long)
        with FlopCounterMode(display=False) as counter:
            model(tokens).sum().backward()
    attention = 12 * shape.layers * shape.q_width * length  # both triangles
    expected = shape.flops_per_token(length) + attention / 2
    # fused attention recomputes the scores in its backward pass: 14 instead of 12
    assert counter.get_total_flops() / tokens.numel() == pytest.approx(expected, rel=0.03)


def test_gelu_layer_is_36_d_bytes() -> None:
    shape = DecoderShape(1, 64, 4, 1, norm="layernorm", activation="gelu")
    assert shape.activation_bytes_per_token() == 36 * 64 + 8 * 64


@pytest.mark.parametrize("name", SHAPES)
def test_activations_are_what_autograd_keeps(name: str) -> None:
    """An upper bound for fp32 (RMSNorm as separate operations keeps a little more), within 1.6."""
    shape = SHAPES[name]
    model = Decoder.seeded(shape, 0)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights and tensor.is_floating_point():
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    tokens = torch.zeros(4, 32, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        hidden = model.model(tokens)
    assert hidden.requires_grad
    estimate = shape.activation_bytes_per_token(item=4)
    assert sum(kept.values()) / tokens.numel() == pytest.approx(estimate, rel=0.6)


def test_defaults_written_out() -> None:
    shape = DecoderShape(1, 96, 3)
    assert shape.resolved() == DecoderShape(1, 96, 3, kv_heads=3, mlp=256, head_dim=32)
    assert DecoderShape(1, 96, 3, activation="gelu").mlp_width == 384


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"layers": 0}, "layers = 0; a whole number of 1 or more is valid"),
        ({"vocab": 0}, "vocab = 0; a whole number of 1 or more is valid"),
        ({"width": 64.0}, "width = 64.0; a whole number"),
        ({"heads": 5}, "width = 64; a multiple of heads = 5 is valid"),
        ({"kv_heads": 3}, "kv_heads = 3; a divisor of heads = 4 is valid"),
        ({"head_dim": 15}, "head_dim = 15 is odd"),
        ({"norm": "batchnorm"}, "norm = 'batchnorm'; valid are rmsnorm, layernorm"),
        ({"activation": "relu"}, "activation = 'relu'; valid are swiglu, gelu"),
        ({"init": "zeros"}, "init = 'zeros'; valid are normal, anytime"),
        ({"rope_theta": 0.0}, "rope_theta = 0.0; a number above 0 is valid"),
        ({"norm_eps": float("nan")}, "norm_eps = nan; a number above 0 is valid"),
    ],
)
def test_bad_shapes(change: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        DecoderShape(**{"layers": 1, "width": 64, "heads": 4, **change})  # type: ignore[arg-type]


def test_vocab_is_asked_for_when_it_is_needed() -> None:
    shape = DecoderShape(1, 64, 4)
    assert shape.non_embedding > 0
    with pytest.raises(ValueError, match=r"give model\.vocab"):
        _ = shape.parameters
    assert shape.with_vocab(10).parameters == shape.non_embedding + 2 * 640
