"""How many processors there are to share work among."""

import os

MOST = 8  # threads of blocks or images: more wait for memory, or for Python's lock


def usable() -> int:
    """How many this process may use, at least 1. (Linux alone knows of those it may not use.)"""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def threads() -> int:
    """How many threads pay for work that releases Python's lock: 1 to MOST, and not more than the
    OMP_NUM_THREADS that bounds those of NumPy's products.
    """
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    bound = int(wanted) if wanted.isdecimal() else 0
    return min(MOST, usable(), bound or MOST)
