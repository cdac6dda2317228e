"""Unit tests of a detector: images so simple, or so spoilt, that it must not accept them."""

from ood_suite import metrics
from ood_suite.files import write_csv

MOST = 0.1  # share that may be accepted


def rows(values):
    """One dict per score and unit test: the share of its images that is accepted at the threshold
    that accepts 95% of the ID test set (`fpr95_id_positive`), and whether that is a failure, which
    it is above 10%.

    Args:
        values: {score: (id_scores, {unit test: scores})}.

    Reference: Bitterwolf, Mueller, Hein, "In or Out? Fixing ImageNet Out-of-Distribution Detection
        Evaluation", ICML 2023. Their code counts failures so; the images are ours, see
        data.synthetic.UNIT_TESTS and data.corruptions.PERMUTED.
    """
    found = []
    for score, (own, others) in values.items():
        for name, scored in others.items():
            share = metrics.fpr_id_positive(metrics.Counts.of(own, scored))
            found.append({
                "score": score, "unit_test": name, "num": len(scored),
                "fpr95_id_positive": share, "failed": share > MOST,
            })  # fmt: skip
    return found


def write(folder, reports):
    """Writes unit_tests.csv, if there were any."""
    lines = [{"repeat": g.repeat_id} | row for g in reports for row in g.unit_tests]
    if lines:
        write_csv(folder / "unit_tests.csv", lines)


def failures(report):
    """One dict per score, the fewest failures first: how many of the tests it fails, and which."""
    found: dict[str, list[str]] = {}
    total = len({row["unit_test"] for row in report.unit_tests})
    for row in report.unit_tests:
        failed = found.setdefault(row["score"], [])
        failed += [f"{row['unit_test']} ({row['fpr95_id_positive']:.0%})"] if row["failed"] else []
    return [
        {"score": score, "failed": len(failed), "of": total, "which": ", ".join(failed)}
        for score, failed in sorted(found.items(), key=lambda pair: len(pair[1]))
    ]


def table(report, most=None):
    """Lines for a terminal: the first `most` of `failures`, all if it is None."""
    found = failures(report)
    if not found:
        return []
    width = max(len(row["score"]) for row in found) + 2
    lines = [
        "",
        f"Unit tests failed of {found[0]['of']}: more than {MOST:.0%} accepted where 95% of ID are",
    ]
    for row in found[:most]:
        lines.append(f"  {row['score']:<{width}}{row['failed']:>3}  {row['which']}".rstrip())
    left = len(found[most:]) if most else 0
    return lines + ([f"  ... and {left} more scores: unit_tests.csv."] if left else [])
