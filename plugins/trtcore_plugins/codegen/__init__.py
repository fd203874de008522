"""Triton kernels generated from ATen graphs.

    kernel = generate_kernel(lambda x, w: torch.softmax(x * w, -1), x, w)
    y = kernel(x, w)

A chain of pointwise ops, broadcasts, reductions over one set of dims and normalisations of rows becomes one kernel,
which reads every input and writes every output once. `trtcore_plugins.codegen.fuse` finds such chains among the ops
of a model that no converter takes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["GeneratedKernel", "generate_kernel"]


@dataclass(frozen=True)
class GeneratedKernel:
    """A function as one kernel: called like the function, on tensors of any sizes and strides.

    Attributes:
        program: what it computes, as data.
    """

    program: Any

    def __post_init__(self) -> None:
        assert self.program.text  # written once, here: Dynamo cannot trace a first use of a cached property

    @property
    def name(self) -> str:
        """The ops in it and a hash of the program."""
        return str(self.program.name)

    def __call__(self, *inputs: torch.Tensor) -> Any:
        """The function's results: a tensor, or a list of them. On a GPU the kernel runs, else torch's ops."""
        from trtcore_plugins.codegen.op import run

        results = run(list(inputs), [], self.program.text)
        return results[0] if len(results) == 1 else results

    def sources(self, *inputs: torch.Tensor) -> list[str]:
        """The Triton source of the kernels that these inputs take."""
        from trtcore_plugins.codegen.plan import make_plan

        plan = make_plan(self.program, inputs, ())
        return [launch.kernel.source for launch in plan.launches] if plan else []


def generate_kernel(function: Callable[..., Any], *example_inputs: torch.Tensor) -> GeneratedKernel:
    """Generate the kernel of a function.

    Args:
        function: tensors to a tensor or several, in torch ops.
        example_inputs: their dtypes and numbers of dims are the kernel's, and which dims have size 1. Other sizes, and
            strides, may differ from call to call.

    Raises:
        Unsupported: the function is not one kernel; says why.
    """
    from trtcore_plugins.codegen.trace import program_of

    return GeneratedKernel(program_of(function, *example_inputs))
