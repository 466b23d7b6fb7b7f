from math import sqrt

import pytest
import torch
import torch.nn.functional as F
from model_shapes import ANYTIME, LLAMA, LLAMAS, SHAPES
from torch.nn.attention import SDPBackend, sdpa_kernel

from anytrain.models.cross_entropy import cross_entropy, plain_cross_entropy
from anytrain.models.decoder import Decoder, initial_tensors, standard_deviation
from anytrain.models.shape import DecoderShape


def random_tokens(*dims: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 64, dims, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=SHAPES)
def model(request: pytest.FixtureRequest) -> Decoder:
    return Decoder.seeded(SHAPES[request.param], 0)


@pytest.mark.parametrize("name", LLAMAS)
def test_logits_are_those_of_transformers(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    from anytrain.models.description import config_of

    config = config_of(LLAMAS[name], eot=None, dtype="float32")
    oracle = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config))
    ours = Decoder.seeded(LLAMAS[name], 1)
    oracle.load_state_dict(ours.state_dict(), strict=not LLAMAS[name].tied)
    tokens = random_tokens(3, 32)
    torch.testing.assert_close(ours(tokens), oracle(tokens).logits, atol=1e-5, rtol=0)


def test_qk_norm_is_over_the_full_width() -> None:
    attention = Decoder.seeded(ANYTIME, 0).model.layers[0].self_attn
    assert attention.q_norm.normalized_shape == (32,)
    assert isinstance(attention.q_norm, torch.nn.LayerNorm)
    assert attention.q_norm.bias is None


def test_nothing_looks_ahead(model: Decoder) -> None:
    tokens = random_tokens(1, 20)
    later = tokens.clone()
    later[:, 12:] = 0
    torch.testing.assert_close(model(tokens)[:, :12], model(later)[:, :12])


def test_documents_are_as_if_alone(model: Decoder) -> None:
    tokens = random_tokens(2, 20)
    documents = torch.tensor([[0] * 7 + [1] * 13, [3] * 12 + [4] * 8])
    together = model(tokens, documents)
    for row, cut in enumerate((7, 12)):
        for part in (slice(0, cut), slice(cut, 20)):
            alone = model(tokens[row : row + 1, part])[0]
            torch.testing.assert_close(together[row, part], alone, atol=2e-5, rtol=1e-5)


def test_one_document_is_no_mask(model: Decoder) -> None:
    tokens = random_tokens(2, 20)
    torch.testing.assert_close(
        model(tokens, torch.zeros_like(tokens)), model(tokens), atol=1e-5, rtol=1e-5
    )


def test_losses_are_cross_entropies(model: Decoder) -> None:
    tokens, targets = random_tokens(3, 16), random_tokens(3, 16, seed=1)
    expected = F.cross_entropy(model(tokens).transpose(1, 2), targets, reduction="none")  # (B, T)
    torch.testing.assert_close(model.losses(tokens, targets), expected.mean(dim=1))
    torch.testing.assert_close(model.loss(tokens, targets), expected.mean())
    targets[0, :8] = -100
    counted = expected[targets != -100].mean()
    torch.testing.assert_close(model.loss(tokens, targets), counted)


