# SPDX-License-Identifier: Apache-2.0
"""A second token taken into use while the first goes on unwrapping: rotating onto it, rewrapping
between the two, and the seals moved, so that the first can go."""

import os
import random
import signal
import threading
import time

import pytest

from kekd import b64, children, comm, kill, unb64, wait_for

SEED = int(os.environ.get("KEKD_TEST_SEED", "0")) or random.randrange(1, 2**32)


def out(done):
    return done.stdout.decode()


@pytest.fixture
def two(make_server):
    return make_server(tokens=("main", "second")).init().start().populate()


def rewrap(app, blob, key="demo"):
    reply = app.ok("POST", f"/v1/keys/{key}/rewrap", {"ciphertext": b64(blob)})
    return unb64(reply.json["ciphertext"]), reply.json


def rotate_to(admin, token, key="demo"):
    return admin.change(key, "rotate", {"token": token}).json


def reseal(admin, token):
    etag = admin.ok("GET", "/v1/cluster").etag
    return admin.ok("POST", "/v1/cluster/reseal", {"token": token}, etag=etag).json


def signing_key(admin):
    """Its fingerprint, while it signs."""
    signing = admin.status()["audit"]["signing"]
    return signing["key"] if signing["state"] == "ready" else None


def workers_of(server, token):
    """Those whose command line, environment or files tell nothing: by what the status says."""
    with server.http("admin-1") as admin:
        tokens = {t["name"]: t for t in admin.status()["tokens"]}
    return [w["pid"] for w in tokens[token]["workers"]]


def destroy_token(server, token):
    """Its objects are gone, as a decommissioned HSM's are."""
    server.softhsm("--delete-token", "--token", token)


# ---- rotating onto it ----

def test_a_key_rotates_onto_a_second_token_while_the_first_goes_on_unwrapping(two):
    with two.http("admin-1") as admin, two.http("app") as app:
        old = app.wrap(b"old")
        plan = admin.change("demo", "rotate", {"dry_run": True, "token": "second"}).json
        assert plan["token"] == "second" and plan["token_ready"] is True
        key = rotate_to(admin, "second")
        assert [v["token"] for v in key["versions"]] == ["main", "second"] and key["primary"] == 2
        new = app.wrap(b"new")
        assert app.unwrap(old) == b"old" and app.unwrap(new) == b"new"
        assert key["versions"][1]["object_id"] in two.pkcs11_tool(
            "--list-objects", token="second").replace(":", "").lower()


def test_a_dek_is_rewrapped_from_one_token_to_the_other_and_back(two):
    with two.http("admin-1") as admin, two.http("app") as app:
        blobs = [app.wrap(b"dek %d" % n) for n in range(20)]
        rotate_to(admin, "second")
        moved, said = rewrap(app, blobs[0])
        assert said["from_version"] == 1 and said["version"] == 2
        assert app.unwrap(moved) == b"dek 0"
        items = [{"ciphertext": b64(blob)} for blob in blobs]
        reply = app.ok("POST", "/v1/keys/demo/rewrap", {"items": items}).json["items"]
        moved = [unb64(item["ciphertext"]) for item in reply]
        admin.change("demo", "versions/1/primary")
        back = [rewrap(app, blob)[0] for blob in moved]
        assert [app.unwrap(b) for b in back] == [b"dek %d" % n for n in range(20)]


def test_a_key_stays_in_its_token_where_none_is_named(two):
    with two.http("admin-1") as admin:
        admin.create_key("there", token="second", rotate_every="2s")
        wait_for(lambda: admin.key("there")["primary"] == 2, "it rotates by itself", 10, 0.1)
        plan = admin.change("there", "rotate", {"dry_run": True}).json
        assert plan["token"] == "second"
        assert {v["token"] for v in admin.key("there")["versions"]} == {"second"}
        assert admin.change("there", "rotate", {"token": "main"}).json["versions"][-1][
            "token"] == "main"


