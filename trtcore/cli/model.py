"""`explain`, `compile` and `run`: the commands that take a model."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from trtcore.cli.inputs import GRAMMAR, InputType, parse_settings, split_inputs
from trtcore.cli.loading import import_modules, load_model
from trtcore.errors import InputError, printable
from trtcore.progress import show_progress

if TYPE_CHECKING:
    import torch

    from trtcore.ir.inputs import Input
    from trtcore.report.data import Report
    from trtcore.runtime.module import CompiledModule

_F = TypeVar("_F", bound=Callable[..., Any])

Parsed = Sequence[tuple[str | None, "Input | torch.Tensor"]]

_INPUT_HELP = (
    f"One input of the model, in order: {GRAMMAR}. 1x3x224x224:float32 is static; "
    "?x128:int64@1x128,8x128,32x128 has a dynamic batch; "
    "?x9@1x9@8x9,32x9,64x9 has two optimisation profiles; mask=1x128:bool is a keyword argument; "
    "scalar:float32 has rank 0; mask=mask.npy is the array in a file. Not needed for a .pt2 file."
)


def _model_options(command: _F) -> _F:
    """The arguments that the three commands share."""
    for decorate in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
        click.option(
            "--import",
            "imports",
            multiple=True,
            metavar="MODULE",
            help="Import a module or a file.py first: what registers operators of your own.",
        ),
        click.option(
            "--set",
            "settings",
            multiple=True,
            metavar="KEY=VALUE",
            help="A compilation setting; `trtcore settings` lists them.",
        ),
        click.option("--input", "inputs", multiple=True, type=InputType(), metavar="SPEC", help=_INPUT_HELP),
    ):
        command = decorate(command)
    return command


@click.command()
@click.argument("model")
@_model_options
@click.option("--verbose", "-v", is_flag=True, help="Every op, with every converter that was considered.")
@click.option(
    "--output",
    "-o",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the report: a .html page with the graph drawn, .json, or .txt.",
)
def explain(
    model: str,
    inputs: Parsed,
    settings: tuple[str, ...],
    imports: tuple[str, ...],
    as_json: bool,
    verbose: bool,
    output: Path | None,
) -> None:
    """Say what would become of MODEL, op by op, without building an engine.

    MODEL is a .pt2 file, module:attribute or file.py:attribute.
    """
    import trtcore

    _check_report(output, "--output")
    import_modules(imports)
    loaded, arguments, chosen = load_model(model), _arguments(inputs), parse_settings(settings)
    report = trtcore.explain(loaded, **arguments, **chosen)
    _write_report(report, output)
    _print_report(report, as_json, verbose=verbose)


@click.command("compile")
@click.argument("model")
@_model_options
@click.option(
    "--output",
    "-o",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file to write: .pt2, or .engine for TensorRT's plan alone.",
)
@click.option(
    "--report",
    "report_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the report too: .html, .json or .txt.",
)
@click.option(
    "--executor",
    metavar="ADDRESS",
    help="Who builds the engines: threads:N, processes:N, dask://HOST:PORT, ray://HOST:PORT.",
)
@click.option("--no-reference", is_flag=True, help="Leave the reference runtime's network out of the file.")
def compile_(
    model: str,
    inputs: Parsed,
    settings: tuple[str, ...],
    imports: tuple[str, ...],
    as_json: bool,
    output: Path,
    report_file: Path | None,
    executor: str | None,
    no_reference: bool,
) -> None:
    """Compile MODEL and save it.

    `trtcore run` and `trtcore.load` take a .pt2 file. A .engine file is one engine for the whole model, as TensorRT
    itself loads it.
    """
    import trtcore

    import_modules(imports)
    chosen = parse_settings(settings)
    if output.suffix not in (".pt2", ".engine"):
        raise InputError(f"--output {str(output)!r}: the file's name must end in .pt2 or .engine")
    if not output.absolute().parent.is_dir():
        raise InputError(f"--output {str(output)!r}: there is no folder {str(output.absolute().parent)!r}")
    _check_report(report_file, "--report")
    arguments = _arguments(inputs)
    if output.suffix == ".engine":
        if report_file is not None:
            raise InputError("--report: a plain engine has none", advice="`trtcore explain` has one")
        _write_engine(load_model(model), arguments, chosen, output, as_json)
        return
    with show_progress(quiet=as_json) as observers, _executor(executor) as workers:
        compiled = trtcore.compile(load_model(model), **arguments, observers=observers, **chosen, **workers)
        trtcore.save(compiled, output, reference=not no_reference)
    _write_report(compiled.report, report_file)
    _print_report(compiled.report, as_json)
    if not as_json:
        needs = "".join(f" --import {name}" for name in imports)
        click.echo(f"\nwrote {output} ({_size(output)}); run it with: trtcore run {output}{needs}")


@contextmanager
def _executor(address: str | None) -> Iterator[dict[str, Any]]:
    """The setting that ``--executor`` stands for."""
    if address is None:
        yield {}
        return
    from trtcore.executors import connect

    with connect(address) as executor:
        yield {"build_executor": executor}


def _write_engine(
    model: Any, arguments: Mapping[str, Any], settings: Mapping[str, Any], output: Path, as_json: bool
) -> None:
    """One engine for the whole model, TensorRT's plan alone."""
    import trtcore

    plan = trtcore.dynamo.convert_exported_program_to_serialized_trt_engine(model, **arguments, **settings)
    try:
        output.write_bytes(plan)
    except OSError as error:
        raise InputError(f"{str(output)!r} cannot be written: {error}") from error
    if as_json:
        click.echo(json.dumps({"schema": 1, "file": str(output), "bytes": len(plan)}, indent=2))
    else:
        click.echo(
            f"wrote {output} ({_size(output)}): trt.Runtime(logger).deserialize_cuda_engine(bytes) loads it"
        )


