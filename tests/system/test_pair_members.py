# SPDX-License-Identifier: Apache-2.0
"""The members of a pair and their tokens: what each has proven, what rotations and ends of versions
wait for, and what becomes of a node whose token is another one."""

import json
import os
import signal
import threading
import time

import pytest

from kekd import FAULTY_MODULE, Faults, alive, kill, wait_for
from test_destroy import destroy, objects, set_wait, state, version

LEASE = 2
STORE = {"lease": f"{LEASE}s"}
NOT_IN_USE = ("destroyed", "abandoned")


@pytest.fixture(scope="module")
def pair(make_shared_pair):
    """Both on one token."""
    return make_shared_pair(store=STORE).start()


@pytest.fixture
def roles(pair):
    """(active, standby), both well."""
    for node in pair.nodes:
        if node.process is None:
            node.start(ready=False)
    for node in pair.nodes:
        node.wait_ready()
    active, standby = pair.roles()
    with active.http("admin-1") as admin:
        wait_for(lambda: member(admin, standby.name)["present"], "both are there", 15)
    return active, standby


def begin_with(pair):
    """The first node, alone as yet."""
    pair.nodes[0].init().start()
    return pair.active().populate()


def member(h, name):
    return next(m for m in h.ok("GET", "/v1/cluster").json["members"] if m["node"] == name)


def proven(h, name):
    """How many versions, if that is all that it knows of; else 0."""
    proofs = member(h, name)["proofs"]
    return (proofs["total"] if proofs and proofs["failing"] == [] and proofs["revision"] > 0
            and proofs["proven"] == proofs["total"] else 0)


def wait_proven(h, name, seconds=20):
    wait_for(lambda: proven(h, name), f"{name} has proven everything", seconds)


def used_keys(h):
    return [k["name"] for k in h.ok("GET", "/v1/keys").json["keys"]]


def try_rotate(h, key="demo"):
    return h.call("POST", f"/v1/keys/{key}/rotate", {}, etag="*")


def staged(h, key="demo"):
    return [v for v in h.key(key)["versions"] if v["state"] == "staged"]


def absent(h, node):
    wait_for(lambda: not member(h, node.name)["present"], f"{node.name} is away", 3 * LEASE + 5)


def net_only(node, number):
    kill(node.net(), number)


# ---- proofs ----

def test_both_nodes_prove_every_version_and_say_so(pair, roles):
    active, standby = roles
    with active.http("admin-1") as admin, standby.http("admin-1") as other:
        for n in range(5):
            admin.create_key(f"proven-{n}")
        total = sum(len([v for v in admin.key(k)["versions"] if v["state"] not in NOT_IN_USE])
                    for k in used_keys(admin))
        for name in (active.name, standby.name):
            for h in (admin, other):
                wait_for(lambda h=h, name=name: proven(h, name) == total, f"{name} has all", 20)
        assert other.status()["versions"] == {"total": total, "proven": total, "failed": 0}
        serials = {t["serial"] for n in pair.nodes for t in member(admin, n.name)["tokens"]}
        assert len(serials) == 1
        wait_for(lambda: admin.status()["copies"] == {
            "least": 1, "versions": [{"tokens": 1, "versions": total}]}, "counted", 10)
    shown = pair.kekctl("cluster", "status").stdout.decode()
    assert f"{total}/{total}" in shown and "at least 1 token" in shown
    metrics = active.kekctl("metrics", "kekd_version_copies").stdout.decode()
    assert f'kekd_version_copies{{tokens="1"}} {total}' in metrics, metrics
    assert "kekd_version_copies_least 1" in metrics


