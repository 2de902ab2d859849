"""What `compress` makes archives of: events of a data set, each an item, and files that are kept whole."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from chainrule.archive import FILE, MAX_BLOCK, Header, Item, flaw
from chainrule.data import BYTES, Dataset
from chainrule.data.images import FORMATS, read_image
from chainrule.errors import ChainruleError
from chainrule.verbs.lanes import coded_type

ORIENTATION = 0x0112  # the EXIF tag


class Source(ABC):
    """Where the items of an archive come from (abstract); what is asked about item i follows `items`."""

    header: Header

    @abstractmethod
    def items(self, classes: int) -> list[Item]:
        """All of them; with the class of each, for a model that is conditioned on so many."""

    @abstractmethod
    def coded(self, i: int) -> np.ndarray:
        """The symbols of item i as the model codes them."""

    @abstractmethod
    def raw(self, i: int, item: Item) -> bytes:
        """The bytes of item i as they stand in a raw block."""

    @abstractmethod
    def plain(self, i: int) -> bytes:
        """What a packer without a model would be given of item i."""

    def ends(self, i: int, item: Item) -> bytes:
        """What stands around the samples of item i."""
        return b""

    def keep_smaller(self, items: list[Item], ideal: Callable[[list[Item]], np.ndarray]) -> list[Item]:
        """The items, those as files whose files are no larger than −log₂ p of them."""
        return items


@dataclass(frozen=True)
class Events(Source):
    """The events of a data set, and files that are kept whole."""

    data: Dataset
    header: Header
    originals: Mapping[str, Path]

    def items(self, classes: int) -> list[Item]:
        """Every event as an item; a picture whose pixels are not the whole truth as a file."""
        items: list[Item] = []
        taken: set[str] = set()
        for i in range(len(self.data)):
            event = np.asarray(self.data.x[i])
            name = self.data.names[i] if len(self.data.names) else str(i)
            if reason := flaw(name, taken):
                raise ChainruleError(f"the name {name!r} cannot be kept: {reason}; rename it")
            context = int(self.data.context[i]) if classes and self.data.context is not None else None
            item = self.item(name, event, context)
            if item.size > MAX_BLOCK:
                raise ChainruleError(
                    f"{name} has {item.size} symbols, at most {MAX_BLOCK} can be kept: cut it"
                )
            whole = name in self.originals and not shows_the_same(self.originals[name], event)
            items.append(self.as_file(item) if whole else item)
        return items

    def item(self, name: str, event: np.ndarray, context: int | None) -> Item:
        """An event as an item; a text in tokens is as many bytes as they spell."""
        alphabet = self.data.alphabet
        if alphabet is BYTES:
            return Item(name, event.shape, context=context)
        return Item(name, (alphabet.size(event),), context=context, tokens=len(event))

    def as_file(self, item: Item) -> Item:
        """The item as its source file."""
        return Item(item.name, (self.size(item),), FILE, item.context)

    def size(self, item: Item) -> int:
        """Bytes of the source file."""
        path = self.originals[item.name]
        try:
            return path.stat().st_size
        except OSError as error:
            raise ChainruleError(f"cannot read {path}: {error.strerror or error}") from error

    def original(self, item: Item) -> bytes:
        """The source file."""
        path = self.originals[item.name]
        try:
            return path.read_bytes()
        except OSError as error:
            raise ChainruleError(f"cannot read {path}: {error.strerror or error}") from error

    def keep_smaller(self, items: list[Item], ideal: Callable[[list[Item]], np.ndarray]) -> list[Item]:
        """Keep a source file whole when it is no larger than its coded pixels will be."""
        if not self.originals:
            return items

        def smaller(item: Item, bits: float) -> bool:
            if item.form == FILE or item.name not in self.originals:
                return False
            return 8 * self.size(item) <= bits

        return [
            self.as_file(item) if smaller(item, bits) else item
            for item, bits in zip(items, ideal(items), strict=True)
        ]

    def raw(self, i: int, item: Item) -> bytes:
        """The source file; or the symbols of event i, one or two bytes each, in C order, of texts bytes."""
        return self.original(item) if item.form == FILE else self.plain(i)

    def plain(self, i: int) -> bytes:
        event = self.coded(i)
        if self.data.alphabet is BYTES:
            return event.tobytes()
        return BYTES.encode(self.data.alphabet.decode(event)).tobytes()

    def coded(self, i: int) -> np.ndarray:
        return as_coded(np.asarray(self.data.x[i]), i, self.header)


def as_coded(event: np.ndarray, i: int, header: Header) -> np.ndarray:
    """The symbols of an event in the type in which they are coded.

    Raises:
        ChainruleError: the model knows no such symbols.
    """
    low, high = (int(event.min()), int(event.max())) if event.size else (0, 0)
    if low < 0 or high >= header.symbols:
        raise ChainruleError(
            f"item {i} has symbols from {low} to {high}, the model knows 0 to {header.symbols - 1}"
        )
    return event.astype(coded_type(header), order="C")


def shows_the_same(path: Path, event: np.ndarray) -> bool:
    """Whether a PNG of the event shows what the file does: upright, without alpha, 8 bits, one frame."""
    from PIL import Image

    try:
        pixels, beyond = read_image(path, path.name)
        with Image.open(path, formats=list(FORMATS)) as image:
            upright = image.getexif().get(ORIENTATION, 1) in (0, 1)
    except Exception:  # whatever such a file makes a parser raise: its bytes are kept
        return False
    return not beyond and upright and pixels.shape[:2] == event.shape[:2] and bool((pixels == event).all())
