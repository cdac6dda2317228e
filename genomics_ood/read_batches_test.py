"""Reads by the thousand are those that the careful parser gives one by one."""

import gzip

import numpy as np
import pytest

from genomics_ood import read_batches, reads, sequence_files
from genomics_ood.read_batches import batches, paired


def listed(found):
    return [
        (name, sequence_files.decode(batch.bases[a:b]))
        for batch in found
        for name, a, b in zip(batch.names, batch.starts[:-1], batch.starts[1:], strict=True)
    ]


def careful(path):
    return [
        ((title.split() or ["unnamed"])[0], sequence_files.decode(bases))
        for title, bases in sequence_files.records(path)
    ]


def test_an_empty_read_of_a_fastq_file_stays_fastq(tmp_path):
    text = "@r1\r\nACGT\r\n+\r\nIIII\r\n@r2\r\n\r\n+\r\n\r\n@r3\r\nA\r\n+\r\nI\r\n"
    (tmp_path / "r.fq").write_bytes(text.encode())
    found = list(batches(tmp_path / "r.fq"))
    raw = b"".join(batch.raw for batch in found).replace(b"\r", b"")
    assert raw == text.replace("\r", "").encode()
    assert [name for batch in found for name in batch.names] == ["r1", "r2", "r3"]


def fastq(rng, count, lengths=(0, 30)):
    rows = [rng.integers(0, 5, rng.integers(*lengths)).astype(np.uint8) for _ in range(count)]
    texts = ["".join("ACGTN"[b] for b in row) for row in rows]
    return "".join(f"@r{i} x y\n{t}\n+\n{'@' * len(t)}\n" for i, t in enumerate(texts))


CONTENTS = {
    "fasta": ">one first record\nACgt\nNNRa\n\n>two\nA\n>empty\n>three\nUUC-\n>\nAC\n",
    "windows": ">one first\r\nACgt\r\nNNRa\r\n\r\n>two\r\nA\r\n",
    "no last newline": ">a\nACGT\n>b\nAC",
    "spaces before": "\n \n>a\nAC GT\n",
    "fastq": "@r1 x\nACGT\n+\n@@@@\n@r2\nGGN\n+r2\n+++\n",
    "fastq of several lines": "@r1 x\nAC\nGT\n+\n@@\n@@\n@r2\nGGN\n+r2\n+++\n",
    "titles again": "@r1 x\nACGT\n+r1 x\n@@@@\n@r2\nGG\n+\n++\n@r3\nG\n+r3\nI\n",
    "blank lines at the end": "@r1 x\nAC\n+\nII\n@r2\nGG\n+\nII\n" + "\n" * 6,
    "many of them": "@r1 x\nAC\n+\nII\n" + "\n" * 17,
    "an empty read": "@r1\n\n+\n\n@r2\nAC\n+\nII\n",
}


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("chunk", [1, 7, 2**22])
def test_the_same_records(tmp_path, monkeypatch, name, chunk):
    monkeypatch.setattr(read_batches, "CHUNK", chunk)
    (tmp_path / "r").write_text(CONTENTS[name])
    (tmp_path / "r.gz").write_bytes(gzip.compress(CONTENTS[name].encode()))
    expected = careful(tmp_path / "r")
    assert listed(batches(tmp_path / "r")) == expected == listed(batches(tmp_path / "r.gz"))


@pytest.mark.parametrize("chunk", [50, 1000, 2**22])
def test_many_records(tmp_path, monkeypatch, rng, chunk):
    monkeypatch.setattr(read_batches, "CHUNK", chunk)
    (tmp_path / "r.fq").write_text(fastq(rng, 200))
    expected = careful(tmp_path / "r.fq")
    assert listed(batches(tmp_path / "r.fq")) == expected
    text = "".join(f">{name} x\n{bases[:9]}\n{bases[9:]}\n" for name, bases in expected)
    (tmp_path / "r.fa").write_text(text)
    assert listed(batches(tmp_path / "r.fa")) == expected
    raws = b"".join(batch.raw for batch in batches(tmp_path / "r.fa"))
    assert raws == text.encode()
    for batch in batches(tmp_path / "r.fq"):
        for name, a, b in zip(batch.names, batch.marks[:-1], batch.marks[1:], strict=True):
            assert batch.raw[a:b].startswith(f"@{name} x y\n".encode())
            assert batch.raw[a:b].count(b"\n") == 4


def cut(text):
    """gzip without its end, which would have followed many records."""
    return gzip.compress(text.encode())[:-40]


