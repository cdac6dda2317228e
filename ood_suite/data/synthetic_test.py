"""Generated images: shapes, what each kind promises, and unit tests as data sets."""

import numpy as np
import pytest

from ood_suite import data
from ood_suite.data import synthetic


@pytest.mark.parametrize("name", synthetic.UNIT_TESTS)
@pytest.mark.parametrize("shape", [(28, 28, 1), (9, 12, 3)])
def test_of_any_shape_and_the_same_again(name, shape):
    found = data.load(f"{name}@5", "test", image_shape=shape)
    assert found.name == f"{name}@5" and found.images.shape == (5, *shape)
    assert found.images.dtype == np.uint8 and (found.labels == -1).all()
    assert data.load(f"{name}@5", "test", image_shape=shape).fingerprint == found.fingerprint


@pytest.mark.parametrize("count", [2, 3, 500, 600])
def test_no_image_is_mixed_with_itself(count):
    images = np.zeros((count, 1, count, 1), np.uint8)
    images[np.arange(count), 0, np.arange(count)] = 200  # a pixel of its own each
    assert ((synthetic.mixed(images, 20) == 100).sum(axis=(1, 2, 3)) == 2).all()


def test_plain_colours():
    assert not synthetic.black(2, (4, 4, 3)).any() and (synthetic.white(2, (4, 4, 3)) == 255).all()
    grey, constant = synthetic.grey(50, (4, 4, 3)), synthetic.constant(50, (4, 4, 3))
    assert (grey == grey[:, :1, :1, :1]).all() and len(np.unique(grey)) > 30
    assert (constant == constant[:, :1, :1]).all() and (constant != constant[..., :1]).any()


def test_stripes_run_one_way():
    lines = synthetic.horizontal_stripes(20, (60, 8, 3))
    assert (lines == lines[:, :, :1]).all()
    changes = (np.diff(lines[:, :, 0].astype(int), axis=1) != 0).any(axis=-1).sum(axis=1)
    assert set(changes + 1) <= set(synthetic.STRIPES)
    columns = synthetic.vertical_stripes(20, (8, 60, 3))
    assert (columns == columns[:, :1]).all()


def test_flags_have_three_colours():
    for function in (synthetic.tricolour, synthetic.tricolour_primary):
        flags = function(30, (9, 9, 3))
        ways = [(flag == flag[:, :1]).all() for flag in flags]
        assert 0 < sum(ways) < 30  # some in lines, the others in columns
        for flag in flags:
            assert (flag == flag[:, :1]).all() or (flag == flag[:1]).all()
            assert len(np.unique(flag.reshape(-1, 3), axis=0)) <= 3
    assert set(np.unique(flags)) == {0, 255}


def test_low_frequency_is_smooth_and_of_full_range():
    found = synthetic.low_frequency(10, (32, 32, 3)).astype(int)
    assert (found.min(axis=(1, 2, 3)) == 0).all() and (found.max(axis=(1, 2, 3)) == 255).all()
    steps = np.abs(np.diff(found, axis=1)).mean()
    assert (
        steps < 0.5 * np.abs(np.diff(synthetic.uniform(10, (32, 32, 3)).astype(int), axis=1)).mean()
    )