def test_a_rotation_waits_for_the_standbys_proof_of_what_is_stored(pair, roles):
    active, standby = roles
    with active.http("admin-1") as admin:
        admin.create_key("waits")
        before = pair.etcd.entry("keys/waits")["mod_revision"]
        first = admin.key("waits")["primary"]
        answer = []

        def rotate():
            with active.http("admin-1") as h:
                answer.append((h.rotate("waits"), time.monotonic()))

        net_only(standby, signal.SIGSTOP)
        rotating = threading.Thread(target=rotate)
        rotating.start()
        wait_for(lambda: staged(admin, "waits"), "the version is staged", 5)
        time.sleep(0.5)
        assert admin.key("waits")["primary"] == first and not answer
        stored = pair.etcd.entry("keys/waits")["mod_revision"]
        resumed = time.monotonic()
        net_only(standby, signal.SIGCONT)
        rotating.join(15)
        assert answer and answer[0][1] > resumed
        key = admin.key("waits")
        assert [v["state"] for v in key["versions"]] == ["enabled", "enabled"]
        after = pair.etcd.entry("keys/waits")["mod_revision"]
        assert before < stored < after
        # In between, and nowhere else, is the standby's word.
        revisions = told_of(pair, standby.name)
        assert any(stored < r < after for r in revisions), (stored, after, revisions)


def told_of(pair, name):
    """The revisions at which the member's record was written, as far as etcd has them still."""
    found, revision = [], pair.etcd.entry(f"members/{name}")["mod_revision"]
    while revision and len(found) < 50:
        found.append(revision)
        kvs = pair.etcd.range(pair.etcd.full(f"members/{name}"), revision=revision - 1).get("kvs")
        revision = pair.etcd.decoded(kvs[0])["mod_revision"] if kvs else 0
    return found


def test_rotations_of_a_pair_are_quick(pair, roles):
    active, _ = roles
    with active.http("admin-1") as admin:
        admin.create_key("quick")
        begin = time.monotonic()
        for _ in range(10):
            admin.rotate("quick")
        assert time.monotonic() - begin < 10


def test_a_suspended_standby_fails_rotations_cleanly_until_it_is_back(pair, roles):
    active, standby = roles
    with active.http("admin-1") as admin, active.http("app") as app:
        admin.create_key("stuck")
        standby.suspend()
        begin = time.monotonic()
        reply = try_rotate(admin, "stuck")
        assert (reply.status, reply.code) == (409, "member_unproven"), reply
        assert standby.name in reply.json["detail"] and "forget" in reply.json["detail"]
        assert time.monotonic() - begin < 13
        left, = staged(admin, "stuck")
        assert admin.key("stuck")["primary"] == 1
        assert app.unwrap(app.wrap(b"x", key="stuck"), key="stuck") == b"x"
        absent(admin, standby)
        begin = time.monotonic()
        reply = try_rotate(admin, "stuck")
        assert reply.code == "member_unproven" and "not there" in reply.json["detail"]
        assert time.monotonic() - begin < 3
        standby.resume()
        wait_for(lambda: try_rotate(admin, "stuck").status == 200, "it rotates again", 20)
        key = admin.key("stuck")
        assert key["primary"] == 2 and len(key["versions"]) == 2
        assert version(admin, 2, "stuck")["id"] == left["id"]


def test_a_killed_standby_does_the_same(pair, roles):
    active, standby = roles
    with active.http("admin-1") as admin:
        admin.create_key("killed")
        standby.kill_all()
        absent(admin, standby)
        reply = try_rotate(admin, "killed")
        assert (reply.status, reply.code) == (409, "member_unproven"), reply
        done = active.kekctl("key", "rotate", "killed", status=None)
        assert done.returncode != 0 and b"forget" in done.stderr, done.stderr
        left, = staged(admin, "killed")
        standby.start()
        wait_for(lambda: try_rotate(admin, "killed").status == 200, "it rotates again", 20)
        assert version(admin, 2, "killed")["id"] == left["id"]


def test_what_is_disabled_at_the_active_is_refused_by_the_standby_within_a_second(pair, roles):
    active, standby = roles
    with active.http("admin-1") as admin, standby.http("app") as app:
        admin.create_key("off")
        wait_for(lambda: app.call("POST", "/v1/keys/off/wrap", {"plaintext": "eA=="}).status == 200,
                 "the standby has the key", 5)
        blob = app.wrap(b"x", key="off")
        for _ in range(20):  # each worker has a copy
            assert app.unwrap(blob, key="off") == b"x"
        admin.rotate("off")
        etag = admin.ok("GET", "/v1/keys/off").etag
        admin.ok("POST", "/v1/keys/off/versions/1/disable", {}, etag=etag)
        wait_for(lambda: app.try_unwrap(blob, key="off").code == "version_not_enabled",
                 "it is refused", 1)
        for _ in range(20):
            assert app.try_unwrap(blob, key="off").code == "version_not_enabled"
        admin.change("off", "versions/1/enable")
        wait_for(lambda: app.try_unwrap(blob, key="off").status == 200, "it is back", 2)


