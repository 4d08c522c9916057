"""Logs of teachers that already ran: each format with its traps, hostile files, matching, and a run afterwards."""

import gzip
import json
import re
import zipfile
from collections import Counter

import pytest
import yaml
from conftest import ROOT

from distill_study.config import Data, StudyError
from distill_study.data.load import load_data
from distill_study.models.engine import open_teacher, read_recorded
from distill_study.store.log import Store
from distill_study.study.plan import load_recipe, parse_recipe
from distill_study.study.run import Run
from distill_study.tools import logs

QUESTION, ANSWER = "A hen lays 3 eggs a day. How many in 2 days?", "She lays 3 a day, 2 times 3 is 6."


def user(text=QUESTION, **more):
    return dict(role="user", content=text) | more


def bedrock(asked, answered, **more):
    row = dict(schemaType="ModelInvocationLog", operation="InvokeModel", modelId="some.model", **more)
    return row | dict(input=dict(inputBodyJson=asked), output=dict(outputBodyJson=answered))


def choice(text=ANSWER, end="stop", **more):
    return dict(index=0, message=dict(role="assistant", content=text) | more, finish_reason=end)


def sample(**more):
    row = dict(id=7, epoch=1, input=QUESTION, target="6", messages=[user("Think. " + QUESTION)])
    out = dict(model="m", choices=[dict(message=dict(role="assistant", content=ANSWER), stop_reason="stop")])
    return row | dict(output=out | dict(completion=ANSWER)) | more


@pytest.fixture
def read(tmp_path):
    "Import rows as a file: (answers by id, what was left out)."

    def go(*rows, name="log.jsonl", task="math", **how):
        path = tmp_path / name
        path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
        left = []
        kept, _ = logs.kept_of(logs.exchanges([path], left=left, **how), None, task=task, left=left)
        return {i: (e, a) for i, (e, a) in kept["train"].items()}, dict(Counter(r for r, _ in left))

    return go


CONVERSE = dict(output=dict(message=dict(role="assistant", content=[dict(text=ANSWER)])), stopReason="end_turn")
BODIES = {
    "converse": (dict(messages=[user([dict(text=QUESTION)])], system=[dict(text="Be brief.")]), CONVERSE),
    "anthropic": (
        dict(anthropic_version="x", system="Be brief.", messages=[user([dict(type="text", text=QUESTION)])]),
        dict(type="message", content=[dict(type="text", text=ANSWER)], stop_reason="end_turn"),
    ),
    "anthropic stream": (
        dict(anthropic_version="x", messages=[user()]),
        [
            dict(type="message_start", message=dict(role="assistant", content=[], stop_reason=None)),
            dict(type="content_block_start", index=0, content_block=dict(type="text", text="")),
            *(
                dict(type="content_block_delta", delta=dict(type="text_delta", text=t))
                for t in (ANSWER[:9], ANSWER[9:])
            ),
            dict(type="message_delta", delta=dict(stop_reason="end_turn"), usage=dict(output_tokens=9)),
        ],
    ),
    "old anthropic": (
        dict(prompt=f"\n\nHuman: {QUESTION}\n\nAssistant:"),
        dict(completion=ANSWER, stop_reason="stop_sequence"),
    ),
    "llama": (
        dict(
            prompt="<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
            f"<|start_header_id|>user<|end_header_id|>\n\n{QUESTION}<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n"
        ),
        dict(generation=ANSWER, prompt_token_count=9, generation_token_count=9, stop_reason="stop"),
    ),
    "titan": (
        dict(inputText=f"User: {QUESTION}\n\nBot:", textGenerationConfig={}),
        dict(inputTextTokenCount=9, results=[dict(tokenCount=9, outputText=ANSWER, completionReason="FINISH")]),
    ),
    "mistral": (dict(prompt=f"<s>[INST] {QUESTION} [/INST]"), dict(outputs=[dict(text=ANSWER, stop_reason="stop")])),
    "in a string": (json.dumps(dict(messages=[user()])), json.dumps(CONVERSE)),
}


