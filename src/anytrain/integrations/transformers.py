"""Horizon-free schedules and averages in transformers' `Trainer`, TRL's trainers included.

trainer = AnytimeTrainer(
    model, args, train_dataset=rows, eval_dataset=held_out,
    schedule="inverse_sqrt:peak=3e-3,warmup=1000-steps,offset=20000-steps",
    averages={"ema25": "anytime_ema:f=25"},
)
trainer.train(resume_from_checkpoint=True)   # as if it had never stopped, to the bit
trainer.evaluate()                           # eval_loss, eval_ema25_loss
trainer.save_model("released", weights="ema25")

For a trainer of another kind: `class Anytime(AnytimeTrainerMixin, SFTTrainer)`. For one that cannot
be changed: `AnytimeCallback`, which keeps, saves and restores the averages alone.
"""

import copy
import dataclasses
import inspect
import json
import logging
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import Trainer

from anytrain import schedules
from anytrain.averaging import canonical_tensors
from anytrain.averaging.moves import local
from anytrain.errors import nearest
from anytrain.integrations import stored
from anytrain.integrations.group_rates import require_no_jump
from anytrain.integrations.torch import Scheduler
from anytrain.integrations.trainer_callback import AnytimeCallback
from anytrain.rules import Rule
from anytrain.schedules import Schedule

__all__ = ["AnytimeCallback", "AnytimeTrainer", "AnytimeTrainerMixin"]

logger = logging.getLogger(__name__)

ENDLESS = 10**12  # steps; what a trainer that demands a number is told where there is no end

# What of TrainingArguments describes a schedule, which is then given twice.
_THEIRS = ("lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps")


