"""What transformers and TRL say at every model they load and every run they begin, left out."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, they print no bars, no warnings and no advice: a sweep says a line a point.

    Nor do they tell the Hugging Face Hub that a trainer was made, as TRL does at every point: a
    verb that reads and writes local files sends nothing anywhere.
    """
    from huggingface_hub import constants
    from transformers.utils import logging as theirs

    levels = theirs.get_verbosity(), logging.getLogger("trl").level
    bars, silent = theirs.is_progress_bar_enabled(), constants.HF_HUB_DISABLE_TELEMETRY
    theirs.set_verbosity_error()
    theirs.disable_progress_bar()
    logging.getLogger("trl").setLevel(logging.ERROR)
    constants.HF_HUB_DISABLE_TELEMETRY = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        constants.HF_HUB_DISABLE_TELEMETRY = silent
        theirs.set_verbosity(levels[0])
        logging.getLogger("trl").setLevel(levels[1])
        if bars:
            theirs.enable_progress_bar()
