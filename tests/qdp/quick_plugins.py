"""NVIDIA's own `tensorrt.plugin` (Python), without the TensorRT below it.

The source is in the distribution ``tensorrt-cu13-bindings``, which does not import without TensorRT's
libraries. It is loaded over the bindings of TensorRT-RTX, which have most of the classes that it needs; the
others, which only TensorRT's C++ would fill with life, are the placeholders below. So what is tested is that
TensorRT's Python accepts what we register, and what our functions answer when it calls them; no TensorRT has
run any of it.
"""

from __future__ import annotations

import enum
import importlib.metadata
import importlib.util
import sys
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

DISTRIBUTION = "tensorrt-cu13-bindings"
NAME = "trtcore_tests_tensorrt_plugin"


class IDimensionExpr:
    """A size while TensorRT computes shapes: a number here, that says whether it is known at build time."""

    def __init__(self, value: int, constant: bool = False) -> None:
        self.value, self.constant = value, constant

    def is_constant(self) -> bool:
        return self.constant

    def get_constant_value(self) -> int:
        assert self.constant
        return self.value


class IExprBuilder:
    """TensorRT's arithmetic on sizes, by its documentation (`DimensionOperation`). Counts what it is asked."""

    def __init__(self, operations: Any) -> None:
        self.asked: list[str] = []
        self._rules = {
            operations.SUM: lambda a, b: a + b,
            operations.PROD: lambda a, b: a * b,
            operations.MAX: max,
            operations.MIN: min,
            operations.SUB: lambda a, b: a - b,
            operations.EQUAL: lambda a, b: int(a == b),
            operations.LESS: lambda a, b: int(a < b),
            operations.FLOOR_DIV: lambda a, b: a // b,
            operations.CEIL_DIV: lambda a, b: -(-a // b),
        }

    def constant(self, value: int) -> IDimensionExpr:
        return IDimensionExpr(value, constant=True)

    def operation(self, operation: Any, a: IDimensionExpr, b: IDimensionExpr) -> IDimensionExpr:
        self.asked.append(operation.name)
        return IDimensionExpr(self._rules[operation](a.value, b.value), a.constant and b.constant)


class ISymExpr:
    """An extra argument of a kernel."""


class IPluginV3QuickAOTBuild:
    """A plugin that is compiled ahead of time."""


class QuickPluginCreationRequest(enum.Enum):
    UNKNOWN = 0
    PREFER_JIT = 1
    PREFER_AOT = 2
    STRICT_JIT = 3
    STRICT_AOT = 4


class DimsExprs(list[Any]):
    """The dims of one tensor."""

    def __init__(self, length: int) -> None:
        super().__init__([None] * length)


PLACEHOLDERS = (IDimensionExpr, ISymExpr, IPluginV3QuickAOTBuild, QuickPluginCreationRequest, DimsExprs)


def source() -> Path | None:
    """The folder of ``tensorrt.plugin``'s Python files; None where the distribution is not installed."""
    try:
        files = importlib.metadata.files(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = [Path(str(file.locate())) for file in files if str(file).endswith("plugin/_plugin_class.py")]
    return found[0].parent if found else None


@lru_cache
def load(bindings: ModuleType) -> ModuleType:
    """``tensorrt.plugin`` over the bindings of TensorRT-RTX."""
    folder = source()
    assert folder is not None
    tensorrt = ModuleType("tensorrt")
    tensorrt.__dict__.update({name: getattr(bindings, name) for name in dir(bindings) if name[0] != "_"})
    for placeholder in PLACEHOLDERS:
        setattr(tensorrt, placeholder.__name__, placeholder)
    spec = importlib.util.spec_from_file_location(
        NAME, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    known = sys.modules.get("tensorrt")
    sys.modules.update({NAME: module, "tensorrt": tensorrt})
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules["tensorrt"]
        if known is not None:
            sys.modules["tensorrt"] = known
    return module


class Plugin:
    """A registered plugin, driven as TensorRT drives it.

    Args:
        trtp: what `load` gave.
        name: ``"namespace::name"``.
        attributes: as the network would give them.
        ahead: whether the ahead-of-time implementation is asked for.
    """

    def __init__(self, trtp: ModuleType, name: str, attributes: dict[str, Any], ahead: bool = False) -> None:
        self.trtp = trtp
        self.definition = sys.modules[f"{NAME}._lib"].QDP_REGISTRY[name]
        self.trt = sys.modules[f"{NAME}._lib"].trt
        classes = sys.modules[f"{NAME}._plugin_class"]
        namespace, _, opname = name.partition("::")
        d = self.definition
        for key, value in attributes.items():
            wanted = d.input_attrs[key]
            assert type(value) is wanted or getattr(wanted, "__origin__", None) is type(value)
        if ahead:
            self.plugin = classes._TemplateAOTPlugin(opname, namespace, d.num_outputs)
            self.plugin.init(
                d.register_func, attributes, d.aot_impl_attr_names, d.aot_impl_func,
                d.autotune_attr_names, d.autotune_func,
            )  # fmt: skip
            self.plugin.set_tactic(0)
        else:
            self.plugin = classes._TemplateJITPlugin(opname, namespace, d.num_outputs)
            self.plugin.init(
                d.register_func, attributes, d.impl_attr_names, d.impl_func,
                d.autotune_attr_names, d.autotune_func, d.expects_tactic,
            )  # fmt: skip

    def outputs(
        self, dtypes: list[Any], shapes: list[tuple[int, ...]], static: tuple[tuple[int, int], ...] = ()
    ) -> tuple[list[Any], list[tuple[int, ...]], IExprBuilder]:
        """Data types and shapes of the outputs. Dims in `static` are known at build time, the others are not."""
        types = list(self.plugin.get_output_data_types(dtypes, [len(shape) for shape in shapes]))
        builder = IExprBuilder(self.trt.DimensionOperation)
        inputs = [
            [IDimensionExpr(size, (i, d) in static) for d, size in enumerate(shape)]
            for i, shape in enumerate(shapes)
        ]
        found = self.plugin.get_output_shapes(inputs, [], builder)
        return types, [tuple(dim.value for dim in exprs) for exprs in found], builder

    def described(self, dtypes: list[Any], shapes: list[tuple[int, ...]]) -> list[Any]:
        """`DynamicPluginTensorDesc`s of inputs and outputs."""
        result = []
        for dtype, shape in zip(dtypes, shapes, strict=True):
            one = self.trt.DynamicPluginTensorDesc()
            desc = self.trt.PluginTensorDesc()
            desc.dims, desc.type, desc.format = shape, dtype, self.trt.TensorFormat.LINEAR
            one.desc = desc
            result.append(one)
        return result
