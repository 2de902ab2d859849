"""Paths -> `Dataset`: an array, or files of one kind, images, sounds or texts: one, or those of a folder.

A folder is read with its sub-folders. When more files in it have the ending of a sound than of an image it is a folder
of sounds; else, when any has the ending of an image, of images; else of texts. So a picture of the cover does not make
images of an album. Images among sounds, and sounds among images, are listed in `Dataset.skipped`; other files beside
sounds or images are left alone. Names are relative to the folder, with "/", in sorted order. Hidden files are left out,
links to folders are not followed. A file that cannot be read is skipped, and listed in `Dataset.skipped`; given by
itself it is an error. Sounds have one rate: that of all files, or the one asked for.
"""

from __future__ import annotations

import lzma
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from chainrule.data.arrays import checked_levels, load_array
from chainrule.data.dataset import Dataset, gather
from chainrule.data.images import SUFFIXES as IMAGES
from chainrule.data.images import read_image
from chainrule.data.reading import file_size, printable, reading, reason
from chainrule.data.recordings import SUFFIXES as SOUNDS
from chainrule.data.recordings import of_one_rate, read_recording
from chainrule.errors import ChainruleError

ARRAYS = frozenset({".npy", ".npz"})
MAX_FOLDER = 2**32  # bytes of all decoded images, sounds or texts of a folder: they are kept in memory
MAPPED = 2**24  # a text of this many bytes or more is memory-mapped
UNPACKING = 2**28  # bytes of memory that xz may take: what its strongest preset needs, and room
HEADERS = 2**16  # bytes by which an xz file may be larger than what it holds

Skipped = list[tuple[str, str]]  # name, reason
Found = list[tuple[str, Any, str]]  # name, event (of a sound its samples), what the file holds beyond it


def load_path(
    path: Path,
    split: str = "train",
    levels: int | None = None,
    classes: bool | Sequence[str] = False,
    channels: int | None = None,
    rate: int | None = None,
) -> Dataset:
    """The files at `path`; see `chainrule.data.load` for the arguments."""
    source = printable(str(path))
    with reading(source):
        folder = stat.S_ISDIR(path.stat().st_mode)
    if not folder and path.suffix.lower() in ARRAYS:
        return load_array(path, source, split, levels)
    files, skipped = list_files(path, source) if folder else ({printable(path.name): path}, [])
    if classes:
        skipped += [(name, "is in no sub-folder, so it has no class") for name in files if "/" not in name]
        files = {name: file for name, file in files.items() if "/" in name}
    dataset = load_files(files, skipped, source, folder, channels, rate)
    dataset = with_levels(dataset, levels or 256)
    return with_classes(dataset, classes) if classes else dataset


def load_files(
    files: dict[str, Path],
    skipped: Skipped,
    source: str,
    folder: bool,
    channels: int | None,
    rate: int | None,
) -> Dataset:
    """The files of the kind that they are."""
    kind, chosen = chosen_of(files, skipped)
    readers: dict[str, Callable] = {
        "image": read_image,
        "sound": partial(read_recording, rate=rate),
        "text": read_document if folder else read_text,
    }
    found, sound = collect(chosen, skipped, readers[kind], source), None
    if kind == "image":
        found = same_channels(found, skipped, channels)
    if not found:
        raise ChainruleError(nothing(source, files, folder, skipped))
    if kind == "sound":
        found, sound = of_one_rate(found, source)
    names, events, beyond = zip(*found, strict=True)
    reduced = tuple((name, what) for name, what in zip(names, beyond, strict=True) if what)
    return Dataset(
        gather(events), 256, kind, names, source=source, skipped=tuple(skipped), reduced=reduced, sound=sound
    )


def chosen_of(files: dict[str, Path], skipped: Skipped) -> tuple[str, dict[str, Path]]:
    """Which kind of data files are, and which of them; sounds among images, or images among sounds, are skipped."""
    endings = {name: file.suffix.lower() for name, file in files.items()}
    images = {name: file for name, file in files.items() if endings[name] in IMAGES}
    sounds = {name: file for name, file in files.items() if endings[name] in SOUNDS}
    if len(sounds) > len(images):
        skipped += [(name, "is an image among sounds") for name in images]
        return "sound", sounds
    if images:
        skipped += [(name, "is a sound among images") for name in sounds]
        return "image", images
    return "text", {name: file for name, file in files.items() if endings[name] not in ARRAYS}


