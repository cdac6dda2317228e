"""Screens reads: which of them are like nothing that the model was trained on?

    python -m genomics_ood.screen reads.fastq.gz > scores.tsv
    python -m genomics_ood.screen --paired --out=scores.tsv.gz R1.fastq.gz R2.fastq.gz
    zcat reads.fasta.gz | python -m genomics_ood.screen --run=RUN --kreport=report.txt -

RUN is a density (likelihood), or the folder of a sweep, whose background model the validation OOD
reads choose (log ratio); without --run it is the shipped model of words of three genera. Reads are
FASTA or FASTQ, gzip, BGZF or not, streamed at constant memory (but for the longest record and what
waits, which are held), or a data set's npz file. Every read, or with --paired every pair, becomes a
line of tab-separated values:

    read, length, scored_bases, gc_content, score, threshold, is_ood, class

The score is in nats per base, higher = more OOD; is_ood is 1 where it is above the threshold, which
accepts 95% (--acceptance) of the in-distribution validation reads cut to the same length; class is
the nearest training class, NA where the model knows none. Of a read with unknown bases the longest
part without is scored. One that is longer than the training reads is cut into windows of equal
size, and so are the mates of a pair: their sum is compared with sums over as many validation reads
of one class, an approximation, since neighbouring windows are more alike than those. What has
fewer than --min_length known bases gets NA. A summary of the sample goes to standard error.
"""

import contextlib
import sys

from absl import flags

from genomics_ood import read_batches, screen_files, screen_summary, screening
from ood_suite import processors, shipped
from ood_suite.optional import quietly
from ood_suite.progress import progress
from ood_suite.runs import cli

FLAGS = flags.FLAGS
SHIPPED = "pretrained/dna_kmers"


def batches_of(paths):
    """Yields a tuple of Batches: one of each file, read ahead by threads."""
    found = [read_batches.ahead(read_batches.batches(path)) for path in paths]
    return read_batches.paired(*found) if len(found) > 1 else ((batch,) for batch in found[0])


def begun(paths):
    """The same, of which the first tuple is read: a file that cannot be is found out before the
    models load.
    """
    found = batches_of(paths)
    first = next(found, None)
    if first is None:
        raise ValueError(f"{', '.join(paths)}: there are no reads.")

    def everything():
        yield first
        yield from found

    return everything()


def screens_of(rule):
    """The Screen of --run, and that of --second if it is given."""
    with quietly():  # not at the top: --help need not wait for Keras
        from genomics_ood import screen_model
    rules = [(FLAGS.run, screen_model.Rule(**rule))]
    if FLAGS.second:  # it may have no classes, and has a score of its own
        more = {"acceptance": rule["acceptance"], "confidence": rule["confidence"]}
        rules.append((FLAGS.second, screen_model.Rule(**more)))
    screen_model.check_rule(rules[0][1])
    return [
        screen_model.Screen.of(shipped.run_folder(folder), FLAGS.data_dir, own)
        for folder, own in rules
    ]


def written(count):
    """{flag: paths} of what is written, of the rows and beside them, for so many files of reads."""
    names = {"out": [FLAGS.out], "kreport": [FLAGS.kreport] if FLAGS.kreport else []}
    for flag in ("classified_out", "unclassified_out"):
        pattern = FLAGS[flag].value
        names[flag] = screen_files.paths_of(pattern, count) if pattern else []
    return names


def main(argv):
    # Stage 1: what is asked for.
    paths, count = argv[1:], 2 if FLAGS.paired else 1
    if len(paths) != count or paths == ["-", "-"]:
        wanted = "two files of mates" if FLAGS.paired else "one file of reads"
        raise ValueError(
            f"Give {wanted}, or - for standard input. Received: {', '.join(paths) or 'none'}."
        )
    names = written(count)
    screen_files.check_apart(names, paths)
    found = begun(paths)
    screens = screens_of({
        "acceptance": FLAGS.acceptance, "confidence": FLAGS.confidence,
        "per_class": FLAGS.per_class_thresholds, "score": FLAGS.score,
    })  # fmt: skip

    # Stage 2: rows, batch by batch.
    summary, unit = screen_summary.Summary(screens[0].classes), "pairs" if FLAGS.paired else "reads"
    rows_of_all = screening.decisions(screens, found, FLAGS.min_length, FLAGS.threads)
    with contextlib.ExitStack() as stack:
        files = {
            flag: [stack.enter_context(screen_files.writer(path)) for path in own]
            for flag, own in names.items()
        }
        [out] = files["out"]
        also = [
            screen_files.ReadWriter(files[flag], is_ood)
            for flag, is_ood in (("classified_out", False), ("unclassified_out", True))
            if files[flag]
        ]
        columns = screening.COLUMNS + (screening.SECOND if FLAGS.second else ())
        out.write(("\t".join(columns) + "\n").encode())
        with progress(unit="read", desc="screening") as bar:
            for rows in rows_of_all:
                out.write(screening.text_of(rows, screens[0]).encode())
                for each in (summary, *also):
                    each.add(rows)
                bar.update(len(rows))

        # Stage 3: the sample.
        for file in files["kreport"]:
            lines = screen_summary.kreport(summary, screens[0])
            file.write("".join(f"{line}\n" for line in lines).encode())
    for line in summary.lines(screens[0], unit):
        print(line, file=sys.stderr)


if __name__ == "__main__":
    flags.DEFINE_string("run", SHIPPED, "Run folder of one density, or folder of a sweep.")
    flags.DEFINE_string(
        "second", None, "Another such folder, for a second opinion beside it, by its own score."
    )
    flags.DEFINE_string("out", "-", "File to write, gzip if it ends in .gz; - for standard output.")
    cli.define_data_dir("genomics_data")
    flags.DEFINE_bool("paired", False, "Two files of mates, in the same order: one line a pair.")
    flags.DEFINE_integer(
        "threads", processors.usable(), "That score words of reads.", lower_bound=1
    )
    flags.DEFINE_enum(
        "score", "auto", ("auto", "likelihood", "likelihood_ratio"),
        "auto: the ratio where the folder has a background model, else the likelihood.",
    )  # fmt: skip
    flags.DEFINE_float("acceptance", 0.95, "Share of in-distribution reads that are accepted.")
    flags.DEFINE_float(
        "confidence", None, "At least that share is accepted for this share of the sets of "
        "validation reads, not only on average. (Kraken's flag of this name is another thing.)",
    )  # fmt: skip
    flags.DEFINE_bool(
        "per_class_thresholds", False, "A threshold for each predicted class: the promise holds in "
        "each.",
    )  # fmt: skip
    flags.DEFINE_integer("min_length", 50, "Known bases that a read must have.", lower_bound=1)
    flags.DEFINE_string("kreport", None, "File for a report in Kraken's format; OOD: unclassified.")
    flags.DEFINE_string(
        "classified_out",
        None,
        "File for accepted reads; with --paired a # stands for the mate.",
    )
    flags.DEFINE_string("unclassified_out", None, "The same for OOD reads, and those not scored.")
    cli.run_app(main, positional=True, continues=False)
