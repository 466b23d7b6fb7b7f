"""Conducting a study with an executor that writes what a training would leave."""

import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

import pytest
from small_studies import fake, small

from anytrain.errors import UserError
from anytrain.rundir import RunDir
from anytrain.study.conduct import command, conduct
from anytrain.study.design import Design
from anytrain.study.executors import Executor
from anytrain.study.gather import Study
from anytrain.study.jobs import Job


class Faked:
    """Trains a command as soon as its result is waited for, as the slots of a machine would.

    `fails` says of a job what it says and exits with instead. Nothing is done after `stop` jobs.
    """

    def __init__(self, study: Study, slots: int = 10**6, stop: int = 10**6) -> None:
        self.study, self.slots, self.stop = study, slots, stop
        self.submitted: list[str] = []
        self.trained: list[str] = []
        self.fails: dict[str, tuple[int, str]] = {}
        self.during: Callable[[Job], None] = lambda job: None
        self.closed = 0

    def submit(self, argv: Sequence[str], log: Path, rank: float = 0.0) -> "Future[int]":
        assert not self.closed
        assert list(argv[:5]) == [sys.executable, "-m", "anytrain", "study", "--out"]
        assert Path(argv[5]) == self.study.out.resolve()
        assert argv[6] == "--job"
        name = argv[7]
        assert (self.study.out / "jobs" / f"{name}.json").is_file()
        self.submitted.append(name)
        future: Future[int] = Future()
        if len(self.trained) >= self.stop:
            raise KeyboardInterrupt
        job = self.study.plan.jobs[name]
        if job.leave is not None:
            assert self.study.done(self.study.plan.jobs[job.leave.trunk]), "before its trunk"
        self.during(job)
        if name in self.fails:
            status, text = self.fails[name]
            log.write_text(text)
            future.set_result(status)
            return future
        fake(self.study, job)
        self.trained.append(name)
        future.set_result(0)
        return future

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return small(tmp_path)


def again(study: Study) -> Study:
    """As the next process finds it."""
    return Study(Design(study.design.path), study.out)


def quiet(line: str) -> None:
    pass


def test_all_of_it(study: Study) -> None:
    """13 of tuning; 2 runs, 4 cosines and 4 branches of reporting."""
    executor, said = Faked(study), []
    assert isinstance(executor, Executor)
    conduct(study, executor, said.append)
    assert len(executor.submitted) == len(set(executor.submitted)) == 13 + 2 + 4 + 4
    assert set(executor.submitted) == set(study.plan.jobs)
    assert all(study.done(job) for job in study.plan.jobs.values())
    assert {choice.arm for choice in study.choices} == {"constant", "cosine", "wsd"}
    assert executor.closed == 1
    assert said[-1] == "23 of 23 runs and branches done, 0 tokens left"
    assert (study.out / "study.toml").is_file()
    assert (study.out / "recipe.toml").is_file()


def test_the_longest_first_and_branches_after_their_trunk(study: Study) -> None:
    first = list(study.ready())
    assert [job.cost for job in first] == sorted((job.cost for job in first), reverse=True)
    assert all(job.leave is None for job in first)
    assert len(first) == 3 + 4
    trunk = next(job for job in first if job.recipe.schedule.startswith("constant"))
    fake(study, trunk)
    study.refresh()
    now = list(study.ready())
    assert trunk not in now
    branches = [job for job in now if job.leave]
    assert len(branches) == 2
    assert {job.leave.trunk for job in branches if job.leave} == {trunk.name}
    costs = [job.cost for job in branches]
    assert costs == sorted(costs, reverse=True)


def test_nothing_is_trained_again(study: Study) -> None:
    conduct(study, Faked(study), quiet)
    later = again(study)
    executor = Faked(later)
    conduct(later, executor, quiet)
    assert executor.submitted == []
    assert executor.closed == 1


def test_a_restart_goes_on_with_what_is_missing(study: Study) -> None:
    first = Faked(study, stop=9)
    with pytest.raises(KeyboardInterrupt):
        conduct(study, first, quiet)
    assert first.closed == 1
    assert len(first.trained) == 9
    later = again(study)
    second = Faked(later)
    conduct(later, second, quiet)
    assert not set(first.trained) & set(second.trained)
    assert len(first.trained) + len(second.trained) == 23
    assert later.results().jobs == (23, 23)


