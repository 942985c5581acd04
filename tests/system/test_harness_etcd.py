# SPDX-License-Identifier: Apache-2.0
"""What the tests of the pair stand on: an etcd that starts in every form and leaves nothing, and a
proxy that does what it is told and nothing else."""

import http.client
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from etcd import PRESENT, Etcd, EtcdError
from kekd import alive, b64, free_port
from pair import Everywhere
from proxy import Proxy

pytestmark = pytest.mark.skipif(not PRESENT, reason="no etcd here")


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("form", [{}, {"tls": True}, {"auth": True},
                                  {"tls": True, "client_certificates": True, "auth": True}],
                         ids=["plain", "tls", "users", "everything"])
def test_etcd_starts_in_every_form_and_leaves_nothing(pki, members, form):
    etcd = Etcd(pki, members=members, **form)
    with etcd.start():
        revision = etcd.put("keys/demo", "x")
        assert etcd.get("keys/demo") == b"x"
        assert etcd.entry("keys/demo")["mod_revision"] == revision
        assert list(etcd.all()) == ["keys/demo"]
        assert etcd.leader() in etcd.members
        assert etcd.delete("keys/demo") == 1 and etcd.get("keys/demo") is None
        processes = [m.process.pid for m in etcd.members]
    assert not any(alive(p) for p in processes)
    assert not os.path.exists(etcd.dir)


def test_a_nodes_user_touches_its_own_cluster_alone(pki):
    with Etcd(pki, auth=True).start() as etcd:
        name, password_file = etcd.add_user("node-1")
        with open(password_file, encoding="utf-8") as f:
            password = f.read().strip()
        member = etcd.members[0]
        token = member.call("auth/authenticate", {"name": name, "password": password})["token"]
        etcd.put("/kekd/other/cluster", "x")

        def put(key):
            return member.call("kv/put", {"key": b64(key), "value": b64("x")}, token)

        put("/kekd/test/keys/demo")
        with pytest.raises(EtcdError, match="permission denied"):
            put("/kekd/other/cluster")
        with pytest.raises(EtcdError):
            member.call("kv/put", {"key": "eA==", "value": "eA=="})


def test_members_stop_die_and_are_suspended_one_by_one(pki):
    with Etcd(pki, members=3).start() as etcd:
        etcd.put("k", "1")
        etcd.leader().kill()
        etcd.wait_healthy()
        assert etcd.get("k") == b"1"
        next(m for m in etcd.members if m.running()).suspend()
        with pytest.raises((OSError, EtcdError, http.client.HTTPException)):
            etcd.call("kv/range", {"key": "eA=="}, timeout=1)
        etcd.resume()
        etcd.wait_healthy()
        etcd.start()
        assert etcd.put("k", "2") > 0
        etcd.stop()
        etcd.start()
        assert etcd.get("k") == b"2"


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("auth", [False, True], ids=["plain", "users"])
def test_a_snapshot_is_restored_as_another_etcd_or_as_the_same(pki, members, auth):
    with Etcd(pki, members=members, auth=auth).start() as etcd:
        etcd.put("k", "old")
        snapshot = etcd.snapshot()
        etcd.put("k", "new")
        first = etcd.cluster_id()
        etcd.restore(snapshot, same_id=True)
        assert etcd.get("k") == b"old" and etcd.cluster_id() == first
        etcd.restore(snapshot)
        assert etcd.get("k") == b"old" and etcd.cluster_id() != first


def test_a_compacted_history_is_gone_and_what_is_there_stays(pki):
    with Etcd(pki).start() as etcd:
        first = etcd.put("k", "1")
        etcd.put("k", "2")
        etcd.compact()
        with pytest.raises(EtcdError, match="compacted"):
            etcd.range(etcd.full("k"), revision=str(first))
        assert etcd.get("k") == b"2"
        etcd.lose()
        etcd.start()
        assert etcd.get("k") is None


# ---- the proxy ----

