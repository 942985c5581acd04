# SPDX-License-Identifier: Apache-2.0
"""Whoever holds, floods or abuses connections, the others go on being served."""

import contextlib
import json
import re
import resource
import socket
import threading
import time

import pytest

from kekd import LOGGING_MODULE, LONG, PATIENCE, b64, descriptors, proc_status, wait_for
from load import Load, answer, percentile, request, run, tls
from pki import spiffe

# What src/http/connections.c gives them, in seconds, and what a busy machine may add.
HANDSHAKE, HEADERS, SENDING, READING = 10, 10, 30, 30
CONNECTIONS = 4096
SLACK = 20


@pytest.fixture(scope="module", autouse=True)
def many_files():
    old = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(16384, old[1]), old[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, old)


@pytest.fixture
def holder():
    """Sockets that are closed after the test."""
    with contextlib.ExitStack() as stack:
        yield stack.enter_context


def plain(server, source="127.0.0.1"):
    return socket.create_connection(("127.0.0.1", server.port), PATIENCE, (source, 0))


def serves(server):
    with server.http("app") as h:
        assert h.unwrap(h.wrap(b"served")) == b"served"


def files(pid):
    return len(descriptors(pid))


def rss_kib(pid):
    return int(proc_status(pid)["VmRSS"].split()[0])


def ended(s):
    """Has the other side closed it?"""
    s.setblocking(False)
    try:
        while data := socket.socket.recv(s, 65536):
            assert data
        return True
    except (BlockingIOError, InterruptedError):
        return False
    except OSError:
        return True


def test_connections_opened_and_dropped_in_sequence_leave_nothing(own):
    net = own.net()
    serves(own)
    before = files(net)
    for n in range(100000 if LONG else 3000):
        plain(own).close()
        if n % 10 == 0:
            with tls(own, "app" if n % 20 else None):
                pass
    serves(own)
    wait_for(lambda: files(net) <= before + 2, "all files are closed")


def trickle(sockets, stop):
    """A byte to each, now and then; those that are ended are passed over."""
    while not stop.wait(0.5):
        for s in sockets:
            with contextlib.suppress(OSError):
                s.send(b"x")


def told_ended(server, reason):
    """How many connections the metrics say were ended for it."""
    text = server.kekctl("metrics", "kekd_connections_ended_total").stdout.decode()
    return int(re.search(rf'{{reason="{reason}"}} (\d+)', text)[1])


def test_who_is_slow_is_ended_after_a_bounded_time_and_hinders_nobody(own, holder):
    """No handshake; headers, or a body, a byte now and then; an answer that is not read."""
    before = files(own.net())
    silent = [holder(plain(own)) for _ in range(50)]
    loris = [holder(tls(own)) for _ in range(40)] + [holder(tls(own, "app")) for _ in range(10)]
    senders = [holder(tls(own, "app")) for _ in range(50)]
    readers = [holder(tls(own, "app")) for _ in range(3)]
    idle = holder(tls(own, "app"))
    for s in loris:
        s.sendall(b"GET /health/live HTTP/1.1\r\nX-Slow: ")
    for s in senders:
        s.sendall(b"POST /v1/keys/demo/wrap HTTP/1.1\r\nHost: x\r\n"
                  b"Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n{")
    for s in readers:
        many = json.dumps({"items": [{"bytes": 4096}] * 1000}).encode()
        s.sendall(request("/v1/keys/demo/generate", many))
    begin, stop = time.monotonic(), threading.Event()
    thread = threading.Thread(target=trickle, args=(loris + senders, stop))
    thread.start()
    try:
        wait_for(lambda: all(map(ended, silent)), "silence is ended", HANDSHAKE + SLACK)
        assert told_ended(own, "slow") >= len(silent)
        serves(own)
        stop.set()
        thread.join()  # a TLS socket has one user
        wait_for(lambda: all(map(ended, loris)), "slow headers are ended", HEADERS + SLACK)
        serves(own)
    finally:
        stop.set()
        thread.join()
    stop = threading.Event()
    thread = threading.Thread(target=trickle, args=(senders, stop))
    thread.start()
    net = own.net()
    try:
        with own.http("app") as h:
            def served_and_few():
                assert h.unwrap(h.wrap(b"x")) == b"x"
                return files(net) <= before + 4  # the idle one's, and one's own
            wait_for(served_and_few, "slow bodies and readers are ended",
                     SENDING + READING + SLACK, 0.1)
    finally:
        stop.set()
        thread.join()
    assert all(map(ended, senders)) and time.monotonic() - begin > HANDSHAKE - 1
    idle.sendall(request())  # nothing was promised but 120 s, and it did nothing wrong
    assert answer(idle)[0] == 200


def test_a_client_that_sends_no_more_still_gets_its_answer_or_an_end(server):
    for half in range(3):
        with tls(server, "app") as s:
            whole = request()
            s.sendall(whole if half == 0 else whole[:len(whole) - 10 * half])
            socket.socket.shutdown(s, socket.SHUT_WR)
            s.settimeout(PATIENCE)
            data = b""
            with contextlib.suppress(OSError):
                while chunk := s.recv(65536):
                    data += chunk
            assert data == b"" or (half == 0 and b" 200 " in data.split(b"\r\n")[0]), data
    serves(server)