def test_the_standbys_workers_drop_their_copies_of_what_the_active_disables(make_pair, tmp_path):
    faults = Faults(str(tmp_path))
    pair = make_pair(nodes=1, store=STORE)
    begin_with(pair)
    pair.settings = {"module": FAULTY_MODULE, "environment": faults.environment}
    standby = pair.make_node()
    pair.join(standby)
    active = pair.nodes[0]
    if not active.is_active():
        pair.kekctl("cluster", "step-down")
        wait_for(active.is_active, "the first one leads", 20)
    with active.http("admin-1") as admin, standby.http("app") as app:
        admin.rotate()
        for _ in range(20):
            app.wrap(b"x")
        wait_for(lambda: proven(admin, standby.name) == 2, "it has proven both", 10)
        before = len(faults.calls("C_DestroyObject"))
        etag = admin.ok("GET", "/v1/keys/demo").etag
        admin.ok("POST", "/v1/keys/demo/versions/1/disable", {}, etag=etag)
        wait_for(lambda: len(faults.calls("C_DestroyObject")) > before, "a copy is dropped", 1)
    assert "kekd:test:demo:v1" in objects(standby)


# ---- the end of a version ----

def old_version(h, key):
    h.create_key(key)
    h.rotate(key)
    h.rotate(key)
    h.change(key, "versions/1/disable")


def schedule(h, key):
    """As soon as every member has told who used what."""
    wait_for(lambda: destroy(h, 1, key).status == 200, f"{key}/1 is scheduled", 90, 0.5)


def test_a_version_goes_from_every_members_token_and_an_absent_one_comes_after(make_pair):
    pair = make_pair(store=STORE).start()
    active, standby = pair.roles()
    with active.http("admin-1") as admin:
        for key in ("both", "later"):
            old_version(admin, key)
        standby.stop()
        if standby is pair.nodes[0]:  # its directory is the other's too
            standby, active = active, standby
        standby.stop()
        standby.clone_token(active)
    for node in pair.nodes:
        if node.process is None:
            node.start()
    active, standby = pair.roles()
    with active.http("admin-1") as admin:
        wait_proven(admin, standby.name)
    for node in (active, standby):
        assert "kekd:test:both:v1" in objects(node)
    with active.http("admin-1") as admin, standby.http("admin-1") as other:
        schedule(admin, "both")
        wait_for(lambda: state(admin, "both") == "destroyed", "it is destroyed", 15)
        confirmed = version(admin, 1, "both")["destroy"]["confirmed"]
        assert sorted(confirmed) == sorted([active.name, standby.name])
        for node in (active, standby):
            assert "kekd:test:both:v1" not in objects(node)
            assert "kekd:test:both:v2" in objects(node)
        wait_for(lambda: state(other, "both") == "destroyed", "the standby hears of it", 5)
        told = standby.audit_records(operation="version.destroy", key="both")
        assert [r["type"] for r in told] == ["intent", "outcome"]
    standby.stop()
    with active.http("admin-1") as admin:
        absent(admin, standby)
        schedule(admin, "later")
        wait_for(lambda: "kekd:test:later:v1" not in objects(active), "it is gone here", 15)
        assert state(admin, "later") == "destroying"
        wait_for(lambda: version(admin, 1, "later")["destroy"]["confirmed"] == [active.name],
                 "it says so")
        assert "kekd:test:later:v1" in objects(standby)
        standby.start(ready=False)
        wait_for(lambda: state(admin, "later") == "destroyed", "the other one finished", 20)
        assert "kekd:test:later:v1" not in objects(standby)


