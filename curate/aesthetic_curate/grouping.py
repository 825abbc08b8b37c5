"""Files to samples, by WebDataset's rule: one key, and what follows its dot.

The files of a sample need not follow each other. A file whose key already has that extension
belongs to a further sample of the same key, so that none is lost.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

_META = re.compile(r"__[^/]*__($|/)")  # WebDataset's own members
_FEW = 12  # files a sample up to which a walk over them is quicker than a set


def split_name(name: str) -> tuple[str, str] | None:
    """Key and lower-case extension of a tar member, or None where WebDataset ignores it.

    The key ends at the first dot of the file's name: "a/b.seg.PNG" is ("a/b", "seg.png").
    """
    folder, slash, file = name.rpartition("/")
    stem, _, extension = file.partition(".")
    if not stem or not extension or _META.match(name):
        return None
    return folder + slash + stem, extension.lower()


class Grouping:
    """Takes in files in their order; `groups` gives the samples."""

    def __init__(self) -> None:
        self._keys: list[str] = []  # by row
        self._first: dict[str, int] = {}  # key: its first row
        self._further: dict[int, list[int]] = {}  # first row of a key: its further rows
        self._repeats: dict[tuple[int, int], int] = {}  # (first row, extension): rows that have it
        self._rows = array("i")  # by member
        self._extensions = array("i")
        self._names: dict[str, int] = {}  # extension: its number
        # The members of each first row, linked from the last to the first; sets where many.
        self._last = array("i")
        self._previous = array("i")
        self._many: dict[int, set[int]] = {}
        self._counts = array("i")

    def add(self, key: str, extension: str) -> None:
        number = self._names.setdefault(extension, len(self._names))
        first = self._first.get(key)
        if first is None:
            first = self._new_row(key)
            self._first[key] = first
            row = first
        elif self._has(first, number):
            row = self._further_row(key, first, number)
        else:
            row = first
        member = len(self._rows)
        self._rows.append(row)
        self._extensions.append(number)
        self._previous.append(self._last[row])
        self._last[row] = member
        self._counts[row] += 1
        if first in self._many and row == first:
            self._many[first].add(number)

    def groups(self) -> Groups:
        """The samples; nothing can be added after."""
        return Groups(
            pa.array(self._keys, pa.string()),
            np.frombuffer(self._rows, np.int32) if self._rows else np.zeros(0, np.int32),
            np.frombuffer(self._extensions, np.int32) if self._rows else np.zeros(0, np.int32),
            list(self._names),
            duplicate_keys=len(self._keys) - len(self._first),
        )

    def _new_row(self, key: str) -> int:
        self._keys.append(key)
        self._last.append(-1)
        self._counts.append(0)
        return len(self._keys) - 1

    def _has(self, row: int, extension: int) -> bool:
        if self._counts[row] <= _FEW:
            member = self._last[row]
            while member >= 0:
                if self._extensions[member] == extension:
                    return True
                member = self._previous[member]
            return False
        if row not in self._many:
            self._many[row] = set()
            member = self._last[row]
            while member >= 0:
                self._many[row].add(self._extensions[member])
                member = self._previous[member]
        return extension in self._many[row]

    def _further_row(self, key: str, first: int, extension: int) -> int:
        """The earliest row of the key that lacks the extension: the rows that have it come first.

        That holds for each extension, since each of its members went to the earliest row.
        """
        having = self._repeats.get((first, extension), 1)
        self._repeats[first, extension] = having + 1
        further = self._further.setdefault(first, [])
        if having > len(further):
            further.append(self._new_row(key))
        return further[having - 1]


class Groups:
    """Samples by row and their members by number, in compact arrays."""

    def __init__(
        self,
        keys: pa.StringArray,
        rows: NDArray[np.int32],
        extensions: NDArray[np.int32],
        names: Sequence[str],
        duplicate_keys: int,
    ) -> None:
        self.keys = keys
        self.duplicate_keys = duplicate_keys
        self._extensions = extensions
        self._names = names
        counts = np.bincount(rows, minlength=len(keys)) if len(rows) else np.zeros(len(keys), int)
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        in_order = bool(np.all(rows[1:] >= rows[:-1]))
        self._order = None if in_order else np.argsort(rows, kind="stable").astype(np.int32)

    def __len__(self) -> int:
        return len(self.keys)

    def members(self, row: int) -> list[int]:
        """The numbers of a sample's members, in their order."""
        start, stop = int(self._starts[row]), int(self._starts[row + 1])
        if self._order is None:
            return list(range(start, stop))
        return [int(member) for member in self._order[start:stop]]

    def extension(self, member: int) -> str:
        return self._names[int(self._extensions[member])]

    def has(self, extension: str) -> bool:
        """Whether any member has this extension."""
        return extension in self._names

    def one_of(self, extension: str) -> NDArray[np.int64]:
        """(n,) the number of each sample's member with this extension, or -1."""
        return self._best({extension: 0}, np.arange(len(self._extensions)))[0]

    def images(self, extensions: Sequence[str]) -> tuple[NDArray[np.int64], int]:
        """(n,) the number of each sample's image to score, or -1; how many samples have several.

        An extension that is one of `extensions` as a whole goes before one whose last part is
        ("seg.png"); then their order decides, then the members'.
        """
        ranks = {name: rank for rank, name in reversed(list(enumerate(extensions)))}
        for name in self._names:
            last = name.rpartition(".")[2]
            if name not in ranks and last in ranks and last in extensions:
                ranks[name] = len(extensions) + extensions.index(last)
        return self._best(ranks, np.arange(len(self._extensions)))

    def _best(
        self, ranks: dict[str, int], members: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], int]:
        """Of each sample the member of the lowest rank, or -1; how many samples have several."""
        by_name = np.array([ranks.get(name, -1) for name in self._names] or [-1])
        order = members if self._order is None else self._order.astype(np.int64)
        rank = by_name[self._extensions[order]] if len(order) else np.zeros(0, np.int64)
        rows = np.repeat(np.arange(len(self)), np.diff(self._starts))
        chosen = rank >= 0
        order, rank, rows = order[chosen], rank[chosen], rows[chosen]
        best = np.full(len(self), -1, np.int64)
        # The last one written stays: the lowest rank, and of equals the first member.
        last_is_best = np.lexsort((-np.arange(len(order)), -rank))
        best[rows[last_is_best]] = order[last_is_best]
        several = int(np.sum(np.bincount(rows, minlength=1) > 1))
        return best, several
