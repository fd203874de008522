"""Writing a compiled module to a file."""

from __future__ import annotations

import inspect
import io
import json
import os
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from trtcore._version import __version__
from trtcore.archive import aot_inductor
from trtcore.archive.members import EXTRA, FORMAT, ArchiveWriter
from trtcore.artifact.manifest import EngineManifest
from trtcore.errors import ArtifactError, ExportError, InputError, SettingsError, TrtcoreError
from trtcore.ir.graph_data import node_data
from trtcore.ir.graph_json import node_to_json
from trtcore.ir.graphs import attribute, set_attribute
from trtcore.ir.signature import keywords_named
from trtcore.ir.torch_private import (
    FakeTensorMode,
    codegen_of,
    export,
    forgetting_traces,
    results_of_shapes,
    size_interval,
    with_tensors,
)
from trtcore.packs.loading import build_registry
from trtcore.paths import atomic_write
from trtcore.runtime.contract import check_to_json, ranges_to_json, spec_to_json
from trtcore.runtime.engine import resolve
from trtcore.runtime.input_check import InputCheck, _Constant, _Number, _Tensor
from trtcore.runtime.module import CompiledModule
from trtcore.runtime.op import execute_engine
from trtcore.runtime.pickling import symbol_ranges_of
from trtcore.runtime.plans import keep_plans_plain
from trtcore.settings import CompilationSettings

if TYPE_CHECKING:
    from torch.export import ExportedProgram

_ROOT = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_PAYLOAD = re.compile(r"data/(weights/weight_|constants/tensor_)\d+")


def save(
    module: torch.nn.Module,
    path: str | os.PathLike[str],
    inputs: Sequence[Any] | None = None,
    *,
    arg_inputs: Sequence[Any] | None = None,
    kwarg_inputs: Mapping[str, Any] | None = None,
    output_format: str = "exported_program",
    reference: bool = True,
) -> None:
    """Save a compiled module to a file that `load` reads, in another process too.

    Args:
        module: what `trtcore.compile` or `trtcore.dynamo.compile` returned.
        path: the file, usually ``*.pt2``. Written in one step: an old file stays whole until the new one is.
        inputs, kwarg_inputs: example arguments for torch.export; not needed, made from the compiled shapes.
            Their values are not stored.
        arg_inputs: the same as `inputs`.
        output_format: "exported_program", or "aot_inductor": a package of machine code that
            ``torch._inductor.aoti_load_package`` runs in a process that has imported trtcore, and `load` does not open.
        reference: False leaves the networks out: a smaller file, which only TensorRT on a GPU can run.

    Dynamic dims stay dynamic, with the ranges that the module was compiled for.

    Raises:
        SettingsError: another output_format; the message says what to use.
        ArtifactError: `module` is not a compiled module, or the file cannot be written.
        InputError: `inputs` do not fit the module, or are given twice.
        ExportError: torch.export cannot capture the compiled module, or AOTInductor not compile it.
    """
    _check_format(output_format)
    compiled = _compiled(module)
    if inputs is not None and arg_inputs is not None:
        raise InputError("both inputs and arg_inputs are given", advice="they are the same: give one of them")
    example = (arg_inputs if inputs is None else inputs, kwarg_inputs)
    if packaged := output_format == aot_inductor.NAME:
        aot_inductor.check_name(Path(path))
    try:
        with forgetting_traces(), atomic_write(path) as file:
            if packaged:
                _write_package(file, compiled, example, reference)
            else:
                _write(file, Path(path), compiled, example, reference)
    except OSError as error:
        raise ArtifactError(f"{os.fspath(path)} cannot be written: {error}") from error


