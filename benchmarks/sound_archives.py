"""Recordings through archives and through the codecs that people use: bits a sample, and speed.

    python benchmarks/sound_archives.py RUN ... [--data NAME] [--threads 1 2] [--items N] [--json]

For each run of sound the test split of what it was fitted to (or --data), in the coding of the run. Every sample is
compared with what went in, of every codec but where a row says otherwise. Bits a sample are those of whole files, of
a run also those of its archive without the model and of its exact score; `-log2 p` is what the model needs for what it
coded, cut into lanes as it was.

    chainrule    compressing and decompressing with 1 and 2 threads, in samples a second and times real time
    FLAC         through libsndfile, at its highest level; by the command flac, when there is one, with the settings
                 that were found best: fsdd -8 -e -p -b 1024, other data -8 -e -p -l 32 --lax -b 4096; each as one
                 file of all clips one after another, and as a file each. Codes of mu-law go in as 8 linear bits.
    bytes        xz -9e, LZMA of lc 4, bzip2 -9, and with the packages pyppmd and zstandard PPMd H of order 2 and 3 and
                 zstd -22: of all clips one after another, 16 bits as a WAVE file has them, 8 bits as their codes

Seconds are wall-clock; of chainrule also processor time, which says more on a machine that does other work.
"""

from __future__ import annotations

import argparse
import bz2
import importlib
import io
import lzma
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from table import Row, show

from chainrule import ChainruleError, Dataset, compress, decompress, load, open_run, score
from chainrule.data import wav
from chainrule.models import Run
from chainrule.verbs.coders import coder_of

BEST = {"fsdd": ["-8", "-e", "-p", "-b", "1024"]}
PPMD_MEMORY = 1 << 28  # bytes
ELSE = ["-8", "-e", "-p", "-l", "32", "--lax", "-b", "4096"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--data", help="a named set or a path; by default what a run was fitted to")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--items", type=int, help="only the first so many, for a quick look")
    parser.add_argument("--json", action="store_true", help="a JSON object a line")
    options = parser.parse_args()
    show(measured(options), options.json)


def measured(options: argparse.Namespace) -> Iterator[Row]:
    """The archives of every run; after the last run of a coding the codecs on its data."""
    seen: dict[tuple[str, str], Dataset] = {}
    for path in options.runs:
        run = open_run(path)
        data = data_of(run, options)
        seen[data.source, coding_of(data)] = data
        yield from archives(run, path, data, options.threads)
    for data in seen.values():
        yield from codecs(data)


def data_of(run: Run, options: argparse.Namespace) -> Dataset:
    """The test split in the coding of the run, at the rate that it has."""
    name = (options.data or str(run.info["data"])).partition(":")[0]
    data = load(name, split="test")
    if run.sound is None or data.sound is None:
        raise ChainruleError(f"{run.path} or {name} is no sound: give runs of sound")
    data = data.heard(replace(data.sound, coding=run.sound.coding))
    return data if options.items is None else data.select(slice(0, options.items))


def coding_of(data: Dataset) -> str:
    assert data.sound is not None
    return data.sound.coding


def samples_in(data: Dataset) -> int:
    return sum(len(x) for x in data.x)


# --------------------------------------------------------------------------------------------------- archives


def archives(run: Run, path: str, data: Dataset, threads: Sequence[int]) -> Iterator[Row]:
    """One row a number of threads; the archives are the same."""
    torch.set_num_threads(max(threads))
    coder, samples = coder_of(run.chain), samples_in(data)
    exact = score(run.chain, data).bits_per_dim
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "a.chain"
        for count in threads:
            report, packing, packing_cpu = timed(
                partial(compress, run.chain, data, file, coder=coder, threads=count, verify=False, force=True)
            )
            found, unpacking, unpacking_cpu = timed(partial(unpacked, file, count))
            check(all((found[n] == np.asarray(x)).all() for n, x in zip(names_of(data), data.x, strict=True)))
            yield {
                **{"coder": f"chainrule {path}", "data": data.source, "coding": coding_of(data), "threads": count},
                **{"bits/sample": report.bits_per_dim, "with_model": report.with_model, "score": exact},
                "-log2 p": report.ideal_bits / samples,
                "model_bytes": report.model_bytes,
                **speeds("encode", samples, packing, data), **speeds("decode", samples, unpacking, data),
                "encode_cpu_samples/s": samples / packing_cpu,
                "decode_cpu_samples/s": samples / unpacking_cpu,
                "form": str(report.blocks),
            }  # fmt: skip


