"""Inverses, determinants, solutions and Cholesky factors of small matrices, step by step.

TensorRT has no layer for them. Written out they are Gaussian elimination with partial pivoting and the outer-product
form of Cholesky (Golub and Van Loan, Matrix Computations, 3.4 and 4.2), about as accurate as LAPACK's, which torch
calls. The number of layers grows with the number of rows, hence `MOST_ROWS`. Where torch raises, for a singular matrix
or one that is not positive definite, an engine gives infinities or NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

aten = torch.ops.aten

MOST_ROWS = 16
"""Matrices with more rows stay in torch."""


def _rows(a: torch.Tensor) -> int:
    """How many rows a square matrix has.

    Raises:
        ValueError: the number varies, or is more than `MOST_ROWS`; TensorRT has no such numbers.
    """
    rows: Any = a.shape[-1]
    if not isinstance(rows, int) or not isinstance(a.shape[-2], int):
        raise ValueError("the number of rows of the matrices varies from call to call")
    if not 1 <= rows <= MOST_ROWS:
        raise ValueError(
            f"matrices of {rows} rows: written out for 1 to {MOST_ROWS}, where that is cheaper than a cut"
        )
    if a.dtype != torch.float32:
        raise ValueError(f"matrices of {a.dtype}, and elimination is written in float32")
    return rows


class _Eliminated:
    """Gauss-Jordan elimination of ``[a | b]`` with partial pivoting.

    Attributes:
        solution: ``inverse(a) @ b``; None without b.
        pivots: of a.
        sign: of the row changes.
        info: as LAPACK gives it: 0, or the first pivot, counted from 1, that is zero. int32.
    """

    def __init__(self, a: torch.Tensor, b: torch.Tensor | None) -> None:
        rows = _rows(a)
        left = a if b is None else torch.cat([a, b], -1)
        self.pivots: list[torch.Tensor] = []
        self.sign = torch.ones_like(a[..., 0, 0])
        self.info = torch.zeros_like(self.sign, dtype=torch.int32)
        done: torch.Tensor | None = None  # rows above the pivot's
        for step in range(rows):
            left, pivot_row = self._with_pivot_first(left)
            pivot = pivot_row[..., :1]
            self._note(pivot[..., 0, 0], step)
            tail = pivot_row[..., 1:] / pivot
            if b is not None:
                above = [] if done is None else [done[..., 1:] - done[..., :1] * tail]
                done = torch.cat([*above, tail], -2)
            if step < rows - 1:
                rest = left[..., 1:, :]
                left = rest[..., 1:] - rest[..., :1] * tail
        self.solution = done

    def _with_pivot_first(self, left: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The rows that are left, with the one of the largest first element in the first one's place; and that row."""
        if left.shape[-2] == 1:
            return left, left
        best = left[..., 0].abs().argmax(-1, keepdim=True)
        chosen = (torch.arange(left.shape[-2], device=left.device) == best)[..., None]
        pivot_row = torch.where(chosen, left, 0.0).sum(-2, keepdim=True)
        first = left[..., :1, :]
        self.sign = torch.where(best[..., 0] == 0, self.sign, -self.sign)
        return torch.where(chosen, first, left), pivot_row

    def _note(self, pivot: torch.Tensor, step: int) -> None:
        self.pivots.append(pivot)
        zero = (pivot == 0) & (self.info == 0)
        self.info = torch.where(zero, torch.full_like(self.info, step + 1), self.info)


