"What is given away holds no key, no folder of this machine and no user name, and can be made again."

import getpass
import json
from pathlib import Path
from urllib.parse import quote

import pytest
import yaml
from faults import FaultServer
from typer.testing import CliRunner

from distill_study.cli import app
from distill_study.config import Combination
from distill_study.report.render import shareable
from distill_study.store.log import Store
from distill_study.study.plan import load_recipe
from distill_study.study.schedule import FAILED, Board, run_combination

KEY = "marked/secret+0123456789"
FORMS = (KEY, quote(KEY, safe=""), quote(KEY), KEY.replace("/", "\\/"))
TOLD = " ".join(
    (
        f"no entry for Bearer {KEY},",
        f"see https://host.example/v1?key={quote(KEY, safe='')}",
        f"and /srv/{'ann'}/keys/{KEY}",
    )
)


def leaky(body, fields):
    "Repeats the key in body, headers and addresses, whatever it is asked."
    assert fields["authorization"] == f"Bearer {KEY}"
    headers = {"x-request-id": KEY, "location": f"http://host.example/?key={quote(KEY, safe='')}"}
    if body["model"] == "bad":
        return 401, dict(error=dict(message=TOLD, code=KEY)), headers
    if len(body["messages"][-1]["content"]) % 5 == 0:
        return 500, dict(error=dict(message=TOLD)), headers
    choice = dict(message=dict(content=f"it was {KEY}\nAnswer: A"), finish_reason="stop")
    return 200, json.dumps(dict(choices=[choice])).replace("/", "\\/").encode(), headers


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    "The folder of a run of two combinations, one of which fails, with a teacher behind a server that repeats its key."
    folder = tmp_path_factory.mktemp("mine")
    mp = pytest.MonkeyPatch()
    mp.setenv("MARKED", KEY)  # the name says nothing of a key
    mp.chdir(folder)
    with FaultServer(sees=leaky, models=("good", "bad")) as server:
        endpoint = dict(
            base_url=server.url, key_env="MARKED", attempts=1, backoff=0.01, max_backoff=0.02, list_models=False
        )
        recipe = dict(
            teachers=[
                dict(engine=f"openai:{m}", endpoint=endpoint, strategies=["vanilla"], max_failures=0.9)
                for m in ("good", "bad")
            ],
            students=["zoo/student-s"],
            data=[dict(name="tiny-qa", train=14, test=6)],
            seeds=[0],
            arms=["teacher/vanilla", "student/vanilla", "distilled/vanilla"],
            min_rows=2,
            bootstrap=100,
            train=dict(method="full", learning_rate=1e-3, epochs=1, batch_size=8),
        )
        Path("both.yaml").write_text(yaml.safe_dump(recipe))
        done = CliRunner().invoke(
            app, ["run", "both.yaml", "--store", str(folder / "store"), "--reports", str(folder / "reports")]
        )  # folders in full
        board = Board(load_recipe("both.yaml"), folder / "reports/both", logs=folder / "store/logs")
        for job in board.jobs.values():
            job.state, job.error = FAILED, f"{TOLD} in {folder}/store"
        board.write(ended=True)
        bad = next(c for c in load_recipe("both.yaml").combinations() if c.teacher.engine == "openai:bad")
        by_hand = run_combination(bad, folder / "reports/both" / bad.name, store=folder / "store")
        assert by_hand.error
    yield folder, done, recipe
    mp.undo()


def test_a_run_with_a_leaking_server_ends_as_it_should(shared):
    folder, done, _ = shared
    assert done.exit_code == 1
    assert KEY not in done.output
    assert {p.parent.name for p in folder.glob("reports/both/*/metrics.json")} == {"tiny-qa--good--student-s"}
    assert any(e["reason"] == "http_500" for e in Store(folder / "store").ledger.entries())


