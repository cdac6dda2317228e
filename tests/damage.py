"""Damages files, and counts what the readers of a checkout make of them.

    python tests/damage.py write FOLDER                       # sound files of every kind
    python tests/damage.py read FOLDER --examples=1000        # damaged at random, by this checkout

The second command can be run in the folder of another version, with PYTHONPATH=. and the path of
this file: the same bytes are damaged in the same way, so that two versions can be compared.
"""

import argparse
import importlib
import pathlib
import random
import signal
import sys
import tempfile

import numpy as np

BYTES = (0, 1, 0x20, 0x2F, 0x30, 0x7F, 0x80, 0xFF)  # beside random ones
KINDS = ("flip", "set", "fill", "cut", "insert", "drop", "repeat", "number")
# File -> readers, of which a checkout has one, and whether all values are under a checksum.
READERS = {
    "o.npz": (("ood_suite.outputs:Outputs.load",), True),
    "mapped.npz": (("ood_suite.outputs:Outputs.load",), True),
    "detector.npz": (("ood_suite.detector:Detector.load",), True),
    "images.npz": (("ood_suite.data.npz:read_images",), True),
    "pictures/a.png": (("ood_suite.data.streams:FolderImages",), False),
    "pictures/a.jpg": (("ood_suite.data.streams:FolderImages",), False),
    "densenet.pth.tar": (("classifier_ood.torch_files:read_state",), False),
    "densenet_legacy.pth": (("classifier_ood.torch_files:read_state",), False),
    "densenet.safetensors": (("classifier_ood.torch_files:read_state",), False),
    "r.fa": (("genomics_ood.sequence_files:records",), False),
    "r.fa.gz": (("genomics_ood.sequence_files:records",), False),
    "r.fq": (("genomics_ood.sequence_files:records",), False),
    "n.tar": (("images_ood.notmnist_to_np:convert",), False),
    "run/config.json": (("ood_suite.runs.run:Run.load", "ood_suite.runs:Run.load"), False),
    "value.json": (("ood_suite.files:read_json", "ood_suite.runs:read_json"), False),
    "table.csv": (("ood_suite.files:read_csv", "ood_suite.runs:read_csv"), False),
}
SECONDS = 20  # after which a reader hangs


def damaged(content, steps):
    """Content with some damages, each (kind, where from 0 to 1, a byte, one of BYTES)."""
    content = bytearray(content)
    for kind, where, value, byte in steps:
        at = min(int(where * len(content)), max(len(content) - 1, 0))
        if kind == "flip" and content:
            content[at] ^= 1 << value % 8
        elif kind == "set" and content:
            content[at] = value
        elif kind == "fill":
            content[at : at + 1 + value % 16] = bytes([byte]) * min(1 + value % 16, len(content))
        elif kind == "cut":
            del content[at:]
        elif kind == "insert":
            content[at:at] = bytes([byte]) * (1 + value % 8)
        elif kind == "drop":
            del content[at : at + 1 + value]
        elif kind == "repeat":
            content[at:at] = content[at : at + value]
        elif kind == "number":  # a length or an offset
            content[at : at + 4] = (2**31 - 1 - value).to_bytes(4, "little")
    return bytes(content)


def steps_of(number):
    """One to four damages, the same for the same number."""
    draw = random.Random(number)
    return [
        (draw.choice(KINDS), draw.random(), draw.randrange(256), draw.choice(BYTES))
        for _ in range(draw.randint(1, 4))
    ]


def counts(name, content, examples):
    """(refused by name, other exceptions, read as other values) of damaged copies of a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        expected = read(name, path)
        refused = bare = other = 0
        for number in range(examples):
            path.write_bytes(damaged(content, steps_of(number)))
            signal.alarm(SECONDS)
            try:
                other += not same(read(name, path), expected)
            except Exception as error:
                is_named = type(error).__name__ in ("ValueError", "RunError")
                is_named &= path.name in str(error) or str(path.parent) in str(error)
                refused, bare = refused + is_named, bare + (not is_named)
            signal.alarm(0)
    return refused, bare, other


def read(name, path):
    """{key: value} of what the reader of this checkout gives."""
    reader = reader_of(name)
    if name.startswith("pictures"):
        return {0: reader(path.parent, (8, 8, 3))[0:1]}
    if name.startswith("run"):
        found = reader(path.parent)
        return {"settings": str(found.settings), "fingerprints": str(found.config["fingerprints"])}
    found = reader(path)
    if hasattr(found, "arrays"):
        return {k: np.array(v) for k, v in found.arrays().items()} | {"meta": str(found.meta)}
    if hasattr(found, "threshold_"):
        return {"threshold": found.threshold_}
    return found if isinstance(found, dict) else dict(enumerate(found))


def reader_of(name):
    for place in READERS[name][0]:
        module, _, names = place.partition(":")
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError:
            continue
        for part in names.split("."):
            found = getattr(found, part)
        return found
    raise ValueError(f"This checkout has none of {', '.join(READERS[name][0])}.")


def same(ours, theirs):
    try:
        np.testing.assert_equal(ours, theirs)
    except AssertionError:
        return False
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("what", choices=("write", "read"))
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--examples", type=int, default=1000, help="Of each file.")
    arguments = parser.parse_args()
    if arguments.what == "write":
        importlib.import_module("tests.fuzz_test").write_all(arguments.folder, READERS)
        return
    signal.signal(signal.SIGALRM, _hangs)
    for name, (_, is_checked) in READERS.items():
        found = counts(name, (arguments.folder / name).read_bytes(), arguments.examples)
        refused, bare, other = map(str, found)
        print(f"| {name} | {refused} | {bare} | {other if is_checked else ''} |", flush=True)


def _hangs(*_):
    raise TimeoutError("the reader hangs")


if __name__ == "__main__":
    sys.path.insert(0, ".")
    main()