def test_who_is_forgotten_is_not_waited_for(make_pair):
    pair = make_pair(store=STORE).start()
    active, standby = pair.roles()
    with active.http("admin-1") as admin:
        old_version(admin, "gone")
        standby.stop()
        absent(admin, standby)
        assert try_rotate(admin).code == "member_unproven"
        schedule(admin, "gone")
        wait_for(lambda: version(admin, 1, "gone")["destroy"]["confirmed"] == [active.name],
                 "it is gone from the active's", 15)
        active.kekctl("cluster", "forget", standby.name, "--yes")
        wait_for(lambda: state(admin, "gone") == "destroyed", "nobody is waited for", 10)
        assert try_rotate(admin).status == 200
        assert admin.key("demo")["primary"] == 2


# ---- another token ----

def test_a_standby_with_a_token_of_its_own_blocks_rotations_until_that_is_a_clone(make_pair):
    pair = make_pair(store=STORE, shared_token=False)
    first, second = pair.nodes
    begin_with(pair)
    pair.join(second, ready=False)
    with first.http("admin-1") as admin:
        # It has not even the key that seals the metadata.
        wait_for(lambda: second.health()[0] == 503, "it answers", 10)
        time.sleep(2)
        status, body = second.health()
        assert status == 503 and "seal" in json.dumps(body["reasons"]), body
        reply = try_rotate(admin)
        assert (reply.status, reply.code) == (409, "member_unproven"), reply
        assert second.name in reply.json["detail"]
        second.stop()
        # What was staged is in the clone.
        first.stop()
        second.clone_token(first)
        for node in pair.nodes:
            node.settings["tokens"][0]["copy"] = node.name
            node.write_config()
        first.start()
    pair.active()
    second.joined()  # what failed before for the lack of that key
    with first.http("admin-1") as admin:
        second.start()
        wait_for(lambda: try_rotate(admin).status == 200, "what was staged is in both", 20)
        wait_proven(admin, second.name)
        wait_for(lambda: admin.status()["copies"]["least"] == 2, "two tokens are told apart", 10)
        # What is made from now on is in one token alone.
        begin = time.monotonic()
        reply = try_rotate(admin)
        assert (reply.status, reply.code) == (409, "member_unproven"), reply
        assert "does not have the object" in reply.json["detail"], reply
        assert time.monotonic() - begin < 8
        left, = staged(admin)
        assert second.health()[0] == 200  # all that is in use it has
        failing, = member(admin, second.name)["proofs"]["failing"]
        assert (failing["key"], failing["version"]) == ("demo", left["version"])
        assert failing["code"] == "key_object_missing"
        shown = pair.kekctl("cluster", "status")
        assert b"has not proven demo version 3" in shown.stdout + shown.stderr
        copy_new_objects(first, second)
        wait_for(lambda: try_rotate(admin).status == 200, "the clone is up to date", 20)
        assert version(admin, 3)["id"] == left["id"]


def copy_new_objects(source, target):
    """What a vendor's synchronisation does while both run."""
    for token in os.listdir(source.path("tokens")):
        for name in sorted(os.listdir(source.path("tokens", token))):
            there = target.path("tokens", token, name)
            if name.endswith(".object") and not os.path.exists(there):
                with open(source.path("tokens", token, name), "rb") as f:
                    data = f.read()
                with open(there, "wb") as f:
                    f.write(data)
                os.chmod(there, 0o600)
    touch_generation(target)


def touch_generation(node):
    """SoftHSM looks for new files when this number has changed."""
    for token in os.listdir(node.path("tokens")):
        path = node.path("tokens", token, "generation")
        if os.path.exists(path):
            with open(path, "r+b") as f:
                number = int.from_bytes(f.read(8), "big") + 1
                f.seek(0)
                f.write(number.to_bytes(8, "big"))


