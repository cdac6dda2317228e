"""Threads: as many as the process may use processors, on every system."""

import os

import pytest

from ood_suite import processors


@pytest.fixture(autouse=True)
def unbounded(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux alone")
def test_processors_that_the_process_may_not_use_do_not_count():
    before = os.sched_getaffinity(0)
    assert processors.usable() == len(before)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert processors.usable() == processors.threads() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_where_only_their_number_is_known(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    for count, usable, threads in ((3, 3, 3), (64, 64, processors.MOST), (None, 1, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda n=count: n)
        assert (processors.usable(), processors.threads()) == (usable, threads)


@pytest.mark.parametrize(("bound", "threads"), [("1", 1), ("2", 2), ("9", 3), ("0", 3), ("a", 3)])
def test_the_bound_of_other_libraries_holds_here(bound, threads, monkeypatch):
    monkeypatch.setattr(processors, "usable", lambda: 3)
    monkeypatch.setenv("OMP_NUM_THREADS", bound)
    assert processors.threads() == threads
