# SPDX-License-Identifier: Apache-2.0
"""What an auditor asks of a pair: each node's log is witnessed by the other, usage of all members
is in one report, and what is not known of one of them stops a destruction. And what a node does
whose copy of the metadata is old."""

import json
import os
import shutil

import pytest

from etcd import PRESENT
from kekd import b64, wait_for
from test_checkpoints import rechain

pytestmark = pytest.mark.skipif(not PRESENT, reason="etcd is not installed")

UNVERIFIED = 6


@pytest.fixture
def pair(make_pair):
    return make_pair().start()


def witnessed(node, of):
    return [r for r in node.audit_records(type="witness") if r["of"] == of.name]


def verify(node, directory, *more, status=0):
    return node.kekctl("audit", "verify", str(directory), *more, status=status)


def somebody_else(record):
    """Who used the key, and no checkpoint that tells otherwise: one could have been signed anew."""
    if record.get("client") == "app":
        record["client"] = "somebody"
    if record["type"] == "checkpoint":
        for name in ("at", "head", "key", "signature", "revision"):
            record.pop(name, None)
        record["type"] = "request"


def test_each_nodes_log_is_witnessed_by_the_other_and_a_changed_one_shows(pair, tmp_path):
    a, b = pair.roles()
    with a.http("app") as h:
        for n in range(10):
            h.wrap(b"%d" % n)
    key = tmp_path / "a.pem"
    with a.http("admin-1") as h:
        wait_for(lambda: h.status()["audit"]["signing"]["state"] == "ready", "the key")
    key.write_bytes(a.kekctl("audit", "keys").stdout)
    # At a clean stop a node tells where its log ends.
    a.stop()
    last = wait_for(lambda: witnessed(b, a), "the other one hears of it", 20)[-1]
    assert last["at"] >= 10
    done = verify(b, a.audit_dir, "--witness", b.audit_dir, "--key", str(key), "-o", "json")
    assert json.loads(done.stdout)["witnessed_through"] == last["at"]
    verify(b, b.audit_dir)

    anew, cut = tmp_path / "anew", tmp_path / "cut"
    shutil.copytree(a.audit_dir, anew)
    rechain(anew, somebody_else, sorted(anew.iterdir())[-1].name)
    verify(b, anew)
    done = verify(b, anew, "--witness", b.audit_dir, status=UNVERIFIED)
    assert b"written anew" in done.stderr
    shutil.copytree(a.audit_dir, cut)
    path = sorted(cut.iterdir())[-1]
    lines = path.read_bytes().split(b"\n")[:-1]
    keep = [line for line in lines if json.loads(line)["seq"] < last["at"] - 2]
    path.write_bytes(b"\n".join(keep) + b"\n")
    verify(b, cut)
    done = verify(b, cut, "--witness", b.audit_dir, status=UNVERIFIED)
    assert b"cut off" in done.stderr


def usage(node, key="demo"):
    def read():
        with node.http("admin-1") as h:
            reply = h.call("GET", f"/v1/keys/{key}/usage")
            return reply.json if reply.status == 200 else None
    return wait_for(read, "the log is read")


def test_usage_of_all_members_is_in_one_report_with_its_age(pair):
    a, b = pair.roles()
    with a.http("app") as x, b.http("app") as y:
        for _ in range(3):
            x.wrap(b"x")
        for _ in range(4):
            y.wrap(b"y")

    def both():
        found = usage(a)
        nodes = {r["node"]: r["wrapped"]["count"] for v in found["versions"]
                 for r in v["clients"] if r["client"] == "app"}
        return nodes if nodes.get(b.name, 0) >= 4 else None
    nodes = wait_for(both, "the other one's usage", 90)
    assert nodes == {a.name: 3, b.name: 4}
    members = {m["node"]: m["as_of"] for m in usage(a)["members"]}
    assert set(members) == {a.name, b.name} and all(members.values())


def destroy(pair, key, version):
    with pair.active().http("admin-1") as h:
        shown = h.ok("GET", f"/v1/keys/{key}/usage").json
        evidence = next(v["evidence"] for v in shown["versions"] if v["version"] == version)
        etag = h.ok("GET", f"/v1/keys/{key}").etag
        return h.call("POST", f"/v1/keys/{key}/versions/{version}/destroy",
                      {"evidence": evidence}, etag=etag)


def old_version(pair, key="old"):
    """Version 1, disabled, and not the primary of the last ten minutes."""
    with pair.active().http("admin-1") as h:
        h.create_key(key)
        h.rotate(key)
        h.rotate(key)
        h.change(key, "versions/1/disable")


