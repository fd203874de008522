"""Names that are here to say what to use instead.

Importing one works, so that a file which imports ten names and uses nine loads; using it raises `NotHereError`, whose
text has the reason and what to write. Which names these are is data: `trtcore_contrib_torch_tensorrt.names`.
"""

from __future__ import annotations

from typing import Any, NoReturn

from trtcore import TrtcoreError

__all__ = ["NotHereError", "Told", "told"]


class NotHereError(TrtcoreError, NotImplementedError):
    """A name of Torch-TensorRT's that means nothing here, or that trtcore has another way for."""


class Told:
    """Stands for a function, class or value that is not here: whatever is done with it raises `NotHereError`."""

    def __init__(self, name: str, why: str, instead: str) -> None:
        self.__dict__.update(
            __name__=name.rpartition(".")[2], __qualname__=name, __doc__=f"Not here: {why}. {instead}"
        )
        self.__dict__["_parts"] = (name, why, instead)

    def _tell(self) -> NoReturn:
        name, why, instead = self.__dict__["_parts"]
        raise NotHereError(f"torch_tensorrt.{name} is not here: {why}", advice=instead)

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        self._tell()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what copies, pickles and inspection tools look for
            raise AttributeError(name)
        self._tell()

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        self._tell()

    def __getitem__(self, key: Any) -> NoReturn:
        self._tell()

    def __iter__(self) -> NoReturn:
        self._tell()

    def __enter__(self) -> NoReturn:
        self._tell()

    def __exit__(self, *exception: object) -> None:
        """For ``with``, which looks it up before it enters."""

    def __mro_entries__(self, bases: tuple[Any, ...]) -> NoReturn:
        self._tell()

    def __instancecheck__(self, value: object) -> bool:
        return False  # nothing is an instance of what is not here

    def __repr__(self) -> str:
        return f"<torch_tensorrt.{self.__dict__['_parts'][0]}, which is not here>"


def told(module: str, name: str) -> Told:
    """What stands for ``torch_tensorrt.<module>.<name>``.

    Args:
        module: the module's path without "torch_tensorrt."; "" for the package itself.

    Raises:
        AttributeError: no such name is known, here or there; with the nearest ones.
    """
    from trtcore_contrib_torch_tensorrt.names import BY_NAME, TOLD, near

    full = f"{module}.{name}" if module else name
    row = BY_NAME.get(full)
    if row is None or row.status != TOLD:
        shown = f"trtcore_contrib_torch_tensorrt{'.' if module else ''}{module}"
        raise AttributeError(f"module {shown!r} has no attribute {name!r}{near(full)}", name=name)
    return Told(full, row.why, row.new)
