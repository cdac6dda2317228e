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
        (tmp_path / "output/pretrained/dna_kmers").mkdir()
        (tmp_path / "output/pretrained/dna_kmers/mine").touch()

    monkeypatch.setattr(shipped.shutil, "copytree", slow)
    found = shipped.run_folder("pretrained/dna_kmers")
    assert [path.name for path in found.iterdir()] == ["mine"]
    assert [path.name for path in found.parent.iterdir()] == ["dna_kmers"]


def test_other_paths_stay_as_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pretrained" / "mine").mkdir(parents=True)
    for text in ("pretrained/mine", "pretrained/none", "pretrained/../x", "run", "/pretrained/x"):
        assert str(shipped.run_folder(text)) == text
