"""Mutation: the share, the offsets, and that inference is untouched."""

import numpy as np
import pytest

from ood_suite.training.mutation import Mutation


def test_the_share_and_the_range_of_mutated_pixels(rng):
    pixels = rng.integers(0, 256, (50, 28, 28, 1)).astype(np.float32)
    mutated = np.asarray(Mutation(0.3, seed=1)(pixels, training=True))
    assert mutated.dtype == np.float32 and mutated.min() >= 0 and mutated.max() <= 255
    # A mutated pixel stays itself with probability 1/256.
    assert np.mean(mutated != pixels) == pytest.approx(0.3 * 255 / 256, abs=0.01)
    offsets = (mutated - pixels)[mutated != pixels] % 256
    assert np.bincount(offsets.astype(int), minlength=256)[1:].min() > 0


@pytest.mark.jax
def test_bases_never_stay_themselves(rng):
    bases = rng.integers(0, 4, (100, 250)).astype(np.int32)
    mutated = np.asarray(
        Mutation(1.0, num_symbols=4, smallest_offset=1, seed=1)(bases, training=True)
    )
    assert (mutated != bases).all() and mutated.dtype == bases.dtype
    assert np.bincount((mutated - bases).ravel() % 4)[1:].min() > 8000


@pytest.mark.jax
def test_only_training_mutates_and_seeds_repeat(rng):
    pixels = rng.integers(0, 256, (2, 8, 8, 1)).astype(np.float32)
    layer = Mutation(0.5, seed=3)
    np.testing.assert_array_equal(layer(pixels, training=False), pixels)
    np.testing.assert_array_equal(Mutation(0.0)(pixels, training=True), pixels)
    first, second = layer(pixels, training=True), layer(pixels, training=True)
    assert (np.asarray(first) != np.asarray(second)).any()
    np.testing.assert_array_equal(Mutation(0.5, seed=3)(pixels, training=True), first)


def test_bad_options():
    with pytest.raises(ValueError, match="`rate` must lie"):
        Mutation(-0.1)
    with pytest.raises(ValueError, match="`smallest_offset`"):
        Mutation(0.1, num_symbols=4, smallest_offset=4)
