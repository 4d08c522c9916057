"""The `openai` engine against a local server that answers every request after a fixed time, beside a plain
`asyncio.gather` over the openai client under a semaphore of the same size (as it comes, and with the transport that the
engine uses), and beside what the server can do at all: a bare loop over raw sockets, and wrk or hey where one of them
is installed. The engine's time includes its records and their way into the store. Then many rows into one store, and a
start with half of them stored. The server runs in a process of its own; server, client and load generator share the
cores.

    python benchmarks/endpoint.py [ROWS, 100000 if left out]
"""

import asyncio
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from itertools import islice
from pathlib import Path

from _shared import report

from distill_study.config import Endpoint, Sampling
from distill_study.models.engine import Request, complete
from distill_study.models.openai import OpenAIEngine
from distill_study.store.log import Store

CASES, ROUNDS = (
    ((64, 0.1, 60), (512, 0.1, 15), (512, 1.0, 30)),
    3,
)  # (concurrency, seconds the server takes, requests per connection; gather gets a third of them)
ANSWER = json.dumps(
    dict(
        id="x",
        object="chat.completion",
        created=1,
        model="m",
        choices=[
            dict(index=0, message=dict(role="assistant", content="The answer is 42. " * 10), finish_reason="stop")
        ],
        usage=dict(prompt_tokens=150, completion_tokens=50, total_tokens=200),
    )
).encode()


class Fixed(asyncio.Protocol):
    "Answers each request after `latency`; counts on `content-length` coming before the body."

    latency, asked, first = 0.1, 0, None

    def connection_made(self, transport):
        self.transport, self.data = transport, b""

    def data_received(self, data):
        self.data += data
        head, found, body = self.data.partition(b"\r\n\r\n")
        if not found:
            return
        size = next(
            (int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")), 0
        )
        if len(body) < size:
            return
        self.data = body[size:]
        if head.startswith(b"GET /asked"):
            self.say(json.dumps([Fixed.asked, Fixed.first]).encode())
            Fixed.asked, Fixed.first = 0, None
        elif head.startswith(b"GET"):
            self.say(b'{"data": [{"id": "m"}]}')
        else:
            Fixed.asked, Fixed.first = Fixed.asked + 1, Fixed.first or time.monotonic()
            asyncio.get_running_loop().call_later(Fixed.latency, self.say, ANSWER)

    def say(self, body):
        if not self.transport.is_closing():
            self.transport.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
            )


async def serve(latency):
    Fixed.latency = latency
    server = await asyncio.get_running_loop().create_server(Fixed, "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


class Server:
    "That server in a process of its own; gives its port."

    def __init__(self, latency):
        self.latency = latency

    def __enter__(self):
        self.process = subprocess.Popen(
            [sys.executable, __file__, "serve", str(self.latency)], stdout=subprocess.PIPE, text=True
        )
        return int(self.process.stdout.readline())

    def __exit__(self, *exc):
        self.process.kill()
        self.process.wait()


def requests(n, tag=""):
    return [
        Request(
            f"{i}",
            (
                dict(role="system", content="Solve the problem. Reply with the final number only."),
                dict(role="user", content=f"{tag} {i}: " + "some words of a question " * 20),
            ),
            Sampling(max_tokens=64),
        )
        for i in range(n)
    ]


def engine(port, concurrency):
    return OpenAIEngine(
        "m", settings=Endpoint(base_url=f"http://127.0.0.1:{port}/v1", key_env=None, concurrency=concurrency)
    )


def ours(port, concurrency, asked):
    with tempfile.TemporaryDirectory() as folder:
        assert complete(engine(port, concurrency), asked, store=Store(folder)).new == len(asked)


def gather(port, concurrency, asked, http):
    import httpx2
    import openai

    async def go():
        pool = getattr(openai, http)(
            limits=httpx2.Limits(max_connections=concurrency, max_keepalive_connections=concurrency), timeout=600
        )
        async with openai.AsyncOpenAI(
            base_url=f"http://127.0.0.1:{port}/v1", api_key="none", http_client=pool
        ) as client:
            room = asyncio.Semaphore(concurrency)

            async def one(r):
                async with room:
                    return (
                        (
                            await client.chat.completions.create(
                                model="m", messages=list(r.messages), temperature=0.0, max_tokens=64
                            )
                        )
                        .choices[0]
                        .message.content
                    )

            return await asyncio.gather(*map(one, asked))

    assert len(asyncio.run(go())) == len(asked)


def plain(port, concurrency, asked):
    gather(port, concurrency, asked, "DefaultAsyncHttpxClient")


def aio(port, concurrency, asked):
    gather(port, concurrency, asked, "DefaultAioHttpClient")


def body_of(r):
    return json.dumps(dict(model="m", messages=[dict(m) for m in r.messages], temperature=0.0, max_tokens=64))


def sockets(port, concurrency, asked):
    "As many bare connections as may be."
    body = body_of(asked[0]).encode()
    message, todo = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body),
        iter(asked),
    )

    async def worker():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in todo:
            writer.write(message)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.rsplit(b"content-length: ", 1)[1].split(b"\r\n")[0]))
        writer.close()

    async def go():
        await asyncio.gather(*(worker() for _ in range(concurrency)))

    asyncio.run(go())


