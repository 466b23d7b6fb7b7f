"""The mean loss on fixed batches as a function of a model's parameters, and vectors of their size.

A vector is one flat tensor, parameters one after another; of sharded parameters the part that is
here. Then curvature is linear algebra: `dot`, `norm` and an operator's `@`.
"""

import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import sqrt
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from anytrain.errors import UserError
from anytrain.models.cross_entropy import IGNORED, plain_cross_entropy
from anytrain.models.decoder import Decoder

_BLOCK = 2**18  # numbers that fp32 adds up to 1e-6


class Batch(NamedTuple):
    """Some sequences and what they should predict."""

    tokens: Tensor  # (B, T)
    targets: Tensor  # (B, T); -100 does not count

    @property
    def counted(self) -> int:
        """Targets that count."""
        return int((self.targets != IGNORED).sum())


@dataclass(frozen=True)
class Objective:
    """A loss, the parameters it depends on, and the batches it is a mean over.

    Raises UserError where a parameter is not fp32: rounding at bf16 is larger than curvature.
    """

    parameters: Mapping[str, Tensor]  # leaves; of FSDP2, its DTensors
    loss: Callable[[Batch], Tensor]  # mean over what counts in a batch, nats/token
    batches: Sequence[Batch]
    moved: Callable[[], None] = lambda: None  # called when the parameters have been set
    plain: Callable[[Batch], Tensor] | None = None  # the same loss, for derivatives of derivatives

    def __post_init__(self) -> None:
        for name, parameter in self.parameters.items():
            if parameter.dtype != torch.float32:
                raise UserError(
                    f"{name} is {str(parameter.dtype).removeprefix('torch.')}; curvature needs "
                    "float32 weights, as lower precision rounds it away"
                )
        if not self.batches or not all(batch.counted for batch in self.batches):
            raise UserError("no tokens to measure a loss on; batches with targets are valid")

    @classmethod
    def of_decoder(cls, model: Decoder, batches: Sequence[Batch]) -> "Objective":
        """The decoder's cross-entropy.

        The fused one makes the head's slopes on its way forward, which a second derivative has to
        make again: the plain one is 5% of a product faster, and the same number.
        """

        def plain(b: Batch) -> Tensor:
            hidden = model.model(b.tokens)  # (B, T, d)
            return plain_cross_entropy(hidden.flatten(0, 1), model.head, b.targets.flatten())

        parameters = dict(model.named_parameters())
        return cls(
            parameters, lambda b: model.loss(b.tokens, b.targets), batches,
            lambda: _let_go(model), plain,
        )  # fmt: skip

    def on(self, batches: Sequence[Batch]) -> "Objective":
        """The same loss on other batches."""
        return Objective(self.parameters, self.loss, batches, self.moved, self.plain)

    @property
    def shares(self) -> list[float]:
        """The weight of each batch in the mean over tokens."""
        counts = [batch.counted for batch in self.batches]
        return [count / sum(counts) for count in counts]

    # --- vectors --------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Numbers of a vector, here."""
        return sum(local(p).numel() for p in self.parameters.values())

    @property
    def dim(self) -> int:
        """Parameters of the whole model."""
        return sum(p.numel() for p in self.parameters.values())

    def flat(self, tensors: Sequence[Tensor | None]) -> Tensor:
        """One vector from a tensor a parameter; None is zeros."""
        pairs = zip(tensors, self.parameters.values(), strict=True)
        return torch.cat(
            [(torch.zeros_like(local(p)) if t is None else local(t)).reshape(-1) for t, p in pairs]
        )

    def split(self, vector: Tensor) -> list[Tensor]:
        """A vector as views of the shape of each (local) parameter."""
        shapes = [local(p) for p in self.parameters.values()]
        parts = vector.split([p.numel() for p in shapes])
        return [part.view(p.shape) for part, p in zip(parts, shapes, strict=True)]

    def weights(self) -> Tensor:
        """A copy of the parameters as a vector."""
        return self.flat([p.detach() for p in self.parameters.values()])

    def dot(self, a: Tensor, b: Tensor) -> float:
        """aᵀb over all shards, summed in fp64."""
        return float(self.summed(a.double() @ b.double()))

    def norm(self, a: Tensor) -> float:
        """‖a‖ over all shards, to 1e-6: fp32 by blocks, without a copy in fp64 as `dot` makes.

        Of numbers below 1e-19 it may be 0: their squares are below what fp32 holds.
        """
        squares = torch.stack([block.dot(block) for block in a.split(_BLOCK)])
        return sqrt(float(self.summed(squares.double().sum())))

    def summed(self, value: Tensor) -> Tensor:
        """The sum over the processes that hold one copy of the weights between them."""
        meshes = (getattr(p, "device_mesh", None) for p in self.parameters.values())
        mesh = next((mesh for mesh in meshes if mesh is not None), None)
        if mesh is not None:  # hybrid: replicas lie along its first dimension, shards its last
            dist.all_reduce(value, group=mesh.get_group(mesh.ndim - 1))
        return value

    @property
    def _sharded(self) -> bool:
        return any(hasattr(p, "to_local") for p in self.parameters.values())

    def probe(self, number: int, seed: int = 0) -> Tensor:
        """Independent signs ±1, the same for a number and a name however the weights are sharded.

        So the probes of two checkpoints are the same, and differences between them are paired.
        """
        return self._drawn(seed, number, "signs")

    def direction(self, number: int, seed: int = 0) -> Tensor:
        """Independent standard normal numbers, paired in the same way."""
        return self._drawn(seed, number, "normal")

    def _drawn(self, seed: int, number: int, kind: str) -> Tensor:
        parts: list[Tensor | None] = []
        for name, parameter in self.parameters.items():
            text = f"{seed}/{number}/{name}"
            key = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
            generator = torch.Generator().manual_seed(key)
            if kind == "signs":
                bits = torch.randint(0, 2, parameter.shape, generator=generator)
                value = bits.mul_(2).sub_(1).float()
            else:
                value = torch.randn(parameter.shape, generator=generator)
            parts.append(_as(value, parameter))
        return self.flat(parts)

    # --- the loss at other weights --------------------------------------------------------

    @contextmanager
    def displaced(self) -> Iterator[tuple[Tensor, Callable[[Tensor], None]]]:
        """The weights, and a function that sets them; on every exit they are as before, to the bit.

        What is restored is the vector that is given: it is not to be written to.

        with objective.displaced() as (here, put):
            put(here + step)
        """
        here = self.weights()
        try:
            yield here, self._put
        finally:
            self._put(here)

    @torch.no_grad()
    def _put(self, vector: Tensor) -> None:
        for parameter, value in zip(self.parameters.values(), self.split(vector), strict=True):
            local(parameter).copy_(value)
        self.moved()

    @torch.no_grad()
    def value(self) -> float:
        """The mean loss, nats/token."""
        pairs = zip(self.shares, self.batches, strict=True)
        return sum(share * self._whole(self.loss(batch)) for share, batch in pairs)

    def gradient(self) -> Tensor:
        """Of the mean loss, as a vector; through `backward`, as FSDP2 has no other way."""
        self._forget()
        try:
            for share, batch in zip(self.shares, self.batches, strict=True):
                (share * self.loss(batch)).backward()
            return self.flat([p.grad for p in self.parameters.values()])  # a copy
        finally:
            self._forget()

    def _forget(self) -> None:
        for parameter in self.parameters.values():
            parameter.grad = None

    def _whole(self, loss: Tensor) -> float:
        """Of several ranks, the mean: each has its own batches."""
        loss = loss.detach().clone()
        if self._sharded:
            dist.all_reduce(loss)
            loss /= dist.get_world_size()
        return float(loss)


def _let_go(model: Decoder) -> None:
    """Have FSDP2 gather parameters again: after a forward pass without a backward one it keeps
    the outermost module's, and would compute the next loss with what they were."""
    fsdp = sys.modules.get("torch.distributed.fsdp")  # a second to import, for who shards nothing
    if fsdp is None:
        return
    for module in model.modules():
        if isinstance(module, fsdp.FSDPModule):
            module.reshard()


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that is in this process."""
    part: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return part


def _as(value: Tensor, parameter: Tensor) -> Tensor:
    """A whole value, where and as far as the parameter is here."""
    if not hasattr(parameter, "to_local"):
        return value.to(parameter.device)
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(parameter, DTensor)
    mesh, placements = parameter.device_mesh, parameter.placements
    return distribute_tensor(value.to(parameter.device), mesh, placements, src_data_rank=None)
