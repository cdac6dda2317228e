"""Which files, and which of their records, become which class: `read_table`, `file_sources`."""

import collections
import csv
import dataclasses
import itertools
import pathlib
import re

from absl import logging

from genomics_ood import sequence_files

ROLES = ("id", "ood_val", "ood_test")
EACH_RECORD = "*"  # as the class of a row: every record of its file is a class
MOST_RECORDS = 1000  # that become classes of their own


@dataclasses.dataclass(frozen=True)
class Source:
    """One file of one class, or one record of it.

    Attributes:
        record: first word of the record's title; "" for all records of the file.
    """

    path: pathlib.Path
    class_name: str
    role: str
    lineage: str = ""
    record: str = ""


def read_table(path, per_record=False):
    """The Sources of a table; ValueError for missing columns, unknown roles or a class in two
    roles.

    Args:
        per_record: every record of a file is a class, as in rows whose class is EACH_RECORD.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}.")
    with open(path, newline="", encoding="utf-8-sig") as file:  # Excel writes a mark at its start
        table = [[cell.strip() for cell in row] for row in csv.reader(file, "excel-tab")]
    columns = table[0] if table else []
    if not {"file", "class", "role"} <= set(columns):
        raise ValueError(
            f"{path} must have the tab-separated columns file, class and role. Received: "
            f"{sorted(columns)}."
        )
    rows = [
        dict(itertools.zip_longest(columns, cells[: len(columns)], fillvalue=""))
        for cells in table[1:] if any(cells)
    ]  # fmt: skip
    for row in rows:
        if missing := [name for name in ("file", "class", "role") if not row[name]]:
            raise ValueError(f"{path}: a row has no {missing[0]}. Received: {row}.")
        if row["role"] not in ROLES:
            raise ValueError(f"{path}: role must be one of {', '.join(ROLES)}. Received: {row}.")
    found = [
        Source(path.parent / row["file"], row["class"], row["role"], row.get("lineage") or "")
        for row in rows
    ]
    _one_role(path, [s for s in found if s.class_name != EACH_RECORD])
    return _one_lineage(path, _one_role(path, check_sources(found, per_record)))


def _one_role(path, sources):
    """The sources; ValueError if two of one class have different roles."""
    roles = {}
    for source in sources:
        if roles.setdefault(source.class_name, source.role) != source.role:
            raise ValueError(f"{path}: the class {source.class_name} has two roles.")
    return sources


def _one_lineage(path, sources):
    """The sources, each with the lineage of its class; ValueError if a class has two."""
    known = {}
    for source in sources:
        if source.lineage and known.setdefault(source.class_name, source.lineage) != source.lineage:
            raise ValueError(f"{path}: the class {source.class_name} has two lineages.")
    return [dataclasses.replace(s, lineage=known.get(s.class_name, "")) for s in sources]


def file_sources(paths, per_record=False):
    """The Sources of files that are a class each, called as the file is without its endings, or
    with `per_record` of records that are a class each, called as their titles begin.
    """
    paths = [pathlib.Path(text) for text in paths]
    names = [re.sub(r"(\.(fa|fasta|fna|fq|fastq))?(\.gz)?$", "", path.name) for path in paths]
    if not per_record and len(set(names)) < len(names):
        raise ValueError(f"Two --files would be the same class: {', '.join(names)}. Use --table.")
    found = [Source(path, name, "id") for path, name in zip(paths, names, strict=True)]
    return check_sources(found, per_record)


def check_sources(sources, per_record):
    """The sources, those of records in place of whole files where that is asked for.

    Raises:
        FileNotFoundError: a file is missing. ValueError: one is given twice, or a record has the
            name of another, or of a class.
    """
    known, found = set(), []
    for source in sources:
        if not source.path.is_file():
            raise FileNotFoundError(f"There is no file {source.path}.")
        if source.path.resolve() in known:
            raise ValueError(f"{source.path} is given twice: its reads would be in two splits.")
        known.add(source.path.resolve())
        each = per_record or source.class_name == EACH_RECORD
        found += of_records(source) if each else [source]
    files = collections.Counter(source.class_name for source in found)
    for source in found:
        if source.record and files[source.class_name] > 1:
            raise ValueError(
                f"The record {source.record!r} of {source.path} is not the only one, or class, of "
                "that name: they would be the same class. Rename it."
            )
    return found


def of_records(source):
    """A Source for every record of a file, whose class is the first word of its title.

    Raises:
        ValueError: two of the same name, or so many that the file must be one of reads.
    """
    found = {}
    for title, _ in sequence_files.records(source.path):
        name = first_word(title)
        if name in found:
            raise ValueError(
                f"{source.path} has two records called {name!r}: they would be the same class."
            )
        if len(found) == MOST_RECORDS:
            raise ValueError(
                f"{source.path} has more than {MOST_RECORDS} records, which would be a class each: "
                "is it a file of reads? Leave out --per_record."
            )
        found[name] = dataclasses.replace(source, class_name=name, record=name)
    return list(found.values())


def first_word(title):
    """Of a record's title: its accession; "unnamed" for an empty one."""
    return (title.split() or ["unnamed"])[0]


def say_what_is_one_class(records):
    """Logs the files whose several records are taken for one class; {Source: records} of them."""
    for source, count in records.items():
        if count > 1 and not source.record:
            logging.warning(
                "%s has %d records, which are one class, %s: right for chromosomes, plasmids or "
                "contigs of one genome. Else --per_record makes each a class, or %s as its class "
                "in the table.", source.path, count, source.class_name, EACH_RECORD,
            )  # fmt: skip
