"""Metrics reach TensorBoard and W&B when the recipe asks; a missing package says how to get it."""

import builtins
from pathlib import Path
from typing import Any

import pytest

from anytrain.errors import UserError
from anytrain.rundir import RunDir
from anytrain.training.loggers import TensorBoard, WeightsAndBiases


def test_tensorboard_has_the_numbers(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoard(RunDir(tmp_path))
    logger.log({"step": 3, "loss": 2.5, "eval_why": "units"})
    logger.log({"step": 4, "val/loss/ema25": 2.25})
    logger.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert sorted(events.Tags()["scalars"]) == ["loss", "val/loss/ema25"]
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(3, 2.5)]
    assert [(e.step, e.value) for e in events.Scalars("val/loss/ema25")] == [(4, 2.25)]


@pytest.mark.parametrize("package", ["tensorboard", "wandb"])
def test_a_missing_package_says_how_to_get_it(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith((package, "torch.utils.tensorboard")):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=rf"needs {package}: pip install 'anytrain\[{package}\]'"):
        TensorBoard(RunDir(tmp_path)) if package == "tensorboard" else WeightsAndBiases(
            RunDir(tmp_path), "mine"
        )
