"""Images that look alike: perceptual hashes, which scaling, JPEG and a shift by a pixel hardly
change, and pairs of near hashes of two sets.
"""

import itertools

import numpy as np
from scipy import fft

from ood_suite.data.transforms import LUMINANCE

WORDS = 2  # of 64 bits, in the hash of one image
SHIFTS = [(0, 0)] + [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if y or x]
SMALLEST_SIDE = 16  # pixels; as many frequencies a direction make the hash
FLAT = 2.0  # grey levels, the standard deviation below which an image has no hash
LOW_BITS, HIGH_BITS = 7, 12  # of 64 each, that may differ between images that look alike
IMAGES_AT_ONCE = 1024
PAIRS_AT_ONCE = 2**20
CHUNKS = 4  # of 16 bits, in a word
PROBES = np.array([0, *(1 << bit for bit in range(16))], np.uint64)  # keys at most one bit off


def perceptual_hashes(images):
    """Hashes the low frequencies of images, and of the same images shifted by a pixel.

    A bit is the sign of one coefficient of the grey image's discrete cosine transform: the first
    word has the 64 lowest frequencies but the mean, the second the next 64. All zeros stand for no
    hash: images that are flat, or have a side under 16 pixels.

    Args:
        images: uint8 (n, height, width, channels), 1 or 3 channels.

    Returns:
        uint64 (n, 18): two words of the image, then two of each of its eight shifts by a pixel,
        the edge repeated.
    """
    height, width = images.shape[1:3]
    found = np.zeros((len(images), len(SHIFTS), WORDS), "<u8")
    if min(height, width) >= SMALLEST_SIDE:
        rows, columns = _shifted_cosines(height), _shifted_cosines(width)
        for start in range(0, len(images), IMAGES_AT_ONCE):
            block = slice(start, start + IMAGES_AT_ONCE)
            grey = _grey(images[block])
            for number, (down, right) in enumerate(SHIFTS):
                found[block, number] = _signs(rows[down] @ grey @ columns[right].T)
            found[block][grey.std(axis=(1, 2)) < FLAT] = 0
    return found.reshape(len(images), -1).astype(np.uint64, copy=False)


def lookalikes(hashes, others):
    """Finds for each image the one of another set that looks most like it.

    Two images look alike if at most 7 bits of the low and 12 of the high word differ, with one of
    the two shifted or none. Of 64 bits 7 can differ only if in one of four chunks of 16 at most one
    does (multi-index hashing): so few pairs are compared, a million at a time.

    The limits were chosen on FashionMNIST, MNIST, notMNIST and Tiny ImageNet: docs/reliability.md
    has the shares that are found, and found falsely. Small grey images of one kind (digits, shirts)
    look alike by this measure without any having been copied.

    Args:
        hashes, others: uint64 (n, 18) and (m, 18), of perceptual_hashes.

    Returns:
        (rows, partners): integers (k,), rows of `hashes` in ascending order, and of `others`.

    Reference: Norouzi, Punjani and Fleet, "Fast Search in Hamming Space with Multi-Index Hashing",
        CVPR 2012.
    """
    hashes, inverse = np.unique(hashes, axis=0, return_inverse=True)
    others, first_rows = np.unique(others, axis=0, return_index=True)
    found = np.empty((0, 3), np.int64)  # (row, distance, partner), the nearest partner of each row
    for near in _near(hashes, others):
        found = _nearest(np.concatenate([found, near]))
    for near in _near(others, hashes):
        found = _nearest(np.concatenate([found, near[:, ::-1]]))
    partners = np.full(len(hashes), -1)
    partners[found[:, 0]] = first_rows[found[:, 2]]
    rows = np.flatnonzero(partners[inverse] >= 0)
    return rows, partners[inverse][rows]


def _nearest(pairs):
    """Of (row, distance, partner) those of the nearest partner of each row."""
    pairs = pairs[np.lexsort(pairs.T[::-1])]
    return pairs[np.diff(pairs[:, 0], prepend=-1) > 0]


def _near(hashes, others):
    """Yields (row, distance, partner), integers (k, 3), where any shift of a hash is near one."""
    shifted, plain = hashes.reshape(-1, WORDS), others[:, :WORDS]
    asked, known = (np.flatnonzero(words.any(axis=1)) for words in (shifted, plain))
    for chunk in range(CHUNKS):
        for theirs, ours in _candidates(_keys(plain[known], chunk), _keys(shifted[asked], chunk)):
            ours, theirs = asked[ours], known[theirs]
            distance = np.zeros((len(ours), WORDS), np.int64)
            for word, limit in enumerate((LOW_BITS, HIGH_BITS)):
                bits = np.bitwise_count(shifted[ours, word] ^ plain[theirs, word])
                near = bits <= limit
                distance[:, word] = bits
                ours, theirs, distance = ours[near], theirs[near], distance[near]
            yield np.stack([ours // len(SHIFTS), distance.sum(axis=1), theirs], axis=1)


def _keys(hashes, chunk):
    return (hashes[:, 0] >> np.uint64(16 * chunk)) & np.uint64(0xFFFF)


def _candidates(asked, known):
    """Yields pairs of rows (of asked, of known) whose keys differ in at most a bit, about
    PAIRS_AT_ONCE at a time.
    """
    order = np.argsort(known, kind="stable")
    starts = np.searchsorted(known[order], np.arange(2**16 + 1, dtype=np.uint64))
    probes = (asked[:, None] ^ PROBES).ravel().astype(np.int64)
    counts = starts[probes + 1] - starts[probes]
    ends = np.cumsum(counts)
    full = np.arange(PAIRS_AT_ONCE, counts.sum(), PAIRS_AT_ONCE)
    edges = np.unique([0, *np.searchsorted(ends, full, side="right"), len(probes)])
    for begin, stop in itertools.pairwise(edges):
        part = np.arange(begin, stop)
        of = np.repeat(part, counts[part])
        within = np.arange(len(of)) - np.repeat(ends[part] - counts[part], counts[part])
        within += ends[begin] - counts[begin]  # of the pairs before this part
        yield of // len(PROBES), order[starts[probes[of]] + within]


def _grey(images):
    """float32 (n, height, width)."""
    weights = LUMINANCE if images.shape[-1] == 3 else np.full(images.shape[-1], 1.0)
    return images.astype(np.float32) @ (weights / weights.sum()).astype(np.float32)


def _shifted_cosines(size):
    """{shift: (16, size)}: what takes the lowest cosines of a line after a shift by so many pixels,
    the edge repeated.
    """
    cosines = fft.dct(np.eye(size), axis=0, norm="ortho")[:SMALLEST_SIDE]
    found = {}
    for shift in (-1, 0, 1):
        moved = np.eye(size)[np.clip(np.arange(size) - shift, 0, size - 1)]
        found[shift] = (cosines @ moved).astype(np.float32)
    return found


def _signs(coefficients):
    """uint64 (n, WORDS) of coefficients (n, 16, 16): frequencies in rising order, dealt out to the
    chunks like cards, because neighbouring ones go together.
    """
    places = [(i + j, i, j) for i in range(16) for j in range(16) if i + j]
    order = np.array(sorted(places)[: 64 * WORDS]).reshape(WORDS, -1, CHUNKS, 3)
    _, rows, columns = order.transpose(3, 0, 2, 1).reshape(3, -1)
    packed = np.packbits(coefficients[:, rows, columns] > 0.0, axis=1, bitorder="little")
    return np.ascontiguousarray(packed).view("<u8")
