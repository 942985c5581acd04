# SPDX-License-Identifier: Apache-2.0
"""The active is suspended at every step of a rotation and of a destruction, for longer than its
lease, and goes on afterwards: it finds that it is a standby, and nothing of what it had begun
happens."""

import http.client
import signal
import time
from contextlib import contextmanager

import pytest

from etcd import PRESENT
from kekd import FAULTY_MODULE, b64, stat_fields, wait_for
from pair import LEASE
from pair_change import destroy, hold_commit, rotate
from pair_load import Load, settled
from test_destroy import old_version

pytestmark = pytest.mark.skipif(not PRESENT, reason="etcd is not installed")

AFTER = 2  # s: what it does late, it does at once
NOT_DONE = (0, 307, 409, 503)  # sent on to the other with its If-Match, which tells that all moved
CREATES = ("C_GenerateKey", "C_CreateObject", "C_GenerateKeyPair")
DESTROYS = ("C_DestroyObject",)


@pytest.fixture(scope="module")
def shared_pair(make_shared_pair, faults):
    return make_shared_pair(module=FAULTY_MODULE, environment=faults.environment).start()


@pytest.fixture
def pair(shared_pair, faults):
    settled(shared_pair)
    yield shared_pair
    faults.set()
    for node in shared_pair.nodes:
        node.resume()
        node.etcd.heal()


# ---- where it is suspended ----

@contextmanager
def at_commit(pair, faults, node, key, number, act):
    """While its number-th commit of the key is on its way to etcd."""
    asker, held = hold_commit(pair, node, key, number, act)
    node.suspend()
    yield asker, held.release
    node.etcd.heal()


@contextmanager
def past_its_own_deadline(pair, faults, node, key, number, act):
    """The same, and the commit reaches etcd last of all: when the node has given it up already."""
    asker, held = hold_commit(pair, node, key, number, act)
    node.suspend()
    yield asker, lambda: None
    held.release()
    time.sleep(AFTER)
    node.etcd.heal()


@contextmanager
def at_token(pair, faults, node, key, number, act):
    """While a worker looks for the object, after the number-th commit of the key: what it does to
    the token comes next."""
    asker, held = hold_commit(pair, node, key, number, act)
    workers = node.workers()
    faults.set(*[f"C_FindObjectsInit signal {signal.SIGSTOP.value} times=1 pid={p}"
                 for p in workers])
    held.release()
    wait_for(lambda: any(stat_fields(p)[0] == "T" for p in workers), "a worker looks for it", 20)
    node.suspend()
    faults.set()
    yield asker, lambda: None


@contextmanager
def at_proof(pair, faults, node, key, _, act):
    """While it waits until the other node has proven the version."""
    other = next(n for n in pair.nodes if n is not node)
    match = b64(pair.etcd.full("members/" + other.name)).encode()
    held = [p.hold(1, match) for p in other.etcd.all]
    asker = act(node, key)
    wait_for(lambda: any(h.caught.is_set() for h in held), "the other proves it", 20)
    node.suspend()
    other.etcd.heal()
    yield asker, lambda: None


# ---- what must not have happened ----

def objects(node, key):
    """Its objects in the token that both nodes share, as another program lists them."""
    lines = node.pkcs11_tool("--list-objects", "--type", "secrkey").splitlines()
    return sorted(line for line in lines if f"kekd:test:{key}:" in line)


def record(pair, key):
    entry = pair.etcd.entry(f"keys/{key}")
    return entry["mod_revision"], entry["value"]


def touched(faults, node, functions):
    pids = set(node.family())
    return [f for f in functions for pid in faults.calls(f) if pid in pids]


def as_seen(node, key):
    with node.http("admin-1") as h:
        k = h.key(key)
    return {"primary": k["primary"], "activation": k["activation"],
            "states": [(v["version"], v["state"]) for v in k["versions"]]}


def is_standby(node, leader):
    try:
        s = node.status()
    except (OSError, AssertionError, http.client.HTTPException):
        return False
    return s["role"] == "standby" and (s["leader"] or {}).get("node") == leader.name


def suspended_beyond_its_lease(pair, faults, key, where, act):
    """Suspends the active there until the other one is active and at rest, lets it go on, and holds
    what it does then against what it may: (the key before, its record and objects before it went
    on, what it answered, (it, the new active))."""
    how, step = where
    a, b = settled(pair)
    before = as_seen(a, key)
    with how(pair, faults, a, key, step, act) as (asker, release):
        pair.takes_over(LEASE + 10, a)
        wait_for(lambda: at_rest(b, key), "the new active is through with it", 20)
        stored, lying = record(pair, key), objects(b, key)
        faults.forget()
        release()
        time.sleep(0.2)
        a.resume()
        wait_for(lambda: is_standby(a, b), "it is a standby of the other", 15, 0.1)
        answered = asker.answer()
        time.sleep(AFTER)
    return before, stored, lying, answered, (a, b)


