"""The fast passes against their slow twins: bits on a CPU, a few ulp on a GPU and for AdamW."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from anytrain.averaging import Averages, kernels
from anytrain.averaging.moves import Move, follow
from anytrain.averaging.plain import plain
from anytrain.rules import AnytimeEma, Uniform

RHO = [0.01, 0.5, 1.0, 0.49999, 0.0, 0.3, 0.999, 1e-6, 0.7]
STEP = {"lr": 3e-3, "betas": (0.9, 0.95), "eps": 1e-8, "decay": 0.1}


@pytest.fixture
def threads() -> object:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def drawn(count: int, shape: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


def copies(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.clone() for tensor in tensors]


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("many", range(1, 10))
@pytest.mark.parametrize("shape", [(1,), (17, 3), (3, 5, 7), (4099,)], ids=str)
def test_average_is_its_plain_twin(shape: tuple[int, ...], many: int) -> None:
    """Over steps, bit for bit, every ρ; ρ = 1 gives the weights and ρ = 0 changes nothing."""
    ours = drawn(many, shape)
    theirs, start = copies(ours), copies(ours)
    for step in range(1, 5):
        (weights,) = drawn(1, shape, seed=step)
        kernels.average([weights], [ours], RHO[:many])
        plain(weights, theirs, RHO[:many])
        assert equal(ours, theirs)
        for average, begun, rho in zip(ours, start, RHO, strict=False):
            assert torch.equal(average, weights) == (rho == 1.0)
            assert torch.equal(average, begun) == (rho == 0.0)


def test_threads_and_shards_change_no_bit(threads: object) -> None:
    size = kernels._SMALL + 4321
    (weights, gradient), whole = drawn(2, (size,)), drawn(5, (size,), seed=9)
    found = []
    for count in (1, 2, 3):
        threads(count)
        averages, w = copies(whole), weights.clone()
        moments = [torch.zeros(size), torch.zeros(size)]
        kernels.adamw(
            [kernels.AdamWStep(w, gradient, *moments, step=1, **STEP)], [averages], RHO[:5]
        )
        kernels.average([w], [averages], RHO[3:8])
        found.append([w, *moments, *averages])
    assert equal(found[0], found[1])
    assert equal(found[0], found[2])
    parts = [copies([t[a:b] for t in whole]) for a, b in ((0, 101), (101, size))]
    for (a, b), part in zip(((0, 101), (101, size)), parts, strict=True):
        kernels.average([weights[a:b]], [part], RHO[:5])
    kernels.average([weights], [whole], RHO[:5])
    assert equal(whole, [torch.cat(pair) for pair in zip(*parts, strict=True)])


def textbook(w: np.ndarray, gradients: list[Tensor], settings: dict) -> np.ndarray:
    """AdamW as published, in float64."""
    m = v = np.zeros_like(w)
    (beta1, beta2), lr = settings["betas"], settings["lr"]
    for s, g in enumerate((g.double().numpy() for g in gradients), start=1):
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        mean, second = m / (1 - beta1**s), v / (1 - beta2**s)
        w = w - lr * (mean / (np.sqrt(second) + settings["eps"]) + settings["decay"] * w)
    return w


@pytest.mark.parametrize("settings", [STEP, {**STEP, "betas": (0.0, 0.999), "decay": 0.0}])
def test_adamw_is_the_textbooks_and_pytorchs(settings: dict) -> None:
    (start,), gradients = drawn(1, (1013,)), drawn(30, (1013,), seed=1)
    gradients = [g * 10.0 ** (n % 5 - 4) for n, g in enumerate(gradients)]
    weights, moments = start.clone(), [torch.zeros(1013), torch.zeros(1013)]
    theirs = nn.Parameter(start.clone())
    peer = torch.optim.AdamW(
        [theirs], settings["lr"], settings["betas"], settings["eps"], settings["decay"], fused=True
    )
    for s, gradient in enumerate(gradients, start=1):
        kernels.adamw([kernels.AdamWStep(weights, gradient, *moments, step=s, **settings)])
        theirs.grad = gradient
        peer.step()
        torch.testing.assert_close(weights, theirs.detach(), rtol=3e-6, atol=1e-7)
    exact = textbook(start.double().numpy(), gradients, settings)
    assert np.abs(weights.double().numpy() - exact).max() < 2e-6
    assert np.abs(textbook(start.double().numpy(), gradients[:-1], settings) - exact).max() > 1e-4


@pytest.mark.parametrize("many", [0, 1, 4, 6])
def test_averages_in_adamws_pass_are_those_after_it(many: int) -> None:
    (start, gradient), averages = drawn(2, (257, 3)), drawn(many, (257, 3), seed=2)
    apart = copies(averages)
    one = kernels.AdamWStep(start.clone(), gradient, *copies([start * 0] * 2), step=1, **STEP)
    two = replace(one, **dict(zip(
        ("weights", "first", "second"), copies([one.weights, one.first, one.second]), strict=True
    )))  # fmt: skip
    kernels.adamw([one], [averages], RHO[:many])
    kernels.adamw([two])
    if apart:
        kernels.average([two.weights], [apart], RHO[:many])
    assert equal([one.weights, one.first, *averages], [two.weights, two.first, *apart])
    assert not torch.equal(one.weights, start)


def test_tensors_the_loops_do_not_take() -> None:
    """Transposed, fp64, bf16 and integer ones move all the same, and as plainly as ever."""
    torch.manual_seed(0)
    live = {
        "transposed": torch.randn(3, 5).t(),
        "double": torch.randn(4, dtype=torch.float64),
        "half": torch.randn(6).bfloat16(),
        "count": torch.tensor([3, 4]),
    }
    start = {name: torch.zeros_like(t) for name, t in live.items()}
    start["half"] = start["half"].float()
    averages = [{name: t.clone() for name, t in start.items()} for _ in range(2)]
    follow(live, [Move(0.25, averages[0]), Move(1.0, averages[1])])
    for name, tensor in live.items():
        quarter = tensor if name == "count" else 0.25 * tensor.to(start[name].dtype)
        assert torch.equal(averages[0][name], quarter)
        assert torch.equal(averages[1][name], tensor.to(start[name].dtype))


GPU = """
import torch
from anytrain.averaging import triton_kernels
from anytrain.averaging.plain import plain
RHO = [0.01, 0.5, 1.0, 0.49999, 0.0, 0.3, 0.999, 1e-6, 0.7]
torch.manual_seed(0)
for dtype in (torch.float32, torch.bfloat16):
    for many in (1, 4, 8, 9):
        weights = torch.randn(41, 100).to(dtype)
        ours = [torch.randn(41, 100) for _ in range(many)]
        theirs = [tensor.clone() for tensor in ours]
        triton_kernels.average([(weights, ours)], RHO[:many])
        plain(weights.float(), theirs, RHO[:many])
        for a, b in zip(ours, theirs):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
        if many > 2:
            assert torch.equal(ours[2], weights.float())