@pytest.mark.parametrize("chunk", [5, 2**22])
@pytest.mark.parametrize(
    "content",
    [
        b"", b"\n \n", b"ACGT\nACGT\n", b">good\nACGT\n>protein\nMKVLQ*\n",
        b"@good\nACGT\n+\nIIII\n@r\nACGT\n+\nIII\n", b"@good\nAC\n+\nII\n@r\nACGT\n+s\nIIII\n",
        b"@good\nAC\n+\nII\n@r\nACGT\n+\nIII \n", b"@good\nACGT\n+\nIIII\n@r\nACGT\n",
        gzip.compress(b">a\nACGT\n" * 500)[:-60],
        cut(fastq(np.random.default_rng(1), 200)),
        cut(fastq(np.random.default_rng(2), 200, (8, 30)).replace("@r", ">r").replace("\n+\n@", "")
            .replace("@", "")),
        cut("".join(f"@r{i}\nAC\nGT\n+\n@@\n@{i % 7}\n" for i in range(400))),
    ],
)  # fmt: skip
def test_the_same_errors(tmp_path, monkeypatch, content, chunk):
    monkeypatch.setattr(read_batches, "CHUNK", chunk)
    (tmp_path / "bad").write_bytes(content)
    found, before = [], []
    with pytest.raises(ValueError, match="cannot be read") as expected:
        before.extend(title.split()[0] for title, _ in sequence_files.records(tmp_path / "bad"))
    with pytest.raises(ValueError, match="cannot be read") as caught:
        for batch in batches(tmp_path / "bad"):
            found += batch.names
    assert str(caught.value) == str(expected.value)
    assert found == before
    assert before == ["good"] or b"good" not in content
    assert len(before) > 100 or len(content) < 500


def test_a_record_as_long_as_a_chromosome(tmp_path, monkeypatch, rng):
    monkeypatch.setattr(read_batches, "CHUNK", 100)
    monkeypatch.setattr(read_batches, "LONGEST", 1000)
    text = sequence_files.decode(rng.integers(0, 4, 5000).astype(np.uint8))
    (tmp_path / "g.fa").write_text(f">a\nACGT\n>g\n{text}\n>b\nAC\n")
    assert listed(batches(tmp_path / "g.fa")) == [("a", "ACGT"), ("g", text), ("b", "AC")]


def test_mates(tmp_path, monkeypatch, rng):
    monkeypatch.setattr(read_batches, "CHUNK", 700)
    for mate, lengths in ((1, (5, 9)), (2, (20, 30))):
        text = fastq(np.random.default_rng(mate), 50, lengths)
        text = text.replace(" x y", f"/{mate} x")
        (tmp_path / f"{mate}.fq").write_text(text)
    paths = tmp_path / "1.fq", tmp_path / "2.fq"
    found = list(paired(*map(batches, paths)))
    for side, path in enumerate(paths):
        assert listed(pair[side] for pair in found) == careful(path)
    (tmp_path / "3.fq").write_text((tmp_path / "2.fq").read_text().replace("@r7/", "@s7/"))
    with pytest.raises(ValueError, match="'r7/1' and 's7/2' as reads 8"):
        list(paired(batches(paths[0]), batches(tmp_path / "3.fq")))
    (tmp_path / "4.fq").write_text(fastq(rng, 20).replace(" x y", "/2"))
    with pytest.raises(ValueError, match="first of the paired files has more .* ends after 20"):
        list(paired(batches(paths[0]), batches(tmp_path / "4.fq")))


def test_the_npz_file_of_a_data_set(tmp_path, monkeypatch, rng):
    monkeypatch.setattr(read_batches, "CHUNK", 100)
    rows = rng.integers(0, 4, (50, 20)).astype(np.uint8)
    reads.write_file(tmp_path / "r.npz", rows, np.zeros(50))
    found = listed(batches(tmp_path / "r.npz"))
    assert found == [(str(i), sequence_files.decode(row)) for i, row in enumerate(rows)]
    with pytest.raises(FileNotFoundError, match="There is no file"):
        next(batches(tmp_path / "none.npz"))


def test_reading_ahead(tmp_path):
    def numbers():
        yield from (1, 2, 3, 4, 5)
        raise ValueError("cut")

    found = []
    with pytest.raises(ValueError, match="cut"):
        for item in read_batches.ahead(numbers()):
            found.append(item)
    assert found == [1, 2, 3, 4, 5]
