"""The precision that suits a processor, and that a run keeps what it began with."""

import numpy as np
import pytest

from images_ood import extract
from images_ood.pixelcnn import PixelCNN
from ood_suite.runs.run import Run
from ood_suite.training import backend
from tests.support import opening


@pytest.fixture
def without_bfloat16(monkeypatch):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")


def test_a_processor_that_is_held_to_avx2_has_no_bfloat16(without_bfloat16):
    assert not backend.has_bfloat16()


@pytest.mark.parametrize("flags, expected", [("avx2 fma", False), ("avx512f avx512_bf16", True)])
def test_the_flags_of_the_processor_decide(flags, expected, tmp_path, monkeypatch):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"flags : {flags}\n")
    monkeypatch.setattr(backend, "CPUINFO", cpuinfo)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    assert backend.has_bfloat16() == expected


def test_auto_is_what_the_run_or_its_experiment_began_with(tmp_path, without_bfloat16):
    assert backend.dtype_of("mixed_bfloat16", tmp_path / "a") == "mixed_bfloat16"
    assert backend.dtype_of("auto", tmp_path / "a") == "float32"
    Run.open(tmp_path / "0_of_another_kind", **opening({}))
    Run.open(tmp_path / "b", **opening({"dtype": "mixed_bfloat16"}))
    for name in ("a", "b"):  # a is a background of b: both are compared
        assert backend.dtype_of("auto", tmp_path / name) == "mixed_bfloat16"


def test_a_bfloat16_model_is_evaluated_in_float32_without_it(tmp_path, monkeypatch, rng):
    monkeypatch.setattr(extract, "has_bfloat16", lambda: False)
    model = PixelCNN(
        (8, 8, 1), num_resnet=1, num_filters=4, dtype="mixed_bfloat16", rescale_pixel_value=True
    )
    run = Run.open(tmp_path, **opening({}))
    model.save(run.model_path)
    loaded = extract.load_model(run)
    assert loaded.dtype_policy.name == "float32"
    for ours, theirs in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    images = rng.integers(0, 256, (2, 8, 8, 1)).astype(np.float32)
    plain = PixelCNN.from_config(model.get_config() | {"dtype": "float32"})
    plain.set_weights(model.get_weights())
    found, expected = (m.predict(images, verbose=0) for m in (loaded, plain))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
