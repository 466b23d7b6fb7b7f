"""The best convex combination of the averages in one checkpoint.

    min_c  L(Σ_k c_k w̄_k),    c_k >= 0,  Σ c_k = 1

on the selection half of the held-out sequences, reported on the other half. The gradient in c is
∂L/∂c_k = ⟨∇L, w̄_k⟩, and exponentiated gradient descent (Kivinen and Warmuth 1997),

    c_k ← c_k exp(−s ∂L/∂c_k) / Σ_j c_j exp(−s ∂L/∂c_j),

keeps c in the simplex; s is halved until the loss falls.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import exp
from typing import Any

import torch
from torch import Tensor

from anytrain.references import open_weights
from anytrain.rundir import Checkpoint, RunDir
from anytrain.selection.scoring import Scorer
from anytrain.training.evaluate import Loss

STEPS = 30  # of descent, at most
ENOUGH = 1e-5  # nats: a step that gains less is the last
SMALL = 1e-3  # shares below it are dropped at the end


@dataclass(frozen=True)
class Combination:
    """The shares found, and what they are worth on sequences that did not choose them."""

    shares: dict[str, float]
    loss: Loss  # of the combination, on the report half
    best: str  # the best single weights by the selection half
    best_loss: Loss  # theirs, on the report half
    gain: Loss  # best − combination on the report half, paired by sequence


def combine(
    scorer: Scorer,
    candidates: Mapping[str, Mapping[str, Tensor]],
    say: Callable[[str], Any] = lambda _: None,
) -> Combination:
    """Fit the shares of the candidates; begins at the best single one, mixed with the others."""
    single = {name: float(scorer.losses(t, "selection").mean()) for name, t in candidates.items()}
    best = min(single, key=lambda name: single[name])
    for name, loss in single.items():
        say(f"{name:<12} {loss:.4f} on the selection half")
    shares = _descend(scorer, candidates, best)
    mixed = scorer.losses(mixture(candidates, shares), "report")
    alone = scorer.losses(candidates[best], "report")
    return Combination(shares, Loss.of(mixed), best, Loss.of(alone), Loss.of(alone - mixed))


def of_checkpoint(run: RunDir, checkpoint: Checkpoint) -> dict[str, dict[str, Tensor]]:
    """Every set of weights that a checkpoint holds, in memory."""
    found = {}
    for name in checkpoint.weights:
        with open_weights(f"{run.path}@{checkpoint.step}:{name}") as weights:
            found[name] = dict(weights.tensors)
    return found


def mixture(
    candidates: Mapping[str, Mapping[str, Tensor]], shares: Mapping[str, float]
) -> dict[str, Tensor]:
    """Σ c_k w̄_k, summed in float64."""
    out = {}
    for name, like in next(iter(candidates.values())).items():
        if not like.is_floating_point():
            out[name] = like
            continue
        total = torch.zeros(like.shape, dtype=torch.float64)
        for candidate, share in shares.items():
            total.add_(candidates[candidate][name].double(), alpha=share)
        out[name] = total.to(like.dtype)
    return out


def _descend(
    scorer: Scorer, candidates: Mapping[str, Mapping[str, Tensor]], best: str
) -> dict[str, float]:
    others = len(candidates) - 1
    shares = {n: (0.7 if n == best else 0.3 / others) if others else 1.0 for n in candidates}
    loss, slopes = _slopes(scorer, candidates, shares)
    size = 1.0 / max(1e-12, max(slopes.values()) - min(slopes.values()))
    for _ in range(STEPS):
        while True:
            moved = _moved(shares, slopes, size)
            found, next_slopes = _slopes(scorer, candidates, moved)
            if found < loss or size * (max(slopes.values()) - min(slopes.values())) < 1e-3:
                break
            size /= 2
        if found >= loss:
            break
        gained, shares, loss, slopes = loss - found, moved, found, next_slopes
        size *= 1.5
        if gained < ENOUGH:
            break
    kept = {name: share for name, share in shares.items() if share > SMALL}
    whole = sum(kept.values())
    return {name: share / whole for name, share in kept.items()}


def _slopes(
    scorer: Scorer, candidates: Mapping[str, Mapping[str, Tensor]], shares: Mapping[str, float]
) -> tuple[float, dict[str, float]]:
    """The loss of a mixture on the selection half, and its derivative in every share."""
    loss, gradient = scorer.gradient(mixture(candidates, shares), "selection")
    slopes = {
        name: sum(
            float(torch.sum(g.double().cpu() * tensors[key].double()))
            for key, g in gradient.items()
        )
        for name, tensors in candidates.items()
    }
    return loss, slopes


def _moved(
    shares: Mapping[str, float], slopes: Mapping[str, float], size: float
) -> dict[str, float]:
    least = min(slopes.values())
    moved = {name: share * exp(-size * (slopes[name] - least)) for name, share in shares.items()}
    whole = sum(moved.values())
    return {name: value / whole for name, value in moved.items()}
