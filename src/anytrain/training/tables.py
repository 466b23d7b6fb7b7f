"""The tables of a recipe, each checked by itself. Absent is `None`. No torch."""

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict
from pydantic.dataclasses import dataclass as checked

from anytrain.grammar import Quantity, duration, moment
from anytrain.rules import PowerEma

Split = Literal["all", "selection", "report"]  # of the held-out sequences

STRICT = ConfigDict(extra="forbid", strict=True)


def _quantity(parse: Any) -> Any:
    def before(value: Any) -> Any:
        return value if isinstance(value, Quantity) else parse(value)

    return BeforeValidator(before)


def _moments(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{value!r} is no list of moments")
    return tuple(v if isinstance(v, Quantity) else moment(v) for v in value)


Duration = Annotated[Quantity, _quantity(lambda value: duration(str(value)))]
Moments = Annotated[tuple[Quantity, ...], BeforeValidator(_moments)]


@checked(frozen=True, kw_only=True, config=STRICT)
class Prepare:
    """How to make `data.path` where it is not there yet: the arguments of `anytrain prepare`."""

    sources: list[str]
    tokenizer: str  # FILE or bpe:SIZE
    text_field: str | None = None  # text, or with ids tokens, a column of MDS
    validation: float = 0.02  # fraction of documents held out
    ids: str | None = None  # the sources are token files: auto, or the type of their ids
    eot: str | None = None  # the token after each document; of ids:N its id


@checked(frozen=True, kw_only=True, config=STRICT)
class Data:
    """Which tokens: one prepared directory, or a mixture of several by weight."""

    path: str | None = None
    mixture: dict[str, float] | None = None  # path -> weight
    document_mask: bool = False  # attention stays inside a document
    prepare: Prepare | None = None

    def __post_init__(self) -> None:
        if (self.path is None) == (self.mixture is None):
            raise ValueError("data needs either path or mixture, and not both")
        if self.mixture is not None and not self.mixture:
            raise ValueError("data.mixture is empty; a table of path = weight is valid")
        for path, weight in (self.mixture or {}).items():
            if not weight > 0:
                raise ValueError(f"data.mixture: {path!r} has weight {weight}; above 0 is valid")

    @property
    def sources(self) -> dict[str, float]:
        """Path -> weight."""
        return self.mixture or {str(self.path): 1.0}


@checked(frozen=True, kw_only=True, config=STRICT)
class Train:
    """The step: how many sequences of what length, in what precision."""

    batch: int  # sequences a step, over all devices
    context: int  # tokens a sequence
    micro_batch: int | None = None  # sequences at once on a device; None: the largest that fits
    reference_batch: int | None = None  # sequences; the batch at which t advances by 1
    precision: Literal["fp32", "bf16"] = "fp32"  # bf16: autocast over fp32 weights
    clip: float | None = 1.0  # global gradient norm
    average_every: int = 1  # steps between moves of the averages; above 1 is another estimator
    seed: int = 0
    compile: bool | None = None  # None: on CUDA, not on CPU
    deterministic: bool = True

    def __post_init__(self) -> None:
        for name in ("batch", "context", "micro_batch", "reference_batch", "average_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"train.{name} = {value}; 1 or more is valid")
        if self.micro_batch is not None and self.batch % self.micro_batch:
            raise ValueError(
                f"train.micro_batch = {self.micro_batch} does not divide train.batch = {self.batch}"
            )
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"train.clip = {self.clip}; above 0 is valid, absent for none")

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one step at the reference batch: what durations in tokens resolve through."""
        return self.reference * self.context

    @property
    def dt(self) -> float:
        """How far one step advances t: 1 at the reference batch."""
        return self.batch / self.reference

    @property
    def reference(self) -> int:
        """Sequences of the batch at which t advances by 1."""
        return self.reference_batch or self.batch


@checked(frozen=True, kw_only=True, config=STRICT)
class Optimizer:
    """The update rule. The schedule's peak is its learning rate."""

    kind: Literal["adamw", "muon", "schedule_free", "sgd"] = "adamw"
    beta1: float = 0.9  # momentum of sgd and muon too
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0
    decay_all: bool = False  # decay vectors too, not matrices alone
    adamw_peak: float | None = None  # muon: the peak of embeddings, head and vectors

    def __post_init__(self) -> None:
        if self.kind == "schedule_free" and self.beta1 == 0:
            raise ValueError("optimizer.beta1 = 0; schedule_free needs one above 0")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"optimizer.{name} = {getattr(self, name)}; 0 to below 1 is valid")
        if self.weight_decay < 0:
            raise ValueError(f"optimizer.weight_decay = {self.weight_decay}; 0 or more is valid")
        if (self.kind == "muon") != (self.adamw_peak is not None):
            raise ValueError(
                "optimizer.adamw_peak, the peak for what is not a hidden matrix, "
                f"goes with kind = 'muon' and only with it; kind is {self.kind!r}"
            )


