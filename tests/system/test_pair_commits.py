# SPDX-License-Identifier: Apache-2.0
"""At every step of a change of a key its commit, or etcd's answer to it, is lost; or the node that
sent it is killed: what comes of it is the whole change or a part that the next attempt finishes."""

import pytest

from etcd import PRESENT
from kekd import wait_for
from pair import LEASE
from pair_change import hold_commit, rotate
from pair_load import Load, logs_verify, settled

pytestmark = pytest.mark.skipif(not PRESENT, reason="etcd is not installed")
STEPS = {"staging": 1, "canary": 2, "activating": 3}


@pytest.fixture(scope="module")
def shared_pair(make_shared_pair):
    return make_shared_pair().start()


@pytest.fixture
def pair(shared_pair):
    for node in shared_pair.nodes:
        if node.process is None:
            node.start()
    settled(shared_pair)
    yield shared_pair
    for node in shared_pair.nodes:
        node.etcd.heal()


def new_key(pair, name):
    with pair.http("admin-1", first=pair.active()) as h:
        h.create_key(name)
    return name


def rotated_once(pair, key, activation):
    """Whoever asks until it is done has rotated it once; the key as it is then."""
    def done():
        with pair.http("admin-1", first=pair.active()) as h:
            if h.key(key)["activation"] == activation:
                return True
            etag = h.ok("GET", f"/v1/keys/{key}").etag
            reply = h.call("POST", f"/v1/keys/{key}/rotate", {}, etag=etag)
            assert reply.status in (200, 409, 412, 503), reply
        return False
    wait_for(done, f"{key} is rotated", 30, 0.1)
    for node in pair.running():
        wait_for(lambda node=node: as_told(node, key)["activation"] == activation,
                 f"{node.name} knows of it", 10)
    return as_told(pair.active(), key)


def as_told(node, key):
    with node.http("admin-1") as h:
        return h.key(key)


@pytest.mark.parametrize("loss", ["request", "answer"])
@pytest.mark.parametrize("step", STEPS)
def test_a_commit_or_its_answer_that_is_lost_leaves_one_rotation(pair, step, loss):
    a, b = pair.roles()
    epoch = pair.epoch()
    key = new_key(pair, f"lost-{loss}-{step}")
    with Load(pair, keys=("demo", key)) as load:
        asker, held = hold_commit(pair, a, key, STEPS[step], rotate)
        if loss == "request":
            held.drop()
        else:
            held.cut_answer()
        status = asker.answer()
        assert status in (200, 503)
        told = rotated_once(pair, key, 2)
        assert [v["version"] for v in told["versions"]] == [1, 2] and told["primary"] == 2
        if loss == "answer" and step == "activating":
            assert status == 200  # it found out that it was done
        load.rotates()
    assert pair.roles() == (a, b) and pair.epoch() == epoch


@pytest.mark.parametrize("step", STEPS)
def test_an_active_that_is_killed_with_a_commit_on_its_way_leaves_what_another_finishes(pair, step):
    a, b = pair.roles()
    key = new_key(pair, f"killed-{step}")
    with Load(pair, keys=("demo", key)) as load:
        asker, held = hold_commit(pair, a, key, STEPS[step], rotate)
        a.kill_all()
        held.release()  # its lease has not ended: etcd takes it, or never sees it
        assert asker.answer() == 0
        pair.active(LEASE + 10, but=a)
        a.etcd.heal()
        a.start()
        assert settled(pair) == (b, a)
        told = rotated_once(pair, key, 2)
        assert [v["version"] for v in told["versions"]] == [1, 2] and told["primary"] == 2
        load.rotates()


def test_both_nodes_killed_at_once_lose_nothing_that_was_acknowledged(pair):
    key = new_key(pair, "both")
    with pair.http("admin-1", first=pair.active()) as h:
        done = [h.rotate(key)["activation"] for _ in range(3)]
    with pair.http("app") as h:
        blob = h.wrap(b"kept", key)
    for node in pair.nodes:
        node.kill_all()
    for node in pair.nodes:
        node.start(ready=False)
    settled(pair, 40)
    for node in pair.nodes:
        assert as_told(node, key)["activation"] == done[-1]
        with node.http("app") as h:
            assert h.unwrap(blob, key) == b"kept"
    with pair.http("admin-1", first=pair.active()) as h:
        assert h.rotate(key)["activation"] == done[-1] + 1
    logs_verify(pair)
