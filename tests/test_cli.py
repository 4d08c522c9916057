"""Bad input, as a user meets it.

One message that names field, value and remedy, exit status 2, before any long work.
"""

import errno
import gzip
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from distill_study.cli import main
from distill_study.config import Data, StudyError
from distill_study.data.load import load_data
from distill_study.report.render import check_names, claim
from distill_study.study.plan import parse_recipe

ROOT = Path(__file__).parent.parent
GOOD = dict(
    teachers=["transformers:zoo/teacher"],
    students=["zoo/student-s"],
    data=[dict(name="tiny-qa", train=24, test=8)],
    min_rows=5,
)


@pytest.fixture
def call(monkeypatch, capsys):
    "Run a command of `distill-study` in this process: (exit status, stdout, stderr)."

    def go(*args):
        monkeypatch.setattr(sys, "argv", ["distill-study", *map(str, args)])
        monkeypatch.delenv("DISTILL_DATA_DIR", raising=False)
        with pytest.raises(SystemExit) as stop:
            main()
        out = capsys.readouterr()
        return stop.value.code or 0, out.out, out.err

    return go


@pytest.fixture
def recipe(tmp_path):
    "Writes a recipe that would run, but for the changes asked for."

    def write(**changes):
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump({k: v for k, v in (GOOD | changes).items() if v is not None}))
        return path

    return write


@pytest.fixture
def refused(call):
    "`distill-study run` must refuse a recipe with a message that says `says`."

    def check(path, *args, says):
        code, _, err = call("run", path, *args, "--store", path.parent / "store", "--reports", path.parent / "reports")
        assert code == 2 and says in err and "Traceback" not in err and len(err.strip().splitlines()) <= 3, err[-2000:]

    return check


@pytest.mark.parametrize(
    "changes, says",
    [
        (dict(teacher=["x"]), "Did you mean 'teachers'?"),
        (dict(train=dict(epoch=3)), "train.epoch: unknown setting. Did you mean 'epochs'?"),
        (dict(train=dict(epochs="many")), "epochs = 'many'"),
        (dict(seeds=["a"]), "seeds.0 = 'a'"),
        (dict(teachers=None), "teachers: missing"),
        (dict(teachers=["transformer:zoo/teacher"]), "Did you mean 'transformers'"),
        (dict(teachers=["zoo/teacher"]), "'engine:model'"),
        (dict(teachers=["transformers:zoo/techer"]), "Did you mean 'zoo/teacher'?"),
        (
            dict(teachers=[dict(engine="transformers:zoo/teacher", strategies=["cod"])]),
            "teacher.strategies = cod: task nlu_qa is asked under vanilla, cot",
        ),
        (dict(teachers=["recorded:nowhere"]), "nowhere"),
        (dict(students=["zoo/student-x"]), "zoo/student-x"),
        (dict(students=["no-such-folder"]), "no-such-folder"),
        (dict(data=["tiny-maths"]), "Set data.task"),
        (dict(data=[dict(name="tiny-maths", task="math")]), "Did you mean 'tiny-math'?"),
        (dict(data=[dict(name="tiny-math", task="maths")]), "Did you mean 'math'?"),
        (dict(data=[dict(name="tiny-math", train=-1)]), "train = -1"),
        (dict(data=["tiny-math", "tiny-math"]), "same report folder"),
        (dict(arms=["distilled/cop"]), "unknown arm 'distilled/cop'"),
        (dict(arms=["distilled/cod"]), "none of them is one of task nlu_qa"),
    ],
)
def test_a_bad_recipe_is_refused_with_a_remedy(refused, recipe, changes, says):
    refused(recipe(**changes), says=says)


@pytest.mark.parametrize(
    "override, says",
    [
        ("train.epoch=2", "Did you mean 'epochs'?"),
        ("epochs", "expected KEY=VALUE"),
        ("trian.epochs=2", "Did you mean 'train'?"),
        ("data.test=x", "test = 'x'"),
        ("teachers=foo:bar", "engine 'foo' in 'foo:bar': unknown"),
        ("students=zoo/nope", "zoo/nope"),
        ("arms=distilled/foo", "unknown arm 'distilled/foo'"),
    ],
)
def test_a_bad_override_is_refused(refused, recipe, override, says):
    refused(recipe(), "-p", override, says=says)


def test_a_file_that_is_not_there(refused, recipe):
    refused(recipe(data=[dict(name="nope.jsonl", task="math")]), says="data.name = 'nope.jsonl': no such file")


