"""What the codecs of every day need for the same data: PNG, WebP lossless, FLAC, xz, bzip2.

With the package imagecodecs (`pip install chainrule[codecs]`) also JPEG XL, JPEG-LS, JPEG 2000, brotli and zstd.

Sizes are of whole files, headers included; the denominator is the number of symbols, channels included. The
containers hold 8 bits where the data may have fewer levels, so each codec is given every fair form of the
data that it can hold (symbols as they are, spread over the whole range, packed bits), and its best counts.
"""

from __future__ import annotations

import bz2
import io
import lzma
import math
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
from PIL import Image

from chainrule.data import Sound

SHEET_SIDE = 16383  # pixels: what WebP can hold


class Codec(NamedTuple):
    """A row of the table: `best` says which form of the data and which setting won."""

    name: str
    bits_per_dim: float
    best: str


Encoder = Callable[[Image.Image], bytes]


def codec_table(
    events: Sequence[np.ndarray] | np.ndarray,
    levels: int,
    efforts: Sequence[int] = (7,),
    sound: Sound | None = None,
) -> list[Codec]:
    """Measure every codec that can hold `events` (N, *event) of symbols 0..levels-1 without loss.

    Images are measured on one sheet (when all have one size) and as a file each, sounds as a file each; anything else
    only as bytes. Of sounds bits are counted by samples. `efforts` are those of JPEG XL, 1 to 10: the best size counts,
    and from 9 on it takes its time.

    Example:
        >>> rows = codec_table(np.zeros((9, 8, 8, 1), np.uint8), levels=256)
        >>> [row.name for row in rows][:4]  # doctest: +NORMALIZE_WHITESPACE
        ['PNG, one sheet', 'PNG, a file each', 'WebP lossless, one sheet', 'WebP lossless, a file each']
    """
    symbols = sum(np.asarray(e).size for e in events)
    if not symbols:
        return []
    images = sound is None and levels <= 256 and all(is_image(e) for e in events)
    rows = image_rows(events, levels, symbols, efforts) if images else []
    if sound is not None:
        symbols //= sound.bits // 8
        rows += sound_rows(events, sound, symbols)
    for name, pack in (("xz -9e", xz), ("bzip2 -9", bz2.compress), *more_byte_codecs()):
        forms = byte_forms(events, levels) if sound is None else sample_forms(events, sound)
        sizes = {form: len(pack(data)) for form, data in forms}
        rows.append(smallest(f"{name}, one file", sizes, symbols))
    return rows


def image_rows(events, levels: int, symbols: int, efforts: Sequence[int]) -> list[Codec]:
    """Codecs of images, on one sheet and as a file each."""
    one_size = len({np.shape(e) for e in events}) == 1
    rows = []
    for name, encoders in (("PNG", PNG), ("WebP lossless", WEBP), *more_image_codecs(efforts)):
        if one_size and fits_a_sheet(events):
            found = {
                f"{f}, {s}": len(e(i)) for f, i in image_forms(sheet(events), levels) for s, e in encoders
            }
            rows.append(smallest(f"{name}, one sheet", found, symbols))
        found = {}
        for event in events:
            for form, image in image_forms(np.asarray(event), levels):
                for setting, encode in encoders:
                    key = f"{form}, {setting}"
                    found[key] = found.get(key, 0) + len(encode(image))
        rows.append(smallest(f"{name}, a file each", found, symbols))
    return rows


def sound_rows(events, sound: Sound, samples: int) -> list[Codec]:
    """FLAC, a file each, of 16 bits or of codes of 8 bits as if they were linear; nothing without soundfile."""
    if find_spec("soundfile") is None:
        return []
    files = [flac(event, sound) for event in events]
    form = "codes as if they were linear" if sound.coding == "mu-law" else "samples"
    return [Codec("FLAC, a file each", 8 * sum(map(len, files)) / samples, f"{form}, its best level")]


def flac(event: np.ndarray, sound: Sound) -> bytes:
    """A FLAC file of one channel that holds the symbols of a sound exactly."""
    import soundfile

    buffer, kind = io.BytesIO(), "PCM_16" if sound.bits == 16 else "PCM_S8"
    numbers = sound.samples(event) if sound.bits == 16 else (event.astype(np.int16) - 128) * 256
    rate = min(sound.rate, 655_350)  # what a FLAC file can say
    with soundfile.SoundFile(buffer, "w", rate, 1, kind, format="FLAC", compression_level=1.0) as file:
        file.write(numbers.astype(np.int16))
    return buffer.getvalue()


def smallest(name: str, sizes: dict[str, int], symbols: int) -> Codec:
    """The row of the form that took the fewest bytes."""
    best = min(sizes, key=sizes.__getitem__)
    return Codec(name, 8 * sizes[best] / symbols, best)


# ---- the data in every form that a container can hold --------------------------------------------------


def is_image(event) -> bool:
    """Whether PNG and WebP can hold an event: (H, W, 1 or 3)."""
    shape = np.shape(event)
    return len(shape) == 3 and shape[2] in (1, 3) and min(shape) > 0 and max(shape[:2]) <= SHEET_SIDE


