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
    settings = Sampling(**dict(max_tokens=16) | sampling)
    return Request(id or text, (dict(role="user", content=text),), settings, None, sample)


def gone(group, seconds=30):
    "Whether a group has nobody left, after a while."
    end = time.monotonic() + seconds
    while members(group) and time.monotonic() < end:
        time.sleep(0.1)
    return not members(group)


# ---------------------------------------------------------------- the process, with something quick in vLLM's place

STANDIN = """
import os, time
from distill_study.models import vllm as offline

class Core:
    def shutdown(self): pass

class Engine:
    engine_core = Core()

LOG = ("To serve at least one request with the model's max seq len (512), (2.00 GiB KV cache is needed, which is "
       "larger than the available KV cache memory (1.00 GiB). Based on the available memory, the estimated maximum "
       "model length is 256.")

def load(order):
    how = os.environ.get("STANDIN")
    if how == "error": raise ValueError(LOG)
    if how == "hangs": time.sleep(600)
    return Engine(), None, dict(device="cpu", dtype="float32")

def answer(engine, adapter, jobs, tell):
    for i in reversed(range(len(jobs))):
        time.sleep(0.01)
        tokens = [40 + i % 50, *jobs[i][1]["stop_token_ids"][:1]]
        tell(at=0.01 * (len(jobs) - i), done=[(i, tokens, "stop", 0.01)])

offline.load, offline.answer = load, answer
offline.work()
"""


def pretend(monkeypatch, found):
    "Let vLLM be installed, or not where `found` is None."
    find = offline.importlib.util.find_spec
    monkeypatch.setattr(offline.importlib.util, "find_spec", lambda name: found if name == "vllm" else find(name))


@pytest.fixture
def standin(monkeypatch):
    "Engines of this test have the stand-in for a worker."
    pretend(monkeypatch, "vllm")
    monkeypatch.setattr(offline, "Worker", partial(Worker, code=STANDIN))


def questions(n):
    return [ask(f"what is {i} + 1 ?", f"q{i}") for i in range(n)]


def test_answers_find_their_requests(standin, tmp_path):
    e = VLLMEngine("zoo/teacher", 4)
    got = complete(e, questions(50), store=Store(tmp_path))
    assert [r.messages[0]["content"] for r in got] == [f"what is {i} + 1 ?" for i in range(50)]
    assert len({r.text for r in got}) == 50
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


KILLED = (
    "vllm:zoo/teacher: vLLM's process has ended: it was killed (SIGKILL), by somebody or, where memory is short, "
    "by the system. What was answered is stored"
)


def killing(engine, done):
    "A progress function that kills the engine's worker after its first answers, and notes what was stored in `done`."

    def progress(finished, total):
        if finished and not any(done):
            os.kill(engine.worker.process.pid, signal.SIGKILL)
        done.append(finished)

    return progress


def test_a_killed_worker_is_an_error_and_the_next_run_asks_only_the_rest(standin, tmp_path):
    e, done = VLLMEngine("zoo/teacher", 4), []
    with pytest.raises(EngineError) as error:
        complete(e, questions(300), store=Store(tmp_path), progress=killing(e, done))
    assert KILLED in str(error.value)
    rest = complete(e, questions(300), store=Store(tmp_path))
    assert rest.reused == done[-1] >= 4 and rest.new == 300 - done[-1]
    e.close()


def test_it_ends_with_who_started_it(tmp_path):
    "SIGKILL leaves no time to say goodbye."
    code = """
import sys, time
from distill_study.models.vllm import Worker
w = Worker('vllm:x', {}, code=sys.argv[1])
w.hear(60)
print(w.process.pid, flush=True)
time.sleep(600)"""
    env = os.environ | dict(PYTHONPATH=str(ROOT))
    p = subprocess.Popen([sys.executable, "-c", code, STANDIN], stdout=subprocess.PIPE, text=True, cwd=ROOT, env=env)
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
    assert "one answer of 512 tokens needs 2.00 GiB of cache, and the weights leave 1.00" in first
    assert "Set vllm.max_model_len to 256 or less" in first
    assert any("Traceback" in line or "ValueError" in line for line in log)
    path = Path(re.search(r"its log, (\S+):$", first)[1])
    assert "ValueError" in path.read_text()
    path.unlink()


