"""PyTorch's AdamW, whose step on a CPU is one pass over memory with the running averages in it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from anytrain.averaging import kernels
from anytrain.averaging.moves import local


class AdamW(torch.optim.AdamW):
    """State and settings are PyTorch's own; so is the step (its fused one), but for fp32 on a CPU.

    There `averaging.kernels` takes it, whether or not averages go along: weights do not depend on
    what is averaged. Its rounding is PyTorch's to an ulp or two of the largest term.
    """

    @torch.no_grad()
    def step_and_average(
        self, averages: Mapping[Tensor, Sequence[Tensor]], rho: Sequence[float]
    ) -> set[Tensor]:
        """One step; returns the parameters whose averages went along, by `rho` to the new weights.

        All averages of a parameter, by parameter, or an empty mapping.
        """
        groups = [(group, p) for group in self.param_groups for p in group["params"]]
        moving = [(group, p, p.grad) for group, p in groups if p.grad is not None]
        here = [(local(p), local(g), *averages.get(p, ())) for _, p, g in moving]
        if not all(kernels.fits(*tensors) for tensors in here):
            self.step()
            return set()
        steps = [self._operands(*operands) for operands in moving]
        mine = [averages[p] for _, p, _ in moving] if averages else None
        kernels.adamw(steps, mine, rho)
        return {parameter for _, parameter, _ in moving} if averages else set()

    def _operands(
        self, group: dict[str, Any], parameter: Tensor, gradient: Tensor
    ) -> kernels.AdamWStep:
        """Count a step of this parameter; its state begins as PyTorch's does."""
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            for key in ("exp_avg", "exp_avg_sq"):
                state[key] = torch.zeros_like(parameter)
        state["step"] += 1
        return kernels.AdamWStep(
            weights=local(parameter),
            gradient=local(gradient),
            first=local(state["exp_avg"]),
            second=local(state["exp_avg_sq"]),
            step=float(state["step"]),
            lr=group["lr"],
            betas=group["betas"],
            eps=group["eps"],
            decay=group["weight_decay"],
        )
