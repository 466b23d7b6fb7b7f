"""Horizon-free schedules and averages in torchtitan: components for its `Trainer.Config`.

def llama3_8b_anytime() -> Trainer.Config:
    return anytime(
        llama3_8b(), schedule="inverse_sqrt:peak=3e-4,warmup=2000-steps,offset=20000-steps",
        averages={"ema25": "anytime_ema:f=25"},
    )

    AnytimeSchedulers     lr_scheduler: any schedule of ours; training.steps is where to stop today
    AnytimeCheckpoints    checkpoint: averages, kept beside the model and in its checkpoints
    AnytimeValidator      validator: the loss of every average beside that of the weights
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torchtitan.components.checkpointer import CheckpointManager
from torchtitan.components.optimizer import LRSchedulersContainer
from torchtitan.components.validate import Validator
from torchtitan.tools.logging import logger

from anytrain import rules, schedules
from anytrain.errors import nearest
from anytrain.integrations.group_rates import GroupRates, require_no_jump
from anytrain.integrations.model_parts import KEY, PartsAverages, average
from anytrain.schedules import Schedule

__all__ = ["AnytimeCheckpoints", "AnytimeSchedulers", "AnytimeValidator", "anytime", "average"]

_DEFAULTS = {name: rules.spec(rule) for name, rule in rules.DEFAULTS.items()}


class _LastRates:
    """What torchtitan asks of one optimizer's scheduler."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer

    def get_last_lr(self) -> list[float]:
        return [float(group["lr"]) for group in self.optimizer.param_groups]


class AnytimeSchedulers(LRSchedulersContainer):
    """A schedule of ours for all optimizers; the lr of a parameter group is its peak."""

    @dataclass(kw_only=True, slots=True)
    class Config(LRSchedulersContainer.Config):
        schedule: str = "constant:peak=3e-4,warmup=200-steps"
        """A schedule of ours as text, in steps."""

        warmup_steps: int = 0
        """The schedule has a warmup of its own: leave this at 0."""

        def build(self, *, optimizers: Any, training_steps: int) -> "AnytimeSchedulers":
            """Raises ValueError for a second schedule, or for steps beyond this one's horizon."""
            made = schedules.schedule(self.schedule)
            for name in ("warmup_steps", "total_steps", "decay_ratio"):
                if value := getattr(self, name):
                    raise ValueError(f"{name} = {value} beside schedule = {self.schedule}")
            end = schedules.horizon(made)
            if end is not None and training_steps > math.ceil(end):
                raise ValueError(
                    f"training.steps = {training_steps} lies beyond the horizon of {end:g} steps "
                    f"of {self.schedule}; fewer, or a schedule without a horizon, are valid"
                )
            return AnytimeSchedulers(optimizers, made)

    def __init__(self, optimizers: Any, schedule: Schedule) -> None:
        self.rates = GroupRates(list(optimizers), schedule)
        self.schedulers = [_LastRates(optimizer) for optimizer in optimizers]
        # a checkpoint's optimizers bring the rates they were saved with
        optimizers.register_step_pre_hook(lambda *_: self.rates.set())

    def step(self) -> None:
        self.rates.step()

    def state_dict(self) -> dict[str, Any]:
        """As torchtitan's own, so that either goes on from the other's checkpoint."""
        return {"last_epoch": self.rates.taken}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rates.taken = int(state_dict["last_epoch"])
        self.rates.set()