def test_one_mistake_is_one_line(call, recipe):
    code, _, err = call("run", recipe(), "-p", "data.tset=5")
    assert code == 2 and err.count("\n") == 1 and "Did you mean 'test'?" in err


def test_lists_are_written_with_commas(call, recipe):
    code, out, _ = call(
        "show",
        recipe(teachers="transformers:zoo/teacher"),
        "-p",
        "seeds=0,1",
        "-p",
        "students=zoo/student-s,zoo/student-m",
        "-p",
        "arms=teacher/cot,student/vanilla",
    )
    assert (
        code == 0
        and len([line for line in out.splitlines() if line.startswith("tiny-")]) == 4
        and "distilled" not in out
    )


def test_choices_that_the_text_lacks_are_shown_in_it(tmp_path):
    def ask(text, choices=("red", "blue"), gold="blue"):
        (tmp_path / "q.jsonl").write_text(
            "".join(
                json.dumps(dict(messages=[dict(role="user", content=f"{i} {text}")], choices=list(choices), gold=gold))
                + "\n"
                for i in range(4)
            )
        )
        return load_data(Data(name=str(tmp_path / "q.jsonl"), task="nlu_qa", train=2, test=1)).train[0]

    bare = ask("Which colour?")
    assert bare.question.endswith("Which colour?\nA. red\nB. blue") and bare.gold == "B"
    assert ask("Which?\nA) red\nB) blue", gold="A").question.endswith(
        "Which?\nA) red\nB) blue"
    )  # they stand there already
    with pytest.raises(StudyError, match="gold = 'green' is neither a letter from A to B nor one of the choices"):
        ask("Which?", gold="green")
    with pytest.raises(StudyError, match="'choices' must be a list of 2 to 10 texts"):
        ask("Which?", choices=["red"])


@pytest.mark.parametrize("group", [[], ["store"], ["grades"]], ids=str)
def test_help_is_short_and_whole(call, group):
    code, out, _ = call(*group, "--help")
    assert code == 0 and "<bool>" not in out and "..." not in out.split("Commands:")[1]


def test_a_name_that_is_too_long_is_refused(call):
    code, _, err = call("show", "n" * 5000)
    assert code == 2 and "a name longer than this file system takes" in err and len(err) < 300


def test_a_stopped_run_says_so(call, recipe, monkeypatch):
    from distill_study.study import schedule as grid

    def stopped(*args, **kw):
        raise KeyboardInterrupt

    monkeypatch.setattr(grid, "_work_off", stopped)
    code, _, err = call("run", recipe())
    assert code == 130 and "the same command goes on from here" in err


def test_a_recipe_that_is_not_there(refused, tmp_path):
    (tmp_path / "demo.yaml").write_text("teachers: []")
    refused(tmp_path / "demmo.yaml", says="Did you mean 'demo.yaml'?")


def test_a_recipe_that_is_not_yaml(refused, tmp_path):
    (tmp_path / "x.yaml").write_text("a: [1")
    refused(tmp_path / "x.yaml", says="not readable as YAML")


def rows(n, **more):
    return [dict(messages=[dict(role="user", content=f"{i} + 1?")], gold=str(i + 1)) | more for i in range(n)]


@pytest.mark.parametrize(
    "text, says",
    [
        ("", "has no rows"),
        ('{"messages": 1}\n{\n', "line 2: not JSON"),
        ('{"messages": [\n', "line 1: not JSON"),
        ('{"text": "a"}\n', "no column 'question' or 'messages'"),
        ('{"messages": [{"role": "user", "content": ""}]}\n', "no empty text"),
        ("\n".join(json.dumps(r) for r in rows(30, id="a")), "id 'a' is there twice"),
        ("\n".join(json.dumps(r) for r in rows(5)), "data.test = 8: there are only 5 rows"),
        ("\n".join(json.dumps({**r, "gold": None}) for r in rows(40)), "no gold answer"),
    ],
)
def test_bad_data_is_named_by_file_and_line(refused, recipe, tmp_path, text, says):
    (tmp_path / "mine.jsonl").write_text(text)
    refused(recipe(data=[dict(name=str(tmp_path / "mine.jsonl"), task="math", train=24, test=8)]), says=says)


def test_a_reports_folder_that_cannot_be_written(refused, recipe, tmp_path):
    (tmp_path / "reports").write_text("a file stands in the way")
    refused(recipe(), says="can't be written")


def test_show_and_list(call, recipe, monkeypatch):
    code, out, _ = call("show", recipe())
    assert code == 0 and "transformers:zoo/teacher answers the training inputs under cot" in out
    monkeypatch.chdir(ROOT)
    code, out, _ = call("list")
    assert code == 0 and all(
        x in out for x in ("recipes/demo.yaml", "tiny-qa", "recorded:MODEL", "nlu_qa", "zoo/teacher")
    )
    assert call("list", "recipe")[0] == 2


