"""Whole runs: a small combination from recipe to report, killed and resumed, and the two real recipes at their
smallest.
"""

import contextlib
import io
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import yaml
from made_up import saved_grades, sheet_of
from typer.testing import CliRunner

from distill_study.cli import app, main
from distill_study.store.log import Store
from distill_study.study import schedule, workers
from distill_study.study.plan import load_recipe
from distill_study.tools.share import import_grades, write_sheets

ROOT = Path(__file__).parent.parent
SMALL = dict(
    teachers=["transformers:zoo/teacher"],
    students=["zoo/student-s"],
    data=[dict(name="tiny-qa", train=24, test=12)],
    min_rows=5,
    bootstrap=200,
    judge="rules:world",
    train=dict(method="full", learning_rate=1e-3, epochs=1, batch_size=8),
)


def start(recipe, folder, command="run", **env):
    code = "from distill_study.cli import main; main()"
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            code,
            command,
            str(recipe),
            "--store",
            str(folder / "store"),
            "--reports",
            str(folder / "reports"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | env,
        cwd=folder,
        start_new_session=True,
    )


class Kept(ProcessPoolExecutor):
    "A worker that the next run in this process finds as it is, with everything imported."

    def shutdown(self, wait=True, *, cancel_futures=False):
        if cancel_futures and not wait:  # it was killed in the middle of its work
            KEPT.clear()
            super().shutdown(wait=False, cancel_futures=True)


KEPT = {}  # what a worker was started with → the worker


def kept_worker(executor, i):
    "In the place of `Local._pool`: workers take their environment from the process that starts them."
    env = os.environ | executor.env[i]
    key = json.dumps([i, {k: v for k, v in env.items() if k != "PYTEST_CURRENT_TEST"}], sort_keys=True)
    if key not in KEPT or KEPT[key]._broken:
        start = os.getpid(), executor.env[i]
        KEPT[key] = Kept(1, multiprocessing.get_context("spawn"), workers._settle, start)
    return KEPT[key]


def run(recipe, folder, command="run", *, code=0, **env):
    "(what it printed, its progress) of a run that ends with `code`, in this process, which has imported everything."
    out, err = io.StringIO(), io.StringIO()
    options = ["--store", str(folder / "store"), "--reports", str(folder / "reports")]
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.MonkeyPatch.context() as m,
    ):
        m.setattr(sys, "argv", ["distill-study", command, str(recipe), *options])
        m.setattr(workers.Local, "_pool", kept_worker)
        for key, value in (env | {"PYTHONPATH": str(ROOT)}).items():
            m.setenv(key, value)
        with pytest.raises(SystemExit) as e:
            main()
    assert e.value.code == code, err.getvalue()[-3000:]
    return out.getvalue(), err.getvalue()


def write(folder, **changes):
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL | changes))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    return folder, write(folder), *run(write(folder), folder)


def numbers(folder):
    page = next((folder / "reports" / "small").glob("*/metrics.json"))
    return json.loads(page.read_text())


def untimed(x):
    "The numbers that must not change from run to run."
    if isinstance(x, dict):
        return {
            k: untimed(v)
            for k, v in x.items()
            if not re.search("second|duration|generated|git_sha|latency|memory|reused|^new$|findings", k)
        }
    return [untimed(v) for v in x] if isinstance(x, list) else x


def test_a_run_ends_with_a_report_and_says_where(finished):
    folder, _, out, err = finished
    assert out.strip().endswith("reports/small/index.html") and Path(folder / "reports/small/index.html").is_file()
    page = folder / "reports/small/tiny-qa--teacher--student-s"
    assert {p.name for p in page.iterdir()} == {
        "index.html",
        "items.html",
        "metrics.json",
        "metrics.csv",
        "params.yaml",
        "combination.ipynb",
    }
    assert "training distilled/cot-rationale" in err and "test, control/gold" in err


def test_no_other_form_is_compared_unasked(finished):
    assert numbers(finished[0])["forms"] == []


