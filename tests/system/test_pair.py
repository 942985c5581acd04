# SPDX-License-Identifier: Apache-2.0
"""Two nodes and an etcd: every node serves, one makes the changes, and another one does when it
cannot any more. What goes wrong in between: test_pair_faults.py."""

import json
import os
import re
import shutil
import threading
import time

import openapi
import pytest

from etcd import PRESENT
from kekd import BUILD, HSM_USER, USER, b64, in_threads, unb64, wait_for
from pair import LEASE, Pair

pytestmark = pytest.mark.skipif(not PRESENT, reason="etcd is not installed")


def maker(pki):
    made = []

    def make(**options):
        made.append(Pair(pki, **options))
        return made[-1]

    yield make
    for pair in reversed(made):
        pair.remove()


@pytest.fixture
def make_pair(pki):
    yield from maker(pki)


@pytest.fixture(scope="module")
def make_shared_pair(pki):
    yield from maker(pki)


@pytest.fixture(scope="module")
def pair(make_shared_pair):
    """One for all tests that leave two nodes behind, and whoever is active."""
    return make_shared_pair().start()


@pytest.fixture
def own_pair(make_pair):
    return make_pair().start()


def rows(node, name="admin-1"):
    with node.http(name) as h:
        return {m["node"]: m for m in h.get("/v1/cluster").json["members"]}


def is_ready(node, name):
    return rows(node).get(name, {}).get("ready")


def all_ready(pair):
    """Each knows of each that it is there and ready."""
    for node in pair.running():
        for name in [n.name for n in pair.running()]:
            wait_for(lambda node=node, name=name: is_ready(node, name),
                     f"{node.name} knows that {name} is ready")


def knows(node, key="demo", version=1, client="app"):
    """The node has heard of this version, and its token proves it."""
    with node.http(client) as h:
        reply = h.call("POST", f"/v1/keys/{key}/wrap", {"plaintext": b64(b"x")})
        return reply.status == 200 and reply.json["version"] == version


class Load:
    """A client with all endpoints that wraps and unwraps all the while, and what came of it."""

    def __init__(self, pair):
        self.pair = pair
        self.failures, self.done = [], 0
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        with self.pair.http("app") as h:
            while not self.stop.is_set():
                try:
                    text = b"%d" % self.done
                    assert h.unwrap(h.wrap(text)) == text
                    self.done += 1
                except Exception as e:
                    self.failures.append(repr(e))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exc):
        self.stop.set()
        self.thread.join()


# ---- the main job ----

def test_what_one_node_wraps_the_other_unwraps(pair):
    a, b = pair.roles()
    for one, other in ((a, b), (b, a)):
        with one.http("app") as x, other.http("app") as y:
            blob = x.wrap(b"secret", context={"a": "b"})
            assert y.unwrap(blob, context={"a": "b"}) == b"secret"


def test_each_node_tells_its_role_and_who_leads(pair):
    a, b = pair.roles()
    all_ready(pair)
    assert (a.status()["role"], b.status()["role"]) == ("active", "standby")
    for node in (a, b):
        assert node.status()["leader"] == {"node": a.name, "url": a.url}
    assert a.status()["epoch"] == pair.epoch() and b.status()["epoch"] is None
    for node in (a, b):
        store = node.status()["store"]
        assert (store["engine"], store["reachable"], store["synced"], store["stale"],
                store["error"]) == ("etcd", True, True, False, None)
        assert 0 <= store["age_s"] < 12 and 0 < store["lease_remaining_s"] < LEASE
        assert re.fullmatch("[0-9a-f]+", store["cluster_id"])
        record, *_ = a.audit_records(operation="cluster.lead")
        assert record["detail"]["node"] == a.name and record["detail"]["epoch"] > 0
    assert (a.health("active")[0], b.health("active")[0]) == (200, 503)
    assert b.health()[0] == 200
    for node in (a, b):
        shown = rows(node)
        assert {n: m["role"] for n, m in shown.items()} == {a.name: "active", b.name: "standby"}
        assert shown[a.name]["url"] == a.url and shown[b.name]["url"] == b.url


