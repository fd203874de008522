"""The generated code of a compiled module: arguments in and results out, without pytrees where there is no nesting."""

from __future__ import annotations

import math
import re
from collections import OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Iterator, Sequence
from keyword import iskeyword
from typing import Any

from torch.fx.graph import CodeGen, _PyTreeCodeGen, _PyTreeInfo
from torch.utils import _pytree as pytree

from trtcore.errors import InputError
from trtcore.ir.signature import (
    ARGS,
    KEYWORD_ONLY,
    KWARGS,
    PLAIN,
    POSITIONAL_ONLY,
    Binding,
    Parameter,
    Parameters,
)
from trtcore.ir.structures import spec_of, spec_state
from trtcore.ir.torch_private import export_keywords, is_exporting
from trtcore.runtime.conditions import condition_lines, require, same_text
from trtcore.runtime.input_check import InputCheck


class FlatCodeGen(_PyTreeCodeGen):
    """As torch's code for a calling convention, but with the model's own signature; and plain Python where every
    argument is one input, and for results in tuples, lists and dicts: `tree_flatten` and `tree_unflatten` cost
    microseconds in every call.

    Args:
        pytree_info: names and structure of the captured arguments, and the structure of the results.
        parameters: the model's. Those that no argument was captured for are there with their defaults, and are refused
            with another value.
        check: what calls are held to; its conditions become lines of the code.
    """

    def __init__(
        self, pytree_info: _PyTreeInfo, parameters: Parameters = (), check: InputCheck | None = None
    ) -> None:
        super().__init__(pytree_info)
        self.parameters = parameters
        self.check = check

    def __getstate__(self) -> dict[str, Any]:
        names, in_spec, out_spec = self.pytree_info
        return {**self.__dict__, "pytree_info": (names, spec_state(in_spec), spec_state(out_spec))}

    def __setstate__(self, state: dict[str, Any]) -> None:
        names, in_spec, out_spec = state["pytree_info"]
        self.__dict__.update(state, pytree_info=_PyTreeInfo(names, spec_of(in_spec), spec_of(out_spec)))

    def gen_fn_def(self, free_vars: list[str], *rest: Any, **named: Any) -> str:
        bound = [var.partition(":")[0].partition("#")[0].strip() for var in free_vars]
        definition = self._definition(bound, free_vars, *rest, **named)
        if self.check is None or len(bound) != len(self.check.leaves):
            return definition
        return "\n    ".join([definition, *condition_lines(self.check, bound)])

    def process_inputs(self, *args: Any) -> Any:
        """The graph's inputs from arguments: where an interpreter runs the graph, as torch.export does."""
        leaves = self._exported(args)
        if leaves is None:
            leaves = super().process_inputs(*args)
        if self.check is not None and len(leaves) == len(self.check.leaves):
            require(self.check, leaves)
        return leaves

    def _exported(self, args: tuple[Any, ...]) -> Sequence[Any] | None:
        """The inputs of a call that torch.export makes, bound as the model binds them; None for other calls."""
        if self.check is None or not is_exporting():
            return None
        keywords, binding = export_keywords(), self.check.binding
        if keywords is None:
            if binding.positional < len(binding.names):
                raise InputError(
                    "this release of torch does not say which arguments torch.export gives by name",
                    advice="put the compiled module into a module of yours that calls it, and export that one",
                )
            return None
        positional = len(args) - len(keywords)
        values = self.check.check(args[:positional], dict(zip(keywords, args[positional:])))
        return self.check.named_leaves(values)[0]

    def _definition(self, bound: list[str], free_vars: list[str], *rest: Any, **named: Any) -> str:
        names = list(self.pytree_info.orig_args)
        if not self._is_flat() or len(names) != len(bound) or "self" in names:
            definition: str = super().gen_fn_def(free_vars, *rest, **named)
            return self._with_signature(definition, names)
        definition = self._with_signature(CodeGen.gen_fn_def(self, list(names), *rest, **named), names)
        if bound == names:
            return definition
        return f"{definition}\n    {', '.join(bound)}, = {', '.join(names)},"

    def _with_signature(self, definition: str, names: Sequence[str]) -> str:
        """The definition under the model's parameters, where they say all there is to say."""
        binding = None if self.check is None else self.check.binding
        signature = _signature(self.parameters, names, binding)
        if signature is None:
            return definition
        header, line, body = definition.partition("\n")
        made = _HEADER.sub(lambda match: f"{match[1]}{signature}{match[2]}", header, count=1)
        lines = [made, *_refusals(self.parameters, names), *_variadic(self.parameters, names, binding)]
        if self.check is not None:
            lines += _structures(names, self.pytree_info.in_spec, self.check.ordered)
        return "\n".join(lines) + line + body

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


_HEADER = re.compile(r"^(\s*def forward\().*(\).*:)\s*$")


