"""What it takes for the likelihood ratio to work: network size, input scale, mutation, L2, steps.

    python benchmarks/likelihood_ratio.py --data_dir=FOLDER                     # all of it: a GPU
    python benchmarks/likelihood_ratio.py --data_dir=FOLDER --only=r2_s0_mr0.1_reg10
    python benchmarks/likelihood_ratio.py --data_dir=FOLDER --lend
    python benchmarks/likelihood_ratio.py --report

FashionMNIST against MNIST. Trains every case (a run folder each, which continues after a kill),
keeps models on the way, and scores each on a part of every data set: OUT_DIR/scores/CASE.npz.
`--report` needs those files alone: for every foreground it chooses background and step by notMNIST,
against held-out ID images, and writes what comes out on the test sets to --out, in place of the
same rows there. A choice there stays until all backgrounds that it was made among are scored again.
A foreground that has no backgrounds is paired with the shipped one, if `--lend` scored that.
"""

import argparse
import dataclasses
import itertools
import json
import pathlib
import re
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from images_ood.configs import EXPERIMENTS  # noqa: E402
from ood_suite import data, intervals, metrics  # noqa: E402
from ood_suite.data.pictures import png_bits  # noqa: E402
from ood_suite.detector import Detector  # noqa: E402
from ood_suite.files import atomic_path, load_npz, write_json  # noqa: E402
from ood_suite.outputs import Outputs  # noqa: E402
from ood_suite.progress import progress  # noqa: E402
from ood_suite.runs.density_settings import run_name  # noqa: E402
from ood_suite.runs.run import Run  # noqa: E402

# (title, data set, split, images): evenly spaced, so that notMNIST's letters are all there.
SETS = (
    ("held_out", "fashion_mnist", "val", 2000),
    ("notmnist", "notmnist", "test", 2000),
    ("id_test", "fashion_mnist", "test", 5000),
    ("mnist", "mnist", "test", 5000),
    ("letters", "glyphs", "test", 1000),
    ("natural", "tiny_grey", "test", 1000),
)
BASE = EXPERIMENTS["fashion_gpu"]
FAMILIES = {
    "r1": {"num_resnet": 1, "rescale_pixel_value": True},
    "r2": {"num_resnet": 2, "rescale_pixel_value": True},
    "r5": {"num_resnet": 5, "rescale_pixel_value": True},  # the paper's size
    "r5_raw": {"num_resnet": 5, "rescale_pixel_value": False},  # and its inputs, 0..255
}
MUTATIONS, PENALTIES = (0.01, 0.05, 0.1, 0.2, 0.3), (0.0, 10.0, 100.0)
CENTRAL = ((0.1, 10.0), (0.3, 10.0), (0.3, 100.0))  # backgrounds of every family and seed
SEEDS = {"r5": 3, "r5_raw": 3}
LENT = "pretrained/images_fashion/reg10_mr0.1"  # of r5_raw_s0, in float32


@dataclasses.dataclass(frozen=True)
class Case:
    """One training. Attributes: family: key of FAMILIES. seed: its repeat_id."""

    family: str
    seed: int
    mutation_rate: float = 0.0
    reg_weight: float = 0.0

    @property
    def is_background(self):
        return bool(self.mutation_rate or self.reg_weight)

    @property
    def name(self):
        own = f"mr{self.mutation_rate:g}_reg{self.reg_weight:g}" if self.is_background else "fg"
        return f"{self.family}_s{self.seed}_{own}"

    @property
    def experiment(self):
        every = {} if self.is_background else {"save_every": 1000}
        own = {"mutation_rate": self.mutation_rate, "reg_weight": self.reg_weight}
        return dataclasses.replace(BASE, **FAMILIES[self.family], **own, **every)


def cases():
    """{name: Case}; of the family r5 with seed 0, one row of the grid and two of its columns."""
    found = []
    for family in FAMILIES:
        for seed in range(SEEDS.get(family, 1)):
            found.append(Case(family, seed))
            found += [Case(family, seed, *pair) for pair in CENTRAL]
    more = itertools.chain(
        ((rate, 10.0) for rate in MUTATIONS),
        ((rate, penalty) for rate in (0.1, 0.3) for penalty in PENALTIES),
    )
    found += [Case("r5", 0, *pair) for pair in more]
    return {case.name: case for case in found}


def image_sets(data_dir):
    """{title: uint8 images}; a set that is not there is left out."""
    found = {}
    for title, name, split, count in SETS:
        try:
            images = data.load(name, split, data_dir).images
        except FileNotFoundError as error:
            print(f"{title} is left out: {error}")
            continue
        rows = np.linspace(0, len(images) - 1, min(count, len(images))).astype(int)
        found[title] = images[rows]
    return found