def names_of(data: Dataset) -> list[str]:
    return list(data.names) or [str(i) for i in range(len(data))]


def unpacked(path: Path, threads: int) -> dict[str, np.ndarray]:
    return {name: x for name, x, _ in decompress(path, threads=threads)}


def speeds(what: str, samples: int, seconds: float, data: Dataset) -> Row:
    """Samples a second, and how much faster than the sound is played."""
    assert data.sound is not None
    each = samples / max(seconds, 1e-9)
    return {f"{what}_samples/s": each, f"{what}_real_time": each / data.sound.rate}


# ----------------------------------------------------------------------------------------------------- codecs


@dataclass(frozen=True)
class Codec:
    """Packs samples or bytes into bytes, and back; or the package that it would need."""

    name: str
    encode: Callable[[np.ndarray], bytes] | None
    decode: Callable[[bytes], np.ndarray] | None
    needs: str = ""


def codecs(data: Dataset) -> Iterator[Row]:
    """FLAC of clips joined and alone, then coders of bytes of the clips joined."""
    clips = [as_numbers(data, x) for x in data.x]
    joined = np.concatenate(clips)
    for codec in flacs(data):
        for form, parts in (("joined", [joined]), ("a file each", clips)):
            yield row(codec, data, parts, form)
    for codec in packers(joined.dtype):
        yield row(codec, data, [joined], "joined")


def as_numbers(data: Dataset, x: np.ndarray) -> np.ndarray:
    """Samples int16 of 16 bits; of 8 bits their codes uint8."""
    assert data.sound is not None
    return data.sound.samples(x) if data.sound.bits == 16 else np.asarray(x)


def row(codec: Codec, data: Dataset, parts: list[np.ndarray], form: str) -> Row:
    """What a codec makes of recordings, each decoded again and compared."""
    told: Row = {"coder": codec.name, "data": data.source, "coding": coding_of(data), "form": form}
    if codec.encode is None or codec.decode is None:
        return told | {"note": f"not measured: {codec.needs} is not installed"}
    encode, decode = codec.encode, codec.decode
    packed, packing, _ = timed(lambda: [encode(part) for part in parts])
    samples = sum(map(len, parts))
    told["bits/sample"] = 8 * sum(map(len, packed)) / samples
    told |= speeds("encode", samples, packing, data)
    try:
        back, unpacking, _ = timed(lambda: [decode(part) for part in packed])
    except ValueError as error:  # as pyppmd 1.3.1 fails on some of its own streams
        return told | {"note": f"not decoded by its own decoder: {error}"}
    check(all(np.array_equal(a, b) for a, b in zip(parts, back, strict=True)))
    return told | speeds("decode", samples, unpacking, data)


def flacs(data: Dataset) -> Iterator[Codec]:
    """FLAC by libsndfile and by its own command."""
    assert data.sound is not None
    rate, coding = data.sound.rate, "16 bit" if data.sound.bits == 16 else "8 bit"
    yield Codec(
        "FLAC, libsndfile level 1.0", partial(by_libsndfile, rate=rate), partial(read_flac, coding=coding)
    )
    settings = BEST.get(data.source.partition(":")[0], ELSE)
    name, command = f"flac {' '.join(settings)}", shutil.which("flac")
    if command is None:
        yield Codec(name, None, None, "the command flac")
        return
    encode = partial(by_command, command=command, settings=settings, rate=rate, coding=coding)
    yield Codec(name, encode, partial(read_flac, coding=coding))


