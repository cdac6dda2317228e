"""Screening decides on files as the detector does on arrays, whatever they come in, and goes on."""

import contextlib
import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
import types
import zipfile

import numpy as np
import pytest
from PIL import Image

from ood_suite import conformal, data, monitor, screen
from ood_suite.data.pixels import named_images
from ood_suite.detector import Detector
from ood_suite.files import RunError
from ood_suite.serving import screening
from ood_suite.serving.pixel_detector_test import SHAPE, classifier, images, made, parts
from tests.support import ROOT, command

__all__ = ["classifier", "parts"]  # fixtures


@pytest.fixture
def photos(tmp_path):
    """(folder of 30 PNG files, their images)."""
    folder, pixels = tmp_path / "photos", images(30, 3)
    folder.mkdir()
    for number, image in enumerate(pixels):
        Image.fromarray(image[..., 0]).save(folder / f"{number:02d}.png")
    return folder, pixels


def table(path):
    lines = [line.split("\t") for line in path.read_text().splitlines()]
    assert tuple(lines[0]) == screening.COLUMNS
    return lines[1:]


def test_a_folder_is_decided_as_its_arrays_are(classifier, parts, photos, tmp_path):
    folder, pixels = photos
    detector, out = made(classifier, parts, classes=["a", "b", "c"]), tmp_path / "d.tsv"
    summary = screening.screen(detector, [folder], out)
    expected = detector(pixels)
    rows = table(out)
    assert [row[0] for row in rows] == [str(folder / f"{i:02d}.png") for i in range(30)]
    np.testing.assert_allclose([float(row[2]) for row in rows], expected.score, rtol=1e-5)
    np.testing.assert_allclose([float(row[3]) for row in rows], expected.p_value, rtol=1e-5)
    assert [row[4] == "1" for row in rows] == expected.is_ood.tolist()
    assert [row[1] for row in rows] == ["abc"[label] for label in expected.label]
    assert (summary.images, summary.flagged) == (30, expected.is_ood.sum())
    assert list(tmp_path.glob(".partial*")) == []


def test_files_are_framed_as_the_held_out_images_were(classifier, parts, tmp_path, rng):
    folder, wide = tmp_path / "wide", rng.integers(0, 256, (3, 16, 40), dtype=np.uint8)
    folder.mkdir()
    for number, image in enumerate(wide):
        Image.fromarray(image).save(folder / f"{number}.png")
    np.savez(tmp_path / "wide.npz", images=wide[..., None])
    scores = {}
    for transform in ("cover", "squash"):
        detector = made(classifier, parts, transform=transform)
        detector.save(tmp_path / transform)
        detector, out = Detector.load(tmp_path / transform), tmp_path / f"{transform}.tsv"
        screening.screen(detector, [folder], out)
        scores[transform] = [float(row[2]) for row in table(out)]
        expected = detector(data.load(f"{folder}:{transform}", "test", None, SHAPE).images[:])
        np.testing.assert_allclose(scores[transform], expected.score, rtol=1e-5)
    assert scores["cover"] != scores["squash"]
    squashed = [load() for *_, load in named_images([tmp_path / "wide.npz"], SHAPE, "squash")]
    files = [load() for *_, load in named_images([folder], SHAPE, "squash")]
    np.testing.assert_array_equal(squashed, files)
    with pytest.raises(ValueError, match="`transform` must be one of"):
        made(classifier, parts, transform="none")


def test_archives_and_arrays_hold_the_same_images(photos, tmp_path):
    folder, pixels = photos
    files = sorted(folder.iterdir())
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        [archive.write(file, f"../{file.name}") for file in files]  # nothing is written there
        archive.writestr("readme.txt", "no image")
    for name, mode in (("a.tar", "w"), ("a.tar.gz", "w:gz")):
        with tarfile.open(tmp_path / name, mode) as archive:
            archive.add(folder, "x")
    np.savez(tmp_path / "a.npz", images=pixels)
    for name in ("a.zip", "a.tar", "a.tar.gz", "a.npz"):
        found = {key: load() for key, _, load in named_images([tmp_path / name], SHAPE)}
        in_order = [found[key] for key in sorted(found, key=lambda k: (len(k), k))]
        np.testing.assert_array_equal(np.stack(in_order), pixels)
        assert all(key.startswith(f"{tmp_path / name}#") for key in found)


