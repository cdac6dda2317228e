"""How every binary starts: absl flags, and errors that are the user's to mend as one line."""

import dataclasses
import importlib
import os
import sys

from absl import app, flags, logging

from ood_suite.files import RunError

# TensorFlow's variable and value for one operation after another. Side by side, which of them ends
# first decides the order of some sums, and now and then a training differs in its last bits
# (benchmarks/repeatability.py counts how often).
ONE_AT_A_TIME = ("TF_NUM_INTEROP_THREADS", "1")
# Errors whose message says what to mend; any other one shows where it came from.
MENDABLE = (ValueError, RunError, OSError, FloatingPointError)
flags.disclaim_key_flags()  # what is defined here belongs to the binary, also in --help


def optional(module):
    """A module that not every installation has; RunError that says how to get it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0].replace("_", "-")
        raise RunError(
            f"This needs {package}, which is not installed: pip install {package}."
        ) from error


def run_app(main, positional=False):
    """Parses the flags and calls main(argv); exit code 1 and one line for an error that the user
    can mend.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault(*ONE_AT_A_TIME)
    logging.set_verbosity(logging.INFO)

    def guarded(argv):
        try:
            if len(argv) > 1 and not positional:
                raise ValueError(f"Unexpected argument {argv[1]!r}. Flags look like --name=value.")
            main(argv)
        except BrokenPipeError as error:  # the reader of our output, such as head, has enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(141) from error
        except MENDABLE as error:
            raise SystemExit(f"Error: {error}") from error

    app.run(guarded)


def define_setting_flags(settings, help_texts, choices=None, without=()):
    """One flag for every field of a dataclass that has a help text; None keeps the field's value.

    Args:
        help_texts: {field: text}. choices: {field: (values, text)}. without: fields to leave out.
    """
    define = {bool: flags.DEFINE_bool, float: flags.DEFINE_float, int: flags.DEFINE_integer}
    for field in dataclasses.fields(settings):
        if field.name in without:
            continue
        if field.name in help_texts:
            make = define.get(field.type, flags.DEFINE_float)  # a float that may be None
            make(field.name, None, help_texts[field.name])
        elif field.name in (choices or {}):
            flags.DEFINE_enum(field.name, None, *choices[field.name])


def flag_overrides(experiment):
    """{field: value} of the flags that carry the name of a field of the experiment and are set."""
    found = {}
    for field in dataclasses.fields(experiment):
        if field.name in flags.FLAGS and flags.FLAGS[field.name].value is not None:
            found[field.name] = flags.FLAGS[field.name].value
    return found
