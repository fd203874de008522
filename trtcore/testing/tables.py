"""Conformance tables: what a pack's converters do with PyTorch's own samples, as data that comes with the pack.

A pack keeps one JSON file per operator family in a folder ``conformance`` of its package; `load_tables` reads them,
without importing torch. ``tests/conformance/run.py --publish`` writes those of the ATen pack.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = 1


@dataclass(frozen=True)
class Refusal:
    """Samples of an operator that stay in torch for one reason.

    Attributes:
        reason: as the report gives it, numbers as in `example`.
        samples: how many.
        example: the arguments of the first of them.
    """

    reason: str
    samples: int
    example: str


@dataclass(frozen=True)
class OpRow:
    """An operator's samples by outcome, see `trtcore.testing.opinfo`.

    Attributes:
        op: its name in `op_db`.
        passed, refused, failed: numbers of samples.
        foreign: samples with a dtype of which TensorRT has none; on no account.
        dtypes: dtype -> (passed, refused, failed).
        refusals: the most frequent reason first.
        overloads: the ATen overloads that the samples were traced to.
    """

    op: str
    passed: int
    refused: int
    failed: int
    foreign: int
    dtypes: Mapping[str, tuple[int, int, int]]
    refusals: tuple[Refusal, ...] = ()
    overloads: tuple[str, ...] = ()


@dataclass(frozen=True)
class FamilyTable:
    """The operators of a family, and what they were run with.

    Attributes:
        family: its name.
        rows: one per operator.
        about: "date"; "torch" and "backend", the versions that it was run with; "at_most", how many samples of an
            operator, variant and dtype were run at most.
    """

    family: str
    rows: tuple[OpRow, ...]
    about: Mapping[str, Any]

    def total(self, outcome: str) -> int:
        """Number of samples with an outcome ("passed", "refused", "failed", "foreign")."""
        return sum(getattr(row, outcome) for row in self.rows)

    @property
    def refused_share(self) -> float:
        """Refused samples among those that passed, were refused or failed."""
        whole = sum(map(self.total, ("passed", "refused", "failed")))
        return self.total("refused") / whole if whole else 0.0

    def to_json(self) -> str:
        """The file's text."""
        return json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> FamilyTable:
        """The table of a file's text.

        Raises:
            ValueError: it is no table of this schema.
        """
        data = json.loads(text)
        if data.pop("schema", None) != SCHEMA:
            raise ValueError(f"no conformance table of schema {SCHEMA}")
        rows = tuple(
            OpRow(
                **{
                    **row,
                    "dtypes": {dtype: tuple(counts) for dtype, counts in row["dtypes"].items()},
                    "refusals": tuple(Refusal(**refusal) for refusal in row["refusals"]),
                    "overloads": tuple(row["overloads"]),
                }
            )
            for row in data["rows"]
        )
        return cls(data["family"], rows, data["about"])


def load_tables(package: str = "trtcore_converters") -> tuple[FamilyTable, ...]:
    """The tables that come with an installed pack, by family name; none where it has no folder ``conformance``.

    Args:
        package: the Python package of the pack.
    """
    folder = files(package) / "conformance"
    if not folder.is_dir():
        return ()
    found = [
        FamilyTable.from_json(file.read_text(encoding="utf-8"))
        for file in folder.iterdir()
        if file.name.endswith(".json")
    ]
    return tuple(sorted(found, key=lambda table: table.family))


def write_table(table: FamilyTable, folder: Path) -> Path:
    """Write a table to its file in a folder (``view_and_shape.json``)."""
    folder.mkdir(parents=True, exist_ok=True)
    name = "_".join(table.family.replace(",", "").split())
    path = folder / f"{name}.json"
    path.write_text(table.to_json(), encoding="utf-8")
    return path
