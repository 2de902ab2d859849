"""What the benchmarks share: timing several sides in turn, and rows as JSON lines or as a table."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Row = dict[str, Any]


def in_turn(
    sides: Mapping[str, Callable[[], object]], runs: int, least: float = 0.0, warm: bool = True
) -> dict[str, float]:
    """The median seconds of every side: all are run in turn, `runs` times, after one time to warm up.

    A turn takes at least `least` seconds: what is shorter is repeated, and the mean of the repetitions counts.
    """
    for side in sides.values() if warm else ():
        side()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(runs):
        for name, side in sides.items():
            began, times = time.perf_counter(), 0
            while not times or time.perf_counter() - began < least:
                side()
                times += 1
            seconds[name].append((time.perf_counter() - began) / times)
    return {name: statistics.median(values) for name, values in seconds.items()}


def show(rows: Iterable[Row], as_json: bool) -> list[Row]:
    """Print rows as they come as JSON lines, or all of them at the end as a table; numbers to four digits."""
    shown: list[Row] = []
    for row in rows:
        shown.append({key: rounded(value) for key, value in row.items()})
        if as_json:
            print(json.dumps(shown[-1]), flush=True)
    if not as_json and shown:
        columns = list(dict.fromkeys(key for row in shown for key in row))
        lines = [columns, *([str(row.get(column, "")) for column in columns] for row in shown)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
        for line in lines:
            cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            print("  ".join(cells).rstrip())
    return shown


def rounded(value: Any) -> Any:
    """Four significant digits, and whole numbers from 1,000 on.

    >>> rounded(0.123456), rounded(12345.6), rounded(7)
    (0.1235, 12346, 7)
    """
    if not isinstance(value, float):
        return value
    return round(value) if abs(value) >= 1000 else float(f"{value:.4g}")