def test_a_staged_version_in_another_token_is_given_up_for_one_in_this(two):
    with two.http("admin-1") as admin:
        admin.change("demo", "rotate", {"stage_only": True, "token": "main"})
        plan = admin.change("demo", "rotate", {"dry_run": True, "token": "second"}).json
        assert plan["abandons"] == 2 and plan["version"] == 3
        key = rotate_to(admin, "second")
        assert [v["state"] for v in key["versions"]] == ["enabled", "abandoned", "enabled"]


def test_the_second_token_serves_on_while_a_worker_of_the_first_is_killed(two):
    with two.http("admin-1") as admin, two.http("app") as app:
        old = app.wrap(b"old")
        rotate_to(admin, "second")
        new = app.wrap(b"new")
        stop = threading.Event()
        failures = []

        def use():
            with two.http("app") as h:
                while not stop.is_set():
                    for blob, plain in ((old, b"old"), (new, b"new")):
                        reply = h.try_unwrap(blob)
                        if reply.status != 200:
                            failures.append((blob is new, reply))
                    if h.call("POST", "/v1/keys/demo/rewrap",
                              {"ciphertext": b64(old)}).status not in (200, 503):
                        failures.append((True, "rewrap"))

        thread = threading.Thread(target=use)
        thread.start()
        try:
            for pid in workers_of(two, "main"):
                kill(pid)
                time.sleep(0.3)
            wait_for(lambda: all(w["state"] == "ready" for t in admin.status()["tokens"]
                                 for w in t["workers"]), "all workers are back")
        finally:
            stop.set()
            thread.join()
        assert not [f for f in failures if f[0]], "the other token's requests failed"
        assert all(f[1].status == 503 for f in failures)
        assert app.unwrap(old) == b"old" and app.unwrap(rewrap(app, old)[0]) == b"old"


# ---- the seals ----

def test_seals_move_to_the_second_token_and_kekd_starts_without_the_first(two):
    with two.http("admin-1") as admin, two.http("app") as app:
        for n in range(5):
            admin.create_key(f"k{n}", token="second")
        etag = admin.ok("GET", "/v1/keys/k0").etag
        rotate_to(admin, "second")
        blob = app.wrap(b"kept")
        assert admin.status()["store"]["seal_token"] == "main"
        signer = wait_for(lambda: signing_key(admin), "a key signs")
        moved = reseal(admin, "second")
        store = admin.status()["store"]
        assert store["seal_key"] == moved["seal_key"] and store["seal_token"] == "second"
        assert store["seal_keys"] == 1 and store["old_seals"] == 0 and moved["dropped"] == 1
        cluster = admin.ok("GET", "/v1/cluster").json
        assert cluster["seal_keys"] == [{"id": moved["seal_key"], "token": "second"}]
        assert admin.ok("GET", "/v1/keys/k0").etag == etag, "a seal is no change of a key"
        admin.ok("PATCH", "/v1/keys/k0", {"labels": {"a": "b"}}, etag=etag)
        admin.rotate("k1")
        wait_for(lambda: signing_key(admin) not in (None, signer), "a new key signs")
        signer = signing_key(admin)
    pinned = two.path("audit-keys.pem")
    with open(pinned, "wb") as f:
        f.write(two.kekctl("audit", "keys").stdout)
    two.stop()
    with open(pinned, encoding="ascii") as f:
        assert f.read().count("BEGIN PUBLIC KEY") == 2
    two.kekctl("audit", "verify", two.audit_dir, "--key", pinned)  # signed by both
    destroy_token(two, "main")
    two.settings["tokens"] = [t for t in two.settings["tokens"] if t["name"] == "second"]
    two.write_config()
    two.start()
    with two.http("admin-1") as admin, two.http("app") as app:
        assert admin.status()["store"]["hold"] == "none"
        wait_for(lambda: signing_key(admin) == signer, "the same key signs")
        assert app.unwrap(blob) == b"kept"
        assert admin.create_key("after").json["versions"][0]["token"] == "second"
    assert [r["type"] for r in two.audit_records(operation="cluster.reseal")] == [
        "intent", "outcome"]


