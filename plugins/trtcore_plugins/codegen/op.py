"""The torch op that runs a generated kernel: ``trtcore_fused::run``.

    run(Tensor[] inputs, SymInt[] sizes, str program) -> Tensor[]

The program (`trtcore_plugins.codegen.program`) travels in the graph as text, so a graph with generated kernels
exports, saves, loads in another process, and goes through torch.compile like any other; nothing has to be registered
but this op. On CUDA tensors the kernel runs; on others, and where Triton cannot be imported, the ATen calls that the
program lists. Results are new tensors with the sizes and strides that those calls give.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch

from trtcore.pack import texts_are_data
from trtcore_plugins.codegen.program import Program, evaluate

NAME = "trtcore_fused::run"

_library = torch.library.Library("trtcore_fused", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define(  # type: ignore[no-untyped-call]
    "run(Tensor[] inputs, SymInt[] sizes, str program) -> Tensor[]", tags=(torch.Tag.pt2_compliant_tag,)
)


def _run(inputs: Sequence[torch.Tensor], sizes: Sequence[int], program: str) -> list[torch.Tensor]:
    found = Program.from_text(program)
    _check(found, inputs, sizes)
    if inputs[0].is_cuda and _has_triton():
        from trtcore_plugins.codegen.plan import run

        with torch.no_grad():
            return run(found, inputs, sizes)
    with torch.no_grad():
        return evaluate(found, inputs, sizes)


def _fake(inputs: Sequence[torch.Tensor], sizes: Sequence[Any], program: str) -> list[torch.Tensor]:
    found = Program.from_text(program)
    _check(found, inputs, sizes)
    return evaluate(found, inputs, sizes)


def _check(program: Program, inputs: Sequence[torch.Tensor], sizes: Sequence[Any]) -> None:
    if len(inputs) != len(program.inputs) or len(sizes) != program.sizes:
        raise ValueError(
            f"{program.name} takes {len(program.inputs)} tensors and {program.sizes} sizes; "
            f"{len(inputs)} and {len(sizes)} came"
        )
    device = inputs[0].device
    for number, (tensor, spec) in enumerate(zip(inputs, program.inputs)):
        if tensor.dtype is not spec.dtype or tensor.dim() != len(spec.axes) or tensor.device != device:
            raise ValueError(
                f"{program.name}: input {number} is {tensor.dtype} of {tensor.dim()} dims on {tensor.device}; "
                f"the kernel takes {spec.dtype} of {len(spec.axes)} dims on {device}"
            )


@lru_cache(maxsize=1)
def _has_triton() -> bool:
    if importlib.util.find_spec("triton") is not None:
        return True
    warnings.warn(
        "Triton is not installed: generated kernels run as the torch ops that they are made of. "
        "Install trtcore[triton] to run them fused.",
        RuntimeWarning,
        stacklevel=2,
    )
    return False


_library.impl("run", _run, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
# For inference: without this line torch would mark the outputs as requiring grad.
_library.impl("run", torch.library.fallthrough_kernel, "Autograd")  # type: ignore[no-untyped-call]
torch.library.register_fake(NAME, _fake, lib=_library)

run = torch.ops.trtcore_fused.run.default
texts_are_data(run)  # a program, which `program.from_text` checks
