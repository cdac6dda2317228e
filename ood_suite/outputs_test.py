"""Outputs and npz files: round trip, checks, damaged files, nothing pickled."""

import errno
import io
import json
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from ood_suite import files
from ood_suite.files import load_npz
from ood_suite.outputs import Outputs, OutputsWriter


def example(rng):
    features, kernel = rng.normal(size=(4, 5)), rng.normal(size=(5, 3))
    return Outputs(
        labels=np.arange(4),
        logits=features @ kernel + 1.0,
        features=features,
        head_kernel=kernel,
        head_bias=np.ones(3),
        logits_perturbed={"T=1000,epsilon=0.0014": rng.normal(size=(4, 3))},
        layer_features={"block1": rng.normal(size=(4, 7)), "block2": rng.normal(size=(4, 9))},
        log_prob=rng.normal(size=4),
        log_prob_map=rng.normal(size=(4, 2, 2)).astype(np.float32),
        meta={"dataset": "mnist", "run": "output/x"},
    )


def test_round_trip(rng, tmp_path):
    outputs = example(rng)
    outputs.save(tmp_path / "deep" / "outputs.npz")
    loaded = Outputs.load(tmp_path / "deep" / "outputs.npz")
    assert len(loaded) == 4 and loaded.meta == outputs.meta
    for name, array in outputs.arrays().items():
        np.testing.assert_array_equal(loaded.arrays()[name], array)
    assert not list(tmp_path.rglob(".partial*"))


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"logits": np.zeros(4)}, r"`logits` must have shape \(n, c\). Received: shape=\(4,\)"),
        ({"log_prob": np.zeros(4), "labels": np.zeros(5, int)}, "disagree on their size n"),
        ({"log_prob": np.array([0.0, np.nan])}, "`log_prob` has 1 values that are NaN"),
        ({"log_prob": [1.0]}, "must be a NumPy array. Received: list"),
        ({"features": np.zeros((2, 3)), "head_kernel": np.zeros((4, 2))}, "size d"),
        ({"layer_features": {"a": np.zeros(3)}}, "layer_features/a"),
    ],
)
def test_bad_arrays(fields, message):
    with pytest.raises(ValueError, match=message):
        Outputs(**fields)


def test_a_missing_array_is_explained():
    outputs = Outputs(log_prob=np.zeros(2), meta={"run": "r", "command": "python -m x.extract"})
    with pytest.raises(ValueError, match=r"energy needs `logits`.*has: log_prob.*x\.extract"):
        outputs.require(("log_prob", "logits"), "energy")


def test_damaged_files(rng, tmp_path):
    path = tmp_path / "outputs.npz"
    with pytest.raises(ValueError, match="There is no file"):
        Outputs.load(path)
    example(rng).save(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match="truncated: copy it again"):
        Outputs.load(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="cannot be read as npz"):
        load_npz(path)


def test_pickles_are_refused(tmp_path):
    path = tmp_path / "evil.npz"
    np.savez(path, log_prob=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="Python objects, which are never read"):
        Outputs.load(path)


def test_unknown_arrays_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", logprob=np.zeros(3))
    with pytest.raises(ValueError, match="unknown array `logprob`"):
        Outputs.load(tmp_path / "x.npz")


def test_a_head_that_does_not_make_the_logits_is_refused(rng):
    good = example(rng)
    fields = {name: getattr(good, name) for name in ("features", "head_kernel", "logits")}
    with pytest.raises(ValueError, match="largest difference .* is 3.*input of the last dense"):
        Outputs(**fields, head_bias=good.head_bias + 3.0)
    softmax = np.exp(good.logits) / np.exp(good.logits).sum(1, keepdims=True)
    with pytest.raises(ValueError, match="does not reproduce the logits"):
        Outputs(**fields | {"logits": softmax}, head_bias=good.head_bias)


