"""How every binary starts: absl flags, log lines above progress bars, and errors that are the
user's to mend as one line. The flags that several binaries share are defined and read here.
"""

import ast
import dataclasses
import logging as python_logging
import os
import shlex
import sys
from collections.abc import Callable
from typing import Any

from absl import app, flags, logging

from ood_suite import shipped
from ood_suite.data.layouts import Folders
from ood_suite.files import MENDABLE
from ood_suite.optional import missing
from ood_suite.progress import AboveBars, close_bars
from ood_suite.runs import jobs
from ood_suite.runs.run import is_plain
from ood_suite.runs.settings import declared, kind_of, known_name, replaced
from ood_suite.runs.sweep import sweep

FLAGS = flags.FLAGS
flags.disclaim_key_flags()  # what is defined here belongs to the binary, also in --help
TENSORFLOW_ERRORS_ONLY = ("TF_CPP_MIN_LOG_LEVEL", "3")


def run_app(main, positional=False, continues=True):
    """Parses the flags and calls main(argv); exit code 1 and one line for an error that the user
    can mend.

    Args:
        positional: whether words that are no flags are taken.
        continues: whether the same command goes on where it was interrupted, or starts again; or
            a function that says so, of flags.
    """
    for name, value in (TENSORFLOW_ERRORS_ONLY, jobs.ONE_AT_A_TIME):
        os.environ.setdefault(name, value)
    logging.set_verbosity(logging.INFO)
    python_logging.getLogger("tensorflow").setLevel("ERROR")  # its warnings are for programmers
    logging.get_absl_handler().python_handler.stream = AboveBars()

    def guarded(argv):
        try:
            if len(argv) > 1 and not positional:
                raise ValueError(f"Unexpected argument {argv[1]!r}. Flags look like --name=value.")
            main(argv)
        except KeyboardInterrupt as error:
            close_bars()
            goes_on = continues() if callable(continues) else continues
            does = "continues" if goes_on else "starts again"
            print(f"\nInterrupted. This command {does}: {_own_command()}", file=sys.stderr)
            raise SystemExit(130) from error
        except BrokenPipeError:  # is an OSError, and no error
            raise
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0].endswith(("_ood", "ood_suite")):
                raise
            raise SystemExit(f"Error: {missing(error)}") from error
        except MENDABLE as error:
            raise SystemExit(f"Error: {error}") from error

    try:
        app.run(guarded)
    except BrokenPipeError as error:  # the reader of our output, such as head, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from error


def _own_command():
    spec = sys.modules["__main__"].__spec__
    start = ["python", "-m", spec.name] if spec else sys.argv[:1]
    return shlex.join([*start, *sys.argv[1:]])


def run_folder():
    """The folder of --run. A shipped run that is not below this folder is copied to output/."""
    return shipped.run_folder(FLAGS.run)


def define_run(help, checkpoint=True):
    """--run, and --checkpoint where a run's other models can be taken."""
    flags.DEFINE_string("run", None, help)
    flags.mark_flag_as_required("run")
    if checkpoint:
        known = "last, best, first, epoch_<n>, step_<n>"
        flags.DEFINE_string("checkpoint", "last", f"Its model: {known}.")


def define_ckpt_step():
    """--ckpt_step, the reference's word for one --checkpoint of a density."""
    flags.DEFINE_integer(
        "ckpt_step", None, "Step of its model, of a density: short for --checkpoint=step_<n>.",
        lower_bound=1,
    )  # fmt: skip


def checkpoint():
    """The model of a run that --checkpoint or --ckpt_step names."""
    if FLAGS.ckpt_step is None:
        return FLAGS.checkpoint or "last"
    if FLAGS["checkpoint"].present:
        raise ValueError("--checkpoint and --ckpt_step both choose a model: leave one out.")
    return f"step_{FLAGS.ckpt_step}"


def define_data_dir(default):
    """--data_dir, and where images are read --data_root."""
    flags.DEFINE_string("data_dir", None, f"Folder of the npz files; default: {default}.")
    if default != "genomics_data":
        flags.DEFINE_string(
            "data_root", None, "Folder of data sets as the papers keep them; `ood data` lists it."
        )


def data_dir():
    """What library code takes as a `data_dir`: --data_dir, with --data_root where it is given."""
    if "data_root" not in FLAGS or not FLAGS.data_root:
        return FLAGS.data_dir
    return Folders(FLAGS.data_dir, FLAGS.data_root)


def define_name(default, help):
    """--name, of a folder or file that is made in another flag's place and nowhere else."""
    flags.DEFINE_string("name", default, help)
    flags.register_validator(
        "name", lambda name: name is None or is_plain(name), "must be a plain name, without a /"
    )


