"""A small server with scripted replies, for the page's tests: the last message's first word says what it streams.

It keeps conversations in memory with the routes of /qwill/conversations, and records the bodies it was sent.
"""

import json
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from qwill.serve.page_files import page_file

MARKDOWN = (
    """# A heading

Some **bold** and *slanted* text with `code` and a [link](https://example.org/a?b=c).

- one
- two
  - inner

1. first
2. second

| name | value |
|---|--:|
| a | 1 |
| b \\| c | 22 |

```python
def merge(a, b):
    # two sorted lists
    return sorted(a + b)
```

Inline $e^{i\\pi} + 1 = 0$ and

$$
\\int_0^1 x^2\\,dx = \\frac{1}{3}
$$

> quoted, and ~~struck out~~

- [x] done
- [ ] open

| the first column is long | the second as well | and a third | and a fourth that goes on |
|---|---|---|---|
| a_name_that_can_not_be_broken_anywhere | 1 | 2 | 3 |

```
"""
    + "a very long line of code " * 12
    + """
```
"""
)
HOSTILE = """<script>window.broken = 1</script>
<img src=x onerror="window.broken = 2">
<svg onload="window.broken = 3"><a href="javascript:window.broken=4">x</a></svg>
<iframe src="javascript:window.broken = 5"></iframe>
<style>body { display: none }</style>
<math><mtext><img src=x onerror="window.broken=6"></mtext></math>

[one](javascript:window.broken=7) [two](JaVaScRiPt:alert(1)) [three](data:text/html,<script>x</script>)
[four](//evil.example) <javascript:alert(1)>
![image](http://evil.example/spy.png) ![image](javascript:alert(1)) [five]("onmouseover="alert(1))
[six](https://example.org/"onclick="window.broken=8)

`<b>code</b>` $\\text{<img src=x onerror=alert(1)>}$ $\\href{javascript:alert(1)}{x}$ $$<script>alert(2)</script>$$

```html"><script>window.broken = 9</script>
<script>window.broken = 10</script>
```

| <b onclick="x">cell</b> | [x](vbscript:x) |
|---|---|
| <script>window.broken = 11</script> | &lt;script&gt; |
"""
WORDS = ["The", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog", "and", "thinks", "about", "it", "all."]


class PageServer:
    """Runs while it is used as a context. `sent` holds the bodies of chat requests; `key`, `history`, `stats`, `down`
    and `pace` (seconds a chunk) may be changed at any time; a cleared `gate` holds streams after `before` chunks."""

    def __init__(self, models: tuple[str, ...] = ("tiny", "other"), files: Path | None = None) -> None:
        self.models, self.files = models, files
        self.sent: list[dict[str, Any]] = []
        self.stopped = 0
        self.key: str | None = None
        self.history = True
        self.stats = True
        self.pace = 0.0
        self.before = 0
        self.gate = threading.Event()
        self.gate.set()
        self.conversations: dict[str, dict[str, Any]] = {}
        self.down = False
        self.arena: Any = None  # one of arena_stand_in.py
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"app": self}))
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def __enter__(self) -> "PageServer":
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.set()
        self.http.shutdown()
        self.http.server_close()


