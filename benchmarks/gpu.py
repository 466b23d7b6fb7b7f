"""What a GPU makes of the recipes: tokens/s, model FLOP utilisation, averages, memory.

python -m benchmarks.gpu        (about ten minutes on an H100; without CUDA every row says so)

Wall time between two synchronisations, bf16 autocast over fp32 weights, compiled. The same shape
also goes through a loop as nanoGPT's and through `transformers.Trainer`.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from anytrain.averaging import Averages
from anytrain.models.decoder import Decoder
from anytrain.models.shape import DecoderShape
from anytrain.rules import AnytimeEma
from anytrain.schedules import Constant
from anytrain.training import recipes, start
from anytrain.training.config import Recipe
from anytrain.training.loop import train
from anytrain.training.plan import plan
from anytrain.training.run import Run
from benchmarks.harness import Row, Target, interleaved, report

PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "B200": 2250e12}  # dense bf16 FLOP/s
SHAPES = {"150M": "anytime-150m", "302M": "anytime-300m", "1B": "anytime-1b"}  # recipes
UTILISATION = {"150M": 0.35, "302M": 0.35, "1B": 0.40}  # targets
TOKENS = 65_536  # a step
MICRO = {"150M": 32, "302M": 16, "1B": 4}  # sequences at once
ROUNDS = 10  # steps that are timed


def settings(name: str, averages: int) -> Recipe:
    """A shipped recipe at 64k tokens a step, with so many of its averages."""
    made = recipes.load(SHAPES[name])
    kept = dict(itertools.islice(made.averages.items(), averages))
    batch, micro = TOKENS // made.train.context, MICRO[name]
    step = replace(made.train, batch=batch, micro_batch=micro, reference_batch=None, compile=True)
    return replace(made, averages=kept, train=step)


class Steps:
    """A run on random tokens that takes a step, and waits for it, when it is called."""

    def __init__(self, made: Recipe, device: str) -> None:
        self.device, self.made = device, made
        start.set_determinism(made)
        model = Decoder.seeded(made.model, 0, device)
        if made.train.compile:
            model.compile()
        micro = made.train.micro_batch or made.train.batch
        self.run = Run.start(made, model, micro, None)
        self.steps = train(self.run, tokens(made, device), Constant(1e-4))

    def __call__(self) -> float:
        return wait(self.device, next(self.steps).loss)


def tokens(made: Recipe, device: str) -> Iterator[Tensor]:
    """The same few random batches again and again: (B, T + 1)."""
    generator = torch.Generator().manual_seed(0)
    shape = (made.train.batch, made.train.context + 1)
    few = [torch.randint(made.model.tokens, shape, generator=generator) for _ in range(4)]
    return itertools.cycle([batch.to(device) for batch in few])


def wait(device: str, value: Any) -> Any:
    """`value`, once the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    return value


# --- peers ------------------------------------------------------------------------------------


def nanogpt(made: Recipe, device: str) -> Callable[[], float]:
    """A training step as nanoGPT writes it, on our model with PyTorch's own cross-entropy."""
    model = Decoder.seeded(made.model, 0, device)
    step: Callable[..., Tensor] = torch.compile(model) if made.train.compile else model
    fused = {"fused": True, "betas": (0.9, 0.95), "weight_decay": 0.0}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, **fused)
    batches, micro = tokens(made, device), made.train.micro_batch or made.train.batch

    def once() -> float:
        total = 0.0
        parts = next(batches).split(micro)
        for part in parts:
            with torch.autocast(device, torch.bfloat16):
                logits = step(part[:, :-1])
                loss = torch.nn.functional.cross_entropy(
                    logits.flatten(0, 1).float(), part[:, 1:].flatten()
                )
            (loss / len(parts)).backward()
            total += loss.detach() / len(parts)
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return wait(device, float(total))

    return once


