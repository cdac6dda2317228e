"""What a k-mer density says of a set of reads: log-probabilities, per-base maps, and where classes
were counted by themselves log p(read | class) as logits, so that max_logit is naive Bayes.

One npz a data set in the run's outputs/ (see ood_suite.outputs). `python -m ood_suite.extract` and
`python -m ood_suite.eval` call this.
"""

import numpy as np

from genomics_ood import kmers, reads
from genomics_ood.read_extraction import extraction, hashes, load_reads  # noqa: F401 (Extractor)
from ood_suite.files import example_hashes
from ood_suite.outputs import Outputs
from ood_suite.runs.extraction import Parts, kept

SCORES: tuple[str, ...] = (
    "background_mean", "likelihood", "likelihood_ratio", "max_logit", "typicality",
)  # fmt: skip
PERTURBED: dict[str, str] = {}


def extract(
    run, names, split, *, data_dir=None, parts=Parts(), batch_size=100, shard=None
) -> Outputs:
    """Outputs of a finished run on one set of reads: log_prob, log_prob_map (always), bases,
    labels, example_hashes, and logits if there are classes. See runs.extraction.Extractor.
    """
    if parts.perturbations or parts.inner_layers or parts.fields:
        raise ValueError("A density of words has no layers: these are of classifiers.")
    model = load_kmers(run)

    def main_part(bases):
        tracks, sums = [], []
        for part in model.parts(bases):
            by_base = model.base_log_probs(part)
            tracks.append(kmers.base_track(by_base))
            sums.append(by_base.sum(axis=1, dtype=np.float64))
        track = np.concatenate(tracks)
        arrays = {
            "log_prob_map": track.astype(np.float32),
            "log_prob": track.sum(axis=1),
            "bases": bases,
            "example_hashes": example_hashes(reads.canonical(bases)),
        }
        if model.classes > 1:
            arrays["logits"] = np.concatenate(sums)
        return arrays

    source = load_reads(run, names, split, data_dir)
    return extraction(run, source, split, batch_size, shard).part(None, main_part)


def scorer(run):
    """The run's model as a screen_model.Scorer."""
    return KmerScorer(load_kmers(run))


class KmerScorer:
    """A screen_model.Scorer of words; several threads may call it."""

    threads = True

    def __init__(self, model):
        self.model = model

    def sums(self, bases, sizes):
        """float64 (n, classes), log p(read | class) of the first `sizes` bases of each row."""
        return self.model.class_log_probs(bases, sizes)

    def held_out(self, outputs, size):
        """The same of reads whose Outputs are known, cut to `size` bases."""
        return self.model.class_log_probs(outputs.bases[:, :size])


def load_kmers(run):
    """A run's KmerDensity, kept for the next call: not to be changed."""
    return kept(run, "model", lambda: kmers.KmerDensity.load(run.model_path))