def _inverse_and_info(a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    unit = torch.eye(_rows(a), dtype=a.dtype, device=a.device).expand_as(a)
    found = _Eliminated(a, unit)
    assert found.solution is not None
    return found.solution, found.info


def _inv(a: torch.Tensor) -> torch.Tensor:
    return _inverse_and_info(a)[0]


def _inv_ex(a: torch.Tensor, check_errors: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    return _inverse_and_info(a)


def _det(a: torch.Tensor) -> torch.Tensor:
    found = _Eliminated(a, None)
    determinant = found.sign
    for pivot in found.pivots:
        determinant = determinant * pivot
    return determinant


def _slogdet(a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The sign, and the logarithms of the pivots: their product may leave the range."""
    found = _Eliminated(a, None)
    sign, total = found.sign, torch.zeros_like(found.sign)
    for pivot in found.pivots:
        sign, total = sign * pivot.sign(), total + pivot.abs().log()
    return sign, total


def _logdet(a: torch.Tensor) -> torch.Tensor:
    sign, total = _slogdet(a)
    return torch.where(sign < 0, torch.full_like(total, torch.nan), total)


def _solve(a: torch.Tensor, b: torch.Tensor, *, left: bool = True) -> torch.Tensor:
    if not left:
        if b.dim() == 1 or (a.dim() - 1 == b.dim() and b.shape == a.shape[:-1]):
            return _solve(a, b)
        return _solve(a.mT, b.mT).mT
    vector = b.dim() == 1 or (a.dim() - 1 == b.dim() and b.shape == a.shape[:-1])
    columns = b.unsqueeze(-1) if vector else b
    shape = torch.broadcast_shapes(a.shape[:-2], columns.shape[:-2])  # type: ignore[no-untyped-call]
    found = _Eliminated(a.expand(*shape, *a.shape[-2:]), columns.expand(*shape, *columns.shape[-2:]))
    assert found.solution is not None
    return found.solution.squeeze(-1) if vector else found.solution


def _cholesky_and_info(a: torch.Tensor, upper: bool) -> tuple[torch.Tensor, torch.Tensor]:
    rows, left, columns = _rows(a), a.mT if upper else a, []
    info = torch.zeros_like(a[..., 0, 0], dtype=torch.int32)
    for step in range(rows):
        square = left[..., :1, :1]
        wrong = ~(square[..., 0, 0] > 0) & (info == 0)
        info = torch.where(wrong, torch.full_like(info, step + 1), info)
        column = left[..., :, :1] / square.sqrt()
        columns.append(torch.nn.functional.pad(column, (0, 0, step, 0)))
        if step < rows - 1:
            below = column[..., 1:, :]
            left = left[..., 1:, 1:] - below * below.mT
    lower = torch.cat(columns, -1)
    return (lower.mT if upper else lower), info


def _cholesky(a: torch.Tensor, upper: bool = False) -> torch.Tensor:
    return _cholesky_and_info(a, upper)[0]


def _cholesky_keyword(a: torch.Tensor, *, upper: bool = False) -> torch.Tensor:
    return _cholesky_and_info(a, upper)[0]


def _cholesky_ex(
    a: torch.Tensor, *, upper: bool = False, check_errors: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    return _cholesky_and_info(a, upper)


def _solve_triangular(
    a: torch.Tensor, b: torch.Tensor, *, upper: bool, left: bool = True, unitriangular: bool = False
) -> torch.Tensor:
    """Substitution, from the row that has one unknown on."""
    if not left:
        return _solve_triangular(a.mT, b.mT, upper=not upper, unitriangular=unitriangular).mT
    rows = _rows(a)
    shape = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])  # type: ignore[no-untyped-call]
    a, rest = a.expand(*shape, rows, rows), b.expand(*shape, *b.shape[-2:])
    found: list[torch.Tensor] = []
    for step in range(rows):
        at = rows - 1 - step if upper else step
        here = -1 if upper else 0
        row = rest[..., here:, :] if upper else rest[..., :1, :]
        known = row if unitriangular else row / a[..., at : at + 1, at : at + 1]
        found.append(known)
        if step < rows - 1:
            others = rest[..., :-1, :] if upper else rest[..., 1:, :]
            column = a[..., :at, at : at + 1] if upper else a[..., at + 1 :, at : at + 1]
            rest = others - column * known
    return torch.cat(found[::-1] if upper else found, -2)


def _cholesky_solve(b: torch.Tensor, factor: torch.Tensor, upper: bool = False) -> torch.Tensor:
    """``inverse(l @ l.mT) @ b`` for the lower factor l, of which the other triangle is not looked at."""
    lower = factor.mT if upper else factor
    half = _solve_triangular(lower, b, upper=False)
    return _solve_triangular(lower.mT, half, upper=True)


def _cholesky_inverse(factor: torch.Tensor, upper: bool = False) -> torch.Tensor:
    unit = torch.eye(_rows(factor), dtype=factor.dtype, device=factor.device).expand_as(factor)
    return _cholesky_solve(unit, factor, upper)


def _triangular_solve(
    b: torch.Tensor, a: torch.Tensor, upper: bool = True, transpose: bool = False, unitriangular: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    shape = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])  # type: ignore[no-untyped-call]
    matrix = a.mT if transpose else a
    found = _solve_triangular(matrix, b, upper=upper != transpose, unitriangular=unitriangular)
    return found, a.expand(*shape, *a.shape[-2:]).clone()


TABLE: Mapping[Any, Callable[..., Any]] = {
    aten.linalg_inv.default: _inv,
    aten.inverse.default: _inv,
    aten.linalg_inv_ex.default: _inv_ex,
    aten.linalg_det.default: _det,
    aten.det.default: _det,
    aten.logdet.default: _logdet,
    aten.linalg_slogdet.default: _slogdet,
    aten.linalg_solve.default: _solve,
    aten.linalg_cholesky.default: _cholesky_keyword,
    **({aten.cholesky.default: _cholesky} if hasattr(aten, "cholesky") else {}),  # gone with torch 2.14
    aten.linalg_cholesky_ex.default: _cholesky_ex,
    aten.linalg_solve_triangular.default: _solve_triangular,
    aten.triangular_solve.default: _triangular_solve,
    aten.cholesky_solve.default: _cholesky_solve,
    aten.cholesky_inverse.default: _cholesky_inverse,
}
"""Ops on matrices -> the same for few rows."""
