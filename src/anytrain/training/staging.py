"""Host memory that the state of a run is copied to, so that training can go on while it is
written.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

_ALIGNED = 64  # bytes: a cache line


class Staging:
    """One copy of a state in host memory, allocated by the first and used again by the others.

    Fresh memory costs a page fault for every 4 kB, which takes longer than the copy itself. For
    tensors on a CUDA device it is page-locked, and all copies are waited for at once.
    """

    def __init__(self) -> None:
        self._layout: list[tuple[str, torch.dtype, torch.Size]] = []
        self._buffers: dict[str, Tensor] = {}

    @torch.no_grad()
    def copy(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The tensors as they are now, valid until the next copy."""
        layout = [(name, tensor.dtype, tensor.shape) for name, tensor in tensors.items()]
        on_cuda = any(tensor.is_cuda for tensor in tensors.values())
        if layout != self._layout:
            self._buffers = {}  # the old ones go before the new ones come
            self._buffers = _buffers(tensors, on_cuda)
            self._layout = layout
        for name, tensor in tensors.items():
            self._buffers[name].copy_(tensor, non_blocking=True)
        if on_cuda:
            torch.cuda.synchronize()
        return self._buffers


def _buffers(tensors: Mapping[str, Tensor], locked: bool) -> dict[str, Tensor]:
    """Room for each tensor, all in one piece of memory: page-locking rounds the size of every
    piece up to a power of two."""
    places, total = {}, 0  # bytes
    for name, tensor in tensors.items():
        places[name] = slice(total, total + tensor.nbytes)
        total += -(-tensor.nbytes // _ALIGNED) * _ALIGNED
    memory = torch.empty(total, dtype=torch.uint8, pin_memory=locked)
    return {
        name: memory[places[name]].view(tensor.dtype).view(tensor.shape)
        for name, tensor in tensors.items()
    }
