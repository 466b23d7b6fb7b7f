"""What a recipe costs, from its numbers alone: no weight is allocated, no torch is loaded."""

import dataclasses
from dataclasses import dataclass
from math import ceil, log2, log10
from pathlib import Path

from anytrain.averaging.posthoc import next_moment
from anytrain.data.shards import Corpus
from anytrain.errors import UserError
from anytrain.training.config import Recipe
from anytrain.training.fitting import LOGITS

FP32 = 4  # bytes
MONTH = 30 * 86400.0  # seconds


@dataclass(frozen=True)
class Plan:
    """Costs of a recipe. Bytes and FLOPs are computed, not measured."""

    parameters: int
    non_embedding: int
    unit_tokens: int
    unit_steps: int
    flops_per_token: float  # forward and backward
    unit_flops: float
    devices: int
    micro_batch: int  # sequences at once on a device
    weights: int  # bytes a device, like the next four
    gradients: int
    optimizer: int
    averages: int  # the tracks of snapshots included
    activations: int
    checkpoint: int  # bytes of one
    snapshot: int  # bytes of one; 0 where none are taken
    speed: float  # FLOP/s of one device, assumed
    month_tokens: float
    month_kept: int  # bytes of the checkpoints that stay after a month
    month_snapshots: int  # bytes of the snapshots taken in a month: all stay
    evaluation_share: float  # of the time of the first unit, before the recipe's cap
    evaluation_cap: float

    @property
    def memory(self) -> int:
        """Bytes on each device."""
        return self.weights + self.gradients + self.optimizer + self.averages + self.activations


def with_known_vocab(recipe: Recipe) -> Recipe:
    """The recipe with its vocabulary: its own, that of a corpus in place, or of one to prepare."""
    if recipe.model.vocab is not None:
        return recipe
    for path in recipe.data.sources:
        if (Path(path) / "manifest.json").is_file():
            vocab = Corpus.open(path, verify="sizes").vocab
            if vocab is not None:
                return dataclasses.replace(recipe, model=recipe.model.with_vocab(vocab))
    tokenizer = recipe.data.prepare.tokenizer if recipe.data.prepare else ""
    if not tokenizer.startswith("bpe:"):
        raise UserError(f"{recipe.name}: the corpus decides the vocabulary; give model.vocab")
    vocab = int(tokenizer.removeprefix("bpe:"))
    return dataclasses.replace(recipe, model=recipe.model.with_vocab(vocab))


