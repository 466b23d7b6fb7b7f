"""torchtitan's components against what it asks of them, without it: hooks, DCP, groups of rates."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from anytrain import BeyondHorizon, rules, schedules
from anytrain.integrations.group_rates import GroupRates, require_no_jump
from anytrain.integrations.model_parts import KEY, PartsAverages, average

RULES = {"ema2": "anytime_ema:f=2", "uniform": "uniform"}
SCHEDULE = schedules.schedule("inverse_sqrt:peak=1e-2,warmup=4-steps,offset=16-steps")


class Container(torch.optim.Optimizer):
    """As torchtitan's: an optimizer whose step is that of the ones inside."""

    def __init__(self, parts: list[nn.Module]) -> None:
        self.optimizers = [torch.optim.SGD(part.parameters(), lr=0.1) for part in parts]
        super().__init__([p for part in parts for p in part.parameters()], {})

    def step(self, closure: Any = None) -> None:
        for optimizer in self.optimizers:
            optimizer.step()


class Stages:
    """A model in two parts, its container, its averages; a step from the number of the step."""

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.parts: list[nn.Module] = [nn.ModuleDict({n: nn.Linear(3, 2)}) for n in ("a", "b")]
        self.optimizers = Container(self.parts)
        self.averages = PartsAverages(self.parts, RULES)
        self.averages.follow(self.optimizers)

    def step(self, number: int) -> None:
        generator = torch.Generator().manual_seed(number)
        for part in self.parts:
            for parameter in part.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
        self.optimizers.step()

    def weights(self) -> dict[str, Tensor]:
        named = [pair for part in self.parts for pair in part.named_parameters()]
        return {name: parameter.detach().clone() for name, parameter in named}


def test_the_averages_of_all_parts_follow_the_container() -> None:
    """From the weights that the first step began with: others were loaded since they were made."""
    stages = Stages()
    with torch.no_grad():
        stages.parts[0]["a"].weight.fill_(3.0)  # type: ignore[index]
    seen = [stages.weights()]
    for number in range(4):
        stages.step(number)
        seen.append(stages.weights())
    tensors = stages.averages.state_dict()["tensors"]
    for name, spec in RULES.items():
        mass = rules.weights(rules.rule(spec), 4)
        assert tensors[name].keys() == seen[0].keys()
        for key, tensor in tensors[name].items():
            by_hand = sum(m * w[key].double() for m, w in zip(mass, seen, strict=True))
            torch.testing.assert_close(tensor.double(), by_hand, atol=1e-6, rtol=0)


def test_a_checkpoint_of_dcp_holds_them(tmp_path: Path) -> None:
    one, other = Stages(), Stages(seed=1)
    for number in range(4):
        one.step(number)
    saved = {KEY: {"averages": one.averages.state_dict()}}
    save(saved, checkpoint_id=tmp_path, no_dist=True)
    raw = one.weights()
    state: dict[str, Any] = {KEY: {"averages": other.averages.state_dict()}}
    load(state, checkpoint_id=tmp_path, no_dist=True)
    other.averages.load_state_dict(state[KEY]["averages"])
    assert other.averages.t == 4
    for name in RULES:
        mine = one.averages.state_dict()["tensors"][name]
        theirs = other.averages.state_dict()["tensors"][name]
        whole = average(tmp_path, name)
        assert mine.keys() == theirs.keys() == whole.keys()
        assert all(torch.equal(mine[k], theirs[k]) for k in mine)
        assert all(torch.equal(mine[k], whole[k]) for k in mine)
        with one.averages.applied(name):
            assert all(torch.equal(one.weights()[k], mine[k]) for k in mine)
            with pytest.raises(RuntimeError, match="cannot save while the average"):
                one.averages.state_dict()
        assert all(torch.equal(one.weights()[k], raw[k]) for k in raw)
    with pytest.raises(ValueError, match="holds no average 'ema3'"):
        average(tmp_path, "ema3")
    fewer = PartsAverages(one.parts, {"ema2": "anytime_ema:f=2"})
    with pytest.raises(ValueError, match=r"holds averages .*'uniform'.*, here are \{'ema2'"):
        fewer.load_state_dict(one.averages.state_dict())


def test_a_group_keeps_its_part_of_the_rate() -> None:
    weights = [nn.Parameter(torch.zeros(1)) for _ in range(3)]
    groups = [{"params": [weights[0]], "lr": 1e-2}, {"params": [weights[1]], "lr": 5e-3}]
    two = [torch.optim.SGD(groups), torch.optim.SGD([weights[2]], lr=torch.tensor(2e-2))]
    rates = GroupRates(two, SCHEDULE)
    for t in range(1, 9):
        expected = [SCHEDULE(t), SCHEDULE(t) / 2, 2 * SCHEDULE(t)]
        found = [float(group["lr"]) for one in two for group in one.param_groups]
        assert found == pytest.approx(expected, rel=1e-6)
        assert two[0].param_groups[0]["lr"] == SCHEDULE(t)  # the peak's own, to the bit
        rates.step()


def test_a_schedule_ends_where_it_ends() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    rates = GroupRates([optimizer], schedules.schedule("linear:horizon=2.5-steps,peak=1.0"))
    found = []
    for _ in range(3):
        rates.set()
        found.append(optimizer.param_groups[0]["lr"])
        rates.step()
    assert found == [pytest.approx(0.6), pytest.approx(0.2), 0.0]
    with pytest.raises(BeyondHorizon):
        rates.set()


def test_a_jump_of_the_rate_is_a_sentence() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-2)
    rates = GroupRates([optimizer], SCHEDULE)
    faster = schedules.schedule("constant:peak=2e-2")
    require_no_jump(faster, rates.record(), "here")  # nothing was taken yet
    for _ in range(5):
        rates.step()
    require_no_jump(SCHEDULE, rates.record(), "here")
    spec = schedules.spec(SCHEDULE)
    cooldown = f"cooldown:horizon=9-steps,start=5-steps,trunk=({spec})"
    require_no_jump(schedules.schedule(cooldown), rates.record(), "here")
    with pytest.raises(ValueError, match=r"here took step 5 at the rate 0\.0097.* has 0\.02 there"):
        require_no_jump(faster, rates.record(), "here")