def test_every_arm_is_in_the_numbers(finished):
    m = numbers(finished[0])
    assert len(m["arms"]) == 8 and all(a["n"] == 12 for a in m["arms"].values())
    for arm in m["arms"].values():
        assert arm["accuracy"]["low"] <= arm["accuracy"]["value"] <= arm["accuracy"]["high"]
    for a in m["attrition"].values():
        assert a["inputs"] == a["rows"] + sum(a["dropped"].values()) == 24
    assert m["provenance"]["versions"]["transformers"] and m["provenance"]["data_hashes"]["test"]


def test_the_judge_is_in_numbers_and_page(finished):
    m = numbers(finished[0])
    grades = {g["arm"]: g for g in m["judge"]["grades"]}
    assert {a: g["grade"]["value"] for a, g in grades.items()} == pytest.approx(
        {a: x["accuracy"]["value"] for a, x in m["arms"].items()}
    )  # the rules know what is right
    assert (
        m["judge"]["items"] == 12
        and m["judge"]["weak"] == ""
        and len(m["judge"]["wins"]) == 2
        and {x["key"] for x in m["judge"]["measures"]} >= {"grades_side", "swap", "position", "length", "self"}
    )
    page = (finished[0] / "reports/small/tiny-qa--teacher--student-s/index.html").read_text()
    assert ">What the judge says</h2>" in page and "How far the judge can be trusted" in page


def test_the_ledger_names_what_the_attrition_counts(tmp_path):
    """Every input of every arm is a training row or stands in the ledger with its reason.

    Rows too long for the student are among them.
    """
    cut = SMALL["train"] | dict(max_length=130, max_truncated=0.9)
    run(write(tmp_path, train=cut, arms=["student/vanilla", "distilled/cot-rationale"], min_rows=1), tmp_path)
    lines = CliRunner().invoke(app, ["store", "ledger", "--store", str(tmp_path / "store")]).stdout
    rows, m = [json.loads(line) for line in lines.splitlines()], numbers(tmp_path)
    for arm, a in m["attrition"].items():
        mine = [r for r in rows if r.get("arm") == arm]
        assert a["inputs"] == 24 == a["rows"] + len(mine)
        assert a["dropped"] == {k: sum(r["reason"] == k for r in mine) for k in a["dropped"]}
        assert m["training"][arm]["rows"] == a["rows"]
    long = [r["evidence"] for r in rows if r["reason"] == "too long"]
    assert long
    assert all(re.fullmatch(r"\d+ tokens, train.max_length = 130", evidence) for evidence in long)


def test_nothing_of_the_machine_is_in_what_is_published(finished):
    folder = finished[0]
    for name in ("index.html", "metrics.json", "metrics.csv"):
        text = next((folder / "reports/small").glob(f"*/{name}")).read_text()
        for secret in (str(folder), str(ROOT), str(Path.home())):
            assert secret not in text


def test_a_second_run_leaves_the_report_and_one_that_is_spoiled_is_made_again_from_the_store(finished):
    folder, recipe, _, _ = finished
    before, out = numbers(folder), next((folder / "reports/small").glob("*/index.html")).parent
    pages = {p.name: p.read_bytes() for p in out.iterdir()}
    assert set(pages) >= {"index.html", "metrics.json", "params.yaml", "combination.ipynb"} and not any(
        n.startswith(".") for n in pages
    )
    _, err = run(recipe, folder)
    assert "1 of 1 reports stay: nothing has changed" in err and " new" not in err
    assert {p.name: p.read_bytes() for p in out.iterdir()} == pages
    made = (folder / "reports/small/index.html").stat().st_mtime_ns
    _, err = start(recipe, folder, PYTHONPROFILEIMPORTTIME="1").communicate()
    assert "1 of 1 reports stay" in err
    assert (folder / "reports/small/index.html").stat().st_mtime_ns == made
    assert not re.search(r"\| +(torch|transformers|trl|pandas|scipy|seaborn|papermill)$", err, re.M)
    (out / "index.html").write_text("by hand")
    _, err = run(recipe, folder)
    assert (
        "0 new" in err
        and not re.search(r"[1-9]\d* new", err)
        and "trained student from the store" in err
        and "reports stay" not in err
    )
    assert untimed(numbers(folder)) == untimed(before) and len((out / "index.html").read_text()) > 10_000


