"""What the package brings along: embedded samples and trained models."""

import importlib.resources
import pathlib
import shutil

from absl import logging

COPIES = pathlib.Path("output")


def resource(package):
    """The folder of a data package: image_data, genomics_data, pretrained."""
    return pathlib.Path(str(importlib.resources.files(package)))


def run_folder(text):
    """The path of a run. A shipped one, such as pretrained/images_fashion, which is not there as a
    path, is copied to output/pretrained first: evaluations write into a run's folder.
    """
    path = pathlib.Path(text)
    if path.exists() or path.is_absolute() or path.parts[:1] != ("pretrained",):
        return path
    source = resource("pretrained").joinpath(*path.parts[1:])
    if ".." in path.parts or not source.is_dir():
        return path
    copy = COPIES / path
    if not copy.exists():
        partial = copy.with_name(f".partial-{copy.name}")
        shutil.copytree(source, partial, dirs_exist_ok=True)
        partial.rename(copy)
        logging.info("The shipped run is copied to %s.", copy)
    return copy
