"""From a request to an engine: convert, build on a thread with a large stack, and write the engine's file.

`build_engine` is the one way; a thread, a child process and an executor call it (`trtcore.engine.builders`).
"""

from __future__ import annotations

import functools
import os
import re
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch

from trtcore._version import __version__
from trtcore.artifact.engine_file import (
    EngineArtifact,
    EngineFileWriter,
    map_and_unlink,
    open_container,
)
from trtcore.artifact.manifest import EngineManifest, WeightRecord
from trtcore.context import CompileContext
from trtcore.conversion.interpreter import Conversion, LiveNetwork, NodeConversionError, convert_segment
from trtcore.engine.config import add_profiles, is_refittable, make_config
from trtcore.engine.request import EngineRequest, define_ops
from trtcore.engine.timing import timing_cache
from trtcore.errors import BackendUnavailableError, ConversionError, EngineBuildError, TrtcoreError
from trtcore.ir.expressions import parse_condition
from trtcore.ir.graphs import attribute, is_getitem
from trtcore.memory import map_file
from trtcore.packs.loading import build_registry, providers
from trtcore.packs.model import Converter
from trtcore.packs.registry import ConverterRegistry
from trtcore.partition.segment import Segment
from trtcore.paths import temporary_file

if TYPE_CHECKING:
    from trtcore.backend.base import Backend
    from trtcore.backend.logger import CollectingLogger

Progress = Callable[[str, int, int], Any]
"""``progress(phase, step, steps)``: TensorRT finished `step` (from 0) of `steps` of a phase. It runs on
TensorRT's threads. Returning False cancels the build; an exception cancels it and reaches the caller."""

# TensorRT recurses over the network: 4,000 chained layers overflow an 8 MB stack and kill the process
# (measured). Address space that is not touched costs nothing; where it is limited, less is tried.
STACK_SIZES = (512 << 20, 128 << 20, 32 << 20)
_stack_lock = threading.Lock()


class Tell(Protocol):
    """Told how a build goes: ``("conversion",)``, ``("node", name)`` before each node's converter, ``("converted",
    layers)``, ``("build",)``, ``("progress", phase, step, steps)``, see `Progress`."""

    def __call__(self, what: str, *data: Any) -> Any: ...


def _untold(what: str, *data: Any) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True)
class Failure:
    """Why a request gave no engine.

    Attributes:
        kind: "node": converters failed, `error` is a `NodeConversionError` with the others; "network": the network as
            a whole; "build": TensorRT refused to build it; "crash": the process that built it is gone.
        error: what to say.
        named: nodes whose layers TensorRT's lines name.
        layers: for each node its layers, as ``"ELEMENTWISE name"``; empty where there is no network.
    """

    kind: Literal["node", "network", "build", "crash"]
    error: TrtcoreError
    named: tuple[str, ...] = ()
    layers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class Builder(Protocol):
    """Who builds requests (`trtcore.engine.builders`)."""

    def submit(self, request: EngineRequest) -> None:
        """Say that `build` will be asked for the request's engine, so that it can be begun ahead."""

    def build(
        self, request: EngineRequest, tell: Tell, *, trial: bool = False, convert_only: bool = False
    ) -> EngineArtifact | Failure | None:
        """As `build_engine`."""

    def close(self) -> None:
        """The compile is over."""


@dataclass(frozen=True)
class Converted:
    """A request's network, before it is built.

    Attributes:
        describe: makes the manifest of its engine, whose hashes are still to come.
    """

    ctx: CompileContext
    conversion: Conversion
    live: LiveNetwork
    describe: Callable[[], EngineManifest]


