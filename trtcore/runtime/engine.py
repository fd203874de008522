"""Engines of this process: a table by manifest id, and the `Engine` object that runs one.

An engine lives as long as the tensor of its bytes that it was registered with (or any that it has been called
with): the table itself holds nothing alive. Dropping a compiled module frees its bytes and GPU memory; copies of
the module that share the tensor keep the engine.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from trtcore.artifact.engine_file import EngineArtifact
from trtcore.artifact.manifest import EngineManifest, SizeBinding, TensorBinding
from trtcore.errors import ArtifactError, BackendUnavailableError, InputError
from trtcore.ir.expressions import parse_condition, symbols_of
from trtcore.ir.graphs import attribute
from trtcore.ir.torch_private import forgetting_traces, is_data_symbol
from trtcore.runtime.checks import check_structure, keep_promises, output_device
from trtcore.runtime.choose import Runtime
from trtcore.runtime.profiles import chosen, chosen_profile
from trtcore.runtime.usual import arguments, is_static, shape_key
from trtcore.runtime.usual import made as usual_call

_table: weakref.WeakValueDictionary[tuple[str, str], Engine] = weakref.WeakValueDictionary()
_holders: Any = WeakTensorKeyDictionary()  # plan tensor -> {runtime: Engine}: what keeps engines alive
_lock = threading.RLock()

Runner = Callable[[list[torch.Tensor], list[int], dict[str, int]], list[torch.Tensor]]
Fast = Callable[[Sequence[torch.Tensor], Sequence[int]], "list[torch.Tensor] | None"]


# ---- the table ------------------------------------------------------------------------------------------


def register_engine(artifact: EngineArtifact) -> str:
    """Put an engine into the process table.

    Args:
        artifact: the engine. It lives in the table as long as the tensor object ``artifact.container``: put that very
            tensor into the module that calls it.

    Returns:
        the manifest's id. Registering an id again gives the engine that is there, if the manifests are equal.

    Raises:
        ArtifactError: another engine has the id.
    """
    key = artifact.manifest.id, artifact.manifest.runtime
    with _lock:
        engine = _table.get(key)
        if engine is None:
            engine = _table[key] = Engine(artifact)
        elif not engine.manifest.is_of(artifact.manifest):
            raise ArtifactError(f"two different engines have the id {artifact.manifest.id}")
        engine.hold(artifact.container)
    return engine.manifest.id


def get_engine(id: str) -> Engine | None:
    """The engine with this manifest id, or None where it is not (or no longer) in the table."""
    return _table.get((id, "native")) or _table.get((id, "reference"))


def resolve(manifest: str, plan: torch.Tensor) -> Engine:
    """The engine for the arguments of an ``execute_engine`` call.

    An engine that is not in the table is made from `plan`, which then must be an engine's file, or, for the native
    runtime, a bare plan.

    Raises:
        ArtifactError: the engine cannot be had from `plan`, or the manifest is not the engine's own.
    """
    description = EngineManifest.from_json(manifest)
    engine = _table.get((description.id, description.runtime))
    if engine is None:
        engine = _load(description, plan)
    if engine.last_plan() is not plan or not engine.manifest.is_of(description):
        engine = _of_plan(engine, description, plan)
    return engine


def engines_in(module: torch.fx.GraphModule) -> list[Engine]:
    """The engines that a hybrid graph calls, in its order."""
    op = torch.ops.trtcore.execute_engine.default
    calls = [node for node in module.graph.nodes if node.op == "call_function" and node.target is op]
    return [resolve(node.args[3], attribute(module, str(node.args[2].target))) for node in calls]


def _of_plan(engine: Engine, manifest: EngineManifest, plan: torch.Tensor) -> Engine:
    """The engine of a call by another plan, or with another manifest, than the engine of this id was called with last.

    A file can say of any network that it is the engine of this id: what is not the very same is an engine of its own,
    which no other module is given.
    """
    key = manifest.id, manifest.runtime
    with _lock:
        known: Engine | None = (_holders.get(plan) or {}).get(key)
        if known is None or not known.manifest.is_of(manifest):
            same = engine.manifest.is_of(manifest) and _may_be_of(engine, plan)
            known = engine if same else Engine(_own(manifest, plan))
        known.hold(plan)
        return known


def _own(manifest: EngineManifest, plan: torch.Tensor) -> EngineArtifact:
    """The engine that a plan tensor holds, which must be that of the manifest."""
    artifact = _read(manifest, plan)
    if not artifact.manifest.is_of(manifest):
        raise _another(manifest)
    return artifact.with_manifest(manifest)


def _may_be_of(engine: Engine, plan: torch.Tensor) -> bool:
    """Whether a plan tensor is an engine's, or empty: then nothing else can be meant."""
    return not plan.numel() or engine.artifact.holds(plan)


