"""Engines of this process: a table by manifest id, and the `Engine` object that runs one.

An engine lives as long as the plan tensor it was registered with (or any plan tensor it has been called
with): the table itself holds nothing alive. Dropping a compiled module frees its plan, snapshot and GPU
memory; copies of the module that share the plan tensor keep the engine.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch.fx import Node
from torch.utils.weak import WeakTensorKeyDictionary

from trtcore.artifact.manifest import EngineManifest, SizeBinding, TensorBinding
from trtcore.errors import ArtifactError, BackendUnavailableError, ConversionError, InputError, SettingsError
from trtcore.ir.graphs import attribute
from trtcore.runtime.op import check_structure, execute_engine, output_device
from trtcore.runtime.profiles import chosen_profile

if TYPE_CHECKING:
    from trtcore.artifact.engine_file import EngineArtifact
    from trtcore.artifact.snapshot import NetworkSnapshot
    from trtcore.backend.base import Backend, Target
    from trtcore.settings import CompilationSettings

_table: weakref.WeakValueDictionary[tuple[str, str], Engine] = weakref.WeakValueDictionary()
_holders: Any = WeakTensorKeyDictionary()  # plan tensor -> {runtime: Engine}: what keeps engines alive
_lock = threading.RLock()

Runtime = Literal["native", "reference"]
Runner = Callable[[list[torch.Tensor], list[int], dict[str, int]], list[torch.Tensor]]


# ---- the table ------------------------------------------------------------------------------------------


def register_engine(artifact: EngineArtifact) -> str:
    """Put an engine into the process table.

    Args:
        artifact: plan, manifest and snapshot. The engine lives as long as the tensor object
            ``artifact.plan``: put that very tensor into the module that calls the engine.

    Returns:
        the manifest's id. Registering an id again gives the engine that is there, if the manifests are equal.

    Raises:
        ArtifactError: another engine has the id.
    """
    key = artifact.manifest.id, artifact.manifest.runtime
    with _lock:
        engine = _table.get(key)
        if engine is None:
            engine = _table[key] = Engine(artifact.manifest, artifact.plan, artifact.snapshot)
        elif engine.manifest != artifact.manifest:
            raise ArtifactError(f"two different engines have the id {artifact.manifest.id}")
        engine.hold(artifact.plan)
    return engine.manifest.id


def get_engine(id: str) -> Engine | None:
    """The engine with this manifest id, or None where it is not (or no longer) in the table."""
    return _table.get((id, "native")) or _table.get((id, "reference"))


def resolve(manifest: str, plan: torch.Tensor) -> Engine:
    """The engine for the arguments of an ``execute_engine`` call.

    An engine that is not in the table is made from `plan`, which then must be a self-contained saved
    engine, or, for the native runtime, a bare plan.

    Raises:
        ArtifactError: the engine cannot be had from `plan`, or the manifest is not the engine's own.
    """
    description = EngineManifest.from_json(manifest)
    engine = _table.get((description.id, description.runtime))
    if engine is None:
        engine = _load(description, plan)
    if engine.manifest is not description and engine.manifest != description:
        raise ArtifactError(
            f"the manifest given for {description.name} is not the one of engine {description.id}"
        )
    if engine.last_plan() is not plan:
        engine.hold(plan)
    return engine


def _load(manifest: EngineManifest, plan: torch.Tensor) -> Engine:
    """Make the engine of a call, from the same engine for the other runtime, or from the plan tensor."""
    key = manifest.id, manifest.runtime
    with _lock:
        if (engine := _table.get(key)) is not None:
            return engine
        if (sibling := get_engine(manifest.id)) is not None:
            own, data, snapshot = sibling.manifest, sibling.plan, sibling.snapshot
        else:
            own, data, snapshot = _read(manifest, plan)
        if with_runtime(own, manifest.runtime) != manifest:
            raise ArtifactError(
                f"the manifest given for {manifest.name} is not the one of engine {manifest.id}"
            )
        engine = _table[key] = Engine(manifest, data, snapshot)
        return engine


def _read(
    manifest: EngineManifest, plan: torch.Tensor
) -> tuple[EngineManifest, torch.Tensor, NetworkSnapshot | None]:
    from trtcore.artifact.engine_file import EngineArtifact

    try:
        artifact = EngineArtifact.from_tensor(plan)
    except ArtifactError as error:
        if manifest.runtime == "native" and plan.numel():
            return manifest, plan, None
        raise ArtifactError(
            f"{manifest.name} is not in this process any more, and its plan tensor is not a saved engine "
            f"({error.message})",
            advice="keep the compiled module alive, or save it with trtcore.save and load that; or use "
            "torch.export.export with strict=False, whose programs hold their engines",
        ) from None
    return artifact.manifest, artifact.plan, artifact.snapshot


def plans_of(module: torch.fx.GraphModule) -> dict[str, torch.Tensor]:
    """The plan tensors of a hybrid graph, by their dotted names."""
    targets = {
        str(node.args[2].target)
        for node in module.graph.nodes
        if node.op == "call_function" and node.target is execute_engine and isinstance(node.args[2], Node)
    }
    return {target: attribute(module, target) for target in sorted(targets)}


class PlanHolder(torch.nn.Module):
    """Holds the plan of one engine of a compiled module, as a plain attribute.

    torch.export, where it traces the module, is given the engine as a saved one, so that what ``torch.export.save``
    writes runs in another process: there only the plan tensor says what the network was.
    """

    @property
    def plan(self) -> torch.Tensor:
        plan: torch.Tensor = self.__dict__["plan"]
        if torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling():
            return _portable(plan)
        return plan

    @plan.setter
    def plan(self, plan: torch.Tensor) -> None:
        self.__dict__["plan"] = plan


_saved: Any = WeakTensorKeyDictionary()  # plan tensor -> weak reference to its saved form


def _portable(plan: torch.Tensor) -> torch.Tensor:
    """The saved engine of this plan; the plan itself where it is one, or where no engine knows it."""
    made = _saved[plan]() if plan in _saved else None
    if made is None:
        with ThreadPoolExecutor(
            1
        ) as clean:  # a thread without the modes of the trace, which would see every step
            made = clean.submit(_save_plan, plan).result()
        _saved[plan] = weakref.ref(made)
    return cast("torch.Tensor", made)


def _save_plan(plan: torch.Tensor) -> torch.Tensor:
    from trtcore.artifact.engine_file import EngineArtifact

    engines = _holders.get(plan)
    if not engines:
        return plan
    with suppress(ArtifactError):
        EngineArtifact.from_tensor(plan)
        return plan
    engine: Engine = next(iter(engines.values()))
    return engine.artifact.to_tensor()


def keep_plans_plain(module: torch.fx.GraphModule) -> None:
    """Turn the plans from buffers, which GraphModule makes of tensors, into plain attributes.

    So they follow no ``.to(device)``, and are no part of the ``state_dict``.
    """
    for target, plan in plans_of(module).items():
        path, _, last = target.rpartition(".")
        owner = module.get_submodule(path)
        owner._buffers.pop(last, None)
        owner._non_persistent_buffers_set.discard(last)
        if last == "plan" and type(owner) is torch.nn.Module:
            owner.__class__ = PlanHolder
        setattr(owner, last, plan)


def with_runtime(manifest: EngineManifest, runtime: Runtime) -> EngineManifest:
    """The manifest of the same engine for another runtime."""
    return manifest if manifest.runtime == runtime else replace(manifest, runtime=runtime)


def choose_runtime(
    backend: Backend | None, settings: CompilationSettings, target: Target | None = None
) -> tuple[Runtime, str]:
    """Decide which runtime a compiled module uses.

    Args:
        target: what engines are built for; None is the backend's default.

    Returns:
        ("native" | "reference", why, one sentence). ``runtime="native"`` is taken at its word even where the
        engine cannot run here (it may be built to run elsewhere); the sentence then says so, and running it
        raises BackendUnavailableError.
    """
    asked = settings.runtime
    if asked not in ("auto", "native", "reference"):
        raise SettingsError(f"runtime={asked!r} is none of 'auto', 'native', 'reference'")
    if asked == "reference":
        return "reference", "settings.runtime='reference'"
    obstacle = _native_obstacle(backend, target)
    if asked == "native":
        return "native", "settings.runtime='native'" + (
            f"; it cannot run here: {obstacle}" if obstacle else ""
        )
    if obstacle:
        return "reference", f"TensorRT engines cannot run here: {obstacle}"
    assert backend is not None
    return "native", f"{backend.name} engines run on {torch.cuda.get_device_name()}"


def _native_obstacle(backend: Backend | None, target: Target | None) -> str:
    """Why the native runtime is impossible here; "" if it is possible."""
    if backend is None:
        return "no TensorRT backend is available"
    able = backend.native_runtime()
    if not able.ok:
        return able.message
    if target is not None:
        from trtcore.backend.base import host_platform

        if target.platform != host_platform():
            return f"the engines are for {target.platform}"
        if target.compute_capability is not None:
            here = torch.cuda.get_device_capability()
            if tuple(target.compute_capability) != here:
                wanted = ".".join(map(str, target.compute_capability))
                return f"the engines are for compute capability {wanted}, this GPU has {here[0]}.{here[1]}"
    return ""


_EMPTY = torch.empty(0)
_WIDER = "compile with a wider range (min_shape/max_shape of the Input, or Dim(min=, max=))"


# ---- one engine -----------------------------------------------------------------------------------------


class Engine:
    """One engine: checks a call's inputs, runs it on the manifest's runtime, checks the outputs.

    Threads may call one engine at the same time.

    Args:
        manifest: what it takes and gives.
        plan: uint8, 1-D. Kept through an alias, so that the tensor object given here can be freed.
        snapshot: the network, for the reference runtime; None where it was left out.
    """

    def __init__(
        self, manifest: EngineManifest, plan: torch.Tensor, snapshot: NetworkSnapshot | None
    ) -> None:
        # One manifest object per text: the op finds it by identity.
        self.manifest = EngineManifest.from_json(manifest.to_json())
        self.plan = plan.detach()
        self.snapshot = snapshot
        self.last_plan: Callable[[], torch.Tensor | None] = lambda: None
        self._lock = threading.Lock()
        self._runner: Runner | None = None  # holds no reference to self: an engine is freed at once
        self._inputs = tuple(
            _InputCheck(b, d) for b, d in zip(self.manifest.inputs, self.manifest.input_dims)
        )
        self._profiles = _profile_ranges(self.manifest)
        self._equations = _equations(self.manifest)
        self._solves = bool(self._equations) or None in self.manifest.static_outputs

    def __repr__(self) -> str:
        return f"<trtcore engine {self.manifest.name} ({self.manifest.runtime}) {self.manifest.id[:12]}>"

    def __deepcopy__(self, memo: dict[int, Any]) -> Engine:
        return self

    @property
    def artifact(self) -> EngineArtifact:
        """Plan, manifest and snapshot, for saving."""
        from trtcore.artifact.engine_file import EngineArtifact

        return EngineArtifact(plan=self.plan, manifest=self.manifest, snapshot=self.snapshot)

    def hold(self, plan: torch.Tensor) -> None:
        """Stay alive as long as this tensor object."""
        with _lock:
            _holders.setdefault(plan, {})[self.manifest.id, self.manifest.runtime] = self
            self.last_plan = weakref.ref(plan)

    # ---- running ------------------------------------------------------------------------------------

    def run(self, inputs: Sequence[torch.Tensor], sizes: Sequence[int] = ()) -> list[torch.Tensor]:
        """Run the engine once.

        Args:
            inputs: in the manifest's order, all on one device; not changed. Not necessarily contiguous.
            sizes: value of each SizeBinding.

        Returns:
            new contiguous tensors in the manifest's order. On a GPU the work is queued on the current stream.

        Raises:
            InputError: an input does not fit; names it, what came, and what is allowed.
            BackendUnavailableError: a native engine cannot run here.
            ConversionError: the engine gave another shape or dtype than the program promises.
        """
        values = self._check(inputs, sizes)
        runner = self._runner or self._start()
        return runner(list(inputs), list(sizes), values)

    def _check(self, inputs: Sequence[torch.Tensor], sizes: Sequence[int]) -> dict[str, int]:
        manifest = self.manifest
        if len(inputs) != len(self._inputs) or len(sizes) != len(manifest.sizes):
            check_structure(manifest, inputs, sizes)
        device = inputs[0].device if inputs else None
        for tensor, check in zip(inputs, self._inputs):
            if tensor.dtype is not check.dtype or not check.fits(tensor.shape) or tensor.device != device:
                check_structure(manifest, inputs, sizes)
                self._refuse(tensor, check, inputs)
        for value, size in zip(sizes, manifest.sizes):
            if not size.min <= value <= size.max:
                raise InputError(
                    f"{manifest.name}: size {size.symbol!r} is {value}, the engine takes {size.min} to "
                    f"{size.max}",
                    advice=_WIDER,
                )
        wanted = chosen_profile()
        if wanted is not None or len(self._profiles) > 1:
            self._check_profiles(inputs, sizes, wanted)
        if not self._solves:
            return {}
        values: dict[str, int] = manifest.solve([tensor.shape for tensor in inputs], sizes)
        for index, dim, expression in self._equations:
            wanted = expression.evaluate(values)
            if inputs[index].shape[dim] != wanted:
                raise InputError(
                    f"{manifest.name}: dim {dim} of input {manifest.inputs[index].name!r} is "
                    f"{inputs[index].shape[dim]}, but it must be {expression.text} = {wanted}",
                    advice="this dim is tied to another input's; pass inputs whose sizes agree",
                )
        return values

    def _check_profiles(
        self, inputs: Sequence[torch.Tensor], sizes: Sequence[int], wanted: int | None
    ) -> None:
        """One profile must take all inputs together: the one that is wanted, or any."""
        if not self._profiles:
            return
        count = len(self._profiles)
        if wanted is not None and wanted >= count:
            raise InputError(
                f"{self.manifest.name} has {count} optimisation profile{'s' if count > 1 else ''}, not number {wanted}",
                advice="profiles are numbered from 0, in the order of Input(profiles=[...])",
            )
        for ranges in self._profiles if wanted is None else (self._profiles[wanted],):
            if _takes(ranges, inputs, sizes):
                return
        names = [binding.name for binding in self.manifest.network_inputs]
        got = [*(tuple(tensor.shape) for tensor in inputs), *sizes]
        which = (
            "no optimisation profile takes"
            if wanted is None
            else f"optimisation profile {wanted} does not take"
        )
        raise InputError(
            f"{self.manifest.name}: {which} {', '.join(f'{n} {g}' for n, g in zip(names, got))}; there are "
            + "; ".join(
                f"{index}: " + ", ".join(f"{n} {_span_text(row)}" for n, row in zip(names, ranges))
                for index, ranges in enumerate(self._profiles)
            ),
            advice=_WIDER,
        )

    def _refuse(self, tensor: torch.Tensor, check: _InputCheck, inputs: Sequence[torch.Tensor]) -> None:
        """Raise the InputError for an input of the right dtype and rank that does not fit."""
        name = f"{self.manifest.name}: input {check.binding.name!r}"
        if tensor.device != inputs[0].device:
            first = self.manifest.inputs[0].name
            raise InputError(
                f"{name} is on {tensor.device}, but {first!r} is on {inputs[0].device}",
                advice="put all inputs on one device",
            )
        for dim, (size, (low, high)) in enumerate(zip(tensor.shape, check.ranges)):
            if not low <= size <= high:
                allowed = f"{low}" if low == high else f"{low} to {high}"
                raise InputError(
                    f"{name} has shape {tuple(tensor.shape)}: dim {dim} is {size}, "
                    f"the engine takes {allowed}",
                    advice=_WIDER if low != high else "compile for this shape, or make the dim dynamic",
                )

    def _start(self) -> Runner:
        """Set the runtime up, once."""
        with self._lock:
            if self._runner is None:
                make = _reference if self.manifest.runtime == "reference" else _native
                self._runner = make(self.manifest, self.plan, self.snapshot)
            return self._runner


def _reference(manifest: EngineManifest, plan: torch.Tensor, snapshot: NetworkSnapshot | None) -> Runner:
    if snapshot is None:
        raise ArtifactError(
            f"{manifest.name} was saved without its network (reference=False), so only TensorRT can run it",
            advice="save it with reference=True, or run it natively on a supported GPU",
        )
    from trtcore.packs.loading import find_runtime

    runtime = find_runtime(manifest.runtime)
    if runtime is None:
        raise BackendUnavailableError(
            f"{manifest.name} runs on the {manifest.runtime} runtime, and no loaded pack contributes it",
            advice="enable the pack that does (`trtcore packs` lists them)",
        )
    module = runtime.open(snapshot)

    def run(inputs: list[torch.Tensor], sizes: list[int], values: dict[str, int]) -> list[torch.Tensor]:
        arguments = inputs + [torch.tensor([size], dtype=torch.int64) for size in sizes]
        device = output_device(manifest, inputs)
        if torch.is_autocast_enabled(device.type):  # the network's dtypes are its own
            with torch.autocast(device.type, enabled=False):
                results = list(module(*arguments))
        else:
            results = list(module(*arguments))
        return keep_promises(manifest, results, values, device)

    return run


def keep_promises(
    manifest: EngineManifest, results: list[torch.Tensor], values: dict[str, int], device: torch.device
) -> list[torch.Tensor]:
    """Hold what the fake implementation promises: dtype, shape, device, contiguous, memory of its own.

    Changes `results`, and returns it.

    Raises:
        ConversionError: another number of outputs, another dtype or shape.
    """
    if len(results) != len(manifest.outputs):
        raise ConversionError(
            f"{manifest.name} gave {len(results)} outputs, {len(manifest.outputs)} are promised"
        )
    for name, index, dim in manifest.output_symbols:
        values = {**values, name: results[index].shape[dim]}
    for index, shape in enumerate(manifest.output_shapes(values)):
        result, binding = results[index], manifest.outputs[index]
        if result.dtype is not binding.dtype or result.shape != shape:
            raise ConversionError(
                f"{manifest.name}: output {binding.name!r} is {result.dtype} {tuple(result.shape)}, "
                f"the program promises {binding.dtype} {tuple(shape)}",
                advice="a converter builds something else than its op: leave ops to torch one by one with "
                "torch_executed_ops until it goes away, and report the last one to its pack (trtcore.explain names it)",
            )
        results[index] = _EMPTY
        # `.data` is a tensor of our own without a base, so that the count below tells whether an input, a
        # constant or another output has the memory too: two are the tensor and the Python storage.
        result = result.to(device).contiguous().data
        shared = torch._C._storage_Use_Count(result.untyped_storage()._cdata) > 2
        results[index] = result.clone() if shared else result
    return results


def _native(manifest: EngineManifest, plan: torch.Tensor, snapshot: NetworkSnapshot | None) -> Runner:
    from trtcore.runtime.native.bindings import connect
    from trtcore.runtime.native.logic import NativeEngine

    try:
        connection = connect(manifest)
        connection.check()
    except BackendUnavailableError as error:
        hint = 'compile or load it with runtime="reference" to run it in torch'
        raise BackendUnavailableError(
            f"{manifest.name} cannot run natively here: {error.message}",
            tensorrt=error.tensorrt,
            advice=f"{error.advice}; or {hint}" if error.advice else hint,
        ) from None
    return NativeEngine(manifest, plan, connection).run


class _InputCheck:
    """What one input must be, ready for a quick look."""

    def __init__(self, binding: TensorBinding, dims: Sequence[Any]) -> None:
        self.binding = binding
        self.dtype = binding.dtype
        static = all(isinstance(dim, int) for dim in binding.shape)
        self.static = tuple(binding.shape) if static else None
        rows = binding.profile
        self.ranges: tuple[tuple[int, int], ...] = tuple(
            (rows[0][i], rows[2][i]) if rows is not None else (_bound(dim, 0), _bound(dim, 2**63 - 1))
            for i, dim in enumerate(binding.shape)
        )

    def fits(self, shape: torch.Size) -> bool:
        if self.static is not None:
            return shape == self.static
        if len(shape) != len(self.ranges):
            return False
        return all(low <= size <= high for size, (low, high) in zip(shape, self.ranges))


_Ranges = tuple[tuple[tuple[int, int], ...], ...]
"""(min, max) of every dim, per input and then per size."""


def _profile_ranges(manifest: EngineManifest) -> tuple[_Ranges, ...]:
    """What each optimisation profile takes."""

    def row(binding: TensorBinding | SizeBinding, index: int) -> tuple[tuple[int, int], ...]:
        if isinstance(binding, SizeBinding):
            low, _, high = binding.all_profiles[index]
            return ((low, high),)
        if not binding.all_profiles:
            return tuple((int(dim), int(dim)) for dim in binding.shape)
        lows, _, highs = binding.all_profiles[index]
        return tuple(zip(lows, highs))

    bindings = manifest.network_inputs
    return tuple(tuple(row(b, index) for b in bindings) for index in range(manifest.profile_count))


def _takes(ranges: _Ranges, inputs: Sequence[torch.Tensor], sizes: Sequence[int]) -> bool:
    rows = [*(tensor.shape for tensor in inputs), *((size,) for size in sizes)]
    return all(low <= v <= high for row, allowed in zip(rows, ranges) for v, (low, high) in zip(row, allowed))


def _span_text(row: Sequence[tuple[int, int]]) -> str:
    return "(" + ", ".join(str(low) if low == high else f"{low}..{high}" for low, high in row) + ")"


def _bound(dim: int | str, otherwise: int) -> int:
    return dim if isinstance(dim, int) else otherwise


def _equations(manifest: EngineManifest) -> tuple[tuple[int, int, Any], ...]:
    """(input, dim, expression) of the dynamic dims that are not simply where their symbol comes from."""
    found = []
    known = {name for name, source in manifest.symbols.items() if source[0] != "output"}
    for index, dims in enumerate(manifest.input_dims):
        for dim, expression in enumerate(dims):
            if expression.constant is not None or not known.issuperset(expression.symbols):
                continue
            if manifest.symbols.get(expression.text) == ("input", index, dim, 1, 0):
                continue
            found.append((index, dim, expression))
    return tuple(found)
