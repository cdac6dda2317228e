"""A page in headless Chromium, where there is one: what a reader could not read, and its picture.

    python -m tests.browser output/report/report.html FOLDER

draws the page at each width, by day and by night, into FOLDER.
"""

import argparse
import html
import json
import pathlib
import re
import shutil
import subprocess
import tempfile

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
WIDTHS = (390, 1280, 1920)  # pixels: a phone, a small and a large window
HEIGHT = 900
CONTRAST = 4.5  # WCAG 2, level AA
# Tells the window around it what a reader could not read, or would have to scroll to.
LOOK = """<script>
function channels(text) { return text.match(/[\\d.]+/g).map(Number); }
function light([r, g, b]) {
  const linear = v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const [x, y, z] = [r, g, b].map(v => linear(v / 255));
  return .2126 * x + .7152 * y + .0722 * z;
}
function behind(element) {
  for (let e = element; e; e = e.parentElement) {
    const found = channels(getComputedStyle(e).backgroundColor);
    if (found.length === 3 || found[3] > 0) return found;
  }
  return [255, 255, 255];
}
let least = 99, where = "";
document.querySelectorAll("details").forEach(d => d.open = true);
for (const e of document.querySelectorAll("body *")) {
  if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
  if (["SCRIPT", "STYLE"].includes(e.tagName)) continue;
  const pair = [light(channels(getComputedStyle(e).color)), light(behind(e))].sort((a, b) => b - a);
  const ratio = (pair[0] + .05) / (pair[1] + .05);
  if (ratio < least) { least = ratio; where = e.tagName + ": " + e.textContent.slice(0, 40); }
}
parent.postMessage(JSON.stringify({
  least, where, width: innerWidth, scrolled: document.documentElement.scrollWidth,
  dark: matchMedia("(prefers-color-scheme: dark)").matches,
  unnamed: [...document.images].filter(i => !i.alt || !i.naturalWidth).length,
  unscoped: document.querySelectorAll("th:not([scope])").length,
  headings: [...document.querySelectorAll("h1,h2,h3")].map(h => +h.tagName[1]),
}), "*");
</script>"""


def require_readable(text, folder, width, dark):
    """Fails where a page scrolls sideways, is too pale, or says too little to a screen reader."""
    (folder / "page.html").write_text(text.replace("</body>", f"{LOOK}</body>"), encoding="utf-8")
    listens = "<script>onmessage = e => document.title = e.data</script>"
    window = framed(folder / "window.html", "page.html", width, listens)
    title = re.search(r"<title>(.*?)</title>", run(window, dark, "--dump-dom"), re.S)
    found = json.loads(html.unescape(title[1]))
    assert found["dark"] == dark and found["scrolled"] <= found["width"] == width
    assert found["least"] >= CONTRAST, found["where"]
    assert found["unnamed"] == found["unscoped"] == 0
    levels = found["headings"]
    assert levels[0] == 1 and all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False))


def screenshot(page, target, width, dark=False, height=HEIGHT):
    """Writes the top of a page as a PNG file."""
    with tempfile.TemporaryDirectory() as folder:
        window = framed(pathlib.Path(folder) / "window.html", page.resolve().as_uri(), width)
        run(window, dark, f"--screenshot={target}", f"--window-size={width},{height}")


def framed(path, page, width, listens=""):
    """Writes a page that shows another in a frame of that width, whatever the window's is."""
    path.write_text(
        f'<!doctype html><title></title>{listens}<body style="margin: 0">'
        f'<iframe src="{page}" width="{width}" height="{HEIGHT}" style="border: 0"></iframe>'
    )
    return path


def run(page, dark, *options):
    """What Chromium prints about a local page."""
    with tempfile.TemporaryDirectory() as profile:
        done = subprocess.run(
            [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
             f"--user-data-dir={profile}", "--window-size=2000,1000",
             f"--blink-settings=preferredColorScheme={0 if dark else 1}",
             "--virtual-time-budget=5000", *options, page.as_uri()],
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("page", type=pathlib.Path, help="an HTML file")
    parser.add_argument("folder", type=pathlib.Path, help="of the pictures")
    flags = parser.parse_args()
    if not flags.page.is_file() or BROWSER is None:
        parser.error(f"there is no {flags.page}" if BROWSER else "there is no Chromium")
    flags.folder.mkdir(parents=True, exist_ok=True)
    for pixels in WIDTHS:
        for by_night in (False, True):
            name = f"{flags.page.stem}_{pixels}_{'dark' if by_night else 'light'}.png"
            screenshot(flags.page, (flags.folder / name).resolve(), pixels, by_night)
