"""What the command line shows: people get colours and bars on standard error, --json gives one object a line."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from chainrule.data import Dataset
    from chainrule.verbs.probe import Probed

LONG = 600  # characters of an error
SHORT = 24  # characters of a name that is not wrapped
NAMED = 20  # files named in a line about what was left out
SPARSE = 997  # one sample of so many tells most sounds from silence
LISTED = 10  # items of an archive that people are shown
COUNTED = {"bits/byte": "bytes", "bits/sample": "samples"}  # what a score is counted by


def err() -> Console:
    """Where progress and complaints go."""
    return Console(stderr=True, highlight=False)


def out() -> Console:
    """Where results go."""
    return Console(highlight=False)


def plain(text: object) -> str:
    """Text as rich prints it: no markup, and control characters as escapes, so that no name garbles a terminal."""
    from chainrule.data.reading import printable

    return escape(printable(str(text)))


def complain(text: str) -> None:
    """One line on standard error, whatever the width of the terminal."""
    from chainrule.data.reading import printable

    print(printable(" ".join(text.splitlines())), file=sys.stderr)


def fail(text: str) -> None:
    """What went wrong and the way out; from the middle of a very long line, which holds names, a part is left out."""
    complain(f"error: {text if len(text) <= LONG else f'{text[: LONG // 2]} … {text[-LONG // 2 :]}'}")


def passed_over(data: Dataset) -> None:
    """Tell which files of a folder or pairs of texts were left out, and which files hold more than is read of them."""
    tell_of(data.skipped, "left out", "file" if data.sources is None else "pair")
    read = {"text": "text that is", "sound": "samples that are"}.get(data.kind, "pixels that are")
    tell_of(data.reduced, f"with more than the {read} read")
    if data.kind == "sound":
        tell_of([(name, "silence throughout") for name in silent(data)], "kept all the same")


def silent(data: Dataset) -> list[str]:
    """The names of the sounds whose samples are all equal."""
    few = [(name, x) for name, x in zip(data.names, data.x, strict=True) if (x[::SPARSE] == x[:1]).all()]
    return [name for name, x in few if (x == x[:1]).all()]


def tell_of(files: Sequence[tuple[str, str]], what: str, things: str = "file") -> None:
    """One line: how many files or pairs (name, why), and their names."""
    if files:
        names = [f"{name} ({why})" for name, why in files[:NAMED]]
        more = [f"and {len(files) - NAMED:,} more"] if len(files) > NAMED else []
        complain(f"{len(files):,} {things}{'s' * (len(files) > 1)} {what}: {'; '.join(names + more)}")


def emit(row: dict[str, Any]) -> None:
    """One JSON object on standard output."""
    print(json.dumps(row, ensure_ascii=False), flush=True)


def say(text: str, json_: bool = False) -> None:
    """A line for people; nothing under --json."""
    if not json_:
        out().print(text, soft_wrap=True)


def record(row: dict[str, Any], json_: bool) -> None:
    """A few facts, name and value."""
    if json_:
        emit(row)
        return
    width = max((len(k) for k in row), default=0)
    for key, value in row.items():
        shown = json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value
        shown = f"{value:,.4f}" if isinstance(value, float) else shown
        out().print(f"[dim]{plain(key.replace('_', ' ')):<{width}}[/dim]  {plain(shown)}", soft_wrap=True)


def table(rows: list[dict[str, Any]], columns: list[str] | None, json_: bool) -> None:
    """Rows as a table, or one object each."""
    if json_:
        for row in rows:
            emit(row)
        return
    shown = columns or list(rows[0])
    grid = Table(box=None, header_style="bold", pad_edge=False)
    for name in shown:
        short = all(len(str(row[name])) <= SHORT for row in rows)
        grid.add_column(name.replace("_", " "), overflow="fold", no_wrap=short and name in ("model", "name"))
    for row in rows:
        grid.add_row(
            *(
                plain(", ".join(map(str, v)) if isinstance(v, list | tuple) else "" if v is None else v)
                for v in (row[c] for c in shown)
            )
        )
    out().print(grid)


def figure(facts: dict[str, Any], json_: bool) -> None:
    """A figure of the lecture: its table, and where it lies."""
    if json_:
        emit(facts)
        return
    rows = [{k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()} for row in facts["rows"]]
    table(rows, None, json_)
    for file in facts["files"]:
        say(f"[bold]{plain(file)}[/bold]")


def contents(found: dict[str, Any], json_: bool) -> None:
    """What is in an archive: its facts, and for people its first items."""
    entries = found["entries"]
    if json_:
        emit(found)
        return
    record({key: value for key, value in found.items() if key != "entries"}, json_)
    out().print()
    table([{**row, "shape": " × ".join(map(str, row["shape"]))} for row in entries[:LISTED]], None, json_)
    if len(entries) > LISTED:
        say(f"and {len(entries) - LISTED:,} more: --json lists all")


def scores(total: dict[str, Any], items: list[dict[str, Any]], json_: bool) -> None:
    """The score of a data set and of its items."""
    if json_:
        emit({"total": total})
        for item in items:
            emit(item)
        return
    tokens, unit = "tokens" in total, total["unit"]
    what = COUNTED.get(unit, "symbols")
    out().print(
        f"[bold]{total['bits_per_dim']:.4f} {unit}[/bold] over {total['items']:,} items "
        f"of {plain(total['data'])} ({'at most' if tokens else 'exact'}; "
        f"{total['symbols']:,} {what}, {total['nats_per_item']:,.2f} nats an item)",
        soft_wrap=True,
    )
    if tokens:
        each = f"{total['nats_per_token']:.4f} nats a token, {total['tokens']:,} of them"
        out().print(f"[dim]{'tokens':<12}[/dim]  {each}: {plain(total['bound'])}", soft_wrap=True)
    out().print(f"[dim]context rule[/dim]  {plain(total['context_rule'])}", soft_wrap=True)
    if items:
        grid = Table(box=None, header_style="bold", pad_edge=False)
        for name in ("most surprising", unit, "nats"):
            grid.add_column(name, justify="left" if name[0] == "m" else "right", overflow="fold")
        for item in items:
            grid.add_row(plain(item["name"]), f"{item['bits_per_dim']:.4f}", f"{item['nats']:,.2f}")
        out().print(grid)
    if "page" in total:
        say(f"[bold]{plain(total['page'])}[/bold]")


def probes(rows: Sequence[Probed], learn: Dataset, test: Dataset, divided: bool, json_: bool) -> None:
    """What labels are worth: an object a row of `rows`; for people a line of the table a kind of features."""
    if json_:
        for row in rows:
            emit({**asdict(row), "accuracy": row.accuracy, "interval": row.interval, "held_out": not divided})
        return
    lines: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        line = lines.setdefault(
            (row.features, row.probe),
            {"probe": row.probe, "features": row.features, "width": f"{row.width:,}"},
        )
        margin = "" if row.margin is None else f" ± {100 * row.margin:.1f}"
        line[f"{row.labels:,} labels"] = f"{100 * row.accuracy:.1f}{margin}"
    table(list(lines.values()), None, False)
    held = "" if divided else f", held out of {plain(learn.source)}: every fifth of each class"
    draws = len(rows[0].accuracies)
    spread = (
        f", mean of {draws} draws of the labels ± 95 % t-interval"
        if draws > 1
        else ", one draw of the labels"
    )
    say(f"[dim]% right of {len(test):,} test events{held}{spread}[/dim]")


@contextmanager
def progress(what: str, total: int, json_: bool) -> Iterator[Callable[[int], object]]:
    """A bar on standard error; yields a function that takes how much is done."""
    if json_ or not err().is_terminal:
        yield lambda done: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err(), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


@contextmanager
def steps() -> Iterator[Callable[[str, int, int], None]]:
    """A bar whose name changes with the work, in a terminal: yields show(what, done, total)."""
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    with Progress(*columns, console=err(), transient=True, disable=not err().is_terminal) as bar:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)

        yield show


@contextmanager
def training(json_: bool) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A listener for `fit`: a live bar in a terminal, a line every 30 seconds elsewhere, objects under --json."""
    shown: dict[str, Any] = {"bar": None, "last": time.monotonic(), "line": None, "unit": ""}
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("{task.fields[text]}"),
        console=err(), transient=True, disable=json_ or not err().is_terminal,
    ) as bar:  # fmt: skip
        task = bar.add_task("learning", total=1.0, text="")

        def listen(event: dict[str, Any]) -> None:
            if event["event"] == "data":
                passed_over(event["data"])
            elif event["event"] == "start":
                shown["unit"] = unit_in(event["info"])
                announce(event, json_)
            elif event["event"] == "step":
                state, line = event["training"], event["log"]
                bar.update(task, completed=state.done, text=told(line, shown["unit"]))
                if (
                    line
                    and line is not shown["line"]
                    and (json_ or ("val_bits" in line or time.monotonic() - shown["last"] > 30))
                ):
                    shown["last"], shown["line"] = time.monotonic(), line
                    if json_:
                        emit(line)
                    elif not err().is_terminal:
                        complain(f"step {told(line, shown['unit'])}")
            elif event["event"] == "end":
                bar.stop()
                conclude(event, json_)

        yield listen


