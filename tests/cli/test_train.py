"""`anytrain train`: beginning, stopping, going on, and everything that can go wrong on the way."""

import errno
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from anytrain.rundir import RunDir
from anytrain.training import checkpoint, loop
from anytrain.training.sitting import Sitting
from tiny import (
    at,
    cli,
    differing,
    evaluations,
    events,
    losses,
    saved_bits,
    steps_kept,
    write_recipe,
)


@pytest.fixture
def toml(recipe_file: Path) -> Path:
    return recipe_file


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


def steps(run: Path) -> int:
    return max(losses(run), default=0)


# --- how long --------------------------------------------------------------------------------


def test_for_counts_from_here_and_until_from_the_start(toml: Path, run: Path) -> None:
    assert cli("train", toml, "--run", run, "--for", "3-steps").code == 0
    assert cli("train", "--run", run, "--for", "2-steps").code == 0
    assert steps(run) == 5
    assert cli("train", "--run", run, "--for", "64-tokens").code == 0
    assert steps(run) == 6
    assert cli("train", "--run", run, "--until", "10").code == 0
    assert steps(run) == 10
    assert cli("train", "--run", run, "--until", "705-tokens").code == 0
    assert steps(run) == 12  # the first step that reaches 705 tokens
    assert [e["by"] for e in events(run, "stop")] == [
        "--for 3-steps", "--for 2-steps", "--for 64-tokens", "--until 10-steps",
        "--until 705-tokens"]  # fmt: skip


def test_until_is_safe_in_a_job_that_is_requeued(toml: Path, run: Path) -> None:
    """The same command again: a run that is there already takes no step."""
    again = ("train", toml, "--run", run, "--until", "6")
    assert cli(*again).code == 0
    before = saved_bits(run, 6)
    metrics = (run / "metrics.jsonl").read_bytes()
    said = cli(*again)
    assert said.code == 0
    assert "stopped by --until 6-steps at step 6" in said.err
    assert steps_kept(run)[-1] == steps(run) == 6
    assert differing(saved_bits(run, 6), before) == []
    kept = [r for r in metrics.splitlines() if b'"loss"' in r]
    assert [r for r in (run / "metrics.jsonl").read_bytes().splitlines() if b'"loss"' in r] == kept


def test_for_a_time(toml: Path, run: Path) -> None:
    began = time.monotonic()
    assert cli("train", toml, "--run", run, "--for", "1s").code == 0
    assert 0.5 < time.monotonic() - began < 60
    assert steps(run) > 0
    assert events(run, "stop")[-1]["by"] == "--for 1s"


def test_a_bare_number_of_steps_is_refused(toml: Path, run: Path) -> None:
    said = cli("train", toml, "--run", run, "--for", "20")
    assert (said.code, "--for '20' has no unit" in said.err) == (2, True)
    said = cli("train", toml, "--run", run, "--until", "10min")
    assert (said.code, "--until 10min is a time" in said.err) == (2, True)
    assert not run.exists()


def test_without_either_it_has_no_end(
    toml: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sitting, "_log_step", ending(Sitting._log_step, 40, signal.SIGTERM))
    assert cli("train", toml, "--run", run).code == 0
    assert steps(run) == 40


# --- beginning and going on ------------------------------------------------------------------


def test_continue_without_a_recipe(toml: Path, run: Path) -> None:
    said = cli("train", "--run", run, "--for", "1-steps")
    assert (said.code, f"{run} is not a run; name a recipe" in said.err) == (2, True)
    assert not run.exists()
    assert cli("train", toml, "--run", run, "--for", "1-steps").code == 0
    said = cli("train", "--run", run, "--for", "1-steps")
    assert (said.code, "going on from step 1, 64 tokens" in said.err) == (0, True)
    assert steps(run) == 2


def test_new(toml: Path, run: Path) -> None:
    assert cli("train", toml, "--run", run, "--new", "--for", "1-steps").code == 0
    said = cli("train", toml, "--run", run, "--new", "--for", "1-steps")
    assert (said.code, "is a run already" in said.err) == (2, True)
    assert steps(run) == 1


