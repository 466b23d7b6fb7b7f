"""Hessian-vector products against the whole matrix, restored weights, and what is refused."""

import pytest
import torch
from small import batches, dense_hessian, objective
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from anytrain.curvature.hvp import Difference, Exact, hessian
from anytrain.curvature.objective import Batch, Objective
from anytrain.errors import UserError
from anytrain.models.decoder import Decoder
from anytrain.models.shape import DecoderShape

SHAPES = [
    DecoderShape(layers=1, width=16, heads=2, vocab=23, kv_heads=1),
    DecoderShape(
        layers=2, width=32, heads=4, vocab=64, mlp=96, norm="layernorm", activation="gelu",
        qk_norm=True, tied=True, init="anytime",
    ),
    DecoderShape(layers=4, width=64, heads=4, vocab=256),
]  # fmt: skip


def test_exact_products_are_the_matrix() -> None:
    model, found = objective()
    dense = dense_hessian(model, found)
    assert dense.shape == (found.dim, found.dim)
    for number in range(3):
        v = found.direction(number)
        assert torch.allclose((Exact(found) @ v).double(), dense @ v.double(), atol=2e-6, rtol=1e-4)


def test_differences_are_the_matrix() -> None:
    """As far as the probe that fp32 made of v says: Hd against the dense H."""
    model, found = objective()
    dense = dense_hessian(model, found)
    operator = Difference(found)
    for number in range(3):
        d, product = operator.along(found.probe(number))
        expected = dense @ d.double()
        assert (product.double() - expected).norm() < 2e-3 * expected.norm()
    assert operator.disagreement is not None
    assert operator.disagreement < 0.005


def test_norms_are_those_of_fp64() -> None:
    """To 1e-6, over more than one block."""
    shape = DecoderShape(layers=4, width=64, heads=4, vocab=4096)
    model = Decoder.seeded(shape, 0)
    found = Objective.of_decoder(model, batches(1, shape.tokens))
    v = found.direction(0)
    assert len(v) > 2**18
    assert found.norm(v) == pytest.approx(float(v.double().norm()), rel=1e-6)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s.parameters}")
def test_the_two_agree(shape: DecoderShape) -> None:
    """Within 0.5%, on models of 3k to 0.3M weights."""
    model = Decoder.seeded(shape, 0)
    found = Objective.of_decoder(model, batches(1, shape.tokens, 4, 32))
    z = found.probe(0)
    exact = found.dot(z, Exact(found) @ z)
    d, product = Difference(found).along(z)
    assert found.dot(d, product) == pytest.approx(exact, rel=5e-3)


LARGE = {
    "8M": DecoderShape(layers=6, width=256, heads=8, vocab=4096),
    "27M": DecoderShape(layers=6, width=512, heads=8, vocab=4096),
    "135M": DecoderShape(
        layers=30, width=576, heads=9, kv_heads=3, mlp=1536, vocab=49152, tied=True
    ),  # SmolLM2's
}


@pytest.mark.slow
@pytest.mark.parametrize("size", LARGE)
def test_the_two_agree_at_size(size: str) -> None:
    """Within 0.5% up to 135M weights."""
    shape = LARGE[size]
    model = Decoder.seeded(shape, 0)
    found = Objective.of_decoder(model, batches(1, shape.tokens, 2, 64))
    z = found.probe(0)
    d, product = Difference(found).along(z)
    assert found.dot(d, product) == pytest.approx(found.dot(z, Exact(found) @ z), rel=5e-3)


def test_the_actual_displacement_is_the_probe() -> None:
    """Beside weights of 100, fp32 cannot place a small step; what it placed is what is used."""
    model, found = objective()
    with torch.no_grad():
        model.model.norm.weight.mul_(300.0)
    d, _ = Difference(found, step=1e-6).along(found.probe(0))
    place = next(i for i, name in enumerate(found.parameters) if name == "model.norm.weight")
    assert not torch.equal(found.split(d)[place], found.split(found.probe(0))[place])


@pytest.mark.parametrize("method", ["exact", "difference"])
def test_weights_come_back_to_the_bit(method: str) -> None:
    _, found = objective()
    before = found.weights()
    hessian(found, "exact" if method == "exact" else "difference").along(found.probe(0))
    assert torch.equal(found.weights(), before)
    assert all(parameter.grad is None for parameter in found.parameters.values())


def test_weights_come_back_after_an_error() -> None:
    _, found = objective()
    before, calls = found.weights(), 0

    def failing(batch: Batch) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise RuntimeError("out of memory")
        return found.loss(batch)

    broken = Objective(found.parameters, failing, found.batches)
    with pytest.raises(RuntimeError, match="out of memory"):
        Difference(broken, step=1e-3).along(found.probe(0))
    assert torch.equal(found.weights(), before)
    assert all(parameter.grad is None for parameter in found.parameters.values())


def test_a_loss_that_has_no_second_derivative() -> None:
    """Attention that insists on a fused kernel."""
    model, found = objective()

    def flash(batch: Batch) -> Tensor:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return model.loss(batch.tokens, batch.targets)

    fused = Objective(found.parameters, flash, found.batches)
    with pytest.raises(UserError, match=r"--method difference"):
        _ = Exact(fused) @ found.probe(0)
    d, product = Difference(fused).along(found.probe(0))
    z = found.probe(0)
    exact = found.dot(z, Exact(found) @ z)
    assert found.dot(d, product) == pytest.approx(exact, rel=5e-3)


def test_a_loss_without_curvature_does_not_settle() -> None:
    """Rounding is all there is, and no two steps agree on it."""
    weight = torch.nn.Parameter(torch.linspace(1, 2, 50))
    slope = torch.linspace(-1, 1, 50).sin()

    def line(_: Batch) -> Tensor:
        return (weight * slope).sum() + 1e-6 * (1e5 * weight).sin().sum()

    found = Objective({"w": weight}, line, batches(1))
    with pytest.raises(UserError, match="do not settle"):
        Difference(found).along(found.probe(0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precision_is_refused(dtype: torch.dtype) -> None:
    model = Decoder.seeded(SHAPES[0], 0).to(dtype)
    with pytest.raises(UserError, match=r"needs float32 weights"):
        Objective.of_decoder(model, batches(1, 23))


def test_no_tokens() -> None:
    model, _ = objective()
    with pytest.raises(UserError, match="no tokens to measure"):
        Objective.of_decoder(model, [])
    (batch,) = batches(1)
    batch.targets[:] = -100
    with pytest.raises(UserError, match="no tokens to measure"):
        Objective.of_decoder(model, [batch])
