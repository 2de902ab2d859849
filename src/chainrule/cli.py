"""The command line: one short function a verb. Heavy imports happen inside the verbs."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from chainrule import __version__, console
from chainrule.errors import ChainruleError


class Stopped(Exception):
    """Ctrl-C, with what there is to say about it."""


class Verbs(TyperGroup):
    """The commands; Ctrl-C keeps its message, which typer would drop."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            raise Stopped(str(stop)) from stop


app = typer.Typer(
    name="chainrule",
    cls=Verbs,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Learn p(x), or a good code for x, from your own files, and put it to use.",
    epilog="DATA is a name ([bold]chainrule data[/bold]) or a path: a folder of images, a text file or a folder "
    "of texts, a recording or a folder of them, a .npy or .npz array. RUN is a folder that "
    "[bold]chainrule fit[/bold] made, or a model that was learned already and travels along, zoo:NAME "
    "([bold]chainrule models[/bold]), or a folder of GPT-2, or hub:NAME.",
)

LONGEST = 1 << 24  # symbols of a text that is written
WIDEST = 1 << 12  # beginnings of a beam search
OUT_OF_MEMORY = "not enough memory: try fewer or smaller items, or a smaller model"

Data = Annotated[str, typer.Argument(metavar="DATA", help="A name such as digits, or a path.")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A folder made by chainrule fit, or zoo:NAME.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line on standard output.")]
Threads = Annotated[int, typer.Option(min=0, max=1024, help="Processor threads; 0: all.")]
Seed = Annotated[int, typer.Option(min=0, help="Where random numbers start.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite what is there.")]
Temperature = Annotated[
    float, typer.Option(min=0.0, help="Below 1: more probable, above: more varied; 0: the most probable.")
]
TopP = Annotated[
    float,
    typer.Option(
        "--top-p", min=0.0, max=1.0, help="Draw from the most probable symbols that reach P together."
    ),
]
TopK = Annotated[
    int, typer.Option("--top-k", min=0, help="Draw from the K most probable symbols only; 0: from all.")
]


Source = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|N",
        help="What each line of DATA is conditioned on, as a translation is: the lines of FILE; or column N, 1 or 2, "
        "of DATA, a table of two columns with a tab between.",
    ),
]


Seconds = Annotated[
    float | None,
    typer.Option(min=0.0, metavar="S", help="In place of --length: how long a sound is to be drawn."),
]


def show_version(wanted: bool) -> None:
    if wanted:
        print(f"chainrule {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=show_version)
    ] = False,
) -> None:
    pass


@app.command()
def fit(
    data: Annotated[
        str | None,
        typer.Argument(metavar="DATA", help="A name such as digits, or a path; not with --resume."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="A name that chainrule models lists; by default one that suits the data."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="RUN", help="The run folder; by default runs/DATA-MODEL."),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(help="Wall-clock budget; without one a chain takes 10, a code as long as suits it."),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Budget in steps: exactly reproducible.")] = None,
    size: Annotated[str, typer.Option(help="tiny, laptop or paper.")] = "laptop",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Options of the model, such as width=64."),
    ] = None,
    conditional: Annotated[
        bool,
        typer.Option("--conditional", help="Condition on classes: labels, or the sub-folders of a folder."),
    ] = False,
    patches: Annotated[
        int | None,
        typer.Option(min=1, metavar="SIDE", help="Learn from random patches of SIDE × SIDE pixels."),
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="How many patches; by default 100,000.")] = None,
    gray: Annotated[bool, typer.Option("--gray", help="Turn colour images into their luminance.")] = False,
    tokens: Annotated[
        str | None,
        typer.Option(
            metavar="N|FILE",
            help="Byte-pair tokens for texts: so many, learned now, or those of a tokenizer.json.",
        ),
    ] = None,
    source: Source = None,
    bits: Annotated[
        int | None, typer.Option(metavar="8|16", help="Of a sample of sound; 8, mu-law, without it.")
    ] = None,
    rate: Annotated[
        int | None, typer.Option(min=1, metavar="HZ", help="Samples a second that sounds are brought to.")
    ] = None,
    frames: Annotated[
        bool, typer.Option("--frames", help="Condition sound on features of speech, every 10 ms.")
    ] = False,
    start: Annotated[
        str | None,
        typer.Option(
            metavar="RUN", help="Begin from what a chain has learned: a run, a folder of GPT-2, hub:NAME."
        ),
    ] = None,
    holdout: Annotated[
        float, typer.Option(min=0.0, max=0.5, help="Share kept from training to score with.")
    ] = 0.05,
    batch: Annotated[int | None, typer.Option(min=1, help="Items a step of a chain.")] = None,
    lr: Annotated[float | None, typer.Option(min=0.0, help="Highest learning rate of a chain.")] = None,
    save_every: Annotated[
        float, typer.Option(min=0.0, metavar="SECONDS", help="How often the state is saved on the way.")
    ] = 20.0,
    compile: Annotated[
        bool | None, typer.Option("--compile/--no-compile", help="torch.compile; by default when it pays.")
    ] = None,
    bfloat16: Annotated[
        bool | None,
        typer.Option("--bfloat16/--no-bfloat16", help="Train in mixed precision, with --minutes."),
    ] = None,
    seed: Seed = 0,
    threads: Threads = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the training in RUN.")] = False,
    json_: Json = False,
) -> None:
    """Learn a model of DATA."""
    if data is None and not resume:
        raise typer.BadParameter(
            "say what to learn from: a path, or a name that chainrule data lists", param_hint="DATA"
        )
    use_threads(threads)
    from chainrule.verbs.fit import fit as learn

    with console.training(json_) as listen:
        learn(
            data, model, out=out, minutes=minutes, steps=steps, size=size, settings=settings(set_), seed=seed,
            conditional=conditional, patches=patches, count=count, gray=gray, tokens=tokens,
            sources=file_or_column(source), bits=bits, rate=rate, frames=frames, start=start,
            holdout=holdout, batch=batch, lr=lr, compile=compile, bfloat16=bfloat16,
            resume=resume, save_every=save_every, listen=listen,
        )  # fmt: skip


