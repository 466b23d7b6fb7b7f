"""A model cut over the processes of a world by FSDP2 (`fully_shard`): rows of every tensor."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from anytrain.models.decoder import Decoder
from anytrain.training.config import Recipe
from anytrain.training.distributed import World


@dataclass(frozen=True)
class Place:
    """Which rows of a whole tensor a process has, and whether it is the one to write them."""

    shape: tuple[int, ...]  # of the whole
    first: int  # row
    rows: int
    mine: bool


def built(recipe: Recipe, world: World, weights: Mapping[str, Tensor] | None = None) -> Decoder:
    """The model of a run, its weights drawn from the seed or given; sharded in a larger world.

    Layers are compiled one by one where they are sharded: the hooks between them are not.
    """
    shape, parallel = recipe.model, recipe.parallel
    mesh = world.mesh(parallel.shard)
    with torch.device("meta"):
        model = Decoder(shape)
    for layer in model.model.layers:
        setattr(layer, "recompute", parallel.recompute)  # noqa: B010
    if mesh is not None:
        _cut(model, mesh, recipe)
    model.to_empty(device=world.device)
    if weights is None:
        model.init_weights(torch.Generator().manual_seed(recipe.train.seed))
    else:
        model.load(weights)
    if mesh is None and recipe.train.compile:
        model.compile()
    return model


def _cut(model: Decoder, mesh: DeviceMesh, recipe: Recipe) -> None:
    """Every layer, then the rest. Layers gather their weights as bf16 where they compute in it,
    embedding and head as fp32; gradients are summed in fp32."""
    bf16 = torch.bfloat16 if recipe.train.precision == "bf16" else None
    policy = MixedPrecisionPolicy(bf16, torch.float32, cast_forward_inputs=False)
    for layer in model.model.layers:
        if recipe.train.compile:
            layer.compile()
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh)


def place(tensor: Tensor) -> Place:
    """Where this process's part of a parameter lies."""
    shape = tuple(tensor.shape)
    if not isinstance(tensor, DTensor):
        rank = torch.distributed.get_rank() if _started() else 0
        return Place(shape, 0, shape[0] if shape else 1, rank == 0)
    *outer, inner = tensor.device_mesh.get_coordinate() or [0]
    share = -(-shape[0] // tensor.device_mesh.size(-1))  # rows, as torch.chunk cuts them
    first = min(inner * share, shape[0])
    return Place(shape, first, min(share, shape[0] - first), not any(outer))


def like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """This process's part as a distributed tensor cut as a parameter is; itself where none is."""
    if not isinstance(parameter, DTensor) or tensor.ndim == 0:
        return tensor
    return DTensor.from_local(
        tensor,
        parameter.device_mesh,
        parameter.placements,
        shape=parameter.shape,
        stride=parameter.stride(),
    )


def whole(tensor: Tensor, parameter: Tensor) -> Tensor:
    """All rows of what this process has a part of: every process has to ask."""
    found = like(tensor, parameter)
    return found.full_tensor() if isinstance(found, DTensor) else found


def _started() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
