# SPDX-License-Identifier: Apache-2.0
"""kekctl at a server that answers anything: it says so, and neither dies of it nor takes nothing
for an answer."""

import contextlib
import copy
import http.server
import json
import os
import ssl
import subprocess
import threading

import pytest

from kekd import BUILD, PATIENCE, yaml

FAILED = 1


class Liar:
    """An HTTPS server with kekd's certificate; answers: {path without its query: (status, headers,
    body)}."""

    def __init__(self, server):
        self.answers, self.asked = {}, []
        self.httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(server.path("server.pem"), server.path("server.key"))
        self.httpd.socket = context.wrap_socket(self.httpd.socket, server_side=True,
                                                do_handshake_on_connect=False)
        self.thread = threading.Thread(target=self.httpd.serve_forever, args=(0.05,))
        self.thread.start()
        client = server.pki.clients["admin-1"]
        self.config = server.path("kekctl-liar.yaml")
        with open(self.config, "w", encoding="utf-8") as f:
            f.write(yaml({"endpoints": [f"https://localhost:{self.httpd.server_port}"],
                          "ca": server.pki.ca.pem, "certificate": client.pem,
                          "key": client.key}))

    def handler(self):
        liar = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                path = self.path.partition("?")[0]
                liar.asked.append(path)
                status, headers, body = liar.answers.get(path, (404, {}, b"{}"))
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

            def log_message(self, *_):
                pass

            def handle(self):
                with contextlib.suppress(OSError):
                    super().handle()

        return Handler

    def say(self, path, value, status=200, **headers):
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.answers[path] = (status, {"ETag": '"7"', **headers}, body)

    def kekctl(self, *arguments):
        done = subprocess.run(
            [os.path.join(BUILD, "kekctl"), "--config", self.config, *arguments], check=False,
            capture_output=True, timeout=PATIENCE, env=dict(os.environ, LC_ALL="C.UTF-8"))
        assert 0 <= done.returncode <= 8, (arguments, self.answers, done)
        assert b"Sanitizer" not in done.stderr and b"runtime error" not in done.stderr, done
        return done

    def close(self):
        self.httpd.shutdown()
        self.thread.join()
        self.httpd.server_close()


@pytest.fixture(scope="module")
def liar(server):
    liar = Liar(server)
    yield liar
    liar.close()


@pytest.fixture(autouse=True)
def afresh(liar):
    liar.answers.clear()
    liar.asked.clear()


def places(value, path=()):
    """Where in an answer something else can stand."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) \
        if isinstance(value, list) else ()
    for name, one in inner:
        yield from places(one, (*path, name))


def replaced(value, path, other):
    if not path:
        return other
    value = copy.deepcopy(value)
    at = value
    for name in path[:-1]:
        at = at[name]
    at[path[-1]] = other
    return value


# ---- what is not kekd's answer ----

@pytest.fixture
def answers(server, liar):
    """What the real one says, said by the liar."""
    with server.http("admin-1") as admin:
        real = {path: admin.get(path).json for path in
                ("/v1/keys", "/v1/clients", "/v1/cluster", "/v1/keys/demo", "/v1/audit")}
    for path, value in real.items():
        liar.say(path, value)
    return real


@pytest.mark.parametrize("path", ["/v1/keys", "/v1/clients", "/v1/cluster"])
def test_no_answer_crashes_an_export(liar, answers, path):
    assert liar.kekctl("export").returncode == 0
    for place in places(answers[path]):
        if not set(place).isdisjoint({"versions", "seal_keys", "members"}):
            continue
        for wrong in (None, [None, [], {}, "a", 1], {"a": {"b": []}}):
            liar.say(path, replaced(answers[path], place, wrong))
            liar.kekctl("export")


def test_an_export_says_when_it_got_no_text_and_writes_nothing(liar, answers):
    liar.say("/v1/cluster", replaced(answers["/v1/cluster"], ("policy", "approvals"), None))
    done = liar.kekctl("export")
    assert done.returncode == FAILED and done.stdout == b""
    assert b"no text" in done.stderr


@pytest.mark.parametrize("answer", [b"<html>hello</html>", b"", b"{}", b"[]", b'{"records":{}}'])
@pytest.mark.parametrize("command", ["query", "report"])
def test_what_is_no_page_of_records_is_not_taken_for_no_records(liar, answer, command):
    liar.say("/v1/audit", answer)
    done = liar.kekctl("audit", command)
    assert done.returncode == FAILED and done.stdout == b"" and done.stderr


@pytest.mark.parametrize("place", ["x", "x" * 64, "x" * 5000])
def test_pages_that_lead_nowhere_end(liar, place):
    liar.say("/v1/audit", {"records": [], "scanned": 0, "next": place})
    done = liar.kekctl("audit", "report")
    assert done.returncode == FAILED and b"leads nowhere" in done.stderr
    assert len(liar.asked) <= 2


def test_nobody_waits_for_as_long_as_a_server_likes(liar):
    liar.say("/v1/audit", {"code": "overloaded", "detail": "busy"}, status=503)
    replies = iter([{"Retry-After": "1"}, {"Retry-After": "4294967295"}])
    real = liar.answers["/v1/audit"]

    class Turns(dict):
        def get(self, path, default=None):
            return (real[0], next(replies), real[2])

    liar.answers, before = Turns(), liar.answers
    try:
        done = liar.kekctl("audit", "query")
    finally:
        liar.answers = before
    assert done.returncode == 7 and b"busy" in done.stderr


@pytest.mark.parametrize("answer", [b"<html>hello</html>", b""])
def test_a_diff_of_nothing_is_no_difference(liar, tmp_path, answer):
    (tmp_path / "k.yaml").write_text("kind: key\nname: demo\nlabels: []\n")
    liar.say("/v1/keys/demo", answer)
    done = liar.kekctl("diff", "-f", str(tmp_path / "k.yaml"))
    assert done.returncode == 2 and done.stdout == b"" and b"JSON" in done.stderr