def image_forms(event: np.ndarray, levels: int) -> Iterator[tuple[str, Image.Image]]:
    """An image (H, W, C) of symbols as Pillow images: (form, image)."""
    data = event.astype(np.uint8)
    data = data[:, :, 0] if data.shape[2] == 1 else data
    yield "8 bits a symbol", Image.fromarray(data)
    if levels < 256:
        yield "8 bits, spread to 0..255", Image.fromarray(spread(data, levels))
    if levels == 2 and data.ndim == 2:
        yield "1 bit a symbol", Image.fromarray(data.astype(bool))
    elif levels <= 16 and data.ndim == 2:
        yield "4 bits a symbol or fewer", with_palette(data, levels)


def spread(data: np.ndarray, levels: int) -> np.ndarray:
    """Symbols 0..levels-1 as equally spaced bytes 0..255, which no two symbols share."""
    return np.rint(data * (255 / max(levels - 1, 1))).astype(np.uint8)


def with_palette(data: np.ndarray, levels: int) -> Image.Image:
    """Symbols (H, W) as numbers of the `levels` colours of a palette: PNG then takes fewer bits."""
    image = Image.fromarray(data)
    image.putpalette(np.repeat(spread(np.arange(levels), levels), 3).tobytes())
    return image


def byte_forms(events, levels: int) -> Iterator[tuple[str, bytes]]:
    """All events one after the other as bytes: (form, bytes)."""
    kind = "u1" if levels <= 256 else "<u2" if levels <= 65536 else "<i8"
    flat = np.concatenate([np.asarray(e).reshape(-1) for e in events]).astype(np.dtype(kind))
    yield f"{flat.itemsize} byte{'s' * (flat.itemsize > 1)} a symbol", flat.tobytes()
    if levels == 2:
        yield "1 bit a symbol", np.packbits(flat.astype(bool)).tobytes()


def sample_forms(events, sound: Sound) -> Iterator[tuple[str, bytes]]:
    """All sounds one after the other as bytes: (form, bytes); of 16 bits also with all high bytes first."""
    flat = np.concatenate([np.asarray(e).astype(np.uint8) for e in events])
    yield f"{sound.bits // 8} byte{'s' * (sound.bits == 16)} a sample", flat.tobytes()
    if sound.bits == 16:
        yield "high bytes, then low bytes", flat.T.tobytes()


def fits_a_sheet(events) -> bool:
    """Whether the sheet of all images is one that WebP can hold."""
    across = math.ceil(math.sqrt(len(events)))
    return across * max(np.shape(events[0])[:2]) <= SHEET_SIDE


def sheet(events) -> np.ndarray:
    """All images (N, H, W, C) as one, row by row in about a square; the rest of the last row is 0."""
    n, (h, w, c) = len(events), np.shape(events[0])
    across = math.ceil(math.sqrt(n))
    down = math.ceil(n / across)
    cells = np.zeros((down * across, h, w, c), np.asarray(events[0]).dtype)
    cells[:n] = events
    return cells.reshape(down, across, h, w, c).swapaxes(1, 2).reshape(down * h, across * w, c)


# ---- encoders ------------------------------------------------------------------------------------------


def xz(data: bytes) -> bytes:
    """`xz -9e`, container and checksum included."""
    return lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)


def save(image: Image.Image, **options) -> bytes:
    """The bytes of a file that Pillow writes."""
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def webp(quality: int, method: int) -> Encoder:
    """Lossless WebP with the given effort."""
    return lambda image: save(image, format="WEBP", lossless=True, exact=True, quality=quality, method=method)


def png(image: Image.Image) -> bytes:
    """PNG, as small as Pillow makes it."""
    return save(image, format="PNG", optimize=True)


def more_byte_codecs() -> list[tuple[str, Callable[[bytes], bytes]]]:
    """Those that come with imagecodecs; none without it."""
    if find_spec("imagecodecs") is None:
        return []
    import imagecodecs

    return [
        ("brotli 11", lambda data: bytes(imagecodecs.brotli_encode(data, level=11, lgwin=24))),
        ("zstd -22", lambda data: bytes(imagecodecs.zstd_encode(data, level=22))),
    ]


def more_image_codecs(efforts: Sequence[int]) -> list[tuple[str, list[tuple[str, Encoder]]]]:
    """Those that come with imagecodecs; none without it."""
    if find_spec("imagecodecs") is None:
        return []
    import imagecodecs

    def jpeg_xl(effort: int) -> Encoder:
        return lambda image: bytes(imagecodecs.jpegxl_encode(pixels(image), lossless=True, effort=effort))

    return [
        ("JPEG XL", [(f"effort {effort}", jpeg_xl(effort)) for effort in efforts]),
        ("JPEG-LS", [("lossless", lambda image: bytes(imagecodecs.jpegls_encode(pixels(image))))]),
        (
            "JPEG 2000",
            [("5/3", lambda image: bytes(imagecodecs.jpeg2k_encode(pixels(image), reversible=True)))],
        ),
    ]


def pixels(image: Image.Image) -> np.ndarray:
    """(H, W) or (H, W, 3) bytes."""
    return np.ascontiguousarray(image if image.mode in ("L", "RGB") else image.convert("L"))


PNG: list[tuple[str, Encoder]] = [("optimised by Pillow", png)]
WEBP: list[tuple[str, Encoder]] = [
    ("method 6, quality 100", webp(100, 6)),
    ("method 4, quality 75", webp(75, 4)),
]
