"""What forward passes alone say: critical steps, noise, slices, barriers, on known functions."""

import pytest
import torch
from small import batches, objective
from torch import Tensor

from anytrain.curvature.critical import critical, noise
from anytrain.curvature.hvp import Exact
from anytrain.curvature.landscape import barrier, line, plane, random_direction
from anytrain.curvature.objective import Batch, Objective
from anytrain.errors import UserError


def parabola(scales: Tensor) -> Objective:
    """½ Σ λ w² at w = 1."""
    weight = torch.nn.Parameter(torch.ones(len(scales)))

    def loss(_: Batch) -> Tensor:
        return 0.5 * (scales * weight * weight).sum()

    return Objective({"w": weight}, loss, batches(1))


@pytest.mark.parametrize("first", [1e-3, 1e-2, 1.0])
def test_the_critical_step_of_a_parabola(first: float) -> None:
    """L(w − ηu) = L(w) again at η = 2 along the gradient of ½‖w‖², ‖w‖ = 2: at 4 for unit u."""
    found = parabola(torch.ones(4))
    passes: list[int] = []
    answer = critical(found, found.gradient(), first)
    assert answer.step == pytest.approx(4.0, rel=0.35)
    assert answer.passes < 10
    assert answer.sharpness == 2 / answer.step
    passes.append(answer.passes)


def test_an_update_that_goes_up() -> None:
    found = parabola(torch.ones(4))
    with pytest.raises(UserError, match="raise the loss at once"):
        critical(found, -found.gradient())
    with pytest.raises(UserError, match="update is zero"):
        critical(found, torch.zeros(4))


def test_noise_on_a_parabola_is_its_trace() -> None:
    """E rise = ½ σ² rms² tr H, exactly so in expectation; pairs of draws cancel the slope."""
    scales = torch.tensor([1.0, 2.0, 3.0, 10.0])
    found = parabola(scales)
    small, large = noise(found, (0.1, 0.2), 400)
    assert abs(small.mean - 0.5 * 0.01 * 16) < 4 * small.stderr
    assert large.mean == pytest.approx(4 * small.mean, rel=1e-3)  # the same draws


def test_noise_of_a_decoder_at_small_scale_is_curvature() -> None:
    _, found = objective()
    (rise,) = noise(found, (0.02,), 60)
    theta = found.split(found.weights())
    scale = found.flat([t.square().mean().sqrt().expand(t.shape) for t in theta])
    curved = 0.0
    for number in range(60):
        xi = found.direction(number) * scale
        curved += 0.5 * 0.02**2 * found.dot(xi, Exact(found) @ xi) / 60
    assert rise.mean == pytest.approx(curved, rel=0.15)


@pytest.mark.parametrize(("sigmas", "draws"), [((), 4), ((0.0,), 4), ((0.1,), 1)])
def test_noise_that_says_nothing(sigmas: tuple[float, ...], draws: int) -> None:
    with pytest.raises(UserError, match="are valid"):
        noise(parabola(torch.ones(3)), sigmas, draws)


def test_slices() -> None:
    found = parabola(torch.tensor([1.0, 3.0]))
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert line(found, a, (-1.0, 0.0, 1.0)).losses == ((1.5, 2.0, 3.5),)
    both = plane(found, a, b, (-1.0, 0.0))
    assert both.losses == ((0.0, 0.5), (1.5, 2.0))
    assert torch.equal(found.weights(), torch.ones(2))
    with pytest.raises(UserError, match="2 or more are valid"):
        line(found, a, (0.0,))


def test_a_direction_is_as_long_as_the_weights_row_by_row() -> None:
    """So a row that is twice as long has a direction twice as long; norms' weights stay."""
    model, found = objective()
    parts = dict(zip(found.parameters, found.split(random_direction(found, 0)), strict=True))
    for name, weights in model.named_parameters():
        if weights.ndim == 1:
            assert not parts[name].any()
        else:
            assert torch.allclose(parts[name].norm(dim=1), weights.detach().norm(dim=1), rtol=1e-5)


def test_a_barrier() -> None:
    """(w² − 1)² has none within a well, and one of height 1 from well to well."""
    weight = torch.nn.Parameter(torch.tensor([-1.0]))

    def wells(_: Batch) -> Tensor:
        return ((weight * weight - 1) ** 2).sum()

    found = Objective({"w": weight}, wells, batches(1))
    assert barrier(found, torch.tensor([1.0])).height == pytest.approx(1.0)
    assert barrier(found, torch.tensor([-0.9])).height == pytest.approx(0.0, abs=0.01)
    assert float(weight.detach()) == -1.0
    with pytest.raises(UserError, match="3 or more are valid"):
        barrier(found, torch.tensor([1.0]), points=2)