@click.command()
@click.argument("model")
@_model_options
@click.option("--repeat", default=1, show_default=True, type=click.IntRange(1), help="How many timed calls.")
@click.option("--seed", default=0, show_default=True, help="Of the random inputs.")
@click.option(
    "--output",
    "-o",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the outputs: a .npz file, an array for each; numpy has no bfloat16 and float8, which become float32.",
)
def run(
    model: str,
    inputs: Parsed,
    settings: tuple[str, ...],
    imports: tuple[str, ...],
    as_json: bool,
    repeat: int,
    seed: int,
    output: Path | None,
) -> None:
    """Run MODEL, a file that `trtcore compile` wrote or a model that is compiled first.

    Inputs are random (integers are 0 or 1), at the opt shape, or arrays from files; without --input, an exported
    .pt2 is run on the example inputs in it, if it has some. A model that is compiled here is also run in eager, and
    the difference is printed.
    """
    import torch

    import trtcore

    import_modules(imports)
    if output is not None and output.suffix != ".npz":
        raise InputError(f"--output {str(output)!r}: the file's name must end in .npz")
    chosen = parse_settings(settings)
    eager = None
    compiled = _load_artifact(model)
    if compiled is None:
        eager = load_model(model)
        with show_progress(quiet=as_json) as observers:
            compiled = trtcore.compile(eager, **_arguments(inputs), observers=observers, **chosen)
    elif chosen:
        raise InputError(
            "--set has no effect on a compiled model", advice="compile it again with the settings"
        )
    args, kwargs = _example_call(compiled, eager, inputs, seed)
    with torch.no_grad():
        outputs, seconds = _timed(compiled, args, kwargs, repeat)
        reference = None if eager is None else _eager(eager)(*args, **kwargs)
    report = getattr(compiled, "report", None)
    result = _describe_run(outputs, reference, seconds, report)
    if output is not None:
        _save_outputs(outputs, output)
    if as_json:
        click.echo(json.dumps(result, indent=2))
    else:
        _print_run(result)


# -- inputs -------------------------------------------------------------------------------------------


def _arguments(inputs: Parsed) -> dict[str, Any]:
    """The inputs as keyword arguments of `trtcore.compile` and `trtcore.explain`; none for a .pt2's own."""
    positional, named = split_inputs(inputs)
    arguments: dict[str, Any] = {}
    if positional or named:
        arguments["arg_inputs"] = positional
    if named:
        arguments["kwarg_inputs"] = named
    return arguments


def _example_call(
    compiled: CompiledModule, eager: Any, inputs: Parsed, seed: int
) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """Arguments of one call: random ones for ``--input``, else the ExportedProgram's own, else random ones."""
    import torch
    from torch.utils import _pytree as pytree

    from trtcore.archive import example_inputs
    from trtcore.ir.inputs import Input

    positional, named = split_inputs(inputs)
    if positional or named:
        args = tuple(_example(value, seed + i) for i, value in enumerate(positional))
        kwargs = {key: _example(value, seed + len(args) + i) for i, (key, value) in enumerate(named.items())}
        return args, kwargs
    if isinstance(eager, torch.export.ExportedProgram) and eager.example_inputs:
        return eager.example_inputs[0], eager.example_inputs[1] or {}
    found: tuple[tuple[Any, ...], dict[str, Any]] = pytree.tree_map_only(
        torch.Tensor,
        lambda zero: Input(zero.shape, dtype=zero.dtype, device=zero.device).example_tensor(seed=seed),
        example_inputs(compiled),
    )
    return found


def _example(value: Input | torch.Tensor, seed: int) -> torch.Tensor:
    """A tensor as it is; of an Input a random one."""
    return value.example_tensor(seed=seed) if hasattr(value, "example_tensor") else value


def _load_artifact(name: str) -> CompiledModule | None:
    """The compiled module if the name is a file that `trtcore.save` wrote, else None.

    Raises:
        ArtifactError: it is such a file, and cannot be loaded here.
    """
    import trtcore
    from trtcore.archive import is_saved_module

    return trtcore.load(name) if is_saved_module(name) else None


# -- running ------------------------------------------------------------------------------------------


def _eager(model: Any) -> Any:
    return model.module() if hasattr(model, "module_call_graph") else model