def _another(manifest: EngineManifest) -> ArtifactError:
    return ArtifactError(f"the manifest given for {manifest.name} is not the one of engine {manifest.id}")


def _load(manifest: EngineManifest, plan: torch.Tensor) -> Engine:
    """Make the engine of a call, from the same engine for the other runtime, or from the plan tensor."""
    key = manifest.id, manifest.runtime
    with _lock:
        if (engine := _table.get(key)) is not None:
            return engine
        sibling = get_engine(manifest.id)
        known = sibling is not None and _may_be_of(sibling, plan)
        if sibling is not None and known and sibling.manifest.is_of(manifest):
            artifact = sibling.artifact.with_manifest(manifest)
        else:
            artifact = _own(manifest, plan)
        engine = _table[key] = Engine(artifact)
        return engine


def _read(manifest: EngineManifest, plan: torch.Tensor) -> EngineArtifact:
    try:
        return EngineArtifact.from_tensor(plan)
    except ArtifactError as error:
        if manifest.runtime == "native" and plan.numel():
            return EngineArtifact(plan, manifest)
        raise ArtifactError(
            f"{manifest.name} is not in this process any more, and its plan tensor is not an engine's file "
            f"({error.message})",
            advice="keep the compiled module alive, or save it with trtcore.save and load that",
        ) from None


def with_runtime(manifest: EngineManifest, runtime: Runtime) -> EngineManifest:
    """The manifest of the same engine for another runtime."""
    return manifest if manifest.runtime == runtime else replace(manifest, runtime=runtime)


_WIDER = "compile with a wider range (min_shape/max_shape of the Input, or Dim(min=, max=))"
_WIDER_BOUND = (
    "data decide this size: widen the model's torch._check(n >= ..., n <= ...) of it, and compile again"
)


def _wider(dim: Any) -> str:
    """How a size outside of its range comes to be inside; `dim` is the size as the manifest has it."""
    decided = isinstance(dim, str) and any(map(is_data_symbol, symbols_of(dim)))
    return _WIDER_BOUND if decided else _WIDER


# ---- one engine -----------------------------------------------------------------------------------------


