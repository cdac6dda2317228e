"""How every binary starts: absl flags, and errors that are the user's to mend as one line."""

import dataclasses
import os

from absl import app, flags, logging

from ood_suite.runs import RunError


def run_app(main):
    """Parses the flags and calls main(argv); exit code 1 and one line for an error that the user
    can mend.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.set_verbosity(logging.INFO)

    def guarded(argv):
        try:
            if len(argv) > 1:
                raise ValueError(f"Unexpected argument {argv[1]!r}. Flags look like --name=value.")
            main(argv)
        except (ValueError, RunError, FileNotFoundError, FloatingPointError) as error:
            raise SystemExit(f"Error: {error}") from error

    app.run(guarded)


def flag_overrides(experiment):
    """{field: value} of the flags that carry the name of a field of the experiment and are set."""
    found = {}
    for field in dataclasses.fields(experiment):
        if field.name in flags.FLAGS and flags.FLAGS[field.name].value is not None:
            found[field.name] = flags.FLAGS[field.name].value
    return found
