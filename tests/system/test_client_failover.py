# SPDX-License-Identifier: Apache-2.0
"""kekctl, and with it libkekdclient, with several endpoints of which not all are well: what may be
asked again is asked at the next one, and what must not be done twice is not."""

import contextlib
import http.server
import itertools
import json
import os
import socket
import ssl
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from kekd import BUILD, PATIENCE, b64, free_port, yaml
from pki import Authority
from proxy import Proxy

TIMEOUT = 6
OK, USAGE, CONFLICT, UNAVAILABLE, FAILED = 0, 2, 5, 7, 1


def url(port):
    return f"https://127.0.0.1:{port}"


@pytest.fixture
def proxy(server):
    with Proxy(server.port) as p:
        yield p


def ask(server, endpoints, *arguments, name="app", stdin=None, status=0):
    """(what kekctl wrote, what it said, seconds)."""
    begin = time.monotonic()
    done = server.kekctl("--timeout", str(TIMEOUT), *arguments, name=name, stdin=stdin,
                         status=status, endpoints=[url(getattr(e, "port", e)) for e in endpoints])
    return done.stdout, done.stderr.decode(), time.monotonic() - begin


def requests(server, operation):
    return [r for r in server.audit_records(operation=operation) if "result" in r]


# ---- endpoints that are not well ----

class Silent:
    """Takes connections and says nothing; ends them at once with `closing`."""

    def __init__(self, closing=False):
        self.socket = socket.create_server(("127.0.0.1", free_port()))
        self.port = self.socket.getsockname()[1]
        self.closing = closing
        self.kept = []
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        with contextlib.suppress(OSError):
            while True:
                s, _ = self.socket.accept()
                if self.closing:
                    s.close()
                else:
                    self.kept.append(s)

    def close(self):
        self.socket.close()
        for s in self.kept:
            s.close()