def test_kekd_starts_while_the_token_listed_first_is_gone(two):
    """Which token has the seal key is in the metadata, not in the order of the configuration."""
    with two.http("admin-1") as admin:
        reseal(admin, "second")
    two.stop()
    destroy_token(two, "main")
    two.start(ready=False)
    wait_for(lambda: two.health("live")[0] == 200, "it listens")
    with two.http("admin-1") as admin:
        def serving():
            reply = admin.call("GET", "/v1/status")
            return reply.status == 200 and reply.json["phase"] == "serving"
        wait_for(serving, "it serves what the second token has")
        assert admin.create_key("there", token="second").status == 201


def test_a_reseal_survives_being_killed_at_any_instant(two):
    print("KEKD_TEST_SEED", SEED)
    instants = random.Random(SEED)
    with two.http("admin-1") as admin, two.http("app") as app:
        for n in range(150):
            admin.put_client(f"c{n}", [f"dns:c{n}.test"], [])
        blob = app.wrap(b"kept")
    token = "second"
    for _ in range(8):
        delay = instants.uniform(0, 0.06)
        killer = threading.Timer(delay, kill, (two.net(), signal.SIGKILL))
        with two.http("admin-1") as admin:
            etag = admin.ok("GET", "/v1/cluster").etag
            killer.start()
            try:
                admin.call("POST", "/v1/cluster/reseal", {"token": token}, etag=etag)
            except OSError:
                pass
            except Exception as e:  # the connection ends in many ways
                assert "Remote" in type(e).__name__ or "Incomplete" in type(e).__name__, e
        killer.join()
        time.sleep(0.1)
        wait_for(lambda: any(comm(p) == "kekd-net" for p in children(two.process.pid)),
                 "kekd-net is back")
        two.wait_ready()
        with two.http("admin-1") as admin, two.http("app") as app:
            store = admin.status()["store"]
            assert store["hold"] == "none" and store["refused"] == []
            assert app.unwrap(blob) == b"kept"
    with two.http("admin-1") as admin:
        reseal(admin, token)
        store = admin.status()["store"]
        assert store["seal_keys"] == 1 and store["seal_token"] == token
    two.stop()
    two.start()
    with two.http("admin-1") as admin:
        assert len(admin.ok("GET", "/v1/clients?limit=1000").json["clients"]) >= 150


@pytest.mark.parametrize(("body", "status", "code"), [
    ({}, 400, "invalid_request"), ({"token": 1}, 400, "invalid_request"),
    ({"token": "none"}, 400, "invalid_request"),
    ({"token": "main", "x": 1}, 400, "unknown_member")])
def test_a_reseal_that_is_none_is_refused(server, admin, app, body, status, code):
    before = admin.ok("GET", "/v1/cluster")
    reply = admin.call("POST", "/v1/cluster/reseal", body, etag=before.etag)
    assert (reply.status, reply.code) == (status, code)
    after = admin.ok("GET", "/v1/cluster").json
    assert all(after[n] == before.json[n] for n in ("revision", "seal_keys")), after


def test_a_reseal_needs_its_condition_and_its_grant(admin, app):
    body, path = {"token": "main"}, "/v1/cluster/reseal"
    assert admin.call("POST", path, body).code == "precondition_required"
    stale = admin.call("POST", path, body, etag='"99999"')
    assert (stale.status, stale.code) == (412, "precondition_failed")
    assert app.call("POST", path, body, etag='"1"').code == "forbidden"


def test_kekctl_reseals(own):
    before = out(own.kekctl("status"))
    assert "Sealed by" in before
    assert "in token main now" in out(own.kekctl("cluster", "reseal", "--token", "main"))
    assert own.kekctl("cluster", "reseal", status=2)
    with own.http("admin-1") as admin:
        assert admin.status()["store"]["seal_key"] not in before
