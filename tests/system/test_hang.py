# SPDX-License-Identifier: Apache-2.0
"""A token that is slow, stops or hangs: clear answers in time, and service back by itself."""

import ctypes
import os
import signal
import threading
import time

import pytest

from kekd import (FAULTY_MODULE, LOGGING_MODULE, LONG, Faults, alive, b64, kill, suspended, unb64,
                  wait_for)
from test_crash import Load, all_unwrap, all_workers_ready

DEADLINE, HANG = 1.0, 3.0
SETTINGS = {"deadline": "1s", "hang": "3s"}


class Steady(Load):
    """Notes every refusal's code and how long the client waited for it."""

    def __init__(self, server, clients=6):
        super().__init__(server, clients)
        self.codes = {}
        self.longest = 0.0

    def once(self, h):
        start = time.monotonic()
        super().once(h)
        self.longest = max(self.longest, time.monotonic() - start)

    def refuses(self, reply):
        if reply.status == 200:
            return False
        self.codes[reply.code] = self.codes.get(reply.code, 0) + 1
        return super().refuses(reply)


@pytest.fixture
def slow(make_server):
    """Two workers whose module can be made to wait, by name of the call or by a delay."""
    server = make_server(module=LOGGING_MODULE, hsm=SETTINGS)
    for name in ("HANG", "DELAY", "LOG"):
        server.environment[f"KEKD_TEST_{name}" + "_FILE" * (name != "LOG")] = server.path(name)
    server.init()
    return server.start().populate()


def say(server, name, text):
    with open(server.path(name + ".new"), "w", encoding="ascii") as f:
        f.write(text)
    os.rename(server.path(name + ".new"), server.path(name))


def token(server):
    with server.http("admin-1") as admin:
        return admin.status()["tokens"][0]


def worker(server, pid):
    """What kekd says of the worker with this process id; None: it is gone."""
    return next((w for w in token(server)["workers"] if w["pid"] == pid), None)


def calls(server, name):
    with open(server.path("LOG"), encoding="ascii") as f:
        return f.read().split().count(name)


def test_a_stopped_worker_misses_its_deadline_is_replaced_and_the_others_serve_on(make_server):
    server = make_server(hsm=SETTINGS).init().start().populate()
    all_workers_ready(server)
    victim = server.workers()[0]
    with Steady(server) as load:
        load.goes_on()
        with suspended(victim):
            wait_for(lambda: worker(server, victim)["state"] == "late", "it is past the deadline")
            before = load.answered
            load.goes_on()
            assert load.answered > before
            assert "has not answered" in worker(server, victim)["message"]
            assert server.health()[0] == 200, "the other one serves"
            wait_for(lambda: not alive(victim), "it is killed after hsm.hang")
        load.goes_on()
        wait_for(lambda: [w["state"] for w in token(server)["workers"]] == ["ready"] * 2,
                 "another one is in its place")
    assert not load.wrong, load.wrong[:3]
    # What it had in hand, no more; that may be a signature or a seal of the server's own.
    assert set(load.codes) <= {"hsm_timeout"}, load.codes
    assert load.codes.get("hsm_timeout", 0) <= 6
    killed, = [w for w in token(server)["workers"] if w["hang_kills"]]
    assert (killed["restarts"], killed["missed_deadlines"]) == (1, 1)
    assert "hangs: killed" in server.log()
    all_unwrap(server, load.blobs)


def test_a_worker_that_goes_on_before_it_counts_as_hung_takes_work_again(make_server):
    server = make_server(hsm={"deadline": "1s", "hang": "60s"}).init().start().populate()
    all_workers_ready(server)
    victim = server.workers()[0]
    with Steady(server) as load:
        load.goes_on()
        with suspended(victim):
            wait_for(lambda: worker(server, victim)["state"] == "late", "it is past the deadline")
            load.goes_on()
            done = worker(server, victim)["operations"]
        wait_for(lambda: worker(server, victim)["state"] == "ready", "it is itself again")
        wait_for(lambda: worker(server, victim)["operations"] > done + 20, "it takes work")
    assert not load.wrong, load.wrong[:3]
    assert set(load.codes) <= {"hsm_timeout"}, load.codes
    assert alive(victim) and worker(server, victim)["restarts"] == 0
    all_unwrap(server, load.blobs)