def test_a_student_without_a_chat_template(refused, recipe, tmp_path):
    import shutil

    from distill_study.models.weights import resolve_model

    shutil.copytree(resolve_model("zoo/student-s"), tmp_path / "mute")
    (tmp_path / "mute" / "chat_template.jinja").unlink()
    refused(recipe(students=[str(tmp_path / "mute")]), says="has no chat template")


@pytest.mark.parametrize("who", ["students", "teachers"])
def test_a_chat_template_that_drops_the_instruction(refused, call, recipe, tmp_path, who):
    "Before anything is asked, and by everything that looks at a recipe."
    import shutil

    from distill_study.models.weights import resolve_model

    folder = Path(shutil.copytree(resolve_model("zoo/student-s"), tmp_path / "deaf"))
    own = folder / "chat_template.jinja"
    own.write_text(own.read_text().replace("in messages", "in messages if m.role != 'system'", 1))
    path = recipe(**{who: [str(folder) if who == "students" else f"transformers:{folder}"]})
    refused(path, says="deaf': its chat template drops the system turn")
    assert "drops the system turn" in call("show", path)[1]
    assert "problem  template" in call("doctor", path)[1]
    assert not list((tmp_path / "store").glob("completions/*"))
    own.write_text("{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + own.read_text())
    assert "deaf: no system turn of its own: the instruction leads the first user turn" in call("show", path)[1]
    assert "the instruction leads the first user turn" in call("doctor", path)[1]


def test_a_teacher_in_a_folder_of_ones_own(recipe, tmp_path):
    import shutil

    from distill_study.models.weights import resolve_model
    from distill_study.study.plan import load_recipe
    from distill_study.study.schedule import check

    shutil.copytree(resolve_model("zoo/teacher"), tmp_path / "far" / "away" / "mine")
    check(
        load_recipe(recipe(teachers=[f"transformers:{tmp_path / 'far' / 'away' / 'mine'}"])),
        tmp_path / "reports",
        store=tmp_path / "store",
    )


# --- grids, folders and notebooks


@pytest.mark.parametrize(
    "changes, says",
    [
        (dict(data=[]), "data = []"),
        (dict(seeds=[]), "seeds = []"),
        (
            dict(
                arms=["distilled/cot-answer", "teacher/cot"],
                teachers=[dict(engine="transformers:zoo/teacher", strategies=["vanilla"])],
            ),
            "none of them can run: the teacher has no cot answers",
        ),
        (dict(seeds=[0, 1, 0]), "same report folder"),
        (dict(students=["zoo/student-s", dict(model="zoo/student-s", train=dict(epochs=9))]), "same report folder"),
        (
            dict(data=[dict(name="a/Mine.jsonl", task="math"), dict(name="b/mine.jsonl", task="math")]),
            "same report folder",
        ),
        (dict(data=[dict(name=f"{'x' * 250}.jsonl", task="math")]), "too many for the name of a folder"),
    ],
)
def test_grids_that_can_t_be(refused, recipe, changes, says):
    refused(recipe(**changes), says=says)


def test_a_report_folder_that_cannot_be_written(refused, recipe, tmp_path):
    path = recipe()
    (tmp_path / "reports" / "mine").mkdir(parents=True)
    (tmp_path / "reports" / "mine" / "tiny-qa--teacher--student-s").touch()  # a file in its place
    refused(path, says="remove what is in the way")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
@pytest.mark.parametrize("folder", ["store", "reports", "reports/mine", "reports/mine/tiny-qa--teacher--student-s"])
def test_read_only_folders(refused, recipe, tmp_path, folder):
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder).chmod(0o555)
    refused(recipe(), says="can't be ")


@pytest.mark.parametrize("denied", ["store", "reports", "tiny-qa--teacher--student-s"])
def test_folders_that_the_system_refuses(refused, recipe, tmp_path, monkeypatch, denied):
    "As of a disk that is mounted read-only."
    (tmp_path / "reports" / "mine" / "tiny-qa--teacher--student-s").mkdir(parents=True)
    touch = Path.touch

    def refuse(self, *args, **kw):
        if self.parent.name == denied:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))
        touch(self, *args, **kw)

    monkeypatch.setattr(Path, "touch", refuse)
    refused(recipe(), says="Read-only file system")


