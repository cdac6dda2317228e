"""What the figures show, where a mix-up would mislead."""

import io
import itertools
import types

import numpy as np
import pytest
from PIL import Image

from ood_suite.evaluation import drawing, figures, page
from ood_suite.outputs import Outputs


def test_the_tuning_map_has_each_value_in_its_cell():
    grid = itertools.product((1000.0, 1.0, 10.0), (0.0, 0.002))
    found = [(0.5 + t / 1e4 + 10 * e, {"temperature": t, "epsilon": e}) for t, e in grid]
    figure = figures.tuning("leave_out", found)
    axes = figure.axes[0]
    lines = [float(label.get_text()) for label in axes.get_yticklabels()]
    columns = [float(label.get_text()) for label in axes.get_xticklabels()]
    assert (lines, columns) == ([1.0, 10.0, 1000.0], [0.0, 0.002])
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("temperature", "epsilon")
    shown = axes.images[0].get_array()
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    for (line, t), (column, e) in itertools.product(enumerate(lines), enumerate(columns)):
        assert shown[line, column] == 0.5 + t / 1e4 + 10 * e
        assert texts[column, line] == f"{0.5 + t / 1e4 + 10 * e:.3f}"
    frame = axes.patches[0]
    assert frame.get_xy() == (0.5, 1.5)  # column 1, line 2: the best


def test_ticks_of_scores_that_hardly_differ_stay_apart(rng):
    scores = 5.2266 + 2e-4 * rng.random(200)
    figure = figures.histograms("leave_out", scores, {"other": scores + 1e-4})
    figure.canvas.draw()
    axes = figure.axes[0]
    boxes = [label.get_window_extent() for label in axes.get_xticklabels() if label.get_text()]
    inside = [box for box in boxes if 0 <= box.x0]
    assert all(a.x1 <= b.x0 for a, b in itertools.pairwise(sorted(inside, key=lambda b: b.x0)))
    assert np.isfinite([box.x0 for box in boxes]).all()


def test_a_contact_sheet_shows_both_ends_of_a_set(tmp_path):
    names = [str(tmp_path / f"{i}.png") for i in range(6)]
    for name in names[1:]:  # the first file is gone
        Image.new("RGB", (9, 7), "red").save(name)
    scores = np.array([3.0, 5.0, 1.0, 2.0, 6.0, 4.0])
    drawn = figures.contact_sheet("set", names, scores, count=3)
    titles = [axes.get_title() for axes in drawn.axes]
    assert titles == ["2.png\n1", "3.png\n2", "0.png\n3", "4.png\n6", "1.png\n5", "5.png\n4"]
    assert [len(axes.images) for axes in drawn.axes] == [1, 1, 0, 1, 1, 1]


def test_a_picture_that_is_too_large_leaves_its_place_empty(tmp_path, monkeypatch):
    """Pillow's error is of no kind that one expects, and the evaluation ended with it."""
    Image.new("L", (40, 40)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    drawn = figures.contact_sheet("set", [str(tmp_path / "large.png")], np.array([1.0]))
    assert not drawn.axes[0].images


def test_a_program_among_pictures_is_not_drawn(tmp_path, monkeypatch):
    """EPS under another name, which Pillow hands to Ghostscript when its pixels are asked for."""
    monkeypatch.setattr(figures, "picture", lambda *_: np.zeros((8, 8)))
    text = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n%%EOF\n"
    (tmp_path / "a.png").write_bytes(text)
    drawn = figures.contact_sheet("set", [str(tmp_path / "a.png")], np.array([1.0]))
    assert not drawn.axes[0].images


def test_a_contact_sheet_is_drawn_where_there_are_files(tmp_path):
    """Of archives it was 20 empty frames: their members are no files."""
    Image.new("L", (8, 8)).save(tmp_path / "1.png")
    names = {"files": [f"{tmp_path}/0.png", f"{tmp_path}/1.png"], "archive": ["a/0.png", "a/1.png"]}
    pair = np.arange(2.0)
    ood = {
        name: Outputs(log_prob=pair, example_names=np.array(found)) for name, found in names.items()
    }
    group = types.SimpleNamespace(
        foreground=types.SimpleNamespace(parts=[], folder=tmp_path), backgrounds=[]
    )
    drawn = drawing.draw_figures(
        group, {"energy": (pair, dict.fromkeys(names, pair))},
        {"energy": types.SimpleNamespace(threshold_=0.5)},
        Outputs(log_prob=pair, meta={"dataset": "id"}), ood,
    )  # fmt: skip
    assert [name for name in drawn if name.startswith("images_")] == ["images_files"]


def test_names_of_files_are_no_formulas():
    """matplotlib took what stands between two dollars for one, and the whole report failed."""
    drawn = figures.contact_sheet("a$_$", ["cost_$5_vs_$6.png"], np.array([1.0]))
    assert page.png(drawn)
    maps = figures.pixel_maps(np.zeros((1, 4, 4, 1), np.uint8), np.ones((1, 4, 4)), "a$_$")
    maps.savefig(io.BytesIO())  # as images_ood.sample does


@pytest.mark.parametrize("channels", [1, 3])
def test_heat_maps_show_each_image_above_its_maps(rng, channels):
    """The most likely image first; around each there is nothing."""
    images = rng.integers(0, 256, (3, 5, 4, channels), dtype=np.uint8)
    maps, background = rng.normal(-3.0, 1.0, (2, 3, 5, 4)).astype(np.float32)
    outputs = Outputs(
        images=images, log_prob=np.array([-9.0, -7.0, -8.0]), log_prob_map=maps,
        background_log_prob_map=background,
    )  # fmt: skip
    above, log_p, ratio, _ = figures.heat_maps("a set", outputs).axes
    assert [axes.get_ylabel() for axes in (above, log_p)] == ["image", "log p + 6"]
    for place, row in enumerate([1, 2, 0]):
        shown = [np.ma.getdata(axes.images[0].get_array()) for axes in (above, log_p, ratio)]
        framed = [picture[:, 6 * place : 6 * place + 6] for picture in shown]
        inner = [picture[1:-1, 1:-1] for picture in framed]
        np.testing.assert_array_equal(inner[0].reshape(images[row].shape), images[row])
        np.testing.assert_allclose(inner[1], maps[row] + 6.0, rtol=1e-6)
        np.testing.assert_allclose(inner[2], maps[row] - background[row], rtol=1e-5)
        for picture in framed:
            picture[1:-1, 1:-1] = 255 if picture.dtype == np.uint8 else np.nan
        assert np.all(framed[0] == 255)
        assert np.isnan(framed[1]).all() and np.isnan(framed[2]).all()
    assert log_p.get_facecolor()[:3] != (1.0, 1.0, 1.0)  # seen there; 6 nats are white