class AnytimeTrainerMixin:
    """What makes a Trainer anytime: put it before the Trainer in a class's bases.

    - `schedule`, one of ours or its text, is the learning rate; without one it is the Trainer's.
      One without a horizon needs no `max_steps`: that is only where to stop today.
    - `averages`, by name, default five widths; `evaluated` of them (default all) and the raw
      weights are evaluated, as eval_loss and eval_ema25_loss.
    - A checkpoint's weights are the raw ones, its averages beside them.
    - `load_best_model_at_end` with metric_for_best_model="eval_ema25_loss" leaves that average, of
      the best checkpoint, in the model; with "eval_loss" its raw weights.
    """

    args: Any  # the Trainer's
    state: Any
    control: Any
    optimizer: Any
    lr_scheduler: Any
    eval_dataset: Any

    def __init__(
        self,
        *positional: Any,
        schedule: Schedule | str | None = None,
        averages: Mapping[str, Rule | str] | None = None,
        evaluated: Sequence[str] | None = None,
        average_every: int = 1,
        average_device: str | None = None,
        missing: stored.Missing = "error",
        **named: Any,
    ) -> None:
        self.schedule = schedules.schedule(schedule) if isinstance(schedule, str) else schedule
        self.anytime = AnytimeCallback(
            averages, every=average_every, device=average_device, missing=missing
        )
        self.anytime.saved_by_trainer = True
        self.evaluated = list(self.anytime.rules if evaluated is None else evaluated)
        for name in self.evaluated:
            if name not in self.anytime.rules:
                raise ValueError(f"evaluated names {name!r}{nearest(name, self.anytime.rules)}")
        self.endless = False
        self.evaluating: str | None = None  # the average whose metrics are being made
        bound = inspect.signature(super().__init__).bind_partial(*positional, **named)
        if self.schedule is not None and bound.arguments.get("args") is not None:
            data = bound.arguments.get("train_dataset")
            bound.arguments["args"] = self._planned(bound.arguments["args"], data)
        super().__init__(*bound.args, **bound.kwargs)
        self.add_callback(self.anytime)  # type: ignore[attr-defined]

    def _planned(self, args: Any, data: Any) -> Any:
        """The arguments, with a number of steps where the Trainer demands one and we need none."""
        assert self.schedule is not None
        _require_one_schedule(args, self.schedule)
        if args.max_steps > 0 or data is None or hasattr(data, "__len__"):
            return args
        end = schedules.horizon(self.schedule)
        self.endless = end is None
        args = copy.copy(args)  # the caller's keep saying what the caller said
        args.max_steps = ENDLESS if end is None else math.ceil(end)
        return args

    def train(
        self, resume_from_checkpoint: str | bool | None = None, *rest: Any, **named: Any
    ) -> Any:
        """As the Trainer has it; given True, a checkpoint left unfinished is passed over."""
        if resume_from_checkpoint is True:
            resume_from_checkpoint = _newest_whole(Path(self.args.output_dir))
        return super().train(resume_from_checkpoint, *rest, **named)  # type: ignore[misc]

    # --- the rate ----------------------------------------------------------------------------

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Ours; how long it goes on for is only looked at where a schedule has an end."""
        if self.schedule is None:
            return super().create_scheduler(num_training_steps, optimizer)  # type: ignore[misc]
        end = schedules.horizon(self.schedule)
        if end is not None and num_training_steps > math.ceil(end):
            raise ValueError(
                f"{num_training_steps} steps lie beyond the horizon of {end:g} that "
                f"{schedules.spec(self.schedule)} was planned for; fewer, or a schedule without a "
                "horizon, are valid"
            )
        self.lr_scheduler = Scheduler(optimizer or self.optimizer, self.schedule)
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        load = super()._load_optimizer_and_scheduler  # type: ignore[misc]
        self.anytime.checkpoint = Path(checkpoint) if checkpoint is not None else None
        if checkpoint is None or self.schedule is None:
            return load(checkpoint)
        # of the checkpoint's rate only the step counts: the schedule is the one given now
        initial = [group["initial_lr"] for group in self.optimizer.param_groups]
        self.lr_scheduler = SimpleNamespace(load_state_dict=lambda state: None)
        load(checkpoint)
        for group, rate in zip(self.optimizer.param_groups, initial, strict=True):
            group["initial_lr"] = rate
        found = stored.manifest(Path(checkpoint))
        step = int(found["step"] if found else self.state.global_step)
        if found and found.get("rate") is not None:
            require_no_jump(self.schedule, found, checkpoint)
        self.lr_scheduler = Scheduler(self.optimizer, self.schedule, step)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """As the Trainer has it; where no end was given, the end of the data is one."""
        found = super().get_batch_samples(epoch_iterator, num_batches, device)  # type: ignore[misc]
        if self.endless and not found[0]:
            self.control.should_training_stop = True
            self.control.should_save |= self.args.save_strategy != "no"
            self.control.should_evaluate |= self.args.eval_strategy != "no"
        return found

    # --- the averages ------------------------------------------------------------------------

    def applied(self, name: str) -> AbstractContextManager[Any]:
        """Inside, the model has the weights of one average, or its own for "raw"."""
        return self.anytime.applied(name)

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """The metrics of the raw weights and, under `PREFIX_NAME_…`, of each average.

        Inside `applied`, of the weights that are in the model. Training goes on as if nothing had
        been evaluated: a DataLoader draws from the generator that dropout draws from.
        """
        with torch.random.fork_rng(devices=[]):
            return self._evaluated(eval_dataset, ignore_keys, metric_key_prefix)

    def _evaluated(
        self, eval_dataset: Any, ignore_keys: list[str] | None, prefix: str
    ) -> dict[str, float]:
        theirs = super().evaluate  # type: ignore[misc]
        metrics: dict[str, float] = theirs(eval_dataset, ignore_keys, prefix)
        data = self.eval_dataset if eval_dataset is None else eval_dataset
        averages = self.anytime.averages
        # of several data sets the Trainer comes back here with each
        if isinstance(data, dict) or averages is None or averages.active is not None:
            return metrics
        for name in self.evaluated:
            self.evaluating = name
            try:
                with self.applied(name):
                    metrics |= theirs(eval_dataset, ignore_keys, f"{prefix}_{name}")
            finally:
                self.evaluating = None
        return metrics

    def log(self, logs: dict[str, float], *rest: Any) -> None:
        """TRL adds what it has gathered as `eval_…`: of an average it says which."""
        gathered = getattr(self, "_metrics", {}).get("eval")
        if self.evaluating is not None and gathered:
            for key in list(gathered):
                gathered[f"{self.evaluating}_{key}"] = gathered.pop(key)
        super().log(logs, *rest)  # type: ignore[misc]

    def save_model(
        self,
        output_dir: str | None = None,
        _internal_call: bool = False,
        weights: str | None = None,
    ) -> None:
        """A directory for `from_pretrained`, of the weights in the model or of those named.

        Of a checkpoint the Trainer saves the model first and its own state last, without which
        nobody resumes: the averages come between, and are there whenever it counts.
        """
        save = super().save_model  # type: ignore[misc]
        if weights is not None:
            with self.applied(weights):
                save(output_dir, _internal_call)
            return
        averages = self.anytime.averages
        if not _internal_call or output_dir is None or averages is None:
            return save(output_dir, _internal_call)
        averages.require_raw("save a checkpoint")
        save(output_dir, _internal_call)
        stored.save(Path(output_dir), averages, self._rate(), self.args.should_save)

    def _rate(self) -> stored.Rate | None:
        if self.schedule is None:
            return None
        step = int(self.lr_scheduler.last_epoch)
        last = schedules.rate(self.schedule, step - 1, step) if step else None
        return stored.Rate(schedules.spec(self.schedule), step, last)

    def _load_best_model(self) -> None:
        super()._load_best_model()  # type: ignore[misc]
        averages, state = self.anytime.averages, self.state
        if averages is None:
            return
        stored.load(
            Path(state.best_model_checkpoint),
            averages,
            state.best_global_step,
            self.anytime.missing,
        )
        name = _average_in(self.args.metric_for_best_model or "", averages.rules)
        if name is not None:
            live = canonical_tensors(averages.model)
            with torch.no_grad():
                for key, tensor in averages.tensors[name].items():
                    local(live[key]).copy_(tensor)


class AnytimeTrainer(AnytimeTrainerMixin, Trainer):
    """transformers' Trainer, made anytime."""


