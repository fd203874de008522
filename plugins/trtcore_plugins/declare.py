"""`triton_plugin`: one declaration of a Triton kernel, from which the torch op and the TensorRT plugin come."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from trtcore.pack import PackError
from trtcore_plugins.binding import Asking, evaluate, resolve_parameters

Function = Callable[..., Any]
_TENSORS = ("Tensor", "Optional[Tensor]")


class TritonPlugin:
    """What `triton_plugin` returns. Called like the op.

    Attributes:
        name: ``"namespace::op"``.
        op: the `torch._ops.OpOverload`.
        definition: the `torch.library.custom_op` behind it, for ``register_autograd`` and the like.
        options: Triton's own launch options, such as ``num_warps``.
        reference: the op in plain torch, or None.
        strided: whether the kernel takes inputs of any strides.
    """

    def __init__(
        self,
        name: str,
        kernel: Any,
        *,
        schema: str,
        grid: Any,
        shapes: Function,
        dtypes: Any,
        arguments: Mapping[str, Any],
        reference: Function | None,
        options: Mapping[str, Any],
        strided: bool,
    ) -> None:
        self.name = name
        self.reference = reference
        self.options = dict(options)
        self.strided = strided
        self.signature = OpSignature.parse(name, schema)
        inputs, outputs = self.signature.inputs, self.signature.outputs
        self._shapes = Asking(shapes, inputs, f"{name}: shapes")
        self._dtypes = Asking(dtypes, inputs, f"{name}: dtypes") if callable(dtypes) else dtypes
        known = (*inputs, *outputs)
        self._grid = Asking(grid, known, f"{name}: grid") if callable(grid) else grid
        self._arguments = dict(arguments)
        self._given_kernel = kernel
        self._kernel: Any = None
        self._parameters: dict[str, Any] = {}
        if hasattr(kernel, "arg_names"):
            self._take_kernel(kernel)
        elif not callable(kernel):
            raise PackError(f"{name}: {kernel!r} is neither a Triton kernel nor a function that returns one")
        self.definition = torch.library.custom_op(
            name, self._run, mutates_args=self.signature.mutated, schema=schema
        )
        self.definition.register_fake(self._fake)
        namespace, _, opname = name.partition("::")
        self.op: torch._ops.OpOverload = getattr(getattr(torch.ops, namespace), opname).default

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.op(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<triton_plugin {self.op._schema}>"

    # ---- the kernel -------------------------------------------------------------------------------------

    @property
    def kernel(self) -> Any:
        """The Triton kernel; imports Triton where the declaration gave a function that returns it."""
        if self._kernel is None:
            self._take_kernel(self._given_kernel())
        return self._kernel

    @property
    def interpreted(self) -> bool:
        """Whether the kernel runs in Triton's interpreter (``TRITON_INTERPRET=1`` when Triton was imported)."""
        kernel = self.kernel
        while hasattr(kernel, "fn") and hasattr(kernel.fn, "arg_names"):  # autotune and heuristics wrap it
            kernel = kernel.fn
        return type(kernel).__name__ == "InterpretedFunction"

    def _take_kernel(self, kernel: Any) -> None:
        if not hasattr(kernel, "arg_names"):
            raise PackError(
                f"{self.name}: {kernel!r} is no Triton kernel", advice="decorate it with @triton.jit"
            )
        known = (*self.signature.inputs, *self.signature.outputs)
        self._parameters = resolve_parameters(kernel.arg_names, self._arguments, known, self.name)
        self._kernel = kernel

    def kernel_arguments(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The kernel's parameters in its order, from the op's arguments and outputs by name."""
        self.kernel  # noqa: B018  (imports Triton)
        return evaluate(self._parameters, values)

    def grid(self, values: Mapping[str, Any]) -> tuple[Any, ...]:
        """The launch grid (x, y, z), ints or symbolic ints."""
        grid = self._grid(values) if isinstance(self._grid, Asking) else self._grid
        grid = tuple(grid) if isinstance(grid, (tuple, list)) else (grid,)
        if not 1 <= len(grid) <= 3:
            raise PackError(f"{self.name}: the grid {grid} has {len(grid)} dimensions; a grid has 1 to 3")
        return (*grid, *(1,) * (3 - len(grid)))

    # ---- the torch op -----------------------------------------------------------------------------------

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        """The op on real tensors: launches the kernel, or takes the reference where no kernel can run."""
        values = self.signature.bind(args, kwargs)
        device = self._device(values)
        if device.type == "cpu" and self.reference is not None and not self._interprets():
            return self.reference(*(values[name] for name in self.signature.inputs))
        self._check_device(device)
        if not self.strided:
            self._make_contiguous(values)
        outputs = self.new_outputs(values)
        values.update(zip(self.signature.outputs, outputs))
        self.launch(values, device)
        return self.signature.pack(outputs)

    def _fake(self, *args: Any, **kwargs: Any) -> Any:
        """The op on FakeTensors: what it returns, without data."""
        return self.signature.pack(self.new_outputs(self.signature.bind(args, kwargs)))

    def new_outputs(self, values: Mapping[str, Any]) -> list[torch.Tensor]:
        """Empty contiguous tensors of the declared shapes and dtypes, on the inputs' device."""
        device = self._device(values)
        return [
            torch.empty(shape, dtype=dtype, device=device)
            for shape, dtype in zip(self.output_shapes(values), self.output_dtypes(values))
        ]

    def output_shapes(self, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """One shape per output, of ints or symbolic ints."""
        count = len(self.signature.outputs)
        given = self._shapes(values) if count else ()
        shapes = [given] if count == 1 and not _is_list_of_shapes(given) else list(given)
        if len(shapes) != count:
            raise PackError(f"{self.name}: shapes gave {len(shapes)} shapes for {count} outputs")
        return [tuple(shape) for shape in shapes]

    def output_dtypes(self, values: Mapping[str, Any]) -> list[torch.dtype]:
        """One dtype per output."""
        count = len(self.signature.outputs)
        given = self._dtypes(values) if isinstance(self._dtypes, Asking) else self._dtypes
        if given is None:
            given = values[self.signature.tensors[0]].dtype
        dtypes = [given] * count if isinstance(given, torch.dtype) else list(given)
        if len(dtypes) != count:
            raise PackError(f"{self.name}: dtypes gave {len(dtypes)} dtypes for {count} outputs")
        return dtypes

    def launch(self, values: Mapping[str, Any], device: torch.device) -> None:
        """Launch the kernel on the op's arguments and outputs, all on `device`."""
        grid = self.grid(values)
        if any(size == 0 for size in grid):
            written = [name for name in self.signature.outputs if values[name].numel()]
            if written:
                raise PackError(f"{self.name}: an empty grid {grid} leaves {', '.join(written)} unwritten")
            return
        arguments = self.kernel_arguments(values)
        with torch.cuda.device(device if device.type == "cuda" else -1):
            self.kernel[grid](*arguments.values(), **self.options)

    def _device(self, values: Mapping[str, Any]) -> torch.device:
        tensors = [values[name] for name in self.signature.tensors if values[name] is not None]
        devices = {tensor.device for tensor in tensors}
        if len(devices) != 1:
            raise ValueError(
                f"{self.name}: its tensors must be on one device, and are on {devices or 'none'}"
            )
        return devices.pop()

    def _interprets(self) -> bool:
        try:
            return self.interpreted
        except ImportError:  # no Triton here: the reference is what there is
            return False

    def _check_device(self, device: torch.device) -> None:
        if device.type != "cuda" and not self.interpreted:
            raise RuntimeError(
                f"{self.name} is a Triton kernel and cannot run on {device}: give triton_plugin(reference=...) for "
                "the CPU, or set TRITON_INTERPRET=1 before triton is imported"
            )

    def _make_contiguous(self, values: dict[str, Any]) -> None:
        for name in self.signature.tensors:
            tensor = values[name]
            if tensor is None or tensor.is_contiguous():
                continue
            if name in self.signature.mutated:
                raise ValueError(f"{self.name} writes to {name}, which must be contiguous")
            values[name] = tensor.contiguous()


def _is_list_of_shapes(given: Any) -> bool:
    return (
        isinstance(given, (list, tuple))
        and len(given) > 0
        and isinstance(given[0], (list, tuple, torch.Size))
    )


class OpSignature:
    """An op's schema, as far as launching it needs.

    Attributes:
        inputs: names of the arguments, in order.
        tensors: those that are tensors (or optional tensors).
        mutated: those that the op writes to.
        outputs: names of the returned tensors: the schema's, else ``out``, or ``out0``, ``out1`` and so on.
    """

    def __init__(self, schema: Any) -> None:
        self.schema = schema
        self.inputs = tuple(argument.name for argument in schema.arguments)
        self.tensors = tuple(a.name for a in schema.arguments if _is_tensor(a.type))
        self.mutated = tuple(
            a.name for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write
        )
        returns = schema.returns
        fallback = ["out"] if len(returns) == 1 else [f"out{i}" for i in range(len(returns))]
        self.outputs = tuple(r.name or name for r, name in zip(returns, fallback))
        self._positional = tuple(a.name for a in schema.arguments if not a.kwarg_only)
        self._defaults = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}

    @classmethod
    def parse(cls, name: str, schema: str) -> OpSignature:
        """Read ``"(Tensor x, float alpha=1.0) -> Tensor"``.

        Raises:
            PackError: not a schema, no tensor argument, or something that a kernel cannot return.
        """
        namespace, found, opname = name.partition("::")
        if not (found and namespace.isidentifier() and opname.isidentifier()):
            raise PackError(f"{name!r} is not the name of an op", advice='write "namespace::op"')
        try:
            parsed = torch._C.parse_schema(f"{name}{schema}")
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise PackError(
                f"{name}: schema {schema!r} cannot be read: {reason}",
                advice='write it like "(Tensor x, float alpha=1.0) -> Tensor"',
            ) from error
        signature = cls(parsed)
        if not signature.tensors:
            raise PackError(f"{name}: a kernel needs at least one tensor argument")
        if not all(str(r.type) == "Tensor" for r in parsed.returns):
            raise PackError(
                f"{name}: a kernel returns tensors, and the schema has {schema.partition('->')[2]}"
            )
        if any(r.alias_info is not None for r in parsed.returns):
            raise PackError(
                f"{name}: a returned tensor may not alias an argument", advice="return nothing: -> ()"
            )
        clash = set(signature.outputs) & set(signature.inputs)
        if clash or len(set(signature.outputs)) != len(signature.outputs):
            raise PackError(f"{name}: an output needs a name of its own, {', '.join(sorted(clash))} is taken")
        return signature

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call by name, in the schema's order, defaults filled in."""
        given = {**self._defaults, **dict(zip(self._positional, args)), **kwargs}
        return {name: given[name] for name in self.inputs}

    def pack(self, outputs: Sequence[torch.Tensor]) -> Any:
        """The outputs as an op returns them: nothing, one tensor, or a tuple."""
        if not outputs:
            return None
        return outputs[0] if len(outputs) == 1 else tuple(outputs)


def _is_tensor(kind: Any) -> bool:
    return str(kind) in _TENSORS


def triton_plugin(
    name: str,
    kernel: Any,
    *,
    schema: str,
    grid: Any,
    shapes: Function,
    dtypes: Any = None,
    arguments: Mapping[str, Any] | None = None,
    reference: Function | None = None,
    strided: bool = False,
    **options: Any,
) -> TritonPlugin:
    """Declare a Triton kernel once; get the torch op, its fake implementation, the plugin and the converter.

    ``shapes``, ``dtypes``, ``grid`` and the functions in ``arguments`` ask for what they need by the names of
    their parameters: the op's arguments as the schema names them, and (``grid`` and ``arguments``) its outputs,
    ``out``, or ``out0``, ``out1`` and so on where the schema does not name them. They see tensors, whose sizes
    are symbolic when the plugin is generated, so they should compute with sizes and not branch on them.

    The op launches the kernel on CUDA tensors. On CPU tensors it runs the kernel in Triton's interpreter where
    ``TRITON_INTERPRET=1`` was set when Triton was imported, else `reference`.

    Args:
        name: ``"namespace::op"``. Declaring a name again replaces it.
        kernel: a ``@triton.jit`` function, or a function without arguments that imports and returns one (so
            that declaring it does not import Triton).
        schema: the op's schema without its name, ``"(Tensor x, float eps=1e-6) -> Tensor"``. Argument types are
            those of torch: tensors, optional tensors, numbers, bools, strings, lists of numbers. An argument
            that the kernel writes to is ``Tensor(a!) x``.
        grid: the launch grid: an int or a tuple of up to three, or a function that returns one. Nothing is
            launched where one of them is 0.
        shapes: function that returns the output's shape, or one shape per output.
        dtypes: the outputs' dtype, one per output, or a function that returns them; by default that of the first
            tensor argument.
        arguments: the kernel's parameters that are not called like an argument or an output of the op (with or
            without ``_ptr``): a constant, or a function.
        reference: the op in plain torch, called with all its arguments by position. It runs on the CPU where the
            kernel cannot, and `assert_plugin` tests the kernel against it.
        strided: whether the kernel takes inputs of any strides. By default it gets contiguous ones.
        options: Triton's launch options: ``num_warps``, ``num_stages``.

    Raises:
        PackError: a name, schema or function that makes no sense, or a kernel parameter that nothing gives.

    Example::

        scaled = triton_plugin(
            "mine::scaled", scaled_kernel, schema="(Tensor x, float by) -> Tensor",
            shapes=lambda x: x.shape, grid=lambda x: triton.cdiv(x.numel(), 1024),
            arguments={"n": lambda x: x.numel(), "BLOCK": 1024}, reference=lambda x, by: x * by,
        )
        y = scaled(x, 2.0)  # or torch.ops.mine.scaled(x, 2.0)
    """
    return TritonPlugin(
        name,
        kernel,
        schema=schema,
        grid=grid,
        shapes=shapes,
        dtypes=dtypes,
        arguments=arguments or {},
        reference=reference,
        options=options,
        strided=strided,
    )
