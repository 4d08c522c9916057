"""The `openai` engine against a local server that answers every request after 100 ms, at concurrency 64 and 512, beside
a plain `asyncio.gather` over the openai client under a semaphore of the same size, and beside what a bare loop over raw
sockets gets out of the same server. The engine's time includes its records and their way into the store. Then a restart
with half of the requests stored. The server runs in a process of its own; with few cores it takes its share from all.

    python benchmarks/endpoint.py [REQUESTS per connection, 20 if left out]
"""
import asyncio, json, resource, statistics, subprocess, sys, tempfile, time

from _shared import report
from distill_study.config import Endpoint, Sampling
from distill_study.endpoint import OpenAIEngine
from distill_study.engine import Request, complete
from distill_study.store import Store

LATENCY, LEVELS, ROUNDS = 0.1, (64, 512), 3
ANSWER = json.dumps(dict(id="x", object="chat.completion", created=1, model="m", choices=[dict(index=0, message=dict(role="assistant", content="The answer is 42. " * 10), finish_reason="stop")], usage=dict(prompt_tokens=150, completion_tokens=50, total_tokens=200))).encode()


class Fixed(asyncio.Protocol):
    "Answers each request after LATENCY; counts on `content-length` coming before the body."
    asked = 0
    def connection_made(self, transport): self.transport, self.data = transport, b""
    def data_received(self, data):
        self.data += data
        head, found, body = self.data.partition(b"\r\n\r\n")
        if not found: return
        size = next((int(l.split(b":")[1]) for l in head.lower().split(b"\r\n") if l.startswith(b"content-length")), 0)
        if len(body) < size: return
        self.data = body[size:]
        if head.startswith(b"GET /asked"): self.say(b"%d" % Fixed.asked)
        elif head.startswith(b"GET"): self.say(b'{"data": [{"id": "m"}]}')
        else:
            Fixed.asked += 1
            asyncio.get_running_loop().call_later(LATENCY, self.say, ANSWER)
    def say(self, body):
        if not self.transport.is_closing(): self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))


async def serve():
    server = await asyncio.get_running_loop().create_server(Fixed, "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def requests(n, tag=""): return [Request(f"{i}", (dict(role="system", content="Solve the problem. Reply with the final number only."), dict(role="user", content=f"{tag} {i}: " + "some words of a question " * 20)), Sampling(max_tokens=64)) for i in range(n)]


def engine(port, concurrency): return OpenAIEngine("m", settings=Endpoint(base_url=f"http://127.0.0.1:{port}/v1", key_env=None, concurrency=concurrency))


def ours(port, concurrency, asked):
    with tempfile.TemporaryDirectory() as folder: assert complete(engine(port, concurrency), asked, Store(folder)).new == len(asked)


def plain(port, concurrency, asked):
    import httpx2, openai
    async def go():
        pool = httpx2.AsyncClient(limits=httpx2.Limits(max_connections=concurrency, max_keepalive_connections=concurrency), timeout=600)
        async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", http_client=pool) as client:
            room = asyncio.Semaphore(concurrency)
            async def one(r):
                async with room: return (await client.chat.completions.create(model="m", messages=list(r.messages), temperature=0.0, max_tokens=64)).choices[0].message.content
            return await asyncio.gather(*map(one, asked))
    assert len(asyncio.run(go())) == len(asked)


def sockets(port, concurrency, asked):
    "As many bare connections as may be; what the server can do."
    body = json.dumps(dict(model="m", messages=[dict(m) for m in asked[0].messages])).encode()
    message, todo = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body), iter(asked)
    async def worker():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in todo:
            writer.write(message)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.rsplit(b"content-length: ", 1)[1].split(b"\r\n")[0]))
        writer.close()
    async def go(): await asyncio.gather(*(worker() for _ in range(concurrency)))
    asyncio.run(go())


def cpu():
    u = resource.getrusage(resource.RUSAGE_SELF)
    return u.ru_utime + u.ru_stime


def measure(port, per):
    "Medians of (requests per second, CPU seconds per 1,000 requests) by (way, concurrency), the ways in turn."
    seen = {}
    for turn in range(ROUNDS):
        for level in LEVELS:
            for way in (ours, plain, sockets):
                asked = requests(level * per, f"{turn} {way.__name__}")
                start, busy = time.perf_counter(), cpu()
                way(port, level, asked)
                seen.setdefault((way.__name__, level), []).append((len(asked) / (time.perf_counter() - start), (cpu() - busy) / len(asked) * 1000))
    return {k: tuple(map(statistics.median, zip(*v))) for k, v in seen.items()}


def restart(port, n):
    "(requests asked twice, seconds to the first new one) of a run that finds half of its requests in the store."
    import urllib.request
    def asked(): return int(urllib.request.urlopen(f"http://127.0.0.1:{port}/asked").read())
    everything, done = requests(n, "restart"), []
    with tempfile.TemporaryDirectory() as folder:
        complete(engine(port, 64), everything[::2], Store(folder))
        before, start = asked(), time.perf_counter()
        got = complete(engine(port, 64), everything, Store(folder), first=lambda *x: done.append(time.perf_counter() - start))
        return asked() - before - got.new, done[0], len(got)


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]: sys.exit(asyncio.run(serve()))
    per = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    server = subprocess.Popen([sys.executable, __file__, "serve"], stdout=subprocess.PIPE, text=True)
    try:
        port = int(server.stdout.readline())
        ours(port, 8, requests(16)), plain(port, 8, requests(16))                # imports, outside the measurement
        seen, (twice, first, n) = measure(port, per), restart(port, per * 100)
    finally: server.kill()
    names = dict(ours="openai engine, into the store", plain="asyncio.gather over the openai client", sockets="bare sockets")
    rows = [[level, names[way], f"{rate:.0f}", f"{rate / (level / LATENCY):.2f}", f"{rate / seen['plain', level][0]:.2f}", f"{rate / seen['sockets', level][0]:.2f}", f"{busy:.2f}"] for (way, level), (rate, busy) in sorted(seen.items(), key=lambda x: x[0][1])]
    report("endpoint", f"Asking a server that answers after {LATENCY * 1000:.0f} ms, {per} requests per connection, median of {ROUNDS}",
           ["concurrency", "way", "requests/s", "of concurrency / latency", "of gather", "of bare sockets", "client CPU s per 1,000"], rows,
           [f"Restart with half of {n:,} requests stored: {twice} asked twice, {first:.2f} s to the first new answer (of these {LATENCY} s are the server's)."])
