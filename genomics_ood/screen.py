"""Screens reads: which of them are like nothing that the model was trained on?

    python -m genomics_ood.screen --run=output/genomics_ood/bacteria reads.fastq.gz > scores.tsv
    zcat reads.fasta.gz | python -m genomics_ood.screen --run=RUN --out=scores.tsv.gz -

RUN is the folder of a sweep, whose background model the validation OOD reads choose (log ratio), or
one density (likelihood). Reads are FASTA or FASTQ, gzip or not, streamed at constant memory. Every
read becomes a line of tab-separated values:

    read, length, scored_bases, gc_content, score, threshold, is_ood

The score is in nats per base, higher = more OOD; is_ood is 1 where it is above the threshold, which
accepts 95% (--acceptance) of the in-distribution validation reads cut to the same length. Of a read
with unknown bases the longest part without is scored. One that is longer than the training reads is
cut into windows, whose mean is compared with the threshold of means of as many validation reads of
one class: an approximation, since neighbouring windows are more alike than those. What has fewer
than --min_length known bases gets NA. A summary goes to standard error.
"""

import sys

from absl import flags

from genomics_ood import sequence_files
from ood_suite.optional import quietly
from ood_suite.progress import progress
from ood_suite.runs import cli

FLAGS = flags.FLAGS


def main(argv):
    if len(argv) != 2:
        raise ValueError(
            "Give one file of reads, or - for standard input. Received: "
            f"{', '.join(argv[1:]) or 'none'}."
        )
    if not 0.0 < FLAGS.acceptance < 1.0:
        raise ValueError(f"--acceptance must lie in (0, 1). Received: {FLAGS.acceptance}.")
    records = sequence_files.records(argv[1])
    first = next(records, None)  # a file that cannot be read is found out before the models load
    if first is None:
        raise ValueError(f"{argv[1]} holds no reads.")
    with quietly():  # not at the top: --help need not wait for Keras
        from genomics_ood import screening

    screen = screening.Screen.of(cli.run_folder(), FLAGS.data_dir, FLAGS.acceptance)
    summary = screening.Summary()

    def everything():
        yield first
        yield from records

    with screening.writer(FLAGS.out) as file:
        print("\t".join(screening.COLUMNS), file=file)
        rows = screening.screened(screen, everything(), FLAGS.min_length)
        for row in progress(rows, unit="read", desc="screening"):
            print(screening.text_of(row), file=file)
            summary.add(row, screen.length)
    for line in summary.lines(FLAGS.acceptance):
        print(line, file=sys.stderr)


if __name__ == "__main__":
    cli.define_run("Folder of a sweep, or run folder of one density.", checkpoint=False)
    flags.DEFINE_string("out", "-", "File to write, gzip if it ends in .gz; - for standard output.")
    cli.define_data_dir("genomics_data")
    flags.DEFINE_float("acceptance", 0.95, "Share of in-distribution reads that are accepted.")
    flags.DEFINE_integer("min_length", 50, "Known bases that a read must have.", lower_bound=1)
    cli.run_app(main, positional=True)
