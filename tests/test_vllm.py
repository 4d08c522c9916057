"vLLM in a server of its own: the same answers as in this process, and no answer lost however that server ends."

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest
from conftest import ROOT
from test_study import SMALL, numbers, run, write

from distill_study.config import Data, Endpoint, Sampling, Vllm
from distill_study.data.load import load_data
from distill_study.models import vllm as local_vllm
from distill_study.models.engine import EngineError, Request, complete
from distill_study.models.local import TransformersEngine
from distill_study.models.openai import OpenAIEngine
from distill_study.models.vllm import LocalServer, VLLMEngine
from distill_study.models.weights import ModelError, resolve_model
from distill_study.store.log import Store
from distill_study.teach.sampling import requests, sample_answers, summary


def ask(text, id=None, sample=0, **sampling):
    settings = Sampling(**dict(max_tokens=16) | sampling)
    return Request(id or text, (dict(role="user", content=text),), settings, None, sample)


def gone(group, seconds=10):
    "Whether a group has nobody left, after a while."
    end = time.monotonic() + seconds
    while members(group) and time.monotonic() < end:
        time.sleep(0.1)
    return not members(group)


def members(group):
    "Ids of the living processes of a group."
    out = []
    for p in psutil.process_iter(["status"]):
        with suppress(ProcessLookupError):  # it has ended meanwhile
            if os.getpgid(p.pid) == group and p.info["status"] != psutil.STATUS_ZOMBIE:
                out.append(p.pid)
    return out


# ---------------------------------------------------------------- the process, with something quick in vLLM's place

STANDIN = """
import asyncio, json, os, sys, time
from aiohttp import web
from distill_study.models import vllm

LOG = ("To serve at least one request with the model's max seq len (512), (2.00 GiB KV cache is needed, which is "
       "larger than the available KV cache memory (1.00 GiB). Based on the available memory, the estimated maximum "
       "model length is 256.")

async def answer(request):
    body = await request.json()
    if body.get("stop") == ["refuse"]:
        return web.json_response(dict(error=dict(message="no such thing")), status=400)
    await asyncio.sleep(0.01)
    tokens = [40 + sum(body["prompt"]) % 50, *body["stop_token_ids"][:1]]
    usage = dict(prompt_tokens=len(body["prompt"]), completion_tokens=2)
    return web.json_response(dict(choices=[dict(token_ids=tokens, finish_reason="stop")], usage=usage))

def standin(*args, **more):
    how = os.environ.get("STANDIN")
    if how == "error": raise ValueError(LOG)
    if how == "hangs": time.sleep(600)
    app = web.Application()
    app.router.add_post("/v1/completions", answer)
    web.run_app(app, path=sys.argv[sys.argv.index("--uds") + 1], print=None, shutdown_timeout=0.1, backlog=2048)

vllm.runpy.run_module = standin
vllm.serve()
"""


def pretend(monkeypatch, found):
    "Let vLLM be installed, or not where `found` is None."
    find = local_vllm.importlib.util.find_spec
    monkeypatch.setattr(local_vllm.importlib.util, "find_spec", lambda name: found if name == "vllm" else find(name))


@pytest.fixture
def standin(monkeypatch):
    "Engines of this test have the stand-in for a server."
    pretend(monkeypatch, "vllm")
    monkeypatch.setattr(local_vllm, "LocalServer", partial(LocalServer, code=STANDIN))


def questions(n, **sampling):
    return [ask(f"what is {i} + 1 ?", f"q{i}", **sampling) for i in range(n)]


def test_answers_find_their_requests(standin, tmp_path):
    e = VLLMEngine("zoo/teacher", 4)
    got = complete(e, questions(50), store=Store(tmp_path))
    assert [r.messages[0]["content"] for r in got] == [f"what is {i} + 1 ?" for i in range(50)]
    assert len({r.text for r in got}) > 10
    assert all(r.valid_key and r.completion_tokens == 2 and r.finish_reason == "stop" for r in got)
    assert e.running.folder.stat().st_mode & 0o777 == 0o700  # nobody else can ask
    group, folder = e.running.process.pid, e.running.folder
    assert members(group)
    e.close()
    e.close()
    assert not members(group)
    assert not folder.exists()


