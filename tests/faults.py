"A server on the loopback that speaks the OpenAI protocol and plays a script of faults for each question."

import asyncio
import contextlib
import email.utils
import json
import threading
import time

AGAIN = {  # fault → reason, where another attempt is worth it
    "429": "http_429",
    "429 after": "http_429",
    "429 ms": "http_429",
    "429 date": "http_429",
    "429 odd": "http_429",
    "500": "http_500",
    "503": "http_503",
    "hang": "timeout",
    "close": "connection",
    "half": "connection",
    "junk": "invalid_response",
    "html": "invalid_response",
    "no choices": "invalid_response",
    "null": "empty",
    "blank": "empty",
    "error": "aborted",
    "native error": "aborted",
    "choice error": "aborted",
    "error beside": "aborted",
    "abort": "aborted",
    "odd ending": "aborted",
}
FINAL = {
    "refusal": "refusal",
    "filter": "content_filter",
    "400 filter": "content_filter",
    "native filter": "content_filter",
    "tools": "tool_calls",
}  # where it is not
FINE = (
    "length",
    "thought only",
    "end_turn",
    "no ending",
    "parts",
    "thinking",
    "twice",
    "no usage",
)  # odd, but a completion


def expected(script, attempts):
    "(reason, attempts) of the failure that a question's script leads to, or (None, attempts) where it is answered."
    for n in range(1, attempts + 1):
        fault = script[n - 1] if n <= len(script) else None
        if fault is None or fault in FINE:
            return None, n
        if fault in FINAL:
            return FINAL[fault], n
    return AGAIN[fault], n


