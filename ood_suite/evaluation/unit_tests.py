"""Unit tests of a detector: generated images so simple that it must not accept them."""

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
        data.synthetic.UNIT_TESTS.
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


def table(report):
    """Lines for a terminal: how many each score fails, fewest first, and which."""
    failures: dict[str, list[str]] = {}
    total = len({row["unit_test"] for row in report.unit_tests})
    for row in report.unit_tests:
        failed = failures.setdefault(row["score"], [])
        failed += [f"{row['unit_test']} ({row['fpr95_id_positive']:.0%})"] if row["failed"] else []
    if not failures:
        return []
    width = max(map(len, failures)) + 2
    lines = ["", f"Unit tests failed of {total}: more than {MOST:.0%} accepted where 95% of ID are"]
    for score, failed in sorted(failures.items(), key=lambda pair: len(pair[1])):
        lines.append(f"  {score:<{width}}{len(failed):>3}  {', '.join(failed)}".rstrip())
    return lines
