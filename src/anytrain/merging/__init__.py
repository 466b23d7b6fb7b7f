"""`anytrain merge`: any weights by name, streamed into one model in the inputs' own layout.

No torch: a run's checkpoints, Hugging Face directories, safetensors files and, where that is
allowed, the checkpoints of torch.distributed are read in place.
"""

from anytrain.merging.inputs import Input, opened
from anytrain.merging.output import DTYPES, write
from anytrain.merging.weighing import moments, reference_tokens, weights_by_hand, weights_by_rule

__all__ = [
    "DTYPES",
    "Input",
    "moments",
    "opened",
    "reference_tokens",
    "weights_by_hand",
    "weights_by_rule",
    "write",
]
