"""Whole trainers: ours and `transformers.Trainer`, on the same weights and batches.

python -m benchmarks.trainers        (about three minutes; peers: pip install 'anytrain[bench]')

Short runs in turn, each in a process of its own, one thread, CPU time of every step.
"""

import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import torch

from anytrain.grammar import Quantity
from anytrain.models.huggingface import write_directory
from anytrain.rundir import RunDir
from anytrain.training import recipes, start
from anytrain.training.pretrain import build
from anytrain.training.sitting import Sitting
from anytrain.training.stopping import Stop
from benchmarks.harness import Row, Target, cpu_name, report
from benchmarks.training import (
    BATCH,
    LR,
    MIDDLE,
    SHAPE,
    TOKENS,
    Going,
    agreement,
    bytes_of_python,
    recipe,
    weights,
)  # fmt: skip

STEPS = 8  # of a short run; the first two are not timed
# Llamas: the demo recipe's; with 32,000 tokens, where the head is most of a step; and one where
# nine tenths of a step are matrix products and attention, which every trainer here shares.
SMALL = {"layers": 3, "width": 96, "heads": 3, "mlp": 256, "tied": True, **SHAPE}
WORDY = {"layers": 4, "width": 128, "heads": 4, "mlp": 352, "tied": True, **SHAPE, "vocab": 32_000}
SIZES = (SMALL, WORDY, MIDDLE)


class Ticks:
    """CPU time at the end of every step, as a logger of ours and a callback of theirs."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.losses: list[float] = []

    def log(self, record: dict[str, Any]) -> None:
        if "loss" in record:
            self.times.append(process_time())
            self.losses.append(record["loss"])

    def close(self) -> None:
        """Nothing is open."""

    @property
    def steps(self) -> list[float]:
        """Seconds of every step but the first two."""
        return [b - a for a, b in itertools.pairwise(self.times)][1:]


def short_run(whose: str, toml: Path, folder: Path) -> dict[str, list[float]]:
    """Step times and losses of `our_trainer` or `their_trainer` in a process of its own.

    In one process the second would find memory as the first has left it.
    """
    code = f"""
import json, torch
from pathlib import Path
from benchmarks import trainers
torch.set_num_threads(1)
ticks = trainers.{whose}_trainer(Path({str(toml)!r}), Path({str(folder)!r}))
print(json.dumps({{"steps": ticks.steps, "losses": ticks.losses}}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    found: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def our_trainer(toml: Path, folder: Path) -> Ticks:
    """A short sitting with everything a user has: run directory, metrics, checkpoint at the end."""
    ticks, rundir, settings = Ticks(), RunDir(folder), recipes.load(str(toml))
    start.set_determinism(settings)
    data = start.open_data(settings)
    settings = start.resolved(settings, data)
    start.create(rundir, settings, data)
    stop = Stop(until=Quantity(STEPS, "steps"))
    Sitting(build(settings, data), rundir, data, stop, [ticks]).go()
    return ticks


def their_trainer(toml: Path, folder: Path) -> Ticks:
    """The same steps of `transformers.Trainer`, on the same weights as a Hugging Face Llama."""
    from torch.utils.data import SequentialSampler
    from transformers import LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

    settings = recipes.load(str(toml))
    data = start.open_data(settings)
    windows = torch.from_numpy(data.batch(0, BATCH * STEPS))
    examples = [{"input_ids": w[:-1], "labels": w[1:], "shift_labels": w[1:]} for w in windows]
    ticks = Ticks()

    class Callback(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ticks.times.append(process_time())

        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            if "loss" in logs:
                ticks.losses.append(logs["loss"])

    class InOrder(Trainer):  # type: ignore[misc]
        def _get_train_sampler(self, *_: Any) -> SequentialSampler:
            return SequentialSampler(examples)

    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=STEPS, per_device_train_batch_size=BATCH,
        learning_rate=LR, lr_scheduler_type="constant", adam_beta2=0.95, weight_decay=0.0,
        logging_steps=1, report_to=[], save_strategy="no", disable_tqdm=True, use_cpu=True,
        log_level="error", remove_unused_columns=False,
    )  # fmt: skip
    llama = LlamaForCausalLM.from_pretrained(toml.parent / "llama")
    InOrder(llama, arguments, train_dataset=examples, callbacks=[Callback()]).train()
    return ticks


def trainers(corpus: Path, model: dict[str, Any], folder: Path) -> Row:
    """Whole trainers, eager fp32."""
    settings = recipe(corpus, model=model)
    shape = start.resolved(settings, start.open_data(settings)).model
    write_directory(folder / "llama", shape, dict(weights(Going(settings).run)))
    toml = folder / "recipe.toml"
    toml.write_text(settings.toml(), encoding="utf-8")
    seconds: dict[str, list[float]] = {"our": [], "their": []}
    losses: dict[str, list[float]] = {}
    for number in range(4):
        for name in seconds:
            found = short_run(name, toml, folder / f"{name}-{number}")
            seconds[name] += found["steps"]
            losses[name] = found["losses"]
    our_rate, their_rate = (TOKENS / median(values) for values in seconds.values())
    return Row(
        f"6  our trainer against Trainer, {shape.parameters / 1e6:.1f}M",
        "tokens/s",
        our_rate,
        agreement(losses["our"], losses["their"]),
        {"transformers.Trainer": their_rate},
        targets=(Target("transformers.Trainer", "≥", 1.10),),
    )


def rows() -> list[Row]:
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        corpus = bytes_of_python(home / "corpus")
        return [trainers(corpus, model, made(home, n)) for n, model in enumerate(SIZES)]


def made(home: Path, number: int) -> Path:
    folder = home / str(number)
    folder.mkdir()
    return folder


if __name__ == "__main__":
    report(rows(), cpu_name())
