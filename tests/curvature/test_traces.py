"""Traces, eigenvalues and Gauss–Newton traces against matrices written out."""

import numpy as np
import pytest
import torch
from small import SHAPE, batches, dense_gauss_newton, dense_hessian, objective

from anytrain.curvature.gauss_newton import GaussNewton, rows
from anytrain.curvature.hvp import Exact
from anytrain.curvature.lanczos import density, largest
from anytrain.curvature.trace import hutchinson
from anytrain.errors import UserError
from anytrain.models.decoder import Decoder


def test_the_trace() -> None:
    """Unbiased, with the error it states: within 4 standard errors of the dense trace."""
    model, found = objective()
    dense = dense_hessian(model, found)
    trace = hutchinson(Exact(found), 200)
    assert abs(trace.mean - float(dense.trace())) < 4 * trace.stderr
    off = dense - torch.diag(torch.diag(dense))
    expected = float((2 * off.square().sum() / 200).sqrt())  # of Rademacher probes, exactly
    assert trace.stderr == pytest.approx(expected, rel=0.3)


def test_probes_are_the_same_for_two_checkpoints() -> None:
    """So the difference of two traces is far surer than either."""
    model, found = objective()
    first = hutchinson(Exact(found), 20)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.01)
    second = hutchinson(Exact(found), 20)
    apart = np.array(second.samples) - np.array(first.samples)
    assert apart.std(ddof=1) < 0.3 * np.std(first.samples, ddof=1)
    assert hutchinson(Exact(found), 20).samples == second.samples
    assert hutchinson(Exact(found), 20, seed=1).samples != second.samples


@pytest.mark.parametrize("probes", [1, 0, -3])
def test_too_few_probes(probes: int) -> None:
    _, found = objective()
    with pytest.raises(UserError, match=rf"probes = {probes}; 2 or more"):
        hutchinson(Exact(found), probes)


def test_the_largest_eigenvalues() -> None:
    model, found = objective()
    expected = torch.linalg.eigvalsh(dense_hessian(model, found)).flip(0)[:5]
    assert largest(Exact(found), 5, steps=60) == pytest.approx(expected.tolist(), rel=1e-3)


def test_no_ghosts() -> None:
    """Without reorthogonalising, fp32 Lanczos finds the largest eigenvalue twice."""
    model, found = objective()
    values = largest(Exact(found), 12, steps=120)
    expected = torch.linalg.eigvalsh(dense_hessian(model, found)).flip(0)[:12]
    assert values == pytest.approx(expected.tolist(), rel=5e-3)


@pytest.mark.parametrize("top", [0, 10**6])
def test_how_many_eigenvalues(top: int) -> None:
    _, found = objective()
    with pytest.raises(UserError, match=rf"top = {top}; 1 to {found.dim}"):
        largest(Exact(found), top)


def test_the_density() -> None:
    """Its mean is the trace over n, its weights sum to 1, its tail counts eigenvalues."""
    model, found = objective()
    values = torch.linalg.eigvalsh(dense_hessian(model, found))
    curve = density(Exact(found), probes=16, steps=60)
    assert sum(curve.weights) == pytest.approx(1)
    mean = sum(v * w for v, w in zip(curve.values, curve.weights, strict=True))
    assert mean == pytest.approx(float(values.mean()), abs=0.2 * float(values.abs().mean()))
    middle = float(values.max()) / 4
    share = float((values > middle).double().mean())
    assert curve.share_above(middle) == pytest.approx(share, abs=0.02)
    at = np.linspace(curve.values[0] - 1, curve.values[-1] + 1, 4000)
    assert np.trapezoid(curve.smooth(at, 0.05), at) == pytest.approx(1, abs=0.01)


def test_gauss_newton_products() -> None:
    model, found = objective()
    batch = found.batches[-1]  # the one in which some targets do not count
    dense = dense_gauss_newton(model, [batch])
    z, theta = found.probe(0), found.weights()
    products = GaussNewton(model, batch).products([found.split(z), found.split(theta)])
    for v, product in zip((z, theta), products, strict=True):
        expected = dense @ v.double()
        assert (found.flat(product).double() - expected).norm() < 1e-5 * expected.norm()


def test_the_four_traces() -> None:
    """The mean of the rows, within 4 of their standard errors; tr G² without a batch's noise."""
    model, found = objective()
    parts = batches(600, SHAPE.tokens, 1, 9)
    dense = dense_gauss_newton(model, parts)
    theta = found.weights().double()
    expected = [
        float(dense.trace()), float((dense @ dense).trace()), float(theta @ dense @ theta),
        float(theta @ dense @ dense @ theta),
    ]  # fmt: skip
    values = rows(model, found, parts, 300)
    errors = values.std(0, ddof=1) / np.sqrt(len(values))
    assert (np.abs(values.mean(0) - expected) < 4 * errors).all()
    # with one batch for both sides tr G² would be larger than that by far more than its error
    one = np.mean([
        float(found.flat(product).square().sum())
        for k in range(100)
        for (product,) in [GaussNewton(model, parts[k]).products([found.split(found.probe(k))])]
    ])  # fmt: skip
    assert one > expected[1] + 6 * errors[1]


def test_rows_need_batches_of_their_own() -> None:
    model, found = objective()
    with pytest.raises(UserError, match=r"8 probes need 16 batches .* there are 15"):
        rows(model, found, batches(15), 8)
    with pytest.raises(UserError, match=r"8 or more are valid for an interval"):
        rows(model, found, batches(15), 7)


def test_rows_leave_the_model_alone() -> None:
    model = Decoder.seeded(SHAPE, 0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    _, found = objective()
    rows(model, found, batches(16), 8)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
