"""What scores and shapers that learn have in common: they give and take what they learned."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np

Array = np.ndarray  # what every score takes and gives


class Learner:
    """A score or a shaper with `fit(*arrays) -> self`, whose knowledge is arrays.

    Attributes:
        LEARNED: {name: number of dimensions} of the arrays that `fit` sets; names end in "_".
        PARTS: {name: class} of learners that `fit` makes within this one.
    """

    LEARNED: ClassVar[Mapping[str, int]] = {}
    PARTS: ClassVar[Mapping[str, type["Learner"]]] = {}

    def parts(self) -> dict[str, Any]:
        """{name: learner within this one}, of those that are there."""
        return {name: getattr(self, name) for name in self.PARTS if hasattr(self, name)}

    def get_arrays(self) -> dict[str, Array]:
        """{name: array} of all that was learned; those of a part are called part/name."""
        arrays = {name: np.asarray(getattr(self, name)) for name in self.LEARNED}
        for name, part in self.parts().items():
            arrays |= {f"{name}/{key}": array for key, array in part.get_arrays().items()}
        return arrays

    def set_arrays(self, arrays: Mapping[str, Array]) -> Self:
        """Takes what `get_arrays` gave.

        Raises:
            ValueError: other names, numbers of dimensions or types than those of such a learner, or
                values that are NaN.
        """
        for name, part in self.PARTS.items():
            setattr(self, name, part())
        inner: dict[str, dict[str, Array]] = {name: {} for name in self.parts()}
        own = {}
        for key, array in arrays.items():
            name, _, rest = key.partition("/")
            if rest and name in inner:
                inner[name][rest] = array
            else:
                own[key] = array
        self._check(own)
        for name, array in own.items():
            setattr(self, name, array[()])
        for name, part in self.parts().items():
            part.set_arrays(inner[name])
        return self

    def _check(self, arrays):
        kind = type(self).__name__
        if set(arrays) != set(self.LEARNED):
            raise ValueError(
                f"{kind} must be given the arrays {sorted(self.LEARNED)}. Received: "
                f"{sorted(arrays)}."
            )
        for name, array in arrays.items():
            if array.ndim != self.LEARNED[name] or array.dtype.kind not in "fiuU":
                raise ValueError(
                    f"`{name}` of {kind} must be numbers of {self.LEARNED[name]} dimensions. "
                    f"Received: {array.dtype}, shape={array.shape}."
                )
            if array.dtype.kind == "f" and np.isnan(array).any():
                raise ValueError(f"`{name}` of {kind} has values that are NaN.")
