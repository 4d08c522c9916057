"How fast engine `openai` asks servers with limits, by a clock that only runs while everybody waits."

import asyncio
import json
import math
import os
import random
import re
import time
from types import SimpleNamespace

import pytest

from distill_study.config import Endpoint, Sampling
from distill_study.models import openai as endpoint
from distill_study.models.engine import Request
from distill_study.models.openai import OpenAIEngine, Pace, Server
from distill_study.study import run

DRAWS = int(os.environ.get("DRAWS", 6))  # of each kind
ANSWER = json.dumps(dict(choices=[dict(message=dict(content="x"), finish_reason="stop")]))


class Virtual(asyncio.SelectorEventLoop):
    "A loop whose clock jumps to the next thing to do."

    clock = 0.0

    def time(self):
        return self.clock

    def _run_once(self):
        if not self._ready and self._scheduled:
            self.clock = max(self.clock, self._scheduled[0]._when)
        super()._run_once()


class Bucket:
    "Refills at a rate; holds a burst."

    def __init__(self, rate, burst):
        self.rate, self.burst, self.level, self.at = rate, burst, burst, 0.0

    def allows(self, now, n=1):
        self.level, self.at = min(self.burst, self.level + (now - self.at) * self.rate), now
        if self.level < n:
            return False
        self.level -= n
        return True

    def wait(self, now):
        return 1 / self.rate

    def head(self):
        spans = f"{(self.burst - self.level) / self.rate * 1000:.3f}ms"
        parts = dict(limit=f"{self.burst:g}", remaining=f"{int(self.level)}", reset=spans)
        return {f"x-ratelimit-{k}-requests": v for k, v in parts.items()}


class Window:
    "Allows so many in every window of so many seconds."

    def __init__(self, rate, seconds):
        self.rate, self.seconds, self.window, self.used = rate, seconds, 0, 0

    def allows(self, now, n=1):
        if (window := int(now / self.seconds)) != self.window:
            self.window, self.used = window, 0
        self.used += n if (allowed := self.used + n <= self.rate * self.seconds) else 0
        return allowed

    def wait(self, now):
        return self.seconds - now % self.seconds


class Sometimes:
    "Refuses a share, whatever the rate."

    rate = math.inf

    def __init__(self, share, draw):
        self.share, self.draw = share, draw

    def allows(self, now, n=1):
        return self.draw.random() >= self.share


class Simulated(Server):
    "Asks no server but `limiter`."

    async def __aenter__(self):
        self.answered_at = self.shared_at = endpoint.time.monotonic()
        return self

    async def __aexit__(self, *exc):
        pass

    async def send(self, method, path, *, body, heard):
        sim, loop = self.engine.sim, asyncio.get_running_loop()
        await asyncio.sleep(0.002 * sim.draw.random())
        now = loop.time()
        allowed = sim.limiter.allows(now, sim.costs(body) if sim.costs else 1)
        sim.came.append((now, allowed))
        head = sim.limiter.head() if sim.heads else {}
        await asyncio.sleep(sim.draw.uniform(0.9, 1.1) * (sim.latency if allowed else sim.refusal))
        (sim.answered if allowed else sim.refused).append(loop.time())
        if not allowed and sim.wait:
            head |= {"retry-after-ms": f"{1000 * (sim.limiter.wait(now) if sim.wait is True else sim.wait):.0f}"}
        heard(headers=head)
        if not allowed:
            raise self.engine.fault(429, head, text="")
        return ANSWER


class Asking(OpenAIEngine):
    server, probes = Simulated, False

    def body(self, request):
        return request

    def answer(self, request, answer, **more):
        return "answered"


