"""The papers' folders: every place of the catalogue is found, under every name; splits, order of
what is looked for, what is missing, and the command that lists them.
"""

import numpy as np
import pytest

from ood_suite import data
from ood_suite.data import framing, layouts
from ood_suite.data.layouts import Folders
from ood_suite.data.npz import write_images
from tests import published
from tests.support import ROOT, command

SHAPE = (32, 32, 3)
IDX = ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte.gz")


def write(place, images, labels):
    """What a place holds by its name."""
    name = place.name
    writers = {
        "cifar10": published.write_cifar10,
        "cifar100": published.write_cifar100,
        "cifar-10-batches-py": published.write_cifar10,
        "cifar-10-batches-bin": published.write_cifar10_binary,
        "cifar-100-python": published.write_cifar100,
        "cifar-100-binary": published.write_cifar100_binary,
    }
    if name in writers:
        writers[name](place, images, labels)
    elif name.endswith(".mat"):
        published.write_svhn(place, images, labels)
    elif name.endswith((".tar.gz", ".zip")):
        published.write_archive(place, {"a/0.png": published.encoded(images[0])})
    elif "raw" in name or name in ("MNIST", "mnist", "fashion-mnist", "fashion_mnist"):
        for own in IDX:
            published.write_idx(place / own, images, labels)
    elif "imagenet32" in str(place).lower() or "imagenet64" in str(place).lower():
        published.write_downsampled(place / "val_data", images, labels)
        published.write_downsampled(place / "train_data_batch_1", images, labels)
    else:
        published.write_folder(place, images, labels)


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (12, *SHAPE), dtype=np.uint8)


@pytest.mark.parametrize("name", layouts.LAYOUTS)
def test_every_place_is_found(name, tmp_path, images):
    for number, place in enumerate(layouts.LAYOUTS[name].places):
        root = tmp_path / str(number)
        write(root / place, images, np.arange(12) % 10)
        found = data.load(name, "test", Folders(None, str(root)), SHAPE)
        assert found.name == name and 1 <= len(found) <= 12 and found.note == ""
        assert layouts.find(root, name, "test") == root / place
        assert found.images[0:1].dtype == np.uint8


def test_names_of_the_papers():
    names = {
        "iSUN": "isun", "LSUN-resize": "lsun_r", "LSUN": "lsun_c", "LSUN_C": "lsun_c",
        "iNaturalist": "inaturalist", "SVHN": "svhn_cropped", "Textures": "dtd",
        "CIFAR-10": "cifar10", "CIFAR100": "cifar100", "MNIST": "mnist",
        "tinyimagenet": "tiny_imagenet", "glyphs": None,
    }  # fmt: skip
    assert {name: layouts.known(name) for name in names} == names
    assert not set(layouts.ALIASES) & set(layouts.LAYOUTS)
    assert set(layouts.ALIASES.values()) <= set(layouts.LAYOUTS)
    assert list(layouts.LAYOUTS) == sorted(layouts.LAYOUTS)


