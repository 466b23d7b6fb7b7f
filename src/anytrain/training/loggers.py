"""Where metrics go beside metrics.jsonl, when the recipe asks: one class a service.

Each is made with the run directory, the value of its key in `[log]`, and the step that training
goes on from; each continues what an earlier sitting of the same run began. docs/loggers.md
"""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from typing import Any

from anytrain.errors import missing_extra
from anytrain.rundir import RunDir
from anytrain.training.config import Recipe
from anytrain.training.shielded import Logger


def numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """What of a record can be drawn against the step; neither text nor the step itself."""
    return {
        key: value
        for key, value in record.items()
        if key != "step" and isinstance(value, int | float) and not isinstance(value, bool)
    }


def title(rundir: RunDir) -> str:
    """The directory's name and the beginning of the run's id: names of directories recur."""
    return f"{rundir.path.resolve().name}-{rundir.identity['id'][:8]}"


class TensorBoard:
    """Scalars under RUN/tensorboard, against the step.

    Steps that a killed sitting logged after its last checkpoint are taken again; the first event of
    a sitting tells TensorBoard to hide what an earlier one wrote from there on.
    """

    def __init__(self, rundir: RunDir, asked: bool, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = rundir.path / "tensorboard"
        purge = step + 1 if folder.exists() else None
        self.writer: Any = SummaryWriter(str(folder), purge_step=purge)

    def log(self, record: Mapping[str, Any]) -> None:
        for key, value in numbers(record).items():
            self.writer.add_scalar(key, value, record["step"])

    def close(self) -> None:
        self.writer.close()


class WeightsAndBiases:
    """One W&B run for each of ours, continued under the same id. Its files are under RUN/wandb.

    W&B keeps the first value of a step: what is taken again after a kill is the same bit for bit
    and is left out there.
    """

    def __init__(self, rundir: RunDir, project: str, step: int) -> None:
        import wandb

        self.run: Any = wandb.init(
            project=project,
            id=rundir.identity["id"],
            name=rundir.path.resolve().name,
            dir=str(rundir.path),
            config=rundir.recipe,
            resume="allow",
            settings=wandb.Settings(console="off"),  # the bar redraws itself: megabytes of it
        )

    def log(self, record: Mapping[str, Any]) -> None:
        self.run.log(numbers(record), step=record["step"])

    def close(self) -> None:
        self.run.finish()


class Trackio:
    """A run of a trackio project, in its own store on this machine or where TRACKIO_… say."""

    def __init__(self, rundir: RunDir, project: str, step: int) -> None:
        import trackio

        self.finish: Any = trackio.finish  # the run's own would leave it to be ended at exit again
        with contextlib.redirect_stdout(sys.stderr):  # ours is for what was asked of the verb
            self.run: Any = trackio.init(
                project=project,
                name=title(rundir),
                config=rundir.recipe,
                resume="allow",
                embed=False,
                auto_log_gpu=False,  # a thread of its own that samples the machine
                auto_log_cpu=False,
            )

    def log(self, record: Mapping[str, Any]) -> None:
        self.run.log(numbers(record), step=record["step"])

    def close(self) -> None:
        with contextlib.redirect_stdout(sys.stderr):
            self.finish()


class MLflow:
    """A run of an MLflow experiment: at MLFLOW_TRACKING_URI, or in files under RUN/mlflow.

    It is found again by its tag `anytrain.run`, our run's id.
    """

    def __init__(self, rundir: RunDir, experiment: str, step: int) -> None:
        # its telemetry reports what was imported and called to its makers; nobody asked for that
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        place = os.environ.get("MLFLOW_TRACKING_URI")
        if not place:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # refused without it
            place = (rundir.path.resolve() / "mlflow").as_uri()
        from mlflow.entities import Metric
        from mlflow.tracking import MlflowClient

        self.metric: Any = Metric
        self.client: Any = MlflowClient(place)
        self.id: str = self._found(rundir, experiment) or self._created(rundir, experiment)

    def _found(self, rundir: RunDir, experiment: str) -> str | None:
        known = self.client.get_experiment_by_name(experiment)
        if known is None:
            return None
        same = f"tags.`anytrain.run` = '{rundir.identity['id']}'"
        runs = self.client.search_runs([known.experiment_id], same, max_results=1)
        if not runs:
            return None
        self.client.update_run(runs[0].info.run_id, status="RUNNING")
        return str(runs[0].info.run_id)

    def _created(self, rundir: RunDir, experiment: str) -> str:
        known = self.client.get_experiment_by_name(experiment)
        where = known.experiment_id if known else self.client.create_experiment(experiment)
        tags = {"anytrain.run": rundir.identity["id"]}
        made = self.client.create_run(where, tags=tags, run_name=title(rundir)).info.run_id
        for key, value in flat(rundir.recipe).items():
            self.client.log_param(made, key, value)
        return str(made)

    def log(self, record: Mapping[str, Any]) -> None:
        now = time.time_ns() // 1_000_000  # milliseconds
        values = numbers(record).items()
        self.client.log_batch(
            self.id, [self.metric(key, value, now, record["step"]) for key, value in values]
        )

    def close(self) -> None:
        self.client.set_terminated(self.id)


def flat(table: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested tables as `key.path: value`, as settings are written on the command line."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{above}{key}.")
        else:
            found[f"{above}{key}"] = value
    return found


# key of [log], package and extra of anytrain, which have one name -> its class
LOGGERS: dict[str, Callable[[RunDir, Any, int], Logger]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "trackio": Trackio,
    "mlflow": MLflow,
}


def asked_for(recipe: Recipe) -> dict[str, Any]:
    """Name -> value of the loggers that the recipe asks for."""
    values = {name: getattr(recipe.log, name) for name in LOGGERS}
    return {name: value for name, value in values.items() if value}


def check_loggers(recipe: Recipe) -> None:
    """Raise a UserError where a package that the recipe asks for is not installed."""
    for name, value in asked_for(recipe).items():
        if find_spec(name) is None:
            raise missing_extra(name, name, f"log.{name} = {value!r}")


def openers(recipe: Recipe, rundir: RunDir, step: int) -> dict[str, Callable[[], Logger]]:
    """Name -> what opens it, for the loggers that the recipe asks for; nothing is opened yet."""
    asked = asked_for(recipe)
    return {name: partial(LOGGERS[name], rundir, value, step) for name, value in asked.items()}