@pytest.mark.parametrize("how", [KeyboardInterrupt, OSError])
def test_what_interrupts_a_run_ends_the_server_and_keeps_what_was_answered(standin, tmp_path, how):
    e, seen = VLLMEngine("zoo/teacher", 4), []

    def interrupt(done, total):
        if done:
            seen.append(e.running)
            raise how

    asked = questions(1200)
    with pytest.raises(how):
        complete(e, asked, store=Store(tmp_path), progress=interrupt)
    assert e.running is None
    assert gone(seen[0].process.pid)
    assert not seen[0].folder.exists()
    rest = complete(e, asked, store=Store(tmp_path))
    assert 0 < rest.reused < 1200
    assert rest.reused + rest.new == 1200
    e.close()


KILLED = (
    "vllm:zoo/teacher: vLLM's server has ended: it was killed (SIGKILL), by somebody or, where memory is short, "
    "by the system. What was answered is stored"
)


def killing(engine, done):
    "A progress function that kills the engine's server after its first answers, and notes what was stored in `done`."

    def progress(finished, total):
        if finished and not any(done):
            os.kill(engine.running.process.pid, signal.SIGKILL)
        done.append(finished)

    return progress


def test_a_killed_server_is_an_error_and_the_next_run_asks_only_the_rest(standin, tmp_path):
    e, done, asked = VLLMEngine("zoo/teacher", 4), [], questions(1200)
    with pytest.raises(EngineError) as error:
        complete(e, asked, store=Store(tmp_path), progress=killing(e, done))
    assert KILLED in str(error.value)
    rest = complete(e, asked, store=Store(tmp_path))
    assert rest.reused == done[-1] > 0
    assert rest.new == 1200 - done[-1]
    e.close()


def test_a_refused_request_ends_the_run_with_what_the_server_says(standin, tmp_path):
    e = VLLMEngine("zoo/teacher", 4)
    with pytest.raises(EngineError, match=r"it gave up on a request \(http_400: 400: .*no such thing"):
        complete(e, questions(3, stop=("refuse",)), store=Store(tmp_path))
    assert e.running is None