@app.command()
def score(
    run: RunPath,
    data: Data,
    top: Annotated[
        int, typer.Option(min=0, help="How many of the most surprising items to print; 0: all.")
    ] = 10,
    page: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="An .html page to write: texts coloured by surprise, maps of images, sounds to hear.",
        ),
    ] = None,
    source: Source = None,
    threads: Threads = 0,
    force: Force = False,
    json_: Json = False,
) -> None:
    """Exact bits/dim (of texts a byte, of sounds a sample) of DATA and of every item, most surprising first."""
    use_threads(threads)
    from chainrule import output

    page = page and output.free(page, (".html",), force)
    opened, dataset = open_both(run, data, source)
    output.score_data(opened, dataset, data, page, top, json_)


@app.command()
def sample(
    run: RunPath,
    n: Annotated[
        int | None, typer.Option("-n", min=1, help="How many; by default 64 images, 4 sounds, or 1 text.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            help="A .png sheet, .npy array or .txt; texts go to the screen without it. Of sounds a .wav: several are "
            "NAME-0.wav, NAME-1.wav, ...; or an array of their symbols.",
        ),
    ] = None,
    temperature: Temperature = 1.0,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    prompt: Annotated[str, typer.Option(help="How a text begins.")] = "",
    length: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=LONGEST,
            help="Symbols of a text; by default 500, of a translation at most twice those of its source, and 50. "
            "Samples of a sound; by default as many as recordings that it learned from have, but at most 5 seconds.",
        ),
    ] = None,
    seconds: Seconds = None,
    source: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What to translate, by a run of pairs of texts.")
    ] = None,
    source_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Lines to translate, in their order; or a recording whose words are said again.",
        ),
    ] = None,
    beam: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=WIDEST,
            metavar="W",
            help="Find the most probable text by beam search, in place of drawing.",
        ),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="An .html page to write: sounds to hear and see, or where a translation was uncertain.",
        ),
    ] = None,
    height_width: Annotated[
        str | None, typer.Option("--event", metavar="HxW", help="Size of an image, such as 32x32.")
    ] = None,
    class_: Annotated[
        str | None,
        typer.Option("--class", metavar="C", help="A class by name or number; all in turn without it."),
    ] = None,
    seed: Seed = 0,
    threads: Threads = 0,
    force: Force = False,
    json_: Json = False,
) -> None:
    """Draw new images, texts or sounds."""
    use_threads(threads)
    from chainrule import output, translation

    opened = open_run(run)
    is_text, translates = opened.info.get("kind") == "text", bool(getattr(opened.model, "source", 0))
    translation.check_beam(beam, temperature, top_p, top_k)
    is_sound = opened.sound is not None
    if is_text or is_sound:
        refuse("--event", height_width, f"is for images{': of a sound say --seconds' * is_sound}")
    for option, value in {"--source": source, "--source-file": source_file, "--page": page}.items():
        if not translates and not (is_sound and option in ("--page", "--source-file")):
            refuse(option, value, f"is for models that are conditioned on a source text, {run} holds none")
    refuse("--seconds", None if is_sound else seconds, "is for sounds")
    draws = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "seed": seed}
    if translates:
        refuse("--class", class_, "has no meaning: the model is conditioned on a source text")
        translation.sample_translations(
            opened, n, out, source, source_file, prompt, length, beam, page, draws, force, json_
        )
    elif is_text and beam:
        translation.sample_most_probable(opened, n, out, prompt, length or 500, class_, beam, json_, force)
    elif is_text:
        output.sample_text(
            opened, n or 1, out, prompt, length or 500, class_, temperature, top_p, top_k, seed, force, json_
        )
    elif is_sound:
        from chainrule import hearing

        refuse("--prompt", prompt, "is for texts: chainrule complete goes on with a recording")
        refuse("--beam", beam, "is for texts")
        if not opened.chain.frames:
            refuse(
                "--source-file", source_file, "is for models that are conditioned on frames: see fit --frames"
            )
        hearing.sample_sounds(opened, n, out, length, seconds, class_, source_file, page, draws, force, json_)
    else:
        refuse("--prompt", prompt, "is for texts")
        refuse("--beam", beam, "is for texts")
        refuse("--length", length, "is for texts and sounds")
        output.sample_events(
            opened, n or 64, out, height_width, class_, temperature, top_p, top_k, seed, force, json_
        )


