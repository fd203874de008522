"""Engines with other weights: a request's network beside that of an engine that is there, and its new constants.

Lowering and converters make an engine's constants from the model's weights: they fold, cast, transpose and join them,
and may look at them to choose what to build. So a request is converted as if it were built. Where the network is the
engine's but for the constants' values, the engine takes the constants, and nothing is built; where it is not, the
weights are such that another network is right for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import torch

from trtcore.artifact.engine_file import (
    EngineArtifact,
    EngineFileWriter,
    map_and_unlink,
    open_container,
)
from trtcore.artifact.manifest import EngineManifest, SizeBinding, TensorBinding
from trtcore.artifact.snapshot import LayerSnapshot, NetworkSnapshot
from trtcore.engine.build import Builder, Failure, Tell, convert_request, unwritable
from trtcore.errors import RefitError
from trtcore.paths import temporary_file

if TYPE_CHECKING:
    from trtcore.engine.request import EngineRequest
    from trtcore.packs.registry import ConverterRegistry

_WHAT_TO_DO = "compile the model with the new weights"


@dataclass
class Donors:
    """Engines that requests may take, each once.

    Attributes:
        engines: as they were built, or refitted before.
        strict: whether a request that none of them fits is an error, instead of being built.
        trust_hashes: whether constants whose bytes did not change keep the hashes that are recorded for them; False
            hashes all of them.
        taken: of every engine that was taken: its name -> what changed in it.
        built: names of the engines that had to be built.
    """

    engines: Sequence[EngineArtifact]
    strict: bool = False
    trust_hashes: bool = True
    taken: dict[str, Refitted] = field(default_factory=dict)
    built: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether all of them were taken."""
        return len(self.taken) == len(self.engines)

    @property
    def nothing_built(self) -> bool:
        """Whether every engine of the compile is one of them."""
        return bool(self.taken or self.strict) and not self.built

    def free(self, name: str) -> Iterator[EngineArtifact]:
        """Engines that nobody has taken, the one of this name first."""
        left = [one for one in self.engines if one.manifest.id not in {r.donor for r in self.taken.values()}]
        return iter(sorted(left, key=lambda one: one.manifest.name != name))


@dataclass(frozen=True)
class Refitted:
    """What became of an engine.

    Attributes:
        donor: id of the engine that it was.
        constants: how many constants it has.
        changed: the names of the constants whose bytes are others now: the model's, where a weight is behind one, else
            the layer's and its role.
    """

    donor: str
    constants: int
    changed: tuple[str, ...]


def refit_engine(
    request: EngineRequest, registry: ConverterRegistry, donors: Donors, tell: Tell
) -> EngineArtifact | Failure | None:
    """Convert a request, and give its constants to the engine that has its network.

    Returns:
        the engine with new constants; a `Failure` where a converter failed; None where no engine has this network, and
        the request must be built.

    Raises:
        RefitError: the same, where `donors.strict`; it says what differs.
        UnwritableError: there is no room for the engine's file.
    """
    reasons = [f"{one.manifest.name}: {why}" for one in donors.free(request.name) if (why := _obstacle(one))]
    able = [one for one in donors.free(request.name) if not _obstacle(one)]
    if not able and not donors.strict:
        return None
    converted = convert_request(request, registry, tell)
    if isinstance(converted, Failure):
        return converted
    snapshot, manifest = converted.conversion.snapshot, converted.describe()
    for donor in able:
        reason = difference(donor, snapshot, manifest) or _fixed_text(donor, snapshot)
        if not reason:
            made, what = _refitted(donor, snapshot, manifest, donors.trust_hashes)
            donors.taken[request.name] = what
            return made
        reasons.append(f"{donor.manifest.name}: {reason}")
    if donors.strict:
        raise RefitError(
            f"{request.name} of the new program is no engine of the module with other weights: "
            + ("; ".join(reasons) or "the module has no engine left"),
            advice=_WHAT_TO_DO,
        )
    return None


def _obstacle(donor: EngineArtifact) -> str:
    """Why an engine takes no new weights whatever they are; "" if it does."""
    if not donor.has_snapshot:
        return "it was saved without its network (reference=False)"
    if donor.manifest.runtime == "native" and not donor.manifest.refittable:
        return "TensorRT built it with immutable_weights=True"
    return ""


def _fixed_text(donor: EngineArtifact, new: NetworkSnapshot) -> str:
    """On the native runtime, which integers would change, that its plan takes no other values for; "" for none."""
    assert donor.snapshot is not None
    if donor.manifest.runtime != "native":
        return ""
    fixed = _fixed_constants(donor.manifest, donor.snapshot, changed_constants(donor.snapshot, new))
    names = [f"{donor.snapshot.layers[index].name} ({role})" for index, role in fixed]
    return f"TensorRT takes no other integers for {', '.join(names)}" if names else ""


# ---- comparing ----------------------------------------------------------------------------------------------