class _CallbackError(BaseException):
    """What a callback raised: it reaches the caller as it is, and is not taken for an error of the build."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


@contextmanager
def _as_raised() -> Iterator[None]:
    try:
        yield
    except _CallbackError as raised:
        error = raised.error
    else:
        return
    raise error


class UnwritableError(EngineBuildError):
    """There is no room for an engine: nothing of the model is at fault."""


def build_engine(
    request: EngineRequest,
    registry: ConverterRegistry,
    *,
    tell: Tell = _untold,
    path: str | os.PathLike[str] | None = None,
    trial: bool = False,
    convert_only: bool = False,
) -> EngineArtifact | Failure | None:
    """Convert a request and build it.

    Args:
        registry: where the request's converters and backend are found.
        tell: told how it goes.
        path: the engine's file, which stays; None makes one without a name, that goes with the engine.
        trial: only whether it can be built counts; the engine has no constants and is of no use.
        convert_only: stop after the conversion.

    Returns:
        the engine; or why there is none; or None after a conversion alone.

    Raises:
        BackendUnavailableError: the request's backend is not here.
        SettingsError: a setting, target or converter that this process cannot do.
        UnwritableError: there is no room for the engine's file.
        KeyboardInterrupt: Ctrl-C; the build has been cancelled.
    """
    with _on_device(request):
        converted = _convert(request, registry, tell)
        if convert_only or isinstance(converted, Failure):
            return None if not isinstance(converted, Failure) else converted
        tell("build")
        try:
            with _as_raised():
                return _build(request, converted, tell, path, trial)
        except UnwritableError:
            raise
        except EngineBuildError as error:
            conversion = converted.conversion
            return Failure("build", error, _named(error, conversion), _layers(conversion))


def convert_request(request: EngineRequest, registry: ConverterRegistry, tell: Tell) -> Converted | Failure:
    """Convert a request without building it; arguments and errors as for `build_engine`."""
    with _on_device(request):
        return _convert(request, registry, tell)


def _convert(request: EngineRequest, registry: ConverterRegistry, tell: Tell) -> Converted | Failure:
    ctx = _context(request, registry)
    if missing := request.missing_ops:
        define_ops(missing)
        ctx = _context(
            request, build_registry(request.settings)
        )  # converters by the ops' names waited for them
    segment, selections = request.open(ctx.registry)
    tell("conversion")
    try:
        conversion, live = convert_segment(
            segment, ctx, selections, request.ranges, lambda name: tell("node", name)
        )
    except NodeConversionError as error:
        return Failure("node", error)
    except (ConversionError, EngineBuildError) as error:
        return Failure("network", error)
    tell("converted", conversion.num_layers)
    return Converted(
        ctx, conversion, live, lambda: _manifest(request, ctx, segment, selections, conversion, live)
    )


def _context(request: EngineRequest, registry: ConverterRegistry) -> CompileContext:
    for backend in registry.backends:
        if backend.name == request.backend:
            return CompileContext(request.settings, registry, backend, request.target)
    raise BackendUnavailableError(
        f"{request.name} is to be built by the backend {request.backend!r}, which no pack here contributes",
        advice="install or enable the pack that contributes it (see `trtcore packs`)",
    )


def _on_device(request: EngineRequest) -> AbstractContextManager[Any]:
    """TensorRT builds for the current device: the target's, while it works."""
    device = request.target.device
    return nullcontext() if device is None else torch.cuda.device(device)


def _build(
    request: EngineRequest,
    converted: Converted,
    tell: Tell,
    path: str | os.PathLike[str] | None,
    trial: bool,
) -> EngineArtifact:
    ctx, conversion, live = converted.ctx, converted.conversion, converted.live
    assert ctx.backend is not None
    assert ctx.target is not None
    manifest = converted.describe()
    config = make_config(ctx.backend, live.builder, ctx.settings, ctx.target, live.logger)
    add_profiles(live.builder, config, live.network, (*conversion.inputs, *conversion.sizes))
    directory = None if path is None else os.path.dirname(os.fspath(path))
    try:
        with temporary_file(directory) as (file, made):
            writer = EngineFileWriter(file, manifest, None if trial else conversion.snapshot)
            with timing_cache(ctx.backend, config, ctx.settings, ctx.target):
                stream_plan(
                    ctx.backend, live.builder, live.network, config, live.logger, writer.write,
                    progress=functools.partial(tell, "progress"),
                )  # fmt: skip
            if not writer.plan_bytes:
                raise EngineBuildError("TensorRT said that the engine is built, and wrote nothing")
            manifest = replace(manifest, weights=tuple(writer.hashed(w) for w in manifest.weights))
            writer.finish(manifest)
            if path is None:
                return open_container(map_and_unlink(made))
            os.replace(made, path)
            return open_container(map_file(Path(path)))
    except OSError as error:
        raise unwritable(directory, error) from error


