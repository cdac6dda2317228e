"""Names of scores with parameters, as a command line gives them: "knn(k=10)", and compositions such
as "react(threshold=1.6)+energy", "odin(epsilon=0.004)&knn".

Values are numbers, True, False and quoted words. Nothing is evaluated: a name may come from a file.
"""

import ast
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

LONGEST = 1000  # characters of a name
ALSO = {"react": {"clip": "threshold"}}  # score -> what others call a parameter -> what it is here


def outside(text: str, separator: str) -> list[str]:
    """The parts of a text between separators that stand outside of brackets, without the spaces
    around them.

    >>> outside("himplos(mask_percentile=60,clip=1.6),energy", ",")
    ['himplos(mask_percentile=60,clip=1.6)', 'energy']

    Raises:
        ValueError: a bracket that is not closed, or not opened.
    """
    parts, depth = [""], 0
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if depth not in (0, 1):
            break
        if letter == separator and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    if depth:
        raise ValueError(f"Every bracket must be closed once, as in knn(k=10). Received: {text!r}.")
    return [part.strip() for part in parts]


def parse(name: str) -> tuple[str, dict[str, Any]]:
    """(the bare name, its parameters) of one score or shaper.

    >>> parse("odin(temperature=1000, epsilon=0.004)")
    ('odin', {'temperature': 1000, 'epsilon': 0.004})

    Raises:
        ValueError: text in brackets that is not name=value, a value of another kind, or a parameter
            that is given twice.
    """
    bare, bracket, inner = name.strip().partition("(")
    if not bracket:
        return bare, {}
    bare = bare.rstrip()
    also = ALSO.get(bare.lower(), {})
    wrong = ValueError(
        "Parameters must be like knn(k=10): name=value, of numbers, True, False and quoted words. "
        f"Received: {name[:100]!r}."
    )
    if len(name) > LONGEST or not inner.endswith(")") or "(" in inner or ")" in inner[:-1]:
        raise wrong
    try:
        call: Any = ast.parse(f"f({inner}", mode="eval").body
        pairs = [(also.get(k.arg, k.arg), ast.literal_eval(k.value)) for k in call.keywords]
        given = dict(pairs)
        is_plain = not call.args and None not in given
    except (ValueError, SyntaxError, TypeError, AttributeError, RecursionError, MemoryError):
        raise wrong from None
    if not is_plain or not all(_is_value(value) for value in given.values()):
        raise wrong
    if len(given) < len(pairs):
        raise ValueError(f"A parameter must be given once. Received: {name[:100]!r}.")
    return bare, given


def _is_value(value: Any) -> bool:
    """Whether a value may stand in a name, which becomes the name of a file of a report."""
    is_word = isinstance(value, str) and re.fullmatch(r"\w{1,40}", value)
    return bool(is_word) or isinstance(value, bool | int | float)


def bare(name: str) -> str:
    """A name without its parameters.

    >>> bare("react(threshold=1.6)+energy")
    'react+energy'
    """
    return re.sub(r"\([^()]*\)", "", name)


def written(name: str, parameters: Mapping[str, Any]) -> str:
    """The one way in which a name with parameters is written.

    >>> written("odin", {"temperature": 1000, "epsilon": 0.004})
    'odin(temperature=1000,epsilon=0.004)'
    """
    inner = ",".join(f"{parameter}={value!r}" for parameter, value in parameters.items())
    return f"{name}({inner})" if inner else name


def composed(name: str, parameters: Mapping[str, Any]) -> str:
    """A name of one score with the parameters of a detector, which are "part.parameter" of a
    composition; one of several scores, or that has parameters, as it is.

    >>> composed("react+energy", {"react.threshold": 1.6})
    'react(threshold=1.6)+energy'
    """
    if "(" in name or "&" in name:
        return name
    parts = outside(name, "+")
    if len(parts) == 1:
        return written(name, parameters)
    own = [
        {k.removeprefix(f"{part}."): v for k, v in parameters.items() if k.startswith(f"{part}.")}
        for part in parts
    ]
    return "+".join(map(written, parts, own))


def read(texts: Iterable[str], known: Iterable[str]) -> tuple[str, ...]:
    """Names of scores, each once: commas within brackets do not part them, and those of `known` are
    meant whatever their case.

    >>> read(["HIMPLoS(mask_percentile=60", "clip=1.6)", "Energy"], ["energy", "himplos"])
    ('himplos(mask_percentile=60,clip=1.6)', 'energy')
    """
    lower = {name.lower(): name for name in known}
    found = []
    for text in filter(None, outside(",".join(texts), ",")):
        fused = []
        for member in outside(text, "&"):
            parts = [parse(part) for part in outside(member, "+")]
            fused.append("+".join(written(lower.get(n.lower(), n), given) for n, given in parts))
        found.append("&".join(fused))
    return tuple(dict.fromkeys(found))


def checked(defaults: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters, NumPy's numbers as Python's, whole floats as int where the default is one;
    names that `defaults` lacks as they are. ValueError: a value of another type than the default,
    or no finite number; None where that is not the default.

    >>> checked({"k": 50}, {"k": 10.0})
    {'k': 10}
    """
    found = {k: v.item() if getattr(v, "shape", None) == () else v for k, v in parameters.items()}
    for name in set(parameters) & set(defaults):
        value, default = found[name], defaults[name]
        if not isinstance(default, int | float | str | None):  # of a score from elsewhere
            continue
        if value is default is None:
            continue
        allowed = type(default) if isinstance(default, bool | str) else int | float
        is_number = isinstance(value, int | float) and math.isfinite(value)
        is_whole = not isinstance(default, int) or value == int(value) if is_number else True
        right = isinstance(value, allowed) and (is_number or allowed is str)
        if not right or not is_whole or isinstance(value, bool) > isinstance(default, bool):
            raise ValueError(f"`{name}` must be like {default!r}. Received: {str(value)[:100]!r}.")
        if isinstance(default, int) and isinstance(value, float):
            found[name] = int(value)
    return found
