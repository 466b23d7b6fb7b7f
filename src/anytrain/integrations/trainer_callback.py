"""`AnytimeCallback`: averages of the model that any Trainer of transformers or TRL trains."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from anytrain import rules as rule_book
from anytrain.integrations import stored
from anytrain.integrations.trainable import TrainableAverages
from anytrain.rules import Rule


class AnytimeCallback(TrainerCallback):
    """Averages of a Trainer's model: one move a step that the optimizer really took.

    They begin with the training, as copies of its weights, are written into each checkpoint and
    read from the one that is resumed. `rules` are ours or their text, by name. With a plain
    Trainer the folder of averages is the last thing written to a checkpoint and is looked for in
    `args.output_dir`, or in `checkpoint` where one was resumed from elsewhere.
    """

    def __init__(
        self,
        rules: Mapping[str, Rule | str] | None = None,
        *,
        every: int = 1,
        device: str | None = None,
        missing: stored.Missing = "error",
        checkpoint: str | Path | None = None,
    ) -> None:
        if missing not in ("error", "begin"):
            raise ValueError(f"missing = {missing!r}; 'error' and 'begin' are valid")
        self.rules = rule_book.named(rules)
        self.every = every  # steps
        self.device = device
        self.missing: stored.Missing = missing
        self.checkpoint = Path(checkpoint) if checkpoint is not None else None
        self.averages: TrainableAverages | None = None  # from the beginning of a training on
        self.saved_by_trainer = False
        self.scale = 0.0  # of the gradients at the last step; 0 where nothing scales them

    def on_train_begin(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
        """Begin the averages, or go on with those of the checkpoint that is resumed."""
        _require_supported(args)
        self.averages = TrainableAverages(objects["model"], self.rules, self.every, self.device)
        if state.global_step == 0:
            return
        folder = self.checkpoint or Path(args.output_dir) / f"checkpoint-{state.global_step}"
        stored.load(folder, self.averages, state.global_step, self.missing)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
        """Remember the scale of half precision's gradients, which falls where a step is skipped."""
        scaler = getattr(objects["optimizer"], "scaler", None)
        self.scale = scaler.get_scale() if scaler is not None else 0.0

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
        """Once an update, however many batches it took; a step that the scaler skipped is none.

        A fused optimizer is called for a step that it then skips by itself, and accelerate takes
        it for a real one: it is told, so that the rate does not move either.
        """
        optimizer = objects["optimizer"]
        if self.scale and optimizer.scaler.get_scale() < self.scale:
            optimizer._is_overflow = True
        if not getattr(optimizer, "step_was_skipped", False):
            self._begun("update").update()

    def on_save(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
        """Add the averages to the checkpoint that a plain Trainer has just written."""
        if not self.saved_by_trainer:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            stored.save(folder, self._begun("save"), None, args.should_save)

    def applied(self, name: str) -> AbstractContextManager[Any]:
        """Inside, the model has the weights of one average; the raw ones return on every exit."""
        return self._begun(f"apply {name!r}").applied(name)

    def _begun(self, what: str) -> TrainableAverages:
        if self.averages is None:
            raise RuntimeError(f"cannot {what}: averages begin when the Trainer's `train` does")
        return self.averages


def _require_supported(args: Any) -> None:
    """ValueError for a way of sharding whose tensors are not rows of the model's."""
    fsdp = getattr(args, "fsdp_config", None) or {}
    if getattr(args, "deepspeed", None):
        raise ValueError("deepspeed is set: its shards cannot be averaged; FSDP2 or DDP are valid")
    if getattr(args, "fsdp", None) and int(fsdp.get("version", fsdp.get("fsdp_version", 2))) != 2:
        raise ValueError("fsdp_config version = 1: its shards cannot be averaged; 2 is valid")