@pytest.mark.parametrize("kind", BODIES)
def test_bedrock_bodies(read, kind):
    found, left = read(bedrock(*BODIES[kind]))
    [(e, answer)] = found.values()
    assert (e.question, answer, left) == (QUESTION, dict(completion=ANSWER, finish_reason="stop"), {})
    assert (len(e.turns) == 2) == (kind in ("converse", "anthropic", "llama"))


def test_bedrock_reasoning_and_what_is_left_out(read):
    thinking = dict(reasoningContent=dict(reasoningText=dict(text="hens", signature="s")))
    thought = dict(
        output=dict(message=dict(role="assistant", content=[thinking, dict(text="6")])), stopReason="max_tokens"
    )
    far = bedrock(None, CONVERSE)
    far["input"]["inputBodyS3Path"] = "s3://bucket/key"
    tool = dict(type="message", content=[dict(type="tool_use", name="f", input={})], stop_reason="tool_use")
    asked = dict(messages=[user()])
    picture = dict(messages=[user([dict(text="What is it?"), dict(image=dict(format="png"))])])
    rows = [bedrock(asked, thought), far, bedrock(asked, tool), bedrock(asked, CONVERSE, errorCode="Throttling")]
    rows += [bedrock(picture, CONVERSE), bedrock(asked, dict(CONVERSE, stopReason="guardrail_intervened"))]
    event = dict(timestamp=1, message=json.dumps(bedrock(dict(messages=[user("1 + 1?")]), CONVERSE)))
    found, left = read(*rows, event)
    assert [a for _, a in found.values()][0] == dict(completion="6", finish_reason="length", reasoning_content="hens")
    assert len(found) == 2  # the event's, too
    assert left == dict(elsewhere=1, tool_calls=1, failed=1, not_text=1, aborted=1)


def test_openai_stored_completions(read):
    stored = dict(object="chat.completion", id="chatcmpl-a", metadata=dict(id="q1", gold="6"), choices=[choice()])
    own = [user("Be brief.", role="developer", id="chatcmpl-a-0"), user(id="chatcmpl-a-1", content_parts=None)]
    page = dict(object="list", data=own, has_more=False)
    found, left = read(page, stored)
    assert [t["role"] for t in found["q1"][0].turns] == ["system", "user"] and found["q1"][0].gold == "6" and not left
    whole = dict(id="chatcmpl-b", messages=[user()], choices=[choice("6"), choice("It is 6.")])
    pair = dict(request=dict(messages=[user("1 + 1?")]), response=dict(choices=[choice("2", "length")]))
    found, left = read(whole, whole, pair, dict(stored, id="chatcmpl-c"))
    assert sorted(a["completion"] for _, a in found.values()) == ["2", "6"]
    assert left == dict(several=2, repeated=1, no_question=1)
    bad = [
        choice("", refusal="No."),
        choice(None, "tool_calls", tool_calls=[{}]),
        choice("", "content_filter"),
        choice(""),
    ]
    assert read(*(dict(messages=[user()], choices=[c]) for c in bad))[1] == dict(
        tool_calls=1, content_filter=2, empty=1
    )


def test_a_batch_in_two_files(tmp_path):
    def write(name, *rows):
        (tmp_path / name).write_text("".join(json.dumps(r) + "\n" for r in rows))
        return tmp_path / name

    def reply(i, **more):
        return dict(id=f"batch_req_{i}", custom_id=f"r{i}", error=None, response=dict(status_code=200) | more)

    outs = [reply(2, body=dict(choices=[choice("2")])), reply(1, body=dict(choices=[choice("6")]))]
    outs += [reply(3, status_code=429, body={}), dict(custom_id="r4", response=None, error=dict(code="batch_expired"))]
    asked = [dict(custom_id=f"r{i}", method="POST", url="/", body=dict(messages=[user(f"{i} + 1?")])) for i in range(6)]
    left = []
    found = logs.exchanges([write("out.jsonl", *outs), write("in.jsonl", *asked)], left=left)
    assert {x.ids[0]: x.turns[0]["content"] for x in found} == dict(r1="1 + 1?", r2="2 + 1?")
    assert Counter(r for r, _ in left) == dict(failed=2, no_answer=4)


