"""What decides on a read: a density, perhaps a background, and thresholds of validation reads."""

import dataclasses
import functools
import re
from typing import Protocol, cast

import numpy as np
from absl import logging

from genomics_ood import read_extraction
from genomics_ood.kmers import mixture
from ood_suite import conformal
from ood_suite.evaluation import densities
from ood_suite.evaluation.groups import find_groups, is_background
from ood_suite.files import RunError
from ood_suite.outputs import Outputs
from ood_suite.runs.extraction import Extractor, extractor_of

SCORES = ("auto", "likelihood", "likelihood_ratio")
REGION = 10_000  # bases of a genome whose reads are taken for alike: fasta_to_np's --block
DRAWN_AT_ONCE = 2**20  # validation reads that are drawn at a time
DRAWN_SUMS = 4000  # of validation reads, behind the threshold of longer reads and of pairs
# Lengths, at most, of which all sums of the validation reads are kept, and the bytes of these.
LENGTHS_KEPT, BYTES_KEPT = 8, 2**30


class Scorer(Protocol):
    """A model as a screening needs it.

    Attributes:
        threads: whether several threads may call `sums`, and gain by it.
    """

    threads: bool

    def sums(self, bases: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """float64 (n, classes), nats of the first `sizes` bases of each row of (n, length)."""
        ...

    def held_out(self, outputs: Outputs, size: int) -> np.ndarray:
        """The same of reads whose Outputs are on file, cut to `size` bases."""
        ...


class ReadExtractor(Extractor, Protocol):
    """An extraction module of reads that offers a Scorer of its runs."""

    def scorer(self, run) -> Scorer: ...


@dataclasses.dataclass(frozen=True)
class Rule:
    """Which score, and what is promised of its threshold.

    Attributes:
        acceptance: share of in-distribution reads that are accepted.
        confidence: None, or the share of the sets of validation reads for which it is at least
            that; see conformal.rank_for.
        per_class: a threshold for every predicted class, so that the promise holds in each.
        score: one of SCORES; "auto" is the ratio where there is a background.
    """

    acceptance: float = 0.95
    confidence: float | None = None
    per_class: bool = False
    score: str = "auto"


class Screen:
    """Scores and thresholds, in nats, of reads of every length.

    Attributes:
        classes: number of the classes that the foreground tells apart; 1 if it does not.

    Args:
        scorers: of the foreground, and of the background if the score is a ratio.
        held_out: Outputs of the validation reads, a list alike.
        class_names, lineages: of the labels of the validation reads. rule: Rule.
        origins: where the validation reads are from, see reads.ReadSet; empty where unknown.
    """

    def __init__(self, scorers, held_out, *, class_names=(), lineages=(), origins=(), rule=Rule()):
        self.scorers, self.held_out, self.rule = scorers, held_out, rule
        self.class_names, self.lineages = tuple(class_names), tuple(lineages)
        self.labels = held_out[0].labels
        self.length = held_out[0].log_prob_map.shape[1]
        self._warned = False
        self.threshold = functools.cache(self._threshold)
        one = held_out[0].take(np.arange(1))
        self.classes = scorers[0].held_out(one, self.length).shape[1]  # 1 if it tells none apart
        bytes_of_one = 8 * len(self.labels) * self.classes * len(scorers)
        kept = max(1, min(LENGTHS_KEPT, BYTES_KEPT // bytes_of_one))
        self._held_out_sums = functools.lru_cache(kept)(self._sums_of_held_out)
        if rule.per_class and self.classes < 2:
            raise ValueError(
                "--per_class_thresholds needs a model that predicts classes, such as one of "
                "--network=kmer. This one has none."
            )
        self.independent = self._independent(origins)
        self.threshold(self.length, 1)  # too few validation reads are found out now

    @classmethod
    def of(cls, folder, data_dir=None, rule=Rule()):
        """The Screen of a run, or of a folder of runs; see groups.find_groups for errors.

        Raises:
            ValueError: a run that is none of reads, validation reads that are not those of the
                training, or too few for what is promised.
        """
        group = find_groups(folder)[0]
        run = group.foreground
        if run.kind != "density" or "length" not in run.settings:
            raise ValueError(f"{folder} is no density of reads.")
        if is_background(run):
            raise ValueError(f"{folder} is a background model: give the folder of the sweep.")
        if rule.score == "likelihood_ratio" and not group.backgrounds:
            raise ValueError(f"{folder} has no background model, which --score={rule.score} needs.")
        if rule.score == "likelihood":
            group = dataclasses.replace(group, backgrounds=[])
        material = densities.density(group, data_dir=data_dir)
        if material.notes:
            raise ValueError(
                f"The validation reads are not those that {run.folder} was trained with: give its "
                "--data_dir."
            )
        runs, held_out = [run], [material.held_out]
        if material.chosen:
            runs.append(material.chosen)
            held_out.append(_on_held_out(material.chosen, data_dir))
            how = "" if material.choice else " (the default: no validation OOD data chose)"
            logging.info("Log ratio to the background %s%s.", material.chosen.folder.name, how)
        else:
            logging.info("The score is the likelihood: there is no background model.")
        scorers = [cast(ReadExtractor, extractor_of(one)).scorer(one) for one in runs]
        role = run.roles["held_out"]
        known = read_extraction.load_reads(run, role.names, role.split, data_dir)
        return cls(
            scorers,
            held_out,
            class_names=known.class_names,
            lineages=known.lineages,
            origins=known.origins,
            rule=rule,
        )

    @property
    def threads(self):
        return all(scorer.threads for scorer in self.scorers)

    def sums(self, windows, sizes):
        """[float64 (n, classes)], log p(window | class) of each scorer, nats."""
        return [scorer.sums(windows, sizes) for scorer in self.scorers]

    def names_of(self, labels):
        """Class names of predicted labels."""
        return [self.class_names[k] if k < len(self.class_names) else str(k) for k in labels]

    def _sums_of_held_out(self, size):
        pairs = zip(self.scorers, self.held_out, strict=True)
        return [scorer.held_out(outputs, size) for scorer, outputs in pairs]

    def held_out_scores(self, size, windows=1):
        """(scores, predicted classes) of validation reads cut to `size` bases; for several windows
        those of DRAWN_SUMS sums over as many reads of one class.
        """
        sums = self._held_out_sums(size)
        if windows > 1:
            rng = np.random.default_rng(windows)
            blocks = [[v[rows].sum(axis=1) for v in sums] for rows in self._draws(windows, rng)]
            sums = [np.concatenate(values) for values in zip(*blocks, strict=True)]
        return score_of(sums), sums[0].argmax(axis=1)

    def _draws(self, windows, rng):
        """Yields rows (some, windows) of validation reads of one class, DRAWN_SUMS in all: a few at
        a time, since a whole chromosome has thousands of windows.
        """
        at_once = max(1, DRAWN_AT_ONCE // windows)
        for label in np.unique(self.labels):
            own = np.flatnonzero(self.labels == label)
            left = max(1, round(DRAWN_SUMS * len(own) / len(self.labels)))
            for count in [at_once] * (left // at_once) + [left % at_once] * (left % at_once > 0):
                yield rng.choice(own, (count, windows))

    def _threshold(self, size, windows):
        """float64 (classes,), nats, by predicted class; all alike unless rule.per_class."""
        scores, predicted = self.held_out_scores(size, windows)
        if not self.rule.per_class:
            return np.full(self.classes, self._by_rank(scores, windows))
        found = []
        for label, name in enumerate(self.names_of(range(self.classes))):
            own = scores[predicted == label]
            try:
                if not len(own):
                    raise ValueError("No validation read is predicted to be of it.")
                found.append(self._by_rank(own, windows, len(own) / len(scores)))
            except ValueError as error:
                raise ValueError(f"--per_class_thresholds, class {name}: {error}") from error
        return np.array(found)

    def _by_rank(self, scores, windows, share=1.0):
        """The threshold among scores of a share of the validation reads, by conformal.rank_for.
        What is promised with confidence counts independent ones; where those are too few for sums
        over several windows, it is the largest.
        """
        alarms = 1.0 - self.rule.acceptance
        if self.rule.confidence is None:
            if self.rule.per_class:
                return conformal.threshold(scores, alarms)
            return conformal.accepting(scores, self.rule.acceptance)
        count = self._count(windows, share)
        try:
            rank = conformal.rank_for(count, alarms, self.rule.confidence)
        except ValueError as error:
            if windows == 1:
                raise
            if not self._warned:  # once: reads of hundreds of lengths may follow
                logging.warning(
                    "Reads of %d windows: %s The largest score is taken.", windows, error
                )
            self._warned = True
            return scores.max()
        return np.sort(scores)[int(np.ceil(rank / count * len(scores))) - 1]

    def _count(self, windows, share=1.0):
        """How many independent sums over so many windows a share of the validation reads is worth:
        those that share no read.
        """
        return int(self.independent * len(self.labels) * share + 1e-9) // windows

    def _independent(self, origins):
        """How many independent reads a validation read is worth, at most 1: reads of one region of
        a genome are alike, and a threshold varies more between sets of regions. One over the design
        effect of the decisions (Kish, "Survey Sampling", 1965, section 5.4) with REGION as cluster.
        """
        if not any(origins):
            return 1.0
        scores, _ = self.held_out_scores(self.length)
        above = scores > conformal.accepting(scores, self.rule.acceptance)
        pairs = zip(self.labels.tolist(), origins, strict=True)
        keys = [f"{label} {region_of(origin)}" for label, origin in pairs]
        _, regions = np.unique(keys, return_inverse=True)
        share = above.mean()
        excess = np.bincount(regions, above) - share * np.bincount(regions)
        varied, binomial = (excess**2).sum(), len(above) * share * (1.0 - share)
        return min(1.0, binomial / varied) if binomial and varied else 1.0

    def promise(self, windows=1):
        """conformal.Promise of the threshold of so many windows, for as many independent reads as
        the validation reads are worth; None if they are too few for one. Without confidence it is
        that of the acceptance itself, whose rank is that of all validation reads or of DRAWN_SUMS:
        rounded up among a few, it would be another threshold's.
        """
        count = self._count(windows)
        alarms = 1.0 - self.rule.acceptance
        try:
            rank = conformal.rank_for(count, alarms, self.rule.confidence)
        except ValueError:
            return None
        if self.rule.confidence is None:
            rank = (count + 1) * self.rule.acceptance
        return conformal.Promise.of(count, rank)


def _on_held_out(run, data_dir):
    role = run.roles["held_out"]
    return extractor_of(run).extract(run, role.names, role.split, data_dir=data_dir)


def region_of(origin):
    """The part of a genome that a read is from: by fasta_to_np, or in the paper's data.

    >>> region_of("NC_000913.3:25101-25350(-)")
    'NC_000913.3:2'
    >>> region_of("CP006777.1 Clostridium, complete genome_pos2231491-2231740")
    'CP006777.1 Clostridium, complete genome:223'
    """
    found = re.fullmatch(r"(.*)(?::|_pos)(\d+)-[^:]*", origin)
    return f"{found[1]}:{int(found[2]) // REGION}" if found else origin


def score_of(sums):
    """float64 (n,), nats, higher = more OOD: -log p(x), or minus the log ratio.

    Args:
        sums: [(n, classes)], log p(x | class) of the foreground, and perhaps of the background.
    """
    score = -mixture(sums[0])
    return score if len(sums) == 1 else score + mixture(sums[1])


def check_rule(rule):
    """Refuses shares out of range, naming the flag."""
    for name in ("acceptance", "confidence"):
        value = getattr(rule, name)
        if value is not None and not 0.0 < value < 1.0:
            raise ValueError(f"--{name} must lie in (0, 1). Received: {value}.")
    if rule.score not in SCORES:
        raise RunError(f"--score must be one of {', '.join(SCORES)}. Received: {rule.score}.")
