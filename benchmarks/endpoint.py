"""The `openai` engine, into its store, beside Curator, a plain asyncio client and bare sockets, on servers with limits.

    python benchmarks/endpoint.py [SECONDS that each may ask, 24 if left out]
    python benchmarks/endpoint.py SECONDS CASE, for one line of the table, which is not kept
    python benchmarks/endpoint.py rows [ROWS, 100000 if left out]

Every way asks from a process of its own, the server answers from another; what a way got is counted at the server, from
the first request on, so nobody's start-up counts. Curator is measured where CURATOR_PYTHON names a Python that has it:

    python -m venv ENV && ENV/bin/pip install bespokelabs-curator==0.1.31 && export CURATOR_PYTHON=ENV/bin/python
"""

import asyncio
import contextlib
import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
from itertools import islice
from pathlib import Path

SEVERAL = max(2, min(4, os.cpu_count() - 1))  # processes that ask
CASES = {  # name → server, requests at once, a setting, processes that share them
    "2 % refused": (dict(share=0.02), 64, None, 1),
    "100/s, burst 20, Retry-After 1 s": (dict(rate=100, burst=20, wait=1), 64, None, 1),
    "100/s, burst 20, no header": (dict(rate=100, burst=20), 64, None, 1),
    "100/s, burst 100, 6000 a minute set": (dict(rate=100, burst=100), 64, 6000, 1),
    "clean": (dict(), 512, None, 1),
    f"clean, from {SEVERAL} processes": (dict(), 512, None, SEVERAL),
}
NAMES = dict(ours="engine openai, into the store", curator="Curator 0.1.31", plain="asyncio and aiohttp, with retries")
NAMES |= dict(sockets="bare sockets")
QUESTION = "some words of a question " * 20


# ---------------------------------------------------------------- the server


def answer():
    message = dict(role="assistant", content="The answer is 42. " * 10)
    usage = dict(prompt_tokens=150, completion_tokens=50, total_tokens=200)
    choices = [dict(index=0, message=message, finish_reason="stop")]
    return json.dumps(
        dict(id="x", object="chat.completion", created=1, model="m", choices=choices, usage=usage)
    ).encode()


class Limited(asyncio.Protocol):
    "Answers or refuses after 0.1 s; expects `content-length` to come before the body."

    share, rate, burst, wait, latency = 0.0, None, 0, None, 0.1
    level, at, first, last, answered, refused = 0.0, 0.0, None, None, 0, 0
    body = answer()

    def connection_made(self, transport):
        self.transport, self.data = transport, b""

    def data_received(self, data):
        self.data += data
        head, found, body = self.data.partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n") if found else ()
        size = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
        if not found or len(body) < size:
            return
        self.data = body[size:]
        if head.startswith(b"GET /seen"):
            self.say(200, json.dumps([Limited.answered, Limited.refused, Limited.first, Limited.last]).encode())
        elif head.startswith(b"GET"):
            self.say(200, b'{"data": [{"id": "m"}]}')
        else:
            Limited.first = Limited.first or time.monotonic()
            asyncio.get_running_loop().call_later(self.latency, self.end, self.allows())

    @classmethod
    def allows(cls):
        if random.random() < cls.share:
            return False
        if not cls.rate:
            return True
        now = time.monotonic()
        cls.level, cls.at = min(cls.burst, cls.level + (now - cls.at) * cls.rate), now
        allowed = cls.level >= 1
        cls.level -= allowed
        return allowed

    def end(self, allowed):
        Limited.answered, Limited.refused = Limited.answered + allowed, Limited.refused + (not allowed)
        Limited.last = time.monotonic() if allowed else Limited.last
        head = b"retry-after: %d\r\n" % self.wait if self.wait and not allowed else b""
        self.say(200, self.body) if allowed else self.say(429, b'{"error": {"message": "too fast"}}', head)

    def say(self, status, body, head=b""):
        if not self.transport.is_closing():
            head = b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\n%scontent-length: %d" % (
                status,
                head,
                len(body),
            )
            self.transport.write(head + b"\r\n\r\n" + body)


async def serve(settings):
    for name, value in json.loads(settings).items():
        setattr(Limited, name, value)
    Limited.level, Limited.at = Limited.burst, time.monotonic()
    server = await asyncio.get_running_loop().create_server(Limited, "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


class Server:
    "That server in a process of its own; gives its port."

    def __init__(self, **settings):
        self.command = [sys.executable, __file__, "serve", json.dumps(settings)]

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True)
        return int(self.process.stdout.readline())

    def __exit__(self, *exc):
        self.process.kill()
        self.process.wait()


