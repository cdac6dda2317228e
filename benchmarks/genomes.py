"""How well words of DNA know reads: by genus, strain, and number of reads judged together.

    python benchmarks/genomes.py --genomes=FOLDER      # with the files of genomics_data/genera.tsv

For several seeds of the sampling, trains k-mer densities on reads of the in-distribution genera,
and scores held-out reads of them, of other strains of the same species, and of other genera. Prints
the tables of docs/genomics.md and, with --order and --seeds as they are, writes
benchmarks/genomes.json; seconds a seed. What the tools of the field make of such reads:
benchmarks/field.py.
"""

import dataclasses
import pathlib
import sys
import time

import machine
import numpy as np
from absl import app, flags

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from genomics_ood import configs, genome_table, kmer_run, kmers, reads, sampling  # noqa: E402
from ood_suite import conformal, intervals, metrics  # noqa: E402
from ood_suite.files import write_json  # noqa: E402

FLAGS = flags.FLAGS
LENGTH, PER_CLASS = 250, {"train": 30_000, "val": 2_000, "test": 2_000}
WANTED = PER_CLASS | {"ood_val": 2_000, "ood_test": 2_000}
TOGETHER = (1, 2, 4, 10)  # reads of one genome that are judged as one
STRAINS = {  # strain -> the in-distribution genus that it is of
    "Escherichia_coli_DH1": "Escherichia", "Escherichia_coli_536": "Escherichia",
    "Helicobacter_pylori_Gambia94_24": "Helicobacter",
    "Helicobacter_pylori_Puno120": "Helicobacter",
    "Staphylococcus_aureus_COL": "Staphylococcus", "Staphylococcus_aureus_RF122": "Staphylococcus",
}  # fmt: skip
MODELS = {
    "by class": {}, "all classes together": {"per_class": False},
    "background, mutation 0.1": {"mutation_rate": 0.1},
}  # fmt: skip


def main(_):
    found = {"order": FLAGS.order, "seeds": FLAGS.seeds, "by_seed": []}
    for seed in range(FLAGS.seeds):
        found["by_seed"].append(one_seed(seed))
        print(f"seed {seed} done", flush=True)
    print_tables(found)
    if machine.at_defaults(FLAGS, "order", "seeds"):
        write_json(ROOT / "benchmarks" / "genomes.json", found)


def sources():
    """The Sources of genera.tsv, in the folder of the genomes."""
    folder = pathlib.Path(FLAGS.genomes)
    table = (ROOT / "genomics_data" / "genera.tsv").read_text().splitlines()[1:]
    rows = [line.split("\t") for line in table]
    return [genome_table.Source(folder / row[0], *row[1:]) for row in rows]


def read_sets(seed):
    """{split: ReadSet} of a sampling."""
    drawn, _ = sampling.sample(sources(), LENGTH, WANTED, seed=seed)
    return {
        split: reads.ReadSet(
            "genera", split, bases, labels, tuple(names), tuple(lineages),
            origins=tuple(f"{title.split()[0]}:{start + 1}-" for title, start, _ in origins),
        )
        for split, (bases, labels, names, lineages, origins) in drawn.items()
    }  # fmt: skip


def model_of(sets, **changes):
    """The KmerDensity of the training reads, and the seconds that counting takes."""
    experiment = dataclasses.replace(
        configs.EXPERIMENTS["genera_kmers"], **{"order": FLAGS.order} | changes
    )
    start = time.perf_counter()
    model = kmer_run.counted(experiment, sets["train"], sets["val"], experiment.random_seed)
    return model, time.perf_counter() - start


def whole_genomes(names, seed):
    """{genome: bases of reads of all its regions}, as many as a test class has."""
    rows = [
        genome_table.Source(pathlib.Path(FLAGS.genomes) / f"{name}.fna.gz", name, "ood_test")
        for name in names
    ]
    drawn, _ = sampling.sample(rows, LENGTH, WANTED, seed=seed)
    bases, labels, names, *_ = drawn["ood_test"]
    return {name: bases[labels == label] for label, name in enumerate(names)}