def test_not_installed(tmp_path, monkeypatch):
    pretend(monkeypatch, None)
    with pytest.raises(EngineError) as e:
        complete(VLLMEngine("zoo/teacher"), questions(1), store=Store(tmp_path))
    how = "With a GPU, install the extra: pip install -e '.[vllm]'; without one: make vllm."
    assert str(e.value) == f"vllm:zoo/teacher: vLLM is not installed. {how}"


@pytest.mark.parametrize(
    "code, status",
    [
        ("sys.stdin.read()", 0),  # ends by itself
        ("import time; time.sleep(600)", -signal.SIGTERM),  # doesn't
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL),  # is dead already
    ],
)
def test_a_group_ends_with_all_that_it_started(code, status):
    child = "import subprocess, sys; print(subprocess.Popen(['sleep', '600']).pid, flush=True); "
    process = offline.begin_group(child + code, subprocess.DEVNULL)
    assert int(process.stdout.readline()) in members(process.pid)
    offline.end_group(process, seconds=2)
    assert (process.returncode, members(process.pid)) == (status, {})


def test_a_process_that_was_ended_can_be_told_nothing():
    worker = Worker("vllm:x", dict(hello=1), code="import sys; print(next(sys.stdin), flush=True)")
    assert worker.hear(10) == dict(hello=1)
    worker.process.wait(10)
    with pytest.raises(EngineError, match=r"it ended by itself \(exit code 0\)"):
        worker.hear(10)
    with pytest.raises(EngineError):
        worker.say("more")
    Path(worker.log).unlink()


def test_weights_that_are_too_much_and_what_would_do():
    assert offline.lacking(15, 80, settings=Vllm()) is None
    assert "Set vllm.tensor_parallel_size to 2, quantize it" in offline.lacking(140, 80, settings=Vllm())
    four = offline.lacking(810, 80, settings=Vllm(tensor_parallel_size=4))
    assert "its weights take 810.0 GiB, 202.5 on each of 4 GPUs, and" in four and "to 16," in four


def test_an_adapter_s_rank_is_rounded_up(tmp_path):
    def rank(r):
        (tmp_path / "adapter_config.json").write_text(json.dumps(dict(r=r)))
        machine = dict(context=512, adapter=tmp_path, device="cuda", free=0)
        return offline.arguments(resolve_model("zoo/teacher"), Vllm(), **machine)["max_lora_rank"]

    assert [rank(1), rank(20), rank(512)] == [1, 32, 512]
    with pytest.raises(ValueError, match="an adapter of rank 513; vLLM takes 512 at most"):
        rank(513)


def test_prompts_that_do_not_fit_start_nothing(standin, tmp_path):
    e = VLLMEngine("zoo/teacher", settings=Vllm(max_model_len=64))
    with pytest.raises(
        EngineError, match="1 of 2 prompts don't fit into the model's 512 tokens; the longest, of request 'b'"
    ):
        complete(e, [ask("1"), ask("1 " * 600, "b")], store=Store(tmp_path))
    with pytest.raises(EngineError, match=r"1 of 2 requests can take more than vllm\.max_model_len = 64 tokens"):
        complete(e, [ask("1"), ask("1", "b", max_tokens=100)], store=Store(tmp_path))
    with pytest.raises(EngineError, match=r"vllm\.max_model_len = 1000, and the model's context has 512 tokens"):
        complete(VLLMEngine("zoo/teacher", settings=Vllm(max_model_len=1000)), [ask("1")], store=Store(tmp_path))
    assert e.worker is None


def test_settings_that_change_the_answers_change_the_key(tmp_path):
    plain, half = VLLMEngine("zoo/teacher"), VLLMEngine("zoo/teacher", settings=Vllm(dtype="bfloat16"))
    shared = VLLMEngine("zoo/teacher", settings=Vllm(tensor_parallel_size=2, max_model_len=64))
    assert plain.key(ask("1")) == TransformersEngine("zoo/teacher").key(ask("1")) == shared.key(ask("1"))
    assert plain.key(ask("1")) != half.key(ask("1"))
    (tmp_path / "adapter_config.json").write_text('{"r": 8}')
    assert VLLMEngine("zoo/teacher", settings=Vllm(lora=str(tmp_path))).weights != plain.weights
    with pytest.raises(EngineError, match="vllm.lora = 'nowhere': no folder"):
        VLLMEngine("zoo/teacher", settings=Vllm(lora="nowhere"))


