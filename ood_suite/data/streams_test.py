"""Streams of images: folders and TFDS splits, the same whichever slices are read; and noise."""

import errno
import os
import pathlib
import time
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ood_suite import data, processors
from ood_suite.data import pixels, streams, synthetic
from ood_suite.data.decoding import decoded
from ood_suite.data.npz import write_images
from ood_suite.data.streams import FolderImages, TfdsImages


def test_a_program_is_no_image(tmp_path):
    """Pillow hands EPS to Ghostscript, whatever the file is called."""
    text = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\n{} loop\n%%EOF\n"
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(text)
    with Image.open(tmp_path / "a.png") as file:
        assert file.format == "EPS"
    with pytest.raises(ValueError, match="a.png cannot be read as an image"):
        data.load(f"{tmp_path}/", "test", image_shape=(8, 8, 3)).images[:]
    found = [load() for *_, load in pixels.named_images([tmp_path], (8, 8, 3))]
    assert len(found) == 2 and all("no image of a kind" in str(error) for error in found)


@pytest.fixture
def folder(tmp_path, rng):
    for name, size in (("b/1.png", (20, 10)), ("a/2.jpg", (8, 8)), ("a/deep/3.bmp", (9, 31))):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    (tmp_path / "images" / "notes.txt").write_text("no image")
    return tmp_path / "images"


@pytest.mark.parametrize("threads", [1, 3])
def test_the_first_error_is_told_whichever_thread_met_it(threads, monkeypatch):
    monkeypatch.setattr(processors, "threads", lambda: threads)

    def jobs():
        yield from range(4)
        raise ValueError("no more can be read")

    def function(job):
        if job == 1:
            time.sleep(0.05)
            raise ValueError("1 is no image")
        return np.zeros((2, 2, 1), np.uint8)

    with pytest.raises(ValueError, match="1 is no image"):
        decoded(jobs(), function)
    with pytest.raises(ValueError, match="no more can be read"):
        decoded(jobs(), lambda job: np.zeros((2, 2, 1), np.uint8))


def test_a_folder(folder):
    images = FolderImages(folder, (8, 8, 3))
    assert images.shape == (3, 8, 8, 3) and len(images) == 3
    assert [path.name for path in images.paths] == ["2.jpg", "3.bmp", "1.png"]
    assert images.labels.tolist() == [0, 0, 1]
    np.testing.assert_array_equal(images[0:1][0], np.asarray(Image.open(folder / "a/2.jpg")))
    np.testing.assert_array_equal(images[1:3], np.concatenate([images[1:2], images[2:3]]))
    grey = FolderImages(folder, (8, 8, 1))[0:3]
    assert grey.shape == (3, 8, 8, 1) and grey.dtype == np.uint8
    assert images.fingerprint != FolderImages(folder, (8, 8, 1)).fingerprint
    before = images.fingerprint
    (folder / "a/2.jpg").unlink()
    assert FolderImages(folder, (8, 8, 3)).fingerprint != before


def test_images_are_scaled_by_the_short_side_and_cut_in_the_middle(tmp_path):
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 10:20] = 200
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    assert (FolderImages(tmp_path, (10, 10, 3))[0:1] == 200).all()
    assert (FolderImages(tmp_path, (5, 5, 3))[0:1][0, :, 1:4] == 200).all()
    whole = FolderImages(tmp_path, (224, 224, 3))[0:1]
    assert whole.shape == (1, 224, 224, 3) and (whole[0, :, 20:-20] == 200).all()


def test_linked_folders_are_classes_too(tmp_path):
    (tmp_path / "set").mkdir()
    for name in ("b", "a"):
        (tmp_path / "real" / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / "real" / name / "0.png")
        (tmp_path / "set" / name).symlink_to(tmp_path / "real" / name)
    (tmp_path / "real" / "a" / "back").symlink_to(tmp_path / "set")
    found = FolderImages(tmp_path / "set", (8, 8, 1))
    assert found.classes == ["a", "b"] and found.labels.tolist() == [0, 1]
    for name in ("again", "inside"):  # what is there already is not taken by another name
        (tmp_path / "set" / name).symlink_to(tmp_path / "real" / "a")
    (tmp_path / "set" / "real").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "set" / "real" / "0.png")
    (tmp_path / "set" / "a_link").symlink_to(tmp_path / "set" / "real")
    assert FolderImages(tmp_path / "set", (8, 8, 1)).classes == ["a", "b", "real"]


def test_a_link_to_a_folder_above_doubles_nothing(tmp_path):
    for name in ("set/a", "set/deep/b", "other"):
        (tmp_path / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / name / "0.png")
    (tmp_path / "set" / "up").symlink_to(tmp_path)
    found = FolderImages(tmp_path / "set", (8, 8, 1))
    assert found.classes == ["a", "deep", "up"] and len(found) == 3  # up/other is new
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "1").symlink_to(tmp_path / "set" / "deep" / "b")
    (tmp_path / "links" / "2").symlink_to(tmp_path / "set")  # above the first one's target
    assert FolderImages(tmp_path / "links", (8, 8, 1)).labels.tolist() == [0, 1, 1]


