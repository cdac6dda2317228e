"""What a trained density says of a set of reads: log-probabilities and per-base maps.

One npz a data set in the run's outputs/ (see ood_suite.outputs). `python -m ood_suite.extract` and
`python -m ood_suite.eval` call this.
"""

import numpy as np

from genomics_ood import density, motif_cnn, reads  # noqa: F401 (classes of stored models)
from genomics_ood.read_extraction import extraction, hashes, load_reads  # noqa: F401 (Extractor)
from ood_suite.files import example_hashes
from ood_suite.outputs import Outputs
from ood_suite.runs.extraction import Parts, kept
from ood_suite.training import backend
from ood_suite.training.stored_model import read_density

SCORES: tuple[str, ...] = ("background_mean", "likelihood", "likelihood_ratio", "typicality")
PERTURBED: dict[str, str] = {}
WINDOWS_AT_ONCE = 512  # that a screening hands to the network


def extract(
    run, names, split, *, data_dir=None, parts=Parts(), batch_size=100, shard=None
) -> Outputs:
    """Outputs of a finished run on one set of reads: log_prob, log_prob_map (always: it is four
    bytes a base), bases, labels, example_hashes. See runs.extraction.Extractor.
    """
    if parts.perturbations or parts.inner_layers or parts.fields:
        raise ValueError("A density has no logits and no inner layers: these are of classifiers.")
    model = _model(run)

    def main_part(bases):
        track = model.predict(bases, batch_size=batch_size, verbose=0)
        return {
            "log_prob_map": track,
            "log_prob": track.sum(axis=1, dtype=np.float64),
            "bases": bases,
            "example_hashes": example_hashes(reads.canonical(bases)),
        }

    source = load_reads(run, names, split, data_dir)
    plain = run.settings.get("dtype", "float32") == "float32"  # whose outputs of before say nothing
    identity = {} if plain else {"dtype": model.dtype_policy.name}
    return extraction(run, source, split, batch_size, shard, **identity).part(None, main_part)


def scorer(run):
    """The run's model as a screen_model.Scorer."""
    return NetworkScorer(_model(run), run.settings["length"])


def _model(run):
    """The model that scores: one of its own, since how it is compiled depends on determinism."""
    deterministic = backend.is_deterministic()
    return kept(run, ("scored", deterministic), lambda: density.ready_to_score(read_density(run)))


class NetworkScorer:
    """A screen_model.Scorer of a network, which sees batches of one shape: one compilation."""

    threads = False  # a network takes all processors by itself

    def __init__(self, model, length):
        self.model, self.length = model, length

    def sums(self, bases, sizes):
        """float64 (n, 1), log p of the first `sizes` bases of each row; what stands behind them
        does not matter, since the network looks back only.
        """
        found = np.empty((len(bases), 1))
        for start in range(0, len(bases), WINDOWS_AT_ONCE):
            rows = slice(start, start + WINDOWS_AT_ONCE)
            batch = np.zeros((WINDOWS_AT_ONCE, self.length), np.uint8)
            batch[: len(bases[rows])] = bases[rows]
            track = self.model.predict_on_batch(batch)[: len(bases[rows])].astype(np.float64)
            track[np.arange(self.length) >= sizes[rows, None]] = 0.0
            found[rows, 0] = track.sum(axis=1)
        return found

    def held_out(self, outputs, size):
        """The same of reads whose Outputs are known, cut to `size` bases."""
        return outputs.log_prob_map[:, :size].sum(axis=1, keepdims=True, dtype=np.float64)
