"""What a screening says of a whole sample: `Summary`, `kreport`."""

import collections

import numpy as np
from scipy.special import betaincinv

from ood_suite.conformal import CONFIDENCE

RANKS = "DPCOFGS"  # of a lineage, from the domain down
UNCLASSIFIED, ROOT = 0, 1  # Kraken's numbers; classes of ours have none, and get 0


def share_interval(count, total):
    """(low, high) of a share, Clopper and Pearson's 95% interval.

    >>> print(f"{share_interval(0, 10)[1]:.4f}")
    0.3085
    """
    tails = (1.0 - CONFIDENCE) / 2.0, (1.0 + CONFIDENCE) / 2.0
    low = betaincinv(count, total - count + 1, tails[0]) if count else 0.0
    high = betaincinv(count + 1, total - count, tails[1]) if count < total else 1.0
    return low, high


class Summary:
    """Counts of what was screened.

    Args:
        classes: number of classes that the screen tells apart.
    """

    def __init__(self, classes=1):
        self.reads, self.trimmed, self.cut, self.alone = 0, 0, 0, 0
        self.scored = np.zeros((classes, 2), np.int64)  # predicted class, is_ood -> reads
        self.gc = np.zeros(2)  # is_ood -> sum of GC contents
        # (windows of a read, bases of a window) -> reads
        self.windows = collections.Counter()

    def add(self, rows):
        """Counts screening.Rows."""
        scored = rows.windows > 0
        self.reads += len(rows)
        self.trimmed += int(rows.trimmed.sum())
        self.cut += int(rows.cut.sum())
        self.alone += int(rows.alone.sum())
        for is_ood in (0, 1):
            own = scored & (rows.is_ood == is_ood)
            self.gc[is_ood] += rows.gc[own].sum()
            self.scored[:, is_ood] += np.bincount(rows.labels[own], minlength=len(self.scored))
        pairs = zip(rows.windows[scored].tolist(), rows.sizes[scored].tolist(), strict=True)
        self.windows.update(pairs)

    def lines(self, screen, unit="reads"):
        """What a reader wants to know at the end."""
        total, ood = int(self.scored.sum()), int(self.scored[:, 1].sum())
        left = self.reads - total
        yield f"{self.reads} {unit}, {total} scored, {left} with too few known bases."
        if self.trimmed:
            yield f"{self.trimmed} with unknown bases: their longest known part was scored."
        if self.alone:
            yield f"{self.alone} of which one read alone was long enough, and scored."
        if self.cut:
            yield f"{self.cut} longer than the training reads: cut into windows."
        if total:
            yield from self._verdict(screen, total, ood, unit)
            yield from self._by_class(screen, unit)
        for is_ood, title in ((0, "accepted"), (1, "OOD")):
            count = int(self.scored[:, is_ood].sum())
            if count:
                yield f"GC content of the {title} {unit}: {self.gc[is_ood] / count:.1%}."

    def _verdict(self, screen, total, ood, unit):
        """The share called OOD against the promise, and a lower bound of the share that is OOD."""
        low, high = share_interval(ood, total)
        yield f"{ood} are OOD: {ood / total:.2%}, 95% interval [{low:.2%}, {high:.2%}]."
        promise = screen.promise(self._commonest()[1])
        if promise is None:
            yield "There are too few validation reads for a promise."
            return
        verdict = "more than" if low > promise.high else "not surely more than"
        yield (
            f"{len(screen.labels)} validation reads, worth {promise.held_out} independent {unit}, "
            f"promise {promise.expected:.2%} false alarms on average, for {CONFIDENCE:.0%} of such "
            f"sets {promise.low:.2%} to {promise.high:.2%}: the share is {verdict} what {unit} of "
            "the training classes give."
        )
        # Storey's estimate of the share of p-values that are none of ID reads, at this threshold.
        most, least = (
            max(0.0, (share - alarms) / (1.0 - alarms))
            for share, alarms in ((ood / total, promise.expected), (low, promise.high))
        )
        yield (
            f"Storey's estimate of the share of something else: {most:.1%}, at least {least:.1%} "
            f"allowing for chance. It is a lower bound: OOD {unit} within the threshold count as "
            "known."
        )

    def _commonest(self):
        """(bases of a window, windows): the commonest number of windows, and the commonest size
        among those.
        """
        totals = collections.Counter()
        for (windows, _), count in self.windows.items():
            totals[windows] += count
        windows = totals.most_common(1)[0][0]
        own = {size: count for (w, size), count in self.windows.items() if w == windows}
        return max(own, key=own.get), windows

    def _by_class(self, screen, unit):
        """Where the promise is for all classes together, what it comes to in each."""
        if screen.classes < 2:
            return
        size, windows = self._commonest()
        scores, predicted = screen.held_out_scores(size, windows)
        above = scores > screen.threshold(size, windows)[predicted]
        for label, name in enumerate(screen.names_of(range(screen.classes))):
            total, own = int(self.scored[label].sum()), predicted == label
            if total and own.any():
                low, high = share_interval(int(self.scored[label, 1]), total)
                yield (
                    f"  nearest to {name}: {total} {unit}, {self.scored[label, 1] / total:.2%} "
                    f"[{low:.2%}, {high:.2%}] OOD; of validation reads {above[own].mean():.2%}."
                )


