"""Prefix: the state at step t is the same to the bit whether the run stops at t or goes on."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from anytrain import schedules
from anytrain.averaging import Averages
from anytrain.rules import Rule
from anytrain.schedules import BeyondHorizon, Cosine, Schedule
from anytrain.testing import check_laws
from cases import HORIZON_BOUND, OPTIMIZERS, RULES, SCHEDULES
from tiny import Tiny, cli, differing, recipe, saved_bits, specs, write_recipe

T = 12  # steps


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule(name: str) -> None:
    schedule = SCHEDULES[name]
    check_laws(schedule)
    short = [dataclasses.replace(schedule)(t) for t in range(T + 1)]
    assert [schedule(t) for t in range(2 * T + 1)][: T + 1] == short


@pytest.mark.parametrize("name", HORIZON_BOUND)
def test_horizon_bound_schedule(name: str) -> None:
    schedule = HORIZON_BOUND[name]
    check_laws(schedule)
    with pytest.raises(BeyondHorizon, match="fork a cooldown"):
        schedule(schedule.horizon + 1e-9)


@pytest.mark.parametrize("name", RULES)
def test_rule(name: str) -> None:
    check_laws(RULES[name])


@pytest.mark.parametrize("name", RULES)
def test_average(name: str) -> None:
    """The average at T does not depend on the iterates after T."""
    assert torch.equal(_average(RULES[name], T)[-1], _average(RULES[name], 2 * T)[T - 1])


def _average(rule: Rule, steps: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    averages = Averages(model, {"a": rule})
    seen = []
    for _ in range(steps):
        with torch.no_grad():
            model.weight.add_(torch.randn(2, 3))
        averages.update()
        seen.append(averages.tensors["a"]["weight"].clone())
    return seen


def trained(
    folder: Path, corpus: Path, stops: list[int], schedule: Schedule, optimizer: str
) -> Path:
    """A run of the command line that stops at each of `stops`; all rules average it."""
    toml = write_recipe(
        folder / f"{'-'.join(map(str, stops))}.toml",
        corpus,
        schedule=schedules.spec(schedule),
        optimizer=OPTIMIZERS[optimizer],
        averages=specs(RULES),
        checkpoint={"every": "1h", "at": [T]},
    )
    run = toml.with_suffix("")
    for stop in stops:
        said = cli("train", toml, "--run", run, "--until", stop)
        assert said.code == 0, said.err
    return run


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer(name: str, corpus: Path, tmp_path: Path) -> None:
    schedule = SCHEDULES["inverse_sqrt"]
    stopped = trained(tmp_path, corpus, [T], schedule, name)
    gone_on = trained(tmp_path, corpus, [2 * T], schedule, name)
    assert differing(saved_bits(stopped, T), saved_bits(gone_on, T)) == []


@pytest.mark.parametrize("name", SCHEDULES)
def test_training(name: str, corpus: Path, tmp_path: Path) -> None:
    stopped = trained(tmp_path, corpus, [T], SCHEDULES[name], "adamw")
    gone_on = trained(tmp_path, corpus, [2 * T], SCHEDULES[name], "adamw")
    assert differing(saved_bits(stopped, T), saved_bits(gone_on, T)) == []


def test_the_law_is_broken_by_a_horizon(corpus: Path) -> None:
    """What the battery compares is able to differ: a cosine planned for twice as long does."""
    states = []
    for horizon in (T, 2 * T):
        spec = schedules.spec(Cosine(horizon=horizon, peak=1e-2, warmup=2))
        tiny = Tiny.begin(recipe(corpus, schedule=spec, averages=specs(RULES)))
        tiny.take(T)
        states.append(tiny.bits())
    names = differing(*states)
    for prefix in ("raw/", "optimizer/exp_avg/", *(f"average/{rule}/" for rule in RULES)):
        assert any(name.startswith(prefix) for name in names), prefix
