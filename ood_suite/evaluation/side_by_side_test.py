"""Protocols are what the catalogues know, and a table puts numbers where they belong."""

import types

import pytest

from ood_suite import data, metrics, scores
from ood_suite.data import layouts, names
from ood_suite.evaluation import side_by_side
from ood_suite.evaluation.report import GroupReport
from ood_suite.evaluation.request import Request
from ood_suite.files import read_json
from ood_suite.protocols import FAR, ID, MEAN, NEAR, PROTOCOLS, Protocol, Published
from ood_suite.runs.run import Run
from tests.support import opening

SOURCE = "Table 1 of a paper"


def report(rows, accuracy=0.9):
    """Of (score, OOD set, AUROC) rows."""
    return GroupReport(
        repeat_id=0, choice=[], chosen=None, notes=[], figures={}, baseline="msp",
        rows=[{"score": s, "ood": o, "auroc": v, "fpr95_id_positive": 1 - v} for s, o, v in rows],
        classifier={"accuracy": accuracy}, test_sets=dict.fromkeys(["id", "a", "b"], ""),
    )  # fmt: skip


def protocol(**published):
    values = types.MappingProxyType(published)
    return Protocol(
        "A paper", "cifar10", ("energy",), far=("a:squash", "b@9"),
        published=(Published("Energy", "energy", SOURCE, values),),
    )  # fmt: skip


def test_the_table_of_protocols():
    assert list(PROTOCOLS) == sorted(PROTOCOLS)
    for name, found in PROTOCOLS.items():
        assert scores.read(found.scores) == found.scores, name
        sets = [names.parse(ood).bare for ood in (*found.near, *found.far)]
        assert all(layouts.known(ood) == ood or ood in data.DATASETS for ood in sets), name
        assert found.fpr95 in metrics.METRICS and found.id_dataset not in sets
        for one in found.published:
            assert one.score in found.scores and one.source
            assert set(one.values) <= {*sets, *side_by_side.MEANS, ID}, name
            for ood, values in one.values.items():
                assert all(0.0 <= value <= 1.0 for value in values.values())
                assert set(values) <= ({"accuracy"} if ood == ID else set(metrics.METRICS))


def test_published_numbers_are_those_of_the_sources():
    """Some cells, as they are printed."""
    by_method = {one.method: one.values for one in PROTOCOLS["um_cifar10"].published}
    assert by_method["Energy+UM"][MEAN]["fpr95_id_positive"] == pytest.approx(0.3329)
    assert by_method["OE"][ID]["accuracy"] == pytest.approx(0.9259)
    paper, wrn, port, _ = PROTOCOLS["leave_out_cifar100"].published
    assert paper.values["uniform"]["fpr95_id_positive"] == pytest.approx(0.7973)
    assert wrn.values["gaussian"]["aupr_out"] == pytest.approx(0.7162)
    assert port.values["lsun_r"]["auroc"] == pytest.approx(0.9821)
    large = {one.score: one.values for one in PROTOCOLS["openood_imagenet"].published}
    assert large["react+energy"][FAR]["auroc"] == pytest.approx(0.9367)
    small = {one.method: one.values for one in PROTOCOLS["openood_cifar100"].published}
    assert small["VIM"][NEAR]["auroc"] == pytest.approx(0.7498)
    ratio = PROTOCOLS["lr_fashion"].published[2]
    assert ratio.values["mnist"]["auroc"] == pytest.approx(0.994)


def test_ours_published_and_difference():
    judged = protocol(**{"a": {"auroc": 0.8}, MEAN: {"auroc": 0.9}, ID: {"accuracy": 0.95}})
    judged = Protocol(**{**vars(judged), "far": ("a:squash", "b")})
    found = [report([("energy", "a", 0.7), ("energy", "b", 0.9)]) for _ in range(2)]
    rows, absent = side_by_side.compare(judged, found)
    assert absent == []
    ours = {(row["ood"], row["metric"]): row for row in rows}
    assert ours["a", "auroc"]["difference"] == pytest.approx(-0.1)
    assert ours[MEAN, "auroc"]["ours"] == pytest.approx(0.8)
    assert ours[ID, "accuracy"]["difference"] == pytest.approx(-0.05)
    assert ours["b", "auroc"]["published"] is None and ours["b", "auroc"]["ours"] == 0.9
    text = side_by_side.table(judged, rows, ["a note"])
    assert "70.00      80.00      -10.00" in text
    assert f"Published: {SOURCE}" in text and "Note: a note." in text


