# SPDX-License-Identifier: Apache-2.0
"""What stands between the nodes, their etcd and their clients fails: cut, silent, slow, without
quorum, compacted, lost, put back. No client that knows both nodes is refused a data key."""

import http.client
import time

import pytest

from etcd import PRESENT
from kekd import kill, signal, spiffe, wait_for
from pair import LEASE
from pair_load import Load, settled
from proxy import Proxy

pytestmark = pytest.mark.skipif(not PRESENT, reason="etcd is not installed")

BEYOND = 2  # s, after the lease
RENEWED_BY = LEASE + 10  # s: from silence to a new connection, on a busy machine
FAULTS = {"cut": lambda way: way.cut(), "silent": lambda way: way.stall()}


@pytest.fixture
def pair(make_pair):
    pair = make_pair().start()
    settled(pair)
    return pair


def serves(node, data=b"secret"):
    """This very node wraps and unwraps."""
    with node.http("app") as h:
        return h.unwrap(h.wrap(data)) == data


def change(node, labels):
    """What a change is answered by this node alone: (status, code)."""
    with node.http("admin-1", timeout=20) as h:
        etag = h.ok("GET", "/v1/keys/demo").etag
        reply = h.call("PATCH", "/v1/keys/demo", {"labels": labels}, etag=etag)
        return reply.status, reply.code


def labels(node):
    with node.http("admin-1") as h:
        return h.key()["labels"]


def hears(node, wanted):
    """Sooner or later the node has these labels of the key."""
    wait_for(lambda: labels(node) == wanted, f"{node.name} has {wanted}", RENEWED_BY)


# ---- one node is cut off from etcd ----

@pytest.mark.parametrize("fault", ["cut", "silent"])
def test_an_active_that_is_cut_off_from_etcd_serves_on_and_the_other_takes_its_place(pair, fault):
    a, b = pair.roles()
    with Load(pair) as load:
        load.rotates()
        FAULTS[fault](a.etcd)
        pair.takes_over(LEASE + BEYOND, a)
        assert not a.is_active()
        assert serves(a)
        status, code = change(a, {"made": "never"})
        assert (status, code) in ((503, "no_active"), (503, "store_unavailable"),
                                  (307, "not_active"))
        assert change(b, {"made": fault})[0] == 200
        assert labels(a) == {}
        a.etcd.heal()
        assert settled(pair, 30) == (b, a)
        hears(a, {"made": fault})
        load.rotates()


def test_an_active_that_does_not_hear_etcds_answers_does_not_keep_its_lease_for_ever(pair):
    """Its keepalives arrive, and still no other node could lead."""
    a, b = pair.roles()
    with Load(pair) as load:
        a.etcd.stall("down")
        wait_for(lambda: not a.is_active(), "it is not active any more", LEASE)
        pair.active(4 * LEASE, but=a)
        load.computes()
        a.etcd.heal()
        assert settled(pair, 30) == (b, a)
        load.rotates()


@pytest.mark.parametrize("fault", ["cut", "silent"])
def test_a_standby_that_is_cut_off_from_etcd_serves_on_and_changes_no_role(pair, fault):
    a, b = pair.roles()
    epoch = pair.epoch()
    with Load(pair) as load:
        load.rotates()
        FAULTS[fault](b.etcd)
        time.sleep(LEASE + BEYOND)
        assert pair.active() is a and pair.epoch() == epoch
        assert serves(b)
        assert change(a, {"made": "meanwhile"})[0] == 200
        # A rotation needs every member, and says which one it lacks.
        wait_for(lambda: any(o.op == "rotate" and o.code == "member_unproven" and b.name in o.detail
                             for o in load.history), "rotations wait for the other", 20)
        b.etcd.heal()
        assert settled(pair, 30) == (a, b)
        hears(b, {"made": "meanwhile"})
        load.rotates()
    assert pair.epoch() == epoch


def test_both_nodes_cut_off_serve_on_make_no_change_and_one_leads_when_etcd_is_back(pair):
    with Load(pair) as load:
        load.rotates()
        epoch = pair.epoch()
        for node in pair.nodes:
            node.etcd.cut()
        wait_for(lambda: not any(n.is_active() for n in pair.nodes), "nobody is active", LEASE + 1)
        for node in pair.nodes:
            assert serves(node)
            assert change(node, {"made": "never"})[0] in (307, 503)
        time.sleep(2)
        for node in pair.nodes:
            node.etcd.heal()
        settled(pair, 30)
        assert pair.epoch() > epoch
        load.rotates()
        assert labels(pair.active()) == {}


# ---- the reverse: clients do not reach the node, etcd does ----