def test_a_killed_run_goes_on_and_ends_in_the_same_numbers(finished, tmp_path):
    arms = ["student/vanilla", "distilled/cot-answer"]
    recipe = write(tmp_path, arms=arms)
    p = start(recipe, tmp_path)
    assert any("training distilled/cot-answer" in line for line in p.stderr)
    os.killpg(p.pid, signal.SIGKILL)
    p.wait()
    _, err = run(recipe, tmp_path)
    assert "teacher, cot: 24 answers from the store, 0 new" in err
    mine, whole = (untimed(numbers(folder))["arms"] for folder in (tmp_path, finished[0]))
    assert {a: mine[a]["accuracy"] for a in arms} == {a: whole[a]["accuracy"] for a in arms}


def graded_by_hand(recipe, folder):
    "Sheets for two raters, drawn from the store alone; both say yes to everything. The last of the sheets."
    r = load_recipe(recipe)
    for page, rater, _ in write_sheets(r, folder / "sheets", store=folder / "store", n=12, raters=2, checks=2):
        sheet, back = sheet_of(page), page.with_name(f"grades-{rater}.json")
        back.write_text(saved_grades(sheet, 1))
        assert import_grades(Store(folder / "store"), [back], recipe=r)[0]["items"] == len(sheet["items"])
    return sheet


def test_a_replay_needs_no_model_and_asks_nobody(tmp_path):
    for name in ("teacher", "student-s"):
        shutil.copytree(ROOT / "distill_study" / "weights" / name, tmp_path / "models" / name)
    template = tmp_path / "models/student-s/chat_template.jinja"  # a note of which is kept for the replay
    refuses = "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    template.write_text(refuses + template.read_text())
    recipe = write(
        tmp_path,
        teachers=[f"transformers:{tmp_path / 'models' / 'teacher'}"],
        students=[str(tmp_path / "models" / "student-s")],
        arms=["teacher/cot", "student/vanilla", "distilled/cot-answer"],
    )
    run(recipe, tmp_path)
    first = untimed(numbers(tmp_path))
    assert len(set(first["provenance"]["model_fingerprints"].values())) == 2  # the teacher's and the student's
    assert "the instruction leads the first user turn" in str(first["provenance"]["chat_templates"])
    shutil.rmtree(tmp_path / "models")
    shutil.rmtree(tmp_path / "reports")
    sheet = graded_by_hand(recipe, tmp_path)
    run(recipe, tmp_path, "replay")
    again = untimed(numbers(tmp_path))
    people, page = again["people"], next((tmp_path / "reports/small").glob("*/index.html")).read_text()
    assert (
        first["people"]["rows"] == []
        and [r["arm"] for r in people["rows"]] == ["teacher/cot", "student/vanilla", "distilled/cot-answer"]
        and people["checks"] == dict(r1=dict(passed=1, n=2), r2=dict(passed=1, n=2))
    )
    assert (
        all(r["correct"]["value"] == 1 for r in people["rows"])
        and people["grades"] >= len(sheet["items"]) - 2
        and "Attention checks passed: r1: 1 of 2; r2: 1 of 2." in page
    )
    other = ("provenance", "people", "agreement")  # of people's grades there were none before
    assert {k: again[k] for k in first if k not in other} == {
        k: v for k, v in first.items() if k not in other
    } and again["provenance"]["model_fingerprints"] == first["provenance"]["model_fingerprints"]
    assert again["provenance"]["chat_templates"] == first["provenance"]["chat_templates"]
    recipe.write_text(recipe.read_text().replace("test: 12", "test: 13"))
    assert "1 of 13 completions are not in the store" in run(recipe, tmp_path, "replay", code=1)[1]


