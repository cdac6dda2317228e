"""Settings, declared once: what an experiment's dataclass says of each of its fields.

    @dataclasses.dataclass(frozen=True)
    class Experiment:
        batch_size: int = setting(32, "Images per step.", at_least=1)
        dtype: str = setting("float32", "Precision.", choices=("float32", "mixed_bfloat16"))

Flags and their --help (runs.cli), checks (`check`) and the options of a model (`model_options`) are
derived from these fields.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

INF = math.inf
# Settings that all branches have.
DTYPES = ("auto", "float32", "mixed_bfloat16")
DTYPE_HELP = (
    "Precision of the network; auto: mixed_bfloat16 where the processor computes with it, else "
    "float32. A run goes on in the one that it began with."
)
STRATEGY_HELP = "Train on all devices of this machine (TensorFlow), see training.devices."


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is known of one field.

    Attributes:
        help: one or two sentences, for --help.
        at_least, above, at_most, below: bounds of a number, which must be finite.
        choices: all values of a text.
        model: whether it is an option of the model, see `model_options`.
    """

    help: str
    at_least: float = -INF
    above: float = -INF
    at_most: float = INF
    below: float = INF
    choices: tuple = ()
    model: bool = False

    def allows(self, value: Any) -> bool:
        """Whether a value (not None) is within the bounds, or one of the choices."""
        if self.choices:
            return value in self.choices
        if isinstance(value, bool) or not isinstance(value, int | float):
            return True
        low = self.at_least <= value and (value > self.above or self.above == -INF)
        high = value <= self.at_most and (value < self.below or self.below == INF)
        return low and high and math.isfinite(value)

    def limits(self, is_whole: bool = False) -> str:
        """The bounds in words, such as "lie in [0, 1)", "be at least 1"; "" if there are none.

        >>> Setting("", at_least=0, below=1).limits(), Setting("", above=0).limits()
        ('lie in [0, 1)', 'be positive and finite')
        """
        if self.choices:
            return f"be one of {', '.join(map(str, self.choices))}"
        low, high = max(self.at_least, self.above), min(self.at_most, self.below)
        if low == -INF and high == INF:
            return ""
        if high < INF:
            opening = "(" if self.above > -INF else "["
            return f"lie in {opening}{low:g}, {high:g}{')' if self.below < INF else ']'}"
        if self.above == 0:
            return "be positive and finite"
        return f"be at least {low:g}" if is_whole else f"be {low:g} or more, and finite"


def setting(default: Any, help: str, **limits: Any) -> Any:
    """A dataclass field with what `Setting` records; a dict as default is copied."""
    metadata = {"setting": Setting(help, **limits)}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def declared(settings: Any) -> dict[str, tuple[dataclasses.Field, Setting]]:
    """{name: (field, Setting)} of the declared fields of a dataclass or of one of its objects."""
    fields = dataclasses.fields(settings)
    return {f.name: (f, f.metadata["setting"]) for f in fields if "setting" in f.metadata}


def kind_of(field: dataclasses.Field) -> type:
    """The type of a field's values; of `float | None` it is float."""
    if isinstance(field.type, types.UnionType):
        return typing.get_args(field.type)[0]
    return typing.cast(type, field.type)


def check(settings: Any, values: Mapping[str, Any] | None = None) -> None:
    """Refuses values out of range, naming the flag.

    Args:
        settings: an object of such a dataclass, or the class itself.
        values: {name: value} in place of the object's own; names that are not declared are skipped.

    Raises:
        ValueError: the setting, what it must be, and what came.
    """
    for name, (field, known) in declared(settings).items():
        if values is not None and name not in values:
            continue
        value = getattr(settings, name) if values is None else values[name]
        if value is None and isinstance(field.type, types.UnionType):
            continue
        if not known.allows(value):
            limits = known.limits(kind_of(field) is int) or "be finite"
            raise ValueError(f"--{name} must {limits}. Received: {value!r}.")


def model_options(settings: Any) -> dict[str, Any]:
    """{name: value} of the fields that are options of the model."""
    return {n: getattr(settings, n) for n, (_, known) in declared(settings).items() if known.model}


def known_name(names: Iterable[str], name: str, kind: str) -> str:
    """The one of `names` that a name stands for, whatever its case; ValueError lists them.

    >>> known_name(["cifar10", "fashion"], "Fashion", "experiment")
    'fashion'
    """
    lower = {known.lower(): known for known in names}
    if name.lower() not in lower:
        close = difflib.get_close_matches(name.lower(), lower, 1)
        hint = f" Did you mean {lower[close[0]]}?" if close else ""
        raise ValueError(f"Unknown {kind} {name!r}.{hint} Known: {', '.join(lower.values())}.")
    return lower[name.lower()]


def replaced(experiment: Any, overrides: Mapping[str, Any]) -> Any:
    """The experiment with some values replaced; total_steps alone holds for a background too."""
    if "total_steps" in overrides:
        overrides = {"background_steps": 0} | dict(overrides)
    return dataclasses.replace(experiment, **overrides)