def test_it_ends_with_who_started_it(tmp_path):
    "SIGKILL leaves no time to say goodbye."
    code = """
import sys, time
from distill_study.models.vllm import LocalServer
server = LocalServer('vllm:x', {}, code=sys.argv[1])
server.wait()
print(server.process.pid, flush=True)
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
    assert e.running is None


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
        ("import time; time.sleep(600)", -signal.SIGKILL),  # doesn't
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL),  # is dead already
    ],
)
def test_a_group_ends_with_all_that_it_started(code, status):
    child = "import subprocess, sys; print(subprocess.Popen(['sleep', '600']).pid, flush=True); "
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process = subprocess.Popen([sys.executable, "-c", child + code], **pipes, start_new_session=True)
    assert int(process.stdout.readline()) in members(process.pid)
    local_vllm.end_group(process, seconds=1)
    assert process.returncode == status
    assert gone(process.pid)


def test_an_adapter_s_rank_is_rounded_up(tmp_path):
    def rank(r):
        (tmp_path / "adapter_config.json").write_text(json.dumps(dict(r=r)))
        how = dict(context=512, adapter=tmp_path, device="cuda")
        return local_vllm.arguments(resolve_model("zoo/teacher"), Vllm(), **how)["max_lora_rank"]

    assert [rank(1), rank(20), rank(512)] == [1, 32, 512]
    with pytest.raises(EngineError, match="an adapter of rank 513; vLLM takes 512 at most"):
        rank(513)


def test_prompts_that_do_not_fit_start_nothing(standin, tmp_path):
    e = VLLMEngine("zoo/teacher", settings=Vllm(max_model_len=64))
    with pytest.raises(
        EngineError, match="1 of 2 prompts don't fit into the model's 512 tokens; the longest, of request 'b'"
    ):
        complete(e, [ask("1"), ask("1 " * 600, "b")], store=Store(tmp_path))
    with pytest.raises(EngineError, match=r"can take 10\d tokens, and vllm\.max_model_len is 64"):
        complete(e, [ask("1"), ask("1", "b", max_tokens=100)], store=Store(tmp_path))
    assert e.running is None


def test_settings_that_change_the_answers_change_the_key(tmp_path):
    plain, half = VLLMEngine("zoo/teacher"), VLLMEngine("zoo/teacher", settings=Vllm(dtype="bfloat16"))
    shared = VLLMEngine("zoo/teacher", settings=Vllm(tensor_parallel_size=2, max_model_len=64))
    assert plain.key(ask("1")) == TransformersEngine("zoo/teacher").key(ask("1")) == shared.key(ask("1"))
    assert plain.key(ask("1")) != half.key(ask("1"))
    (tmp_path / "adapter_config.json").write_text('{"r": 8}')
    assert VLLMEngine("zoo/teacher", settings=Vllm(lora=str(tmp_path))).weights != plain.weights
    with pytest.raises(ModelError, match="vllm.lora = 'nowhere': no folder"):
        VLLMEngine("zoo/teacher", settings=Vllm(lora="nowhere"))


def test_a_cached_run_needs_no_vllm(standin, tmp_path):
    e = VLLMEngine("zoo/teacher")
    first = complete(e, questions(3), store=Store(tmp_path))
    e.close()
    code = """
