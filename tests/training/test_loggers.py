"""Metrics reach each logger the recipe asks for, again after a restart; a failing one is left."""

import struct
import time
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from anytrain.errors import UserError
from anytrain.rundir import RunDir
from anytrain.training import loggers
from anytrain.training.loggers import LOGGERS, check_loggers, flat, numbers, title
from anytrain.training.shielded import LONGEST_PAUSE, Shielded
from anytrain.training.tables import Log
from tiny import cli, events, losses, recipe, write_recipe


@pytest.fixture
def rundir(tmp_path: Path, corpus: Path) -> RunDir:
    """A run, for its recipe and its id."""
    file = write_recipe(tmp_path / "r.toml", corpus)
    assert cli("train", file, "--run", tmp_path / "run", "--until", "1").code == 0
    return RunDir(tmp_path / "run")


def two_sittings(rundir: RunDir, name: str, value: Any) -> None:
    """Three records, a restart, one more."""
    first = LOGGERS[name](rundir, value, 0)
    first.log({"step": 1, "tokens": 64, "loss": 2.5, "eval_why": "units"})
    first.log({"step": 2, "tokens": 128, "loss": 2.25})
    first.log({"step": 2, "tokens": 128, "val/loss/ema25": 2.125})
    first.close()
    second = LOGGERS[name](rundir, value, 2)
    second.log({"step": 3, "tokens": 192, "loss": 2.0})
    second.close()


def test_every_logger_is_a_key_of_the_recipe_and_an_extra() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    for name in LOGGERS:
        assert name in Log.__dataclass_fields__
        assert name in project["optional-dependencies"]


def test_what_is_drawn() -> None:
    record = {"step": 3, "loss": 2.5, "tokens": 64, "eval_why": "units", "asked": True}
    assert numbers(record) == {"loss": 2.5, "tokens": 64}
    assert flat({"a": 1, "b": {"c": 2, "d": {"e": "f"}}}) == {"a": 1, "b.c": 2, "b.d.e": "f"}


# --- each with its real package --------------------------------------------------------------


def test_tensorboard_has_the_numbers(rundir: RunDir) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    two_sittings(rundir, "tensorboard", True)
    found = EventAccumulator(str(rundir.path / "tensorboard"))
    found.Reload()
    assert sorted(found.Tags()["scalars"]) == ["loss", "tokens", "val/loss/ema25"]
    assert [(e.step, e.value) for e in found.Scalars("loss")] == [(1, 2.5), (2, 2.25), (3, 2.0)]
    assert [(e.step, e.value) for e in found.Scalars("val/loss/ema25")] == [(2, 2.125)]


def test_tensorboard_hides_the_steps_that_are_taken_again(rundir: RunDir) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for start, values in ((0, {1: 9.0, 2: 8.0, 3: 7.0}), (1, {2: 6.0, 3: 5.0})):  # killed at 3
        logger = LOGGERS["tensorboard"](rundir, True, start)
        for step, value in values.items():
            logger.log({"step": step, "loss": value})
        logger.close()
    found = EventAccumulator(str(rundir.path / "tensorboard"))
    found.Reload()
    assert [(e.step, e.value) for e in found.Scalars("loss")] == [(1, 9.0), (2, 6.0), (3, 5.0)]


