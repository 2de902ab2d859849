"""docs/results.md from the measurements in benchmarks/results/*.json: no number there is typed by hand.

python benchmarks/write_results.py                          # write the document
python benchmarks/write_results.py NAME TITLE COMMAND FILE   # first keep FILE (JSON lines) as a measurement
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results"
TARGET = HERE.parent / "docs" / "results.md"

HEAD = """# Measured

Two cores of an x86-64 processor with AVX2, shared with other work, no GPU. Every table is the output of the
command above it; `benchmarks/write_results.py` made this page from `benchmarks/results/`.
"""


def document() -> str:
    """The whole page."""
    return HEAD + "".join(
        section(json.loads(p.read_text(encoding="utf-8"))) for p in sorted(RESULTS.glob("*.json"))
    )


def section(result: dict[str, Any]) -> str:
    """One measurement as a heading, its command and a table."""
    columns = list(dict.fromkeys(key for row in result["rows"] for key in row))
    lines = [" | ".join(columns), "|".join("---" for _ in columns)]
    lines += [" | ".join(shown(row.get(c, "")) for c in columns) for row in result["rows"]]
    table = "\n".join(f"| {line} |" for line in lines)
    note = f"\n{result['note']}\n" if result.get("note") else ""
    return f"\n## {result['title']}\n\n```text\n{result['command']}\n```\n{note}\n{table}\n"


def shown(value: Any) -> str:
    """A cell; nothing in it can break the table."""
    text = f"{value:.4f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def keep(name: str, title: str, command: str, file: str, note: str = "") -> None:
    """Store the JSON lines of a measurement."""
    rows = [
        json.loads(line)
        for line in Path(file).read_text(encoding="utf-8").splitlines()
        if line.startswith("{")
    ]
    RESULTS.mkdir(exist_ok=True)
    result = {"title": title, "command": command, "note": note, "rows": rows}
    (RESULTS / f"{name}.json").write_text(
        json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        keep(*sys.argv[1:])
    TARGET.write_text(document(), encoding="utf-8")
