"""What the benchmarks share: a table on the screen and in results/, with machine and date."""

import os
import platform
from datetime import date
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def machine():
    "Processor, cores and accelerator, without the machine's name; and how busy it was, if busier than it has cores."
    try:
        cpu = next(line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor() or platform.machine()
    import torch

    load = os.getloadavg()[2]
    busy = f", busy with other work (load {load:.0f})" if load > 1.5 * os.cpu_count() else ""
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{cpu}, {os.cpu_count()} cores{gpu}{busy}"


def report(name, title, header, rows, notes=(), folder=None, command=None):
    "Print a table as markdown and keep it as NAME.md, in results/ or another folder."
    lines = [
        f"# {title}",
        "",
        (
            f"{machine()}; Python {platform.python_version()}, torch {version('torch')}, transformers"
            f" {version('transformers')}, trl {version('trl')}; {date.today()}."
        ),
        f"Made by `python benchmarks/{command or f'{name}.py'}`.",
        "",
        "| " + " | ".join(header) + " |",
        "|" + "---|" * len(header),
        *("| " + " | ".join(map(str, r)) + " |" for r in rows),
        "",
        *notes,
    ]
    text = "\n".join(lines).rstrip() + "\n"
    folder = folder or RESULTS
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.md").write_text(text)
    print(text)
