"""Memory that is taken once: on a CPU a third of an exact product is the kernel clearing pages."""

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of malloc.h


def keep_pages() -> bool:
    """Have malloc hand out again what tensors leave, of any size; False where it is not glibc's.

    Tensors above 32 MiB otherwise go back to the system when they are freed, and the next ones are
    cleared page by page. A process that calls this stays as large as it ever was.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # macOS, Windows, musl
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))  # never
