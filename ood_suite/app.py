"""How every binary starts: absl flags, and errors that are the user's to mend as one line."""

import os

from absl import app, logging

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
