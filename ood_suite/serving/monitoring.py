"""Is a detector in use still what it was calibrated to be? Alarms, scores and classes over time.

Works on what was decided, window by window. Three questions, each with a bound on false warnings
over the whole of time, however often one looks:

- are there more alarms than the held-out examples promise? (`evidence`, a test martingale)
- have the scores drifted? (Kolmogorov and Smirnov's test of each window)
- have the shares of the predicted classes, and which? (Fisher's exact test of each class)
"""

import csv
import dataclasses
import json
import math
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from scipy import stats
from scipy.special import betaincc, betainccinv, betaln

LEVEL = 0.01  # probability of any false warning of a question, for ever; of alarms twice this
ROUNDED = 0.02  # of p-values: of a log that an exported model's float32 scores made
EXACT = 2**24  # held-out scores times decisions of a window, up to which it takes 0.1 s at most

QUESTIONS = {
    "alarms": "more alarms than the held-out examples promise",
    "scores": "the scores are not those of the held-out examples",
    "classes": "the shares of the predicted classes have changed",
}


def evidence(alarms, count, promised):
    """log of a test martingale against "the probability of an alarm is at most `promised`".

    M = integral over q in (promised, 1) of (q / promised)^k ((1 - q) / (1 - promised))^(n - k) dq /
        (1 - promised), k alarms among n.

    While that is true, M exceeds 1 / LEVEL with probability at most LEVEL at any time (Ville's
    inequality): one may look after each image.

    Reference: Robbins, "Statistical Methods Related to the Law of the Iterated Logarithm", Annals
        of Mathematical Statistics 1970; Howard et al., "Time-uniform, nonparametric, nonasymptotic
        confidence sequences", Annals of Statistics 2021, section 3.
    """
    alarms, rest = np.asarray(alarms, float), np.asarray(count, float) - alarms
    with np.errstate(divide="ignore"):
        above = np.log(betaincc(alarms + 1, rest + 1, promised))  # -inf: none is left above
    return (
        betaln(alarms + 1, rest + 1) + above - np.log1p(-promised)
        - alarms * np.log(promised) - rest * np.log1p(-promised)
    )  # fmt: skip


def most_promised(held_out, rank, level=LEVEL):
    """The share of alarms that the threshold of a rank stays below for all held-out sets but a
    share `level`: what the martingale tests against, for no held-out set keeps its mean exactly.
    """
    return float(betainccinv(held_out + 1 - rank, rank, level))


class Window(NamedTuple):
    """What is found in one window.

    Attributes:
        stop: number of the decision that it ends with, from 1. alarms: share of alarms in it.
        log_evidence: of all decisions up to here, see `evidence`.
        scores_p: of the test of its scores. classes_p: the smallest of its classes, corrected for
            their number. changed: the class of that.
        level: at which the two tests warn in this window, so that all together stay at LEVEL.
    """

    stop: int
    alarms: float
    log_evidence: float
    scores_p: float
    classes_p: float
    changed: int
    level: float

    def as_json(self):
        """{attribute: value}; no evidence at all (-inf, which JSON has no number for) is None."""
        none = {} if math.isfinite(self.log_evidence) else {"log_evidence": None}
        return self._asdict() | none

    def warnings(self):
        """Names of the questions that are answered with yes."""
        found = ["alarms"] if self.log_evidence >= -math.log(LEVEL) else []
        found += ["scores"] if self.scores_p < self.level else []
        return found + (["classes"] if self.classes_p < self.level else [])


@dataclasses.dataclass
class Monitor:
    """Watches decisions as they come.

    Args:
        held_out: float64 (n,), scores of the held-out examples.
        held_out_classes: integers (n,), classes predicted of them; None to leave them out.
        ranks: pairs (number of held-out scores, rank of the threshold among them): one, or one for
            each predicted class, of thresholds by class. Alarms are then compared with what the
            least certain of the classes promises.
        window: decisions that are tested together.

    Attributes:
        windows: list of Window.
    """

    held_out: np.ndarray
    held_out_classes: np.ndarray | None
    ranks: list
    window: int = 500

    def __post_init__(self):
        level = LEVEL / len(self.ranks)
        self.promised = max(most_promised(count, rank, level) for count, rank in self.ranks)
        self.windows, self._waiting, self._alarms = [], [], 0

    @classmethod
    def of(cls, detector, window=500):
        """A Monitor of the decisions of a PixelDetector."""
        held_out = detector.detector.calibration_
        return cls(held_out, detector.held_out_classes, detector.ranks, window)

    def add(self, scores, is_ood, labels):
        """Takes decisions, one or many, and returns the Windows that they complete."""
        before = len(self.windows)
        columns = (np.atleast_1d(x) for x in (scores, is_ood, labels))
        for row in zip(*columns, strict=True):
            self._waiting.append(row)
            if len(self._waiting) == self.window:
                self.windows.append(self._tested())
                self._waiting = []
        return self.windows[before:]

    def _tested(self):
        scores, is_ood, labels = (np.array(column) for column in zip(*self._waiting, strict=True))
        number = len(self.windows) + 1
        stop = number * self.window
        # The asymptotic formula warns up to 1.2 times too often of few scores; ties make it rarer.
        method = "exact" if len(self.held_out) * self.window <= EXACT else "asymp"
        self._alarms += int(is_ood.sum())
        classes_p, changed = self._classes(labels)
        return Window(
            stop,
            float(is_ood.mean()),
            float(evidence(self._alarms, stop, self.promised)),
            float(stats.ks_2samp(self.held_out, scores, method=method).pvalue),
            classes_p,
            changed,
            LEVEL * 6.0 / (math.pi * number) ** 2,  # sums to LEVEL over all windows
        )

    def _classes(self, labels):
        """(smallest corrected p-value, its class) of the shares of classes."""
        if self.held_out_classes is None:
            return 1.0, -1
        known = np.unique(np.concatenate([self.held_out_classes, labels]))
        found = []
        for label in known:
            own, new = int((self.held_out_classes == label).sum()), int((labels == label).sum())
            table = [[own, len(self.held_out_classes) - own], [new, len(labels) - new]]
            found.append(stats.fisher_exact(table).pvalue)
        least = int(np.argmin(found))
        return min(1.0, found[least] * len(known)), int(known[least])


