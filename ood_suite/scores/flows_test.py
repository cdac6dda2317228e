"""The flow of features by what defines it: a density that integrates to one, maps that invert and
whose slopes are derivatives, ID data that become normal, tails that rise.
"""

import numpy as np
import pytest
from scipy import optimize, stats

from ood_suite.scores import checks, flows


def crescents(count, seed):
    """Two interlocked crescents: no Gaussian, and no mixture of two."""
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0.0, np.pi, count)
    side = rng.integers(0, 2, count)
    x = np.stack([np.cos(angle) + side, np.where(side, 0.4 - np.sin(angle), np.sin(angle))], 1)
    return x + rng.normal(0.0, 0.12, x.shape)


@pytest.fixture(scope="module")
def fitted():
    return flows.Flow(normalize=False).fit(crescents(5000, 0))


def test_the_density_integrates_to_one(fitted):
    assert len(fitted.knots_) >= 5  # it is a flow, not the Gaussian that it starts from
    axes = [np.linspace(-6.0, 7.0, 1301), np.linspace(-6.0, 6.0, 1201)]
    points = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
    density = np.exp(-fitted.score(points)).reshape(1201, 1301)
    assert np.trapezoid(np.trapezoid(density, axes[0]), axes[1]) == pytest.approx(1.0, abs=2e-3)


def test_it_describes_new_data_better_than_gaussians_and_samples_less_well(fitted):
    """Between one Gaussian and the truth, in nats of new data."""
    new = crescents(5000, 1)
    known = crescents(5000, 0)
    one = stats.multivariate_normal(known.mean(0), np.cov(known.T)).logpdf(new).mean()
    smoothed = stats.gaussian_kde(known.T, 0.15).logpdf(new.T).mean()
    assert one + 0.3 < -fitted.score(new).mean() < smoothed + 0.02


def test_id_data_become_standard_normal(fitted):
    u = np.concatenate([u for _, u, _ in fitted.transform(crescents(5000, 1))])
    np.testing.assert_allclose(u.mean(0), 0.0, atol=0.06)
    np.testing.assert_allclose(np.cov(u.T), np.eye(2), atol=0.08)
    for column in u.T:
        assert stats.kstest(column, "norm").statistic < 0.05
    before = (crescents(5000, 1) - fitted.mean_) @ fitted.whitening_
    lengths = [stats.kstest((x**2).sum(1), "chi2", (2,)).statistic for x in (u, before)]
    assert lengths[0] < 0.05 and lengths[1] > 0.1


def test_of_gaussian_data_it_is_their_density(rng):
    mean, factor = np.array([3.0, -1.0, 0.5]), np.array([[2, 0, 0], [1, 0.5, 0], [0, 1, 0.1]])
    truth = stats.multivariate_normal(mean, factor @ factor.T)
    x = rng.normal(size=(20_000, 3)) @ factor.T + mean
    model, new = flows.Flow(normalize=False).fit(x), rng.normal(size=(5000, 3)) @ factor.T + mean
    assert np.abs(-model.score(new) - truth.logpdf(new)).mean() < 0.05
    assert np.mean(truth.logpdf(new) + model.score(new)) < 0.005  # the divergence, in nats


def test_slopes_are_derivatives_and_maps_invert(rng):
    u = np.stack([rng.gamma(2.0, 1.0, 3000), rng.standard_t(3, 3000)], axis=1)
    knots, slopes = flows.fit_marginals(u)
    mapped, log_slopes = flows.gaussianized(knots, knots, slopes)
    np.testing.assert_allclose(mapped, np.tile(flows.KNOTS[:, None], (1, 2)), atol=1e-12)
    np.testing.assert_allclose(log_slopes, np.log(slopes).sum(1), atol=1e-9)
    points = rng.uniform(-9.0, 12.0, (500, 2))
    up, down = (flows.gaussianized(points + h, knots, slopes)[0] for h in (1e-6, -1e-6))
    found = flows.gaussianized(points, knots, slopes)[1]
    np.testing.assert_allclose(found, np.log((up - down) / 2e-6).sum(1), rtol=1e-5, atol=1e-5)
    ordered = np.sort(points, axis=0)
    assert (np.diff(flows.gaussianized(ordered, knots, slopes)[0], axis=0) > 0.0).all()

    def first(value, wanted):
        return flows.gaussianized(np.full((1, 2), value), knots, slopes)[0][0, 0] - wanted

    for wanted in (-4.0, -0.3, 1.7, 6.0):
        assert abs(first(optimize.brentq(first, -99.0, 99.0, (wanted,)), wanted)) < 1e-9


