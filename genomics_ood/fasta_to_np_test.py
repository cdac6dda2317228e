"""Sampling of reads: splits share no position, counts and strands are right, bad tables refused."""

import itertools
import re

import numpy as np
import pytest

from genomics_ood import genome_table, reads, sampling, sequence_files
from genomics_ood.genome_table import Source
from ood_suite import shipped
from ood_suite.files import BusyError
from tests.support import command

WANTED = {"train": 80, "val": 20, "test": 20, "ood_val": 15, "ood_test": 15}


@pytest.fixture
def genomes(tmp_path, rng):
    """{class: bases of its genome}; two files for class a, one with N in it."""
    found = {}
    for name, sizes in (("a", (4000, 3000)), ("b", (5000,)), ("v", (3000,)), ("t", (3000,))):
        for number, size in enumerate(sizes):
            bases = rng.integers(0, 4, size).astype(np.uint8)
            text = sequence_files.decode(bases)
            text = text[:500] + "N" * 40 + text[540:] if name == "a" else text
            (tmp_path / f"{name}{number}.fa").write_text(f">{name}{number}\n{text}\n>tiny\nACG\n")
            found[f"{name}{number}"] = sequence_files.encode(text)
    return found


@pytest.fixture
def sources(tmp_path, genomes):
    rows = (
        ("a", 0, "id"),
        ("a", 1, "id"),
        ("b", 0, "id"),
        ("v", 0, "ood_val"),
        ("t", 0, "ood_test"),
    )
    return [
        Source(tmp_path / f"{name}{i}.fa", name, role, f"Life;{name}") for name, i, role in rows
    ]


def test_splits_share_no_position(genomes, sources):
    length = 50
    found, skipped = sampling.sample(sources, length, WANTED, block=300, seed=3)
    touched = {}
    for split in ("train", "val", "test"):
        bases, labels, names, lineages, origins = found[split]
        assert names == ["a", "b"] and lineages == ["Life;a", "Life;b"]
        assert np.bincount(labels).tolist() == [WANTED[split]] * 2
        positions = set()
        for read, label, (title, start, strand) in zip(bases, labels, origins, strict=True):
            assert title[0] == names[label]
            original = genomes[title][start : start + length]
            if strand == "-":
                original = sequence_files.reverse_complement(original)
            np.testing.assert_array_equal(read, original)
            positions |= {(title, i) for i in range(start, start + length)}
        assert {strand for *_, strand in origins} == {"+", "-"}
        assert len(set(origins)) == len(origins)  # none twice
        touched[split] = positions
    for first, second in itertools.combinations(touched.values(), 2):
        assert not first & second
    assert found["ood_val"][2] == ["v"] and len(found["ood_test"][0]) == 15
    assert skipped["short"] == 5 and skipped["unknown"] > 0


