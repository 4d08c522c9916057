"Pages that people read, in a real browser: axe finds nothing serious in them, and on paper nothing is cut off."

import re

import pytest
from browser import WAIT, chromium
from conftest import ROOT

TINY = ROOT / "reports/examples/tiny"
REPORT = TINY / "tiny-summ--teacher--student-m/index.html"
PAGES = [TINY / "index.html", REPORT, *sorted(TINY.glob("*/items.html"))[:1]]
LOOKS = [(1280, "dark"), (400, "light")]


def name(p):
    return f"{p.parent.name}/{p.name}"


@pytest.fixture(scope="module")
def browser():
    with chromium() as b:
        yield b


@pytest.fixture
def opened(browser):
    "Opens a page at a width and in a scheme of colours."
    contexts = []

    def open_(path, width=1280, scheme="light"):
        contexts.append(
            browser.new_context(viewport=dict(width=width, height=900), color_scheme=scheme, bypass_csp=True)
        )  # axe is a script
        page = contexts[-1].new_page()
        page.set_default_timeout(WAIT)
        page.goto(path.as_uri())
        return page

    yield open_
    for c in contexts:
        c.close()


def faults(page):
    "What axe calls serious or critical."
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="axe is not installed: pip install -e '.[dev]'"
    )
    found = axe.Axe().run(page, options=dict(resultTypes=["violations"])).response["violations"]
    return [f"{v['id']}: {v['nodes'][0]['html'][:200]}" for v in found if v["impact"] in ("serious", "critical")]


@pytest.mark.parametrize("width, scheme", LOOKS)
@pytest.mark.parametrize("path", PAGES, ids=name)
def test_axe_finds_nothing_serious(opened, path, width, scheme):
    page = opened(path, width, scheme)
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert faults(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"


def test_axe_is_not_blind(opened, tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<!DOCTYPE html><html><head><title>x</title></head><body><main>"
        '<p style="color:#bbb;background:#fff">too pale</p><input></main></body></html>'
    )
    assert {f.partition(":")[0] for f in faults(opened(bad))} >= {"color-contrast", "html-has-lang", "label"}


def test_training_inputs_of_the_items_page(opened):
    pages = sorted(TINY.glob("*/items.html"))
    if not pages:
        pytest.skip("no example has a page of items")
    page = opened(pages[0])
    page.locator("#split").select_option("train")
    page.locator("article").get_by_text("What became of it").wait_for()
    assert faults(page) == []


# --- on paper


def text_of(pdf):
    "How many pages a PDF has, and the sizes of its pictures."
    return len(re.findall(rb"/Type\s*/Page\b", pdf)), re.findall(rb"/MediaBox\s*\[([^\]]+)\]", pdf)


@pytest.mark.parametrize("path", [REPORT, TINY / "index.html"], ids=name)
def test_paper_is_light_and_nothing_is_cut_off(opened, path):
    page = opened(path, 718, "dark")  # A4 less its margins
    page.emulate_media(media="print", color_scheme="dark")
    assert (
        page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        and page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    )
    wide = page.evaluate(
        """[...document.querySelectorAll("main *, footer *")]
        .filter((e) => e.checkVisibility() && e.getBoundingClientRect().right > innerWidth + 1)
        .map((e) => e.outerHTML.slice(0, 100))"""
    )
    assert wide == [], "stands out over the paper"
    scrolls = page.evaluate(
        """[...document.querySelectorAll("main *, footer *")]
        .filter((e) => e.checkVisibility() && !e.closest(".vh"))
        .filter((e) => ["auto", "scroll", "hidden"].includes(getComputedStyle(e).overflowY))
        .filter((e) => e.scrollHeight > e.clientHeight + 1).map((e) => e.outerHTML.slice(0, 100))"""
    )
    assert scrolls == [], "would be cut at the end of its box"
    assert page.locator("details.code pre").first.is_hidden() if path == REPORT else True
    pages, sizes = text_of(page.pdf(format="A4"))
    assert 1 <= pages <= 40 and len(set(sizes)) <= 1


def test_what_a_reader_unfolds_is_printed(opened):
    page = opened(REPORT, 718)
    page.locator("details.code").first.evaluate("d => { d.open = true; }")
    page.emulate_media(media="print")
    assert (
        page.locator("details.code pre").first.is_visible()
        and page.locator("details.code:not([open])").first.is_hidden()
        and page.locator("nav.toc").is_hidden()
    )


def test_a_table_is_kept_in_one_piece_where_a_page_holds_it(opened):
    page = opened(REPORT, 718)
    page.emulate_media(media="print")
    kept = page.evaluate(
        """[...document.querySelectorAll("main table:not(.cases), main figure, main tr")]
        .map((e) => getComputedStyle(e).breakInside)"""
    )
    assert len(kept) > 50 and set(kept) == {"avoid"}


# --- size


@pytest.mark.parametrize("path", sorted(TINY.glob("*--student-*/index.html")), ids=lambda p: p.parent.name)
def test_what_is_unfolded_of_a_report_is_read_in_minutes(opened, path):
    page = opened(path)
    words = len(page.locator("body").inner_text().split())
    tables = page.evaluate("[...document.querySelectorAll('table')].filter((e) => e.checkVisibility()).length")
    figure = page.locator(".first figure img").bounding_box()
    page.emulate_media(media="print")
    pages, _ = text_of(page.pdf(format="A4"))
    assert words <= 1500 and tables <= 8 and pages <= 6
    assert figure["y"] + figure["height"] <= 900, "the figure is not on the first screen"


@pytest.mark.parametrize("folder", sorted(p for p in TINY.iterdir() if p.is_dir()), ids=lambda p: p.name)
def test_a_combinations_report_is_at_most_600_kilobytes(folder):
    assert (folder / "index.html").stat().st_size <= 600_000
    items = folder / "items.html"
    assert not items.exists() or items.stat().st_size <= 600_000
    if 'href="items.html"' in (folder / "index.html").read_text(encoding="utf-8"):
        assert items.exists(), "the report links to a page that isn't there"
