"""`TrainableAverages`: averages of what is trained, and none of what is frozen."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from anytrain.averaging import Averages, canonical_tensors
from anytrain.averaging.moves import local
from anytrain.rules import Rule


class TrainableAverages(Averages):
    """`Averages` that leave frozen parameters out, whose average is what they are.

    Fine-tuning a few adapters of a large model then keeps averages of the adapters alone. What is
    averaged is settled at the start; a parameter that is unfrozen later is a RuntimeError, for its
    average would lack what it was before.
    """

    def __init__(
        self,
        model: nn.Module,
        rules: Mapping[str, Rule] | None = None,
        every: int = 1,
        device: torch.device | str | None = None,
    ) -> None:
        self.names = frozenset(
            name
            for name, tensor in canonical_tensors(model).items()
            if tensor.requires_grad or not isinstance(tensor, nn.Parameter)
        )
        super().__init__(model, rules, every, device)

    def live(self) -> dict[str, Tensor]:
        """The trained parameters and the buffers, of sharded ones what is here."""
        found = {}
        for name, tensor in canonical_tensors(self.model).items():
            if name in self.names:
                found[name] = local(tensor)
            elif tensor.requires_grad:
                raise RuntimeError(
                    f"{name} was frozen when its averages began and is trained now; what is ever "
                    "to be trained has to be unfrozen at the start"
                )
        return found