@pytest.mark.parametrize("rows", [1, 63, 64, 65, 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cross_entropy_is_its_slow_twin(rows: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(rows)
    hidden = torch.randn(rows, 16, generator=generator, dtype=dtype).requires_grad_()
    weight = torch.randn(50_000, 16, generator=generator, dtype=dtype).requires_grad_()
    targets = torch.randint(0, 50_000, (rows,), generator=generator)
    targets[1::5] = -100
    results = []
    for f in (cross_entropy, plain_cross_entropy):
        loss = f(hidden, weight, targets)
        results.append((loss, *torch.autograd.grad(3 * loss, (hidden, weight))))
    for ours, oracle in zip(*results, strict=True):
        error = (ours - oracle).float().norm() / oracle.float().norm()
        assert error < (1e-5 if dtype == torch.float32 else 1e-2)


def test_cross_entropy_without_gradients_makes_none(model: Decoder) -> None:
    tokens = random_tokens(2, 8)
    with torch.no_grad():
        assert model.loss(tokens, tokens).grad_fn is None


def test_second_derivatives(model: Decoder) -> None:
    """A Hessian-vector product through our loss and through the plain one, math attention."""
    parameters = list(model.parameters())
    generator = torch.Generator().manual_seed(0)
    v = [torch.randn(p.shape, generator=generator) for p in parameters]
    tokens, targets = random_tokens(2, 10), random_tokens(2, 10, seed=1)

    def product(loss: torch.Tensor) -> tuple[torch.Tensor, ...]:
        gradients = torch.autograd.grad(loss, parameters, create_graph=True)
        slope = sum((g * u).sum() for g, u in zip(gradients, v, strict=True))
        return torch.autograd.grad(slope, parameters)  # type: ignore[arg-type]

    with sdpa_kernel(SDPBackend.MATH):
        ours = product(model.loss(tokens, targets))
        oracle = product(plain_cross_entropy(model.model(tokens).flatten(0, 1), model.head,
                                             targets.flatten()))  # fmt: skip
    for a, b in zip(ours, oracle, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_bf16_autocast_keeps_fp32_gradients(model: Decoder) -> None:
    tokens = random_tokens(2, 16)
    exact = model.loss(tokens, tokens)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(tokens, tokens)
    loss.backward()
    assert loss.dtype == torch.float32
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}
    assert all(p.grad is not None for p in model.parameters())
    torch.testing.assert_close(loss, exact, atol=0.03, rtol=0)


def test_bf16_weights(model: Decoder) -> None:
    tokens = random_tokens(2, 16)
    half = Decoder.loaded(model.shape, model.state_dict(), dtype=torch.bfloat16)
    assert half(tokens).dtype == torch.bfloat16
    torch.testing.assert_close(half(tokens).float(), model(tokens), atol=0.15, rtol=0.1)


def test_a_tied_model_holds_its_embedding_once() -> None:
    model = Decoder.seeded(SHAPES["tied"], 0)
    assert "lm_head.weight" not in model.state_dict()
    assert model.head is model.model.embed_tokens.weight


def test_the_seed_decides_the_weights_and_nothing_else_does() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = Decoder.seeded(ANYTIME, 3).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    second = Decoder(ANYTIME)
    second.init_weights(torch.Generator().manual_seed(3))
    for name, value in second.state_dict().items():
        assert torch.equal(value, first[name])
    other = Decoder.seeded(ANYTIME, 4).state_dict()
    assert not torch.equal(other["lm_head.weight"], first["lm_head.weight"])


@pytest.mark.parametrize("init", ["normal", "anytime"])
def test_spread_of_the_first_weights(init: str) -> None:
    shape = DecoderShape(
        3, 128, 4, 512, activation="gelu", norm="layernorm", qk_norm=True, init=init  # type: ignore[arg-type]
    )  # fmt: skip
    for name, value in initial_tensors(shape, torch.Generator().manual_seed(0)):
        if value.ndim == 1:
            assert torch.equal(value, torch.ones_like(value))
            continue
        std = standard_deviation(shape, name, fan_in=value.shape[1])
        # cutting a normal at 3σ takes 1.3% of its spread
        expected = std * (0.9866 if init == "anytime" else 1)
        assert value.std().item() == pytest.approx(expected, rel=0.02)
        if init == "anytime":
            assert value.abs().max() <= 3 * std * (1 + 1e-6)


def test_anytime_deviations() -> None:
    down = "model.layers.1.mlp.down_proj.weight"
    assert standard_deviation(ANYTIME, down, 128) == 1 / sqrt(2 * 128 * 2)
    assert standard_deviation(ANYTIME, "model.layers.1.mlp.up_proj.weight", 32) == 1 / sqrt(32)
    assert standard_deviation(LLAMA, down, 88) == 0.02


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        *((name, "aot_eager") for name in ("llama", "mixed")),
        pytest.param("mixed", "inductor", marks=pytest.mark.slow),
    ],
)
def test_compiles_as_one_graph(name: str, backend: str) -> None:
    tokens = random_tokens(2, 16)
    documents = tokens.sort(dim=1).values // 20
    plain, compiled = (Decoder.seeded(SHAPES[name], 0) for _ in range(2))
    torch.compiler.reset()
    compiled.compile(fullgraph=True, backend=backend)
    for model in (plain, compiled):
        model.loss(tokens, tokens).backward()
        model.loss(tokens, tokens, documents).backward()
    for (n, p), (m, q) in zip(plain.named_parameters(), compiled.named_parameters(), strict=True):
        assert n == m
        torch.testing.assert_close(p.grad, q.grad, atol=1e-6, rtol=1e-4)
