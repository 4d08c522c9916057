"""The real data sets, from a few of their rows to a report that says what is true of their family."""

import html
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
FAMILY = {"conjnli": "nli", "dialogsum": "summarization", "sgd_chat": "conversation"}
SHORT = {
    "dialogsum": lambda r: len(r["dialogue"]) < 500,
    "sgd_chat": lambda r: len(r["messages"]) <= 7,
}  # for models of 512 tokens


@pytest.fixture(scope="module")
def reports(data_dir, tmp_path_factory):
    "Data set → (numbers, what a reader sees) of one run with all of them, and the page that lists them."
    folder = tmp_path_factory.mktemp("real")
    for name in FAMILY:
        (folder / "data" / name).mkdir(parents=True)
        for f in (data_dir / name).glob("*.jsonl"):
            kept = [
                line
                for line in f.read_text(encoding="utf-8").split("\n")
                if line and SHORT.get(name, bool)(json.loads(line))
            ]
            (folder / "data" / name / f.name).write_text("\n".join(kept) + "\n", encoding="utf-8")
    recipe = dict(
        teachers=[dict(engine="transformers:zoo/teacher", reasks=0, sampling=dict(max_tokens=24))],
        students=["zoo/student-s"],
        data=[dict(name=n, train=8, test=4) for n in FAMILY],
        min_rows=1,
        bootstrap=100,
        arms=["teacher/vanilla", "teacher/cod", "student/vanilla", "control/gold"],
        train=dict(method="full", learning_rate=1e-3, epochs=1, batch_size=8, max_length=512, max_truncated=0.5),
    )
    (folder / "real.yaml").write_text(yaml.safe_dump(recipe))
    code = "from distill_study.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "run", "real.yaml"],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | dict(PYTHONPATH=str(ROOT), DISTILL_DATA_DIR=str(folder / "data")),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    pages = {p.name.partition("--")[0]: p for p in (folder / "reports" / "real").iterdir() if p.is_dir()}
    return {
        n: (json.loads((p / "metrics.json").read_text()), seen((p / "index.html").read_text()))
        for n, p in pages.items()
    }, seen((folder / "reports/real/index.html").read_text())


def seen(page):
    "The text of a page without its folded code."
    page = re.sub(r'(?s)<style.*?</style>|<details class="code".*?</details>', " ", page)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", page)))


@pytest.mark.parametrize("name", FAMILY)
def test_numbers_add_up(name, reports):
    m, text = reports[0][name]
    assert {a for a, x in m["arms"].items() if x["n"] == 4} >= {
        "teacher/vanilla",
        "student/vanilla",
        "control/gold",
    } and all(x["n"] in (0, 4) for x in m["arms"].values())
    for arm, a in m["attrition"].items():
        assert a["inputs"] == a["rows"] + sum(a["dropped"].values()) == 8 and (
            m["training"][arm]["rows"] == a["rows"] if arm in m["training"] else arm in m["missing"]
        )
    assert set(m["missing"]).isdisjoint(m["training"]) and all(
        f"{a} not available: {why}" in text for a, why in m["missing"].items() if "min_rows" in why
    )
    assert (
        [d["n"] for d in m["data"]] == [8, 0, 4]
        and m["left_out"] == {}
        and "Rows of the data set that were left out: none." in text
    )
    assert m["unfinished"] == 0 and "math-verify could not" not in text


@pytest.mark.parametrize("name", FAMILY)
def test_the_page_speaks_of_its_own_family(name, reports):
    m, text = reports[0][name]
    graded = FAMILY[name] in ("nli", "math")
    assert ("Accuracy %" in text) == graded
    assert (
        ("per conversation" in text) == (FAMILY[name] == "conversation")
        and ("Macro-F1" in text) == (FAMILY[name] == "nli")
        and ("Supported density" in text) == (FAMILY[name] == "summarization")
    )
    assert (
        not re.search(r"\bnan\b|\bNone\b(?! of)|\.\.(?!\.)(?<!\.\.\.)\s", text)
        and m["metric"]["key"]
        == dict(nli="correct", math="correct", summarization="rougeLsum", conversation="overlap")[FAMILY[name]]
    )


def test_the_sets_own_splits_are_named(reports):
    told = {
        n: re.search(r"Examples \S+, task (\w+), local(.*?)\. Training inputs", text).groups()
        for n, (_, text) in reports[0].items()
    }
    assert told == {
        n: (
            t,
            dict(
                conjnli="; train is its split adversarial; test is its split dev",
                dialogsum="; train is its split validation",
            ).get(n, ""),
        )
        for n, t in FAMILY.items()
    }


def test_the_index_lists_them_with_their_measures(reports):
    assert (
        all(f"{n}--teacher--student-s" in reports[1] for n in FAMILY)
        and "ROUGE-Lsum" in reports[1]
        and "overlap" in reports[1]
    )
