"Batches: nothing is lost or sent twice, whatever becomes of a batch, of the way to it, or of the process."

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import httpx2
import pytest
from batches import BatchServer, Drop
from conftest import ROOT
from hypothesis import HealthCheck, given, settings, strategies as st
from typer.testing import CliRunner

from distill_study.cli import app
from distill_study.config import Endpoint, Sampling, StudyError, Teacher
from distill_study.models import batch
from distill_study.models.engine import EngineError, Failure, Request, complete, open_teacher
from distill_study.models.openai import AnthropicEngine, OpenAIEngine, status_fault
from distill_study.models.weights import resolve_model
from distill_study.store.log import Store
from distill_study.study.plan import parse_recipe
from distill_study.study.resources import pieces

SECRET = "marked-secret-0123456789"
ENGINES = dict(openai=OpenAIEngine, anthropic=AnthropicEngine)


def ask(text, **sampling):
    return Request(text, (dict(role="user", content=text),), Sampling(**dict(max_tokens=16) | sampling))


def questions(n=6, tag="q"):
    return [ask(f"{tag}{i}") for i in range(n)]


def engine(server, name="openai", **more):
    how = dict(base_url=server.url, key_env=None, batch=True, timeout=20) | more
    return ENGINES[name]("m", settings=Endpoint(**how))


def stored(root):
    lines = [json.loads(line) for p in sorted((root / "completions").glob("*.jsonl")) for line in open(p)]
    return sorted(r["messages"][-1]["content"] for r in lines)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(batch, "pause", lambda looks: 0.0)
    monkeypatch.setattr(batch, "SETTLE", 0.0)
    monkeypatch.delenv("ANTHROPIC_AUTH_TOKEN", raising=False)


both = pytest.mark.parametrize("name", ENGINES)


@both
def test_answers_in_any_order(name, tmp_path, capsys):
    with BatchServer(looks=3) as server:
        got = complete(engine(server, name), questions(5), store=Store(tmp_path))
        assert [r.text for r in got] == [f"answer\u2028to q{i}" for i in range(5)]
        assert (server.calls["create"], got.new, got[0].latency) == (1, 5, None)
        assert got[0].info["batch"] == "batch-1" if name == "anthropic" else "batch-2"
        assert (got[0].prompt_tokens, got[0].completion_tokens, got[0].finish_reason) == (9, 3, "stop")
        assert "5 of 5 requests done" in capsys.readouterr().err
        plain = engine(server, name, batch=False)  # the same questions in the ordinary way, and the other way round
        assert complete(plain, questions(5), store=Store(tmp_path)).reused == 5
    assert batch.under_way(tmp_path) == []


@both
@pytest.mark.parametrize("allowed", [False, True])
def test_redirects_are_followed_where_the_recipe_allows_it(name, allowed, tmp_path):
    with BatchServer() as there, elsewhere(there) as server:
        asked = engine(server, name, redirects=allowed)
        if allowed:
            assert complete(asked, questions(2), store=Store(tmp_path)).new == 2
        else:
            with pytest.raises(EngineError, match="307"):
                complete(asked, questions(2), store=Store(tmp_path))
        assert sorted(there.executed) == (["q0", "q1"] if allowed else [])


@contextmanager
def elsewhere(there):
    "A server that sends every call to another one."

    class Redirect(BaseHTTPRequestHandler):
        def do_GET(self):
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(307)
            self.send_header("location", there.url.removesuffix("/v1") + self.path)
            self.send_header("content-length", "0")
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Redirect) as httpd:
        threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
        yield SimpleNamespace(url=f"http://127.0.0.1:{httpd.server_port}/v1")
        httpd.shutdown()


