"""Schedules and averages in a bare loop: the rates, the resume, and what a loop may be made of."""

import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from anytrain import AnytimeEma, Averages, BeyondHorizon, Constant, InverseSqrt, Schedule, Uniform
from anytrain.integrations.torch import Scheduler, attach
from cases import HORIZON_BOUND, SCHEDULES

RULES = {"ema25": AnytimeEma(25), "mean": Uniform()}
SCHEDULE = InverseSqrt(1e-2, warmup=4, offset=16)


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4)).to(dtype)


def loss(model: nn.Module, t: int, dtype: torch.dtype = torch.float32) -> Tensor:
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(t)).to(dtype)
    return (model(x) - x.flip(1)).square().mean()


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1.0)


# --- rates ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_the_rate_of_every_update_is_the_schedules(schedule: Schedule) -> None:
    optimizer = adamw(network())
    scheduler = Scheduler(optimizer, schedule)
    for t in range(1, 60):
        assert optimizer.param_groups[0]["lr"] == schedule(t) == scheduler.get_last_lr()[0]
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("schedule", HORIZON_BOUND.values(), ids=HORIZON_BOUND)
def test_a_horizon_is_reached_and_not_passed(schedule: Any) -> None:
    optimizer = adamw(network())
    scheduler = Scheduler(optimizer, schedule)
    last = math.ceil(schedule.horizon)
    for t in range(1, last + 1):
        assert optimizer.param_groups[0]["lr"] == schedule(min(t, schedule.horizon))
        optimizer.step()
        scheduler.step()  # after the last update too, as loops do
    optimizer.step()
    with pytest.raises(BeyondHorizon, match="lies beyond the horizon"):
        scheduler.step()


def test_groups_keep_their_ratios() -> None:
    model = network()
    groups = [{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 0.25}]
    optimizer = torch.optim.SGD(groups, lr=0.5)
    scheduler = Scheduler(optimizer, SCHEDULE)
    for t in range(1, 9):
        assert scheduler.get_last_lr() == [SCHEDULE(t), SCHEDULE(t) / 2]
        optimizer.step()
        scheduler.step()