def test_with_all_workers_stopped_requests_get_clear_answers_and_service_returns(make_server):
    server = make_server(hsm=SETTINGS).init().start().populate()
    all_workers_ready(server)
    old = server.workers()
    with Steady(server) as load:
        load.goes_on()
        with suspended(*old):
            wait_for(lambda: not token(server)["ready"], "no worker is ready")
            status, body = server.health()
            assert status == 503
            assert "does not answer in time" in body["reasons"][0], body
            before = len(load.refused)
            wait_for(lambda: len(load.refused) > before + 20, "requests are refused at once")
            wait_for(lambda: not any(alive(p) for p in old), "both are killed")
        load.goes_on()
    server.wait_ready()
    all_workers_ready(server)
    assert not load.wrong, load.wrong[:3]
    assert set(load.codes) == {"hsm_timeout", "hsm_unavailable"}, load.codes
    all_unwrap(server, load.blobs)


def test_of_several_that_hang_one_is_replaced_after_the_other(slow):
    """A token that hangs as a whole must not get a storm of logins."""
    all_workers_ready(slow)
    old = slow.workers()
    with Steady(slow) as load:
        load.goes_on()
        say(slow, "HANG", "C_Encrypt C_Login")
        wait_for(lambda: not all(alive(p) for p in old), "one is killed")
        # Its successor hangs in its login: the other one stays until that has failed.
        logins = calls(slow, "C_Login")
        end = time.monotonic() + HANG / 2
        while time.monotonic() < end:
            assert sum(alive(p) for p in old) == 1
            time.sleep(0.05)
        say(slow, "HANG", "")
        load.goes_on()
    all_workers_ready(slow)
    assert not load.wrong, load.wrong[:3]
    assert calls(slow, "C_Login") <= logins + 2
    all_unwrap(slow, load.blobs)


@pytest.mark.parametrize("call", ["C_Initialize", "C_Login"])
def test_a_worker_that_hangs_while_it_opens_the_token_is_replaced_until_it_gets_through(slow, call):
    all_workers_ready(slow)
    victim = slow.workers()[0]
    say(slow, "HANG", call)
    kill(victim)
    # More often than a PIN may go without an answer that was never accepted.
    wait_for(lambda: slow.log().count("hangs: killed") >= 3, "it is killed again and again", 60)
    with slow.http("app") as app:
        assert app.unwrap(app.wrap(b"x")) == b"x", "the other one serves"
    say(slow, "HANG", "")
    all_workers_ready(slow)


def test_at_the_first_start_too(make_server):
    server = make_server(module=LOGGING_MODULE, hsm=SETTINGS).init()
    server.environment["KEKD_TEST_HANG_FILE"] = server.path("HANG")
    say(server, "HANG", "C_Initialize")
    server.start(ready=False)
    wait_for(lambda: "hangs: killed" in server.log(), "it is killed")
    assert server.health()[0] == 503
    say(server, "HANG", "")
    server.wait_ready()


def test_what_was_being_created_is_never_done_twice(slow):
    """Its outcome is unknown: the client hears so, and asks again if it wants to."""
    all_workers_ready(slow)
    before = calls(slow, "C_GenerateKey")
    say(slow, "HANG", "C_GenerateKey")
    with slow.http("admin-1") as admin:
        reply = admin.call("POST", "/v1/keys", {"name": "once"}, create=True)
        assert (reply.status, reply.code) == (503, "hsm_timeout"), reply
        wait_for(lambda: "hangs: killed" in slow.log(), "the worker is killed")
        say(slow, "HANG", "")
        all_workers_ready(slow)
        assert calls(slow, "C_GenerateKey") == before + 1
        assert admin.create_key("once").status == 201


def test_a_slow_token_is_not_a_hung_one(slow):
    """Half the deadline for each operation: late for no one, and nobody is killed."""
    all_workers_ready(slow)
    old = slow.workers()
    say(slow, "DELAY", "400000")
    end = time.monotonic() + 1.5 * HANG
    with slow.http("app") as app:
        while time.monotonic() < end:
            assert app.unwrap(app.wrap(b"slow")) == b"slow"
    say(slow, "DELAY", "0")
    assert slow.workers() == old
    assert sum(w["missed_deadlines"] for w in token(slow)["workers"]) == 0


