"""What torch.export assumed about input sizes, kept as data: conditions over the program's symbols.

torch.export leaves its guards as Python text over ``L['x'].size()[0]``. They are translated once into the language of
`trtcore.ir.expressions` over the program's symbols (``s77 % 4 == 0``), in which they are saved, checked and read. A
guard about strides is left out: inputs whose layout matters are held to it by `InputSpec.stride`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils import _pytree as pytree

from trtcore.errors import ArtifactError, ExportError
from trtcore.ir.expressions import FUNCTIONS, parse_condition

SizeText = Callable[[int, int | None], str]
"""Text of dimension d of flattened input i over the program's symbols; with None, of input i, an int itself."""

# Python's names in torch's guards -> ours.
_NAMES = {
    "min": "Min",
    "max": "Max",
    "int": "TruncToInt",
    "float": "ToFloat",
    "math.floor": "FloorToInt",
    "math.ceil": "CeilToInt",
    "math.trunc": "TruncToInt",
    "round": "RoundToInt",
    "torch.sym_float": "ToFloat",
    "torch.sym_int": "TruncToInt",
    "torch.sym_max": "Max",
    "torch.sym_min": "Min",
    **{name: name for name in FUNCTIONS},
}


@dataclass(frozen=True)
class Guard:
    """A condition on input sizes that the captured graph relies on.

    Attributes:
        text: for people, over the user's names: ``x.size()[0] % 2 == 0``.
        expression: over the program's symbols, in the language of `trtcore.ir.expressions`: ``s77 % 2 == 0``.

    Raises:
        ArtifactError: `expression` is not in the language.
    """

    text: str
    expression: str

    def __post_init__(self) -> None:
        parse_condition(self.expression)

    @classmethod
    def from_text(cls, expression: str, text: str | None = None) -> Guard:
        """A guard from text that need not be trusted.

        Raises:
            ArtifactError: it is not in the language.
        """
        if not isinstance(expression, str) or not isinstance(text, (str, type(None))):
            raise ArtifactError(f"a condition must be a string, got {type(expression).__name__}")
        return cls(expression if text is None else text, expression)

    @property
    def symbols(self) -> tuple[str, ...]:
        """Names of the sizes that the condition reads."""
        return parse_condition(self.expression).symbols

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether the condition is true for these values of its symbols; a division by zero makes it false."""
        return parse_condition(self.expression).holds(values)


def parse_guards(code: Sequence[str], sources: Mapping[str, int], size: SizeText) -> tuple[Guard, ...]:
    """Guards from the text that torch.export keeps (``ExportedProgram._guards_code``).

    Args:
        code: Python expressions over ``L[...]``. They are parsed, never run.
        sources: index of each flattened input by its path text, such as ``['x'][0]['y']``.
        size: text of a dimension, or of an int input, over the program's symbols.

    Raises:
        ExportError: a condition on sizes that our language has no words for. To leave it out would be to forget it.
    """
    guards: dict[str, Guard] = {}
    for text in code:
        try:
            tree = ast.parse(text.strip(), mode="eval").body
            if _is_about_layout(tree):
                continue
            expression = ast.unparse(_Translation(sources, size).visit(tree))
            guards.setdefault(expression, Guard(_readable(text), expression))
        except (SyntaxError, ValueError, RecursionError, MemoryError, _Unsupported, ArtifactError) as error:
            shown = text if len(text) < 200 else f"{text[:200]}..."
            raise ExportError(
                f"the model was captured under a condition that trtcore cannot check: {shown}"
                + (f" ({error})" if str(error) else ""),
                advice="make the sizes in it static, or take what computes it out of forward",
            ) from None
    return tuple(guards.values())


def input_sources(paths: Sequence[Sequence[Any]], arg_names: Sequence[str]) -> dict[str, int]:
    """How torch.export's guards name each flattened input, from the pytree paths into ``(args, kwargs)``."""
    sources: dict[str, int] = {}
    for index, path in enumerate(paths):
        (top, *rest) = path
        sources[f"['flat_args'][{index}]"] = index
        if not rest:
            continue
        first, *rest = rest
        tail = pytree.keystr(tuple(rest))
        if top.idx == 0:
            if first.idx < len(arg_names):
                sources[f"['{arg_names[first.idx]}']{tail}"] = index
            sources[f"['args'][{first.idx}]{tail}"] = index
        else:
            sources[f"['{first.key}']{tail}"] = index
            sources[f"['kwargs']['{first.key}']{tail}"] = index
    # The arguments of *tensors are called tensors_0, tensors_1, ..., and L['tensors'][0] in guards.
    for name, index in list(sources.items()):
        if variadic := re.match(r"\['(\w+)_(\d+)'\](.*)", name):
            base, number, tail = variadic.groups()
            sources.setdefault(f"['{base}'][{number}]{tail}", index)
    return sources


class _Unsupported(Exception):
    """The guard uses something outside of the language."""


def _is_about_layout(tree: ast.expr) -> bool:
    methods = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return not methods.isdisjoint({"stride", "storage_offset"})


class _Translation(ast.NodeTransformer):
    """``L['x'].size()[0]`` -> ``s77``, and Python's functions -> ours."""

    def __init__(self, sources: Mapping[str, int], size: SizeText) -> None:
        self._sources, self._size = sources, size

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        call, dim = node.value, node.slice
        if (
            isinstance(call, ast.Call)
            and isinstance(call.func, ast.Attribute)
            and call.func.attr == "size"
            and not call.args
            and isinstance(dim, ast.Constant)
            and isinstance(dim.value, int)
        ):
            return self._text(call.func.value, dim.value)
        return self._text(node, None)

    def _text(self, source: ast.AST, dim: int | None) -> ast.AST:
        path = ast.unparse(source)
        index = self._sources.get(path[1:]) if path.startswith("L[") else None
        if index is None:
            raise _Unsupported(f"{path} is no input")
        return ast.parse(self._size(index, dim), mode="eval").body

    def visit_Call(self, node: ast.Call) -> ast.AST:
        name = ast.unparse(node.func)
        arguments = [self.visit(argument) for argument in node.args]
        if name == "abs" and len(arguments) == 1:
            return _call("Max", arguments[0], ast.UnaryOp(ast.USub(), arguments[0]))
        if name not in _NAMES or node.keywords:
            raise _Unsupported(f"{name} is not known")
        return _call(_NAMES[name], *arguments)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        left, right = self.visit(node.left), self.visit(node.right)
        if isinstance(node.op, ast.Div):
            return _call("FloatTrueDiv", left, right)
        return ast.BinOp(left, node.op, right)


def _call(name: str, *arguments: Any) -> ast.Call:
    return ast.Call(ast.Name(name, ast.Load()), list(arguments), [])


def _readable(text: str) -> str:
    """The guard with ``L['x']`` as ``x`` and without redundant parentheses."""

    class Names(ast.NodeTransformer):
        def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
            self.generic_visit(node)
            if (
                isinstance(node.value, ast.Name)
                and node.value.id == "L"
                and isinstance(node.slice, ast.Constant)
            ):
                return ast.Name(str(node.slice.value), ast.Load())
            return node

    return ast.unparse(Names().visit(ast.parse(text.strip(), mode="eval")))
