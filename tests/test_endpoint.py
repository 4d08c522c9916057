"Engine `openai` and a server that fails in every way: nothing is lost or asked twice, no failure goes unnamed."

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
import zlib
from collections import Counter
from pathlib import Path

import pytest
from conftest import ROOT
from faults import AGAIN, FINAL, FINE, FaultServer, expected
from hypothesis import HealthCheck, given, settings, strategies as st
from typer.testing import CliRunner

from distill_study.cli import app
from distill_study.config import Endpoint, Sampling, StudyError
from distill_study.data.load import Example
from distill_study.models import openai as endpoint
from distill_study.models.engine import EngineError, Failure, Request, another_model, complete
from distill_study.models.openai import WAIT, OpenAIEngine
from distill_study.store.log import Store
from distill_study.study.plan import parse_recipe
from distill_study.teach.sampling import other_models, sample_answers, summary

QUICK = dict(key_env=None, concurrency=4, attempts=3, timeout=20, total_timeout=60, backoff=0.002, max_backoff=0.02)
SECRET = "marked-secret-0123456789"


def ask(text, id=None, **sampling):
    return Request(id or text, (dict(role="user", content=text),), Sampling(**dict(max_tokens=16) | sampling))


def questions(n=12, tag="q"):
    return [ask(f"{tag}{i}") for i in range(n)]


def engine(url, model="m", **more):
    return OpenAIEngine(model, settings=Endpoint(**QUICK | dict(base_url=url) | more))


def lines(root):
    return [json.loads(line) for p in sorted((Path(root) / "completions").glob("*.jsonl")) for line in open(p)]


def stored(root):
    return [r["messages"][-1]["content"] for r in lines(root)]


def error(*args, **kw):
    with pytest.raises(EngineError) as e:
        complete(*args, **kw)
    return str(e.value)


@pytest.fixture
def server():
    with FaultServer() as s:
        yield s


# ---------------------------------------------------------------- any sequence of faults

faults = st.sampled_from([f for f in (*AGAIN, *FINAL, *FINE) if f != "hang"])


def check_runs(scripts, folder, **more):
    "Ask until nothing is left to try, and compare every run with what its scripts lead to."
    asked = questions(len(scripts))
    with FaultServer({r.id: s for r, s in zip(asked, scripts)}) as server:
        done = set()
        for _ in range(3):
            server.asked.clear()
            want = {q: expected(server.script.get(q, []), 3) for q in (r.id for r in asked) if q not in done}
            before = len(Store(folder).ledger.entries())
            got = complete(engine(server.url, **more), asked, store=Store(folder), max_failures=1)
            assert Counter(server.asked) == {
                q: n for q, (_, n) in want.items()
            }  # what is stored is not asked again, the rest no oftener than it takes
            assert {asked[i].id: f.reason for i, f in got.failures.items()} == {
                q: why for q, (why, _) in want.items() if why
            }
            assert {e["id"]: (e["reason"], e["attempts"]) for e in Store(folder).ledger.entries()[before:]} == {
                q: x for q, x in want.items() if x[0]
            }
            done |= {q for q, (why, _) in want.items() if not why}
            assert sorted(stored(folder)) == sorted(done)  # once each
            assert all(isinstance(r, Failure) or r.text in ("", f"answer to {a.id}") for a, r in zip(asked, got))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(scripts=st.lists(st.lists(faults, max_size=5), min_size=1, max_size=8), concurrency=st.integers(1, 8))
def test_any_faults(scripts, concurrency, tmp_path_factory):
    check_runs(scripts, tmp_path_factory.mktemp("s"), concurrency=concurrency)


def test_hanging_connections(tmp_path):
    check_runs([["hang"], ["429", "hang", "hang"], []], tmp_path, timeout=2.5)


def test_what_is_kept_of_an_answer(server, tmp_path):
    server.script = {"a": ["length"], "b": ["429", "500"], "c": ["no usage"], "d": ["thought only"]}
    a, b, c, d = complete(engine(server.url), [ask(x) for x in "abcd"], store=Store(tmp_path))
    assert (a.finish_reason, b.finish_reason, d.text) == ("length", "stop", "")
    assert (
        b.prompt_tokens,
        b.completion_tokens,
        c.completion_tokens,
        b.info["attempts"],
        b.info["served"]["model"],
    ) == (9, 3, None, 3, "m-0613")
    assert b.latency > 0 and all(r.valid_key for r in (a, b, c, d))


