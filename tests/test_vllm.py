"vLLM in a process of its own: the same answers as in this process, and no answer lost however that process ends."

import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from conftest import ROOT
from test_study import SMALL, numbers, run, write

from distill_study.config import Data, Endpoint, Sampling, Vllm
from distill_study.data.load import load_data
from distill_study.models import vllm as offline
from distill_study.models.engine import EngineError, Request, complete
from distill_study.models.local import TransformersEngine
from distill_study.models.openai import OpenAIEngine
from distill_study.models.vllm import VLLMEngine, Worker, members
from distill_study.models.weights import resolve_model
from distill_study.store.log import Store
from distill_study.teach.sampling import parity, parity_line, requests, sample_answers, summary


def ask(text, id=None, sample=0, **sampling):
    return Request(
        id or text, (dict(role="user", content=text),), Sampling(**dict(max_tokens=16) | sampling), None, sample
    )


def gone(group, seconds=30):
    "Whether a group has nobody left, after a while."
    end = time.monotonic() + seconds
    while members(group) and time.monotonic() < end:
        time.sleep(0.1)
    return not members(group)


# ---------------------------------------------------------------- the process, with something quick in vLLM's place

STANDIN = """
import os, time
from distill_study import offline
class Core: shutdown = lambda self: None
class Engine: engine_core = Core()
def load(order):
    if os.environ.get("STANDIN") == "error": raise ValueError("To serve at least one request with the model's max seq len (512), (2.00 GiB KV cache is needed, which is larger than the available KV cache memory (1.00 GiB). Based on the available memory, the estimated maximum model length is 256.")
    if os.environ.get("STANDIN") == "hangs": time.sleep(600)
    return Engine(), None, dict(device="cpu", dtype="float32")
def answer(engine, adapter, jobs, tell):
    for i in reversed(range(len(jobs))):
        time.sleep(0.01)
        tell(at=0.01 * (len(jobs) - i), done=[(i, [40 + i % 50, *jobs[i][1]["stop_token_ids"][:1]], "stop", 0.01)])
offline.load, offline.answer = load, answer
offline.work()
"""


@pytest.fixture
def standin(monkeypatch):
    "Engines of this test have the stand-in for a worker."
    find = offline.importlib.util.find_spec
    monkeypatch.setattr(
        offline.importlib.util, "find_spec", lambda name, *more: name if name == "vllm" else find(name, *more)
    )
    monkeypatch.setattr(offline, "Worker", partial(Worker, code=STANDIN))


def questions(n):
    return [ask(f"what is {i} + 1 ?", f"q{i}") for i in range(n)]


def test_answers_find_their_requests(standin, tmp_path):
    e = VLLMEngine("zoo/teacher", 4)
    got = complete(e, questions(50), store=Store(tmp_path))
    assert [r.messages[0]["content"] for r in got] == [f"what is {i} + 1 ?" for i in range(50)] and len(
        {r.text for r in got}
    ) == 50
    assert all(r.valid_key and r.completion_tokens == 2 and r.finish_reason == "stop" for r in got)
    assert sum(r.info["share"] for r in got) == pytest.approx(0.5, abs=1e-3)
    group = e.worker.process.pid
    assert members(group)
    e.close()
    e.close()
    assert not members(group)


@pytest.mark.parametrize("how", [KeyboardInterrupt, SystemExit, OSError])
def test_what_interrupts_a_run_ends_the_worker_and_keeps_what_was_answered(standin, tmp_path, how):
    e, seen = VLLMEngine("zoo/teacher", 4), []

    def interrupt(done, total):
        if done:
            seen.append(e.worker)
            raise how

    with pytest.raises(how):
        complete(e, questions(300), store=Store(tmp_path), progress=interrupt)
    assert e.worker is None and not members(seen[0].process.pid) and not Path(seen[0].log).exists()
    rest = complete(e, questions(300), store=Store(tmp_path))
    assert 4 <= rest.reused < 300 and rest.reused + rest.new == 300
    e.close()


def test_a_killed_worker_is_an_error_and_the_next_run_asks_only_the_rest(standin, tmp_path):
    e, told = VLLMEngine("zoo/teacher", 4), []

    def kill(done, total):
        if done and not any(told):
            os.kill(e.worker.process.pid, signal.SIGKILL)
        told.append(done)

    with pytest.raises(
        EngineError,
        match=r"vllm:zoo/teacher: vLLM's process has ended: it was killed \(SIGKILL\), by somebody or, where memory is short, by the system\. What was answered is stored",
    ):
        complete(e, questions(300), store=Store(tmp_path), progress=kill)
    rest = complete(e, questions(300), store=Store(tmp_path))
    assert rest.reused == told[-1] >= 4 and rest.new == 300 - told[-1]
    e.close()


