"""Writes data sets as their authors publish them: small, in the same formats and folders."""

import gzip
import io
import pickle
import struct
import tarfile
import zipfile

import numpy as np
import scipy.io
from PIL import Image


def planes(images):
    """uint8 (n, 3 * height * width), plane by plane, of (n, height, width, 3)."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(images), -1)


def python_2_batch(images, labels, label_name=b"labels"):
    """What Python 2 pickled, protocol 2, with NumPy 1.7: the CIFAR authors' files byte for byte but
    for their contents.
    """

    def text(value):
        return b"U" + bytes([len(value)]) + value

    content = planes(images).tobytes()
    count, size = planes(images).shape
    out = [b"\x80\x02}q\x01(", text(b"data"), b"cnumpy.core.multiarray\n_reconstruct\nq\x02"]
    out += [b"cnumpy\nndarray\nq\x03K\x00\x85", text(b"b"), b"\x87Rq\x05(K\x01"]
    out += [b"J" + struct.pack("<i", count), b"J" + struct.pack("<i", size), b"\x86"]
    out += [b"cnumpy\ndtype\nq\x07", text(b"u1"), b"K\x00K\x01\x87Rq\x08(K\x03", text(b"|")]
    out += [b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T", struct.pack("<i", len(content))]
    out += [content, b"tb", text(b"batch_label"), text(b"testing batch 1 of 1")]
    out += [text(label_name), b"](", *(b"K" + bytes([label]) for label in labels), b"e", b"u."]
    return b"".join(out)


def write_cifar10(folder, images, labels):
    """cifar-10-batches-py: five batches to train on, of which all but the last two images, which
    are the test batch.
    """
    folder.mkdir(parents=True)
    parts = np.array_split(np.arange(len(images) - 2), 5)
    for number, rows in enumerate(parts, 1):
        content = python_2_batch(images[rows], labels[rows])
        (folder / f"data_batch_{number}").write_bytes(content)
    (folder / "test_batch").write_bytes(python_2_batch(images[-2:], labels[-2:]))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["a", "b"]}, 2))


def binary_batch(images, labels):
    """The bytes of a binary batch of CIFAR-10."""
    rows = np.concatenate([labels[:, None].astype(np.uint8), planes(images)], axis=1)
    return rows.tobytes()


def write_cifar10_binary(folder, images, labels):
    folder.mkdir(parents=True)
    for number, rows in enumerate(np.array_split(np.arange(len(images) - 2), 5), 1):
        content = binary_batch(images[rows], labels[rows])
        (folder / f"data_batch_{number}.bin").write_bytes(content)
    (folder / "test_batch.bin").write_bytes(binary_batch(images[-2:], labels[-2:]))


def write_cifar100(folder, images, labels):
    folder.mkdir(parents=True)
    for name in ("train", "test"):
        content = python_2_batch(images, labels, b"fine_labels")
        (folder / name).write_bytes(content)


def write_cifar100_binary(folder, images, labels):
    folder.mkdir(parents=True)
    fine = labels[:, None].astype(np.uint8)
    rows = np.concatenate([fine // 5, fine, planes(images)], axis=1)
    for name in ("train.bin", "test.bin"):
        (folder / name).write_bytes(rows.tobytes())


def write_downsampled(path, images, labels, protocol=4):
    """A file of downsampled ImageNet; its classes are 1..1000."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"data": planes(images), "labels": [int(label) + 1 for label in labels],
               "mean": planes(images).mean(axis=0)}  # fmt: skip
    path.write_bytes(pickle.dumps(content, protocol))


def write_svhn(path, images, labels, packed=True):
    """In MATLAB's order of axes; the digit 0 has label 10."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digits = np.where(labels == 0, 10, labels)[:, None].astype(np.uint8)
    content = {"X": images.transpose(1, 2, 3, 0), "y": digits}
    scipy.io.savemat(path, content, do_compression=packed)


def write_idx(path, images, labels=None):
    """idx, gzipped if the name says so; with a file of labels beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grey = images[..., 0] if images.ndim == 4 else images
    content = bytes([0, 0, 8, 3]) + struct.pack(">3I", *grey.shape) + grey.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    if labels is not None:
        beside = path.with_name(path.name.replace("images-idx3", "labels-idx1"))
        content = bytes([0, 0, 8, 1]) + struct.pack(">I", len(labels))
        content += np.asarray(labels, np.uint8).tobytes()
        beside.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_two_arrays(path, images, labels):
    with open(path, "wb") as file:
        np.save(file, images)
        np.save(file, labels)


def write_folder(folder, images, labels, suffix="png", names="class{}"):
    """A folder for each class, of files named by their row; their relative paths are returned."""
    paths = []
    for row, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / names.format(label) / f"{row:04d}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(path)
        paths.append(path.relative_to(folder).as_posix())
    return paths


def encoded(image, suffix="png"):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, suffix)
    return buffer.getvalue()


def write_archive(path, members):
    """A zip, tar or tar.gz of {name: bytes}."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_list(path, names, labels):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{name} {label}\n" for name, label in zip(names, labels, strict=True)]
    path.write_text("".join(lines))
