"""Data: documents to tokens on disk, and sample numbers to batches. NumPy arrays, no torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anytrain.data.corpora import Document, documents
    from anytrain.data.order import Order, permute
    from anytrain.data.pins import Era, Pin
    from anytrain.data.shards import Corpus
    from anytrain.data.stream import Appended, Position, TrainingData
    from anytrain.data.tokenize import Prepared, prepare

_HOMES = {
    "Appended": "stream",
    "Corpus": "shards",
    "Document": "corpora",
    "Era": "pins",
    "Order": "order",
    "Pin": "pins",
    "Position": "stream",
    "Prepared": "tokenize",
    "TrainingData": "stream",
    "documents": "corpora",
    "permute": "order",
    "prepare": "tokenize",
}

__all__ = [
    "Appended",
    "Corpus",
    "Document",
    "Era",
    "Order",
    "Pin",
    "Position",
    "Prepared",
    "TrainingData",
    "documents",
    "permute",
    "prepare",
]


def __getattr__(name: str) -> Any:
    """Found when asked for: training reads no parquet, and preparing needs no order."""
    if name in _HOMES:
        return getattr(import_module(f"anytrain.data.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
