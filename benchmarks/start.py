"""Seconds of CPU before anything happens: imports, --help of every command, the smallest jobs.

    python benchmarks/start.py        # 2 minutes

CPU seconds of a process of its own, all threads and children, the median of --rounds; with what it
imported of the packages that are slow to import. Writes benchmarks/start.json.
"""

import argparse
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from ood_suite.__main__ import COMMANDS  # noqa: E402

SLOW = ("tensorflow", "keras", "sklearn", "matplotlib", "scipy")
SAY = f"import sys; print('IMPORTED', *[p for p in {SLOW!r} if p in sys.modules], file=sys.stderr)"
# Runs a module as `python -m` does, and says at the end which slow packages were imported.
WATCHED = f"""
import atexit, runpy, sys
atexit.register(lambda: exec({SAY!r}))
module, sys.argv = sys.argv[1], sys.argv[1:]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def measure(code, *arguments):
    """(CPU seconds, packages) of one process that must end well."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in (0, "--help" in arguments):  # absl's --help ends with 1
        sys.exit(f"{arguments}: {done.stderr}")
    said = [line for line in done.stderr.splitlines() if line.startswith("IMPORTED")]
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, said[-1].split()[1:] if said else []


DETECTOR = """
import numpy as np
from ood_suite import Detector, Outputs
rng = np.random.default_rng(0)
known, other = (Outputs(logits=rng.normal(0, s, (1000, 10))) for s in (3, 1))
Detector("energy").fit(known).is_ood(other)
"""


def jobs(folder):
    """{what: (code, arguments)}."""
    imports = {
        "python, nothing": "pass",
        "import ood_suite": "import ood_suite",
        "from ood_suite import Detector, Outputs": "from ood_suite import Detector, Outputs",
        "Detector of energy on arrays": DETECTOR,
    }
    evaluations = {}
    for name in ("dna_kmers", "classifier_fashion"):
        shutil.copytree(ROOT / "pretrained" / name, folder / name)
        run = next(path.parent for path in (folder / name).glob("*/config.json"))
        evaluations[f"eval of pretrained/{name}, extracted before"] = (
            WATCHED, ("ood_suite.eval", f"--run={run}", "--resamples=100")
        )  # fmt: skip
    helps = {f"ood {name} --help": (WATCHED, (m, "--help")) for name, m in COMMANDS.items()}
    helps |= {"ood --help": (WATCHED, ("ood_suite", "--help"))}
    return {n: (f"{code}\n{SAY}", ()) for n, code in imports.items()} | evaluations | helps


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="rounds; the median counts")
    options = parser.parse_args()
    found = {}
    print("| | CPU s | imports |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, job in jobs(pathlib.Path(folder)).items():
            if name.startswith("eval"):
                measure(job[0], *job[1])  # extracts
            rounds = [measure(job[0], *job[1]) for _ in range(options.rounds)]
            found[name] = {
                "cpu_s": float(np.median([seconds for seconds, _ in rounds])),
                "imports": rounds[-1][1],
            }
            row = found[name]
            print(f"| `{name}` | {row['cpu_s']:.2f} | {', '.join(row['imports'])} |", flush=True)
    path = ROOT / "benchmarks" / "start.json"
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
