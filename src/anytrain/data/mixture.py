"""A mixture of corpora by weight: sample number -> (corpus, samples of that corpus before it).

Samples come in blocks of 1024. Every block holds the corpora in the same proportions, which are
the weights rounded to 1/1024 by largest remainder, in an order of its own drawn by key. So each
corpus has a counter of its own that is arithmetic too:

    before(n, c) = (n // 1024) · count(c) + how many of c come before n in its block
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from anytrain.data.order import permute
from anytrain.errors import UserError

BLOCK = 1024  # samples


@dataclass(frozen=True)
class Mixture:
    """Which corpus each sample comes from, by weights that need not add up to one."""

    key: tuple[int, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        for weight in self.weights:
            if not (math.isfinite(weight) and weight > 0):
                raise UserError(f"weight {weight} of a corpus: a number above 0 is needed")
        if not self.weights:
            raise UserError("no corpus: at least one is needed")
        for weight, count in zip(self.weights, self.counts, strict=True):
            if count == 0:
                raise UserError(
                    f"weight {weight} of a corpus is less than 1/{2 * BLOCK} of all weights, "
                    "too small to be drawn; raise it or leave the corpus out"
                )

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Samples of each corpus in a block; they add up to 1024."""
        return apportion(BLOCK, self.weights)

    def block(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(corpus, samples of that corpus before) for the 1024 samples of one block."""
        pattern = np.repeat(np.arange(len(self.counts)), self.counts)
        corpus = pattern[permute(BLOCK, (*self.key, number), np.arange(BLOCK))]
        before = np.empty(BLOCK, dtype=np.int64)
        for chosen, count in enumerate(self.counts):
            before[corpus == chosen] = number * count + np.arange(count)
        return corpus, before

    def before(self, samples: int) -> tuple[int, ...]:
        """How many of the first `samples` samples come from each corpus."""
        number, rest = divmod(samples, BLOCK)
        seen = np.bincount(self.block(number)[0][:rest], minlength=len(self.counts))
        return tuple(number * c + int(s) for c, s in zip(self.counts, seen, strict=True))


def apportion(total: int, weights: Sequence[float]) -> tuple[int, ...]:
    """Whole numbers in proportion to the weights that add up to `total` (largest remainder).

    Ties go to the corpus that comes first.
    """
    whole = math.fsum(weights)
    exact = [total * (weight / whole) for weight in weights]
    counts = [math.floor(share) for share in exact]
    by_remainder = sorted(range(len(weights)), key=lambda c: counts[c] - exact[c])
    for chosen in by_remainder[: total - sum(counts)]:
        counts[chosen] += 1
    return tuple(counts)