def test_two_recipes_of_one_name_do_not_share_a_folder(tmp_path):
    one, two = (parse_recipe(GOOD | dict(name="mine", bootstrap=b)) for b in (200, 300))
    claim(one, tmp_path / "a" / "mine.yaml", reports=tmp_path / "reports")
    claim(two, tmp_path / "a" / "mine.yaml", reports=tmp_path / "reports")  # the same file, changed
    with pytest.raises(StudyError, match="another recipe file that is called 'mine'"):
        claim(one, tmp_path / "b" / "mine.yaml", reports=tmp_path / "reports")
    claim(two, tmp_path / "b" / "mine.yaml", reports=tmp_path / "reports")  # the same recipe elsewhere
    (tmp_path / "reports" / "mine" / ".recipe.json").write_text("{")
    claim(one, tmp_path / "c" / "mine.yaml", reports=tmp_path / "reports")
    assert str(tmp_path) not in (tmp_path / "reports" / "mine" / ".recipe.json").read_text()


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda s: s.replace("student =", "pupil =", 1), "pupil"),
        (lambda s: s + "\nmore = 1", "more"),
        (lambda s: s + "\nx = = 1", "with the names none"),
        (None, "0 cells are tagged 'parameters'"),
    ],
)
def test_a_study_notebook_changed_by_hand(tmp_path, change, says):
    from distill_study.study.schedule import notebook_path, parameters

    nb = json.loads(notebook_path().read_text())
    cell = next(c for c in nb["cells"] if "parameters" in c["metadata"].get("tags", ()))
    if change:
        cell["source"] = change("".join(cell["source"])).splitlines(keepends=True)
    else:
        cell["metadata"] = {}
    (tmp_path / "combination.ipynb").write_text(json.dumps(nb))
    given = parameters(parse_recipe(GOOD | dict(name="mine")).combinations()[0], tmp_path, out=tmp_path)
    check_names(notebook_path(), given)
    with pytest.raises(StudyError, match=re.escape(says)) as e:
        check_names(tmp_path / "combination.ipynb", given)
    assert "git checkout" in str(e.value)


def test_a_thousand_combinations_are_planned_and_checked_at_once(tmp_path):
    from distill_study.study.plan import plan
    from distill_study.study.schedule import check

    grid = parse_recipe(
        GOOD
        | dict(
            name="big",
            students=["zoo/student-s", "zoo/student-m"],
            data=[
                dict(name=n, train=24, test=8) for n in ("tiny-qa", "tiny-nli", "tiny-math", "tiny-chat", "tiny-summ")
            ],
            seeds=list(range(100)),
        )
    )
    began = time.process_time()
    combinations, stages = grid.combinations(), plan(grid)
    check(grid, tmp_path / "reports", store=tmp_path / "store")
    took = time.process_time() - began
    assert (
        len(combinations) == 1000
        and sum(s.kind == "report" for s in stages) == 1000
        and sum(s.kind == "label" for s in stages) == 5
    )
    assert took < 4, f"{took:.1f} s"


# --- reading a file of completions

COMPLETIONS = [
    dict(id=1, completion="\u202e2 + 2.\x1b[31m\nAnswer: 4", gold=[4, 5]),
    dict(id="tuple", completion="So (4, 5).\nThe answer is $(4,5)$.", gold=[4, 5]),
    dict(id="on", completion="The answer is 12\n\nQ: And 13? A: The answer is 13", gold="\\frac{24}{2}"),
    dict(id="block", completion="<think>Perhaps 5"),
    dict(id="thought", completion="<think>2 + 3</think>5</s>", gold=5.0),
    dict(id="[red]", completion="Answer: 3. No, wait. Answer: 4 \ud800", gold="none"),
]


@pytest.fixture(params=["c.jsonl", "c.jsonl.gz"])
def completions(request, tmp_path):
    "Writes a file of completions, or of lines as they are given."

    def write(lines):
        text = "\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines)
        packed = gzip.compress(text.encode()) if request.param.endswith("gz") else text.encode()
        (tmp_path / request.param).write_bytes(packed)
        return tmp_path / request.param

    return write


def test_completions_are_read_for_programs(call, completions):
    rc, out, err = call("read", completions(COMPLETIONS), "--task", "math", "--strategy", "cot", "--json")
    found = [json.loads(line) for line in out.splitlines()]
    assert (rc, err) == (0, "")
    assert list(found[0]) == ["id", "answer", "correct", "rule", "reasoning", "ignored"]
    assert [x["id"] for x in found] == [x["id"] for x in COMPLETIONS]
    assert [x["answer"] for x in found] == ["4", "(4,5)", "12", None, "5", "4"]
    assert [x["correct"] for x in found] == [False, True, True, None, True, None]
    assert [x["reasoning"] for x in found][1:5] == ["So (4, 5).", "", "Perhaps 5", "2 + 3"]
    assert [x["ignored"].strip() for x in found] == ["", "", "Q: And 13? A: The answer is 13", "", "", ""]


