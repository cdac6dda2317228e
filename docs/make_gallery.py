"""Runs the commands of docs/gallery.md and takes its pictures from what they leave.

    python docs/make_gallery.py     # minutes; then `make site`, which takes the reports as well

Screenshots need Chromium; without it the old ones stay.
"""

import io
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from PIL import Image  # noqa: E402

from ood_suite.files import write_bytes  # noqa: E402
from tests import browser  # noqa: E402

FIGURES = ROOT / "docs" / "figures"
WIDEST = 1280  # pixels
# Picture of the page -> what it is of, in output/.
TAKEN = {
    "report_overview.png": "report/figures/overview.png",
    "report_heat_maps.png": "report_images/figures/heat_maps_mnist.png",
    "report_complexity.png": "report_images/figures/complexity.png",
}
SHOT = {"report.png": "report/report.html", "comparison.png": "comparison/comparison.html"}


def commands():
    """Those of the page, in its order."""
    text = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    return [
        line
        for block in re.findall(r"```bash\n(.*?)```", text, re.S)
        for line in block.split("\n")
        if line
    ]


def keep(name, picture):
    """Writes a picture of the page, of 256 colours and no wider than a window."""
    image = Image.open(picture).convert("RGB")
    image.thumbnail((WIDEST, 10 * WIDEST))
    buffer = io.BytesIO()
    image.quantize(256).save(buffer, "PNG", optimize=True)
    write_bytes(FIGURES / name, buffer.getvalue())


def main():
    for command in commands():
        print(command, flush=True)
        _, *words = command.split()  # python
        subprocess.run([sys.executable, *words], cwd=ROOT, check=True)
    for name, path in TAKEN.items():
        keep(name, ROOT / "output" / path)
    for name, path in SHOT.items() if browser.BROWSER else ():
        shot = ROOT / "output" / path.replace(".html", ".png")
        browser.screenshot(ROOT / "output" / path, shot, WIDEST)
        keep(name, shot)


if __name__ == "__main__":
    main()
