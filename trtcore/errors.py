"""The exception tree.

Every error says what happened, where in the user's model, whose code was at work, what TensorRT
itself said, and what to do next. The parts are attributes, so that tools can read them; ``str(error)``
is the text for a person.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def shown(value: object, how: Callable[[Any], str] = repr) -> str:
    """``repr`` (or `how`) of somebody else's value or exception, whose own code for it may raise.

    Example:
        >>> class Mute(ValueError):
        ...     def __str__(self): raise RuntimeError
        >>> shown(ValueError("no")), shown(Mute(), str)
        ("ValueError('no')", '<Mute, whose text cannot be made>')
    """
    try:
        text = how(value)
        return text if isinstance(text, str) else str(text)
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException:
        return f"<{type(value).__name__}, whose text cannot be made>"


_MOST_SHOWN = 4000  # characters of a line


def printable(text: str, *, keep: str = "\n\t") -> str:
    """Text for a terminal: what a terminal would obey and nobody would see, as escapes.

    Control characters, marks of writing direction, halves of surrogate pairs and the like may be in what a file or a
    model calls something. Lines that are too long for anybody to read are cut.

    Args:
        keep: characters that are left as they are.

    Example:
        >>> printable("\x1b[2J engine")
        '\\x1b[2J engine'
    """
    if not text.isprintable():
        text = "".join(
            c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text
        )
    if len(text) <= _MOST_SHOWN:
        return text
    return "\n".join(
        line if len(line) <= _MOST_SHOWN else f"{line[:_MOST_SHOWN]}... ({len(line)} characters)"
        for line in text.split("\n")
    )


class TrtcoreError(Exception):
    """Base of all errors that trtcore raises.

    Args:
        message: what happened, one sentence.
        where: place in the user's model (module path, op, file and line), as text.
        pack: whose code was at work, as ``distribution:name version``.
        code: the line of that code, as ``file:line``.
        tensorrt: TensorRT's own log lines, oldest first.
        layers: the layers that a converter had added, as ``ELEMENTWISE -> float32[2, 3]``.
        advice: what to do next.
    """

    def __init__(
        self,
        message: str,
        *,
        where: str | None = None,
        pack: str | None = None,
        tensorrt: Sequence[str] = (),
        advice: str | None = None,
        layers: Sequence[str] = (),
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.pack = pack
        self.code = code
        self.tensorrt = tuple(tensorrt)
        self.layers = tuple(layers)
        self.advice = advice

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors cross processes with all their parts."""
        return _rebuilt, (type(self), self.args, dict(self.__dict__))

    def __str__(self) -> str:
        lines = [self.message]
        if self.where:
            lines.append(f"  in your model: {self.where}")
        if self.pack or self.code:
            lines.append(f"  code of: {', '.join(filter(None, (self.pack, self.code)))}")
        if self.layers:
            lines.append(f"  layers it added: {', '.join(self.layers)}")
        lines.extend(f"  TensorRT: {line}" for line in self.tensorrt)
        if self.advice:
            lines.append(f"  what to do: {self.advice}")
        return printable("\n".join(lines))


def _rebuilt(kind: type[TrtcoreError], args: tuple[Any, ...], parts: dict[str, Any]) -> TrtcoreError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(parts)
    return error


class SettingsError(TrtcoreError, ValueError):
    """A setting is unknown, of the wrong type or value, or contradicts another."""


class InputError(TrtcoreError, ValueError):
    """An input of a compile or of a call does not fit what the model or the engine takes."""


class ExportError(TrtcoreError):
    """torch.export could not capture the model."""


class UnsupportedOperatorError(TrtcoreError):
    """Full compilation was asked for, and some nodes have no converter."""


class ConversionError(TrtcoreError):
    """A converter failed, returned nonsense, or made a layer that TensorRT refuses."""


class EngineBuildError(TrtcoreError):
    """TensorRT refused to build an engine."""


class PackError(TrtcoreError):
    """A pack could not be loaded, does not fit this version, or contributed something invalid."""


class ArtifactError(TrtcoreError):
    """A saved module or engine is truncated, foreign, of another version, or damaged."""


class RefitError(TrtcoreError):
    """New weights could not be put into a built engine."""


class BackendUnavailableError(TrtcoreError):
    """The TensorRT flavour that was asked for is not installed or cannot work here."""