def test_completions_are_read_for_people(call, completions):
    rc, out, _ = call("read", completions(COMPLETIONS), "--task", "math", "--strategy", "cot")
    assert rc == 0
    assert "6 completions: 3 right, 1 wrong, 1 unread, 2 not graded, 1 with gold that can't be read" in out
    assert "1 with statements that differ" in out
    assert "[red]" in out
    assert "\\u202e2 + 2.\\x1b[31m" in out
    assert not {"\u202e", "\x1b"} & set(out)


@pytest.mark.parametrize(
    "task, strategy, line, answer, correct",
    [
        ("nlu_qa", "cot", dict(completion="Answer: (B)", choices=["bee", "fly"], gold="fly"), "B", True),
        ("nlu_qa", "cot", dict(completion="Answer: (B)", choices=["bee", "fly"], gold="(b)"), "B", True),
        ("nlu_qa", "cot", dict(completion="Answer: 3", choices=[-3, 3], gold=-3), "B", False),
        ("nlu_qa", "cot", dict(completion="Answer: (B)", gold="A"), "B", False),
        ("nlu_qa", "cot", dict(completion="Answer: (B)", choices=["bee", "fly"], gold="wasp"), "B", None),
        ("nli", "vanilla", dict(completion="Neutral.", gold="neutral"), "neutral", True),
        ("nli", "vanilla", dict(completion="Neutral.", gold=None), "neutral", None),
        ("math", "vanilla", dict(completion='{"answer": 12}', gold=True), "12", None),
        ("summarization", "vanilla", dict(completion="All well.", gold="All is well."), "All well.", None),
        ("conversation", "vanilla", dict(completion="Hello.\nUser: Bye."), "Hello.", None),
    ],
)
def test_gold_is_read_as_its_family_does(call, completions, task, strategy, line, answer, correct):
    _, out, _ = call("read", completions([dict(id=0) | line]), "--task", task, "--strategy", strategy, "--json")
    read = json.loads(out)
    assert (read["answer"], read["correct"]) == (answer, correct)


@pytest.mark.parametrize(
    "lines, options, says",
    [
        ([dict(id=1, completion="4"), "{"], ["--task", "math"], "line 2: not JSON"),
        ([dict(id=1, completion="4"), "[]"], ["--task", "math"], "line 2: expected an object"),
        ([dict(id=1, text="4")], ["--task", "math"], "row 1: completion is missing.*there are id, text"),
        ([dict(completion="4")], ["--task", "math"], "row 1: id is missing"),
        ([dict(id=1, completion=None)], ["--task", "math"], "row 1: completion is missing, or not"),
        ([dict(id=1, completion="4", choices="honey")], ["--task", "nlu_qa"], "row 1: choices is missing, or not"),
        ([dict(id=1, completion="4", prompt=["?"])], ["--task", "math"], "row 1: prompt"),
        ([dict(id=1, completion="4")], ["--task", "maths"], "--task maths: unknown. Did you mean 'math'"),
        ([dict(id=1, completion="4")], ["--task", "math", "--strategy", "cod"], "asked under vanilla or cot"),
        ([dict(id=1, completion="4")], ["--task", "conversation", "--structured"], "no form in JSON"),
    ],
)
def test_completions_that_can_t_be_read_are_named(call, completions, lines, options, says):
    rc, out, err = call("read", completions(lines), *options, "--json")
    assert (rc, out) == (2, "")
    assert re.search(says, err)


@pytest.mark.parametrize("content", [b"x", gzip.compress(b"{}" * 99, mtime=0)[:15], b"\x1f\x8b"])
def test_a_damaged_archive_of_completions_is_named(call, tmp_path, content):
    (tmp_path / "c.jsonl.gz").write_bytes(content)
    rc, _, err = call("read", tmp_path / "c.jsonl.gz", "--task", "math")
    assert rc == 2
    assert "can't be read (damaged)" in err


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_nobody_listens_to_the_end(completions, form):
    path = completions([dict(id=i, completion="4" * 40) for i in range(3000)])
    command = [sys.executable, "-m", "distill_study", "read", str(path), "--task", "math", *form]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as p:
        assert p.stdout.readline()
        p.stdout.close()
        assert p.stderr.read() == b""
