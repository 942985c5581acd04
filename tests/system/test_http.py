# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 over TLS 1.3: connections that last, answers that say what they must."""

import re
import time
import uuid

from kekd import b64, in_threads
from load import tls


def test_tls_is_1_3(server):
    with tls(server, "app") as s:
        assert s.version() == "TLSv1.3"


def test_a_connection_serves_many_requests(server, app):
    app.wrap(b"x")
    first = app.connection.sock
    for _ in range(300):
        app.unwrap(app.wrap(b"x"))
    assert app.connection.sock is first


def test_health_needs_no_certificate(server):
    for name in ("live", "ready", "active"):
        assert server.health(name)[0] == 200


def test_128_connections_with_few_threads_never_stall(server):
    """Keep-alive connections beyond the number of threads, all busy at once."""
    slow = []

    def use(_):
        with server.http("app") as h:
            for _ in range(20):
                start = time.monotonic()
                h.wrap(b"x")
                slow.append(time.monotonic() - start)

    in_threads(128, use)
    assert len(slow) == 128 * 20
    assert max(slow) < 15


def test_idle_connections_do_not_keep_others_out(server, app):
    idle = [tls(server, "app") for _ in range(100)]
    try:
        assert app.unwrap(app.wrap(b"x")) == b"x"
    finally:
        for s in idle:
            s.close()


def test_a_client_that_goes_away_midway_harms_nobody(server, app):
    body = b'{"plaintext":"eA=="}'
    for cut in range(0, 150, 7):
        request = (b"POST /v1/keys/demo/wrap HTTP/1.1\r\nHost: x\r\n"
                   b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body))
        s = tls(server, "app")
        s.sendall((request + body)[:cut] or b"P")
        s.close()
    assert app.unwrap(app.wrap(b"x")) == b"x"


def test_requests_sent_at_once_are_answered_in_order(server):
    one = b"GET /v1/whoami HTTP/1.1\r\nHost: x\r\n\r\n"
    body = b'{"plaintext":"eA=="}'
    two = (b"POST /v1/keys/demo/wrap HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
           b"Content-Length: %d\r\n\r\n" % len(body)) + body
    last = b"GET /v1/nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with tls(server, "app") as s:
        s.sendall(one + two + last)
        data = b""
        while chunk := s.recv(65536):
            data += chunk
    assert re.findall(rb"HTTP/1.1 (\d+)", data) == [b"200", b"200", b"404"]
    assert data.index(b'"client"') < data.index(b'"ciphertext"')


def test_expect_continue_is_answered(server):
    body = b'{"plaintext":"eA=="}'
    with tls(server, "app") as s:
        s.sendall(b"POST /v1/keys/demo/wrap HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
                  b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body))
        assert b"100 Continue" in s.recv(4096)
        s.sendall(body)
        assert b"200" in s.recv(65536)


def test_who_may_not_is_told_so_before_his_body_comes(server):
    """The answer is there while nothing of a large body was sent."""
    with tls(server, "app") as s:
        s.sendall(b"POST /v1/keys/other/wrap HTTP/1.1\r\nHost: x\r\n"
                  b"Content-Type: text/plain\r\nContent-Length: 900000\r\n\r\n")
        s.settimeout(10)
        assert b" 415 " in s.recv(65536).split(b"\r\n")[0]


def test_a_chunked_body_is_read(app):
    reply = app.raw("POST", "/v1/keys/demo/wrap", iter([b'{"plaintext"', b':"eA=="}']),
                    {"Content-Type": "application/json"})
    assert reply.status == 200


def test_errors_are_problem_documents_with_a_request_id(app):
    for method, route in (("GET", "/v1/nothing"), ("POST", "/v1/keys/demo/unwrap")):
        reply = app.call(method, route, {"ciphertext": b64(b"x")} if method == "POST" else None)
        assert reply.headers["Content-Type"] == "application/problem+json"
        assert {"type", "title", "status", "code", "detail", "request_id"} <= set(
            reply.json) | {"type"}
        uuid.UUID(reply.json["request_id"])
        assert reply.json["status"] == reply.status


def test_secrets_are_not_for_caches(app):
    reply = app.ok("POST", "/v1/keys/demo/generate", {})
    assert reply.headers["Cache-Control"] == "no-store"
    assert reply.headers["Content-Type"] == "application/json"


def test_large_headers_are_refused_and_the_server_lives(server, app):
    with tls(server, "app") as s:
        try:
            s.sendall(b"GET /v1/whoami HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 200000 + b"\r\n\r\n")
            assert b" 200 " not in s.recv(4096)
        except OSError:
            pass
    assert app.unwrap(app.wrap(b"x")) == b"x"


def test_the_description_of_the_api_is_served(app):
    reply = app.get("/v1/openapi.yaml")
    assert reply.status == 200 and b"/v1/keys/{key}/wrap" in reply.body
