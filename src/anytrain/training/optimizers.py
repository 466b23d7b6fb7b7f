"""Optimizers behind one face: a rate for all, state under the model's own tensor names.

The update rules are PyTorch's and the `schedulefree` package's. What is ours: which parameter goes
where, how the schedule's rate reaches each group, running averages that move with the step, and a
state that is flat tensors and plain data.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from schedulefree import AdamWScheduleFree
from torch import Tensor, nn

from anytrain.averaging import canonical_tensors, schedule_free
from anytrain.averaging.moves import Move, follow, local
from anytrain.training.adamw import AdamW
from anytrain.training.sharding import like
from anytrain.training.tables import Optimizer as Settings

# Numbers that a group changes as it steps; its other numbers are the recipe's.
_EVOLVING = ("k", "weight_sum", "lr_max", "scheduled_lr")


@dataclass
class Optimizers:
    """One or two torch optimizers that step together.

    Each group's `scale` is its peak over the schedule's peak.
    """

    parts: list[torch.optim.Optimizer]
    names: dict[Tensor, str]  # parameter -> its name in the bare model
    kind: str
    beta1: float

    def set_lr(self, lr: float) -> float:
        """Give every group the schedule's rate, scaled; returns `lr`."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = lr * group["scale"]
        return lr

    def step(self, live: Mapping[str, Tensor], moves: Sequence[Move]) -> None:
        """Step, and carry the moves out towards what that makes of the model's `live` tensors."""
        averages = {
            parameter: [move.tensors[name] for move in moves]
            for parameter, name in (self.names.items() if moves else ())
        }
        done: set[str] = set()
        for part in self.parts:
            if isinstance(part, AdamW):
                moved = part.step_and_average(averages, [move.rho for move in moves])
                done |= {self.names[parameter] for parameter in moved}
            else:
                part.step()
        follow({name: tensor for name, tensor in live.items() if name not in done}, moves)

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        """`exp_avg/model.norm.weight` -> state tensor, for every parameter that has any; of a
        sharded one the part that is here."""
        return {
            f"{key}/{self.names[parameter]}": local(value)
            for part in self.parts
            for parameter, state in part.state.items()
            for key, value in state.items()
            if isinstance(value, Tensor)
        }

    def numbers(self) -> list[list[dict[str, float]]]:
        """The evolving numbers of every group of every part."""
        return [
            [{key: group[key] for key in _EVOLVING if key in group} for group in part.param_groups]
            for part in self.parts
        ]

    def restore(self, tensors: dict[str, Tensor], numbers: list[list[dict[str, float]]]) -> None:
        """Put back what `tensors` and `numbers` gave."""
        for part, groups in zip(self.parts, numbers, strict=True):
            part.state.clear()
            for group, saved in zip(part.param_groups, groups, strict=True):
                group.update(saved)
        owner = {
            self.names[parameter]: (part, parameter)
            for part in self.parts
            for group in part.param_groups
            for parameter in group["params"]
        }
        for path, tensor in tensors.items():
            key, _, name = path.partition("/")
            part, parameter = owner[name]
            part.state[parameter][key] = like(tensor.to(parameter.device), parameter)

    @torch.no_grad()
    def schedule_free_weights(self) -> dict[str, Tensor]:
        """x, in buffers of its own; a parameter without z yet is its own x. The parts here."""
        found = {}
        for part in self.parts:
            for group in part.param_groups:
                for y in group["params"]:
                    z = part.state[y].get("z") if y in part.state else None
                    name = self.names[y]
                    here = local(y).clone()
                    found[name] = here if z is None else schedule_free(here, local(z), self.beta1)
        return found


def optimizers(settings: Settings, model: nn.Module, peak: float) -> Optimizers:
    """What the recipe asks for. `peak` is the schedule's peak, for the groups with another."""
    named = {
        name: tensor
        for name, tensor in canonical_tensors(model).items()
        if isinstance(tensor, nn.Parameter) and tensor.requires_grad
    }
    names: dict[Tensor, str] = {parameter: name for name, parameter in named.items()}
    betas = (settings.beta1, settings.beta2)
    parts: list[torch.optim.Optimizer] = []
    if settings.kind == "muon":
        hidden = [p for n, p in named.items() if p.ndim == 2 and ".layers." in n]
        rest = [p for n, p in named.items() if not (p.ndim == 2 and ".layers." in n)]
        muon = torch.optim.Muon(
            [{"params": hidden, "scale": 1.0}],
            weight_decay=settings.weight_decay,
            momentum=settings.beta1,
            adjust_lr_fn="match_rms_adamw",  # so that AdamW's peaks carry over
        )
        scale = (settings.adamw_peak or peak) / peak
        adamw = AdamW(_groups(settings, rest, scale), betas=betas, eps=settings.eps, fused=True)
        parts = [muon, adamw]
    elif settings.kind == "adamw":
        groups = _groups(settings, named.values())
        parts = [AdamW(groups, betas=betas, eps=settings.eps, fused=True)]
    elif settings.kind == "sgd":
        groups = _groups(settings, named.values())
        parts = [torch.optim.SGD(groups, lr=peak, momentum=settings.beta1)]
    else:
        free = AdamWScheduleFree(_groups(settings, named.values()), betas=betas, eps=settings.eps)
        free.train()  # once, before there is any state: it moves nothing
        parts = [free]
    return Optimizers(parts, names, settings.kind, settings.beta1)


def _groups(
    settings: Settings, parameters: Iterable[nn.Parameter], scale: float = 1.0
) -> list[dict[str, Any]]:
    """Decayed and not: matrices decay, vectors do not, unless the recipe says all do."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for parameter in parameters:
        (decayed if parameter.ndim >= 2 or settings.decay_all else plain).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay, "scale": scale},
        {"params": plain, "weight_decay": 0.0, "scale": scale},
    ]
    return [group for group in groups if group["params"]]
