# SPDX-License-Identifier: Apache-2.0
"""Registered backups of etcd on a pair: the active keeps them, each node knows them, and the one
that takes over lets nothing be destroyed either. What is asked of a backup either node answers."""

import os
import subprocess

import pytest

from etcd import PRESENT
from kekd import BUILD, wait_for
from kubernetes_values import PREFIX, Seed
from pki import spiffe
from test_destroy import destroy, old_version, state, wait_for_state
from test_pair_members import STORE, member
from test_snapshots import body, entry, forget, put, register

pytestmark = pytest.mark.skipif(not PRESENT, reason="etcd is not installed")


@pytest.fixture(scope="module")
def pair(make_shared_pair):
    return make_shared_pair().start()


def knows(node, name):
    with node.http("admin-1") as h:
        return h.get(f"/v1/snapshots/{name}").status == 200


def wait_for_both(pair, name):
    for node in pair.roles():
        wait_for(lambda n=node: knows(n, name), f"{node.name} knows {name}")


def test_a_standby_sends_changes_on_and_knows_what_is_registered(pair):
    active, standby = pair.roles()
    with active.http("admin-1") as a, standby.http("admin-1") as s:
        record = body(entry(a, "demo"))
        reply = put(s, "sent", record)
        assert reply.status == 307 and "/v1/snapshots/sent" in reply.headers["Location"]
        made = put(a, "sent", record)
        assert made.status == 201
        wait_for_both(pair, "sent")
        found = s.ok("GET", "/v1/snapshots/sent")
        assert found.etag == made.etag and found.json["needed"]
        assert s.call("DELETE", "/v1/snapshots/sent", etag=made.etag).status == 307
        shown = s.ok("GET", "/v1/keys/demo/usage").json["versions"][0]
        assert shown["needed_by"] == "sent"
        assert forget(a, "sent").status == 200
        wait_for(lambda: not knows(standby, "sent"), "the other one has forgotten it")


def test_kekctl_reaches_the_active_wherever_it_asks(pair):
    with pair.active().http("admin-1") as a:
        register(a, "asked", entry(a, "demo"))
    wait_for_both(pair, "asked")
    done = pair.kekctl("snapshot", "forget", "asked", "--force", first=pair.standby())
    assert b"does not protect demo v1" in done.stdout
    wait_for(lambda: not knows(pair.standby(), "asked"), "it is forgotten")


def destroyed_soon(h, key):
    """The evidence of both nodes must be fresh: that takes a while."""
    wait_for(lambda: destroy(h, 1, key).status == 200, "it is to be destroyed", 120, 1)


def test_no_node_destroys_what_a_backup_needs_whoever_leads(pair):
    active, standby = pair.roles()
    with active.http("admin-1") as h:
        key = old_version(h, "led")
        register(h, "led-1", entry(h, key))
        wait_for(lambda: destroy(h, 1, key).code == "needed_by_backup",
                 "the evidence of both is there", 120, 1)
    wait_for_both(pair, "led-1")
    active.stop()
    pair.takes_over(30, active)
    with standby.http("admin-1") as h:
        reply = destroy(h, 1, key)
        assert reply.code in ("needed_by_backup", "usage_incomplete"), reply
        assert state(h, key) == "disabled"
        found = h.ok("GET", "/v1/snapshots/led-1").json
        assert found["needed"] and found["uncounted_s"] > 80 * 86400
    active.start()
    pair.all_ready()
    with pair.active().http("admin-1") as h:
        wait_for(lambda: destroy(h, 1, key).code == "needed_by_backup", "both are there", 120, 1)
        assert forget(h, "led-1").status == 200
        destroyed_soon(h, key)
        wait_for_state(h, key, "destroyed", seconds=60)


def test_a_node_that_goes_midway_leaves_the_rest_of_the_seeds_to_the_other(pair, make_etcd):
    active, standby = pair.roles()
    etcd = make_etcd().start()
    with active.http("admin-1") as admin, active.http("app") as app:
        for n in range(150):
            etcd.put(f"{PREFIX}secrets/a/s{n}", Seed(app, admin, "demo").value())
        # After a batch of 100 it waits for seconds until the next is taken.
        admin.put_client("slow", ["uri:" + spiffe("slow")],
                         [{"keys": "demo", "operations": ["verify"]}],
                         limits={"requests_per_s": 20})
    pair.pki.clients["slow"] = pair.pki.client("slow")

    def asked(node):
        return node.audit_records(client="slow", operation="unwrap", result="ok")
    wait_for(lambda: standby.kekctl("whoami", name="slow", status=None).returncode == 0,
             "it knows the client")
    config = active.kekctl_config("slow", [standby.url, active.url])
    with subprocess.Popen([os.path.join(BUILD, "kekctl"), "--config", config, "etcd-snapshot",
                           etcd.snapshot(), "--verify"], stdout=subprocess.PIPE) as process:
        wait_for(lambda: asked(standby), "the first batch")
        standby.kill_all()
        told = process.communicate(timeout=120)[0]
    assert process.returncode == 0 and b"This backup is restorable: 1 version," in told
    assert asked(active)
    standby.start()
    pair.all_ready()


def test_a_seed_that_one_nodes_token_does_not_unwrap_is_asked_of_the_other(make_pair, make_etcd):
    pair, etcd = make_pair(store=STORE, shared_token=False), make_etcd().start()
    first, second = pair.nodes
    first.init().start()
    first.stop()
    second.clone_token(first)  # before there is a key
    first.start()
    pair.active()
    first.populate()
    pair.join(second, ready=False)
    with first.http("admin-1") as admin, first.http("app") as app:
        for n in range(120):
            etcd.put(f"{PREFIX}secrets/a/s{n}", Seed(app, admin, "demo").value())
        wait_for(lambda: member(admin, second.name)["proofs"], "it has seen the version", 20)
    snapshot = etcd.snapshot()
    for node in pair.nodes:
        done = pair.kekctl("etcd-snapshot", snapshot, "--verify", first=node)
        assert b"This backup is restorable: 1 version," in done.stdout
    done = second.kekctl("etcd-snapshot", snapshot, "--verify", status=10)
    assert b"demo v1 is missing" in done.stdout
