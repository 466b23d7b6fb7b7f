"""The numbers that hessian-eigenthings finds, where the matrix is too large to be written out."""

import numpy as np
import pytest
import torch
from hessian_eigenthings import HessianOperator, lanczos, lanczos_tridiagonal
from small import batches
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from anytrain.curvature.hvp import Exact
from anytrain.curvature.lanczos import density, largest, tridiagonal
from anytrain.curvature.objective import Batch, Objective
from anytrain.models.decoder import Decoder
from anytrain.models.shape import DecoderShape

SHAPE = DecoderShape(layers=2, width=32, heads=4, vocab=64, mlp=64)  # 23,000 weights


def loss(model: Decoder, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Written with torch alone."""
    tokens, targets = batch
    with sdpa_kernel(SDPBackend.MATH):
        logits = model(tokens)  # (B, T, V)
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


@pytest.fixture(scope="module")
def both() -> tuple[Exact, HessianOperator]:
    """Ours and theirs, of one model on batches with as many targets each: they weigh all alike."""
    model = Decoder.seeded(SHAPE, 0)
    made = [Batch(b.tokens, b.targets.clamp(min=0)) for b in batches(3, SHAPE.tokens, 2, 32)]
    with torch.no_grad():
        for n, parameter in enumerate(model.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(n))
            parameter += 0.1 * noise
    theirs = HessianOperator(model, [(b.tokens, b.targets) for b in made], loss)
    return Exact(Objective.of_decoder(model, made)), theirs


def test_products(both: tuple[Exact, HessianOperator]) -> None:
    ours, theirs = both
    assert ours.objective.dim == theirs.size
    z = ours.objective.probe(0)
    torch.testing.assert_close(ours @ z, theirs.matvec(z), rtol=1e-3, atol=1e-4)


def test_the_trace_probe_by_probe(both: tuple[Exact, HessianOperator]) -> None:
    ours, theirs = both
    probes = [ours.objective.probe(number) for number in range(8)]
    expected = [float(z.double() @ theirs.matvec(z).double()) for z in probes]
    assert ours.forms(lambda number: probes[number], 8) == pytest.approx(expected, rel=1e-4)


def test_the_largest_eigenvalues(both: tuple[Exact, HessianOperator]) -> None:
    ours, theirs = both
    found = lanczos(theirs, k=4, max_iter=50, which="LA", seed=0)
    assert largest(ours, 4, 50) == pytest.approx(found.eigenvalues.tolist(), rel=1e-3)


def test_the_quadrature_of_the_density(both: tuple[Exact, HessianOperator]) -> None:
    """The same nodes and weights from the same starting vector."""
    ours, theirs = both
    start = ours.objective.direction(0)
    found = lanczos_tridiagonal(theirs, start, 12)
    alphas, betas = tridiagonal(ours, start, 12)
    np.testing.assert_allclose(alphas, found.alphas.numpy(), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(betas, found.betas.numpy(), rtol=1e-3)
    theirs_, off = found.alphas.double().numpy(), found.betas.double().numpy()
    nodes, vectors = np.linalg.eigh(np.diag(theirs_) + np.diag(off, 1) + np.diag(off, -1))
    quadrature = density(ours, probes=1, steps=12)
    np.testing.assert_allclose(quadrature.values, nodes, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(quadrature.weights, vectors[0] ** 2, rtol=1e-2, atol=1e-5)
