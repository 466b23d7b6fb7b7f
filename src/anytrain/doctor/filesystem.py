"""What a run directory asks of a filesystem: renames that are atomic, fsync, locks that exclude."""

import subprocess
import sys
import tempfile
from pathlib import Path

from anytrain.doctor.bench import Broken
from anytrain.errors import UserError
from anytrain.files import appearing
from anytrain.rundir import RunDir

WRITES = 100  # of a file that is read meanwhile
_SIZE = 64 * 1024  # bytes of it

_WRITER = """
import sys
from pathlib import Path
from anytrain.files import write_atomic
for number in range(int(sys.argv[2])):
    write_atomic(Path(sys.argv[1]), str(number % 10) * int(sys.argv[3]))
"""

_HOLDER = """
import sys
from pathlib import Path
from anytrain.rundir import RunDir
with RunDir(Path(sys.argv[1])).locked():
    print("held", flush=True)
    sys.stdin.read()
"""


def atomic_files(folder: Path) -> int:
    """Another process replaces a file again and again; how often it was read, whole each time."""
    file, reads = folder / "replaced", 0
    command = [sys.executable, "-c", _WRITER, str(file), str(WRITES), str(_SIZE)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            try:
                text = file.read_text()
            except FileNotFoundError:  # not yet written: later it must never be absent
                if reads:
                    process.kill()
                    raise Broken("a file that is replaced was absent for a moment") from None
                continue
            reads += 1
            if text != text[:1] * _SIZE:
                process.kill()
                raise Broken(f"a file that is replaced was read with {len(text)} bytes of {_SIZE}")
        if process.returncode != 0:
            assert process.stderr is not None
            raise Broken(f"writing failed: {process.stderr.read().strip().splitlines()[-1]}")
    return reads


def atomic_directories(folder: Path) -> None:
    """A directory is written aside, synced and renamed, as a checkpoint is."""
    with appearing(folder / "appeared") as draft:
        (draft / "inside").write_text("whole")
    if [path.read_text() for path in (folder / "appeared").iterdir()] != ["whole"]:
        raise Broken("a directory lost its files when it was renamed")


def locks(folder: Path) -> None:
    """Of two processes the second is refused; the lock of a killed one is no obstacle."""
    run = RunDir(folder / "locked")
    command = [sys.executable, "-c", _HOLDER, str(run.path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        if process.stdout.readline() != "held\n":
            raise Broken("no lock can be taken (flock)")
        try:
            with run.locked():
                raise Broken("two processes hold one lock: two trainers could write to one run")
        except UserError:
            pass  # refused, as it should be
        finally:
            process.kill()
    try:
        with run.locked():
            pass
    except UserError:
        raise Broken("the lock of a process that was killed is still held") from None


def check(parent: Path) -> int:
    """All of it, in a directory that is removed afterwards; how often a file was read."""
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        atomic_directories(Path(folder))
        locks(Path(folder))
        return atomic_files(Path(folder))
