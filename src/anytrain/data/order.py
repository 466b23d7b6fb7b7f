"""The order of samples as arithmetic: sample number -> window number, with no state at all.

A pass over m windows visits them in the order of a keyed pseudo-random permutation of
{0 … m−1}, evaluated by index. The next pass uses another key. Data that arrive later open a new
*era*: what the interrupted pass had not read yet and the new windows are permuted together, and
passes after that one run over everything. What was read before the era began never changes.

The permutation is a balanced Feistel network (Luby and Rackoff, 1988) on the smallest domain of
2^(2h) ≥ m numbers, L‖R ← R‖(L ⊕ F(R, key)), which is a bijection whatever F is; numbers that
land at m or above are sent through again until they fall below it (cycle walking, Black and
Rogaway, 2002), fewer than four times on average as 2^(2h) < 4m.
"""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anytrain.errors import UserError

U64 = np.uint64
Index = NDArray[np.int64]
Keys = tuple[np.uint64, ...]

LARGEST = 2**40  # windows: 20-bit halves, more than any corpus has
_ROUNDS = 6  # 4 make the network a strong pseudo-random permutation; 2 more for small halves


def permute(size: int, key: Sequence[int], index: ArrayLike) -> Index:
    """Where a permutation of range(size), chosen by `key`, sends each of `index`.

    A bijection of range(size) for every size from 1 to 2^40 and every key of whole numbers.
    """
    if not 1 <= size <= LARGEST:
        raise ValueError(f"permutation of {size} numbers; from 1 to 2^40 are possible")
    index = np.asarray(index, dtype=np.int64).reshape(-1)
    if index.size and not (index.min() >= 0 and index.max() < size):
        raise ValueError(f"index from {index.min()} to {index.max()}; below {size} is valid")
    half = max(1, ((size - 1).bit_length() + 1) // 2)  # bits
    keys = _round_keys(tuple(key))
    values = _feistel(index.astype(U64), half, keys)
    outside = np.flatnonzero(values >= size)
    while outside.size:
        values[outside] = _feistel(values[outside], half, keys)
        outside = outside[values[outside] >= size]
    return values.astype(np.int64)


def _feistel(values: NDArray[np.uint64], half: int, keys: Keys) -> NDArray[np.uint64]:
    """One pass of the network over numbers of 2·half bits."""
    bits, mask = U64(half), U64((1 << half) - 1)
    left, right = values >> bits, values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return (left << bits) | right


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele, Lea and Flood, 2014; Stafford's variant 13), modulo 2^64."""
    x = (x ^ (x >> U64(30))) * U64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> U64(27))) * U64(0x94D049BB133111EB)
    return x ^ (x >> U64(31))


@lru_cache(maxsize=256)
def _round_keys(key: tuple[int, ...]) -> Keys:
    """Six words of 64 bits from BLAKE2b of the key's numbers: neighbouring keys share nothing."""
    packed = struct.pack(f"<{len(key)}q", *key)
    digest = hashlib.blake2b(packed, digest_size=8 * _ROUNDS).digest()
    return tuple(U64(word) for word in struct.unpack(f"<{_ROUNDS}Q", digest))


@dataclass(frozen=True)
class Place:
    """Where a number of samples leaves a corpus: which pass, and how far into it."""

    turn: int  # the pass, from 1
    read: int  # windows of this pass read so far
    windows: int  # windows this pass has in all


@dataclass(frozen=True)
class Order:
    """Sample number -> window number of one corpus, over passes and eras.

    Era k begins at sample `starts[k]` and sees the first `windows[k]` windows. Its first pass
    runs over what its predecessor's pass had left unread and over the new windows, mixed; so
    every window is read exactly once between the start of that older pass and its end.
    """

    key: tuple[int, ...]  # the seed and the number of the corpus
    starts: tuple[int, ...]  # samples; starts[0] = 0, never falling
    windows: tuple[int, ...]  # windows visible, never falling

    def __post_init__(self) -> None:
        if not self.starts or len(self.starts) != len(self.windows) or self.starts[0] != 0:
            raise UserError(f"eras start at {self.starts} with {self.windows} windows")
        if list(self.starts) != sorted(self.starts) or list(self.windows) != sorted(self.windows):
            raise UserError(f"eras start at {self.starts} with {self.windows}: both only grow")
        if self.windows[0] < 1:
            raise UserError("a corpus of 0 windows: it is shorter than one sequence")

    def __call__(self, samples: ArrayLike) -> Index:
        """The window of each sample, in any order and from anywhere."""
        samples = np.asarray(samples, dtype=np.int64).reshape(-1)
        out = np.empty_like(samples)
        era = np.searchsorted(self.starts, samples, side="right") - 1
        for number in np.unique(era):
            chosen = era == number
            out[chosen] = self._in_era(int(number), samples[chosen])
        return out

    def _in_era(self, era: int, samples: Index) -> Index:
        """Windows of samples as era `era` orders them, whether or not a later era took over."""
        local = samples - self.starts[era]
        first, whole = self._first_passes[era], self.windows[era]
        turn = np.where(local < first, 0, 1 + (local - first) // whole)
        out = np.empty_like(samples)
        for number in np.unique(turn):
            chosen = turn == number
            size = first if number == 0 else whole
            at = local[chosen] - (0 if number == 0 else first + (number - 1) * whole)
            drawn = permute(size, (*self.key, era, int(number)), at)
            out[chosen] = self._joined(era, drawn) if number == 0 else drawn
        return out

    def _joined(self, era: int, drawn: Index) -> Index:
        """The first pass of an era: the older pass's unread windows, then the new ones."""
        if era == 0:
            return drawn
        unread = self._first_passes[era] - (self.windows[era] - self.windows[era - 1])
        out = drawn - unread + self.windows[era - 1]
        old = drawn < unread
        out[old] = self._in_era(era - 1, self.starts[era] + drawn[old])
        return out

    @cached_property
    def _first_passes(self) -> tuple[int, ...]:
        """Windows of each era's first pass: what the interrupted one left unread, and the new."""
        firsts = [self.windows[0]]
        for era in range(1, len(self.starts)):
            _, read, size = self._split(era - 1, self.starts[era], firsts[-1])
            firsts.append(size - read + self.windows[era] - self.windows[era - 1])
        return tuple(firsts)

    def _split(self, era: int, sample: int, first: int) -> tuple[int, int, int]:
        """(pass of this era from 0, windows of it read, its windows) when `sample` come before."""
        local = sample - self.starts[era]
        if local < first:
            return 0, local, first
        turn, read = divmod(local - first, self.windows[era])
        return turn + 1, read, self.windows[era]

    def place(self, samples: int) -> Place:
        """Which pass the next sample belongs to. An era joins the pass that it interrupts."""
        era = max(k for k, start in enumerate(self.starts) if start <= samples)
        turn, read, size = self._split(era, samples, self._first_passes[era])
        if era == 0:
            return Place(turn + 1, read, size)
        before = Order(self.key, self.starts[:era], self.windows[:era]).place(self.starts[era])
        if turn == 0:
            return Place(before.turn, before.read + read, before.read + size)
        return Place(before.turn + turn, read, size)
