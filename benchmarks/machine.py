"""The mark of the machine that timings are of, and records: of one machine, at default settings."""

import os
import pathlib
import platform
import re
import sys

ROOT = pathlib.Path(__file__).parents[1]
CPUINFO = pathlib.Path("/proc/cpuinfo")
FIELDS = ("cpu family", "model", "stepping", "CPU implementer", "CPU part")
VARIABLES = (  # of instructions and threads
    "ATEN_CPU_CAPABILITY", "NPY_DISABLE_CPU_FEATURES", "OMP_NUM_THREADS", "ONEDNN_MAX_CPU_ISA",
    "OPENBLAS_CORETYPE",
)  # fmt: skip
NOT_WRITTEN = "Nothing was written: a record has all sides, and --torch_python was not given."


def mark():
    """Such as "AMD EPYC, cpu family 25, model 17, stepping 1, cores 2, ONEDNN_MAX_CPU_ISA=AVX2"."""
    sys.path.insert(0, str(ROOT))
    from ood_suite.processors import usable

    first = CPUINFO.read_text().split("\n\n")[0] if CPUINFO.exists() else ""
    said = dict(re.findall(r"^([^\t:]+)\t*: *(.+)$", first, re.M))
    processor = said.get("model name", platform.processor() or platform.machine())
    parts = [f"{field} {said[field]}" for field in FIELDS if field in said]
    limits = [f"{name}={os.environ[name]}" for name in VARIABLES if os.environ.get(name)]
    return ", ".join([processor, *parts, f"cores {usable()}", *limits])


def stamp(known, staying):
    """What a record says of its machine, when rows of this one are written into it.

    Args:
        known: the record so far. staying: names of its rows that are not measured anew.

    Returns:
        {"machine": the mark}, and where rows stay that are from before there were marks, so of an
        unknown machine, {"unmarked": their names}.

    Raises:
        SystemExit: rows of another machine would stay.
    """
    here, there = mark(), known.get("machine")
    if staying and there not in (None, here):
        sys.exit(
            f"The record is of another machine, and {len(staying)} of its rows would stay beside "
            f"those of this one. Record: {there}. Here: {here}. Measure all rows, or write to "
            "another file."
        )
    unmarked = [name for name in staying if there is None or name in known.get("unmarked", ())]
    return {"machine": here} | ({"unmarked": unmarked} if unmarked else {})


def at_defaults(flags, *names):
    """Whether these flags of absl are as a record has them; if not, says that it stays."""
    changed = [f"--{name}" for name in names if flags[name].value != flags[name].default]
    if changed:
        print(f"Nothing was written: the record is of the default {', '.join(changed)}.")
    return not changed


def peak_mib(usage):
    """MiB of a resource usage, whose peak is in bytes on macOS and in KiB elsewhere."""
    return usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