@app.command()
def complete(
    run: RunPath,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An image, a text or a sound.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            help="A .png sheet, .npy array or .txt; of sounds a .wav: several are NAME-0.wav, NAME-1.wav, ...",
        ),
    ] = None,
    n: Annotated[
        int | None, typer.Option("-n", min=1, help="How many completions; by default 8, of a sound 3.")
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(
            metavar="top:SHARE",
            help="What is given; by default top:0.5 of an image or a sound, top:1 of a text.",
        ),
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(help="An image of the same size: white is given, black is drawn.")
    ] = None,
    class_: Annotated[
        str | None, typer.Option("--class", metavar="C", help="A class by name or number.")
    ] = None,
    length: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=LONGEST,
            help="Symbols to add to a text, by default 500; samples to a sound, by default as many as were cut away.",
        ),
    ] = None,
    seconds: Seconds = None,
    page: Annotated[
        Path | None, typer.Option(metavar="FILE", help="An .html page to write: sounds to hear and see.")
    ] = None,
    temperature: Temperature = 1.0,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    seed: Seed = 0,
    threads: Threads = 0,
    force: Force = False,
    json_: Json = False,
) -> None:
    """Several completions of one beginning."""
    use_threads(threads)
    from chainrule import hearing, output

    opened = open_run(run)
    if opened.sound is not None:
        refuse("--mask", mask, "is for images: of a sound the beginning is given, see --keep")
        draws = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "seed": seed}
        hearing.complete_sound(opened, file, out, n, keep, class_, length, seconds, page, draws, force, json_)
        return
    refuse("--seconds", seconds, "is for sounds")
    refuse("--page", page, "is for sounds")
    length = 500 if length is None else length
    output.complete_file(
        opened, file, out, n or 8, keep, mask, class_, length, temperature, top_p, top_k, seed, force, json_
    )


@app.command()
def compress(
    run: RunPath,
    data: Data,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="ARCHIVE", help="The archive to write.")],
    no_embed: Annotated[
        bool, typer.Option("--no-embed", help="Refer to the model instead of embedding it.")
    ] = False,
    threads: Threads = 0,
    force: Force = False,
    json_: Json = False,
) -> None:
    """Compress DATA without loss; the model travels in the archive."""
    use_threads(threads)
    from chainrule import packing

    opened = open_run(run)
    if opened.sound is None:
        opened, dataset = open_both(run, data)
    else:
        dataset = packing.sounds(opened, data, classes=opened.info.get("classes") or False)
    packing.compress(opened, dataset, Path(data), out, not no_embed, force, json_)


@app.command()
def decompress(
    archive: Annotated[Path, typer.Argument(metavar="ARCHIVE")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Where the files go.")],
    run: Annotated[Path | None, typer.Option(help="The model, when it is not in the archive.")] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this item; may be given several times.")
    ] = None,
    threads: Threads = 0,
    force: Force = False,
    json_: Json = False,
) -> None:
    """Bring back what compress stored."""
    use_threads(threads)
    from chainrule import packing

    packing.decompress(archive, out, run, only or None, force, json_)


@app.command()
def inspect(archive: Annotated[Path, typer.Argument(metavar="ARCHIVE")], json_: Json = False) -> None:
    """What is in an archive: items, shapes, sizes, model, arithmetic."""
    from chainrule.archive import inspect as look

    console.contents(look(archive), json_)