def _write(file: Any, path: Path, module: CompiledModule, example: tuple[Any, Any], reference: bool) -> None:
    """torch's archive of the program, whose weights and engines are written piece by piece; and our own description."""
    portable = _portable(module, reference)
    exported = _export(module, portable, *example)
    for spec in (exported.call_spec.in_spec, exported.call_spec.out_spec):
        spec_to_json(spec)  # raises for what torch's own writer cannot name either
    tensors = {**exported.state_dict, **exported.constants}
    members = _small_members(exported)
    writer = ArchiveWriter(file, path.stem if _ROOT.fullmatch(path.stem) else "archive")
    try:
        places, sums = _write_tensors(writer, tensors, members)
        for name, data in members.items():
            sums[name] = writer.add(name, data)
        description = {
            "format": FORMAT,
            "trtcore": __version__,
            "sums": sums,
            "module": _module_to_json(module, portable, places),
            "check": None if module._input_check is None else check_to_json(module._input_check),
            "report": module.report.to_json(indent=None),
            "recipe": None if module.recipe is None else module.recipe.to_json(),
        }
        writer.add(EXTRA, json.dumps(description, separators=(",", ":"), allow_nan=False).encode())
        writer.close()
    except BaseException:
        writer.abandon()
        raise


def _write_package(file: Any, module: CompiledModule, example: tuple[Any, Any], reference: bool) -> None:
    portable = _portable(module, reference)
    aot_inductor.with_checks(portable, module._input_check)
    aot_inductor.write(file, _export(module, portable, *example))


def _small_members(exported: ExportedProgram) -> dict[str, bytes]:
    """What torch writes of a program, without the bytes of its tensors."""
    _refuse_conditions(exported)
    mode = FakeTensorMode()
    state, constants = (
        {name: _without_bytes(mode, value) for name, value in tensors.items()}
        for tensors in (exported.state_dict, exported.constants)
    )
    light = with_tensors(exported, state, constants)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.export.save(light, buffer)
        except Exception as error:
            first = str(error).partition("\n")[0]
            raise ArtifactError(
                f"torch.export cannot write what of the model runs in torch: {first}",
                advice="the report says why the op that it names is in no engine",
            ) from error
    with zipfile.ZipFile(buffer) as archive:
        found = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    return {name: data for name, data in found.items() if not _PAYLOAD.fullmatch(name)}


def _refuse_conditions(exported: ExportedProgram) -> None:
    results = exported.graph.output_node().args[0]
    for place, result in enumerate(results if isinstance(results, (list, tuple)) else (results,)):
        if isinstance(result, torch.fx.Node) and isinstance(result.meta.get("val"), torch.SymBool):
            raise ArtifactError(
                f"output {place} of the model is a condition on sizes ({result.meta['val']}), and torch.export's files "
                "have no place for a bool that varies",
                advice="return it as a tensor: torch.tensor(x.shape[0] > 3) for x.shape[0] > 3",
            )


def _without_bytes(mode: Any, value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        raise ArtifactError(f"the compiled module holds {type(value).__name__}, which a file cannot hold")
    fake = mode.from_tensor(value.detach())
    return torch.nn.Parameter(fake, requires_grad=False) if isinstance(value, torch.nn.Parameter) else fake


def _write_tensors(
    writer: ArchiveWriter, tensors: Mapping[str, torch.Tensor], members: dict[str, bytes]
) -> tuple[dict[str, list[Any]], dict[str, int]]:
    """Write every storage once, and tell torch's tables where the tensors are.

    Returns:
        (name -> [member, dtype, storage offset, shape, strides, device], member -> crc32)
    """
    places: dict[str, list[Any]] = {}
    sums: dict[str, int] = {}
    for folder, prefix in (("weights", "weight_"), ("constants", "tensor_")):
        table = f"data/{folder}/model_{folder}_config.json"
        if table not in members:
            continue
        config = json.loads(members[table])
        known: dict[int, str] = {}
        for name, entry in config["config"].items():
            tensor = tensors[name]
            address = tensor.untyped_storage().data_ptr()
            member = known.get(address) if tensor.untyped_storage().nbytes() else None
            if member is None:
                member = known[address] = f"{prefix}{len(sums)}"
                sums[f"data/{folder}/{member}"] = writer.add(
                    f"data/{folder}/{member}", _storage_bytes(tensor)
                )
            entry["path_name"] = member
            places[name] = [
                f"data/{folder}/{member}", str(tensor.dtype).removeprefix("torch."), tensor.storage_offset(),
                list(tensor.shape), list(tensor.stride()), str(tensor.device),
            ]  # fmt: skip
        members[table] = json.dumps(config).encode()
    return places, sums


def _storage_bytes(tensor: torch.Tensor) -> torch.Tensor:
    storage = tensor.untyped_storage()
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage).cpu()


