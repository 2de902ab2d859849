"""Sounds on a page: each with a player, its waveform, its spectrogram and, where it was scored, how it surprised.

`chainrule sample RUN --page FILE.html` and `chainrule complete RUN FILE --page FILE.html` show what they drew. The
pages of `report` and `score` are made of the same parts.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from chainrule import plots, store
from chainrule.data import Sound
from chainrule.data.wav import header
from chainrule.models import TABLE, Run
from chainrule.report import sections
from chainrule.report.page import page, paragraph, player, section, text, vector

LONGEST = 8.0  # seconds of a sound that are shown at most
SAMPLES = 1 << 17  # of a sound that are shown at most
ROOM = 1 << 21  # samples on a page, all sounds together: 5.6 MB of it
USUAL = 1.0  # seconds of a sound, when nobody says how long
SHORT = (
    5.0  # seconds: as long as the recordings that a model learned from, but no longer, is a sound by default
)


@dataclass(frozen=True)
class Heard:
    """A sound to hear and to look at.

    Attributes:
        samples: (T,) int16.
        rate: samples a second.
        name: what it is, in the words of the caption.
        number: what stands large before the name.
        bits: (T,) what each sample needed, or None.
        given: how many samples at its beginning were given to the model that drew the rest.
        start: the second of the recording at which these samples begin.
        left: seconds of the recording that are not shown.
    """

    samples: np.ndarray
    rate: int
    name: str = ""
    number: str = ""
    bits: np.ndarray | None = None
    given: int = 0
    start: float = 0.0
    left: float = 0.0


def wav(samples: np.ndarray, rate: int) -> bytes:
    """The bytes of a .wav file of one channel and 16 bits: 44 of its header, then the samples (T,) int16.

    >>> wav(np.array([1, -2]), rate=8000)[36:].hex(" ", 4)
    '64617461 04000000 0100feff'
    """
    return header("16 bit", rate, len(samples)) + np.asarray(samples).astype("<i2").tobytes()


def usual_length(run: Run) -> int:
    """How many samples a sound has when nobody says: those of the middle recording that was learned, of 5 s at most."""
    rate, length = sound_in(run).rate, run.info.get("length")
    return min(length, round(SHORT * rate)) if length else round(USUAL * rate)


def room_of(rate: int) -> int:
    """How many samples of a sound are shown at most.

    >>> room_of(8000), room_of(44100)
    (64000, 131072)
    """
    return min(round(LONGEST * rate), SAMPLES)


def shortened(one: Heard) -> Heard:
    """The beginning of a sound, or, of a long one that was begun by others, what lies around the end of that."""
    room, length = room_of(one.rate), len(one.samples)
    if length <= room:
        return one
    first = min(max(0, one.given - room // 2), length - room)
    here = slice(first, first + room)
    return replace(
        one,
        samples=one.samples[here],
        bits=None if one.bits is None else one.bits[here],
        given=max(0, one.given - first),
        start=one.start + first / one.rate,
        left=one.left + (length - room) / one.rate,
    )


def shown(sounds: Sequence[Heard]) -> tuple[list[Heard], int]:
    """The first sounds that there is room for, each shortened, and how many are left out."""
    short = [shortened(one) for one in sounds]
    fit = max(1, int((np.cumsum([len(one.samples) for one in short]) <= ROOM).sum())) if short else 0
    return short[:fit], len(short) - fit


def gallery(sounds: Sequence[Heard], most: float | None = None) -> str:
    """Sounds beside and below each other; `most`: bits at the top of the surprise of all."""
    return f'<div class="sounds">{"".join(figure(one, most) for one in sounds)}</div>'


def greatest(sounds: Sequence[Heard]) -> float:
    """The greatest surprise that is drawn of some sounds."""
    curves = [plots.in_windows(one.bits, one.rate) for one in sounds if one.bits is not None]
    return max((float(curve.max(initial=0)) for curve in curves), default=0.0)


def figure(one: Heard, most: float | None = None) -> str:
    """A sound: caption, player, picture."""
    large = f"<b>{text(one.number)}</b> " if one.number else ""
    caption = f"<figcaption>{large}{text(one.name)}{text(excerpt(one))}</figcaption>"
    drawn = plots.sound_plot(one.samples, one.rate, one.bits, one.given, one.start, most)
    what = "Waveform and spectrogram" if one.bits is None else "Waveform, spectrogram and surprise over time"
    picture = vector(drawn, f"{what} of {one.name or 'a sound'}")
    return f"<figure>{caption}{player(wav(one.samples, one.rate))}{picture}</figure>"


def excerpt(one: Heard) -> str:
    """Which part of a recording is shown, when it is not all of it; else how long it is."""
    seconds = len(one.samples) / one.rate
    if not one.left:
        return f", {seconds:.2f} s"
    needs = f", at {float(np.mean(one.bits)):.3f} bits/sample" if one.bits is not None else ""
    where = f"second {one.start:.1f} to {one.start + seconds:.1f}{needs}"
    return f"; here {where}; the other {one.left:.1f} s are left out"


def legend(rate: int, surprise: bool, given: bool = False) -> str:
    """How to read the pictures, in plain words."""
    words = (
        "At the top the waveform; below it the spectrogram: which frequencies sound when, from clear (silence, or "
        f"{plots.DEEP:.0f} dB below the loudest place of that sound) over blue to orange (the loudest). Frequencies go "
        f"up to {rate / 2000:g} kHz, half of the {rate:,} samples a second."
    )
    if surprise:
        least = 1000 * plots.SHORT
        words += (
            " The lowest curve is the surprise: the bits that a sample needed, as means of short windows "
            f"({least:.0f} ms, longer where the sound is longer), on the same scale for all. High is where the model "
            "expected something else."
        )
    if given:
        words += " Gray, before the dashed line, is what was given to the model."
    return paragraph(words, "note")


def left_out(count: int) -> str:
    """A note about sounds for which there is no room."""
    return paragraph(f"{count:,} further sounds are not shown here.", "note") if count else ""


def sounds_section(heading: str, words: str, sounds: Sequence[Heard], most: float | None = None) -> str:
    """A card of sounds; of too many the first are shown, and it says so."""
    some, left = shown(sounds)
    return section(heading, paragraph(words) if words else "", gallery(some, most), left_out(left))


# ---- the page of samples and completions ---------------------------------------------------------------------


def sounds_page(
    run: Run,
    drawn: Sequence[Heard],
    numbers: dict[str, str],
    command: Sequence[str],
    real: Heard | None = None,
) -> str:
    """The page, HTML: sounds that a model drew, after the beginning of `real` when that is given.

    Args:
        numbers: what stands large at the top.
        command: what was typed.
    """
    sound = sound_in(run)
    completed = real is not None
    title = f"{'Continued' if completed else 'Drawn'} by {run.info['model']}"
    how = "after a beginning that was given" if completed else "from nothing"
    lead = f"Sounds that the model drew {how}, one sample after the other, given the samples before it: {coded(sound)}."
    cards = [section("How to read the pictures", legend(sound.rate, surprise=False, given=completed))]
    heading = "The recording, and its beginning continued by the model" if completed else "Drawn by the model"
    cards.append(sounds_section(heading, "", drawn if real is None else [real, *drawn]))
    cards.append(facts_of(run, command))
    return page(title, cards, lead, numbers)


def facts_of(run: Run, command: Sequence[str]) -> str:
    """The model, and how to make the page again."""
    known: dict[str, Any] = {
        "model": run.info["model"],
        "fitted to": run.info.get("data"),
        "sound": coded(sound_in(run)),
        "context rule": run.chain.context_rule(),
        "identity (SHA-256)": store.sha256(run.model, TABLE),
    }
    return sections.facts_section({k: v for k, v in known.items() if v}, [shlex.join(command)])


def coded(sound: Sound) -> str:
    """What a sound is, in words.

    >>> coded(Sound(8000, "mu-law"))
    '8,000 samples a second, 8 bits each (mu-law)'
    """
    law = " (mu-law)" if sound.coding == "mu-law" else ""
    return f"{sound.rate:,} samples a second, {sound.bits} bits each{law}"


def sound_in(run: Run) -> Sound:
    """What the symbols of the sounds of a run stand for."""
    assert run.sound is not None
    return run.sound