def test_log_probabilities_that_a_server_gives(tmp_path):
    "They are asked for and kept; one that gives none, or nonsense, has still answered."
    top = [dict(token="4", logprob=-0.12345, bytes=[52]), dict(token="5", logprob=-9999.0)]
    given = dict(
        a=dict(content=[dict(token="4", logprob=-0.12345, top_logprobs=top), dict(token="!", logprob=-1)]),
        b=None,
        c=dict(content=[dict(token="4", logprob=None)]),
        d="odd",
    )

    def sees(body, headers):
        text = body["messages"][-1]["content"]
        choice = dict(message=dict(content=text), finish_reason="stop", logprobs=given[text])
        return 200, dict(choices=[choice]), {}

    with FaultServer(sees=sees) as server:
        got = complete(engine(server.url), [ask(x, logprobs=2) for x in "abcd"], store=Store(tmp_path))
        assert {(b["logprobs"], b["top_logprobs"]) for b in server.bodies} == {(True, 2)}
        complete(engine(server.url), [ask("a")], store=Store(tmp_path))
        assert "logprobs" not in server.bodies[-1]
    assert got[0].info["logprobs"] == [["4", -0.1235, {"4": -0.1235, "5": -9999.0}], ["!", -1.0, {}]]
    assert not any("logprobs" in r.info for r in got[1:])


@pytest.mark.parametrize("fault", [f for f in AGAIN if AGAIN[f] in ("aborted", "empty")])
def test_what_a_server_cuts_off_is_asked_again_and_never_a_label(server, tmp_path, fault):
    server.script = {"a": [fault], "b": [f"{fault}!"]}
    a, b = complete(engine(server.url), [ask("a"), ask("b")], store=Store(tmp_path), max_failures=1)
    assert (a.text, a.info["attempts"]) == ("answer to a", 2)
    assert (b.reason, b.attempts) == (AGAIN[fault], 3)
    assert "finish_reason" in b.evidence
    assert stored(tmp_path) == ["a"]


def test_endings_have_one_name_each(server, tmp_path):
    server.script = {"a": ["end_turn"], "b": ["no ending"]}
    a, b = complete(engine(server.url), [ask("a"), ask("b")], store=Store(tmp_path))
    assert (a.finish_reason, b.finish_reason) == ("stop", None)


@pytest.mark.parametrize("fault", ["parts", "thinking"])
def test_reasoning_apart_is_kept_beside_the_reply(server, tmp_path, fault):
    server.script = {"a": [fault]}
    (a,) = complete(engine(server.url), [ask("a")], store=Store(tmp_path))
    assert a.text == "answer to a"
    assert a.info["thought"] == "so"
    assert a.valid_key


@pytest.mark.parametrize(
    ("message", "thought"),
    [
        (dict(content="7", reasoning="so"), "so"),
        (dict(content="7", reasoning_details=[dict(type="reasoning.summary", summary="so")]), "so"),
        (dict(content="7", reasoning_details=[dict(type="reasoning.encrypted", data="x")]), ""),
        (dict(content=[dict(type="reasoning", text="so"), dict(text="7")], reasoning_content="or so"), "so"),
        (dict(content=["7"], reasoning=None), ""),
    ],
)
def test_where_servers_put_reasoning(message, thought):
    got = endpoint.read_answer(json.dumps(dict(choices=[dict(message=message, finish_reason="stop")])))
    assert (got["text"], got["thought"]) == ("7", thought)


@pytest.mark.parametrize("content", [7, dict(text="7")])
def test_content_of_another_kind_is_no_reply(content):
    with pytest.raises(endpoint.Fault, match="invalid_response"):
        endpoint.read_answer(json.dumps(dict(choices=[dict(message=dict(content=content))])))


