"""Scores as they are written on a command line: names, with parameters in brackets.

    himplos(mask_percentile=60,clip=1.6)    odin(temperature=1000,epsilon=0.004)
    react(threshold=1.6)+energy             energy&knn(k=10)

Names are matched whatever their case. Values are numbers, True, False, or words.
"""

import ast
import math
import re
from collections.abc import Sequence
from typing import Any

from ood_suite import scores

PART = re.compile(r"([^()]*)(?:\((.*)\))?")


def parsed(texts: Sequence[str]) -> tuple[tuple[str, ...], dict[str, dict[str, Any]]]:
    """(names, {name: parameters}) of scores as written; "all" stays what it is.

    Args:
        texts: what a flag split at its commas, those within brackets too.

    Raises:
        ValueError: brackets that do not match, an unknown score or parameter, a value that is
            neither number nor word, or a score that is named twice with different parameters.

    >>> parsed(["ODIN(temperature=1000", "epsilon=0.004)", "react(threshold=1.6)+energy"])[0]
    ('odin', 'react+energy')
    """
    names: list[str] = []
    found: dict[str, dict[str, Any]] = {}
    for text in split(",".join(texts), ","):
        name, own = _one(text.strip())
        if name in names and found.get(name, {}) != own:
            raise ValueError(f"{name} is named twice, with different parameters.")
        if name != "all":
            _check(name, own)
        names += [] if name in names else [name]
        found |= {name: own} if own else {}
    return tuple(names), found


def split(text: str, at: str) -> list[str]:
    """Cuts a text at a character that stands outside of brackets; empty parts are left out."""
    parts, depth = [""], 0
    for character in text:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth < 0 or depth > 1:
            break
        if character == at and not depth:
            parts.append("")
        else:
            parts[-1] += character
    if depth:
        raise ValueError(f"The brackets of {text!r} do not match.")
    return [part for part in parts if part.strip()]


def _one(text, joints="&+"):
    """(name, parameters) of one score; of a joined name they are called part.parameter."""
    if not joints:
        return _bracketed(text)
    joint, *inner = joints
    parts = [_one(part, inner) for part in split(text, joint)]
    if len(parts) == 1:
        return parts[0]
    own = {f"{name}.{key}": value for name, values in parts for key, value in values.items()}
    return joint.join(name for name, _ in parts), own


def _bracketed(text):
    match = PART.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{text!r} is no score: write name(parameter=value,...).")
    name, inside = match[1].strip(), match[2] or ""
    known = {known.lower(): known for known in (*scores.SCORES, *scores.SHAPERS, "all")}
    values = {}
    for pair in split(inside, ","):
        key, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"{text!r}: parameters are written name=value. Received: {pair!r}.")
        values[key.strip()] = _value(value.strip(), text)
    return known.get(name.lower(), name), values


def _value(text, whole):
    if re.fullmatch(r"[A-Za-z_]\w*", text) and text not in ("True", "False", "None"):
        return text
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = None
    is_number = isinstance(value, (int, float)) and math.isfinite(value)
    if not is_number and not isinstance(value, str):
        raise ValueError(
            f"{whole!r}: a value must be a number, True, False or a word. Received: {text!r:.100}."
        )
    return value


def _check(name, own):
    """Refuses an unknown score, and parameters that it does not have."""
    known = scores.get(name).parameters
    unknown = sorted(set(own) - set(known))
    if unknown:
        listed = ", ".join(f"{key}={value!r}" for key, value in known.items())
        raise ValueError(
            f"{name} has no parameter {unknown[0]!r}. It has: {listed or 'none'} (of parts of a "
            "name, as part(parameter=value))."
        )
    for key, value in own.items():
        kind = type(known[key])
        fits = {bool: isinstance(value, bool), int: type(value) is int, str: isinstance(value, str)}
        fits[float] = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not fits.get(kind, True):
            raise ValueError(f"{name}: {key} must be of type {kind.__name__}. Received: {value!r}.")
