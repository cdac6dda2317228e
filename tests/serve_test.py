"""examples/serve.py under real requests, many at a time, and bad ones."""

import concurrent.futures
import contextlib
import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image

from ood_suite.serving.pixel_detector_test import classifier, images, made, parts
from tests.support import ROOT

__all__ = ["classifier", "parts"]  # fixtures


def as_png(image):
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0]).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def served(classifier, parts, tmp_path_factory):
    """(address of a server in a process of its own, its detector)."""
    folder = tmp_path_factory.mktemp("serve") / "detector"
    detector = made(classifier, parts, classes=["a", "b", "c"], card="# A card")
    detector.save(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with open(folder.parent / "log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, ROOT / "examples/serve.py", folder, f"--port={port}"],
            stdout=log, stderr=log, env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 600
    while True:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{address}/card")
            break
        assert process.poll() is None and time.monotonic() < deadline, (
            folder.parent / "log"
        ).read_text()
        time.sleep(0.2)
    yield address, detector
    process.terminate()
    process.wait()


def test_many_requests_at_a_time_are_decided_as_in_python(served):
    address, detector = served
    pixels = images(120, 3)

    def post(image):
        with urllib.request.urlopen(f"{address}/decide", as_png(image)) as answer:
            return json.load(answer)

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        found = list(pool.map(post, pixels))
    expected = detector(pixels)
    np.testing.assert_allclose([one["score"] for one in found], expected.score, rtol=1e-5)
    assert [one["is_ood"] for one in found] == expected.is_ood.tolist()
    assert [one["class"] for one in found] == ["abc"[label] for label in expected.label]
    assert set(found[0]) == {"class", "score", "p_value", "is_ood"}


BAD = {
    "empty": (b"", 400), "text": (b"no picture", 400), "torn": (as_png(images(1, 3)[0])[:60], 400),
    "huge": (bytes(21 * 2**20), 413),
}  # fmt: skip


def test_a_folder_that_is_no_detector_is_one_line(tmp_path):
    tried = subprocess.run(
        [sys.executable, ROOT / "examples/serve.py", tmp_path], capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert tried.returncode == 2 and "is no detector" in tried.stderr.splitlines()[-1]
    assert "Traceback" not in tried.stderr


@pytest.mark.parametrize("name", BAD)
def test_bad_bodies_are_refused_and_the_server_goes_on(served, name):
    address, (body, code) = served[0], BAD[name]
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(f"{address}/decide", body, method="POST"))
    assert refused.value.code == code and b"detail" in refused.value.read()
    with urllib.request.urlopen(f"{address}/card") as answer:
        assert answer.read() == b"# A card"