def test_a_standby_whose_token_lacks_a_version_is_not_ready_and_does_not_lead(make_pair):
    pair = make_pair(store=STORE, shared_token=False)
    first, second = pair.nodes
    first.init().start()
    first.stop()
    second.clone_token(first)  # with the seal key, and nothing else
    first.start()
    pair.active()
    first.populate()
    pair.join(second, ready=False)
    with first.http("admin-1") as admin:
        wait_for(lambda: member(admin, second.name)["proofs"] is not None
                 and member(admin, second.name)["proofs"]["failing"], "it looked", 20)
        status, body = second.health()
        assert status == 503 and "proven" in json.dumps(body["reasons"]), body
        wait_for(lambda: "proven in its tokens" in (member(admin, second.name)["reason"] or ""),
                 "it says why", 10)
        said = member(admin, second.name)
        assert said["present"] and said["ready"] is False, said
        assert try_rotate(admin).code == "member_unproven"
        wait_for(lambda: admin.status()["copies"]["least"] == 1, "one token has them", 10)
        metrics = first.kekctl("metrics", "kekd_member_unproven").stdout.decode()
        assert f'kekd_member_unproven_versions{{member="{second.name}"}} 1' in metrics, metrics
    first.kill_all()
    time.sleep(LEASE + 3)
    assert not second.is_active() and pair.leader() is None
    done = second.kekctl("cluster", "promote", status=None)
    assert done.returncode != 0 and b"not ready" in done.stderr, done.stderr
    assert not second.is_active()
    second.kekctl("cluster", "promote", "--force")
    wait_for(lambda: pair.leader() == second.name, "it leads by force", 10)
    told = [r for r in second.audit_records(operation="cluster.promote") if r["type"] == "outcome"]
    assert told[-1]["detail"]["forced"] is True


# ---- the lease and the token ----

@pytest.mark.parametrize("what", ["create", "destroy"])
def test_a_suspended_actives_token_is_not_touched_past_its_lease(make_pair, tmp_path, what):
    faults = Faults(str(tmp_path))
    pair = make_pair(nodes=1, store=STORE, module=FAULTY_MODULE, environment=faults.environment,
                     hsm={"deadline": "15s"})
    begin_with(pair)
    pair.settings = {}
    pair.join(pair.make_node())
    active, standby = pair.roles()
    if active is not pair.nodes[0]:
        pair.kekctl("cluster", "step-down")
        active, standby = wait_for(
            lambda: pair.nodes[0].is_active() and (pair.nodes[0], pair.nodes[1]), "roles", 20)
    with active.http("admin-1") as admin:
        old_version(admin, "late")
        wait_proven(admin, standby.name)
        if what == "destroy":  # on one token the standby might be the first
            standby.stop()
            standby.clone_token(active)
            standby.start()
            wait_proven(admin, standby.name)
            set_wait(admin, "4s")
            schedule(admin, "late")
    before = objects(active)
    # The worker has looked for the object: there it is kept, and kekd-net is suspended.
    faults.forget()
    faults.set(f"C_FindObjectsFinal delay {(LEASE + 3) * 1000} times=1")

    def change():
        try:
            with active.http("admin-1", timeout=30) as h:
                if what == "create":
                    try_rotate(h, "late")
        except OSError:
            pass

    changing = threading.Thread(target=change)
    changing.start()
    wait_for(lambda: faults.calls("C_FindObjectsFinal"), "the worker is at it", 10)
    net = active.net()
    kill(net, signal.SIGSTOP)
    try:
        pair.active(20, but=active)
        time.sleep(LEASE + 2)
        if what == "create":
            assert objects(standby) == before
    finally:
        kill(net, signal.SIGCONT)
    changing.join(30)
    assert alive(net)
    try:
        wait_for(lambda: "was to begin earlier" in active.log(), "the worker refused", 15)
    except AssertionError as e:
        calls = [" ".join(line) for line in faults.lines() if "Sign" not in str(line)]
        raise AssertionError(f"{e}\n{active.log()[-1500:]}\n{calls}") from None
    wait_for(lambda: active.health("active")[0] == 503, "it does not lead any more", 10)
    assert pair.active() is standby
    if what == "create":
        with standby.http("admin-1") as admin:
            assert "kekd:test:late:v4" not in objects(standby)
            assert len(staged(admin, "late")) == 1 and admin.key("late")["primary"] == 3
            wait_for(lambda: try_rotate(admin, "late").status == 200, "it is finished", 20)
            assert len(admin.key("late")["versions"]) == 4
    else:
        with standby.http("admin-1") as admin:
            wait_for(lambda: state(admin, "late") == "destroyed", "it is finished", 30)
            assert sorted(version(admin, 1, "late")["destroy"]["confirmed"]) == [
                "node-1", "node-2"]
