"""Damaged files: whatever the damage, a reader gives what was written or an error that names the
file. A few damages of each file in the normal run, thousands with --run_large:

    python -m pytest tests/fuzz_test.py --run_large --hypothesis-show-statistics
"""

import functools
import gzip
import io
import json
import pathlib
import pickle
import sys
import tarfile
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from classifier_ood.torch_files import read_state
from genomics_ood import genome_table, kmers, read_batches, sequence_files
from images_ood import notmnist_to_np
from ood_suite import data, files
from ood_suite.data import pickles
from ood_suite.data.npz import read_images, write_images
from ood_suite.data.streams import FolderImages
from ood_suite.detector import Detector
from ood_suite.files import RunError, load_npz, read_csv, read_json, write_csv, write_json
from ood_suite.outputs import Outputs, OutputsWriter
from ood_suite.runs.run import Run
from ood_suite.training.fit import History
from tests import published
from tests.damage import BYTES, KINDS, damaged
from tests.support import ROOT, opening

IS_LARGE = "--run_large" in sys.argv
EXAMPLES = 2000 if IS_LARGE else 40
REFERENCES = ROOT / "tests" / "references"
fuzz = settings(
    max_examples=EXAMPLES, derandomize=not IS_LARGE, database=None, deadline=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


@st.composite
def damages(draw):
    """A function of bytes that damages them in one to four places."""
    kinds = st.sampled_from(KINDS)
    steps = draw(st.lists(
        st.tuples(kinds, st.floats(0, 1), st.integers(0, 255), st.sampled_from(BYTES)),
        min_size=1, max_size=4,
    ))  # fmt: skip
    return functools.partial(damaged, steps=steps)


def arrays(rng):
    features, kernel = rng.normal(size=(40, 5)), rng.normal(size=(5, 3))
    return Outputs(
        labels=np.arange(40) % 3, features=features, head_kernel=kernel, head_bias=np.zeros(3),
        logits=features @ kernel, meta={"dataset": "mnist"},
    )  # fmt: skip


def write_outputs(path, rng):
    arrays(rng).save(path)


def write_mapped(path, rng, count=200):
    """Uncompressed, as extractions are."""
    writer = OutputsWriter(path, count, {})
    writer.add({"features": rng.normal(size=(count, 6)), "labels": np.arange(count)})
    writer.finish({}, {"dataset": "mnist"})


def write_detector(path, rng):
    Detector("mahalanobis").fit(arrays(rng), arrays(rng)).save(path)


def write_image_file(path, rng):
    write_images(path, rng.integers(0, 256, (6, 8, 8, 1), np.uint8), np.arange(6))


def write_batch(path, rng):
    """One of the formats that others publish, by its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images, labels = rng.integers(0, 256, (4, 32, 32, 3), np.uint8), np.arange(4)
    members = {f"a/{row}.png": published.encoded(image) for row, image in enumerate(images)}
    kinds = {
        "test_batch": lambda: path.write_bytes(published.python_2_batch(images, labels)),
        "val_data": lambda: published.write_downsampled(path, images, labels),
        "batch.bin": lambda: path.write_bytes(published.binary_batch(images, labels)),
        "flat.mat": lambda: published.write_svhn(path, images, labels, packed=False),
        "packed.mat": lambda: published.write_svhn(path, images, labels),
        "two.npy": lambda: published.write_two_arrays(path, images, labels),
        "test_tin.txt": lambda: published.write_list(
            path, published.write_folder(path.parent, images, labels), labels
        ),
    }
    if "idx3" in path.name:
        published.write_idx(path, images[..., :1])
    else:
        kinds.get(path.name, lambda: published.write_archive(path, members))()


def write_picture(path, rng):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (12, 9, 3), np.uint8)).save(path)


def write_torch(path, _):
    path.write_bytes((REFERENCES / path.name).read_bytes())


def write_fasta(path, _):
    text = b"".join(b">r%d\nACGTNACGT\nACGT\n" % i for i in range(20))
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)


def write_fastq(path, _):
    path.write_text("".join(f"@r{i}\nACGTN\n+\nIIII@\n" for i in range(20)))


def read_both_ways(path):
    """The records of a file: one by one and by the batch they must be the same, and the errors."""
    one_by_one, by_the_batch = [], []
    try:
        for title, bases in sequence_files.records(path):
            one_by_one.append((genome_table.first_word(title), sequence_files.decode(bases)))
    except ValueError as error:
        with pytest.raises(ValueError) as caught:
            by_the_batch += listed(read_batches.batches(path))
        assert str(caught.value) == str(error)
        raise
    by_the_batch += listed(read_batches.batches(path))
    assert by_the_batch == one_by_one
    return one_by_one


def listed(batches):
    return [
        (name, sequence_files.decode(batch.bases[a:b]))
        for batch in batches
        for name, a, b in zip(batch.names, batch.starts[:-1], batch.starts[1:], strict=True)
    ]


def write_kmers(path, rng):
    counts, starts = kmers.count(rng.integers(0, 4, (50, 30)).astype(np.uint8), 3)
    kmers.KmerDensity(counts[None], starts[None], 10.0).save(path)


def read_kmers(path):
    model = kmers.KmerDensity.load(path)
    return {"counts": model.counts, "starts": model.starts, "m": np.array(model.concentration)}


def write_tar(path, _):
    buffer = io.BytesIO()
    Image.fromarray(np.full((28, 28), 7, np.uint8)).save(buffer, "png")
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for letter in "ABCA":
            member = tarfile.TarInfo(f"notMNIST_small/{letter}/{len(archive.getmembers())}.png")
            member.size = len(buffer.getvalue())
            archive.addfile(member, io.BytesIO(buffer.getvalue()))


def write_config(path, _):
    given = {"id_dataset": "mnist", "ood_far": ["glyphs"], "parts": ["member0"]}
    Run.open(path.parent, **opening(given, {"mnist_train": "x"}))


def write_table(path, _):
    write_csv(path, [{"step": step, "loss": 0.5} for step in range(5)])


def write_state(path, rng):
    """state.json of a writer that was killed."""
    writer = OutputsWriter(path.parent.with_suffix(".npz"), 10, {"a": 1})
    writer.add({"features": rng.normal(size=(4, 3)).astype(np.float32), "labels": np.arange(4)})
    writer.flush()


def go_on(path):
    """What a writer goes on from, finished with rows of zeros."""
    writer = OutputsWriter(path.parent.with_suffix(".npz"), 10, {"a": 1})
    left = 10 - writer.done
    try:
        writer.add({"features": np.zeros((left, 3), np.float32), "labels": np.zeros(left, int)})
        writer.finish({}, {})
    except ValueError as error:  # a state that was damaged to another whole one
        raise ValueError(f"{path}: {error}") from error


# File -> (what writes it, what reads it, whether a checksum stands over all of it).
READERS = {
    "o.npz": (write_outputs, Outputs.load, True),
    "mapped.npz": (write_mapped, Outputs.load, True),
    "raw.npz": (write_mapped, load_npz, True),
    "detector.npz": (write_detector, Detector.load, True),
    "images.npz": (write_image_file, read_images, True),
    "batches/test_batch": (write_batch, lambda p: read_set(p), False),
    "batches/val_data": (write_batch, lambda p: read_set(p), False),
    "batch.bin": (write_batch, lambda p: read_set(p), False),
    "flat.mat": (write_batch, lambda p: read_set(p), False),
    "packed.mat": (write_batch, lambda p: read_set(p), True),
    "two.npy": (write_batch, lambda p: read_set(p), False),
    "t10k-images-idx3-ubyte": (write_batch, lambda p: read_set(p), False),
    "t10k-images-idx3-ubyte.gz": (write_batch, lambda p: read_set(p), True),
    "set.tar": (write_batch, lambda p: read_set(p), False),
    "set.tar.gz": (write_batch, lambda p: read_set(p), True),
    "set.zip": (write_batch, lambda p: read_set(p), True),
    "lists/test_tin.txt": (write_batch, lambda p: read_set(p), False),
    "pictures/a.png": (write_picture, lambda p: FolderImages(p.parent, (8, 8, 3))[0:1], False),
    "pictures/a.jpg": (write_picture, lambda p: FolderImages(p.parent, (8, 8, 1))[0:1], False),
    "pictures/a.tif": (write_picture, lambda p: FolderImages(p.parent, (8, 8, 1))[0:1], False),
    "pictures/a.webp": (write_picture, lambda p: FolderImages(p.parent, (8, 8, 1))[0:1], False),
    "densenet.pth.tar": (write_torch, read_state, False),
    "densenet_legacy.pth": (write_torch, read_state, False),
    "whole_module.pth": (write_torch, read_state, False),
    "densenet.safetensors": (write_torch, read_state, False),
    "r.fa": (write_fasta, lambda p: list(sequence_files.records(p)), False),
    "r.fa.gz": (write_fasta, lambda p: list(sequence_files.records(p)), False),
    "r.fq": (write_fastq, lambda p: list(sequence_files.records(p)), False),
    "b.fa": (write_fasta, read_both_ways, False),
    "b.fa.gz": (write_fasta, read_both_ways, False),
    "b.fq": (write_fastq, read_both_ways, False),
    "kmers.npz": (write_kmers, read_kmers, True),
    "n.tar": (write_tar, notmnist_to_np.convert, False),
    "n.tar.gz": (write_tar, notmnist_to_np.convert, False),
    "run/config.json": (write_config, lambda p: Run.load(p.parent), False),
    "value.json": (lambda p, _: write_json(p, {"a": [1, {"b": None}]}), read_json, False),
    "table.csv": (write_table, read_csv, False),
    "history.csv": (write_table, lambda p: History.until(p, 3), False),
    "w.partial/state.json": (write_state, go_on, False),
    "w.partial/000.npy": (write_state, go_on, False),
}  # fmt: skip


def read_set(path):
    """All images of a data set, as evaluations read them."""
    found = data.load(str(path), "test", image_shape=(8, 8, 3))
    return {"images": found.images[:], "labels": found.labels}


def write_all(folder, names):
    """Sound files of these names; the mapped one is so large that it is mapped."""
    rng = np.random.default_rng(0)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        READERS[name][0](folder / name, rng)
    if "mapped.npz" in names:
        write_mapped(folder / "mapped.npz", rng, 30_000)


def values(found):
    """What must be equal, of what a reader gives."""
    if isinstance(found, Outputs):
        return found.arrays() | {"meta": np.array(json.dumps(found.meta))}
    if isinstance(found, Detector):
        return found.learner.get_arrays() | {"threshold": np.array(found.threshold_)}
    return found if isinstance(found, dict) else dict(enumerate(found))


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_named_or_whole(name, tmp_path, monkeypatch, rng):
    write, read, is_checked = READERS[name]
    monkeypatch.setattr(files, "MAPPED_FROM", 500)
    folder = tmp_path / "original"
    folder.mkdir()
    write(folder / name, rng)
    contents = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    expected = values(read(folder / name)) if is_checked else {}
    counts = {"examples": 0, "refused": 0}

    @fuzz
    @given(damages())
    def check(damage):
        counts["examples"] += 1
        files._CHECKED.clear()  # which goes by time and size: examples follow each other fast
        for own, content in contents.items():
            path = tmp_path / "damaged" / own
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(damage(content) if own == pathlib.Path(name) else content)
        try:
            found = read(tmp_path / "damaged" / name)
        except (ValueError, RunError) as error:
            counts["refused"] += 1
            assert pathlib.Path(name).name in str(error) or str(tmp_path / "damaged") in str(error)
            assert len(str(error)) < 3000
            return
        for key, array in values(found).items() if is_checked else ():
            np.testing.assert_array_equal(array, expected[key])
        assert not is_checked or values(found).keys() == expected.keys()

    check()
    print(f"{name}: {counts['examples']} damaged files, {counts['refused']} refused")
    assert counts["examples"] >= EXAMPLES * 0.5


@pytest.mark.tensorflow
def test_damaged_tfrecords_are_named(tmp_path):
    import tensorflow as tf

    path = tmp_path / "r.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for label in range(5):
            feature = {
                "x": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"0 1 2 3"])),
                "y": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
            }
            example = tf.train.Example(features=tf.train.Features(feature=feature))
            writer.write(example.SerializeToString())
    content = path.read_bytes()
    expected = [label for _, label, _ in sequence_files.tfrecord_reads(path)]

    @fuzz
    @given(damages())
    def check(damage):
        path.write_bytes(damage(content))
        found = []
        try:
            found = [label for _, label, _ in sequence_files.tfrecord_reads(path)]
        except ValueError as error:
            assert "r.tfrecord" in str(error)
        # Records may be cut at their end, or repeated: what is there is as it was written.
        assert set(found) <= set(expected)

    check()


@fuzz
@given(st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False)
    | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
), st.integers(0, 5))  # fmt: skip
def test_plain_pickles_are_read_as_python_does(value, protocol):
    def named(module, name):  # how Python 2 is told of bytes
        assert (module, name) in {("_codecs", "encode"), ("__builtin__", "bytes")}
        return name

    def called(name, arguments):
        return arguments[0].encode("latin-1") if name == "encode" else b""

    text = pickle.dumps(value, protocol)
    assert pickles.load(io.BytesIO(text), named, called, None) == value


def instructions():
    """Bytes that are mostly operations of a pickle, with sizes that are often wild."""
    operations = [code.encode("latin-1") for code in "(.012FIKJLMNQRSTUVX]a}buedlqrht)\x85\x86\x87"]
    numbers = st.integers(0, 2**32 - 1).map(lambda n: n.to_bytes(4, "little"))
    lines = st.sampled_from(
        (b"1\n", b"'a'\n", b"torch\nFloatStorage\n", b"collections\nOrderedDict\n")
    )
    global_ = st.sampled_from((
        b"ctorch._utils\n_rebuild_tensor_v2\n", b"c__builtin__\neval\n", b"cnumpy\ndtype\n",
        b"cnumpy.core.multiarray\n_reconstruct\n", b"c_codecs\nencode\n", b"cnumpy\nndarray\n",
    ))  # fmt: skip
    parts = st.sampled_from(operations) | st.binary(max_size=3) | numbers | lines | global_
    return st.lists(parts, max_size=60).map(b"".join)


@fuzz
@given(instructions())
def test_hostile_pickles_are_refused(tmp_path_factory, instructions):
    path = tmp_path_factory.getbasetemp() / "hostile.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", instructions)
        archive.writestr("archive/data/0", bytes(8))
    with pytest.raises(ValueError, match="hostile.pth cannot be read"):
        read_state(path)


@fuzz
@given(instructions(), st.binary(max_size=200))
def test_hostile_batches_are_refused(tmp_path_factory, instructions, content):
    path = tmp_path_factory.getbasetemp() / "hostile_batch"
    text = b"T" + (len(content)).to_bytes(4, "little") + content
    path.write_bytes(b"\x80\x02}q\x00U\x04data" + instructions + text + b"s.")
    with pytest.raises(ValueError, match="hostile_batch cannot be read as a pickled batch"):
        data.load(str(path), "test")