@pytest.mark.parametrize(
    ("asked", "served", "other"),
    [
        ("gpt-4o", "gpt-4o-2024-08-06", False),
        ("claude-x-latest", "claude-x-20241022", False),
        ("llama3", "llama3:latest", False),
        ("meta/llama-3", "Llama-3:free", False),
        ("gpt-4o-2024-08-06", "gpt-4o-2024-05-13", True),
        ("gpt-4o", "gpt-4o-mini", True),
        ("llama-3-70b", "llama-3-8b", True),
        ("m", None, False),
    ],
)
def test_which_model_is_another(asked, served, other):
    assert another_model(asked, served) is other


def test_another_model_is_told_or_refused(tmp_path):
    examples = [Example("e", "math", (dict(role="user", content="a"),), gold="4")]
    with FaultServer(named="m-mini") as server:
        got = sample_answers(examples, "vanilla", engine=engine(server.url), store=Store(tmp_path / "told"))
        assert other_models(got) == {"m-mini": 1}
        assert summary(got)["other_models"] == {"m-mini": 1}
        strict = engine(server.url, strict_model=True)
        (refused,) = complete(strict, [ask("a")], store=Store(tmp_path / "refused"), max_failures=1)
    assert (refused.reason, refused.evidence) == ("another_model", "'m-mini' answered")
    with FaultServer() as server:  # a dated name of the same model
        same = engine(server.url, strict_model=True)
        got = sample_answers(examples, "vanilla", engine=same, store=Store(tmp_path / "same"))
    assert (other_models(got), got.failed) == ({}, {})


def test_half_a_character_is_one_failure(server, tmp_path):
    got = complete(
        engine(server.url), [ask("\ud800"), ask("fine"), ask("fine too")], store=Store(tmp_path), max_failures=0.5
    )
    assert {i: f.reason for i, f in got.failures.items()} == {0: "unsendable"}


# ---------------------------------------------------------------- killed, interrupted, pulled