print("equal")
"""


def test_the_gpus_kernel_in_tritons_interpreter() -> None:
    """It says nothing about speed, and all about arithmetic, edges and arguments."""
    pytest.importorskip("triton")
    command = [sys.executable, "-c", GPU]
    environment = {"TRITON_INTERPRET": "1", "PATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout == "equal\n", done.stderr


# --- every s-th step ---------------------------------------------------------------------------


def walk(model: nn.Module, step: int) -> Tensor:
    with torch.no_grad():
        model.weight.copy_(drawn(1, (3, 2), seed=step)[0])
    return model.weight.detach().clone()


@pytest.mark.parametrize("rule", [AnytimeEma(6), Uniform()], ids=repr)
def test_every_third_step_composes_the_skipped_ones(rule: object) -> None:
    model = nn.Linear(2, 3, bias=False)
    expected = model.weight.detach().double().clone()
    averages = Averages(model, {"a": rule}, every=3)
    kept = 1.0
    for step in range(1, 11):
        iterate = walk(model, step)
        averages.update()
        kept *= 1 - rule(float(step), 1.0)
        if step % 3 == 0:
            expected = kept * expected + (1 - kept) * iterate
            kept = 1.0
        torch.testing.assert_close(averages.tensors["a"]["weight"].double(), expected)
        if step == 4:  # away and back in the middle of three
            state = averages.state_dict()
            other = nn.Linear(2, 3, bias=False)
            back = Averages(other, {"a": rule}, every=3)
            back.load_state_dict(state)
            for later in (5, 6):
                walk(other, later)
                back.update()
            sixth = back.tensors["a"]["weight"]
        if step == 6:
            assert torch.equal(averages.tensors["a"]["weight"], sixth)
    with pytest.raises(ValueError, match="every = 0; 1 step or more is valid"):
        Averages(model, {}, every=0)