def seen(port):
    "(answered, refused, when the first came, when the last was answered)."
    return json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/seen"))


# ---------------------------------------------------------------- ways to ask


def requests(n):
    from distill_study.config import Sampling
    from distill_study.models.engine import Request

    system = dict(role="system", content="Solve the problem. Reply with the final number only.")
    asked = [(system, dict(role="user", content=f"{i}: {QUESTION}")) for i in range(n)]
    return [Request(f"{i}", messages, Sampling(max_tokens=64)) for i, messages in enumerate(asked)]


def engine(port, level, limit=None):
    from distill_study.config import Endpoint
    from distill_study.models.openai import OpenAIEngine

    here = dict(base_url=f"http://127.0.0.1:{port}/v1", key_env=None, concurrency=level, attempts=20)
    return OpenAIEngine("m", settings=Endpoint(**here, requests_per_minute=limit))


def ours(port, level, limit, n):
    from distill_study.models.engine import complete
    from distill_study.store.log import Store

    with tempfile.TemporaryDirectory() as folder:
        complete(engine(port, level, limit), requests(n), store=Store(folder))


def curator(port, level, limit, n):
    tokenizers = Path(importlib.util.find_spec("litellm").origin).parent / "litellm_core_utils/tokenizers"
    os.environ |= dict(TIKTOKEN_CACHE_DIR=str(tokenizers), TELEMETRY_ENABLED="0", BESPOKE_CURATOR_TRACKER_DISABLED="1")
    os.environ |= dict(CURATOR_DISABLE_RICH_DISPLAY="1", CURATOR_CACHE_DIR=tempfile.mkdtemp(), HF_HUB_OFFLINE="1")
    from bespokelabs import curator as library

    limits = dict(max_requests_per_minute=limit or 10**6, max_tokens_per_minute=10**9, max_concurrent_requests=level)
    here = dict(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=20)
    llm = library.LLM(model_name="gpt-3.5-turbo", backend="openai", backend_params=here | limits)
    llm([f"{i}: {QUESTION}" for i in range(n)])


def plain(port, level, limit, n):
    "As OpenAI's cookbook retries: a random wait of one second at first, which doubles up to sixty."
    import aiohttp

    async def go():
        connector = aiohttp.TCPConnector(limit=level)
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}/", connector=connector) as session:
            room = asyncio.Semaphore(level)

            async def one(i):
                body = dict(model="m", messages=[dict(role="user", content=f"{i}: {QUESTION}")], max_tokens=64)
                async with room:
                    for attempt in range(20):
                        async with session.post("v1/chat/completions", json=body) as response:
                            if response.status == 200:
                                return (await response.json())["choices"][0]["message"]["content"]
                        await asyncio.sleep(random.uniform(1, min(60, 2**attempt)))

            await asyncio.gather(*map(one, range(n)))

    asyncio.run(go())


def sockets(port, level, limit, n):
    "As many bare connections as may be."
    body = json.dumps(dict(model="m", messages=[dict(role="user", content=QUESTION)], max_tokens=64)).encode()
    message = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
    todo = iter(range(n))

    async def work():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in todo:
            writer.write(message)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.rsplit(b"content-length: ", 1)[1].split(b"\r\n")[0]))
        writer.close()

    async def go():
        await asyncio.gather(*(work() for _ in range(level)))

    asyncio.run(go())


# ---------------------------------------------------------------- the measurement