def client(url, folder, n, **more):
    code = f"""
import sys
sys.path.insert(0, 'tests')
from test_endpoint import *
def progress(done, total):
    print(done, flush=True)
complete(engine({url!r}, **{more!r}), questions({n}), store=Store({str(folder)!r}), progress=progress)"""
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | dict(PYTHONPATH=str(ROOT)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until(p, n):
    "Wait until the client says that n are stored."
    for line in p.stdout:
        if int(line) >= n:
            return int(line)
    pytest.fail(p.stderr.read()[-2000:])


def test_killed_and_interrupted(tmp_path):
    with FaultServer({f"q{i}": ["429", "close"] for i in range(0, 120, 9)}, delay=0.4) as server:
        for stop, n in ((signal.SIGKILL, 15), (signal.SIGINT, 45)):
            before, _ = set(stored(tmp_path)) if (tmp_path / "completions").is_dir() else set(), server.asked.clear()
            p = client(server.url, tmp_path, 120)
            until(p, n)
            p.send_signal(stop)
            output = p.communicate()[0]
            assert p.returncode != 0
            assert not before & set(server.asked)
            if stop is signal.SIGINT:  # all that came is kept; what was on its way is let go
                lost = {q for q, k in Counter(server.asked).items() if not server.script.get(q)} - set(stored(tmp_path))
                assert len(lost) <= QUICK["concurrency"] + 2, output
        before, _ = set(stored(tmp_path)), server.asked.clear()
        got = complete(engine(server.url), questions(120), store=Store(tmp_path))
        assert (got.reused, got.new, got.failures) == (len(before), 120 - len(before), {})
        assert not before & set(server.asked)
        assert sorted(stored(tmp_path)) == sorted(f"q{i}" for i in range(120))


def test_a_server_that_is_gone_for_a_while(tmp_path):
    "With three attempts a request would not live through it; the others are held back while one tries."
    with FaultServer(drop_at=(60, 1.0)) as server:
        got = complete(
            engine(server.url, concurrency=16, backoff=0.1, max_backoff=0.5, attempts=5),
            questions(150),
            store=Store(tmp_path),
        )
        assert len(got.failures) <= 2 and got.new >= 148


def test_a_server_that_stays_away(tmp_path):
    with FaultServer(drop_at=(60, None)) as server:
        message = error(
            engine(server.url, total_timeout=1.0, backoff=0.05, max_backoff=0.2), questions(400), store=Store(tmp_path)
        )
        assert "has answered nothing for" in message  # a busy machine may have no time to refuse
        assert re.search(r"endpoint\.total_timeout \((connection|timeout): ", message)
        assert 0 < len(stored(tmp_path)) == len(set(stored(tmp_path))) < 400


def held(engine, seen):
    "Notes what holds an engine back, as the line of progress would say it."
    return lambda done, total: seen.append(engine.holds)


@pytest.mark.parametrize("listing", [True, False])
def test_a_server_that_comes_up_late_is_waited_for(tmp_path, monkeypatch, listing):
    monkeypatch.setenv(WAIT, "60s")
    with FaultServer() as server:
        server._do(server._shut())
        asked, seen = engine(server.url, list_models=listing, attempts=1, backoff=0.2, max_backoff=0.4), []
        threading.Timer(1.5, lambda: server._do(server._listen(server.port))).start()
        got = complete(asked, questions(30), store=Store(tmp_path), progress=held(asked, seen))
        assert (got.new, got.failures) == (30, {}) and [r.info["attempts"] for r in got] == [1] * 30
    told = [line for line in seen if "which lets nothing through since" in line]
    assert len(told) > 2 and "connection" in told[0] and seen[-1] not in told


def test_a_server_that_goes_away_is_waited_for_longer_than_its_requests_have_attempts(tmp_path, monkeypatch):
    monkeypatch.setenv(WAIT, "1m")
    with FaultServer(drop_at=(60, 2.0)) as server:
        asked = engine(server.url, concurrency=4, attempts=2, backoff=0.05, max_backoff=0.1, total_timeout=1.0)
        assert not complete(asked, questions(150), store=Store(tmp_path)).failures


@pytest.mark.parametrize("drop_at, says", [((0, None), "nothing answers at"), ((20, None), "longer than DISTILL_WAIT")])
def test_a_server_that_never_comes_ends_the_waiting_and_keeps_what_there_is(tmp_path, monkeypatch, drop_at, says):
    monkeypatch.setenv(WAIT, "1s")
    with FaultServer(drop_at=drop_at) as server:
        if not drop_at[0]:
            server._do(server._shut())
        start = time.monotonic()
        assert says in error(engine(server.url, backoff=0.05), questions(60), store=Store(tmp_path))
        assert time.monotonic() - start > 1
    kept = len(stored(tmp_path)) if drop_at[0] else 0
    assert kept == 0 or 10 < kept < 60
    monkeypatch.delenv(WAIT)
    with FaultServer() as server:  # the next start goes on from there
        got = complete(engine(server.url), questions(60), store=Store(tmp_path))
        assert (got.reused, got.new) == (kept, 60 - kept)


def test_how_long_to_wait_is_a_time():
    done = CliRunner().invoke(app, ["run", "demo", "--wait", "soon"])
    assert done.exit_code == 2 and "expected a time, e.g. 90s or 2h" in done.output


def test_what_was_finished_when_the_consumer_fails_is_kept(server, tmp_path):
    def no(done, total):
        if done > 4:
            raise RuntimeError("stop here")

    with pytest.raises(RuntimeError):
        complete(engine(server.url), questions(60), store=Store(tmp_path), progress=no)
    assert set(server.asked) - set(stored(tmp_path)) <= {*server.asked[-6:]} and threading.active_count() < 20


def test_inside_a_running_loop(server, tmp_path):
    async def cell():
        return complete(engine(server.url), questions(5), store=Store(tmp_path))

    assert asyncio.run(cell()).new == 5


def test_the_proxy_of_the_environment(server, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/v1"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert complete(engine("http://no.such.host/v1"), questions(3), store=Store(tmp_path)).new == 3
    assert complete(engine(server.url), questions(3, "direct"), store=Store(tmp_path)).new == 3
    assert "nothing answers" in error(engine("http://127.0.0.1:9/v1"), questions(3, "gone"), store=Store(tmp_path))


# ---------------------------------------------------------------- how hard a server is asked


def test_it_adapts_to_what_the_server_bears(tmp_path):
    with FaultServer(most=4, delay=0.01) as server:
        got = complete(
            engine(server.url, concurrency=32, attempts=12, backoff=0.5, max_backoff=2),
            questions(200),
            store=Store(tmp_path),
        )
        refused = len(server.asked) - 200
        assert not got.failures and refused < 200 and server.top <= 32
        assert server.connections <= 40  # they are kept and used again


def test_retry_after_is_waited_for(tmp_path):
    with FaultServer(
        {"q3": ["429 wait"]},
        sees=lambda body, h: (
            (429, {}, {"retry-after": "0.7"})
            if body["messages"][-1]["content"] == "q3" and not seen.append(1) and len(seen) == 1
            else None
        ),
    ) as server:
        seen = []
        complete(engine(server.url), questions(40), store=Store(tmp_path))
        gap = max(b - a for a, b in zip(server.times, server.times[1:]))
        assert gap > 0.55


def test_a_wait_that_is_too_long_ends_the_run(tmp_path):
    with FaultServer(
        sees=lambda body, h: (429, {}, {"retry-after": "3600"}) if body["messages"][-1]["content"] == "q3" else None
    ) as server:
        message = error(engine(server.url, concurrency=1), questions(8), store=Store(tmp_path))
        assert (
            "asks to wait 3600 s" in message
            and "endpoint.total_timeout is 60" in message
            and 1 <= len(stored(tmp_path)) < 8
        )


@pytest.mark.parametrize("limit", [dict(requests_per_minute=1200), dict(tokens_per_minute=1200 * 16)])
def test_limits_per_minute(server, tmp_path, limit):
    "20 a second, one after the other."
    choices = [dict(message=dict(content="x"), finish_reason="stop")]
    answer = dict(choices=choices, usage=dict(prompt_tokens=0, completion_tokens=16))
    server.sees = lambda body, h: (200, answer, {})
    start = time.monotonic()
    complete(engine(server.url, concurrency=32, **limit), questions(35), store=Store(tmp_path))
    assert time.monotonic() - start > 1.5


def test_many_requests_take_few_tasks(tmp_path, monkeypatch):
    top = 0

    async def quick(server, pending):
        nonlocal top
        top = max(top, len(asyncio.all_tasks()))
        await asyncio.sleep(0)
        return Failure("none")

    monkeypatch.setattr(endpoint, "ask", quick)
    asked = questions(20_000)
    assert (
        sum(1 for x in engine("http://127.0.0.1:9/v1", list_models=False).generate(asked) if x) == 20_000
        and top <= QUICK["concurrency"] + 2
    )


# ---------------------------------------------------------------- too much fails


def test_too_many_failures_end_the_run(tmp_path):
    asked = questions(100)
    with FaultServer({r.id: ["500!"] for r in asked[1:]}) as server:
        server.script.pop("q10")  # the longest prompt, and so the first
        message = error(engine(server.url), asked, store=Store(tmp_path), max_failures=0.1)
        assert "of 100 requests failed (1" in message and "http_500), more than max_failures = 0.1 allows" in message
        assert (
            len(set(server.asked)) < 60
            and {"q10"} <= set(stored(tmp_path))
            and len(Store(tmp_path).ledger.entries()) >= 11
        )


def test_all_requests_fail(tmp_path):
    asked = questions(200)
    with FaultServer({r.id: ["500!"] for r in asked}) as server:
        assert "and none was answered" in error(engine(server.url), asked, store=Store(tmp_path), max_failures=0.9)
        assert len(set(server.asked)) < 100


# ---------------------------------------------------------------- mistakes, found at the first request


def status(number, message, **more):
    return lambda body, fields: (number, dict(error=dict(message=message) | more), {})


@pytest.mark.parametrize(
    "code, message, more, why",
    [
        (401, "bad key", {}, r"refuses the key in the environment variable TEST_KEY \(401: bad key\)"),
        (429, "quota", dict(code="insufficient_quota"), r"won't answer any more \(429: quota\)"),
        (402, "Insufficient Balance", {}, r"won't answer any more \(402: Insufficient Balance\)"),
        (
            400,
            "temperature must be 1",
            {},
            r"refuses the first request, that of item 'q10' \(400: temperature must be 1\)",
        ),
        (403, "no", {}, "refuses the first request"),
        (422, "odd", {}, "422: odd"),
    ],
)
def test_refused_by_the_server(tmp_path, monkeypatch, code, message, more, why):
    monkeypatch.setenv("TEST_KEY", SECRET)
    with FaultServer(sees=status(code, message, **more)) as server:
        with pytest.raises(StudyError, match=why):
            complete(engine(server.url, key_env="TEST_KEY"), questions(), store=Store(tmp_path))
        assert len(server.asked) == 1 and not stored(tmp_path)


def test_a_server_that_wants_a_key(tmp_path):
    with FaultServer(sees=status(401, "who are you?")) as server:
        assert "wants a key" in error(engine(server.url), questions(), store=Store(tmp_path))


def test_unknown_model(tmp_path):
    with FaultServer(models=("llama-8b", "llama-70b"), sees=status(404, "The model `m` does not exist.")) as server:
        assert "has no model 'm'. It has 'llama-70b', 'llama-8b'." in error(
            engine(server.url), questions(), store=Store(tmp_path)
        )


def test_a_model_that_is_not_listed_may_answer(tmp_path):
    "Azure lists the models and answers by the names of deployments."
    with FaultServer(models=("gpt-4o",)) as server:
        assert complete(engine(server.url), questions(3), store=Store(tmp_path)).new == 3


@pytest.mark.parametrize("answers", [status(404, "Not Found"), lambda body, h: (200, b"<html>welcome</html>", {})])
def test_wrong_path(tmp_path, answers):
    with FaultServer(models=None, sees=answers) as server:
        assert "usually ends in /v1" in error(engine(server.url + "/x"), questions(), store=Store(tmp_path))


@pytest.mark.parametrize("listing", [True, False])
def test_nothing_there(tmp_path, listing):
    assert "nothing answers at http://127.0.0.1:9/v1" in error(
        engine("http://127.0.0.1:9/v1", list_models=listing), questions(), store=Store(tmp_path)
    )


@pytest.mark.parametrize(
    "value, why",
    [
        (None, "NO_KEY_HERE, which is to hold the key for http://x/v1, is not set"),
        (" ", "is not set"),
        ("two words", "holds blanks"),
        ("clé", "characters that no key has"),
        ("a\nb", "holds blanks"),
    ],
)
def test_no_usable_key(tmp_path, monkeypatch, value, why):
    monkeypatch.delenv("NO_KEY_HERE", raising=False)
    if value is not None:
        monkeypatch.setenv("NO_KEY_HERE", value)
    message = error(engine("http://x/v1", key_env="NO_KEY_HERE"), questions(), store=Store(tmp_path))
    assert why in message and (not value or not value.strip() or value not in message)


def test_prompts_longer_than_the_context(tmp_path):
    asked = [ask("x" * n, "long" if n == 2000 else f"{n}") for n in (5, 1000, 2000)]
    why = r"context is too short for the longest prompt, of item 'long', with 2000 characters and up to 16 tokens"
    with FaultServer(sees=status(400, "the prompt is too long")) as server:
        with pytest.raises(EngineError, match=why):
            complete(engine(server.url), asked, store=Store(tmp_path))
        assert len(server.asked) == 1


def test_the_token_limit_is_named_as_the_server_wants(tmp_path):
    def answer(body, fields):
        if "max_tokens" in body:
            message = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
            return 400, dict(error=dict(message=message)), {}

    with FaultServer(sees=answer) as server:
        assert complete(engine(server.url), questions(5), store=Store(tmp_path)).new == 5
        assert [b.get("max_completion_tokens") for b in server.bodies] == [None, *[16] * 5]
        assert "Unsupported parameter" in error(
            engine(server.url, max_tokens_name="max_tokens"), questions(5, "other"), store=Store(tmp_path)
        )


def test_what_is_sent(tmp_path):
    with FaultServer(models=dict(m=dict(owned_by="vllm"))) as server:
        asked = [
            ask("a"),
            ask("bb", temperature=0.7, top_p=0.9, stop=("\n",)),
            Request("bb", ask("bb").messages, Sampling(max_tokens=16, temperature=0.7), sample=1),
        ]
        complete(engine(server.url, extra_body=dict(guided_choice=["A", "B"])), asked, store=Store(tmp_path))
        a, b, c = sorted(server.bodies, key=lambda b: (b["temperature"], b["top_p"]))
        assert "seed" not in a and b["seed"] != c["seed"] and b["stop"] == ["\n"] and b["top_p"] == 0.9
        assert all(
            x["top_k"] == -1 and x["repetition_penalty"] == 1 and x["guided_choice"] == ["A", "B"] and x["model"] == "m"
            for x in (a, b, c)
        )
        assert (
            complete(engine(server.url), asked[:1], store=Store(tmp_path)).new == 1
        )  # without the extra it is another question


def test_what_the_key_depends_on():
    one = engine("http://a/v1")
    assert one.key(ask("x")) == engine("http://b/v1", concurrency=9).key(ask("x"))  # not on where it is served
    assert (
        len(
            {
                e.key(ask("x"))
                for e in (
                    one,
                    engine("http://a/v1", model="n"),
                    engine("http://a/v1", revision="2"),
                    engine("http://a/v1", extra_body=dict(a=1)),
                )
            }
        )
        == 4
    )


# ---------------------------------------------------------------- a server that sends elsewhere, or too much


@pytest.mark.parametrize("listing", [True, False])
@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_is_refused(tmp_path, monkeypatch, code, listing):
    monkeypatch.setenv("TEST_KEY", SECRET)
    with FaultServer() as other:
        elsewhere = code, {}, {"location": f"{other.url}/chat/completions?{SECRET}"}
        with FaultServer(sees=lambda body, h: elsewhere, lists=elsewhere) as server:
            e = engine(server.url, key_env="TEST_KEY", list_models=listing)
            message = error(e, questions(), store=Store(tmp_path))
        assert f"({code} to http://127.0.0.1:{other.port}/v1/chat/completions?***)" in message
        assert "endpoint.redirects: true" in message
        assert other.connections == 0


def test_a_redirect_is_followed_where_the_recipe_allows_it(tmp_path):
    with FaultServer() as other:
        elsewhere = 307, {}, {"location": f"{other.url}/chat/completions"}
        with FaultServer(sees=lambda body, h: elsewhere) as server:
            got = complete(engine(server.url, redirects=True), questions(), store=Store(tmp_path))
        assert got.new == 12 == len(other.asked)


def resident():
    "MiB that this process has taken at most."
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


@pytest.mark.parametrize("packed", [False, True])
def test_a_response_has_a_limit(tmp_path, packed):
    "Also one that unpacks to 600 MB."
    head, body = {}, b" " * (endpoint.LARGEST + 1)
    if packed:
        pack = zlib.compressobj(1, wbits=31)
        body = b"".join(pack.compress(bytes(10**6)) for _ in range(600)) + pack.flush()
        head = {"content-encoding": "gzip"}
    before = resident()
    with FaultServer(sees=lambda b, h: (200, body, head) if b["messages"][-1]["content"] == "q3" else None) as server:
        got = complete(engine(server.url), questions(), store=Store(tmp_path), max_failures=0.5)
    failure = Failure("too_large", "the response is larger than 32 MB, the most that is read")
    assert got.failures == {3: failure}
    assert resident() - before < 150


# ---------------------------------------------------------------- secrets


def test_a_key_is_never_shown(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("TEST_KEY", SECRET)
    output = f"you sent {SECRET} and Bearer {SECRET}" + "!" * 400

    def leaky(body, fields):
        assert fields["authorization"] == f"Bearer {SECRET}"
        q = body["messages"][-1]["content"]
        if q in ("q1", "q2"):
            return 500, dict(error=dict(message=output)), {}
        if q == "q3":
            return 200, output.encode(), {}
        if q == "q4":
            return 200, dict(choices=[dict(message=dict(content=None, refusal=output))]), {}
        return 200, dict(choices=[dict(message=dict(content=output), finish_reason="stop")]), {}

    with FaultServer(sees=leaky) as server:
        e = engine(server.url, key_env="TEST_KEY")
        got = complete(e, questions(), store=Store(tmp_path), max_failures=0.5)
        assert len(got.failures) == 4 and got[0].text.startswith("you sent *** and Bearer ***")
        shown = [repr(e), repr(got), str(e.settings), *map(str, got.failures.values())]
        for code in (401, 400, 429):
            server.sees = status(code, output, code="insufficient_quota")
            with pytest.raises(EngineError) as err:
                complete(e, questions(3, f"{code}"), store=Store(tmp_path))
            shown.append("".join(traceback.format_exception(err.value)))
    shown += [*capfd.readouterr(), *(p.read_text() for p in tmp_path.rglob("*") if p.is_file())]
    assert len(shown) > 8 and [text for text in shown if SECRET in text] == []


# ---------------------------------------------------------------- in a study


def test_a_study_with_an_endpoint(tmp_path, monkeypatch, capfd):
    "Labels, attrition and the teacher's arm, with requests that fail; then without the server."
    from distill_study.data.load import load_data
    from distill_study.study.run import Run, answer_arms, curate_arms, label_inputs, labels_table, rows_parts
    from distill_study.study.schedule import check

    monkeypatch.setenv("TEST_KEY", SECRET)

    def teacher(body, fields):
        if "three" in body["messages"][-1]["content"] or len(body["messages"][-1]["content"]) % 5 == 0:
            return 500, {}, {}
        message = dict(content="I pick A.", reasoning_content="It stands there.")
        return 200, dict(model="n-large", choices=[dict(message=message, finish_reason="stop")]), {}

    with FaultServer(sees=teacher) as server:
        recipe = parse_recipe(
            dict(
                name="small",
                teachers=[
                    dict(
                        engine="openai:m",
                        max_failures=0.9,
                        endpoint=QUICK | dict(base_url=server.url, key_env="TEST_KEY"),
                    )
                ],
                students=["zoo/student-s"],
                data=[dict(name="tiny-qa", train=24, test=12)],
                arms=["teacher/cot", "distilled/cot-rationale"],
                min_rows=1,
                curate=dict(stated=["I pick"]),
            )
        )
        check(recipe, tmp_path / "reports", store=tmp_path / "store")
        c, store = recipe.combinations()[0], Store(tmp_path / "store")
        splits = load_data(c.data)
        labels = label_inputs(c, splits, store=store)
        curated, _ = curate_arms(c, splits, labels=labels, store=store)
        a = curated["distilled/cot-rationale"].attrition
        assert a["inputs"] == 24 == a["rows"] + sum(a["dropped"].values()) and a["dropped"]["failed: http_500"] > 0
        assert curated["distilled/cot-rationale"].hidden == a["rows"]
        assert all("It stands there." in r["messages"][-1]["content"] for r in curated["distilled/cot-rationale"].rows)
        answers, _ = answer_arms(c, splits, fits={}, store=store)
        lost = [x for x in answers["teacher/cot"] if x.failure]
        assert len(answers["teacher/cot"]) == 12 and lost and not any(x.correct for x in lost)
        assert {(e["stage"], e["reason"]) for e in store.ledger.entries()} == {
            ("train, cot", "http_500"),
            ("test, cot", "http_500"),
        }
    told = (
        f"answered by another model than the one asked: {a['inputs'] - labels['cot'].failed['http_500']} by 'n-large'"
    )
    assert f"teacher, cot: {told}" in capfd.readouterr().err
    run = Run.of(c, store)
    run.data, run.labels = splits, labels
    assert told in labels_table(run).sub
    assert f"{a['rows']} of {a['rows']} of distilled/cot-rationale" in rows_parts(run)[-1].data
    again = Store(tmp_path / "store")
    patient = c.model_copy(update=dict(teacher=c.teacher.model_copy(update=dict(max_failures=1.0))))
    kept = label_inputs(patient, keep_only(splits, labels["cot"]), store=again)["cot"]
    assert kept and not any(r.failure for r in kept)  # read without server and key


def keep_only(splits, answers):
    "The splits with the training inputs that were answered."
    from dataclasses import replace

    return replace(splits, train=[e for e, a in zip(splits.train, answers) if not a.failure])


def test_it_is_listed(capsys):
    from distill_study.cli import list_

    list_("engines")
    assert "openai:MODEL" in capsys.readouterr().out