class Engine:
    """One engine: checks a call's inputs, runs it on the manifest's runtime, checks the outputs.

    Threads may call one engine at the same time.

    Args:
        artifact: the engine.

    Attributes:
        fast: (inputs, sizes) -> outputs for the usual call, in generated code; None for one that `run` must look at.
        fast_checked: as `fast`, for inputs that the caller has checked as `accepts` does.
    """

    def __init__(self, artifact: EngineArtifact) -> None:
        # One manifest object per text: the op finds it by identity.
        self.manifest = EngineManifest.from_json(artifact.manifest.to_json())
        # By an alias of its bytes, so that the tensor object in the module can be freed.
        self.artifact = artifact.detached()
        self.last_plan: Callable[[], torch.Tensor | None] = lambda: None
        self._lock = threading.Lock()
        # Neither holds a reference to self: an engine is freed at once.
        self._runner: Runner | None = None
        self._opened: Any = None
        self._fused = False
        self.fast: Fast = _nothing_yet
        self.fast_checked: Fast = _nothing_yet
        self._checked: dict[Any, dict[str, int]] = {}
        self._inputs = tuple(
            _InputCheck(b, d) for b, d in zip(self.manifest.inputs, self.manifest.input_dims)
        )
        self._profiles = _profile_ranges(self.manifest)
        self._equations = _equations(self.manifest)
        self._conditions = tuple(map(parse_condition, self.manifest.conditions))
        self._solves = bool(self._equations or self._conditions) or None in self.manifest.static_outputs

    def __repr__(self) -> str:
        return f"<trtcore engine {self.manifest.name} ({self.manifest.runtime}) {self.manifest.id[:12]}>"

    def __deepcopy__(self, memo: dict[int, Any]) -> Engine:
        return self

    def hold(self, plan: torch.Tensor) -> None:
        """Stay alive as long as this tensor object."""
        with _lock:
            _holders.setdefault(plan, {})[self.manifest.id, self.manifest.runtime] = self
            self.last_plan = weakref.ref(plan)

    @cached_property
    def label(self) -> str:
        """Its name with the paths of the model's modules that it begins and ends in, for profilers."""
        paths = [layer.name.partition("/")[0] for layer in self.artifact.layers() if "/" in layer.name]
        return f"trtcore {self.manifest.name}" + (f" [{paths[0]} .. {paths[-1]}]" if paths else "")

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
        usual = self.fast(inputs, sizes)
        if usual is not None:
            return usual
        values = self._check(inputs, sizes)
        runner = self._runner or self._start()
        outputs = runner(list(inputs), list(sizes), values)
        if self.manifest.runtime != "native" and len(self._checked) < _MOST_CHECKED:
            self._checked[checked_key(self.manifest, inputs, sizes)] = values
        return outputs

    def run_profiled(
        self,
        inputs: Sequence[torch.Tensor],
        sizes: Sequence[int],
        layers: Callable[..., Any],
        told: Callable[[str, float], None],
    ) -> list[torch.Tensor]:
        """As `run`, layer by layer.

        Args:
            inputs, sizes: see `run`.
            layers: (network as an fx graph, *arguments) -> its results, called where the runtime has such a graph.
            told: called with a layer's name and milliseconds where the runtime measures by itself.
        """
        values = self._check(inputs, sizes)
        self._start()
        if isinstance(self._opened, TorchRunner):
            return self._opened.run(list(inputs), list(sizes), values, layers)
        outputs: list[torch.Tensor] = self._opened.run_profiled(list(inputs), list(sizes), values, told)
        return outputs

    def share_constants(self, known: dict[str, torch.Tensor]) -> int:
        """Hold constants of the network by tensors with the same bytes, if the engine has not run yet.

        Args:
            known: tensors by the sha256 of their bytes and their dtype; the engine's own others are put into it.

        Returns:
            bytes of the constants that others hold now.
        """
        if self.manifest.runtime == "native":
            return 0
        with self._lock:
            artifact, shared = self.artifact.with_constants_of(known)
            if self._runner is not None:
                return 0
            self.artifact = artifact
        return shared

    def fuse(self) -> bool:
        """Run small ops as generated kernels from now on, where the runtime has that; see `enable_fusion`.

        Returns:
            whether it does.
        """
        if self.manifest.runtime == "native":
            return False
        with self._lock:
            if not self._fused:
                self._fused = True
                self._runner, self._opened = None, None
                self.fast = self.fast_checked = _nothing_yet
        self._start()
        return bool(self._opened.fused)

    def described(self) -> tuple[int, str, str]:
        """(bytes of activation memory, TensorRT's description as JSON, "") of a native engine on the current device.

        Raises:
            BackendUnavailableError: it cannot be opened here.
        """
        self._start()
        memory, text = self._opened.described()
        return memory, text, ""

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
                    advice=_wider(size.symbol),
                )
        wanted = chosen_profile(manifest.id)
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
        for condition in self._conditions:
            if not condition.holds(values):
                got = ", ".join(f"{name}={values[name]}" for name in condition.symbols)
                raise InputError(
                    f"{manifest.name}: the model was captured under the condition {condition.text}, which does not "
                    f"hold for {got}",
                    advice="compile the model for these sizes too",
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
                    advice=_wider(check.binding.shape[dim])
                    if low != high
                    else "compile for this shape, or make the dim dynamic",
                )

    def open(self) -> None:
        """Set the runtime up before the first call; on the native one for the current device.

        Raises:
            BackendUnavailableError, RefitError, ArtifactError: it cannot be.
        """
        if self._runner is None:
            self._start()
        if self.manifest.runtime == "native":
            self._opened.handle()

    def release(self) -> None:
        """Free what the engine holds on every device; the next run sets it up again."""
        with self._lock:
            opened = self._opened
        if opened is not None:
            opened.release()

    def _start(self) -> Runner:
        """Set the runtime up, once."""
        with self._lock:
            if self._runner is None:
                with forgetting_traces():  # a runtime in torch makes code of the network
                    if self.manifest.runtime == "native":
                        self._opened = _native(self.manifest, self.artifact)
                        self.fast, self.fast_checked = self._opened.fast, self._opened.fast_checked
                    else:
                        self._opened = _in_torch(self.manifest, self.artifact, self._fused)
                        given = self.manifest, self._checked, self._opened.run
                        self.fast, self.fast_checked = _usual(*given), _usual(*given, checked_inputs=True)
                    self._runner = self._opened.run
            return self._runner


_MOST_CHECKED = 256  # combinations of shapes that are remembered


def _nothing_yet(inputs: Sequence[torch.Tensor], sizes: Sequence[int]) -> None:
    """The fast call of an engine that is not set up."""


