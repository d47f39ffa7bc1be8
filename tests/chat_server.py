"""A chat endpoint on this machine that can be told to fail, for tests of what talks to one."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


SECRET = "sk-do-not-tell-anyone"


def completion(text, **message):
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}


class Server(ThreadingHTTPServer):
    """Echoes prompts in capitals; `script(number, body)` may return (status, headers, bytes), "hang" or "close"."""

    daemon_threads = True
    block_on_close = False

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        self.script = lambda number, body: None
        self.bodies, self.keys = [], []
        self.in_flight = self.most_in_flight = 0
        self.lock = threading.Lock()
        self.released = threading.Event()

    @property
    def prompts(self):
        return [body["messages"][-1]["content"] for body in self.bodies]

    def handle_error(self, request, client_address):
        """A client that went away is part of the tests."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            number = len(server.bodies)
            server.bodies.append(body)
            server.keys.append(self.headers["Authorization"])
            server.in_flight += 1
            server.most_in_flight = max(server.most_in_flight, server.in_flight)
        try:
            answer = server.script(number, body)
            if answer == "hang":
                server.released.wait(10)
            if answer in ("hang", "close"):
                self.close_connection = True
                return
            status, headers, content = answer or ok(body["messages"][-1]["content"].upper())
            if self.path != "/v1/chat/completions":
                status, headers, content = failure(404, "no such page")
        finally:
            # Before the reply is sent: the client starts its next request as soon as it has it.
            with server.lock:
                server.in_flight -= 1
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def ok(text, **message):
    return 200, {}, json.dumps(completion(text, **message)).encode()


def failure(status, message, code=None, **headers):
    error = {"error": {"message": message, "type": "error", "param": None, "code": code}}
    return status, headers, json.dumps(error).encode()


@contextmanager
def serving(monkeypatch) -> Iterator["Server"]:
    """A running server, and a client that finds it without proxies and does not wait between attempts."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.0)
    monkeypatch.setattr("ogpsa_factory.endpoint.client.random.uniform", lambda low, high: 0.0)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    thread.join()
    server.server_close()