def unit_in(info: dict[str, Any]) -> str:
    """The unit of the scores of a run."""
    from chainrule.data import unit_of

    return unit_of(info.get("kind"))


def told(line: dict[str, Any], unit: str = "bits/dim") -> str:
    """One line of metrics in words."""
    if not line:
        return ""
    loss = f"{line['loss_bits']:.4f} {unit}" if "loss_bits" in line else f"loss {line['loss']:.4g}"
    stage = [f"stage {line['stage']}"] if "stage" in line else []
    parts = [*stage, f"{line['step']:,}", f"{line['seconds']:.0f} s", loss]
    if "val_bits" in line:
        parts.append(f"held out about {line['val_bits']:.4f}")
    if "steps_per_s" in line:
        parts.append(f"{line['steps_per_s']:.2f} steps/s")
    return "  ".join(parts)


def announce(event: dict[str, Any], json_: bool) -> None:
    """What is about to be learned."""
    state, info = event["training"], event["info"]
    count = sum(p.numel() for p in getattr(state, "params", {}).values())
    size = f" ({count:,} parameters)" if count else ""
    minutes, steps = state.plan.minutes, state.plan.steps
    budget = f"{minutes:g} minutes" if minutes else "one pass" if steps is None else f"{steps:,} steps"
    more = f", from step {state.step:,}" if state.step else ""
    say(
        f"[bold]{info['model']}[/bold]{size} learns {info['items']:,} items "
        f"of {plain(info['data'])} for {budget}{more}",
        json_,
    )


def conclude(event: dict[str, Any], json_: bool) -> None:
    """How it ended."""
    info = event["info"]
    if json_:
        emit({"run": str(event["folder"]), **{k: info[k] for k in ("trained", "held_out") if k in info}})
        return
    held = info.get("held_out")
    kind = "at most" if "tokens" in info else "exact"
    text = (
        f"; {held['items']:,} held-out items need [bold]{held['bits_per_dim']:.4f} {unit_in(info)}[/bold] ({kind})"
        if held
        else ""
    )
    say(f"saved in [bold]{plain(event['folder'])}[/bold]{text}")
