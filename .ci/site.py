"""Builds the static site: this README, the guide and the committed example reports, with links between them.

Usage: python .ci/site.py [FOLDER]      (an empty one; site/, made anew, if left out)
Needs nbconvert and the package, none of its heavy requirements.
"""

import re
import shutil
import sys
from os.path import relpath
from pathlib import Path

from distill_study import cli
from distill_study._modidx import d

ROOT = Path(__file__).resolve().parent.parent
SITE, EXAMPLES = ROOT / "site", ROOT / "reports/examples"
FILES = {".html", ".json", ".csv", ".yaml", ".png", ".svg"}
SOURCE = f"{d['settings']['git_url']}/blob/main/"


def own_page(path, here):
    "Where the site has a file of the repository, relative to the folder `here` of the site; None: it has none."
    if path in ("nbs/index.ipynb", "README.md"):
        return relpath("index.html", here)
    if path.startswith("nbs/guide/") and Path(path).stem in cli.chapters():
        return relpath(f"guide/{Path(path).stem}.html", here)
    if not path.startswith("reports/examples"):
        return None
    target = ROOT / path / "index.html" if (ROOT / path).is_dir() else ROOT / path
    if target.suffix in FILES and target.is_file():
        return relpath(Path("examples") / target.relative_to(EXAMPLES), here)
    return relpath("index.html", here) + "#examples" if target.parent == EXAMPLES else None


def keep_inside(page, here):
    "Turn links to the repository into links to the site's own pages, where it has them."

    def address(found):
        path, mark, anchor = found[2].partition("#")
        own = own_page(path, here)
        return f'{found[1]}="{own or SOURCE + path}{mark}{anchor}"'

    text = re.sub(rf'\b(href|src)="{re.escape(SOURCE)}([^"]+)"', address, page.read_text(encoding="utf-8"))
    page.write_text(text, encoding="utf-8")


def list_examples(index):
    "Add a list of all example reports to the site's first page."
    pages = sorted(p.relative_to(EXAMPLES) for p in EXAMPLES.rglob("index.html"))
    items = "".join(f'<li><a href="examples/{p.as_posix()}">{p.parent.as_posix()}</a></li>\n' for p in pages)
    text = index.read_text(encoding="utf-8")
    listed = f'<h2 id="examples">All example reports</h2>\n<ul>\n{items}</ul>\n</main>'
    index.write_text(text.replace("</main>", listed, 1), encoding="utf-8")


def build(site):
    "Write the site into a folder; returns its first page."
    if site == SITE:
        shutil.rmtree(site, ignore_errors=True)
    elif site.exists() and any(site.iterdir()):
        sys.exit(f"{site}: is not empty")
    for path in EXAMPLES.rglob("*"):
        if path.is_file() and path.suffix in FILES:
            copy = site / "examples" / path.relative_to(EXAMPLES)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    chapters = {f"{name}.html": (path, cli.heading(path)[0]) for name, path in cli.chapters().items()}
    links = {"../index.html": "Start"} | {page: title for page, (_, title) in chapters.items()}
    for page, (notebook, _) in chapters.items():
        cli.write_page(notebook, site / "guide" / page, links=links)
        keep_inside(site / "guide" / page, "guide")
    index, top = site / "index.html", {"index.html": "Start"}
    links = {page if page in top else f"guide/{page}": name for page, name in (top | links).items() if ".." not in page}
    cli.write_page(ROOT / "nbs/index.ipynb", index, links=links)
    keep_inside(index, ".")
    list_examples(index)
    return index


if __name__ == "__main__":
    print(build(Path(sys.argv[1] if len(sys.argv) > 1 else SITE)))
