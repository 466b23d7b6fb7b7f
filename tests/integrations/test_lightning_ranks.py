"""Averages under Lightning's ModelParallelStrategy: FSDP2 in two real processes with gloo."""

import json
from pathlib import Path

import pytest

pytest.importorskip("lightning")

from ranks import Ranks

pytestmark = pytest.mark.slow

# argv: folder, checkpoint to go on from or "-", last step
CODE = """
import json, sys
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, TensorDataset
from anytrain import AnytimeEma, InverseSqrt
from anytrain.integrations.lightning import AnytimeAverages
from anytrain.integrations.torch import Scheduler

folder, checkpoint, last = sys.argv[1], sys.argv[2], int(sys.argv[3])

class Module(LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 5))
    def configure_model(self):
        fully_shard(self.net, mesh=self.device_mesh["data_parallel"])
    def loss(self, batch):
        return (self.net(batch[0]) - batch[0].flip(1)).square().mean()
    def training_step(self, batch, index):
        seed = 2 * self.trainer.global_step + self.trainer.global_rank  # the loader has no state
        return self.loss([torch.randn(2, 5, generator=torch.Generator().manual_seed(seed))])
    def validation_step(self, batch, index):
        self.log("val_loss", self.loss(batch), sync_dist=True)
    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=1.0)
        scheduler = Scheduler(optimizer, InverseSqrt(1e-2, warmup=4, offset=16))
        by_step = {"scheduler": scheduler, "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": by_step}

def loader(seed, count):
    x = torch.randn(count, 5, generator=torch.Generator().manual_seed(seed))
    return DataLoader(TensorDataset(x), batch_size=2)

averages = AnytimeAverages({"ema25": AnytimeEma(25), "ema5": AnytimeEma(5)}, evaluate="ema25",
                           loss=lambda module, batch: module.loss(batch))
trainer = Trainer(
    accelerator="cpu", devices=2, max_epochs=-1, max_steps=last, callbacks=[averages],
    strategy=ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1),
    logger=False, enable_progress_bar=False, enable_model_summary=False,
    enable_checkpointing=False, val_check_interval=8, default_root_dir=folder,
)
module = Module()
there = None if checkpoint == "-" else checkpoint
trainer.fit(module, loader(1, 32), loader(2, 8), ckpt_path=there)
trainer.save_checkpoint(f"{folder}/step{last}")
from anytrain.integrations.pieces import whole
sums = {}
for name in averages.rules:
    tensors = whole(averages.averages, name)
    sums[name] = {key: tensor.double().sum().item() for key, tensor in tensors.items()}
print(json.dumps({
    "t": averages.averages.t, "sums": sums,
    "metrics": {name: value.item() for name, value in trainer.callback_metrics.items()},
}))
"""


def test_sharded_in_two_processes(tmp_path: Path) -> None:
    """Stopped after an epoch and gone on from its checkpoint: the same averages to the bit."""
    said = {}
    for name, spans in (("whole", [("-", 16)]), ("cut", [("-", 8), ("step8", 16)])):
        folder = tmp_path / name
        for checkpoint, last in spans:
            there = checkpoint if checkpoint == "-" else folder / checkpoint
            ranks = Ranks(2, folder, there, last, code=CODE)
            assert ranks.wait() == [0, 0], ranks.err
        said[name] = [json.loads(out.splitlines()[-1]) for out in ranks.out]
    assert said["whole"] == said["cut"]
    first, second = said["whole"]
    assert first == second
    assert first["t"] == 16
    metrics = first["metrics"]
    assert metrics["val_loss"] == pytest.approx(metrics["val_loss/ema25"], rel=1e-5)
    assert len({metrics[f"val_loss/{name}"] for name in ("raw", "ema25", "ema5")}) == 3