import sys
from test_vllm import *
got = complete(VLLMEngine('zoo/teacher'), questions(3), store=Store(sys.argv[1]))
heavy = [m for m in ('torch', 'transformers', 'vllm', 'openai') if m in sys.modules]
print(json.dumps([got.reused, [r.text for r in got], heavy]))"""
    command, env = [sys.executable, "-c", code, str(tmp_path)], os.environ | dict(PYTHONPATH=str(ROOT))
    out = subprocess.run(command, cwd=ROOT / "tests", env=env, capture_output=True, text=True, check=True).stdout
    assert json.loads(out) == [3, [r.text for r in first], []]


# ---------------------------------------------------------------- the real vLLM
# It starts once: a server with an adapter, which serves the model without it, too. The last test kills it.


@pytest.fixture(scope="module")
def examples():
    return load_data(Data(name="tiny-math", train=400, test=200))


@pytest.fixture(scope="module")
def by_transformers(examples, tmp_path_factory):
    "What transformers answers to the 200 test inputs."
    store = Store(tmp_path_factory.mktemp("store"))
    return sample_answers(examples.test, "cot", engine=TransformersEngine("zoo/teacher"), store=store, split="test")


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    "A folder with a random adapter of the zoo's teacher, and the two merged."
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, base = tmp_path_factory.mktemp("lora"), resolve_model("zoo/teacher")
    torch.manual_seed(0)
    how = dict(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), LoraConfig(**how))
    model.save_pretrained(folder / "adapter")
    model.merge_and_unload().save_pretrained(folder / "merged")
    AutoTokenizer.from_pretrained(base).save_pretrained(folder / "merged")
    return folder


@pytest.fixture(scope="module")
def adapted(vllm_installed, merged, examples, tmp_path_factory):
    "The model with the adapter, started."
    e = VLLMEngine("zoo/teacher", 8, settings=Vllm(lora=str(merged / "adapter")))
    complete(e, [ask("1")], store=Store(tmp_path_factory.mktemp("store")))
    yield e
    e.close()


@pytest.fixture(scope="module")
def engine(adapted):
    "The model alone, on the same server."
    e = VLLMEngine("zoo/teacher", 8)
    e.running, e.socket = adapted.running, adapted.socket
    e.about = {k: v for k, v in adapted.about.items() if k != "lora"}
    return e


@pytest.fixture(scope="module")
def server(adapted):
    "Engine `openai` on the same server, which writes the chat template itself."
    e = OpenAIEngine("base", settings=Endpoint(base_url="http://localhost/v1", key_env=None, concurrency=32))
    e.socket = adapted.socket
    return e


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


def test_log_probabilities_as_in_transformers(engine, server, examples, tmp_path):
    asked = requests(examples.test[:8], "cot", sampling=Sampling(logprobs=2, max_tokens=32))
    mine, theirs, served = (
        complete(e, asked, store=Store(tmp_path)) for e in (engine, TransformersEngine("zoo/teacher"), server)
    )
    same = 0
    for a, b, c in zip(mine, theirs, served):
        assert len(a.info["logprobs"]) == a.completion_tokens and c.info["logprobs"]
        if a.text == b.text:
            same += 1
            seen = ([p for _, p, _ in r.info["logprobs"]] for r in (a, b))
            assert next(seen) == pytest.approx(next(seen), abs=0.02)
    assert same >= 6


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
    "From recipe to report, with what vLLM has answered: settings that change no answer are no part of a key."
    splits, store = load_data(Data(**SMALL["data"][0])), Store(tmp_path / "store")
    asked = {s: requests(getattr(splits, s), "cot", max_tokens=splits.max_tokens) for s in ("train", "test")}
    for some in asked.values():
        complete(engine, some, store=store)
    teacher = dict(engine="vllm:zoo/teacher", vllm=dict(max_model_len=256))
    run(write(tmp_path, teachers=[teacher], arms=["teacher/cot", "student/cot", "distilled/cot-rationale"]), tmp_path)
    arms = numbers(tmp_path)["arms"]
    assert {k for k, a in arms.items() if a["n"] == 12} == {"teacher/cot", "student/cot", "distilled/cot-rationale"}
    assert arms["teacher/cot"]["accuracy"]["value"] > 0.8


def test_an_adapter_answers_as_the_two_merged_do(adapted, merged, examples, tmp_path):
    asked, store = requests(examples.test[:40], "cot", max_tokens=dict(cot=24)), Store(tmp_path)
    got = complete(adapted, asked, store=store)
    ways = TransformersEngine(str(merged / "merged")), TransformersEngine("zoo/teacher")
    same, plain = (sum(a.text == b.text for a, b in zip(got, complete(e, asked, store=store))) for e in ways)
    assert same >= 36
    assert plain < 36
    assert got[0].info["lora"] == f"{merged.name}/adapter"


def test_the_server_names_its_models(server, tmp_path):
    wrong = OpenAIEngine("zoo/techer", settings=server.settings)
    wrong.socket = server.socket
    with pytest.raises(EngineError, match="has no model 'zoo/techer'. It has 'adapter', 'base'"):
        complete(wrong, [ask("1")], store=Store(tmp_path))
    with pytest.raises(EngineError, match="context is too short for the longest prompt, of item '1 [+] 1"):
        complete(server, [ask("1"), ask("1 + " * 400)], store=Store(tmp_path))


def test_a_killed_vllm_leaves_nobody_and_loses_nothing(adapted, examples, tmp_path):
    group, done = adapted.running.process.pid, []
    family = psutil.Process(group).children(recursive=True)
    asked = requests(examples.train[:200], "cot", max_tokens=dict(cot=64))
    with pytest.raises(EngineError) as error:
        complete(adapted, asked, store=Store(tmp_path), progress=killing(adapted, done))
    assert KILLED in str(error.value)
    assert len(family) > 0
    assert gone(group)
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in family)
    assert 0 < done[-1] < 200
    lines = sum(len(p.read_text().splitlines()) for p in (tmp_path / "completions").glob("vllm*"))
    assert lines == done[-1]
