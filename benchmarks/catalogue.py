"""The whole catalogue on 10000 ID and 10000 OOD outputs: seconds and peak memory of each score.

    python benchmarks/catalogue.py                  # of CIFAR's size: a minute
    python benchmarks/catalogue.py --size=imagenet  # 2048 features, 1000 classes

Each score is fitted to 10000 training examples with a threshold of 2000 held-out ones, and scores
20000. Peak memory is what a score adds to its data (Linux alone). Writes benchmarks/catalogue.json;
the scores of a size are of one machine.
"""

import argparse
import json
import pathlib
import sys
import time

ROOT = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
import growth  # noqa: E402
import machine  # noqa: E402
import scores as scores_benchmark  # noqa: E402

from ood_suite import Detector, scores  # noqa: E402

FOUND = ROOT / "benchmarks" / "catalogue.json"
SIZES = {"cifar": (10_000, 20_000, 342, 10), "imagenet": (10_000, 20_000, 2048, 1000)}
HELD_OUT = 2000


def measure(size, wanted):
    """Yields (score, {"fit_s", "score_s", "mib"}, or what is said of one that is refused)."""
    arrays = scores_benchmark.arrays(SIZES[size])
    training, test = scores_benchmark.as_outputs(arrays)
    per_example = {k: v[:HELD_OUT] for k, v in arrays.items() if k.startswith(("train", "test"))}
    held_out, validation = scores_benchmark.as_outputs(arrays | per_example)
    for name in wanted:
        if any(getattr(test, field) is None for field in scores.get(name).needs):
            continue
        pathlib.Path("/proc/self/clear_refs").write_text("5")
        before, start = growth.peak_kib(), time.perf_counter()
        try:
            detector = Detector(name).fit(held_out, training, validation)
        except ValueError as error:  # too large for it
            yield name, str(error)
            continue
        fitted = time.perf_counter()
        detector.score(test)
        yield (
            name,
            {
                "fit_s": fitted - start,
                "score_s": time.perf_counter() - fitted,
                "mib": (growth.peak_kib() - before) / 1024,
            },
        )


def line(name, row):
    """A line of the table."""
    if isinstance(row, str):
        return f"| {name} | | | {row} |"
    return f"| {name} | {row['fit_s']:.2f} | {row['score_s']:.2f} | {row['mib']:.0f} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="cifar", help="of the outputs")
    parser.add_argument("--only", default="", help="names, with commas; the others stay")
    flags = parser.parse_args()
    known = json.loads(FOUND.read_text()) if FOUND.exists() else {}
    wanted = flags.only.split(",") if flags.only else scores.ALL
    rows = {name: row for name, row in known.get(flags.size, {}).items() if name not in wanted}
    stamps = known.setdefault("stamps", {})
    stamps[flags.size] = machine.stamp(stamps.get(flags.size, {}), list(rows))
    known[flags.size] = rows
    print("| score | fit s | score s | MiB |\n|---|---|---|---|")
    for name, row in measure(flags.size, wanted):
        rows[name] = row
        print(line(name, row), flush=True)
        FOUND.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    measured = [row for row in rows.values() if not isinstance(row, str)]
    total = sum(row["fit_s"] + row["score_s"] for row in measured)
    print(f"| all {len(measured)} | {total:.0f}, both | | {max(r['mib'] for r in measured):.0f} |")


if __name__ == "__main__":
    main()