class _Handler(BaseHTTPRequestHandler):
    app: PageServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def send(self, status: int, body: Any = None, **headers: str) -> None:
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **given}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def error(self, status: int, message: str, **headers: str) -> None:
        self.send(status, {"error": {"message": message, "type": "test", "param": None, "code": status}}, **headers)

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if file := page_file(path):
            if self.headers.get("If-None-Match") == file.headers["ETag"]:
                self.send(304)
                return
            self.send(200, file.body, **file.headers)
        elif path.startswith("/tests/") and self.app.files and (found := self.app.files / path[7:]).is_file():
            self.send(200, found.read_bytes(), Content_Type="text/javascript")
        else:
            self.api(path)

    def do_POST(self) -> None:
        self.api(urlsplit(self.path).path)

    do_PATCH = do_DELETE = do_POST

    def api(self, path: str) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        if self.app.key and self.headers.get("Authorization") != f"Bearer {self.app.key}":
            self.error(401, "missing or wrong key")
        elif path == "/v1/models":
            data = [{"id": name, "object": "model", "max_model_len": 8192} for name in self.app.models]
            adapter = {"id": "tiny-poet", "object": "model", "parent": "tiny"}
            self.send(200, {"object": "list", "data": [*data, adapter] if "tiny" in self.app.models else data})
        elif path == "/qwill/stats" and self.app.stats:
            speed = {"tokens_per_second": 42.5, "prompt_tokens_per_second": 900.0, "running": 2, "waiting": 1}
            self.send(
                200, {**speed, "cache_used": 130, "cache_total": 1000, "model": "tiny", "arena": bool(self.app.arena)}
            )
        elif path.startswith("/qwill/arena") and self.app.arena:
            self.app.arena.answer(self, path.split("/")[3:], parse_qs(urlsplit(self.path).query), body)
        elif path == "/v1/chat/completions":
            self.app.sent.append(body)
            self.chat(body)
        elif path.startswith("/qwill/conversations") and self.app.history:
            if self.app.down:
                self.error(503, "the database is away")
            else:
                self.conversation(path.split("/")[3:], body)
        else:
            self.error(404, "no such thing")

    def conversation(self, parts: list[str], body: dict[str, Any]) -> None:
        kept, now = self.app.conversations, time.time()
        if not parts and self.command == "GET":
            wanted = parse_qs(urlsplit(self.path).query).get("search", [""])[0].lower()
            found = [c for c in kept.values() if wanted in json.dumps(c, ensure_ascii=False).lower()]
            found.sort(key=lambda c: -c["updated_at"])
            fields = ("id", "title", "created_at", "updated_at")
            snippet = f"… {wanted} …" if wanted else None
            data = [{**{name: c[name] for name in fields}, "snippet": snippet} for c in found]
            self.send(200, {"data": data, "has_more": False})
        elif not parts:
            made = {"id": str(uuid.uuid4()), **body, "created_at": now, "updated_at": now, "messages": []}
            kept[made["id"]] = made
            self.send(201, made)
        elif parts[0] not in kept:
            self.error(404, "no such conversation")
        elif len(parts) == 2:
            known = {message["id"] for message in kept[parts[0]]["messages"]}
            if not set(body["parents"]) <= known:
                self.error(400, "unknown parents")
                return
            message = {**body, "id": str(uuid.uuid4()), "created_at": now}
            kept[parts[0]]["messages"].append(message)
            kept[parts[0]]["updated_at"] = now
            self.send(201, message)
        elif self.command == "DELETE":
            del kept[parts[0]]
            self.send(204)
        elif self.command == "PATCH":
            kept[parts[0]].update(body)
            self.send(200, kept[parts[0]])
        else:
            self.send(200, kept[parts[0]])

    def chat(self, body: dict[str, Any]) -> None:
        last = body["messages"][-1]
        word = (last["content"].split() or [""])[0].lower()
        if word == "busy":
            self.error(429, "too many requests", Retry_After="7")
        elif word == "broken":
            self.error(500, "the engine has died")
        elif word == "long":
            self.error(400, "the prompt has 9000 tokens, the context holds 8192")
        else:
            self.stream(body, word)

    def stream(self, body: dict[str, Any], word: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        tokens = 0
        try:
            for delta, finish in script(body, word):
                if tokens >= self.app.before:
                    self.app.gate.wait()
                time.sleep(self.app.pace)
                tokens += 1
                if delta == "error":
                    self.event({"error": {"message": "the engine was restarted", "code": 500}})
                    return
                if delta == "cut":
                    return
                self.event({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
            usage = {"prompt_tokens": 9, "completion_tokens": tokens, "total_tokens": tokens + 9}
            self.event({"choices": [], "usage": usage})
            self.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            self.app.stopped += 1
        finally:
            self.close_connection = True

    def event(self, data: Any) -> None:
        self.wfile.write(b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n")
        self.wfile.flush()


def script(body: dict[str, Any], word: str) -> Any:
    """(delta, finish_reason) of each chunk."""
    last = body["messages"][-1]
    yield {"role": "assistant", "content": ""}, None
    if word == "think" or body.get("chat_template_kwargs", {}).get("enable_thinking"):
        for piece in ("Let me ", "think about ", "*this*."):
            yield {"reasoning_content": piece}, None
    if word == "tool" and body.get("tools"):
        name = body["tools"][0]["function"]["name"]
        call = {"index": 0, "id": "call_a", "type": "function", "function": {"name": name, "arguments": ""}}
        yield {"tool_calls": [call]}, None
        for piece in ('{"ci', 'ty": "Be', 'ijing"}'):
            yield {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}, None
        yield {}, "tool_calls"
        return
    if last["role"] == "tool":
        yield {"content": f"The tool says {last['content']}."}, None
    elif word in ("markdown", "hostile"):
        text = MARKDOWN if word == "markdown" else HOSTILE
        for at in range(0, len(text), 7):
            yield {"content": text[at : at + 7]}, None
    elif word in ("endless", "story"):
        for n in range(4000 if word == "endless" else 400):
            yield {"content": f"{WORDS[n % len(WORDS)]} " + ("\n\n" if n % 40 == 39 else "")}, None
    elif word == "huge":
        for n in range(60):
            yield {"content": f"{n} 长 " * 300}, None
    elif word in ("error", "cut"):
        yield {"content": "It begins"}, None
        yield word, None
    elif word == "short":
        yield {"content": "It was cut"}, None
        yield {}, "length"
        return
    else:
        for piece in (f"{body['model']} ", "heard: ", last["content"]):
            yield {"content": piece}, None
    yield {}, "stop"


if __name__ == "__main__":
    with PageServer() as server:
        server.pace = 0.01
        print(server.url, flush=True)
        threading.Event().wait()