def test_what_cannot_be_read_is_a_row_and_no_end(classifier, parts, photos, tmp_path, capsys):
    folder, _ = photos
    (folder / "05.png").write_bytes(b"no picture")
    (folder / "06\t.png").write_bytes((folder / "07.png").read_bytes()[:60])
    summary = screening.screen(made(classifier, parts), [folder], tmp_path / "d.tsv")
    rows = table(tmp_path / "d.tsv")
    assert len(rows) == 31 and rows[5][1:] == ["NA"] * 4 and rows[6][1:] == ["NA"] * 4
    assert (
        summary.unreadable == 2
        and "05.png is no image of a kind that is known" in capsys.readouterr().err
    )
    assert "2 of them unreadable" in list(summary.lines())[0]


@pytest.mark.parametrize("more", [{}, {"false_discoveries": 0.2}])
def test_standard_output_has_every_batch(
    classifier, parts, photos, tmp_path, monkeypatch, capsys, more
):
    monkeypatch.setattr(screening, "AT_ONCE", 7)
    detector = made(classifier, parts)
    summary = screening.screen(detector, [photos[0]], **more)
    assert len(capsys.readouterr().out.splitlines()) == 31 and summary.images == 30


@pytest.mark.parametrize("left", [0, 5, 29])
def test_a_killed_screening_goes_on(classifier, parts, photos, tmp_path, left, monkeypatch):
    folder, _ = photos
    detector, out = made(classifier, parts), tmp_path / "d.tsv"
    screening.screen(detector, [folder], out)
    whole = out.read_text()
    out.unlink()
    monkeypatch.setattr(screening, "AT_ONCE", 7)
    rows, on_disk = [], []
    partial = tmp_path / ".partial-d.tsv" / "rows.jsonl"

    def killed(*arguments):
        for row in _rows(*arguments):
            if len(rows) == left:
                on_disk.append(partial.read_bytes())  # what kill -9 would leave
                raise KeyboardInterrupt
            rows.append(row)
            yield row

    _rows = screening._rows
    monkeypatch.setattr(screening, "_rows", killed)
    with pytest.raises(KeyboardInterrupt):
        screening.screen(detector, [folder], out)
    assert not out.exists()
    partial.write_bytes(on_disk[0] + b'["torn')  # a line that the kill cut
    read = []
    monkeypatch.setattr(screening, "_rows", _rows)
    monkeypatch.setattr(
        screening, "named_images",
        lambda *a: ((n, stamp, lambda f=f, n=n: (read.append(n), f())[1])
                    for n, stamp, f in named_images(*a)),
    )  # fmt: skip
    screening.screen(detector, [folder], out)
    assert out.read_text() == whole and len(read) == 30 - left // 7 * 7


def test_images_that_came_or_went_between_are_decided(classifier, parts, photos, tmp_path):
    folder, _ = photos
    detector, out, kept = made(classifier, parts), tmp_path / "d.tsv", tmp_path / "kept"
    screening.screen(detector, [folder], out, form="jsonl")
    lines = out.read_text().splitlines()
    out.unlink()
    added = [*lines[:3], "", *lines[3:]]  # one between the third and the fourth
    (folder / "02a.png").write_bytes((folder / "20.png").read_bytes())
    added[3] = lines[20].replace("20.png", "02a.png")
    mark = [np.array(detector.thresholds), np.array([str(folder)])]
    mark = json.dumps(screening.fingerprint(*mark, detector.detector.calibration_))
    stamps = {name: stamp for name, stamp, _ in named_images([folder], SHAPE)}
    for name, known in (("more", lines[:9]), ("fewer", added), ("gone", [*added, added[0]])):
        kept = tmp_path / ".partial-d.tsv"
        kept.mkdir()
        rows = [json.loads(line) for line in known]
        rows = [json.dumps([stamps.get(row["file"]), *row.values()]) for row in rows]
        (kept / "rows.jsonl").write_text("\n".join([mark, *rows]) + "\n")
        if name == "fewer":
            (folder / "05.png").rename(tmp_path / "05.png")
            added.pop(6)
        screening.screen(detector, [folder], out, form="jsonl")
        assert out.read_text().splitlines() == added, name
        out.unlink()


