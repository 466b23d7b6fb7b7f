"""`AnytimeAverages`: averages in Lightning's checkpoints, beside the raw weights.

averages = AnytimeAverages({"ema25": AnytimeEma(25)}, evaluate="ema25")
Trainer(max_steps=-1, callbacks=[averages]).fit(module, batches)

and in the module, a schedule that needs no length:

def configure_optimizers(self):
    optimizer = torch.optim.AdamW(self.parameters(), lr=3e-3)
    schedule = InverseSqrt(peak=3e-3, warmup=1000, offset=20_000)
    scheduler = {"scheduler": Scheduler(optimizer, schedule), "interval": "step"}
    return {"optimizer": optimizer, "lr_scheduler": scheduler}
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from anytrain import rules as rule_book
from anytrain.averaging import Averages, canonical_tensors
from anytrain.errors import nearest
from anytrain.integrations.pieces import part, whole
from anytrain.integrations.torch import Attached, attach
from anytrain.rules import Rule

Loss = Callable[[LightningModule, Any], Tensor]


class AnytimeAverages(Callback):
    """Averages that move with the optimizer's real steps and are saved with the raw weights.

    The raw weights are never replaced: a run that has ended can be gone on with, and a checkpoint
    loads into a Trainer without this callback. `evaluate` names the weights that validation and
    test see. With `loss`, the mean loss of a batch, every validation also measures the raw weights
    and each average on the validation batches, logged as val_loss/raw, val_loss/ema25, ….

    Of a sharded model (ModelParallelStrategy) each process averages its part; a checkpoint has
    whole tensors, so that another number of processes can go on.
    """

    def __init__(
        self,
        rules: Mapping[str, Rule | str] | None = None,
        *,
        evaluate: str = "raw",
        loss: Loss | None = None,
        every: int = 1,
        device: torch.device | str | None = None,
        optimizer: int = 0,
    ) -> None:
        """`optimizer` numbers the one whose steps count, where a module has several."""
        self.rules = rule_book.named(rules)
        if evaluate not in ("raw", *self.rules):
            raise ValueError(f"evaluate = {evaluate!r}{nearest(evaluate, ['raw', *self.rules])}")
        self.evaluate, self.loss = evaluate, loss
        self.every, self.device, self.number = every, device, optimizer
        self.averages: Averages | None = None  # from the first training step on
        self._saved: dict[str, Any] | None = None  # of a checkpoint, until there is a model for it
        self._follows: Attached | None = None
        self._shown = ExitStack()

    def applied(self, name: str) -> AbstractContextManager[torch.nn.Module]:
        """Inside, the module has the weights of one average; the raw ones return on every exit."""
        if self.averages is None:
            raise RuntimeError("there are no averages yet: they begin with the training")
        return self.averages.applied(name)

    # --- training ---------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin, or go on with what the checkpoint held; follow the optimizer."""
        averages = self._of(pl_module)
        if not 0 <= self.number < len(trainer.optimizers):
            raise ValueError(
                f"optimizer = {self.number}; the module has {len(trainer.optimizers)}, numbers "
                "from 0 are valid"
            )
        self._follows = attach(averages, trainer.optimizers[self.number])

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the optimizer go; the module keeps its raw weights."""
        self._let_go()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Put the raw weights back, wherever it happened."""
        self._shown.close()
        self._let_go()

    def _let_go(self) -> None:
        if self._follows is not None:
            self._follows.remove()
            self._follows = None

    def _of(self, module: LightningModule) -> Averages:
        """The averages of a module, begun where there are none."""
        if self.averages is None or self.averages.model is not module:
            self.averages = Averages(module, self.rules, self.every, self.device)
        if self._saved is not None:
            _load(self.averages, self._saved)
            self._saved = None
        return self.averages

    # --- checkpoints ------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Whole averages on the CPU and where they are; every process of a sharded model asks."""
        if self.averages is None:
            return self._saved or {}
        found = self.averages.state_dict()  # an error while an average is in the model
        return found | {"tensors": {name: whole(self.averages, name) for name in self.rules}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep what a checkpoint held until the model is there and has its weights."""
        if state_dict:
            rule_book.require_same(self.rules, state_dict["rules"], "the checkpoint")
        self._saved = state_dict or None

    # --- evaluation -------------------------------------------------------------------------------

    def _show(self, trainer: Trainer, module: LightningModule) -> None:
        if self.evaluate == "raw" or trainer.sanity_checking:
            return
        if self.averages is None and self._saved is None:
            raise RuntimeError(
                f"evaluate = {self.evaluate!r}, but there are no averages: train first, or name a "
                "checkpoint that has them by ckpt_path"
            )
        self._shown.enter_context(self._of(module).applied(self.evaluate))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the weights that are asked for."""
        self._show(trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the weights that are asked for."""
        self._show(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure all weights, where a loss was given; then the raw weights return."""
        self._shown.close()
        if self.loss is not None and not trainer.sanity_checking:
            averages = self._of(pl_module)
            for name in ("raw", *self.rules):
                with averages.applied(name):
                    mean = self._mean_loss(trainer, pl_module)
                pl_module.log(f"val_loss/{name}", mean, sync_dist=trainer.world_size > 1)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The raw weights return."""
        self._shown.close()

    def _mean_loss(self, trainer: Trainer, module: LightningModule) -> Tensor:
        """Over the batches that a validation has, each counting alike."""
        assert self.loss is not None
        losses = []
        loaders = trainer.val_dataloaders
        for number, loader in enumerate(loaders if isinstance(loaders, list) else [loaders]):
            for index, batch in enumerate(loader):
                if index >= trainer.num_val_batches[number]:
                    break
                moved = trainer.strategy.batch_to_device(batch, dataloader_idx=number)
                losses.append(self.loss(module, moved).detach().float())
        if not losses:
            raise ValueError("loss was given, and validation has no batches; a loader is needed")
        return torch.stack(losses).mean()


@torch.no_grad()
def _load(averages: Averages, saved: Mapping[str, Any]) -> None:
    """Restore whole tensors: of a sharded model every process takes its part."""
    model = canonical_tensors(averages.model)
    pieces = {}
    for name, tensors in saved["tensors"].items():
        for key, tensor in tensors.items():
            if key not in model or tensor.shape != model[key].shape:
                raise ValueError(
                    f"the checkpoint's average {name!r} has {key} of shape {tuple(tensor.shape)}, "
                    "which is not of this module"
                )
        pieces[name] = {key: part(tensor, model[key]) for key, tensor in tensors.items()}
    averages.load_state_dict({**saved, "tensors": pieces})
