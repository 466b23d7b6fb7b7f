"""What the trainer reads: sample number -> tokens, over corpora, passes and appended data.

A sample is a window of context + 1 tokens, window i of a segment being its tokens i·context …
(i+1)·context; inputs do not overlap. The mixture says which corpus sample n comes from and how
many of that corpus came before, the corpus's order says which window that is. There is no state:
`batch(first, count)` depends on its arguments, the seed and the pinned data alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anytrain.data.mixture import BLOCK, Mixture, apportion
from anytrain.data.order import Order
from anytrain.data.pins import Era, Pin, era_of, repinned, windows
from anytrain.data.shards import Corpus, Verify
from anytrain.errors import UserError

__all__ = ["Appended", "Era", "Pin", "Position", "TrainingData"]

Tokens = NDArray[np.int64]

_ORDER, _MIXTURE = 0, 1  # what a key is for
_CACHED = 8  # blocks whose places are kept
_Places = list[tuple[int, int, int]]


@dataclass(frozen=True)
class Position:
    """How far the reading of one corpus is."""

    path: str
    share: float  # of all samples that come from this corpus
    turn: int  # the pass, from 1
    read: int  # windows of this pass read
    windows: int  # windows in this pass
    tokens: int  # tokens in this pass

    @property
    def left(self) -> int:
        """Samples of the whole mixture until this corpus begins to repeat, about."""
        return round((self.windows - self.read) / self.share)


@dataclass(frozen=True)
class Appended:
    """Training data on disk that a run does not see yet."""

    windows: int
    tokens: int


class TrainingData:
    """Corpora mixed by weight, as one endless sequence of samples."""

    def __init__(
        self, corpora: Sequence[Corpus], pins: Sequence[Pin], *, context: int, seed: int
    ) -> None:
        """Use `open`, which checks that corpora and pins belong together."""
        self.corpora, self.pins = tuple(corpora), tuple(pins)
        self.context, self.seed = context, seed
        self.mixture = Mixture((seed, _MIXTURE), tuple(pin.weight for pin in pins))
        self.orders = tuple(
            Order(
                (seed, _ORDER, number),
                tuple(era.start for era in pin.eras),
                tuple(sum(era.windows) for era in pin.eras),
            )
            for number, pin in enumerate(self.pins)
        )
        self._all_known = all(corpus.vocab is not None for corpus in self.corpora)
        self._signed = any(corpus.train.signed for corpus in self.corpora)
        self._blocks: dict[int, _Places] = {}

    @classmethod
    def open(
        cls,
        sources: Mapping[str, float],
        *,
        context: int,
        seed: int,
        pins: Sequence[Pin] | None = None,
        verify: Verify = "auto",
    ) -> "TrainingData":
        """Open corpora by path and weight; with `pins`, as a run has pinned them.

        Without pins everything on disk is visible from sample 0. Raises UserError for a corpus
        that is missing, damaged, shorter than one sequence, of another tokenizer than the rest,
        or no longer what was pinned.
        """
        if context < 1:
            raise UserError(f"context {context}: 1 token or more is needed")
        corpora = [Corpus.open(path, verify) for path in sources]
        _same_tokenizer(corpora)
        for corpus in corpora:
            if not sum(windows(corpus, context)):
                raise UserError(
                    f"{corpus.path} has {len(corpus.train)} training tokens, less than one "
                    f"sequence of {context} + 1; add text or lower the context"
                )
        if pins is None:
            pins = [
                Pin(path, weight, (era_of(corpus, 0, len(corpus.segments), context),))
                for (path, weight), corpus in zip(sources.items(), corpora, strict=True)
            ]
        else:
            pins = repinned(sources, corpora, pins, context)
        return cls(corpora, pins, context=context, seed=seed)

    # --- what the tokens are -----------------------------------------------------------------

    @property
    def vocab(self) -> int | None:
        """Size of the vocabulary; None where only raw token files are read."""
        return next((c.vocab for c in self.corpora if c.vocab is not None), None)

    @property
    def eot(self) -> int | None:
        """The token after each document, where known."""
        return next((c.eot for c in self.corpora if c.eot is not None), None)

    @property
    def tokenizer(self) -> Path | None:
        """The tokenizers JSON file, where there is one."""
        return next((c.tokenizer for c in self.corpora if c.tokenizer is not None), None)

    # --- samples -----------------------------------------------------------------------------

    def batch(self, first: int, count: int) -> Tokens:
        """Samples first … first + count − 1: (count, context + 1)."""
        out = np.empty((count, self.context + 1), dtype=np.int64)
        row = 0
        while row < count:
            block, start = divmod(first + row, BLOCK)
            for corpus, file, offset in self._places(block)[start : start + count - row]:
                self.corpora[corpus].train.fill(out[row], file, offset)
                row += 1
        return self._checked(out)

    def _checked(self, tokens: Tokens) -> Tokens:
        """The tokens, if the vocabulary has all of them: a model would index beyond its rows."""
        if self._signed and tokens.min(initial=0) < 0:
            raise UserError(
                f"{self.pins[0].path}: token {tokens.min()} is negative; ids start at 0"
            )
        if self._all_known and tokens.max(initial=0) >= (self.vocab or 0):
            raise UserError(
                f"{self.pins[0].path}: token {tokens.max()}; its vocabulary has {self.vocab}"
            )
        return tokens

    def check(self) -> None:
        """A UserError where a shard that was read has been changed since it was opened."""
        for corpus in self.corpora:
            corpus.train.check()

    def _places(self, block: int) -> _Places:
        """(corpus, file, offset) of the 1024 samples of a block."""
        places = self._blocks.get(block)
        if places is None:
            if len(self._blocks) >= _CACHED:
                self._blocks.pop(next(iter(self._blocks)))
            places = self._blocks[block] = self._find(block)
        return places

    def _find(self, block: int) -> _Places:
        corpus, before = self.mixture.block(block)
        file, offset = np.empty_like(before), np.empty_like(before)
        for number, order in enumerate(self.orders):
            mine = corpus == number
            addresses = self._addresses(number, order(before[mine]))
            file[mine], offset[mine] = self.corpora[number].train.locate(addresses)
        return list(zip(corpus.tolist(), file.tolist(), offset.tolist(), strict=True))

    def _addresses(self, number: int, window: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where windows of a corpus begin in its training tokens."""
        first = np.cumsum([0, *self.pins[number].eras[-1].windows])
        segment = np.searchsorted(first, window, side="right") - 1
        starts = self.corpora[number].segment_starts[segment]
        return np.asarray(starts + (window - first[segment]) * self.context, dtype=np.int64)

    # --- passes and appended data ------------------------------------------------------------

    def positions(self, samples: int) -> list[Position]:
        """After `samples` samples of the mixture: for each corpus its pass and how far into it."""
        found = []
        for number, read in enumerate(self.mixture.before(samples)):
            place = self.orders[number].place(read)
            share = self.mixture.counts[number] / BLOCK
            tokens = place.windows * self.context
            path = self.pins[number].path
            found.append(Position(path, share, place.turn, place.read, place.windows, tokens))
        return found

    def appended(self) -> Appended:
        """What `adopt` would add."""
        new, tokens = 0, 0
        for corpus, pin in zip(self.corpora, self.pins, strict=True):
            seen = pin.eras[-1].segments
            new += sum(windows(corpus, self.context)[seen:])
            tokens += sum(segment.tokens for segment in corpus.segments[seen:])
        return Appended(new, tokens)

    def adopt(self, samples: int) -> "TrainingData":
        """The same data with all appended segments visible from global sample `samples` on.

        Samples before it are what they were. Store the new `pins` with the run.
        """
        pins = []
        for number, start in enumerate(self.mixture.before(samples)):
            corpus, pin = self.corpora[number], self.pins[number]
            if pin.eras[-1].segments < len(corpus.segments):
                if start < pin.eras[-1].start:
                    raise UserError(
                        f"{pin.path}: data cannot become visible at sample {samples}, before the "
                        "last ones did"
                    )
                era = era_of(corpus, start, len(corpus.segments), self.context)
                pin = replace(pin, eras=(*pin.eras, era))
            pins.append(pin)
        return TrainingData(self.corpora, pins, context=self.context, seed=self.seed)

    # --- validation --------------------------------------------------------------------------

    def validation(self, tokens: int) -> Tokens:
        """Held-out windows of at most `tokens` tokens in all: (windows, context + 1).

        The same ones every time: spread evenly over the validation split, several corpora in
        proportion to their weights, one after another. A UserError says what to do where there
        are none.
        """
        return self._checked(np.concatenate(list(self.validation_parts(tokens).values())))

    def validation_parts(self, tokens: int) -> dict[str, Tokens]:
        """`validation` by the path of the corpus."""
        wanted = tokens // self.context
        if wanted < 1:
            raise UserError(
                f"validation on {tokens} tokens is less than one sequence of {self.context}"
            )
        there = [max(0, len(c.validation) - 1) // self.context for c in self.corpora]
        if not any(there):
            raise UserError(self._no_validation())
        usable = [number for number, count in enumerate(there) if count]
        shares = apportion(wanted, [self.pins[number].weight for number in usable])
        parts = {}
        for number, share in zip(usable, shares, strict=True):
            chosen = np.linspace(0, there[number], min(share, there[number]), endpoint=False)
            first = chosen.astype(np.int64) * self.context
            found = self.corpora[number].validation.windows(first, self.context + 1)
            parts[self.pins[number].path] = found
        return parts

    def _no_validation(self) -> str:
        held = ", ".join(f"{c.path}: {len(c.validation)} tokens" for c in self.corpora)
        return (
            f"no validation sequence of {self.context} + 1 tokens ({held}); prepare again with a "
            "larger --validation, add val.bin or val.npy to raw files, or lower the context"
        )


def _same_tokenizer(corpora: Sequence[Corpus]) -> None:
    known = [corpus for corpus in corpora if corpus.tokenizer_sha256 is not None]
    for corpus in known[1:]:
        first = known[0]
        if (corpus.tokenizer_sha256, corpus.eot) != (first.tokenizer_sha256, first.eot):
            raise UserError(
                f"{corpus.path} was prepared with another tokenizer or end of text than "
                f"{first.path}; corpora that are mixed need the same one"
            )
