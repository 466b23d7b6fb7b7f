"""A training step: with averages and without, against a bare loop and `transformers.Trainer`.

python -m benchmarks.training        (about four minutes; peers: pip install 'anytrain[bench]')

2048 bytes of text a step, one thread. Two runs take their steps in
turn; `Trainer` cannot be asked for one step at a time, so it and ours take short runs in turn.
"""

import itertools
import os
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from anytrain.models.decoder import Decoder
from anytrain.schedules import Constant
from anytrain.training import recipes, start
from anytrain.training.config import Recipe
from anytrain.training.loop import Record, train
from anytrain.training.pretrain import build
from anytrain.training.run import Run
from benchmarks.harness import Row, Target, cpu_name, interleaved, report

BATCH, CONTEXT = 8, 256
TOKENS = BATCH * CONTEXT  # a step
LR = 1e-3
SHAPE = {"context": CONTEXT, "vocab": 4096, "init": "anytime"}
FOUR = {f"ema{f}": f"anytime_ema:f={f}" for f in (6, 12, 25, 50)}


# Llamas: the demo recipe's; with 32,000 tokens, where the head is most of a step; and one where
# nine tenths of a step are matrix products and attention, which every trainer here shares.
SMALL = {"layers": 3, "width": 96, "heads": 3, "mlp": 256, "tied": True, **SHAPE}
MIDDLE = {"layers": 6, "width": 256, "heads": 8, "mlp": 704, **SHAPE}


def bytes_of_python(folder: Path) -> Path:
    """A corpus in nanoGPT's form whose tokens are the bytes of this Python's standard library."""
    folder.mkdir()
    home = Path(sysconfig.get_path("stdlib"))
    text = b"".join(path.read_bytes() for path in sorted(home.glob("*.py")))
    tokens = np.frombuffer(text, np.uint8).astype(np.uint16)
    tokens[: -CONTEXT * 64].tofile(folder / "train.bin")
    tokens[-CONTEXT * 64 :].tofile(folder / "val.bin")
    return folder


def recipe(corpus: Path, **settings: Any) -> Recipe:
    """The model and the step; settings go into [train]."""
    averages = settings.pop("averages", {})
    table = {
        "name": "bench",
        "schedule": f"constant:peak={LR}",
        "unit": "1e6-tokens",
        "model": settings.pop("model", MIDDLE),
        "data": {"path": str(corpus)},
        "train": {"batch": BATCH, "context": CONTEXT, "micro_batch": BATCH, **settings},
        "averages": averages,
        "evaluate": {"tokens": "2048-tokens", "per_decade": 0},
        "checkpoint": {"every": "1h"},
    }  # fmt: skip
    return recipes.recipe(table)


class Going:
    """A run that takes a step whenever it is asked."""

    def __init__(self, settings: Recipe) -> None:
        start.set_determinism(settings)
        self.settings = settings
        data = start.open_data(settings)
        self.run = build(start.resolved(settings, data), data)

        def batches() -> Iterator[Tensor]:
            while True:
                yield torch.from_numpy(data.batch(self.run.clock.samples, BATCH))

        self.steps = train(self.run, batches(), Constant(LR))

    def step(self) -> Record:
        torch.use_deterministic_algorithms(self.settings.train.deterministic)
        return next(self.steps)


def rates(steps: dict[str, Callable[[], object]], repeats: int = 7) -> dict[str, float]:
    """Tokens a second of CPU time, by name."""
    return {name: TOKENS / seconds for name, seconds in interleaved(steps, repeats).items()}


def weights(run: Run) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in run.model.named_parameters()}


def same(a: dict[str, Tensor], b: dict[str, Tensor], within: float = 0.0) -> str:
    """What was compared; raises where it is not equal."""
    off = max(float((a[name] - b[name]).abs().max()) for name in a)
    if a.keys() != b.keys() or off > within:
        raise AssertionError(f"weights differ by {off}")
    return f"weights after the same steps, {off:.0e} apart"


# --- rows -------------------------------------------------------------------------------------


def averaging(corpus: Path) -> Row:
    with_four, without = Going(recipe(corpus, averages=FOUR)), Going(recipe(corpus))
    found = rates({"ours": with_four.step, "without": without.step}, repeats=11)
    return Row(
        "4  training with 4 averages against none",
        "tokens/s",
        found["ours"],
        same(weights(with_four.run), weights(without.run)),
        {"no averages": found["without"]},
        targets=(Target("no averages", "≥", 0.98),),
    )


def bare_loop(corpus: Path) -> Row:
    """The forty lines one writes: the same model, batches, clipping and fused AdamW."""
    ours = Going(recipe(corpus))
    data, model = start.open_data(ours.settings), Decoder.seeded(ours.run.model.shape, 0)
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices}, {"params": vectors}],
        lr=LR, betas=(0.9, 0.95), weight_decay=0.0, fused=True,
    )  # fmt: skip
    samples = itertools.count(step=BATCH)

    def step() -> float:
        batch = torch.from_numpy(data.batch(next(samples), BATCH))
        loss = model.loss(batch[:, :-1], batch[:, 1:])
        loss.backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    found = rates({"ours": ours.step, "bare": step}, repeats=11)
    bare = {name: p.detach() for name, p in model.named_parameters()}
    return Row(
        "5  our loop against a bare PyTorch loop",
        "tokens/s",
        found["ours"],
        same(weights(ours.run), bare, within=1e-4),
        {"bare loop": found["bare"]},
        targets=(Target("bare loop", "≥", 0.98),),
    )


def compiled(corpus: Path) -> Row:
    fast = Going(recipe(corpus, precision="bf16", compile=True))
    slow = Going(recipe(corpus))
    pairs = [(fast.step().loss, slow.step().loss) for _ in range(3)]
    found = rates({"compiled": fast.step, "eager": slow.step})
    return Row(
        "6  compiled bf16 against eager fp32",
        "tokens/s",
        found["compiled"],
        agreement(*(list(each) for each in zip(*pairs, strict=True)), within=0.02),
        {"eager fp32": found["eager"]},
        targets=(Target("eager fp32", "≥", 1.6),),
    )


def agreement(ours: list[float], theirs: list[float], within: float = 2e-3) -> str:
    """What was compared; raises where losses are not equal."""
    off = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
    if off > within:
        raise AssertionError(f"losses differ by {off}: {ours} and {theirs}")
    return f"losses of the same steps, {off:.0e} apart"


def determinism(corpus: Path) -> list[Row]:
    """What `train.deterministic` costs on one thread."""
    rows = []
    for name, settings in {
        "eager fp32": {},
        "compiled bf16": {"precision": "bf16", "compile": True},
    }.items():
        base = recipe(corpus, **settings)
        runs = {
            "ours": Going(base),
            "loose": Going(replace(base, train=replace(base.train, deterministic=False))),
        }
        found = rates({name: run.step for name, run in runs.items()})
        rows.append(
            Row(
                f"11 deterministic steps, {name}",
                "tokens/s",
                found["ours"],
                same(weights(runs["ours"].run), weights(runs["loose"].run), within=1e-2),
                {"train.deterministic = false": found["loose"]},
            )
        )
    start.set_determinism(recipe(corpus))
    return rows


def rows() -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        corpus = bytes_of_python(home / "corpus")
        return [
            averaging(corpus),
            bare_loop(corpus),
            compiled(corpus),
            *determinism(corpus),
        ]


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    torch.set_num_threads(1)
    report(rows(), cpu_name())