class Door:
    """A node as its clients see it, through a proxy."""

    def __init__(self, node):
        self.node, self.pki = node, node.pki
        self.way = Proxy(node.port)
        self.port = self.way.port
        node.settings["url"] = f"https://127.0.0.1:{self.port}"
        node.write_config()


@pytest.fixture
def doors(make_pair):
    pair = make_pair()
    found = [Door(n) for n in pair.nodes]
    settled(pair.start())
    yield pair, found
    for d in found:
        d.way.close()


@pytest.mark.parametrize("fault", ["cut", "silent"])
def test_an_active_that_no_client_reaches_keeps_its_role_until_somebody_promotes_the_other(
        doors, fault):
    pair, doors = doors
    a, b = pair.roles()
    door = next(d for d in doors if d.node is a)
    with Load(pair, nodes=doors) as load:
        load.rotates()
        FAULTS[fault](door.way)
        time.sleep(LEASE + BEYOND)
        assert pair.leader() == a.name
        load.computes()
        assert serves(b)
        status, code = change(b, {"made": "never"})
        assert (status, code) == (307, "not_active")
        b.kekctl("cluster", "promote")
        assert b.is_active()
        assert change(b, {"made": fault})[0] == 200
        load.rotates()
        door.way.heal()
        assert settled(pair) == (b, a)
        load.rotates()
        hears(a, {"made": fault})


# ---- etcd itself ----

@pytest.mark.parametrize("end", ["suspended", "killed"])
def test_without_quorum_of_etcd_every_node_serves_on_and_changes_wait(make_pair, end):
    pair = make_pair(members=3).start()
    settled(pair)
    with Load(pair) as load:
        load.rotates()
        leader = pair.etcd.leader()
        gone = [leader, next(m for m in pair.etcd.members if m is not leader)]
        for m in gone:
            m.suspend() if end == "suspended" else m.kill()
        wait_for(lambda: not any(n.is_active() for n in pair.nodes), "nobody is active",
                 LEASE + BEYOND)
        for node in pair.nodes:
            assert serves(node)
            assert change(node, {"made": "never"})[0] in (307, 503)
        time.sleep(1)
        for m in gone:
            m.resume() if end == "suspended" else m.start()
        settled(pair, 40)
        load.rotates()
        assert labels(pair.active()) == {}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_node_that_loses_one_member_of_etcd_after_the_other_goes_on_with_the_next(
        make_pair, fault):
    pair = make_pair(members=3).start()
    a, b = settled(pair)
    epoch = pair.epoch()
    with Load(pair) as load:
        load.rotates()
        for number in range(3):
            for node in pair.nodes:
                FAULTS[fault](node.etcd.all[number])
            load.rotates()
            load.rotates()
            for node in pair.nodes:
                node.etcd.all[number].heal()
        assert pair.leader() == a.name and pair.epoch() == epoch
    assert settled(pair) == (a, b)


def test_an_etcd_that_takes_a_second_for_each_call_costs_time_and_no_role(pair):
    a, b = pair.roles()
    epoch = pair.epoch()
    with Load(pair, change_timeout=60) as load:
        load.rotates()
        for node in pair.nodes:
            node.etcd.delay(1)
        time.sleep(2 * LEASE)
        load.rotates(60)
        assert pair.leader() == a.name and pair.epoch() == epoch
        for node in pair.nodes:
            assert serves(node)
            node.etcd.delay(0)
        load.rotates()
    assert settled(pair) == (a, b) and pair.epoch() == epoch


@pytest.mark.parametrize("who", ["active", "standby"])
def test_what_was_compacted_while_a_node_was_cut_off_it_reads_anew(pair, who):
    a, b = pair.roles()
    cut, other = (a, b) if who == "active" else (b, a)
    with pair.http("admin-1", first=a) as h:
        h.put_client("leaver", ["uri:" + spiffe("other")], [{"keys": "*", "operations": ["wrap"]}])
    with Load(pair) as load:
        load.rotates()
        cut.etcd.cut()
        pair.active(LEASE + BEYOND, but=cut)
        for n in range(20):
            assert change(other, {"made": str(n)})[0] == 200
        with other.http("admin-1") as h:
            etag = h.ok("GET", "/v1/clients/leaver").etag
            h.ok("DELETE", "/v1/clients/leaver", etag=etag)
        pair.etcd.compact()
        assert change(other, {"made": "last"})[0] == 200
        cut.etcd.heal()
        hears(cut, {"made": "last"})
        with cut.http("admin-1") as h:
            assert h.get("/v1/clients/leaver").status == 404
        assert settled(pair, 30) == (other, cut)
        load.rotates()


# ---- a client that is revoked ----

def revoked(node, name="other"):
    """The code that this node refuses the client with; None: it serves."""
    with node.http(name) as h:
        reply = h.call("POST", "/v1/keys/demo/wrap", {"plaintext": "eA=="})
        return reply.code if reply.status == 403 else None


