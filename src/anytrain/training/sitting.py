"""One sitting: train a run until something says stop, and leave it so that it can go on."""

import dataclasses
import errno
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from anytrain.data.stream import TrainingData
from anytrain.errors import UserError
from anytrain.evaluations import last_evaluation
from anytrain.losses import keep, kept
from anytrain.rundir import Checkpoint, RunDir
from anytrain.training import checkpoint, snapshot, start
from anytrain.training.background import Saved, Saver
from anytrain.training.cadence import Cadence, previous
from anytrain.training.evaluate import Loss, candidates, evaluate, half
from anytrain.training.guard import Spike
from anytrain.training.loop import Diverged, Record, train
from anytrain.training.progress import Progress
from anytrain.training.rewind import rewind
from anytrain.training.run import Clock, Run
from anytrain.training.shielded import Logger, Shielded
from anytrain.training.stopping import Stop
from anytrain.training.stopwatch import Stopwatch
from anytrain.versions import versions

_UNASKED = ("spaced", "hourly")  # reasons to evaluate; others are asked for


class Sitting:
    """Drives one run: steps, metrics, evaluations, checkpoints, and the reason it ended."""

    def __init__(
        self,
        run: Run,
        rundir: RunDir,
        data: TrainingData,
        stop: Stop,
        loggers: Mapping[str, Callable[[], Logger]] | None = None,
    ) -> None:
        self.run = run
        self.rundir = rundir
        self.data = data
        self.stop = stop
        self.cadence = Cadence(run.recipe)
        self.saver = Saver(rundir, self.cadence)
        held_out = data.validation(int(run.recipe.evaluate.tokens.amount))
        self.held_out = half(torch.from_numpy(held_out), run.recipe.evaluate.split)  # (N, T + 1)
        self.world = run.world
        self.progress = Progress(run.clock.step, silent=not run.world.first)
        opening = (loggers or {}).items()
        self.loggers = [Shielded(name, opened, self._unlogged) for name, opened in opening]
        self.world.beat()
        self.stopwatch = Stopwatch(_seconds_so_far(rundir), self.world.now)
        self.evaluated: int | None = None  # the last step with an evaluation
        self.saved: int | None = None  # the last step with a checkpoint, on the disk or under way
        self.best_average: str | None = None  # at the last evaluation
        stop.begin(run.clock, self.world.now)

    def going_on(self, checkpoint: Checkpoint) -> None:
        """What earlier sittings left: the checkpoint begun from, and the last evaluation."""
        self.saved = checkpoint.step
        found = last_evaluation(self.rundir, checkpoint.step)
        if found is not None:
            self.best_average = best_average(found.losses)
            whole = set(candidates(self.run)) <= found.losses.keys()
            self.evaluated = found.step if whole else None
        self.progress.say(f"going on from step {checkpoint.step}, {self.run.clock.tokens:,} tokens")

    def go(self) -> str:
        """Train until the stop gives a reason; checkpoint, evaluate, record it, return it."""
        threads = torch.get_num_threads()
        self._event("start", threads=threads, processes=self.world.size, versions=versions())
        try:
            self._make_up()
            try:
                reason = self._train()
            finally:
                self._report(self.saver.wait())  # whatever ended it: nothing stays half-written
            self._save_last()  # before anything that takes long: a preempted job has little time
            self._event("stop", by=reason)
            if self.evaluated != self.run.clock.step and self.run.clock.step > 0:
                self._evaluate("stop")
        except Diverged as error:
            self._event("stop", by="diverged", why=str(error))
            raise Diverged(f"{error}; {checkpoint.last_good(self.rundir)}") from None
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            good = checkpoint.last_good(self.rundir)
            raise UserError(f"{self.rundir.path}: the disk is full; {good}") from error
        finally:
            self.progress.close()
            for logger in self.loggers:
                logger.close()
        return reason

    def _train(self) -> str:
        run = self.run
        reason = self.stop.reason(run.clock)
        if reason is not None:
            return reason
        before = dataclasses.replace(run.clock)
        for record in train(run, self._batches(), run.recipe.built_schedule()):
            if isinstance(record, Spike):
                self._beat()
                self._spiked(record)
            else:
                self._stepped(record, before)
            reason = self.stop.reason(run.clock)
            if reason is not None:
                return reason
            before = dataclasses.replace(run.clock)
        raise AssertionError("batches never end")

    def _stepped(self, record: Record, before: Clock) -> None:
        self._log_step(record)
        self._beat()
        if snapshot.due(self.run, before):  # first: a step that is saved is not taken again
            snapshot.take(self.run, self.rundir)
            self.stopwatch.lap()  # the next step's time begins here
        if self._checkpoint_due(before):
            self._save()
        if self.stop.signalled is None:  # a preempted job has little time
            self._evaluate_if_due(before)

    def _spiked(self, spike: Spike) -> None:
        """The update was dropped; where the recipe asks for it, go back as well."""
        run, taken = self.run, self.run.clock.step
        found = None
        if run.recipe.guard is not None and run.recipe.guard.action == "rewind":
            self._report(self.saver.wait())
            found = rewind(run, self.rundir, self.progress.say)
        what = dataclasses.asdict(spike) | {"samples": run.clock.samples}
        self.progress.say(f"the batch after step {taken} is left out: {spike}")
        if found is None:
            self._event("skipped", **what)
            return
        self._event("rewound", left=taken, **what)
        self.progress.back_to(found.step)
        self.evaluated = None
        self.going_on(found)

    def _beat(self) -> None:
        """What all processes do at the same step: hear a signal to one, and of what was written."""
        signals, done = self.world.beat(self.stop.number, self.saver.done)
        self.stop.heard(signals)
        if done:
            self._report(self.saver.wait())

    def _batches(self) -> Iterator[Tensor]:
        """Batches (B, T + 1) for ever, from the run's only data state: how many samples it read."""
        batch, vocab = self.run.recipe.train.batch, self.run.model.shape.tokens
        while True:
            tokens = self.data.batch(self.run.clock.samples, batch)
            if self.data.vocab is None and tokens.max() >= vocab:  # raw files do not say
                raise UserError(
                    f"{', '.join(self.run.recipe.data.sources)}: token {tokens.max()} at sample "
                    f"{self.run.clock.samples} and on; model.vocab = {vocab} is too small"
                )
            there = torch.from_numpy(tokens)
            yield there.pin_memory() if self.run.device.type == "cuda" else there

    # --- metrics ------------------------------------------------------------------------------

    def _log_step(self, record: Record) -> None:
        train_ = self.run.recipe.train
        tokens = train_.batch * train_.context
        rate = tokens / self.stopwatch.lap()
        flops = rate * self.run.model.shape.flops_per_token(train_.context)
        self.progress.step(record, rate, flops)
        if record.step % self.run.recipe.log.every == 0:
            self._log(
                dataclasses.asdict(record)
                | {
                    "seconds": round(self.stopwatch.total(), 3),
                    "tokens_per_second": round(rate, 1),
                    "flops_per_second": round(flops),
                }
            )

    def _log(self, record: dict[str, Any]) -> None:
        if not self.world.first:
            return
        self.rundir.log(record)
        for logger in self.loggers:
            logger.log(record)

    def _unlogged(self, name: str, why: str) -> None:
        """A logger failed: what it missed is in metrics.jsonl."""
        self.progress.say(f"log.{name} {why}; training goes on, metrics.jsonl has every record")
        self._event("logger", logger=name, why=why)

    def _event(self, event: str, **more: Any) -> None:
        clock = self.run.clock
        place = {"step": clock.step, "tokens": clock.tokens, "time": start.now()}
        if self.world.first:
            self.rundir.event({"event": event, **place, **more})

    # --- evaluations --------------------------------------------------------------------------

    def _evaluate_if_due(self, before: Clock) -> None:
        why = self.cadence.evaluation(before, self.run.clock)
        every = self.run.recipe.evaluate.every
        if why is None and every.unit == "seconds":
            why = "hourly" if self.stopwatch.since_evaluation() >= every.amount else None
        if why is not None:
            self._evaluate(why)

    def _make_up(self) -> None:
        """Evaluate where it was asked for at the step begun from: a kill may have come between."""
        clock, settings = self.run.clock, self.run.recipe.evaluate
        if clock.step == 0 or not (self.rundir.path / "metrics.jsonl").exists():
            return
        why = self.cadence.evaluation(previous(clock, self.run.recipe), clock)
        if why is None or why in _UNASKED:
            return
        lost = settings.each and not kept(self.rundir, clock.step)
        if self.evaluated != clock.step or lost:
            self._evaluate(why)

    def _evaluate(self, why: str) -> None:
        """Raw and every average; raw and the best average, or none, where the time is spent."""
        run = self.run
        every = candidates(run)
        names = every
        if why in _UNASKED:
            few = [name for name in every if name in ("raw", self.best_average)]
            affordable = self.stopwatch.affordable(run.recipe.evaluate.share)
            if affordable < len(every):
                names = few
            if affordable < len(few) and why == "spaced":
                return
        with self.stopwatch.evaluating(len(names), self.world.beat):
            losses = evaluate(run, self.held_out, names)
        if names == every:
            self.evaluated = run.clock.step
        self._log(self._evaluation_record(losses, why))
        if run.recipe.evaluate.each and why not in _UNASKED and self.world.first:
            keep(self.rundir, run.clock.step, {n: loss.each.numpy() for n, loss in losses.items()})
        self.best_average = best_average({name: loss.mean for name, loss in losses.items()})
        best = min(losses, key=lambda name: losses[name].mean)
        self.progress.evaluated(best, losses[best].mean, run.clock.tokens, run.clock.step)

    def _evaluation_record(self, losses: dict[str, Loss], why: str) -> dict[str, Any]:
        clock = self.run.clock
        record: dict[str, Any] = {"step": clock.step, "tokens": clock.tokens, "t": clock.t}
        for name, loss in losses.items():
            record[f"val/loss/{name}"] = loss.mean
            record[f"val/stderr/{name}"] = loss.stderr
        record["val/tokens"] = self.held_out[:, 1:].numel()
        record["eval_seconds"] = round(self.stopwatch.last_evaluation, 3)
        record["eval_why"] = why
        return record

    # --- checkpoints --------------------------------------------------------------------------

    def _checkpoint_due(self, before: Clock) -> bool:
        every = self.run.recipe.checkpoint.every
        if every.unit == "seconds" and self.stopwatch.since_save() >= every.amount:
            return True
        return self.cadence.checkpoint(before, self.run.clock)

    def _save(self) -> None:
        """Copy the state; it is written while training goes on."""
        self._check_data()
        self._report(self.saver.save(self.run))
        self.saved = self.run.clock.step
        self.stopwatch.saved()

    def _save_last(self) -> None:
        """The state in which the sitting ends, on the disk when this returns."""
        if self.saved != self.run.clock.step:
            self._check_data()
            self._report(self.saver.save_now(self.run))
            self.saved = self.run.clock.step

    def _check_data(self) -> None:
        """No checkpoint holds what was learned from data that changed under the run."""
        try:
            self.data.check()
        except UserError as error:
            raise UserError(f"{error}; {checkpoint.last_good(self.rundir)}") from None

    def _report(self, saved: Saved | None) -> None:
        """Say and record what was written beside training."""
        if saved is None:
            return
        for line in saved.said:
            self.progress.say(line)
        self._event(
            "checkpoint",
            step=saved.step,
            tokens=saved.tokens,
            blocked_seconds=round(saved.blocked, 6),
            background_seconds=round(saved.background, 6),
        )
        if saved.mirrored is not None:
            self._event("mirror", step=saved.step, tokens=saved.tokens, **saved.mirrored)
            if "why" in saved.mirrored:
                why = saved.mirrored["why"]
                self.progress.say(f"the checkpoint of step {saved.step} is not mirrored: {why}")


def best_average(losses: Mapping[str, float]) -> str | None:
    """The lowest of what is not the raw weights."""
    averages = [name for name in losses if name != "raw"]
    return min(averages, key=lambda name: losses[name]) if averages else None


def _seconds_so_far(rundir: RunDir) -> float:
    last = 0.0
    for record in rundir.metrics():
        last = record.get("seconds", last)
    return last
