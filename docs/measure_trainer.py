"""What transformers' own Trainer does where ours is meant to help: the table of in_transformers.md.

    python docs/measure_trainer.py       # writes it anew, at the versions that are installed

Every row is a training of a tiny model with dropout, stopped, extended and looked at; the tests run
the same functions.
"""
# ruff: noqa: E402 (the tiny models are the tests')

import sys
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "integrations"))

import torch
from hf_tiny import SCHEDULE, Rows, Stream, arguments, model, rates, same, weights
from transformers import Trainer, TrainerCallback
from transformers import __version__ as version

from anytrain.integrations.transformers import AnytimeTrainer

PAGE = ROOT / "docs" / "in_transformers.md"
MARK = "<!-- docs/measure_trainer.py -->"
PEAK = 1e-2


def made(ours: bool, out: Path, steps: int, data: Any = None, **settings: Any) -> Any:
    """One or the other trainer, on the same rows; theirs has a peak, ours a schedule with one."""
    callbacks = settings.pop("callbacks", [])
    more: dict[str, Any] = {"callbacks": callbacks, "eval_dataset": Rows(4, 100)}
    kind: Any = Trainer
    if ours:
        kind = AnytimeTrainer
        more |= {"schedule": SCHEDULE, "averages": {"ema2": "anytime_ema:f=2"}}
        for name in ("lr_scheduler_type", "warmup_steps", "lr_scheduler_kwargs"):
            settings.pop(name, None)
    args = arguments(out, max_steps=steps, learning_rate=PEAK, **settings)
    return kind(model(), args, train_dataset=data or Rows(24), **more)


def stream(ours: bool, out: Path) -> str:
    """A stream without a length, and no max_steps."""
    try:
        trainer = made(ours, out, -1, Stream(24))
    except ValueError as error:
        return f"refused: {str(error).split(';')[1].split('. ')[0].strip()}"
    trainer.train()
    return f"trains to its end, {trainer.state.global_step} steps"


def extended(ours: bool, out: Path, **settings: Any) -> tuple[list[float], bool]:
    """The rates of a training of 10 steps that is extended to 20, and whether it has the bits of
    one that was meant for 20."""
    made(ours, out / "parts", 10, **settings).train()
    later = made(ours, out / "parts", 20, **settings)
    later.train(resume_from_checkpoint=True)
    straight = made(ours, out / "straight", 20, **settings)
    straight.train()
    return rates(later), same(weights(later.model), weights(straight.model))


def jump(ours: bool, out: Path, **settings: Any) -> str:
    found, equal = extended(ours, out, warmup_steps=2, **settings)
    end = "the bits" if equal else "other bits"
    steps = ", ".join(f"{rate:.5f}" for rate in found[9:12])
    return f"{steps}; {end}"


def evaluated(ours: bool, out: Path) -> str:
    """Every 4th step is evaluated, and so is the last: a data loader draws what dropout draws."""
    settings = {"lr_scheduler_type": "constant", "eval_strategy": "steps", "eval_steps": 4}
    _, equal = extended(ours, out, **settings)
    return "the bits" if equal else "other bits"


class Changes(TrainerCallback):
    """Counts the steps that changed the weights."""

    def __init__(self) -> None:
        self.seen: list[dict[str, torch.Tensor]] = []

    def on_train_begin(self, *_: Any, **objects: Any) -> None:
        self.seen.append(weights(objects["model"]))

    on_step_end = on_train_begin

    @property
    def count(self) -> int:
        return sum(not same(one, other) for one, other in pairwise(self.seen))


def skipped(ours: bool, out: Path) -> str:
    """fp16's first steps are skipped while its scale is too high; the optimizer is the default."""
    changes = Changes()
    trainer = made(ours, out, 10, callbacks=[changes], save_strategy="no")
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    trainer.train()
    return f"{trainer.lr_scheduler.last_epoch} moves of the rate, {changes.count} updates"


WSD = {"lr_scheduler_kwargs": {"num_decay_steps": 4}}
ROWS: dict[str, Callable[[bool, Path], str]] = {
    "a stream, no `max_steps`": stream,
    "`cosine`, 10 steps extended to 20": lambda o, p: jump(o, p, lr_scheduler_type="cosine"),
    "`warmup_stable_decay`, extended": lambda o, p: jump(
        o, p, lr_scheduler_type="warmup_stable_decay", **WSD
    ),
    "`inverse_sqrt`, extended": lambda o, p: jump(o, p, lr_scheduler_type="inverse_sqrt"),
    "`constant`, extended, evaluated every 4th step and where it stopped": evaluated,
    "fp16 of which 3 steps overflow, 10 steps": skipped,
}


def row(name: str, folder: Path) -> str:
    """One line of the table: theirs, then ours."""
    theirs, ours = (ROWS[name](mine, folder / str(mine)) for mine in (False, True))
    return f"| {name} | {theirs} | {ours} |"


def main() -> None:
    lines = [f"| | `Trainer` of transformers {version} | `AnytimeTrainer` |", "|---|---|---|"]
    for number, name in enumerate(ROWS):
        with tempfile.TemporaryDirectory() as folder:
            lines.append(row(name, Path(folder) / str(number)))
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(MARK)
    _, _, after = rest.partition(MARK)
    table = "\n".join(lines)
    PAGE.write_text(f"{before}{MARK}\n{table}\n{MARK}{after}", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
