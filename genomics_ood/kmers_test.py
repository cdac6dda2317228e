"""The k-mer density: a density, causal, that of the formula, the same on both strands."""

import itertools

import numpy as np
import pytest

from genomics_ood import kmers
from genomics_ood.kmers import KmerDensity
from ood_suite.files import RunError


def reads_of(rng, count=40, length=30):
    return rng.choice(4, (count, length), p=(0.4, 0.1, 0.2, 0.3)).astype(np.uint8)


def model_of(rng, order, classes=2, concentration=3.0, length=30):
    found = [kmers.count(reads_of(rng, length=length), order) for _ in range(classes)]
    return KmerDensity(*map(np.stack, zip(*found, strict=True)), concentration)


@pytest.mark.parametrize("order", [0, 1, 3, 6])
@pytest.mark.parametrize("classes", [1, 2, 3])
def test_probabilities_of_all_sequences_sum_to_one(rng, order, classes):
    model = model_of(rng, order, classes)
    every = np.array(list(itertools.product(range(4), repeat=5)), np.uint8)
    by_class = model.class_log_probs(every)
    np.testing.assert_allclose(np.exp(by_class).sum(axis=0), 1.0, atol=1e-5)
    assert np.exp(kmers.mixture(by_class)).sum() == pytest.approx(1.0, abs=1e-5)
    track = kmers.base_track(model.base_log_probs(every))
    np.testing.assert_allclose(track.sum(axis=1), kmers.mixture(by_class), rtol=1e-5)
    for position in range(5):  # after any beginning the next base's probabilities sum to 1
        begun = np.exp(track[:, position]).reshape(*[4] * 5)
        first = begun[(*[slice(None)] * (position + 1), *[0] * (4 - position))]
        np.testing.assert_allclose(first.sum(axis=-1), 1.0, atol=1e-5)


def test_the_formula_word_by_word(rng):
    """A slow literal rewrite, with counts of words as texts."""
    reads, order, m = reads_of(rng, 20, 12), 3, 2.5
    text = ["".join(map(str, row)) for row in reads]
    text += ["".join(str(3 - b) for b in row[::-1]) for row in reads]

    def count(word):
        return sum(t[i:].startswith(word) for t in text for i in range(len(t)))

    def p(base, before):
        lower = p(base, before[1:]) if before else 0.25
        seen = sum(count(before + b) for b in "0123")  # words that end a read are no contexts
        return (count(before + base) + m * lower) / (seen + m)

    model = KmerDensity(*(array[None] for array in kmers.count(reads, order)), m)
    new = reads_of(rng, 4, 9)
    expected = [
        [
            np.log(p(str(b), "".join(map(str, row[max(0, i - order) : i]))))
            for i, b in enumerate(row)
        ]
        for row in new
    ]
    np.testing.assert_allclose(model.base_log_probs(new)[..., 0], expected, rtol=1e-5)
    np.testing.assert_allclose(
        model.base_log_probs(new, order=1)[:, 2, 0],
        [np.log(p(str(row[2]), str(row[1]))) for row in new], rtol=1e-5,
    )  # fmt: skip
    np.testing.assert_allclose(
        model.class_log_probs(new, np.array([9, 4, 1, 0]))[:, 0],
        [np.sum(expected[row][:size]) for row, size in enumerate((9, 4, 1, 0))], rtol=1e-5,
    )  # fmt: skip


@pytest.mark.parametrize("length", [1, 2, 3, 5, 8, 9, 12])
def test_words(rng, length):
    bases = reads_of(rng, 3, 15)
    for row, found in zip(bases, kmers.words(bases, length), strict=True):
        for i, word in enumerate(found):
            text = "".join(map(str, row[max(0, i + 1 - length) : i + 1]))
            assert word == int(text, 4)


def test_both_strands_are_counted_alike(rng):
    bases = reads_of(rng)
    for ours, theirs in zip(kmers.count(bases, 4), kmers.count(3 - bases[:, ::-1], 4), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_many_reads_are_counted_in_parts(rng, monkeypatch):
    bases = reads_of(rng, 3000)
    whole = kmers.count(bases, 2)
    monkeypatch.setattr(kmers, "READS_AT_ONCE", 7)
    for ours, theirs in zip(whole, kmers.count(bases, 2), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    model = model_of(rng, 2)
    parts = model.class_log_probs(bases[:50])
    monkeypatch.setattr(kmers, "READS_AT_ONCE", 512)
    np.testing.assert_allclose(parts, model.class_log_probs(bases[:50]), rtol=1e-6)


def test_causality(rng):
    model, bases = model_of(rng, 4), reads_of(rng, 1, 20)
    changed = bases.copy()
    changed[0, 9] = (bases[0, 9] + 1) % 4
    before, after = (kmers.base_track(model.base_log_probs(b))[0] for b in (bases, changed))
    np.testing.assert_array_equal(before[:9], after[:9])
    assert (before[9:14] != after[9:14]).any()


def test_a_model_on_file(rng, tmp_path):
    model, bases = model_of(rng, 3, classes=3), reads_of(rng, 5)
    model.save(tmp_path / "m.npz")
    model.save(tmp_path / "again.npz")
    assert (tmp_path / "m.npz").read_bytes() == (tmp_path / "again.npz").read_bytes()
    loaded = KmerDensity.load(tmp_path / "m.npz")
    np.testing.assert_array_equal(model.class_log_probs(bases), loaded.class_log_probs(bases))
    assert loaded.order == 3 and loaded.classes == 3
    np.savez(tmp_path / "bad.npz", counts=np.zeros((1, 16), int), starts=np.zeros((1, 16), int))
    np.savez(tmp_path / "scalars.npz", counts=5, starts=1, concentration=1.0)
    for name in ("bad", "scalars"):
        with pytest.raises(RunError, match="cannot be read .* repeat the training command"):
            KmerDensity.load(tmp_path / f"{name}.npz")


def test_what_is_refused(rng):
    counts, starts = (array[None] for array in kmers.count(reads_of(rng), 2))
    for wrong in (
        (counts[:, :60], starts), (counts, starts[:, :4]), (counts * 1.0, starts),
        (-counts, starts), (counts[:0], starts[:0]), (5, 1), (counts[0], starts[0]),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="must be counts of shape"):
            KmerDensity(*wrong, 1.0)
    with pytest.raises(ValueError, match="`concentration` must be positive"):
        KmerDensity(counts, starts, 0.0)
    with pytest.raises(ValueError, match="longer than the order"):
        kmers.count(reads_of(rng, length=4), 4)
