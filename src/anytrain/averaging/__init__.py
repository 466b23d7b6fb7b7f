"""Averages of the weights: running beside a model (needs torch), or made of files (does not)."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anytrain.averaging.online import Averages, canonical_tensors, schedule_free, swapped

__all__ = ["Averages", "canonical_tensors", "schedule_free", "swapped"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from anytrain.averaging import online

        return getattr(online, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
