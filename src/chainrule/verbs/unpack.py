"""Archives back to events and to files: the counterpart of `chainrule.verbs.compress`."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

import numpy as np
import torch

from chainrule import archive as container
from chainrule.archive import FILE, MODEL, Archive, Header, Item, Progress, atomic, check_free, digest
from chainrule.data import BYTES, Alphabet
from chainrule.data.alphabets import Tokens, from_table
from chainrule.engine.strict import in_threads
from chainrule.errors import ChainruleError
from chainrule.model import Chain
from chainrule.verbs.coders import Coder, coder_for
from chainrule.verbs.lanes import Lanes, Meter, coded_type
from chainrule.verbs.sounds import joined, taken_apart, write_piece

LoadCoder = Callable[[Archive], Coder]


def decompress(
    path: str | Path,
    chain: Chain | None = None,
    *,
    alphabet: Alphabet = BYTES,
    only: Collection[str] | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[str, np.ndarray, int | None]]:
    """Yield (name, symbols, class or None) of every item; a file that was kept whole is its bytes (n,) uint8.

    Args:
        chain: the model, for an archive that does not hold it.
        alphabet: that of the model's run, for the same.
        only: names of the items wanted; blocks without any of them are not touched.
        threads: blocks decoded at a time, PyTorch's number by default.

    Raises:
        ChainruleError: the archive is damaged, needs another machine, or the model is another one.
    """
    with Archive(path) as archive:
        load = partial(coder_for, chain=chain)
        for name, found in groupby(decoded(archive, load, alphabet, only, threads, progress), name_of):
            pieces = list(found)
            items = [piece.item for piece in pieces]
            yield name, joined(items, [piece.symbols for piece in pieces]), items[0].context


class Found(NamedTuple):
    """An item as it comes out of its block: its symbols, and what stands around them."""

    item: Item
    symbols: np.ndarray
    head: bytes = b""
    tail: bytes = b""


def name_of(found: Found) -> str:
    """Its item's."""
    return found.item.name


def decoded(
    archive: Archive,
    load: LoadCoder,
    alphabet: Alphabet,
    only: Collection[str] | None,
    threads: int | None,
    progress: Progress | None,
    what: str = "decompress",
) -> Iterator[Found]:
    """Yield the wanted items of an open archive, of long recordings one piece after another."""
    names = {item.name for item in archive.items}
    wanted = names if only is None else set(only)
    if missing := sorted(wanted - names):
        raise ChainruleError(
            f"{archive.path} has no item {missing[0]!r}: chainrule inspect lists those it has"
        )
    todo = [n for n, block in enumerate(archive.blocks) if any(item.name in wanted for item in block.items)]
    meter = Meter(progress, what, sum(item.steps for n in todo for item in archive.blocks[n].items))
    coded = any(archive.blocks[n].coding == MODEL for n in todo)
    coder, spelling = (load(archive), spelling_of(archive, alphabet)) if coded else (None, BYTES)
    threads = 1 if coder is None or not coder.parallel else threads or torch.get_num_threads()
    payloads = ((n, archive.payload(n)) for n in todo)  # read by one thread: the file has one position
    for block in in_threads(partial(unpack, archive, coder, spelling, meter), payloads, threads):
        yield from (found for found in block if found.item.name in wanted)


def spelling_of(archive: Archive, alphabet: Alphabet) -> Alphabet:
    """What the symbols spell that the model codes: by the table in the archive, else by the `alphabet` given.

    Raises:
        ChainruleError: the archive needs a table that it does not hold, and was not given it.
    """
    path, wanted = archive.path, archive.header.tokens_sha256
    if not wanted:
        return BYTES
    table = archive.table()
    if table is None:
        if not isinstance(alphabet, Tokens) or hashlib.sha256(alphabet.table()).hexdigest() != wanted:
            raise ChainruleError(f"{path} needs the tokens {wanted[:16]}...: give the run it was made with")
        table = alphabet.table()
    found = from_table(table, str(path))
    if found.symbols != archive.header.symbols:
        raise ChainruleError(
            f"{path} has {archive.header.symbols} symbols, its table of tokens {found.symbols}"
        )
    return found