def test_a_job_that_fails_does_not_hold_up_the_others(study: Study) -> None:
    executor = Faked(study)
    bad = next(job for job in study.plan.jobs.values() if "cosine" in job.name)
    executor.fails[bad.name] = (1, "Traceback\nValueError: no room\n\n")
    with pytest.raises(UserError) as error:
        conduct(study, executor, quiet)
    text = str(error.value)
    assert f"1 of {len(study.plan.jobs)} jobs failed, first {bad.name}" in text
    assert "exit status 1, ValueError: no room" in text
    assert str(study.out / "logs" / f"{bad.name}.log") in text
    assert executor.submitted.count(bad.name) == 1
    assert {c.arm for c in study.choices} == {"constant", "wsd"}, "cosine is not tuned"
    assert executor.closed == 1
    later = again(study)
    conduct(later, Faked(later), quiet)
    assert later.results().jobs == (23, 23)


def test_the_branches_of_a_trunk_that_fails_wait(study: Study) -> None:
    executor = Faked(study)
    bad = next(job for job in study.plan.jobs.values() if job.recipe.schedule.startswith("const"))
    executor.fails[bad.name] = (1, "")
    with pytest.raises(UserError, match="it said nothing"):
        conduct(study, executor, quiet)
    assert not any(name.startswith(f"{bad.name}+") for name in executor.submitted)


def test_a_job_that_ends_well_without_its_last_evaluation_has_failed(study: Study) -> None:
    executor = Faked(study)
    bad = next(iter(study.plan.jobs))
    executor.fails[bad] = (0, "stopped by SIGTERM")
    with pytest.raises(UserError, match="exit status 0, stopped by SIGTERM"):
        conduct(study, executor, quiet)


def test_a_job_that_breaks_its_executor_does_not_hold_up_the_others(study: Study) -> None:
    """A Slurm job that was cancelled, or a Ray worker that died, is an exception of its future."""
    bad = next(job for job in study.plan.jobs.values() if "cosine" in job.name)

    class Broken(Faked):
        def submit(self, argv: Sequence[str], log: Path, rank: float = 0.0) -> "Future[int]":
            if argv[-1] != bad.name:
                return super().submit(argv, log, rank)
            future: Future[int] = Future()
            future.set_exception(RuntimeError("the node is gone"))
            return future

    executor = Broken(study)
    with pytest.raises(UserError, match="the node is gone") as error:
        conduct(study, executor, quiet)
    assert bad.name in str(error.value)
    assert {c.arm for c in study.choices} == {"constant", "wsd"}


def test_a_diverged_run_is_no_failure(study: Study) -> None:
    """Its branches can never begin; the study goes on without them."""
    bad = next(job for job in study.plan.jobs.values() if "constant-0.04" in job.name)
    executor = Faked(study)
    executor.during = lambda job: executor.fails.update({bad.name: (1, "the loss is nan")})

    def diverge(job: Job) -> None:
        if job.name == bad.name:
            fake(study, job, reach=0.3, end="diverged")
            executor.fails[job.name] = (1, "the loss is nan")

    executor.during = diverge
    conduct(study, executor, quiet)
    assert not any(name.startswith(f"{bad.name}+") for name in executor.submitted)
    assert study.results().jobs == (23, 23)


def test_the_directory_is_locked_while_it_is_conducted(study: Study) -> None:
    executor, refused = Faked(study), []

    def second(job: Job) -> None:
        if not refused:
            other = again(study)
            unused = Faked(other)
            with pytest.raises(UserError, match="another process") as error:
                conduct(other, unused, quiet)
            assert unused.submitted == []
            refused.append(str(error.value))

    executor.during = second
    conduct(study, executor, quiet)
    assert str(study.out) in refused[0]
    with RunDir(study.out).locked():
        pass


def test_the_executor_is_closed_on_an_exception(study: Study) -> None:
    executor = Faked(study)

    def fail(line: str) -> None:
        raise RuntimeError("nobody listens")

    with pytest.raises(RuntimeError, match="nobody listens"):
        conduct(study, executor, fail)
    assert executor.closed == 1


def test_the_command_of_a_job(study: Study) -> None:
    job = next(iter(study.plan.jobs.values()))
    argv = command(study, job)
    assert argv == [
        *(sys.executable, "-m", "anytrain", "study", "--out", str(study.out.resolve())),
        *("--job", job.name),
    ]
