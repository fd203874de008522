"""Tests over PyTorch's own sample inputs of an op, for pack authors.

    from trtcore.testing import assert_sample_converts, opinfo_samples

    @opinfo_samples("nn.functional.gelu", dtypes=[torch.float32, torch.float16], limit=10)
    def test_gelu(sample):
        assert_sample_converts(sample, pins={"aten.gelu.default": "my-pack"})

What a sample is, and how it is judged, is in `trtcore.testing.opinfo`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from trtcore.testing.opinfo import OpSample, SampleResult, check, samples

__all__ = ["assert_op_converts", "assert_sample_converts", "opinfo_samples"]

_F = TypeVar("_F", bound=Callable[..., Any])


def opinfo_samples(
    op: str,
    *,
    dtypes: Sequence[torch.dtype] = (torch.float32,),
    variant: str | None = None,
    limit: int | None = None,
) -> Callable[[_F], _F]:
    """Run a test once for each of PyTorch's samples of an op, as its argument ``sample``.

    Args:
        op: its name in ``torch.testing._internal``'s op_db, such as "clamp" or "nn.functional.gelu".
        dtypes: of the samples' tensors; those that the op does not have give no test.
        variant: one of several operators of the name.
        limit: at most so many samples for each dtype.

    Raises:
        KeyError: op_db has no such op.
        ValueError: the op has no samples in any of the dtypes.
    """
    import pytest

    found = [s for dtype in dtypes for s in samples(op, dtype, variant=variant, limit=limit)]
    if not found:
        names = ", ".join(str(dtype) for dtype in dtypes)
        raise ValueError(f"op_db has no samples of {op!r} in {names}")
    ids = ["-".join(str(part) for part in sample.key[1:] if part != "") for sample in found]
    return pytest.mark.parametrize("sample", found, ids=ids)


def assert_sample_converts(sample: OpSample, *, refused: Sequence[str] = (), **settings: Any) -> SampleResult:
    """Prove a sample: in engines that TensorRT builds, with eager's numbers; or refused for a reason you expect.

    Args:
        refused: regular expressions; a sample that stays in torch must have a reason that one of them finds.
        settings: further compile settings, such as ``pins`` or ``converters``.

    Raises:
        AssertionError: a wrong number, an error, or an op that stays in torch for another reason.
    """
    __tracebackhide__ = True
    (result,) = check([sample], settings=settings)
    _judge([result], refused)
    return result


def assert_op_converts(
    op: str,
    *,
    dtypes: Sequence[torch.dtype] = (torch.float32,),
    variant: str | None = None,
    limit: int | None = None,
    refused: Sequence[str] = (),
    least: int = 1,
    **settings: Any,
) -> tuple[SampleResult, ...]:
    """Prove all samples of an op at once, which is many times faster than one by one.

    Args:
        op, dtypes, variant, limit: as for `opinfo_samples`.
        refused, settings: as for `assert_sample_converts`.
        least: how many samples must convert at least.

    Raises:
        AssertionError: as for `assert_sample_converts`, with every sample that fails; or too few convert.
    """
    __tracebackhide__ = True
    results = []
    for dtype in dtypes:
        results += check(samples(op, dtype, variant=variant, limit=limit), settings=settings)
    _judge(results, refused)
    passed = sum(result.outcome == "passed" for result in results)
    if passed < least:
        raise AssertionError(
            f"{passed} of {len(results)} samples of {op} convert, at least {least} should:\n"
            + "\n".join(f"  {result}" for result in results)
        )
    return tuple(results)


def _judge(results: Sequence[SampleResult], refused: Sequence[str]) -> None:
    __tracebackhide__ = True
    wrong = [result for result in results if not _is_fine(result, refused)]
    if wrong:
        raise AssertionError(
            f"{len(wrong)} of {len(results)} samples:\n" + "\n".join(f"  {result}" for result in wrong)
        )


def _is_fine(result: SampleResult, refused: Sequence[str]) -> bool:
    """Passed; rightly in torch ("foreign": a dtype that TensorRT lacks; "invalid": eager raises); or expected."""
    if result.outcome in ("passed", "foreign", "invalid"):
        return True
    return result.outcome == "refused" and any(re.search(reason, result.reason) for reason in refused)
