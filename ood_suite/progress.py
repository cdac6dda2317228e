"""Progress bars with one look; plain lines, now and then, where the output is no terminal."""

import shutil
import sys

from tqdm import tqdm

LINES_EVERY_S = 30
SHORT_S = 5  # what takes less is not worth a line


def progress(iterable=None, **options):
    """A tqdm bar on standard error, with tqdm's options (desc, unit, total, initial, disable)."""
    if sys.stderr.isatty():
        columns, rows = shutil.get_terminal_size()  # 80 x 24 where the terminal does not know
        return tqdm(iterable, mininterval=2, ncols=columns, nrows=rows, **options)
    lines = {"mininterval": LINES_EVERY_S, "delay": SHORT_S, "ncols": 0, "file": Lines(sys.stderr)}
    return tqdm(iterable, **options | lines)


def close_bars():
    """Ends what is on screen, before a last word."""
    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()


class Lines:
    """A stream on which what would overwrite a line becomes a line of its own."""

    def __init__(self, stream):
        self.stream = stream

    def write(self, text):
        """Writes the text of a bar, without what moves a cursor."""
        text = text.strip("\r\n ")
        if text:
            self.stream.write(f"{text}\n")

    def flush(self):
        self.stream.flush()


class AboveBars:
    """A stream whose lines stand above the bars that are on screen, for log records."""

    def write(self, text):
        tqdm.write(text, file=sys.stderr, end="")

    def flush(self):
        sys.stderr.flush()

    def close(self):
        """Standard error stays open."""