def kreport(summary, screen):
    """Lines in the format of Kraken's reports: percentage, reads of the clade, reads of the node
    itself, rank, number, indented name. Unclassified are reads called OOD, and those not scored.
    """
    counts = summary.scored[:, 0]
    tree, labels = _Node("root", "R"), range(screen.classes)
    if screen.classes < 2:  # which says no class
        tree.own, labels = int(counts.sum()), range(0)
    for label, name in enumerate(screen.names_of(labels)):
        lineage = screen.lineages[label] if label < len(screen.lineages) else ""
        node = tree
        for rank, part in _ranked(lineage, name):
            node = node.children.setdefault(part, _Node(part, rank))
        node.own += int(counts[label])
    left = summary.reads - int(counts.sum())

    def line(count, own, rank, number, name):
        percentage = 100.0 * count / max(summary.reads, 1)
        return f"{percentage:6.2f}\t{count}\t{own}\t{rank}\t{number}\t{name}"

    if left:
        yield line(left, left, "U", UNCLASSIFIED, "unclassified")
    yield line(tree.total(), tree.own, tree.rank, ROOT, "root")
    for depth, node in tree.below(0):
        yield line(node.total(), node.own, node.rank, 0, "  " * (depth + 1) + node.name)


def _ranked(lineage, name):
    """[(letter, taxon)] of a lineage, empty ranks left out, and of a class, if that is not its end;
    "-" where the rank is not known.

    >>> _ranked("Bacteria;;Gammaproteobacteria", "E")
    [('D', 'Bacteria'), ('C', 'Gammaproteobacteria'), ('O', 'E')]
    >>> _ranked("", "mine")
    [('-', 'mine')]
    """
    parts = lineage.split(";") if lineage else []
    parts += [] if parts and parts[-1] == name else [name]
    letters = RANKS if lineage else ""
    return [(letters[i] if i < len(letters) else "-", part) for i, part in enumerate(parts) if part]


class _Node:
    """A taxon: its rank, its reads, and the taxa below it."""

    def __init__(self, name, rank):
        self.name, self.rank, self.own, self.children = name, rank, 0, {}

    def total(self):
        return self.own + sum(child.total() for child in self.children.values())

    def below(self, depth):
        """Yields (depth, node) of all that have reads, the largest first."""
        for child in sorted(self.children.values(), key=lambda c: -c.total()):
            if child.total():
                yield depth, child
                yield from child.below(depth + 1)
