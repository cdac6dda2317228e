"""Which images a gallery takes, and that it is left out where they cannot be had."""

import types

import numpy as np
import pytest

from ood_suite import data
from ood_suite.data.npz import write_images
from ood_suite.evaluation import gallery
from ood_suite.evaluation.report import GroupReport
from ood_suite.evaluation.request import Request
from ood_suite.runs.run import Role


@pytest.fixture
def folder(tmp_path):
    """ID images of one grey each, 0..29, and OOD ones of 100..119."""
    for name, levels in (("mine", np.arange(30)), ("other", np.arange(100, 120))):
        images = np.broadcast_to(levels[:, None, None, None], (len(levels), 6, 6, 1))
        write_images(tmp_path / f"{name}_test.npz", images.astype(np.uint8), levels)
    return tmp_path


def reported(id_scores, ood_scores):
    rows = [{"score": "energy", "ood": "other", "auroc": 0.9, "num_ood": 20, "threshold": 20.0}]
    values = {"energy": (id_scores, {"other": ood_scores})}
    return GroupReport(0, rows, [], None, [], {}, "msp", values=values)


def group(extractor="classifier_ood.extract"):
    roles = {"id_test": Role(("mine",), "test"), "ood:other": Role(("other",), "test")}
    run = types.SimpleNamespace(config={"extractor": extractor}, settings={}, roles=roles)
    return types.SimpleNamespace(foreground=run)


@pytest.mark.parametrize("suffix", ["", ":contrast_1"])  # an array, and a stream
def test_the_extremes_in_their_order(folder, suffix, rng):
    source = data.load(f"mine{suffix}", "test", folder)
    scores = rng.permutation(30).astype(float)
    images, found = gallery._extreme(source, scores, most=True)
    np.testing.assert_array_equal(found, np.arange(29.0, 17.0, -1.0))
    for image, value in zip(images, found, strict=True):
        assert (image == np.flatnonzero(scores == value)[0]).all()
    images, found = gallery._extreme(source, scores, most=False)
    np.testing.assert_array_equal(found, np.arange(12.0))


def test_a_figure_of_id_and_ood(folder):
    found = gallery.gallery(
        group(), reported(np.arange(30.0), np.arange(20.0)), Request(), data_dir=folder
    )
    titles = [part.get_suptitle() for part in found.subfigs]
    assert titles == ["mine (ID), most OOD", "other, least OOD"]
    first = found.subfigs[1].axes[0]  # the least OOD has the score 0 and is accepted
    assert first.get_title() == "0" and first.title.get_fontweight() == "normal"
    assert (first.images[0].get_array() == 100).all()


def test_an_ood_set_that_is_absent_is_left_out(folder):
    request = Request(ood_far=("svhn_cropped", "other"))
    scored = reported(np.arange(30.0), np.arange(20.0))
    found = gallery.gallery(group(), scored, request, data_dir=folder)
    assert [part.get_suptitle() for part in found.subfigs][1:] == ["other, least OOD"]


def test_nothing_where_images_cannot_be_had(folder):
    scored = reported(np.arange(30.0), np.arange(20.0))
    assert gallery.gallery(group("genomics_ood.extract"), scored, Request(), folder) is None
    (folder / "mine_test.npz").unlink()
    assert gallery.gallery(group(), scored, Request(), folder) is None
    fewer = reported(np.arange(7.0), np.arange(20.0))
    assert gallery.gallery(group(), fewer, Request(), folder) is None
