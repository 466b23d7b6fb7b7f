"""Whether a recipe fits into the memory of its devices, and with which sharding. No torch."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from anytrain.errors import UserError
from anytrain.training.config import Recipe

FP32 = 4  # bytes
SIZES = {"kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
         "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}  # fmt: skip
LOGITS = 2**28  # at a time, on a GPU
SPARE = 0.1  # of a device's memory, for what allocators and libraries take


def byte_count(text: str, *, what: str) -> int:
    """Bytes from text such as 80GB or 24 GiB; a UserError that says what is valid."""
    found = re.fullmatch(rf"(\d+(?:\.\d+)?)\s*({'|'.join(SIZES)})", text.strip())
    if found is None or float(found[1]) <= 0:
        raise UserError(f"{what} {text!r} is no size; 80GB or 24GiB is valid")
    return round(float(found[1]) * SIZES[found[2]])


@dataclass(frozen=True)
class Memory:
    """Bytes on each device of one way to share the state. Computed, not measured."""

    shard: int  # processes that hold one copy of the state
    micro_batch: int  # sequences at once
    recompute: bool
    weights: int
    gradients: int
    optimizer: int
    averages: int
    gathered: int  # whole weights and gradients of what is being computed, where state is sharded
    activations: int

    @property
    def total(self) -> int:
        state = self.weights + self.gradients + self.optimizer + self.averages
        return state + self.gathered + self.activations

    def __str__(self) -> str:
        """The settings that make it so."""
        again = ", parallel.recompute = true" if self.recompute else ""
        return f"parallel.shard = {self.shard}, train.micro_batch = {self.micro_batch}{again}"


def memory(recipe: Recipe, shard: int, micro: int, recompute: bool, optimizer: int) -> Memory:
    """What a device holds when `shard` of them share the state; `optimizer` is the state of all."""
    shape, train = recipe.model, recipe.train
    share = ceil(shape.parameters / shard)
    item = 2 if train.precision == "bf16" else FP32
    layer = (shape.parameters - _outside(recipe)) // shape.layers
    whole = 2 * layer * (item + FP32) + 2 * FP32 * _outside(recipe)  # this layer and the next
    each = shape.activation_bytes_per_token(item)  # a token
    if recompute:  # of every layer its input, of one everything
        each = FP32 * shape.width * shape.layers + each / shape.layers
    offloaded = recipe.parallel.offload_averages
    return Memory(
        shard=shard,
        micro_batch=micro,
        recompute=recompute,
        weights=FP32 * share,
        gradients=FP32 * share,
        optimizer=ceil(optimizer / shard),
        averages=0 if offloaded else FP32 * share * recipe.running,
        gathered=whole if shard > 1 else 0,
        activations=round(each * train.context * micro) + shape.head_bytes(item, LOGITS),
    )


def _outside(recipe: Recipe) -> int:
    """Parameters of embedding, head and last norm, which are gathered together."""
    shape = recipe.model
    return shape.tokens * shape.width * (1 if shape.tied else 2) + shape.width


def ways(recipe: Recipe, devices: int, optimizer: int) -> Iterator[Memory]:
    """Ways to share, the one with the least communication and recomputation first."""
    batch = recipe.train.batch
    if batch % devices:
        raise UserError(f"train.batch = {batch} cannot be shared equally by {devices} devices")
    share = batch // devices
    micros = [n for n in range(share, 0, -1) if share % n == 0]
    if recipe.train.micro_batch is not None:
        micros = [n for n in micros if n <= recipe.train.micro_batch][:1]
    shards = [n for n in range(1, devices + 1) if devices % n == 0]
    if recipe.parallel.shard is not None:
        shards = [recipe.parallel.shard]
    for recompute in (False, True)[int(recipe.parallel.recompute) :]:
        for shard in shards:
            for micro in micros:
                yield memory(recipe, shard, micro, recompute, optimizer)


def fitting(recipe: Recipe, devices: int, room: int, optimizer: int) -> tuple[bool, Memory]:
    """The first way that leaves a tenth of `room` bytes free; else the smallest, and False."""
    smallest: Memory | None = None
    for way in ways(recipe, devices, optimizer):
        if way.total <= (1 - SPARE) * room:
            return True, way
        if smallest is None or way.total < smallest.total:
            smallest = way
    assert smallest is not None
    return False, smallest