def trainer(made: Recipe, device: str, folder: str) -> float:
    """Tokens/s of `transformers.Trainer` on a Llama of the recipe's size."""
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback
    from transformers import TrainingArguments as Arguments

    shape, step = made.model, made.train
    llama = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=shape.width, num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
            intermediate_size=shape.mlp_width, vocab_size=shape.tokens,
            max_position_embeddings=step.context, tie_word_embeddings=shape.tied,
        )
    )  # fmt: skip
    times: list[float] = []

    class Ticks(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(wait(device, perf_counter()))

    rows = next(tokens(made, "cpu"))[:, :-1]
    examples = [{"input_ids": row, "labels": row} for row in rows] * (ROUNDS + 2)
    micro = step.micro_batch or step.batch
    arguments = Arguments(
        output_dir=folder, max_steps=ROUNDS + 2, per_device_train_batch_size=micro,
        gradient_accumulation_steps=step.batch // micro, bf16=True,
        torch_compile=bool(step.compile), report_to=[], save_strategy="no",
        logging_strategy="no", disable_tqdm=True, log_level="error", use_cpu=device == "cpu",
    )  # fmt: skip
    Trainer(llama, arguments, train_dataset=examples, callbacks=[Ticks()]).train()
    return step.batch * step.context * ROUNDS / (times[-1] - times[-1 - ROUNDS])


# --- rows -------------------------------------------------------------------------------------


def training(name: str, made: Recipe, device: str, peak: float, folder: str) -> list[Row]:
    """Tokens/s with averages and without, utilisation, memory: one shape."""
    per_step = made.train.batch * made.train.context
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    ours = Steps(made, device)
    losses = [ours() for _ in range(3)]
    used = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    without = Steps(replace(made, averages={}), device)
    nano = nanogpt(made, device)
    apart = max(abs(a - b) for a, b in zip(losses, [nano() for _ in range(3)], strict=True))
    if not apart < 0.05:
        raise AssertionError(f"losses differ by {apart}")
    found = interleaved({"ours": ours, "without": without, "nano": nano}, ROUNDS, perf_counter)
    rates = {key: per_step / seconds for key, seconds in found.items()}
    flops = made.model.flops_per_token(made.train.context)
    del ours, without, nano
    rates["trainer"] = trainer(made, device, folder)
    equal = f"losses of the first steps of the nanoGPT loop, {apart:.0e} apart"
    speed = Row(
        f"{name}: training with {len(made.averages)} averages",
        "tokens/s",
        rates["ours"],
        equal,
        {
            "no averages": rates["without"],
            "nanoGPT loop": rates["nano"],
            "transformers.Trainer": rates["trainer"],
        },
        targets=(Target("no averages", "≥", 0.97),),
    )
    share = rates["ours"] * flops / peak
    targets = (Target("", "≥", UTILISATION[name]),) if name in UTILISATION else ()
    rows = [speed, Row(f"{name}: model FLOP utilisation", "of peak", share, equal, targets=targets)]
    if device == "cuda":
        told = plan(made).memory
        limits = (Target("plan", "≤", 1.1), Target("plan", "≥", 0.9))
        rows.append(
            Row(f"{name}: peak memory", "GB", used / 1e9, "-", {"plan": told / 1e9}, None, limits)
        )
    return rows


def averages(shape: DecoderShape, device: str) -> Row:
    """One pass over four averages against four lerps, and against its bytes at full bandwidth."""
    model = Decoder.seeded(shape, 0, device)
    mine = Averages(model, {f"ema{f}": AnytimeEma(f) for f in (6, 12, 25, 50)})
    live = [p.detach() for p in model.parameters()]
    theirs = [[p.clone() for p in live] for _ in mine.rules]
    for p in live:
        p.mul_(1.5)
    number = itertools.count(1)

    def peer() -> None:
        t = float(next(number))
        for tensors, rule in zip(theirs, mine.rules.values(), strict=True):
            torch._foreach_lerp_(tensors, live, rule(t))
        wait(device, None)

    def stream() -> None:
        torch._foreach_mul_(live, 1.0)
        wait(device, None)

    found = interleaved(
        {"ours": lambda: wait(device, mine.update()), "peer": peer, "stream": stream},
        ROUNDS,
        perf_counter,
    )
    pairs = zip(mine.tensors.values(), theirs, strict=True)
    off = max(
        float((a - b).abs().max() / (1 + b.abs().max()))
        for tensors, other in pairs
        for a, b in zip(tensors.values(), other, strict=True)
    )
    if not off < 1e-5:
        raise AssertionError(f"averages differ by {off}")
    return Row(
        f"update of 4 averages, {shape.parameters / 1e6:.0f}M, {device}",
        "ms",
        found["ours"] * 1e3,
        f"the same averages, {off:.0e} apart",
        {"four _foreach_lerp_": found["peer"] * 1e3},
        4.5 * found["stream"] * 1e3,
        (Target("four _foreach_lerp_", "≤", 0.75), Target("floor", "≤", 1.2)),
    )


def rows() -> list[Row]:
    if not torch.cuda.is_available():
        missing = "there is no CUDA GPU here"
        names = [f"{name}: tokens/s, utilisation, averages, peak memory" for name in SHAPES]
        return [Row(f"GPU {name}", "", None, missing) for name in [*names, "averages' kernel"]]
    device = torch.cuda.get_device_name()
    peak = next((value for key, value in PEAK.items() if key in device), 989e12)
    found = []
    for name in SHAPES:
        with TemporaryDirectory() as folder:
            found += training(name, settings(name, 4), "cuda", peak, folder)
        torch.cuda.empty_cache()
    return [averages(settings("150M", 4).model, "cuda"), *found]


if __name__ == "__main__":
    report(rows(), torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU")
