"""One process for each device, by PyTorch's own launcher."""

import logging
import os
import signal
import sys
import uuid
from collections.abc import Sequence

from anytrain.errors import UserError

_PATIENCE = 3600  # seconds that processes get to save and end


def inside() -> bool:
    """Whether a launcher has started this process as one of several."""
    return "WORLD_SIZE" in os.environ and "RANK" in os.environ


def wanted(devices: int | None) -> int:
    """How many processes to start: as asked, or one for each GPU that can be seen."""
    import torch

    if devices is None:
        return max(1, torch.cuda.device_count())
    if devices < 1:
        raise UserError(f"--devices {devices}; 1 or more is valid")
    if torch.cuda.is_available() and devices > torch.cuda.device_count():
        raise UserError(f"--devices {devices}: there are {torch.cuda.device_count()} GPUs")
    return devices


def launch(devices: int, arguments: Sequence[str]) -> int:
    """Run `anytrain ARGUMENTS` in so many processes of this machine; returns the exit code.

    SIGTERM and SIGUSR1 are passed on and waited for. A terminal sends its SIGINT to all processes.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (cores or 1) // devices)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=devices,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id=uuid.uuid4().hex,
        max_restarts=0,
        signals_to_handle="SIGTERM,SIGUSR1",
        shutdown_timeout=_PATIENCE,
    )
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        elastic_launch(config, sys.executable)("-m", "anytrain", *arguments)
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        return code if code >= 0 else 128 - code
    except SignalException:
        return _preempted(arguments)
    finally:
        signal.signal(signal.SIGINT, before)
    return 0


def _preempted(arguments: Sequence[str]) -> int:
    """What `--preempted-exit-code` asks for."""
    for word, following in zip(arguments, [*arguments[1:], "0"], strict=True):
        if word == "--preempted-exit-code":
            return int(following)
        if word.startswith("--preempted-exit-code="):
            return int(word.partition("=")[2])
    return 0