def score(run, images, path):
    """Writes what every kept model of a finished run says: {"step/title": float32 nats}."""
    from images_ood.extract import log_prob_map
    from ood_suite.training.stored_model import read_model

    scorer, arrays = None, {}
    for name in progress(run.checkpoints(), desc=f"scoring {run.folder.name}"):
        model = read_model(Run.load(run.folder, name))
        if scorer is None:
            scorer = model  # compiled once
        scorer.set_weights(model.get_weights())
        step = run.settings["total_steps"] if name == "last" else int(name.removeprefix("step_"))
        for title, batch in images.items():
            pixels = log_prob_map(scorer, batch, 500)
            arrays[f"{step}/{title}"] = pixels.sum(axis=(1, 2), dtype=np.float64)
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {k: v.astype(np.float32) for k, v in arrays.items()}
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays, dtype=np.array(run.settings["dtype"]))


def train(case, out_dir, data_dir, dtype="float32"):
    """Trains and scores one case, unless that is done; says so if it was in another precision."""
    from images_ood.density_run import train as train_density

    path = out_dir / "scores" / f"{case.name}.npz"
    if path.exists():
        if (done := read_scores(path)[0]) != dtype:
            print(f"{path} is of {done}, and stays. For {dtype} give another --out_dir.")
        return
    experiment = dataclasses.replace(case.experiment, dtype=dtype)
    run = train_density(experiment, case.family, out_dir, data_dir=data_dir, repeat_id=case.seed)
    score(run, image_sets(data_dir), path)


def lend(out_dir, data_dir):
    """Scores the shipped background."""
    shipped = pathlib.Path(__file__).parents[1] / LENT
    score(Run.load(shipped), image_sets(data_dir), lent_path(out_dir))


def lent_path(out_dir):
    return out_dir / "scores" / "lent.npz"


def complexity(data_dir, path):
    """Writes the PNG lengths of the same images, in bits: the baseline needs no network."""
    bits = {k: [png_bits(i) for i in images] for k, images in image_sets(data_dir).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **{title: np.array(values, np.float32) for title, values in bits.items()})


def read_scores(path):
    """(dtype, {step: {title: nats}}) of a file of scores; before files said the first, that of the
    run, if it is there, else float32.
    """
    arrays = load_npz(path)
    case = cases().get(path.stem)
    folder = case and path.parents[1] / case.family / run_name(case.experiment, case.seed)
    known = folder and (folder / "config.json").exists()
    usual = Run.load(folder).settings["dtype"] if known else "float32"
    dtype = str(arrays.pop("dtype", usual))
    found: dict[int, dict[str, np.ndarray]] = {}
    for key, values in arrays.items():
        step, title = key.split("/")
        found.setdefault(int(step), {})[title] = values
    return dtype, dict(sorted(found.items()))


def aurocs(scores):
    """{OOD set: AUROC} of {title: scores}, notMNIST against the held-out images."""
    pairs = {"notmnist": "held_out"}
    return {
        title: metrics.auroc(metrics.Counts.of(scores[pairs.get(title, "id_test")], values))
        for title, values in scores.items()
        if title not in ("held_out", "id_test")
    }


def ratio(foreground, background):
    return {title: background[title] - values for title, values in foreground.items()}


def joined(foreground, background, bits):
    """{score: {OOD set: AUROC}} of the scores of a pair and of the images' PNG lengths."""
    outputs = {
        title: Outputs(
            log_prob=values, background_log_prob=background[title], code_length=bits[title]
        )
        for title, values in foreground.items()
    }
    found = {}
    for name in ("input_complexity", "likelihood", "likelihood_ratio", "two_sided_fisher"):
        detector = Detector(name).fit(outputs["held_out"])
        found[name] = aurocs({title: detector.score(part) for title, part in outputs.items()})
    return found


def partners(name, dtypes):
    """The backgrounds of a foreground among {case: dtype}; those of another dtype are left out."""
    known = cases()
    family, seed = known[name].family, known[name].seed
    own = [k for k in dtypes if known[k].is_background]
    own = [k for k in own if (known[k].family, known[k].seed) == (family, seed)]
    strange = [other for other in own if dtypes[other] != dtypes[name]]
    if strange:
        print(f"{name} is of {dtypes[name]}; of another dtype, so no pair: {', '.join(strange)}.")
    return [other for other in own if other not in strange]


