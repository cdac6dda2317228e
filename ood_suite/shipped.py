"""What the package brings along: embedded samples and trained models."""

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
    if ".." in path.parts or not source.is_dir():
        return path
    whole = pathlib.Path(*path.parts[:2])
    copy = COPIES / whole
    if not copy.exists():
        make_folder(copy.parent)
        partial = tempfile.mkdtemp(prefix=f".partial-{copy.name}-", dir=copy.parent)
        shutil.copytree(resource("pretrained") / whole.name, partial, dirs_exist_ok=True)
        try:
            pathlib.Path(partial).rename(copy)
            logging.info("The shipped run is copied to %s.", copy)
        except OSError:  # another process was faster
            shutil.rmtree(partial)
    return COPIES / path