def test_a_replay_finds_what_was_answered_under_settings_of_vllm(tmp_path):
    "The note is made when the engine is opened; that needs no vLLM."
    from distill_study.config import Sampling, Teacher
    from distill_study.models.engine import Request, StoredEngine
    from distill_study.study.run import engine_for

    plain, half = (
        Teacher(engine="vllm:zoo/teacher", vllm=v) for v in (None, dict(dtype="bfloat16", tensor_parallel_size=2))
    )
    q = Request("a", (dict(role="user", content="1"),), Sampling(max_tokens=4))
    keys = [engine_for(who, Store(tmp_path)).key(q) for who in (plain, half)]
    again = [engine_for(who, Store(tmp_path, replay=True)) for who in (plain, half)]
    assert all(isinstance(e, StoredEngine) for e in again) and [e.key(q) for e in again] == keys and keys[0] != keys[1]


def test_arms_that_a_recipe_asks_for_one_with_too_few_rows_and_hard_inputs(tmp_path):
    "Verified against gold, the teacher's plain answers leave too few rows; its reasoning leaves enough."
    trained = ["distilled/cot-answer", "distilled/cot-after", "distilled/cot-mixed"]
    arms = ["teacher/cot", "student/vanilla", "distilled/vanilla", *trained]
    recipe = write(tmp_path, arms=arms, curate=dict(hard_items=True, verify=True), min_rows=15)
    _, err = run(recipe, tmp_path)
    m = numbers(tmp_path)
    assert {a for a, x in m["arms"].items() if x["n"] == 12} == {*arms} - {"distilled/vanilla"}
    assert "fewer than min_rows = 15" in m["arms"]["distilled/vanilla"]["missing"]
    assert "disagrees with gold" in m["missing"]["distilled/vanilla"]
    assert err.count("distilled/vanilla dropped out: ") == 1
    options = ["--store", str(tmp_path / "store"), "--reports", str(tmp_path / "reports"), "--quiet"]
    for strict, code in (([], 0), (["--strict"], 1)):
        again = CliRunner().invoke(app, ["run", str(recipe), *options, *strict])
        assert again.exit_code == code and "dropped out: " in again.stderr and "stay" not in again.stderr
    rows = {a: t["rows"] for a, t in m["training"].items()}
    assert rows["distilled/cot-mixed"] == 2 * rows["distilled/cot-answer"] == 2 * rows["distilled/cot-after"]
    for arm in trained:
        a, h = m["attrition"][arm], m["hardness"][arm]
        assert a["inputs"] == a["rows"] + sum(a["dropped"].values()) == 24
        assert h["kept"]["n"] == a["rows"] == sum(m["balance"][arm]["after"].values())
        assert h["dropped"]["n"] == sum(a["dropped"].values())
    assert "untouched student, training inputs: 24 of 24" in err
    assert "explain" in m["provenance"]["prompt_hashes"]
    page = next((tmp_path / "reports/small").glob("*/index.html")).read_text()
    assert "Do the drops fall on hard inputs?" in page


