"""Where metrics go beside metrics.jsonl: TensorBoard, Weights & Biases, when the recipe asks."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Protocol

from anytrain.errors import missing_extra
from anytrain.rundir import RunDir
from anytrain.training.config import Recipe


class Logger(Protocol):
    """Anything that takes metric records and can be closed."""

    def log(self, record: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Scalars under RUN/tensorboard, against the step."""

    def __init__(self, rundir: RunDir) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise missing_extra("tensorboard", "tensorboard", "log.tensorboard = true") from error
        self.writer: Any = SummaryWriter(str(rundir.path / "tensorboard"))

    def log(self, record: Mapping[str, Any]) -> None:
        for key, value in record.items():
            if key != "step" and isinstance(value, int | float):
                self.writer.add_scalar(key, value, record["step"])

    def close(self) -> None:
        self.writer.close()


class WeightsAndBiases:
    """One W&B run for each of ours, continued under the same id."""

    def __init__(self, rundir: RunDir, project: str) -> None:
        try:
            import wandb
        except ImportError as error:
            raise missing_extra("wandb", "wandb", f"log.wandb = {project!r}") from error
        self.run: Any = wandb.init(
            project=project,
            id=rundir.identity["id"],
            name=rundir.path.name,
            dir=str(rundir.path),
            config=rundir.recipe,
            resume="allow",
        )

    def log(self, record: Mapping[str, Any]) -> None:
        self.run.log({k: v for k, v in record.items() if k != "step"}, step=record["step"])

    def close(self) -> None:
        self.run.finish()


def check_loggers(recipe: Recipe) -> None:
    """Raise a UserError where a package that the recipe asks for is not installed."""
    for asked, package in ((recipe.log.tensorboard, "tensorboard"), (recipe.log.wandb, "wandb")):
        if asked and find_spec(package) is None:
            raise missing_extra(package, package, f"log.{package} = {asked!r}")


def loggers(recipe: Recipe, rundir: RunDir) -> list[Logger]:
    """What the recipe asks for; a package that is missing is a UserError with its pip command."""
    found: list[Logger] = []
    if recipe.log.tensorboard:
        found.append(TensorBoard(rundir))
    if recipe.log.wandb is not None:
        found.append(WeightsAndBiases(rundir, recipe.log.wandb))
    return found