def difference(donor: EngineArtifact, new: NetworkSnapshot, manifest: EngineManifest) -> str:
    """What two networks differ in beside the values of their constants; "" for nothing. Names do not count."""
    old = donor.snapshot
    assert old is not None
    known = donor.manifest
    for what, mine, theirs in (
        ("inputs", known.inputs, manifest.inputs),
        ("sizes", known.sizes, manifest.sizes),
        ("outputs", known.outputs, manifest.outputs),
    ):
        if [*map(_binding_key, mine)] != [*map(_binding_key, theirs)]:
            return f"its {what} are {_texts(mine)}, and would be {_texts(theirs)}"
    flavours = [f"{one.backend} {one.backend_version}" for one in (known, manifest)]
    if flavours[0] != flavours[1]:
        return f"it is of {flavours[0]}, and not of {flavours[1]}"
    for one, other in zip(old.layers, new.layers):
        if text := _layer_difference(one, other):
            return text
    if len(old.layers) != len(new.layers):
        return f"it has {len(old.layers)} layers, and would have {len(new.layers)}"
    if [(t.dtype, t.shape) for t in old.tensors] != [(t.dtype, t.shape) for t in new.tensors]:
        return "a tensor in it would have another shape or dtype"
    if (old.inputs, old.outputs) != (new.inputs, new.outputs):
        return "its inputs or outputs would be other tensors"
    return ""


def _binding_key(binding: TensorBinding | SizeBinding) -> Any:
    if isinstance(binding, SizeBinding):
        return [(low, high) for low, _, high in binding.all_profiles]
    static = tuple(dim if isinstance(dim, int) else -1 for dim in binding.shape)
    return binding.dtype, static, [(low, high) for low, _, high in binding.all_profiles]


def _texts(bindings: Sequence[TensorBinding | SizeBinding]) -> str:
    def text(one: TensorBinding | SizeBinding) -> str:
        if isinstance(one, SizeBinding):
            return f"{one.symbol} {one.min}..{one.max}"
        rows = "" if one.profile is None else f" {list(one.profile[0])}..{list(one.profile[2])}"
        return f"{one.name} {str(one.dtype).removeprefix('torch.')}{list(one.shape)}{rows}"

    return ", ".join(map(text, bindings)) or "none"


def _layer_difference(old: LayerSnapshot, new: LayerSnapshot) -> str:
    def constants(layer: LayerSnapshot) -> dict[str, Any]:
        return {role: (tensor.dtype, tuple(tensor.shape)) for role, tensor in layer.constants.items()}

    if old.type != new.type:
        return f"layer {old.name!r} is {old.type}, and would be {new.type} ({new.name!r})"
    if old.attributes != new.attributes or (old.inputs, old.outputs) != (new.inputs, new.outputs):
        return f"layer {old.name!r} ({old.type}) would have other attributes or inputs"
    if constants(old) != constants(new):
        return f"layer {old.name!r} ({old.type}) has the weights {constants(old)}, and would have {constants(new)}"
    return ""


# ---- the engine with its new constants ----------------------------------------------------------------------


def _refitted(
    donor: EngineArtifact, new: NetworkSnapshot, manifest: EngineManifest, trust_hashes: bool
) -> tuple[EngineArtifact, Refitted]:
    """The donor's plan and names with the new network's constants, in a file of its own."""
    old = donor.snapshot
    assert old is not None
    layers = tuple(
        replace(one, constants=MappingProxyType(dict(other.constants)))
        for one, other in zip(old.layers, new.layers)
    )
    snapshot = replace(old, layers=layers)
    changed = changed_constants(old, snapshot)
    state = _plan_state(donor.manifest, old, changed)
    places = {*donor.manifest.refitted, *(f"{index}.{role}" for index, role in changed)}
    manifest = replace(
        donor.manifest,
        id=manifest.id,
        name=manifest.name,
        inputs=tuple(map(_renamed, manifest.inputs, donor.manifest.inputs)),
        sizes=tuple(map(_renamed, manifest.sizes, donor.manifest.sizes)),
        outputs=tuple(map(_renamed, manifest.outputs, donor.manifest.outputs)),
        symbols=manifest.symbols,
        conditions=manifest.conditions,
        target=manifest.target,
        runtime=manifest.runtime,
        weights=manifest.weights,
        plan=state,
        refitted=tuple(sorted(places)) if state == "refit" else (),
        refittable=donor.manifest.refittable and state != "none",
    )
    hashes = _known_hashes(donor, snapshot, changed) if trust_hashes else {}
    plan = donor.plan if state != "none" else donor.plan[:0]
    names = {record.constant: record.name for record in manifest.weights}
    texts = tuple(
        dict.fromkeys(names.get(keys) or f"{layer}.{role}" for layer, role, keys in _keyed(snapshot, changed))
    )
    return _written(plan, manifest, snapshot, hashes), Refitted(
        donor.manifest.id, len(snapshot.constants()), texts
    )


def _plan_state(
    donor: EngineManifest, old: NetworkSnapshot, changed: Sequence[tuple[int, str]]
) -> Literal["whole", "refit", "none"]:
    """What becomes of a plan whose constants change."""
    if not changed or donor.plan == "none":
        return donor.plan
    return "none" if _fixed_constants(donor, old, changed) else "refit"