class _State:
    """Our part of a checkpoint: the averages, and what the schedule had come to."""

    def __init__(self, averages: PartsAverages, schedulers: Any) -> None:
        self.averages = averages
        self.rates = schedulers.rates if isinstance(schedulers, AnytimeSchedulers) else None

    def state_dict(self) -> dict[str, Any]:
        nothing = {"schedule": "", "step": 0, "rate": -1.0}
        return {
            "averages": self.averages.state_dict(),
            "schedule": self.rates.record() if self.rates is not None else nothing,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.rates is not None:
            require_no_jump(self.rates.schedule, state["schedule"], "the checkpoint")
        self.averages.load_state_dict(state["averages"])


class AnytimeCheckpoints(CheckpointManager):
    """torchtitan's checkpoints with averages in them; the averages live here, enabled or not.

    They move in the optimizers' step, after which nothing is staged. A checkpoint without them is
    refused unless `exclude_from_loading` names "anytrain": they begin there then.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(CheckpointManager.Config):
        averages: dict[str, str] = field(default_factory=lambda: dict(_DEFAULTS))
        """Rules of ours as text, by name."""

        last_save_model_only: bool = False
        """A last checkpoint of weights alone, torchtitan's default, could not be extended."""

    def __init__(
        self,
        config: Config,
        *,
        model_parts: list[torch.nn.Module],
        optimizers: Any,
        lr_schedulers: Any,
        states: dict[str, Any],
        **rest: Any,
    ) -> None:
        self.averages = PartsAverages(model_parts, config.averages)
        self.averages.follow(optimizers)
        optimizers.averages = self.averages  # where the validator finds them
        states[KEY] = _State(self.averages, lr_schedulers)
        super().__init__(
            config,
            model_parts=model_parts,
            optimizers=optimizers,
            lr_schedulers=lr_schedulers,
            states=states,
            **rest,
        )

    def dcp_load(
        self, state_dict: dict[str, Any], checkpoint_id: str, *rest: Any, **named: Any
    ) -> None:
        """As torchtitan has it; averages that the checkpoint lacks are a ValueError before it."""
        if KEY in state_dict and self.averages.rules:
            stored = FileSystemReader(checkpoint_id).read_metadata().state_dict_metadata
            for name in self.averages.rules:
                if not any(key.startswith(f"{KEY}.averages.tensors.{name}.") for key in stored):
                    raise ValueError(
                        f"{checkpoint_id} holds no average {name!r}; one that does is valid, or "
                        f'checkpoint.exclude_from_loading = ["{KEY}"] to begin the averages there'
                    )
        super().dcp_load(state_dict, checkpoint_id, *rest, **named)


class _Named:
    """A metrics processor to which a validation is that of an average."""

    def __init__(self, processor: Any, name: str) -> None:
        self.processor, self.name = processor, name
        self.ntokens_since_last_log = 0  # that many tokens were not trained on

    def log_validation(self, loss: float, step: int, **_: Any) -> None:
        self.processor.logger.log({f"validation_metrics/{self.name}/loss": loss}, step)
        logger.info(f"validate step: {step:2}  {self.name}  loss: {loss:7.4f}")


class AnytimeValidator(Validator):
    """torchtitan's validation, then one of every average: `validation_metrics/ema25/loss`."""

    @dataclass(kw_only=True, slots=True)
    class Config(Validator.Config):
        evaluated: list[str] | None = None
        """Which averages; absent is all of them."""

    metrics_processor: Any

    def __init__(self, config: Config, **named: Any) -> None:
        """Raises ValueError for an average that is not kept."""
        super().__init__(config, **named)
        averages = getattr(self.metrics_processor.optimizers, "averages", None)
        self.evaluated = list(averages.rules) if averages is not None else []
        for name in config.evaluated or []:
            if name not in self.evaluated:
                raise ValueError(f"evaluated names {name!r}{nearest(name, self.evaluated)}")
        if config.evaluated is not None:
            self.evaluated = config.evaluated

    def validate(self, model_parts: list[torch.nn.Module], step: int) -> None:
        super().validate(model_parts, step)
        for name in self.evaluated:
            averages = self.metrics_processor.optimizers.averages
            with averages.applied(name), self._named(name):
                super().validate(model_parts, step)

    @contextmanager
    def _named(self, name: str) -> Iterator[None]:
        processor = self.metrics_processor
        self.metrics_processor = _Named(processor, name)
        try:
            yield
        finally:
            self.metrics_processor = processor


def anytime(config: Any, schedule: str, averages: Mapping[str, str] | None = None) -> Any:
    """A Trainer.Config with our components in place of its own, their other settings kept.

    Its last checkpoint is a whole one, whatever it was: it may be extended. Raises ValueError where
    the checkpoints or the validator are of another kind than torchtitan's usual ones.
    """
    ours = {
        "averages": dict(_DEFAULTS if averages is None else averages),
        "last_save_model_only": False,
    }
    checkpoint = _settings("checkpoint", config.checkpoint, CheckpointManager.Config)
    validator = _settings("validator", config.validator, Validator.Config)
    config.lr_scheduler = AnytimeSchedulers.Config(schedule=schedule)
    config.checkpoint = AnytimeCheckpoints.Config(**{**checkpoint, **ours})
    config.validator = AnytimeValidator.Config(**validator)
    return config


def _settings(name: str, config: Any, kind: Any) -> dict[str, Any]:
    if type(config) is not kind:
        raise ValueError(
            f"{name} is a {type(config).__qualname__}; {kind.__qualname__} is valid: for another "
            "kind make a class of it and of ours"
        )
    return {f.name: getattr(config, f.name) for f in fields(config)}
