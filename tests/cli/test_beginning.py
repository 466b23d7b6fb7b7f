"""What is refused before a run exists, and what readers do about a damaged checkpoint."""

import os
import signal
from pathlib import Path

import pytest

from anytrain.rundir import RunDir
from anytrain.training import start
from anytrain.training.stopping import Interrupted, Stop
from tiny import at, cli, events, steps_kept


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


def test_a_logger_that_is_not_installed_leaves_no_run(
    recipe_file: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anytrain.training.loggers.find_spec", lambda package: None)
    said = cli("train", recipe_file, "--run", run, "--for", "1-steps", "log.wandb=mine")
    assert (said.code, "pip install 'anytrain[wandb]'" in said.err) == (2, True)
    assert not (run / "run.json").exists()
    assert cli("train", recipe_file, "--run", run, "--for", "1-steps").code == 0


def test_weights_to_begin_with_decide_the_shape(recipe_file: Path, run: Path) -> None:
    assert cli("train", recipe_file, "--run", run, "--until", "2").code == 0
    other = run.with_name("other")
    arguments = ("train", recipe_file, "--run", other, "--from", run, "--until", "1")
    refused = cli(*arguments, "model.width=64")
    assert (refused.code, "has the shape of those weights" in refused.err) == (2, True)
    assert cli(*arguments).code == 0
    again = cli(*arguments[:-2], "--until", "2")
    assert (again.code, "is a run already, begun from" in again.err) == (2, True)


def test_data_that_are_not_there_are_an_error(
    tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = cli("train", "demo", "--run", run, "data.path=nowhere", "--for", "1-steps")
    assert (said.code, "nowhere" in said.err) == (2, True)
    assert not (tmp_path / "nowhere").exists()
    assert not run.exists()


def test_readers_pass_over_a_truncated_newest_checkpoint(recipe_file: Path, run: Path) -> None:
    until = ("train", recipe_file, "--run", run, "--until", "4", "checkpoint.at=[2]")
    assert cli(*until).code == 0
    file = next(at(run, 4).path.glob("*.safetensors"))
    os.truncate(file, file.stat().st_size // 2)
    assert RunDir(run).find("latest").step == 2
    said = cli("release", f"{run}:raw", "--out", run.with_name("model"))
    assert (said.code, "@2:raw" in said.out) == (0, True)
    named = cli("release", f"{run}@4:raw", "--out", run.with_name("other"))
    assert (named.code, file.name in named.err) == (2, True)
    assert steps_kept(run) == [2, 4]


def test_a_wrong_argument_is_one_sentence() -> None:
    for arguments in (("release", "a", "--out", "b", "--dtype", "int8"), ("status",)):
        said = cli(*arguments)
        assert said.code == 2
        assert len(said.err.strip().splitlines()) == 1
        assert f"anytrain {arguments[0]} --help" in said.err


def test_a_signal_before_the_first_step_ends_at_once(
    recipe_file: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = start.open_data

    def preempted(*arguments: object, **more: object) -> object:
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(start, "open_data", preempted)
    said = cli("train", recipe_file, "--run", run, "--preempted-exit-code", "7")
    assert (said.code, "stopped by SIGTERM before the first step" in said.err) == (7, True)
    assert not run.exists()


def test_listening_gives_the_handlers_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="SIGTERM"), Stop().listening():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


def test_t_does_not_drift_when_the_ratio_has_no_exact_binary_form(
    recipe_file: Path, run: Path
) -> None:
    settings = ("train.batch=2", "train.reference_batch=6", "train.micro_batch=2")
    assert cli("train", recipe_file, "--run", run, "--until", "30", *settings).code == 0
    assert at(run, 30).manifest["t"] == 10.0
    averages = at(run, 30).state["averages"]
    assert averages["t"] == 10.0


def test_a_stop_is_recorded_before_the_last_evaluation(
    recipe_file: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("anytrain.training.sitting.evaluate", killed)
    settings = ("evaluate.per_decade=0", "unit=1B-tokens")
    said = cli("train", recipe_file, "--run", run, "--until", "3", *settings)
    assert said.code == 130
    assert events(run, "stop")[0]["by"] == "--until 3-steps"
    assert steps_kept(run) == [3]