def _module_to_json(
    module: CompiledModule, portable: GraphModule, places: Mapping[str, list[Any]]
) -> dict[str, Any]:
    """The hybrid graph: nodes, attributes by their places in the archive, symbols, structures."""
    codegen: Any = codegen_of(module.graph)
    info = getattr(codegen, "pytree_info", None)
    return {
        "name": type(module).__name__,
        "graph": _graph_to_json(module, portable, places),
        "ranges": ranges_to_json(symbol_ranges_of(module)),
        "names": None if info is None else list(info.orig_args),
        "in_spec": None if info is None else spec_to_json(info.in_spec),
        "out_spec": None if info is None else spec_to_json(info.out_spec),
    }


def _graph_to_json(
    module: GraphModule, portable: GraphModule, places: Mapping[str, list[Any]], prefix: str = ""
) -> dict[str, Any]:
    attributes: dict[str, Any] = {}
    parameters = dict(portable.named_parameters(remove_duplicate=False)).keys()
    buffers = dict(portable.named_buffers(remove_duplicate=False)).keys()
    for node in module.graph.nodes:
        if node.op != "get_attr":
            continue
        name = str(node.target)
        value = attribute(module, name)
        if isinstance(value, GraphModule):
            attributes[name] = ["module", _graph_to_json(value, portable, places, f"{prefix}{name}.")]
            continue
        full = prefix + name
        kind = "parameter" if full in parameters else "buffer" if full in buffers else "constant"
        attributes[name] = [kind, *_place(full, attribute(portable, full), portable, places)]
    return {"nodes": [node_to_json(node_data(node)) for node in module.graph.nodes], "attributes": attributes}


def _place(
    name: str, value: torch.Tensor, portable: GraphModule, places: Mapping[str, list[Any]]
) -> list[Any]:
    """Where a tensor is in the archive. torch.export renames constants: the same tensor is found by its memory."""
    if name in places:
        return places[name]
    raise ArtifactError(f"torch.export left {name} out of the program")


def _check_format(output_format: str) -> None:
    if output_format in ("exported_program", aot_inductor.NAME):
        return
    advice = {
        "torchscript": 'TorchScript cannot hold these engines; use output_format="exported_program"',
    }.get(output_format, 'use output_format="exported_program" or "aot_inductor"')
    raise SettingsError(f"output_format={output_format!r} is not offered", advice=advice)


def _compiled(module: Any) -> CompiledModule:
    if isinstance(module, CompiledModule):
        return module
    raise ArtifactError(
        f"trtcore.save takes what trtcore.compile returned, not {type(module).__name__}",
        advice="compile it first; an ExportedProgram that is not compiled is saved with torch.export.save",
    )


