"The batch interfaces of OpenAI and of Anthropic on the loopback or in this process, and the faults they are told of."

import itertools
import json
import re
import threading
from collections import Counter
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

KINDS = (  # of calls: name, and what it looks like
    ("upload", r"POST /v1/files"),
    ("create", r"POST /v1(/messages)?/batches"),
    ("list", r"GET /v1(/messages)?/batches"),
    ("content", r"GET /v1/files/[^/]+/content|GET /v1/messages/batches/[^/]+/results"),
    ("look", r"GET /v1(/messages)?/batches/[^/]+"),
    ("ask", r"POST /v1/messages"),
    ("models", r"GET /v1/models"),
)
ANTHROPIC = {400: "invalid_request_error", 429: "rate_limit_error", 500: "api_error", 529: "overloaded_error"}


class Drop(Exception):
    "The connection is cut, after a part of an answer where there are (status, data)."


class BatchServer:
    """Answers `answer to QUESTION`; a batch is over after `looks` looks.

    `script`: question → what becomes of it, one sending after the other: a status, 'expired', 'cancelled', 'junk' (a
    damaged line), 'nothing' (no line), 'twice', 'empty' or None. `fates`: what becomes of the next batches: 'expired',
    'cancelled', 'failed', 'queue' or None. `faults`: kind of call → what the next of its kind meet: a status, 'drop'
    (before it is done), 'lost' (after), 'half' (an answer that is cut off), an exception, or None.
    """

    def __init__(self, script=None, *, looks=1, fates=(), faults=None, key=None, most=10**9):
        self.script = {q: list(s) for q, s in (script or {}).items()}
        self.looks, self.fates, self.key, self.most = looks, list(fates), key, most
        self.faults = {k: list(f) for k, f in (faults or {}).items()}
        self.files, self.batches, self.executed, self.calls, self.bodies = {}, {}, [], Counter(), []
        self.number = itertools.count(1)

    def __enter__(self):
        handler = type("Handler", (Handler,), dict(logic=self))
        self.httpd = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.httpd.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.httpd.server_port}/v1"
        return self

    def __exit__(self, *exc):
        self.httpd.shutdown()
        self.httpd.server_close()

    def handle(self, method, target, headers, body):
        "(status, body) of a call; raises what it is told to."
        path = urlsplit(target).path
        kind = next(k for k, pattern in KINDS if re.fullmatch(pattern, f"{method} {path}"))
        self.calls[kind] += 1
        fault = self.faults[kind].pop(0) if self.faults.get(kind) else None
        if isinstance(fault, BaseException):
            raise fault
        if fault == "drop":
            raise Drop
        if self.key and self.key not in (headers.get("authorization", "")[7:], headers.get("x-api-key")):
            return self.error(401, "bad key")
        if isinstance(fault, int):
            return self.error(fault, f"told to say {fault}")
        status, value = getattr(self, f"do_{kind}")(path, parse_qs(urlsplit(target).query), headers, body)
        if isinstance(fault, tuple):  # done, and then this
            raise fault[0]
        if fault == "lost":
            raise Drop
        value = value if isinstance(value, bytes) else json.dumps(value).encode()
        if fault == "half":
            raise Drop(status, value)
        return status, value

    @staticmethod
    def error(status, text):
        kind = ANTHROPIC.get(status, "authentication_error")
        return status, json.dumps(dict(type="error", error=dict(type=kind, message=text))).encode()

    def next(self, question):
        "What becomes of a question this time."
        self.executed.append(question)
        script = self.script.get(question)
        return script.pop(0) if script else None

    # ---- OpenAI

    def do_upload(self, path, query, headers, body):
        head = f"content-type: {headers['content-type']}\r\n\r\n".encode()
        form = message_from_bytes(head + body, policy=policy.HTTP)
        data = next(p.get_payload(decode=True) for p in form.iter_parts() if p.get_filename())
        self.files[id := f"file-{next(self.number)}"] = data
        return 200, dict(id=id, object="file")

    def do_create(self, path, query, headers, body):
        body = json.loads(body)
        id, fate = f"batch-{next(self.number)}", self.fates.pop(0) if self.fates else None
        if "requests" in body:
            lines = body["requests"]
        else:
            lines = [json.loads(line) for line in self.files[body["input_file_id"]].splitlines()]
        assert len({line["custom_id"] for line in lines}) == len(lines)
        assert all(re.fullmatch("[a-zA-Z0-9_-]{1,64}", line["custom_id"]) for line in lines)
        b = dict(id=id, lines=lines, fate=fate, left=self.looks, metadata=body.get("metadata"), rows=None)
        waiting = sum(len(o["lines"]) for o in self.batches.values() if o["left"] > 0)
        if fate is None and waiting + len(lines) > self.most:
            b["fate"] = "queue"
        self.batches[id] = b
        return 200, self.shown(b, messages="messages" in path)

    def do_list(self, path, query, headers, body):
        every = [self.batches[id] for id in reversed(self.batches)]
        for b in every:
            b["left"] -= 1  # time passes
        after = (query.get("after") or query.get("after_id") or [None])[0]
        ids = [b["id"] for b in every]
        every = every[ids.index(after) + 1 :] if after else every
        some = every[: int(query["limit"][0])]
        data = [self.shown(b, messages="messages" in path) for b in some]
        ends = dict(first_id=some[0]["id"], last_id=some[-1]["id"]) if some else {}
        return 200, dict(object="list", data=data, has_more=len(every) > len(some)) | ends

    def do_look(self, path, query, headers, body):
        b = self.batches.get(path.rsplit("/", 1)[-1])
        if b is None:
            return self.error(404, "no such batch")
        b["left"] -= 1
        return 200, self.shown(b, messages="messages" in path)

    def do_content(self, path, query, headers, body):
        id = path.split("/")[-2]
        b = self.batches[id.removeprefix("out-").removeprefix("err-")]
        wanted = (
            b["rows"] if "messages" in path else [r for r in b["rows"] if (r[1] == "error") == id.startswith("err-")]
        )
        return 200, b"".join(line + b"\n" for line, _ in reversed(wanted)) + b'{"custom_id": "of nobody"}\n'

    def shown(self, b, messages):
        "A batch as its interface shows it; what is in it is executed when it is over."
        over, n = b["left"] <= 0, len(b["lines"])
        if over and b["rows"] is None:
            b["rows"] = self.execute(b, messages)
        kinds = Counter(kind for _, kind in b["rows"] or ())
        if messages:
            counts = dict(processing=0 if over else n, succeeded=kinds["answer"] if over else 0)
            rest = n - counts["succeeded"] - counts["processing"]
            counts |= dict(errored=rest, canceled=0, expired=0)
            status = "ended" if over else "in_progress"
            url = f"{self.url}/messages/batches/{b['id']}/results" if over else None
            dates = dict.fromkeys(("created_at", "expires_at"), "2026-01-01T00:00:00Z")
            about = dict(type="message_batch", processing_status=status, results_url=url, request_counts=counts)
            return dict(id=b["id"]) | about | dict(ended_at=None) | dates
        status = {"queue": "failed", None: "completed"}.get(b["fate"], b["fate"]) if over else "in_progress"
        out = dict(id=b["id"], object="batch", status=status, metadata=b["metadata"], input_file_id="f")
        out |= dict(endpoint="/v1/chat/completions", completion_window="24h", created_at=1)
        out["request_counts"] = dict(total=n, completed=kinds["answer"], failed=kinds["error"])
        if status == "failed":
            code = "token_limit_exceeded" if b["fate"] == "queue" else "invalid_json_line"
            out["errors"] = dict(object="list", data=[dict(code=code, message="no", line=1)])
        elif over:
            out |= dict(output_file_id=f"out-{b['id']}", error_file_id=f"err-{b['id']}" if kinds["error"] else None)
        return out

    def execute(self, b, messages):
        "(line, kind) of every result."
        if b["fate"] in ("failed", "queue"):
            return []
        out = []
        for line in b["lines"]:
            question = (line.get("body") or line.get("params"))["messages"][-1]["content"]
            fault = b["fate"] or self.next(question)
            if fault == "nothing":
                continue
            value = (self.message if messages else self.chat)(question, fault)
            row = dict(custom_id=line["custom_id"]) | (dict(result=value) if messages else value)
            data = json.dumps(row, ensure_ascii=False).encode()
            kind = "answer" if fault in (None, "twice", "empty", "junk") else "error"
            out += [(data[:-9] if fault == "junk" else data, kind)] * (2 if fault == "twice" else 1)
        return out

    @staticmethod
    def chat(question, fault):
        if isinstance(fault, int):
            return dict(response=dict(status_code=fault, body=dict(error=dict(message="no"))), error=None)
        if fault in ("expired", "cancelled"):
            return dict(response=None, error=dict(code=f"batch_{fault}", message=f"it {fault}"))
        text = "" if fault == "empty" else f"answer\u2028to {question}"
        choice = dict(message=dict(content=text), finish_reason="stop")
        usage = dict(prompt_tokens=9, completion_tokens=3)
        return dict(response=dict(status_code=200, body=dict(model="m", choices=[choice], usage=usage)), error=None)

    # ---- Anthropic

    @staticmethod
    def message(question, fault):
        if isinstance(fault, int):
            return dict(type="errored", error=json.loads(BatchServer.error(fault, "no")[1]))
        if fault in ("expired", "cancelled"):
            return dict(type=fault.replace("ll", "l"))
        parts = [dict(type="text", text="" if fault == "empty" else f"answer\u2028to {question}")]
        usage = dict(input_tokens=7, cache_read_input_tokens=2, output_tokens=3)
        return dict(type="succeeded", message=dict(model="m", content=parts, stop_reason="end_turn", usage=usage))

    def do_ask(self, path, query, headers, body):
        self.bodies.append((json.loads(body), dict(headers)))
        fault = self.next(self.bodies[-1][0]["messages"][-1]["content"])
        if isinstance(fault, int):
            return self.error(fault, "told so")
        reply = self.message(self.bodies[-1][0]["messages"][-1]["content"], None)["message"]
        return 200, reply | (fault or {})

    def do_models(self, path, query, headers, body):
        return 200, dict(data=[dict(id="m", type="model")], has_more=False)


class Handler(BaseHTTPRequestHandler):
    logic, protocol_version = None, "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        fields = {k.lower(): v for k, v in self.headers.items()}
        try:
            status, data = self.logic.handle(self.command, self.path, fields, body)
        except Drop as cut:
            self.close_connection = True
            if not cut.args:
                return
            status, data = cut.args
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if self.close_connection else data)

    do_GET = do_POST = answer
