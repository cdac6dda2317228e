"""The data binaries: TFDS (on its own mock data) and notMNIST (on files made here)."""

import gzip
import io
import tarfile
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from images_ood import notmnist_to_np, tfds_to_np
from ood_suite import data


@pytest.mark.tensorflow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", tfds_to_np.NAMES)
def test_tfds_rows_are_split_in_order(name, tmp_path):
    import tensorflow_datasets as tfds

    with tfds.testing.mock_data(num_examples=10):
        counts = tfds_to_np.convert(name, tmp_path)
        images, labels = tfds_to_np.read(name, "train")
    assert counts == {"train": 8, "val": 2, "test": 10}
    train, val = (data.load(name, split, tmp_path) for split in ("train", "val"))
    np.testing.assert_array_equal(np.concatenate([train.images, val.images]), images)
    np.testing.assert_array_equal(np.concatenate([train.labels, val.labels]), labels)
    assert images.shape[1:] == ((28, 28, 1) if "mnist" in name else (32, 32, 3))


@pytest.mark.tensorflow
@pytest.mark.filterwarnings("ignore")
def test_the_builder_of_tfds_on_files_that_lie_there(tmp_path, monkeypatch):
    """Unmocked as far as the download: the files are there already, and hold 10 and 5 images."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import resource
    from tensorflow_datasets.image_classification import mnist

    monkeypatch.setattr(mnist, "_TRAIN_EXAMPLES", 10)
    monkeypatch.setattr(mnist, "_TEST_EXAMPLES", 5)
    name, folder = "fashion_mnist", tmp_path / "downloads"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (10, 28, 28, 1), dtype=np.uint8)
    for url, info in tfds.builder_cls(name).url_infos.items():
        rows = slice(10 if "train" in url else 5)
        header, content = (16, pixels) if "images" in url else (8, np.arange(10, dtype=np.uint8))
        path = folder / resource.get_dl_fname(url, info.checksum)
        path.write_bytes(gzip.compress(bytes(header) + content[rows].tobytes()))
        resource.write_info_file(
            url=url, path=path, dataset_name=name, original_fname=path.name, url_info=info
        )
    counts = tfds_to_np.convert(name, tmp_path / "out", str(tmp_path))
    assert counts == {"train": 8, "val": 2, "test": 5}
    val = data.load(name, "val", tmp_path / "out")
    known = {image.tobytes(): label for label, image in enumerate(pixels)}
    assert [known[image.tobytes()] for image in val.images] == val.labels.tolist()


def test_unknown_tfds_name(tmp_path):
    with pytest.raises(ValueError, match="Unknown data set 'imagenet'. Known: cifar10"):
        tfds_to_np.convert("imagenet", tmp_path)


def png(value, size=(28, 28)):
    buffer = io.BytesIO()
    Image.fromarray(np.full(size, value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


FILES = {
    "notMNIST_small/A/b.png": png(10),
    "notMNIST_small/A/a.png": png(20),
    "notMNIST_small/J/z.png": png(30),
    "notMNIST_small/B/broken.png": b"",
    "notMNIST_small/B/cut.png": png(40)[:45],
    "notMNIST_small/C/large.png": png(50, (30, 28)),
    "notMNIST_small/readme.txt": b"no image",
}


def write_folder(folder):
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def write_tar(path, files=FILES, link=None):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        if link:
            member = tarfile.TarInfo("notMNIST_small/A/link.png")
            member.type, member.linkname = tarfile.SYMTYPE, link
            archive.addfile(member)
    return path


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_notmnist_reads_what_is_an_image_and_lists_the_rest(kind, tmp_path):
    source = write_folder(tmp_path) if kind == "folder" else write_tar(tmp_path / "n.tar.gz")
    images, labels, unreadable = notmnist_to_np.convert(source)
    np.testing.assert_array_equal(images[:, 0, 0, 0], [20, 10, 30])
    np.testing.assert_array_equal(labels, [0, 0, 9])
    assert len(unreadable) == 3
    assert any("large.png (size 28x30)" in name for name in unreadable)


def test_paths_that_leave_the_source_are_refused(tmp_path):
    evil = write_tar(tmp_path / "evil.tar.gz", {"../A/a.png": png(1)})
    with pytest.raises(ValueError, match=r"'\.\./A/a\.png'.*refused"):
        notmnist_to_np.convert(evil)
    with pytest.raises(ValueError, match="link.png.*refused"):
        notmnist_to_np.convert(write_tar(tmp_path / "link.tar.gz", link="/etc/passwd"))
    (tmp_path / "secret.png").write_bytes(png(1))
    (tmp_path / "source" / "A").mkdir(parents=True)
    (tmp_path / "source" / "A" / "a.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(ValueError, match="leads out of"):
        notmnist_to_np.convert(tmp_path / "source")


def test_bad_sources(tmp_path):
    with pytest.raises(ValueError, match="There is no"):
        notmnist_to_np.convert(tmp_path / "none.tar")
    (tmp_path / "text.tar").write_text("hello")
    with pytest.raises(ValueError, match="text.tar cannot be read as a folder or a tar"):
        notmnist_to_np.convert(tmp_path / "text.tar")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no readable PNG"):
        notmnist_to_np.convert(tmp_path / "empty")


def test_large_and_sparse_members_are_not_read(tmp_path):
    """A sparse member of terabytes is a few bytes in the archive."""
    with tarfile.open(tmp_path / "n.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in (("A/a.png", png(1)), ("A/large.png", bytes(2**20 + 1))):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        sparse = tarfile.TarInfo("A/sparse.png")
        sparse.type, sparse.size = tarfile.GNUTYPE_SPARSE, 0
        header = bytearray(sparse.tobuf(tarfile.GNU_FORMAT))
        header[483:495] = b"100000000000"  # the real size, octal: 8 GiB
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header[:512])
        archive.fileobj.write(header)
        archive.offset += len(header)
    tracemalloc.start()
    images, _, unreadable = notmnist_to_np.convert(tmp_path / "n.tar")
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()
    assert len(images) == 1
    assert [name.split(" ")[0] for name in unreadable] == ["A/large.png", "A/sparse.png"]


@pytest.mark.parametrize("kind", ["", ":gz"])
def test_cut_tars_are_named(tmp_path, kind):
    with tarfile.open(tmp_path / "n.tar", f"w{kind}") as archive:
        for number in range(30):
            member = tarfile.TarInfo(f"A/{number}.png")
            member.size = len(png(number))
            archive.addfile(member, io.BytesIO(png(number)))
    content = (tmp_path / "n.tar").read_bytes()
    for size in (len(content) // 3 + 99, 700 if not kind else 60):
        (tmp_path / "n.tar").write_bytes(content[:size])
        with pytest.raises(ValueError, match="n.tar cannot be read as a folder or a tar"):
            notmnist_to_np.convert(tmp_path / "n.tar")


def test_a_picture_of_gigabytes_is_not_decoded(tmp_path):
    (tmp_path / "A").mkdir()
    Image.new("1", (20_000, 15_000)).save(tmp_path / "A/bomb.png")
    (tmp_path / "A/a.png").write_bytes(png(1))
    images, _, unreadable = notmnist_to_np.convert(tmp_path)
    assert len(images) == 1 and "bomb.png" in unreadable[0]
