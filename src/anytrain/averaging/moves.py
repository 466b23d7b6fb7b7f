"""Averages moved towards live tensors: by the fastest means each device has, and plainly."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from anytrain.averaging.plain import plain


@dataclass(frozen=True)
class Move:
    """One average of a whole model, about to go `rho` of its way to the weights."""

    rho: float
    tensors: Mapping[str, Tensor]  # of the average, by canonical name


@torch.no_grad()
def follow(live: Mapping[str, Tensor], moves: Sequence[Move]) -> None:
    """Carry out moves towards `live`, every live tensor read once for all of them.

    fp32 on a CPU goes through `kernels`, CUDA through `triton_kernels`, anything else through
    `plain`. What is no floating point number is copied.
    """
    rho = [move.rho for move in moves]
    if not moves:
        return
    from anytrain.averaging import kernels  # compiled code, which readers of averages do not need

    on_cpu: list[tuple[Tensor, list[Tensor]]] = []
    on_cuda: list[tuple[Tensor, list[Tensor]]] = []
    for name, tensor in live.items():
        averages = [move.tensors[name] for move in moves]
        if not tensor.is_floating_point():
            for average in averages:
                average.copy_(tensor)
            continue
        if tensor.is_cuda and averages[0].is_cuda:
            on_cuda.append((tensor, averages))
            continue
        wide = tensor.to(averages[0].device, averages[0].dtype)  # averages may stay on the CPU
        if kernels.fits(wide, *averages):
            on_cpu.append((wide, averages))
        else:
            plain(wide, averages, rho)
    kernels.average([w for w, _ in on_cpu], [a for _, a in on_cpu], rho)
    if on_cuda:
        from anytrain.averaging import triton_kernels

        triton_kernels.average(on_cuda, rho)


def local(tensor: Tensor) -> Tensor:
    """This rank's shard of a distributed tensor: averaging is elementwise and needs no more."""
    if type(tensor) is Tensor and not tensor.requires_grad:
        return tensor
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor.detach()