def report(out_dir):
    """Rows of everything that was scored, and of what validation chooses."""
    known = cases()
    files = {name: out_dir / "scores" / f"{name}.npz" for name in known}
    read = {name: read_scores(path) for name, path in files.items() if path.exists()}
    dtypes = {name: dtype for name, (dtype, _) in read.items()}
    scored = {name: steps for name, (_, steps) in read.items()}
    bits = load_npz(out_dir / "scores" / "complexity.npz")
    lent = read_scores(lent_path(out_dir))[1] if lent_path(out_dir).exists() else {}
    rows, chosen = [], []
    for name, steps in scored.items():
        if known[name].is_background:
            continue
        who = {"foreground": name, "dtype": dtypes[name]}
        for step, scores in steps.items():
            likelihood = {title: -values for title, values in scores.items()}
            rows.append(who | {"step": step, "score": "likelihood"} | aurocs(likelihood))
        last = steps[max(steps)]
        own = [
            who | {"step": max(steps), "score": "ratio", "background": other,
             "mutation_rate": known[other].mutation_rate, "reg_weight": known[other].reg_weight,
             "background_step": step} | aurocs(ratio(last, background))
            for other in partners(name, dtypes)
            for step, background in scored[other].items()
        ]  # fmt: skip
        rows += own
        if lent and not own:
            [(_, background)] = lent.items()
            pair = who | {"step": max(steps), "score": "ratio", "background": LENT}
            rows.append(pair | aurocs(ratio(last, background)))
        if own:
            best = max(own, key=lambda row: row["notmnist"])
            background = scored[best["background"]][best["background_step"]]
            final = ratio(last, background)
            low, high = intervals.auroc_interval(final["id_test"], final["mnist"])
            earlier = {
                step: aurocs(ratio(part, background))["mnist"] for step, part in steps.items()
            }
            chosen.append(
                best | {"mnist_low": low, "mnist_high": high, "by_step": earlier}
                | {"scores": joined(last, background, bits)}
            )  # fmt: skip
    return {"chosen": chosen, "rows": rows}


def merged(known, found):
    """The record with what was found in place of the same rows. A choice among backgrounds that
    were not all found again stays, and that is said.
    """
    old, new = ({"chosen": [], "rows": []} | part for part in (known, found))
    rows = {_identity(row): row for row in old["rows"] + new["rows"]}
    chosen, better = ({_foreground(row): row for row in part["chosen"]} for part in (old, new))
    for who in dict.fromkeys(map(_foreground, new["rows"])):
        missing = _backgrounds(old["rows"], who) - _backgrounds(new["rows"], who)
        if missing and who in chosen:
            print(
                f"The choice on record of {who[0]} stays. It was made among more backgrounds; not "
                f"scored here: {', '.join(sorted(missing))}."
            )
        elif who in better:
            chosen[who] = better[who]
    for row in chosen.values():  # JSON's keys are texts, of which 10000 comes before 9000
        row["by_step"] = {int(step): auroc for step, auroc in row.get("by_step", {}).items()}
    return {"chosen": list(chosen.values()), "rows": list(rows.values())}


def _foreground(row):
    return row["foreground"], row.get("dtype", "float32")


def _identity(row):
    return *_foreground(row), *(row.get(k) for k in ("background", "step", "background_step"))


def _backgrounds(rows, who):
    own = [row for row in rows if _foreground(row) == who and "background" in row]
    return {row["background"] for row in own} - {LENT}


def wanted(only):
    """The cases that --only names: of its parts between commas, each a name or a part of names."""
    known = cases()
    if only is None:
        return list(known.values())
    parts = [part for part in only.split(",") if part]
    names = {n for p in parts for n in ([p] if p in known else filter(re.compile(p).search, known))}
    return [case for name, case in known.items() if name in names]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir", help="Folder of the npz files.")
    parser.add_argument("--out_dir", default="output/likelihood_ratio", help="%(default)s")
    parser.add_argument("--only", help="Names of cases, or parts of names, with commas.")
    parser.add_argument("--dtype", default="float32", help="Of the trainings. %(default)s")
    parser.add_argument("--lend", action="store_true", help="Score the shipped background.")
    parser.add_argument("--report", action="store_true", help="From the scores that there are.")
    parser.add_argument("--list", action="store_true", help="The names of all cases.")
    parser.add_argument("--out", default="benchmarks/likelihood_ratio.json", help="%(default)s")
    options = parser.parse_args()
    out_dir = pathlib.Path(options.out_dir)
    if options.list:
        print("\n".join(cases()))
        return
    if options.report:
        out = pathlib.Path(options.out)
        found = report(out_dir)
        write_json(out, merged(json.loads(out.read_text()) if out.exists() else {}, found))
        for row in found["chosen"]:
            print(json.dumps(row))
        return
    if options.lend:
        return lend(out_dir, options.data_dir)
    todo = wanted(options.only)
    if not todo:
        parser.error(f"--only={options.only} names no case. Known: {', '.join(cases())}")
    if not (out_dir / "scores" / "complexity.npz").exists():
        complexity(options.data_dir, out_dir / "scores" / "complexity.npz")
    for case in todo:
        print(f"{case.name}: {run_name(case.experiment, case.seed)}", flush=True)
        train(case, out_dir, options.data_dir, options.dtype)


if __name__ == "__main__":
    main()
