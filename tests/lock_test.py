"""The lock files are those of the requirements as they stand, whole, and checked by hashes."""

import importlib.metadata
import importlib.util
import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support import ROOT

# Lock file -> (list that people write, extras of pyproject.toml that it holds whole).
LOCKS = {
    "requirements.lock": (
        "requirements.txt",
        ("all", "docs", "eval", "genomics", "onnx", "ray", "serve", "tensorflow", "tfds"),
    ),
    "requirements-jax.lock": ("requirements-jax.txt", ("eval", "genomics", "jax")),
}  # fmt: skip
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def entries(lock):
    """{package: (version, [hash])} of a lock file; every line of it is understood."""
    found = {}
    text = (ROOT / lock).read_text(encoding="utf-8").replace("\\\n", " ")
    for line in text.split("\n"):
        if line.strip() and not line.lstrip().startswith("#"):
            pin, *options = line.split()
            name, version = re.fullmatch(r"([\w.-]+)==([\w.]+)", pin).groups()
            hashes = [re.fullmatch(r"--hash=sha256:([0-9a-f]{64})", o)[1] for o in options]
            assert canonicalize_name(name) not in found
            found[canonicalize_name(name)] = version, hashes
    return found


def listed(path):
    """Requirements of a list that people write."""
    lines = (ROOT / path).read_text(encoding="utf-8").split("\n")
    return [Requirement(line.split("#")[0]) for line in lines if line.split("#")[0].strip()]


def unsatisfied(requirements, locked):
    """Of requirements, those that a lock does not meet."""
    wrong = []
    for requirement in requirements:
        version, _ = locked.get(canonicalize_name(requirement.name), (None, ()))
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement} (locked: {version})")
    return wrong


def needed_by(name, extras=()):
    """Requirements of an installed package, none of one that is not installed."""
    try:
        found = map(Requirement, importlib.metadata.requires(name) or ())
    except importlib.metadata.PackageNotFoundError:
        return []
    found = [r for r in found if r.name != name]
    return [r for r in found if not r.marker or _applies(r.marker, extras)]


def _applies(marker, extras):
    return any(marker.evaluate({"extra": extra}) for extra in ("", *extras))


@pytest.mark.parametrize("lock", LOCKS)
def test_requirements_are_locked(lock):
    path, extras = LOCKS[lock]
    wanted = listed(path) + [Requirement(text) for text in PROJECT["dependencies"]]
    for extra in extras:
        wanted += map(Requirement, PROJECT["optional-dependencies"][extra])
    wanted = [r for r in wanted if r.name != PROJECT["name"]]
    assert len(wanted) > 20
    assert not unsatisfied(wanted, entries(lock)), "refresh it as CONTRIBUTING.md says"


def test_every_extra_is_in_a_lock():
    covered = {extra for _, extras in LOCKS.values() for extra in extras}
    assert covered == set(PROJECT["optional-dependencies"])


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_has_hashes_and_no_address(lock):
    found = entries(lock)
    assert len(found) > 30
    for name, (_, hashes) in found.items():
        assert hashes and len(set(hashes)) == len(hashes), name
    assert "://" not in (ROOT / lock).read_text(encoding="utf-8")


@pytest.mark.tensorflow
def test_the_lock_is_whole_and_holds_nothing_else():
    """By what the installed packages say that they need."""
    locked, reached = entries("requirements.lock"), {}
    waiting = listed("requirements.txt")
    while waiting:
        requirement = waiting.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if name in reached and extras <= reached[name]:
            continue
        reached[name] = reached.get(name, frozenset()) | extras
        needs = needed_by(name, extras)
        assert not unsatisfied(needs, locked), name
        waiting += needs
    assert not set(locked) - set(reached), "nothing needs these"


def test_the_page_of_licences_lists_what_is_locked():
    spec = importlib.util.spec_from_file_location("make", ROOT / "docs" / "make_licences.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    assert page.startswith(module.HEAD)
    lines = page.removeprefix(module.HEAD).splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert all(len(row) == 5 and row[2] for row in rows)
    for column, lock in enumerate(module.LOCKS, 3):
        ours = {row[0]: row[1] for row in rows if row[column]}
        assert ours == {name: version for name, (version, _) in entries(lock).items()}
    assert all(row[3] or row[4] for row in rows)
