"""What people wait for, against its bar: one table of the last results, each with the machine and the day it is from.

    python benchmarks/_summary.py

Measured is what is in results/; nothing is run here.
"""

import re
from typing import NamedTuple

from _shared import RESULTS


class Bar(NamedTuple):
    "A cell of a table in results/, and what it is held against."

    what: str
    file: str
    row: str  # how it begins, its cells joined by ' | '
    column: str
    bar: str  # '≤' or '≥', a number, a unit
    other: str = ""  # the alternative, in another row, or in another column where it begins with '→'
    why: str = ""  # it is missed


SMOLLM, LORA = "HuggingFaceTB/SmolLM2-135M-Instruct | 24 |", "SmolLM2-135M, lora |"
BARS = (
    Bar("demo, environment there", "startup", "`distill-study run demo` |", "seconds", "≤ 75 s"),
    Bar("the same again", "startup", "the same again |", "seconds", "≤ 3 s"),
    Bar("`--help`", "startup", "`distill-study --help`", "processor, s", "≤ 0.25 s", "`python -c pass`"),
    Bar("`show` of the 405B recipe", "startup", "`distill-study show", "processor, s", "≤ 1 s", "`python -c pass`"),
    Bar("two workers against one", "grid", "cold, 2 workers", "times as fast as 1 worker", "≥ 1.6 ×"),
    Bar("grid of 12, warm", "grid", "run again, 1 worker", "wall clock, s", "≤ 3 s"),
    Bar("one last-stage setting changed", "grid", "more resamples (last stage), 1", "wall clock, s", "≤ 20 s"),
    Bar("a report, everything in the store", "grid", "whole", "s", "≤ 2.5 s"),
    Bar("a student's answers", "vllm_engine", f"{SMOLLM} `tr", "tokens/s (m", "≥ 1 × vLLM", f"{SMOLLM} `LLM"),
    Bar("training SmolLM2, LoRA", "training", f"{LORA} student.fit", "tokens/s", "≥ 1 × TRL", f"{LORA} TRL"),
    Bar("store of 1,000,000: first lookup", "store", "first lookup", "index", "≤ 1 s", "→all in memory"),
    Bar("its memory", "store", "memory of that process then", "index", "≤ 100 MB", "→all in memory"),
    Bar("a hit", "store", "a further lookup (found)", "index", "≤ 50 µs", "→all in memory"),
    Bar("`store list`", "store", "`store list`, s of all processors", "index", "≤ 7.5 s", "→all in memory"),
    Bar("`store verify`", "store", "`store verify`, s of all processors", "index", "≤ 10.5 s", "→all in memory"),
    Bar(
        "curation of 100,000 rows",
        "curation",
        "**all**",
        "word problems, rows/s",
        "≥ 5000 rows/s",
        why="more than half of it is the tokenizer's",
    ),
    Bar("a page of all items: made", "items", "making the page", "measured", "≤ 20 s"),
    Bar("opened", "items", "opening it", "measured", "≤ 2 s"),
)


def number(text):
    "The first number in a cell, or None."
    found = re.search(r"[\d,]*\.?\d+", text)
    return float(found[0].replace(",", "")) if found else None


def rows_of(name):
    "(machine and date, [(a row as text, column → cell)]) of all tables of a result."
    path, rows, head = RESULTS / f"{name}.md", [], None
    lines = path.read_text().splitlines() if path.is_file() else []
    for line in lines:
        cells = [c.strip() for c in line.strip("|").split("|")] if line.startswith("|") else None
        if cells and head and not set(line) <= set("|-"):
            rows.append((" | ".join(cells), dict(zip(head, cells))))
        head = head or cells if cells else None
    about = next((line for line in lines if re.search(r"; \d{4}-\d\d-\d\d\.$", line)), "")
    return re.sub(r"; Python .*; (\S+)\.$", r"; \1", about), rows


def cell(rows, row, column):
    "The number in the row and the column that begin so, or None."
    found = next((cells for text, cells in rows if text.startswith(row)), {})
    return next((number(c) for name, c in found.items() if name.startswith(column)), None)


def line(b: Bar):
    "A bar as a row of the table."
    about, rows = rows_of(b.file)
    sign, limit, *unit = b.bar.split()
    ours = cell(rows, b.row, b.column)
    column = b.other.startswith("→")
    other = cell(rows, b.row if column else b.other, b.other[1:] if column else b.column) if b.other else None
    held = ours / other if unit[0] == "×" and other and ours is not None else ours
    if held is None:
        return [b.what, b.bar, "", "", f"not in results/{b.file}.md", ""]
    met = held <= float(limit) if sign == "≤" else held >= float(limit)
    shown = ["" if x is None else f"{x:,g}" for x in (ours, other)]
    why = "; ".join(filter(None, [b.why, "the machine was busy" if "busy" in about else ""]))
    return [b.what, b.bar, *shown, "yes" if met else f"no: {why}".rstrip(": "), about]


if __name__ == "__main__":
    print("| what | bar | ours | the alternative | met | measured on |\n|---|---|---|---|---|---|")
    for b in BARS:
        print("| " + " | ".join(line(b)) + " |")
