"""Write the items pages of the committed examples again, from the store that made them and small enough to commit."""

import sys
from pathlib import Path

from distill_study.report.items import items_page
from distill_study.tools.explore import load_results
from distill_study.utils import write_text

MOST = 250_000  # bytes a page

found = load_results(Path(sys.argv[1]), store=Path("store"))
for report in found.reports:
    write_text(items_page(report.metrics, found.built(report.name), limit=MOST), report.folder / "items.html")