def test_nothing_to_train(run: Path) -> None:
    assert "needs a recipe" in cli("train").err
    said = cli("train", "no_such_recipe", "--run", run)
    assert (said.code, "neither a file nor a shipped recipe" in said.err) == (2, True)
    assert not run.exists()


def test_a_directory_that_is_something_else(toml: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("x")
    said = cli("train", toml, "--run", tmp_path / "thesis")
    assert (said.code, "is not a run and not empty" in said.err) == (2, True)
    said = cli("train", toml, "--run", toml)
    assert (said.code, len(said.err.splitlines())) == (2, 1)


WRONG = {
    "train.bacth=8": "did you mean 'batch'",
    "train.batch=x": "train.batch = 'x'",
    "model.vocab=100": "model.vocab = 100 is smaller than the corpus's vocabulary of 280",
    "train.context=100000": "less than one sequence of 100000",
    "data.path=/no/such/corpus": "/no/such/corpus",
    "evaluate.tokens=5-tokens": "less than one sequence",
}


@pytest.mark.parametrize("setting", WRONG)
def test_wrong_input_writes_nothing(setting: str, toml: Path, run: Path) -> None:
    said = cli("train", toml, "--run", run, "--for", "1-steps", setting)
    assert said.code == 2
    assert WRONG[setting] in said.err
    assert said.err.startswith("anytrain: ")
    assert len(said.err.splitlines()) == 1
    assert not (run / "run.json").exists()
    assert not run.exists() or not [p for p in run.iterdir() if p.name != "lock"]


def test_a_recipe_records_what_was_decided(toml: Path, run: Path) -> None:
    assert cli("train", toml, "--run", run, "--for", "1-steps").code == 0
    found = RunDir(run)
    assert found.recipe["model"]["vocab"] == 280
    assert found.recipe["train"]["compile"] is False
    assert found.identity["decisions"] == {
        "micro_batch": 4, "compile": False, "device": "cpu",
        "threads": torch.get_num_threads()}  # fmt: skip


# --- the recipe on resume --------------------------------------------------------------------

MAY_CHANGE = [
    "averages.late=uniform", "log.every=2", "evaluate.per_decade=3", "checkpoint.newest=5",
    "checkpoint.every=5-steps", "name=other", "unit=100-steps",
]  # fmt: skip
NEEDS_A_FORK = [
    "schedule.peak=3e-3", "optimizer.weight_decay=0.1", "optimizer.kind=sgd", "train.seed=5",
    "train.clip=0.5", "model.layers=2", "train.context=8", "train.micro_batch=2",
    "data.document_mask=true", "train.precision=bf16", "train.deterministic=false",
    "train.reference_batch=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """A run of two steps that tests copy."""
    folder = tmp_path_factory.mktemp("begun")
    recipe = write_recipe(folder / "r.toml", corpus)
    assert cli("train", recipe, "--run", folder / "run", "--for", "2-steps").code == 0
    return folder / "run"


@pytest.fixture
def copied(begun: Path, run: Path) -> Path:
    import shutil

    return Path(shutil.copytree(begun, run))


@pytest.mark.parametrize("setting", MAY_CHANGE)
def test_what_may_change_on_resume(setting: str, copied: Path) -> None:
    assert cli("train", "--run", copied, "--for", "2-steps", setting).code == 0
    assert list(losses(copied))[-1] == 4
    change = events(copied, "changed")
    assert len(change) == 1
    assert list(change[0]["settings"]) == [setting.split("=")[0]]
    assert (change[0]["step"], change[0]["tokens"]) == (2, 128)
    assert cli("train", "--run", copied, "--for", "1-steps").code == 0  # and it stays
    assert len(events(copied, "changed")) == 1


@pytest.mark.parametrize("setting", NEEDS_A_FORK)
def test_what_needs_a_fork(setting: str, copied: Path) -> None:
    before = (copied / "recipe.toml").read_bytes()
    said = cli("train", "--run", copied, "--for", "2-steps", setting)
    assert said.code == 2
    key = setting.split("=")[0]
    assert key.split(".")[0] in said.err
    if key.startswith(("model.", "train.context")):
        assert "begin another run, with --from to keep the weights" in said.err
    else:
        assert "anything else needs a fork: anytrain fork" in said.err
        assert "averages, log, evaluate, checkpoint" in said.err
    assert (copied / "recipe.toml").read_bytes() == before
    assert steps(copied) == 2


def test_the_recipe_again_is_compared(toml: Path, run: Path, corpus: Path) -> None:
    assert cli("train", toml, "--run", run, "--for", "2-steps").code == 0
    assert cli("train", toml, "--run", run, "--for", "1-steps").code == 0
    write_recipe(toml, corpus, schedule="constant:peak=1e-3")
    said = cli("train", toml, "--run", run, "--for", "1-steps")
    assert (said.code, "schedule = 'constant:peak=1e-3' (was" in said.err) == (2, True)
    assert steps(run) == 3


def test_a_change_of_batch_is_recorded_and_t_goes_by_the_ratio(copied: Path) -> None:
    sizes = ("train.batch=8", "train.micro_batch=4")
    assert cli("train", "--run", copied, "--for", "3-steps", sizes[0]).code == 0
    change = events(copied, "changed")[0]
    assert change["settings"]["train.batch"] == [4, 8]
    assert RunDir(copied).recipe["train"]["reference_batch"] == 4
    assert cli("train", "--run", copied, "--for", "2-steps", "train.batch=4").code == 0
    records = [r for r in RunDir(copied).metrics() if "loss" in r]
    assert [r["t"] for r in records] == [1, 2, 4, 6, 8, 9, 10]
    assert [r["tokens"] // 64 for r in records] == [1, 2, 4, 6, 8, 9, 10]
    # the schedule and the averages read t, not the number of steps
    schedule = lambda t: 1e-2 * (t / 4 if t < 4 else (16 / (t + 12)) ** 0.5)  # noqa: E731
    assert [r["lr"] for r in records] == pytest.approx([schedule(r["t"]) for r in records])
    assert at(copied, 7).state["averages"]["t"] == 10
    assert at(copied, 7).state["clock"] == {"step": 7, "t": 10.0, "tokens": 640, "samples": 40}


def test_an_average_added_on_resume_is_labelled(copied: Path) -> None:
    assert cli("train", "--run", copied, "--for", "3-steps", "averages.late=uniform").code == 0
    found = RunDir(copied).identity["averages"]
    assert {name: entry["since"] for name, entry in found.items()} == {
        "ema25": 0, "uniform": 0, "late": 2}  # fmt: skip
    state = at(copied, 5).state["averages"]
    assert state["since"]["late"] == 2
    assert "late" in at(copied, 5).weights
    assert "val/loss/late" in evaluations(copied)[-1]
    # gone again, and begun anew under the same name with another rule
    settings = ("averages={uniform='uniform', late='anytime_ema:f=2'}",)
    assert cli("train", "--run", copied, "--for", "1-steps", *settings).code == 0
    state = at(copied, 6).state["averages"]
    assert state["since"] == {"uniform": 0, "late": 5}
    assert at(copied, 6).weights == ["raw", "uniform", "late"]


def test_averages_do_not_touch_the_trajectory(copied: Path, begun: Path, tmp_path: Path) -> None:
    import shutil

    plain = Path(shutil.copytree(begun, tmp_path / "plain"))
    assert cli("train", "--run", plain, "--until", "6").code == 0
    assert cli("train", "--run", copied, "--until", "6", "averages={x='ema:half_life=2-steps'}",
               "evaluate.per_decade=100").code == 0  # fmt: skip
    ours = {n: b for n, b in saved_bits(copied, 6).items() if n.startswith(("raw/", "optim"))}
    theirs = {n: b for n, b in saved_bits(plain, 6).items() if n.startswith(("raw/", "optim"))}
    assert differing(ours, theirs) == []


def test_another_number_of_threads_is_said(copied: Path) -> None:
    identity = json.loads((copied / "run.json").read_text())
    identity["decisions"]["threads"] = 77
    identity["versions"]["torch"] = "1.0"
    (copied / "run.json").write_text(json.dumps(identity))
    said = cli("train", "--run", copied, "--for", "1-steps")
    assert said.code == 0
    assert "the run began with 77: going on, but not bit for bit" in said.err
    assert "the run began with 1.0" in said.err


# --- what a run leaves -----------------------------------------------------------------------


def test_every_evaluation_has_raw_and_every_average(toml: Path, run: Path) -> None:
    settings = ("evaluate.at=[3, 7]", "averages.third=polynomial:p=3")
    assert cli("train", toml, "--run", run, "--for", "11-steps", *settings).code == 0
    found = evaluations(run)
    assert {r["eval_why"] for r in found} == {"spaced", "asked", "units", "stop"}
    by_step = {r["step"]: r for r in found}
    assert by_step[3]["eval_why"] == by_step[7]["eval_why"] == "asked"
    assert by_step[8]["eval_why"] == "units"
    assert by_step[11]["eval_why"] == "stop"
    for record in (by_step[3], by_step[8], by_step[11]):
        for name in ("raw", "ema25", "uniform", "third"):
            assert 0 < record[f"val/loss/{name}"] < 10
            assert 0 < record[f"val/stderr/{name}"] < 1
        assert record["val/tokens"] == 512


def test_schedule_free_is_reported(toml: Path, run: Path) -> None:
    free = ("optimizer.kind=schedule_free", "optimizer.beta2=0.99")
    assert cli("train", toml, "--run", run, "--for", "6-steps", *free).code == 0
    record = evaluations(run)[-1]
    assert record["val/loss/schedule_free"] != record["val/loss/raw"]
    assert at(run, 6).weights == ["raw", "schedule_free", "ema25", "uniform"]


def test_evaluation_leaves_the_live_weights_alone(toml: Path, tmp_path: Path) -> None:
    """However often it evaluates, every bit of the state is the same."""
    for kind in ("adamw", "schedule_free"):
        often, never = tmp_path / f"{kind}-often", tmp_path / f"{kind}-never"
        kind_ = f"optimizer.kind={kind}"
        assert cli("train", toml, "--run", often, "--until", "9", kind_,
                   "evaluate.every=1-steps", "evaluate.share=1").code == 0  # fmt: skip
        assert cli("train", toml, "--run", never, "--until", "9", kind_,
                   "evaluate.per_decade=0", "unit=1T-tokens").code == 0  # fmt: skip
        steps = [record["step"] for record in evaluations(often)]
        assert sorted(set(steps)) == list(range(1, 10))  # the last twice, where time was short
        assert len(evaluations(never)) == 1
        without = ("recipe",)
        assert differing(saved_bits(often, 9, without), saved_bits(never, 9, without)) == []


def test_capped_evaluations(toml: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the share of time spent, log-spaced moments wait; units and stops never do."""
    from anytrain.training.stopwatch import Stopwatch

    monkeypatch.setattr(Stopwatch, "affordable", lambda self, share: 0.0)
    assert cli("train", toml, "--run", run, "--until", "9").code == 0
    assert [(r["step"], r["eval_why"]) for r in evaluations(run)] == [(8, "units"), (9, "stop")]
    assert all("val/loss/uniform" in r for r in evaluations(run))
    monkeypatch.setattr(Stopwatch, "affordable", lambda self, share: 2.0)
    assert cli("train", "--run", run, "--until", "10").code == 0
    spaced, stop = evaluations(run)[-2:]
    assert [r["step"] for r in (spaced, stop)] == [10, 10]
    assert (spaced["eval_why"], stop["eval_why"]) == ("spaced", "stop")
    assert "val/loss/uniform" in stop  # where training stops nothing is left out
    assert len([key for key in spaced if key.startswith("val/loss/")]) <= 2
    assert "val/loss/raw" in spaced


def test_retention(toml: Path, run: Path) -> None:
    """The newest two, 2^k units, 90% of them, and what was asked for."""
    settings = ("checkpoint.every=1-steps", "checkpoint.at=[5]", "unit=10-steps")
    assert cli("train", toml, "--run", run, "--until", "45", *settings).code == 0
    assert steps_kept(run) == [5, 9, 10, 18, 20, 36, 40, 44, 45]


def test_retention_after_a_smaller_batch(toml: Path, run: Path) -> None:
    """A checkpoint that stays, stays: whatever the batch is by then."""
    settings = ("train.batch=8", "unit=100-tokens", "checkpoint.newest=1")
    assert cli("train", toml, "--run", run, "--until", "4", *settings).code == 0
    before = steps_kept(run)
    assert before == [1, 2, 3, 4]
    assert cli("train", "--run", run, "--until", "7", "train.batch=4").code == 0
    assert set(before) <= set(steps_kept(run))


def test_a_disk_cap(toml: Path, run: Path) -> None:
    assert cli("train", toml, "--run", run, "--until", "8", "unit=1-steps",
               "checkpoint.newest=1").code == 0  # fmt: skip
    assert steps_kept(run) == [1, 2, 4, 8]
    size = at(run, 8).bytes
    said = cli("train", "--run", run, "--until", "17", f"checkpoint.disk={int(2.5 * size)}")
    assert said.code == 0
    assert len(steps_kept(run)) == 2
    assert steps_kept(run)[-1] == 17
    assert "removing the checkpoint of step 1" in said.err
    said = cli("train", "--run", run, "--until", "18", "checkpoint.disk=1")
    assert steps_kept(run) == [18]  # the last one is never removed


def test_a_pinned_checkpoint_survives_a_live_run(toml: Path, run: Path) -> None:
    settings = ("checkpoint.every=1-steps", "checkpoint.newest=1", "unit=1T-tokens")
    assert cli("train", toml, "--run", run, "--until", "2", *settings).code == 0
    with at(run, 2).pinned() as kept:
        assert cli("train", "--run", run, "--until", "5").code == 0
        assert steps_kept(run) == [2, 5]
        kept.verify()
    assert cli("train", "--run", run, "--until", "6").code == 0
    assert steps_kept(run) == [6]


def test_start_from_weights(toml: Path, run: Path, tmp_path: Path) -> None:
    assert cli("train", toml, "--run", run, "--until", "6").code == 0
    child = tmp_path / "child"
    for name in ("raw", "uniform"):
        path = child.with_name(f"child-{name}")
        assert cli("train", toml, "--run", path, "--from", f"{run}@6:{name}", "--until", "1",
                   "schedule=constant:peak=1e-30", "checkpoint.at=[1]").code == 0  # fmt: skip
        assert evaluations(path)[0]["val/loss/raw"] == pytest.approx(
            evaluations(run)[-1][f"val/loss/{name}"], rel=1e-6
        )
    said = cli("train", toml, "--run", child, "--from", f"{run}:unifrom", "--until", "1")
    assert (said.code, "did you mean 'uniform'" in said.err) == (2, True)


# --- signals ---------------------------------------------------------------------------------


def ending(method: Callable[..., Any], step: int, *signals: int) -> Callable[..., Any]:
    """The method, and at one step the process hears signals as if from outside."""

    def with_signal(self: Any, record: Any) -> Any:
        found = method(self, record)
        if record.step == step:
            for number in signals:
                os.kill(os.getpid(), number)
                time.sleep(0.01)
        return found

    return with_signal


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
@pytest.mark.parametrize("code", [0, 75])
def test_a_signal_ends_after_the_step(
    name: str, code: int, toml: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = getattr(signal, name)
    before = signal.getsignal(number)
    monkeypatch.setattr(Sitting, "_log_step", ending(Sitting._log_step, 3, number))
    extra = ("--preempted-exit-code", str(code)) if code else ()
    said = cli("train", toml, "--run", run, "--until", "50", *extra)
    assert said.code == code
    assert f"stopped by {name} at step 3" in said.err
    assert (steps_kept(run)[-1], steps(run)) == (3, 3)
    assert events(run, "stop")[-1]["by"] == name
    assert evaluations(run)[-1]["step"] == 3
    assert signal.getsignal(number) == before


def test_an_end_that_was_asked_for_is_no_preemption(toml: Path, run: Path) -> None:
    said = cli("train", toml, "--run", run, "--until", "2", "--preempted-exit-code", "75")
    assert said.code == 0


def test_a_second_sigint_stops_at_once(
    toml: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = (signal.SIGINT, signal.SIGINT)
    monkeypatch.setattr(Sitting, "_log_step", ending(Sitting._log_step, 3, *both))
    said = cli("train", toml, "--run", run, "--until", "50", "checkpoint.every=2-steps")
    assert said.code == 130
    assert steps_kept(run) == [2]
    monkeypatch.undo()
    assert cli("train", "--run", run, "--until", "5").code == 0  # nothing to clean up
    assert list(losses(run)) == [1, 2, 3, 4, 5]


def started(*arguments: str | Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "anytrain", *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    until = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until, "it took longer than a minute"
        time.sleep(0.01)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_real_signal_to_a_real_process(name: str, toml: Path, run: Path) -> None:
    process = started("train", toml, "--run", run, "--preempted-exit-code", "85")
    wait_for(lambda: (run / "metrics.jsonl").exists() and steps(run) >= 3, process)
    process.send_signal(getattr(signal, name))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 85
    assert f"stopped by {name}" in err
    last = steps(run)
    assert steps_kept(run)[-1] == last
    assert events(run, "stop")[-1]["by"] == name


def test_two_trainers_of_one_run(toml: Path, run: Path) -> None:
    process = started("train", toml, "--run", run)
    wait_for(lambda: (run / "metrics.jsonl").exists() and steps(run) >= 1, process)
    said = cli("train", "--run", run, "--for", "1-steps")
    assert said.code == 2
    assert f"is being trained by another process (pid {process.pid} on" in said.err
    process.kill()
    process.communicate()
    assert cli("train", "--run", run, "--for", "1-steps").code == 0


# --- a loss that is not a number -------------------------------------------------------------


def poisoned(value: float, step: int) -> Callable[..., float]:
    whole = loop.backward

    def backward(run: Any, batch: Any) -> float:
        loss = whole(run, batch)
        if run.clock.step + 1 != step:
            return loss
        for parameter in run.model.parameters():
            parameter.grad.mul_(value)
        return loss * value

    return backward


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_enters_nothing(
    value: float, toml: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = tmp_path / "good"
    assert cli("train", toml, "--run", good, "--until", "8").code == 0
    monkeypatch.setattr(loop, "backward", poisoned(value, 6))
    said = cli("train", toml, "--run", run, "--until", "8", "checkpoint.every=2-steps")
    assert said.code == 2
    assert "step 6: loss" in said.err
    assert "weights and averages are those of step 5" in said.err
    assert "the last good checkpoint is step 4" in said.err
    assert steps_kept(run)[-1] == 4
    assert events(run, "stop")[-1]["by"] == "diverged"
    tensors = checkpoint.read_tensors(at(run, 4).path)
    assert all(t.isfinite().all() for t in tensors.values() if t.is_floating_point())
    monkeypatch.undo()  # the cause is gone: it goes on from the good one, as if nothing had been
    assert cli("train", "--run", run, "--until", "8").code == 0
    without = ("recipe",)
    assert differing(saved_bits(run, 8, without), saved_bits(good, 8, without)) == []


def test_a_gradient_that_is_no_number(
    toml: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss is fine, its gradient is not: nothing of it enters either."""
    whole = loop.backward

    def backward(run_: Any, batch: Any) -> float:
        loss = whole(run_, batch)
        if run_.clock.step == 2:
            next(iter(run_.model.parameters())).grad.view(-1)[0] = math.nan
        return loss

    monkeypatch.setattr(loop, "backward", backward)
    said = cli("train", toml, "--run", run, "--until", "8")
    assert (said.code, "gradient norm nan" in said.err) == (2, True)
    assert "there was no checkpoint yet" in said.err


def test_a_peak_that_is_too_high(toml: Path, run: Path) -> None:
    """No patch: an absurd rate."""
    said = cli("train", toml, "--run", run, "--until", "60", "schedule=constant:peak=1e30",
               "optimizer.kind=sgd", "train.clip=1e30", "checkpoint.every=1-steps")  # fmt: skip
    assert said.code == 2
    assert "the step was not taken" in said.err
    assert len(said.err.strip().splitlines()[-1]) < 400


# --- a full disk, a damaged file -------------------------------------------------------------


def full(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_in_safetensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way it happens: half way through one of several files."""
    whole = checkpoint.write_file

    def write_file(file: Path, *arguments: Any) -> None:
        whole(file, *arguments)
        if "00003" in file.name:
            os.truncate(file, file.stat().st_size // 2)
            full()

    monkeypatch.setattr(checkpoint, "write_file", write_file)


PLACES: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "tensors": full_in_safetensors,
    "sync": lambda patch: patch.setattr(checkpoint, "sync", full),
    "manifest": lambda patch: patch.setattr(checkpoint, "_write_manifest", full),
    "rename": lambda patch: patch.setattr(Path, "rename", full),
    "metrics": lambda patch: patch.setattr(RunDir, "log", full),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_full_disk(place: str, toml: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli("train", toml, "--run", run, "--until", "3").code == 0
    before = saved_bits(run, 3)
    PLACES[place](monkeypatch)
    said = cli("train", "--run", run, "--until", "6")
    assert said.code == 2, said.err
    assert "the disk is full; the last good checkpoint is step 3" in said.err
    assert "Traceback" not in said.err
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-000000003"]
    monkeypatch.undo()
    assert differing(saved_bits(run, 3), before) == []
    assert cli("train", "--run", run, "--until", "6").code == 0
    assert list(losses(run)) == [1, 2, 3, 4, 5, 6]


def test_a_full_disk_at_the_very_beginning(
    toml: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", full)
    said = cli("train", toml, "--run", run, "--until", "6")
    assert said.code == 2, said.err
    assert "No space left on device" in said.err
    assert len(said.err.splitlines()) == 1
    monkeypatch.undo()
    assert cli("train", toml, "--run", run, "--until", "2").code == 0


def damage(run: Path, step: int, how: str) -> None:
    folder = at(run, step).path
    path = next(folder.glob("*00002-of*.safetensors"))
    content = bytearray(path.read_bytes())
    if how == "truncated":
        path.write_bytes(content[:-10])
    elif how == "one bit":
        content[-5] ^= 1
        path.write_bytes(content)
    elif how == "missing":
        path.unlink()
    elif how == "state":
        (folder / "state.json").write_text("{")
    elif how == "manifest":
        manifest = (folder / "manifest.json").read_text()
        (folder / "manifest.json").write_text(manifest[: len(manifest) // 2])


@pytest.mark.parametrize("how", ["truncated", "one bit", "missing", "state", "manifest"])
def test_a_damaged_checkpoint(how: str, toml: Path, run: Path, tmp_path: Path) -> None:
    """The one before is taken and said; what follows is bit for bit what it would have been."""
    settings = ("checkpoint.at=[2, 4, 6]",)
    assert cli("train", toml, "--run", run, "--until", "4", *settings).code == 0
    damage(run, 4, how)
    said = cli("train", "--run", run, "--until", "6")
    assert said.code == 0, said.err
    assert "going back to step 2" in said.err
    assert "going on from step 2" in said.err
    assert events(run, "fallback")[0]["step"] == 4
    assert list(losses(run)) == [1, 2, 3, 4, 5, 6]

    good = tmp_path / "good"
    assert cli("train", toml, "--run", good, "--until", "6", *settings).code == 0
    assert differing(saved_bits(run, 6), saved_bits(good, 6)) == []
    at(run, 4).verify()  # written anew where the damaged one was
    assert (at(run, 4).path.parent / ".damaged-step-000000004").is_dir()
    assert differing(saved_bits(run, 4), saved_bits(good, 4)) == []


def test_every_checkpoint_damaged(toml: Path, run: Path) -> None:
    assert cli("train", toml, "--run", run, "--until", "4", "checkpoint.at=[2]").code == 0
    for step in steps_kept(run):
        damage(run, step, "one bit")
    said = cli("train", "--run", run, "--until", "6")
    assert said.code == 2
    assert "none of its checkpoints is whole" in said.err
    assert steps_kept(run) == [2, 4]  # nothing was moved: a person may still mend one
    assert list(losses(run)) == [1, 2, 3, 4]


# --- schedules that end ----------------------------------------------------------------------

COSINE = "schedule=cosine:horizon=6-steps,peak=1e-2,warmup=2-steps"


def test_a_schedule_ends_at_its_horizon(toml: Path, run: Path) -> None:
    said = cli("train", toml, "--run", run, COSINE)
    assert (said.code, "stopped by horizon at step 6" in said.err) == (0, True)
    assert [r["lr"] for r in RunDir(run).metrics() if "lr" in r][-1] == 0.0


@pytest.mark.parametrize("how", [("--until", "7"), ("--until", "400-tokens")])
def test_beyond_the_horizon(how: tuple[str, str], toml: Path, run: Path) -> None:
    said = cli("train", toml, "--run", run, COSINE, *how)
    assert said.code == 2
    assert "lies beyond the horizon of 6 steps" in said.err
    assert "fork a cooldown instead" in said.err
    assert not run.exists()


@pytest.mark.parametrize(
    "how", [("--until", "7"), ("--for", "1-steps"), ("--for", "64-tokens"), ()]
)
def test_going_on_at_the_horizon(how: tuple[str, ...], toml: Path, run: Path) -> None:
    """There is nothing left that it could do: it says so and what to do instead."""
    assert cli("train", toml, "--run", run, COSINE).code == 0
    said = cli("train", "--run", run, *how)
    assert said.code == (2 if how else 0)
    if how:
        assert "fork a cooldown" in said.err
    assert steps(run) == 6


@pytest.mark.parametrize(
    "schedule",
    [
        "cosine:horizon=400-tokens,peak=1e-2,warmup=2-steps",  # 6.25 steps
        "linear:horizon=6.5-steps,peak=1e-2",
        "cooldown:horizon=400-tokens,trunk=(constant:peak=1e-2),start=2-steps",
    ],
)
def test_a_horizon_between_two_steps(schedule: str, toml: Path, run: Path) -> None:
    """The step that reaches it is the last one and has the final rate."""
    said = cli("train", toml, "--run", run, f"schedule={schedule}")
    assert (said.code, "stopped by horizon at step 7" in said.err) == (0, True), said.err
    assert [r["lr"] for r in RunDir(run).metrics() if "lr" in r][-1] == 0.0


def test_a_horizon_between_two_steps_of_another_batch(toml: Path, run: Path) -> None:
    cosine = "schedule=cosine:horizon=7-steps,peak=1e-2,warmup=2-steps"
    assert cli("train", toml, "--run", run, cosine, "--until", "2").code == 0
    said = cli("train", "--run", run, "train.batch=8")
    assert (said.code, "stopped by horizon at step 5" in said.err) == (0, True), said.err
    assert [r["lr"] for r in RunDir(run).metrics() if "lr" in r][-1] == 0.0


# --- never on a thread -----------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _no_threads_are_left() -> Iterator[None]:
    before = {t for t in threading.enumerate() if not t.daemon}
    yield
    assert {t for t in threading.enumerate() if not t.daemon} <= before