@pytest.mark.parametrize("packed", [False, True])
def test_images_that_were_replaced_between_are_decided_anew(
    classifier, parts, photos, tmp_path, monkeypatch, packed
):
    folder, pixels = photos
    given, detector, out = folder, made(classifier, parts), tmp_path / "d.tsv"
    if packed:
        given = tmp_path / "a.npz"
        np.savez(given, images=pixels)
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(screening, "_write", interrupt)
        screening.screen(detector, [given], out)
    if packed:
        np.savez(given, images=pixels[::-1])
    else:
        (folder / "07.png").write_bytes((folder / "20.png").read_bytes())
    screening.screen(detector, [given], out)
    screening.screen(detector, [given], tmp_path / "anew.tsv")
    assert out.read_text() == (tmp_path / "anew.tsv").read_text()


def test_an_image_that_the_score_cannot_take_is_a_row_and_no_end(
    classifier, parts, photos, tmp_path, capsys
):
    folder, _ = photos
    detector = made(classifier, parts)
    predict = detector._predict

    def overflowing(batch):
        found, is_white = predict(batch), batch.min(axis=(1, 2, 3)) == 255
        return found | {"logits": np.where(is_white[:, None], np.inf, found["logits"])}

    detector._predict = overflowing
    screening.screen(detector, [folder], tmp_path / "before.tsv")
    Image.fromarray(np.full((8, 8), 255, np.uint8)).save(folder / "05.png")
    screening.screen(detector, [folder], tmp_path / "d.tsv")
    before, after = (table(tmp_path / name) for name in ("before.tsv", "d.tsv"))
    before[5][1:] = ["NA"] * 4
    for column in (0, 1, 4):
        assert [row[column] for row in after] == [row[column] for row in before]
    text = "05.png cannot be decided on (`logits` has values that are NaN or infinite)"
    assert capsys.readouterr().err.count(text) == 1
    detector._predict = lambda batch: predict(batch) | {"logits": np.full((len(batch), 3), np.nan)}
    summary = screening.screen(detector, [folder], tmp_path / "none.tsv")
    assert (summary.images, summary.unreadable) == (30, 30)  # whatever is in a batch beside it


def test_scores_are_read_as_they_were_written():
    for form, read in (("tsv", lambda text: float(text.split("\t")[2])),
                       ("jsonl", lambda text: json.loads(text)["score"])):  # fmt: skip
        assert read(screening._text(("x", "a", -10.0 / 3.0, 0.5, True), form)) == -10.0 / 3.0


def test_names_steer_no_terminal():
    """An ESC in a file's name or a class reached it, and could rewrite what stands there."""
    row = ("a\x1b[2J\x00\t\n\x7f\x9bé.png", "b\x1b]0;c\x07\u2028", 1.0, 0.5, True)
    assert screening._text(row, "tsv") == "a [2J     é.png\tb ]0;c  \t1.0\t0.5\t1"
    assert "\x1b" not in screening._text(row, "jsonl")
    image = ("a\x1b.png", "mark", lambda: ValueError("a\x1b.png is none"))
    with contextlib.redirect_stderr(io.StringIO()) as said:
        list(screening._rows(None, [image]))
    assert said.getvalue() == "Warning: a .png is none.\n"


