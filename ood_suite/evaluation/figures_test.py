"""What the figures show, where a mix-up would mislead."""

import itertools

import numpy as np
from PIL import Image

from ood_suite.evaluation import figures


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