def plan(recipe: Recipe, devices: int = 1, speed: float = 4e14) -> Plan:
    """The costs on `devices` that share the state equally, each doing `speed` FLOP/s."""
    if devices < 1:
        raise UserError(f"--devices {devices}; 1 or more is valid")
    if not speed > 0:
        raise UserError(f"--speed {speed:g}; FLOP/s above 0 are valid")
    recipe = with_known_vocab(recipe)
    shape, train = recipe.model, recipe.train
    share = ceil(shape.parameters / devices)  # parameters whose state a device holds
    micro = train.micro_batch or max(1, train.batch // devices)
    if micro > train.batch:
        raise UserError(f"train.micro_batch = {micro} exceeds train.batch = {train.batch}")
    flops = shape.flops_per_token(train.context)
    averages = recipe.running
    optimizer = optimizer_bytes(recipe)
    checkpoint = FP32 * shape.parameters * (1 + averages) + optimizer
    month = speed * devices * MONTH / flops  # tokens
    snapshot = snapshot_bytes(recipe)
    item = 2 if train.precision == "bf16" else FP32
    return Plan(
        parameters=shape.parameters,
        non_embedding=shape.non_embedding,
        unit_tokens=recipe.unit_tokens,
        unit_steps=ceil(recipe.unit_tokens / (train.batch * train.context)),
        flops_per_token=flops,
        unit_flops=flops * recipe.unit_tokens,
        devices=devices,
        micro_batch=micro,
        weights=FP32 * share,
        gradients=FP32 * share,
        optimizer=ceil(optimizer / devices),
        averages=FP32 * share * averages,
        activations=round(shape.activation_bytes_per_token(item) * train.context * micro)
        + shape.head_bytes(item, LOGITS),
        checkpoint=checkpoint,
        snapshot=snapshot,
        speed=speed,
        month_tokens=month,
        month_kept=checkpoint * _kept(recipe, month),
        month_snapshots=snapshot * _taken(recipe, month),
        evaluation_share=evaluation_share(recipe),
        evaluation_cap=recipe.evaluate.share,
    )


def optimizer_bytes(recipe: Recipe) -> int:
    """State of the update rule: two moments for AdamW and Schedule-Free, one for SGD and Muon."""
    shape, kind = recipe.model, recipe.optimizer.kind
    if kind == "sgd":
        return FP32 * shape.parameters
    if kind == "muon":
        hidden = sum(
            a * b
            for name, (a, *more) in shape.tensors().items()
            for b in more
            if ".layers." in name
        )
        return FP32 * (hidden + 2 * (shape.parameters - hidden))
    return 2 * FP32 * shape.parameters


def _kept(recipe: Recipe, tokens: float) -> int:
    """Checkpoints that stay up to so many tokens: 2^k units, 90% of them, and the newest."""
    doublings = max(0, int(log2(tokens / recipe.unit_tokens)) + 1) if tokens > 0 else 0
    return 2 * doublings + recipe.checkpoint.newest + len(recipe.checkpoint.at)


def snapshot_bytes(recipe: Recipe) -> int:
    """One snapshot: every track, in the type it has on the disk."""
    settings = recipe.snapshots
    if settings is None:
        return 0
    item = FP32 if settings.dtype == "float32" else 2
    return item * recipe.model.parameters * len(settings.tracks)


def _taken(recipe: Recipe, tokens: float) -> int:
    """Snapshots up to so many tokens: the first moments fall on the same steps."""
    if recipe.snapshots is None:
        return 0
    steps, moment, count = tokens / recipe.train.tokens_per_step, 0, 0
    while (moment := next_moment(moment, recipe.snapshots.per_decade)) <= steps:
        count += 1
    return count


def evaluation_share(recipe: Recipe) -> float:
    """Time evaluating over time training in the first unit: a forward pass is a third of a step."""
    train = recipe.train
    steps = recipe.unit_tokens / (train.batch * train.context)
    moments = max(1.0, recipe.evaluate.per_decade * log10(max(steps, 1.0)))
    tokens = moments * recipe.evaluate.tokens.amount * (1 + len(recipe.averages))
    return tokens / 3 / recipe.unit_tokens


def lines(made: Plan) -> list[tuple[str, str]]:
    """The plan as labelled text."""
    speed = f"{made.devices} × {made.speed / 1e12:g} TFLOP/s"
    kept = f"{size(made.month_kept)} kept after a month ({short(made.month_tokens)} tokens)"
    snapshots = f"{size(made.snapshot)} each, {size(made.month_snapshots)} after a month"
    return [
        ("parameters", f"{short(made.parameters)} ({short(made.non_embedding)} non-embedding)"),
        ("unit (1×)", f"{short(made.unit_tokens)} tokens, {made.unit_steps:,} steps"),
        ("compute", f"{made.flops_per_token:.3g} FLOPs a token, {made.unit_flops:.3g} a unit"),
        ("", f"{_time(made.unit_flops / made.speed / made.devices)} a unit at {speed} (assumed)"),
        (f"memory a device (1 of {made.devices})", size(made.memory)),
        ("  weights, gradients", f"{size(made.weights)}, {size(made.gradients)}"),
        ("  optimizer, averages", f"{size(made.optimizer)}, {size(made.averages)}"),
        ("  activations", f"{size(made.activations)} at {made.micro_batch} sequences at once"),
        ("checkpoint", f"{size(made.checkpoint)} each, and as much host memory to write it from"),
        ("", kept),
        *([("snapshots", snapshots)] if made.snapshot else []),
        (
            "evaluation",
            f"{made.evaluation_share:.1%} of the first unit's time, "
            f"capped at {made.evaluation_cap:.0%}",
        ),
    ]


def short(count: float) -> str:
    """Three or four digits with k, M, B or T."""
    for suffix, scale in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= scale:
            return f"{count / scale:.4g}{suffix}"
    return f"{count:.4g}"


def size(count: float) -> str:
    """Bytes for a person, decimal units."""
    for suffix, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {suffix}"
    return f"{count:.0f} B"


def _time(seconds: float) -> str:
    for unit, scale in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds:.3g} seconds"
