"""The container format: blocks, checksums, versions. docs/archive-format.md is its specification.

It knows no model and no entropy coder: a block is bytes with a checksum, an item a name with a shape.
Whatever is read is taken for hostile: every length is checked against the file's before memory is taken.
"""

from chainrule.archive.format import (
    DTYPES,
    END,
    FILE,
    FOOTER,
    LZMA,
    MAGIC,
    MAX_BLOCK,
    MODEL,
    PREFIX,
    SOUND,
    STORED,
    SYMBOLS,
    TOKENS,
    VERSION,
    Block,
    Header,
    Item,
    Part,
    Progress,
    digest,
    expand,
    filters,
    packed,
    squeeze,
    unpacked,
)
from chainrule.archive.names import flaw
from chainrule.archive.reading import Archive, inspect, verify
from chainrule.archive.writing import Writer, atomic, check_free

__all__ = [
    "DTYPES",
    "END",
    "FILE",
    "FOOTER",
    "LZMA",
    "MAGIC",
    "MAX_BLOCK",
    "MODEL",
    "PREFIX",
    "SOUND",
    "STORED",
    "SYMBOLS",
    "TOKENS",
    "VERSION",
    "Archive",
    "Block",
    "Header",
    "Item",
    "Part",
    "Progress",
    "Writer",
    "atomic",
    "check_free",
    "digest",
    "expand",
    "filters",
    "flaw",
    "inspect",
    "packed",
    "squeeze",
    "unpacked",
    "verify",
]
