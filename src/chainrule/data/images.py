"""Image files -> pixels as they are stored, 8 bits a sample, gray (H, W, 1) or colour (H, W, 3).

An image is gray when R = G = B at every pixel, however it is stored. A palette is looked up. Of an animation
only the first frame is read. An EXIF orientation is not applied. An alpha channel is dropped, and the colours
under it stay as they are; of 16 bits the high 8 are kept; CMYK and other colour spaces are turned into RGB.
Files that hold more than what is read of them are listed in `Dataset.reduced`.
"""

from __future__ import annotations

import io
import logging
from pathlib import Path

import numpy as np
from PIL import Image

from chainrule.data.reading import file_size, reading
from chainrule.errors import ChainruleError

# Pillow knows more, some of which start other programs (EPS) or hold no pixels (HDF5): those are never tried.
FORMATS = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "WEBP": (".webp",),
    "AVIF": (".avif",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "JPEG2000": (".jp2", ".j2k", ".jpx"),
    "QOI": (".qoi",),
    "TGA": (".tga",),
    "PCX": (".pcx",),
    "ICO": (".ico",),
    "SGI": (".sgi",),
    "SUN": (".ras",),
}
SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)
# Pillow logs some damage besides raising; where nobody has set up logging, that would be printed.
logging.getLogger("PIL").addHandler(logging.NullHandler())

MAX_PIXELS = 2**26  # 8192 x 8192: what claims to be larger is taken for a decompression bomb


def read_image(path: Path, name: str) -> tuple[np.ndarray, str]:
    """The pixels of a file, (H, W, 1 or 3) uint8, and what the file holds beyond them ("" when nothing).

    Raises:
        ChainruleError: whatever is wrong with the file, in one line that begins with `name`.
    """
    file_size(path, name)
    with reading(name), path.open("rb") as file, Image.open(file, formats=tuple(FORMATS)) as image:
        checked(image, name)
        deep = image.mode.startswith("I") or ";16" in str(
            getattr(image, "tile", "")
        )  # known until it is decoded
        return pixels(image, name), ", ".join(["16 bits"] * deep + beyond(image))


def read_image_from(data: bytes, name: str) -> np.ndarray:
    """The pixels of a file that is in memory, (H, W, 1 or 3) uint8."""
    with reading(name), Image.open(io.BytesIO(data), formats=tuple(FORMATS)) as image:
        return pixels(checked(image, name), name)


def checked(image: Image.Image, name: str) -> Image.Image:
    """An image that is not yet decoded, when it is not too large."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ChainruleError(f"{name} claims {width} x {height} pixels: at most {MAX_PIXELS} are read")
    return image


def pixels(image: Image.Image, name: str) -> np.ndarray:
    """The decoded samples, (H, W, 1 or 3) uint8."""
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        raise ChainruleError(f"{name} has samples of 32 bits: save it with 8 bits a sample")
    if image.mode.startswith("I"):  # Pillow gives a 16-bit PGM as 32-bit integers below 65,536
        return (np.asarray(image).astype(np.int64) >> 8).astype(np.uint8)[..., None]
    if image.mode in {"1", "L"}:
        return np.array(image.convert("L"))[..., None]
    colours = np.array(image.convert("RGB"))
    gray = (colours == colours[..., :1]).all()
    return colours[..., :1].copy() if gray else colours


def beyond(image: Image.Image) -> list[str]:
    """What a decoded image holds beyond one frame of opaque gray or RGB."""
    found = {
        "transparency": image.has_transparency_data
        and image.convert("RGBA").getchannel("A").getextrema() != (255, 255),
        f"{image.mode} colours": image.mode in {"CMYK", "YCbCr", "LAB", "HSV"},
        "further frames": getattr(image, "is_animated", False),
    }
    return [what for what, true in found.items() if true]
