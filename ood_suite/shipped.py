"""What the package brings along: embedded samples and trained models."""

import contextlib
import importlib.resources
import pathlib
import shutil
import tempfile

from absl import logging

from ood_suite.files import make_folder

COPIES = pathlib.Path("output")


def resource(package):
    """The folder of a data package: image_data, genomics_data, pretrained."""
    return pathlib.Path(str(importlib.resources.files(package)))


def run_folder(text):
    """The path of a run. A shipped one, such as pretrained/images_fashion, which is not there as a
    path, is copied to output/pretrained first, with the runs beside it: evaluations write into a
    run's folder.
    """
    path = pathlib.Path(text)
    if path.exists() or path.is_absolute() or path.parts[:1] != ("pretrained",):
        return path
    source = resource("pretrained").joinpath(*path.parts[1:])
    if ".." in path.parts or len(path.parts) < 2 or not source.is_dir():
        return path
    whole = resource("pretrained") / path.parts[1]
    copy = COPIES / "pretrained" / path.parts[1]
    make_folder(copy)
    for part in whole.iterdir():  # of a copy that is there, what it lacks
        if not (copy / part.name).exists():
            _copy(part, copy / part.name)
            logging.info("Of the shipped run %s is copied to %s.", part.name, copy)
    return COPIES / path


def _copy(source, target):
    """Copies a file or folder, which is there only when whole."""
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=target.parent) as folder:
        partial = pathlib.Path(folder) / target.name
        if source.is_dir():
            shutil.copytree(source, partial)
        else:
            shutil.copy(source, partial)
        with contextlib.suppress(OSError):  # another process was faster
            partial.rename(target)