class Decision(NamedTuple):
    """A line of a log, by its number from 1; a log without p-values has None."""

    line: int
    score: float
    p_value: float | None
    is_ood: bool
    name: str


def decisions(path):
    """Yields Decision after Decision of what ood_suite.screen wrote, TSV or JSON lines.

    Raises:
        ValueError: a line that is none of it, by its number.
    """
    with open(path, encoding="utf-8") as file:
        is_table = file.read(1) != "{"
        file.seek(0)
        table = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        rows, unread = (table, "NA") if is_table else (file, None)
        number = 1
        try:
            for number, row in enumerate(rows, start=1):
                number = table.line_num if is_table else number  # it passes over empty ones
                row = row if is_table else json.loads(row)
                if row["score"] not in (unread, "score"):  # the head of a table that was joined
                    p_value, is_ood = row.get("p_value"), bool(int(row["is_ood"]))
                    p_value = None if p_value is None else float(p_value)
                    yield Decision(number, float(row["score"]), p_value, is_ood, row["class"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}, line {number} is no decision ({error!r:.100}).") from error


def replayed(path, detector):
    """Yields (scores, is_ood, labels), arrays of one, of each decision of a log, judged by the
    threshold of a PixelDetector, whatever the log says (screen --fdr says otherwise); but what an
    exported model called OOD with the smallest p-value of all, as it does, of whatever score,
    where its network overflows, is an alarm.

    Raises:
        ValueError: a class that the detector does not know, or several of one name; a score that
            has another p-value there, so that the log is of another detector.
    """
    numbers = {name: number for number, name in enumerate(detector.classes)}
    if len(numbers) < len(detector.classes):
        raise ValueError("The detector has classes of one name. Make it anew with --classes.")
    held_out = [count for count, _ in detector.ranks]
    for decision in decisions(path):
        if decision.name not in numbers:
            raise ValueError(f"{path} has a class that is not the detector's: {decision.name!r}.")
        score, label = np.array([decision.score]), np.array([numbers[decision.name]])
        said, group = decision.p_value, label[0] if detector.by_class else 0
        if said is not None and decision.is_ood and said < 1.001 / (held_out[group] + 1.0):
            yield score, np.array([True]), label
            continue
        found = detector.p_values(score, label)[0]
        if said is not None and abs(said - found) > ROUNDED:
            raise ValueError(
                f"{path}, line {decision.line}, says that a score of {decision.score:.6g} has the "
                f"p-value {said:.3g}; by the detector it is {found:.3g}. The log is of another "
                "detector, or of this one before it was made anew: watch each with its own."
            )
        yield score, detector.is_ood(score, label), label


def figure(monitor):
    """Alarms, evidence and the tests' p-values over time, with the bounds, as one figure."""
    windows = monitor.windows
    stops = [window.stop for window in windows]
    drawn = Figure(figsize=(8.0, 7.0), dpi=110, layout="constrained")
    shares, evidences, tests = drawn.subplots(3, 1, sharex=True)
    shares.plot(stops, [w.alarms for w in windows], marker=".", label="share of alarms")
    label = f"at most this with {1 - LEVEL:.0%} confidence"
    shares.axhline(monitor.promised, color="black", linestyle="--", label=label)
    shares.set(ylabel="alarms", ylim=(0, None))
    evidences.plot(stops, [max(w.log_evidence, -10) / math.log(10) for w in windows], marker=".")
    evidences.axhline(-math.log10(LEVEL), color="black", linestyle="--", label="warning above")
    evidences.set(ylabel="evidence for more alarms\nthan promised (log10)")
    floor = 1e-12
    tests.semilogy(stops, [max(w.scores_p, floor) for w in windows], marker=".", label="scores")
    tests.semilogy(stops, [max(w.classes_p, floor) for w in windows], marker=".", label="classes")
    bounds = [w.level for w in windows]
    tests.semilogy(stops, bounds, color="black", linestyle="--", label="warning below")
    tests.set(xlabel="decisions", ylabel="p-value of the window")
    for axes in (shares, evidences, tests):
        axes.legend(frameon=False, fontsize=8)
    return drawn
