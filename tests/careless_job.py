"""A job that is not safe against kills, for the test of the script that kills jobs."""

import pathlib
import sys
import time

LINES = 200


def main(folder):
    with open(folder / "lines.tsv", "a", encoding="utf-8") as file:
        for number in range(LINES):
            print(number, file=file, flush=True)
            time.sleep(0.005)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
