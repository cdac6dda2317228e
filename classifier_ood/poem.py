"""POEM's choice of outliers: those nearest to a boundary between ID and outliers that is drawn from
its posterior (Thompson sampling).

A Bayesian linear regression on the features r(x) of the network has the target -confidence for ID
images and +confidence for outliers. Each epoch draws a weight vector from the posterior and trains
on the images of the pool with the smallest |weights . r(x)|.
"""

import numpy as np
from absl import logging

from ood_suite.files import atomic_path, load_npz
from ood_suite.progress import progress

CHUNK = 1000  # images that pass through the network between two moves of the progress bar
POOL_PER_CHOSEN = 8  # images in the pool for each that is chosen, at least: 400,000 for 50,000


class Regression:
    """Bayesian linear regression: prior N(0, weight_variance I), noise of a stated variance.

    A = Z^T Z / noise + I / weight_variance, mean = A^-1 Z^T y / noise,
    covariance = weight_variance * A^-1.

    The factor in the covariance is that of the released codes; Bayes' rule has A^-1 alone. A is
    positive definite, so that no eigenvalues need mending. Sums are kept, not features.

    Args:
        dimension: of the features. weight_variance, noise: positive.

    Reference: Ming, Fan, Li, "POEM: Out-of-Distribution Detection with Posterior Sampling", ICML
        2022.
    """

    def __init__(self, dimension, weight_variance=20.0, noise=0.5):
        self.weight_variance, self.noise = weight_variance, noise
        self.precision = np.eye(dimension) / weight_variance
        self.moment = np.zeros(dimension)

    def add(self, features, target, weight=1.0):
        """Counts examples (n, dimension) with one target, `weight` times."""
        features = np.asarray(features, np.float64)
        self.precision += weight * features.T @ features / self.noise
        self.moment += weight * target * features.sum(axis=0) / self.noise

    def mean(self):
        return np.linalg.solve(self.precision, self.moment)

    def draw(self, rng):
        """A weight vector (dimension,) of the posterior."""
        lower = np.linalg.cholesky(self.precision)
        standard = rng.normal(size=len(self.moment))
        return self.mean() + np.sqrt(self.weight_variance) * np.linalg.solve(lower.T, standard)


class Poem:
    """Which outliers each epoch trains on; a choice is a file, so that it outlives a kill.

    The last `buffer` epochs are made again from their rows. (The authors' code keeps their features
    in a ring; Unleashing Mask's copy of it overwrites only the first rows from the fifth epoch on,
    so that the rest goes stale.) ID images come as they are (that copy takes the crops of its first
    epoch), as many as outliers are chosen.

    Args:
        network: keras.Model with "features", in the state of the training.
        outliers: Outliers. id_images: uint8 (n, height, width, channels).
        folder: for outliers_<epoch>.npz. count: rows per epoch. pool_size: images that an epoch
            looks at. confidence: the regression's target, 3.9 in Unleashing Mask's copy, whose
            numbers we compare with; the authors' own is 3.0.
    """

    def __init__(
        self,
        network,
        outliers,
        id_images,
        folder,
        *,
        seed,
        count,
        pool_size,
        confidence=3.9,
        buffer=4,
    ):
        self.network, self.outliers, self.folder, self.seed = network, outliers, folder, seed
        self.count, self.pool_size = count, min(pool_size, len(outliers))
        self.chosen = min(count, max(1, self.pool_size // POOL_PER_CHOSEN))
        if self.chosen < count:
            logging.warning(
                "POEM shows %d outliers an epoch, each %.1f times: the pool has %d.",
                self.chosen, count / self.chosen, self.pool_size,
            )  # fmt: skip
        self.confidence, self.buffer = confidence, buffer
        rng = np.random.default_rng([seed, 3])
        few = min(self.chosen, len(id_images))
        self.id_images = id_images[np.sort(rng.permutation(len(id_images))[:few])]
        self.shift = float(rng.normal(0.0, np.sqrt(Regression(1).noise)))

    def rows(self, epoch):
        """(count,): the chosen images in random order, repeated until there are enough."""
        path = self.folder / f"outliers_{epoch:04d}.npz"
        if not path.exists():
            chosen = self._choose(epoch)
            with atomic_path(path) as temporary, open(temporary, "wb") as file:
                np.savez(file, rows=chosen)
        chosen = load_npz(path)["rows"]
        rng = np.random.default_rng([self.seed, epoch, 4])
        rounds = -(-self.count // len(chosen))
        return np.concatenate([rng.permutation(chosen) for _ in range(rounds)])[: self.count]

    def _choose(self, epoch):
        rng = np.random.default_rng([self.seed, epoch, 5])
        pool = np.sort(rng.permutation(len(self.outliers))[: self.pool_size])
        weights = self._boundary(epoch, rng)
        distances = np.concatenate(
            [np.abs(features @ weights) for features in self._features(epoch, pool, "POEM's pool")]
        )
        nearest = np.argsort(distances, kind="stable")[: self.chosen]
        logging.info(
            "POEM, epoch %d: %d of %d outliers, up to %.3g from the boundary.",
            epoch, len(nearest), len(pool), distances[nearest[-1]],
        )  # fmt: skip
        return pool[nearest]

    def _boundary(self, epoch, rng):
        """Weights (dimension,): of the prior before the first epoch, then of the posterior."""
        if epoch > 0:
            return self._regression(epoch).draw(rng)
        scale = np.sqrt(0.01**2 + Regression(1).weight_variance)
        return scale * rng.normal(size=self.network.output["features"].shape[1])

    def _regression(self, epoch):
        regression = Regression(self.network.output["features"].shape[1])
        epochs = range(max(0, epoch - self.buffer), epoch)
        for features in self._id_features():
            regression.add(features, -self.confidence + self.shift, len(epochs))
        for past in epochs:
            rows = load_npz(self.folder / f"outliers_{past:04d}.npz")["rows"]
            for features in self._features(past, rows, f"outliers of epoch {past}"):
                regression.add(features, self.confidence + self.shift)
        return regression

    def _id_features(self):
        for start in range(0, len(self.id_images), CHUNK):
            yield self._of(self.id_images[start : start + CHUNK])

    def _features(self, epoch, rows, title):
        starts = range(0, len(rows), CHUNK)
        for start in progress(starts, desc=title, unit="thousand", leave=False):
            yield self._of(self.outliers.crops(epoch, rows[start : start + CHUNK]))

    def _of(self, images):
        found = self.network.predict(images, batch_size=100, verbose=0)["features"]
        return np.asarray(found, np.float64)