def unlistable(monkeypatch, folder):
    """Has a folder that the reader may not list, root or not."""
    listed = os.scandir

    def refuse(path):
        if pathlib.Path(path) == folder:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", refuse)


def test_a_folder_that_cannot_be_listed_is_named(folder, monkeypatch):
    """It vanished, and the labels behind it were those of other folders."""
    unlistable(monkeypatch, folder / "a")
    with pytest.raises(ValueError, match="images/a cannot be listed .Permission denied"):
        FolderImages(folder, (8, 8, 3))
    named = {name: load() for name, _, load in pixels.named_images([folder], (8, 8, 3))}
    assert list(named) == [str(folder / "b/1.png"), str(folder / "a")]
    assert named[str(folder / "b/1.png")].shape == (8, 8, 3)
    assert "images/a cannot be listed" in str(named[str(folder / "a")])


def test_a_lost_file_is_no_lost_data_set(folder, tmp_path):
    """FileNotFoundError says that a set is not there: an OOD set was left out with a note, and
    test images stayed among outliers.
    """
    (folder / "a/gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(ValueError, match=r"a/gone.png, an image of .*images, cannot be read \(No"):
        data.load(str(folder), "test", image_shape=(8, 8, 3)).fingerprint  # noqa: B018
    (tmp_path / "list.txt").write_text("images/a/2.jpg 0\nimages/a/gone.png 1\n")
    found = data.load(str(tmp_path / "list.txt"), "test", image_shape=(8, 8, 3))
    with pytest.raises(ValueError, match=r"a/gone.png, an image of .*list.txt, cannot be read"):
        found.fingerprint  # noqa: B018


@pytest.mark.parametrize("suffix", [":jpeg_3", ":squash"])
def test_other_labels_are_other_data(tmp_path, rng, suffix):
    images, marks = rng.integers(0, 256, (6, 8, 8, 1), dtype=np.uint8), []
    for labels in (np.arange(6), np.arange(6)[::-1]):
        write_images(tmp_path / "own_test.npz", images, labels)
        marks.append(data.load(f"own{suffix}", "test", tmp_path, (8, 8, 1)).fingerprint)
    assert marks[0] != marks[1]


@pytest.mark.tensorflow
def test_refusals(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds no images \(.bmp"):
        FolderImages(tmp_path / "empty", (8, 8, 3))
    with pytest.raises(ValueError, match="nowhere cannot be listed .No such file"):
        FolderImages(tmp_path / "nowhere", (8, 8, 3))
    with pytest.raises(ValueError, match="1 or 3 channels. Received: 4"):
        FolderImages(folder, (8, 8, 4))
    (folder / "a/broken.png").write_bytes(b"no")
    with pytest.raises(ValueError, match="broken.png cannot be read as an image"):
        FolderImages(folder, (8, 8, 3))[0:4]
    with pytest.raises(ValueError, match="TFDS cannot give the split 'test' of 'no_such_set'"):
        TfdsImages("no_such_set", "test", tmp_path)


def test_names_from_outside(folder, tmp_path):
    found = data.load(str(folder), "test", image_shape=(8, 8, 3))
    assert (found.name, len(found)) == (f"{tmp_path.name}_images", 3)
    assert found.labels.tolist() == [0, 0, 1]
    with pytest.raises(ValueError, match="must be told the size"):
        data.load(str(folder), "test")
    with pytest.raises(FileNotFoundError, match="no file or folder .*none.npz"):
        data.load(str(tmp_path / "none.npz"), "test")
    data.npz.write_images(tmp_path / "own.npz", np.zeros((2, 4, 4, 1), np.uint8), [0, 1])
    assert data.load(f"{tmp_path}/own.npz", "test").name == "own"
    folder.rename(tmp_path / "photos.2023")
    assert data.load(f"{tmp_path}/photos.2023", "test", image_shape=(8, 8, 3)).name == "photos.2023"


@pytest.mark.tensorflow
def test_a_tfds_split():
    import tensorflow_datasets as tfds

    with tfds.testing.mock_data(num_examples=7):
        images = TfdsImages("mnist", "test")
        assert images.shape == (7, 28, 28, 1) and images.labels.shape == (7,)
        whole = images[0:7]
        parts = [images[start : start + 3] for start in (0, 3, 6)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
        np.testing.assert_array_equal(images[2:4], whole[2:4])
        found = data.load("tfds:mnist", "test")
        assert found.name == "mnist" and found.fingerprint == images.fingerprint
        part = data.load("tfds:mnist@train[80%:]", "val")
        assert (part.name, part.split, part.images.split) == (
            "mnist_train_80", "val", "train[80%:]",
        )  # fmt: skip


@pytest.mark.tensorflow
def test_a_tfds_split_without_images():
    import tensorflow_datasets as tfds

    with tfds.testing.mock_data(num_examples=2):
        with pytest.raises(ValueError, match='imdb_reviews hold no "image". Received: .*text'):
            TfdsImages("imdb_reviews", "test")


@pytest.mark.parametrize(
    "name",
    ["huggingface:who__repo", "kubric:x", "mnist/data_dir=x", "../mnist", "mnist:x"],
)
def test_a_tfds_name_leads_nowhere_else(name):
    """To other places and the network, or it ended in a TypeError."""
    with pytest.raises(ValueError, match="is called NAME, .*Received: "):
        data.load(f"tfds:{name}", "test")


@pytest.mark.parametrize("name", ["mnist", "mnist:3.0.1", "imagenet_resized/32x32:0.1.0"])
def test_whatever_a_tfds_builder_raises_names_the_set(name, monkeypatch):
    def builder(name, data_dir):
        raise TypeError("no such argument")

    monkeypatch.setattr(streams, "optional", lambda _: SimpleNamespace(builder=builder))
    with pytest.raises(ValueError, match=f"cannot give the split 'test' of '{name}': no such arg"):
        TfdsImages(name, "test")


def test_noise():
    shape = (6, 5, 3)
    flat, bell = (f(2000, shape) for f in (synthetic.uniform, synthetic.gaussian))
    for images, function in ((flat, synthetic.uniform), (bell, synthetic.gaussian)):
        assert images.shape == (2000, *shape) and images.dtype == np.uint8
        np.testing.assert_array_equal(images, function(2000, shape))
        assert not np.array_equal(images, function(2000, shape, seed=1))
    assert abs(flat.mean() - 127.5) < 0.5 and abs(flat.std() - 73.9) < 0.5
    # Of a normal with mean 0.5 and deviation 1, 30.9% lie below 0 and above 1 each.
    for value in (0, 255):
        assert abs(np.mean(bell == value) - 0.3094) < 0.005
    found = data.load("gaussian", "test", image_shape=shape)
    assert found.images.shape == (synthetic.COUNT, *shape)


@pytest.mark.parametrize("name", ["blobs", "constant", "rademacher"])
def test_other_synthetic_sets(name):
    shape = (16, 12, 3)
    images = getattr(synthetic, name)(300, shape)
    assert images.dtype == np.uint8 and images.shape == (300, *shape) and images.flags.writeable
    np.testing.assert_array_equal(images, getattr(synthetic, name)(300, shape))
    assert np.any(images != getattr(synthetic, name)(300, shape, seed=1))
    assert data.load(name, "test", image_shape=shape).images.shape == (synthetic.COUNT, *shape)
    if name == "rademacher":
        assert set(np.unique(images)) == {0, 255} and abs((images == 255).mean() - 0.5) < 0.01
    if name == "constant":
        assert np.ptp(images, axis=(1, 2)).max() == 0
        assert abs(images[:, 0, 0].mean() - 127.5) < 10
    if name == "blobs":  # nothing below 0.75, and neighbours alike
        assert (
            set(np.unique(images[images > 0]) >= 191) == {True} and 0.1 < (images > 0).mean() < 0.6
        )
        same = (images[:, 1:] > 0) == (images[:, :-1] > 0)
        assert same.mean() > 0.7


@pytest.mark.parametrize("size", [(40000, 1), (1, 40000), (3000, 20)])
def test_long_strips_are_cut_before_they_are_scaled(tmp_path, size):
    """40,000 x 1 pixels, scaled to 224 rows, were two billion."""
    Image.fromarray(np.full((size[1], size[0]), 9, np.uint8)).save(tmp_path / "strip.png")
    tracemalloc.start()
    cut = FolderImages(tmp_path, (224, 224, 3))[0:1]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert cut.shape == (1, 224, 224, 3) and (cut == 9).all() and peak < 2**24


def test_a_cut_strip_is_the_middle_of_the_scaled_one(tmp_path, rng):
    pixels = rng.integers(0, 256, (20, 3000), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "strip.png")
    whole = np.asarray(Image.fromarray(pixels).resize((6000, 40), Image.Resampling.BILINEAR))
    found = FolderImages(tmp_path, (40, 40, 1))[0:1][0, :, :, 0]
    np.testing.assert_array_equal(found, whole[:, 2980:3020])


def test_bombs_and_pipes_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.fromarray(np.zeros((30, 30), np.uint8)).save(tmp_path / "bomb.png")
    with pytest.raises(
        ValueError, match="bomb.png cannot be read as an image .*decompression bomb"
    ):
        FolderImages(tmp_path, (8, 8, 1))[0:1]
    (tmp_path / "bomb.png").unlink()
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match="pipe.png cannot be read as an image .*no regular file"):
        FolderImages(tmp_path, (8, 8, 1))[0:1]
