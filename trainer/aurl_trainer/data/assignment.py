"""The split or group of each file, from the `dataset.split` section: by a pattern or by a CSV file."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from aurl_trainer.data.config import SplitConfig, SplitTableConfig
from aurl_trainer.data.errors import DatasetError
from aurl_trainer.data.shards import SplitName

KEY: Final = "dataset.split.table"
_SPLITS: Final[dict[str, SplitName]] = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}


class Assignment(NamedTuple):
    """The split of a file, or the name of a group that stays in one split; None if it is not assigned."""

    split: SplitName | None = None
    group: str | None = None


Assign = Callable[[str], Assignment]
"""Maps the name of a file, its path below the source's directory, to its assignment."""


def assignments(config: SplitConfig, volume: Path) -> Assign:
    """Return the function that assigns files. It raises DatasetError for a file that the table lacks."""
    if config.table is not None:
        return _Table(config.table, volume / config.table.path).of
    if config.group_pattern is None:
        return lambda name: Assignment()
    pattern = re.compile(config.group_pattern)

    def by_pattern(name: str) -> Assignment:
        match = pattern.search(name)
        return Assignment(group=match[min(1, pattern.groups)] if match else None)

    return by_pattern


class _Table:
    """The rows of a CSV file by file name."""

    def __init__(self, config: SplitTableConfig, path: Path) -> None:
        self._path = config.path
        self._rows: dict[str, Assignment] = {}
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                for number, row in self._read(file, config):
                    name = (row[config.file_column] or "").removeprefix("./")
                    found = self._assignment(row, config, number)
                    if self._rows.setdefault(name, found) != found:
                        raise DatasetError(
                            f"{KEY}.path: {config.path!r} assigns {name!r} twice, differently in row "
                            f"{number}; remove one of the rows."
                        )
        except OSError as error:
            raise DatasetError(f"{KEY}.path: {config.path!r} cannot be read: {error.strerror}.") from error
        except (ValueError, csv.Error) as error:
            raise DatasetError(f"{KEY}.path: {config.path!r} is not a CSV file ({error}).") from error

    def of(self, name: str) -> Assignment:
        """Return the assignment of a file; the table may leave out leading folders of its path."""
        parts = name.split("/")
        for start in range(len(parts)):
            found = self._rows.get("/".join(parts[start:]))
            if found is not None:
                return found
        raise DatasetError(
            f"{KEY}.path: {self._path!r} has no row for {name!r}; add one, or leave the file out with the "
            "pattern of the source."
        )

    @staticmethod
    def _read(file: Iterable[str], config: SplitTableConfig) -> Iterator[tuple[int, dict[str, str | None]]]:
        """Yield the number of each row, counted from the header as 1, and its values by column."""
        reader = csv.DictReader(file)
        for key, column in (
            ("fileColumn", config.file_column),
            ("splitColumn", config.split_column),
            ("groupColumn", config.group_column),
        ):
            if column is not None and column not in (reader.fieldnames or ()):
                raise DatasetError(
                    f"{KEY}.{key}: {config.path!r} has no column {column!r}; "
                    f"it has {', '.join(reader.fieldnames or ()) or 'none'}."
                )
        yield from enumerate(reader, 2)

    @staticmethod
    def _assignment(row: dict[str, str | None], config: SplitTableConfig, number: int) -> Assignment:
        if config.split_column is None:
            return Assignment(group=row[config.group_column or ""] or None)
        value = row[config.split_column] or ""
        split = _SPLITS.get(value.strip().lower())
        if split is None:
            raise DatasetError(
                f"{KEY}.splitColumn: row {number} of {config.path!r} has {value!r}; "
                "it must be train, validation or test."
            )
        return Assignment(split=split)