def unpack(
    archive: Archive, coder: Coder | None, spelling: Alphabet, meter: Meter, numbered: tuple[int, bytes]
) -> list[Found]:
    """The items of a block."""
    number, payload = numbered
    block = archive.blocks[number]
    if block.coding == MODEL and coder is not None:
        return decode_block(archive, number, payload, coder, spelling, meter)
    meter.add(sum(item.steps for item in block.items))
    return [
        found_in(item, raw, archive.header)
        for item, raw in zip(block.items, archive.raw(number, payload), strict=True)
    ]


def decode_block(
    archive: Archive, number: int, payload: bytes, coder: Coder, spelling: Alphabet, meter: Meter
) -> list[Found]:
    """The items of a block that the model coded, compared with their hash."""
    block = archive.blocks[number]
    where = f"block {number + 1} of {len(archive.blocks)} of {archive.path}"
    shape = block.items[0].coded
    if coder.event is not None and shape != tuple(coder.event):
        raise ChainruleError(f"{where} has items of shape {shape}, the model takes {tuple(coder.event)}")
    dtype = coded_type(archive.header)
    around, stream = archive.ends(number, payload)
    try:
        lanes = Lanes(block.items, archive.header)
        symbols = coder.decode(lanes, stream, meter.add) if lanes.steps else np.zeros((len(lanes.owner), 0))
        arrays = lanes.scatter(symbols, dtype)
        if spelling is not BYTES:
            arrays = [spelled(array, spelling, item) for array, item in zip(arrays, block.items, strict=True)]
    except Exception as error:  # what a model does with shapes that are not its own is not for us to list
        reason = " ".join(str(error).split())[:160]
        raise ChainruleError(f"{where} cannot be decoded with this model: {reason}") from error
    found = [Found(*four) for four in zip(block.items, arrays, around[::2], around[1::2], strict=True)]
    if (
        digest(archive.header, block.items, [f.head + f.symbols.tobytes() + f.tail for f in found])
        != block.sha256
    ):
        raise ChainruleError(f"{where} decodes to something else than was written: the model is another one")
    return found


def spelled(symbols: np.ndarray, alphabet: Alphabet, item: Item) -> np.ndarray:
    """The bytes (n,) of a text in tokens, when they are as many as the item has."""
    if (size := alphabet.size(symbols)) != item.size:
        raise ChainruleError(f"{size} bytes are spelled where {item.size} should be")
    return BYTES.encode(alphabet.decode(symbols))


def found_in(item: Item, raw: bytes, header: Header) -> Found:
    """An item from its bytes in a raw block."""
    head, symbols, tail = taken_apart(raw, item, header)
    return Found(item, symbols, head, tail)


