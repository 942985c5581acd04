# SPDX-License-Identifier: Apache-2.0
"""kekd-kms and the key_id: it moves on with the key's record, at each node and API server alike,
comes never a second time, and everything that was ever encrypted stays readable."""

import os
import random
import shutil
import threading
import time

import pytest

from disk import fill, limited
from etcd import PRESENT
from kekd import LONG, wait_for
from kms import Beside, Code, Failed, Load, activation

CALLS, TURNS = (40000, 60) if LONG else (10000, 12)
SOON = 8


@pytest.fixture
def key(request):
    """A key of the test's own."""
    return "k8s-" + "".join(c if c.isalnum() else "-" for c in request.node.name)[-50:].strip("-")


@pytest.fixture
def plugin(server, make_plugin, key):
    return make_plugin(server, key=key).start()


def rotate(server, key):
    with server.http("admin-1") as admin:
        return admin.rotate(key)["kms_key_id"]


def back_to(server, key, version):
    """That version is primary again."""
    with server.http("admin-1") as admin:
        return admin.change(key, f"versions/{version}/primary").json["kms_key_id"]


def announces(plugin, key_id):
    with plugin.stub(kept=False) as stub:
        wait_for(lambda: stub.key_id() == key_id, f"Status announces {key_id}", SOON, 0.02)


def announces_soon(plugin, key_id):
    """The same, where it may be an error until then."""
    with plugin.stub(kept=False) as stub:
        wait_for(lambda: stub.healthy() and stub.key_id() == key_id, "Status recovers", SOON)


def never_again(seen):
    """Each key_id follows the others and is never seen again; how many."""
    runs = [k for n, k in enumerate(seen) if n == 0 or seen[n - 1] != k]
    assert len(runs) == len(set(runs)), runs
    numbers = [activation(k) for k in runs]
    assert numbers == sorted(numbers)
    return len(runs)


# ---- it moves on ----

def test_status_moves_on_with_a_rotation_and_old_seeds_open(server, plugin):
    api = plugin.stub()
    old = api.encrypt()
    new_id = rotate(server, plugin.key)
    announces(plugin, new_id)
    new = api.encrypt()
    assert new.key_id == new_id != old.key_id
    assert new.version_id == new_id.partition(".")[0]
    assert api.opens(old) and api.opens(new)


def test_a_version_made_primary_again_has_a_new_key_id(server, plugin):
    api = plugin.stub()
    first = api.encrypt()
    announces(plugin, rotate(server, plugin.key))
    second = api.encrypt()
    again = back_to(server, plugin.key, 1)
    announces(plugin, again)
    third = api.encrypt()
    assert third.version_id == first.version_id and third.key_id != first.key_id
    assert activation(third.key_id) == 3
    assert all(api.opens(s) for s in (first, second, third))


def test_encrypt_stays_with_what_status_announced_until_status_moves(server, make_plugin, key):
    """An API server throws away an answer under another key_id than Status' last."""
    plugin = make_plugin(server, key=key, probe="60s").start()
    api = plugin.stub()
    announced = api.key_id()
    new_id = rotate(server, key)
    for _ in range(20):
        sealed = api.encrypt()
        assert sealed.key_id == api.key_id()
        assert sealed.version_id == sealed.key_id.partition(".")[0]
        assert sealed.key_id in (announced, new_id)
    plugin.restart()
    api = plugin.stub()
    assert api.key_id() == new_id == api.encrypt().key_id


def test_two_rotations_between_two_probes_are_noticed_by_the_next_encrypt(
        server, make_plugin, key):
    """Then what was announced wraps no more, and there is no waiting for the probe's time."""
    plugin = make_plugin(server, key=key, probe="60s").start()
    api = plugin.stub()
    old = api.encrypt()
    rotate(server, key)
    newest = rotate(server, key)
    api.refuses((Code.FAILED_PRECONDITION, Code.UNAVAILABLE), "encrypt")
    announces(plugin, newest)
    assert api.encrypt().key_id == newest and api.opens(old)


def test_two_plugins_agree_on_the_key_id(server, make_plugin, key):
    plugins = [make_plugin(server, key=key).start() for _ in range(3)]
    for n in range(3):
        new_id = rotate(server, key) if n != 1 else back_to(server, key, 1)
        for plugin in plugins:
            announces(plugin, new_id)