def test_lists_of_images_take_the_place_of_whole_sets(tmp_path):
    known = PROTOCOLS["openood_cifar10"]
    assert set(known.lists) >= {names.parse(n).bare for n in (*known.near, *known.far)}
    for name in ("test_tin.txt", "test_mnist.txt"):
        path = tmp_path / "benchmark_imglist" / "cifar10" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("a.png 1\n")
    found = side_by_side.located(known, layouts.Folders(data_root=str(tmp_path)))
    assert found.near == ("cifar100", f"{path.parent}/test_tin.txt:shorter_side")
    assert found.far[0] == str(path) and found.far[1:] == known.far[1:]
    _, absent = side_by_side.compare(found, [report([])])
    assert absent == ["cifar100", "test_tin", "test_mnist", "svhn_cropped", "dtd", "places365"]
    assert side_by_side.located(known) == known


def test_near_and_far_means_are_of_their_sets():
    values = {NEAR: {"auroc": 0.8}, FAR: {"auroc": 0.9}}
    judged = Protocol(
        "A paper", "cifar10", ("energy",), near=("a:squash",), far=("b", "c"),
        published=(Published("Energy", "energy", SOURCE, values),),
    )  # fmt: skip
    found = report([("energy", "a", 0.7), ("energy", "b", 0.8), ("energy", "c", 0.9)])
    found.test_sets["c"] = ""
    rows, _ = side_by_side.compare(judged, [found])
    ours = {row["ood"]: row["ours"] for row in rows if row["metric"] == "auroc"}
    assert (ours[NEAR], ours[FAR], ours[MEAN]) == pytest.approx((0.7, 0.85, 0.8))
    half, _ = side_by_side.compare(judged, [report([("energy", "a", 0.7), ("energy", "b", 0.8)])])
    assert {row["ood"]: row["ours"] for row in half if row["metric"] == "auroc"}[FAR] is None


def test_each_checkpoint_has_its_own_page(tmp_path, monkeypatch):
    monkeypatch.setattr(side_by_side, "evaluate", lambda *_, **__: [report([("energy", "a", 0.7)])])
    Run.open(tmp_path, **opening({"id_dataset": "cifar10"}))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/best.keras").touch()
    for checkpoint in ("last", "best"):
        asked = Request(checkpoint=checkpoint)
        side_by_side.judge("p", protocol(), tmp_path, asked)
    assert read_json(tmp_path / "protocol_p/protocol.json")["checkpoint"] == "last"
    assert read_json(tmp_path / "protocol_p_best/protocol.json")["checkpoint"] == "best"


def test_no_mean_is_taken_of_fewer_sets():
    rows, absent = side_by_side.compare(
        protocol(**{MEAN: {"auroc": 0.9}}), [report([("energy", "a", 0.7)])]
    )
    assert absent == ["b@9"]
    [mean] = [row for row in rows if row["ood"] == MEAN]
    assert (mean["ours"], mean["difference"], mean["published"]) == (None, None, 0.9)


@pytest.mark.parametrize(
    "own, is_other",
    [
        ("cifar10", False),
        ("lists/test_cifar10.txt", False),
        ("cifar10:squash", False),
        ("cifar10@9", True),
        ("b", True),
    ],
)
def test_a_run_of_another_id_set_is_noted(own, is_other, tmp_path):
    Run.open(tmp_path / "run", **opening({"id_dataset": own}))
    notes = side_by_side._strangers(protocol(), tmp_path / "run", Request())
    assert len(notes) == is_other
    assert all(f"the run's is {own}: published numbers are of other data" in n for n in notes)
