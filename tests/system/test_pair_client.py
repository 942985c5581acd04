# SPDX-License-Identifier: Apache-2.0
"""kekctl, and with it libkekdclient, on a pair, whichever node is asked and whichever goes."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from etcd import PRESENT
from kekd import b64
from pair import LEASE

pytestmark = pytest.mark.skipif(not PRESENT, reason="no etcd here")


@pytest.fixture(scope="module")
def pair(make_shared_pair):
    return make_shared_pair().start().all_ready()


@pytest.fixture(autouse=True)
def whole(pair):
    """Whoever a test stopped is back for the next one."""
    yield
    for node in pair.nodes:
        if node.process is None:
            node.start()
    pair.active()
    pair.all_ready()


def primary(pair, key="demo"):
    with pair.http("admin-1") as admin:
        return admin.key(key)["primary"]


def test_a_change_that_is_asked_of_the_standby_is_made_by_the_active(pair):
    _, standby = pair.roles()
    before = primary(pair)
    shown = standby.kekctl("key", "rotate", "demo").stdout.decode()
    assert f"v{before + 1} is the primary version now" in shown
    standby.kekctl("key", "create", "through-the-standby")
    pair.kekctl("key", "rotate", "through-the-standby", first=standby)
    assert primary(pair, "through-the-standby") == 2
    assert not [r for r in standby.audit_records(operation="key.rotate")
                if r.get("result") == "ok"]


@pytest.mark.parametrize("how", ["kill_all", "stop"])
def test_a_change_during_a_fail_over_is_made_by_the_next_active(pair, how):
    """The standby is the one that is asked: it names a node that is gone, and then nobody."""
    active, standby = pair.roles()
    before = primary(pair)
    getattr(active, how)()
    begin = time.monotonic()
    shown = pair.kekctl("client", "set", "app", "--in-flight", "100", first=standby)
    assert b"set" in shown.stdout
    assert time.monotonic() - begin < LEASE + 5
    assert standby.is_active() and primary(pair) == before


def test_a_change_waits_for_the_next_active_though_the_last_one_stands_still(pair):
    """It takes connections, and no more: the standby names it until its lease is over."""
    active, standby = pair.roles()
    active.suspend()
    try:
        shown = pair.kekctl("client", "set", "app", "--in-flight", "90", "--timeout", "20",
                            first=active)
        assert b"set" in shown.stdout and standby.is_active()
    finally:
        active.resume()


@pytest.mark.parametrize("how", ["kill_all", "stop"])
def test_a_long_rewrap_loses_nothing_while_the_active_goes(pair, how, tmp_path):
    with pair.http("app") as app:
        blobs = [app.wrap(b"%d" % n) for n in range(200)]
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_text("".join(b64(b) + "\n" for b in blobs))
    pair.kekctl("key", "rotate", "demo")
    active, _ = pair.roles()
    with ThreadPoolExecutor() as pool:
        ended = threading.Event()

        def wrap_all_the_while():
            done = 0
            while not ended.is_set():
                blob = pair.kekctl("wrap", "demo", name="app", stdin=b"x", first=active).stdout
                assert pair.kekctl("unwrap", "demo", name="app", stdin=blob,
                                   first=active).stdout == b"x"
                done += 1
            return done

        wrapping = pool.submit(wrap_all_the_while)
        time.sleep(0.2)
        rewrapping = pool.submit(pair.kekctl, "rewrap", "demo", "--lines", "--in", str(source),
                                 "--out", str(target), name="app", first=active)
        getattr(active, how)()
        rewrapping.result()
        pair.active()
        ended.set()
        assert wrapping.result() > 2
    with pair.http("app") as app:
        for n, line in enumerate(target.read_text().split()):
            reply = app.call("POST", "/v1/keys/demo/unwrap", {"ciphertext": line})
            assert reply.json["plaintext"] == b64(b"%d" % n) and reply.json["primary"]