def test_trackio_continues_its_run(rundir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    trackio = pytest.importorskip("trackio", minversion="0.40")
    from trackio.sqlite_storage import SQLiteStorage

    project = f"anytrain-tests-{rundir.identity['id'][:8]}"  # its store is the user's
    monkeypatch.delenv("TRACKIO_SPACE_ID", raising=False)
    two_sittings(rundir, "trackio", project)
    try:
        (run,) = trackio.Api().runs(project)
        rows = SQLiteStorage.get_logs(project, run.name)
        assert run.name == title(rundir)
        found = [(row["step"], row["loss"]) for row in rows if "loss" in row]
        assert found == [(1, 2.5), (2, 2.25), (3, 2.0)]
        assert [row["val/loss/ema25"] for row in rows if "val/loss/ema25" in row] == [2.125]
    finally:
        trackio.delete_project(project, force=True)


def test_mlflow_continues_its_run(rundir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("MLFLOW_DISABLE_TELEMETRY", "MLFLOW_ALLOW_FILE_STORE"):
        monkeypatch.setenv(name, "")  # what the logger sets instead goes with the test
        monkeypatch.delenv(name)
    two_sittings(rundir, "mlflow", "mine")
    from mlflow.tracking import MlflowClient

    client = MlflowClient((rundir.path / "mlflow").as_uri())
    experiment = client.get_experiment_by_name("mine")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == (title(rundir), "FINISHED")
    assert (run.data.params["name"], run.data.params["train.batch"]) == ("tiny", "4")
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(1, 2.5), (2, 2.25), (3, 2.0)]


def wandb_records(file: Path) -> Iterator[bytes]:
    """The records of a .wandb file: LevelDB's log format after 7 bytes (':W&B', magic, version).

    Blocks of 32 KiB hold chunks of (crc32, length, type) and their bytes; types 1 to 4 are whole,
    first, middle, last. github.com/google/leveldb, doc/log_format.md
    """
    data, at, record = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


@pytest.mark.slow  # a service process of its own
def test_wandb_offline_continues_under_one_id(
    rundir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    two_sittings(rundir, "wandb", "mine")
    found: list[tuple[int, float]] = []
    name = rundir.identity["id"]
    files = sorted(rundir.path.glob(f"wandb/offline-run-*/run-{name}.wandb"))
    assert len(files) == 2
    for file in files:
        records: list[Any] = []
        until = time.monotonic() + 30  # its service writes the end a moment after `finish`
        while not any(r.HasField("exit") for r in records) and time.monotonic() < until:
            time.sleep(0.1)
            records = [wandb_internal_pb2.Record.FromString(r) for r in wandb_records(file)]
        for record in records:
            if record.run.run_id:
                assert (record.run.run_id, record.run.project) == (name, "mine")
            row = {i.key or "/".join(i.nested_key): i.value_json for i in record.history.item}
            if "loss" in row:
                found.append((int(row["_step"]), float(row["loss"])))
    assert found == [(1, 2.5), (2, 2.25), (3, 2.0)]


# --- what fails ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOGGERS)
def test_a_missing_package_says_how_to_get_it(
    name: str, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loggers, "find_spec", lambda package: None)
    value = "true" if name == "tensorboard" else "mine"
    with pytest.raises(UserError, match=rf"needs {name}: pip install 'anytrain\[{name}\]'"):
        check_loggers(recipe(corpus, f"log.{name}={value}"))


@pytest.mark.parametrize("name", ["wandb", "trackio", "mlflow"])
def test_an_empty_name_is_refused(name: str, corpus: Path) -> None:
    with pytest.raises(UserError, match=rf"log.{name} = ' '; the name of an? \w+ is valid"):
        recipe(corpus, log={name: " "})


class Flaky:
    """Takes records, but for those in `bad`."""

    def __init__(self, bad: set[int]) -> None:
        self.bad = bad
        self.taken: list[int] = []

    def log(self, record: Mapping[str, Any]) -> None:
        if record["step"] in self.bad:
            raise OSError("no route to host\nand a long story")
        self.taken.append(record["step"])

    def close(self) -> None:
        raise RuntimeError


def test_a_failure_is_said_once_and_tried_again_ever_more_rarely() -> None:
    said: list[tuple[str, str]] = []
    clock = [0.0]
    flaky = Flaky({2, 3})
    shielded = Shielded("wandb", lambda: flaky, lambda *why: said.append(why), lambda: clock[0])
    for step, now in ((1, 0), (2, 1), (3, 60), (3, 61), (4, 180), (5, 181), (6, 182)):
        clock[0] = now
        shielded.log({"step": step})
    shielded.close()
    # after 2 fails at 1 s nothing before 61 s; after 3 fails there, nothing before 181 s
    assert flaky.taken == [1, 5, 6]
    assert said == [("wandb", "failed at step 2: no route to host")]


def test_pauses_end_at_an_hour() -> None:
    clock = [0.0]
    flaky = Flaky(set(range(100)))
    shielded = Shielded("wandb", lambda: flaky, lambda *why: None, lambda: clock[0])
    for step in range(100):
        clock[0] = shielded.again
        shielded.log({"step": step})
    assert shielded.pause == LONGEST_PAUSE


def test_one_that_does_not_open_costs_nothing_but_a_line() -> None:
    said: list[tuple[str, str]] = []

    def opened() -> Flaky:
        raise ConnectionError

    shielded = Shielded("mlflow", opened, lambda *why: said.append(why))
    shielded.log({"step": 1})
    shielded.close()
    assert said == [("mlflow", "cannot be opened: ConnectionError")]


def test_a_run_goes_on_without_a_logger_that_fails(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LOGGERS, "tensorboard", lambda *arguments: Flaky({2}))
    file = write_recipe(tmp_path / "r.toml", corpus, log={"tensorboard": True})
    said = cli("train", file, "--run", tmp_path / "run", "--until", "4")
    assert (said.code, said.err.count("log.tensorboard failed at step 2: no route")) == (0, 1)
    (event,) = events(tmp_path / "run", "logger")
    assert (event["logger"], event["step"]) == ("tensorboard", 2)
    assert "no route to host" in event["why"]
    assert sorted(losses(tmp_path / "run")) == [1, 2, 3, 4]


def test_loggers_change_nothing_of_a_run(tmp_path: Path, corpus: Path) -> None:
    pytest.importorskip("tensorboard")
    pytest.importorskip("mlflow")
    table = {"log": {"tensorboard": True, "mlflow": "mine"}}
    for name, tables in (("with", table), ("without", {})):
        file = write_recipe(tmp_path / f"{name}.toml", corpus, **tables)
        assert cli("train", file, "--run", tmp_path / name, "--until", "3").code == 0
    assert losses(tmp_path / "with") == losses(tmp_path / "without")
    assert events(tmp_path / "with", "logger") == []


def test_the_page_sends_a_finished_run_to_a_logger(
    rundir: RunDir,
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    page = (Path(__file__).parents[2] / "docs" / "loggers.md").read_text(encoding="utf-8")
    code = page.split("```python\n")[1].split("```")[0].replace("runs/mine", str(rundir.path))
    exec(code, {})
    found = EventAccumulator(str(rundir.path / "tensorboard"))
    found.Reload()
    raw = [r["val/loss/raw"] for r in rundir.metrics() if "val/loss/raw" in r]
    assert [e.value for e in found.Scalars("val/loss/raw")] == pytest.approx(raw)
