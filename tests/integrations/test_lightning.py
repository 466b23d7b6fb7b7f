"""Averages in Lightning's Trainer: in checkpoints, in validation; raw weights stay intact."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

pytest.importorskip("lightning")

from lightning.pytorch import Callback, LightningModule, Trainer

from anytrain import AnytimeEma, Averages, InverseSqrt, Uniform
from anytrain.integrations.lightning import AnytimeAverages
from anytrain.integrations.torch import Scheduler

RULES = {"ema25": AnytimeEma(25), "mean": Uniform()}
SCHEDULE = InverseSqrt(1e-2, warmup=4, offset=16)
QUIET: dict[str, Any] = {
    "accelerator": "cpu", "logger": False, "enable_progress_bar": False,
    "enable_model_summary": False, "max_epochs": -1,
}  # fmt: skip


class Module(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4))
        self.seen: list[float] = []

    def loss(self, batch: list[Tensor]) -> Tensor:
        (x,) = batch
        return (self.net(x) - x.flip(1)).square().mean()

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        """Data by the step: Lightning begins an epoch's loader again after a resume."""
        return self.loss(batch_of(self.trainer.global_step))

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        self.seen.append(self.loss(batch).item())
        self.log("val_loss", self.seen[-1])

    test_step = validation_step

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1.0)
        scheduler = {"scheduler": Scheduler(optimizer, SCHEDULE), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}


def batch_of(step: int) -> list[Tensor]:
    return [torch.randn(4, 4, generator=torch.Generator().manual_seed(step))]


def batches() -> DataLoader[Any]:
    """So many of an epoch; what is in them does not count."""
    return DataLoader(TensorDataset(torch.zeros(64, 4)), batch_size=4)


def held_out() -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.randn(4, 4, generator=torch.Generator().manual_seed(2))))


def fit(module: Module, steps: int, folder: Path, *callbacks: Callback, **more: Any) -> Trainer:
    options = {**QUIET, "default_root_dir": folder, "max_steps": steps, "callbacks": [*callbacks],
               "enable_checkpointing": False}  # fmt: skip
    checkpoint = more.pop("ckpt_path", None)
    loaders = more.pop("loaders", (batches(),))
    trainer = Trainer(**{**options, **more})
    trainer.fit(module, *loaders, ckpt_path=checkpoint)
    return trainer


def by_hand(steps: int, accumulate: int = 1) -> tuple[Module, Averages]:
    module = Module()
    (optimizer,) = [module.configure_optimizers()["optimizer"]]
    scheduler = Scheduler(optimizer, SCHEDULE)
    averages = Averages(module, RULES)
    for step in range(steps):
        for _ in range(accumulate):
            (module.loss(batch_of(step)) / accumulate).backward()
        optimizer.step()
        scheduler.step()
        averages.update()
        optimizer.zero_grad()
    return module, averages


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_they_are_what_a_loop_by_hand_has(accumulate: int, tmp_path: Path) -> None:
    """Rates, steps under accumulation, averages; and the module keeps its raw weights."""
    module, callback = Module(), AnytimeAverages(RULES)
    fit(module, 6, tmp_path, callback, accumulate_grad_batches=accumulate)
    other, expected = by_hand(6, accumulate)
    assert callback.averages is not None
    assert callback.averages.t == 6
    assert same(module.state_dict(), other.state_dict())
    for name, tensors in expected.tensors.items():
        assert same(callback.averages.tensors[name], tensors)


def test_a_run_goes_on_to_the_bit_and_past_its_end(tmp_path: Path) -> None:
    """Saved at 10, gone on with to 23: the same as never stopped; the file has both weights."""
    whole, kept = Module(), AnytimeAverages(RULES)
    fit(whole, 23, tmp_path, kept)
    first = Module()
    trainer = fit(first, 10, tmp_path, AnytimeAverages(RULES))
    trainer.save_checkpoint(tmp_path / "at10.ckpt")
    saved = torch.load(tmp_path / "at10.ckpt", weights_only=True)
    assert same(saved["state_dict"], first.state_dict())
    held = saved["callbacks"]["AnytimeAverages"]
    assert held["t"] == 10
    assert not same(held["tensors"]["mean"], saved["state_dict"])
    second, callback = Module(), AnytimeAverages(RULES)
    fit(second, 23, tmp_path, callback, ckpt_path=tmp_path / "at10.ckpt")
    assert same(second.state_dict(), whole.state_dict())
    assert callback.averages is not None
    assert kept.averages is not None
    for name, tensors in kept.averages.tensors.items():
        assert same(callback.averages.tensors[name], tensors)
    plain = Module()
    fit(plain, 18, tmp_path, ckpt_path=tmp_path / "at10.ckpt")  # without the callback


