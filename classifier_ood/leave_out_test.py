"""Leave-out classifiers: partitions, the loss, a member's step, and its validation."""

import keras
import numpy as np
import pytest

from classifier_ood import leave_out, losses, models


@pytest.mark.parametrize("classes, splits", [(10, 5), (10, 3), (100, 5), (4, 2)])
def test_random_partitions_are_disjoint_cover_and_are_seeded(classes, splits):
    found = leave_out.partitions(classes, splits, seed=3)
    assert len(found) == splits
    assert sorted(c for part in found for c in part) == list(range(classes))
    sizes = {len(part) for part in found}
    assert max(sizes) - min(sizes) <= 1
    assert found == leave_out.partitions(classes, splits, seed=3)
    assert any(found != leave_out.partitions(classes, splits, seed=s) for s in (4, 5, 6))


def test_named_partitions():
    pairs = leave_out.partitions(10, name="cifar10_pairs")
    assert pairs == ((8, 9), (6, 7), (4, 5), (2, 3), (0, 1))
    assert leave_out.partitions(4, name="each") == ((0,), (1,), (2,), (3,))
    with pytest.raises(ValueError, match="is not one of 100 classes"):
        leave_out.partitions(100, name="cifar10_pairs")
    with pytest.raises(ValueError, match="Unknown partition 'pairs'. Known: random, each, cifar"):
        leave_out.partitions(10, name="pairs")
    with pytest.raises(ValueError, match=r"--splits must lie in 2..10. Received: 11"):
        leave_out.partitions(10, 11)
    with pytest.raises(ValueError, match="fewer than 2 of the 2 classes"):
        leave_out.partitions(2, 2)


def test_local_labels_keep_the_order_of_the_classes():
    found = leave_out.local_labels(np.array([9, 0, 5, 4, 8]), (4, 8), 10)
    assert found.tolist() == [7, 0, 4, leave_out.OUTLIER, leave_out.OUTLIER]


def entropy(row):
    p = np.exp(row - row.max())
    p = p / p.sum()
    return -sum(q * np.log(q) for q in p)


def test_entropy_margin_literally(rng):
    inside, outside = rng.normal(0, 3, (6, 4)), rng.normal(0, 1, (5, 4))
    gap = np.mean([entropy(r) for r in outside]) - np.mean([entropy(r) for r in inside])
    assert gap > 0.2
    for margin, expected in ((gap + 0.3, 0.3), (gap - 0.1, 0.0)):
        penalty, found = losses.entropy_margin(inside, outside, margin)
        assert float(penalty) == pytest.approx(expected, abs=1e-5)
        assert float(found) == pytest.approx(gap, rel=1e-5)


def member(beta, images, margin=0.4):
    keras.utils.set_random_seed(2)
    backbone = models.build("convnet", (8, 8, 1), 3, {"width": 2})
    built = leave_out.Member(backbone, id_rows=8, margin=margin, beta=beta)
    built.compile(keras.optimizers.SGD(0.1), jit_compile=False)
    built.build((None, 8, 8, 1))
    return built


def test_a_step_has_both_terms_from_separate_passes(rng):
    images = rng.integers(0, 256, (14, 8, 8, 1)).astype(np.float32)
    images[8:] /= 4.0  # other statistics: one pass over all would give other logits
    labels = np.r_[np.arange(8) % 3, [-1] * 6]
    keras_model = member(0.0, images)
    parts = [
        np.asarray(keras_model.backbone(x, training=True)["logits"], np.float64)
        for x in (images[:8], images[8:])
    ]
    log_p = parts[0] - np.log(np.exp(parts[0]).sum(1, keepdims=True))
    cross = -log_p[np.arange(8), labels[:8]].mean()
    gap = np.mean([entropy(r) for r in parts[1]]) - np.mean([entropy(r) for r in parts[0]])
    for beta, margin in ((0.0, 0.4), (0.2, 0.4), (0.5, gap - 0.01)):
        logs = member(beta, images, margin).train_on_batch(images, labels, return_dict=True)
        expected = cross + beta * max(margin - gap, 0.0)
        assert logs["loss"] == pytest.approx(expected, rel=1e-3)
        assert logs["entropy_gap"] == pytest.approx(gap, abs=1e-3)
        assert logs["accuracy"] == pytest.approx(np.mean(parts[0].argmax(1) == labels[:8]))


def test_validation_tells_left_out_classes_and_other_outliers_apart(rng):
    images = rng.integers(0, 256, (30, 8, 8, 1)).astype(np.float32)
    built = member(0.2, images)
    labels = np.r_[np.arange(12) % 3, [leave_out.OUTLIER] * 10, [leave_out.OTHER_OUTLIER] * 8]
    found = built.evaluate(images, labels)
    logits = built.backbone.predict(images, verbose=0)["logits"].astype(np.float64)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    confidence = p.max(1)
    assert found["accuracy"] == pytest.approx(np.mean(p[:12].argmax(1) == labels[:12]))
    assert found["loss"] == pytest.approx(-np.log(p[np.arange(12), labels[:12]]).mean(), rel=1e-6)
    for name, others in (("left_out", confidence[12:22]), ("validation_ood", confidence[22:])):
        wins = np.mean(confidence[:12, None] > others) + 0.5 * np.mean(
            confidence[:12, None] == others
        )
        assert found[f"auroc_{name}"] == pytest.approx(wins)
    assert "auroc_validation_ood" not in built.evaluate(images[:22], labels[:22])
    built.backbone.set_weights([np.full_like(w, np.nan) for w in built.backbone.get_weights()])
    with np.errstate(invalid="ignore"):
        found = built.evaluate(images, labels)  # whose loss `fit` refuses
    assert np.isnan([found["loss"], found["auroc_left_out"], found["auroc_validation_ood"]]).all()
