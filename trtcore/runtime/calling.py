"""The generated code of a compiled module: arguments in and results out, without pytrees where there is no nesting."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch.fx.graph import CodeGen, _PyTreeCodeGen
from torch.utils import _pytree as pytree


class FlatCodeGen(_PyTreeCodeGen):
    """As torch's code for a calling convention, but plain Python where every argument is one input, and for results
    in tuples, lists and dicts: `tree_flatten` and `tree_unflatten` cost microseconds in every call."""

    def gen_fn_def(self, free_vars: list[str], *rest: Any, **named: Any) -> str:
        names = list(self.pytree_info.orig_args)
        bound = [var.partition(":")[0].partition("#")[0].strip() for var in free_vars]
        if not self._is_flat() or len(names) != len(bound) or "self" in names:
            return super().gen_fn_def(free_vars, *rest, **named)
        definition = CodeGen.gen_fn_def(self, list(names), *rest, **named)
        if bound == names:
            return definition
        return f"{definition}\n    {', '.join(bound)}, = {', '.join(names)},"

    def _is_flat(self) -> bool:
        spec = self.pytree_info.in_spec
        return spec.num_children == 2 and all(
            child.is_leaf() for part in spec.children() for child in part.children()
        )

    def generate_output(self, output_args: Any, *rest: Any, **named: Any) -> str:
        spec = self.pytree_info.out_spec
        if (
            spec is not None
            and isinstance(output_args, (tuple, list))
            and len(output_args) == spec.num_leaves
        ):
            text = _literal(spec, map(named.get("repr_fn") or repr, output_args))
            if text is not None:
                return f"return {text}"
        return super().generate_output(output_args, *rest, **named)


def _literal(spec: pytree.TreeSpec, leaves: Iterator[str]) -> str | None:
    """A structure as Python writes it, with these leaves; None for one that has no such form."""
    if spec.is_leaf():
        return next(leaves)
    parts = [_literal(child, leaves) for child in spec.children()]
    if any(part is None for part in parts):
        return None
    if spec.type is tuple:
        return f"({', '.join(map(str, parts))}{',' if len(parts) == 1 else ''})"
    if spec.type is list:
        return f"[{', '.join(map(str, parts))}]"
    if spec.type is dict and _plain_keys(spec.context):
        return "{" + ", ".join(f"{key!r}: {part}" for key, part in zip(spec.context, parts)) + "}"
    return None


def _plain_keys(keys: Sequence[Any]) -> bool:
    return all(type(key) in (str, int, bool) for key in keys)
