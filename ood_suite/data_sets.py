"""Lists the data sets below a folder: what is there, how many images, what is missing and where it
is to be had.

    python -m ood_suite.data_sets --data_root=FOLDER
    ood data --data_root=FOLDER

The folders are those of the papers' repositories and of OpenOOD, see docs/data.md. Files are opened
and counted, images are not decoded; nothing is downloaded.
"""

from absl import flags

from ood_suite import data
from ood_suite.data import layouts, readers
from ood_suite.runs import cli

FLAGS = flags.FLAGS
ANY_SHAPE = (32, 32, 3)  # for opening folders: no image is decoded


def found(root, name, split):
    """(place, reader, images) of a split below a folder, or None where it is missing. What cannot
    be read has its error in the place of the number.
    """
    path = layouts.find(root, name, split)
    if path is None:
        return None
    title = readers.READERS[readers.kind_of(path)].title
    try:
        count = len(data.load(name, split, layouts.Folders(data_root=str(root)), ANY_SHAPE))
    except (OSError, ValueError) as error:
        return path.relative_to(root), title, f"cannot be read: {error}"
    return path.relative_to(root), title, f"{count:,} images"


def lines(root):
    """Yields the lines of the list: what is there by name and split, then what is missing."""
    missing = []
    for name, layout in layouts.LAYOUTS.items():
        rows = {split: found(root, name, split) for split in ("train", "val", "test")}
        if not layout.train:  # read as they are, whatever the split
            rows = {"all": rows["test"]}
        for split, row in rows.items():
            if row is not None:
                place, title, count = row
                yield f"{name:<14} {split:<5} {count:>16}  {title}, {place}"
        if not any(rows.values()):
            missing.append(name)
    yield ""
    for name in missing:
        layout = layouts.LAYOUTS[name]
        yield f"{name:<14} missing. Put it in as {' or '.join(layout.places[:2])}."
        yield f"{'':<14} To be had from {layout.source}."


def main(_):
    root = layouts.root_of(layouts.Folders(data_root=FLAGS.data_root))
    print(f"Data sets in {root}:")
    for line in lines(root):
        print(line)


if __name__ == "__main__":
    flags.DEFINE_string("data_root", ".", "Folder of data sets as the papers keep them.")
    cli.run_app(main)