def test_no_file_holds_the_key_a_folder_or_the_user(shared):
    folder, done, _ = shared
    files = [
        p
        for where in ("reports", "store")
        for p in (folder / where).rglob("*")
        if p.is_file() and p.suffix != ".safetensors"
    ]
    kinds = {p.name for p in files}
    assert {"combination.ipynb", "index.html", "metrics.json", "params.yaml", "status.json", "failures.jsonl"} <= kinds
    assert len(list(folder.glob("reports/both/*/combination.ipynb"))) == 2
    names = [
        str(folder),
        str(Path.home()) + "/",
        str(Path(__file__).parent.parent) + "/",
        "/srv/ann",
        f"/home/{getpass.getuser()}",
    ]
    found = [(p.relative_to(folder), s) for p in files for s in (*FORMS, *names) if s.encode() in p.read_bytes()]
    assert not found
    failed = json.loads((folder / "reports/both/tiny-qa--bad--student-s/combination.ipynb").read_text())
    assert any(
        o["output_type"] == "error" and "***" in o["evalue"] for c in failed["cells"] for o in c.get("outputs", ())
    ), "the failed notebook still says what went wrong"


def test_its_settings_are_read_again(shared):
    folder, _, recipe = shared
    params = folder / "reports/both/tiny-qa--good--student-s/params.yaml"
    assert Combination.parse(yaml.safe_load(params.read_text())) == load_recipe(folder / "both.yaml").combinations()[0]


def test_a_report_is_made_again_from_the_store_and_nothing_of_it_changes(shared, monkeypatch):
    "Without the server, and beside the old one."
    folder, _, _ = shared
    report = folder / "reports/both/tiny-qa--good--student-s"
    before = {p.name: p.read_bytes() for p in report.iterdir()}
    done = CliRunner().invoke(
        app, ["reproduce", str(report / "index.html"), "--store", str(folder / "store"), "--json"]
    )
    said = json.loads(done.stdout[done.stdout.index("{") :])
    assert done.exit_code == 0, said["differs"]
    assert said["expected"] == "identical"
    assert said["differs"] == []
    assert said["values"] > 200
    assert not said["fresh"]
    assert {p.name: p.read_bytes() for p in report.iterdir()} == before


def test_data_in_a_folder_of_ones_own_is_named_for_another_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    c = Combination.parse(
        dict(
            teacher=dict(engine="transformers:zoo/teacher"),
            student=dict(model="zoo/student-s"),
            data=dict(name=str(tmp_path / "in" / "mine.jsonl"), task="math"),
        )
    )
    assert shareable(c).data.name == "in/mine.jsonl"
    for path, name in (
        ("/srv/ann/rows.jsonl", "rows.jsonl"),
        ("~/rows", "rows"),
        ("owner/set", "owner/set"),
        ("../rows.jsonl", "../rows.jsonl"),
    ):
        assert shareable(c.model_copy(update=dict(data=c.data.model_copy(update=dict(name=path))))).data.name == name
    for model, name in (
        (str(Path.home() / "model"), "model"),
        ("/srv/x/model", "x/model"),
        ("zoo/student-s", "zoo/student-s"),
    ):
        moved = c.model_copy(update=dict(student=c.student.model_copy(update=dict(model=model))))
        assert shareable(moved).student.model == name
        assert shareable(moved).name == moved.name


def test_a_short_or_ordinary_value_is_no_secret(monkeypatch):
    from distill_study.report.render import scrub

    monkeypatch.setenv("SOME_KEY", "abc")
    monkeypatch.setenv("MONKEY", "long-enough-value")
    monkeypatch.setenv("KEYBOARD", "another-long-value")
    assert scrub("abc another-long-value") == "abc another-long-value"
    assert scrub("of mine-0123456789", ["MINE"]) == "of mine-0123456789"
    monkeypatch.setenv("MINE", "mine-0123456789")
    assert scrub("of mine-0123456789", ["MINE"]) == "of ***"
    assert scrub("of mine-0123456789") == "of mine-0123456789"