def test_pipelined_requests_are_answered_in_order_and_right(server, app):
    plains = [b"%d" % n for n in range(200)]
    blobs = [app.wrap(p) for p in plains]
    with tls(server, "app") as s:
        bodies = [json.dumps({"ciphertext": b64(b)}).encode() for b in blobs]
        sender = threading.Thread(target=s.sendall, args=(
            b"".join(request("/v1/keys/demo/unwrap", b) for b in bodies),))
        sender.start()
        rest = b""
        sender.join()
        for p in plains:
            status, _, body, rest = answer(s, rest)
            assert status == 200 and json.loads(body)["plaintext"] == b64(p)


@pytest.mark.stress
def test_a_thousand_idle_connections_beside_a_busy_one(own, holder):
    idle = [holder(tls(own, "app")) for _ in range(1000)]
    for s in idle:
        s.sendall(request())
        assert answer(s)[0] == 200
    kinds = run(own, 10 if LONG else 3)
    assert set(kinds) == {200} and len(kinds[200]) > 100
    for s in idle[::50]:
        s.sendall(request())
        assert answer(s)[0] == 200


def test_strangers_that_hold_connections_lock_nobody_out(own, holder):
    """Clients come from the very address of the stranger, as behind one router."""
    client = holder(tls(own, "app"))
    client.sendall(request())
    assert answer(client)[0] == 200
    held = []
    for _ in range(2 * CONNECTIONS if LONG else CONNECTIONS // 4 + 300):
        held.append(holder(plain(own)))
    neighbours = [holder(plain(own, "127.0.0.2")) for _ in range(20)]
    serves(own)
    wait_for(lambda: sum(map(ended, held)) >= len(held) - CONNECTIONS // 4 - 50,
             "the stranger's oldest are ended")
    assert not any(map(ended, neighbours))
    gone = sum(map(ended, held))  # on a busy machine some were silent for too long besides
    assert told_ended(own, "crowded") + told_ended(own, "slow") >= gone - 5
    assert told_ended(own, "crowded") > 200
    client.sendall(request())
    assert answer(client)[0] == 200


def test_a_client_from_a_forbidden_address_has_a_strangers_share(own, holder):
    with own.http("admin-1") as admin:
        admin.put_client("far", ["uri:" + spiffe("other")],
                         [{"keys": "*", "operations": ["wrap"]}], addresses=["192.0.2.1"])
    held = []
    for _ in range(CONNECTIONS // 4 + 60):
        held.append(holder(tls(own, "other")))
        held[-1].sendall(request("/v1/keys/demo/wrap"))
        assert answer(held[-1])[0] == 403
    wait_for(lambda: told_ended(own, "crowded") >= 50, "its oldest are ended")
    serves(own)


@pytest.mark.skipif(not LONG, reason="4,096 TLS handshakes: --long")
def test_a_client_that_holds_all_connections_loses_its_longest_idle(own, holder):
    held = []
    for _ in range(CONNECTIONS + 100):
        held.append(holder(tls(own, "app")))
        held[-1].sendall(request())
        assert answer(held[-1])[0] == 200
    serves(own)
    assert ended(held[0]) and not ended(held[-1])


def test_files_and_memory_stay_flat(own):
    net = own.net()

    def load():
        done = own.kekctl("bench", "demo", "--duration", "20s" if LONG else "3s", "--warmup", "0s",
                          "--output", "json", name="app")
        figures = json.loads(done.stdout)["all"]
        assert figures["failed"] == figures["wrong"] == 0
        return figures["good"]

    load()
    wait_for(lambda: files(net) < 40, "the load's connections are closed")
    before_files, before = files(net), rss_kib(net)
    done, end = 0, time.monotonic() + (600 if LONG else 20)
    while done < (1000000 if LONG else 20000) and time.monotonic() < end:
        done += load()
    wait_for(lambda: files(net) <= before_files + 2, "all files are closed")
    assert rss_kib(net) < before + 8192, (before, rss_kib(net), done)


def test_without_files_for_more_connections_the_old_ones_serve_on_and_it_recovers(own, holder):
    net = own.net()
    client = holder(tls(own, "app"))
    client.sendall(request())
    assert answer(client)[0] == 200
    soft, hard = resource.prlimit(net, resource.RLIMIT_NOFILE)
    resource.prlimit(net, resource.RLIMIT_NOFILE, (files(net) + 10, hard))
    many = [holder(plain(own)) for _ in range(60)]
    for _ in range(20):
        client.sendall(request())
        assert answer(client)[0] == 200
    for s in many:
        s.close()

    def fresh():
        with contextlib.suppress(OSError):
            serves(own)
            return True
        return False
    wait_for(fresh, "new connections are taken again")
    resource.prlimit(net, resource.RLIMIT_NOFILE, (soft, hard))
    assert own.health()[0] == 200


def test_with_few_files_allowed_it_raises_the_limit_or_says_so(make_server):
    server = make_server().init()
    old = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, old[1]))
    server.start()
    resource.setrlimit(resource.RLIMIT_NOFILE, old)
    raised = resource.prlimit(server.net(), resource.RLIMIT_NOFILE)[0]
    assert raised >= min(CONNECTIONS + 256, old[1])
    assert ("LimitNOFILE" in server.log()) == (raised < CONNECTIONS + 256)


