"README and guide: short, runnable as shown, with links that lead somewhere, in the repository, as pages and as a site."

import csv
import json
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest
import yaml
from conftest import ROOT
from typer.main import get_command
from typer.testing import CliRunner

from distill_study import cli, load_data, load_recipe
from distill_study.models.engine import open_teacher

README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = {p.stem: p for p in sorted((ROOT / "nbs/guide").glob("*.ipynb"))}


def cells(path, kind):
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [c for c in found if c["cell_type"] == kind]


def text_of(path):
    "What a chapter says, without its code."
    return "\n\n".join("".join(c["source"]) for c in cells(path, "markdown"))


TEXTS = {"README.md": README} | {f"nbs/guide/{p.name}": text_of(p) for p in GUIDE.values()}
ALL = pytest.mark.parametrize("name", TEXTS)


def fences(text, language):
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```", text)


# --- README


def test_the_readme_is_short():
    assert len([w for w in README.split() if re.search(r"\w", w)]) <= 1000  # bars of tables are no words


def test_the_readme_begins_with_what_a_reviewer_looks_for():
    first = README.partition("\n## ")[0]
    assert "arxiv.org/abs/2410.18588" in first and "reports/examples/report.png" in first
    assert re.findall(r"(?m)^make \w+", README) == ["make demo", "make test"]
    assert len(re.findall(r"(?m)^\d\. \*\*", README)) == 3  # findings


def test_the_readmes_numbers_are_those_of_committed_reports():
    lines = re.findall(r"(?m)^\| (.+ \(\d+\) \| .+) \|$", README)
    files = (ROOT / "reports/examples").rglob("*.json")
    found = [m for m in (json.loads(p.read_text()) for p in files) if "arms" in m and "provenance" in m]
    for data, student, *numbers in (line.split(" | ") for line in lines):
        name, n = re.fullmatch(r"(\S+) \((\d+)\)", data).groups()
        same = [
            [m["constant"]["level"]["value"], m["arms"]["student/vanilla"]["accuracy"]["value"]]
            for m in found
            if m["provenance"]["settings"]["data"]["name"].endswith(name)
            and m["provenance"]["settings"]["student"]["model"].endswith(student)
            and m["arms"]["student/vanilla"]["n"] == int(n)
        ]
        assert [float(x) for x in numbers[:2]] in [[round(100 * x, 1) for x in pair] for pair in same], data
    assert len(lines) >= 4


def test_the_readmes_own_data_works_as_it_is_written(tmp_path, monkeypatch):
    "A table of sixty pairs and the recorded answers to them, in the form and under the recipe that README shows."
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DISTILL_DATA_DIR", raising=False)
    section = README.partition("## Your own data")[2].partition("\n## ")[0]
    header, example = re.search(r"pairs\.csv +(\S+)\n +(.+)", section).groups()
    answer = json.loads(re.search(r"answers\.jsonl +(\{.*\})", section)[1])
    assert len(header.split(",")) == len(next(csv.reader([example])))
    labels = ("entailment", "neutral", "contradiction")
    rows = [f"p{i},Ann owns {i} dogs.,Ann has {i} pets.,{labels[i % 3]}" for i in range(60)]
    (tmp_path / "pairs.csv").write_text("\n".join([header, *rows]))
    (tmp_path / "answers.jsonl").write_text("\n".join(json.dumps(answer | dict(id=f"p{i}")) for i in range(60)))
    (tmp_path / "my_study.yaml").write_text(next(f for f in fences(section, "yaml") if "recorded:" in f))
    c = load_recipe(tmp_path / "my_study.yaml").combinations()[0]
    splits = load_data(c.data)
    assert (len(splits.train), len(splits.test), splits.train[0].task) == (40, 20, "nli")
    engine = open_teacher(c.teacher)
    assert {e.id for e in splits.train + splits.test} <= set(engine.rows["answers.jsonl"])
    assert c.teacher.strategies == ("cot",)


# --- what is shown exists


def places(text):
    return re.findall(r"\]\(([^)\s]+)\)", text)


@ALL
def test_every_link_leads_somewhere(name):
    for link in places(TEXTS[name]):
        path, _, anchor = link.partition("#")
        if link.startswith("http"):
            assert link.startswith("https://"), link
            continue
        target = (ROOT / name).parent / path if path else ROOT / name
        assert target.exists(), f"{name} links to {link}"
        if anchor:
            headings = re.findall(r"(?m)^#+ (.+)", target.read_text(encoding="utf-8"))
            assert anchor in [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings], link


def command_lines(text):
    "Every `distill-study …` that a text shows, in its shell blocks and within its sentences."
    blocks = "\n".join(fences(text, "(?:sh|bash)"))
    inline = re.findall(r"`(distill-study [^`]+)`", re.sub(r"(?ms)^```.*?^```", "", text))
    return re.findall(r"(?m)^distill-study .+", blocks) + inline


def unknown(line):
    "What of a command line the command doesn't know; None where it knows all of it."
    words, command = shlex.split(line, comments=True)[1:], get_command(cli.app)
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        if words[0] not in command.commands:
            return words[0]
        command, words = command.commands[words[0]], words[1:]
    options = {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help", "--version"}
    return next((w for w in words if re.match(r"--?[a-z]", w) and w.partition("=")[0] not in options), None)


@ALL
def test_commands_that_are_shown_exist(name):
    assert not {line: bad for line in command_lines(TEXTS[name]) if (bad := unknown(line))}


def test_the_check_of_commands_finds_what_does_not_exist():
    assert len(command_lines(README)) >= 4
    assert unknown("distill-study rum demo") == "rum" and unknown("distill-study run demo --stoer x") == "--stoer"
    assert unknown("distill-study store lost") == "lost" and unknown("distill-study run demo -p seeds=0") is None


@ALL
def test_make_targets_that_are_shown_exist(name):
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text()))
    assert set(re.findall(r"(?:`|(?m:^))make ([a-z-]+)", TEXTS[name])) <= targets


@ALL
def test_recipes_that_are_shown_are_recipes(name, tmp_path):
    for i, text in enumerate(fences(TEXTS[name], "yaml")):
        parts = yaml.safe_load(text)
        whole = dict(teachers="transformers:zoo/teacher", students="zoo/student-s", data="tiny-qa") | parts
        (tmp_path / f"r{i}.yaml").write_text(yaml.safe_dump(whole))
        assert load_recipe(tmp_path / f"r{i}.yaml").combinations()


# --- chapters


def test_every_chapter_has_its_place_and_is_found_from_the_readme():
    assert list(cli.chapters()) == cli.CHAPTERS and set(cli.CHAPTERS) == set(GUIDE)
    assert {f"nbs/guide/{name}.ipynb" for name in GUIDE} <= set(places(README))


@pytest.mark.parametrize("name", [n for n in GUIDE if n != "build_zoo"])
def test_chapters_are_committed_with_what_their_cells_print(name):
    outputs = [o for c in cells(GUIDE[name], "code") for o in c["outputs"]]
    assert outputs, "run `make guide`"
    assert not [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"]
    assert "/tmp/" not in json.dumps(outputs)


@pytest.mark.parametrize("name", [n for n in GUIDE if n not in ("build_zoo", "gpu_vm", "library")])
def test_chapters_are_prose_with_a_few_short_cells(name):
    code = ["".join(c["source"]) for c in cells(GUIDE[name], "code")]
    assert len(text_of(GUIDE[name])) > sum(map(len, code)) and max(c.count("\n") for c in code) < 30


# --- pages


class Page(HTMLParser):
    "Addresses and ids of a page."

    def __init__(self, path):
        super().__init__()
        self.links, self.ids, self.tags = [], set(), set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.add(tag)
        self.ids |= {given.get("id"), given.get("name")}
        self.links += [(k, given[k]) for k in ("href", "src") if given.get(k)]


def guide(*options):
    return CliRunner().invoke(cli.app, ["guide", *options])


def test_the_command_lists_chapters_and_says_what_they_are_about():
    lines = guide().stdout.strip().splitlines()
    assert [line.split()[0] for line in lines] == cli.CHAPTERS
    assert all(line.split(maxsplit=1)[1] == cli.heading(GUIDE[line.split()[0]])[1] for line in lines)


def test_the_command_writes_pages_and_prints_where_one_is(tmp_path):
    done = guide("own_data", "--out", str(tmp_path / "pages"))
    assert done.stdout.strip() == str(tmp_path / "pages/own_data.html") and done.exit_code == 0
    assert {p.stem for p in (tmp_path / "pages").iterdir()} == set(GUIDE)
    for path in (tmp_path / "pages").iterdir():
        page = Page(path)
        assert "script" not in page.tags and "link" not in page.tags and "iframe" not in page.tags
        for kind, link in page.links:
            outside = link.startswith("https://") and kind == "href"
            inside = link.startswith("data:image/png") or (path.parent / link.partition("#")[0]).exists()
            assert outside or inside, f"{path.name}: {link}"
    text = (tmp_path / "pages/own_data.html").read_text(encoding="utf-8")
    assert "blob/main/nbs/guide" not in text and "Ann has 0 + 2 = 2 pens" in text  # what a cell printed


def test_an_unknown_chapter_is_named_with_the_nearest(tmp_path):
    done = guide("recipe", "--out", str(tmp_path))
    assert "no such chapter" in str(done.exception) and "recipes" in str(done.exception)
    assert not list(tmp_path.iterdir())


# --- the site


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site") / "site"
    done = subprocess.run([sys.executable, ROOT / ".ci/site.py", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(folder / "index.html")
    return folder


def test_no_link_inside_the_site_is_broken(site):
    pages = {p: Page(p) for p in site.rglob("*.html")}
    broken = []
    for path, page in pages.items():
        for _, link in page.links:
            if re.match(r"https?:|data:|mailto:", link):
                continue
            where, _, anchor = unquote(link).partition("#")
            target = (path.parent / where).resolve() if where else path
            if not target.is_file() or anchor and target.name != "items.html" and anchor not in pages[target].ids:
                broken.append(f"{path.relative_to(site)}: {link}")
    assert not broken


def test_the_sites_first_page_leads_to_every_chapter_and_every_example(site):
    links = {link.partition("#")[0] for _, link in Page(site / "index.html").links}
    assert {f"guide/{name}.html" for name in GUIDE} <= links
    reports = [p.relative_to(ROOT / "reports/examples") for p in (ROOT / "reports/examples").rglob("index.html")]
    assert len(reports) > 5 and {f"examples/{p.as_posix()}" for p in reports} <= links
    assert "examples/report.png" in links


def test_the_site_writes_over_nobodys_files(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    done = subprocess.run([sys.executable, ROOT / ".ci/site.py", tmp_path], capture_output=True, text=True)
    assert done.returncode == 1 and "not empty" in done.stderr and len(list(tmp_path.iterdir())) == 1


def test_the_workflow_publishes_the_site_with_pinned_official_actions():
    job = yaml.safe_load((ROOT / ".github/workflows/pages.yml").read_text())["jobs"]["publish"]["steps"]
    used = [s["uses"] for s in job if "uses" in s]
    assert used and all(re.fullmatch(r"actions/[a-z-]+@v\d+\.\d+\.\d+", u) for u in used)
    assert any("python .ci/site.py" in s.get("run", "") for s in job)
    assert next(s for s in job if "upload-pages" in s.get("uses", ""))["with"]["path"] == "site"
    packages = next(s["run"] for s in job if "pip install" in s.get("run", "")).partition("constraints.txt")[2].split()
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert set(packages) <= pinned