def test_a_writer_goes_on_where_it_was_killed(rng, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAPPED_FROM", 100)
    features, labels = rng.normal(size=(10, 6)).astype(np.float32), np.arange(10)
    path, meta = tmp_path / "deep" / "o.npz", {"fingerprint": "x"}

    def rows(start, stop):
        arrays = {"features": features[start:stop], "labels": labels[start:stop]}
        return arrays | {"layer_features/a": 2 * features[start:stop]}

    writer = OutputsWriter(path, 10, meta)
    writer.add(rows(0, 4))
    writer.notes = ["resized"]
    writer.flush()
    writer.add(rows(4, 7))  # never flushed: lost at the kill
    del writer
    with pytest.raises(ValueError, match="Only 4 of 10"):
        OutputsWriter(path, 10, meta).finish({}, meta)
    writer = OutputsWriter(path, 10, meta)
    assert writer.done == 4 and writer.notes == ["resized"]
    with pytest.raises(ValueError, match="must hold the same arrays"):
        writer.add({"features": features[4:5]})
    writer.add(rows(4, 10))
    (tmp_path / "kept").write_text("mine")
    (writer.folder / f"{len(writer.names):03d}.npy").symlink_to(tmp_path / "kept")
    writer.finish({"head_bias": np.zeros(3)}, meta | {"note": "n"})
    assert (tmp_path / "kept").read_text() == "mine"
    loaded = Outputs.load(path)
    assert isinstance(loaded.features, np.memmap) and loaded.meta["note"] == "n"
    np.testing.assert_array_equal(loaded.features, features)
    np.testing.assert_array_equal(loaded.layer_features["a"], 2 * features)
    np.testing.assert_array_equal(loaded.labels, labels)
    assert not path.with_suffix(".partial").exists()
    writer = OutputsWriter(path, 10, meta)
    writer.add(rows(0, 4))
    writer.flush()
    assert OutputsWriter(path, 10, {"fingerprint": "other"}).done == 0


def test_a_truncated_mapped_file_is_named(rng, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAPPED_FROM", 100)
    writer = OutputsWriter(tmp_path / "o.npz", 50, {})
    writer.add({"features": rng.normal(size=(50, 6))})
    writer.finish({}, {})
    content = (tmp_path / "o.npz").read_bytes()
    for size in (len(content) - 10, len(content) // 2, 10):
        (tmp_path / "o.npz").write_bytes(content[:size])
        with pytest.raises(ValueError, match="o.npz cannot be read as npz"):
            Outputs.load(tmp_path / "o.npz")


def test_flipped_bytes_of_mapped_arrays_are_found(rng, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAPPED_FROM", 100)
    writer = OutputsWriter(tmp_path / "o.npz", 50, {})
    writer.add({"features": rng.normal(size=(50, 6))})
    writer.finish({}, {})
    content = (tmp_path / "o.npz").read_bytes()
    at = content.index(b"NUMPY")
    for position in (at + 300, at + 50 * 6 * 8):
        damaged = bytearray(content)
        damaged[position] ^= 1
        (tmp_path / "o.npz").write_bytes(damaged)
        with pytest.raises(ValueError, match="o.npz cannot be read as npz .*CRC"):
            Outputs.load(tmp_path / "o.npz")


@pytest.mark.parametrize("rows", [40, 60, 2**50])
@pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_header_that_promises_more_or_less_than_there_is(tmp_path, monkeypatch, rows, how):
    monkeypatch.setattr(files, "MAPPED_FROM", 100)
    buffer = io.BytesIO()
    header = {"descr": "<f8", "fortran_order": False, "shape": (rows,)}
    np.lib.format.write_array_header_1_0(buffer, header)
    with zipfile.ZipFile(tmp_path / "o.npz", "w", how) as archive:
        archive.writestr("log_prob.npy", buffer.getvalue() + bytes(8 * 50))
    for mapped in (False, True):
        with pytest.raises(ValueError, match=f"holds 400 bytes, .* promises {8 * rows}"):
            load_npz(tmp_path / "o.npz", mapped)


def test_two_arrays_of_one_name_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "o.npz", "w") as archive, pytest.warns(UserWarning):
        for value in (0.0, 1.0):
            buffer = io.BytesIO()
            np.save(buffer, np.full(3, value))
            archive.writestr("log_prob.npy", buffer.getvalue())
    with pytest.raises(ValueError, match="two arrays of one name"):
        load_npz(tmp_path / "o.npz")


def test_pipes_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(ValueError, match="pipe.npz cannot be read as npz .*no regular file"):
        load_npz(tmp_path / "pipe.npz")
    with pytest.raises(files.RunError, match="no regular file"):
        files.read_json(tmp_path / "pipe.npz")


@pytest.mark.parametrize(
    "array", [np.array(["a", "b"]), np.array([1j, 2j]), np.array([None, 1]), np.zeros(2, "M8[s]")]
)
def test_arrays_of_other_things_than_numbers_are_refused(array):
    for name, shape in (("logits", (2, 1)), ("log_prob", (2,)), ("labels", (2,))):
        with pytest.raises(
            ValueError, match=f"`{name}` must hold .*dtype={array.dtype}".replace("[", r"\[")
        ):
            Outputs(**{name: array.reshape(shape)})
    with pytest.raises(ValueError, match="`labels` must hold integers"):
        Outputs(labels=np.zeros(2))


@pytest.fixture
def killed(tmp_path, rng):
    """A writer's folder, and what makes the writer again."""
    path = tmp_path / "o.npz"

    def writer():
        return OutputsWriter(path, 300, {"fingerprint": "x"})

    first = writer()
    first.add({"logits": rng.normal(size=(200, 6)), "labels": np.arange(200)})  # not sorted
    first.flush()
    assert writer().done == 200
    return path.with_suffix(".partial"), writer


@pytest.mark.parametrize("size", [0, 50, 128, 10_000, -8, +8])
def test_a_truncated_array_is_not_gone_on_with(killed, size):
    """NumPy stretched it: 300 rows of zeros stood in the final file."""
    folder, writer = killed
    content = (folder / "000.npy").read_bytes()
    cut = content[:size] if size != 8 else content + bytes(8)
    (folder / "000.npy").write_bytes(cut)
    assert writer().done == 0 and not list(folder.iterdir())


def test_a_state_that_was_damaged_to_another_is_not_gone_on_with(killed):
    """A flipped digit of `done` would leave rows of zeros; version 0.1 wrote no checksum."""
    folder, writer = killed
    text = (folder / "state.json").read_text()
    files.write_json(
        folder / "state.json", {k: v for k, v in json.loads(text).items() if k != "mark"}
    )
    assert writer().done == 200
    (folder / "state.json").write_text(text.replace('"done": 200', '"done": 201'))
    assert writer().done == 0


@pytest.mark.parametrize(
    "change",
    [
        {"names": {"features": "../victim.npy"}}, {"names": {"features": "/tmp/victim.npy"}},
        {"names": {"features": "000.npy", "labels": "000.npy"}}, {"names": ["features"]},
        {"names": {"features": None}}, {"done": 301}, {"done": -1}, {"done": "1"}, {"names": {}},
    ],
)  # fmt: skip
def test_a_state_names_files_of_its_own_folder_alone(killed, tmp_path, change):
    folder, writer = killed
    victim = tmp_path / "victim.npy"
    np.save(victim, np.zeros((300, 6)))
    before = victim.read_bytes()
    state = files.read_json(folder / "state.json")
    own = {name: value for name, value in state.items() if name != "mark"}
    files.write_json(folder / "state.json", own | change)
    assert writer().done == 0 and victim.read_bytes() == before


def test_an_array_that_lies_elsewhere_is_not_gone_on_with(killed, tmp_path):
    folder, writer = killed
    own, victim = folder / "000.npy", tmp_path / "victim.npy"
    own.rename(victim)  # the very array that it expects
    before = victim.read_bytes()
    own.symlink_to(victim)
    assert writer().done == 0 and victim.read_bytes() == before


def test_a_full_disk_is_named_before_a_map_could_break(tmp_path):
    """In a process that may not write files of more than 64 KiB: writing to a map would be SIGBUS
    or silence. The same command goes on once there is room.
    """
    code = """
import resource, sys
import errno
import io
import json
import os
import subprocess
import sys
import zipfile

import numpy as np
from ood_suite.files import RunError, write_text
from ood_suite.outputs import OutputsWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, resource.RLIM_INFINITY))
for write in (
    lambda: OutputsWriter("o.npz", 10_000, {}).add({"features": np.ones((5, 6))}),
    lambda: write_text("t.txt", "x" * 2**17),
):
    try:
        write()
    except RunError as error:
        print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
writer = OutputsWriter("o.npz", 10_000, {})
writer.add({"features": np.ones((10_000, 6))})
writer.finish({}, {})
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and len(lines) == 2, done.stderr
    assert "o.partial/000.npy cannot be written" in lines[0] and "Make room" in lines[0]
    assert "t.txt cannot be written" in lines[1]
    assert (Outputs.load(tmp_path / "o.npz").features == 1).all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["o.npz"]


def test_the_room_of_a_writer_is_taken_at_once(tmp_path, monkeypatch):
    """[Errno 28] of the file system itself."""

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(files.RunError, match="000.npy cannot be written: No space left.*repeat"):
        OutputsWriter(tmp_path / "o.npz", 10, {}).add({"features": np.ones((5, 6))})


def test_a_writer_takes_its_room_where_there_is_no_fallocate(tmp_path, monkeypatch):
    """As on macOS: every extraction ended in an AttributeError."""
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    monkeypatch.setattr("ood_suite.outputs.CHUNK", 2**12)
    writer = OutputsWriter(tmp_path / "o.npz", 10_000, {})
    writer.add({"features": np.ones((5, 6))})
    found = (tmp_path / "o.partial" / "000.npy").stat()
    assert found.st_size > 480_000 and 512 * found.st_blocks >= found.st_size, "it has holes"
    writer.add({"features": np.full((9_995, 6), 2.0)})
    writer.finish({}, {})
    written = Outputs.load(tmp_path / "o.npz").features
    assert (written[:5] == 1).all() and (written[5:] == 2).all()


def test_a_list_of_members_that_lost_one_is_refused(tmp_path):
    """The comment of the first entry swallows the second: zipfile sees one array."""
    path = tmp_path / "a.npz"
    np.savez_compressed(path, images=np.arange(4), labels=np.arange(3))
    content = path.read_bytes()
    first, second = (content.index(b"PK\1\2", at) for at in (0, content.index(b"PK\1\2") + 4))
    length = content.index(b"PK\5\6") - second
    comment = slice(first + 32, first + 34)
    path.write_bytes(
        content[: comment.start] + length.to_bytes(2, "little") + content[comment.stop :]
    )
    assert zipfile.ZipFile(path).namelist() == ["images.npy"]
    with pytest.raises(ValueError, match="a.npz cannot be read as npz .it holds more arrays than"):
        load_npz(path)


def test_lzma_is_unpacked_in_pieces(tmp_path, rng, monkeypatch):
    """Each byte that is asked for at once could become 7500."""
    images, asked = rng.integers(0, 256, (10, 100, 100), np.uint8), []
    with (
        zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_LZMA) as archive,
        archive.open("images.npy", "w") as file,
    ):
        np.lib.format.write_array(file, images)
    plain = zipfile.ZipExtFile.read
    monkeypatch.setattr(zipfile.ZipExtFile, "read", lambda *a: [asked.append(a[1]), plain(*a)][1])
    np.testing.assert_array_equal(load_npz(tmp_path / "a.npz")["images"], images)
    assert 20 < len(asked) and max(asked) == files.PIECE
