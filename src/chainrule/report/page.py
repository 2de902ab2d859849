"""One HTML page that needs nothing but itself: no script, no request, no file beside it.

Every builder gives HTML and escapes what it is given, so texts and file names can be anything.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from PIL import Image

from chainrule import plots

STYLE = """
:root { color-scheme: light dark; --ground: #faf9f7; --card: #fff; --ink: #26303c; --soft: #5f6b7a;
  --line: #e3e1dc; --accent: #b65a17; --code: #f1efea; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171b; --card: #1c2026; --ink: #dde3ea;
  --soft: #98a4b3; --line: #323943; --accent: #eb9a5b; --code: #262b33; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
body > * { max-width: 66rem; margin-left: auto; margin-right: auto; padding: 0 1.1rem; }
header { padding-top: 2.4rem; padding-bottom: .4rem; }
h1 { font-size: clamp(1.5rem, 4.5vw, 2.1rem); line-height: 1.2; margin: 0; letter-spacing: -.01em;
  overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 0 0 .3rem; }
p { margin: .3rem 0 .8rem; max-width: 46rem; overflow-wrap: anywhere; }
header p, figcaption, .note { color: var(--soft); }
.numbers { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1rem 0 .2rem; padding: 0; }
.numbers div { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: .7rem 1rem; flex: 1 1 9.5rem; }
.numbers dt { font-size: .84rem; color: var(--soft); }
.numbers dd { margin: 0; font-size: 1.45rem; line-height: 1.25; font-weight: 600;
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.numbers dd small { font-size: .84rem; font-weight: 400; color: var(--soft); }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 1.2rem;
  grid-column: 1 / -1; min-width: 0; }
main { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 1.1rem; margin-top: 1.1rem;
  margin-bottom: 1.1rem; }
@media (min-width: 56rem) { section.half { grid-column: auto; } }
.row { display: flex; flex-wrap: wrap; gap: 1.2rem 2rem; align-items: flex-start; }
figure { margin: .5rem 0; max-width: 100%; }
figcaption { font-size: .88rem; padding-top: .35rem; overflow-wrap: anywhere; }
.row figure { flex: 0 1 auto; }
.classes { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr));
  gap: .6rem 2rem; }
.classes figure { display: flex; align-items: center; gap: .8rem; margin: 0; }
.classes figcaption { order: -1; min-width: 1.2rem; max-width: 7rem; padding: 0; color: var(--ink); }
.classes img { min-width: 0; }
figure.wide { flex: 1 1 22rem; }
img { display: block; max-width: 100%; height: auto; border-radius: 2px; }
img.pixels { image-rendering: pixelated; }
img.drawing { width: 100%; max-width: 34rem; }
.items { display: grid; gap: .9rem .8rem; grid-template-columns: repeat(auto-fill, minmax(6.6rem, 1fr)); }
@media (max-width: 30rem) { .items { grid-template-columns: repeat(4, 1fr); } }
.items figure { margin: 0; }
.items figcaption { font-size: .8rem; line-height: 1.3; }
.items b { display: block; color: var(--ink); font-variant-numeric: tabular-nums; }
.bars { max-width: 40rem; margin-bottom: 1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .94rem; }
th, td { text-align: left; vertical-align: top; padding: .32rem 1.2rem .32rem 0; overflow-wrap: anywhere;
  border-bottom: 1px solid var(--line); }
th { font-weight: 500; color: var(--soft); overflow-wrap: normal; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
pre, code { font-family: ui-monospace, "Cascadia Mono", Menlo, Consolas, monospace; font-size: .88rem; }
pre { background: var(--code); border-radius: 8px; padding: .8rem 1rem; margin: .5rem 0; overflow-x: auto;
  line-height: 1.5; white-space: pre-wrap; overflow-wrap: anywhere; }
pre.surprise { line-height: 1.65; }
pre.surprise i, .scale i { font-style: normal; border-radius: 2px; }
pre.surprise .n::before { content: "↵"; opacity: .55; }
pre.surprise.line { font-size: 1rem; }
pre.surprise .u { text-decoration: underline dotted; text-underline-offset: .2em; }
pre.surprise i { cursor: default; }
.scale { display: flex; flex-wrap: wrap; align-items: center; gap: .3rem; margin: .6rem 0 .4rem;
  font-size: .84rem; color: var(--soft); font-variant-numeric: tabular-nums; }
.scale i { min-width: 2.1rem; padding: .1rem .4rem; text-align: center; color: var(--ink);
  border: 1px solid var(--line); }
.scale .ramp { width: min(14rem, 50vw); height: 1.1rem; padding: 0; }
.passages { display: grid; gap: 0 1.2rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 25rem), 1fr)); }
.passages div { min-width: 0; }
.maps { display: grid; gap: 1rem 1.4rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); }
.maps.large { grid-template-columns: 1fr; }
.maps figure { margin: 0; }
.maps figure > div { display: flex; gap: .5rem; }
.maps img { min-width: 0; flex: 0 1 auto; height: auto; align-self: flex-start; }
.maps .map { outline: 1px solid var(--line); }
.maps b { color: var(--ink); font-variant-numeric: tabular-nums; }
.sounds { display: grid; gap: 1.2rem 1.6rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)); }
.sounds figure { margin: 0; min-width: 0; }
.sounds figcaption { padding: 0 0 .35rem; }
.sounds b { color: var(--ink); font-variant-numeric: tabular-nums; }
audio { display: block; width: 100%; max-width: 34rem; height: 2.6rem; margin-bottom: .4rem; }
h3 { font-size: .95rem; font-weight: 600; margin: 1rem 0 .4rem; }
footer { color: var(--soft); font-size: .88rem; padding-bottom: 3rem; }
@media print { section, .numbers div { break-inside: avoid; } body { background: none; } }
"""


DEPTHS = 8  # of the ground under a symbol that surprised
RED, GREEN, BLUE = (int(plots.ORANGE[i : i + 2], 16) for i in (1, 3, 5))


def tint(percent: float) -> str:
    """The colour of surprise, so opaque: it stands on a light and on a dark ground."""
    return f"rgb({RED} {GREEN} {BLUE}/{percent:g}%)"


STYLE += "".join(f".s{d} {{ background: {tint(9 * d)}; }}\n" for d in range(1, DEPTHS + 1))
STYLE += f".ramp {{ background: linear-gradient(to right, transparent, {tint(100)}); }}\n"


def page(
    title: str, sections: Iterable[str], lead: str = "", numbers: Mapping[str, str] | None = None
) -> str:
    """The whole page.

    Args:
        title: plain text; also the title of the window.
        sections: HTML that the builders gave.
        lead: a sentence under the title, plain text.
        numbers: what stands large at the top: {"held-out images": "1.93 bits/dim"}; the first word is large.
    """
    body = "\n".join(sections)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="chainrule">
<title>{text(title)}</title>
<link rel="icon" href="data:,">
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>{text(title)}</h1>
<p>{text(lead)}</p>
{tiles(numbers or {})}
</header>
<main>
{body}
</main>
<footer><p>Everything on this page is in this file. Made by chainrule.</p></footer>
</body>
</html>
"""