def test_a_body_too_large_that_is_sent_nevertheless_gets_its_answer(server):
    for size in (1, 3, 8):
        body = b"x" * (size * 1024 * 1024 + 1)
        with tls(server, "app") as s:
            s.sendall(request(body=body))
            status, _, problem, _ = answer(s)
            assert status == 413 and json.loads(problem)["code"] == "body_too_large"


def test_long_bodies_are_bounded_all_together_and_short_ones_served(own, holder):
    part = b'{"plaintext":"' + b"A" * 1000000
    senders = []
    for _ in range(80):
        s = holder(tls(own, "app"))
        s.sendall(b"POST /v1/keys/demo/wrap HTTP/1.1\r\nHost: x\r\n"
                  b"Content-Type: application/json\r\nContent-Length: 1000100\r\n\r\n" + part)
        senders.append(s)
    serves(own)
    kinds = {}
    for s in senders:
        with contextlib.suppress(OSError):
            s.sendall(b" " * (1000100 - len(part)))
            status, head, body, _ = answer(s)
            kinds.setdefault(status, []).append(json.loads(body)["code"])
            assert status != 503 or b"Retry-After: " in head
    assert set(kinds.get(503, [])) == {"overloaded"}, {k: len(v) for k, v in kinds.items()}
    assert len(kinds[503]) >= 80 - 67
    serves(own)


def test_bodies_that_nobody_asked_for_take_no_place_of_others(own, holder):
    """Health is asked without a certificate."""
    part = b"x" * 1000000
    for n in range(80):
        s = holder(tls(own, "app" if n % 8 == 0 else None))
        path = b"/v1/whoami" if n % 8 == 0 else b"/health/live"
        s.sendall(b"GET %s HTTP/1.1\r\nHost: x\r\nContent-Length: 1000100\r\n\r\n" % path + part)
    with own.http("app") as app:
        items = [{"plaintext": b64(bytes(300))} for _ in range(100)]
        for _ in range(3):
            assert app.call("POST", "/v1/keys/demo/wrap", {"items": items}).status == 200


def bench(server, connections, *more):
    done = server.kekctl("bench", "demo", "--mix", "wrap=1", "--connections", str(connections),
                         "--duration", "20s" if LONG else "4s", "--warmup", "1s",
                         "--output", "json", *more, name="app", status=None)
    figures = json.loads(done.stdout)
    assert figures["all"]["failed"] == figures["all"]["wrong"] == 0
    return figures


@pytest.mark.stress
def test_ten_times_what_a_slow_token_can_do_leaves_the_accepted_their_time(make_server):
    """Quiet: as many connections as keep the token busy, and none is refused. Then as many as ask
    for ten times of what it does; whoever is refused asks again at once."""
    server = make_server(module=LOGGING_MODULE, workers=1,
                         environment={"KEKD_TEST_DELAY_US": "1000"}).init().start().populate()
    net, tried = server.net(), []
    bench(server, 64)
    memory = rss_kib(net)
    for _ in range(4):  # the machine is not ours alone: what kekd does shows in each round
        time.sleep(10)  # so long it keeps the queue short after an overload
        quiet, loud = bench(server, 10)["all"], bench(server, 64)["all"]
        offered = (loud["good"] + loud["refused"]) / (quiet["good"] + quiet["refused"])
        ratio = loud["latency_ms"]["p99"] / quiet["latency_ms"]["p99"]
        kept = loud["good"] / quiet["good"]
        assert quiet["refused"] < quiet["good"] / 10
        tried.append((offered, ratio, kept))
        if offered >= 9 and ratio <= 2:
            break
    else:
        raise AssertionError(f"(offered, p99 to quiet p99, good to quiet good): {tried}")
    assert rss_kib(net) < memory + 8192, (memory, rss_kib(net))
    kinds = run(server, 2, connections=64)  # asserts that each refusal has its Retry-After
    assert set(kinds) == {200, 503}


@pytest.mark.stress
def test_a_batch_of_a_thousand_is_done_by_a_slow_token_beside_single_requests(make_server):
    server = make_server(module=LOGGING_MODULE, workers=2,
                         environment={"KEKD_TEST_DELAY_US": "1000"}).init().start().populate()
    items = {"items": [{"plaintext": "eA=="}] * 1000}
    with Load(server, connections=4) as load, server.http("app") as h:
        for _ in range(3):
            reply = h.ok("POST", "/v1/keys/demo/wrap", items)
            assert not any("error" in i for i in reply.json["items"])
        kinds = load.stop()
    assert len(kinds[200]) > 100 and percentile(kinds[200], 0.5) < 0.25