def _export(
    module: CompiledModule,
    plain: GraphModule,
    inputs: Sequence[Any] | None,
    kwarg_inputs: Mapping[str, Any] | None,
) -> ExportedProgram:
    """The module as an ExportedProgram whose plans are engine files."""
    args, kwargs, dims = _example_call(module, inputs, kwarg_inputs)
    shapes = build_registry(
        CompilationSettings()
    ).shapes  # of ops in torch that fix sizes when they are captured
    try:
        with warnings.catch_warnings(), results_of_shapes(shapes), keywords_named(plain, kwargs):
            warnings.simplefilter("ignore")
            dynamic_shapes = None if dims is None else _by_parameter(plain, *dims)
            exported = export(plain, args, kwargs, dynamic_shapes=dynamic_shapes, strict=False)
    except (KeyboardInterrupt, TrtcoreError):
        raise
    except Exception as error:
        raise ExportError(
            f"torch.export could not capture the compiled module: {error}",
            advice="pass typical `inputs` to trtcore.save; if that does not help, please report it",
        ) from error
    if module._input_check is not None:
        _set_ranges(exported, module._input_check)
    # torch.export.load checks conditions on sizes only of a program that has example inputs. The user's data has no
    # place in the file, nor have megabytes of zeros.
    exported.example_inputs = pytree.tree_map_only(torch.Tensor, _one_zero, (tuple(args), dict(kwargs)))
    return exported


