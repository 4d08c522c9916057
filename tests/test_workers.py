"""A recipe's stages side by side.

In processes of this machine and on a Ray cluster of two nodes, with workers and whole runs killed in the middle.
"""

import json
import os
import re
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest
import yaml
from test_study import ROOT, run, untimed
from typer.testing import CliRunner

from distill_study.cli import app
from distill_study.config import StudyError
from distill_study.study.plan import load_recipe
from distill_study.utils import stage_lock

PAIR = dict(
    teachers=["transformers:zoo/teacher"],
    students=["zoo/student-s", "zoo/student-m"],
    data=[dict(name="tiny-qa", train=16, test=6)],
    min_rows=4,
    bootstrap=100,
    train=dict(method="full", learning_rate=1e-3, epochs=1, batch_size=8),
    arms=["teacher/vanilla", "student/vanilla", "distilled/vanilla"],
)
ONE_THREAD = dict(OMP_NUM_THREADS="1")  # as each of several workers has: the last bits of sums depend on it


ONE_STUDENT = (16 + 6) + 6 + 6  # what the teacher, the untouched and the trained student are asked


def write(folder, **changes):
    path = folder / "pair.yaml"
    path.write_text(yaml.safe_dump(PAIR | changes))
    return path


def numbers(folder):
    return {
        p.parent.name: untimed(json.loads(p.read_text()))
        for p in sorted((folder / "reports/pair").glob("*/metrics.json"))
    }


def asked(folder):
    return sum(len(p.read_text().splitlines()) for p in (folder / "store/completions").glob("*.jsonl"))


def with_options(folder, recipe, *options, **env):
    code = "from distill_study.cli import main; main()"
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            code,
            "run",
            str(recipe),
            "--store",
            str(folder / "store"),
            "--reports",
            str(folder / "reports"),
            *options,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"} | ONE_THREAD | env,
        cwd=folder,
        start_new_session=True,
    )


def ended(p):
    out, err = p.communicate(timeout=300)
    assert p.returncode == 0, err[-3000:]
    return out, err


@pytest.fixture(scope="module")
def alone(tmp_path_factory, worker_id):
    "The pair, run by one process: once, whichever of pytest's processes needs it first."
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "alone"
    folder.mkdir(exist_ok=True)
    with stage_lock(folder / "lock", "the pair"):
        if not numbers(folder):
            run(write(folder), folder, **ONE_THREAD)
    return folder


def test_two_workers_come_to_the_numbers_of_one_and_ask_nothing_twice(alone, tmp_path):
    recipe = write(tmp_path)

    def status():
        return CliRunner().invoke(app, ["status", str(recipe), "--reports", str(tmp_path / "reports")])

    before = status()
    assert "distill-study run RECIPE" in str(before.exception)
    p = with_options(tmp_path, recipe, "--workers", "2")
    for line in p.stderr:
        if "done in" in line:
            break
    time.sleep(1.2)
    during = status()  # from another terminal
    assert re.search(r"pair: \d of 7 stages", during.stdout)
    assert "label" in during.stdout
    out, err = ended(p)
    assert out.strip().endswith("reports/pair/index.html")
    assert numbers(tmp_path) == numbers(alone) and len(numbers(alone)) == 2
    assert asked(tmp_path) == asked(alone)
    state = json.loads((tmp_path / "reports/pair/status.json").read_text())
    assert state["ended"]
    assert [r["state"] for r in state["stages"]] == ["done"] * (1 + 2 + 2 + 2)
    assert not list((tmp_path / "store/logs").glob("*")), "logs of stages that are done are not kept"
    page = tmp_path / "reports/pair/status.json"
    page.write_text(json.dumps(state | dict(ended=False, written=time.time() - 60)))
    assert "goes on from here" in status().stderr
    page.write_text("{")
    assert isinstance(status().exception, StudyError)
    assert (tmp_path / "reports/pair/index.html").read_text().count("combination.ipynb") == (
        alone / "reports/pair/index.html"
    ).read_text().count("combination.ipynb")
    page.unlink()
    _, err = ended(with_options(tmp_path, recipe, "--workers", "2"))  # once more: no worker is started
    assert "2 of 2 reports stay" in err and "started" not in err and asked(tmp_path) == asked(alone)
    assert {r["state"] for r in json.loads(page.read_text())["stages"]} == {"done"}