def test_the_seed_decides(sources):
    first, again, other = (
        sampling.sample(sources, 50, WANTED, block=300, seed=seed)[0]["train"][0]
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_row_more_changes_no_other_reads(tmp_path, sources, rng):
    """Of an OOD class: not a byte of the other sets; of an ID class: not a read of the others."""
    before = sampling.sample(sources, 50, WANTED, block=300)[0]
    for role, changed in (("ood_test", {"ood_test"}), ("id", {"train", "val", "test"})):
        path = tmp_path / f"new_{role}.fa"
        path.write_text(f">new\n{sequence_files.decode(rng.integers(0, 4, 3000))}\n")
        more = [*sources[:2], Source(path, "new", role), *sources[2:]]
        after = sampling.sample(more, 50, WANTED, block=300)[0]
        for split, (bases, labels, names, _, origins) in before.items():
            if split not in changed:
                np.testing.assert_array_equal(after[split][0], bases)
                np.testing.assert_array_equal(after[split][1], labels)
            for label, name in enumerate(names):
                own = {origins[i] for i in np.flatnonzero(labels == label)}
                now = np.flatnonzero(after[split][1] == after[split][2].index(name))
                assert {after[split][4][i] for i in now} == own


def write_records(path, rng, names):
    texts = [sequence_files.decode(rng.integers(0, 4, 3000).astype(np.uint8)) for _ in names]
    path.write_text("".join(f">{n} x\n{t}\n" for n, t in zip(names, texts, strict=True)))
    return dict(zip(names, texts, strict=True))


def test_each_record_a_class(tmp_path, rng, caplog):
    texts = write_records(tmp_path / "many.fa", rng, ["r1", "r2", "r3"])
    write_records(tmp_path / "one.fa", rng, ["v1", "v2"])
    (tmp_path / "t.tsv").write_text("file\tclass\trole\nmany.fa\t*\tid\none.fa\tv\tood_val\n")
    sources = genome_table.read_table(tmp_path / "t.tsv")
    assert [s.class_name for s in sources] == ["r1", "r2", "r3", "v"]
    found, _ = sampling.sample(sources, 50, WANTED, block=300)
    assert "has 2 records, which are one class, v" in caplog.text
    assert "many.fa has" not in caplog.text
    bases, labels, names, *_ = found["test"]
    for read, label in zip(bases, labels, strict=True):
        either = read, sequence_files.reverse_complement(read)
        assert any(sequence_files.decode(r) in texts[names[label]] for r in either)
    every = genome_table.file_sources([tmp_path / "many.fa", tmp_path / "one.fa"], per_record=True)
    assert [s.class_name for s in every] == ["r1", "r2", "r3", "v1", "v2"]


def test_records_that_cannot_be_classes(tmp_path, rng, monkeypatch):
    write_records(tmp_path / "twice.fa", rng, ["r1"])
    text = (tmp_path / "twice.fa").read_text()
    (tmp_path / "twice.fa").write_text(text + text)
    with pytest.raises(ValueError, match="has two records called 'r1'"):
        genome_table.file_sources([tmp_path / "twice.fa"], per_record=True)
    monkeypatch.setattr(genome_table, "MOST_RECORDS", 2)
    write_records(tmp_path / "reads.fa", rng, ["r1", "r2", "r3"])
    with pytest.raises(ValueError, match="more than 2 records, .* is it a file of reads"):
        genome_table.file_sources([tmp_path / "reads.fa"], per_record=True)


def test_reads_of_a_fastq_file_are_taken_as_they_are(tmp_path, rng):
    rows = rng.integers(0, 4, (60, 30)).astype(np.uint8)
    lines = [f"@r{i}\n{sequence_files.decode(row)}\n+\n{'I' * 30}\n" for i, row in enumerate(rows)]
    (tmp_path / "x.fastq").write_text("".join(lines))
    wanted = {"train": 30, "val": 8, "test": 8, "ood_val": 1, "ood_test": 1}
    found, _ = sampling.sample([Source(tmp_path / "x.fastq", "x", "id")], 30, wanted)
    origins = [{title for title, *_ in found[s][4]} for s in ("train", "val", "test")]
    assert sum(map(len, origins)) == 46 == len(set.union(*origins))


def test_the_binary(tmp_path, sources, genomes):
    header = "file\tclass\trole\tlineage\n"
    rows = "".join(f"{s.path.name}\t{s.class_name}\t{s.role}\t{s.lineage}\n" for s in sources)
    (tmp_path / "table.tsv").write_text(header + rows)
    result = command(
        "genomics_ood.fasta_to_np", f"--table={tmp_path / 'table.tsv'}", "--name=mine",
        "--reads=80,20,20", "--ood_reads=15", "--length=50", "--block=300",
        f"--data_dir={tmp_path / 'out'}",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "windows with other bases" in result.stderr
    again = command(
        "genomics_ood.fasta_to_np", f"--table={tmp_path / 'table.tsv'}", "--name=mine",
        f"--data_dir={tmp_path / 'out'}",
    )  # fmt: skip
    assert (
        again.returncode == 1 and "is there already. Another --name, or --overwrite" in again.stderr
    )
    train = reads.load("mine", "train", tmp_path / "out")
    with np.load(tmp_path / "out" / "mine_train.npz") as file:
        title, start, stop, strand = re.match(
            r"(.*):(\d+)-(\d+)\((.)\)", file["origins"][0]
        ).groups()
    original = genomes[title][int(start) - 1 : int(stop)]
    read = original if strand == "+" else sequence_files.reverse_complement(original)
    np.testing.assert_array_equal(train.bases[0], read)
    assert train.bases.shape == (160, 50) and train.class_names == ("a", "b")
    outside = reads.load("mine_ood", "test", tmp_path / "out")
    assert outside.lineages == ("Life;t",) and len(outside) == 15


@pytest.mark.parametrize(
    "text, message",
    [
        ("file\tclass\nx\ty\n", "must have the tab-separated columns"),
        ("file\tclass\trole\nx\ty\tood\n", "role must be one of id, ood_val, ood_test"),
        ("file\tclass\trole\nx\ty\tid\nz\ty\tood_val\n", "the class y has two roles"),
        ("", "must have the tab-separated columns"),
        ("file\tclass\trole\tlineage\nx\ty\tid\tL;y\nz\ty\tid\tM;y\n", "y has two lineages"),
        ("file\tclass\trole\nx\t*\tid\nz\t*\tid\n", "The record 'a' .* is not the only one"),
        ("file\tclass\trole\nx\t*\tid\nz\ta\tid\n", "The record 'a' .* is not the only one"),
        ("file\tclass\trole\nx\ty\n", "a row has no role. Received: .*'class': 'y'"),
        ("file\tclass\trole\nx\ty\tid\n\tz\tid\n", "a row has no file"),
        ("file\tclass\trole\nx\ty\tid\n x \tz\tood_val\n", "is given twice"),
    ],
)
def test_bad_tables(tmp_path, text, message):
    for name in "xz":
        (tmp_path / name).write_text(">a\nACGT\n")
    (tmp_path / "t.tsv").write_text("\ufeff" + text)
    with pytest.raises(ValueError, match=message):
        genome_table.read_table(tmp_path / "t.tsv")


def test_a_lineage_is_that_of_any_row_of_its_class(tmp_path):
    for name in "xz":
        (tmp_path / name).write_text(f">{name}\nACGT\n")
    (tmp_path / "t.tsv").write_text("file\tclass\trole\tlineage\nx\ty\tid\tL;y\nz\ty\tid\n")
    found = genome_table.read_table(tmp_path / "t.tsv")
    assert [source.lineage for source in found] == ["L;y", "L;y"]


def test_the_same_sequence_in_two_files_is_refused(tmp_path, sources):
    copy = tmp_path / "copy.fa"
    copy.write_text((tmp_path / "v0.fa").read_text())
    with pytest.raises(ValueError, match="copy.fa and .*v0.fa hold the same sequence"):
        sampling.sample([*sources, Source(copy, "w", "ood_test")], 50, WANTED, block=300)


def test_a_copy_within_a_file_is_not_sampled(tmp_path, sources):
    """Its reads would be those of another split."""
    path = tmp_path / "b0.fa"
    text = path.read_text()
    path.write_text(text + text.replace(">b0", ">copy"))
    found, skipped = sampling.sample(sources, 50, WANTED, block=300)
    assert skipped["copies"] == 1
    titles = {title for *_, origins in found.values() for title, *_ in origins}
    assert titles == {"a0", "a1", "b0", "t0", "v0"}


def test_classes_of_files(tmp_path):
    for name in ("E.coli.fna.gz", "E.albertii.fna.gz", "E.coli.fa"):
        (tmp_path / name).write_text(">a\nACGT\n")
    paths = [tmp_path / name for name in ("E.coli.fna.gz", "E.albertii.fna.gz")]
    names = [source.class_name for source in genome_table.file_sources(paths)]
    assert names == ["E.coli", "E.albertii"]
    with pytest.raises(ValueError, match="would be the same class: E.coli, E.coli"):
        genome_table.file_sources([paths[0], tmp_path / "E.coli.fa"])
    with pytest.raises(FileNotFoundError, match="There is no file"):
        genome_table.file_sources([tmp_path / "none.fa"])


def test_repeated_reads_are_kept_once(tmp_path):
    bases = sequence_files.encode("ACGTTGCA" * 3 + "AAAA")
    other = sequence_files.decode(sequence_files.reverse_complement(bases))
    lines = [f"@r{i}\n{text}\n+\n{'I' * 28}\n"
             for i, text in enumerate([sequence_files.decode(bases), other] * 10)]  # fmt: skip
    (tmp_path / "x.fastq").write_text("".join(lines))
    wanted = {"train": 8, "val": 6, "test": 6, "ood_val": 1, "ood_test": 1}
    found, skipped = sampling.sample([Source(tmp_path / "x.fastq", "x", "id")], 28, wanted)
    assert [len(found[s][0]) for s in ("train", "val", "test")] == [1, 0, 0]
    assert skipped["repeated"] == 19


def small_set(rng):
    bases = rng.integers(0, 4, (4, 9)).astype(np.uint8)
    return dict.fromkeys(("train", "val"), (bases, np.zeros(4), ["a"]))


def test_a_set_is_written_under_the_lock_of_its_folder(tmp_path, rng):
    """Its training reads last, once it is made: a kill leaves no set that others would take."""
    reads.write_set(tmp_path, "x", lambda: small_set(rng))
    before = reads.load("x", "train", tmp_path).fingerprint
    with pytest.raises(ValueError, match="x_val.npz is there already. Another --name, or --over"):
        reads.write_set(tmp_path, "x", lambda: small_set(rng))

    def busy():
        with pytest.raises(BusyError):
            reads.write_set(tmp_path, "y", lambda: small_set(rng))
        assert reads.load("x", "train", tmp_path).fingerprint == before
        return small_set(rng) | {"ood_val": (np.ones((2, 9)), [0, 0])}  # cannot be written

    with pytest.raises(ValueError, match="must be uint8 of shape"):
        reads.write_set(tmp_path, "x", busy, overwrite=True)
    assert [path.name for path in tmp_path.glob("*.npz")] == ["x_val.npz"]


@pytest.mark.parametrize("name", ["bacteria", "bacteria_ood"])
def test_no_set_is_mixed_with_an_embedded_sample(tmp_path, monkeypatch, rng, name):
    monkeypatch.chdir(tmp_path)
    for folder in (None, "genomics_data"):
        with pytest.raises(ValueError, match=f"An embedded sample is called {name}, "):
            reads.write_set(folder, name, lambda: small_set(rng))
    reads.write_set("other", name, lambda: small_set(rng))
    reads.write_set(None, "mine", lambda: small_set(rng))
    assert len(reads.load("mine", "train")) == len(reads.load(name, "val", "other")) == 4


def test_origins_begin_with_the_first_word_of_the_title(tmp_path, rng):
    text = sequence_files.decode(rng.integers(0, 4, 3000))
    (tmp_path / "a.fa").write_text(f"> chr1\tlong title\n{text}\n")
    result = command(
        "genomics_ood.fasta_to_np", f"--files={tmp_path / 'a.fa'}", "--reads=4,4,4",
        "--length=50", "--block=100", f"--data_dir={tmp_path}",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    origins = reads.load("bacteria", "train", tmp_path).origins
    assert all(re.fullmatch(r"chr1:\d+-\d+\([+-]\)", origin) for origin in origins)


def test_commands_name_the_folder(tmp_path):
    given = f"--data_dir={tmp_path}"
    with pytest.raises(FileNotFoundError, match=f"--ood_reads=2000 {given}"):
        reads.load("genera_ood", "test", tmp_path)
    with pytest.raises(FileNotFoundError, match=f"--name=bacteria {given}"):
        reads.load("bacteria", "test", tmp_path)


def test_bad_arguments(tmp_path, sources):
    run = lambda *arguments: command("genomics_ood.fasta_to_np", *arguments).stderr  # noqa: E731
    assert "Give either --files or --table" in run()
    a = f"--files={tmp_path / 'a0.fa'}"
    assert "a0 has" in (error := run(a, "--length=50", f"--data_dir={tmp_path}")), error
    assert "--reads must be three positive numbers" in run(a, "--reads=5,5")
    with pytest.raises(ValueError, match="No record is as long as"):
        sampling.sample(sources, 6000, WANTED)


def test_read_files(tmp_path, rng):
    bases = rng.integers(0, 4, (5, 7)).astype(np.uint8)
    reads.write_file(tmp_path / "x_test.npz", bases, np.arange(5), list("abcde"))
    found = reads.load("x", "test", tmp_path)
    np.testing.assert_array_equal(found.bases, bases)
    assert found.class_names == tuple("abcde") and not found.note
    with pytest.raises(ValueError, match="must lie in 0..3"):
        reads.write_file(tmp_path / "bad.npz", bases + 1, np.arange(5))
    with pytest.raises(ValueError, match="must be uint8 of shape"):
        reads.write_file(tmp_path / "bad.npz", bases.astype(int), np.arange(5))
    np.savez(tmp_path / "y_test.npz", images=bases)
    with pytest.raises(ValueError, match="must hold an array `bases`"):
        reads.load("y", "test", tmp_path)
    with pytest.raises(FileNotFoundError, match="and --data_dir is given"):
        reads.load("bacteria", "test", tmp_path)  # the sample does not stand in unasked
    with pytest.raises(FileNotFoundError, match="no embedded sample of it"):
        reads.load("z", "test")
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        reads.load("bacteria", "test", tmp_path / "typo")
    by_path = reads.load(str(tmp_path / "x"), "test")
    assert by_path.name == "x" and by_path.fingerprint == found.fingerprint
    with pytest.raises(FileNotFoundError, match="no embedded sample of it"):
        reads.load(str(tmp_path / "bacteria"), "test")  # nor for a path


SAMPLES = shipped.resource("genomics_data") / "samples"


def test_the_embedded_sample():
    train, val, test = (
        reads.load(str(SAMPLES / f"bacteria_{split}.npz"), split) for split in reads.SPLITS
    )
    assert train.class_names == ("Escherichia", "Helicobacter", "Staphylococcus")
    assert train.bases.shape == (25496, 250) and len(val) == len(test) == 2400
    known = {read.tobytes() for read in train.bases}
    known |= {sequence_files.reverse_complement(read).tobytes() for read in train.bases}
    for other in (val, test):
        assert not any(read.tobytes() in known for read in other.bases)
    outside = [
        reads.load(str(SAMPLES / f"bacteria_ood_{split}.npz"), split).class_names
        for split in ("val", "test")
    ]
    assert outside == [("Vibrio",), ("Klebsiella", "Streptococcus")]