@pytest.fixture
def leaver(pair):
    """A client that both nodes serve."""
    with pair.http("admin-1", first=pair.active()) as h:
        h.put_client("leaver", ["uri:" + spiffe("other")], [{"keys": "*", "operations": ["wrap"]}])
    for node in pair.nodes:
        wait_for(lambda node=node: not revoked(node), f"{node.name} serves it", 10)
    return "leaver"


def delete_client(node, name):
    with node.http("admin-1") as h:
        h.ok("DELETE", f"/v1/clients/{name}", etag=h.ok("GET", f"/v1/clients/{name}").etag)


def test_a_client_revoked_while_a_node_is_cut_off_is_refused_there_when_it_hears_of_it(
        pair, leaver):
    a, b = pair.roles()
    with Load(pair, rotate=None):
        b.etcd.cut()
        delete_client(a, leaver)
        assert revoked(a) == "unknown_client"
        assert not revoked(b)  # it cannot know
        b.etcd.heal()
        wait_for(lambda: revoked(b), "it has heard of it", RENEWED_BY)
        assert revoked(b) == "unknown_client"


def test_a_client_revoked_while_a_node_is_cut_off_is_refused_there_at_once_by_its_deny_list(
        pair, leaver):
    a, b = pair.roles()
    with Load(pair, rotate=None):
        b.etcd.stall()
        delete_client(a, leaver)
        assert not revoked(b)
        b.settings["deny"] = ["uri:" + spiffe("other")]
        b.write_config()
        kill(b.process.pid, signal.SIGHUP)
        wait_for(lambda: revoked(b) == "identity_denied", "it is refused", 3)
        b.etcd.heal()
        settled(pair, 30)
        del b.settings["deny"]
        b.write_config()
        kill(b.process.pid, signal.SIGHUP)
        wait_for(lambda: revoked(b) == "unknown_client", "the list is empty again", 5)


# ---- etcd is gone for good, or not what it was ----

def held(node):
    try:
        return node.status()["store"]["held"]
    except (OSError, AssertionError, http.client.HTTPException):
        return None


def test_etcd_gone_for_good_nodes_restarted_and_a_snapshot_put_back_lose_no_data_key(make_pair):
    pair = make_pair(members=3).start()
    a, b = settled(pair)
    with Load(pair, rotate=None) as load:
        load.computes()
        with pair.http("admin-1", first=a) as h:
            h.create_key("turned")
            h.rotate("turned")
        snapshot = pair.etcd.snapshot()
        with pair.http("admin-1", first=a) as h:
            lost = h.rotate("turned")
        with pair.http("app", first=a) as h:
            blob = h.wrap(b"after the snapshot", "turned")
        wait_for(lambda: served(b, blob), "the other node has the version too", 10)
        pair.etcd.lose()
        wait_for(lambda: not any(n.is_active() for n in pair.nodes), "nobody is active", LEASE + 1)
        for node in pair.nodes:
            assert serves(node)
        a.stop()
        load.computes()
        a.start()
        b.kill_all()
        load.computes()
        b.start()
        for node in pair.nodes:
            assert served(node, blob)
            assert change(node, {"made": "never"})[0] in (307, 503)
        pair.etcd.restore(snapshot)
        for node in pair.nodes:
            wait_for(lambda node=node: held(node), f"{node.name} holds what was put back", 30)
            assert served(node, blob)
            assert change(node, {"made": "never"})[0] in (307, 503)
        a.kekctl("cluster", "confirm")
        settled(pair, 60)
        for node in pair.nodes:
            wait_for(lambda node=node: serves(node), f"{node.name} wraps again", 10)
        # What was made after the snapshot is in the token, and is taken in from there.
        assert not served(a, blob)
        pair.kekctl("key", "adopt", "turned")
        for node in pair.nodes:
            wait_for(lambda node=node: served(node, blob), f"{node.name} unwraps it again", 10)
        with pair.http("admin-1", first=a) as h:
            assert h.rotate("turned")["activation"] > lost["activation"]
            assert change(pair.active(), {"made": "again"})[0] == 200


def served(node, blob):
    with node.http("app") as h:
        return h.try_unwrap(blob, "turned").status == 200


def test_an_empty_etcd_in_place_of_the_right_one_is_not_taken_for_it(pair):
    with Load(pair, rotate=None) as load:
        pair.etcd.lose()
        pair.etcd.start()
        time.sleep(LEASE + BEYOND)
        load.computes()
        for node in pair.nodes:
            assert serves(node)
            assert not node.is_active()
            assert change(node, {"made": "never"})[0] in (307, 503)
        assert not pair.etcd.all("keys/")
