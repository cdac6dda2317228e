"""Screening with networks and with words: scores, thresholds, pairs, files, a sample's verdict."""

import gzip
import io

import keras
import numpy as np
import pytest

from genomics_ood import (
    extract,
    read_batches,
    screen_files,
    screen_model,
    screen_summary,
    screening,
    sequence_files,
)
from genomics_ood import reads as read_sets
from genomics_ood.screen_model import Rule, Screen, check_rule, region_of, score_of
from ood_suite import conformal
from ood_suite.evaluation.evaluate import evaluate
from ood_suite.evaluation.request import Request
from ood_suite.runs.run import Run
from ood_suite.training import backend
from ood_suite.training.stored_model import load_model
from tests.support import command
from tests.tiny_reads import LENGTH, fasta, write_data

SMALL = {
    "conv": (
        "--exp=bacteria", "--units=4", "--num_layers=2", "--batch_size=16", "--eval_every=4",
        "--eval_reads=16", "--background_steps=0", "--total_steps=8", "--reg_weights=0",
    ),
    "kmer": ("--exp=bacteria_kmers", "--order=3", "--concentration=10"),
}  # fmt: skip


@pytest.fixture(scope="module", params=SMALL)
def sweep(request, tmp_path_factory):
    """(folder of a sweep, data_dir), of a network and of words."""
    tmp_path = tmp_path_factory.mktemp(request.param)
    data_dir = write_data(tmp_path / "data")
    result = command(
        "genomics_ood.sweep", *SMALL[request.param], "--mutation_rates=0.2",
        f"--data_dir={data_dir}", f"--out_dir={tmp_path}",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return tmp_path / SMALL[request.param][0].removeprefix("--exp="), data_dir


@pytest.fixture(scope="module")
def screen(sweep):
    return Screen.of(*sweep)


def batch_of(*sequences, names=None):
    text = "".join(
        f">{name}\n{sequence}\n"
        for name, sequence in zip(names or range(len(sequences)), sequences, strict=True)
    )
    return read_batches._fasta(text.encode(), last=True)[0]


def judged(screen, *sequences, min_length=5):
    return screening.judge(screen, [batch_of(*sequences)], min_length)


def random_text(rng, length):
    return sequence_files.decode(rng.integers(0, 4, length).astype(np.uint8))


def test_scores_are_those_of_the_evaluator(sweep, screen, tmp_path):
    folder, data_dir = sweep
    found = read_sets.load("bacteria", "test", data_dir)
    [report] = evaluate(
        folder, Request(scores=("likelihood_ratio",), resamples=20), data_dir=data_dir, out=tmp_path
    )
    rows = judged(screen, *(sequence_files.decode(row) for row in found.bases))
    expected = report.values["likelihood_ratio"][0] / LENGTH
    np.testing.assert_allclose(rows.scores, expected, rtol=1e-4, atol=1e-6)
    accepted = next(row["accepted"] for row in report.rows if row["score"] == "likelihood_ratio")
    assert 1.0 - rows.is_ood.mean() == pytest.approx(accepted)


@pytest.mark.parametrize("sweep", ["conv"], indirect=True)
def test_the_model_that_scores_is_not_that_which_others_share(sweep, monkeypatch):
    run = Run.load(next(sweep[0].glob("*/model.keras")).parent)
    monkeypatch.setattr(backend, "is_deterministic", lambda: False)
    scoring = extract.scorer(run).model
    assert extract.scorer(run).model is scoring is not load_model(run)
    monkeypatch.setattr(backend, "is_deterministic", lambda: True)
    assert extract.scorer(run).model is not scoring


def test_reads_of_any_length(screen, rng):
    text = random_text(rng, 60)
    rows = judged(
        screen, text, text[:20], text[20:40], text[40:], text[:9], "NN" + text[:9] + "NACGT",
        "ACG", "",
    )  # fmt: skip
    if screen.classes == 1:  # with classes the mixture is of the sums
        assert rows.scores[0] == pytest.approx(rows.scores[1:4].mean())
    assert rows.scores[4] == pytest.approx(rows.scores[5])
    assert (rows.lengths[5], rows.known[5]) == (16, 9)
    assert rows.thresholds[4] == pytest.approx(screen.threshold(9, 1)[rows.labels[4]] / 9)
    assert rows.windows.tolist() == [3, 1, 1, 1, 1, 1, 0, 0] and not rows.is_ood[6:].any()
    # Two windows and more: sums of validation reads spread less than single ones.
    assert rows.thresholds[0] < rows.thresholds[1]
    assert rows.thresholds[0] == pytest.approx(screen.threshold(20, 3)[rows.labels[0]] / 60)
    lines = screening.text_of(rows, screen).splitlines()
    assert lines[6] == "6\t3\t0\tNA\tNA\tNA\tNA\tNA"
    assert all(len(line.split("\t")) == len(screening.COLUMNS) for line in lines)


def test_windows_cover_a_read_once_and_are_alike(rng):
    """A read of one base more than a window is two halves, not the same window twice."""
    sizes = np.concatenate([[0, 1, 24, 25, 26, 48, 49], rng.integers(0, 500, 50)])
    starts = np.concatenate([[0], np.cumsum(sizes)])[:-1]
    owners, where, own = screening.windows_of(starts, sizes, 24)
    positions = np.concatenate([np.arange(a, a + n) for a, n in zip(where, own, strict=True)])
    np.testing.assert_array_equal(positions, np.arange(sizes.sum()))
    for number, size in enumerate(sizes):
        parts = own[owners == number]
        assert len(parts) == -(-size // 24) and (not len(parts) or np.ptp(parts) <= 1)


def test_reads_that_are_cut_share_thresholds():
    known = np.arange(251, 5000)
    windows = -(-known // 250)
    found = screening.mean_sizes(known, windows, np.full(len(known), 250))
    assert found.max() == 250 and np.abs(found - known / windows).max() <= 2
    assert len(set(zip(found, windows, strict=True))) < 300
    exact = screening.mean_sizes(known, windows, np.zeros(len(known), int))
    assert np.abs(exact - known / windows).max() <= 0.5


class Stub:
    """A screen of windows of 250 bases that costs nothing."""

    length, threads = 250, True

    def sums(self, windows, sizes):
        return [-1.4 * sizes[:, None].astype(float)]

    def threshold(self, size, windows):
        return np.array([1.5 * size * windows])


def test_a_chromosome_is_scored_in_parts(monkeypatch, rng):
    import tracemalloc

    bases = rng.integers(0, 4, 2**21).astype(np.uint8)
    edges = np.array([0, len(bases)])
    batch = read_batches.Batch(["c"], bases, edges, b"", edges)
    whole = screening.judge(Stub(), [batch], 50)
    monkeypatch.setattr(screening, "AT_ONCE", 2**8)
    tracemalloc.start()
    rows = screening.judge(Stub(), [batch], 50)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * len(bases) and rows.windows[0] == 8389
    assert rows.gc[0] == np.isin(bases, (1, 2)).mean()
    assert (rows.scores[0], rows.gc[0]) == (whole.scores[0], whole.gc[0])


def test_one_chromosome_waits_at_a_time(monkeypatch):
    def found():
        for number in range(9):
            taken.append(number)
            yield (batch_of("ACGT" * 20),)

    taken = []
    for held, ahead in ((screening.HELD, 5), (50, 1)):
        monkeypatch.setattr(screening, "HELD", held)
        taken.clear()
        rows = screening.decisions([Stub()], found(), 5, threads=2)
        assert next(rows).names == ["0"] and len(taken) == ahead and len(list(rows)) == 8


def test_thresholds_accept_their_share_at_every_length(screen, sweep):
    held_out = read_sets.load("bacteria", "val", sweep[1]).bases
    for size in (6, 15, LENGTH):
        rows = judged(screen, *(sequence_files.decode(read[:size]) for read in held_out))
        # Single precision: a read's score differs in its last digit with the reads beside it.
        slack = 0 if keras.backend.backend() == "tensorflow" and size == LENGTH else 1
        above = len(rows) - conformal.rank_for(len(rows), 0.05)
        assert abs(rows.is_ood.sum() - above) <= slack


def test_the_order_and_the_number_of_reads_change_nothing(screen, rng):
    texts = [random_text(rng, 30) for _ in range(40)]
    whole = judged(screen, *texts)
    parts = [judged(screen, *texts[i : i + 7]) for i in range(0, 40, 7)]
    np.testing.assert_allclose(
        whole.scores, np.concatenate([p.scores for p in parts]), rtol=1e-4, atol=1e-6
    )


def test_the_threshold_of_several_windows_accepts_its_share(screen, rng):
    sums = screen._held_out_sums(LENGTH)
    for windows in (2, 8):
        rows = [rng.choice(np.flatnonzero(screen.labels == k), (2000, windows)) for k in (0, 1)]
        scores = score_of([values[np.concatenate(rows)].sum(axis=1) for values in sums])
        share = np.mean(scores > screen.threshold(LENGTH, windows)[0])
        assert share == pytest.approx(0.05, abs=0.015)


def test_a_chromosome_needs_no_memory_for_its_threshold(screen):
    import tracemalloc

    tracemalloc.start()
    scores, _ = screen.held_out_scores(LENGTH, 3000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    single, _ = screen.held_out_scores(LENGTH)
    assert abs(len(scores) - 4000) <= 2 and peak < 2**28
    if screen.classes == 1:
        assert scores.mean() == pytest.approx(3000 * single.mean(), rel=0.05, abs=1.0)


def test_pairs_are_sums_of_their_mates(screen, rng):
    ours, theirs = ([random_text(rng, n) for n in sizes] for sizes in ((24, 20, 3), (24, 24, 24)))
    files = batch_of(*ours, names=["a/1", "b/1", "c/1"]), batch_of(*theirs)
    rows = screening.judge(screen, files, 5)
    assert rows.names == ["a", "b", "c"] and rows.windows.tolist() == [2, 2, 1]
    assert rows.known.tolist() == [48, 44, 24] and rows.lengths.tolist() == [48, 44, 27]
    one, two = (
        screen.sums(screening.matrix(*_whole(batch), LENGTH), np.diff(batch.starts))
        for batch in files
    )
    sums = [a + b for a, b in zip(one, two, strict=True)]
    np.testing.assert_allclose(rows.scores[:2], score_of(sums)[:2] / [48, 44], rtol=1e-5)
    assert rows.thresholds[1] == pytest.approx(screen.threshold(22, 2)[rows.labels[1]] / 44)


def _whole(batch):
    return batch.bases, batch.starts[:-1], np.diff(batch.starts)


def test_what_comes_before_an_error_is_scored(screen):
    def found():
        yield (batch_of("ACGTACGTAC"),)
        raise ValueError("cut")

    rows = screening.decisions([screen], found(), 5, threads=2)
    assert next(rows).names == ["0"]
    with pytest.raises(ValueError, match="cut"):
        next(rows)


def test_threads_change_nothing(screen, rng):
    batches = [(batch_of(*(random_text(rng, 24) for _ in range(9))),) for _ in range(20)]
    one, four = (
        "".join(
            screening.text_of(rows, screen)
            for rows in screening.decisions([screen, screen], iter(batches), 5, threads)
        )
        for threads in (1, 4)
    )
    assert one == four and len(one.splitlines()) == 180
    cells = one.splitlines()[0].split("\t")
    assert cells[4:7] == cells[8:11]  # the second opinion is that of the same screen


def test_sums_of_many_reads_and_classes_are_not_kept_for_every_length(sweep, monkeypatch):
    """300 genera with 1000 validation reads each are 720 MB a length."""
    screen = Screen.of(*sweep)
    monkeypatch.setattr(screen_model, "BYTES_KEPT", 1)
    small = Screen.of(*sweep)
    assert (screen._held_out_sums.cache_info().maxsize, small.classes) == (8, screen.classes)
    for size in (LENGTH, LENGTH - 1, LENGTH):
        np.testing.assert_array_equal(small.threshold(size, 2), screen.threshold(size, 2))
    assert small._held_out_sums.cache_info()[2:] == (1, 1)


def test_the_ratio_or_the_likelihood(sweep):
    folder, data_dir = sweep
    assert len(Screen.of(folder, data_dir).scorers) == 2
    assert len(Screen.of(folder, data_dir, Rule(score="likelihood")).scorers) == 1
    with pytest.raises(ValueError, match="has no background model, which --score"):
        Screen.of(folder / "reg0_mr0", data_dir, Rule(score="likelihood_ratio"))


def test_thresholds_with_confidence_and_by_class(sweep):
    folder, data_dir = sweep
    plain, sure = (
        Screen.of(folder, data_dir, Rule(acceptance=0.8, confidence=c)) for c in (None, 0.95)
    )
    assert sure.threshold(LENGTH, 1)[0] > plain.threshold(LENGTH, 1)[0]
    with pytest.raises(ValueError, match="cannot promise at most 0.05 .* with 95% confidence"):
        Screen.of(folder, data_dir, Rule(confidence=0.95))
    if plain.classes == 1:
        with pytest.raises(ValueError, match="needs a model that predicts classes"):
            Screen.of(folder, data_dir, Rule(per_class=True))
        return
    screen = Screen.of(folder, data_dir, Rule(acceptance=0.7, per_class=True))
    scores, predicted = screen.held_out_scores(LENGTH)
    for label in (0, 1):
        own = scores[predicted == label]
        assert screen.threshold(LENGTH, 1)[label] == conformal.threshold(own, 0.3)
    with pytest.raises(ValueError, match="--per_class_thresholds, class [ab]: .* cannot promise"):
        Screen.of(folder, data_dir, Rule(acceptance=0.99, per_class=True))


def test_confidence_of_long_reads_counts_those_that_share_no_window(sweep, caplog):
    rule = Rule(acceptance=0.8, confidence=0.9)
    screen = Screen.of(*sweep, rule)
    count = int(screen.independent * len(screen.labels)) // 2
    scores = np.sort(screen.held_out_scores(LENGTH, 2)[0])
    rank = conformal.rank_for(count, 0.2, 0.9)
    assert screen.promise(2)[:2] == (count, rank)
    np.testing.assert_array_equal(
        screen.threshold(LENGTH, 2), scores[int(np.ceil(rank / count * len(scores))) - 1]
    )
    assert screen.promise(8) is None and not caplog.text
    scores = screen.held_out_scores(LENGTH, 8)[0]
    np.testing.assert_array_equal(screen.threshold(LENGTH, 8), scores.max())
    assert "Reads of 8 windows: " in caplog.text and "The largest score is taken" in caplog.text


def test_the_promise_is_of_the_threshold_that_is_used(sweep):
    """Of the acceptance, however few sums the validation reads are worth."""
    from scipy.stats import beta

    screen = Screen.of(*sweep, Rule(acceptance=0.8))
    for windows in (1, 2, 3, 5):
        count = int(screen.independent * len(screen.labels)) // windows
        promise = screen.promise(windows)
        assert promise.held_out == count and promise.expected == pytest.approx(0.2)
        limits = beta.interval(0.95, 0.2 * (count + 1), 0.8 * (count + 1))
        assert (promise.low, promise.high) == pytest.approx(limits)
    assert screen.promise(len(screen.labels)) is None


def test_reads_of_one_region_count_for_fewer(sweep):
    """A design effect by hand: all reads of a region alike, and each read a region."""
    assert region_of("NC_000913.3:25101-25350(-)") == region_of("NC_000913.3:25101-")
    screen = Screen.of(*sweep, Rule(acceptance=0.8))
    above = screen.held_out_scores(LENGTH)[0]
    above = above > conformal.accepting(above, 0.8)
    screen.labels = np.zeros(len(above), np.int32)
    alike = [f"x:{10_000 * flag}-1(+)" for flag in above]
    share, count = above.mean(), len(above)
    expected = share * (1 - share) * count / (
        (above.sum() * (1 - share)) ** 2 + ((count - above.sum()) * share) ** 2
    )  # fmt: skip
    assert screen._independent(alike) == pytest.approx(expected)
    assert screen._independent([f"x{i}:1-2(+)" for i in range(count)]) == 1.0
    assert screen._independent(()) == screen._independent([""] * count) == 1.0
    pos = [f"CP1 A, genome_pos{10_000 * flag}-1" for flag in above]  # as the paper's data have it
    assert screen._independent(pos) == pytest.approx(expected)
    screen.labels = above.astype(np.int32)  # contigs of two genomes, called alike
    assert screen._independent(["contig_1:1-2(+)"] * count) == pytest.approx(expected)
    assert screen._independent([""] * count) == 1.0  # records that say nothing


@pytest.mark.parametrize("name", ["acceptance", "confidence"])
def test_bad_rules(name):
    with pytest.raises(ValueError, match=rf"--{name} must lie in \(0, 1\). Received: 1.5"):
        check_rule(Rule(**{name: 1.5}))


def test_the_summary_of_pairs(screen, rng):
    summary = screen_summary.Summary(screen.classes)
    mates = (24, 60, 24), (9, 9, 24)  # 9 bases are too few to be scored
    files = [batch_of(*(random_text(rng, n) for n in sizes)) for sizes in mates]
    summary.add(screening.judge(screen, files, 10))
    lines = list(summary.lines(screen, "pairs"))
    assert lines[0] == "3 pairs, 3 scored, 0 with too few known bases."
    assert lines[1] == "2 of which one read alone was long enough, and scored."
    assert lines[2] == "1 longer than the training reads: cut into windows."


def test_the_summary(screen, rng):
    summary = screen_summary.Summary(screen.classes)
    texts = [random_text(rng, n) for n in (24, 24, 60, 9)] + ["NNN" + random_text(rng, 20), "ACG"]
    rows = judged(screen, *texts)
    summary.add(rows)
    lines = list(summary.lines(screen))
    assert lines[0] == "6 reads, 5 scored, 1 with too few known bases."
    assert lines[1] == "1 with unknown bases: their longest known part was scored."
    assert lines[2] == "1 longer than the training reads: cut into windows."
    assert f"{rows.is_ood.sum()} are OOD: {rows.is_ood.sum() / 5:.2%}" in lines[3]
    assert "32 validation reads, worth 32 independent reads, promise" in lines[4]
    assert sum("nearest to" in line for line in lines) == (
        len(set(rows.labels[:5].tolist())) if screen.classes > 1 else 0
    )
    empty = screen_summary.Summary(screen.classes)
    assert list(empty.lines(screen)) == ["0 reads, 0 scored, 0 with too few known bases."]


def test_classes_are_compared_with_windows_like_most_of_the_screened(screen, rng):
    summary = screen_summary.Summary(screen.classes)
    cut = random_text(rng, 2 * screen.length + 1)
    summary.add(judged(screen, cut, random_text(rng, 20), random_text(rng, 20)))
    assert summary._commonest() == (20, 1)
    summary.add(judged(screen, cut, random_text(rng, 21)))
    assert summary._commonest() == (20, 1)  # three reads of one window, two sizes
    summary.add(judged(screen, cut, cut))
    assert summary._commonest() == (round((2 * screen.length + 1) / 3), 3)


def test_the_share_interval_is_that_of_scipy():
    from scipy.stats import binomtest

    for count, total in ((0, 10), (3, 10), (10, 10), (50, 1000)):
        low, high = screen_summary.share_interval(count, total)
        expected = binomtest(count, total).proportion_ci(0.95, "exact")
        assert (low, high) == pytest.approx((expected.low, expected.high))


def test_a_report_as_krakens(screen, rng):
    summary = screen_summary.Summary(screen.classes)
    summary.add(judged(screen, *(random_text(rng, 24) for _ in range(30)), "ACG"))
    lines = [line.split("\t") for line in screen_summary.kreport(summary, screen)]
    assert all(len(line) == 6 for line in lines)
    whole = {line[5].strip(): (int(line[1]), int(line[2])) for line in lines}
    unclassified = whole.get("unclassified", (0, 0))[0]
    assert unclassified >= 1 and unclassified + whole["root"][0] == 31
    accepted = int(summary.scored[:, 0].sum())
    if screen.classes == 1:  # no class is known: all stays at the root
        assert whole == {"unclassified": (31 - accepted,) * 2, "root": (accepted,) * 2}
    else:
        assert sum(own for count, own in whole.values()) == 31 and len(whole) > 2
    assert sum(own for _, own in whole.values()) == 31
    if screen.classes > 1:
        assert [line[3] for line in lines][:5] == ["U", "R", "D", "P", "C"]


def test_reads_are_written_where_they_belong(screen, rng):
    files = io.BytesIO(), io.BytesIO()
    ours = [random_text(rng, 24) for _ in range(20)] + ["ACG"]
    rows = judged(screen, *ours)
    for file, is_ood in zip(files, (False, True), strict=True):
        screen_files.ReadWriter([file], is_ood).add(rows)
    accepted, other = ([int(x) for x in f.getvalue().decode().split()[::2]
                        for x in [x[1:]]] for f in files)  # fmt: skip
    assert other == [*np.flatnonzero(rows.is_ood).tolist(), 20]
    assert sorted(accepted + other) == list(range(21))
    with pytest.raises(ValueError, match="a # in the name of the file"):
        screen_files.paths_of("out.fq", 2)


def test_the_binary(sweep, tmp_path):
    """Two gzip files of mates, everything that can be written, the same through a pipe."""
    folder, data_dir = sweep
    bases = read_sets.load("bacteria", "test", data_dir).bases
    for mate in (1, 2):
        text = fasta(bases[mate - 1 :: 2])
        (tmp_path / f"{mate}.fa.gz").write_bytes(gzip.compress(text.encode()))
    result = command(
        "genomics_ood.screen", f"--run={folder}", f"--data_dir={data_dir}", "--min_length=10",
        "--paired", "--threads=2", f"--second={folder / 'reg0_mr0'}", f"--out={tmp_path}/o.tsv.gz",
        f"--kreport={tmp_path}/k.txt", f"--classified_out={tmp_path}/in#.fa",
        f"--unclassified_out={tmp_path}/out#.fa.gz", f"{tmp_path}/1.fa.gz", f"{tmp_path}/2.fa.gz",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "16 pairs, 16 scored, 0 with too few known bases" in result.stderr
    lines = gzip.decompress((tmp_path / "o.tsv.gz").read_bytes()).decode().splitlines()
    assert lines[0].split("\t") == [*screening.COLUMNS, *screening.SECOND] and len(lines) == 17
    ood = sum(line.split("\t")[6] == "1" for line in lines[1:])
    assert (tmp_path / "in_1.fa").read_text().count(">") == 16 - ood
    assert (tmp_path / "in_2.fa").read_text().count(">") == 16 - ood
    out = gzip.decompress((tmp_path / "out_2.fa.gz").read_bytes()).decode()
    assert out.count(">") == ood
    assert (tmp_path / "k.txt").read_text().splitlines()[-1].strip()


@pytest.mark.parametrize(
    "written, read, message",
    [
        ({"out": ["t"], "kreport": ["./t"]}, ["r"], "--kreport .* own. Received: ./t, .* --out "),
        ({"classified_out": ["x"], "unclassified_out": ["x"]}, ["-"], "by --classified_out as"),
        ({"out": ["-"], "unclassified_out": ["-"]}, ["-"], "standard output, which is written by"),
        ({"out": ["-"], "classified_out": ["r1", "r2"]}, ["r2", "r3"], "r2, which is read as well"),
    ],
)
def test_files_that_are_written_twice(tmp_path, monkeypatch, written, read, message):
    monkeypatch.chdir(tmp_path)
    screen_files.check_apart({"out": ["-"], "kreport": ["k"]}, ["-", "r"])
    with pytest.raises(ValueError, match=message):
        screen_files.check_apart(written, read)


def test_what_the_binary_refuses(sweep, tmp_path):
    folder, data_dir = sweep
    run = lambda *words: command("genomics_ood.screen", f"--run={folder}", *words)  # noqa: E731
    assert "Give one file of reads, or - for" in run().stderr
    assert "Give two files of mates" in run("--paired", "a.fa").stderr
    (tmp_path / "r.fa").write_text(fasta(np.zeros((3, 12), np.uint8)))
    assert "--acceptance must lie in (0, 1)" in run("--acceptance=2", f"{tmp_path}/r.fa").stderr
    result = run(f"--classified_out={tmp_path}/../{tmp_path.name}/r.fa", f"{tmp_path}/r.fa")
    assert result.returncode == 1 and "r.fa, which is read as well" in result.stderr
    out = tmp_path / "o.tsv"
    result = run(f"--data_dir={data_dir}", f"--out={out}", "--paired",
                 "--classified_out=x.fa", f"{tmp_path}/r.fa", f"{tmp_path}/r.fa")  # fmt: skip
    assert result.returncode == 1 and "a # in the name of the file" in result.stderr
    assert not out.exists()
