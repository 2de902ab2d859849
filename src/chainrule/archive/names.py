"""Names that items may have: none leads out of the folder it is unpacked into, each means the same everywhere."""

from __future__ import annotations

import re

RESERVED = {"con", "prn", "aux", "nul"} | {f"{port}{i}" for port in ("com", "lpt") for i in "123456789¹²³"}


def flaw(name: str, taken: set[str]) -> str:
    """Why an item cannot have this name beside those `taken`; nothing when it can, and then it is taken.

    A name must not lead out of the folder it is unpacked into, and must mean the same on every system.

    Example:
        >>> flaw("holiday/été 1.png", set())
        ''
        >>> flaw("../secret", set())
        "a part of it is '..'"
    """
    if name in taken:
        return "it stands twice"
    if not name or len(name) > 4096:
        return f"it has {len(name)} characters"
    if any(ord(c) < 32 or ord(c) == 127 or "\ud800" <= c <= "\udfff" for c in name):
        return "it has characters that cannot be written"
    if "\\" in name or name.startswith("/") or re.match("[A-Za-z]:", name):
        return "it has a backslash, a drive letter, or begins with a slash"
    taken.add(name)
    return next(filter(None, map(flaw_of_part, name.split("/"))), "")


def flaw_of_part(part: str) -> str:
    """What is wrong with one part of a path, or nothing."""
    if part in ("", ".", ".."):
        return f"a part of it is {part!r}"
    if len(part.encode()) > 255 or part[-1] in ". ":
        return "a part of it is too long, or ends with a dot or a space"
    if part.split(".")[0].rstrip().casefold() in RESERVED:
        return f"{part!r} is a device on Windows"
    return ""