def test_it_ends_with_who_started_it(tmp_path):
    "SIGKILL leaves no time to say goodbye."
    code = f"""
import sys, time
from distill_study.offline import Worker
w = Worker('vllm:x', {{}}, code=sys.argv[1])
w.hear(60)
print(w.process.pid, flush=True)
time.sleep(600)"""
    p = subprocess.Popen(
        [sys.executable, "-c", code, STANDIN],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | dict(PYTHONPATH=str(ROOT)),
    )
    group = int(p.stdout.readline())
    assert members(group)
    p.kill()
    p.communicate()
    assert gone(group)


def test_a_close_while_it_starts(standin, tmp_path, monkeypatch):
    monkeypatch.setenv("STANDIN", "hangs")
    e = VLLMEngine("zoo/teacher")

    def stop(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.alarm(3)
        with pytest.raises(KeyboardInterrupt):
            complete(e, questions(3), store=Store(tmp_path))
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert e.worker is None


def test_why_it_does_not_start(standin, tmp_path, monkeypatch):
    monkeypatch.setenv("STANDIN", "error")
    with pytest.raises(EngineError) as e:
        complete(VLLMEngine("zoo/teacher"), questions(3), store=Store(tmp_path))
    first, *log = str(e.value).splitlines()
    assert (
        "one answer of 512 tokens needs 2.00 GiB of cache, and the weights leave 1.00. Set vllm.max_model_len to 256 or less"
        in first
        and any("Traceback" in line or "ValueError" in line for line in log)
    )
    path = Path(re.search(r"its log, (\S+):$", first)[1])
    assert "ValueError" in path.read_text()
    path.unlink()


def test_not_installed(tmp_path, monkeypatch):
    find = offline.importlib.util.find_spec
    monkeypatch.setattr(
        offline.importlib.util, "find_spec", lambda name, *more: None if name == "vllm" else find(name, *more)
    )
    with pytest.raises(
        EngineError,
        match=r"vllm:zoo/teacher: vLLM is not installed\. With a GPU, install the extra: pip install -e '\.\[vllm\]'; without one: make vllm",
    ):
        complete(VLLMEngine("zoo/teacher"), questions(1), store=Store(tmp_path))


def test_prompts_that_do_not_fit_start_nothing(standin, tmp_path):
    e = VLLMEngine("zoo/teacher", settings=Vllm(max_model_len=64))
    with pytest.raises(
        EngineError, match="1 of 2 prompts don't fit into the model's 512 tokens; the longest, of request 'b'"
    ):
        complete(e, [ask("1"), ask("1 " * 600, "b")], store=Store(tmp_path))
    with pytest.raises(EngineError, match=r"1 of 2 requests can take more than vllm\.max_model_len = 64 tokens"):
        complete(e, [ask("1"), ask("1", "b", max_tokens=100)], store=Store(tmp_path))
    assert e.worker is None


def test_settings_that_change_the_answers_change_the_key(tmp_path):
    plain, half = VLLMEngine("zoo/teacher"), VLLMEngine("zoo/teacher", settings=Vllm(dtype="bfloat16"))
    assert (
        plain.key(ask("1"))
        == TransformersEngine("zoo/teacher").key(ask("1"))
        == VLLMEngine("zoo/teacher", settings=Vllm(tensor_parallel_size=2, max_model_len=64)).key(ask("1"))
        != half.key(ask("1"))
    )
    (tmp_path / "adapter_config.json").write_text('{"r": 8}')
    assert VLLMEngine("zoo/teacher", settings=Vllm(lora=str(tmp_path))).weights != plain.weights
    with pytest.raises(EngineError, match="vllm.lora = 'nowhere': no folder"):
        VLLMEngine("zoo/teacher", settings=Vllm(lora="nowhere"))


def test_a_cached_run_needs_no_vllm(standin, tmp_path):
    e = VLLMEngine("zoo/teacher")
    first = complete(e, questions(3), store=Store(tmp_path))
    e.close()
    code = "import sys; from test_vllm import *\ngot = complete(open_engine('vllm:zoo/teacher'), questions(3), store=Store(sys.argv[1]))\nprint(json.dumps([got.reused, [r.text for r in got], [m for m in ('torch', 'transformers', 'vllm') if m in sys.modules]]))"
    out = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT / "tests",
        env=os.environ | dict(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert json.loads(out) == [3, [r.text for r in first], []]


# ---------------------------------------------------------------- the real vLLM


@pytest.fixture(scope="module")
def examples():
    return load_data(Data(name="tiny-math", train=400, test=200))


@pytest.fixture(scope="module")
def engine(vllm_installed):
    "One for all tests; its worker starts with the first."
    e = VLLMEngine("zoo/teacher", 8)
    yield e
    e.close()


def test_parity_with_transformers(engine, examples, tmp_path):
    "200 items, greedy, the same weights in the same number format: where a token differs, rounding has tipped it."
    local = TransformersEngine("zoo/teacher")
    a, b = (
        sample_answers(examples.test, "cot", engine=e, store=Store(tmp_path), split="test") for e in (engine, local)
    )
    same = sum(x.text == y.text for x, y in zip(a, b)) / len(a)
    right = [summary(x)["accuracy"] for x in (a, b)]
    print(
        f"vllm and transformers, {len(a)} items: {same:.1%} of the completions identical, accuracy {right[0]:.3f} and {right[1]:.3f}"
    )
    assert len(a) == 200 and a.new == b.new == 200 and same >= 0.95 and abs(right[0] - right[1]) <= 0.02
    assert [x.prompt_tokens for x in a] == [x.prompt_tokens for x in b] and all(x.dtype == "float32" for x in a)


def test_what_a_record_holds(engine, examples, tmp_path):
    start = time.perf_counter()
    got = complete(engine, requests(examples.train[:40], "cot", max_tokens=dict(cot=64)), store=Store(tmp_path))
    assert all(r.valid_key and r.latency > 0 and r.engine == "vllm:zoo/teacher" for r in got)
    assert {k for r in got for k in r.info} == {"device", "dtype", "vllm", "torch", "transformers", "share"}
    assert 0 < sum(r.info["share"] for r in got) < time.perf_counter() - start


def test_limits_and_stop_strings_as_in_transformers(engine, examples, tmp_path):
    asked = [
        Request(f"{e.id}-{i}", tuple(e.ask("cot")), s)
        for e in examples.test[:6]
        for i, s in enumerate(
            (
                Sampling(max_tokens=1),
                Sampling(max_tokens=7),
                Sampling(max_tokens=10_000),
                Sampling(max_tokens=40, stop=("=",)),
                Sampling(max_tokens=40, stop=("nothing like it", " ")),
            )
        )
    ]

    def said(e):
        return [(r.text, r.finish_reason, r.completion_tokens) for r in complete(e, asked, store=Store(tmp_path))]

    mine = said(engine)
    assert mine == said(TransformersEngine("zoo/teacher")) and {reason for _, reason, _ in mine} == {"stop", "length"}


def test_what_is_drawn_can_be_repeated_and_depends_on_no_neighbour(engine, examples, tmp_path):
    def draw(name, n=8, more=(), **kw):
        return [
            r.text
            for r in complete(
                engine,
                [
                    *(
                        Request(e.id, tuple(e.ask("cot")), Sampling(max_tokens=30, temperature=1.5, **kw))
                        for e in examples.test[:n]
                    ),
                    *more,
                ],
                store=Store(tmp_path / name),
            )
        ][:n]

    eight = draw("a")
    assert (
        eight == draw("b")
        and eight[:3] == draw("c", 3)
        and eight == draw("d", more=requests(examples.test[8:40], "cot", sampling=Sampling(max_tokens=30)))
    )
    assert eight != draw("e", seed=1)


def test_the_same_question_twice(engine, tmp_path):
    got = complete(
        engine,
        [
            ask("what is 2 + 3 ?", "a"),
            ask("what is 2 + 3 ?", "b"),
            ask("what is 2 + 3 ?", "c", sample=1, temperature=1.0),
            ask("what is 2 + 3 ?", "d", sample=2, temperature=1.0),
        ],
        store=Store(tmp_path),
    )
    assert got[0] == got[1] and got.new == 3 and got[2].key != got[3].key


def test_answers_as_json_are_of_the_form_that_was_asked_for(engine, vllm_server, tmp_path):
    "Whatever the model would rather write: the schema is enforced, in this process and by the server."
    asked = load_data(Data(name="tiny-qa", train=4, test=12))
    server = OpenAIEngine(vllm_server.model, settings=Endpoint(base_url=vllm_server.base_url, key_env=None))
    for e in (engine, server):
        got = sample_answers(asked.test, "vanilla", engine=e, store=Store(tmp_path), structured=True)
        assert all(
            set(json.loads(a.text)) == {"answer"}
            and json.loads(a.text)["answer"] in "ABCD"
            and a.parsed.strict == json.loads(a.text)["answer"]
            for a in got
        ), [a.text for a in got]
        r = complete(e, requests(asked.test, "vanilla", structured=True), store=Store(tmp_path))
        assert r.reused == 12 and not any("left_out" in x.info for x in r)


def test_what_cannot_be_read_is_asked_again(engine, examples, tmp_path):
    "Cut off after six tokens there is no answer; each further attempt has a seed of its own, and a second run asks nobody."
    few = examples.train[:6]
    first, second = (
        sample_answers(
            few,
            "cot",
            engine=engine,
            store=Store(tmp_path),
            sampling=Sampling(max_tokens=6, temperature=2),
            split="train",
            reasks=2,
        )
        for _ in range(2)
    )
    assert (
        first.new == 18
        and second.new == 0
        and [len(a.unread) for a in first] == [2] * 6 == [len(a.unread) for a in second]
    )
    assert [[u.text for u in a.unread] for a in first] == [[u.text for u in a.unread] for a in second] and any(
        len({u.text for u in (*a.unread, a)}) > 1 for a in first
    )


def test_killed_in_the_middle(engine, examples, tmp_path):
    "SIGKILL to vLLM's process: what was answered is stored, all that it had started is gone, and the next run asks the rest."
    asked, told = requests(examples.train[:200], "cot", max_tokens=dict(cot=64)), []
    complete(engine, asked[:1], store=Store(tmp_path / "warm"))
    group = engine.worker.process.pid

    def kill(done, total):
        if done and not any(told):
            os.kill(group, signal.SIGKILL)
        told.append(done)

    with pytest.raises(EngineError, match=r"it was killed \(SIGKILL\)"):
        complete(engine, asked, store=Store(tmp_path), progress=kill)
    assert not members(group) and 8 <= told[-1] < len(asked) and engine.worker is None
    rest = complete(engine, asked, store=Store(tmp_path))
    assert (rest.reused, rest.new) == (told[-1], len(asked) - told[-1]) and len({r.key for r in rest}) == len(
        {engine.key(r) for r in asked}
    )


def test_left_in_the_middle(engine, examples):
    answers = engine.generate(requests(examples.train, "cot", max_tokens=dict(cot=64)))
    assert next(a for a in answers if a)
    group = engine.worker.process.pid
    assert len(members(group)) > 1
    answers.close()
    assert engine.worker is None and not members(group)


def test_an_adapter_from_a_jupyter_kernel(vllm_installed, examples, tmp_path):
    "A notebook's kernel can start it, and a LoRA adapter on the model answers as the two merged do."
    import nbformat
    import torch
    from nbclient import NotebookClient
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    base = resolve_model("zoo/teacher")
    m = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"),
    )
    m.save_pretrained(tmp_path / "adapter")
    m.merge_and_unload().save_pretrained(tmp_path / "merged")
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "merged")
    code = (
        f"""
from test_vllm import *
e = VLLMEngine("zoo/teacher", settings=Vllm(lora={str(tmp_path / "adapter")!r}))
got = complete(e, requests(load_data(Data(name="tiny-math", train=400, test=200)).test[:40], "cot", max_tokens=dict(cot=24)), store=Store({str(tmp_path / "store")!r}))""",
        "e.close(); print(json.dumps([[r.text for r in got], got[0].info]))",
    )
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in code])
    NotebookClient(
        nb, timeout=300, kernel_name="python3", resources=dict(metadata=dict(path=str(ROOT / "tests")))
    ).execute(env=os.environ | dict(PYTHONPATH=str(ROOT)))
    text, info = json.loads("".join(o["text"] for o in nb.cells[1].outputs if o.output_type == "stream"))
    asked = requests(examples.test[:40], "cot", max_tokens=dict(cot=24))
    merged, plain = (
        [r.text for r in complete(TransformersEngine(str(x)), asked, store=Store(tmp_path / "store"))]
        for x in (tmp_path / "merged", base)
    )
    assert info["lora"] == f"{tmp_path.name}/adapter"
    assert sum(a == b for a, b in zip(text, merged)) >= 36 and sum(a == b for a, b in zip(text, plain)) < 36


