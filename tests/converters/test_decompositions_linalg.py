"""Linear algebra of small matrices in engines: as accurate as LAPACK's float32, and left to torch where it is not small."""

from __future__ import annotations

import pytest
import torch

import trtcore
from trtcore.testing import assert_converts

linalg = torch.linalg
OPTIONS = {"min_block_size": 1, "runtime": "reference"}


class Function(torch.nn.Module):
    def __init__(self, run):
        super().__init__()
        self.run = run

    def forward(self, *inputs):
        return self.run(*inputs)


def matrices(*shape, definite=False, seed=0):
    a = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return a @ a.mT + torch.eye(shape[-1]) if definite else a


def errors(run, exact, *inputs):
    """The largest errors of an engine and of torch, relative to the largest number; all is in one engine."""
    module = Function(run)
    compiled = trtcore.compile(module, inputs=list(inputs), require_full_compilation=True, **OPTIONS)
    wants, gots, eager = exact(*(x.double() for x in inputs)), compiled(*inputs), module(*inputs)
    found = []
    for want, got, own in zip(
        *((one,) if isinstance(one, torch.Tensor) else tuple(one) for one in (wants, gots, eager))
    ):
        assert (got.dtype, got.shape) == (own.dtype, own.shape)
        found.append([float((one - want).abs().max() / want.abs().max()) for one in (got, own)])
    return found


OPS = {
    "inv": (linalg.inv, (2, 4, 4)),
    "inverse": (torch.inverse, (3, 3)),
    "det": (linalg.det, (5, 3, 3)),
    "logdet": (lambda a: torch.logdet(a @ a.mT), (2, 4, 4)),
    "slogdet": (linalg.slogdet, (2, 4, 4)),
    "one row": (lambda a: (linalg.inv(a), linalg.det(a)), (3, 1, 1)),
    "solve": (lambda a: linalg.solve(a, a[..., :2]), (2, 5, 5)),
    "solve for vectors": (lambda a: linalg.solve(a, a[..., 0]), (2, 5, 5)),
    "solve from the right": (lambda a: linalg.solve(a, a[..., :2, :], left=False), (2, 5, 5)),
    "solve one matrix for many": (lambda a: linalg.solve(a[0], a), (2, 5, 5)),
    "inv_ex": (lambda a: linalg.inv_ex(a)[0], (2, 4, 4)),
}


@pytest.mark.parametrize("name", OPS)
def test_general_matrices(name):
    run, shape = OPS[name]
    for got, own in errors(run, run, matrices(*shape)):
        assert got <= max(4 * own, 2e-6)


#: Gone with torch 2.14.
OLD_CHOLESKY = torch.cholesky if hasattr(torch.ops.aten, "cholesky") else linalg.cholesky

DEFINITE = {
    "cholesky": lambda a: (linalg.cholesky(a), linalg.cholesky(a, upper=True), OLD_CHOLESKY(a)),
    "cholesky_ex": lambda a: linalg.cholesky_ex(a)[0],
    "cholesky_solve": lambda a: (
        torch.cholesky_solve(a[..., :2], linalg.cholesky(a)),
        torch.cholesky_solve(a[..., :2], linalg.cholesky(a, upper=True) + a.tril(-1), upper=True),
        torch.cholesky_inverse(linalg.cholesky(a)),
    ),
    "triangular_solve": lambda a: (
        torch.triangular_solve(a[..., :2], a.triu()).solution,
        torch.triangular_solve(a[..., :2], a.tril(), upper=False, transpose=True).solution,
        torch.triangular_solve(a[..., :2] / 50, a.triu(), unitriangular=True).solution,
    ),
    "solve_triangular": lambda a: (
        linalg.solve_triangular(linalg.cholesky(a), a[..., :2], upper=False),
        linalg.solve_triangular(a.triu(), a[..., :2], upper=True),
        linalg.solve_triangular(a.triu(), a[..., :2, :], upper=True, left=False),
        linalg.solve_triangular(a.tril(), a[..., :2] / 50, upper=False, unitriangular=True),
    ),
}


@pytest.mark.parametrize("name", DEFINITE)
def test_definite_matrices(name):
    for got, own in errors(DEFINITE[name], DEFINITE[name], matrices(2, 5, 5, definite=True)):
        assert got <= max(4 * own, 2e-6)


def test_pivots_are_chosen():
    """Without them a zero on the diagonal would be infinite, and a small one would cost all digits."""
    a = torch.tensor([[[0.0, 1], [1, 0]], [[1e-8, 1], [1, 1]], [[0, 2], [3, 1]]])
    for got, _ in errors(
        lambda a: (linalg.inv(a), linalg.det(a)), lambda a: (linalg.inv(a), linalg.det(a)), a
    ):
        assert got < 1e-6


@pytest.mark.parametrize("condition", [1e4, pytest.param(1e6, marks=pytest.mark.slow)])
def test_badly_conditioned_matrices_are_as_accurate_as_torchs(condition):
    u, _, v = linalg.svd(matrices(4, 6, 6))
    a = u @ torch.diag(torch.logspace(0, -torch.log10(torch.tensor(condition)).item(), 6)) @ v
    for got, own in errors(linalg.inv, linalg.inv, a):
        assert got <= max(8 * own, 2e-6)


def test_a_batch_that_varies():
    assert_converts(
        Function(lambda a: linalg.inv(a) @ a), (matrices(3, 4, 4),), dynamic={0: {0: (1, 3, 8)}}, atol=1e-4
    )


def test_what_lapack_says_of_singular_matrices():
    a = torch.stack([torch.eye(3), torch.tensor([[1.0, 2, 3], [2, 4, 6], [0, 1, 1]])])
    bad = torch.stack([torch.eye(3), torch.diag(torch.tensor([1.0, -1, 1]))])
    compiled = trtcore.compile(
        Function(lambda a, b: (linalg.inv_ex(a)[1], linalg.cholesky_ex(b)[1])), inputs=[a, bad],
        require_full_compilation=True, **OPTIONS,
    )  # fmt: skip
    inverses, factors = compiled(a, bad)
    assert inverses.tolist() == linalg.inv_ex(a)[1].tolist() == [0, 3]
    assert factors.tolist() == linalg.cholesky_ex(bad)[1].tolist() == [0, 2]


@pytest.mark.slow
def test_the_largest_that_are_written_out():
    for got, own in errors(linalg.inv, linalg.inv, matrices(2, 16, 16)):
        assert got <= max(8 * own, 2e-6)


def test_large_matrices_stay_in_torch():
    report = trtcore.explain(Function(linalg.inv), inputs=[matrices(17, 17)], min_block_size=1)
    (node,) = report.nodes
    assert not node.in_engine
    assert "matrices of 17 rows" in node.reason