def by_libsndfile(samples: np.ndarray, rate: int) -> bytes:
    import soundfile

    file = io.BytesIO()
    wide, form = (samples, "PCM_16") if samples.dtype == np.int16 else (eight_bits(samples), "PCM_S8")
    soundfile.write(file, wide, rate, form, format="FLAC", compression_level=1.0)
    return file.getvalue()


def eight_bits(codes: np.ndarray) -> np.ndarray:
    """Codes uint8 as the samples int16 whose high byte they are."""
    return ((codes.astype(np.int32) - 128) * 256).astype(np.int16)


def read_flac(data: bytes, coding: str) -> np.ndarray:
    import soundfile

    samples = soundfile.read(io.BytesIO(data), dtype="int16")[0]
    return samples if coding == "16 bit" else ((samples.astype(np.int32) >> 8) + 128).astype(np.uint8)


def by_command(samples: np.ndarray, command: str, settings: list[str], rate: int, coding: str) -> bytes:
    """By way of a WAVE file; without a seek table or padding, of which a short file would mostly consist."""
    raw = (
        wav.header(coding, rate, len(samples))
        + samples.astype("<i2" if coding == "16 bit" else "u1").tobytes()
    )
    words = [command, "--silent", "--no-padding", "--no-seektable", *settings, "-", "--stdout"]
    found = subprocess.run(words, input=raw + b"\0" * (len(raw) % 2), capture_output=True, check=False)
    if found.returncode:
        raise ChainruleError(f"flac: {found.stderr.decode(errors='replace')[-200:]}")
    return found.stdout


def packers(dtype: np.dtype) -> Iterator[Codec]:
    """Coders of bytes, each with its strongest setting."""
    ppmd, zstandard = installed("pyppmd"), installed("zstandard")
    four = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 4, "lp": 0, "pb": 0}]
    yield of_bytes("xz -9e", partial(lzma.compress, preset=9 | lzma.PRESET_EXTREME), lzma.decompress, dtype)
    yield of_bytes("LZMA lc4", partial(lzma.compress, filters=four), lzma.decompress, dtype)
    yield of_bytes("bzip2 -9", bz2.compress, bz2.decompress, dtype)
    for order in (2, 3):
        sides = (
            (None, None) if ppmd is None else (partial(ppmd_of, ppmd, order), partial(from_ppmd, ppmd, order))
        )
        yield of_bytes(f"PPMd H order {order}", *sides, dtype, "pyppmd")
    zstd = zstandard and zstandard.ZstdCompressor(level=22).compress
    yield of_bytes(
        "zstd -22", zstd, zstandard and zstandard.ZstdDecompressor().decompress, dtype, "zstandard"
    )


def ppmd_of(ppmd: ModuleType, order: int, data: bytes) -> bytes:
    """PPMd H after the length of the data, which its decoder has to be told."""
    coder = ppmd.Ppmd7Encoder(order, PPMD_MEMORY)
    return len(data).to_bytes(8, "big") + coder.encode(data) + coder.flush()


def from_ppmd(ppmd: ModuleType, order: int, packed: bytes) -> bytes:
    return ppmd.Ppmd7Decoder(order, PPMD_MEMORY).decode(packed[8:], int.from_bytes(packed[:8], "big"))


def of_bytes(name: str, encode, decode, dtype: np.dtype, needs: str = "") -> Codec:
    """A coder of bytes as one of samples."""
    if encode is None:
        return Codec(name, None, None, needs)
    return Codec(name, lambda x: encode(x.tobytes()), lambda data: np.frombuffer(decode(data), dtype))


def installed(name: str) -> ModuleType | None:
    """A package that may be there."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


# -------------------------------------------------------------------------------------------------- measuring


def timed(work: Callable):
    """What it gives, seconds by the clock, and seconds of processor time of all threads."""
    clock, cpu = time.perf_counter(), time.process_time()
    found = work()
    return found, time.perf_counter() - clock, time.process_time() - cpu


def check(same: bool) -> None:
    if not same:
        raise ChainruleError("what was read back is not what went in")


if __name__ == "__main__":
    main()
