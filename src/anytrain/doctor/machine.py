"""The machine, as far as it can be described without computing on it. No torch."""

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path


def cores() -> int:
    """Those that this process may use, where the system says which."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The name of the CPU."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        match = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE)
        if match is not None:
            return match[1].strip()
    return platform.processor() or platform.machine()


def gpus() -> list[str]:
    """Names of NVIDIA's GPUs, asked of its driver: torch would take seconds to load."""
    ask = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    if shutil.which(ask[0]) is None:
        return []
    try:
        done = subprocess.run(ask, capture_output=True, text=True, timeout=20)
    except subprocess.TimeoutExpired:
        return []
    return done.stdout.split("\n")[:-1] if done.returncode == 0 else []


def filesystem(path: Path) -> str:
    """The type of the filesystem that holds `path`, such as ext4 or nfs4; unknown off Linux."""
    mounts = Path("/proc/self/mountinfo")
    if not mounts.is_file():
        return "unknown"
    here, found, longest = path.resolve(), "unknown", -1
    for line in mounts.read_text().splitlines():
        # id parent major:minor root MOUNT options … - TYPE source options (proc(5))
        left, _, right = line.partition(" - ")
        mount = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), left.split()[4])
        if here.is_relative_to(mount) and len(mount) >= longest:  # of two on one place, the upper
            found, longest = right.split()[0], len(mount)
    return found