def _by_parameter(plain: GraphModule, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The dynamic dims of a call's arguments as torch.export wants them: those of ``*args`` under its name."""
    return dict(inspect.signature(plain.forward).bind(*args, **kwargs).arguments)


def _one_zero(example: torch.Tensor) -> torch.Tensor:
    return torch.zeros((), dtype=example.dtype).expand(example.shape)


def _portable(module: CompiledModule, reference: bool) -> GraphModule:
    """A copy of the graph, without hooks, with containers for plans. Weights are shared."""
    module.refuse_changed_weights()
    root = torch.nn.Module()
    graph = torch.fx.Graph()
    copied: dict[Node, Node] = {}
    result = graph.graph_copy(module.graph, copied)
    if result is not None:
        graph.output(result)
    graph.set_codegen(codegen_of(module.graph))
    plans: set[str] = set()
    for node in module.graph.nodes:
        if node.op != "call_function" or node.target is not execute_engine:
            continue
        manifest, target = EngineManifest.from_json(node.args[3]), str(node.args[2].target)
        artifact = resolve(node.args[3], attribute(module, target)).artifact.with_manifest(manifest)
        if not reference and manifest.plan != "whole":
            raise ArtifactError(
                f"{manifest.name} cannot be saved without its network: its plan lacks the weights, which are there",
                advice="save it with reference=True",
            )
        set_attribute(root, target, artifact.container if reference else artifact.to_tensor(reference=False))
        plans.add(target)
    for node in module.graph.nodes:
        if node.op == "get_attr" and node.target not in plans:
            _share(root, str(node.target), attribute(module, str(node.target)))
    portable = GraphModule(root, graph, class_name="CompiledModel")
    keep_plans_plain(portable)
    return portable


def _share(root: torch.nn.Module, target: str, value: Any) -> None:
    """Put an attribute into `root`; tensors become parameters or buffers, so that mutation is captured."""
    set_attribute(root, target, value)
    if isinstance(value, torch.Tensor) and not isinstance(value, torch.nn.Parameter):
        path, _, last = target.rpartition(".")
        owner = root.get_submodule(path)
        delattr(owner, last)
        owner.register_buffer(last, value)


def example_inputs(module: CompiledModule) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """(args, kwargs) of a call that fits a compiled or loaded module: zeros of a typical size, its constants.

    Raises:
        ArtifactError: the module has no input signature.
    """
    args, kwargs, _ = _example_call(module, None, None)
    return args, kwargs


def _example_call(
    module: CompiledModule, inputs: Sequence[Any] | None, kwarg_inputs: Mapping[str, Any] | None
) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    """(args, kwargs, the dynamic dims of both or None) for torch.export."""
    check = module._input_check
    if check is None:
        if inputs is None:
            raise ArtifactError("this module has no input signature: give trtcore.save example inputs")
        return tuple(inputs), dict(kwarg_inputs or {}), None
    if inputs is not None or kwarg_inputs is not None:
        check(module, tuple(inputs or ()), dict(kwarg_inputs or {}))
        leaves = pytree.tree_leaves([*check.binding.bind(tuple(inputs or ()), dict(kwarg_inputs or {}))])
        leaves = [leaf.to("meta") if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
    else:
        leaves = [None] * len(check.leaves)
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    made = _examples(check, placeholders, leaves)
    shapes = [_dynamic_dims(leaf) for leaf in check.leaves]
    positions = iter(range(len(made)))
    places = [spec.unflatten([next(positions) for _ in range(spec.num_leaves)]) for spec in check.specs]
    values = [pytree.tree_map(lambda i: made[i], place) for place in places]
    dims = [pytree.tree_map(lambda i: shapes[i], place) for place in places]
    split = check.binding.positional
    args, kwargs = tuple(values[:split]), dict(zip(check.binding.names[split:], values[split:]))
    dynamic = dims[:split], dict(zip(check.binding.names[split:], dims[split:]))
    return args, kwargs, dynamic if any(shape is not None for shape in shapes) else None


def _examples(check: InputCheck, placeholders: Sequence[Node], given: Sequence[Any]) -> list[Any]:
    """A value per leaf: zeros of a typical size. Sizes of 0 and 1 would be taken as fixed by torch.export."""
    made: list[Any] = []
    for leaf, node, example in zip(check.leaves, placeholders, given):
        value = node.meta.get("val")
        if isinstance(leaf, _Constant):
            made.append(leaf.value)
        elif isinstance(leaf, _Number):
            made.append(max(2, leaf.min) if example is None else example)
        elif isinstance(value, torch.Tensor):
            shape = [_hint(dim) for dim in (value.shape if example is None else example.shape)]
            made.append(torch.zeros(shape, dtype=value.dtype, device=value.device))
        else:
            raise ArtifactError(f"input {leaf.name} has no recorded shape: give trtcore.save example inputs")
    return made


def _hint(dim: Any) -> int:
    return max(2, int(dim.node.hint)) if isinstance(dim, torch.SymInt) else int(dim)


def _dynamic_dims(leaf: Any) -> Any:
    if isinstance(leaf, _Number):
        return torch.export.Dim.DYNAMIC
    if not isinstance(leaf, _Tensor):
        return None
    dims: dict[int, Any] = {}
    for dim in leaf.linear:
        # torch.export finds which dims are equal or related; the true ranges are set afterwards.
        dims[dim.index] = torch.export.Dim.AUTO
    for index, _ in leaf.derived:
        dims[index] = torch.export.Dim.AUTO
    return dims or None


def _set_ranges(exported: ExportedProgram, check: InputCheck) -> None:
    """Give the exported symbols the ranges that the module was compiled for."""
    from trtcore.ir.symbols import solve_linear

    names = set(exported.graph_signature.user_inputs)
    nodes = [n for n in exported.graph.nodes if n.op == "placeholder" and n.name in names]
    for leaf, node in zip(check.leaves, nodes):
        value = node.meta.get("val")
        if not isinstance(leaf, _Tensor) or not isinstance(value, torch.Tensor):
            continue
        for dim in leaf.linear:
            found = solve_linear(value.shape[dim.index])
            if found is None:
                raise ExportError(
                    f"torch.export fixed dim {dim.index} of input {leaf.name}, which is dynamic "
                    f"({dim.min}..{dim.max})",
                    advice="pass `inputs` with a typical size there, neither 0 nor 1",
                )
            name, scale, offset = found
            low, high = -(-(dim.min - offset) // scale), (dim.max - offset) // scale
            for symbol in exported.range_constraints:
                if str(symbol) == name:
                    known = exported.range_constraints[symbol]
                    low, high = max(low, 0), min(high, _finite(known.upper, high))
                    exported.range_constraints[symbol] = size_interval(low, high)


def _finite(bound: Any, otherwise: int) -> int:
    try:
        return int(bound)
    except (TypeError, ValueError, OverflowError, AttributeError):
        return otherwise
