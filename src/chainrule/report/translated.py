"""`chainrule sample RUN --source TEXT --page FILE.html`: where a translation was uncertain, letter by letter."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import torch

from chainrule import plots, store
from chainrule.data import padded
from chainrule.models import TABLE, Run
from chainrule.report import sections
from chainrule.report.page import DEPTHS, page, paragraph, section, table
from chainrule.translation import RUNNERS_UP, Translated, ended, text_of

ROOM = 1 << 14  # symbols of translations that are shown, together
AT_ONCE = 1 << 12  # symbols of translations and sources that are run through the model side by side
ELSE = 4  # alternatives that a letter tells
STEPS = 2  # depths of the ground a bit


@dataclass(frozen=True)
class Uncertainty:
    """Of each symbol of a translation (T,): the bits it needed, the entropy of its conditional, what else could come.

    likely (T, ELSE + 1) are the most probable symbols, the most probable first, and probs what they have.
    """

    bits: np.ndarray
    entropy: np.ndarray
    likely: np.ndarray
    probs: np.ndarray


def translation_page(run: Run, results: Sequence[Translated], command: Sequence[str]) -> str:
    """The page, HTML: every translation coloured by the entropy of its conditionals. `command` is what was typed."""
    results = [one for one in results if one.source]
    shown = results[: room_for([sum(len(symbols) for symbols, _ in coloured_of(one)) for one in results])]
    pairs = [(one, symbols) for one in shown for symbols, _ in coloured_of(one)]
    sources = [run.alphabet.encode(one.source + b"\n") for one, _ in pairs]
    found = iter(uncertainties(run, sources, [symbols for _, symbols in pairs]))
    every = [legend()]
    all_ = []
    for one in shown:
        own = [next(found) for _ in coloured_of(one)]
        all_ += own
        every.append(card(run, one, own))
    if left := len(results) - len(shown):
        every.append(sections.note_section("Left out", f"{left:,} further translations are not shown."))
    facts = {
        "model": run.info["model"],
        "fitted to": run.info.get("data"),
        "context rule": run.chain.context_rule(),
        "identity (SHA-256)": store.sha256(run.model, TABLE),
    }
    every.append(sections.facts_section({k: v for k, v in facts.items() if v}, [shlex.join(command)]))
    lead = (
        "How uncertain the model was before each letter: the entropy of p(symbol | source, what is written so far), "
        f"exact. Context rule: {run.chain.context_rule()}."
    )
    return page(f"Translations by {run.info['model']}", every, lead, numbers(run, all_))


def coloured_of(one: Translated) -> Sequence[tuple[np.ndarray, float | None]]:
    """The texts that are shown in colours: all that were drawn; of a beam search the most probable one."""
    return one.found[:1] if one.found[0][1] is not None else one.found


def room_for(sizes: Sequence[int]) -> int:
    """How many of the first items have room together, at least one.

    >>> room_for([9000, 7000, 2000])
    2
    """
    return max(1, int((np.cumsum(sizes) <= ROOM).sum()))


def numbers(run: Run, found: Sequence[Uncertainty]) -> dict[str, str]:
    """What stands large at the top."""
    unit, count = run.alphabet.unit, sum(len(one.bits) for one in found)
    entropy = sum(float(one.entropy.sum()) for one in found) / max(1, count)
    bits = sum(float(one.bits.sum()) for one in found)
    return {
        "translations shown": f"{len(found):,} with {count:,} {unit}s",
        "uncertainty, on average": f"{entropy:.3f} bits/{unit}",
        "all together": f"{bits:,.1f} bits of −log₂ p",
    }


# ---- what the model says -------------------------------------------------------------------------------------


@torch.no_grad()
def uncertainties(
    run: Run, sources: Sequence[np.ndarray], targets: Sequence[np.ndarray]
) -> Iterator[Uncertainty]:
    """Of each translation, from one pass of the chain over some at a time."""
    chain, first = run.chain.eval(), 0
    while first < len(targets):
        count = 1
        while first + count < len(targets) and count < AT_ONCE // max(
            1, *(len(row) for rows in (sources, targets) for row in rows[first : first + count + 1])
        ):
            count += 1
        some = slice(first, first + count)
        x, context = (torch.from_numpy(padded(list(rows[some]))) for rows in (targets, sources))
        logits = chain.logits(x.clamp(min=0), context) if x.numel() else torch.zeros(*x.shape, chain.symbols)
        for row, target in zip(logits.double().log_softmax(-1).numpy(), targets[some], strict=True):
            yield uncertainty(row[: len(target)], target)
        first += count


def uncertainty(log_p: np.ndarray, target: np.ndarray) -> Uncertainty:
    """From ln p (T, K) of all symbols and those (T,) that were chosen."""
    p = np.exp(log_p)
    entropy = -(p * np.maximum(log_p, -1e4)).sum(-1) / math.log(2)
    likely = np.argsort(-log_p, axis=-1, kind="stable")[:, : ELSE + 1]
    bits = -log_p[np.arange(len(target)), target] / math.log(2)
    return Uncertainty(bits, entropy, likely, np.take_along_axis(p, likely, -1))


# ---- the cards -----------------------------------------------------------------------------------------------


def legend() -> str:
    """How to read the colours, in plain words."""
    swatches = "".join(
        f"<i{f' class=s{d}' if d else ''}>{d / STEPS:g}{'+' * (d == DEPTHS)}</i>" for d in range(DEPTHS + 1)
    )
    return section(
        "How to read the colours",
        paragraph(
            "The deeper the ground, the less sure the model was what to write there. 0 bits: only one letter could "
            "come. 1 bit: as uncertain as between two equally likely letters. 2 bits: between four. Underlined: "
            "another letter was likelier. Point at a letter to read how likely it was, and what else was likely. A "
            "letter of several bytes has the sum of theirs. ↵ ends the translation."
        ),
        f'<div class="scale">bits {swatches}</div>',
    )


def card(run: Run, one: Translated, own: Sequence[Uncertainty]) -> str:
    """A source, its translations in colours, and what beam search found beside the best."""
    parts = []
    for (symbols, _), found in zip(coloured_of(one), own, strict=True):
        parts += [coloured(run, symbols, found), paragraph(facts_of(run, symbols, found), "note")]
    return section(one.source.decode(errors="replace"), *parts, runners_up(run, one))


def facts_of(run: Run, symbols: np.ndarray, found: Uncertainty) -> str:
    """The numbers of a translation in words."""
    bits, unit = float(found.bits.sum()), run.alphabet.unit
    open_ = (
        "" if ended(run.alphabet, symbols) or not len(symbols) else " It came to no end within its length."
    )
    return (
        f"{bits:.2f} bits, {bits / max(1, len(symbols)):.3f} bits/{unit}; uncertainty "
        f"{float(found.entropy.sum()) / max(1, len(symbols)):.3f} bits/{unit} on average.{open_}"
    )


def runners_up(run: Run, one: Translated) -> str:
    """The other texts of a beam search, with their bits."""
    rows = [
        (-nats / math.log(2), text_of(run.alphabet, symbols).decode(errors="replace"))
        for symbols, nats in one.found[1:RUNNERS_UP]
        if nats is not None
    ]
    return f"<h3>What else beam search found</h3>\n{table(rows, ['bits', 'translation'])}" if rows else ""


def coloured(run: Run, symbols: np.ndarray, found: Uncertainty) -> str:
    """A translation, each letter on the ground of its entropy; it tells its probability and the alternatives."""
    pieces = [run.alphabet.decode(symbols[i : i + 1]) for i in range(len(symbols))]
    spans = []
    for letter, begin, end in letters(pieces):
        some = range(begin, end)
        told = "\n".join(alternatives(run, pieces, symbols, found, i, begin) for i in some)
        depth = min(DEPTHS, round(STEPS * float(found.entropy[begin:end].sum())))
        chosen = all(symbols[i] == found.likely[i, 0] for i in some)
        kinds = " ".join([f"s{depth}"] * (depth > 0) + ["u"] * (not chosen))
        sign = "↵" if "\n" in letter else "".join(map(plots.picture, letter))
        spans.append(f'<i{f" class={kinds!r}" if kinds else ""} title="{escape(told)}">{escape(sign)}</i>')
    return f'<pre class="surprise line">{"".join(spans)}</pre>'


def letters(pieces: Sequence[bytes]) -> Iterator[tuple[str, int, int]]:
    """(characters, first symbol, the one after the last) of a text whose symbols spell `pieces`.

    Symbols that are no characters stand together with those that they make one with, else alone, as �.

    >>> list(letters([b"a", b"\\xc3", b"\\xa9", b"\\xa9"]))
    [('a', 0, 1), ('é', 1, 3), ('�', 3, 4)]
    """
    begin = 0
    while begin < len(pieces):
        for end in range(begin + 1, min(begin + 4, len(pieces)) + 1):
            try:
                letter = b"".join(pieces[begin:end]).decode()
                break
            except UnicodeDecodeError:
                letter = "\ufffd"
        end = end if letter != "\ufffd" else begin + 1
        yield letter, begin, end
        begin = end


def alternatives(
    run: Run, pieces: Sequence[bytes], symbols: np.ndarray, found: Uncertainty, i: int, begin: int
) -> str:
    """How probable symbol i was, and what else was likely, in words."""
    before = b"".join(pieces[begin:i])
    own = 2.0 ** -float(found.bits[i])
    others = [
        f"{named(before + run.alphabet.decode([k]))} {percent(p)}"
        for k, p in zip(found.likely[i].tolist(), found.probs[i].tolist(), strict=True)
        if k != symbols[i]
    ][:ELSE]
    return (
        f"{named(before + pieces[i])} {percent(own)}, uncertainty {found.entropy[i]:.2f} bits; "
        f"or {', '.join(others) or 'nothing'}"
    )


def named(piece: bytes) -> str:
    """What a symbol spells, as a word for people.

    >>> named(b"a"), named(b" "), named(b"\\n"), named(b"\\xc3"), named(b"\\xc3\\xa9")
    ('a', '␣', '↵', 'a letter of several bytes (C3…)', 'é')
    """
    try:
        said = "".join("␣" if c == " " else "↵" if c == "\n" else plots.picture(c) for c in piece.decode())
    except UnicodeDecodeError:
        return f"a letter of several bytes ({piece.hex(' ').upper()}…)"
    return said


def percent(p: float) -> str:
    """A probability in per cent.

    >>> percent(0.1234), percent(0.00002), percent(0.99999)
    ('12.3 %', '0.002 %', '100 %')
    """
    return f"{100 * p:.3g} %" if p < 0.9995 else "100 %"