def test_a_combination_with_this_teacher(vllm_installed, tmp_path):
    "From recipe to report: vLLM runs twice, for the labels and for the test inputs, and the student is trained in between."
    teacher = dict(engine="vllm:zoo/teacher", vllm=dict(max_model_len=256))
    run(write(tmp_path, teachers=[teacher], arms=["teacher/cot", "student/cot", "distilled/cot-rationale"]), tmp_path)
    m = numbers(tmp_path)
    assert {k: a["n"] for k, a in m["arms"].items() if a["n"]} == {
        "teacher/cot": 12,
        "student/cot": 12,
        "distilled/cot-rationale": 12,
    } and m["arms"]["teacher/cot"]["accuracy"]["value"] > 0.8
    e, splits = VLLMEngine("zoo/teacher", settings=Vllm(max_model_len=256)), load_data(Data(**SMALL["data"][0]))
    stored = [
        complete(
            e, requests(getattr(splits, split), "cot", max_tokens=splits.max_tokens), store=Store(tmp_path / "store")
        )
        for split in ("train", "test")
    ]
    assert [(s.reused, s.new) for s in stored] == [(24, 0), (12, 0)] and e.worker is None
    local = TransformersEngine(
        "zoo/teacher"
    )  # now somebody else answers the same: a report then says how far they agree
    asked, store = requests(splits.test, "cot", max_tokens=splits.max_tokens, split="test"), Store(tmp_path / "store")
    (line,) = map(
        parity_line,
        parity(
            splits.test,
            sample_answers(splits.test, "cot", engine=local, store=store, max_tokens=splits.max_tokens, split="test"),
            asked=asked,
            engine=local,
            store=store,
        ),
    )
    assert re.fullmatch(
        r"vllm:zoo/teacher gave the same text to 100.0 % of 12 questions, accuracy (\S+) % against \1 % there", line
    )