@checked(frozen=True, kw_only=True, config=STRICT)
class Evaluate:
    """Validation: when, on how much, and at most how much of the time."""

    tokens: Duration = Quantity(1_000_000.0, "tokens")  # of the validation split
    per_decade: int = 10  # log-spaced moments for each factor of ten in steps
    at: Moments = ()  # further moments
    every: Duration = Quantity(3600.0, "seconds")  # at least this often
    share: float = 0.01  # of wall time, for the moments that are not asked for
    # every other sequence: one half to choose by, one to report what was chosen
    split: Split = "all"
    each: bool = False  # keep the loss of every sequence, of the moments that are asked for

    def __post_init__(self) -> None:
        if self.tokens.unit != "tokens" or self.tokens.amount < 1:
            raise ValueError(f"evaluate.tokens = {self.tokens}; a number of tokens is valid")
        if not self.every.amount > 0:
            raise ValueError(f"evaluate.every = {self.every}; above 0 is valid")
        if not 0 < self.share <= 1:
            raise ValueError(f"evaluate.share = {self.share}; above 0 and at most 1 is valid")
        if self.per_decade < 0:
            raise ValueError(f"evaluate.per_decade = {self.per_decade}; 0 or more is valid")


@checked(frozen=True, kw_only=True, config=STRICT)
class Keep:
    """Checkpoints: when, and which stay.

    Beside the newest, those at 2^k units and at 90% of them stay: cooldowns start there.
    A mirror is a run directory with what is kept, but for snapshots.
    """

    every: Duration = Quantity(600.0, "seconds")
    at: Moments = ()  # further moments; these stay too
    newest: int = 2
    disk: int | None = None  # bytes; beyond it the oldest that would stay are removed
    mirror: str | None = None  # a directory or an fsspec location such as s3://bucket/runs/x

    def __post_init__(self) -> None:
        if not self.every.amount > 0:
            raise ValueError(f"checkpoint.every = {self.every}; above 0 is valid")
        if self.newest < 1:
            raise ValueError(f"checkpoint.newest = {self.newest}; 1 or more is valid")
        if self.disk is not None and self.disk < 1:
            raise ValueError(f"checkpoint.disk = {self.disk}; a number of bytes is valid")
        if self.mirror is not None and not self.mirror.strip():
            raise ValueError(f"checkpoint.mirror = {self.mirror!r}; a location is valid")


@checked(frozen=True, kw_only=True, config=STRICT)
class Snapshots:
    """Copies of a few power-function averages, from which any other is rebuilt afterwards.

    Without this table there are none. They are no checkpoints: all stay, whatever
    `checkpoint.disk` says.
    """

    # widths σ_rel, an average of `power_ema` each; these four, so often, need the least storage for
    # profiles within 1.2% of any asked one: experiments/0005-snapshots
    tracks: tuple[float, ...] = (0.033, 0.061, 0.133, 0.275)
    per_decade: int = 4  # log-spaced moments for each factor of ten in steps, from the first
    dtype: Literal["float32", "bfloat16"] = "float32"  # on the disk; the averages are fp32

    def __post_init__(self) -> None:
        if not self.tracks or len(set(self.tracks)) < len(self.tracks):
            raise ValueError(
                f"snapshots.tracks = {list(self.tracks)}; one or more different widths are valid"
            )
        for width in self.tracks:
            try:
                PowerEma(width)
            except ValueError as error:
                raise ValueError(f"snapshots.tracks: {error}") from error
        if not 1 <= self.per_decade <= 1000:
            raise ValueError(f"snapshots.per_decade = {self.per_decade}; 1 to 1000 is valid")


@checked(frozen=True, kw_only=True, config=STRICT)
class Guard:
    """Against loss spikes: the update of a batch far out is dropped, and recorded.

    Without this table there is none. Far out is a loss or a gradient norm above the median of the
    last ones by so many robust deviations, 1.4826 times the median distance from it. The samples of
    such a batch count as read, but it is no step: `step`, `t` and `tokens` stay where they are.
    `rewind` also goes back to the last checkpoint, once to each, and on after that batch; what a
    run is trained on then depends on where its checkpoints are.
    """

    deviations: float
    window: int = 128  # last batches to compare with; until there are so many, nothing is dropped
    action: Literal["skip", "rewind"] = "skip"

    def __post_init__(self) -> None:
        if not 0 < self.deviations < math.inf:
            raise ValueError(f"guard.deviations = {self.deviations}; a number above 0 is valid")
        if self.window < 4:
            raise ValueError(f"guard.window = {self.window}; 4 batches or more is valid")


@checked(frozen=True, kw_only=True, config=STRICT)
class Log:
    """Where metrics go beside metrics.jsonl, each by a package of its own: docs/loggers.md."""

    every: int = 1  # steps between training records
    tensorboard: bool = False  # under RUN/tensorboard; it has no projects
    wandb: str | None = None  # project of Weights & Biases
    trackio: str | None = None  # project
    mlflow: str | None = None  # experiment

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"log.every = {self.every}; 1 or more steps is valid")
        for name in ("wandb", "trackio", "mlflow"):
            value = getattr(self, name)
            if value is not None and not value.strip():
                what = "an experiment" if name == "mlflow" else "a project"
                raise ValueError(f"log.{name} = {value!r}; the name of {what} is valid")


@checked(frozen=True, kw_only=True, config=STRICT)
class Parallel:
    """How several processes share the state, and what is computed again to save memory."""

    shard: int | None = None  # processes that hold one copy of the state; None: all of them
    recompute: bool = False  # activations of a layer again in the backward pass
    offload_averages: bool = False  # averages in the CPU's memory

    def __post_init__(self) -> None:
        if self.shard is not None and self.shard < 1:
            raise ValueError(f"parallel.shard = {self.shard}; 1 process or more is valid")