@app.command()
def verify(
    archive: Annotated[Path, typer.Argument(metavar="ARCHIVE")],
    run: Annotated[Path | None, typer.Option(help="The model, when it is not in the archive.")] = None,
    threads: Threads = 0,
    json_: Json = False,
) -> None:
    """Check every byte of an archive, and decode it against its hashes."""
    use_threads(threads)
    from chainrule import packing

    packing.verify(archive, run, json_)


@app.command()
def encode(
    run: RunPath,
    data: Data,
    out: Annotated[
        Path,
        typer.Option(
            "-o", "--out", metavar="CODES", help="A .npy array, or a sparse .npz (scipy.sparse, CSR)."
        ),
    ],
    patches: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="SIDE",
            help="Codes of all patches on a grid; by default as the run learned from them.",
        ),
    ] = None,
    stride: Annotated[
        int | None, typer.Option(min=1, help="Pixels from patch to patch; by default SIDE.")
    ] = None,
    threads: Threads = 0,
    force: Force = False,
    json_: Json = False,
) -> None:
    """Codes of DATA, a row each, in single precision; of a recurrent chain its cells after the last symbol."""
    use_threads(threads)
    from chainrule import encoding

    opened, dataset = open_both(run, data)
    encoding.encode(opened, dataset, out, patches, stride, force, json_)


@app.command()
def decode(
    run: RunPath,
    codes: Annotated[Path, typer.Argument(metavar="CODES", help="What encode wrote: .npy or .npz.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="A .npy array, or a .png sheet of images.")],
    height_width: Annotated[
        str | None,
        typer.Option("--event", metavar="HxW", help="Put the patches together to images of this size."),
    ] = None,
    stride: Annotated[
        int | None, typer.Option(min=1, help="As for encode, with --event; overlaps are averaged.")
    ] = None,
    threads: Threads = 0,
    force: Force = False,
    json_: Json = False,
) -> None:
    """Events from their codes."""
    use_threads(threads)
    from chainrule import encoding

    encoding.decode(open_run(run), codes, out, height_width, stride, force, json_)


@app.command()
def probe(
    run: RunPath,
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="Events with classes: a name, an .npz with x_train and x_test, or a folder of classes, of which "
            "every fifth event of each class is held out to test with.",
        ),
    ],
    labels: Annotated[
        list[int] | None,
        typer.Option(min=2, metavar="N", help="How many; several times. By default 10, 100 and 1,000."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Draws of the labelled events.")] = 5,
    seed: Seed = 0,
    threads: Threads = 0,
    json_: Json = False,
) -> None:
    """What a few labels are worth on top of a code, or the cells of a recurrent chain, and on the data themselves."""
    use_threads(threads)
    from chainrule.verbs.probe import probe as worth

    code, learn, test, divided = open_divided(run, data)
    with console.progress("probing", 2 * seeds, json_) as tick:
        rows = worth(code, learn, test, labels, seeds, seed, tick)
    console.probes(rows, learn, test, divided, json_)


@app.command()
def report(
    run: RunPath,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="DIR", help="By default RUN/report.")
    ] = None,
    threads: Threads = 0,
    json_: Json = False,
) -> None:
    """A page to look at."""
    use_threads(threads)
    from chainrule.report import report as write

    opened = open_run(run)
    page = write(opened, out if out is not None else opened.folder / "report")
    console.record({"page": str(page)}, json_)


@app.command()
def models(json_: Json = False) -> None:
    """The models there are; "step": by a program of the engine (fast, the same bits everywhere) or by full passes."""
    from chainrule.catalogue import learned, systems

    console.table(systems(), ["model", "is", "data", "step", "about"], json_)
    console.say("\nLearned already, for every verb that takes a RUN:", json_)
    console.table(learned(), ["model", "about"], json_)


@app.command()
def data(json_: Json = False) -> None:
    """The named sets there are."""
    from chainrule.data import describe

    console.table(describe(), None, json_)


@app.command()
def lecture(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="One of the figures that are listed without it.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="DIR", help="By default lecture/NAME.")
    ] = None,
    size: Annotated[str, typer.Option(help="tiny, laptop (seconds to ten minutes) or paper.")] = "laptop",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Options of the figure, such as run=runs/digits."),
    ] = None,
    seed: Seed = 0,
    threads: Threads = 0,
    json_: Json = False,
) -> None:
    """A figure of the lecture, learned and drawn now; without NAME what there is."""
    if name is None:
        from chainrule.lecture import figures

        console.table(figures(), None, json_)
        return
    use_threads(threads)
    from chainrule.lecture import lecture as draw

    with console.steps() as show:
        facts = draw(name, out, size, seed, show, settings(set_))
    console.figure(facts, json_)