def _manifest(
    request: EngineRequest,
    ctx: CompileContext,
    segment: Segment,
    selections: Mapping[str, Any],
    conversion: Conversion,
    live: LiveNetwork,
) -> EngineManifest:
    nodes = [
        node for node in segment.graph_module.graph.nodes if node.name in selections and not is_getitem(node)
    ]
    chosen = [one for node in nodes if (one := selections[node.name].chosen) is not None]
    took_part = {"converter": [one.pack for one in chosen], **providers(request.backend)}
    took_part["kernel"] = [one.pack for one in chosen if one.plugin is not None]
    packs = {(p.distribution, p.version, p.name, role) for role, some in took_part.items() for p in some if p}
    capability = request.target.compute_capability
    known = set(conversion.symbols)
    return EngineManifest(
        id=uuid.uuid4().hex,
        name=request.name,
        inputs=conversion.inputs,
        sizes=conversion.sizes,
        outputs=conversion.outputs,
        symbols=conversion.symbols,
        backend=request.backend,
        backend_version=request.backend_version,
        target={
            "compute_capability": list(capability) if capability else None,
            "platform": request.target.platform,
            **_device_without_inputs(segment),
        },
        runtime=request.runtime,  # type: ignore[arg-type]
        packs=tuple({"distribution": d, "version": v, "name": n, "role": r} for d, v, n, r in sorted(packs)),
        plugins=_plugin_records(chosen),
        trtcore_version=__version__,
        torch_version=torch.__version__,
        conditions=tuple(c for c in request.conditions if known.issuperset(parse_condition(c).symbols)),
        weights=_weight_records(request, segment, conversion, live),
        refittable=not ctx.settings.refit_identical_engine_weights
        and ctx.backend is not None
        and ctx.target is not None
        and is_refittable(ctx.backend, ctx.settings, ctx.target),
        dynamic_resources=ctx.settings.dynamically_allocate_resources,
        plan="refit" if ctx.settings.strip_engine_weights else "whole",
    )


def _weight_records(
    request: EngineRequest, segment: Segment, conversion: Conversion, live: LiveNetwork
) -> tuple[WeightRecord, ...]:
    """Where each constant of the network comes from: by the storage that it is on, or that it was copied from."""
    names: dict[int, str] = {}
    for node in segment.graph_module.graph.nodes:
        if node.op == "get_attr":
            value = attribute(segment.graph_module, str(node.target))
            if isinstance(value, torch.Tensor) and value.numel():
                name = request.weight_names.get(str(node.target), str(node.target))
                names.setdefault(value.untyped_storage().data_ptr(), name)
    records = []
    for key, tensor in conversion.snapshot.constants().items():
        address = tensor.untyped_storage().data_ptr()
        if names.get(address):
            records.append(WeightRecord(key, names[address], ("memory", int(tensor.storage_offset()))))
            continue
        original = live.store.original_of(tensor)
        name = "" if original is None else names.get(original.untyped_storage().data_ptr(), "")
        if original is not None and name:
            view = int(original.storage_offset()), tuple(original.shape), original.stride()
            records.append(WeightRecord(key, name, ("view", *view)))
        else:
            records.append(WeightRecord(key, "", ("derived",)))
    return tuple(records)


def _device_without_inputs(segment: Segment) -> dict[str, Any]:
    """``{"device": ...}`` for an engine that no tensor tells where its outputs belong; {} for one on the CPU."""
    if segment.inputs or not segment.outputs:
        return {}
    device = segment.outputs[0].meta["val"].device
    return {"device": str(device)} if device.type == "cuda" else {}


def _plugin_records(chosen: Sequence[Converter]) -> tuple[dict[str, Any], ...]:
    """The manifest's records of the kernel plugins that some converters place."""
    records = {
        one.plugin.name: {
            "name": one.plugin.name,
            "distribution": one.pack.distribution if one.pack is not None else "",
            "version": one.pack.version if one.pack is not None else "",
            "deployable": bool(one.plugin.deployable),
        }
        for one in chosen
        if one.plugin is not None
    }
    return tuple(records[name] for name in sorted(records))