def test_splits_of_folders(tmp_path, images):
    published.write_folder(tmp_path / "tinyimagenet/train", images, np.arange(12) // 6)
    published.write_folder(tmp_path / "tinyimagenet/test", images[:4], np.arange(4) // 2)
    folders = Folders(None, str(tmp_path))
    parts = {s: data.load("TinyImageNet", s, folders, SHAPE) for s in ("train", "val", "test")}
    assert {split: len(part) for split, part in parts.items()} == {"train": 10, "val": 2, "test": 4}
    np.testing.assert_array_equal(parts["val"].images[:], images[[4, 9]])
    assert parts["val"].labels.tolist() == [0, 1]


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist"])
def test_a_folder_of_all_splits_is_not_taken_for_one(name, tmp_path, images):
    """As in OpenOOD's images_classic, if that is given as the root."""
    for split, count in (("train", 12), ("test", 4)):
        published.write_folder(tmp_path / name / split, images[:count], np.arange(count) % 2)
    folders = Folders(None, str(tmp_path))
    if name == "mnist":
        assert layouts.find(tmp_path, name, "test") is None
        return
    parts = {split: data.load(name, split, folders, SHAPE) for split in ("train", "val", "test")}
    assert [len(part) for part in parts.values()] == [10, 2, 4]
    assert parts["test"].labels.tolist() == [0, 0, 1, 1]


def test_what_is_looked_for_first(tmp_path, images, monkeypatch):
    root, own = tmp_path / "root", tmp_path / "own"
    published.write_svhn(root / "svhn/test_32x32.mat", images, np.arange(12) % 10)
    write_images(own / "svhn_cropped_test.npz", images[:5], np.arange(5))
    both = Folders(str(own), str(root))
    assert len(data.load("svhn_cropped", "test", both)) == 12
    assert len(data.load("svhn_cropped", "test", str(own))) == 5
    assert len(data.load("glyphs", "test", Folders(None, str(root)))) == 1000  # the sample
    assert len(data.load("svhn/test_32x32.mat", "test", both)) == 12  # relative to the root
    write_images(own / "dtd_test.npz", images[:3], np.arange(3))
    assert len(data.load("dtd", "test", both)) == 3
    monkeypatch.chdir(root)
    assert len(data.load("svhn/test_32x32.mat", "test")) == 12
    assert data.first_available(("sun", "svhn"), "test", both).name == "svhn_cropped"


def test_what_is_missing_says_where_it_is_to_be_had(tmp_path):
    folders = Folders(None, str(tmp_path))
    (tmp_path / "dtd/images").mkdir(parents=True)  # an empty folder is passed over
    with pytest.raises(FileNotFoundError, match=f"in {tmp_path} as one of dtd/images.*Oxford"):
        data.load("dtd", "test", folders, SHAPE)
    with pytest.raises(FileNotFoundError, match="folder of --data_root as one of iSUN.*ODIN"):
        data.load("isun", "test", image_shape=SHAPE)
    with pytest.raises(FileNotFoundError, match=r"There is no folder .*none \(--data_root\)"):
        data.load("isun", "test", Folders(None, f"{tmp_path}/none"), SHAPE)


def test_the_page_lists_them():
    """The lines of the table in docs/data.md."""
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    for name, layout in layouts.LAYOUTS.items():
        places = ", ".join(f"`{place}`" for place in layout.places)
        assert f"| `{name}` | {places} | {layout.source} |\n" in page
    for name in framing.TRANSFORMS:
        assert f"| `{name}` | " in page


def test_both_folders_are_handed_on():
    assert layouts.flags(Folders("a", "b")) == ["--data_dir=a", "--data_root=b"]
    assert layouts.flags(Folders(None, "b")) == ["--data_root=b"]
    assert layouts.flags("a") == ["--data_dir=a"] and layouts.flags(None) == []


def test_the_list(tmp_path, images):
    published.write_cifar10(tmp_path / "cifar10/cifar-10-batches-py", images, np.arange(12) % 10)
    published.write_folder(tmp_path / "ood_data/dtd/images", images, np.arange(12))
    published.write_folder(tmp_path / "tinyimagenet/train", images, np.arange(12) // 6)
    (tmp_path / "iSUN.tar.gz").write_bytes(b"no archive")
    done = command("ood_suite.data_sets", f"--data_root={tmp_path}")
    assert done.returncode == 0, done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.split("\n")]
    assert "cifar10 train 8 images python batches, cifar10/cifar-10-batches-py" in lines
    assert "cifar10 val 2 images python batches, cifar10/cifar-10-batches-py" in lines
    assert "dtd all 12 images folder of images, ood_data/dtd/images" in lines
    assert "tiny_imagenet train 10 images folder of images, tinyimagenet/train" in lines
    assert any(line.startswith("isun all cannot be read: ") for line in lines)
    assert "sun missing. Put it in as SUN or ood_data/SUN." in lines
    done = command("ood_suite.data_sets", "--data_root=/no/such/folder")
    assert done.returncode == 1 and "There is no folder /no/such/folder" in done.stderr
