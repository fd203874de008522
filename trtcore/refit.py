"""The weights of another program into a compiled module's engines (`trtcore.dynamo.refit_module_weights`)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

from trtcore.artifact.engine_file import EngineArtifact
from trtcore.compiler import compile_program
from trtcore.engine.refit import Donors
from trtcore.errors import InputError, RefitError, SettingsError, shown
from trtcore.ir.exported import flat_program, with_ranges
from trtcore.ir.program import InputSpec, Program
from trtcore.ir.ranges import Asked, InputRange
from trtcore.runtime.engine import engines_in
from trtcore.runtime.input_check import InputCheck, _Number, _Tensor
from trtcore.runtime.module import CompiledModule
from trtcore.runtime.recipe import Recipe, WeightKinds, weights_of
from trtcore.settings import CompilationSettings

if TYPE_CHECKING:
    from torch.export import ExportedProgram

_COMPILE = "compile the model with the new weights"
_SHOWN = 8
_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)


def refit_module_weights(
    compiled_module: CompiledModule,
    new_weight_module: ExportedProgram,
    arg_inputs: Sequence[Any] | None = None,
    kwarg_inputs: Mapping[str, Any] | None = None,
    verify_output: bool = False,
    use_weight_map_cache: bool = True,
    in_place: bool = False,
) -> CompiledModule:
    """The module with the weights of another program of the same model; see `trtcore.dynamo.refit_module_weights`."""
    recipe = _recipe(compiled_module)
    _check_program(new_weight_module)
    engines = engines_of(compiled_module)
    _refuse_fixed(engines)
    began = time.perf_counter()
    program = _program(compiled_module, new_weight_module)
    _compare_weights(recipe.weights, weights_of(program))
    donors = Donors(engines, strict=True, trust_hashes=use_weight_map_cache)
    timings = {"capture": time.perf_counter() - began}
    made = compile_program(program, _settings(recipe, engines), timings=timings, donors=donors, again=recipe)
    if not donors.complete:
        left = sorted({one.manifest.name for one in engines} - set(donors.taken))
        raise RefitError(f"the new program has no use for {', '.join(left)} of the module", advice=_COMPILE)
    if not engines and made.report.engines:
        raise RefitError("the module has no engine, and the new program would have some", advice=_COMPILE)
    open_engines(made)
    if verify_output:
        _verify(made, new_weight_module, arg_inputs, kwarg_inputs)
    return _replaced(compiled_module, made) if in_place else made.train(compiled_module.training)


def engines_of(module: torch.fx.GraphModule) -> list[EngineArtifact]:
    """The engines of a hybrid graph, in its order."""
    return [engine.artifact for engine in engines_in(module)]


def open_engines(module: torch.fx.GraphModule) -> None:
    """Give TensorRT the weights of native engines now, so that what it refuses is an error here and not at a call.

    Raises:
        RefitError: it refuses one; it says which.
    """
    for engine in engines_in(module):
        if engine.manifest.runtime == "native" and engine.manifest.plan == "refit":
            engine.open()


# ---- before anything is done --------------------------------------------------------------------------------


def _recipe(module: Any) -> Recipe:
    if not isinstance(module, CompiledModule):
        raise RefitError(
            f"refit_module_weights takes what trtcore.compile returned, not {type(module).__name__}",
            advice="compile the model first; what torch.compile returns looks at its weights by itself",
        )
    recipe = module.recipe
    if recipe is None:
        raise RefitError("the module does not say what it was compiled with", advice=_COMPILE)
    if recipe.lost:
        raise RefitError(
            f"the module was compiled with {', '.join(recipe.lost)}, which no file can hold: its engines "
            "cannot be told from others",
            advice=_COMPILE,
        )
    return recipe


def _check_program(program: Any) -> None:
    if not isinstance(program, torch.export.ExportedProgram):
        raise RefitError(
            f"the new weights must come in an ExportedProgram, not in {type(program).__name__}",
            advice="export the model with the new weights: trtcore.dynamo.trace(model, inputs)",
        )


def _refuse_fixed(engines: Sequence[EngineArtifact]) -> None:
    for engine in engines:
        name = engine.manifest.name
        if not engine.has_snapshot:
            raise RefitError(
                f"{name} was saved without its network (reference=False), which says where its weights are",
                advice="save the module with reference=True, or compile the model with the new weights",
            )
        if engine.manifest.runtime == "native" and not engine.manifest.refittable:
            raise RefitError(
                f"{name} was built with immutable_weights=True or refit_identical_engine_weights=True: TensorRT "
                "takes no other weights for it",
                advice="compile the model with immutable_weights=False, or with the new weights",
            )


def _settings(recipe: Recipe, engines: Sequence[EngineArtifact]) -> CompilationSettings:
    """Those of the compile, for the runtime that the engines are on now."""
    try:
        settings = recipe.chosen()
    except SettingsError as error:
        raise RefitError(
            f"what the module was compiled with means nothing here: {error.message}", advice=_COMPILE
        ) from error
    return settings.replace(runtime=engines[0].manifest.runtime) if engines else settings


# ---- the new program ----------------------------------------------------------------------------------------


def _program(module: CompiledModule, new: ExportedProgram) -> Program:
    """The new program, for the sizes that the module takes."""
    check = module._input_check
    program = flat_program(new)
    if check is None:
        return with_ranges(program, new)
    names = [leaf.name for leaf in check.leaves]
    if len(names) != len(program.inputs):
        raise RefitError(
            f"the new program has {len(program.inputs)} inputs, and the module {len(names)}", advice=_COMPILE
        )
    try:
        asked = [_asked(leaf, spec, check) for leaf, spec in zip(check.leaves, program.inputs)]
        return with_ranges(program, new, asked)
    except InputError as error:
        raise RefitError(
            f"the new program does not take what the module takes: {error.message}",
            advice="export the model for the same inputs, or compile it",
        ) from error


def _asked(leaf: Any, spec: InputSpec, check: InputCheck) -> InputRange | None:
    """The sizes that the module takes for an input."""
    if isinstance(leaf, _Number):
        return InputRange(((leaf.min, leaf.max, leaf.max),))
    if not isinstance(leaf, _Tensor):
        return None
    if spec.kind != "tensor" or spec.dtype != leaf.dtype or len(spec.shape or ()) != leaf.rank:
        raise InputError(f"input {leaf.name} is {leaf.dtype!s} with {leaf.rank} dimensions, there it is not")
    rows = _rows(leaf)
    for dim, size in enumerate(spec.shape or ()):
        if (dim in rows) == isinstance(size, int):
            what = f"{rows[dim][0]}..{rows[dim][2]}" if dim in rows else "of one size"
            raise InputError(f"input {leaf.name} is {what} at dimension {dim}, there it is {size}")
        if isinstance(size, int) and (dim, size) not in leaf.fixed:
            raise InputError(
                f"input {leaf.name} is {dict(leaf.fixed)[dim]} at dimension {dim}, there it is {size}"
            )
    profiles = [{name: (low, high) for name, low, high in profile} for profile in check.profiles]
    several = (
        tuple(_dims(leaf, rows, _in_profile(leaf, profile)) for profile in profiles)
        if len(profiles) > 1
        else ()
    )
    return InputRange(_dims(leaf, rows, {}), several)


def _rows(leaf: _Tensor) -> dict[int, Asked]:
    rows: dict[int, Asked] = {dim.index: (dim.min, dim.max, dim.max) for dim in leaf.linear}
    return rows | dict.fromkeys((index for index, _ in leaf.derived), (None, 1, None))


def _in_profile(leaf: _Tensor, profile: Mapping[str, tuple[int, int]]) -> dict[int, Asked]:
    found: dict[int, Asked] = {}
    for dim in leaf.linear:
        low, high = (dim.scale * size + dim.offset for size in profile[dim.symbol])
        found[dim.index] = (low, high, high)
    return found


def _dims(leaf: _Tensor, rows: Mapping[int, Asked], instead: Mapping[int, Asked]) -> tuple[Asked, ...]:
    fixed: dict[int, Asked] = {index: (None, size, None) for index, size in leaf.fixed}
    return tuple({**fixed, **rows, **instead}[dim] for dim in range(leaf.rank))


def _compare_weights(old: WeightKinds, new: WeightKinds) -> None:
    """Refuse weights of another model, by their names."""
    problems = [f"it lacks {name}" for name in old if name not in new]
    problems += [f"it has {name}, which the module has not" for name in new if name not in old]
    for name in old:
        if name in new and old[name] != new[name]:
            problems.append(f"{name} is {_kind(*new[name])}, and was {_kind(*old[name])}")
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise RefitError(
            f"the new program has not the weights of the module: {'; '.join(problems[:_SHOWN])}{more}",
            advice="export the very model that was compiled, with its new weights; another model must be compiled",
        )


def _kind(dtype: torch.dtype, shape: tuple[int, ...]) -> str:
    return f"{str(dtype).removeprefix('torch.')}{list(shape)}"


# ---- afterwards ---------------------------------------------------------------------------------------------


def _verify(
    made: CompiledModule, new: ExportedProgram, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None
) -> None:
    """Compare the module's results with those of the new program in torch."""
    if args is None and kwargs is None:
        raise RefitError(
            "verify_output=True needs inputs to compare results on", advice="give arg_inputs and kwarg_inputs"
        )
    given, named = tuple(args or ()), dict(kwargs or {})
    with torch.no_grad():
        got = pytree.tree_leaves(made(*given, **named))  # first, as it says what an input should be
        try:
            wanted = pytree.tree_leaves(new.module()(*given, **named))
        except Exception as error:
            raise RefitError(
                f"the new program itself fails with these inputs: {shown(error)}",
                advice="give arg_inputs and kwarg_inputs that the program was exported for",
            ) from error
    for index, (one, other) in enumerate(zip(got, wanted)):
        if isinstance(one, torch.Tensor) and not torch.allclose(
            one, other, rtol=1e-2, atol=1e-2, equal_nan=True
        ):
            worst = (one.double() - other.double()).abs().max().item()
            raise RefitError(
                f"with the new weights, result {index} of the module is off by {worst:.3g} from the new program's",
                advice=f"{_COMPILE}, and see whether it is right then",
            )


def _replaced(module: CompiledModule, made: CompiledModule) -> CompiledModule:
    """The module, made what `made` is; hooks of the user's stay."""
    kept: dict[str, Any] = {name: module.__dict__[name] for name in _HOOKS if name in module.__dict__}
    for key in [key for key, hook in module._forward_pre_hooks.items() if isinstance(hook, InputCheck)]:
        del module._forward_pre_hooks[key]
    training = module.training
    module.__class__ = made.__class__
    module.__dict__.clear()
    module.__dict__.update(made.__dict__)
    module.__dict__.update(kept)
    return module.train(training)


__all__ = ["engines_of", "open_engines", "refit_module_weights"]
