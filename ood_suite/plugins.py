"""What other installed packages add to a catalogue, by entry points in their pyproject.toml:

[project.entry-points."ood_suite.scores"]
my_score = "my_package.scores:MY_SCORE"          # an ood_suite.scores.Score

[project.entry-points."ood_suite.backbones"]
my_network = "my_package.networks:build"         # see classifier_ood.models
"""

import functools
import importlib.metadata
import pathlib
import sys
from collections.abc import Mapping
from typing import Any


@functools.cache
def installed(group: str) -> Mapping[str, importlib.metadata.EntryPoint]:
    """{name: entry point} of a group, such as "ood_suite.scores"; nothing of it is imported. What
    lies in the current folder is not installed, though `python -m` would import it.
    """
    elsewhere = [entry for entry in sys.path if pathlib.Path(entry).resolve() != pathlib.Path.cwd()]
    found: dict[str, importlib.metadata.EntryPoint] = {}
    for package in importlib.metadata.distributions(path=elsewhere):
        for point in package.entry_points.select(group=group):
            found.setdefault(point.name, point)
    return found


def added(group: str, name: str, kind: type | None = None) -> Any:
    """The object that an installed package adds under a name, or None.

    Args:
        kind: the type that it must have; None for a function.

    Raises:
        ValueError: the entry point cannot be imported, or is something else.
    """
    point = installed(group).get(name)
    if point is None:
        return None
    source = f"The entry point {name} = {point.value!r} of the group {group}"
    try:
        found = point.load()
    except Exception as error:
        raise ValueError(f"{source} cannot be imported: {error}.") from error
    if not (callable(found) if kind is None else isinstance(found, kind)):
        wanted = "a function" if kind is None else f"a {kind.__name__}"
        raise ValueError(f"{source} must be {wanted}. Received: {type(found).__name__}.")
    return found