def test_a_failing_combination_is_named_and_the_others_go_on(tmp_path):
    twins = tmp_path / "twins"  # its gold is wrong, so nothing that the teacher says agrees with it
    twins.mkdir()
    for split, n in (("train", 8), ("test", 4)):
        asked = [f"Ann has {i + 2} keys and finds {n} more. How many has she?" for i in range(n)]
        rows = [dict(id=f"{split}{i}", question=q, answer="9999") for i, q in enumerate(asked)]
        (twins / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe = write(
        tmp_path,
        data=[dict(name=str(twins), task="math", train=8, test=4), dict(name="tiny-math", train=24, test=4)],
        arms=["teacher/cot", "student/vanilla", "distilled/cot-answer"],
        curate=dict(verify=True),
    )
    _, err = run(recipe, tmp_path, code=1)
    assert "nothing trained: " in err and "fewer than min_rows = 5" in err
    pages = tmp_path / "reports/small"
    assert (
        not (pages / "twins--teacher--student-s/index.html").exists()
        and (pages / "twins--teacher--student-s/combination.ipynb").is_file()
    )
    assert (pages / "tiny-math--teacher--student-s/index.html").is_file()
    assert "fewer than min_rows" in (pages / "index.html").read_text()


def test_what_needs_a_stage_that_failed_does_not_start(tmp_path):
    teacher = dict(engine="openai:m", endpoint=dict(base_url="http://127.0.0.1:9/v1", key_env=None))
    recipe = write(tmp_path, teachers=[teacher], arms=["teacher/vanilla", "student/vanilla", "distilled/vanilla"])
    page = tmp_path / "reports/small/tiny-qa--m--student-s"
    page.mkdir(parents=True)
    (page / "index.html").write_text("of an earlier run")
    _, err = run(recipe, tmp_path, code=1)
    assert err.count("nothing answers at http://127.0.0.1:9/v1") == 1 and "Traceback" not in err
    assert err.count("not started: label openai:m answers tiny-qa failed") == 2  # the training, and the report
    assert not (page / "index.html").exists()
    assert "nothing answers at" in (tmp_path / "reports/small/index.html").read_text()


def test_an_error_whose_traceback_cannot_be_written_still_fails_its_notebook(monkeypatch):
    "As where the source of a template can't be read back: a cell that failed must never count as done."
    shell = schedule._shell()

    def unwritable(*_, **__):
        raise SyntaxError("EOF in multi-line statement")

    monkeypatch.setattr(shell.InteractiveTB, "structured_traceback", unwritable)
    *_, error = schedule._run_cell(shell, "1 / 0")
    assert error.output_type == "error" and error.ename == shell.error["ename"] == "ZeroDivisionError"
    assert schedule._run_cell(shell, "1 + 1")[0].output_type == "display_data" and shell.error is None


def test_a_process_that_executed_a_notebook_is_what_it_was_and_starts_others(tmp_path):
    import nbformat
    import papermill

    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell("import sys; sys.modules['__main__'] is None")]
    )
    nbformat.write(notebook, tmp_path / "a.ipynb")
    for _ in range(2):
        before = sys.modules["__main__"]
        how = dict(engine_name=schedule._engine_here(), kernel_name="python3", progress_bar=False)
        done = papermill.execute_notebook(tmp_path / "a.ipynb", tmp_path / "b.ipynb", **how)
        assert done.cells[0].outputs[0]["data"]["text/plain"] == "False"
        assert sys.modules["__main__"] is before
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(len, "abc").result() == 3


def test_a_missing_key_is_found_before_any_combination_starts(tmp_path):
    "Unless it has answered before: then the store may have everything."
    teacher = dict(engine="openai:m", endpoint=dict(base_url="http://127.0.0.1:9/v1", key_env="NO_SUCH_KEY"))
    _, err = run(write(tmp_path, teachers=["transformers:zoo/teacher", teacher]), tmp_path, code=2)
    assert "environment variable NO_SUCH_KEY" in err and "started" not in err


@pytest.mark.parametrize("name", ["svamp"])  # commonsense_qa goes the same way; its readers have tests of their own
def test_the_real_recipes_at_their_smallest(name, data_dir, smollm, tmp_path):
    recipe = yaml.safe_load((ROOT / f"recipes/{name}.yaml").read_text()) | dict(name="small", min_rows=3, bootstrap=200)
    recipe["data"][0] |= dict(train=8, test=2)
    recipe["train"] |= dict(steps=2, batch_size=4)
    recipe |= dict(axes={}, seeds=[0])
    recipe["arms"] = ["teacher/vanilla", "teacher/cot", "distilled/cot-rationale"]
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(recipe))
    run(tmp_path / "small.yaml", tmp_path, DISTILL_DATA_DIR=str(data_dir.resolve()))
    m = numbers(tmp_path)
    assert m["arms"]["teacher/vanilla"]["n"] in (0, None) and "no vanilla answers" in json.dumps(
        m["arms"]["teacher/vanilla"]
    )
    assert m["arms"]["distilled/cot-rationale"]["n"] == 2 and m["training"]["distilled/cot-rationale"]["rows"] >= 3