def test_a_change_on_a_standby_is_sent_on_to_the_active(pair):
    a, b = pair.roles()
    with b.http("admin-1") as h:
        reply = h.call("POST", "/v1/keys", {"name": "moved"}, create=True)
        assert (reply.status, reply.code) == (307, "not_active")
        assert reply.headers["Location"] == a.url + "/v1/keys"
        assert a.name in reply.json["detail"]
        assert h.get("/v1/keys/moved").status == 404
    with pair.http("admin-1", first=b) as h:
        assert h.ok("POST", "/v1/keys", {"name": "moved"}, create=True, status=201)
        assert h.asked == [b.port, a.port]
    with b.http("app") as h:
        wait_for(lambda: knows(b, "moved"), "the standby has the key", 3)
        assert not b.audit_records(operation="key.create")


def test_every_change_is_sent_on_but_what_is_about_the_node_itself(pair):
    """And to the same path at the active, before anything of it is looked at."""
    a, b = pair.roles()
    own = {"/v1/hsm/retry-pin", "/v1/cluster/promote"}
    with b.http("admin-1") as h:
        for path, item in openapi.description.api["paths"].items():
            for method in openapi.METHODS & set(item) - {"get"}:
                if item[method]["tags"] == ["data"] or path in own:
                    assert "307" not in item[method]["responses"], path
                    continue
                assert "307" in item[method]["responses"], (method, path)
                url = re.sub(r"\{n\}", "1", path)
                url = re.sub(r"\{key\}", "demo", url)
                url = re.sub(r"\{id\}", "3f1c9b0e-0000-4000-8000-000000000000", url)
                url = re.sub(r"\{(name|snapshot)\}", "app", url)
                reply = h.call(method.upper(), url, {} if method != "delete" else None)
                assert reply.status == 307, (method, path, reply)
                assert reply.headers["Location"] == a.url + url
        assert h.call("POST", "/v1/hsm/retry-pin", {}).code == "invalid_state"


def test_what_only_a_pair_answers_is_as_described(own_pair, monkeypatch):
    fresh = openapi.Description(openapi.load())
    monkeypatch.setattr(openapi, "description", fresh)
    all_ready(own_pair)
    a, b = own_pair.roles()
    with a.http("admin-1") as h, b.http("admin-1") as other:
        assert other.ok("POST", "/v1/cluster/step-down", {}, status=307)
        h.ok("POST", "/v1/cluster/step-down", {"pause": "1s"})
        own_pair.active(but=a)
        h.ok("POST", "/v1/cluster/promote", {})
    for what in ("step-down", "promote"):
        assert ("POST", f"/v1/cluster/{what}", 200) in fresh.answered
    assert ("POST", "/v1/cluster/step-down", 307) in fresh.answered


def test_a_location_has_the_path_escaped(pair):
    a, b = pair.roles()
    with b.http("admin-1") as h:
        reply = h.call("DELETE", "/v1/clients/a%0d%0aX-Evil:%20%c3%a4", etag="*")
        assert reply.status == 307 and "X-Evil" not in reply.headers
        assert reply.headers["Location"].startswith(a.url + "/v1/clients/a%0D%0AX-Evil%3A%20")


def test_a_standby_sends_nobody_on_who_may_not(pair):
    _, b = pair.roles()
    with b.http("app") as h:
        assert h.call("POST", "/v1/keys", {"name": "x"}, create=True).code == "forbidden"
    with b.http() as h:
        assert h.call("POST", "/v1/keys", {"name": "x"}, create=True).status == 401


