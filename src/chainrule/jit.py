"""Functions that numba compiles to machine code, once for all programs and all data.

IEEE arithmetic as written: no fast-math, no contraction of a multiplication and an addition, so that equal
inputs give equal bits on every machine. The compiled code is kept in the user's cache folder under a name
that changes with any line of the sources it was made from.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pooch
from filelock import FileLock
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

log = logging.getLogger("chainrule")
HERE = Path(__file__).parent
SOURCES = ("jit.py", "coding.py", "engine/*.py", "layers/*.py")


# No counting of references (_nrt=False): numba would count the users of every array, atomically, at every step of
# the interpreter, and that took most of the time of small programs. Compiled code therefore takes no memory.
OPTIONS: dict[str, Any] = {"error_model": "numpy", "_nrt": False}


def inlined(function: Callable) -> Callable:
    """A function that becomes part of the compiled functions that call it."""
    return numba.njit(forceinline=True, **OPTIONS)(function)


def called(function: Callable) -> Callable:
    """A function that compiled functions call."""
    return numba.njit(**OPTIONS)(function)


def compiled(function: Callable) -> Callable:
    """A function that Python calls: compiled, kept on disk, and run without the interpreter's lock."""
    options = {"nogil": True, **OPTIONS}
    folder = cache_folder()
    if folder is None:
        return numba.njit(**options)(function)
    before = numba.config.CACHE_DIR  # read where a function is decorated
    numba.config.CACHE_DIR = str(folder)
    try:
        return one_process_at_a_time(numba.njit(cache=True, **options)(function), folder)
    finally:
        numba.config.CACHE_DIR = before


def one_process_at_a_time(function: Any, folder: Path) -> Any:
    """Let one process compile a function: others that need it meanwhile wait, and read what the first one left.

    (numba gives the files of a function the next free number. Two processes that compile it for two types would give
    both the same one, and a third would run the code of one type on numbers of the other.)
    """
    lock = FileLock(folder / f"{function.__module__}.{function.__qualname__}.lock")
    compile_ = function.compile

    def compile_alone(signature: Any) -> Any:
        try:
            lock.acquire()
        except (NotImplementedError, OSError):  # there are file systems without locks
            return compile_(signature)
        try:
            return compile_(signature)
        finally:
            lock.release()

    function.compile = compile_alone
    return function


@cache
def cache_folder() -> Path | None:
    """Where compiled code is kept, or None when nothing can be kept. It is never shared with other users."""
    digest = hashlib.sha256(numba.__version__.encode())
    for pattern in SOURCES:
        for path in sorted(HERE.glob(pattern)):
            digest.update(path.read_bytes())
    root = os.environ.get("NUMBA_CACHE_DIR") or Path(pooch.os_cache("chainrule")) / "compiled"
    folder = Path(root) / digest.hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder if os.access(folder, os.W_OK) else None
    except OSError:
        return None


@cache
def announce() -> None:
    """Tell the log, once, when code has to be compiled that will be there the next time."""
    folder = cache_folder()
    if folder is None or not any(folder.rglob("*.nbc")):
        log.warning("compiling the step engine: half a minute, once")


def cast(source: types.Type, target: types.Type) -> Callable:
    """A compiled function that gives the bits of one type as another."""

    @intrinsic
    def bits(typing, x):
        def generate(context, builder, signature, args):
            return builder.bitcast(args[0], context.get_value_type(target))

        return target(source), generate

    return bits


bits_of_single, single_of_bits = cast(types.float32, types.int32), cast(types.int32, types.float32)
bits_of_double, double_of_bits = cast(types.float64, types.int64), cast(types.int64, types.float64)


# Processors can be told to take numbers below 1e-38 for zero; some programs do, for speed, and each thread has a
# control word of its own. All compiled code runs between two calls of `swap`, which are calls of their own:
# LLVM is free to move arithmetic past a change of the word inside one function.
X86, ARM = ("x86_64", "amd64"), ("aarch64", "arm64")
MACHINE = platform.machine().lower()
AS_IEEE_754_SAYS = 0x1F80 if MACHINE in X86 else 0


@intrinsic
def control(typing, word):
    """Set the floating-point control word of this thread; gives what it was."""

    def call(builder, name, result, *args):
        kind = ir.FunctionType(result, [arg.type for arg in args])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)

    def generate(context, builder, signature, args):
        if MACHINE in X86:
            before, after = (cgutils.alloca_once(builder, ir.IntType(32)) for _ in range(2))
            builder.store(builder.trunc(args[0], ir.IntType(32)), after)
            pointers = [builder.bitcast(slot, cgutils.voidptr_t) for slot in (before, after)]
            call(builder, "llvm.x86.sse.stmxcsr", ir.VoidType(), pointers[0])
            call(builder, "llvm.x86.sse.ldmxcsr", ir.VoidType(), pointers[1])
            return builder.zext(builder.load(before), ir.IntType(64))
        if MACHINE in ARM:
            before = call(builder, "llvm.aarch64.get.fpcr", ir.IntType(64))
            call(builder, "llvm.aarch64.set.fpcr", ir.VoidType(), args[0])
            return before
        return args[0]  # other machines: the known-answer test of the engine must tell

    return types.uint64(types.uint64), generate


@compiled
def swap(word):
    return control(word)


@contextmanager
def ieee() -> Iterator[None]:
    """Within it this thread computes as IEEE 754 says, numbers below 1e-38 included, whatever it did before."""
    before = swap(np.uint64(AS_IEEE_754_SAYS))
    try:
        yield
    finally:
        swap(np.uint64(before))