def list_files(folder: Path, source: str) -> tuple[dict[str, Path], Skipped]:
    """The files below `folder` by name, sorted, and what was passed over on the way."""
    files: dict[str, Path] = {}
    skipped: Skipped = []

    def name_of(path: str | Path) -> str:
        return printable(Path(path).relative_to(folder).as_posix())

    def unreadable(error: OSError) -> None:
        if Path(error.filename) == folder:
            raise error
        skipped.append((name_of(error.filename), f"cannot be read: {reason(error)}"))

    with reading(source):
        for here, folders, names in os.walk(folder, onerror=unreadable):
            folders[:] = [name for name in folders if not name.startswith(".")]
            links = [name_of(Path(here, name)) for name in folders if Path(here, name).is_symlink()]
            skipped += [(name, "is a link to a folder, which is not followed") for name in links]
            files |= {
                name_of(Path(here, name)): Path(here, name) for name in names if not name.startswith(".")
            }
    return dict(sorted(files.items())), skipped


def collect(files: dict[str, Path], skipped: Skipped, read: Callable, source: str) -> Found:
    """Read every file; those that cannot be read are added to `skipped`."""
    found: Found = []
    held = 0  # bytes
    for name, path in files.items():
        try:
            event, beyond = read(path, name)
        except ChainruleError as error:
            skipped.append((name, str(error).removeprefix(name).strip()))
            continue
        found.append((name, event, beyond))
        held += 0 if isinstance(event, np.memmap) else event.nbytes
        if held > MAX_FOLDER:
            rest = "save them as one .npy array, which is read from the disk as needed"
            raise ChainruleError(f"{source} unpacks to more than {MAX_FOLDER >> 30} GiB: {rest}")
    return found


def same_channels(found: Found, skipped: Skipped, channels: int | None) -> Found:
    """Gray when all are gray, else all RGB; or as many `channels` as were asked for."""
    wanted = channels or max((x.shape[2] for _, x, _ in found), default=1)
    skipped += [(name, "is in colour, and gray is wanted") for name, x, _ in found if x.shape[2] > wanted]
    return [
        (name, x.repeat(wanted // x.shape[2], 2), what) for name, x, what in found if x.shape[2] <= wanted
    ]


def read_text(path: Path, name: str) -> tuple[np.ndarray, str]:
    """The bytes (T,) of any file."""
    size = file_size(path, name)
    if size == 0:
        raise ChainruleError(f"{name} is empty")
    with reading(name):
        return np.memmap(path, np.uint8, "r") if size >= MAPPED else np.fromfile(path, np.uint8), ""


def read_xz(path: Path, name: str, size: int) -> np.ndarray:
    """The text (size,) of bytes in an xz file, which must hold exactly as many.

    No more than one byte beyond `size` is ever unpacked, however much a hostile file promises.
    """
    held = file_size(path, name)
    if held > size + HEADERS:
        raise ChainruleError(
            f"{name} has {held:,} bytes, more than the {size:,} it should unpack to: it is another file"
        )
    with reading(name):
        unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=UNPACKING)
        text = unpacker.decompress(path.read_bytes(), size + 1)
    if len(text) != size:
        found = f"more than {size:,}" if len(text) > size else f"{len(text):,}"
        raise ChainruleError(
            f"{name} unpacks to {found} bytes, not to {size:,}: it is damaged, or another file"
        )
    if not unpacker.eof or unpacker.unused_data:
        raise ChainruleError(
            f"{name} does not end where its {size:,} bytes do: it is damaged, or another file"
        )
    return np.frombuffer(text, np.uint8).copy()


def read_document(path: Path, name: str) -> tuple[np.ndarray, str]:
    """The bytes (T,) of a file of a folder, where what has zero bytes near its beginning is no text."""
    text, beyond = read_text(path, name)
    if (text[:8192] == 0).any():
        raise ChainruleError(f"{name} is not a text: it holds zero bytes")
    return text, beyond


def nothing(source: str, files: Mapping[str, Path], folder: bool, skipped: Skipped) -> str:
    """What to say when not one file could be used."""
    if not skipped:
        return (
            f"{source} holds no images, no sounds and no texts" if files else f"{source} is an empty folder"
        )
    name, why = skipped[0]
    return f"{source}: none of {len(skipped)} can be read: {name} {why}" if folder else f"{source} {why}"


def with_levels(dataset: Dataset, levels: int) -> Dataset:
    """The dataset with as many levels, which no symbol exceeds."""
    if levels < 256:
        for name, event in zip(dataset.names, dataset.x, strict=True):
            checked_levels(event, levels, name)
        for source in dataset.sources or ():
            checked_levels(source, levels, f"a source in {dataset.source}")
    return replace(dataset, levels=levels)


def with_classes(dataset: Dataset, classes: bool | Sequence[str]) -> Dataset:
    """The first folder of every name as its class: indices into the sorted folders, or into `classes`."""
    folders = [name.partition("/")[0] for name in dataset.names]
    known = sorted(set(folders)) if classes is True else list(classes or ())
    strange = set(folders) - set(known)
    if strange:
        raise ChainruleError(
            f"{dataset.source} has the class {min(strange)}, and {', '.join(known)} are known"
        )
    context = np.array([known.index(folder) for folder in folders])
    return replace(dataset, context=context, classes=tuple(known))