def test_answers_that_come_late_reach_nobody_else(slow):
    """Each client compares what it gets with what it asked for, over many deadlines missed."""
    all_workers_ready(slow)
    with Steady(slow) as load:
        load.goes_on()
        for _ in range(3):
            say(slow, "DELAY", "1300000")
            wait_for(lambda n=len(load.refused): len(load.refused) > n + 3, "deadlines are missed")
            say(slow, "DELAY", "0")
            load.goes_on()
    assert not load.wrong, load.wrong[:3]
    assert "hsm_timeout" in load.codes
    assert "hangs" not in slow.log()
    all_unwrap(slow, load.blobs)


def test_what_waits_behind_a_slow_token_is_counted(slow):
    all_workers_ready(slow)
    say(slow, "DELAY", "300000")
    done = []

    def wrap():
        with slow.http("app") as app:
            reply = app.call("POST", "/v1/keys/demo/wrap", {"plaintext": b64(b"x")})
            done.append(reply.status == 503 or unb64(reply.json["ciphertext"]))

    threads = [threading.Thread(target=wrap) for _ in range(8)]
    for t in threads:
        t.start()
    try:
        wait_for(lambda: token(slow)["queued"] > 0, "something waits", every=0.005)
        wait_for(lambda: token(slow)["wait_us"] > 0 or len(done) == 8, "and for how long",
                 every=0.005)
    finally:
        say(slow, "DELAY", "0")
        for t in threads:
            t.join()
    assert len(done) == 8


def test_uses_of_session_copies_are_counted(make_server):
    server = make_server().init().start().populate()
    all_workers_ready(server)

    def hits():
        return sum(w["copy_hits"] for w in token(server)["workers"])

    before = hits()
    with server.http("app") as app:
        for _ in range(10):
            app.unwrap(app.wrap(b"x"))
    assert hits() >= before + 20


def test_a_worker_that_looks_through_a_slow_token_for_long_is_not_killed(make_server, tmp_path):
    """Many objects far away take their time; each second brings a sign of life."""
    faults = Faults(str(tmp_path))
    server = make_server(module=FAULTY_MODULE, environment=faults.environment, workers=1,
                         hsm=SETTINGS)
    server.init().start().populate()
    with server.http("admin-1") as admin:
        for n in range(12):
            admin.create_key(f"k{n}")
    faults.set("C_GetAttributeValue delay 500")
    start = time.monotonic()
    kill(server.workers()[0])
    wait_for(lambda: [w["state"] for w in token(server)["workers"]] == ["starting"],
             "it opens the token")
    wait_for(lambda: token(server)["ready"], "it is through", 60)
    assert time.monotonic() - start > HANG
    faults.set()
    assert "hangs" not in server.log()
    with server.http("app") as app:
        assert app.unwrap(app.wrap(b"x")) == b"x"


def small_sockets():
    """For the process that calls it: no more room in a socket than the system gives anybody."""
    drop_from_bounding_set, net_admin = 24, 12
    ctypes.CDLL(None).prctl(drop_from_bounding_set, net_admin, 0, 0, 0)


def fill(server):
    """So many messages that a new worker's socket has no room behind them."""
    full = "cannot be started: Resource temporarily unavailable"
    before = server.log().count(full)

    def is_full():
        for _ in range(1000):
            kill(server.process.pid, signal.SIGHUP)
            time.sleep(0.002)
        for pid in server.workers()[:1]:
            kill(pid)
        time.sleep(0.5)
        return server.log().count(full) > before

    wait_for(is_full, "kekd-net's socket is full", 120)


@pytest.mark.skipif(not LONG, reason="takes a minute")
@pytest.mark.parametrize("end", [False, True], ids=["it serves on", "it stops"])
def test_what_kekd_net_has_no_room_for_is_told_as_soon_as_it_has(make_server, end):
    """A stop and a new worker's socket are not lost when nobody has read for long."""
    server = make_server(hsm={"deadline": "1s", "hang": "5m"}).init()
    server.start(before=small_sockets).populate()
    all_workers_ready(server)
    net = server.net()
    with suspended(net):
        fill(server)
        if end:
            kill(server.process.pid, signal.SIGTERM)
            wait_for(lambda: "info: stopping" in server.log(), "the parent stops")
    if end:
        assert server.process.wait(60) == 0
        server.process = None
        assert "did not end in time" not in server.log()
        return
    all_workers_ready(server)
    server.wait_ready()
    assert server.net() == net
