"""Samples reads from genomes: FASTA or FASTQ files to npz, in splits that share no region.

    python -m genomics_ood.fasta_to_np --files=a.fna.gz,b.fna.gz --name=mine
    python -m genomics_ood.fasta_to_np --files=genomes.fna.gz --per_record --name=mine
    python -m genomics_ood.fasta_to_np --table=genomes.tsv --name=mine --length=250

--files makes each file a class (named after it) of the in-distribution set, with --per_record each
of its records. --table is a file of tab-separated columns `file` (relative to the table), `class`,
`role` (id, ood_val, ood_test) and perhaps `lineage` (domain;phylum;...;genus), with a header line;
several files may be one class, and * as the class makes each record of the file one. Written are
NAME_train, NAME_val, NAME_test, and NAME_ood_val and NAME_ood_test where the table has such roles.

Every record is cut into blocks; the blocks of an in-distribution class are dealt out to the three
splits at random, and a read lies within one block: no two splits share a position. (They may share
a sequence that a genome repeats, or that two strains of a class have in common: see the note in
genomics_data/README.md.) A record of a block's length at least that a file holds twice is sampled
once, and in two files refused. Reads start at random positions, none twice, on both strands.
Windows with bases other than A C G T are no candidates; their number is reported. Files are
streamed, twice, one record at a time (six times the longest one must fit into memory).

The reads of a class depend on --seed, its name, its role and its own files alone: a row more in the
table, of another class, changes none of them. OOD rows change nothing in the in-distribution files,
so that a model that was trained on them stays that of the data.

Short records, such as the reads of a FASTQ file, are blocks of their own: there, reads that overlap
in the genome can come to lie in different splits, which nothing here can see. Of identical reads
and reverse complements one is kept, in train rather than in val or test.
"""

from absl import flags, logging

from genomics_ood import genome_table, reads, sampling
from ood_suite.runs.cli import define_name, run_app

FLAGS = flags.FLAGS


def main(_):
    if bool(FLAGS.table) == bool(FLAGS.files):
        raise ValueError("Give either --files or --table.")
    if FLAGS.table:
        sources = genome_table.read_table(FLAGS.table, FLAGS.per_record)
    else:
        sources = genome_table.file_sources(FLAGS.files, FLAGS.per_record)
    if not any(source.role == "id" for source in sources):
        raise ValueError("No source has the role id.")
    if FLAGS.block < FLAGS.length:
        raise ValueError(f"--block must be at least --length. Received: {FLAGS.block}.")
    counts = [int(text) if text.isdigit() else 0 for text in FLAGS.reads]
    if len(counts) != 3 or min(counts) < 1:
        raise ValueError(f"--reads must be three positive numbers. Received: {FLAGS.reads}.")
    wanted = dict(zip(sampling.ID_SPLITS, counts, strict=True))
    wanted |= {"ood_val": FLAGS.ood_reads, "ood_test": FLAGS.ood_reads}
    reads.write_set(FLAGS.data_dir, FLAGS.name, lambda: sampled(sources, wanted), FLAGS.overwrite)


def sampled(sources, wanted):
    """{split: arguments of reads.write_file}; says what was skipped."""
    found, skipped = sampling.sample(sources, FLAGS.length, wanted, FLAGS.block, FLAGS.seed)
    logging.info(
        "%d windows with other bases than A C G T, %d records shorter than %d bases and %d that "
        "are another one of their file again were skipped, and %d reads that another one repeats.",
        skipped["unknown"], skipped["short"], FLAGS.length, skipped["copies"], skipped["repeated"],
    )  # fmt: skip
    return {
        split: (
            *rest,
            [
                f"{genome_table.first_word(title)}:{start + 1}-{start + FLAGS.length}({strand})"
                for title, start, strand in origins
            ],
        )
        for split, (*rest, origins) in found.items()
    }


if __name__ == "__main__":
    flags.DEFINE_list("files", [], "FASTA or FASTQ files (gzip or not), each a class.")
    flags.DEFINE_string("table", None, "Table of files, classes and roles.")
    flags.DEFINE_bool("per_record", False, "Each record of a file is a class, called as it is.")
    define_name("bacteria", "Of the data set; not of an embedded one, unless --data_dir is given.")
    flags.DEFINE_string("data_dir", None, "Folder to write to; default: genomics_data.")
    flags.DEFINE_integer("length", 250, "Bases of a read.", lower_bound=1)
    flags.DEFINE_list("reads", ["10000", "1000", "1000"], "Per class: train, val, test.")
    flags.DEFINE_integer("ood_reads", 1000, "Per OOD class.", lower_bound=1)
    flags.DEFINE_integer("block", 10_000, "Bases that stay together in one split.", lower_bound=1)
    flags.DEFINE_bool("overwrite", False, "Replace a set of that name.")
    flags.DEFINE_integer("seed", 0, "Of blocks, positions and strands.")
    run_app(main, continues=False)
