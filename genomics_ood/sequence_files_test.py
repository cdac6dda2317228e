"""FASTA, FASTQ, TFRecord and TFDS: what is read, and what is refused with which words."""

import gzip
import io
import tracemalloc

import numpy as np
import pytest

from genomics_ood import reads, records_to_np, sequence_files
from tests.support import command


def read(path):
    return [(title, sequence_files.decode(bases)) for title, bases in sequence_files.records(path)]


def write(path, content):
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


FASTA = b">one first record\r\nACgt\r\nNNRa\r\n\r\n>two\nA\n>empty\n>three\nUUC-\n"


@pytest.mark.parametrize("name", ["a.fasta", "a.fna.gz", "misnamed.txt"])
def test_fasta(tmp_path, name):
    found = read(write(tmp_path / name, FASTA))
    assert found == [
        ("one first record", "ACGTNNNA"), ("two", "A"), ("empty", ""), ("three", "TTCN")
    ]  # fmt: skip


def test_fastq(tmp_path):
    content = b"@r1 x\nACGT\n+\n@@@@\n@r2\nGGN\n+r2\n+++\n"
    assert read(write(tmp_path / "a.fastq.gz", content)) == [("r1 x", "ACGT"), ("r2", "GGN")]


def test_gzip_is_known_by_its_content(tmp_path):
    path = tmp_path / "a.fasta"
    path.write_bytes(gzip.compress(FASTA))
    assert len(read(path)) == 4


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "an empty file"),
        (b"\n \n", "an empty file"),
        (b"ACGT\nACGT\n", "must begin with '>' .* and has 'A' at its beginning"),
        (b">protein\nMKVLQ*\n", r"record 'protein' must be nucleotides .* 'L' at base 4"),
        (b"@r\nACGT\n+\nIII\n", "cannot be read: .*[Ll]ength"),
        (b"@r\nACGT\n", "cannot be read"),
        (gzip.compress(FASTA * 500)[:-60], "cannot be read: .*end-of-stream"),
        (gzip.compress(FASTA)[:12] + b"garbage" * 9, "cannot be read"),
    ],
)
def test_what_is_no_sequence_file(tmp_path, content, message):
    path = tmp_path / "bad.fa"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_masked_bases_are_unknown(tmp_path):
    assert read(write(tmp_path / "a.fa", b">a\nACXXgt\n")) == [("a", "ACNNGT")]
    with pytest.raises(ValueError, match="is a folder"):
        read(tmp_path)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file"):
        read(tmp_path / "none.fa")


def test_standard_input(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(gzip.compress(FASTA)))
    monkeypatch.setattr("sys.stdin", stream)
    assert len(read("-")) == 4


def test_reverse_complement():
    bases = sequence_files.encode("AACGT")
    assert sequence_files.decode(sequence_files.reverse_complement(bases)) == "ACGTT"


# The layout of the reference's toy files: a frame around a tf.train.Example of x, y and z.
def write_tfrecord(path, reads_and_labels):
    import tensorflow as tf

    def feature(value):
        if isinstance(value, int):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for digits, label in reads_and_labels:
            fields = {"x": feature(" ".join(digits).encode()), "y": feature(label)}
            fields["z"] = feature(b"NC_1 a genome_pos1-4")
            example = tf.train.Example(features=tf.train.Features(feature=fields))
            writer.write(example.SerializeToString())
    return path


def write_reference_folder(folder):
    for part, labels in (
        ("train", (7, 3, 7)), ("val", (3, 7)), ("ood_val", (40, 20, 20)), ("ood_test", (90,))
    ):  # fmt: skip
        rows = [(f"{label % 4}0123", label) for label in labels]
        name = records_to_np.PARTS[part][0]
        write_tfrecord(folder / name / "a.tfrecord", rows)
    (folder / "label_dict.json").write_text('{"Seven": 7, "Three": 3, "Forty": 40}')
    return folder


