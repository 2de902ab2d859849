"""WAVE files for tests, made by hand."""

import struct

import numpy as np

PCM, FLOAT, A_LAW, MU_LAW = 1, 3, 6, 7
GUID = bytes.fromhex("000000001000800000aa00389b71")


def chunk(name: bytes, content: bytes, length: int | None = None) -> bytes:
    """A chunk, with its pad byte; it may lie about its length."""
    told = len(content) if length is None else length
    return struct.pack("<4sI", name, told) + content + b"\0" * (len(content) % 2)


def fmt(
    form: int = PCM, channels: int = 1, rate: int = 8000, bits: int = 16, align: int | None = None
) -> bytes:
    align = channels * bits // 8 if align is None else align
    return chunk(
        b"fmt ", struct.pack("<HHIIHH", form, channels, rate, rate * align & 0xFFFFFFFF, align & 0xFFFF, bits)
    )


def extensible(
    form: int = PCM, channels: int = 1, rate: int = 8000, bits: int = 16, guid: bytes = GUID
) -> bytes:
    align = channels * bits // 8
    start = struct.pack(
        "<HHIIHHHHIH",
        0xFFFE,
        channels,
        rate,
        rate * align & 0xFFFFFFFF,
        align & 0xFFFF,
        bits,
        22,
        bits,
        3,
        form,
    )
    return chunk(b"fmt ", start + guid)


def riff(*chunks: bytes, magic: bytes = b"RIFF", form: bytes = b"WAVE", length: int | None = None) -> bytes:
    body = form + b"".join(chunks)
    return magic + struct.pack("<I", len(body) if length is None else length) + body


def little(samples) -> bytes:
    return np.asarray(samples).astype("<i2").tobytes()


def tone(count: int, seed: int = 0, channels: int = 1) -> np.ndarray:
    """A tone and some noise, (count, channels) int16."""
    rng, t = np.random.default_rng(seed), np.arange(count)
    both = [4000 * np.sin(t / (9 + 3 * c + seed)) + rng.normal(0, 40, count) for c in range(channels)]
    return np.stack(both, 1).astype(np.int16)


def plain(samples: np.ndarray, rate: int = 8000, **more) -> bytes:
    """A file of 16 bits of samples (T,) or (T, channels)."""
    channels = samples.shape[1] if samples.ndim == 2 else 1
    return riff(fmt(channels=channels, rate=rate), chunk(b"data", little(samples)), **more)