@pytest.mark.parametrize(
    "data, recorded, train, test",
    [
        (
            "tau/commonsense_qa",
            "commonsense_qa_palm540b",
            (0.747, 0.757),
            (0.776, 0.786),
        ),  # 75.2 and 78.1 within half a point
        ("ChilleD/SVAMP", "svamp_palm540b", (0.745, 0.750), (0.775, 0.785)),
    ],
)  # nested brackets are read too; without them 65 and 66
def test_the_recorded_teacher_is_read_right(data, recorded, train, test, data_dir, monkeypatch):
    from distill_study.config import Data
    from distill_study.data.load import load_data
    from distill_study.models.engine import open_engine
    from distill_study.tasks.families import TASKS
    from distill_study.teach.sampling import requests

    monkeypatch.setenv("DISTILL_DATA_DIR", str(data_dir))
    splits, engine = load_data(Data(name=data)), open_engine(f"recorded:{recorded}")
    for split, (low, high) in (("train", train), ("test", test)):
        examples = getattr(splits, split)
        texts = dict(engine.generate(requests(examples, "cot", split=split)))
        task = TASKS[splits.task]
        right = [
            task.correct(task.parse(texts[i].text, "cot", choices=e.choices).answer, e.gold)
            for i, e in enumerate(examples)
        ]
        assert low <= sum(right) / len(right) <= high


def test_a_checkpoint_is_chosen_by_gold(tmp_path):
    "The report says what the validation said, and which weights were kept; a second run looks at nothing again."
    recipe = write(
        tmp_path,
        arms=["student/vanilla", "control/gold"],
        data=[dict(name="tiny-qa", train=24, validation=30, test=12)],
        train=dict(method="full", learning_rate=1e-3, epochs=4, batch_size=8, choose="gold", patience=1),
    )
    run(recipe, tmp_path)
    first = numbers(tmp_path)
    for arm, t in first["training"].items():
        best = max(t["looks"], key=lambda x: (x["right"], -x["step"]))
        assert (
            t["chosen"] == best["step"]
            and all(x["loss"] > 0 and 0 <= x["right"] <= 1 for x in t["looks"])
            and t["stopped"] == (t["steps"] < 12)
        ), arm
    page = next((tmp_path / "reports").rglob("tiny-qa*/index.html")).read_text()
    assert "Weights kept" in page and "Right" in page
    next((tmp_path / "reports").rglob("tiny-qa*/index.html")).unlink()  # or the report would stay as it is
    _, err = run(recipe, tmp_path)
    assert (
        "trained student from the store" in err and untimed(numbers(tmp_path))["training"] == untimed(first)["training"]
    )


@pytest.mark.parametrize(
    "train, data, says",
    [
        (
            dict(method="full", choose="gold"),
            dict(validation=5),
            "5 validation examples with a gold answer are too few to choose a checkpoint by",
        ),
        (dict(attention="flash_attention_2"), {}, "flash attention runs on CUDA devices"),
        (dict(liger=True), {}, "train.liger = true"),
        (dict(report_to=["nosuchtracker"]), {}, "nosuchtracker"),
    ],
)
def test_what_training_can_t_do_is_said_before_anybody_is_asked(train, data, says, tmp_path):
    recipe = write(tmp_path, data=[dict(name="tiny-qa", train=24, test=12) | data], train=train)
    err = run(recipe, tmp_path, code=2, CUDA_VISIBLE_DEVICES="")[1]
    assert says in err and "teacher" not in err and not any((tmp_path / "store").rglob("*.jsonl"))


def test_a_student_in_other_forms(tmp_path):
    "Adapter and 4 bits answer the same test items; where they were not asked for, the report has no such table."
    recipe = write(
        tmp_path,
        arms=["teacher/cot", "student/vanilla", "distilled/cot-answer"],
        students=[dict(model="zoo/student-s", compare=["adapter", "nf4"])],
        train=dict(method="qlora", epochs=1, batch_size=8),
    )
    run(recipe, tmp_path)
    forms = numbers(tmp_path)["forms"]
    assert [(f["arm"], f["form"], f["n"]) for f in forms] == [
        ("distilled/cot-answer", "adapter", 12),
        ("distilled/cot-answer", "nf4", 12),
    ] and all(
        0 <= f["same"] <= 1 and f["difference"]["low"] <= f["difference"]["value"] <= f["difference"]["high"]
        for f in forms
    )
    assert "The same students in other forms" in next((tmp_path / "reports").rglob("tiny-*/index.html")).read_text()
