"""An op's schema, as far as calling it and making a plugin of it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trtcore.pack import PackError
from trtcore_plugins.torch_private import parse_schema

_TENSORS = ("Tensor", "Optional[Tensor]")


class OpSignature:
    """An op's arguments and outputs by name.

    Attributes:
        name: ``"namespace::op"``.
        inputs: names of the arguments, in order.
        kinds: their types as the schema has them, ``"Tensor"``, ``"Optional[int]"``, ``"List[float]"``.
        tensors: those that are tensors (or optional tensors).
        mutated: those that the op writes to.
        outputs: names of the returned tensors: the schema's, else ``out``, or ``out0``, ``out1`` and so on.

    Raises:
        PackError: it takes or returns what a kernel cannot: no tensor at all, lists of tensors, views.
    """

    def __init__(self, name: str, schema: Any) -> None:
        self.name = name
        self.inputs = tuple(argument.name for argument in schema.arguments)
        self.kinds = {argument.name: str(argument.type) for argument in schema.arguments}
        self.tensors = tuple(name for name, kind in self.kinds.items() if kind in _TENSORS)
        self.mutated = tuple(
            a.name for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write
        )
        returns = schema.returns
        fallback = ["out"] if len(returns) == 1 else [f"out{i}" for i in range(len(returns))]
        self.outputs = tuple(r.name or given for r, given in zip(returns, fallback))
        self._keyword = tuple(a.name for a in schema.arguments if a.kwarg_only)
        self._positional = tuple(a.name for a in schema.arguments if not a.kwarg_only)
        self._defaults = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
        self._check(returns)

    def _check(self, returns: Sequence[Any]) -> None:
        name = self.name
        lists = [n for n, kind in self.kinds.items() if "Tensor" in kind and kind not in _TENSORS]
        if lists:
            raise PackError(
                f"{name}: {', '.join(lists)} is a list of tensors; a plugin has a fixed number of inputs"
            )
        if not self.tensors:
            raise PackError(f"{name}: a kernel needs at least one tensor argument")
        strange = [str(r.type) for r in returns if str(r.type) != "Tensor"]
        if strange:
            raise PackError(f"{name}: a kernel returns tensors, and this op returns {', '.join(strange)}")
        if any(r.alias_info is not None for r in returns):
            raise PackError(
                f"{name}: a returned tensor may not alias an argument", advice="return nothing: -> ()"
            )
        clash = set(self.outputs) & set(self.inputs)
        if clash or len(set(self.outputs)) != len(self.outputs):
            raise PackError(f"{name}: an output needs a name of its own, {', '.join(sorted(clash))} is taken")

    @classmethod
    def parse(cls, name: str, schema: str) -> OpSignature:
        """Read ``"(Tensor x, float alpha=1.0) -> Tensor"``.

        Raises:
            PackError: not a name, not a schema, or one that a kernel cannot have.
        """
        namespace, found, opname = name.partition("::")
        if not (found and namespace.isidentifier() and opname.isidentifier()):
            raise PackError(f"{name!r} is not the name of an op", advice='write "namespace::op"')
        try:
            parsed = parse_schema(f"{name}{schema}")
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise PackError(
                f"{name}: schema {schema!r} cannot be read: {reason}",
                advice='write it like "(Tensor x, float alpha=1.0) -> Tensor"',
            ) from error
        return cls(name, parsed)

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call by name, in the schema's order, defaults filled in."""
        given = {**self._defaults, **dict(zip(self._positional, args)), **kwargs}
        return {name: given[name] for name in self.inputs}

    def positional(self, values: Mapping[str, Any]) -> list[Any]:
        """The arguments that a call gives by position."""
        return [values[name] for name in self._positional]

    def keyword(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments that a call must name."""
        return {name: values[name] for name in self._keyword}

    def pack(self, outputs: Sequence[Any]) -> Any:
        """The outputs as an op returns them: nothing, one tensor, or a tuple."""
        if not outputs:
            return None
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def unpack(self, result: Any) -> list[Any]:
        """What an op returned, as a list."""
        if not self.outputs:
            return []
        return [result] if len(self.outputs) == 1 else list(result)
