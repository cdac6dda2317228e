"""Pages of the site that lie outside docs/: a hook of MkDocs, see mkdocs.yml.

README.md is the front page; links into docs/ lose that folder, links to other folders their target,
because the site has none. Reports that lie in output/ when the site is built, of
docs/make_gallery.py and of make demo, are linked at the end of the gallery.
"""

import pathlib
import re

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "CHANGELOG.md": "CHANGELOG.md",
}
# Page of the site -> (file in output/, what it is).
REPORTS = {
    "reports/classifier.html": ("report/report.html", "the shipped classifier"),
    "reports/comparison.html": ("comparison/comparison.html", "five of its scores compared"),
    "reports/density.html": ("report_images/report.html", "the shipped likelihood ratio"),
    "reports/demo_density.html": (
        "images_ood/fashion_small/report/report.html", "make demo: the likelihood ratio"
    ),
    "reports/demo_classifier.html": (
        "classifier_ood/fashion/convnet/report/report.html", "make demo: the classifier"
    ),
    "reports/demo_kmers.html": (
        "genomics_ood/bacteria_kmers/report/report.html", "make demo-genomics: counted words"
    ),
}  # fmt: skip


def on_files(files, config):
    """Adds PAGES, and the REPORTS that there are, to the files of the site."""
    for path, name in PAGES.items():
        text = (ROOT / path).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=with_links(text)))
    for name, path, _ in reports(ROOT / "output"):
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, **_):
    """Ends the gallery with the reports."""
    found = reports(ROOT / "output") if page.file.src_uri == "gallery.md" else []
    lines = [f"- [{title}]({name})" for name, _, title in found]
    return "\n".join([markdown, "\n## Whole reports\n", *lines]) if lines else markdown


def reports(output):
    """[(page of the site, file, what it is)] of the REPORTS in a folder."""
    found = [(name, output / path, title) for name, (path, title) in REPORTS.items()]
    return [entry for entry in found if entry[1].is_file()]


def with_links(text):
    """Markdown with its links as they are in the site.

    >>> with_links("[a](docs/a.md#b), [`c`](examples), [d](CHANGELOG.md), [e](https://e.org)")
    '[a](a.md#b), `c`, [d](CHANGELOG.md), [e](https://e.org)'
    """

    def moved(match):
        title, target = match.groups()
        if target.startswith("docs/"):
            return f"[{title}]({target.removeprefix('docs/')})"
        return match[0] if target in PAGES or target.startswith(("#", "https:")) else title

    return re.sub(r"\[([^][]*)\]\(([^() ]*)\)", moved, text)
