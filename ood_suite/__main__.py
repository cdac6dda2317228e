"""The command `ood`: every binary of the package as a sub-command.

ood                                          # what there is
ood eval --run=RUN                           # is python -m ood_suite.eval --run=RUN
ood images train --exp=fashion               # is python -m images_ood.train --exp=fashion
ood eval --help
"""

import ast
import difflib
import importlib.util
import os
import pathlib
import runpy
import sys

from ood_suite import __version__
from ood_suite.optional import missing

# Sub-command -> the module that is run.
COMMANDS = {
    "benchmark": "ood_suite.benchmark",
    "calibrate": "ood_suite.calibrate",
    "classifier ablate_leave_out": "classifier_ood.ablate_leave_out",
    "classifier convert": "classifier_ood.convert",
    "classifier estimate_loss": "classifier_ood.estimate_loss",
    "classifier finetune": "classifier_ood.finetune",
    "classifier own_model": "classifier_ood.own_model",
    "classifier train": "classifier_ood.train",
    "classifier train_leave_out": "classifier_ood.train_leave_out",
    "compare": "ood_suite.compare",
    "data": "ood_suite.data_sets",
    "eval": "ood_suite.eval",
    "extract": "ood_suite.extract",
    "genomics fasta_to_np": "genomics_ood.fasta_to_np",
    "genomics records_to_np": "genomics_ood.records_to_np",
    "genomics screen": "genomics_ood.screen",
    "genomics sweep": "genomics_ood.sweep",
    "genomics train": "genomics_ood.train",
    "genomics train_classifier": "genomics_ood.train_classifier",
    "images convert": "images_ood.convert",
    "images notmnist_to_np": "images_ood.notmnist_to_np",
    "images sample": "images_ood.sample",
    "images sweep": "images_ood.sweep",
    "images tfds_to_np": "images_ood.tfds_to_np",
    "images train": "images_ood.train",
    "monitor": "ood_suite.monitor",
    "screen": "ood_suite.screen",
}

# Module or package -> the extra of its commands, if not "tensorflow": words are only counted.
EXTRAS = {
    "genomics_ood": "genomics",
    "genomics_ood.train_classifier": "tensorflow",
    "ood_suite": "eval",
}


def overview():
    """All sub-commands with the first sentence of their pages."""
    lines = [
        "ood: out-of-distribution detection on Keras 3.",
        "",
        "Usage: ood COMMAND [--flags]",
        "",
    ]
    lines += [f"  {name:<28} {_summary(module)}" for name, module in COMMANDS.items()]
    return "\n".join([*lines, "", "ood COMMAND --help explains each; --version tells the version."])


def _summary(module):
    """The first sentence of a module's docstring, which is not imported for it."""
    path = pathlib.Path(importlib.util.find_spec(module).origin)
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))).split("\n\n")[0]
    return " ".join(text.split()).split(": ")[0].split(". ")[0].rstrip(".")


def parse(arguments):
    """(module, its arguments); ValueError for a command that there is not."""
    for words in (2, 1):
        name = " ".join(arguments[:words])
        if name in COMMANDS:
            return COMMANDS[name], arguments[words:]
    if arguments[0].startswith("-"):
        raise ValueError(f"The command comes before its flags: ood COMMAND {arguments[0]}")
    asked = " ".join(word for word in arguments[:2] if not word.startswith("-"))
    close = difflib.get_close_matches(asked, COMMANDS, 1) or [
        name for name in COMMANDS if name.split()[0] == arguments[0]
    ]
    hint = f" Did you mean: {', '.join(close)}?" if close else ""
    raise ValueError(f"There is no command {asked!r}.{hint} `ood` lists them all.")


def main():
    """Runs the sub-command in sys.argv."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        try:
            print(overview(), flush=True)
        except BrokenPipeError:  # the reader, such as head, has enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    if arguments[0] == "--version":
        print(f"ood-suite {__version__}")
        return
    try:
        module, rest = parse(arguments)
    except ValueError as error:
        raise SystemExit(f"Error: {error}") from error
    sys.argv = [f"ood {' '.join(arguments[: len(arguments) - len(rest)])}", *rest]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except ModuleNotFoundError as error:
        package = module.split(".")[0]
        if (error.name or "").startswith(("ood_suite", package)):
            raise
        extra = EXTRAS.get(module) or EXTRAS.get(package, "tensorflow")
        raise SystemExit(f"Error: {missing(error, extra)}") from error


if __name__ == "__main__":
    main()
