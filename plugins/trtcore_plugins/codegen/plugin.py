"""Generated kernels as TensorRT plugins: the converter of ``trtcore_fused::run``.

Each program becomes a `trtcore_plugins.TritonPlugin` of its own, with output shapes, dtypes and launch parameters from
the program, compiled ahead of time like a declared one. One program may have several, for sizes of which more or less
is fixed: the name ends in a hash of what is launched.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import fx

from trtcore.pack import (
    ConversionContext,
    ConversionError,
    Converter,
    NodeContext,
    Priority,
    Reject,
    Requires,
)
from trtcore_plugins.codegen.op import NAME, run
from trtcore_plugins.codegen.plan import compiled, index_type
from trtcore_plugins.codegen.program import Program, evaluate
from trtcore_plugins.codegen.rules import Unsupported
from trtcore_plugins.codegen.symbolic import SymbolicLaunch, asking, evaluated, plan_symbolic
from trtcore_plugins.declare import TritonPlugin
from trtcore_plugins.torch_private import upper_bound
from trtcore_plugins.tracing import TensorSpec, symbol_name

_lock = threading.Lock()
_declared: dict[str, TritonPlugin] = {}


def program_plugin(
    program: Program, specs: Sequence[TensorSpec], bounds: Mapping[str, int | None] | None = None
) -> TritonPlugin:
    """The plugin that computes a program on contiguous tensors.

    Args:
        specs: the program's inputs: dtypes, and dims (None for those that vary).
        bounds: the largest size of each dim that varies, by `trtcore_plugins.tracing.symbol_name`.

    Raises:
        Unsupported: it takes several kernels, or sizes that a plugin cannot have; says why.
    """
    plan = plan_symbolic(program, specs, bounds or {})
    name = f"trtcore_fused::{program.name}_{_digest(plan)}"
    with _lock:
        if name not in _declared:
            _declared[name] = _declare(name, program, plan)
        return _declared[name]


def _digest(plan: SymbolicLaunch) -> str:
    """What tells launches of one program apart: the kernel, its tile, and what it is given."""
    launch = plan.launch
    text = repr((launch.kernel.source, launch.blocks, launch.wide, [_written(a) for a in launch.arguments]))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _written(argument: Any) -> str:
    return str(getattr(argument, "expression", argument))


def _declare(name: str, program: Program, plan: SymbolicLaunch) -> TritonPlugin:
    launch = plan.launch
    inputs = [f"in_{i}" for i in range(len(program.inputs))]
    outputs = [f"out_{i}" for i in range(len(program.outputs))]
    given = ", ".join(f"Tensor {one}" for one in inputs)
    returned = ", ".join(f"Tensor {one}" for one in outputs)
    tensors = {*inputs, *outputs}
    arguments: dict[str, Any] = {
        parameter: asking(inputs, partial(evaluated, argument))
        for parameter, argument in zip(launch.kernel.parameters, launch.arguments)
        if parameter not in tensors
    }
    arguments.update(Y=launch.blocks.rows, X=launch.blocks.columns)

    def shapes(given: Sequence[Sequence[Any]]) -> list[tuple[Any, ...]]:
        return [tuple(evaluated(size, given) for size in shape) for shape in plan.shapes]

    def reference(*tensors: torch.Tensor) -> Any:
        results = [one.contiguous() for one in evaluate(program, tensors)]
        return results[0] if len(results) == 1 else tuple(results)

    return TritonPlugin(
        name,
        lambda: compiled(launch.kernel),
        schema=f"({given}) -> ({returned})",
        grid=asking(inputs, partial(evaluated, launch.grid)),
        shapes=asking(inputs, shapes),
        dtypes=[program.specs[number].dtype for number in program.outputs],
        arguments={**arguments, "INDEX": lambda: index_type(launch.wide)},
        reference=reference,
        options={"num_warps": launch.blocks.warps, "enable_fp_fusion": False},
        strided=False,
        ptx_version=None,
        python_callback=False,
        priority=Priority.STANDARD,
    )


class FusedKernels:
    """The kernel plugin (`trtcore.pack.KernelPlugin`) of all generated kernels.

    Attributes:
        name: of the op that the graph has.
        deployable: True; the kernels are compiled into the engine.
        converter: places the plugin of a call's program.
    """

    name = NAME
    deployable = True

    def __init__(self) -> None:
        self.converter = Converter(
            run,
            self.place,
            priority=Priority.STANDARD,
            capability_validator=self.validate,
            supports_dynamic_shapes=True,
            requires=Requires(plugins=True),
            name="generated kernel",
        )

    def validate(self, node: fx.Node, ctx: NodeContext) -> bool | Reject:
        """The capability validator: whether the program is one plugin that gives what the graph says."""
        inputs, _, text = node.args
        program = Program.from_text(text)  # type: ignore[arg-type]
        results = node.meta["val"]
        try:
            plugin = _plugin_of(node)
            values = dict(zip(plugin.signature.inputs, inputs))  # type: ignore[arg-type]
            answer = plugin.validate_call(values, results[0] if len(results) == 1 else tuple(results), ctx)
        except (Unsupported, ConversionError) as error:
            answer = Reject(getattr(error, "message", str(error)))
        if isinstance(answer, Reject):
            ops = ", ".join(program.ops)
            return Reject(
                f"generated kernel {program.name} ({ops}) runs in torch between engines: {answer.reason}"
            )
        return answer

    def place(self, ctx: ConversionContext, inputs: Sequence[Any], sizes: Sequence[Any], program: str) -> Any:
        """Add the plugin layer of a program to a network: the converter."""
        plugin = _plugin_of(ctx.node)
        return plugin.signature.unpack(plugin.place(ctx, *inputs))


def _plugin_of(node: fx.Node) -> TritonPlugin:
    """The plugin of a call of ``trtcore_fused::run``, for what the graph knows of its sizes."""
    inputs, sizes, text = node.args
    if sizes:
        raise Unsupported("a size of the graph is an operand, and a plugin's attributes are fixed")
    fakes = [one.meta["val"] for one in inputs]  # type: ignore[union-attr]
    specs = [
        TensorSpec(fake.dtype, tuple(size if isinstance(size, int) else None for size in fake.shape))
        for fake in fakes
    ]
    bounds = {
        symbol_name(tensor, dim): upper_bound(size)
        for tensor, fake in enumerate(fakes)
        for dim, size in enumerate(fake.shape)
        if not isinstance(size, int)
    }
    return program_plugin(Program.from_text(text), specs, bounds)  # type: ignore[arg-type]
