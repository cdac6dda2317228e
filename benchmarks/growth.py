"""How time and memory grow: with the number of scores, features, classes and training examples.

    python benchmarks/growth.py

Each point runs in a process of its own, whose peak memory is what is above that of the data. The
exponent is the slope of log seconds over the largest sizes (a decade, or two points at least): 1
where twice the data takes twice the time. Writes benchmarks/growth.json, with the machine of each
axis; about four minutes on two cores; Linux alone. Reads: benchmarks/reads.py.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import time

import machine
import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
FOUND = ROOT / "benchmarks" / "growth.json"
# Axis -> (its sizes, jobs).
AXES = {
    "scores": ((10**3, 10**4, 10**5, 10**6, 10**7), ("metrics", "intervals", "difference")),
    "features": ((64, 256, 1024, 2048, 4096), ("energy", "fdbd", "knn", "mahalanobis", "vim")),
    "classes": ((10, 100, 1000, 5000, 21000), ("energy", "gen", "fdbd", "mahalanobis", "vim")),
    "training": (
        (10**4, 10**5, 300_000, 1_200_000),
        ("fdbd", "knn", "mahalanobis", "react+energy", "vim"),
    ),
}
TEST, TRAINING, FEATURES, CLASSES = 2000, 20_000, 256, 10


def of_scores(job, size):
    """A function to be timed, on `size` scores of each class."""
    from ood_suite import intervals, metrics

    rng = np.random.default_rng(0)
    pair, other = ((rng.normal(0, 1, size), rng.normal(1, 1, size)) for _ in range(2))
    return {
        "metrics": lambda: metrics.evaluate(*pair),
        "intervals": lambda: intervals.bootstrap_intervals(*pair, resamples=200),
        "difference": lambda: intervals.paired_auroc_difference(pair, other),
    }[job]


def of_outputs(job, axis, size):
    """A function that fits a score and scores with it."""
    from ood_suite import Detector, Outputs

    sizes = {"features": FEATURES, "classes": CLASSES, "training": TRAINING} | {axis: size}
    width, classes, rng = sizes["features"], sizes["classes"], np.random.default_rng(0)
    kernel = rng.normal(0, 0.1, (width, classes)).astype(np.float32)
    training = max(sizes["training"], 2 * classes if job == "mahalanobis" else 0)

    def outputs(count):
        features = np.abs(rng.standard_normal((count, width), np.float32))
        return Outputs(
            features=features, logits=features @ kernel, labels=np.arange(count) % classes,
            head_kernel=kernel, head_bias=np.zeros(classes, np.float32),
        )  # fmt: skip

    learned, held_out, test = outputs(training), outputs(500), outputs(TEST)
    held_out.labels = held_out.logits.argmax(axis=1)  # a classifier that is right
    return lambda: Detector(job).fit(held_out, learned).score(test)


def worker(axis, job, size):
    """{"seconds", "mib"}: peak memory above what data and libraries take."""
    function = of_scores(job, size) if axis == "scores" else of_outputs(job, axis, size)
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # forget the peak of making the data
    before = peak_kib()
    times, started = [], time.perf_counter()
    while len(times) < 2 or (time.perf_counter() - started < 1.0 and len(times) < 9):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
        if times[0] > 10:
            break
    used = (peak_kib() - before) / 1024
    return {"size": size, "seconds": float(np.median(times)), "mib": used}


def peak_kib():
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def exponent(points):
    """Slope of log seconds over the sizes of the last decade."""
    last = [p for p in points if p["size"] >= points[-1]["size"] / 10]
    last = last if len(last) > 1 else points[-2:]
    sizes, seconds = (np.log([p[key] for p in last]) for key in ("size", "seconds"))
    return float(np.polyfit(sizes, seconds, 1)[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--axis", default="", choices=["", *AXES], help="one axis alone")
    parser.add_argument("--worker", nargs=3, help="internal")
    flags = parser.parse_args()
    if flags.worker:
        axis, job, size = flags.worker
        print(json.dumps(worker(axis, job, int(size))))
        return
    found = json.loads(FOUND.read_text()) if FOUND.exists() else {}
    for axis, (sizes, jobs) in AXES.items():
        if flags.axis not in ("", axis):
            continue
        found[axis] = {}
        found.setdefault("machines", {})[axis] = machine.mark()
        for job in jobs:
            points = []
            for size in sizes:
                done = subprocess.run(
                    [sys.executable, __file__, "--worker", axis, job, str(size)],
                    stdout=subprocess.PIPE, text=True, check=True,
                )  # fmt: skip
                points.append(json.loads(done.stdout.splitlines()[-1]))
            found[axis][job] = {"exponent": exponent(points), "points": points}
            FOUND.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(table(found))


def table(found):
    """Markdown: seconds (MiB beyond the data) at each size, and the exponent."""
    parts = []
    for axis in filter(found.__contains__, AXES):
        jobs = found[axis]
        sizes = [p["size"] for p in next(iter(jobs.values()))["points"]]
        parts += ["", f"| {axis} | " + " | ".join(f"{s:,}" for s in sizes) + " | exponent |"]
        parts.append("|" + "---|" * (len(sizes) + 2))
        for job, row in jobs.items():
            cells = [f"{p['seconds']:.3g} ({p['mib']:.0f})" for p in row["points"]]
            parts.append(f"| {job} | " + " | ".join(cells) + f" | {row['exponent']:.2f} |")
    return "\n".join(parts).strip()


if __name__ == "__main__":
    main()