def test_parity_of_the_server_with_transformers(vllm_server, examples, tmp_path):
    "The same 200 items through engine `openai` and vLLM's own server."
    server = OpenAIEngine(
        vllm_server.model, settings=Endpoint(base_url=vllm_server.base_url, key_env=None, concurrency=32)
    )
    a, b = (
        sample_answers(examples.test, "cot", engine=e, store=Store(tmp_path), split="test")
        for e in (server, TransformersEngine("zoo/teacher"))
    )
    same = sum(x.text == y.text for x, y in zip(a, b)) / len(a)
    right = [summary(x)["accuracy"] for x in (a, b)]
    print(
        f"openai (vLLM's server) and transformers, {len(a)} items: {same:.1%} of the completions identical, accuracy {right[0]:.3f} and {right[1]:.3f}"
    )
    assert len(a) == 200 and not a.failed and same >= 0.95 and abs(right[0] - right[1]) <= 0.02
    assert [(x.prompt_tokens, x.tokens) for x, y in zip(a, b) if x.text == y.text] == [
        (y.prompt_tokens, y.tokens) for x, y in zip(a, b) if x.text == y.text
    ]


def test_a_combination_with_a_server_as_teacher(vllm_server, tmp_path):
    teacher = dict(
        engine=f"openai:{vllm_server.model}",
        endpoint=dict(base_url=vllm_server.base_url, key_env=None),
        price=dict(per_million_in=1, per_million_out=2),
    )
    run(write(tmp_path, teachers=[teacher], arms=["teacher/cot", "student/cot", "distilled/cot-rationale"]), tmp_path)
    m = numbers(tmp_path)
    assert (
        m["arms"]["teacher/cot"]["n"] == 12
        and m["arms"]["teacher/cot"]["accuracy"]["value"] > 0.8
        and m["attrition"]["distilled/cot-rationale"] == dict(inputs=24, rows=24, dropped={})
    )
    serving = m["serving"]["teacher/cot"]
    assert (
        serving["cost"] == pytest.approx(serving["prompt_tokens"] / 1e6 + 2 * serving["output_tokens"] / 1e6)
        and serving["attempts"] == 12
    )


def test_the_server_names_its_models(vllm_server, tmp_path):
    wrong = OpenAIEngine("zoo/techer", settings=Endpoint(base_url=vllm_server.base_url, key_env=None))
    with pytest.raises(EngineError, match="has no model 'zoo/techer'. It has 'zoo/teacher'"):
        complete(wrong, [ask("1")], store=Store(tmp_path))
    long = OpenAIEngine(vllm_server.model, settings=Endpoint(base_url=vllm_server.base_url, key_env=None))
    with pytest.raises(EngineError, match="context of 512 tokens is too short for about 1 of 2 prompts"):
        complete(long, [ask("1"), ask("1 + " * 400)], store=Store(tmp_path))
