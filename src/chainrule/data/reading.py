"""Reading files that somebody else wrote: only regular files are opened, and every failure is one line."""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chainrule.errors import ChainruleError


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Whatever a parser raises inside becomes one `ChainruleError` about `name`; its warnings are silent."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ChainruleError:
        raise
    except Exception as error:  # a parser given hostile bytes may raise anything
        raise ChainruleError(f"{name} cannot be read: {reason(error)}") from error


def reason(error: Exception) -> str:
    """What went wrong, in one short printable line.

    >>> reason(ValueError("first line" + chr(10) + "second line"))
    'first line'
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    lines = str(error).splitlines() or [""]
    return shown(lines[0].partition(" <_io")[0]) or type(error).__name__


def printable(text: str) -> str:
    """`text` with whatever cannot stand in one line of UTF-8 written as an escape."""
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def shown(text: str) -> str:
    """`text` short enough for a message."""
    text = printable(text)
    return text if len(text) <= 160 else f"{text[:160]}…"


def file_size(path: Path, name: str) -> int:
    """The size in bytes of a regular, readable file; a pipe or a device is never opened."""
    with reading(name):
        found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ChainruleError(f"{name} is not a regular file: a pipe, a socket or a device is never opened")
    if not os.access(path, os.R_OK):
        raise ChainruleError(f"{name} cannot be read: permission denied")
    return found.st_size
