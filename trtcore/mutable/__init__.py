"""`MutableModule`: a model whose calls run in engines, and that may be changed like any module at any time."""

from __future__ import annotations

import os
import threading
import types
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from trtcore.errors import InputError
from trtcore.ir.torch_private import is_traced_by_jit
from trtcore.mutable.calls import Calls
from trtcore.settings import CompilationSettings

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from trtcore.settings.kwargs import SettingsDict

__all__ = ["MutableModule"]


class MutableModule(nn.Module):
    """A model that computes in engines and stays the module that it is.

    It *is* the model under another class: one set of parameters, buffers, submodules and attributes, all methods of the
    model, ``isinstance`` of its class. Whatever is done to it or to the model (``load_state_dict``, in-place changes,
    new parameters or submodules, attributes, hooks, adapters, ``to``, ``eval``) is seen by the next call:

    - other values of parameters and buffers go into the engines that are there (`trtcore.dynamo.refit_module_weights`),
      and an engine that cannot take them is built;
    - anything else captures the model again. Engines whose networks did not change are taken over, others are built.
      The captures of the latest states and input shapes are kept, so that switching back costs nothing.

    In training mode calls run in torch, because engines have no gradients, and so do calls under ``torch.autocast``.

    Args:
        model: the model.
        arg_inputs, kwarg_inputs: `Input`s with ranges, for calls whose sizes vary. A call that they do not take is
            compiled for its own sizes, as every call is without them.
        **settings: fields of `CompilationSettings`. ``immutable_weights`` is False by itself where the backend can.

    Not seen: what the model's code reads outside of the model, such as globals; and writes to single elements through
    ``.data`` or NumPy, as under `torch.compile` (see the user guide).

    Raises:
        InputError: `model` is not an `nn.Module`, or a ScriptModule.
        SettingsError: as `trtcore.compile`, at once. Its other errors come from calls.

    Example:
        >>> fast = trtcore.MutableModule(model)  # doctest: +SKIP
        >>> fast(x); fast.load_state_dict(other); fast(x)  # doctest: +SKIP
    """

    __slots__ = ("_calls",)
    _calls: Calls

    def __new__(cls, model: Any = None, *args: Any, **kwargs: Any) -> MutableModule:
        if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
            raise InputError(
                f"MutableModule takes an nn.Module, not {type(model).__name__}",
                advice="give the nn.Module itself: a ScriptModule or an ExportedProgram cannot be changed",
            )
        if isinstance(model, MutableModule):
            model = model._calls.model
        made: MutableModule = object.__new__(_kind_of(type(model)))
        object.__setattr__(made, "__dict__", model.__dict__)
        return made

    def __init__(
        self,
        model: nn.Module,
        *,
        arg_inputs: Sequence[Any] | None = None,
        kwarg_inputs: Mapping[str, Any] | None = None,
        **settings: Unpack[SettingsDict],
    ) -> None:
        chosen = CompilationSettings.from_kwargs(**settings)
        model = model._calls.model if isinstance(model, MutableModule) else model
        object.__setattr__(self, "_calls", Calls(model, chosen, arg_inputs, kwarg_inputs))

    def set_expected_dynamic_shape_range(
        self, args_dynamic_shape: Sequence[Any] | None, kwargs_dynamic_shape: Mapping[str, Any] | None = None
    ) -> None:
        """The `Input`s with ranges that calls are to be compiled for, as `arg_inputs` and `kwarg_inputs`."""
        self._calls.expect(args_dynamic_shape, kwargs_dynamic_shape)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save weights and engines to a file; call it as ``MutableModule.save(module, path)`` where the model has a
        method of this name.

        Raises:
            ArtifactError: the file cannot be written, or the state holds what no file can.
        """
        from trtcore.mutable.files import save

        save(self._calls, path)

    @staticmethod
    def load(
        path: str | os.PathLike[str],
        model: nn.Module,
        *,
        arg_inputs: Sequence[Any] | None = None,
        kwarg_inputs: Mapping[str, Any] | None = None,
        **settings: Unpack[SettingsDict],
    ) -> MutableModule:
        """What `save` wrote, on a model of the same code, which gets the saved weights.

        The model is captured at the first call, and the saved engines are taken where they are those of the capture:
        nothing has to be built, and a model that is another one gets engines of its own.

        Args:
            path: the file.
            model: whose code runs; its ``state_dict`` is replaced.
            **settings: change those that were saved.

        Raises:
            ArtifactError: the file is damaged or foreign, or its weights are not those of such a model.
        """
        from trtcore.mutable.files import load

        chosen, engines = load(path, model, settings)
        made = MutableModule(model, arg_inputs=arg_inputs, kwarg_inputs=kwarg_inputs)
        made._calls.settings, made._calls.spare = chosen, engines
        return made

    def __getattr__(self, name: str) -> Any:
        if name == "report":  # unless the model has an attribute of this name
            return self._calls.report
        return super().__getattr__(name)


_kinds: dict[type, type] = {}
_lock = threading.Lock()


def _kind_of(model: type[nn.Module]) -> Any:
    """The class of mutable modules of a class of models."""
    with _lock:
        if model not in _kinds:
            members = {
                "__slots__": (),
                "__module__": model.__module__,
                "__init__": MutableModule.__init__,
                "__call__": _call,
                "forward": _call,
                "__reduce_ex__": _reduce,
                "__doc__": model.__doc__,
            }
            name = f"Mutable{model.__name__}"
            _kinds[model] = types.new_class(
                name, (model, MutableModule), exec_body=lambda kind: kind.update(members)
            )
        return _kinds[model]


def _call(self: MutableModule, *args: Any, **kwargs: Any) -> Any:
    calls = self._calls
    if torch.compiler.is_compiling() or is_traced_by_jit():
        return calls.model(*args, **kwargs)
    why = _in_torch(self)
    if why is None:
        return calls(args, kwargs)
    if why not in calls.told:
        calls.told.add(why)
        warnings.warn(f"a MutableModule {why}", UserWarning, stacklevel=2)
    return calls.model(*args, **kwargs)


def _in_torch(module: nn.Module) -> str | None:
    """Why a call runs in torch; None where it runs in engines."""
    if module.training:
        return "in training mode runs in torch, because engines have no gradients; eval() puts it back into engines"
    if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        return (
            "under torch.autocast runs in torch; for engines in lower precision use the setting enable_autocast, or "
            "model.half()"
        )
    return None


def _reduce(self: MutableModule, protocol: Any) -> Any:
    """Pickles and copies hold the model and the settings; engines are built again."""
    calls = self._calls
    return _rebuilt, (calls.model, calls.settings, calls.arg_inputs, calls.kwarg_inputs)


def _rebuilt(
    model: nn.Module, settings: CompilationSettings, arg_inputs: Any, kwarg_inputs: Any
) -> MutableModule:
    made = MutableModule(model, arg_inputs=arg_inputs, kwarg_inputs=kwarg_inputs)
    made._calls.settings = settings
    return made
