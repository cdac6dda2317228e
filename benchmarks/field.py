"""Reads as the field has them: errors and pairs (ART), and Kraken 2 beside k-mer densities.

    python benchmarks/field.py --genomes=FOLDER        # with the files of genomics_data/genera.tsv

Needs art_illumina and kraken2 (Debian: art-nextgen-simulation-tools, kraken2). One reference for
Kraken and for the density, the four in-distribution genera; then Illumina-like reads of other
strains of three of these species (known) and of other genera (unknown), through both. And a second
time with nothing but the training reads in Kraken's library, against reads of the regions that were
held out. Writes benchmarks/field.json; some minutes.
"""

import dataclasses
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import numpy as np
from absl import app, flags
from genomes import LENGTH, ROOT, STRAINS, model_of, read_sets, sources, whole_genomes

from genomics_ood import configs, kmer_run, kmers, read_batches, reads, sequence_files
from ood_suite import conformal, intervals, metrics
from ood_suite.files import write_json

FLAGS = flags.FLAGS
READS = 2_000  # of each genome
SPEED = 200_000  # reads of the comparison of speeds
SAID = re.compile(  # what the summary of a screen says of a sample
    r"are OOD: ([\d.]+)%.*?(more than|not surely more).*?"
    r"something else: ([\d.]+)%, at least ([\d.]+)% allowing",
    re.DOTALL,
)
ART = ("art_illumina", "-ss", "MSv3", "-l", str(LENGTH), "-na", "-rs", "1", "-q")


def main(_):
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        genomes = {s.path.name.removesuffix(".fna.gz"): s.role for s in sources()}
        genomes |= dict.fromkeys(STRAINS, "strain")
        for name in genomes:
            write_genome(name, folder)
        single, pairs = (
            {name: simulated(name, folder, paired) for name in genomes} for paired in (False, True)
        )
        sets = read_sets(0)
        model, seconds = model_of(sets)
        found = {"order": FLAGS.order, "seconds_of_counting": seconds}
        found["errors"] = with_errors(model, sets, genomes, single, pairs)
        known = [name for name, role in genomes.items() if role == "strain"]
        unknown = [name for name, role in genomes.items() if role.startswith("ood")]
        reference = {s.class_name: folder / f"{s.path.name[:-7]}.fa" for s in sources()
                     if s.role == "id"}  # fmt: skip
        database, found["seconds_of_kraken_build"] = kraken_database(folder / "whole", reference)
        rows = [np.concatenate([single[n][0] for n in names]) for names in (known, unknown)]
        found["other strains"] = side_by_side(model, database, rows, folder)
        reference = training_regions(sets, folder)
        database, _ = kraken_database(folder / "regions", reference)
        rows = [sets["test"].bases, sets["ood_test"].bases]
        found["held-out regions"] = side_by_side(model, database, rows, folder)
        found["speed"] = speeds(database, rows, folder)
        found["samples"] = samples(sets, genomes, single, folder)
    write_json(ROOT / "benchmarks" / "field.json", found)
    for part, value in found.items():
        print(part, value)


def write_genome(name, folder):
    """The genome as a plain FASTA file, which ART and Kraken read."""
    with open(folder / f"{name}.fa", "w", encoding="utf-8") as file:
        for title, bases in sequence_files.records(pathlib.Path(FLAGS.genomes) / f"{name}.fna.gz"):
            file.write(f">{title}\n{sequence_files.decode(bases)}\n")