class FaultServer:
    "Answers `answer to QUESTION`, once the question's script is played. A fault that ends in '!' is played for ever."

    def __init__(
        self, script=None, *, delay=0.0, models=("m",), most=None, sees=None, drop_at=None, named="m-0613", lists=None
    ):
        self.script = {q: list(s) for q, s in (script or {}).items()}
        self.delay, self.models, self.most, self.named = delay, models, most, named
        self.lists = lists  # (status, body, headers) in place of the list of models
        self.sees = sees  # called with (body, headers) of every request; may return (status, body, headers)
        self.asked, self.times, self.bodies, self.connections, self.busy, self.top = [], [], [], 0, 0, 0
        # (requests, seconds): after so many, drop every connection and refuse new ones for so long; None is for ever
        self.drop_at = drop_at
        self.open, self.writers, self.ready = None, set(), threading.Event()

    def __enter__(self):
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self._do(self._listen(0))
        self.url = f"http://127.0.0.1:{self.port}/v1"
        return self

    def __exit__(self, *exc):
        self._do(self._shut())
        self.loop.call_soon_threadsafe(self.loop.stop)

    def _do(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(20)

    async def _listen(self, port):
        self.open = await asyncio.start_server(self._talk, "127.0.0.1", port)
        self.port = self.open.sockets[0].getsockname()[1]

    async def _shut(self):
        self.open.close()
        for w in [*self.writers]:
            w.transport.abort()

    async def _drop(self, seconds):
        await self._shut()
        if seconds is not None:
            self.loop.call_later(seconds, lambda: asyncio.ensure_future(self._listen(self.port)))

    async def _talk(self, reader, writer):
        self.connections += 1
        self.writers.add(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
                fields = {k.lower(): v for k, v in fields.items()}
                body = await reader.readexactly(int(fields.get("content-length", 0)))
                if head.startswith("GET"):
                    await self._send(writer, *self._list(head))
                    continue
                self.busy += 1
                self.top = max(self.top, self.busy)
                try:
                    keep = await self._answer(writer, json.loads(body), fields)
                finally:
                    self.busy -= 1
                if not keep:
                    break
        self.writers.discard(writer)
        writer.transport.abort()

    def _list(self, head):
        if self.lists:
            return self.lists
        if self.models is None or not head.startswith("GET /v1/models "):
            return 404, dict(detail="Not Found"), {}
        models = self.models if isinstance(self.models, dict) else dict.fromkeys(self.models, {})
        return 200, dict(object="list", data=[dict(id=m) | more for m, more in models.items()]), {}

    async def _send(self, writer, status, value, headers=(), cut=None):
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        lines = [
            f"HTTP/1.1 {status} X",
            f"content-length: {len(data)}",
            "content-type: application/json",
            *(f"{k}: {v}" for k, v in dict(headers).items()),
        ]
        writer.write("\r\n".join([*lines, "", ""]).encode() + data[:cut])
        await writer.drain()

    def _next(self, question):
        script = self.script.get(question)
        if not script:
            return None
        return script[0][:-1] if script[0].endswith("!") else script.pop(0)

    async def _answer(self, writer, body, fields):
        "Play the next fault of the question; False closes the connection."
        question = body["messages"][-1]["content"]
        self.asked.append(question)
        self.times.append(time.monotonic())
        self.bodies.append(body)
        if self.drop_at and len(self.asked) == self.drop_at[0]:
            await self._drop(self.drop_at[1])
            return False
        if self.delay:
            await asyncio.sleep(self.delay)
        if self.sees and (answer := self.sees(body, fields)):
            await self._send(writer, *answer)
            return True
        if self.most and self.busy > self.most:
            await self._send(writer, 429, dict(error=dict(message="too many at once")))
            return True
        fault = self._next(question)
        if fault == "hang":
            await asyncio.sleep(30)
            return False
        if fault == "close":
            return False
        status, value, headers = self._say(question, fault)
        await self._send(writer, status, value, headers, cut=len(json.dumps(value)) // 2 if fault == "half" else None)
        return fault != "half"

    def _say(self, question, fault):
        "(status, body, headers)"
        if fault and fault[:3] in ("429", "500", "503"):
            when = {
                "429 after": {"retry-after": "0.01"},
                "429 ms": {"retry-after-ms": "5", "retry-after": "9"},
                "429 date": {"retry-after": email.utils.formatdate(usegmt=True)},
                "429 odd": {"retry-after": "soon"},
            }
            return int(fault[:3]), dict(error=dict(message=f"{fault}, says the server")), when.get(fault, {})
        if fault == "400 filter":
            return 400, dict(error=dict(message="filtered", code="content_filter")), {}
        if fault == "junk":
            return 200, b'{"choices": [{"mess', {}
        if fault == "html":
            return 200, b"<html>busy</html>", {}
        choice = self._choice(f"answer to {question}", fault)
        choices = [choice] * {"no choices": 0, "twice": 2}.get(fault, 1)
        value = dict(id="x", object="chat.completion", created=1, model=self.named, choices=choices)
        if fault == "error beside":
            value["error"] = dict(code=502, message="the provider broke off")
        if fault != "no usage":
            value["usage"] = dict(prompt_tokens=9, completion_tokens=3)
        return 200, value, {}

    @staticmethod
    def _choice(text, fault):
        "What the model says, and how it ended."
        parts = [dict(type="thinking", thinking=[dict(type="text", text="so")]), dict(type="text", text=text)]
        no_text = dict.fromkeys(("null", "refusal", "thought only", "tools"))
        message = dict(role="assistant", content=(no_text | dict(blank=" \n", parts=parts)).get(fault, text))
        message["refusal"] = "I can't help with that" if fault == "refusal" else None
        if fault in ("thinking", "thought only"):
            message["reasoning_content"] = "so"
        ends = {"length": "length", "thought only": "length", "filter": "content_filter", "tools": "tool_calls"}
        ends |= {"no ending": None, "odd ending": "network_error"} | {k: k for k in ("error", "abort", "end_turn")}
        more = {"native error": dict(native_finish_reason="MALFORMED_RESPONSE")}
        more |= {"native filter": dict(native_finish_reason="SAFETY"), "choice error": dict(error=dict(code=502))}
        return dict(index=0, message=message, finish_reason=ends.get(fault, "stop")) | more.get(fault, {})