def _fixed_constants(
    donor: EngineManifest, old: NetworkSnapshot, changed: Sequence[tuple[int, str]]
) -> list[tuple[int, str]]:
    """Those of the changed constants that the plan takes no other values for: TensorRT computes shapes and indices from
    integers when it builds."""
    if not donor.refittable:
        return list(changed)
    return [(i, role) for i, role in changed if not old.layers[i].constants[role].dtype.is_floating_point]


def _renamed(new: Any, old: Any) -> Any:
    """A binding of the new program under the name that the plan has for it, and with the plan's profiles."""
    if isinstance(new, SizeBinding):
        return replace(old, symbol=new.symbol)
    return replace(old, shape=new.shape)


def changed_constants(old: NetworkSnapshot, new: NetworkSnapshot) -> tuple[tuple[int, str], ...]:
    """(layer, role) of the constants whose bytes differ."""
    same: dict[Any, bool] = {}
    found = []
    for one, other in zip(old.layers, new.layers):
        for role, before in one.constants.items():
            after = other.constants[role]
            key = _place(before), _place(after)
            if key not in same:
                same[key] = _same_bytes(before, after)
            if not same[key]:
                found.append((one.index, role))
    return tuple(found)


def _place(tensor: torch.Tensor) -> Any:
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype


def _same_bytes(one: torch.Tensor, other: torch.Tensor) -> bool:
    if not one.numel():
        return True
    return torch.equal(*map(_bytes, (one, other)))


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    # A contiguous tensor of one element may have any stride, and a view of another dtype minds it.
    flat = tensor.detach().contiguous().as_strided((tensor.numel(),), (1,))
    return flat.view(torch.uint8)


def _keyed(snapshot: NetworkSnapshot, changed: Sequence[tuple[int, str]]) -> Iterator[tuple[str, str, str]]:
    """(layer's name, role, constant's key) of constants."""
    structure, _ = snapshot.to_json()
    for index, role in changed:
        layer = structure["layers"][index]
        yield layer["name"], role, layer["constants"][role]["key"]


def _known_hashes(
    donor: EngineArtifact, snapshot: NetworkSnapshot, changed: Sequence[tuple[int, str]]
) -> Mapping[str, str]:
    """The recorded hashes of the storages of which nothing has changed, by the new snapshot's keys."""
    before, after = donor.written_network()["layers"], snapshot.to_json()[0]["layers"]
    recorded = {record.constant: record.sha256 for record in donor.manifest.weights}
    pairs: dict[str, set[Any]] = {}
    back: dict[str, set[str]] = {}
    for old, new in zip(before, after):
        for role, place in new["constants"].items():
            was = old["constants"][role]
            same = all(place[name] == was[name] for name in ("offset", "shape", "stride"))
            pairs.setdefault(place["key"], set()).add(was["key"] if same else None)
            back.setdefault(was["key"], set()).add(place["key"])
    moved = {key for _, _, key in _keyed(snapshot, changed)}
    found = {}
    for key, sources in pairs.items():
        (source, *more) = sources
        if key not in moved and not more and source is not None and len(back[source]) == 1:
            digest = recorded.get(source, "")
            if digest.strip("0"):
                found[key] = digest
    return found


def _written(
    plan: torch.Tensor, manifest: EngineManifest, snapshot: NetworkSnapshot, hashes: Mapping[str, str]
) -> EngineArtifact:
    try:
        with temporary_file() as (file, path):
            writer = EngineFileWriter(file, manifest, snapshot, hashes)
            if plan.numel():
                writer.write(plan.contiguous().numpy().data)
            manifest = replace(manifest, weights=tuple(writer.hashed(w) for w in manifest.weights))
            writer.finish(manifest)
            return open_container(map_and_unlink(path))
    except OSError as error:
        raise unwritable(None, error) from error


class RefitBuilder:
    """Takes engines that are there for requests that they fit, and has the others built.

    Args:
        inner: builds what no engine fits.
    """

    def __init__(self, inner: Builder, donors: Donors, registry: ConverterRegistry) -> None:
        self.inner, self.donors, self.registry = inner, donors, registry

    def submit(self, request: EngineRequest) -> None:
        """Nothing: whether it has to be built shows when it has been converted."""

    def build(
        self, request: EngineRequest, tell: Tell, *, trial: bool = False, convert_only: bool = False
    ) -> Any:
        """As `build_engine`."""
        if not trial and not convert_only:
            made = refit_engine(request, self.registry, self.donors, tell)
            if made is not None and not (isinstance(made, Failure) and not self.donors.strict):
                return made
            self.donors.built.append(request.name)
        return self.inner.build(request, tell, trial=trial, convert_only=convert_only)

    def close(self) -> None:
        """The compile is over."""
        self.inner.close()


__all__ = ["Donors", "RefitBuilder", "Refitted", "changed_constants", "difference", "refit_engine"]
