"""The one module that calls TensorRT at run time. Thin: no decisions, every result checked.

`logic.py` decides; it sees TensorRT only through the methods of `Connection`, so that it can be tested on
a machine without a GPU. Names follow TensorRT's ``ICudaEngine`` and ``IExecutionContext``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from trtcore.artifact.manifest import EngineManifest
from trtcore.errors import BackendUnavailableError, RefitError, TrtcoreError
from trtcore.runtime.native.cuda import Ambient, Cuda
from trtcore.runtime.runtime_cache import active_cache


@dataclass(frozen=True)
class IOTensor:
    """A binding as the engine itself describes it.

    Attributes:
        is_input: mode is INPUT.
        dtype: torch dtype.
        shape: with -1 for dynamic dims.
        on_host: its address must be host memory (a shape tensor).
        profiles: for an input, per optimisation profile the (min, opt, max) dims, or for a shape tensor the
            (min, opt, max) values; () for outputs.
    """

    name: str
    is_input: bool
    dtype: torch.dtype
    shape: tuple[int, ...]
    on_host: bool
    profiles: tuple[tuple[tuple[int, ...], ...], ...]


EngineWeights = Mapping[tuple[str, str], torch.Tensor]
"""(layer's name, role) -> weights."""

GivenWeights = tuple[EngineWeights, Collection[tuple[str, str]]]
"""All weights of an engine, and where they are others than those of its plan."""


class Allocator(Protocol):
    """What `Connection.set_allocator` calls back, from inside execute."""

    def allocate(self, size: int) -> int:
        """Device memory of `size` bytes on the current call's stream; 0 when there is none."""

    def shaped(self, shape: tuple[int, ...]) -> None:
        """The output's shape is known."""


Calls = tuple[Callable[[str, int], bool], Callable[[int, int], None], Callable[[int], bool]]
"""Of one context: set the address of a tensor; set the activation memory and its size; queue one run on a stream.
False is a refusal (`Connection.refused`)."""


class Connection(Protocol):
    """What `logic.py` needs from TensorRT and CUDA. Engines and contexts are opaque handles."""

    def ambient(self) -> Ambient: ...
    def on_device(self, device: torch.device) -> AbstractContextManager[Any]: ...
    def execution_stream(self, index: int, stream: int) -> int: ...
    def side_stream(self, device: torch.device) -> AbstractContextManager[int]: ...
    def relaxed(self) -> AbstractContextManager[None]: ...
    def capture_number(self, stream: int) -> int: ...
    def graph_token(self, stream: int) -> Any: ...
    def deserialize(self, plan: torch.Tensor) -> Any: ...
    def refit(self, engine: Any, weights: EngineWeights, needed: Collection[tuple[str, str]]) -> None: ...
    def streaming(self, engine: Any) -> tuple[int, int, int]: ...
    def set_streaming_budget(self, engine: Any, budget: int) -> None: ...
    def io_tensors(self, engine: Any) -> tuple[IOTensor, ...]: ...
    def create_context(self, engine: Any) -> Any: ...
    def run_calls(self, context: Any) -> Calls: ...
    def set_profile(self, context: Any, index: int, stream: int) -> None: ...
    def set_input_shape(self, context: Any, name: str, shape: Sequence[int]) -> None: ...
    def set_allocator(self, context: Any, name: str, allocator: Allocator) -> Any: ...
    def missing(self, context: Any) -> list[str]: ...
    def output_shape(self, context: Any, name: str) -> tuple[int, ...]: ...
    def memory_size(self, context: Any) -> int: ...
    def set_profiler(self, context: Any, told: Callable[[str, float], None]) -> Any: ...
    def describe(self, engine: Any) -> tuple[int, str]: ...
    def refused(self, what: str) -> NativeError: ...


class NativeError(TrtcoreError):
    """TensorRT refused something at run time; the lines say what."""


class TensorRT(Cuda):
    """`Connection` to a TensorRT flavour's bindings.

    Args:
        backend: the flavour. Loading its bindings may raise BackendUnavailableError.
    """

    def __init__(self, backend: Any) -> None:
        super().__init__()
        self._backend = backend
        self._trt: Any = backend.trt
        self._logger: Any = backend.make_logger()
        self._runtime: Any = None
        self._reading = threading.Lock()

    def check(self) -> None:
        """Raise BackendUnavailableError unless engines of this flavour run on this machine's GPU."""
        able = self._backend.native_runtime()
        if not able.ok:
            raise BackendUnavailableError(able.message, advice=_ADVICE)

    # ---- engine -------------------------------------------------------------------------------------

    def deserialize(self, plan: torch.Tensor) -> Any:
        """ICudaEngine from a uint8 CPU tensor.

        Raises:
            BackendUnavailableError: TensorRT gave None: no driver, another GPU or version, damaged plan.
        """
        with self._reading:
            mark = self._logger.mark()
            if self._runtime is None:
                try:
                    self._runtime = self._trt.Runtime(self._logger)
                except Exception as error:
                    raise self._unavailable(f"TensorRT has no runtime here ({error})", mark) from None
            try:
                engine = self._runtime.deserialize_cuda_engine(plan.numpy())
            except Exception as error:
                raise self._unavailable(f"TensorRT could not read the plan ({error})", mark) from None
        if engine is None:
            raise self._unavailable("TensorRT could not read the plan", mark)
        return engine

    def refit(self, engine: Any, weights: EngineWeights, needed: Collection[tuple[str, str]]) -> None:
        """Give an engine its weights (``IRefitter``).

        Args:
            weights: (layer's name, role) -> weights, on the CPU; those that the plan takes are set.
            needed: those that it must take.

        Raises:
            RefitError: it does not take one of `needed`, lacks one that is not in `weights`, or TensorRT refuses one.
        """
        mark = self._logger.mark()
        refitter = self._trt.Refitter(engine, self._logger)
        takes = list(zip(*refitter.get_all()))
        known = {(name, role.name.lower()) for name, role in takes}
        role_of = {"weights": "constant"}  # a CONSTANT layer's
        if missing := [f"{n} ({r})" for n, r in needed if (n, role_of.get(r, r)) not in known]:
            raise self._not_refitted(
                f"its plan takes no other weights for {', '.join(sorted(missing))}", mark
            )
        kept = []
        for (name, role), tensor in weights.items():
            role = role_of.get(role, role)
            if (name, role) not in known:
                continue
            kept.append(tensor.detach().cpu().contiguous())
            given = self._trt.Weights(
                self._backend.trt_dtype(tensor.dtype), kept[-1].data_ptr(), kept[-1].numel()
            )
            if not refitter.set_weights(name, getattr(self._trt.WeightsRole, role.upper()), given):
                raise self._not_refitted(f"TensorRT refused the {role} of {name}", mark)
        lacks = [f"{name} ({role.name.lower()})" for name, role in zip(*refitter.get_missing())]
        if lacks:
            raise self._not_refitted(f"its plan lacks weights for {', '.join(sorted(lacks))}", mark)
        if not refitter.refit_cuda_engine():
            raise self._not_refitted("TensorRT refused the weights", mark)

    def streaming(self, engine: Any) -> tuple[int, int, int]:
        """(bytes of weights that can be streamed, the budget, the budget that TensorRT would choose)."""
        budget, automatic = engine.weight_streaming_budget_v2, engine.get_weight_streaming_automatic_budget()
        return int(engine.streamable_weights_size), int(budget), int(automatic)

    def set_streaming_budget(self, engine: Any, budget: int) -> None:
        """Bytes of weights that may be on the GPU. No execution context of the engine may exist."""
        mark = self._logger.mark()
        engine.weight_streaming_budget_v2 = budget
        if engine.weight_streaming_budget_v2 != budget:
            raise self._error(f"TensorRT refused the weight streaming budget {budget}", mark)

    def _not_refitted(self, what: str, mark: int) -> RefitError:
        return RefitError(
            f"the engine cannot be given its weights: {what}",
            tensorrt=self._logger.since(mark),
            advice='compile the model with these weights, or load it with runtime="reference"',
        )

    def io_tensors(self, engine: Any) -> tuple[IOTensor, ...]:
        """All bindings, in the engine's order."""
        return tuple(self._io_tensor(engine, engine.get_tensor_name(i)) for i in range(engine.num_io_tensors))

    def _io_tensor(self, engine: Any, name: str) -> IOTensor:
        trt = self._trt
        is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        on_host = engine.get_tensor_location(name) == trt.TensorLocation.HOST
        profiles: list[tuple[tuple[int, ...], ...]] = []
        for index in range(engine.num_optimization_profiles if is_input else 0):
            rows = (
                engine.get_tensor_profile_values(index, name)
                if on_host
                else engine.get_tensor_profile_shape(name, index)
            )
            profiles.append(tuple(tuple(int(value) for value in row) for row in rows))
        shape = tuple(int(dim) for dim in engine.get_tensor_shape(name))
        dtype = self._backend.torch_dtype(engine.get_tensor_dtype(name))
        return IOTensor(name, is_input, dtype, shape, on_host, tuple(profiles))

    # ---- context ------------------------------------------------------------------------------------

    def create_context(self, engine: Any) -> Any:
        """IExecutionContext without activation memory of its own (`set_memory` gives it)."""
        mark = self._logger.mark()
        strategy, kernels = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED, active_cache()
        if kernels is None:
            context = engine.create_execution_context(strategy)
        else:
            context = kernels.create_context(self._trt, engine, strategy)
        if context is None:
            raise self._error("TensorRT could not create an execution context", mark)
        return context

    def set_profile(self, context: Any, index: int, stream: int) -> None:
        """Choose an optimisation profile."""
        mark = self._logger.mark()
        self._good(
            context.set_optimization_profile_async(index, stream), f"optimisation profile {index}", mark
        )

    def set_input_shape(self, context: Any, name: str, shape: Sequence[int]) -> None:
        """Shape of an input for the next execute."""
        mark = self._logger.mark()
        self._good(context.set_input_shape(name, tuple(shape)), f"shape {tuple(shape)} of {name!r}", mark)

    def run_calls(self, context: Any) -> Calls:
        """The context's own methods, for what every run does."""
        return context.set_tensor_address, context.set_device_memory, context.execute_async_v3

    def set_allocator(self, context: Any, name: str, allocator: Allocator) -> Any:
        """Let `allocator` give an output its memory. Returns what must stay alive until execute is done."""
        adapter = _allocator_class(self._trt)(allocator)
        mark = self._logger.mark()
        self._good(context.set_output_allocator(name, adapter), f"an output allocator for {name!r}", mark)
        return adapter

    def missing(self, context: Any) -> list[str]:
        """Infer shapes; names of inputs whose shape or value is not set."""
        mark = self._logger.mark()
        try:
            return [str(name) for name in context.infer_shapes()]
        except RuntimeError as error:
            raise self._error(f"TensorRT could not infer the shapes ({error})", mark) from None

    def output_shape(self, context: Any, name: str) -> tuple[int, ...]:
        """Shape of an output for the inputs set, -1 where only the run tells."""
        return tuple(int(dim) for dim in context.get_tensor_shape(name))

    def memory_size(self, context: Any) -> int:
        """Bytes of activation memory for the input shapes set."""
        return int(context.update_device_memory_size_for_shapes())

    # ---- looking inside -----------------------------------------------------------------------------

    def set_profiler(self, context: Any, told: Callable[[str, float], None]) -> Any:
        """Let TensorRT call `told` with each layer's name and milliseconds, for every execute, which then waits for the
        GPU. Returns what must stay alive meanwhile."""
        context.profiler = profiler = _profiler_class(self._trt)(told)
        return profiler

    def describe(self, engine: Any) -> tuple[int, str]:
        """Bytes of activation memory for the largest shapes, and the layers as TensorRT built them, as JSON."""
        size = getattr(engine, "device_memory_size_v2", None)
        inspector = engine.create_engine_inspector()
        text = inspector.get_engine_information(self._trt.LayerInformationFormat.JSON)
        return int(engine.device_memory_size if size is None else size), str(text)

    # ---- errors -------------------------------------------------------------------------------------

    def refused(self, what: str) -> NativeError:
        """The error for what one of `calls` refused, with the last lines that TensorRT wrote."""
        return NativeError(f"TensorRT refused {what}", tensorrt=self._logger.since(0)[-_LAST_LINES:])

    def _good(self, result: bool, what: str, mark: int) -> None:
        if not result:
            raise self._error(f"TensorRT refused {what}", mark)

    def _error(self, message: str, mark: int) -> NativeError:
        return NativeError(message, tensorrt=self._logger.since(mark))

    def _unavailable(self, message: str, mark: int) -> BackendUnavailableError:
        able = self._backend.native_runtime()
        if not able.ok:
            message, advice = f"{message}: {able.message}", _ADVICE
        else:
            advice = (
                "the plan is damaged, or of another TensorRT version or GPU: compile the model again here"
            )
        return BackendUnavailableError(message, tensorrt=self._logger.since(mark), advice=advice)


_LAST_LINES = 5
_ADVICE = "run on a machine with a GPU that this backend supports (see `trtcore doctor`)"


_allocators: dict[str, Callable[[Allocator], Any]] = {}


def _allocator_class(trt: Any) -> Callable[[Allocator], Any]:
    if trt.__name__ not in _allocators:

        class OutputAllocator(trt.IOutputAllocator):  # type: ignore[misc]
            def __init__(self, target: Allocator) -> None:
                trt.IOutputAllocator.__init__(self)
                self._target = target

            def reallocate_output(self, tensor_name: str, memory: int, size: int, alignment: int) -> int:
                return self._target.allocate(size)

            def reallocate_output_async(
                self, tensor_name: str, memory: int, size: int, alignment: int, stream: int
            ) -> int:
                return self._target.allocate(size)

            def notify_shape(self, tensor_name: str, shape: Any) -> None:
                self._target.shaped(tuple(int(dim) for dim in shape))

        _allocators[trt.__name__] = OutputAllocator
    return _allocators[trt.__name__]


_profilers: dict[str, Callable[[Callable[[str, float], None]], Any]] = {}


def _profiler_class(trt: Any) -> Callable[[Callable[[str, float], None]], Any]:
    if trt.__name__ not in _profilers:

        class Profiler(trt.IProfiler):  # type: ignore[misc]
            def __init__(self, told: Callable[[str, float], None]) -> None:
                trt.IProfiler.__init__(self)
                self._told = told

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                self._told(layer_name, ms)

        _profilers[trt.__name__] = Profiler
    return _profilers[trt.__name__]


_connections: dict[str, TensorRT] = {}
_lock = threading.Lock()


def connect(manifest: EngineManifest) -> TensorRT:
    """The connection to the TensorRT flavour that built an engine; one per flavour and process.

    Raises:
        BackendUnavailableError: the flavour is unknown here, not installed, or of another version.
    """
    with _lock:
        if manifest.backend not in _connections:
            _connections[manifest.backend] = TensorRT(_backend(manifest))
        connection = _connections[manifest.backend]
        register_plugins(manifest, connection._backend)
        return connection


def register_plugins(manifest: EngineManifest, backend: Any) -> None:
    """Register with TensorRT the plugins of an engine that are Python callbacks, as a plan looks them up by name.

    Raises:
        BackendUnavailableError: one is not known in this process.
    """
    from trtcore.packs.loading import kernel_plugins

    for record in manifest.plugins:
        if record["deployable"]:
            continue
        plugin = kernel_plugins().get(record["name"])
        if plugin is None:
            home = f" (from {record['distribution']} {record['version']})" if record["distribution"] else ""
            raise BackendUnavailableError(
                f"the engine calls the kernel plugin {record['name']}{home} in Python, and this process has none",
                advice=f"pip install {record['distribution']}"
                if record["distribution"]
                else "import what declares it before the engine runs",
            )
        prepare = getattr(plugin, "prepare", None)
        if prepare is not None:
            prepare(backend)


def _backend(manifest: EngineManifest) -> Any:
    from trtcore.packs.loading import find_backend, load_packs

    backend = find_backend(manifest.backend, manifest.packs_for("backend"))
    if backend is not None:
        return backend
    names = sorted(one.name for pack in load_packs() for one in pack.backends)
    raise BackendUnavailableError(
        f"the engine is for the backend {manifest.backend!r}, and no loaded pack contributes it "
        f"(there are: {', '.join(names) or 'none'})",
        advice="install or enable the pack that contributes it (see `trtcore packs`)",
    )
