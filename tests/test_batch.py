"Batches: nothing is lost or sent twice, whatever becomes of a batch, of the way to it, or of the process."

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import httpx2
import pytest
from batches import BatchServer, Drop
from conftest import ROOT
from hypothesis import HealthCheck, given, settings, strategies as st

from distill_study.config import Endpoint, Sampling, Teacher
from distill_study.models import batch
from distill_study.models.anthropic import AnthropicEngine
from distill_study.models.engine import EngineError, Failure, Request, complete, open_engine, open_teacher
from distill_study.models.openai import OpenAIEngine
from distill_study.store.log import Store

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
    part = batch.parts(((n, b"") for n in range(60_000)), 50_000, 200_000_000)
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