def verify(
    path: str | Path,
    chain: Chain | None = None,
    *,
    alphabet: Alphabet = BYTES,
    deep: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> int:
    """Check every checksum of an archive; with `deep` decode it all against its hashes. Gives its blocks.

    Raises:
        ChainruleError: the first thing that is wrong.
    """
    blocks = container.verify(path, progress)
    for _ in decompress(path, chain, alphabet=alphabet, threads=threads, progress=progress) if deep else ():
        pass
    return blocks


# ------------------------------------------------------------------------------------------------- as files


def extract(
    path: str | Path,
    out_dir: str | Path,
    chain: Chain | None = None,
    *,
    alphabet: Alphabet = BYTES,
    force: bool = False,
    only: Collection[str] | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Write the items of an archive as files below `out_dir`; give their paths.

    Texts, and files that were kept whole, come back byte for byte under their names; pictures as a PNG of the
    same pixels and the same stem; WAVE files byte for byte, other sounds as WAVE files of the same samples; other
    events as .npy; an array as one .npy, named after the archive.

    Raises:
        ChainruleError: as `decompress`, or a file exists and not `force`; then nothing is written.
    """
    root, load = Path(out_dir), partial(coder_for, chain=chain)
    with Archive(path) as archive:
        if archive.header.layout == "array":
            target = inside(root, f"{Path(path).stem}.npy")
            with atomic(target, force) as file:
                write_array(file, archive, decoded(archive, load, alphabet, only, threads, progress), only)
            return [target]
        names = outputs([item for item in archive.items if item.first], archive.header)
        targets = {name: inside(root, names[name]) for name in names if only is None or name in only}
        for target in targets.values():
            check_free(target, force)
        for name, pieces in groupby(decoded(archive, load, alphabet, only, threads, progress), name_of):
            with atomic(targets[name], force) as file:
                for found in pieces:
                    write_item(file, found, archive.header)
        return list(targets.values())


def inside(root: Path, name: str) -> Path:
    """The path below `root`, with its folders; a link that leads elsewhere is refused."""
    target = root / name
    try:
        if not target.parent.resolve().is_relative_to(root.resolve()):
            raise ChainruleError(f"{target.parent} leads out of {root}: remove that link first")
        target.parent.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ChainruleError(f"cannot make the folder {target.parent}: {reason}") from error
    return target


def outputs(items: Sequence[Item], header: Header) -> dict[str, str]:
    """The name of the file that each item becomes.

    Those whose name stays come first. A picture takes its stem and ".png"; when that is taken (by another
    case of the same letters, too), its whole name and ".png", then "-2", "-3" before the ending.

    Example:
        >>> from types import SimpleNamespace
        >>> pictures = SimpleNamespace(kind="image", symbols=256)
        >>> outputs([Item(name, (2, 2, 3)) for name in ("a.jpg", "a.png", "b.gif")], pictures)
        {'a.jpg': 'a.jpg.png', 'a.png': 'a.png', 'b.gif': 'b.png'}
    """
    same = [item.name for item in items if suffix(item, header) in ("", PurePosixPath(item.name).suffix)]
    taken = {fold(str(part)) for item in items for part in PurePosixPath(item.name).parents}
    taken |= {fold(name) for name in same}
    chosen = {name: name for name in same}
    for item in items:
        if item.name not in chosen:
            end = suffix(item, header)
            stem = str(PurePosixPath(item.name).with_suffix(""))
            tries = [
                stem + end,
                item.name + end,
                *(f"{item.name}-{n}{end}" for n in range(2, len(items) + 3)),
            ]
            chosen[item.name] = next(name for name in tries if fold(name) not in taken)
            taken.add(fold(chosen[item.name]))
    return {item.name: chosen[item.name] for item in items}


def fold(name: str) -> str:
    """Equal for names that some file system takes for the same."""
    return unicodedata.normalize("NFC", name).casefold()


def suffix(item: Item, header: Header) -> str:
    """The ending of the file that an item becomes; "" when it keeps its name."""
    if item.form == FILE or (header.kind == "text" and len(item.shape) == 1 and header.width == 1):
        return ""
    if item.part is not None:
        return "" if item.part.channels else ".wav"
    flat = len(item.shape) == 3 and item.shape[2] in (1, 3) and item.size > 0
    return ".png" if header.kind == "image" and flat and header.symbols <= 256 else ".npy"


def write_item(file: BinaryIO, found: Found, header: Header) -> None:
    """One item as a file, or the next piece of one."""
    if found.item.part is not None and found.item.form != FILE:
        write_piece(file, *found[:4], header)
    else:
        WRITERS[suffix(found.item, header)](file, found.symbols)


def write_bytes(file: BinaryIO, array: np.ndarray) -> None:
    file.write(array.tobytes())


def write_png(file: BinaryIO, pixels: np.ndarray) -> None:
    """(H, W, 1 or 3) as a picture; gray when R = G = B everywhere, as it is when pictures are loaded."""
    from PIL import Image

    gray = (pixels == pixels[..., :1]).all()
    Image.fromarray(np.ascontiguousarray(pixels[..., 0] if gray else pixels)).save(file, "PNG")


def write_npy(file: BinaryIO, array: np.ndarray) -> None:
    np.save(file, array, allow_pickle=False)


WRITERS = {"": write_bytes, ".png": write_png, ".npy": write_npy}


def write_array(file: BinaryIO, archive: Archive, found, only: Collection[str] | None) -> None:
    """All items as one .npy (N, *event), block by block, in the type that the array had."""
    items = [item for item in archive.items if only is None or item.name in only]
    if len({item.shape for item in items}) > 1 or any(item.form == FILE for item in items):
        raise ChainruleError(f"{archive.path} is damaged: its items do not make one array")
    dtype = np.dtype(archive.header.dtype)
    shape = (len(items), *(items[0].shape if items else ()))
    np.lib.format.write_array_header_1_0(
        file, {"descr": archive.header.dtype, "fortran_order": False, "shape": shape}
    )
    for one in found:
        file.write(one.symbols.astype(dtype).tobytes())
