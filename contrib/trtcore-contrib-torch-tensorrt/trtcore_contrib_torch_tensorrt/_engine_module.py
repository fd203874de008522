"""Serialised engines as modules.

The bytes of an engine do not say everything that trtcore's runtime asks of one: conditions on sizes, which dims are the
same, and, where engines cannot run, the network. The compile that made the bytes knows it, and it is kept as long as
they are.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

import trtcore
from trtcore import errors
from trtcore.events import watching
from trtcore_contrib_torch_tensorrt._told import NotHereError

__all__ = ["EngineModule", "SerializedEngine", "remembering"]

# sha256 of the bytes -> the trtcore.artifact.engine_file.EngineArtifact
_known: weakref.WeakValueDictionary[bytes, Any] = weakref.WeakValueDictionary()


class SerializedEngine(bytes):
    """An engine's bytes. As long as they live, `EngineModule` can be made of them, or of equal ones."""

    _artifact: Any

    def __reduce__(self) -> Any:
        return bytes, (bytes(self),)


def remembering(convert: Callable[[], bytes]) -> bytes:
    """What `convert` gives, one engine's bytes, with what its compile knows about it."""
    made: list[Any] = []
    with watching(lambda event: made.append(event.subject) if event.stage == "engine" else None):
        plan = SerializedEngine(convert())
    digest = hashlib.sha256(plan).digest()
    for artifact in filter(None, made):
        if hashlib.sha256(artifact.plan.numpy()).digest() == digest:
            _known[digest] = plan._artifact = artifact
    return plan


class EngineModule(torch.nn.Module):
    """A module whose call runs one engine.

    Args:
        serialized_engine: what `torch_tensorrt.convert_method_to_trt_engine` or
            `torch_tensorrt.dynamo.convert_exported_program_to_serialized_trt_engine` gave in this process, or equal
            bytes while the given ones are alive.
        input_binding_names: the inputs' names, in the order of the call; by default the engine's own order.
        output_binding_names: the outputs' names, in the order of the results; some may be left out.
        name: for people.
        settings, weight_name_map, requires_output_allocator, symbolic_shape_expressions: no difference, the engine's
            compile knows better.

    Raises:
        NotHereError: bytes that this process has not made, or does not have any more.
        InputError: a name that the engine does not have, or not all of its inputs.
    """

    def __init__(
        self,
        serialized_engine: bytes | None = None,
        input_binding_names: Sequence[str] | None = None,
        output_binding_names: Sequence[str] | None = None,
        *,
        name: str = "",
        settings: Any = None,
        weight_name_map: Any = None,
        requires_output_allocator: bool = False,
        symbolic_shape_expressions: Any = None,
    ) -> None:
        super().__init__()
        digest = hashlib.sha256(serialized_engine or b"").digest()
        artifact = _known.get(digest)
        if artifact is None:
            raise NotHereError(
                f"{type(self).__name__}: an engine's bytes alone do not say what trtcore's runtime asks of it (ranges, "
                "conditions, which runtime); of these this process has only the bytes",
                advice="torch_tensorrt.save(compiled, path) and torch_tensorrt.load(path); or keep what "
                "convert_exported_program_to_serialized_trt_engine gave; or TensorRT's own Runtime for the bytes",
            )
        self.name = name or artifact.manifest.name
        manifest = replace(artifact.manifest, runtime=_runtime())
        artifact = artifact.with_manifest(manifest)
        # No buffer: it stays on the CPU wherever the module goes.
        self._file = artifact.container
        self._manifest = manifest.to_json()
        trtcore.runtime.register_engine(artifact)
        inputs = [binding.name for binding in manifest.network_inputs]
        outputs = [binding.name for binding in manifest.outputs]
        self.input_binding_names = list(inputs if input_binding_names is None else input_binding_names)
        self.output_binding_names = list(outputs if output_binding_names is None else output_binding_names)
        if sorted(self.input_binding_names) != sorted(inputs):
            raise _other_names("inputs", self.input_binding_names, inputs)
        if not self.output_binding_names or not {*self.output_binding_names} <= {*outputs}:
            raise _other_names("outputs", self.output_binding_names, outputs)
        self._input_order = [self.input_binding_names.index(one) for one in inputs]
        self._output_order = [outputs.index(one) for one in self.output_binding_names]
        self._dtypes = [binding.dtype for binding in manifest.inputs]

    def setup_engine(self) -> None:
        """Nothing to do: the engine is opened when it is first called."""

    def forward(self, *inputs: Any) -> Any:
        """The engine's results for its inputs: one, or a tuple.

        Raises:
            InputError: not as many inputs as the engine has, or one that does not fit.
        """
        if len(inputs) != len(self._input_order):
            raise errors.InputError(
                f"the engine {self.name} has {len(self._input_order)} inputs, {self.input_binding_names}, and was "
                f"called with {len(inputs)}",
                advice="one positional argument for each",
            )
        ordered = [inputs[index] for index in self._input_order]
        tensors = [
            one if isinstance(one, torch.Tensor) else torch.tensor(one, dtype=dtype)
            for one, dtype in zip(ordered, self._dtypes)
        ]
        sizes = [int(one) for one in ordered[len(tensors) :]]
        results = trtcore.runtime.execute_engine(tensors, sizes, self._file, self._manifest)
        given = tuple(results[index] for index in self._output_order)
        return given[0] if len(given) == 1 else given

    def extra_repr(self) -> str:
        """Its name and its bindings."""
        return f"{self.name}: {self.input_binding_names} -> {self.output_binding_names}"


def _runtime() -> str:
    """The runtime of this machine."""
    from trtcore.testing import usable_backend

    try:
        backend = usable_backend()
    except errors.BackendUnavailableError:
        return "reference"
    return str(trtcore.runtime.choose_runtime(backend, trtcore.CompilationSettings())[0])


def _other_names(kind: str, given: Sequence[str], own: Sequence[str]) -> errors.InputError:
    return errors.InputError(
        f"the engine's {kind} are called {list(own)}, not {list(given)}",
        advice=f"{kind[:-1]}_binding_names={list(own)!r}, in the order that you want, or nothing for this one",
    )