def test_a_cached_run_needs_no_vllm(standin, tmp_path):
    e = VLLMEngine("zoo/teacher")
    first = complete(e, questions(3), store=Store(tmp_path))
    e.close()
    code = """
import sys
from test_vllm import *
got = complete(VLLMEngine('zoo/teacher'), questions(3), store=Store(sys.argv[1]))
heavy = [m for m in ('torch', 'transformers', 'vllm') if m in sys.modules]
print(json.dumps([got.reused, [r.text for r in got], heavy]))"""
    command, env = [sys.executable, "-c", code, str(tmp_path)], os.environ | dict(PYTHONPATH=str(ROOT))
    out = subprocess.run(command, cwd=ROOT / "tests", env=env, capture_output=True, text=True, check=True).stdout
    assert json.loads(out) == [3, [r.text for r in first], []]


# ---------------------------------------------------------------- the real vLLM
# It starts four times: one engine for all tests up to the one that leaves it, one server, one in a notebook's kernel,
# one within a study.


@pytest.fixture(scope="module")
def examples():
    return load_data(Data(name="tiny-math", train=400, test=200))


@pytest.fixture(scope="module")
def by_transformers(examples, tmp_path_factory):
    "What transformers answers to the 200 test inputs."
    store = Store(tmp_path_factory.mktemp("store"))
    return sample_answers(examples.test, "cot", engine=TransformersEngine("zoo/teacher"), store=store, split="test")


@pytest.fixture(scope="module")
def engine(vllm_installed):
    "One for all tests; its worker starts with the first."
    e = VLLMEngine("zoo/teacher", 8)
    yield e
    e.close()


@pytest.fixture
def server(vllm_server):
    "Engine `openai` on vLLM's own server."
    settings = Endpoint(base_url=vllm_server.base_url, key_env=None, concurrency=32)
    return OpenAIEngine(vllm_server.model, settings=settings)


def check_parity(engine, examples, others, store):
    "Greedy, the same weights in the same number format: where a token differs, rounding has tipped it."
    own = sample_answers(examples.test, "cot", engine=engine, store=store, split="test")
    same = sum(x.text == y.text for x, y in zip(own, others)) / len(own)
    right = [summary(x)["accuracy"] for x in (own, others)]
    print(f"{engine.spec} and transformers, {len(own)} items: {same:.1%} identical, accuracy {right}")
    assert len(own) == own.new == 200 and not own.failed
    assert same >= 0.95 and abs(right[0] - right[1]) <= 0.02
    assert [x.prompt_tokens for x in own] == [x.prompt_tokens for x in others]
    assert all(x.tokens == y.tokens for x, y in zip(own, others) if x.text == y.text)
    return own


def test_parity_with_transformers(engine, examples, by_transformers, tmp_path):
    assert all(x.dtype == "float32" for x in check_parity(engine, examples, by_transformers, Store(tmp_path)))


def test_parity_of_the_server_with_transformers(server, examples, by_transformers, tmp_path):
    check_parity(server, examples, by_transformers, Store(tmp_path))


def test_what_a_record_holds(engine, examples, tmp_path):
    start = time.perf_counter()
    got = complete(engine, requests(examples.train[:40], "cot", max_tokens=dict(cot=64)), store=Store(tmp_path))
    assert all(r.valid_key and r.latency > 0 and r.engine == "vllm:zoo/teacher" for r in got)
    assert {k for r in got for k in r.info} == {"device", "dtype", "vllm", "torch", "transformers", "share"}
    assert 0 < sum(r.info["share"] for r in got) < time.perf_counter() - start


def test_limits_and_stop_strings_as_in_transformers(engine, examples, tmp_path):
    settings = (
        Sampling(max_tokens=1),
        Sampling(max_tokens=7),
        Sampling(max_tokens=10_000),
        Sampling(max_tokens=40, stop=("=",)),
        Sampling(max_tokens=40, stop=("nothing like it", " ")),
    )
    asked = [Request(f"{e.id}-{i}", tuple(e.ask("cot")), s) for e in examples.test[:6] for i, s in enumerate(settings)]

    def outcomes(e):
        return [(r.text, r.finish_reason, r.completion_tokens) for r in complete(e, asked, store=Store(tmp_path))]

    mine = outcomes(engine)
    assert mine == outcomes(TransformersEngine("zoo/teacher"))
    assert {reason for _, reason, _ in mine} == {"stop", "length"}


