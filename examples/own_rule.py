"""An averaging rule of your own: a frozen dataclass, checked against the laws, used by name.

    python examples/own_rule.py

On the command line, from the directory the file is in, its class goes wherever a rule of ours
does. `--import` is never read from a recipe; the hash of the source is recorded with the run.

    anytrain train demo --import own_rule averages.merged=own_rule.Merged:every=100-steps
"""

from dataclasses import dataclass
from math import floor, isfinite

import torch

from anytrain import AnytimeEma, Averages, weights
from anytrain.grammar import Steps
from anytrain.testing import check_laws


@dataclass(frozen=True)
class Merged:
    """The mean of what checkpoints `every` so many steps would hold: ρ = 1/k at the k-th, else 0.

    Until the first of them it is the weights that it began with.
    """

    every: Steps  # in text with a unit: every=100-steps, every=2M-tokens

    def __post_init__(self) -> None:
        if not (isfinite(self.every) and self.every > 0):
            raise ValueError(f"every = {self.every}; above 0 steps is valid")

    def __call__(self, t: float, dt: float = 1.0, /) -> float:
        seen = floor(t / self.every)
        new = seen - floor((t - dt) / self.every)
        return new / seen if new else 0.0


def main() -> None:
    rule = Merged(every=10)
    check_laws(rule)
    print(f"{rule} keeps the laws; weights after 30 steps: {weights(rule, 30)[::10].round(2)}")

    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1, bias=False)
    truth = torch.tensor([[1.0, -2.0, 3.0, 0.5]])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    averages = Averages(model, {"merged": rule, "ema25": AnytimeEma(25)})
    for _ in range(500):
        x = torch.randn(4, 4)
        noise = torch.randn(4, 1)
        loss = (model(x) - x @ truth.T - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        averages.update()
    for name in ("raw", "merged", "ema25"):
        with averages.applied(name), torch.no_grad():
            print(f"{name:<6} {float((model.weight - truth).norm()):.3f} from the truth")


if __name__ == "__main__":
    main()