LOAD = next(filter(shutil.which, ("wrk", "hey")), None)  # a load generator, where there is one


def load(port, concurrency, asked):
    "Requests per second that the load generator gets in 15 seconds."
    url, body = f"http://127.0.0.1:{port}/v1/chat/completions", body_of(asked[0])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "request"
        file.write_text(f"wrk.method = 'POST'\nwrk.body = [=[{body}]=]" if LOAD == "wrk" else body)
        how = (
            ["-t1", f"-c{concurrency}", "-d15s", "-s", file]
            if LOAD == "wrk"
            else ["-c", f"{concurrency}", "-z", "15s", "-m", "POST", "-D", file]
        )
        said = subprocess.run([LOAD, *how, url], check=True, capture_output=True, text=True).stdout
    return float(said.split("Requests/sec:")[1].split()[0])


def cpu():
    u = resource.getrusage(resource.RUSAGE_SELF)
    return u.ru_utime + u.ru_stime


def measure():
    "Medians of (requests per second, CPU seconds per 1,000 requests) by (way, concurrency, latency), the ways in turn."
    seen = {}
    for turn in range(ROUNDS):
        for level, latency, per in CASES:
            with Server(latency) as port:
                for way in (ours, plain, aio, sockets, *([load] if LOAD else [])):
                    asked = requests(level * per // (3 if way in (plain, aio) else 1), f"{turn} {way.__name__}")
                    start, busy = time.perf_counter(), cpu()
                    rate = way(port, level, asked) or len(asked) / (time.perf_counter() - start)
                    seen.setdefault((way, level, latency), []).append((rate, (cpu() - busy) / len(asked) * 1000))
                    print(f"{turn + 1}/{ROUNDS}: {level}, {latency} s, {way.__name__}: {rate:.0f}", file=sys.stderr)
    return {k: tuple(map(statistics.median, zip(*v))) for k, v in seen.items()}


class Timed(Store):
    "Knows how long appending takes."

    spent = 0.0

    def add(self, records):
        start = time.perf_counter()
        try:
            return super().add(records)
        finally:
            self.spent += time.perf_counter() - start


def memory(field):
    return next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith(field))


def rows(port, folder, n):
    """Ask `n` requests; says as JSON what it took, tenth by tenth.

    (rows done, seconds, seconds of appending, MiB held, MiB at most).
    """
    asked, marks, store, begun = requests(n), [], Timed(folder), time.monotonic()
    held = memory("VmRSS")

    def progress(done, total):
        if not marks or done >= marks[-1][0] + n / 10 or done == total:
            marks.append((done, time.monotonic() - begun, store.spent, memory("VmRSS"), memory("VmHWM")))

    got = complete(engine(port, 512), asked, store=store, progress=progress)
    print(json.dumps(dict(begun=begun, marks=marks, held=held, new=got.new, reused=got.reused)))