def test_what_is_drawn_can_be_repeated_and_depends_on_no_neighbour(engine, examples, tmp_path):
    def draw(name, n=8, more=(), **settings):
        hot = Sampling(max_tokens=30, temperature=1.5, **settings)
        asked = [Request(e.id, tuple(e.ask("cot")), hot) for e in examples.test[:n]]
        return [r.text for r in complete(engine, [*asked, *more], store=Store(tmp_path / name))][:n]

    neighbours = requests(examples.test[8:40], "cot", sampling=Sampling(max_tokens=30))
    eight = draw("a")
    assert eight == draw("b") == draw("c", more=neighbours) and eight[:3] == draw("d", 3)
    assert eight != draw("e", seed=1)


def test_the_same_question_twice(engine, tmp_path):
    text = "what is 2 + 3 ?"
    drawn = [ask(text, f"{i}", sample=i, temperature=1.0) for i in (1, 2)]
    got = complete(engine, [ask(text, "a"), ask(text, "b"), *drawn], store=Store(tmp_path))
    assert got[0] == got[1] and got.new == 3 and got[2].key != got[3].key


def test_answers_as_json_are_of_the_form_that_was_asked_for(engine, server, tmp_path):
    "Whatever the model would rather write: the schema is enforced, in this process and by the server."
    inputs = load_data(Data(name="tiny-qa", train=4, test=12)).test
    for e in (engine, server):
        for a in sample_answers(inputs, "vanilla", engine=e, store=Store(tmp_path), structured=True):
            found = json.loads(a.text)
            assert set(found) == {"answer"} and found["answer"] in "ABCD" and a.parsed.strict == found["answer"]
        again = complete(e, requests(inputs, "vanilla", structured=True), store=Store(tmp_path))
        assert again.reused == 12 and not any("left_out" in r.info for r in again)


def test_what_cannot_be_read_is_asked_again(engine, examples, tmp_path):
    "Cut off after six tokens there is no answer; each attempt has a seed of its own, and a second run asks nobody."
    how = dict(sampling=Sampling(max_tokens=6, temperature=2), split="train", reasks=2)
    few, store = examples.train[:6], Store(tmp_path)
    first, second = (sample_answers(few, "cot", engine=engine, store=store, **how) for _ in range(2))
    texts = [[[u.text for u in a.unread] for a in run] for run in (first, second)]
    assert (first.new, second.new) == (18, 0) and texts[0] == texts[1] and [len(t) for t in texts[0]] == [2] * 6
    assert any(len({u.text for u in (*a.unread, a)}) > 1 for a in first)


def test_a_combination_with_this_teacher(engine, tmp_path):
    "From recipe to report: the labels are there already, vLLM answers the test inputs, and is over when it has."
    splits, store = load_data(Data(**SMALL["data"][0])), Store(tmp_path / "store")
    asked = {s: requests(getattr(splits, s), "cot", max_tokens=splits.max_tokens) for s in ("train", "test")}
    complete(engine, asked["train"], store=store)
    teacher = dict(engine="vllm:zoo/teacher", vllm=dict(max_model_len=256))
    run(write(tmp_path, teachers=[teacher], arms=["teacher/cot", "student/cot", "distilled/cot-rationale"]), tmp_path)
    arms = numbers(tmp_path)["arms"]
    assert {k for k, a in arms.items() if a["n"] == 12} == {"teacher/cot", "student/cot", "distilled/cot-rationale"}
    assert arms["teacher/cot"]["accuracy"]["value"] > 0.8
    stored = [complete(engine, r, store=Store(tmp_path / "store", replay=True)) for r in asked.values()]
    assert [s.reused for s in stored] == [24, 12]
    # now somebody else answers the same: a report then says how far they agree
    local, store = TransformersEngine("zoo/teacher"), Store(tmp_path / "store")
    how = dict(max_tokens=splits.max_tokens, split="test")
    own = sample_answers(splits.test, "cot", engine=local, store=store, **how)
    (found,) = parity(splits.test, own, asked=requests(splits.test, "cot", **how), engine=local, store=store)
    same = r"vllm:zoo/teacher gave the same text to 100.0 % of 12 questions, accuracy (\S+) % against \1 % there"
    assert re.fullmatch(same, parity_line(found))


def test_left_in_the_middle(engine, examples):
    answers = engine.generate(requests(examples.train, "cot", max_tokens=dict(cot=64)))
    assert next(a for a in answers if a)
    group = engine.worker.process.pid
    assert len(members(group)) > 1
    answers.close()
    assert engine.worker is None and not members(group)