@both
def test_what_becomes_of_single_requests(name, tmp_path):
    script = dict(a=[400], b=["expired"], c=["expired"] * 2, d=["cancelled"], e=["junk"], f=["nothing", "nothing"])
    script |= dict(g=["twice"], h=[529, None], i=["empty"])
    with BatchServer(script) as server:
        got = complete(engine(server, name), [ask(q) for q in script], store=Store(tmp_path), max_failures=1)
        assert {q: r.reason for q, r in zip(script, got) if isinstance(r, Failure)} == dict(
            a="http_400", c="expired", d="cancelled", f="no_result"
        )
        assert Counter(server.executed) == dict(a=1, b=2, c=2, d=1, e=2, f=2, g=1, h=2, i=2)
        assert server.calls["create"] == 2
        ledger = {e["id"]: (e["reason"], e["attempts"]) for e in Store(tmp_path).ledger.entries()}
        assert ledger == dict(a=("http_400", 1), c=("expired", 2), d=("cancelled", 1), f=("no_result", 2))
        again = complete(engine(server, name), [ask(q) for q in script], store=Store(tmp_path))
        assert (again.reused, again.new) == (5, 4)
    assert stored(tmp_path) == sorted(script)


@both
@pytest.mark.parametrize(
    "fate, reason", [("expired", "expired"), ("cancelled", "cancelled"), ("failed", "batch_failed")]
)
def test_what_becomes_of_a_whole_batch(name, fate, reason, tmp_path):
    if name == "anthropic" and fate == "failed":
        pytest.skip("Anthropic refuses such a batch when it is created")
    with BatchServer(fates=[fate] * 2) as server:
        got = complete(engine(server, name), questions(3), store=Store(tmp_path), max_failures=1)
        assert {f.reason for f in got.failures.values()} == {reason} and len(got.failures) == 3
        assert server.calls["create"] == (2 if fate == "expired" else 1)  # once more in the same run, and no oftener
        server.fates.clear()
        assert complete(engine(server, name), questions(3), store=Store(tmp_path)).new == 3


def test_a_queue_that_is_full_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(batch.OpenAIBatches, "most", 2)
    with BatchServer(looks=2, most=2) as server:
        got = complete(engine(server), questions(12), store=Store(tmp_path))
        assert got.new == 12 and Counter(server.executed).most_common(1)[0][1] == 1
        stuck = BatchServer(fates=["queue"] * 100)
        server.handle = stuck.handle
        with pytest.raises(EngineError, match="takes no batch \\(token_limit_exceeded: no\\)"):
            complete(engine(server), questions(2, "x"), store=Store(tmp_path))


@pytest.mark.parametrize("limit", [dict(most=7), dict(size=900)])
def test_many_requests_are_split(limit, tmp_path, monkeypatch):
    for setting, value in limit.items():
        monkeypatch.setattr(batch.OpenAIBatches, setting, value)
    with BatchServer() as server:
        complete(engine(server), questions(20), store=Store(tmp_path))
        assert [len(b["lines"]) for b in server.batches.values()] == [7, 7, 6] if "most" in limit else [4] * 5
        assert all(len(f) <= 900 for f in server.files.values()) or "most" in limit
    part = batch.parts(((n, b"") for n in range(60_000)), most=50_000, size=200_000_000)
    assert [len(p) for p in part] == [50_000, 10_000]


# ---------------------------------------------------------------- on the way


@both
@pytest.mark.parametrize(
    "faults",
    [
        dict(create=[500]),  # is it there? no
        dict(create=["drop"]),
        dict(create=["lost"]),  # is it there? yes
        dict(create=[429, 429]),
        dict(upload=[500, "drop", "lost", 429]),
        dict(list=[500, "drop", 429]),
        dict(create=["lost"], list=[None, "drop", 500]),
        dict(look=[429, 500, "drop", "lost", "half"]),
        dict(content=[500, "drop", "lost", "half", 429]),
        dict(look=[None, 503], content=["half", "half"]),
    ],
    ids=str,
)
def test_the_way_to_the_provider(name, faults, tmp_path):
    with BatchServer(looks=2, faults=faults) as server:
        got = complete(engine(server, name, attempts=9), questions(7), store=Store(tmp_path))
        assert (got.new, len(server.executed), stored(tmp_path)) == (7, 7, sorted(server.executed))
        assert not any(server.faults.values()) or name == "anthropic"  # it has no files


