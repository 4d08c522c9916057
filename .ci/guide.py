"""Runs chapters of nbs/guide/ and stores what their cells print in them, without warnings and progress.

Usage: python .ci/guide.py [CHAPTER ...]
Left out, all but build_zoo, which trains the built-in models anew.
"""

import os
import sys
import time
from pathlib import Path

from execnb.nbio import read_nb, write_nb
from execnb.shell import CaptureShell

GUIDE = Path(__file__).resolve().parent.parent / "nbs/guide"


def run(path):
    "Execute one chapter where it lies; an error in a cell ends it and leaves the file as it was."
    nb = read_nb(path)
    CaptureShell(path.parent).run_all(nb, exc_stop=True)
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
    write_nb(nb, path)


if __name__ == "__main__":
    os.chdir(GUIDE)
    for path in sorted(GUIDE.glob("*.ipynb")):
        if path.stem in sys.argv[1:] or not sys.argv[1:] and path.stem != "build_zoo":
            start = time.monotonic()
            run(path)
            print(f"{path.stem}: {time.monotonic() - start:.0f} s")