class Scripted:
    """Speaks TLS with the servers' certificate and answers by `answer(self, request)`: a status,
    headers and a problem's code."""

    def __init__(self, pki, answer):
        outer = self
        self.seen = []

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.seen.append((self.command, self.path, dict(self.headers), body))
                status, headers, code = answer(outer, self)
                problem = json.dumps({"title": code, "code": code, "detail": code}).encode()
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.send_header("Content-Type", "application/problem+json")
                self.send_header("Content-Length", str(len(problem)))
                self.end_headers()
                self.wfile.write(problem)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_one

            def log_message(self, *arguments):
                pass

        class Server(http.server.ThreadingHTTPServer):
            def handle_error(self, *arguments):  # a client that does not like it closes
                pass

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pki.server.pem, pki.server.key)
        context.load_verify_locations(pki.ca.pem)
        context.verify_mode = ssl.CERT_REQUIRED
        self.port = free_port()
        self.server = Server(("127.0.0.1", self.port), Handler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def scripted(pki):
    made = []

    def make(answer):
        made.append(Scripted(pki, answer))
        return made[-1]
    yield make
    for s in made:
        s.close()


def redirect(target):
    return lambda _, request: (307, {"Location": target + request.path}, "not_active")


@contextlib.contextmanager
def endpoint(kind, server, pki):
    if kind == "nobody listens":
        yield free_port()
    elif kind in ("says nothing", "hangs up"):
        with contextlib.closing(Silent(kind == "hangs up")) as s:
            yield s
    elif kind in ("not ready", "fails"):
        code = "starting" if kind == "not ready" else "hsm_unavailable"
        with contextlib.closing(Scripted(pki, lambda *_: (503, {"Retry-After": "1"}, code))) as s:
            yield s
    elif kind == "another CA's":
        other = Authority(os.path.join(server.dir, f"other-{time.monotonic_ns()}"))
        certificate = other.issue("server", "IP:127.0.0.1", eku="serverAuth")
        fake = type("Pki", (), {"server": certificate, "ca": other})
        with contextlib.closing(Scripted(fake, lambda *_: (200, {}, "x"))) as s:
            yield s
    else:
        with Proxy(server.port) as p:
            held = p.hold()

            def act():
                if held.caught.wait(2 * TIMEOUT):
                    getattr(held, kind)()
            threading.Thread(target=act, daemon=True).start()
            yield p


KINDS = ["nobody listens", "says nothing", "hangs up", "not ready", "fails", "another CA's", "drop",
         "cut_answer"]


# ---- reading and computing ----

@pytest.mark.parametrize("kind", KINDS)
def test_a_wrap_and_an_unwrap_succeed_while_one_endpoint_works(server, pki, kind):
    for order in ("first", "last"):
        with endpoint(kind, server, pki) as bad:
            endpoints = [bad, server] if order == "first" else [server, bad]
            blob, said, took = ask(server, endpoints, "wrap", "demo", stdin=b"data key")
            assert not said and took < TIMEOUT
            plain, said, took = ask(server, endpoints, "unwrap", "demo", stdin=blob)
            assert plain == b"data key" and not said and took < TIMEOUT
            shown, said, took = ask(server, endpoints, "key", "show", "demo", name="admin-1")
            assert b"demo" in shown and not said and took < TIMEOUT


@pytest.mark.parametrize("direction", [None, "up", "down"])
def test_a_connection_that_stalls_leaves_the_next_endpoint_its_share_of_the_time(
        server, proxy, direction):
    proxy.stall(direction)
    _, said, took = ask(server, [proxy, server], "wrap", "demo", stdin=b"x")
    assert not said and took < TIMEOUT


def test_an_answer_that_stalls_leaves_the_next_endpoint_its_share_of_the_time(server, proxy):
    held = proxy.hold()
    _, said, took = ask(server, [proxy, server], "wrap", "demo", stdin=b"x")
    assert held.caught.is_set() and not said
    assert TIMEOUT / 2 <= took < TIMEOUT


def test_of_three_endpoints_the_last_is_enough(server):
    with contextlib.closing(Silent()) as silent:
        _, said, took = ask(server, [silent, free_port(), server], "wrap", "demo", stdin=b"x")
        assert not said and took < TIMEOUT


def test_without_any_the_first_ones_failure_is_told_in_time(server):
    dead = free_port()
    with contextlib.closing(Silent()) as silent:
        _, said, took = ask(server, [dead, silent], "wrap", "demo", stdin=b"x",
                            status=UNAVAILABLE)
        assert url(dead) in said and "may have" not in said
        assert took < TIMEOUT + 1


def test_who_goes_away_in_the_handshake_is_away_and_no_other_kind_of_server(server):
    with contextlib.closing(Silent(closing=True)) as closing:
        _, said, _ = ask(server, [closing], "wrap", "demo", stdin=b"x", status=UNAVAILABLE)
        assert "closed the connection" in said and "may have" not in said


def test_a_long_run_loses_nothing_while_connections_are_cut_again_and_again(server, tmp_path):
    with server.http("app") as app:
        blobs = [app.wrap(b"%d" % n) for n in range(2000)]
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_text("".join(b64(b) + "\n" for b in blobs))
    with Proxy(server.port) as one, Proxy(server.port) as two, ThreadPoolExecutor() as pool:
        done = []

        def disturb():
            for proxy in itertools.cycle((one, two)):
                if done:
                    return
                proxy.cut()
                time.sleep(0.2)
                proxy.heal()
                time.sleep(0.2)  # each request finds one that stays

        trouble = pool.submit(disturb)
        try:
            with server.http("admin-1") as admin:
                admin.rotate()
            ask(server, [one, two], "rewrap", "demo", "--lines", "--in", str(source), "--out",
                str(target))
        finally:
            done.append(True)
        trouble.result()
    with server.http("app") as app:
        lines = target.read_text().split()
        for n in (0, 1000, 1999):
            reply = app.call("POST", "/v1/keys/demo/unwrap", {"ciphertext": lines[n]})
            assert reply.json["plaintext"] == b64(b"%d" % n) and reply.json["primary"]


# ---- changes ----

def test_a_change_goes_to_the_next_endpoint_when_nobody_took_it(server):
    with contextlib.closing(Silent()) as silent, contextlib.closing(Silent(True)) as closing:
        before = len(requests(server, "hsm.retry_pin"))
        for bad in (free_port(), silent, closing):
            ask(server, [bad, server], "hsm", "retry-pin", name="admin-1", status=None)
        assert len(requests(server, "hsm.retry_pin")) == before + 3


@pytest.mark.parametrize("what", ["drop", "cut_answer"])
def test_a_change_without_a_precondition_is_not_repeated_once_it_was_sent(server, proxy, what):
    before = len(requests(server, "hsm.retry_pin"))
    held = proxy.hold()
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(ask, server, [proxy, server], "hsm", "retry-pin", name="admin-1",
                            status=UNAVAILABLE)
        held.wait()
        getattr(held, what)()
        _, said, _ = asked.result()
    assert "may have done it" in said
    assert len(requests(server, "hsm.retry_pin")) == before + (what == "cut_answer")


def rotate_with(server, proxy, key, what):
    """A rotate whose request, behind the read, is held at the first endpoint."""
    with server.http("admin-1") as admin:
        admin.create_key(key)
    held = proxy.hold(2)
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(ask, server, [proxy, server], "key", "rotate", key, name="admin-1",
                            status=None)
        held.wait()
        getattr(held, what)()
        asked.result()
    with server.http("admin-1") as admin:
        return asked.result(), admin.key(key)


def test_a_conditional_change_that_never_arrived_is_made_at_the_next_endpoint(server, proxy):
    (shown, said, _), key = rotate_with(server, proxy, "lost-request", "drop")
    assert b"v2 is the primary version" in shown and not said
    assert key["primary"] == 2 and len(key["versions"]) == 2


def test_a_conditional_change_whose_answer_was_lost_is_made_once_and_that_is_said(server, proxy):
    (_, said, _), key = rotate_with(server, proxy, "lost-answer", "cut_answer")
    assert "first attempt was lost" in said and "may be this command that did it" in said
    assert key["primary"] == 2 and len(key["versions"]) == 2


# ---- redirections ----

def test_a_redirection_is_followed_with_body_method_and_precondition(server, scripted):
    standby = scripted(redirect(url(server.port)))
    ask(server, [standby], "key", "create", "by-redirect", name="admin-1")
    ask(server, [standby], "key", "rotate", "by-redirect", name="admin-1")
    with server.http("admin-1") as admin:
        assert admin.key("by-redirect")["primary"] == 2
    assert [m for m, *_ in standby.seen] == ["POST", "GET", "POST"]


def test_a_redirection_is_not_followed_to_anything_but_https(server, scripted):
    plain = Silent()
    standby = scripted(redirect(f"http://127.0.0.1:{plain.port}"))
    _, said, took = ask(server, [standby], "key", "create", "x", name="admin-1", status=FAILED)
    assert "not https" in said and took < TIMEOUT and not plain.kept
    plain.close()


def test_a_redirection_is_not_followed_to_whom_another_ca_vouches_for(server, scripted, pki):
    with endpoint("another CA's", server, pki) as foreign:
        standby = scripted(redirect(url(foreign.port)))
        _, said, _ = ask(server, [standby], "key", "create", "x", name="admin-1", status=FAILED)
        assert "certificate is not accepted" in said and url(foreign.port) in said
        assert not foreign.seen


def test_redirections_in_a_circle_end_after_three(server, scripted):
    standby = scripted(lambda s, request: (307, {"Location": url(s.port) + request.path},
                                           "not_active"))
    _, said, _ = ask(server, [standby], "key", "create", "x", name="admin-1", status=FAILED)
    assert "in a circle" in said
    assert len(standby.seen) == 4


def test_a_change_waits_for_the_next_active_node(server, scripted):
    def answer(s, request):
        if len(s.seen) < 3:
            return 503, {"Retry-After": "1"}, "no_active"
        return redirect(url(server.port))(s, request)

    standby = scripted(answer)
    _, said, took = ask(server, [standby], "key", "create", "after-a-while", name="admin-1")
    assert 2 <= took < TIMEOUT and not said
    gone = free_port()
    standby = scripted(lambda s, request: redirect(
        url(server.port if len(s.seen) > 2 else gone))(s, request))
    _, said, took = ask(server, [standby], "key", "create", "after-another", name="admin-1")
    assert 2 <= took < TIMEOUT and not said


def test_a_change_does_not_wait_for_ever_for_an_active_node(server, scripted):
    standby = scripted(lambda *_: (503, {"Retry-After": "1"}, "no_active"))
    _, said, took = ask(server, [standby], "key", "create", "never", name="admin-1",
                        status=UNAVAILABLE)
    assert "no_active" in said and took < TIMEOUT + 1


# ---- how endpoints are named ----

def run(server, *arguments, config, **environment):
    path = server.path("kekctl-named.yaml")
    with open(path, "w", encoding="utf-8") as f:
        f.write(yaml(config))
    return subprocess.run(
        [os.path.join(BUILD, "kekctl"), "--config", path, "--timeout", "5", *arguments],
        check=False, capture_output=True, timeout=PATIENCE, text=True,
        env={**os.environ, **environment})


def test_endpoints_are_named_by_option_environment_or_file_in_this_order(server):
    certificate = server.pki.clients["admin-1"]
    files = {"ca": server.pki.ca.pem, "certificate": certificate.pem, "key": certificate.key}
    good, bad = url(server.port), url(free_port())
    cases = [
        ([], {}, [bad, good], OK),
        ([], {"KEKCTL_ENDPOINTS": f"{bad},{good}"}, [bad], OK),
        ([], {"KEKCTL_ENDPOINTS": f"{bad}, {good},"}, [bad], OK),
        ([], {"KEKCTL_ENDPOINTS": ""}, [good], OK),
        ([], {"KEKCTL_ENDPOINTS": bad}, [good], UNAVAILABLE),
        (["--endpoint", f"{bad},{good}"], {}, [bad], OK),
        (["--endpoint", bad, "--endpoint", good], {"KEKCTL_ENDPOINTS": bad}, [bad], OK),
        (["--endpoint", bad], {"KEKCTL_ENDPOINTS": good}, [good], UNAVAILABLE),
        (["--endpoint", ",".join([good] * 17)], {}, [good], USAGE),
        (["--endpoint", good + ",http://127.0.0.1:1"], {}, [good], USAGE),
    ]
    for options, environment, endpoints, expected in cases:
        done = run(server, *options, "status", config={"endpoints": endpoints, **files},
                   **environment)
        assert done.returncode == expected, (options, environment, done.stderr)
