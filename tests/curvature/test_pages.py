"""Memory that is kept is not cleared again, page by page."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from anytrain.curvature.pages import keep_pages
if "keep" in sys.argv:
    assert keep_pages()
for _ in range(8):  # until the heap has room for one beside whatever it is aligned behind
    torch.ones(2**24)  # 64 MiB
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_large_tensors_take_the_same_pages_again() -> None:
    def faults(*words: str) -> int:
        command = [sys.executable, "-c", FAULTS, *words]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return int(done.stdout)

    kept, given_back = faults("keep"), faults()
    assert 10 * kept < given_back  # of huge pages it is 128