def asked(
    limiter,
    n,
    monkeypatch,
    *,
    latency=0.1,
    refusal=None,
    wait=None,
    heads=False,
    costs=None,
    seed=0,
    steady=20,
    **settings,
):
    """Ask `n` requests: what was answered and refused when, requests a second, and both from `steady` seconds on.

    Until then the rate has been searched, measured and set, or a window has closed twice.
    """
    loop = Virtual()
    monkeypatch.setattr(endpoint, "time", SimpleNamespace(monotonic=loop.time, time=loop.time))
    random.seed(seed)
    engine = Asking("m", settings=Endpoint(**dict(key_env=None, concurrency=64) | settings))
    engine.sim = sim = SimpleNamespace(limiter=limiter, latency=latency, refusal=refusal or latency, wait=wait)
    sim.heads, sim.costs, sim.answered, sim.refused, sim.came = heads, costs, [], [], []
    sim.draw = random.Random(seed)
    requests = [Request(f"{i}", (dict(role="user", content=""),), Sampling(max_tokens=16)) for i in range(n)]
    got = []
    loop.run_until_complete(endpoint.flood(engine, requests, key=None, put=got.append, full=lambda: False))
    loop.close()
    assert len(got) == n
    sim.lasted = max(sim.answered)
    sim.rate = len(sim.answered) / sim.lasted
    end = [t for t, allowed in sim.came if allowed][int(0.97 * n) - 1]  # the last ones may wait for their next attempt
    window = getattr(limiter, "seconds", 0)
    end = steady + window * int((end - steady) / window) if window else end
    late = [allowed for t, allowed in sim.came if steady < t <= end]
    sim.late_share, sim.late_rate = 1 - sum(late) / len(late) if late else 0, sum(late) / max(1e-9, end - steady)
    sim.failures = sum(answer != "answered" for _, answer in got)
    return sim


def even(draw, least, most):
    "Drawn so that every doubling is as likely."
    return math.exp(draw.uniform(math.log(least), math.log(most)))


def drawn(seed):
    "(a draw, requests a second, settings): answers after 0.02 to 20 seconds, refusals after at most 0.2."
    draw = random.Random(seed)
    latency = even(draw, 0.02, 20)
    rate = min(even(draw, 2, 500), 4900 / latency)
    return draw, rate, dict(latency=latency, refusal=draw.uniform(0.02, max(0.021, min(0.2, latency))), seed=seed)


def check(sim, rate, *, least=0.0, late=0.0, most=0.02):
    assert sim.failures == 0
    assert sim.rate >= least * rate, (sim.rate / rate, sim.late_rate / rate, sim.late_share)
    assert sim.late_rate >= late * rate, (sim.rate / rate, sim.late_rate / rate, sim.late_share)
    assert sim.late_share <= most, (sim.rate / rate, sim.late_rate / rate, sim.late_share)


def at_once(rate, how):
    return dict(concurrency=int(16 + 2 * rate * how["latency"]))


def limited(kind, seed):
    "(a limiter, its rate, settings, seconds until the pace has settled) of a kind."
    draw, rate, how = drawn(f"{kind} {seed}")
    how["wait"] = draw.choice([1.0, True]) if kind.endswith("Retry-After") else None
    steady = 20 + 300 / rate
    if kind.startswith("window"):
        window = draw.choice([0.5, 1, 2, 5, 10, 30, 60])
        budget = max(2, int(min(rate, 200, 1000 / window) * window))
        rate, how["wait"] = budget / window, how["wait"] and True
        return Window(rate, window), rate, how, max(steady + 20, 5 * window)
    if kind == "tokens":
        rate, how["costs"] = min(rate, 100), lambda body: draw.uniform(200, 1800)
        return Bucket(1000 * rate, 1000 * rate * max(8 / rate, even(draw, 0.5, 20))), rate, how, steady
    return Bucket(rate, even(draw, 2, 200)), rate, how, steady


@pytest.mark.parametrize("seed", range(DRAWS))
@pytest.mark.parametrize("kind", ["bucket", "bucket, Retry-After", "window", "window, Retry-After", "tokens"])
def test_a_limiter(kind, seed, monkeypatch):
    "2 to 500 requests a second: by buckets of 2 to 200, by windows of 0.5 to 60 s, or by tokens that differ."
    limiter, rate, how, steady = limited(kind, seed)
    n = max(1200, int(rate * (steady + max(15, 3 * getattr(limiter, "seconds", 0)))))
    sim = asked(limiter, n, monkeypatch, steady=steady, **how, **at_once(rate, how))
    check(sim, rate, late=0.9 if how["wait"] else 0.8)


