"""Standard output and error: what a name may not do to a terminal, and what happens where nobody can be told."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

_CONTROLS = (*range(9), *range(11, 32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_ESCAPED = {code: f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" for code in _CONTROLS}


def shown(text: str) -> str:
    r"""The text without characters that steer a terminal or turn the direction of writing: they are spelt out.

    Example:
        >>> shown("a\x1b[2Jb")
        'a\\x1b[2Jb'
    """
    return text.translate(_ESCAPED)


spelled: Callable[[str], str] = str
"""How a library's sentence, with its parameters in backticks, is written for the verb that runs; the door sets it."""


class Stream:
    """A text stream that spells out control characters, and goes on where nothing can be written any more."""

    def __init__(self, stream: Any, *, escape: bool = True) -> None:
        self._stream, self._escape, self.failed = stream, escape, False
        if escape:
            self.rich_proxied_file = Stream(stream, escape=False)  # where rich writes, by its own convention

    def write(self, text: str) -> int:
        """Write; what is lost for want of room is noted in ``failed``, a reader who left is an error."""
        self._try(self._stream.write, shown(text) if self._escape else text)
        return len(text)

    def flush(self) -> None:
        """As ``write``."""
        self._try(self._stream.flush)

    @property
    def lost(self) -> bool:
        """Whether something could not be written."""
        return self.failed or (self._escape and self.rich_proxied_file.failed)

    def _try(self, act: Any, *arguments: str) -> None:
        if self.failed:
            return
        try:
            act(*arguments)
        except BrokenPipeError:
            self.failed = True
            raise
        except (OSError, ValueError):  # no room, or closed
            self.failed = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def guarded_streams() -> Iterator[None]:
    """Stand ``Stream`` before standard output and error; closed ones lead nowhere.

    A character that the stream's encoding lacks is spelt out, too.
    """
    before, ours = (sys.stdout, sys.stderr), list[Stream]()
    for number in range(3):  # else the next file that is opened becomes standard output
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    with ExitStack() as opened:
        for name, own in zip(("stdout", "stderr"), before, strict=True):
            stream: Any = own or opened.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
            with suppress(AttributeError, ValueError):  # a test's stream has none
                stream.reconfigure(errors="backslashreplace")
            ours.append(Stream(stream))
            setattr(sys, name, ours[-1])
        try:
            yield
        finally:
            for stream in ours:
                if stream.lost:  # else the interpreter complains at its end
                    with suppress(OSError, ValueError, AttributeError):
                        number = stream.fileno()
                        nowhere = os.open(os.devnull, os.O_WRONLY)
                        os.dup2(nowhere, number)
                        os.close(nowhere)
            sys.stdout, sys.stderr = before