def test_a_disabled_versions_seeds_are_refused_and_enabled_they_open(server, plugin):
    api = plugin.stub()
    old = api.encrypt()
    announces(plugin, rotate(server, plugin.key))
    with server.http("admin-1") as admin:
        admin.change(plugin.key, "versions/1/disable")
        text = api.refuses(Code.FAILED_PRECONDITION, "decrypt", old)
        assert "disabled" in text
        assert api.opens(api.encrypt())
        admin.change(plugin.key, "versions/1/enable")
    assert api.opens(old)


# ---- ten thousand calls ----

class ApiServer:
    """The one that calls Status, and others that only encrypt and decrypt."""

    def __init__(self, plugin):
        self.plugin = plugin
        self.announced = []
        self.seals = [plugin.stub().encrypt()]
        self.calls = 0
        self.lock = threading.Lock()

    def count(self):
        with self.lock:
            self.calls += 1

    def status_and_encrypt(self, stub):
        """Whoever asks Status alone knows exactly what Encrypt must be under."""
        self.announced.append(stub.key_id())
        self.count()
        for _ in range(random.randrange(3)):
            sealed = stub.encrypt()
            assert sealed.key_id == self.announced[-1]
            assert sealed.version_id == sealed.key_id.partition(".")[0]
            self.seals.append(sealed)
            self.count()

    def encrypt(self, stub):
        before = self.announced[-1]
        sealed = stub.encrypt()
        assert activation(sealed.key_id) >= activation(before)
        self.seals.append(sealed)
        self.count()

    def decrypt(self, stub):
        stub.opens(random.choice(self.seals))
        self.count()

    def loops(self):
        works = [self.status_and_encrypt, self.encrypt] + 3 * [self.decrypt]
        return [Beside(lambda w=w, s=self.plugin.stub(): w(s)) for w in works]


def test_ten_thousand_calls_during_rotations_and_rollbacks(server, make_plugin, key):
    plugin = make_plugin(server, key=key, probe="500ms").start()
    api = ApiServer(plugin)
    api.announced.append(plugin.stub().key_id())
    loops = api.loops()
    for loop in loops:
        loop.__enter__()
    turns = 0
    while (api.calls < CALLS or turns < TURNS) and not any(loop.errors for loop in loops):
        turns += 1
        new_id = rotate(server, key) if turns % 3 else back_to(server, key, 1)
        wait_for(lambda n=new_id: api.seals[-1].key_id == n or any(p.errors for p in loops),
                 "a seed is under the new key_id", SOON)
        time.sleep(0.2)
    for loop in loops:
        loop.__exit__(None)
    assert api.calls >= CALLS
    assert never_again(api.announced) == turns + 1
    stub = plugin.stub()
    for sealed in random.sample(api.seals, min(len(api.seals), 500)):
        assert stub.opens(sealed)
    by_id = {s.key_id: s for s in api.seals}
    assert all(stub.opens(s) for s in by_id.values())
    assert set(by_id) == set(api.announced) and len(by_id) == turns + 1
    # What was wrapped under the version that came back is told apart from what was before it.
    assert len({s.version_id for s in api.seals}) == turns + 1 - turns // 3


# ---- a key_id that is news to it ----

def test_a_new_key_id_is_looked_up_where_the_plugin_lags(server, make_plugin, key):
    lagging = make_plugin(server, key=key, probe="60s").start()
    ahead = make_plugin(server, key=key).start()
    announces(ahead, rotate(server, key))
    sealed = ahead.stub().encrypt()
    before = lagging.metric("kekd_kms_key_lookups_total")
    api = lagging.stub()
    assert api.opens(sealed)
    assert lagging.metric("kekd_kms_key_lookups_total") == before + 1
    assert api.opens(sealed)
    assert lagging.metric("kekd_kms_key_lookups_total") == before + 1, "it is known by now"


@pytest.mark.skipif(not PRESENT, reason="no etcd here")
def test_rotations_of_a_pair_fail_no_call_and_status_is_never_an_error(make_pair, make_plugin):
    """The standby hears of each a moment later than the active."""
    pair = make_pair().start().all_ready()
    plugins = [make_plugin(pair, probe="500ms"),
               make_plugin(pair, probe="500ms", endpoints=pair.endpoints[::-1])]
    announced = [plugin.start().stub().key_id() for plugin in plugins][:1]
    with Load(plugins[0]) as first, Load(plugins[1]) as second, \
            Beside(plugins[0].stub().key_id, 0.01) as one, \
            Beside(plugins[1].stub().key_id, 0.01) as other:
        for turn in range(6):
            announced.append(back_to(pair, plugins[0].key, 1) if turn % 3 == 2 else
                             rotate(pair, plugins[0].key))
            for plugin in plugins:
                announces(plugin, announced[-1])
    for seen in (one.results, other.results):
        assert never_again(seen) == len(announced) and set(seen) == set(announced)
    stub = plugins[1].stub()
    assert all(stub.opens(s) for s in random.sample(first.seals + second.seals, 50))