@pytest.mark.tensorflow
def test_tfrecords_become_npz(tmp_path):
    folder = write_reference_folder(tmp_path / "records")
    arguments = (f"--tfrecord_dir={folder}", "--name=toy", f"--data_dir={tmp_path}")
    result = command("genomics_ood.records_to_np", *arguments)
    assert result.returncode == 0, result.stderr
    assert "Not there: after_2016_in_test" in result.stderr
    train, val = (reads.load("toy", split, tmp_path) for split in ("train", "val"))
    assert train.class_names == val.class_names == ("Three", "Seven")
    np.testing.assert_array_equal(train.labels, [1, 0, 1])
    np.testing.assert_array_equal(val.labels, [0, 1])
    np.testing.assert_array_equal(train.bases[0], [3, 0, 1, 2, 3])
    outside = reads.load("toy_ood", "val", tmp_path)
    assert outside.class_names == ("20", "Forty") and outside.labels.tolist() == [1, 0, 0]
    again = command("genomics_ood.records_to_np", *arguments)
    assert again.returncode == 1 and "is there already. Another --name" in again.stderr


@pytest.mark.tensorflow
def test_damaged_tfrecords(tmp_path):
    path = write_tfrecord(tmp_path / "a.tfrecord", [("0123", 1)] * 50)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="cannot be read as reads"):
        list(sequence_files.tfrecord_reads(path))
    other = write_tfrecord(tmp_path / "b.tfrecord", [("0173", 1)])
    with pytest.raises(ValueError, match="digits 0 to 3"):
        list(sequence_files.tfrecord_reads(other))
    with pytest.raises(ValueError, match="labels that the training reads have not"):
        records_to_np.numbered(np.array([3, 4]), [3])


@pytest.mark.tensorflow
@pytest.mark.filterwarnings("ignore")
def test_the_tfds_builder():
    import tensorflow as tf
    import tensorflow_datasets as tfds

    def fake(builder, *args, **kwargs):
        examples = {"seq": ["ACGT", "TTTT"], "label": [3, 0], "seq_info": ["a", "b"]}
        return tf.data.Dataset.from_tensor_slices(examples | {"domain": ["in", "in"]})

    with tfds.testing.mock_data(as_dataset_fn=fake):
        found, names = sequence_files.tfds_reads("train")
        bases, labels, origins = records_to_np.collect(found)
    assert bases.tolist() == [[0, 1, 2, 3], [3, 3, 3, 3]] and labels.tolist() == [3, 0]
    assert origins == ["a", "b"] and len(names) == 130 and names[3] == "Escherichia"


def test_bad_arguments(tmp_path):
    result = command("genomics_ood.records_to_np")
    assert result.returncode == 1 and "either --tfds or --tfrecord_dir" in result.stderr
    result = command(
        "genomics_ood.records_to_np", f"--tfrecord_dir={tmp_path}", f"--data_dir={tmp_path}"
    )
    assert result.returncode == 1 and "has none of before_2011_in_tr" in result.stderr


@pytest.mark.parametrize("line", [80, None])
def test_a_record_of_gigabytes_in_a_small_file_is_bounded(tmp_path, monkeypatch, line):
    """Nine megabytes of gzip held 2 GiB of one record."""
    monkeypatch.setattr(sequence_files, "MOST_BASES", 2**20)
    count = 2**26
    with gzip.open(tmp_path / "bomb.fa.gz", "wb") as file:
        file.write(b">r\n")
        for _ in range(count // (2**20)):
            file.write((b"A" * 63 + b"\n") * 2**14 if line else b"A" * 2**20)
    assert (tmp_path / "bomb.fa.gz").stat().st_size < count // 300
    tracemalloc.start()
    with pytest.raises(
        ValueError, match="bomb.fa.gz cannot be read: a record is longer than 1048576"
    ):
        list(sequence_files.records(tmp_path / "bomb.fa.gz"))
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


@pytest.mark.tensorflow
@pytest.mark.parametrize("length", [2**60, 2**31, 2**63 + 5])
def test_the_length_of_a_tfrecord_is_not_believed(tmp_path, length):
    """With its checksum right, TensorFlow died of it."""
    path = write_tfrecord(tmp_path / "a.tfrecord", [("0123", 1)] * 3)
    content = path.read_bytes()
    size = 16 + int.from_bytes(content[:8], "little")
    head = length.to_bytes(8, "little")
    masked = masked_crc(head).to_bytes(4, "little")
    assert masked_crc(content[:8]).to_bytes(4, "little") == content[8:12]
    path.write_bytes(content[:size] + head + masked + content[size + 12 :])
    with pytest.raises(ValueError, match=f"a.tfrecord cannot be read .*at byte {size} ends at"):
        list(sequence_files.tfrecord_reads(path))


def masked_crc(content):
    """TFRecord's checksum: CRC-32C, rotated and shifted."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32