def one_seed(seed):
    """Everything that is measured with one sampling."""
    sets, result = read_sets(seed), {"bits": {}, "auroc": {}, "by_genus": {}}
    models = {title: model_of(sets, **changes) for title, changes in MODELS.items()}
    said = {
        title: {
            split: model.class_log_probs(s.bases) for split, s in sets.items() if split != "train"
        }
        for title, (model, _) in models.items()
    }
    result["seconds"] = models["by class"][1]
    for title in ("by class", "all classes together"):
        nats = kmers.mixture(said[title]["val"]).mean()
        result["bits"][title] = float(-nats / np.log(2.0) / LENGTH)
    groups = groups_of(sets, seed)
    for title in ("by class", "all classes together", "ratio"):
        score = scorer(said, title)
        result["auroc"][title] = {
            str(count): compared(score, groups["test"][count], groups["ood_test"][count])
            for count in TOGETHER
        }
    score = scorer(said, "by class")
    for label, name in enumerate(sets["ood_test"].class_names):
        result["by_genus"][name] = {
            str(count): compared(
                score, groups["test"][count],
                of_class(groups["ood_test"][count], sets["ood_test"].labels, label),
            )
            for count in TOGETHER
        }  # fmt: skip
    model = models["by class"][0]
    threshold = conformal.threshold(-kmers.mixture(said["by class"]["val"]))
    result["false_alarms"] = {
        name: float(np.mean(-kmers.mixture(model.class_log_probs(bases)) > threshold))
        for name, bases in whole_genomes(STRAINS, seed).items()
    }
    for name, split in (("ID test", "test"), ("OOD test", "ood_test")):
        result["false_alarms"][name] = float(
            np.mean(-kmers.mixture(said["by class"][split]) > threshold)
        )
    right = said["by class"]["test"].argmax(axis=1) == sets["test"].labels
    result["accuracy"] = float(right.mean())
    return result


def of_class(rows, labels, label):
    """Those groups of reads that are of one class."""
    return rows[labels[rows[:, 0]] == label]


def groups_of(sets, seed):
    """{split: {count: rows of reads of one class, (groups, count)}}."""
    rng, found = np.random.default_rng(seed), {}
    for split in ("test", "ood_test"):
        labels, found[split] = sets[split].labels, {}
        for count in TOGETHER:
            parts = []
            for label in np.unique(labels):
                rows = rng.permutation(np.flatnonzero(labels == label))
                parts.append(rows[: len(rows) // count * count].reshape(-1, count))
            found[split][count] = np.concatenate(parts)
    return found


def scorer(said, title):
    """Function of (split, rows (n, count)) -> scores of groups of reads."""

    def of(name, split, rows):
        return kmers.mixture(said[name][split][rows].sum(axis=1))

    if title == "ratio":
        background = "background, mutation 0.1"
        return lambda s, rows: of(background, s, rows) - of("by class", s, rows)
    return lambda s, rows: -of(title, s, rows)


def compared(score, id_rows, ood_rows):
    """[AUROC, low, high] of groups of reads, DeLong's 95% interval."""
    pair = score("test", id_rows), score("ood_test", ood_rows)
    interval = intervals.auroc_interval(*pair)
    return [float(metrics.auroc(metrics.Counts.of(*pair))), *map(float, interval)]


def print_tables(found):
    """The tables of docs/genomics.md: mean over seeds [interval of the first] (largest - least)."""

    def cells(rows):
        for count in map(str, TOGETHER):
            values = [row[count] for row in rows]
            mean = np.mean([value[0] for value in values])
            spread = max(v[0] for v in values) - min(v[0] for v in values)
            yield f"{mean:.3f} [{values[0][1]:.3f}, {values[0][2]:.3f}] ({spread:.3f})"

    seeds = found["by_seed"]
    for part in ("auroc", "by_genus"):
        print(f"\n| {part} | " + " | ".join(f"{count} reads" for count in TOGETHER) + " |")
        print("|---" * (len(TOGETHER) + 1) + "|")
        for name in seeds[0][part]:
            print(f"| {name} | {' | '.join(cells([seed[part][name] for seed in seeds]))} |")
    print("\n| reads of | called OOD at 5% of the validation reads, by seed |")
    print("|---|---|")
    for name in seeds[0]["false_alarms"]:
        shares = ", ".join(f"{seed['false_alarms'][name]:.1%}" for seed in seeds)
        print(f"| {name} | {shares} |")
    for name in ("accuracy", "bits", "seconds"):
        print(name, [seed[name] for seed in seeds])


if __name__ == "__main__":
    flags.DEFINE_string("genomes", None, "Folder of the genomes of genera.tsv and of the strains.")
    flags.DEFINE_integer("order", 8, "Of the k-mer densities.")
    flags.DEFINE_integer("seeds", 3, "Samplings.", lower_bound=1)
    flags.mark_flag_as_required("genomes")
    app.run(main)
