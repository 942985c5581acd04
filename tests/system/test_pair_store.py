# SPDX-License-Identifier: Apache-2.0
"""What etcd's root may do to a pair that runs: nothing of it is served, the last good state is,
also after a restart, and a restore that an operator wanted is taken once he says so."""

import json

import pytest

from etcd import PRESENT
from kekd import b64, wait_for
from pair import Pair

pytestmark = pytest.mark.skipif(not PRESENT, reason="etcd is not installed")


@pytest.fixture
def pair(pki):
    made = Pair(pki)
    try:
        yield made.start()
    finally:
        made.remove()


def store(node):
    return node.status()["store"]


def held(node, hold):
    wait_for(lambda: store(node)["hold"] == hold, f"{node.name}: the store's hold is {hold}", 30)
    return store(node)


def wrap(node, key="demo"):
    with node.http("app") as h:
        reply = h.call("POST", f"/v1/keys/{key}/wrap", {"plaintext": b64(b"secret")})
        assert reply.status == 200, reply.json
        return reply.json


def unwraps(node, ciphertext, key="demo"):
    with node.http("app") as h:
        return h.call("POST", f"/v1/keys/{key}/unwrap", {"ciphertext": ciphertext}).status


def restart(node):
    node.stop()
    node.start(ready=False)

    def serves():
        try:
            return node.status()["phase"] == "serving"
        except (OSError, AssertionError, KeyError):
            return False
    wait_for(serves, f"{node.name} serves", 30)


def test_what_roots_hand_does_to_a_key_is_not_served_and_a_restart_changes_nothing(pair):
    active, standby = pair.roles()
    blob = wrap(active)["ciphertext"]
    good = pair.etcd.get("keys/demo")
    pair.etcd.delete("keys/demo")
    for node in (active, standby):
        held(node, "state")
        assert unwraps(node, blob) == 200
        status, body = node.health()
        assert status == 200 and "held" in str(body["warnings"]), body
    assert pair.kekctl("key", "rotate", "demo", status=None).returncode != 0
    restart(standby)
    held(standby, "state")
    assert unwraps(standby, blob) == 200
    pair.etcd.put("keys/demo", good)
    for node in (active, standby):
        held(node, "none")
    pair.active()
    pair.kekctl("key", "rotate", "demo")


@pytest.mark.parametrize("same_id", [True, False])
def test_a_restored_etcd_is_held_and_serves_on_until_it_is_confirmed(pair, same_id):
    active, standby = pair.roles()
    snapshot = pair.etcd.snapshot()
    before = wrap(active)
    revision = active.status()["revision"]
    pair.kekctl("key", "rotate", "demo")
    newer = wait_for(lambda: (w := wrap(standby))["version"] == 2 and w, "version 2 is known")
    pair.etcd.restore(snapshot, same_id)
    for node in (active, standby):
        held(node, "behind" if same_id else "foreign")
        assert unwraps(node, newer["ciphertext"]) == 200
        assert unwraps(node, before["ciphertext"]) == 200
    restart(active)
    held(active, "behind" if same_id else "foreign")
    assert unwraps(active, newer["ciphertext"]) == 200
    assert store(active)["held"]["whole"]
    generation = active.status()["generation"]
    active.kekctl("cluster", "confirm")
    for node in (active, standby):
        held(node, "none")
        assert unwraps(node, before["ciphertext"]) == 200
    after = active.status()
    assert after["generation"] != generation
    assert after["revision"] > revision + 1
    wait_for(lambda: standby.status()["generation"] == after["generation"], "the other follows")
    activation = int(wrap(active)["kms_key_id"].split(".")[-1]) if "kms_key_id" in wrap(active) \
        else json.loads(pair.etcd.get("keys/demo"))["body"]["activation"]
    assert activation > 1 << 20
    pair.active()
    wait_for(lambda: pair.kekctl("key", "rotate", "demo", status=None).returncode == 0,
             "the key can be rotated again", 30)
