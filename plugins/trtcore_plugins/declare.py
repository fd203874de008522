"""`triton_plugin`: one declaration of a Triton kernel, from which the torch op and the TensorRT plugin come."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from trtcore.pack import (
    ConversionContext,
    ConversionError,
    NodeContext,
    PackError,
    Priority,
    register_kernel_plugin,
)
from trtcore_plugins.binding import Asking, evaluate, resolve_parameters
from trtcore_plugins.ops import OpPlugin, plugin_name
from trtcore_plugins.quick import Definition
from trtcore_plugins.signature import OpSignature
from trtcore_plugins.tracing import TensorSpec

Function = Callable[..., Any]

LOOPS_NOT_INTERPRETED = "only 0-dimensional arrays can be converted to Python scalars"
"""What NumPy 2.4 tells Triton 3.6, whose interpreter has sizes as arrays of one element."""


class TritonPlugin(OpPlugin):
    """What `triton_plugin` returns. Called like the op; a kernel plugin for packs to contribute.

    Attributes:
        name: ``"namespace::op"``.
        op: the `torch._ops.OpOverload`.
        custom_op: the `torch.library.custom_op` behind it, for ``register_autograd`` and the like.
        options: Triton's own launch options, such as ``num_warps``.
        reference: the op in plain torch, or None.
        strided: whether the kernel takes inputs of any strides.
        ptx_version: of the compiled plugin, 80 for 8.0; None for the lowest that the target needs.
        python_callback: whether TensorRT calls the op in Python instead of the compiled kernel.
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
        ptx_version: int | None,
        python_callback: bool,
        priority: int,
    ) -> None:
        self.name = name
        self.reference = reference
        self.options = dict(options)
        self.strided = strided
        self.ptx_version = ptx_version
        self.python_callback = python_callback
        self.priority = priority
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
        self.custom_op = torch.library.custom_op(
            name, self._run, mutates_args=self.signature.mutated, schema=schema
        )
        self.custom_op.register_fake(self._fake)
        namespace, _, opname = name.partition("::")
        self.op: torch._ops.OpOverload = getattr(getattr(torch.ops, namespace), opname).default

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.op(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<triton_plugin {self.op._schema}>"

    # ---- the plugin -------------------------------------------------------------------------------------

    @property
    def deployable(self) -> bool:
        """Whether an engine with it runs outside Python: the compiled kernel does, a Python callback does not."""
        return not self.python_callback

    def definition(
        self, absent: tuple[str, ...] = (), ctx: ConversionContext | NodeContext | None = None
    ) -> Definition:
        """The plugin without the optional tensors in `absent`, compiled for the target of a compile.

        Raises:
            ConversionError: Triton is missing, interprets, or adds parameters that a plugin cannot give.
        """
        name = plugin_name(self.name, self.op, absent)
        if self.python_callback:
            return Definition(name, self.op, self.signature, absent, self.combinations)
        from trtcore_plugins.ahead import scratch_parameters
        from trtcore_plugins.launching import compilable

        compilable(self)
        capability = _compute_capability(ctx)
        return Definition(
            name,
            self.op,
            self.signature,
            absent,
            self.combinations,
            compile=lambda specs, attributes: self.compile(specs, attributes, capability),
            scratch=scratch_parameters(),
        )

    def compile(
        self, specs: Sequence[TensorSpec], attributes: Mapping[str, Any], compute_capability: tuple[int, int]
    ) -> tuple[Any, Any]:
        """The launch plan and the compiled kernel for inputs of one kind; needs no GPU.

        Args:
            specs: the tensor arguments that are not None: dtypes, and dims (None for dynamic ones).
            attributes: every other argument by name.
            compute_capability: (major, minor) of the GPU.

        Raises:
            ConversionError: see `trtcore_plugins.launching.plan_launch` and `trtcore_plugins.ahead.compile_kernel`.
        """
        from trtcore_plugins.ahead import compile_kernel
        from trtcore_plugins.launching import plan_launch

        plan = plan_launch(self, specs, attributes)
        return plan, compile_kernel(self, plan, compute_capability)

    def check(
        self, definition: Definition, specs: Sequence[TensorSpec], attributes: Mapping[str, Any]
    ) -> None:
        """Compile the kernel for such inputs.

        Raises:
            ConversionError: it cannot be compiled, or TensorRT could not launch it.
        """
        if definition.compile is not None:
            definition.compile(specs, attributes)

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
            self.make_contiguous(values)
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
        try:
            with torch.cuda.device(device if device.type == "cuda" else -1):
                self.kernel[grid](*arguments.values(), **self.options)
        except Exception as error:
            if LOOPS_NOT_INTERPRETED not in str(error):
                raise
            raise RuntimeError(
                f"{self.name}: {error}. Triton before 3.7 cannot interpret loops over sizes with NumPy 2.4 and later: "
                "install triton>=3.7, or 'numpy<2.4'"
            ) from error

    def _device(self, values: Mapping[str, Any]) -> torch.device:
        tensors = [values[name] for name in self.signature.tensors if values[name] is not None]
        devices = {tensor.device for tensor in tensors}
        if len(devices) != 1:
            raise ValueError(
                f"{self.name}: its tensors must be on one device, and are on {devices or 'none'}"
            )
        device: torch.device = devices.pop()
        return device

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

    def make_contiguous(self, values: dict[str, Any]) -> None:
        """Replace the tensors among the op's arguments by contiguous ones.

        Raises:
            ValueError: one that the op writes to is not.
        """
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


def _compute_capability(ctx: Any) -> tuple[int, int]:
    """What a compile is for; without one, or where it leaves it open, the GPU here."""
    target = getattr(ctx, "target", None)
    if target is not None and target.compute_capability is not None:
        found: tuple[int, int] = target.compute_capability
        return found
    if torch.cuda.is_available():
        return torch.cuda.get_device_capability()
    raise ConversionError(
        "a kernel is compiled for a GPU, and the compile has no target", advice="set device="
    )


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
    ptx_version: int | None = None,
    python_callback: bool = False,
    priority: int = Priority.STANDARD,
    **options: Any,
) -> TritonPlugin:
    """Declare a Triton kernel once; get the torch op, its fake implementation, the plugin and the converter.

    In a script or a notebook every compile uses it from then on; a pack returns it from ``kernel_plugins``.

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
        ptx_version: PTX version of the compiled plugin, 80 for 8.0: what the driver it is loaded by must know. By
            default the lowest that the target GPU needs.
        python_callback: let TensorRT call the op in Python instead of the compiled kernel. It takes what cannot be
            compiled ahead of time, and engines with it do not run outside Python.
        priority: of its converter.
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
    plugin = TritonPlugin(
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
        ptx_version=ptx_version,
        python_callback=python_callback,
        priority=priority,
    )
    register_kernel_plugin(plugin, str(sys._getframe(1).f_globals.get("__name__", "")))
    return plugin
