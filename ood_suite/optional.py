"""Packages that not every installation has, or that talk while they start."""

import contextlib
import importlib.util
import os
import sys
import tempfile

from ood_suite.files import RunError

# Module -> the extra that brings it: pip install "ood-suite[extra]".
EXTRAS = {
    "Bio": "genomics",
    "jax": "jax",
    "importlib_resources": "tfds",
    "keras": "tensorflow",
    "onnx": "onnx",
    "ray": "ray",
    "safetensors": "tensorflow",
    "tensorflow": "tensorflow",
    "tensorflow_datasets": "tfds",
    "tensorflow_probability": "tensorflow",
    "tf2onnx": "onnx",
    "tf_keras": "tensorflow",
}


def optional(module):
    """The module; RunError that says how to get it where it is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise RunError(missing(error)) from error


def missing(error, default="eval"):
    """What to do about a ModuleNotFoundError of a package that is not ours.

    Args:
        default: the extra that brings what is not in EXTRAS.
    """
    name = (error.name or "").partition(".")[0]
    extra = EXTRAS.get(name, default)
    is_jax = os.environ.get("KERAS_BACKEND") == "jax"
    other = name == "tensorflow" and not is_jax and importlib.util.find_spec("jax")
    instead = " Or set KERAS_BACKEND=jax, which is installed." if other else ""
    return f"This needs {name}, which is not installed: pip install 'ood-suite[{extra}]'.{instead}"


@contextlib.contextmanager
def quietly():
    """Within the block what is written to standard error is shown only if the block fails: for the
    import of TensorFlow, which tells everybody about its processor, whatever the level of its log.
    """
    sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:  # there is no standard error
        yield
        return
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        except Exception:
            said.seek(0)
            os.write(kept, said.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
