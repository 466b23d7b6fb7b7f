"""What a run, a checkpoint or a release was made with."""

import platform

import torch

from anytrain import __version__


def versions() -> dict[str, str]:
    """Of the package, PyTorch and Python."""
    return {
        "anytrain": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
