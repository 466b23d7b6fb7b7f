"""A loop of one's own under accelerate: averages and rate move with the optimizer's real steps."""

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin
from hf_tiny import RULES, SCHEDULE, Rows, model, same, weights
from torch.utils.data import DataLoader

from anytrain import Averages, rules, schedules
from anytrain.integrations.torch import Scheduler, attach


class Loop:
    """What the page says, and nothing else: two batches a step."""

    def __init__(self, seed: int = 0) -> None:
        self.accelerator = Accelerator(
            cpu=True, gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=2)
        )
        net = model(seed, attention_dropout=0.0)
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
        self.scheduler = Scheduler(optimizer, schedules.schedule(SCHEDULE))
        self.averages = Averages(net, {name: rules.rule(spec) for name, spec in RULES.items()})
        attach(self.averages, optimizer)
        loader = DataLoader(Rows(24), batch_size=2)
        self.net, self.optimizer, self.loader = self.accelerator.prepare(net, optimizer, loader)
        self.accelerator.register_for_checkpointing(self.averages, self.scheduler)
        self.rates: list[float] = []

    def train(self, first: int, last: int) -> None:
        """Batches first to last − 1."""
        for batch in list(self.loader)[first:last]:
            with self.accelerator.accumulate(self.net):
                self.accelerator.backward(self.net(**batch).loss)
                self.optimizer.step()
                if self.accelerator.sync_gradients:
                    self.rates.append(self.optimizer.param_groups[0]["lr"])
                    if not self.accelerator.optimizer_step_was_skipped:
                        self.scheduler.step()
                self.optimizer.zero_grad()


def test_a_loop_under_accelerate_goes_on_to_the_bit(tmp_path: Path) -> None:
    straight = Loop()
    straight.train(0, 6)
    straight.accelerator.save_state(str(tmp_path))
    straight.train(6, 12)
    assert straight.averages.t == 6
    later = Loop(seed=1)
    later.accelerator.load_state(str(tmp_path))
    later.train(6, 12)
    assert same(weights(later.net), weights(straight.net))
    for name, tensors in straight.averages.tensors.items():
        assert same(later.averages.tensors[name], tensors)
    expected: Any = schedules.schedule(SCHEDULE)
    assert straight.rates == [expected(t) for t in range(1, 7)]
    assert later.rates == straight.rates[3:]
