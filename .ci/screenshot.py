"""Takes the README's picture: the first screen of a committed example report, as a browser shows it.

Usage: python .ci/screenshot.py [REPORT.html] [PICTURE.png]
"""

import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REPORT = ROOT / "reports/examples/tiny/tiny-math--teacher--student-m/index.html"
PICTURE = ROOT / "reports/examples/report.png"
WIDTH, MOST = 1280, 300_000  # pixels; bytes
# hides the rest; gives how far down the page goes
SHOWN = """const main = document.querySelector("main");
for (const e of main.children) if (!e.matches(".first")) e.style.display = "none";
window.scrollY + Math.max(...[...main.children].map(e => e.getBoundingClientRect().bottom))"""


def browser(playwright):
    "Headless Chromium: the machine's own, or else the one that playwright has installed."
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    return playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])


def shoot(
    report,  # an HTML page
    picture,  # the PNG that is written
):
    "Take the picture, in as many colours as its bytes allow; returns its size in pixels."
    from PIL import Image
    from playwright.sync_api import sync_playwright

    part = picture.with_name(f".{picture.name}.part.png")
    with sync_playwright() as p:
        b = browser(p)
        try:
            page = b.new_page(viewport=dict(width=WIDTH, height=900), color_scheme="light")
            page.goto(Path(report).resolve().as_uri())
            page.set_viewport_size(dict(width=WIDTH, height=round(page.evaluate(SHOWN)) + 30))
            page.screenshot(path=part)
        finally:
            b.close()
    image = Image.open(part).convert("RGB")
    for colours in (None, 256, 128, 64):
        (image.quantize(colours, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE) if colours else image).save(
            part, optimize=True
        )
        if part.stat().st_size <= MOST:
            break
    else:
        sys.exit(f"{picture}: {part.stat().st_size:,} bytes, over {MOST:,}")
    part.replace(picture)
    return image.size


if __name__ == "__main__":
    report, picture = (Path(a) for a in (*sys.argv[1:], *(REPORT, PICTURE)[len(sys.argv) - 1 :]))
    size = shoot(report, picture)
    print(f"{picture}: {size[0]} × {size[1]} pixels, {picture.stat().st_size:,} bytes")