@app.command()
def tour(
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Where everything goes.")] = Path(
        "tour"
    ),
    threads: Threads = 0,
    json_: Json = False,
) -> None:
    """The main job on data that ships with scikit-learn: all verbs, about three minutes, a page at the end."""
    use_threads(threads)
    from chainrule.tour import tour as go

    go(out, json_)


def settings(pairs: list[str] | None) -> dict[str, Any]:
    """KEY=VALUE options as a dict; a value is JSON where it can be, else text."""
    result = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ChainruleError(f"--set {pair}: write it as KEY=VALUE")
        try:
            result[key] = json.loads(value)
        except (ValueError, RecursionError):
            result[key] = value
    return result


def use_threads(threads: int) -> None:
    """Set the number of threads before PyTorch is imported, and after."""
    if threads:
        os.environ["OMP_NUM_THREADS"] = str(threads)
        import torch

        torch.set_num_threads(threads)


def open_run(path: Path):
    """The run at `path`."""
    from chainrule.models import open_run as opened

    return opened(path)


def open_both(run: Path, source: str, sources: str | None = None):
    """A run and the data to use it on: of a named set the test split; channels and classes as the model wants them."""
    from chainrule.data import load

    opened = open_run(run)
    if sources is not None and not getattr(opened.model, "source", 0):
        refuse("--source", sources, f"is for models that are conditioned on a source text, {run} holds none")
    data = load(source, split="test", sources=file_or_column(sources), **as_fitted(opened))
    console.passed_over(data)
    return opened, data


def open_divided(run: Path, source: str):
    """The code of a run, and what `train_test` gives, read as by `open_both` but with classes."""
    from chainrule.data import train_test

    opened = open_run(run)
    code, side = opened.code, opened.info.get("reading", {}).get("patches")
    reading = as_fitted(opened)
    learn, test, divided = train_test(source, **{**reading, "classes": reading["classes"] or True})
    console.passed_over(learn)
    if side and learn.kind == "image" and (learn.event or ())[:2] != (side, side):
        raise ChainruleError(
            f"{run} codes patches of {side} × {side} pixels, and {source} has whole images: fit --model pooled makes "
            "one code of an image"
        )
    return code, learn, test, divided


def as_fitted(opened) -> dict[str, Any]:
    """The arguments of `load` that give data as the model of a run wants them."""
    info = opened.info
    return {
        **opened.heard,
        "levels": info.get("levels"),
        "classes": info.get("classes") or False,
        "channels": getattr(opened.model, "channels", None),
        "gray": info.get("reading", {}).get("gray", False),
        "frames": info.get("reading", {}).get("frames", False),
        "alphabet": opened.alphabet,
    }


def file_or_column(source: str | None) -> str | int | None:
    """What --source says: a file, or the number of a column."""
    return int(source) if source is not None and source.isdecimal() and len(source) < 10 else source


def refuse(option: str, value: Any, why: str) -> None:
    """One clear line about an option that has no meaning here."""
    if value not in (None, "", False):
        raise ChainruleError(f"{option} {value} {why}: leave it out")


def help_for(error: Any) -> str:
    """Where to read how the command that was misused is used."""
    path = getattr(getattr(error, "ctx", None), "command_path", "chainrule")
    return f" (see {path} --help)"


def main(argv: list[str] | None = None) -> None:
    """Run a command; exit 0 on success, 2 on wrong usage, 1 on an error told in one line, 130 on Ctrl-C."""
    usage_error: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show a name is no error
    try:
        code = app(argv, standalone_mode=False) or 0
        sys.stdout.flush()  # so that a reader who has gone is noticed here
    except usage_error as error:
        code = error.exit_code
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()
        else:
            console.fail(f"{error.format_message()}{help_for(error)}")
    except typer.Exit as error:
        code = error.exit_code
    except (Stopped, KeyboardInterrupt, typer.Abort) as error:
        console.complain(f"stopped: {error}" if str(error) else "stopped")
        code = 130
    except ChainruleError as error:
        console.fail(f"{error}")
        code = 1
    except MemoryError:
        console.fail(OUT_OF_MEMORY)
        code = 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):  # PyTorch has no MemoryError of its own
            raise
        console.fail(OUT_OF_MEMORY)
        code = 1
    except OSError as error:
        console.fail(f"{error.filename or 'file'}: {error.strerror or error}")
        code = 1
    sys.exit(code if isinstance(code, int) else 0)
