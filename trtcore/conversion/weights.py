"""Weights for TensorRT: storages that outlive the build, shared where the model shares them.

``trt.Weights(dtype, ptr, n)`` is a bare pointer. :class:`WeightStore` makes every one of them, keeps the
storage behind it alive until it is dropped, and remembers which tensor a layer was given, because
TensorRT does not let every dtype be read back (bf16, fp8, int4).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from trtcore.errors import ConversionError

if TYPE_CHECKING:
    from trtcore.backend.base import Backend


class WeightStore:
    """All weights of one network.

    Tied weights (the same storage, dtype, shape and strides) are held once. A tensor that is not
    contiguous, or not on the host, is copied to the host once.

    Attributes:
        ROLES: by LayerType name, the weights attributes that a layer of the type has.
    """

    ROLES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "CONSTANT": ("weights",),
        "CONVOLUTION": ("kernel", "bias"),
        "DECONVOLUTION": ("kernel", "bias"),
        "SCALE": ("shift", "scale", "power"),
    }

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._held: dict[tuple[Any, ...], torch.Tensor] = {}
        self._by_address: dict[int, torch.Tensor] = {}
        self._originals: list[torch.Tensor] = []
        self._copied: dict[int, torch.Tensor] = {}
        self._pending: list[torch.Tensor] = []
        self._of_layer: dict[tuple[int, str], torch.Tensor] = {}

    @staticmethod
    def key(tensor: torch.Tensor) -> tuple[Any, ...]:
        """Equal for tensors that are the same view of the same storage."""
        return (tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())

    def hold(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the contiguous host tensor that stands for `tensor`, kept alive by this store."""
        key = self.key(tensor)
        held = self._held.get(key)
        if held is None:
            held = tensor.detach().to("cpu").contiguous()
            self._held[key] = held
            self._originals.append(tensor)  # a freed storage could be reused under the same key
            if held.untyped_storage().data_ptr() != tensor.untyped_storage().data_ptr():
                self._copied[held.untyped_storage().data_ptr()] = tensor
            if held.numel():
                self._by_address.setdefault(held.data_ptr(), held)
        return held

    def original_of(self, held: torch.Tensor) -> torch.Tensor | None:
        """The tensor that was copied to the host, or made contiguous, on the storage of `held`; None if none was."""
        return self._copied.get(held.untyped_storage().data_ptr())

    def weights(self, tensor: torch.Tensor) -> Any:
        """Return ``trt.Weights`` that point into a storage held here."""
        return self.packed(tensor, tensor.dtype, tensor.numel())

    def packed(self, tensor: torch.Tensor, dtype: torch.dtype, count: int) -> Any:
        """``trt.Weights`` of `count` numbers of `dtype`, in the bytes of `tensor` (of 4 bits: two to each)."""
        held = self.hold(tensor)
        self._pending.append(held)
        trt_dtype = self._backend.trt_dtype(dtype)
        if held.numel() == 0:
            return self._backend.trt.Weights(trt_dtype)
        return self._backend.trt.Weights(trt_dtype, held.data_ptr(), count)

    def record(self, layer_index: int, role: str, tensor: torch.Tensor) -> None:
        """Remember the tensor behind the last `weights` call, where the caller knows the layer that got it."""
        self._of_layer[layer_index, role] = self.hold(tensor)
        self._pending.pop()

    def bind(self, layer_index: int, layer: Any, type_name: str) -> None:
        """Remember which tensors a newly added layer was given.

        Args:
            layer: the layer, already of its own class (``IConstantLayer`` ...).
            type_name: its LayerType name.

        Raises:
            ConversionError: it was given weights that this store did not make and that cannot be read back (those
                that NumPy has, which can, are read from the layer); or more than one of them fits.
        """
        for role in self.ROLES.get(type_name, ()):
            if (layer_index, role) in self._of_layer:
                continue
            given = getattr(layer, role)
            found = self._find(given)
            if found is not None:
                self._of_layer[layer_index, role] = found
            elif isinstance(given, self._backend.trt.Weights) and given.size:
                raise ConversionError(
                    f"the {role} of layer {layer.name!r} are {given.size} x {given.dtype} that were not made with "
                    "ctx.weights(tensor): TensorRT shows no data of that type, so that nobody can read it back",
                    advice="make them with ctx.weights(tensor), or the whole layer with ctx.constant(tensor)",
                )

    def _find(self, given: Any) -> torch.Tensor | None:
        trt = self._backend.trt
        if not isinstance(given, trt.Weights):  # a numpy view at the storage's own address
            if given.size == 0:
                return next((t for t in self._pending if t.numel() == 0), None)
            address = given.__array_interface__["data"][0]
            tensor = self._by_address.get(address)
            if tensor is not None and tensor.numel() == given.size:
                return tensor
            # Another view of one storage can start at the same address.
            return next(
                (t for t in self._pending if t.data_ptr() == address and t.numel() == given.size), None
            )
        if given.size == 0:
            return None
        fitting = [
            t
            for t in self._pending
            if t.numel() == given.size and self._backend.trt_dtype(t.dtype) == given.dtype
        ]
        distinct = {t.data_ptr() for t in fitting}
        if len(distinct) > 1:
            raise ConversionError(
                f"{len(distinct)} weights of {given.size} x {given.dtype} were made in one converter, and TensorRT "
                "does not say which of them a layer got",
                advice="make the layer that uses a bf16/fp8 weight before the next ctx.weights() of the same size",
            )
        if fitting:
            return fitting[0]
        return None

    def settle(self) -> None:
        """End of a layer group: weights made so far have been bound."""
        self._pending.clear()

    def of_layer(self, layer_index: int, role: str) -> torch.Tensor | None:
        """The tensor that layer `layer_index` was given as `role` ("weights", "kernel", "bias", ...)."""
        return self._of_layer.get((layer_index, role))

    @property
    def nbytes(self) -> int:
        """Bytes of all distinct held storages."""
        return sum(
            t.untyped_storage().nbytes()
            for t in {t.untyped_storage().data_ptr(): t for t in self._held.values()}.values()
        )