def text(anything: Any) -> str:
    """Plain text as HTML: escaped, in one line, and � for characters that control, hide or turn text."""
    return escape("".join(c if plots.visible(c) else "\ufffd" for c in str(anything)))


def tiles(numbers: Mapping[str, str]) -> str:
    """Large numbers with what they are: the first word of a value is large, the rest, its unit, small."""
    if not numbers:
        return ""
    cells = []
    for name, value in numbers.items():
        number, _, unit = value.partition(" ")
        cells.append(f"<div><dt>{text(name)}</dt><dd>{text(number)} <small>{text(unit)}</small></dd></div>")
    return f'<dl class="numbers">{"".join(cells)}</dl>'


def section(heading: str, *parts: str) -> str:
    """A card: a heading (plain text) and HTML parts."""
    return (
        f"<section>\n<h2>{text(heading)}</h2>\n" + "\n".join(part for part in parts if part) + "\n</section>"
    )


def half(heading: str, *parts: str) -> str:
    """A card that takes half the width of a wide page."""
    return section(heading, *parts).replace("<section>", '<section class="half">', 1)


def paragraph(words: str, kind: str = "") -> str:
    """A paragraph of plain text. `kind` "note" is less loud."""
    return f'<p class="{kind}">{text(words)}</p>' if kind else f"<p>{text(words)}</p>"


def row(*parts: str) -> str:
    """Parts beside each other where there is room, else below each other."""
    return f'<div class="row">{"".join(parts)}</div>'


def picture(image: Image.Image, alt: str, kind: str = "pixels") -> str:
    """An image of pixels, as a PNG inside the page."""
    data = base64.b64encode(plots.png(image)).decode()
    width, height = image.size
    return (
        f'<img class="{kind}" width="{width}" height="{height}" alt="{text(alt)}" '
        f'src="data:image/png;base64,{data}">'
    )


def figure(image: Image.Image, alt: str, caption: str = "") -> str:
    """An image of pixels with its caption (plain text)."""
    return f"<figure>{picture(image, alt)}{caption_of(caption)}</figure>"


def drawing(svg: str, alt: str, caption: str = "") -> str:
    """An SVG picture with its caption."""
    return f'<figure class="wide">{vector(svg, alt)}{caption_of(caption)}</figure>'


def vector(svg: str, alt: str) -> str:
    """An SVG picture inside the page."""
    data = base64.b64encode(svg.encode()).decode()
    return f'<img class="drawing" alt="{text(alt)}" src="data:image/svg+xml;base64,{data}">'


def player(file: bytes) -> str:
    """A .wav file inside the page, with what it takes to hear it."""
    data = base64.b64encode(file).decode()
    return f'<audio controls preload="metadata" src="data:audio/wav;base64,{data}"></audio>'


def caption_of(caption: str) -> str:
    """A figure's caption, or nothing."""
    return f"<figcaption>{text(caption)}</figcaption>" if caption else ""


def table(rows: Iterable[Sequence[Any]], head: Sequence[str] = ()) -> str:
    """A table of plain texts and numbers; without a head the first column names the row."""
    names = "".join(f'<th scope="col">{text(name)}</th>' for name in head)
    body = "".join(f"<tr>{''.join(cells(values, named=not head))}</tr>" for values in rows)
    top = f"<thead><tr>{names}</tr></thead>" if head else ""
    return f'<div class="scroll"><table>{top}<tbody>{body}</tbody></table></div>'


def cells(values: Sequence[Any], named: bool) -> Iterable[str]:
    """The cells of a row."""
    for i, value in enumerate(values):
        if i == 0 and named:
            yield f'<th scope="row">{text(value)}</th>'
        elif isinstance(value, float):
            yield f'<td class="number">{value:.4g}</td>'
        else:
            yield f"<td>{text(value)}</td>"


def commands(lines: Iterable[str]) -> str:
    """Command lines, as they are typed."""
    return f"<pre><code>{chr(10).join(text(line) for line in lines)}</code></pre>"
