"""How several processes end: all of them, soon, in the same way; one of them says why."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist

from anytrain.errors import UserError
from anytrain.rundir import RunDir
from anytrain.training.checkpoint import last_good
from anytrain.training.distributed import Elsewhere, World
from anytrain.training.stopping import Interrupted


@contextmanager
def together(world: World, rundir: RunDir, say: Callable[[str], Any]) -> Iterator[None]:
    """Where one process ends early, so do all, and the first of them to end is the one that tells.

    Its connections close, which the others see at their next collective. What ended them is then
    what ended the first: a signal, or an error, which they raise as `Elsewhere`. Where the first
    could tell nobody (it was killed, or hangs) one of the others says so.
    """
    try:
        yield
    except Elsewhere:
        raise
    except BaseException as error:
        if world.size == 1:
            raise
        lost = _lost(error)
        rank, kind, what = world.ended(_kind(error))
        if rank != world.rank:
            raise (Interrupted(what) if kind == "signal" else Elsewhere(int(what))) from None
        if not lost:
            raise
        say(
            f"another process of this run ended or did not answer; {last_good(rundir)}; "
            f"go on: anytrain train --run {rundir.path}"
        )
        raise Elsewhere(1) from None


def _lost(error: BaseException) -> bool:
    """Whether a collective failed because of another process; gloo's errors have no type."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and "gloo" in str(error)
    )


def _kind(error: BaseException) -> tuple[str, str]:
    """A signal and its name, or an error and the exit code that the command line has for it."""
    if isinstance(error, Interrupted):
        return "signal", str(error)
    codes: dict[type[BaseException], int] = {UserError: 2, KeyboardInterrupt: 130}
    return "error", str(next((c for kind, c in codes.items() if isinstance(error, kind)), 1))
