"""pytest options and fixtures of the whole project: tiny models and data that every test can
afford.
"""

import importlib.util
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault(
    "TF_NUM_INTEROP_THREADS", "1"
)  # as every binary has it, see ood_suite.runs.cli
ROOT = pathlib.Path(__file__).parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import pytest  # noqa: E402


def pytest_addoption(parser):
    parser.addoption("--run_large", action="store_true", help="also run tests marked large")
    parser.addoption("--run_wheel", action="store_true", help="also run tests marked wheel")


def pytest_collection_modifyitems(config, items):
    marks = [mark for mark in ("large", "wheel") if not config.getoption(f"--run_{mark}")]
    skipped = {mark: f"needs --run_{mark}" for mark in marks}
    if importlib.util.find_spec("tensorflow") is None:
        skipped["tensorflow"] = "not installed"
    for item in items:
        for name in skipped.keys() & item.keywords:
            item.add_marker(pytest.mark.skip(reason=f"{name}: {skipped[name]}"))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def doctest_names(doctest_namespace):
    doctest_namespace["np"] = np


@pytest.fixture(scope="session")
def write_small_data():
    """A function that writes tiny 8x8 sets, under the names of the fashion experiments."""
    from ood_suite.data.npz import write_images

    def write(folder):
        rng = np.random.default_rng(7)
        ramp = np.linspace(0, 200, 8).astype(np.uint8)[None, None, :, None]
        for name, count, noise in (
            ("fashion_mnist_train", 64, 40),
            ("fashion_mnist_val", 24, 40),
            ("fashion_mnist_test", 24, 40),
            ("mnist_test", 20, 4),
            ("notmnist", 20, 80),
        ):
            images = ramp + rng.integers(0, noise, (count, 8, 8, 1), dtype=np.uint8)
            write_images(folder / f"{name}.npz", images, np.arange(count) % 10)
        return folder

    return write


@pytest.fixture
def small_data(write_small_data, tmp_path):
    """A data_dir of those sets."""
    return write_small_data(tmp_path / "data")