# What TensorRT calls many layers compiled as one: the names in it are only the first and the last of them.
_FUSED = re.compile(r"\{ForeignNode\[.*?\]\}")


def _named(error: TrtcoreError, conversion: Conversion) -> tuple[str, ...]:
    """The nodes whose layers TensorRT's lines name."""
    text = _FUSED.sub("", "\n".join(error.tensorrt))
    named = [layer for layer in conversion.node_of_layer if layer in text]
    # "a/b/node_1" is also in "a/b/node_12": the longest names win
    longest = [n for n in named if not any(n != other and n in other and other in named for other in named)]
    return tuple(dict.fromkeys(conversion.node_of_layer[layer] for layer in longest))


def _layers(conversion: Conversion) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for layer in conversion.snapshot.layers:
        node = conversion.node_of_layer.get(layer.name)
        if node is not None:
            found.setdefault(node, []).append(f"{layer.type} {layer.name}")
    return {node: tuple(layers) for node, layers in found.items()}


# ---- TensorRT's build ---------------------------------------------------------------------------------------


def build_plan(
    backend: Backend,
    builder: Any,
    network: Any,
    config: Any,
    logger: CollectingLogger,
    *,
    progress: Progress | None = None,
    directory: str | os.PathLike[str] | None = None,
) -> torch.Tensor:
    """Build an engine and return its plan alone; arguments and errors as for `stream_plan`.

    Args:
        directory: where the plan's file is made; None is the system's temporary directory.

    Returns:
        the plan, a uint8 tensor of shape (bytes,) on the CPU, mapped from a file that goes with it.
    """
    with _as_raised():
        try:
            with temporary_file(directory) as (file, path):
                stream_plan(backend, builder, network, config, logger, file.write, progress=progress)
                if path.stat().st_size == 0:
                    raise EngineBuildError("TensorRT said that the engine is built, and wrote nothing")
                return map_and_unlink(path)
        except OSError as error:
            raise unwritable(directory, error) from error


def stream_plan(
    backend: Backend,
    builder: Any,
    network: Any,
    config: Any,
    logger: CollectingLogger,
    write: Callable[[Any], int],
    *,
    progress: Progress | None = None,
) -> None:
    """Build an engine, and hand its plan on as it comes.

    The build runs on a thread of its own with a 512 MB stack; the plan is in memory once at most. Ctrl-C cancels the
    build at its next step; a second Ctrl-C does not wait for that.

    Args:
        backend: whose bindings the other objects come from.
        builder: a `trt.Builder` made with `logger`.
        network: a `trt.INetworkDefinition` with outputs. What its weights point at must stay alive.
        config: from `make_config`, with its profiles.
        logger: quoted in the error.
        write: takes the next bytes of the plan, and returns how many it took.
        progress: see `Progress`.

    Raises:
        UnwritableError: `write` raised OSError.
        EngineBuildError: TensorRT refused, or the build was cancelled; with TensorRT's lines.
        KeyboardInterrupt: pressed in the waiting thread; the build has been cancelled.
    """
    mark = logger.mark()
    job = _Job(backend, builder, network, config, write, progress)
    _run_on_large_stack(job)
    _raise_failure(job, logger, mark)


