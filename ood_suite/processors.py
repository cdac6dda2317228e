"""How many processors there are to share work among."""

import os

MOST = 8  # threads of blocks or images: more wait for memory, or for Python's lock


def usable() -> int:
    """How many this process may use, at least 1. (Linux alone knows of those it may not use.)"""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def threads() -> int:
    """How many threads pay for work that releases Python's lock: 1 to MOST."""
    return min(MOST, usable())
