"""Pages of the site that lie outside docs/: a hook of MkDocs, see mkdocs.yml.

README.md is the front page; links into docs/ lose that folder, links to other folders their target,
because the site has none.
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


def on_files(files, config):
    """Adds PAGES to the files of the site."""
    for path, name in PAGES.items():
        text = (ROOT / path).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=with_links(text)))
    return files


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