@pytest.mark.parametrize("seed", range(DRAWS))
def test_settings_that_are_right(seed, monkeypatch):
    draw, rate, how = drawn(seed)
    rate = min(rate, 100)
    limiter = draw.choice([Bucket(rate, max(2, rate * draw.uniform(0.2, 60))), Window(rate, 60)])
    how |= at_once(rate, how)
    sim = asked(limiter, int(40 * rate), monkeypatch, requests_per_minute=60 * rate, **how)
    check(sim, rate, least=0.95 * 40 / (40 + how["latency"]))
    assert len(sim.refused) <= 2


def test_refusals_that_have_nothing_to_do_with_the_rate(monkeypatch):
    "64 at once, 0.1 s each: 640 a second; a refused request waits, and another one takes its place."
    assert asked(Sometimes(0.02, random.Random(1)), 9000, monkeypatch).rate > 0.9 * 640
    assert asked(Sometimes(0.1, random.Random(1)), 9000, monkeypatch).rate > 0.5 * 640


def test_what_headers_say_is_enough(monkeypatch):
    "A long answer, a refusal at once: the limit is kept by what the last response said."
    sim = asked(Bucket(20, 100), 1500, monkeypatch, heads=True, latency=2.0, refusal=0.05)
    check(sim, 20, least=0.95)
    assert len(sim.refused) < 0.06 * 1500


def test_a_window_of_a_minute(monkeypatch):
    "It is used up in seconds, and all wait until the server says that it is open again."
    sim = asked(Window(20, 60), 7200, monkeypatch, wait=True, steady=180)
    check(sim, 20, least=0.95, late=0.95)


def test_what_holds_a_run_back():
    async def holding(change, *, again=False, **limits):
        pace = Pace(Endpoint(concurrency=7, **limits))
        await pace.turn(10)
        change(pace)
        for _ in range(5 * again):  # a tenth of a second may be caught up
            await pace.turn(10)
        return pace.holds

    def refuse(pace, every=5):
        start = time.monotonic()
        for number in range(2, 100):
            pace.sent = number
            if number % every == 0:
                pace.refused(number, start + number / 50, wait=30, why="http_503: busy")

    def shut(pace):
        refuse(pace, every=1)

    announced = {"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "0"}
    announced["x-ratelimit-reset-requests"] = "30s"

    def announce(pace):
        pace.heard(1, time.monotonic(), tokens=10, headers=announced)

    line = r"the server, which lets nothing through since \d\d:\d\d \(http_503: busy\);\s+next try in (29|30) s"
    assert re.fullmatch(line, asyncio.run(holding(shut)))
    found = [
        asyncio.run(holding(lambda pace: None)),
        asyncio.run(holding(lambda pace: None, requests_per_minute=6)),
        asyncio.run(holding(announce)),
        asyncio.run(holding(refuse, again=True)),
    ]
    assert found == [
        "the server's latency, at concurrency 7",
        "the limit that is set",
        "the server's limit",
        "the server's limit",
    ]


def test_the_line_of_progress_says_so(capfd, monkeypatch):
    "Also while nothing comes; what is left is told as soon as that means something."
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(run, "time", clock)
    progress = run.ticker("teacher", 0, engine=SimpleNamespace(holds="the server's limit"))
    for clock.now, done in ((0, 100), (4, 130), (8, 110), (9, 140), (10, 140)):
        progress(done, 900)
    held = ", held back by the server's limit"
    assert [line.removeprefix("  teacher: ").removesuffix(held) for line in capfd.readouterr().err.splitlines()] == [
        "100 of 900",
        "130 of 900",
        "110 of 900",
        "140 of 900, about 2 min 51 s left",
        "140 of 900, about 3 min 10 s left",
    ]