def test_a_creation_that_never_succeeds(tmp_path):
    with BatchServer(faults=dict(upload=[500] * 50)) as server:
        with pytest.raises(EngineError, match="takes no batch \\(500: told to say 500\\)"):
            complete(engine(server, attempts=3), questions(), store=Store(tmp_path))
        server.faults.clear()
        assert complete(engine(server), questions(), store=Store(tmp_path)).new == 6
        assert len(server.executed) == 6


def test_refused_for_good(tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_KEY", SECRET)
    with BatchServer(faults=dict(create=[400]), key=SECRET) as server:
        with pytest.raises(EngineError, match="takes no batch \\(400: told to say 400\\)"):
            complete(engine(server, key_env="TEST_KEY"), questions(), store=Store(tmp_path))
        assert complete(engine(server, key_env="TEST_KEY"), questions(), store=Store(tmp_path)).new == 6


@both
def test_a_server_that_stays_silent(name, tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "MISSES", 4)
    with BatchServer(faults=dict(look=[500] * 4)) as server:
        with pytest.raises(EngineError, match="has not answered the last 4 questions about batches .500"):
            complete(engine(server, name), questions(), store=Store(tmp_path))
        (line,) = batch.under_way(tmp_path)
        assert "0 of 6 requests done, sent 20" in line
        assert complete(engine(server, name), questions(), store=Store(tmp_path)).new == 6
        assert len(server.executed) == 6


@both
@pytest.mark.parametrize("how", ["another key", "gone"])
def test_a_batch_that_is_not_shown_is_not_sent_again(name, how, tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_KEY", SECRET)
    monkeypatch.setattr(batch, "MISSES", 1)
    with BatchServer(faults=dict(look=[500]), key=SECRET) as server:
        asked = engine(server, name, key_env="TEST_KEY")
        with pytest.raises(EngineError):
            complete(asked, questions(), store=Store(tmp_path))
        if how == "gone":
            server.batches.clear()
        else:
            monkeypatch.setenv("TEST_KEY", "another-key-987654321")
        with pytest.raises(EngineError, match="won't show batch batch-.*environment variable TEST_KEY") as e:
            complete(asked, questions(), store=Store(tmp_path))
        assert server.calls["create"] == 1 and "another-key" not in str(e.value)
        (notes,) = (tmp_path / "batches").iterdir()
        assert notes.name in str(e.value)
        notes.write_text("")  # as the sentence says
        monkeypatch.setenv("TEST_KEY", SECRET)
        assert complete(asked, questions(), store=Store(tmp_path)).new == 6
    assert not any(SECRET in p.read_text() for p in tmp_path.rglob("*.jsonl"))


# ---------------------------------------------------------------- killed


class Killed(BaseException):
    "The process is gone."


@both
@pytest.mark.parametrize(
    "faults",
    [
        dict(upload=[(Killed(),)]),  # between upload and creation
        dict(create=[Killed()]),
        dict(create=[(Killed(),)]),  # between creation and the note
        dict(look=[Killed(), (Killed(),)]),
        dict(list=[Killed(), (Killed(),)]),
        dict(content=[Killed(), (Killed(),)]),
        dict(create=[(Killed(),)], list=[None, Killed(), (Killed(),)], look=[None, Killed()], content=[(Killed(),)]),
    ],
    ids=lambda f: "+".join(f),
)
@pytest.mark.parametrize("looks", [1, 3])
def test_killed(name, faults, looks, tmp_path, monkeypatch):
    with Direct(monkeypatch, BatchServer(looks=looks, faults=faults)) as server:
        assert until_done(server, name, questions(4), folder=tmp_path) > 1 or name == "anthropic"
        assert sorted(server.executed) == stored(tmp_path) == [f"q{i}" for i in range(4)]


class Direct:
    "Clients that hand their calls to a `BatchServer` in this process."

    def __init__(self, monkeypatch, server):
        self.server = server
        server.url = "http://nowhere/v1"

        def call(request):
            try:
                status, data = server.handle(
                    request.method, request.url.raw_path.decode(), dict(request.headers), request.read()
                )
            except Drop:
                raise httpx2.ReadError("cut") from None
            return httpx2.Response(status, content=data, headers={"content-type": "application/json"})

        http = httpx2.Client(transport=httpx2.MockTransport(call))
        for kind in (batch.OpenAIBatches, batch.AnthropicBatches):
            made = kind.__dict__["_client"]
            monkeypatch.setattr(kind, "_client", lambda self, made=made, **how: made(self, http_client=http, **how))
        monkeypatch.setattr(httpx2.Client, "close", lambda self: None)

    def __enter__(self):
        return self.server

    def __exit__(self, *exc):
        pass


def until_done(server, name, asked, *, folder):
    "Start again after every end until all is answered; how many starts it took."
    for start in range(1, 60):
        try:
            got = complete(engine(server, name), asked, store=Store(folder), max_failures=1)
        except (EngineError, Killed, KeyboardInterrupt):
            continue
        if not got.failures:
            return start
    pytest.fail("never done")


def client(server, name, folder):
    code = f"""
import sys
sys.path.insert(0, 'tests')
from test_batch import *
batch.pause, batch.SETTLE = lambda looks: 0.05, 0.0
asked = ENGINES[{name!r}]('m', settings=Endpoint(base_url={server.url!r}, key_env=None, batch=True))
complete(asked, questions(20), store=Store({str(folder)!r}))"""
    env = os.environ | dict(PYTHONPATH=str(ROOT))
    how = dict(cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen([sys.executable, "-c", code], **how)


@both
def test_killed_and_interrupted_for_real(name, tmp_path, capsys):
    with BatchServer(looks=10**9) as server:
        for sign in (signal.SIGKILL, signal.SIGINT):
            p = client(server, name, tmp_path)
            for line in p.stderr:
                if ("sent, of 20" if sign is signal.SIGKILL else "has 20 of the answers") in line:
                    break
            p.send_signal(sign)
            assert ("1 batch(es) go on at the provider" in p.communicate()[1]) == (sign is signal.SIGINT)
        for b in server.batches.values():
            b["left"] = 1
        got = complete(engine(server, name), questions(20), store=Store(tmp_path))
        assert (got.new, sorted(server.executed), server.calls["create"]) == (20, stored(tmp_path), 1)


def test_two_runs_that_want_some_of_the_same(tmp_path, monkeypatch):
    "The second has its part of the first one's batch, and the first finds the rest there later."
    with Direct(monkeypatch, BatchServer(looks=4, faults=dict(look=[Killed()]))) as server:
        with pytest.raises(Killed):
            complete(engine(server), questions(6), store=Store(tmp_path))
        some = [*questions(6)[:2], ask("new")]
        assert complete(engine(server), some, store=Store(tmp_path)).new == 3
        assert len(batch.under_way(tmp_path)) == 1
        assert complete(engine(server), questions(6), store=Store(tmp_path)).reused == 2
    assert sorted(server.executed) == sorted({*server.executed}) == stored(tmp_path)
    assert batch.under_way(tmp_path) == []


def test_another_machine_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_CACHE_DIR", str(tmp_path / "one"))
    url = f"file://{tmp_path}/there"
    (tmp_path / "there").mkdir()
    with Direct(monkeypatch, BatchServer(looks=3, faults=dict(look=[Killed()]))) as server:
        with pytest.raises(Killed):
            complete(engine(server), questions(3), store=Store(url))
        monkeypatch.setenv("DISTILL_CACHE_DIR", str(tmp_path / "two"))
        assert complete(engine(server), questions(3), store=Store(url)).new == 3
        assert len(server.executed) == 3


# ---------------------------------------------------------------- any sequence of faults

SCRIPT = [400, 500, 529, "expired", "cancelled", "junk", "nothing", "empty"]
WAY = [None, None, 500, 429, "drop", "lost", "half", "kill", "kill after"]


def told(fault):
    return {"kill": Killed(), "kill after": (Killed(),)}.get(fault, fault)


@settings(
    max_examples=int(os.environ.get("DISTILL_SEQUENCES", 60)),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    name=st.sampled_from([*ENGINES]),
    scripts=st.lists(st.lists(st.sampled_from(SCRIPT), max_size=3), min_size=1, max_size=6),
    way=st.fixed_dictionaries(
        {kind: st.lists(st.sampled_from(WAY), max_size=5) for kind in ("upload", "create", "list", "look", "content")}
    ),
    fates=st.lists(st.sampled_from([None, "expired", "failed", "queue"]), max_size=3),
    most=st.integers(1, 6),
    looks=st.integers(1, 3),
)
def test_any_faults(name, scripts, way, fates, most, looks, tmp_path_factory):
    "Nothing is lost; and what a provider has answered is never executed again."
    folder, asked = tmp_path_factory.mktemp("s"), questions(len(scripts))
    script = {q.id: s for q, s in zip(asked, scripts)}
    faults = {kind: [told(f) for f in found] for kind, found in way.items()}
    fates = [] if name == "anthropic" else fates
    server = BatchServer(script, looks=looks, fates=fates, faults=faults)
    with pytest.MonkeyPatch.context() as patch, Direct(patch, server):
        patch.setattr(batch.OpenAIBatches, "most", most)
        patch.setattr(batch.AnthropicBatches, "most", most)
        until_done(server, name, asked, folder=folder)
    assert stored(folder) == sorted(script)
    assert Counter(server.executed) == {q: len(s) + 1 for q, s in script.items()}
    assert batch.under_way(folder) == []


# ---------------------------------------------------------------- settings and prices


def test_what_batches_cost():
    price = dict(per_million_in=3, per_million_out=15, per_hour=2)
    for name in ("openai", "anthropic"):
        t = Teacher.parse(dict(engine=f"{name}:m", endpoint=dict(batch=True), price=price))
        assert t.tariff.cost(10**6, 10**6, seconds=3600) == 1.5 + 7.5 + 2
        assert t.model_copy(update=dict(endpoint=None)).tariff.cost(10**6, 0, seconds=0) == 3


def test_the_estimate_and_the_plan_know_batches():
    raw = dict(name="r", students=["zoo/student-s"], data=["tiny-math"], arms=["teacher/vanilla", "student/vanilla"])
    price = dict(per_million_in=3, per_million_out=15)
    costs = []
    for engine_, more in (("openai:m", {}), ("openai:m", dict(batch=True)), ("anthropic:m", dict(batch=True))):
        teacher = dict(engine=engine_, price=price, endpoint=more)
        found = [p for p in pieces(parse_recipe(raw | dict(teachers=[teacher]))) if p.who == "teacher"]
        costs.append(sum(p.cost for p in found))
    assert costs[0] > 0 and costs[1:] == [costs[0] / 2] * 2


@pytest.mark.parametrize(
    "settings, why",
    [
        (
            dict(engine="transformers:m", endpoint=dict(batch=True)),
            "endpoint is for 'openai:' and 'anthropic:' engines",
        ),
        (dict(engine="vllm:m", endpoint=dict(batch=True)), "leave endpoint out"),
        (dict(engine="openai:m", endpoint=dict(batch=True, key_env=None)), "wants a key; name its variable"),
        (dict(engine="anthropic:m", sampling=dict(temperature=1.5)), "Anthropic's models take 0 to 1"),
        (dict(engine="openai:m", endpoint=dict(batch="perhaps")), "endpoint.batch"),
    ],
)
def test_refused_before_anything_is_sent(settings, why):
    with pytest.raises(StudyError, match=why):
        Teacher.parse(settings, "teacher")


def test_a_key_or_a_client_that_is_not_there(monkeypatch):
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    teacher = Teacher.parse(dict(engine="anthropic:m", endpoint=dict(batch=True)))
    with pytest.raises(EngineError, match="environment variable ANTHROPIC_API_KEY, .* is not set"):
        open_teacher(teacher).ready()
    monkeypatch.setenv("ANTHROPIC_API_KEY", SECRET)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EngineError, match="Anthropic's own client, which is not installed"):
        open_teacher(teacher).ready()


def test_keys_are_those_of_the_ordinary_way():
    a, b = (OpenAIEngine("m", settings=Endpoint(batch=b)) for b in (False, True))
    assert a.key(ask("x")) == b.key(ask("x")) and a.weights == b.weights
    assert Endpoint().model_dump() == {k: v for k, v in Endpoint(batch=True).model_dump().items() if k != "batch"}


def test_status_shows_what_is_under_way(tmp_path, monkeypatch):
    with Direct(monkeypatch, BatchServer(looks=9, faults=dict(look=[None, Killed()]))) as server:
        with pytest.raises(Killed):
            complete(engine(server), questions(3), store=Store(tmp_path / "store"))
    folder = tmp_path / "reports" / "demo"
    folder.mkdir(parents=True)
    about = dict(recipe="demo", stages=[], ended=True, written=time.time(), began=time.time(), left=None)
    (folder / "status.json").write_text(json.dumps(about))
    where = ["--reports", str(tmp_path / "reports"), "--store", str(tmp_path / "store")]
    shown = CliRunner().invoke(app, ["status", "demo", *where])
    assert "openai:m: batch batch-2, 0 of 3 requests done, sent 20" in shown.output


# ---------------------------------------------------------------- Anthropic in the ordinary way


def claude(server, **more):
    how = dict(backoff=0.001, max_backoff=0.01, attempts=3, concurrency=2)
    return engine(server, "anthropic", batch=False, **how | more)


def test_how_anthropic_is_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", SECRET)
    turns = (dict(role="system", content="Be short."), dict(role="user", content="a"))
    schema = dict(type="object", properties={}, additionalProperties=False)
    with BatchServer(key=SECRET) as server:
        how = dict(key_env="ANTHROPIC_API_KEY", extra_body=dict(thinking=dict(type="adaptive")))
        request = Request("a", turns, Sampling(max_tokens=9, stop=("END",), temperature=1), schema=schema)
        (got,) = complete(claude(server, **how), [request], store=Store(tmp_path))
        body, head = server.bodies[0]
        assert (got.text, got.prompt_tokens, got.info["served"]) == ("answer\u2028to a", 9, dict(model="m"))
        assert (head["x-api-key"], head["anthropic-version"], "authorization" in head) == (SECRET, "2023-06-01", False)
        assert body == dict(
            model="m",
            max_tokens=9,
            messages=[dict(role="user", content="a")],
            system="Be short.",
            stop_sequences=["END"],
            output_config=dict(format=dict(type="json_schema", schema=schema)),
            thinking=dict(type="adaptive"),
        )
        complete(claude(server, key_env="ANTHROPIC_API_KEY"), [ask("b", top_p=0.5)], store=Store(tmp_path))
        assert {k: server.bodies[1][0].get(k) for k in ("temperature", "top_p", "system", "seed")} == dict(
            temperature=0, top_p=0.5, system=None, seed=None
        )
    assert not any(SECRET in p.read_text() for p in tmp_path.rglob("*.jsonl"))


THOUGHT = [dict(type="thinking", thinking="so", signature="x"), dict(type="redacted_thinking", data="y")]


@pytest.mark.parametrize(
    "reply, text, reason, end",
    [
        (dict(content=[*THOUGHT, dict(type="text", text="4")]), "4", None, "stop"),
        (dict(stop_reason="max_tokens"), "answer\u2028to a", None, "length"),
        (dict(stop_reason="model_context_window_exceeded"), "answer\u2028to a", None, "length"),
        (dict(stop_reason="stop_sequence"), "answer\u2028to a", None, "stop"),
        (dict(stop_reason="refusal", content=[]), "", "refusal", None),
        (dict(stop_reason="refusal", stop_details=dict(explanation="no bio")), "", "refusal", None),
        (dict(stop_reason="tool_use", content=[dict(type="tool_use", name="f", input={})]), "", "tool_calls", None),
        (dict(stop_reason="pause_turn"), "", "aborted", None),
        (dict(content=[]), "", "empty", None),
        (dict(content=None), "", "empty", None),
        (529, "", "http_529", None),
        (500, "", "http_500", None),
    ],
)
def test_what_anthropic_answers(reply, text, reason, end, tmp_path):
    with BatchServer(dict(a=[reply] * 3)) as server:
        got, fine = complete(claude(server), [ask("a"), ask("longer")], store=Store(tmp_path), max_failures=1)
        if reason:
            assert (got.reason, got.attempts) == (reason, 1 if reason in ("refusal", "tool_calls") else 3)
        else:
            assert (got.text, got.finish_reason, got.info.get("thought")) == (text, end, "so" if text == "4" else None)
        assert fine.text and got.__class__ is not fine.__class__ or not reason


def test_overloaded_and_then_not(tmp_path):
    with BatchServer(dict(a=[529, 429])) as server:
        (got,) = complete(claude(server), [ask("a")], store=Store(tmp_path))
        assert (got.text, got.info["attempts"]) == ("answer\u2028to a", 3)


def test_errors_that_end_the_run(tmp_path, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "not-the-right-key")
    with BatchServer(key=SECRET) as server:
        with pytest.raises(
            EngineError, match="refuses the key in the environment variable ANTHROPIC_API_KEY .401: bad"
        ):
            complete(claude(server, key_env="ANTHROPIC_API_KEY"), [ask("a")], store=Store(tmp_path))
    low = json.dumps(
        dict(type="error", error=dict(type="invalid_request_error", message="Your credit balance is too low"))
    )
    assert (
        status_fault(400, {}, text=low).final
        and not status_fault(400, {}, text=low.replace("credit balance", "x")).final
    )
    long = dict(type="error", error=dict(type="invalid_request_error", message="prompt is too long: 9 tokens > 8"))
    assert status_fault(400, {}, text=json.dumps(long)).reason == "too_long"


# ---------------------------------------------------------------- the form of the files, by a program that reads it


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_vllm_runs_our_file(tmp_path, monkeypatch):
    asked = [ask(f"what is {n} + 1 ?", max_tokens=8) for n in range(3)]
    eng = OpenAIEngine("zoo-m", settings=Endpoint(base_url="http://nowhere/v1", batch=True, key_env=None))
    eng.store = Store(tmp_path / "store")
    provider = batch.OpenAIBatches(eng, None)
    run = batch.Batches(eng, asked, provider=provider)
    (tmp_path / "in.jsonl").write_bytes(b"".join(line + b"\n" for _, line in run.lines(run.requests)))
    args = ["-i", tmp_path / "in.jsonl", "-o", tmp_path / "out.jsonl", "--model", resolve_model("zoo/student-m")]
    args += ["--served-model-name", "zoo-m", "--max-model-len", "512", "--enforce-eager"]
    env = os.environ | dict(VLLM_NO_USAGE_STATS="1", VLLM_CPU_KVCACHE_SPACE="1")
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-m", "vllm.entrypoints.openai.run_batch", *map(str, args)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    monkeypatch.setattr(provider, "_chunks", lambda source: [(tmp_path / source).read_bytes()])
    found = dict(provider.results(batch.State("completed", True, 3, ("out.jsonl",))))
    assert found.keys() == run.requests.keys()
    sent = batch.Batch("t", "", "", [], id="b")
    got = [record for key in run.requests for _, record in run.take(key, found[key], batch=sent)]
    assert len(got) == 3 and all(
        r.valid_key and r.text and r.prompt_tokens and 0 < r.completion_tokens <= 8 for r in got
    )
