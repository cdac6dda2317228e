"""Packages that not every installation has."""

import importlib

from ood_suite.files import RunError

# Module -> the extra that brings it: pip install "ood-suite[extra]".
EXTRAS = {
    "Bio": "genomics",
    "jax": "jax",
    "keras": "tensorflow",
    "ray": "ray",
    "tensorflow": "tensorflow",
    "tensorflow_datasets": "tfds",
    "tensorflow_probability": "tensorflow",
}


def optional(module):
    """The module; RunError that says how to get it where it is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get(module.partition(".")[0], "all")
        raise RunError(
            f"This needs {error.name}, which is not installed: pip install 'ood-suite[{extra}]'."
        ) from error