def test_killed_in_the_middle_it_leaves_nobody_goes_on_and_replaces_a_worker_that_is_killed(alone, tmp_path):
    recipe = write(tmp_path, students=PAIR["students"][:1])

    def at_training(p):
        for line in p.stderr:
            if "train zoo/student" in line and "started" in line:
                return psutil.Process(p.pid).children(recursive=True)

    p = with_options(tmp_path, recipe)
    workers = at_training(p)
    p.kill()
    p.wait()  # SIGKILL: it can tidy up nothing
    assert not psutil.wait_procs(workers, timeout=30)[1]
    p = with_options(tmp_path, recipe)
    killed = [c for c in at_training(p) if "spawn_main" in " ".join(c.cmdline())]
    for c in killed:
        c.kill()
    _, err = ended(p)
    assert killed and "its worker was lost; it is done again" in err
    ((name, mine),) = numbers(tmp_path).items()
    assert mine == numbers(alone)[name] and asked(tmp_path) == ONE_STUDENT


def test_two_runs_of_one_recipe_at_once(alone, tmp_path):
    both = [with_options(tmp_path, write(tmp_path, students=["zoo/student-s"])) for _ in range(2)]
    for p in both:
        ended(p)
    ((name, mine),) = numbers(tmp_path).items()
    assert mine == numbers(alone)[name] and len(list((tmp_path / "store/stages").glob("student-*"))) == 1
    assert asked(tmp_path) == ONE_STUDENT


@pytest.mark.parametrize(
    "options, says",
    [
        (["--workers", "0"], "at least one does the work"),
        (["--executor", "dask"], "expected local or ray"),
        (["--executor", "ray", "--address", "nowhere"], "expected HOST:PORT"),
        (["--executor", "ray", "--address", "127.0.0.1:1"], "nobody answers there"),
    ],
)
def test_places_that_do_not_exist(tmp_path, options, says):
    if "ray" in options:
        pytest.importorskip("ray")
    given = ["run", str(write(tmp_path)), "--store", str(tmp_path / "store"), "--reports", str(tmp_path / "reports")]
    done = CliRunner().invoke(app, [*given, *options])
    assert done.exit_code, done.output
    assert says in re.sub(r"[\s│]+", " ", f"{done.output} {done.stderr} {done.exception}")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    "Ray with two nodes on this machine, each with a folder of its own for copies of stores."
    pytest.importorskip("ray", reason="Ray is not installed")
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    caches = [str(tmp_path_factory.mktemp(name)) for name in ("head", "other")]
    head = dict(num_cpus=1, include_dashboard=False, env_vars=dict(DISTILL_CACHE_DIR=caches[0]))
    for attempt in range(3):  # Ray gives a node 30 seconds to start, which a busy machine may not manage
        try:
            made = Cluster(initialize_head=True, head_node_args=head)
            made.add_node(num_cpus=1, env_vars=dict(DISTILL_CACHE_DIR=caches[1]))
            break
        except Exception as e:
            if attempt == 2 or "timed out during startup" not in str(e):
                raise
    yield SimpleNamespace(address=made.address, caches=caches)
    made.shutdown()


def test_a_ray_cluster_comes_to_the_same_numbers_also_when_a_worker_is_killed(cluster, alone, tmp_path):
    p = with_options(
        tmp_path,
        write(tmp_path, students=PAIR["students"][:1]),
        "--executor",
        "ray",
        "--address",
        cluster.address,
        "--store",
        f"file://{tmp_path}/far",
        DISTILL_CACHE_DIR=cluster.caches[0],
    )
    killed = False
    for line in p.stderr:
        if "train zoo/student" in line and "started" in line:
            break
    end = time.monotonic() + 60
    while not killed and time.monotonic() < end:  # in the middle of a stage
        for c in psutil.process_iter(["cmdline"]):
            if (title := (c.info["cmdline"] or [""])[0]).startswith("ray::") and "distilled" in title:
                c.kill()
                killed = True
                break
        time.sleep(0.05)
    assert killed
    ended(p)
    ((name, found),) = numbers(tmp_path).items()
    assert found == numbers(alone)[name]
    lines = [
        json.loads(line)["key"]
        for p in (tmp_path / "far/completions").rglob("*.jsonl")
        if p.is_file()
        for line in p.read_text().splitlines()
    ]
    assert len(set(lines)) == 16 + 3 * 6  # machines without a common folder: what one asked the others found


def test_machines_that_lack_what_a_recipe_needs(cluster, tmp_path, monkeypatch):
    from distill_study.study import workers
    from distill_study.study.plan import plan
    from distill_study.study.workers import Ray

    monkeypatch.setattr(workers, "wanted_modules", lambda *_: dict(not_there="gpu"))
    joined = Ray(cluster.address)
    try:
        with pytest.raises(StudyError, match="machine [0-9a-f]{6} of .*not_there is not installed there. `pip install"):
            joined.check(plan(load_recipe(write(tmp_path))))
        with pytest.raises(StudyError, match="Protocol not known: nowhere"):
            joined.check([], "nowhere://team/store")
    finally:
        joined.close()