def test_paths_of_any_bytes_are_listed(monkeypatch):
    lines = io.TextIOWrapper(io.BytesIO(b"caf\xe9.png\n\nb.png"), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", lines)
    assert [os.fsencode(path) for path in screen.listed()] == [b"caf\xe9.png", b"b.png"]


def test_names_that_are_not_utf8_are_written(classifier, parts, photos, tmp_path):
    folder, _ = photos
    name = bytes(folder) + b"/caf\xe9.png"
    (folder / "00.png").rename(os.fsdecode(name))
    screening.screen(made(classifier, parts), [folder], tmp_path / "d.tsv")
    assert r"caf\udce9.png" in table(tmp_path / "d.tsv")[-1][0]
    assert data.streams.FolderImages(folder, SHAPE).fingerprint


def test_files_that_macos_puts_beside_images_are_none(photos, tmp_path):
    folder, _ = photos
    (folder / "__MACOSX").mkdir()
    (folder / "__MACOSX" / "._00.png").write_bytes(b"\0\5\x16\7")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        [archive.write(file, file.name) for file in folder.rglob("*.png")]
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(folder, "x")
    for path in (folder, tmp_path / "a.zip", tmp_path / "a.tar"):
        assert len(list(named_images([path], SHAPE))) == 30
    assert data.streams.FolderImages(folder, SHAPE).classes == []


@pytest.mark.parametrize("packed", [False, True])
def test_tar_archives_are_read_to_their_end_or_say_so(photos, tmp_path, packed):
    folder, pixels = photos
    with tarfile.open(tmp_path / "whole.tar", "w") as archive:
        for file in sorted(folder.iterdir())[:6]:
            archive.add(file, file.name)
    with tarfile.open(tmp_path / "whole.tar") as archive:
        starts = [member.offset for member in archive.getmembers()]
    whole = (tmp_path / "whole.tar").read_bytes()

    def found(content):
        path = tmp_path / ("a.tar.gz" if packed else "a.tar")
        path.write_bytes(content)
        return [load() for *_, load in named_images([path], SHAPE)]

    def compressed(content):
        return gzip.compress(content) if packed else content

    np.testing.assert_array_equal(np.stack(found(compressed(whole))), pixels[:6])
    damaged = bytearray(whole)
    damaged[starts[3] + 150] ^= 1  # in a header: its checksum is another
    for content in (compressed(bytes(damaged)), compressed(whole[: starts[3] + 200])):
        images = found(content)
        assert len(images) == 4 and "cannot be read as an archive" in str(images[3])
    if packed:  # in two members, as bgzip and pigz write them
        for cut in (starts[3], starts[3] + 700):
            assert len(found(gzip.compress(whole[:cut]) + gzip.compress(whole[cut:]))) == 6
        wrong = bytearray(gzip.compress(whole))
        wrong[-8] ^= 1  # of its checksum
        assert "cannot be read as an archive" in str(found(bytes(wrong))[-1])


def interrupt(*_):
    raise KeyboardInterrupt


def test_rows_of_another_detector_are_not_gone_on_with(
    classifier, parts, photos, tmp_path, monkeypatch, capsys
):
    folder, _ = photos
    out = tmp_path / "d.tsv"
    kept = tmp_path / ".partial-d.tsv"
    kept.mkdir()
    (kept / "rows.jsonl").write_text('"other"\n["x", "0", 0.0, 1.0, false]\n')
    detector = made(classifier, parts)
    screening.screen(detector, [folder], out)
    fresh = out.read_text()
    assert "is of another detector, or of other paths" in capsys.readouterr().err
    assert len(table(out)) == 30 and "x" not in [row[0] for row in table(out)]
    out.unlink()
    kept.mkdir()
    detector.thresholds = detector.thresholds - 1e9  # everything is OOD
    monkeypatch.setattr(screening, "_write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        screening.screen(detector, [folder], out)
    monkeypatch.undo()
    screening.screen(made(classifier, parts), [folder], out)
    assert out.read_text() == fresh


def test_discoveries_are_decided_together(classifier, parts, photos, tmp_path):
    folder, pixels = photos
    for number, image in enumerate(255 - images(10, 5)):
        Image.fromarray(image[..., 0]).save(folder / f"x{number}.png")
    detector, out = made(classifier, parts), tmp_path / "d.jsonl"
    summary = screening.screen(detector, [folder], out, false_discoveries=0.2, form="jsonl")
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    expected = conformal.discoveries(np.array([row["p_value"] for row in rows]), 0.2)
    assert [row["is_ood"] for row in rows] == expected.is_ood.tolist()
    assert set(rows[0]) == set(screening.COLUMNS) and summary.false_share == 0.2


def test_a_log_of_discoveries_is_watched_by_the_threshold(
    classifier, parts, photos, tmp_path, monkeypatch
):
    detector, log = made(classifier, parts, alarms=0.3), tmp_path / "d.tsv"
    detector.save(tmp_path / "d")
    screening.screen(detector, [photos[0]], log, false_discoveries=0.001)
    assert {row[4] for row in table(log)} == {"0"}
    flags = types.SimpleNamespace(detector=tmp_path / "d", log=log, window=30)
    monkeypatch.setattr(monitor, "FLAGS", flags)
    monitor.main(None)
    (window,) = json.loads((tmp_path / "d.tsv.monitor.json").read_text())
    assert window["alarms"] == detector(photos[1]).is_ood.mean() > 0
    rows, least = log.read_text().splitlines(), 1 / (len(parts[0]) + 1)
    known = np.flatnonzero(detector(photos[1]).p_value > 0.5)[0] + 1
    name, label, *_ = rows[known].split("\t")  # where an exported float16 network overflowed
    rows[known] = f"{name}\t{label}\t-inf\t{np.float32(least):.6g}\t1"
    log.write_text("\n".join(rows) + "\n")
    monitor.main(None)
    (more,) = json.loads((tmp_path / "d.tsv.monitor.json").read_text())
    assert more["alarms"] == pytest.approx(window["alarms"] + 1 / 30)
    made(classifier, parts, "msp").save(tmp_path / "other")
    flags.detector = tmp_path / "other"
    with pytest.raises(ValueError, match="line [23], says .* The log is of another detector"):
        monitor.main(None)
    flags.detector = tmp_path / "d"
    log.write_text(f"{rows[0]}\nx.png\tzebra\t0.5\t0.5\t0\n")
    with pytest.raises(ValueError, match="a class that is not the detector's: 'zebra'"):
        monitor.main(None)
    twins = json.loads((tmp_path / "d" / "detector.json").read_text()) | {"classes": ["a"] * 3}
    (tmp_path / "d" / "detector.json").write_text(json.dumps(twins))
    with pytest.raises(ValueError, match="has classes of one name"):
        monitor.main(None)


def test_how_many_must_be_found_together_is_told():
    """One less than `least` at the smallest p-value find nothing, so many find themselves."""
    for known, held_out in ((1000, 240), (40, 99), (7, 999), (100, 8)):
        summary = screening.Summary({"a": (held_out, 230), "b": (5, 4)}, 0.1)
        for row in range(known):
            summary.add(("x", "a", 0.0, 1.0, False))
        values = np.ones(known)
        values[: summary.least - 1] = 1.0 / (held_out + 1)
        assert not conformal.discoveries(values, 0.1).is_ood.any()
        values[: summary.least] = 1.0 / (held_out + 1)
        found = conformal.discoveries(values, 0.1).is_ood.sum()
        assert found == (summary.least if summary.least <= known else 0)
        said = f"fewer than {summary.least} of {known} cannot be called OOD together"
        assert (said in " ".join(summary.lines())) == (summary.least > 1)
        summary.add(("x", "a", 9.0, 0.001, True))  # where some were found it says nothing new
        assert "cannot be called" not in " ".join(summary.lines())


def test_a_summary_compares_with_what_was_promised():
    for ranks, classes in (({None: (99, 95)}, "ab"), ({"a": (99, 95), "b": (199, 190)}, "ab")):
        for flagged, text in ((30, "more than in-distribution images give"), (6, "no more than")):
            summary = screening.Summary(ranks)
            for row in range(100):
                summary.add(("x", classes[row % 2], 0.0, 0.5, row < flagged))
            summary.add(("y", None, None, None, None))
            assert text in list(summary.lines())[-1] and (summary.images, summary.flagged) == (
                101, flagged
            )  # fmt: skip
            assert summary.promised == pytest.approx(0.05)


def test_one_class_of_strange_images_is_enough_for_thresholds_by_class():
    summary = screening.Summary({"a": (999, 950), "b": (99, 95)})
    for label, count, flagged in (("a", 2000, 90), ("b", 60, 30)):
        summary.known[label], summary.alarms[label] = count, flagged
    own = conformal.alarms_p_value(30, 60, 99, 95)
    assert summary.chance == pytest.approx(2 * own) and summary.chance < 1e-4
    assert summary.promised == pytest.approx(0.05)


def test_a_wrong_path_does_not_end_the_work_on_the_others(photos, tmp_path):
    folder, _ = photos
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.zip").write_bytes(b"PK no archive")
    paths = [tmp_path / "nothing", tmp_path / "empty", tmp_path / "a.zip", folder]
    found = [(name, load()) for name, _, load in named_images(paths, SHAPE)]
    assert len(found) == 33 and all(isinstance(image, ValueError) for _, image in found[:3])
    for (name, error), path in zip(found[:3], paths, strict=False):
        assert name == str(path) and path.name in str(error)
    with zipfile.ZipFile(tmp_path / "cut.zip", "w") as archive:
        archive.write(folder / "00.png", "00.png")
    (tmp_path / "cut.zip").write_bytes((tmp_path / "cut.zip").read_bytes()[:-30])
    [error] = [load() for *_, load in named_images([tmp_path / "cut.zip"], SHAPE)]
    assert "cannot be read as an archive" in str(error)


def test_linked_folders_are_followed_once(photos, tmp_path):
    folder, _ = photos
    (tmp_path / "mix").mkdir()
    (tmp_path / "mix" / "linked").symlink_to(folder)
    (folder / "back").symlink_to(tmp_path / "mix")
    assert len(list(named_images([tmp_path / "mix"], SHAPE))) == 30


def test_a_file_that_is_there_is_not_replaced(classifier, parts, photos, tmp_path):
    (tmp_path / "d.tsv").write_text("mine")
    with pytest.raises(RunError, match="there already. Delete it, or choose another --out"):
        screening.screen(made(classifier, parts), [photos[0]], tmp_path / "d.tsv")
    assert (tmp_path / "d.tsv").read_text() == "mine"


def test_a_file_in_an_archive_that_promises_too_much_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr("ood_suite.data.pixels.LARGEST", 1000)
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(buffer, "PNG")
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", bytes(10_000))
        archive.writestr("fine.png", buffer.getvalue())
    images_of_zip = named_images([tmp_path / "a.zip"], SHAPE)
    found = {name.partition("#")[2]: load() for name, _, load in images_of_zip}
    assert "1,000 bytes" in str(found["bomb.png"]) and found["fine.png"].shape == SHAPE


def test_the_binaries_from_a_run_to_decisions(tmp_path, write_small_data):
    data_dir = write_small_data(tmp_path / "data")
    trained = command(
        "classifier_ood.train", "--exp=fashion", "--epochs=1", f"--data_dir={data_dir}",
        "--batch_size=16", f"--out_dir={tmp_path}",
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    run = tmp_path / "fashion" / "convnet"
    arguments = (f"--run={run}", f"--data_dir={data_dir}", f"--out={tmp_path}/d")
    few = command("ood_suite.calibrate", *arguments, "--false_alarms=0.001")
    assert few.returncode == 1 and "at least 999 are needed" in few.stderr, few.stderr
    assert "half" in few.stderr.lower() and few.stderr.count("are needed") == 1
    assert not (tmp_path / "d").exists()
    done = command("ood_suite.calibrate", *arguments, "--false_alarms=0.1")
    assert done.returncode == 0, done.stderr
    card = (tmp_path / "d" / "card.md").read_text()
    for text in ("12 held-out examples promise", "jigsaw: AUROC, caught", "| energy |", "catches"):
        assert text in card
    again = command("ood_suite.calibrate", *arguments, "--false_alarms=0.1")
    assert again.returncode == 1 and "there already" in again.stderr
    screened = subprocess.run(
        [sys.executable, "-m", "ood_suite.screen", f"--detector={tmp_path}/d", "-"],
        input=f"{data_dir}/mnist_test.npz\n", capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert screened.returncode == 0, screened.stderr
    assert screened.stdout.startswith("file\tclass\tscore\tp_value\tis_ood\n")
    assert "would be" in screened.stderr
    typo = command("ood_suite.screen", f"--detector={tmp_path}/d", f"--out={tmp_path}/o", "nowhere")
    assert typo.returncode == 1 and "no file or folder nowhere" in typo.stderr
    assert not (tmp_path / "o").exists()  # which would be in the way of the right command
    flags = ("--false_alarms=0.1", "--score=KNN(k=3),ODIN(epsilon=0.004)", "--overwrite")
    done = command("ood_suite.calibrate", *arguments, *flags)
    assert done.returncode == 0, done.stderr
    assert "knn(k=3)&odin(epsilon=0.004)" in (tmp_path / "d" / "card.md").read_text()
    detector = Detector.load(tmp_path / "d")
    assert detector.detector.entry.parameters["knn(k=3).k"] == 3
    assert np.isfinite(detector(np.zeros((2, 8, 8, 1), np.uint8)).score).all()