def test_a_member_whose_usage_nobody_knows_stops_a_destruction(pair):
    old_version(pair)
    wait_for(lambda: all(m["as_of"] for m in usage(pair.active(), "old")["members"]),
             "figures of both", 90)
    pair.active().kekctl("cluster", "members", "add", "node-9")
    reply = destroy(pair, "old", 1)
    assert reply.code == "usage_incomplete", reply
    assert "node-9 has told of none" in reply.json["detail"]
    pair.active().kekctl("cluster", "forget", "node-9", "--yes")
    wait_for(lambda: destroy(pair, "old", 1).status in (200, 202), "it is destroyed", 90, 1)


# ---- an old copy ----

def try_wrap(node, key="demo"):
    with node.http("app") as h:
        return h.call("POST", f"/v1/keys/{key}/wrap", {"plaintext": b64(b"x")})


def try_unwrap(node, blob):
    with node.http("app") as h:
        return h.try_unwrap(blob)


def test_with_metadata_that_is_too_old_each_keys_rule_decides(make_pair):
    pair = make_pair(store={"max_staleness": "12s"}).start()
    with pair.active().http("admin-1") as h:
        for rule in ("serve", "refuse"):
            h.create_key(rule, when_stale=rule)
    with pair.http("app") as h:
        blobs = {k: h.wrap(b"x", k) for k in ("demo", "serve", "refuse")}
    node = pair.standby()
    node.etcd.cut()
    wait_for(lambda: try_wrap(node).code == "stale", "it is too old", 40)
    with node.http("app") as h:
        assert h.unwrap(blobs["demo"]) == b"x"
        assert h.unwrap(blobs["serve"], "serve") == b"x"
        h.wrap(b"x", "serve")
        assert h.try_unwrap(blobs["refuse"], "refuse").code == "stale"
        assert try_wrap(node, "refuse").code == "stale"
    assert any(r.get("stale") for r in node.audit_records(operation="unwrap"))
    status = node.status()["store"]
    assert status["stale"] and not status["reachable"] and status["age_s"] > 12
    node.etcd.heal()
    wait_for(lambda: try_wrap(node).status == 200, "it is fresh again", 40)


def test_a_version_that_an_old_copy_does_not_know_is_looked_up_or_said_to_be_unknown(pair,
                                                                                     tmp_path):
    node = pair.standby()
    with node.http("app") as h:
        known = h.wrap(b"of version 1")
    node.stop()
    shutil.copytree(node.path("state"), tmp_path / "state")
    node.start()
    with pair.active().http("admin-1") as h:
        h.create_key("new")
        h.rotate()
    with pair.active().http("app") as h:
        blob, other = h.wrap(b"of version 2"), h.wrap(b"of a new key", "new")
    node.stop()
    shutil.rmtree(node.path("state"))
    shutil.copytree(tmp_path / "state", node.path("state"))
    if node.uid is not None:
        for directory, _, files in os.walk(node.path("state")):
            for name in files:
                os.chown(os.path.join(directory, name), node.uid, node.uid)
    node.etcd.cut()
    node.start(ready=False)
    wait_for(lambda: node.health("live")[0] == 200 and try_unwrap(node, known).status == 200,
             "it serves by its copy", 60)
    with node.http("app") as h:
        assert h.try_unwrap(blob).code == "version_unknown_here"
        assert h.try_unwrap(other, "new").code == "version_unknown_here"
    node.etcd.heal()
    with node.http("app") as h:
        wait_for(lambda: h.try_unwrap(blob).status == 200, "it is found", 60)
        assert h.unwrap(other, "new") == b"of a new key"
        # What nobody knows is none, and costs one look.
        unknown = bytearray(blob)
        unknown[5] ^= 1
        assert h.try_unwrap(bytes(unknown)).code == "unwrap_failed"
        assert h.try_unwrap(blob, "none").code == "key_not_found"


def test_a_node_that_starts_without_etcd_still_wraps_by_ivs_that_it_kept(pair):
    node = pair.standby()
    with node.http("app") as h:
        blob = h.wrap(b"x")
    node.etcd.cut()
    for kill in (True, False, True, True):
        if kill:
            node.kill_all()
        else:
            node.stop()
        node.start(ready=False)
        wait_for(lambda: node.health("live")[0] == 200 and try_unwrap(node, blob).status == 200,
                 "it serves by its copy", 60)
        assert try_wrap(node).status == 200, "of what was kept, half is kept for the next start"
    node.etcd.heal()
    wait_for(lambda: try_wrap(node).status == 200, "etcd is back", 60)