def simulated(name, folder, paired):
    """[uint8 (READS, LENGTH)], MiSeq-like reads of a genome, for each mate."""
    prefix = folder / f"{name}_{'pairs' if paired else 'single'}"
    more = ["-p", "-m", "600", "-s", "50"] if paired else []
    # Several records share the reads: the coverage is that of the whole genome.
    size = sum(len(b.bases) for b in read_batches.batches(folder / f"{name}.fa"))
    fold = 1.2 * READS * LENGTH * (2 if paired else 1) / size
    command = [*ART, "-i", folder / f"{name}.fa", "-f", f"{fold:.4f}", "-o", prefix, *more]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    files = [f"{prefix}{mate}.fq" for mate in ((1, 2) if paired else ("",))]
    mates = [np.concatenate([b.bases for b in read_batches.batches(f)]) for f in files]
    rows = np.random.default_rng(0).permutation(len(mates[0]) // LENGTH)[:READS]
    return [np.minimum(m.reshape(-1, LENGTH)[rows], 3) for m in mates]  # the rare N as T


def scores_of(model, *mates):
    return -kmers.mixture(sum(model.class_log_probs(bases) for bases in mates))


def with_errors(model, sets, genomes, single, pairs):
    """{"clean", "errors", "pairs with errors": the four genera against the other test genera}, all
    from whole genomes, so that most ID reads are of regions that the model knows; and what the
    threshold of clean validation reads makes of single reads.
    """
    roles = {role: [n for n, r in genomes.items() if r == role] for role in ("id", "ood_test")}
    clean = whole_genomes([n for names in roles.values() for n in names], seed=0)
    result = {}
    kinds = {"clean": lambda n: [clean[n]], "errors": single.get, "pairs with errors": pairs.get}
    for title, mates_of in kinds.items():
        own, ood = (
            np.concatenate([scores_of(model, *mates_of(name)) for name in names])
            for names in roles.values()
        )
        result[title] = compared(own, ood)
        if title != "pairs with errors":
            threshold = conformal.threshold(scores_of(model, sets["val"].bases))
            result[title]["called OOD"] = [float(np.mean(s > threshold)) for s in (own, ood)]
    return result


def compared(own, ood, false_alarms=0.05):
    """{"auroc", "low", "high", "found": share of OOD reads above the threshold that this share of
    the ID reads exceeds}.
    """
    low, high = intervals.auroc_interval(own, ood)
    found = np.mean(ood > np.quantile(own, 1.0 - false_alarms, method="higher"))
    auroc = metrics.auroc(metrics.Counts.of(own, ood))
    return {"auroc": float(auroc), "low": low, "high": high, "found": float(found)}


def training_regions(sets, folder):
    """{class: FASTA file of its training reads}: what the density has seen, and no more."""
    found = {}
    for label, name in enumerate(sets["train"].class_names):
        found[name] = folder / f"train_{name}.fa"
        own = sets["train"].bases[sets["train"].labels == label]
        text = "".join(f">{i}\n{sequence_files.decode(row)}\n" for i, row in enumerate(own))
        found[name].write_text(text)
    return found


def kraken_database(folder, reference):
    """(its folder, seconds), of a library of {class: FASTA file}, each a genus below the root."""
    (folder / "taxonomy").mkdir(parents=True)
    names, nodes = ["1\t|\troot\t|\t\t|\tscientific name\t|"], ["1\t|\t1\t|\tno rank\t|"]
    build, start = ["kraken2-build", "--db", str(folder), "--no-masking"], time.perf_counter()
    for number, (name, path) in enumerate(reference.items(), 10):
        names.append(f"{number}\t|\t{name}\t|\t\t|\tscientific name\t|")
        nodes.append(f"{number}\t|\t1\t|\tgenus\t|")
        marked = folder / f"{name}.fa"
        lines = path.read_text().splitlines()
        marked.write_text("\n".join(
            f">{i}|kraken:taxid|{number}" if line.startswith(">") else line
            for i, line in enumerate(lines)
        ) + "\n")  # fmt: skip
        subprocess.run([*build, "--add-to-library", str(marked)], check=True, capture_output=True)
    for title, lines in (("names", names), ("nodes", nodes)):
        (folder / "taxonomy" / f"{title}.dmp").write_text("\n".join(lines) + "\n")
    subprocess.run([*build, "--build", "--threads", "2"], check=True, capture_output=True)
    return folder, time.perf_counter() - start


def write_fastq(path, bases):
    with open(path, "w", encoding="utf-8") as file:
        for number, row in enumerate(bases):
            file.write(f"@r{number}\n{sequence_files.decode(row)}\n+\n{'I' * len(row)}\n")


def kraken(database, path):
    """(is unclassified, minus the share of its k-mers that the library has) of every read."""
    command = ["kraken2", "--db", str(database), "--threads", "2", str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    called, shares = [], []
    for line in done.stdout.splitlines():
        call, _, _, _, hits = line.split("\t")
        pairs = [hit.split(":") for hit in hits.split() if not hit.startswith("A")]
        total = sum(int(count) for _, count in pairs)
        known = sum(int(count) for number, count in pairs if number != "0")
        called.append(call == "U")
        shares.append(-known / max(total, 1))
    return np.array(called), np.array(shares)


def side_by_side(model, database, rows, folder):
    """{"density", "kraken": AUROC and so on, of known against unknown reads}; Kraken's score is
    minus the share of a read's k-mers that are in its library, its own decision beside it.
    """
    said = []
    for bases in rows:
        write_fastq(folder / "r.fq", bases)
        said.append(kraken(database, folder / "r.fq"))
    known, unknown = (float(called.mean()) for called, _ in said)
    ours = [scores_of(model, bases) for bases in rows]
    return {
        "density": compared(*ours),
        "kraken": compared(said[0][1], said[1][1]),
        "unclassified by kraken": {"known": known, "unknown": unknown},
        "found by the density at as many false alarms": compared(*ours, known)["found"],
    }


def speeds(database, rows, folder):
    """Reads per second of both on one file, two threads each, start included."""
    bases = np.resize(np.concatenate(rows), (SPEED, LENGTH))
    write_fastq(folder / "many.fq", bases)
    run = ["genomics_ood.screen", "--threads=2", f"--out={folder / 'o.tsv'}"]
    commands = {
        "density": [sys.executable, "-m", *run, str(folder / "many.fq")],
        "kraken": ["kraken2", "--db", str(database), "--threads", "2", "--output",
                   str(folder / "k.tsv"), str(folder / "many.fq")],
    }  # fmt: skip
    found = {}
    for name, command in commands.items():
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
        found[name] = SPEED / (time.perf_counter() - start)
    return found


def samples(sets, genomes, single, folder):
    """What `genomics_ood.screen` says of files whose true share of unknown reads is known: rows of
    {"known", "true", "called", "at_least", "allowing for chance"}, shares. Known are reads of the
    training genomes, or of other strains; reads with errors, all regions.
    """
    run = trained(sets, folder)
    parts = {
        role: np.concatenate([single[n][0] for n, r in genomes.items() if r == role])
        for role in ("id", "strain", "ood_test")
    }
    rng, found = np.random.default_rng(0), []
    for known in ("id", "strain"):
        for share in (0.0, 0.01, 0.05, 0.2, 0.5):
            count = round(share * READS * 4)
            rows = [rng.permutation(parts[known])[: READS * 4 - count],
                    rng.permutation(parts["ood_test"])[:count]]  # fmt: skip
            write_fastq(folder / "mixed.fq", np.concatenate(rows))
            command = [sys.executable, "-m", "genomics_ood.screen", f"--run={run}",
                       f"--data_dir={folder / 'data'}", f"--out={folder / 'o.tsv'}",
                       str(folder / "mixed.fq")]  # fmt: skip
            done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
            said = SAID.search(done.stderr)
            called, at_least, surely = (float(said[i]) / 100 for i in (1, 3, 4))
            found.append({"known": known, "true": share, "called": called, "verdict": said[2],
                          "at_least": at_least, "allowing for chance": surely})  # fmt: skip
    return found


def trained(sets, folder):
    """The run folder of the same reads' density."""
    for split in ("train", "val"):
        own = sets[split]
        path = folder / "data" / f"genera_{split}.npz"
        reads.write_file(path, own.bases, own.labels, own.class_names, own.lineages, own.origins)
    experiment = dataclasses.replace(
        configs.EXPERIMENTS["genera_kmers"], order=FLAGS.order, ood_validation=(), ood_test=()
    )
    return kmer_run.train(experiment, "genera_kmers", folder, folder / "data").folder


if __name__ == "__main__":
    flags.DEFINE_string("genomes", None, "Folder of the genomes of genera.tsv and of the strains.")
    flags.DEFINE_integer("order", 8, "Of the k-mer density.")
    flags.mark_flag_as_required("genomes")
    app.run(main)