def test_other_averages_than_the_checkpoints_are_refused(tmp_path: Path) -> None:
    trainer = fit(Module(), 2, tmp_path, AnytimeAverages(RULES))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="the checkpoint holds averages"):
        fit(Module(), 4, tmp_path, AnytimeAverages({"mean": "uniform"}),
            ckpt_path=tmp_path / "a.ckpt")  # fmt: skip


def test_validation_sees_the_weights_that_are_named(tmp_path: Path) -> None:
    """And checkpoints that are written at its end hold the raw ones."""
    module, callback = Module(), AnytimeAverages(RULES, evaluate="mean")
    trainer = fit(module, 8, tmp_path, callback, loaders=(batches(), held_out()),
                  val_check_interval=8, enable_checkpointing=True,
                  num_sanity_val_steps=1)  # fmt: skip
    raw = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    sane, *seen = module.seen
    assert sane != seen[0]
    with callback.applied("mean"), torch.no_grad():
        assert seen == [module.loss(batch).item() for batch in held_out()]
    assert same(module.state_dict(), raw)
    assert trainer.checkpoint_callback is not None
    (path,) = tmp_path.rglob("*.ckpt")
    assert same(torch.load(path, weights_only=True)["state_dict"], raw)
    module.seen.clear()
    trainer.test(module, held_out(), verbose=False)
    assert module.seen == seen
    assert same(module.state_dict(), raw)
    again, other = Module(), AnytimeAverages(RULES, evaluate="mean")
    Trainer(**QUIET, callbacks=[other]).validate(again, held_out(), ckpt_path=path, verbose=False)
    assert again.seen == seen


def test_every_average_is_measured(tmp_path: Path) -> None:
    module = Module()
    callback = AnytimeAverages(RULES, loss=lambda m, batch: m.loss(batch))
    trainer = fit(module, 8, tmp_path, callback, loaders=(batches(), held_out()),
                  val_check_interval=8)  # fmt: skip
    for name in ("raw", *RULES):
        with callback.applied(name), torch.no_grad():
            losses = [module.loss(batch).item() for batch in held_out()]
        assert trainer.callback_metrics[f"val_loss/{name}"].item() == pytest.approx(
            sum(losses) / len(losses)
        )
    assert len({trainer.callback_metrics[f"val_loss/{name}"].item() for name in RULES}) == 2


def test_what_fails_in_validation_leaves_raw_weights(tmp_path: Path) -> None:
    class Fails(Module):
        def validation_step(self, batch: list[Tensor], index: int) -> None:
            raise KeyError("no such thing")

    module, callback = Fails(), AnytimeAverages(RULES, evaluate="mean")
    with pytest.raises(KeyError):
        fit(module, 8, tmp_path, callback, loaders=(batches(), held_out()), val_check_interval=8,
            num_sanity_val_steps=0)  # fmt: skip
    expected, _ = by_hand(8)
    assert same(module.state_dict(), expected.state_dict())
    assert callback.averages is not None
    assert callback.averages.active is None


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"evaluate": "ema26"}, "evaluate = 'ema26' .did you mean 'ema25'"),
        ({"rules": {"a": "nothing:x=1"}}, "nothing"),
    ],
)
def test_what_cannot_be(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        AnytimeAverages(**{"rules": RULES, **options})


def test_before_training_there_is_nothing_to_show(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="they begin with the training"):
        AnytimeAverages(RULES).applied("mean")
    callback = AnytimeAverages(RULES, evaluate="mean")
    with pytest.raises(RuntimeError, match="train first, or name a checkpoint"):
        Trainer(**QUIET, callbacks=[callback]).validate(Module(), held_out(), verbose=False)
    with pytest.raises(ValueError, match="optimizer = 3; the module has 1"):
        fit(Module(), 2, tmp_path, AnytimeAverages(RULES, optimizer=3))
    assert math.isfinite(SCHEDULE(1))