# ---- never back ----

def restore(server, copy):
    """The whole server as it was: metadata and audit log, which so agree."""
    for name in ("state", "audit"):
        shutil.rmtree(server.path(name))
        shutil.copytree(os.path.join(copy, name), server.path(name), symlinks=True)


def refuses_for_one_reason(stub):
    """Encrypt says what Status says: nobody learns from it that a key_id is gone."""
    told = stub.refuses(Code.UNAVAILABLE, "encrypt")
    reason = told.removeprefix("Encrypt: ")
    assert "was announced already: " in reason
    assert reason in stub.refuses(Code.UNAVAILABLE, "status")


def test_an_old_store_put_back_counts_as_away_and_the_key_id_stays(own, make_plugin, tmp_path):
    plugin = make_plugin(own).start()
    api = plugin.stub()
    own.stop()
    for name in ("state", "audit"):
        shutil.copytree(own.path(name), tmp_path / name, symlinks=True)
    own.start()
    plugin.wait_ready()
    first = api.key_id()
    new_id = rotate(own, plugin.key)
    announces(plugin, new_id)
    own.stop()
    restore(own, tmp_path)
    own.start()
    assert plugin.wait_sick()
    for _ in range(3):
        assert not api.healthy()
        time.sleep(0.5)
    plugin.restart(ready=False)
    stub = plugin.stub()
    end = time.monotonic() + 4
    while time.monotonic() < end:
        assert not stub.healthy(), "a restart does not flip back"
        time.sleep(0.1)
    refuses_for_one_reason(stub)
    assert str(activation(new_id)) in plugin.log()
    # The same number of another version is not what was announced either.
    other_id = rotate(own, plugin.key)
    assert activation(other_id) == activation(new_id) and other_id != new_id
    end = time.monotonic() + 5
    while time.monotonic() < end:
        assert not stub.healthy(), "its key_id was announced for another version"
        time.sleep(0.1)
    refuses_for_one_reason(stub)
    # What is active then is above all that was announced.
    newest = rotate(own, plugin.key)
    announces_soon(plugin, newest)
    assert newest not in (first, new_id) and plugin.stub().encrypt().key_id == newest


def test_another_version_of_the_activation_that_was_announced_counts_as_away(
        own, server, make_plugin):
    """As where a key was made anew, or an old store was put back and the key rotated since."""
    plugin = make_plugin(server).start()
    first = plugin.stub().key_id()
    plugin.stop()
    anew = make_plugin(own, name=plugin.name, state_dir=plugin.path("state"))
    with own.http("admin-1") as admin:
        assert activation(admin.key(anew.key)["kms_key_id"]) == activation(first)
    anew.start(ready=False)
    assert f"and {first} was announced already" in anew.wait_sick(about="made anew")
    for _ in range(3):
        assert not anew.stub().healthy()
        time.sleep(0.5)
    assert f"and {first} was announced" in " ".join(anew.run("doctor")[1].split())
    with own.http("admin-1") as admin:
        admin.rotate(anew.key)
    anew.wait_ready()
    api = anew.stub()
    assert activation(api.key_id()) > activation(first) and api.opens(api.encrypt())


@pytest.fixture
def lagging(own, make_server):
    """(a node, and one that has the same token and was left behind with older metadata)."""
    with own.http("admin-1") as admin:
        admin.create_key("kubernetes")
    other = make_server()
    own.stop()
    for name in ("state", "audit", "tokens"):
        shutil.rmtree(other.path(name))
        shutil.copytree(own.path(name), other.path(name), symlinks=True)
    return own.start(), other.start()


