"""Calls of functions in another process, over a pipe: plain values go there and come back.

What is none of these arrives as something that equals nothing: what a process returns cannot pass for what it is not.
On the standard library: `code_process.py` says why.
"""

from __future__ import annotations

import builtins
import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

_LONGEST = 2**22  # of a message, in bytes
_MOST = 10_000  # values of an iterator


class Gone(BaseException):
    """The other process has ended, or no longer says what can be read."""


class Opaque:
    """Stands for a value that is none of the plain ones: it equals nothing, and is true where the value is."""

    def __init__(self, truth: bool) -> None:
        self.truth = truth

    def __bool__(self) -> bool:
        return self.truth


class Peer:
    """One end of the pipe: calls functions of the other process, and has its own called."""

    def __init__(self, reader: BinaryIO, writer: BinaryIO, *, plain_only: bool = False) -> None:
        self._reader, self._writer, self._plain_only = reader, writer, plain_only
        self._own: list[Callable[..., Any]] = []
        self.gone = False

    def send(self, message: dict[str, Any]) -> None:
        """Writes a message, a line of JSON."""
        try:
            self._writer.write(json.dumps(message).encode() + b"\n")
            self._writer.flush()
        except OSError:
            self.gone = True
            raise Gone("it ended") from None

    def reply(self) -> Any:
        """The value that comes back; calls that come before it are answered.

        Raises:
            Gone: If none comes.
            Exception: What the other process raised, if that is a built-in one.
        """
        while "call" in (message := self._receive()):
            self.send(self.answer(self._called, message))
        if "error" in message:
            raise _exception(*message["error"])
        return self._unpacked(message["value"])

    def answer(self, work: Callable[[Any], Any], given: Any) -> dict[str, Any]:
        """What some work returns or raises, as a message."""
        try:
            return {"value": self.packed(work(given))}
        except Gone:
            raise
        except BaseException as error:  # SystemExit too
            return {"error": [[cls.__name__ for cls in type(error).__mro__], words_of(error)]}

    def _called(self, message: dict[str, Any]) -> tuple[Any, list[Any], dict[str, Any]]:
        """What an own function returns, and its arguments, which it may have changed."""
        args, kwargs = self._unpacked(message["given"])
        return self._own[message["call"]](*args, **kwargs), args, kwargs

    def packed(self, value: Any) -> Any:
        """A value as JSON: plain ones by value, functions by number, iterators by what they give."""
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        for name, cls in _SEQUENCES.items():
            if isinstance(value, cls):
                return {name: [self.packed(one) for one in value]}
        if isinstance(value, dict):
            return {"dict": [[self.packed(key), self.packed(one)] for key, one in value.items()]}
        if isinstance(value, (bytes, bytearray)):
            return {"bytes": list(value)}
        if isinstance(value, complex):
            return {"complex": [value.real, value.imag]}
        if isinstance(value, range):
            return {"range": [value.start, value.stop, value.step]}
        if isinstance(value, _VIEWS):
            return self.packed(list(value))
        if hasattr(value, "__next__"):
            return {"iterator": [self.packed(one) for one in itertools.islice(value, _MOST)]}
        if callable(value):
            self._own.append(value)
            return {"function": len(self._own) - 1, "name": str(getattr(value, "__name__", "function"))}
        if self._plain_only:
            raise TypeError(f"a {type(value).__name__} cannot be passed to code that is judged, only plain values can")
        return {"opaque": bool(value)}

    def _unpacked(self, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        ((name, held), *more) = value.items()
        if name in _SEQUENCES:
            return _SEQUENCES[name](self._unpacked(one) for one in held)
        if name == "iterator":
            return iter([self._unpacked(one) for one in held])
        if name == "dict":
            return {self._unpacked(key): self._unpacked(one) for key, one in held}
        if name == "function":
            return self._stub(held, more[0][1])
        return {"bytes": bytes, "opaque": Opaque}[name](held) if name not in _SPREAD else _SPREAD[name](*held)

    def _stub(self, number: int, name: str) -> Callable[..., Any]:
        """A function that is called in the other process."""

        def call(*args: Any, **kwargs: Any) -> Any:
            self.send({"call": number, "given": self.packed([list(args), kwargs])})
            value, own_args, own_kwargs = self.reply()
            for mine, theirs in zip([*args, *kwargs.values()], [*own_args, *own_kwargs.values()]):
                _update(mine, theirs)
            return value

        call.__name__ = call.__qualname__ = name
        return call

    def _receive(self) -> dict[str, Any]:
        try:
            line = self._reader.readline(_LONGEST)
            message = json.loads(line) if line.endswith(b"\n") else None
        except (OSError, ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            self.gone = True
            raise Gone("it ended")
        return message


_SEQUENCES: Mapping[str, Any] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
_SPREAD: Mapping[str, Any] = {"range": range, "complex": complex}
_VIEWS: tuple[Any, ...] = (type({}.keys()), type({}.values()), type({}.items()))


def _update(mine: Any, theirs: Any) -> None:
    """Makes a list, set or dict what the function that it was given to has made of it."""
    if isinstance(mine, list) and isinstance(theirs, list):
        mine[:] = theirs
    elif isinstance(mine, (set, dict)) and type(mine) is type(theirs):
        mine.clear()
        mine.update(theirs)


def _exception(names: list[str], said: str) -> BaseException:
    """The nearest built-in exception to one of the other process."""
    for name in names:
        cls = getattr(builtins, name, None)
        if isinstance(cls, type) and issubclass(cls, Exception):
            return cls(said) if cls not in (UnicodeDecodeError, UnicodeEncodeError) else ValueError(said)
    return RuntimeError(f"{names[0]}: {said}")


def words_of(error: BaseException) -> str:
    """The words of an exception, "" if it has none that can be had."""
    try:
        return str(error)[:200]
    except Exception:  # the answer's own class
        return ""