class _Job:
    """One build: runs on the build thread, keeps what came out of it."""

    def __init__(
        self,
        backend: Backend,
        builder: Any,
        network: Any,
        config: Any,
        sink: Callable[[Any], int],
        progress: Progress | None,
    ) -> None:
        self.trt = backend.trt
        self.builder = builder
        self.network = network
        self.config = config
        self.sink = sink
        self.progress = progress
        self.device = torch.cuda.current_device() if torch.cuda.is_available() else None
        self.cancelled = threading.Event()
        self.done = threading.Event()
        self.ok = False
        self.error: BaseException | None = None
        self.callback_error: BaseException | None = None
        self.write_error: OSError | None = None

    def __call__(self) -> None:
        try:
            if self.device is not None:
                torch.cuda.set_device(self.device)  # the current device is per thread
            self._build()
        except BaseException as error:
            self.error = error
        finally:
            self.done.set()

    def _build(self) -> None:
        monitor, writer = _monitor_class(self.trt)(), None
        monitor.job = self
        self.config.progress_monitor = monitor
        try:
            if hasattr(self.builder, "build_serialized_network_to_stream"):
                writer = _writer_class(self.trt)()
                writer.job = self
                self.ok = bool(
                    self.builder.build_serialized_network_to_stream(self.network, self.config, writer)
                )
            else:
                plan = self.builder.build_serialized_network(self.network, self.config)
                self.ok = plan is not None
                if plan is not None:
                    self.write(memoryview(plan))
        finally:
            self.config.progress_monitor = None
            monitor.job = None
            if writer is not None:
                writer.job = None

    def write(self, data: Any) -> int:
        """TensorRT's stream: the number of bytes taken, 0 to stop."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self.sink(rest) :]
        except OSError as error:  # no space left
            self.write_error = error
            self.cancelled.set()
            return 0
        return len(data)

    def step(self, phase: str, step: int, steps: int) -> bool:
        """A step of the build is done; False stops it."""
        if self.progress is not None and not self.cancelled.is_set():
            try:
                if self.progress(phase, step, steps) is False:
                    self.cancelled.set()
            except BaseException as error:
                self.callback_error = self.callback_error or error
                self.cancelled.set()
        return not self.cancelled.is_set()


def _run_on_large_stack(job: _Job) -> None:
    """Run the job on a thread with a large stack and wait for it; Ctrl-C cancels it and goes on."""
    _start(job)
    try:
        _wait(job)
    except BaseException:
        job.cancelled.set()
        _wait(job)  # the network, the weights and the file are in use until it ends
        raise


def _start(job: _Job) -> None:
    with _stack_lock:
        for size in STACK_SIZES:
            before = threading.stack_size(size)
            try:
                threading.Thread(target=job, name="trtcore-build", daemon=True).start()
                return
            except RuntimeError as error:  # can't start new thread: address space is limited
                failure = error
            finally:
                threading.stack_size(before)
    raise EngineBuildError(
        f"no thread for the build could be started: {failure}",
        advice="raise the limit on address space (ulimit -v) or on processes (ulimit -u)",
    ) from failure


def _wait(job: _Job) -> None:
    while not job.done.wait(0.2):  # a wait without a limit cannot be interrupted on Windows
        pass


def _raise_failure(job: _Job, logger: CollectingLogger, mark: int) -> None:
    if job.write_error is not None:
        raise job.write_error
    if job.callback_error is not None:
        raise _CallbackError(job.callback_error)
    lines = logger.errors(mark) or logger.since(mark)
    if isinstance(job.error, Exception):
        raise EngineBuildError(f"the build raised {job.error!r}", tensorrt=lines) from job.error
    if job.error is not None:
        raise job.error
    if job.cancelled.is_set():
        raise EngineBuildError("the build was cancelled", tensorrt=lines)
    if not job.ok:
        raise EngineBuildError("TensorRT could not build the engine", tensorrt=lines)


def unwritable(folder: str | os.PathLike[str] | None, error: OSError) -> UnwritableError:
    return UnwritableError(
        f"the engine could not be written to {os.fspath(folder or tempfile.gettempdir())}: {error}",
        advice="free some space, or set TMPDIR to a larger file system",
    )


# -- TensorRT's callback classes. One per bindings module: a class made for each build would never be freed. ----


@functools.cache
def _monitor_class(trt: Any) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.job: _Job | None = None
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

        def step_complete(self, phase_name: str, step: int) -> bool:
            job = self.job
            return job is None or job.step(phase_name, step, self.steps.get(phase_name, step + 1))

    return Monitor


@functools.cache
def _writer_class(trt: Any) -> Any:
    class Writer(trt.IStreamWriter):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IStreamWriter.__init__(self)
            self.job: _Job | None = None

        def write(self, data: bytes) -> int:
            return 0 if self.job is None else self.job.write(data)

    return Writer