def _timed(
    model: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], repeat: int
) -> tuple[Any, list[float]]:
    """The outputs and the seconds of each call; with more than one call, a first one is not timed."""
    if repeat > 1:
        model(*args, **kwargs)
    seconds = []
    outputs = None
    for _ in range(repeat):
        began = time.perf_counter()
        outputs = model(*args, **kwargs)
        _synchronise()
        seconds.append(time.perf_counter() - began)
    return outputs, seconds


def _synchronise() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _save_outputs(outputs: Any, path: Path) -> None:
    """Every tensor among the outputs as an array, named as the command prints it."""
    import numpy
    import torch
    from torch.utils import _pytree as pytree

    arrays = {}
    for place, leaf in pytree.tree_flatten_with_path(outputs)[0]:
        if isinstance(leaf, torch.Tensor):
            value = leaf.detach().cpu()
            try:
                array = value.numpy()
            except TypeError:  # a dtype that numpy has not got
                array = value.float().numpy()
            arrays[pytree.keystr(place) or "output"] = array
    try:
        numpy.savez(path, **arrays)  # type: ignore[arg-type]  # its stub takes a keyword for allow_pickle
    except OSError as error:
        raise InputError(f"--output {str(path)!r} cannot be written: {error}") from error


def _describe_run(
    outputs: Any, reference: Any, seconds: list[float], report: Report | None
) -> dict[str, Any]:
    import torch
    from torch.utils import _pytree as pytree

    tensors = [(pytree.keystr(path), leaf) for path, leaf in pytree.tree_flatten_with_path(outputs)[0]]
    others = pytree.tree_leaves(reference) if reference is not None else [None] * len(tensors)
    return {
        "schema": 1,
        "runtime": report.runtime if report else None,
        "note": report.runtime_note if report else "",
        "seconds": seconds,
        "outputs": [
            _describe_output(path, leaf, other)
            if isinstance(leaf, torch.Tensor)
            else {"name": path, "value": repr(leaf)}
            for (path, leaf), other in zip(tensors, others)
        ],
    }


def _describe_output(path: str, value: torch.Tensor, reference: Any) -> dict[str, Any]:
    import torch

    numbers = (
        value.detach().to("cpu", torch.float64) if not value.is_complex() else value.detach().abs().double()
    )
    entry: dict[str, Any] = {
        "name": path or "output",
        "dtype": str(value.dtype).removeprefix("torch."),
        "shape": list(value.shape),
        "min": numbers.min().item() if numbers.numel() else None,
        "max": numbers.max().item() if numbers.numel() else None,
        "mean": numbers.mean().item() if numbers.numel() else None,
    }
    if isinstance(reference, torch.Tensor) and not value.is_complex():
        expected = reference.detach().to("cpu", torch.float64)
        difference = numbers - expected
        scale = expected.norm().item()
        entry["max_difference"] = difference.abs().max().item() if numbers.numel() else 0.0
        entry["relative_error"] = difference.norm().item() / scale if scale else difference.norm().item()
    return entry


def _print_run(result: Mapping[str, Any]) -> None:
    from trtcore.report.text import format_seconds

    if result["note"]:
        click.echo(printable(result["note"]))
    for output in result["outputs"]:
        if "value" in output:
            click.echo(printable(f"{output['name']}: {output['value']}", keep=""))
            continue
        shape = ", ".join(map(str, output["shape"]))
        line = f"{output['name']}: {output['dtype']}[{shape}]"
        if output["min"] is not None:
            line += f" min {output['min']:.6g} max {output['max']:.6g} mean {output['mean']:.6g}"
        if "max_difference" in output:
            line += (
                f"; against eager: largest difference {output['max_difference']:.3g}, "
                f"relative error {output['relative_error']:.3g}"
            )
        click.echo(printable(line, keep=""))
    best, count = min(result["seconds"]), len(result["seconds"])
    click.echo(f"{count} call{'' if count == 1 else 's'}, the fastest {format_seconds(best)}")


# -- reports ------------------------------------------------------------------------------------------


# suffix -> what the report's file holds
_REPORTS: Mapping[str, Callable[[Report], str]] = {
    ".html": lambda report: report.html(),
    ".json": lambda report: report.to_json() + "\n",
    ".txt": lambda report: report.text(verbose=True) + "\n",
}


def _check_report(path: Path | None, option: str) -> None:
    """Before anything is built."""
    if path is None:
        return
    if path.suffix not in _REPORTS:
        raise InputError(f"{option} {str(path)!r}: the file's name must end in {', '.join(_REPORTS)}")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{option} {str(path)!r}: there is no folder {str(path.absolute().parent)!r}")


def _write_report(report: Report, path: Path | None) -> None:
    if path is not None:
        path.write_text(_REPORTS[path.suffix](report), encoding="utf-8")


def _print_report(report: Report, as_json: bool, *, verbose: bool = False) -> None:
    if as_json:
        click.echo(report.to_json())
        return
    from rich.console import Console

    console = Console()
    if console.is_terminal:
        report.render(console, verbose=verbose)
    else:
        click.echo(report.text(verbose=verbose))


def _size(path: Path) -> str:
    from trtcore.report.text import format_bytes

    return format_bytes(path.stat().st_size)
