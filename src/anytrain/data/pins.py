"""What a run remembers of its data, so that their order never changes: plain data in run.json."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from anytrain.data.shards import Corpus
from anytrain.errors import UserError


@dataclass(frozen=True)
class Era:
    """A stretch of a run over which the same segments of a corpus are visible."""

    start: int  # samples of this corpus read before it begins
    segments: int  # visible
    windows: tuple[int, ...]  # of each visible segment
    sha256: str  # identity of the visible segments


@dataclass(frozen=True)
class Pin:
    """What a run has to remember about a corpus, so that its order never changes. Plain data."""

    path: str
    weight: float
    eras: tuple[Era, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Pin":
        """The inverse of `to_json`, also after a trip through JSON text."""
        try:
            eras = [Era(**{**era, "windows": tuple(era["windows"])}) for era in record["eras"]]
            return cls(str(record["path"]), float(record["weight"]), tuple(eras))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UserError(f"pinned data {dict(record)!r} are damaged: {error}") from error


def windows(corpus: Corpus, context: int) -> list[int]:
    """Windows of each segment; a tail shorter than a window is left out."""
    return [max(0, segment.tokens - 1) // context for segment in corpus.segments]


def era_of(corpus: Corpus, start: int, segments: int, context: int) -> Era:
    """The era in which the first `segments` segments are visible, from sample `start` on."""
    visible = tuple(windows(corpus, context)[:segments])
    return Era(start, segments, visible, corpus.identity(segments))


def repinned(
    sources: Mapping[str, float], corpora: Sequence[Corpus], pins: Sequence[Pin], context: int
) -> list[Pin]:
    """The pins, once the corpora are seen to be what was pinned, wherever they lie now."""
    weights = [pin.weight for pin in pins]
    if list(sources.values()) != weights:
        raise UserError(
            f"the data of a run do not change: {len(pins)} corpora of weights {weights} are "
            f"pinned, {len(sources)} of weights {list(sources.values())} are given; fork the run"
        )
    for corpus, pin in zip(corpora, pins, strict=True):
        for era in pin.eras:
            if era.segments > len(corpus.segments) or corpus.identity(era.segments) != era.sha256:
                raise UserError(
                    f"{corpus.path} was altered: its first {era.segments} segments are not those "
                    f"pinned by the run (as {pin.path}); restore them, or fork the run"
                )
            if list(era.windows) != windows(corpus, context)[: era.segments]:
                raise UserError(
                    f"{corpus.path} was pinned with another context than {context}; fork the run"
                )
    return [replace(pin, path=path) for path, pin in zip(sources, pins, strict=True)]