def _newest_whole(out: Path) -> str:
    """The newest checkpoint that has the Trainer's own state, which is written last."""
    steps = [path.name.removeprefix("checkpoint-") for path in out.glob("checkpoint-*")]
    for step in sorted((int(text) for text in steps if text.isdecimal()), reverse=True):
        path = out / f"checkpoint-{step}"
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            logger.warning("%s was not finished; it is passed over", path)
        else:
            return str(path)
    raise ValueError(f"{out} holds no finished checkpoint; resume_from_checkpoint=None begins")


def _require_one_schedule(args: Any, schedule: Schedule) -> None:
    """ValueError where the arguments describe a schedule too, or a rate that is not this one's."""
    defaults = {field.name: field.default for field in dataclasses.fields(args)}
    ours = f"schedule = {schedules.spec(schedule)}"
    for name in _THEIRS:
        value = getattr(args, name)
        if value and value != defaults[name]:
            text = getattr(value, "value", value)
            raise ValueError(f"{name} = {text} beside {ours}; one of them is valid")
    rate = args.learning_rate
    if rate not in (defaults["learning_rate"], schedules.peak(schedule)):
        raise ValueError(f"learning_rate = {rate} beside {ours}; its peak, or none, is valid")


def _average_in(metric: str, names: Mapping[str, Any]) -> str | None:
    """The average whose metric it is: eval_ema25_loss is one of ema25."""
    for name in sorted(names, key=len, reverse=True):
        if re.search(rf"(^|_){re.escape(name)}_", metric.removeprefix("eval_")):
            return name
    return None