class Echo:
    """A server that gives back what it gets, and keeps it."""

    def __init__(self):
        self.socket = socket.create_server(("127.0.0.1", free_port()))
        self.port = self.socket.getsockname()[1]
        self.got = []
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            try:
                s, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(s,), daemon=True).start()

    def serve(self, s):
        with s:
            try:
                while data := s.recv(65536):
                    self.got.append(data)
                    s.sendall(data)
            except OSError:
                pass


@pytest.fixture
def echo():
    server = Echo()
    yield server
    server.socket.close()


@pytest.fixture
def proxy(echo):
    with Proxy(echo.port) as p:
        yield p


def connect(proxy, timeout=0.5):
    return socket.create_connection(("127.0.0.1", proxy.port), timeout)


def say(s, data):
    s.sendall(data)
    return s.recv(65536)


def test_the_proxy_hands_on_cuts_refuses_and_heals(proxy):
    with connect(proxy) as s:
        assert say(s, b"one") == b"one"
        proxy.refuse()
        assert say(s, b"two") == b"two"
        with pytest.raises(ConnectionRefusedError):
            connect(proxy)
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            say(s, b"three")
    proxy.heal()
    with connect(proxy) as s:
        assert say(s, b"four") == b"four"
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            say(s, b"five")
    with connect(proxy) as s:
        assert say(s, b"six") == b"six"


@pytest.mark.parametrize("direction", [None, "up", "down"])
def test_the_proxy_stalls_both_directions_or_one(proxy, echo, direction):
    with connect(proxy) as s:
        assert say(s, b"one") == b"one"
        proxy.stall(direction)
        with pytest.raises(TimeoutError):
            say(s, b"two")
        assert (b"two" in echo.got) == (direction == "down")
        proxy.heal()
        assert s.recv(100) == b"two"


def test_the_proxy_delays_each_answer(proxy):
    with connect(proxy, timeout=5) as s:
        proxy.delay(0.3)
        begin = time.monotonic()
        assert say(s, b"one") == b"one"
        assert say(s, b"two") == b"two"
        assert 0.6 <= time.monotonic() - begin < 2


def test_the_proxy_holds_the_request_that_is_meant_and_no_other(proxy, echo):
    held = proxy.hold(2, match=b"txn")
    with connect(proxy) as s, connect(proxy) as other:
        assert say(s, b"txn 1") == b"txn 1"
        with pytest.raises(TimeoutError):
            say(s, b"txn 2")
        assert held.wait() == b"txn 2" and b"txn 2" not in echo.got
        assert say(other, b"txn 3") == b"txn 3"
        held.release()
        assert s.recv(100) == b"txn 2"
        assert say(s, b"txn 4") == b"txn 4"


def test_the_proxy_drops_a_held_request_or_its_answer(proxy, echo):
    for what, arrives in (("drop", False), ("cut_answer", True)):
        held = proxy.hold(match=b"txn")
        with connect(proxy) as s:
            s.sendall(b"txn " + what.encode())
            held.wait()
            getattr(held, what)()
            with pytest.raises(ConnectionResetError):
                s.recv(100)
        assert (b"txn " + what.encode() in echo.got) == arrives


# ---- the client with several endpoints ----

def test_a_client_of_the_harness_asks_the_next_endpoint_and_repeats_no_change(make_server):
    server = make_server().init().start().populate()
    with Proxy(server.port) as front:
        class There:
            pki, port = server.pki, front.port

        with Everywhere([There, server], server.pki.clients["admin-1"]) as admin:
            assert admin.status()["node"] == "node-1" and admin.asked == [front.port]
            held = front.hold()
            with ThreadPoolExecutor() as pool:
                lost = pool.submit(admin.ok, "GET", "/v1/keys/demo")
                held.wait()
                held.drop()
                assert lost.result().status == 200 and admin.asked == [front.port, server.port]
            admin.current = 0
            held = front.hold()
            with ThreadPoolExecutor() as pool:
                lost = pool.submit(admin.call, "POST", "/v1/hsm/retry-pin", {})
                held.wait()
                held.drop()
                with pytest.raises((OSError, http.client.HTTPException)):
                    lost.result()
            front.cut()
            assert admin.call("POST", "/v1/hsm/retry-pin", {}).status != 503
            assert admin.asked == [server.port]
