"""Averages of a sharded model: whole tensors from everybody's pieces, and a process's piece."""

from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from anytrain.averaging import Averages, canonical_tensors
from anytrain.averaging.moves import local


def whole(averages: Averages, name: str, keep: bool = True) -> dict[str, Tensor]:
    """An average's tensors in one piece, on the CPU; every process of a sharded model asks.

    A process that does not `keep` them takes part and gets none.
    """
    model = canonical_tensors(averages.model)
    found = {}
    for key, part in averages.tensors[name].items():
        like = model[key]
        one = part
        if isinstance(like, DTensor):
            shape, stride = like.shape, like.stride()
            there = part.to(like.device)
            one = DTensor.from_local(
                there, like.device_mesh, like.placements, shape=shape, stride=stride
            ).full_tensor()
        if keep:
            found[key] = one.to("cpu")
    return found


def part(tensor: Tensor, like: Tensor) -> Tensor:
    """What of a whole tensor this process has, cut as a parameter is; all of it where none is."""
    if not isinstance(like, DTensor):
        return tensor
    there = tensor.to(like.device)
    # every process has read it: nothing is sent
    return local(distribute_tensor(there, like.device_mesh, like.placements, src_data_rank=None))
