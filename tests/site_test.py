"""The pages are a site that needs no network: built strictly, all of them in its menu, every link
and picture there.
"""

import html.parser
import pathlib
import re
import subprocess
import sys
import types

import pytest

from tests.docs_test import script
from tests.support import ROOT

yaml = pytest.importorskip("yaml")  # of MkDocs, which the environment of JAX has not
# What a page fetches by itself when it is opened.
FETCHED = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "src"}


class Page(html.parser.HTMLParser):
    """What a page of the site fetches, links to, and can be linked at."""

    def __init__(self, path):
        super().__init__()
        self.fetched, self.links, self.places = [], [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.places |= {found.get("id"), found.get("name")}
        if tag in FETCHED and found.get(FETCHED[tag]):
            self.fetched.append(found[FETCHED[tag]])
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """{path: Page} of the site as `make site` builds it."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", f"--site-dir={folder}"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = [path for path in folder.rglob("*.html") if path.name != "404.html"]
    return {path: Page(path) for path in found if path.parent.name != "reports"}


def test_every_page_is_in_the_menu_and_built(site):
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = set()
    for entry in yaml.safe_load(text)["nav"]:
        (inner,) = entry.values()
        named |= {inner} if isinstance(inner, str) else {p for e in inner for p in e.values()}
    own = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert named == own | {"index.md", "CONTRIBUTING.md", "CHANGELOG.md"}
    assert len(site) == len(named)
    assert not [path for page in site for path in page.parent.rglob("*.py")]


def test_nothing_is_fetched_from_elsewhere(site):
    for path, page in site.items():
        assert len(page.fetched) >= 5, path  # styles and scripts, of the site's own
        for target in page.fetched:
            assert "//" not in target, f"{path.name} fetches {target}"
            assert (path.parent / target.split("?")[0]).exists(), f"{path.name}: {target}"
    styles = [p for page in site for p in page.parent.rglob("*.css")]
    assert not [path for path in styles if "url(http" in path.read_text(encoding="utf-8")]


def test_every_link_leads_somewhere(site):
    count = 0
    for path, page in site.items():
        for link in page.links:
            target, _, place = link.partition("#")
            if "//" in target or target.startswith("mailto:"):
                continue
            other = (path.parent / target).resolve() if target else path
            assert other.is_file(), f"{path.name} links to {link}"
            count += 1
            if place and other in site and other != path:
                assert place in site[other].places, f"{path.name} links to {link}"
    assert count > 500


@pytest.mark.parametrize(
    "text, moved",
    [
        ("[a](docs/a.md#b) and [b](CHANGELOG.md)", "[a](a.md#b) and [b](CHANGELOG.md)"),
        ("[examples/](examples), [`x`](tests/x.py)", "examples/, `x`"),
        ("[a](https://example.org)", "[a](https://example.org)"),
    ],
)
def test_links_of_the_readme_are_those_of_the_site(text, moved):
    assert script("docs/site_pages.py").with_links(text) == moved


def test_reports_that_there_are_end_the_gallery(tmp_path, monkeypatch):
    pages = script("docs/site_pages.py")
    assert pages.reports(tmp_path) == []
    (path, title), name = pages.REPORTS["reports/classifier.html"], "reports/classifier.html"
    (tmp_path / "output" / path).parent.mkdir(parents=True)
    (tmp_path / "output" / path).write_text("<p>a report</p>")
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    found = {}
    for source in ("gallery.md", "scores.md"):
        page = types.SimpleNamespace(file=types.SimpleNamespace(src_uri=source))
        found[source] = pages.on_page_markdown("# Title", page)
    assert found["gallery.md"].endswith(f"- [{title}]({name})") and found["scores.md"] == "# Title"


def test_every_command_of_the_gallery_is_run_and_every_picture_of_a_report_taken():
    gallery = script("docs/make_gallery.py")
    assert len(gallery.commands()) == 3
    outs = {re.search(r"--out=output/(\S+)", command)[1] for command in gallery.commands()}
    taken = gallery.TAKEN | gallery.SHOT
    assert {path.split("/")[0] for path in taken.values()} == outs
    text = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    assert all(f"(figures/{name})" in text for name in taken)


def test_pictures_of_the_pages_are_small():
    for path in pathlib.Path(ROOT / "docs" / "figures").iterdir():
        assert path.stat().st_size <= 200_000, path