def at_rest(node, key):
    """Of a destruction it has done its own part."""
    with node.http("admin-1") as h:
        states = [v["state"] for v in h.key(key)["versions"]]
    return "scheduled" not in states and (
        "destroying" not in states or not any(":v1" in o for o in objects(node, key)))


ROTATE = {
    "staging": (at_commit, 1),
    "making the object": (at_token, 1),
    "storing the canary": (at_commit, 2),
    "waiting for the proof": (at_proof, None),
    "activating": (at_commit, 3),
    "activating long ago": (past_its_own_deadline, 3),
}


@pytest.mark.parametrize("where", ROTATE, ids=[n.replace(" ", "-") for n in ROTATE])
def test_an_active_that_was_suspended_in_a_rotation_finishes_nothing_of_it(pair, faults, where):
    key = "turned-" + where.replace(" ", "-")
    with pair.http("admin-1", first=pair.active()) as h:
        h.create_key(key)
    with Load(pair, keys=("demo", key)):
        before, stored, lying, answered, (a, b) = suspended_beyond_its_lease(
            pair, faults, key, ROTATE[where], rotate)
        assert answered in NOT_DONE
        assert record(pair, key) == stored, "its late commit was taken"
        assert objects(b, key) == lying
        assert not touched(faults, a, CREATES)
        for node in (a, b):
            now = as_seen(node, key)
            assert (now["primary"], now["activation"]) == (before["primary"], before["activation"])
            assert ("enabled" not in [s for n, s in now["states"] if n > 1]), now
        # Whoever asks again gets what was begun finished, by the node that may.
        settled(pair)
        with pair.http("admin-1", first=a) as h:
            done = h.rotate(key)
        assert done["activation"] == before["activation"] + 1
        assert len(done["versions"]) == 2


DESTROY = {
    "scheduling": (at_commit, 1),
    "beginning": (at_commit, 2),
    "destroying the object": (at_token, 2),
    "telling its end": (at_commit, 3),
}


@pytest.mark.parametrize("where", DESTROY, ids=[n.replace(" ", "-") for n in DESTROY])
def test_an_active_that_was_suspended_in_a_destruction_does_nothing_of_it(pair, faults, where):
    key = "ended-" + where.replace(" ", "-")
    with pair.http("admin-1", first=pair.active()) as h:
        old_version(h, key)
    with Load(pair, keys=("demo", key)):
        _, stored, lying, answered, (a, b) = suspended_beyond_its_lease(
            pair, faults, key, DESTROY[where], destroy)
        assert not touched(faults, a, DESTROYS)
        assert objects(b, key) == lying
        if where == "scheduling":
            assert answered in NOT_DONE
            assert record(pair, key) == stored, "its late commit was taken"
            assert as_seen(b, key)["states"][0] == (1, "disabled") and len(lying) == 3
            return
        # What was committed before is finished by the other, with the one that is back.
        with pair.http("admin-1", first=b) as h:
            wait_for(lambda: as_seen(b, key)["states"][0] == (1, "destroyed"), "it has ended", 30)
            version = next(v for v in h.key(key)["versions"] if v["version"] == 1)
        assert sorted(version["destroy"]["confirmed"]) == sorted(n.name for n in pair.nodes)
        assert len(objects(b, key)) == 2


# ---- without a change under way ----

def test_an_active_that_was_suspended_for_less_than_its_lease_is_the_active_still(pair):
    a, b = settled(pair)
    epoch = pair.epoch()
    with Load(pair) as load:
        for _ in range(3):
            load.rotates()
            a.suspend()
            time.sleep(LEASE / 4)
            a.resume()
        load.rotates()
        assert pair.epoch() == epoch
    assert pair.roles() == (a, b)


def test_nodes_that_were_both_suspended_beyond_their_leases_agree_on_one_active(pair):
    epoch = pair.epoch()
    for node in pair.nodes:
        node.suspend()
    wait_for(lambda: pair.leader() is None, "no lease is left", LEASE + 10)
    for node in pair.nodes:
        node.resume()
    a, b = settled(pair)
    assert pair.epoch() > epoch and pair.leader() == a.name and not b.is_active()
    with Load(pair) as load:
        load.rotates()