def _signature(parameters: Parameters, names: Sequence[str], binding: Binding | None) -> str | None:
    """The text between the parentheses; None where a default, or a captured name that is no parameter's, stands in
    the way."""
    variadic = {name for name, (kind, _) in zip(names, _sources(names, binding)) if kind != "parameter"}
    if not parameters or not set(names) - variadic <= {p.name for p in parameters}:
        return None
    if not all(name.isidentifier() and not iskeyword(name) for name in variadic):
        return None
    parts, star, defaults, positional = ["self"], False, False, False
    for parameter in parameters:
        if positional and parameter.kind != POSITIONAL_ONLY:
            parts.append("/")
        positional = parameter.kind == POSITIONAL_ONLY
        if parameter.kind in (ARGS, KWARGS):
            star = star or parameter.kind == ARGS
            parts.append(f"{'*' if parameter.kind == ARGS else '**'}{parameter.name}")
            continue
        plain = not parameter.has_default or _is_literal(parameter.default)
        if parameter.name not in names and not plain:
            return None
        if parameter.kind == KEYWORD_ONLY and not star:
            parts.append("*")
            star = True
        if parameter.has_default and (plain or (defaults and not star)):
            # A default that is no literal is never right in the place of a captured value: the check refuses it.
            parts.append(f"{parameter.name}={parameter.default!r}" if plain else f"{parameter.name}=None")
            defaults = True
        else:
            parts.append(parameter.name)
    return ", ".join([*parts, "/"] if positional else parts)


def _sources(names: Sequence[str], binding: Binding | None) -> Sequence[tuple[str, Any]]:
    return binding.sources if binding is not None else [("parameter", name) for name in names]


def _variadic(parameters: Parameters, names: Sequence[str], binding: Binding | None) -> list[str]:
    """Lines that take ``*args`` and ``**kwargs`` apart, and raise where they are others than captured."""
    lines = []
    sources = list(zip(names, _sources(names, binding)))
    for parameter in parameters:
        if parameter.kind not in (ARGS, KWARGS):
            continue
        kind = "args" if parameter.kind == ARGS else "kwargs"
        given = [(name, key) for name, (source, key) in sources if source == kind]
        if kind == "args":
            same = f"len({parameter.name}) == {len(given)}"
            values = [f"{parameter.name}[{index}]" for _, index in given]
        else:
            same = f"list({parameter.name}) == {[key for _, key in given]!r}"
            values = [f"{parameter.name}[{key!r}]" for _, key in given]
        told = (
            f"the model was compiled for other arguments in {'*' * (1 + (kind == 'kwargs'))}{parameter.name}"
        )
        lines.append(f"    if not ({same}): raise TypeError({told!r})")
        if given:
            lines.append(f"    {', '.join(name for name, _ in given)}, = {', '.join(values)},")
    return lines


def _structures(names: Sequence[str], in_spec: pytree.TreeSpec, ordered: bool) -> list[str]:
    """Lines that raise where a nested argument is built in another way than captured, which `tree_flatten_spec` does
    not see; `ordered`: or a dict has its keys in another order, which the model goes through."""
    specs = [child for part in in_spec.children() for child in part.children()]
    found = [one for name, spec in zip(names, specs) for one in _containers(name, spec)]
    told = "an argument has another structure than the model was compiled for"
    lines = [
        f"    if not (isinstance({path}, torch.fx.Proxy) or {_same_structure(path, spec)}): "
        f"raise ValueError({told!r})"
        for path, spec in found
    ]
    told = "a dict has its keys in another order than the model was compiled for"
    return lines + [
        f"    if list({path}) != {_keys(spec)!r}: raise TypeError({told!r})"
        for path, spec in found
        if ordered and _keys(spec) is not None and spec.num_children > 1
    ]


def _same_structure(path: str, spec: pytree.TreeSpec) -> str:
    if (
        spec.type is namedtuple
    ):  # its class has no name in generated code; that its fields are these is what counts
        return f"getattr({path}, '_fields', None) == {tuple(spec.context._fields)!r}"
    same = f"type({path}).__name__ == {spec.type.__name__!r} and len({path}) == {spec.num_children}"
    if spec.type in (tuple, list, dict):
        same = f"type({path}) is {spec.type.__name__} and len({path}) == {spec.num_children}"
    return " and ".join([same, *(f"{key!r} in {path}" for key in _keys(spec) or ())])


def _keys(spec: pytree.TreeSpec) -> list[Any] | None:
    """The keys of a dict of any kind; None for what has none."""
    if spec.type in (dict, OrderedDict):
        return list(spec.context)
    return list(spec.context[1]) if spec.type is defaultdict else None


def _containers(path: str, spec: pytree.TreeSpec) -> Iterator[tuple[str, pytree.TreeSpec]]:
    """Every tuple, list and dict in a structure, of whichever kind, and where it is."""
    if spec.is_leaf() or spec.type not in (tuple, namedtuple, list, deque, dict, OrderedDict, defaultdict):
        return
    keys = _keys(spec)
    keys = list(range(spec.num_children)) if keys is None else keys
    if _plain_keys(keys):
        yield path, spec
        for key, child in zip(keys, spec.children()):
            yield from _containers(f"{path}[{key!r}]", child)


def _is_literal(value: Any) -> bool:
    return isinstance(value, PLAIN) and (not isinstance(value, float) or math.isfinite(value))


def _refusals(parameters: Parameters, names: Sequence[str]) -> list[str]:
    """Lines that raise for what was left at its default and is given now."""
    return [
        f"    if not ({same_text(p.name, p.default)}): raise TypeError({_told(p)!r})"
        for p in parameters
        if p.name not in names and p.kind not in (ARGS, KWARGS)
    ]


def _told(parameter: Parameter) -> str:
    return (
        f"argument {parameter.name} was left at its default {parameter.default!r} when the model was compiled"
    )


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