def test_inspect(read, tmp_path):
    log = dict(version=2, status="success", eval={}, samples=[sample(), sample(epoch=2), sample(id=8, input="1?")])
    found, left = read(json.dumps(log, indent=1), name="log.json")
    assert found["7"][0].gold == "6" and set(found) == {"7", "8"} and left == dict(repeated=1)
    part = [dict(type="reasoning", reasoning="hens"), dict(type="text", text="B")]
    out = dict(choices=[dict(message=dict(role="assistant", content=part), stop_reason="max_tokens")])
    quiz = sample(input="What do bees make?", choices=["milk", "honey"], target=["B"], output=out)
    failed = [sample(id=9, error=dict(message="x")), sample(id=10, messages=[dict(role="tool", content="")])]
    path = tmp_path / "log.eval"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        for i, row in enumerate([quiz, *failed]):
            z.writestr(f"samples/../../{i}_epoch_1.json", json.dumps(row))
        z.writestr("samples/odd.json", "{")
        z.writestr("header.json", json.dumps(sample()))
    left = []
    kept, _ = logs.kept_of(logs.exchanges([path], left=left), None, task="nlu_qa", left=left)
    [(e, answer)] = kept["train"].values()
    assert (e.gold, e.choices) == ("B", ("milk", "honey")) and {r for r, _ in left} == {
        "failed",
        "tool_calls",
        "unreadable",
    }
    assert answer == dict(completion="B", finish_reason="length", reasoning_content="hens")
    assert not [p for p in tmp_path.parent.iterdir() if p.name.endswith("_epoch_1.json")]


