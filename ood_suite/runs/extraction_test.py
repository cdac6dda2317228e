"""Shards: whatever the cut, the kill or what lies around, the one file is that of the whole set."""

import dataclasses
import types

import numpy as np
import pytest

from ood_suite.data import ImageSet
from ood_suite.files import RunError, locked
from ood_suite.outputs import OutputsWriter
from ood_suite.runs import extraction
from ood_suite.runs.extraction import Extraction
from ood_suite.runs.run import Run


@pytest.fixture
def make(tmp_path, rng):
    """A function that makes the Extraction of 37 images by a run whose model adds a number."""
    images = rng.integers(0, 256, (37, 2, 2, 1)).astype(np.uint8)

    def call(folder="run", model=b"1", more=False, **options):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "model.keras").write_bytes(model)
        run = Run(tmp_path / folder, {"settings": {}})
        found = ImageSet("set", "test", images, np.arange(37) % 3)
        job = Extraction(run, found, "test", images, **{"batch_size": 4} | options)
        calls = []

        def function(chunk):
            calls.append(len(chunk))
            found = {"features": chunk.reshape(len(chunk), -1) + np.float32(int(model))}
            return found | ({"example_hashes": chunk.sum((1, 2, 3))} if more else {})

        constants = {"head_kernel": np.ones((4, 3)), "head_bias": np.zeros(3)}
        return types.SimpleNamespace(
            job=job, calls=calls, get=lambda: job.part(None, function, constants)
        )

    return call


def shards_of(job):
    return job.run.outputs_path("set", "test").with_suffix(".shards")


def interrupt(*_, **__):
    raise KeyboardInterrupt


def assert_same(found, expected):
    assert found.arrays().keys() == expected.arrays().keys()
    for name, array in expected.arrays().items():
        np.testing.assert_array_equal(found.arrays()[name], array)
    same = {"run": "", "command": "", "seconds_per_10000": 0.0}  # but for folder and time
    assert found.meta | same == expected.meta | same


def test_a_damaged_file_is_made_anew_once_it_is_deleted(make):
    """The advice was to repeat the command, which failed alike for ever."""
    made = make()
    made.get()
    path = made.job.run.outputs_path("set", "test")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RunError, match="Delete it first: then it is made anew"):
        made.get()
    path.unlink()
    assert_same(made.get(), make("other").get())


def test_names_of_files_are_those_of_the_data_at_hand(make):
    """A report showed the pictures that a stranger's file named, whatever they were."""
    made = make()
    path = made.job.run.outputs_path("set", "test")
    dataclasses.replace(made.get(), example_names=np.array(["/home/me/secret.png"] * 37)).save(path)
    assert made.get().example_names is None
    part = make("other", shard=(0, 1))
    forged = np.array(["/home/me/secret.png"] * 37)
    dataclasses.replace(part.get(), example_names=forged).save(
        next(shards_of(part.job).rglob("*.npz"))
    )
    assert make("other").get().example_names is None  # joined of what lies there
    made.job.examples = made.job.examples.view(type("Named", (np.ndarray,), {}))
    made.job.examples.names = np.array(["a.png"] * 37)
    assert made.get().example_names.tolist() == ["a.png"] * 37


@pytest.mark.parametrize("count", [1, 3, 20])
def test_joined_shards_are_the_whole_set(make, count):
    for number in reversed(range(count)):
        make(shard=(number, count)).get()
    whole = make()
    assert_same(whole.get(), make("plain").get())
    assert not whole.calls and not shards_of(whole.job).exists()
    assert len(make(shard=(0, 2)).get()) == 37  # there is nothing left to do for a shard


def test_a_missing_shard_or_those_of_another_model_are_not_joined(make):
    make(shard=(0, 3)).get()
    make(shard=(2, 3)).get()
    make(model=b"2", shard=(1, 3)).get()
    whole = make()
    assert_same(whole.get(), make("plain").get())
    assert sum(whole.calls) == 37


def test_other_batches_make_shards_too(make):
    """Rows of each are on file: those of another batch size and count are joined as they are."""
    for number in range(3):
        make(batch_size=8, shard=(number, 3)).get()
    whole = make()
    assert_same(whole.get(), make("plain").get())
    assert not whole.calls


@pytest.mark.parametrize("kill_at", ["finish", "rmtree"])
def test_a_kill_while_shards_are_joined(make, monkeypatch, kill_at):
    for number in range(3):
        make(shard=(number, 3)).get()
    with monkeypatch.context() as patch:
        owner = extraction.OutputsWriter if kill_at == "finish" else extraction.shutil
        patch.setattr(owner, kill_at, interrupt)
        with pytest.raises(KeyboardInterrupt):
            make().get()
    whole = make()
    assert_same(whole.get(), make("plain").get())
    assert not whole.calls and not shards_of(whole.job).exists()


def test_what_an_older_release_began_is_gone_on_with(make):
    """It recorded fewer arrays than this one computes."""
    expected = make("plain").get()
    make(shard=(0, 2)).get()
    make(shard=(1, 2), more=True).get()
    whole = make(more=True)
    assert_same(whole.get(), expected)
    assert not whole.calls
    job = make("half").job
    path, meta = job.run.outputs_path("set", "test"), job.meta | {"depends_on": None}
    writer = OutputsWriter(path, 37, meta)
    writer.add({name: expected.arrays()[name][:20] for name in ("features", "labels")})
    writer.flush()
    half = make("half", more=True)
    assert_same(half.get(), expected)
    assert sum(half.calls) == 17


@pytest.mark.parametrize("is_older", [True, False])
def test_shards_are_joined_whatever_another_release_began(make, is_older):
    """It recorded other arrays: "Every batch must hold the same arrays", for ever."""
    for number in range(2):
        make(shard=(number, 2), more=is_older).get()
    whole, other = make(more=is_older), make("plain", more=not is_older).get()
    path, meta = whole.job.run.outputs_path("set", "test"), whole.job.meta | {"depends_on": None}
    begun = ["features", "labels"] + ([] if is_older else ["example_hashes"])
    writer = OutputsWriter(path, 37, meta)
    writer.add({name: other.arrays()[name][:30] for name in begun})
    writer.flush()
    assert_same(whole.get(), make("expected", more=is_older).get())
    assert not whole.calls and not path.with_suffix(".partial").exists()


def test_bad_shards(make):
    with pytest.raises(ValueError, match="`shard` must be"):
        make(shard=(3, 3))


def test_a_kill_between_rename_and_removal_leaves_nothing(make):
    job = make()
    expected = job.get()
    partial = job.job.run.outputs_path("set", "test").with_suffix(".partial")
    partial.mkdir()
    (partial / "state.json").write_text("{}")
    assert_same(make().get(), expected)
    assert not partial.exists() and make().calls == []


def test_a_writer_at_work_keeps_its_folder(make):
    job = make()
    job.get()
    path = job.job.run.outputs_path("set", "test")
    path.with_suffix(".partial").mkdir()
    with locked(path.parent):
        make().get()
    assert path.with_suffix(".partial").exists()
