"""The parts of a report on DNA reads: taxonomic distance, classes, figures."""

import numpy as np
import pytest

from ood_suite.evaluation import read_figures
from ood_suite.outputs import Outputs


def outputs(rng, name, count, classes, lineages=(), background=True):
    track = rng.normal(-1.3, 0.2, (count, 30)).astype(np.float32)
    return Outputs(
        labels=np.arange(count) % len(classes),
        log_prob=track.sum(axis=1, dtype=np.float64),
        log_prob_map=track,
        background_log_prob_map=track - 0.1 if background else None,
        bases=rng.integers(0, 4, (count, 30)).astype(np.uint8),
        meta={"dataset": name, "class_names": list(classes), "lineages": list(lineages)},
    )


@pytest.mark.parametrize(
    "lineage, others, ranks",
    [
        ("B;P;C;O;F;g", ["B;P;C;O;F;g"], 0),
        ("B;P;C;O;F;g", ["B;P;C;O;F;h", "B;Q"], 1),
        ("B;P;C;O;F;g", ["B;P;C;X;F;h"], 3),  # the same name below another order does not count
        ("B;P", ["A;P"], 2),
    ],
)
def test_distance(lineage, others, ranks):
    assert read_figures.distance(lineage, others) == ranks


def test_class_rows(rng):
    own = outputs(rng, "id", 40, "ab", ["L;P;a", "L;P;b"])
    other = outputs(rng, "other", 21, ("near", "far", "single"), ["L;P;n", "M;Q;f", ""])
    scores = rng.normal(size=40), rng.normal(0.5, 1.0, 21)
    rows = read_figures.class_rows({"s": (scores[0], {"other": scores[1]})}, own, {"other": other})
    assert [(row["class"], row["num_ood"], row.get("distance")) for row in rows] == [
        ("near", 7, 1), ("far", 7, 3), ("single", 7, None)
    ]  # fmt: skip
    for label, row in enumerate(rows):
        part = scores[1][label::3]
        assert row["auroc"] == pytest.approx(np.mean(scores[0][:, None] < part))
        assert row["auroc_low"] <= row["auroc"] <= row["auroc_high"]


def test_figures_are_what_the_outputs_allow(rng):
    own = outputs(rng, "id", 40, "ab", ["L;P;a", "L;P;b"])
    other = outputs(rng, "other", 20, ("near", "far"), ["L;P;n", "M;Q;f"])
    values = {"likelihood": (-own.log_prob, {"other": -other.log_prob})}
    rows = read_figures.class_rows(values, own, {"other": other})
    drawn = read_figures.figures(values, own, {"other": other}, rows)
    assert set(drawn) == {"gc_content", "tracks", "distance"}
    tracks = drawn["tracks"].axes
    assert len(tracks) == 2 and "log ratio" in tracks[0].get_ylabel()
    # The first line is the moving mean of the first read: 30 - 15 + 1 values of 0.1.
    np.testing.assert_allclose(tracks[0].lines[0].get_ydata(), np.full(16, 0.1), atol=1e-6)
    points = drawn["gc_content"].axes[0].collections[0].get_offsets()
    np.testing.assert_allclose(points[:, 0], np.isin(own.bases, (1, 2)).mean(axis=1))
    np.testing.assert_allclose(points[:, 1], -own.log_prob)
    plain = outputs(rng, "id", 10, "a", background=False)
    drawn = read_figures.figures({"likelihood": (-plain.log_prob, {})}, plain, {}, [])
    assert set(drawn) == {"gc_content", "tracks"}
    assert "log p" in drawn["tracks"].axes[0].get_ylabel()


def test_correlations_are_those_of_the_id_reads():
    gc = np.array([0.1, 0.2, 0.3, 0.4])
    assert read_figures.correlation_text(gc, gc**3).endswith("Spearman +1.00")
    assert read_figures.correlation_text(gc, -gc).startswith("ID: Pearson -1.00")
    assert "constant" in read_figures.correlation_text(gc, np.ones(4))
