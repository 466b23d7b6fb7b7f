"""Running averages of the weights."""

from anytrain.averaging.online import Averages, canonical_tensors, swapped
from anytrain.averaging.schedule_free import schedule_free

__all__ = ["Averages", "canonical_tensors", "schedule_free", "swapped"]
