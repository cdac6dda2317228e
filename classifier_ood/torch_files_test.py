"""Hostile checkpoints: nothing of them runs, reaches what is not theirs, or costs more than the
file is large. Each was a crash, foreign memory or gigabytes with Python's own unpickler.
"""

import collections
import io
import pickle
import struct
import time
import tracemalloc
import zipfile

import numpy as np
import pytest

from classifier_ood.convert_test import FOLDER, tensor_pickle
from classifier_ood.torch_files import read_state
from ood_suite.data import pickles

MEBIBYTE = 2**20


def write(
    path, content, storages=(("0", np.ones(1, np.float32).tobytes()),), how=zipfile.ZIP_STORED
):
    with zipfile.ZipFile(path, "w", how) as archive:
        archive.writestr("archive/data.pkl", content)
        for key, storage in storages:
            archive.writestr(f"archive/data/{key}", storage)
    return path


def refused(path, message):
    """Reads a file that must be refused, at less than twice its size and 100 MiB."""
    size = path.stat().st_size if path.exists() else 0
    tracemalloc.start()
    began = time.monotonic()
    with pytest.raises(ValueError, match=message) as caught:
        read_state(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    seconds = time.monotonic() - began
    print(f"{message}: {size} bytes, {seconds:.2f} s, {peak / MEBIBYTE:.1f} MiB")
    assert peak < 2 * size + 100 * MEBIBYTE and len(str(caught.value)) < 2000
    assert seconds < 60.0


STORAGE = b"(S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI1\ntQ"
TENSOR = tensor_pickle(None, [1], [1])


@pytest.mark.parametrize(
    "target, state",
    [
        # A stride of nothing in place of the storage's values let 200,000 foreign floats be read.
        (STORAGE, b"(N(dS'array'\n" + TENSOR + b"st"),
        (STORAGE, b"(dS'count'\nI999999\ns"),
        (TENSOR, b"(I1\n(I5\ntS'f4'\nI00\nS'xxxx'\nt"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n", b"(dS'__defaults__'\n(I1\nts"),
        (b"ccollections\nOrderedDict\n", b"(N(dS'items'\nI1\nst"),
        (b"ctorch\nFloatStorage\n", b"(dS'meaning'\nS'tensor'\ns"),
        (b"(l", b"(d"),
    ],
)
def test_nothing_that_a_pickle_holds_can_be_changed(tmp_path, target, state):
    path = write(tmp_path / "evil.pth", b"(dS'a'\n" + target + state + b"bsS'w'\n" + TENSOR + b"s.")
    refused(path, "evil.pth cannot be read.*sets attributes")


def test_attributes_of_an_ordered_dict_are_ignored(tmp_path):
    """torch.save puts `_metadata` there; an `items` must not shadow the method."""
    content = (
        b"ccollections\nOrderedDict\n(tR(dS'items'\nI1\nsS'_metadata'\n(dsbS'w'\n" + TENSOR + b"s."
    )
    state = read_state(write(tmp_path / "good.pth", content))
    assert list(state) == ["w"] and state["w"] == 1.0


def test_storages_are_looked_at_only_within_themselves(tmp_path):
    """Storages of a lie: another type, another size, no such member."""
    for kind, count, message in (
        ("Double", 1, "two types"), ("Float", 2, "two types"), ("Float", 10**15, "no storage"),
        ("Float", -1, "no storage"),
    ):  # fmt: skip
        other = STORAGE.replace(b"Float", kind.encode()).replace(b"I1", b"I%d" % count)
        content = b"(dS'a'\n" + TENSOR + b"sS'w'\n" + tensor_pickle(other, [1], [1]) + b"s."
        refused(write(tmp_path / "evil.pth", content), message)
    short = STORAGE.replace(b"I1", b"I4")
    content = b"(dS'w'\n" + tensor_pickle(short, [4], [1]) + b"s."
    refused(write(tmp_path / "evil.pth", content), "the storage '0' has 4 bytes")
    refused(write(tmp_path / "evil.pth", content, ()), "cannot be read as a checkpoint")


def nested(depth):
    return b"(" * depth + b"t" * depth


def doubled(depth):
    return b"(t" + b"q\x01h\x01\x86" * depth


def sized(opcode, layout, size, content=b""):
    return b"\x80\x05}" + opcode + struct.pack(layout, size) + content


LONG_TEXT = b"y" * 20 * MEBIBYTE
HUGE = 2**62
HOSTILE = {
    "a memo index": (b"\x80\x02}r\xff\xff\xff\x7f.", "no state dict"),
    "a long of a gigabyte": (sized(b"\x8b", "<i", 2**30), "cannot be read"),
    "bytes of exabytes": (sized(b"\x8e", "<Q", HUGE), "cannot be read"),
    "an array of exabytes": (sized(b"\x96", "<Q", HUGE), "cannot be read"),
    "a text of exabytes": (sized(b"\x8d", "<Q", HUGE), "cannot be read"),
    "a deep key": (b"}" + nested(20_000) + b"I1\ns.", "as a key"),
    "a key of 2**40 parts": (b"}" + doubled(40) + b"I1\ns.", "as a key"),
    "a deep value": (b"}S'model'\n" + nested(50_000) + b"s.", "no state dict"),
    "a deep list": (b"]" * 50_000 + b"a" * 49_999 + b".", "no state dict"),
    "a huge integer": (sized(b"\x8b", "<i", MEBIBYTE, b"\x7f" * MEBIBYTE + b"Ns."), "bits"),
    "a long name": (b"cx\n" + LONG_TEXT + b"\n.", "asks for x.y"),
    "a long identifier": (b"(S'" + LONG_TEXT + b"'\nI1\nI1\nI1\nI1\ntQ.", "no storage"),
    "a long key": (sized(b"X", "<I", len(LONG_TEXT), LONG_TEXT + b"I1\ns."), "no state dict"),
    "many operations": (b"N0" * 2**16 + b"N.", "more than .* operations"),
    "an extension": (b"\x82\x01.", "EXT1"),
    "an object": (b"(ios\nsystem\n.", "INST"),
    "nothing": (b"", "cannot be read"),
    "an empty stack": (b".", "damaged"),
    "no mark": (b"t.", "damaged"),
    "a key of a list": (b"}]I1\ns.", "as a key"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_small_file_costs_little(tmp_path, name, monkeypatch):
    monkeypatch.setattr(pickles, "OPERATIONS", 2**17 - 2)
    content, message = HOSTILE[name]
    refused(write(tmp_path / "evil.pth", content, ()), message)
    (tmp_path / "legacy.pth").write_bytes(content)
    refused(tmp_path / "legacy.pth", "cannot be read as a checkpoint")


def test_a_compressed_storage_is_no_bomb(tmp_path):
    count = 64 * MEBIBYTE
    storage = STORAGE.replace(b"I1", b"I%d" % (count // 4))
    content = b"(dS'w'\n" + tensor_pickle(storage, [2], [1]) + b"s."
    path = write(tmp_path / "bomb.pth", content, [("0", bytes(count))], zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < MEBIBYTE
    refused(path, "more than twice as large")


def declaring(path, declared, content=bytes(4), how=zipfile.ZIP_DEFLATED):
    """A checkpoint whose storage has another size than its zip file's list declares."""
    storage = STORAGE.replace(b"I1", b"I%d" % (declared // 4))
    tensor = b"(dS'w'\n" + tensor_pickle(storage, [declared // 4], [1]) + b"s."
    write(path, tensor, [("0", content)], how)
    whole = bytearray(path.read_bytes())
    entry = whole.rindex(b"PK\1\2")
    whole[entry + 24 : entry + 28] = struct.pack("<I", declared)
    path.write_bytes(whole)
    return path


@pytest.mark.parametrize("how", [zipfile.ZIP_BZIP2, zipfile.ZIP_DEFLATED])
def test_a_member_gives_no_more_than_its_list_declares(tmp_path, how):
    """It was unpacked as a whole, and cut then: 128 MiB for the four bytes that were asked for."""
    path = declaring(tmp_path / "bomb.pth", 4, bytes(128 * MEBIBYTE), how)
    what = "neither stored nor deflated" if how == zipfile.ZIP_BZIP2 else "CRC"
    refused(path, f"bomb.pth cannot be read as a checkpoint .*{what}")


@pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_member_gives_no_less_than_its_list_declares(tmp_path, how):
    """The tensor showed the memory behind its bytes."""
    refused(declaring(tmp_path / "short.pth", 64, how=how), "has 4 bytes, and its list says 64")


def test_one_storage_of_many_tensors_is_read_once(tmp_path):
    count = 4 * MEBIBYTE
    storage = STORAGE.replace(b"I1", b"I%d" % (count // 4))
    tensors = b"".join(
        b"S'w%d'\n" % i + tensor_pickle(storage, [2], [1]) + b"s" for i in range(300)
    )
    path = write(tmp_path / "shared.pth", b"(d" + tensors + b".", [("0", bytes(count))])
    tracemalloc.start()
    assert len(read_state(path)) == 300
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * path.stat().st_size + 10 * MEBIBYTE


def test_a_legacy_file_that_promises_more_than_it_has(tmp_path):
    content = (FOLDER / "densenet_legacy.pth").read_bytes()
    state = read_state(FOLDER / "densenet_legacy.pth")
    largest = max(array.size for array in state.values())
    lie = content.replace(
        struct.pack("<BH", ord("M"), largest), b"J" + struct.pack("<i", 2**31 - 1)
    )
    assert lie != content
    path = tmp_path / "lie.pth"
    path.write_bytes(lie)
    refused(path, "cannot be read as a checkpoint")


def test_plain_pickles_are_understood(tmp_path):
    """What our interpreter makes of plain data is what Python's makes of them."""
    value = {
        "a": [1, -5, 2**40, 1.5, True, None, "é", b"x"], (1, "b"): {3, 4}, 7: ((), (1,), (1, 2, 3)),
        "d": {"e": frozenset([1])}, "same": [], "long": list(range(2000)),
    }  # fmt: skip
    value["again"] = value["same"]

    def never(*arguments):
        raise ValueError(f"called with {arguments}")

    for protocol in (4, 5):
        text = pickle.dumps(value, protocol)
        found = pickles.load(io.BytesIO(text), never, never, never)
        assert found == value and found["again"] is found["same"]
    plain = [1, -5, 2**40, 1.5, True, None, "é", (1, "b"), {"e": {7: list(range(2000))}}]
    for protocol in (0, 1, 2, 3):
        text = pickle.dumps(plain, protocol)
        assert pickles.load(io.BytesIO(text), never, never, never) == plain


def test_ordered_dicts_of_other_things_are_refused(tmp_path):
    text = pickle.dumps(collections.OrderedDict(a=1), 2).replace(b"K\x01", b"h\x00")
    refused(write(tmp_path / "evil.pth", text, ()), "no state dict")
