"""Lightning's Trainer without a horizon: averages in its checkpoints, raw weights at its end.

    python examples/lightning_run.py --out lightning

A decoder of 0.2M parameters learns the bytes of Python's own sources, for twice as long as was
first thought, in half a minute on one CPU thread.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from bare_loop import SHAPE, bytes_of
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from anytrain import AnytimeEma, InverseSqrt
from anytrain.integrations.lightning import AnytimeAverages
from anytrain.integrations.torch import Scheduler
from anytrain.models.decoder import Decoder
from anytrain.models.huggingface import write_directory


class Bytes(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.decoder = Decoder.seeded(SHAPE, 0)

    def loss(self, batch: list[Tensor]) -> Tensor:
        return self.decoder.loss(batch[0][:, :-1], batch[0][:, 1:])

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        return self.loss(batch)

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        """What `AnytimeAverages(loss=…)` measures is enough."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), betas=(0.9, 0.95))
        schedule = InverseSqrt(peak=5e-3, warmup=20, offset=100)
        scheduler = {"scheduler": Scheduler(optimizer, schedule), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}


def sitting(until: int, out: Path, checkpoint: Path | None) -> tuple[Trainer, AnytimeAverages]:
    """Train to `until` steps, from a checkpoint where there is one, and save at the end."""
    torch.manual_seed(until)
    rows = TensorDataset(bytes_of("argparse", "inspect", "typing"))
    batches = DataLoader(rows, batch_size=16, sampler=RandomSampler(rows, True, 16 * until))
    held_out = DataLoader(TensorDataset(bytes_of("csv")), batch_size=64)
    averages = AnytimeAverages(
        {"ema6": AnytimeEma(6), "ema12": AnytimeEma(12)}, loss=lambda m, batch: m.loss(batch)
    )
    trainer = Trainer(
        accelerator="cpu", max_epochs=-1, max_steps=until, callbacks=[averages], logger=False,
        val_check_interval=until // 2, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=out,
    )  # fmt: skip
    trainer.fit(Bytes(), batches, held_out, ckpt_path=checkpoint)
    trainer.save_checkpoint(out / f"step{until}.ckpt")
    return trainer, averages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("lightning"))
    parser.add_argument("--steps", type=int, default=160, help="of the first sitting")
    options = parser.parse_args()

    first, more = options.steps, 2 * options.steps
    sitting(first, options.out, None)
    trainer, averages = sitting(more, options.out, options.out / f"step{first}.ckpt")

    losses = {name: float(value) for name, value in trainer.callback_metrics.items()}
    best = min(losses, key=lambda name: losses[name]).removeprefix("val_loss/")
    with averages.applied(best) as module:
        write_directory(options.out / "released", SHAPE, module.decoder.state_dict())
    print("nats/byte:", ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items()))
    print(f"released {best} of step {trainer.global_step}")


if __name__ == "__main__":
    main()