def measured(way, case, longest):
    "(requests/s, share of the limit, share refused, processor seconds per 1,000, MiB at most)."
    import psutil

    server, level, limit, several = CASES[case]
    python = os.environ["CURATOR_PYTHON"] if way == "curator" else sys.executable
    n = 100 * int(longest + 10) if "rate" in server else 40_000  # more than there is time for
    with Server(**server) as port:
        command = [python, __file__, "ask", way, *map(str, (port, level // several, limit or 0, n // several))]
        quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        asking = [psutil.Popen(command, **quiet) for _ in range(several)]
        began, memory, counts = None, 0, (0, 0, None, None)
        running = lambda: all(process.poll() is None for process in asking)
        while running() and (began is None or time.monotonic() < counts[2] + longest):
            time.sleep(0.1)
            counts = seen(port)
            try:
                busy = sum(sum(process.cpu_times()[:2]) for process in asking)
                memory = max(memory, sum(process.memory_info().rss for process in asking))
            except psutil.Error:
                break
            began = busy if began is None and counts[2] else began
        done, refused, first, last = seen(port)
        for process in asking:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
            process.wait()
    rate = done / (last - first)
    return (
        rate,
        rate / server.get("rate", level / 0.1),
        refused / (done + refused),
        (busy - began) / done * 1000,
        memory / 2**20,
    )


def table(longest, only=None):
    from _shared import report

    found = {}
    for case in [only] if only else CASES:
        others = ["plain", *(["curator"] if "CURATOR_PYTHON" in os.environ else [])]
        ways = ["ours", *(others if CASES[case][3] == 1 else []), *(["sockets"] if "clean" in case else [])]
        for way in ways:
            found[case, way] = measured(way, case, longest)
            print(case, way, *(f"{x:.3f}" for x in found[case, way]), file=sys.stderr)
    if only:
        return
    header = ["server", "way", "requests/s", "of its limit", "refused", "CPU s per 1,000", "MiB at most"]
    forms = ("{:.0f}", "{:.2f}", "{:.1%}", "{:.2f}", "{:.0f}")
    rows = [[case, NAMES[way], *(f.format(x) for f, x in zip(forms, v))] for (case, way), v in found.items()]
    notes = [
        f"The load was {os.getloadavg()[0]:.1f} at the end. A server answers and refuses after 0.1 s; where it has no"
    ]
    notes += ["limit, its limit is 64 or 512 requests at once. A burst at the beginning counts with the rest."]
    if os.cpu_count() <= SEVERAL:
        notes += [
            f"{SEVERAL} processes that ask and the server's share {os.cpu_count()} cores, too few to show a gain."
        ]
    if "CURATOR_PYTHON" not in os.environ:
        notes.append("Curator is left out: CURATOR_PYTHON names no Python that has it.")
    report("endpoint", f"Asking servers with limits, {longest:g} seconds each", header, rows, notes)


# ---------------------------------------------------------------- many rows


def ask_rows(port, folder, n):
    "Ask `n` requests; prints as JSON when it began, and (rows, seconds, MiB at most) tenth by tenth."
    import psutil

    from distill_study.models.engine import complete
    from distill_study.store.log import Store

    asked, marks, begun = requests(n), [], time.monotonic()

    def progress(done, total):
        if not marks or done >= marks[-1][0] + n / 10 or done == total:
            marks.append((done, time.monotonic() - begun, psutil.Process().memory_info().rss / 2**20))

    got = complete(engine(port, 512), asked, store=Store(folder), progress=progress)
    print(json.dumps(dict(begun=begun, marks=marks, new=got.new, reused=got.reused)))


def rows(n):
    from _shared import report

    def child(folder):
        with Server() as port:
            command = [sys.executable, __file__, "ask_rows", str(port), folder, str(n)]
            told = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            done, _, first, _ = seen(port)
        return told | dict(twice=done - told["new"], wait=first - told["begun"])

    with tempfile.TemporaryDirectory() as folder:
        fresh = child(folder)
        (file,) = Path(folder).glob("completions/*.jsonl")
        with open(file, "rb") as f:
            half = b"".join(islice(f, n // 2))
        file.write_bytes(half)
        again = child(folder)
    steps = zip(fresh["marks"], fresh["marks"][1:])
    lines = [[f"{done:,}", f"{t - before:.1f}", f"{memory:.0f}"] for (_, before, _), (done, t, memory) in steps]
    note = f"Start with {again['reused']:,} of {n:,} rows stored: {again['twice']} asked twice, the first new request"
    notes = [note + f" {again['wait']:.1f} s after `complete` was called."]
    header = ["rows", "s for these", "MiB held"]
    title = f"{n:,} rows into one store, 512 at once"
    report("endpoint_rows", title, header, lines, notes, command=f"endpoint.py rows {n}")


if __name__ == "__main__":
    command, *rest = sys.argv[1:] or ["24"]
    if command == "serve":
        asyncio.run(serve(*rest))
    elif command == "ask":
        port, level, limit, n = map(int, rest[1:])
        globals()[rest[0]](port, level, limit or None, n)
    elif command == "ask_rows":
        ask_rows(rest[0], rest[1], int(rest[2]))
    elif command == "rows":
        rows(int(rest[0]) if rest else 100_000)
    else:
        table(float(command), *rest)
