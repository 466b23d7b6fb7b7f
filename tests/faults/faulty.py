"""`anytrain WORDS …` where one process meets a fault: python -c faulty.py FAULT RANK WORDS …

In the process of that rank, or in `all` of them, something of the product is replaced before it
runs. Step 6 is where it happens, or the checkpoint of step 8.
"""

import errno
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from anytrain.cli.main import main
from anytrain.errors import UserError
from anytrain.training import checkpoint, evaluate, loop, pretrain


def written() -> None:
    """Wait for the checkpoint that is written beside training."""
    for thread in threading.enumerate():
        if thread.name == "checkpoint":
            thread.join()


def in_a_step(fault: Callable[[Any], Any], after: bool = False) -> None:
    """In the forward pass of step 6, or after its backward pass."""
    whole = loop.backward

    def backward(run: Any, batch: Any) -> Any:
        now = run.clock.step == 5
        if now and not after:
            written()
            fault(run)
        loss = whole(run, batch)
        if now and after:
            fault(run)
        return loss

    loop.backward = backward


def in_a_write(fault: Callable[[], Any]) -> None:
    """When a process has written its tensors of step 8, and not yet sealed them."""
    whole = checkpoint.sha256

    def sha256(path: Path) -> str:
        if path.parent.name == ".writing-step-000000008":
            fault()
        return whole(path)

    checkpoint.sha256 = sha256


def in_an_evaluation(fault: Callable[[], Any]) -> None:
    """While the model has the weights of its first average."""
    whole, calls = evaluate.sequence_losses, itertools.count()
    evaluating: list[str] = []

    def weights_of(run: Any, name: str) -> Any:
        evaluating.append(name)
        return applied(run, name)

    def losses(run: Any, part: Any) -> Any:
        if evaluating[-1] != "raw" and next(calls) == 1:
            written()
            fault()
        return whole(run, part)

    applied = evaluate.weights_of
    evaluate.weights_of, evaluate.sequence_losses = weights_of, losses


def backwards() -> None:
    """Every clock runs backwards, and stands still now and then."""
    for name in ("time", "monotonic", "perf_counter"):
        ticks = itertools.count()
        setattr(time, name, lambda ticks=ticks: 1e6 - next(ticks) // 2)


def while_starting(fault: Callable[[], Any]) -> None:
    """Before there is a first step."""
    whole = pretrain.build

    def build(*arguments: Any, **more: Any) -> Any:
        fault()
        return whole(*arguments, **more)

    pretrain.build = build


def kill(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def terminate(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def wrong(_: Any) -> None:
    raise UserError("something is wrong in one process")


def nan(run: Any) -> None:
    """In the rows of one tensor that this process has."""
    next(run.model.parameters()).grad.to_local().fill_(float("nan"))


def altered(run: Any) -> None:
    """The first token of the first shard is another one."""
    shard = next(Path(next(iter(run.recipe.data.sources))).glob("*/train-00000.bin"))
    content = bytearray(shard.read_bytes())
    content[0] ^= 1
    shard.write_bytes(content)


FAULTS: dict[str, Callable[[], Any]] = {
    "none": lambda: None,
    "killed in a step": lambda: in_a_step(kill),
    "killed while evaluating": lambda: in_an_evaluation(kill),
    "killed while writing": lambda: in_a_write(kill),
    "absent": lambda: sys.exit(3),
    "terminated": lambda: in_a_step(terminate),
    "terminated early": lambda: while_starting(terminate),
    "wrong": lambda: in_a_step(wrong),
    "disk full": lambda: in_a_write(full),
    "nan": lambda: in_a_step(nan, after=True),
    "slow": lambda: in_a_step(lambda _: time.sleep(3)),
    "silent": lambda: in_a_step(lambda _: time.sleep(3600)),
    "clock": backwards,
    "data altered": lambda: in_a_step(altered),
}

if __name__ == "__main__":
    fault, rank, *words = sys.argv[1:]
    if rank in ("all", os.environ["RANK"]):
        FAULTS[fault]()
    sys.exit(main(words))