def test_hostile_files(read, tmp_path, monkeypatch):
    good = dict(messages=[user(), dict(role="assistant", content="6 \ud800")])
    deep = "[" * 900 + "]" * 900
    odd = [dict(messages=[1, 2]), dict(messages="x"), dict(choices=5), dict(input=dict(inputBodyJson=3), output={})]
    found, left = read("nothing", good, json.dumps(dict(x="y" * 50_000)), deep, "", "3", *odd, '{"messages": []}')
    assert len(found) == 1 and left["unreadable"] == 3 and left["unknown"] == 5 and left["failed"] == 1
    (tmp_path / "latin.jsonl").write_bytes(b'{"messages": "\xff"}\n')
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"{}\n" * 999)[:-9])
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(b" " * 10**6))
    with zipfile.ZipFile(tmp_path / "bomb.eval", "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("samples/a.json", b" " * 10**6)
    monkeypatch.setattr(logs, "MOST", 10**5)
    files = [tmp_path / name for name in ("latin.jsonl", "cut.gz", "bomb.gz", "bomb.eval")]
    reasons = [[reason for _, _, reason in logs.rows_of(f)] for f in files]
    assert [r[-1] for r in reasons] == ["unreadable", "damaged", "too_large", "too_large"]


def line(question, answer="It is 4.", **more):
    return json.dumps(dict(messages=[user(question), dict(role="assistant", content=answer)], **more)) + "\n"


def test_examples_are_found_by_name_and_by_content(tmp_path):
    texts = ["Tim has 2 + 2 pens. How many?", "Tim has 2 - 2 pens. How many?", "Why?", "Ann has 3 pens"]
    texts += ["Ann has 3 pens and a cat. Pens?"]
    rows = [dict(id=f"t{i}", messages=[user(t)], gold="4") for i, t in enumerate(texts)]
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    known = logs.Examples(logs.examples_of(Data(name=str(tmp_path / "set"), task="math")))

    def find(text, *ids):
        try:
            return known.find(logs.Exchange("", [user(text)], ids=ids))
        except logs.Unfit as e:
            return str(e)

    assert find("Answer: tim has 2 + 2   PENS. How many?\nShort.") == (0, "content")
    assert find("Tim has 2 - 2 pens. How many?", "other", "t1") == (1, "id")
    assert find("Written in other words", "t1") == (1, "id")
    assert find("Tim has 2 - 2 pens. How many?", "t0") == "contradiction"
    assert find(" ".join(texts[:2])) == "ambiguous"
    assert find("Why?") == (2, "content") and find("So, why?") == "no_match"
    assert find("Q: Ann has 3 pens and a cat. Pens?") == (4, "content")  # not the shorter one in it


def test_choices_must_stand_in_their_order():
    known = logs.Examples(logs.examples_of(Data(name="tiny-qa", train=2, test=1)))
    e = known.all[0][1]
    stem = e.question.split("\nA. ")[0]
    right = logs.Exchange("", [user(f"{stem}\n(a) " + "\n(b) ".join(e.choices))])
    assert known.find(right)[0] == 0
    right.turns = [user(f"{stem}\n(a) " + "\n(b) ".join(reversed(e.choices)))]
    with pytest.raises(logs.Unfit, match="no_match"):
        known.find(right)


def test_options_are_refused_in_a_sentence(tmp_path):
    (tmp_path / "log.jsonl").write_text("nothing\n")
    options = [dict(task="maths"), dict(task="math"), dict(task="math", out=tmp_path)]
    for how, says in zip(options, ("maths", "not JSON", "is there already")):
        with pytest.raises(StudyError, match=says):
            logs.import_logs([tmp_path / "log.jsonl"], how.pop("out", tmp_path / "out"), **how)
    with pytest.raises(StudyError, match="no such file"):
        logs.import_logs([tmp_path / "none.jsonl"], tmp_path / "out", task="math")


@pytest.mark.parametrize("covered", [True, False])
def test_an_import_runs(tmp_path, covered, monkeypatch):
    "From a log of a built-in set's questions to the teacher's labels; with and without its test items."
    splits = load_data(Data(name="tiny-math", train=30, test=25))
    asked = [*reversed(splits.train), *(splits.test if covered else ())]
    text = "".join(line(f"Solve it.\n{e.question}", f"The answer is {e.gold}.") for e in asked)
    (tmp_path / "logs").mkdir()
    with gzip.open(tmp_path / "logs" / "a.jsonl.gz", "wt") as f:
        f.write(text)
    monkeypatch.setattr(logs, "load_data", lambda data: splits)
    monkeypatch.chdir(tmp_path)
    done = logs.import_logs(["logs"], "mine", task="math", data="tiny-math", student="zoo/student-s")
    assert done["matched"] == dict(content=len(asked)) and done["splits"] == done["gold"] == dict(train=30, test=25)
    [c] = load_recipe("mine/recipe.yaml", {"min_rows": "5"}).combinations()
    assert ("teacher/vanilla" in c.arms) == covered and "control/gold" in c.arms
    run = Run.of(c, Store("store"))
    assert [len(run.data.train), len(run.data.test)] == [30, 25]
    assert [e.id for e in run.data.train] == [e.id for e in splits.train]  # in the order of the data set
    assert all(a.correct for a in run.labels["vanilla"])
    assert open_teacher(c.teacher).spec == "recorded:mine/teacher"


def test_the_command(tmp_path, monkeypatch, capsys):
    from distill_study.cli import main

    (tmp_path / "log.jsonl").write_text(line("1 + 3?") + line("2 + 2?") + "x\n")
    command = ["distill-study", "import", str(tmp_path / "log.jsonl"), "--task", "math", "--out", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", [*command, "--json"])
    with pytest.raises(SystemExit):
        main()
    out = json.loads(capsys.readouterr().out)
    assert out["left"] == dict(unreadable=1) and out["places"] == dict(unreadable=["log.jsonl:3"])
    recipe = yaml.safe_load((tmp_path / "out" / "recipe.yaml").read_text())
    assert recipe["data"][0]["test"] == 1 and not [a for a in recipe["arms"] if a.startswith("control/")]


def test_the_recorded_teacher_of_the_guide_can_be_copied(tmp_path):
    "The file and the recipe that README shows."
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (tmp_path / "answers.jsonl").write_text(re.search(r"^answers.jsonl +(\{.*\})$", readme, re.M)[1])
    assert read_recorded(tmp_path / "answers.jsonl")["p1"][0].endswith("Answer: entailment")
    recipe = re.search(r"```yaml\n(.*?)```", readme, re.S)[1]
    assert parse_recipe(yaml.safe_load(recipe) | dict(name="mine")).teachers[0].engine == "recorded:answers.jsonl"
