"""`Averages`: K running averages of a model's weights, kept beside it while it trains.

w̄ ← w̄ + ρ(t)·(w − w̄)        after every optimizer step, in fp32

averages = Averages(model, {"ema25": AnytimeEma(25)})
...
optimizer.step()
averages.update()
...
with averages.applied("ema25"):
    loss = evaluate(model)
"""

import contextlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from anytrain import rules as rule_book
from anytrain.averaging.moves import Move, follow, local
from anytrain.errors import nearest
from anytrain.rules import DEFAULTS, Rule

# What compilation, FSDP1 and activation checkpointing put into parameter names.
_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


def canonical_name(name: str) -> str:
    """The name a tensor has in the bare model."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def canonical_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and persistent buffer of the bare model by its own name; tied ones once.

    After a forward pass without a backward one FSDP2 leaves the outermost module's parameters
    gathered, where nobody may write: they are let go first.
    """
    model = _unwrapped(model)
    fsdp = sys.modules.get("torch.distributed.fsdp")  # a second to import, for who shards nothing
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        if fsdp is not None and isinstance(module, fsdp.FSDPModule):
            module.reshard()
        persistent = {
            name: buffer
            for name, buffer in module._buffers.items()
            if name not in module._non_persistent_buffers_set
        }
        for name, tensor in {**module._parameters, **persistent}.items():
            if tensor is not None and id(tensor) not in seen:
                seen.add(id(tensor))
                found[canonical_name(f"{prefix}.{name}" if prefix else name)] = tensor
    return found


def _unwrapped(model: nn.Module) -> nn.Module:
    """The module inside data parallelism and compilation, whichever of them is outermost."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif (compiled := model._modules.get("_orig_mod")) is not None:
            model = compiled
        else:
            return model


def schedule_free(y: Tensor, z: Tensor, beta1: float) -> Tensor:
    """x = y + (1 − 1/β₁)(z − y), since y = (1 − β₁)z + β₁x (arXiv:2405.15682, algorithm 1).

    y are the live weights, z the optimizer's fast ones. The `schedulefree` package's `eval()`
    writes x over y and its `train()` takes it back, which changes bits; this is a new tensor.
    """
    return torch.lerp(y, z, 1.0 - 1.0 / beta1)


@contextlib.contextmanager
def swapped(model: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, the model has the values of `tensors` (canonical names); restored on every exit."""
    live = canonical_tensors(model)
    raw = {name: local(live[name]).clone() for name in tensors}
    try:
        _fill(live, tensors)
        yield
    finally:
        canonical_tensors(model)  # nothing stays gathered from the other weights
        _fill(live, raw)