def many(n):
    "What `rows` says of a fresh start, and of one that finds the first half of its file; with it what the server saw."

    def child(port, folder):
        start = time.monotonic()
        said = json.loads(
            subprocess.run(
                [sys.executable, __file__, "rows", str(port), folder, str(n)], check=True, stdout=subprocess.PIPE
            ).stdout
        )
        asked, first = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/asked"))
        return said | dict(twice=asked - said["new"], wait=first - said["begun"], whole=first - start)

    with Server(0.1) as port, tempfile.TemporaryDirectory() as folder:
        fresh = child(port, folder)
        (file,) = Path(folder).glob("completions/*.jsonl")
        with open(file, "rb") as f:
            half = b"".join(islice(f, n // 2))
        file.write_bytes(half)
        return fresh, child(port, folder)


def tell_rows(n, fresh, again):
    "The second table and what it shows, as lines."
    yield f"{n:,} rows into one store at concurrency 512, the server taking 0.1 s:"
    yield from (
        "",
        "| rows stored | s for these | of it appending, s | MiB held | MiB at most |",
        "|---|---|---|---|---|",
    )
    for (_, t0, a0, *_), (done, t, a, held, top) in zip(fresh["marks"], fresh["marks"][1:]):
        yield f"| {done:,} | {t - t0:.1f} | {a - a0:.1f} | {held:.0f} | {top:.0f} |"
    first, last = fresh["marks"][1], fresh["marks"][-1]
    yield from (
        "",
        (
            f"Before the first request the process holds {fresh['held']:.0f} MiB, the {n:,} requests included; each row"
            f" adds {(last[3] - first[3]) * 1024 / (last[0] - first[0]):.1f} KiB, its record in memory."
        ),
    )
    yield (
        f"Start with {again['reused']:,} of {n:,} rows stored: {again['twice']} asked twice, the first new request"
        f" {again['wait']:.1f} s after `complete` was called ({again['whole']:.1f} s after the process was started); at"
        f" most {again['marks'][-1][4]:.0f} MiB."
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        sys.exit(asyncio.run(serve(float(sys.argv[2]))))
    if sys.argv[1:2] == ["rows"]:
        sys.exit(rows(int(sys.argv[2]), sys.argv[3], int(sys.argv[4])))
    n, busy = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000, os.getloadavg()[0]
    with Server(0.1) as port:
        (
            ours(port, 8, requests(16)),
            plain(port, 8, requests(16)),
            aio(port, 8, requests(16)),
        )  # imports, outside the measurement
    seen = measure()
    names = {
        ours: "openai engine, into the store",
        plain: "asyncio.gather over the openai client",
        aio: "the same, with aiohttp below",
        sockets: "bare sockets",
        load: LOAD,
    }

    def row(way, level, latency):
        rate, spent = seen[way, level, latency]
        most = min(
            level / latency, max(seen[w, level, latency][0] for w in (sockets, load) if (w, level, latency) in seen)
        )
        return [
            level,
            f"{latency:g}",
            names[way],
            f"{rate:.0f}",
            f"{rate * latency / level:.2f}",
            f"{rate / most:.2f}",
            f"{rate / seen[plain, level, latency][0]:.2f}",
            "" if way is load else f"{spent:.2f}",
        ]

    report(
        "endpoint",
        f"Asking a server that answers after a fixed time, median of {ROUNDS}",
        [
            "concurrency",
            "server's s",
            "way",
            "requests/s",
            "of concurrency / s",
            "of what the server can do",
            "of gather",
            "client CPU s per 1,000",
        ],
        [row(*k) for k in sorted(seen, key=lambda k: (k[2], k[1]))],
        [
            f"The load was {busy:.1f} before the start. Server and client, or server and load generator, share the"
            f" {os.cpu_count()} cores. "
            + (
                f"What the server can do is the better of bare sockets and {LOAD}."
                if LOAD
                else "Neither wrk nor hey is installed: what the server can do is what bare sockets get."
            ),
            (
                f"At {(spent := round(seen[ours, 512, 0.1][1], 2)):.2f} s of processor time per 1,000 requests, most of"
                f" it the openai client's, the engine's one process asks at most about {1000 / spent:.0f} a second,"
                " whatever the server could do."
            ),
            "",
            *tell_rows(n, *many(n)),
        ],
    )