def test_an_adapter_from_a_jupyter_kernel_killed_in_the_middle(vllm_installed, examples, tmp_path):
    "A LoRA adapter answers as the two merged do, in a kernel of its own; SIGKILL loses nothing that was answered."
    save_adapter(tmp_path)
    code = (
        f"""
from test_vllm import *
e = VLLMEngine("zoo/teacher", 8, settings=Vllm(lora={str(tmp_path / "adapter")!r}))
examples, store = load_data(Data(name="tiny-math", train=400, test=200)), Store({str(tmp_path / "store")!r})
got = complete(e, requests(examples.test[:40], "cot", max_tokens=dict(cot=24)), store=store)
print(json.dumps([[r.text for r in got], got[0].info]))""",
        """
group, done, error = e.worker.process.pid, [], None
try:
    asked = requests(examples.train[:200], "cot", max_tokens=dict(cot=64))
    complete(e, asked, store=store, progress=killing(e, done))
except EngineError as why:
    error = str(why)
print(json.dumps([error, done[-1], members(group), e.worker is None]))""",
    )
    (texts, info), (error, done, alive, closed) = in_a_kernel(code)
    asked = requests(examples.test[:40], "cot", max_tokens=dict(cot=24))
    merged, plain = (
        [r.text for r in complete(TransformersEngine(str(m)), asked, store=Store(tmp_path / "store"))]
        for m in (tmp_path / "merged", resolve_model("zoo/teacher"))
    )
    assert info["lora"] == f"{tmp_path.name}/adapter"
    assert sum(a == b for a, b in zip(texts, merged)) >= 36 and sum(a == b for a, b in zip(texts, plain)) < 36
    assert KILLED in error and alive == {} and closed and 0 < done < 200
    lines = sum(len(p.read_text().splitlines()) for p in (tmp_path / "store" / "completions").glob("vllm*"))
    assert lines == 40 + done


def save_adapter(folder):
    "A random adapter of the zoo's teacher, and the two merged."
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    base = resolve_model("zoo/teacher")
    how = dict(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), LoraConfig(**how))
    model.save_pretrained(folder / "adapter")
    model.merge_and_unload().save_pretrained(folder / "merged")
    AutoTokenizer.from_pretrained(base).save_pretrained(folder / "merged")


def in_a_kernel(code):
    "What the cells print, in a notebook's kernel that is run for them."
    import nbformat
    from nbclient import NotebookClient

    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in code])
    client = NotebookClient(nb, timeout=600, kernel_name="python3", resources=dict(metadata=dict(path=ROOT / "tests")))
    client.execute(env=os.environ | dict(PYTHONPATH=str(ROOT)))
    printed = ("".join(o["text"] for o in c.outputs if o.get("name") == "stdout") for c in nb.cells)
    return [json.loads(text) for text in printed]


def test_a_combination_with_a_server_as_teacher(vllm_server, tmp_path):
    teacher = dict(
        engine=f"openai:{vllm_server.model}",
        endpoint=dict(base_url=vllm_server.base_url, key_env=None),
        price=dict(per_million_in=1, per_million_out=2),
    )
    run(write(tmp_path, teachers=[teacher], arms=["teacher/cot", "student/cot", "distilled/cot-rationale"]), tmp_path)
    m = numbers(tmp_path)
    arm, serving = m["arms"]["teacher/cot"], m["serving"]["teacher/cot"]
    assert arm["n"] == 12 and arm["accuracy"]["value"] > 0.8
    assert m["attrition"]["distilled/cot-rationale"] == dict(inputs=24, rows=24, dropped={})
    cost = serving["prompt_tokens"] / 1e6 + 2 * serving["output_tokens"] / 1e6
    assert serving["cost"] == pytest.approx(cost) and serving["attempts"] == 12


def test_the_server_names_its_models(server, vllm_server, tmp_path):
    wrong = OpenAIEngine("zoo/techer", settings=Endpoint(base_url=vllm_server.base_url, key_env=None))
    with pytest.raises(EngineError, match="has no model 'zoo/techer'. It has 'zoo/teacher'"):
        complete(wrong, [ask("1")], store=Store(tmp_path))
    with pytest.raises(EngineError, match="context of 512 tokens is too short for about 1 of 2 prompts"):
        complete(server, [ask("1"), ask("1 + " * 400)], store=Store(tmp_path))