@torch.no_grad()
def _fill(live: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        local(live[name]).copy_(local(tensor))


class Averages:
    """K running averages beside a model, plain or sharded.

    Averages of 16-bit weights are fp32 (a bf16 average rounds its updates to zero). They begin
    as copies of the weights and follow every parameter, frozen ones included, and every floating
    point buffer. Integer buffers are copied, never averaged. Tied weights are kept once. Of a
    sharded model each process averages its own part; `tensors` are these parts, on `device` if one
    is named (a CPU, say, when the GPU is full).

    With `every` = s they move at every s-th step alone, by as much as the rule would have in s:
    1 − ∏(1 − ρ). That is another estimator: the same profile over every s-th iterate, each with
    the mass of the s − 1 before it.
    """

    def __init__(
        self,
        model: nn.Module,
        rules: Mapping[str, Rule] | None = None,
        every: int = 1,
        device: torch.device | str | None = None,
    ) -> None:
        """Begin averages of `model`, by default anytime EMAs of five widths.

        Raises ValueError for a rule that is not callable or a name that cannot name weights.
        """
        if every < 1:
            raise ValueError(f"every = {every}; 1 step or more is valid")
        self.model = model
        self.device = device
        self.every = every  # steps
        self.skipped = 0  # steps since the averages moved
        self.kept: dict[str, float] = {}  # ∏(1 − ρ) over them
        self.t = 0.0  # steps at the reference batch
        self.rules: dict[str, Rule] = {}
        self.since: dict[str, float] = {}  # progress t at which each began
        self.tensors: dict[str, dict[str, Tensor]] = {}
        self.active: str | None = None  # the average that is in the model now
        for name, rule in (DEFAULTS if rules is None else rules).items():
            self.add(name, rule)

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={rule!r}" for name, rule in self.rules.items())
        return f"Averages(t={self.t:g}, {inside})"

    def add(self, name: str, rule: Rule) -> None:
        """Begin one more average as a copy of the present weights, labelled with the present t."""
        self.require_raw(f"add {name!r}")
        if name in self.rules or name in ("raw", "best", "schedule_free"):
            raise ValueError(f"average {name!r}: the name is taken; any other is valid")
        if not name or set(name) & set(":@/ "):
            raise ValueError(f"average {name!r}: a name without ':', '@', '/' or space is valid")
        if not callable(rule):
            raise ValueError(f"average {name!r}: {rule!r} is not a rule; AnytimeEma(25) is one")
        self.rules[name] = rule
        self.since[name] = self.t
        self.kept[name] = 1.0
        self.tensors[name] = {
            key: tensor.to(self.device or tensor.device, _average_dtype(tensor), copy=True)
            for key, tensor in self.live().items()
        }

    def remove(self, name: str) -> None:
        """Forget one average."""
        self._known(name)
        for table in (self.rules, self.since, self.kept, self.tensors):
            del table[name]

    def update(self, dt: float = 1.0, t: float | None = None) -> None:
        """Move every average towards the weights; call it once after each optimizer step.

        `dt` is how far the step advanced t: 1, or the ratio of its batch to the reference batch.
        `t` is where that led, for a caller who counts it exactly; otherwise it adds up here.
        """
        follow(self.live(), self.due(dt, t))

    def due(self, dt: float = 1.0, t: float | None = None) -> list[Move]:
        """Count one step, and say how the averages have to move now; `update` then carries it out.

        For a caller who moves several `Averages`, or takes the optimizer's step, in the same pass.
        """
        self.require_raw("update")
        if not dt > 0:
            raise ValueError(f"dt = {dt}; above 0 steps is valid")
        self.t = self.t + dt if t is None else t
        rho = {name: rule(self.t, dt) for name, rule in self.rules.items()}
        self.skipped += 1
        if self.skipped < self.every:
            self.kept = {name: kept * (1.0 - rho[name]) for name, kept in self.kept.items()}
            return []
        if self.every > 1:
            rho = {name: 1.0 - self.kept[name] * (1.0 - part) for name, part in rho.items()}
        self.skipped, self.kept = 0, dict.fromkeys(self.rules, 1.0)
        return [Move(rho[name], self.tensors[name]) for name in self.rules]

    def live(self) -> dict[str, Tensor]:
        """The model's tensors by canonical name, of sharded ones what is here."""
        return {name: local(tensor) for name, tensor in canonical_tensors(self.model).items()}

    @contextlib.contextmanager
    def applied(self, name: str) -> Iterator[nn.Module]:
        """Inside, the model has the weights of one average; the raw ones return on every exit.

        `raw` is accepted and changes nothing. `update` and `state_dict` inside are errors.
        """
        self.require_raw(f"apply {name!r}")
        if name == "raw":
            yield self.model
            return
        self._known(name)
        with self.showing(name, self.tensors[name]):
            yield self.model

    @contextlib.contextmanager
    def showing(self, name: str, tensors: Mapping[str, Tensor]) -> Iterator[nn.Module]:
        """`applied` for any other weights, such as a combination of averages."""
        self.require_raw(f"apply {name!r}")
        self.active = name
        try:
            with swapped(self.model, tensors):
                yield self.model
        finally:
            self.active = None

    def state_dict(self) -> dict[str, Any]:
        """Everything to go on from: progress, starts, rules as text, what is pending, tensors."""
        self.require_raw("save")
        return {
            "t": self.t,
            "since": dict(self.since),
            "skipped": self.skipped,
            "kept": dict(self.kept),
            "rules": {name: rule_book.spec(rule) for name, rule in self.rules.items()},
            "tensors": {name: dict(tensors) for name, tensors in self.tensors.items()},
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore in place. ValueError if names, rules or tensors are not this object's."""
        self.require_raw("load")
        rule_book.require_same(self.rules, state["rules"], "the state")
        for name, tensors in self.tensors.items():  # all is checked before anything changes
            saved = state["tensors"][name]
            if saved.keys() != tensors.keys():
                odd = sorted(saved.keys() ^ tensors.keys())
                raise ValueError(f"average {name!r}: not the same tensors, such as {odd[0]!r}")
        for name, tensors in self.tensors.items():
            for key, tensor in tensors.items():
                tensor.copy_(state["tensors"][name][key])
        self.t = float(state["t"])
        self.since = {name: float(t) for name, t in state["since"].items()}
        self.skipped = int(state["skipped"])
        self.kept = {name: float(part) for name, part in state["kept"].items()}

    def _known(self, name: str) -> None:
        if name not in self.rules:
            raise ValueError(f"there is no average {name!r}{nearest(name, ['raw', *self.rules])}")

    def require_raw(self, what: str) -> None:
        """RuntimeError while an average is in the model."""
        if self.active is not None:
            raise RuntimeError(
                f"cannot {what} while the average {self.active!r} is in the model; "
                "leave `applied` first"
            )


def _average_dtype(tensor: Tensor) -> torch.dtype:
    if not tensor.is_floating_point() or tensor.dtype == torch.float64:
        return tensor.dtype
    return torch.float32
