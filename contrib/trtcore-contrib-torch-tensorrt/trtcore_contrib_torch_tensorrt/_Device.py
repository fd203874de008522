"""What engines are built for, by its old name."""

from __future__ import annotations

import re
import warnings
from typing import Any

import torch

from trtcore import errors
from trtcore_contrib_torch_tensorrt._enums import DeviceType

__all__ = ["Device"]


class Device:
    """A GPU or a DLA core: ``Device("cuda:0")``, ``Device(gpu_id=0)``, ``Device("dla:0", gpu_id=0)``.

    Raises:
        InputError: a text that names no such device, or an argument that there is not.
    """

    def __init__(
        self,
        *args: Any,
        gpu_id: int | None = None,
        dla_core: int | None = None,
        device_type: Any = None,
        allow_gpu_fallback: bool = False,
    ) -> None:
        if len(args) > 1:
            raise errors.InputError(f"Device takes one text or device, not {len(args)} arguments: {args!r}")
        self.device_type = DeviceType.GPU if device_type is None else DeviceType._from(device_type)
        self.gpu_id, self.dla_core = -1 if gpu_id is None else int(gpu_id), -1
        if args:
            self._read(args[0])
        if dla_core is not None:
            self.device_type, self.dla_core = DeviceType.DLA, int(dla_core)
        self.allow_gpu_fallback = bool(allow_gpu_fallback)
        if self.gpu_id < 0:
            self.gpu_id = 0

    def _read(self, value: Any) -> None:
        if isinstance(value, torch.device):
            value = str(value)
        if isinstance(value, Device):
            self.__dict__.update(vars(value))
            return
        found = re.fullmatch(r"(cuda|gpu|dla)(?::(\d+))?", value) if isinstance(value, str) else None
        if found is None:
            raise errors.InputError(
                f"{value!r} is no device of TensorRT's",
                advice='write Device("cuda:0"), or Device("dla:0", gpu_id=0)',
            )
        number = int(found[2] or 0)
        if found[1] == "dla":
            self.device_type, self.dla_core = DeviceType.DLA, number
        else:
            self.gpu_id = number

    @classmethod
    def _from(cls, d: Any) -> Device:
        """A Device from a Device, a ``torch.device`` or a text; None is the current one."""
        return d if isinstance(d, Device) else cls() if d is None else cls(d)

    @classmethod
    def _current_device(cls) -> Device:
        """The current GPU; the first one where torch has none."""
        return cls(gpu_id=torch.cuda.current_device() if torch.cuda.is_available() else 0)

    def to(self, t: Any) -> torch.device:
        """As a ``torch.device``.

        Raises:
            TypeError: `t` is not ``torch.device``.
        """
        if t is not torch.device:
            raise TypeError(f"a Device becomes a torch.device, not {t!r}")
        return torch.device("cuda", self.gpu_id)

    def as_setting(self) -> Any:
        """What trtcore's setting ``device`` takes; None, with a warning, where there is no GPU."""
        if self.device_type is DeviceType.DLA:
            raise errors.SettingsError(
                f"{self}: trtcore's setting device takes GPUs",
                advice='leave device out, and give engine_capability="dla_standalone" on a backend that has DLAs',
            )
        if not torch.cuda.is_available():
            warnings.warn(
                f"{self}: torch sees no GPU here, so engines are built for the backend's portable default and run by "
                'the reference runtime; device="sm_89" names a compute capability to build for',
                stacklevel=4,
            )
            return None
        return torch.device("cuda", self.gpu_id)

    def __repr__(self) -> str:
        core = f", dla_core={self.dla_core}" if self.device_type is DeviceType.DLA else ""
        return f"Device(type={self.device_type}, gpu_id={self.gpu_id}{core})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((self.device_type, self.gpu_id, self.dla_core, self.allow_gpu_fallback))