def test_scores_rise_without_end_outside_the_data(fitted):
    angles = np.linspace(0.0, 2.0 * np.pi, 33)
    rays = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    far = np.stack([fitted.score(t * rays) for t in (3.0, 4.0, 6.0, 10.0, 1e2, 1e4, 1e8)])
    assert np.isfinite(far).all() and (np.diff(far, axis=0) > 0.0).all()
    assert far.min() > fitted.score(crescents(2000, 1)).max()


def test_turned_and_scaled_data_have_the_density_that_follows(rng):
    x, new = crescents(3000, 0), crescents(200, 1)
    turn = np.linalg.qr(rng.normal(size=(2, 2)))[0]
    moved = flows.Flow(normalize=False).fit(3.0 * x @ turn + 5.0)
    plain = flows.Flow(normalize=False).fit(x)
    expected = plain.score(new) + 2.0 * np.log(3.0)
    np.testing.assert_allclose(moved.score(3.0 * new @ turn + 5.0), expected, rtol=1e-6)


def test_components_outside_the_layers_are_gaussian(rng):
    small = 0.01 * rng.normal(size=(4000, 3))
    x, new = np.concatenate([crescents(4000, 0), small], axis=1), crescents(500, 1)
    model = flows.Flow(dimension=2, normalize=False).fit(x)
    assert model.knots_.shape[1:] == (11, 2) and model.whitening_.shape == (5, 5)
    for size in (0.0, 0.03, 1.0):
        added = model.score(np.concatenate([new, np.full((500, 3), size)], axis=1))
        added -= model.score(np.concatenate([new, np.zeros((500, 3))], axis=1))
        assert np.median(added) == pytest.approx(1.5 * (size / 0.01) ** 2, rel=0.1, abs=0.05)


def test_save_and_load_and_chunks(fitted, monkeypatch):
    again, new = flows.Flow(normalize=False).set_arrays(fitted.get_arrays()), crescents(300, 1)
    np.testing.assert_array_equal(again.score(new), fitted.score(new))
    monkeypatch.setattr(checks, "CHUNK_BYTES", 8 * 2 * 7)
    np.testing.assert_allclose(again.score(new), fitted.score(new), rtol=1e-12)
    assert again.score(np.empty((0, 2))).shape == (0,)


def test_equal_values_and_directions_without_spread(rng):
    """Rectified features: many zeros in each column, one column of nothing else."""
    x = np.maximum(rng.normal(-0.5, 1.0, (3000, 5)), 0.0)
    x[:, 3] = 0.0
    model = flows.Flow(normalize=False).fit(x)
    assert model.whitening_.shape == (5, 4) and np.isfinite(model.score(x)).all()
    assert np.isfinite(model.score(50.0 * rng.normal(size=(100, 5)))).all()


def test_unit_length_is_that_of_the_features(rng):
    x = rng.normal(1.0, 1.0, (500, 4))
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    plain = flows.Flow(normalize=False).fit(unit)
    found = flows.Flow().fit(x).score(3.0 * x)
    np.testing.assert_allclose(found, plain.score(unit), rtol=1e-9)


def test_bad_input(rng):
    with pytest.raises(ValueError, match="10 examples at least. Received: 9"):
        flows.Flow(normalize=False).fit(rng.normal(size=(9, 2)))
    with pytest.raises(ValueError, match="`dimension` must be 0 or more. Received: -1"):
        flows.Flow(dimension=-1).fit(rng.normal(size=(50, 2)))
    with pytest.raises(ValueError, match="do not vary"):
        flows.Flow(normalize=False).fit(np.ones((50, 2)))
    with pytest.raises(ValueError, match="`features` must have 2 features, as at fit"):
        flows.Flow(normalize=False).fit(rng.normal(size=(50, 2))).score(np.zeros((1, 3)))
