"""What a sweep of fine-tunings is asked for: arXiv:2603.16127's protocol, unless said otherwise."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from math import ceil, isfinite
from pathlib import Path
from typing import Any, Literal, get_args

from anytrain.errors import UserError, nearest
from anytrain.posttrain.rows import Method

Keep = Literal["chosen", "all", "none"]

# higher is better; the first is the score where the loss chooses the rate
SCORES: dict[Method, tuple[str, ...]] = {"sft": ("exact_match", "choice"), "dpo": ("accuracy",)}

# TRL's settings that a sweep makes itself; another value would make the points incomparable.
_OURS = {
    *("output_dir", "learning_rate", "seed", "data_seed", "num_train_epochs", "max_steps"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "warmup_steps"),
    *("warmup_ratio", "packing", "padding_free", "max_length", "assistant_only_loss"),
    *("completion_only_loss", "save_strategy", "eval_strategy", "report_to", "use_cpu"),
    *("dataset_kwargs", "precompute_ref_log_probs", "remove_unused_columns", "shuffle_dataset"),
    *("chat_template_path", "eos_token", "pad_token", "load_best_model_at_end"),
}


@dataclass(frozen=True)
class Settings:
    """Everything that decides a point but its base, its rate and its seed."""

    method: Method
    metric: str  # a score of the method or "loss": chooses the rate
    epochs: int = 1
    batch: int = 128  # conversations, or preferences, a step
    warmup: int = 100  # steps, at most a tenth of the run
    packing: bool = True
    trl: Mapping[str, Any] = field(default_factory=dict)  # settings of TRL by name
    micro_batch: int | None = None  # of one device at a time; None: as many as fit 16,384 tokens

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise UserError(f"--method {self.method}: sft and dpo are valid")
        valid = (*SCORES[self.method], "loss")
        if self.metric not in valid:
            known = f"{', '.join(valid[:-1])} and {valid[-1]}"
            raise UserError(
                f"--metric {self.metric}: with --method {self.method}, {known} are valid"
            )
        for name, least in (("epochs", 1), ("batch", 1), ("warmup", 0), ("micro_batch", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                option = name.replace("_", "-")
                raise UserError(f"--{option} {value}; a whole number of {least} or more is valid")

    @property
    def score(self) -> str:
        """What the share of correct rows is called."""
        return SCORES[self.method][0] if self.metric == "loss" else self.metric

    def as_json(self) -> dict[str, Any]:
        """What has to be the same for a sweep to go on."""
        return {**asdict(self), "trl": dict(self.trl)}

    def steps(self, rows: int) -> int:
        """Optimizer steps of a run over so many rows."""
        return ceil(rows / self.batch) * self.epochs

    def warmup_steps(self, rows: int) -> int:
        """Warmup as asked, at most a tenth of the run."""
        return min(self.warmup, self.steps(rows) // 10)


def rates(text: str) -> list[float]:
    """`1e-5,3e-5` in rising order; UserError for what is no rate and for one named twice."""
    found: list[float] = []
    for part in text.split(","):
        try:
            rate = float(part)
        except ValueError as error:
            raise UserError(f"--lr {text!r}: {part!r} is no number; 1e-5,3e-5 is valid") from error
        if not (isfinite(rate) and rate > 0):
            raise UserError(f"--lr {text!r}: {part} is no rate; numbers above 0 are valid")
        if rate in found:
            raise UserError(f"--lr {text!r}: {part} is there twice; once is valid")
        found.append(rate)
    return sorted(found)


def passed_on(words: Sequence[str], method: Method) -> dict[str, Any]:
    """`sft.adam_beta2=0.95` -> a setting of TRL's SFTConfig, its name and the value's type checked.

    Raises UserError for a name that TRL has not, one that the sweep makes itself, a value of
    another type.
    """
    if not words:
        return {}
    from trl import DPOConfig, SFTConfig

    known = {f.name: f.default for f in fields({"sft": SFTConfig, "dpo": DPOConfig}[method])}
    found: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        head, _, name = key.partition(".")
        if not equals or head != method or not name:
            raise UserError(f"{word!r} is no setting; {method}.KEY=VALUE is valid")
        if name not in known:
            raise UserError(f"{key}: TRL has no such setting{nearest(name, known)}")
        if name in _OURS:
            raise UserError(f"{key}: the sweep sets it itself; an option of finetune is valid")
        found[name] = _value(key, text, known[name])
    return found


def _value(key: str, text: str, default: Any) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    kind = type(default)
    if kind is float and type(value) is int:
        value = float(value)
    if kind in (bool, int, float, str) and type(value) is not kind:
        names = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}
        raise UserError(f"{key} = {text!r}; {names[kind]} is valid")
    return value


def file_named(option: str, path: Path | None) -> None:
    """UserError where an option names a file that is not there."""
    if path is not None and not path.is_file():
        raise UserError(f"{option} {path}: no such file; one that is there is valid")
