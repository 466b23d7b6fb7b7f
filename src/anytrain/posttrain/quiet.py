"""What transformers and TRL say at every model they load and every run they begin, left out."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, they print no bars, no warnings and no advice: a sweep says a line a point."""
    from transformers.utils import logging as theirs

    levels = theirs.get_verbosity(), logging.getLogger("trl").level
    bars = theirs.is_progress_bar_enabled()
    theirs.set_verbosity_error()
    theirs.disable_progress_bar()
    logging.getLogger("trl").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        theirs.set_verbosity(levels[0])
        logging.getLogger("trl").setLevel(levels[1])
        if bars:
            theirs.enable_progress_bar()