@pytest.mark.parametrize("first", ["behind", "ahead"])
def test_a_node_that_lags_counts_as_away(lagging, make_plugin, first):
    ahead, behind = lagging
    urls = [f"https://127.0.0.1:{s.port}" for s in (ahead, behind)]
    plugin = make_plugin(ahead, endpoints=urls[::-1] if first == "behind" else urls)
    with ahead.http("admin-1") as admin, behind.http("admin-1") as other:
        record = admin.ok("GET", f"/v1/clients/{plugin.name}").json
        other.put_client(plugin.name, record["identities"], record["grants"])
    plugin.start()
    api = plugin.stub()
    old = api.encrypt()
    new_id = rotate(ahead, plugin.key)
    announces(plugin, new_id)
    with Beside(api.key_id, 0.01) as beside:
        for _ in range(50):
            sealed = api.encrypt()
            assert sealed.key_id == new_id and api.opens(sealed) and api.opens(old)
        time.sleep(2)
    assert set(beside.results) == {new_id}
    assert plugin.metric("kekd_kms_endpoint_state", endpoint=urls[1], state="behind") == 1
    # The lagging one alone: nothing is announced, and after a restart neither.
    ahead.stop()
    plugin.wait_sick()
    plugin.restart(ready=False)
    stub = plugin.stub()
    end = time.monotonic() + 4
    while time.monotonic() < end:
        assert not stub.healthy(), "its record is older than what was announced"
        time.sleep(0.1)
    refuses_for_one_reason(stub)
    assert stub.opens(old), "what it knows it unwraps"
    ahead.start()
    plugin.wait_ready()
    assert plugin.stub().key_id() == new_id


def test_a_restart_announces_what_was_announced_last_without_kekd_saying_less(server, plugin):
    ids = []
    for _ in range(3):
        ids.append(plugin.stub().key_id())
        plugin.restart()
        ids.append(plugin.stub().key_id())
        plugin.kill()
        plugin.start()
        new_id = rotate(server, plugin.key)
        announces(plugin, new_id)
    assert never_again(ids) == 3


def state_files(plugin):
    return [os.path.join(plugin.path("state"), n) for n in os.listdir(plugin.path("state"))]


@pytest.mark.parametrize("damage", ["empty", "cut", "junk", "long", "flipped"])
def test_a_damaged_state_file_is_told_and_nothing_is_announced(plugin, damage):
    assert plugin.stub().key_id()
    assert plugin.stop() == 0
    path = state_files(plugin)[0]
    with open(path, "rb") as f:
        content = f.read()
    with open(path, "wb") as f:
        f.write({"empty": b"", "cut": content[:len(content) // 2], "junk": os.urandom(64),
                 "long": content + b"\0" * (1 << 20),
                 "flipped": bytes([content[0] ^ 0x80]) + content[1:]}[damage])
    status, said = plugin.run()
    assert status not in (0, None) and status > 0 and path in said, said


def test_a_key_id_that_cannot_be_kept_is_not_announced(server, plugin):
    """After a restart nobody would know of it."""
    api = plugin.stub()
    old = api.key_id()
    in_the_way = state_files(plugin)[0] + ".new"
    os.mkdir(in_the_way)
    new_id = rotate(server, plugin.key)

    def announced():
        try:
            return api.key_id()
        except Failed:
            return old

    with Beside(announced, 0.01) as beside:
        plugin.wait_sick(SOON, about="cannot write")
        time.sleep(2)
        os.rmdir(in_the_way)
        announces_soon(plugin, new_id)
        wait_for(lambda: beside.results[-1] == new_id or beside.errors, "this one sees it, too")
    assert never_again([k for k in beside.results if k != old]) == 1


def test_a_full_disk_keeps_what_was_announced_and_is_told(server, make_plugin, key, root):
    plugin = make_plugin(server, key=key)
    with limited(plugin.path("state"), "64k"):
        plugin.start()
        old = plugin.stub().key_id()
        path, = state_files(plugin)
        with open(path, "rb") as f:
            kept = f.read()
        ballast = fill(plugin.path("state"))
        new = rotate(server, key)
        text = plugin.wait_sick(SOON, about="cannot write")
        assert f"{path}: No space left on device: make room" in text
        with open(path, "rb") as f:
            assert f.read() == kept and old.encode() in kept
        assert sorted(state_files(plugin)) == sorted([path, ballast]), "nothing is left behind"
        plugin.restart(ready=False)
        plugin.wait_sick(SOON, about="No space left on device")
        os.unlink(ballast)
        announces_soon(plugin, new)
        plugin.stop()


def test_a_state_file_that_is_missing_is_made(plugin):
    """The first start; and what an administrator does about a damaged one."""
    key_id = plugin.stub().key_id()
    plugin.stop()
    files = state_files(plugin)
    assert files
    for path in files:
        os.unlink(path)
    plugin.start()
    assert plugin.stub().key_id() == key_id
    assert state_files(plugin)


@pytest.mark.parametrize("of", ["key", "cluster", "provider"])
def test_a_state_file_of_another_configuration_is_told(plugin, of):
    """Two keys' activation numbers say nothing of each other."""
    assert plugin.stub().key_id()
    assert plugin.stop() == 0
    plugin.settings[of] = "other"
    plugin.write_config()
    status, said = plugin.run()
    assert status not in (0, None) and of in said and state_files(plugin)[0] in said