def test_a_standby_follows_within_moments(pair):
    a, b = pair.roles()
    with a.http("admin-1") as h, b.http("admin-1") as other:
        h.create_key("quick")
        times = []
        for n in range(10):
            etag = h.ok("GET", "/v1/keys/quick").etag
            revision = int(h.ok("PATCH", "/v1/keys/quick", {"labels": {"n": str(n)}},
                                etag=etag).etag.strip('"'))
            begin = time.monotonic()
            wait_for(lambda r=revision: other.get("/v1/whoami").headers["Kekd-Revision"] >= str(r)
                     and other.key("quick")["labels"].get("n") == str(n), "it follows", 5, 0.001)
            times.append(time.monotonic() - begin)
    print("followed in", sorted(times)[len(times) // 2])
    assert sorted(times)[len(times) // 2] < 0.15, times


def test_a_rotation_is_proven_by_the_other_node_before_it_counts(pair):
    a, b = pair.roles()
    all_ready(pair)
    with a.http("admin-1") as h:
        h.create_key("turned")
        before = b.http("app")
        blob = before.wrap(b"old", key="turned") if knows(b, "turned") else None
        assert h.rotate("turned")["primary"] == 2
        wait_for(lambda: knows(b, "turned", 2), "the standby wraps with the new version", 5)
        if blob:
            assert before.unwrap(blob, key="turned") == b"old"
        before.close()


def test_kekctl_shows_the_nodes_and_follows_to_the_active(pair):
    a, b = pair.roles()
    all_ready(pair)
    shown = b.kekctl("cluster", "status").stdout.decode()
    assert a.name in shown and "standby" in shown and b.url in shown
    assert f"standby of {a.name}" in b.kekctl("status").stdout.decode()
    assert f"this node is a standby of {a.name}" in b.log()
    b.kekctl("key", "create", "followed")
    wait_for(lambda: knows(a, "followed"), "the key is there")


# ---- another one takes over ----

def test_one_that_stepped_down_stays_a_standby_for_a_while(own_pair):
    pair = own_pair
    a, b = pair.roles()
    all_ready(pair)
    epoch = pair.epoch()
    begin = time.monotonic()
    shown = b.kekctl("cluster", "step-down", "--pause", "2s").stdout.decode()
    assert a.name in shown and "2 s" in shown
    assert pair.takes_over(2, a) < 2
    print(f"stepped down: {time.monotonic() - begin:.2f} s")
    assert pair.epoch() > epoch and pair.roles() == (b, a)
    # Nobody else is there: then even who stepped down comes back.
    b.kill_all()
    assert pair.takes_over(LEASE + 2, b) < LEASE + 2
    record, = a.audit_records(operation="cluster.step_down", type="outcome")
    assert record["detail"] == {"node": a.name, "pause_s": 2, "force": False}
    wait_for(lambda: not is_ready(a, b.name), "it hears that the other one is gone", 5)
    with a.http("admin-1") as h:
        reply = h.call("POST", "/v1/cluster/step-down", {})
        assert (reply.status, reply.code) == (409, "member_not_ready")


def test_a_standby_is_promoted_and_the_active_becomes_a_standby(own_pair):
    pair = own_pair
    a, b = pair.roles()
    all_ready(pair)
    reply = json.loads(b.kekctl("cluster", "promote", "-o", "json").stdout)
    assert reply == {"node": b.name, "epoch": pair.epoch(), "forced": False}
    assert b.is_active()
    wait_for(lambda: a.status()["role"] == "standby", "the other one stepped back", 2)
    with b.http("admin-1") as h:
        h.create_key("promoted")
        # Once more changes nothing.
        assert h.ok("POST", "/v1/cluster/promote", {}).json["epoch"] == reply["epoch"]
    record = b.audit_records(operation="cluster.promote", type="outcome")[0]
    assert record["detail"]["forced"] is False


def test_a_node_that_is_no_member_never_leads(make_pair):
    pair = make_pair()
    first, second = pair.nodes
    first.init().start()
    pair.active()
    first.populate()
    with first.http("admin-1") as h:
        etag = h.get("/v1/cluster").etag
        assert h.call("POST", "/v1/cluster/step-down", {}).code == "member_not_ready"
        assert etag
    pair.join(second)
    all_ready(pair)
    first.kekctl("cluster", "forget", second.name, "--yes")
    second.process.wait(10)
    assert "was forgotten" in second.log()
    second.process = None
    with first.http("admin-1") as h:
        cluster = h.get("/v1/cluster").json
        assert [m["node"] for m in cluster["members"]] == [first.name]
        assert cluster["forgotten"] == [second.name]
        etag = h.get("/v1/cluster").etag
        reply = h.call("PATCH", "/v1/cluster", {"members": [first.name, second.name]}, etag=etag)
        assert reply.status == 400
    second.start(ready=False)
    assert second.process.wait(20) == 78
    second.process = None


def test_the_active_cannot_forget_itself(pair):
    a, _ = pair.roles()
    assert a.kekctl("cluster", "forget", a.name, "--yes", status=5).stderr


def test_the_level_wants_every_member(pair):
    a, b = pair.roles()
    all_ready(pair)
    assert b"level 1" in b.kekctl("cluster", "level", "1").stdout
    assert a.kekctl("cluster", "level", "2", status=1).stderr


def later_release(node):
    """From its next start on this node runs a release whose level is one higher."""
    newer = os.path.join(BUILD, "tests", "next", "kekd-net")
    if not os.path.exists(newer):
        pytest.skip("make tests/next/kekd-net")
    os.mkdir(node.path("libexec"))
    os.symlink(newer, node.path("libexec", "kekd-net"))
    os.symlink(os.path.join(BUILD, "kekd-hsm"), node.path("libexec", "kekd-hsm"))
    node.environment["KEKD_LIBEXECDIR"] = node.path("libexec")


def test_a_rolling_update_raises_the_level_and_an_older_release_refuses_it(own_pair):
    pair = own_pair
    all_ready(pair)
    with Load(pair) as load:
        for node in pair.nodes:
            later_release(node)
            if node is pair.nodes[-1]:
                # The one that is not updated yet does not know the level, whoever is asked.
                reply = pair.kekctl("cluster", "level", "2", status=None)
                assert reply.returncode in (1, 5), reply
            node.stop()
            node.start()
            all_ready(pair)
    assert not load.failures and load.done > 10, load.failures[:3]
    assert {m["level"] for m in rows(pair.active()).values()} == {2}
    assert b"level 2" in pair.kekctl("cluster", "level", "2").stdout
    a, b = pair.roles()
    wait_for(lambda: b.http("admin-1").get("/v1/cluster").json["level"] == 2, "both know it", 5)
    assert pair.kekctl("cluster", "level", "1", status=5).stderr
    b.stop()
    b.environment["KEKD_LIBEXECDIR"] = BUILD
    b.start(ready=False)
    assert b.process.wait(20) == 78
    b.process = None
    assert "the cluster is at level 2" in b.log()


def test_the_level_is_not_raised_past_a_member_of_an_older_release(own_pair):
    pair = own_pair
    all_ready(pair)
    a, b = pair.roles()
    later_release(a)
    a.stop()
    a.start()
    all_ready(pair)
    assert pair.active() is b
    reply = b.kekctl("cluster", "level", "2", status=1)
    assert b"knows the levels" in reply.stderr
    b.kekctl("cluster", "step-down")
    assert pair.active(but=b) is a
    reply = a.kekctl("cluster", "level", "2", status=5)
    assert b.name.encode() in reply.stderr


def test_a_pair_stands_on_three_etcd_with_tls_and_users(make_pair, root):
    """As in production: users of their own for each process, too."""
    pair = make_pair(members=3, tls=True, auth=True, user=USER, hsm_user=HSM_USER).start()
    all_ready(pair)
    a, b = pair.roles()
    with a.http("app") as x, b.http("app") as y:
        assert y.unwrap(x.wrap(b"secret")) == b"secret"
    a.stop()
    assert pair.active() is b


def test_a_suspended_active_finds_itself_a_standby(own_pair):
    pair = own_pair
    all_ready(pair)
    a, b = pair.roles()
    a.suspend()
    assert pair.takes_over(LEASE + 2, a) < LEASE + 2
    a.resume()
    # Not for a moment does it take itself for the active.
    for _ in range(20):
        assert not a.is_active()
    with a.http("admin-1") as h:
        wait_for(lambda: h.call("PATCH", "/v1/keys/demo", {"labels": {}}, etag="*").status == 307,
                 "it sends changes on", 5)
    all_ready(pair)


def test_without_etcd_changes_wait_and_the_nodes_start_from_their_copy(own_pair):
    pair = own_pair
    all_ready(pair)
    a, b = pair.roles()
    with a.http("app") as h:
        blob = h.wrap(b"kept")
    wait_for(lambda: knows(b), "the standby has the key")
    for member in pair.etcd.members:
        member.kill()
    wait_for(lambda: not a.is_active(), "nobody leads any more", LEASE + 1)
    for node in (a, b):
        with node.http("app") as h, node.http("admin-1") as admin:
            assert h.unwrap(h.wrap(b"x")) == b"x"
            reply = admin.call("PATCH", "/v1/keys/demo", {"labels": {}}, etag="*")
            assert reply.status == 503 or reply.status == 307
    a.kill_all()
    b.stop()
    for node in (a, b):
        node.start()
        with node.http("app") as h:
            assert h.unwrap(blob) == b"kept"
        store = node.status()["store"]
        assert store["reachable"] is False and store["error"] and store["age_s"] > 0
    for member in pair.etcd.members:
        member.start()
    pair.active(LEASE + 10)
    all_ready(pair)
    with pair.http("admin-1") as h:
        h.rotate()


def test_without_an_active_changes_wait_and_the_data_plane_goes_on(own_pair):
    pair = own_pair
    a, b = pair.roles()
    all_ready(pair)
    with b.http("app") as h, b.http("admin-1") as admin:
        a.kill_all()
        codes = set()
        end = time.monotonic() + LEASE + 4
        while not b.is_active() and time.monotonic() < end:
            assert h.unwrap(h.wrap(b"x")) == b"x"
            reply = admin.call("PATCH", "/v1/keys/demo", {"labels": {"a": "b"}}, etag="*")
            codes.add((reply.status, reply.code))
            if reply.status == 503:
                assert reply.headers["Retry-After"] == "1"
            if reply.status == 200:
                break
        assert b.is_active()
        # First it is sent to who is gone, then nobody leads, then this node does.
        assert codes <= {(307, "not_active"), (503, "no_active"), (200, None)}, codes


def test_changes_through_both_nodes_at_once_are_all_made(pair):
    all_ready(pair)
    nodes = pair.nodes

    def work(n):
        with pair.http("admin-1", first=nodes[n % 2]) as h:
            for i in range(5):
                h.ok("POST", "/v1/keys", {"name": f"both-{n}-{i}"}, create=True, status=201)

    in_threads(4, work)
    for node in nodes:
        with node.http("admin-1") as h:
            wait_for(lambda h=h: len([k for k in h.get("/v1/keys?limit=1000").json["keys"]
                                      if k["name"].startswith("both-")]) == 20,
                     "all keys are there", 5)
    assert unb64(b64(b"x")) == b"x"


@pytest.mark.parametrize("same_id", [True, False])
def test_a_snapshot_of_etcd_that_was_put_back_is_held_until_it_is_confirmed(own_pair, same_id):
    pair = own_pair
    all_ready(pair)
    a, b = pair.roles()
    with a.http("app") as h:
        blob = h.wrap(b"old")
    snapshot = pair.etcd.snapshot()
    with a.http("admin-1") as h:
        h.rotate()
        before = h.key()["activation"]
    wait_for(lambda: knows(b, version=2), "the standby has the rotation")
    with b.http("app") as h:
        newer = h.wrap(b"new")
    pair.etcd.restore(snapshot, same_id=same_id)

    def held(node):
        return node.status()["store"]["held"]

    for node in (a, b):
        wait_for(lambda node=node: held(node), f"{node.name} holds the store", 30)
        assert held(node)["whole"] is True
        with node.http("app") as h:  # what was accepted serves on
            assert h.unwrap(blob) == b"old" and h.unwrap(newer) == b"new"
    with b.http("admin-1") as h:
        reply = h.call("POST", "/v1/cluster/confirm",
                       {"generation": b.status()["generation"].translate({ord("0"): "1"})[:-1]
                        + "f"})
        assert reply.status in (409, 412), reply
    b.kekctl("cluster", "confirm")
    assert b.is_active() or pair.active()
    wait_for(lambda: not held(a) and not held(b), "both follow", 30)
    all_ready(pair)
    with pair.http("admin-1") as h:
        assert h.key()["activation"] > before
        h.rotate()
    with pair.http("app") as h:
        assert h.unwrap(blob) == b"old"
    assert b.audit_records(operation="cluster.confirm", type="outcome")


def test_nodes_that_lack_a_version_lead_by_force_alone_and_the_audit_log_tells_of_it(own_pair):
    pair = own_pair
    a, b = pair.roles()
    all_ready(pair)
    with a.http("admin-1") as h:
        first = h.key()["versions"][0]
        h.rotate()
    for node in (a, b):
        node.stop()
    pair.nodes[0].pkcs11_tool("--delete-object", "--type", "secrkey", "--id",
                              first["object_id"])
    for node in (a, b):
        node.start()
    for node in (a, b):
        wait_for(lambda node=node: is_ready(node, node.name) is False and
                 "1 of 2" in rows(node)[node.name]["reason"], "it says what it lacks", 20)
    assert not a.is_active() and not b.is_active()
    assert "1 of 2" in a.kekctl("cluster", "status").stderr.decode()
    with b.http("app") as h:
        assert h.unwrap(h.wrap(b"x")) == b"x"
    with b.http("admin-1") as h:
        reply = h.call("PATCH", "/v1/keys/demo", {"labels": {}}, etag="*")
        assert (reply.status, reply.code) == (503, "no_active")
        reply = h.call("POST", "/v1/cluster/promote", {})
        assert (reply.status, reply.code) == (409, "member_not_ready")
        assert "1 of 2" in reply.json["detail"]
        assert h.ok("POST", "/v1/cluster/promote", {"force": True}).json["forced"] is True
        assert h.ok("PATCH", "/v1/keys/demo", {"labels": {}}, etag="*")
        reply = h.call("POST", "/v1/cluster/step-down", {})
        assert (reply.status, reply.code) == (409, "member_not_ready")
    refused, done = b.audit_records(operation="cluster.promote", type="outcome")
    assert refused["code"] == "member_not_ready" and "1 of 2" in refused["detail"]["reason"]
    assert done["detail"]["forced"] is True and done["client"] == "admin-1"


def test_a_node_that_joined_later_does_not_make_usage_evidence_incomplete(own_pair):
    pair = own_pair
    all_ready(pair)
    second = pair.nodes[1]
    for _ in range(2):
        with second.http("app") as h:
            h.wrap(b"x")
        for node in pair.nodes:
            with node.http("admin-1") as h:
                usage = h.ok("GET", "/v1/keys/demo/usage").json
            assert all(m["incomplete_since"] is None for m in usage["members"]), usage
        assert "usage evidence is incomplete" not in second.log()
        second.stop()
        second.start()
        all_ready(pair)
    # What it has lost since is missing all the same.
    second.stop()
    shutil.rmtree(second.audit_dir)
    os.mkdir(second.audit_dir, 0o700)
    second.start()
    assert "usage evidence is incomplete" in second.log()