def checked_key(manifest: EngineManifest, inputs: Sequence[torch.Tensor], sizes: Sequence[int]) -> Any:
    """What the generated code looks a call up by."""
    if is_static(manifest):
        return ()
    return (*(tensor.shape for tensor in inputs), *sizes, chosen())


def _usual(
    manifest: EngineManifest,
    checked: dict[Any, dict[str, int]],
    runner: Runner,
    *,
    checked_inputs: bool = False,
) -> Fast:
    """The usual call of a runtime that a pack contributes: of shapes that have been checked."""
    made: Fast = usual_call(
        f"{manifest.name}, {manifest.runtime}",
        [
            *arguments(manifest, checked=checked_inputs),
            f"values = checked.get(({shape_key(manifest).removeprefix(', ')}))",
            "if values is None:",
            "    return None",
            "return runner(list(inputs), list(sizes), values)",
        ],
        manifest,
        {"checked": checked, "runner": runner, "chosen": chosen},
    )
    return made


def _in_torch(manifest: EngineManifest, artifact: EngineArtifact, fused: bool) -> TorchRunner:
    """A runtime that a pack contributes."""
    snapshot = artifact.snapshot
    if snapshot is None:
        raise ArtifactError(
            f"{manifest.name} was saved without its network (reference=False), so only TensorRT can run it",
            advice="save it with reference=True, or run it natively on a supported GPU",
        )
    from trtcore.packs.loading import find_runtime

    runtime = find_runtime(manifest.runtime, manifest.packs_for("runtime"))
    if runtime is None:
        raise BackendUnavailableError(
            f"{manifest.name} runs on the {manifest.runtime} runtime, and no loaded pack contributes it",
            advice="enable the pack that does (`trtcore packs` lists them)",
        )
    network = runtime.open_fused(snapshot) if fused else None
    return TorchRunner(manifest, network or runtime.open(snapshot), network is not None)


@dataclass(frozen=True)
class TorchRunner:
    """Runs a network that a runtime of a pack has opened.

    Attributes:
        module: the network, arguments in and results out.
        fused: whether its small ops are generated kernels.
    """

    manifest: EngineManifest
    module: Callable[..., Sequence[torch.Tensor]]
    fused: bool = False

    def run(
        self,
        inputs: list[torch.Tensor],
        sizes: list[int],
        values: dict[str, int],
        by: Callable[..., Any] | None = None,
    ) -> list[torch.Tensor]:
        """See `Engine.run`. `by` calls the network, if given: (network, *arguments) -> results."""
        arguments = inputs + [torch.tensor([size], dtype=torch.int64) for size in sizes]
        device = output_device(self.manifest, inputs)
        call = (
            self.module
            if by is None or not isinstance(self.module, torch.fx.GraphModule)
            else partial(by, self.module)
        )
        if torch.is_autocast_enabled(device.type):  # the network's dtypes are its own
            with torch.autocast(device.type, enabled=False):
                results = list(call(*arguments))
        else:
            results = list(call(*arguments))
        if self.manifest.dynamic_resources:
            self.release()
        return keep_promises(self.manifest, results, values, device)

    def release(self) -> None:
        """Free the copies of constants on GPUs."""
        constants = getattr(self.module, "constants", None)
        if constants is not None:
            constants.release()


def _native(manifest: EngineManifest, artifact: EngineArtifact) -> Any:
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
    return NativeEngine(manifest, artifact.plan, connection, weights=_weights_of(manifest, artifact))


def _weights_of(manifest: EngineManifest, artifact: EngineArtifact) -> Callable[[], Any] | None:
    """What TensorRT is to be given for the plan; None where the plan has its weights.

    Raises:
        BackendUnavailableError: there is no plan for the engine's weights.
    """
    if manifest.plan == "whole":
        return None
    if manifest.plan == "none" or not artifact.has_snapshot:
        raise BackendUnavailableError(
            f"{manifest.name} cannot run natively: its plan lacks the engine's weights and takes no others",
            advice='compile the model with these weights, or load it with runtime="reference"',
        )

    def weights() -> tuple[dict[tuple[str, str], torch.Tensor], set[tuple[str, str]]]:
        """By layer and role, and which of them the plan does not have."""
        assert artifact.snapshot is not None
        layers = artifact.snapshot.layers
        places = (place.split(".") for place in manifest.refitted)
        needed = {(layers[int(index)].name, role) for index, role in places if int(index) < len(layers)}
        return {(one.name, role): tensor for one in layers for role, tensor in one.constants.items()}, needed

    return weights


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