def define_experiment(experiments, exp, out_dir, data_dir, settings, without=()):
    """--exp, --out_dir, --data_dir, and one flag for every declared setting of an experiment."""
    flags.DEFINE_string("exp", exp, f"Experiment: {', '.join(experiments)}.")
    flags.DEFINE_string("out_dir", out_dir, "Where the experiments' folders go.")
    define_data_dir(data_dir)
    define_settings(settings, without)


def define_settings(settings, without=()):
    """One flag for every declared field of a dataclass; a flag that is not given keeps the value
    of the experiment.

    Args:
        without: fields to leave out.
    """
    define: dict[type, Callable] = {
        bool: flags.DEFINE_bool,
        dict: flags.DEFINE_list,
        float: flags.DEFINE_float,
        int: flags.DEFINE_integer,
        str: flags.DEFINE_string,
        tuple: flags.DEFINE_list,
    }
    for name, (field, known) in declared(settings).items():
        if name in without:
            continue
        kind = kind_of(field)
        limits = known.limits(kind is int)
        text = known.help + (f" Must {limits}." if limits and not known.choices else "")
        if field.default is not dataclasses.MISSING and field.default not in (None, "", ()):
            text += f" Default: {_text(field.default)}"
            text += ", or the experiment's own." if "exp" in FLAGS else "."
        if known.choices:
            flags.DEFINE_enum(name, None, [str(choice) for choice in known.choices], text)
        else:
            define[kind](name, None, text)


def _text(value):
    return ",".join(map(str, value)) if isinstance(value, tuple) else f"{value}"


def overrides(settings):
    """{field: value} of the flags that carry the name of a declared field and were given."""
    found = {}
    for name, (field, _) in declared(settings).items():
        if name in FLAGS and FLAGS[name].value is not None:
            value: Any = FLAGS[name].value
            if kind_of(field) is dict:
                value = _options(value)
            elif kind_of(field) is tuple:
                default: Any = field.default
                of_numbers = bool(default) and isinstance(default[0], float)
                value = numbers(name) if of_numbers else tuple(value)
            found[name] = value
    return found


def numbers(name, kind=float):
    """The values of a list flag as numbers, each once."""
    return tuple(dict.fromkeys(sizes(name, kind)))


def sizes(name, kind=int):
    """The values of a list flag as numbers, as they stand there."""
    texts = FLAGS[name].value or ()
    try:
        return [kind(text) for text in texts]
    except ValueError as error:
        wanted = "whole numbers" if kind is int else "numbers"
        raise ValueError(f"--{name} must be {wanted}. Received: {','.join(texts)}.") from error


def _options(pairs):
    """{"depth": 40, "affine": False} of ["depth=40", "affine=False"]."""
    options = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise ValueError(f"--options must be name=value pairs. Received: {pair!r}.")
        try:
            options[name.strip()] = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError):
            options[name.strip()] = text.strip()
    return options


def experiment(experiments, replace=replaced):
    """The experiment named by --exp, with the values of the flags that were given.

    Args:
        replace: function(experiment, overrides).
    """
    name = known_name(experiments, FLAGS.exp, "experiment")
    FLAGS["exp"].value = name  # the folder is called so too
    found = experiments[name]
    return replace(found, overrides(found))


def define_repeat_id():
    flags.DEFINE_integer("repeat_id", 0, "Number of the independent repeat.", lower_bound=0)


def engine():
    """The Engine of the flags, and this process made ready for it, before TensorFlow starts."""
    found = jobs.Engine(**overrides(jobs.Engine))
    jobs.prepare(found)
    return found


def define_sweep():
    """The flags of a sweep beside those of its experiment."""
    flags.DEFINE_integer("repeats", 1, "Independent repeats of everything.", lower_bound=1)
    define_settings(jobs.Engine)


def trains(function, experiments, replace=replaced, more=()):
    """What a training's binary does, as a function for `run_app`.

    Args:
        function: "package.module:function", see `jobs.Job`, or a function of the experiment that
            says which; it takes experiment, exp, out_dir, data_dir and repeat_id.
        more: names of flags that it takes too.
    """

    def main(_):
        names = ("exp", "out_dir", "data_dir", "repeat_id", *more)
        asked = experiment(experiments, replace)
        arguments = {name: FLAGS[name].value for name in names} | {"data_dir": data_dir()}
        arguments["experiment"] = asked
        jobs.call(jobs.Job("training", _named(function, asked), arguments))

    return main


def sweeps(train, experiments, replace=replaced):
    """What a sweep's binary does, as a function for `run_app`; see runs.sweep and `trains`."""

    def main(_):
        prepared, names = engine(), ("exp", "out_dir", "data_dir", "repeats")
        asked = experiment(experiments, replace)
        arguments = {name: FLAGS[name].value for name in names} | {"data_dir": data_dir()}
        sweep(asked, train=_named(train, asked), engine=prepared, **arguments)

    return main


def _named(function, asked):
    """The name of the training that an experiment asks for."""
    return function if isinstance(function, str) else function(asked)