def test_a_rate_that_is_a_tensor_stays_the_same_tensor() -> None:
    """A compiled or captured optimizer reads the rate from where it was."""
    rate = torch.tensor(1.0)
    optimizer = torch.optim.AdamW(network().parameters(), lr=rate, capturable=False, foreach=False)
    scheduler = Scheduler(optimizer, SCHEDULE)
    held = optimizer.param_groups[0]["lr"]
    optimizer.step()
    scheduler.step()
    state = scheduler.state_dict()
    optimizer.step()
    scheduler.step()
    scheduler.load_state_dict(state)
    assert optimizer.param_groups[0]["lr"] is held
    assert float(held) == pytest.approx(SCHEDULE(2))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda o: Scheduler(o, SCHEDULE, step=-1), "step = -1; the number of updates taken"),
        (lambda o: o.defaults.update(lr=0.0) or Scheduler(o, SCHEDULE), "lr = 0.0; any number"),
    ],
)
def test_what_cannot_be(make: Callable[[Any], Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make(adamw(network()))


# --- the laws -------------------------------------------------------------------------------------


class Loop:
    """A loop as its user would write it."""

    def __init__(self, schedule: Schedule = SCHEDULE) -> None:
        self.model = network()
        self.optimizer = adamw(self.model)
        self.scheduler = Scheduler(self.optimizer, schedule)
        self.averages = Averages(self.model, RULES)
        attach(self.averages, self.optimizer)

    @property
    def parts(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in
                ("model", "optimizer", "scheduler", "averages")}  # fmt: skip

    def go(self, until: int) -> "Loop":
        for t in range(self.scheduler.last_epoch + 1, until + 1):
            loss(self.model, t).backward()
            self.optimizer.step()
            self.scheduler.step()
            self.optimizer.zero_grad()
        return self

    def everything(self) -> dict[str, Tensor]:
        found = {f"raw {name}": tensor for name, tensor in self.model.state_dict().items()}
        for name, tensors in self.averages.tensors.items():
            found |= {f"{name} {key}": tensor for key, tensor in tensors.items()}
        return {name: tensor.clone() for name, tensor in found.items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_stopped_and_gone_on_is_the_same_to_the_bit(schedule: Schedule) -> None:
    """By a file that is loaded without running code; stopping at 7 changed nothing before it."""
    whole = Loop(schedule).go(7)
    at_7 = whole.everything()
    whole.go(15)
    first = Loop(schedule).go(7)
    assert same(first.everything(), at_7)
    file = io.BytesIO()
    torch.save({name: part.state_dict() for name, part in first.parts.items()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    second = Loop(schedule)
    for name, part in second.parts.items():
        part.load_state_dict(saved[name])
    assert same(second.go(15).everything(), whole.everything())


def test_another_schedules_state_is_refused_and_a_step_begins_it() -> None:
    first = Loop().go(5)
    other = Loop(Constant(1e-3))
    with pytest.raises(ValueError, match=r"the state is of inverse_sqrt.*step=5\) to change it"):
        other.scheduler.load_state_dict(first.scheduler.state_dict())
    changed = Scheduler(first.optimizer, Constant(1e-3, warmup=10), step=5)
    assert changed.get_last_lr() == [1e-3 * 0.6]


# --- averages that follow -------------------------------------------------------------------------


def test_they_move_as_if_by_hand_several_at_once() -> None:
    model = network()
    optimizer = adamw(model)
    by_hook, by_hand = Averages(model, RULES), Averages(model, RULES)
    other = Averages(model, {"narrow": AnytimeEma(5)})
    attach(by_hook, optimizer)
    attach(other, optimizer)
    for t in range(1, 6):
        loss(model, t).backward()
        optimizer.step()
        by_hand.update()
        optimizer.zero_grad()
    assert by_hook.t == other.t == 5
    for name, tensors in by_hand.tensors.items():
        assert same(tensors, by_hook.tensors[name])


def test_a_batch_of_another_size() -> None:
    model = network()
    optimizer = adamw(model)
    averages, expected = Averages(model, RULES), Averages(model, RULES)
    attach(averages, optimizer, dt=lambda: 2.5)
    loss(model, 1).backward()
    optimizer.step()
    expected.update(2.5)
    assert averages.t == 2.5
    assert same(averages.tensors["ema25"], expected.tensors["ema25"])


def test_attached_twice_is_an_error_and_removed_is_not() -> None:
    model = network()
    optimizer = adamw(model)
    averages = Averages(model, RULES)
    handle = attach(averages, optimizer)
    with pytest.raises(ValueError, match="follow an optimizer already"):
        attach(averages, optimizer)
    handle.remove()
    handle.remove()
    optimizer.step()
    assert averages.t == 0
    attach(averages, optimizer)
    optimizer.step()
    assert averages.t == 1


def test_accumulated_gradients_are_one_step() -> None:
    loop = Loop()
    for t in range(1, 9):
        (loss(loop.model, t) / 4).backward()
        if t % 4 == 0:
            loop.optimizer.step()
            loop.optimizer.zero_grad()
    assert loop.averages.t == 2


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_a_scaler_leaves_out_moves_nothing(fused: bool) -> None:
    """A fused optimizer is called all the same, and leaves its weights by itself."""
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=fused)
    averages = Averages(model, RULES)
    attach(averages, optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for t, infinite in enumerate((False, True, False), 1):
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        scaler.scale(loss(model, t) * (math.inf if infinite else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        assert same(before, model.state_dict()) == infinite
    assert averages.t == 2


def test_frozen_tied_and_in_bf16() -> None:
    """Frozen weights are their own average, tied ones have one, 16-bit ones are kept in fp32."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
            self.frozen = nn.Linear(4, 4)
            self.head.weight = self.embedding.weight
            self.frozen.requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.tanh(self.frozen(self.embedding(x))))

    torch.manual_seed(0)
    model = Tied().to(torch.bfloat16)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    averages = Averages(model, {"mean": Uniform()})
    attach(averages, optimizer)
    seen = []
    for t in range(1, 9):
        loss(model, t, torch.bfloat16).backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append(model.head.weight.detach().float().clone())
    kept = averages.tensors["mean"]
    assert {t.dtype for t in kept.values()} == {torch.float32}
    assert len([name for name in kept if "frozen" not in name]) == 1
    assert torch.equal(kept["frozen.weight"], model.frozen.weight.float())
    (tied,) = (tensor for name, tensor in kept.items() if "frozen" not in name)
    torch.testing.assert_close(tied, torch.stack(seen).mean(0), rtol=1e-5, atol=1e-6)
    with averages.applied("mean"):
        assert model.head.weight is model.embedding.weight
        assert torch.equal(model.head.weight, tied.to(torch.bfloat16))


def test_under_compile_the_names_are_the_bare_models() -> None:
    """And the averages move: names with `_orig_mod.` once made them stand still elsewhere."""
    model = network()
    compiled = torch.compile(model, backend="eager")
    optimizer = adamw(model)
    averages = Averages(compiled, RULES)
    attach(averages, optimizer)
    begun = {name: tensor.clone() for name, tensor in averages.tensors["ema25"].items()}
    for t in range(1, 4):
        loss(compiled, t).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert averages.tensors["ema25"].keys() == model.state_dict().keys()
    assert not any(torch.equal(begun[name], averages.tensors["ema25"][name]) for name in begun)
    before = loss(compiled, 9).item()
    with averages.applied("ema25"):
        inside = loss(compiled, 9).item()
        assert inside == pytest.approx(loss(model, 9).item())
    assert inside != before == loss(compiled, 9).item()
