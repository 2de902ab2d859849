"""What the command line makes of translations and of beam search: lines on the screen, files, pages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chainrule import console, output
from chainrule.data import Alphabet
from chainrule.data.alphabets import Tokens
from chainrule.data.parallel import read_lines
from chainrule.data.reading import printable
from chainrule.errors import ChainruleError
from chainrule.models import Run
from chainrule.store import write_atomic
from chainrule.verbs.beam import Found, beam
from chainrule.verbs.translate import searched, stream_translation, translate

USUAL = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "seed": 0}  # how texts are drawn when nothing is said
RUNNERS_UP = 5  # texts of a beam search that a page shows


@dataclass(frozen=True)
class Translated:
    """A source line, without its end, and what was found for it: (symbols, nats), the best first.

    Without beam search the nats are None, and several texts are as many draws.
    """

    source: bytes
    found: Sequence[tuple[np.ndarray, float | None]]


def sample_translations(
    run: Run, n, out, source, file, prompt, length, width, page, draws, force, json_
) -> None:
    """`chainrule sample` for a run that translates: one source on the screen as it comes, else lines at the end."""
    check_wishes(run, n, source, file, width)
    out = None if out is None else lines_file(out, force)
    page = page and output.free(page, (".html",), force)
    lines = [one_line("source", source)] if file is None else read_lines(file, printable(str(file))).lines
    start = run.alphabet.encode(one_line("prompt", prompt)).astype(np.int64)
    how = {"end": line_ends(run.alphabet), "length": length, "prefix": start}
    as_it_comes = file is None and n is None and out is None and not width and not json_
    if as_it_comes:
        results = [Translated(lines[0], [(shown(run, lines[0], {**how, **draws}), None)])]
    else:
        wanted = max(n or 1, min(width or 1, RUNNERS_UP if page else 1))
        options = {"width": width, "count": wanted} if width else draws
        results = translated(run, lines, n or 1, {**how, **options}, json_)
        write(run, results, n or 1, out, json_)
    if not json_:
        tell_open(run, results, n or 1)
    if page is not None:
        from chainrule.report.translated import translation_page

        options = {
            "source": source,
            "source-file": file,
            "prompt": prompt or None,
            "beam": width,
            "length": length,
        }
        options |= (
            {}
            if width
            else {name.replace("_", "-"): value for name, value in draws.items() if value != USUAL[name]}
        )
        command = command_of(run.path, {**options, "n": n, "page": page})
        write_atomic(page, translation_page(run, results, command).encode())
        console.emit({"page": str(page)}) if json_ else console.say(f"[bold]{console.plain(page)}[/bold]")


def command_of(run: Path, options: dict[str, Any]) -> list[str]:
    """The command that was typed, with the options that have a value."""
    given = {f"{'-' if len(k) == 1 else '--'}{k}": v for k, v in options.items() if v is not None}
    return ["chainrule", "sample", str(run), *(str(word) for pair in given.items() for word in pair)]


def translated(
    run: Run, lines: Sequence[bytes], n: int, options: dict[str, Any], json_: bool
) -> list[Translated]:
    """What is found for each of some lines; an empty one is its own translation."""
    sources = [run.alphabet.encode(line + b"\n").astype(np.int64) for line in lines if line]
    with console.progress("translating", n * len(sources), json_) as tick:
        if "width" in options:
            texts: list[Any] = searched(run.chain, sources, tick=tick, **options)
        else:
            drawn = translate(run.chain, [s for s in sources for _ in range(n)], tick=tick, **options)
            texts = [[(text, None) for text in drawn[i * n : i * n + n]] for i in range(len(sources))]
    following = iter(texts)
    return [Translated(line, next(following) if line else [(np.zeros(0, np.int64), None)]) for line in lines]


def shown(run: Run, line: bytes, options: dict[str, Any]) -> np.ndarray:
    """A translation on the screen while it is written, without its end; gives its symbols, with the end."""
    source, symbols = run.alphabet.encode(line + b"\n").astype(np.int64), []

    def parts() -> Iterator[np.ndarray]:
        for part in stream_translation(run.chain, source, **options):
            symbols.append(part)
            yield part[: len(part) - ended(run.alphabet, part)]

    output.show_parts(run.alphabet, parts(), None)
    return np.concatenate([np.zeros(0, np.int64), *symbols])


def write(run: Run, results: Sequence[Translated], n: int, out: Path | None, json_: bool) -> None:
    """Translations to a file or the screen, the first `n` of each source, one a line."""
    rows = [(one.source, *text) for one in results for text in one.found[:n]]
    texts = [text_of(run.alphabet, symbols) for _, symbols, _ in rows]
    if out is not None:
        write_atomic(out, b"".join(text + b"\n" for text in texts))
        console.record({"translations": len(rows), "file": str(out)}, json_)
    for (source, symbols, nats), text in zip(rows, texts, strict=True):
        said = text.decode(errors="replace")
        if json_ and out is None:
            facts = {
                "source": source.decode(errors="replace"),
                "text": said,
                "ended": ended(run.alphabet, symbols),
            }
            console.emit(facts if nats is None else {**facts, "bits": -nats / np.log(2)})
        elif out is None:
            print(output.legible(said))


def tell_open(run: Run, results: Sequence[Translated], n: int) -> None:
    """One line when translations came to no end."""
    texts = [symbols for one in results for symbols, _ in one.found[:n] if len(symbols)]
    if open_ := sum(not ended(run.alphabet, symbols) for symbols in texts):
        console.complain(
            f"{open_:,} of {len(texts):,} translations came to no end: allow them more with --length"
        )


def text_of(alphabet: Alphabet, symbols: np.ndarray) -> bytes:
    """What a translation says, without the symbol that ends it."""
    return alphabet.decode(symbols[: len(symbols) - ended(alphabet, symbols)])


def ended(alphabet: Alphabet, symbols: np.ndarray) -> bool:
    """Whether a translation has come to its end."""
    return len(symbols) > 0 and int(symbols[-1]) in line_ends(alphabet)


def line_ends(alphabet: Alphabet) -> tuple[int, ...]:
    """The symbols that end a line: those that spell a line break.

    >>> from chainrule.data import BYTES
    >>> line_ends(BYTES), line_ends(Tokens((b"a", b"\\n", b" \\n")))
    ((10,), (1, 2))
    """
    if isinstance(alphabet, Tokens):
        return tuple(i for i, piece in enumerate(alphabet.pieces) if b"\n" in piece)
    return (ord("\n"),)


# ---- beam search of any text ---------------------------------------------------------------------------------


def sample_most_probable(run: Run, n, out, prompt, length, class_, width, json_, force) -> None:
    """`chainrule sample --beam` of a text: the most probable continuations of a beginning."""
    out = None if out is None else output.free(out, (".txt", ".npy"), force)
    check_number(n, width)
    start, context = run.alphabet.encode(output.bytes_of(prompt)), output.classes_for(run, 1, class_)
    with console.progress("searching", length, json_) as tick:
        found: list[Found] = beam(run.chain, length, width, context, prefix=start, tick=tick)
    output.write_texts(np.stack([symbols for symbols, _ in found[: n or 1]]), run, out, json_)


# ---- what cannot be ------------------------------------------------------------------------------------------


def check_wishes(run: Run, n: int | None, source: str | None, file: Path | None, width: int | None) -> None:
    """One clear line when it is not clear what to translate."""
    if (source is None) == (file is None):
        said = "is given neither" if source is None else "is given both"
        raise ChainruleError(
            f"{run.path} translates, and {said}: say what with --source TEXT, or --source-file FILE, a source a line"
        )
    if n is not None and file is not None:
        raise ChainruleError(
            f"-n {n} is for one --source: of {printable(str(file))} each line has one translation"
        )
    check_number(n, width)


def check_number(n: int | None, width: int | None) -> None:
    """One clear line when a beam does not hold as many texts as are asked for."""
    if width and n is not None and n > width:
        raise ChainruleError(f"-n {n}: a beam of {width} finds up to {width}, take a wider one")


def check_beam(width: int | None, temperature: float, top_p: float, top_k: int) -> None:
    """One clear line for a beam search that is to draw."""
    for name, value in {"temperature": temperature, "top_p": top_p, "top_k": top_k}.items():
        if width and value != USUAL[name]:
            raise ChainruleError(
                f"--{name.replace('_', '-')} {value:g} is for drawing, --beam {width} finds what is most probable: "
                "leave one of them out"
            )


def one_line(what: str, said: str | None) -> bytes:
    """The bytes of a source or a prompt, which is one line without its end."""
    line = output.bytes_of(said or "")
    if b"\n" in line:
        raise ChainruleError(
            f"the {what} has {line.count(10) + 1} lines: give one line; --source-file takes many"
        )
    if what == "source" and not line:
        raise ChainruleError("the source is empty: give a line of text")
    return line


def lines_file(path: Path, force: bool) -> Path:
    """The path of a text of lines, when it may be written; its name may end in anything but an array or a picture."""
    if path.suffix in (".npy", ".png"):
        raise ChainruleError(f"{path}: translations are lines of text, write them to a .txt")
    return output.free(path, (path.suffix,), force)
