"""Shipped runs are copied whole, once, whoever asks first."""

import pytest

from ood_suite import shipped


@pytest.mark.parametrize("first", ["images_fashion/reg0_mr0", "images_fashion"])
def test_a_run_is_copied_with_those_beside_it(tmp_path, monkeypatch, first):
    monkeypatch.chdir(tmp_path)
    assert shipped.run_folder(f"pretrained/{first}") == shipped.COPIES / "pretrained" / first
    whole = shipped.run_folder("pretrained/images_fashion")
    there = {path.name for path in (shipped.resource("pretrained") / "images_fashion").iterdir()}
    assert {path.name for path in whole.iterdir()} == there and "reg0_mr0" in there
    assert [path.name for path in whole.parent.iterdir()] == ["images_fashion"]


def test_a_slower_process_takes_the_faster_ones_copy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    copied = shipped.shutil.copytree

    def slow(source, partial, **options):
        monkeypatch.setattr(shipped.shutil, "copytree", copied)
        copied(source, partial, **options)
        faster = tmp_path / "output/pretrained/images_fashion/reg0_mr0"
        faster.mkdir()
        (faster / "mine").touch()

    (tmp_path / "output/pretrained/images_fashion/reg10_mr0.1").mkdir(parents=True)
    monkeypatch.setattr(shipped.shutil, "copytree", slow)
    found = shipped.run_folder("pretrained/images_fashion")
    assert [path.name for path in (found / "reg0_mr0").iterdir()] == ["mine"]
    there = {path.name for path in (shipped.resource("pretrained") / "images_fashion").iterdir()}
    assert {path.name for path in found.iterdir()} == there


def test_other_paths_stay_as_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pretrained" / "mine").mkdir(parents=True)
    for text in ("pretrained/mine", "pretrained/none", "pretrained/../x", "run", "/pretrained/x"):
        assert str(shipped.run_folder(text)) == text
