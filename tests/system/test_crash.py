# SPDX-License-Identifier: Apache-2.0
"""kill -9 at any moment: no wrong answer, nothing acknowledged lost, service back by itself."""

import contextlib
import http.client
import os
import random
import threading
import time

import pytest

from kekd import LONG, Unavailable, alive, b64, kill, unb64, wait_for
from test_audit import chain_holds


class Load:
    """Clients that wrap and unwrap, and remember what was acknowledged."""

    def __init__(self, server, clients=6):
        self.server = server
        self.blobs, self.wrong, self.refused = [], [], []
        self.answered = 0
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=self.use) for _ in range(clients)]

    def __enter__(self):
        for t in self.threads:
            t.start()
        return self

    def __exit__(self, *exc):
        self.stop.set()
        for t in self.threads:
            t.join()

    def use(self):
        while not self.stop.is_set():
            with contextlib.suppress(OSError, http.client.HTTPException, Unavailable):
                with self.server.http("app", timeout=15) as h:
                    while not self.stop.is_set():
                        self.once(h)
            time.sleep(0.01)

    def once(self, h):
        plain = os.urandom(32)
        reply = h.call("POST", "/v1/keys/demo/wrap", {"plaintext": b64(plain)})
        if self.refuses(reply):
            return
        blob = unb64(reply.json["ciphertext"])
        self.blobs.append((plain, blob))
        reply = h.try_unwrap(blob)
        if self.refuses(reply):
            return
        self.answered += 1
        if unb64(reply.json["plaintext"]) != plain:
            self.wrong.append(reply)

    def refuses(self, reply):
        """Anything but a good answer; "not now" is right, everything else is wrong."""
        if reply.status == 200:
            return False
        (self.refused if reply.status == 503 else self.wrong).append(reply)
        time.sleep(0.02)
        return True

    def goes_on(self):
        before = self.answered
        wait_for(lambda: self.answered > before + 20, "requests are answered again")


def all_workers_ready(server):
    with server.http("admin-1") as admin:
        wait_for(lambda: [w["state"] for t in admin.status()["tokens"] for w in t["workers"]]
                 == ["ready", "ready"], "both workers are ready")


def all_unwrap(server, blobs):
    with server.http("app") as h:
        for plain, blob in blobs[-3000:]:
            assert h.unwrap(blob) == plain


def acknowledged_is_recorded(server, blobs):
    assert server.audited_wraps() >= len(blobs)
    chain_holds(server.audit_lines())
    server.kekctl("audit", "verify", server.audit_dir)


@pytest.mark.parametrize("who", ["worker", "net"])
def test_a_child_killed_under_load_loses_nothing(own, who):
    with Load(own) as load:
        load.goes_on()
        for _ in range(3):
            old = own.workers()[0] if who == "worker" else own.net()
            kill(old)
            wait_for(lambda: not alive(old), "it is dead")
            load.goes_on()
        wait_for(lambda: len(own.workers()) == 2 and own.net(), "all are back")
    assert not load.wrong, load.wrong[:3]
    all_unwrap(own, load.blobs)
    acknowledged_is_recorded(own, load.blobs)


def test_while_one_worker_dies_the_other_serves_on(own):
    all_workers_ready(own)
    with Load(own) as load:
        load.goes_on()
        kill(own.workers()[0])
        load.goes_on()
    assert not load.wrong, load.wrong[:3]
    assert not load.refused, "what only computes is done again"


def test_all_workers_killed_at_once_come_back(own):
    with Load(own) as load:
        load.goes_on()
        for pid in own.workers():
            kill(pid)
        load.goes_on()
    assert not load.wrong, load.wrong[:3]
    all_unwrap(own, load.blobs)


def test_the_parent_killed_under_load_takes_all_along_and_the_next_start_serves(own):
    with Load(own) as load:
        load.goes_on()
        family = own.family()
        kill(own.process.pid)
        own.process.wait()
        own.process = None
        wait_for(lambda: not any(alive(p) for p in family), "the children have ended", 10)
        own.start()
        load.goes_on()
    assert not load.wrong, load.wrong[:3]
    all_unwrap(own, load.blobs)
    acknowledged_is_recorded(own, load.blobs)


def test_everything_killed_at_random_moments_of_rotating_and_wrapping(own):
    """Either the old or the new primary is there, and every blob ever handed out unwraps."""
    seed = int(os.environ.get("KEKD_TEST_SEED", time.time()))
    print(f"KEKD_TEST_SEED={seed}")
    moments = random.Random(seed)
    blobs, rotations = [], 0
    for _ in range(200 if LONG else 20):
        stop = threading.Event()
        acknowledged = [None]

        def rotate():
            with contextlib.suppress(OSError, http.client.HTTPException, Unavailable):
                with own.http("admin-1") as admin:
                    while not stop.is_set():
                        acknowledged[0] = admin.rotate()["primary"]

        def wrap():
            with contextlib.suppress(OSError, http.client.HTTPException, Unavailable):
                with own.http("app") as app:
                    while not stop.is_set():
                        plain = os.urandom(16)
                        blobs.append((plain, app.wrap(plain)))

        threads = [threading.Thread(target=f) for f in (rotate, wrap)]
        for t in threads:
            t.start()
        time.sleep(moments.uniform(0.02, 0.35))
        own.kill_all()
        stop.set()
        for t in threads:
            t.join()
        own.start()
        with own.http("admin-1") as admin, own.http("app") as app:
            key = admin.key()
            if acknowledged[0] is not None:
                rotations += 1
                assert key["primary"] in (acknowledged[0], acknowledged[0] + 1)
            states = [v["state"] for v in key["versions"]]
            assert states.count("staged") <= 1, states
            primary = key["versions"][key["primary"] - 1]
            assert primary["state"] == "enabled" and primary["proven"]
            for plain, blob in blobs[-200:]:
                assert app.unwrap(blob) == plain
            assert admin.status()["store"]["hold"] == "none"
    assert blobs and rotations
    all_unwrap(own, blobs)
    with own.http("admin-1") as admin:
        before = admin.key()
        assert admin.rotate()["primary"] > before["primary"]
    chain_holds_after_kills(own)


def chain_holds_after_kills(server):
    server.kekctl("audit", "verify", server.audit_dir)


def test_keys_created_while_everything_is_killed_are_there_or_can_be_made_again(own):
    moments = random.Random(7)
    for n in range(6):
        name = f"born{n}"

        def create():
            with contextlib.suppress(OSError, http.client.HTTPException, AssertionError):
                with own.http("admin-1") as admin:
                    admin.create_key(name)

        t = threading.Thread(target=create)
        t.start()
        time.sleep(moments.uniform(0, 0.05))
        own.kill_all()
        t.join()
        own.start()
        with own.http("admin-1") as admin, own.http("app") as app:
            reply = admin.call("POST", "/v1/keys", {"name": name}, create=True)
            assert reply.status in (201, 412), reply
            assert app.unwrap(app.wrap(b"x", name), name) == b"x"
            assert admin.status()["unknown_objects"] == []
