# SPDX-License-Identifier: Apache-2.0
"""Freezing: a key, or the whole service, that unwraps and no longer wraps."""

import re
import time

from kekd import b64, wait_for


def out(done):
    return done.stdout.decode()


def patch(admin, name, body, status=200):
    etag = admin.ok("GET", f"/v1/keys/{name}").etag
    return admin.ok("PATCH", f"/v1/keys/{name}", body, etag=etag, status=status)


def writes(name, blob):
    return ((f"/v1/keys/{name}/wrap", {"plaintext": b64(b"x")}),
            (f"/v1/keys/{name}/generate", {}),
            (f"/v1/keys/{name}/rewrap", {"ciphertext": b64(blob)}))


def test_a_frozen_key_unwraps_and_does_not_wrap(admin, app):
    admin.create_key("cold")
    admin.create_key("warm")
    blob = app.wrap(b"old", "cold")
    assert patch(admin, "cold", {"frozen": True}).json["frozen"] is True
    for path, body in writes("cold", blob):
        reply = app.call("POST", path, body)
        assert (reply.status, reply.code) == (409, "frozen"), path
        assert "kekctl key unfreeze cold" in reply.json["detail"]
        items = app.ok("POST", path, {"items": [body, body]}).json["items"]
        assert [i["error"]["code"] for i in items] == ["frozen", "frozen"]
    assert app.unwrap(blob, "cold") == b"old"
    app.wrap(b"x", "warm")
    assert patch(admin, "cold", {"frozen": False}).json["frozen"] is False
    app.wrap(b"x", "cold")


def test_a_frozen_key_can_be_rotated_by_hand_and_rolled_back(admin, app):
    admin.create_key("changed")
    blob = app.wrap(b"old", "changed")
    patch(admin, "changed", {"frozen": True})
    assert admin.rotate("changed")["primary"] == 2
    assert admin.change("changed", "versions/1/primary").json["primary"] == 1
    assert app.unwrap(blob, "changed") == b"old"
    assert app.call("POST", "/v1/keys/changed/generate", {}).code == "frozen"


def test_a_frozen_key_does_not_rotate_by_itself_until_it_is_unfrozen(own):
    with own.http("admin-1") as admin:
        admin.create_key("paused", rotate_every="1s")
        primary = patch(admin, "paused", {"frozen": True}).json["primary"]
        time.sleep(3)
        assert admin.key("paused")["primary"] == primary
        patch(admin, "paused", {"frozen": False})
        wait_for(lambda: admin.key("paused")["primary"] > primary, "it rotates", 10, 0.1)


def test_a_key_is_frozen_after_a_restart_too(own):
    with own.http("admin-1") as admin:
        patch(admin, "demo", {"frozen": True})
    own.kill_all()
    own.start()
    with own.http("app") as app:
        assert app.call("POST", "/v1/keys/demo/generate", {}).code == "frozen"


def test_a_key_is_frozen_once_and_by_those_who_may(admin, app):
    etag = admin.create_key("mine").etag
    assert app.call("PATCH", "/v1/keys/mine", {"frozen": True}, etag=etag).code == "forbidden"
    assert admin.call("PATCH", "/v1/keys/mine", {"frozen": True}).code == "precondition_required"
    frozen = admin.ok("PATCH", "/v1/keys/mine", {"frozen": True}, etag=etag)
    stale = admin.call("PATCH", "/v1/keys/mine", {"frozen": True}, etag=etag)
    assert stale.code == "precondition_failed"
    again = admin.ok("PATCH", "/v1/keys/mine", {"frozen": True}, etag=frozen.etag)
    assert again.etag == frozen.etag


def test_kekctl_freezes_a_key_and_warns(server):
    server.kekctl("key", "create", "by-hand")
    done = server.kekctl("key", "freeze", "by-hand")
    assert "frozen" in out(done) and "Kubernetes" in done.stderr.decode()
    assert "FROZEN" in out(server.kekctl("key", "show", "by-hand"))
    assert "frozen" in out(server.kekctl("key", "list"))
    refused = server.kekctl("wrap", "by-hand", stdin=b"x", name="app", status=5)
    assert "frozen" in refused.stderr.decode()
    assert "wraps again" in out(server.kekctl("key", "unfreeze", "by-hand"))


# ---- the whole service ----

def freeze(admin, frozen, status=200):
    etag = admin.ok("GET", "/v1/cluster").etag
    return admin.ok("POST", "/v1/cluster/freeze", {"frozen": frozen}, etag=etag, status=status)


def test_a_frozen_service_unwraps_and_does_not_wrap(own):
    with own.http("admin-1") as admin, own.http("app") as app:
        blob = app.wrap(b"old")
        assert freeze(admin, True).json["frozen"] is True
        for path, body in writes("demo", blob):
            reply = app.call("POST", path, body)
            assert (reply.status, reply.code) == (409, "frozen"), path
            assert "kekctl cluster unfreeze" in reply.json["detail"]
        assert app.unwrap(blob) == b"old"
        assert admin.rotate("demo")["primary"] == 2
        assert admin.status()["frozen"] is True
        status, health = own.health()
        assert status == 200 and any("frozen" in w for w in health["warnings"])
        assert b"\nkekd_frozen 1\n" in admin.ok("GET", "/metrics").body
    own.kill_all()
    own.start()
    with own.http("admin-1") as admin, own.http("app") as app:
        assert app.call("POST", "/v1/keys/demo/generate", {}).code == "frozen"
        assert app.unwrap(blob) == b"old"
        assert freeze(admin, False).json["frozen"] is False
        app.wrap(b"new")
    kinds = [r["type"] for r in own.audit_records(operation="cluster.freeze")]
    assert kinds == ["intent", "outcome"] * 2


def test_no_key_rotates_by_itself_while_the_service_is_frozen(own):
    with own.http("admin-1") as admin:
        freeze(admin, True)
        admin.create_key("waits", rotate_every="1s")
        time.sleep(3)
        assert admin.key("waits")["primary"] == 1
        freeze(admin, False)
        wait_for(lambda: admin.key("waits")["primary"] > 1, "it rotates", 10, 0.1)


def test_freezing_the_service_is_checked(server, admin, app):
    etag = admin.ok("GET", "/v1/cluster").etag
    path = "/v1/cluster/freeze"
    assert admin.call("POST", path, {"frozen": True}).code == "precondition_required"
    stale = admin.call("POST", path, {"frozen": True}, etag='"99999"')
    assert (stale.status, stale.code) == (412, "precondition_failed")
    assert app.call("POST", path, {"frozen": True}, etag=etag).code == "forbidden"
    for body, code in (({}, "invalid_request"), ({"frozen": "yes"}, "invalid_request"),
                       ({"frozen": None}, "invalid_request"),
                       ({"frozen": True, "x": 1}, "unknown_member")):
        reply = admin.call("POST", path, body, etag=etag)
        assert (reply.status, reply.code) == (400, code)
    same = admin.ok("POST", path, {"frozen": False}, etag=etag)
    assert same.etag == etag and admin.status()["frozen"] is False


def test_kekctl_freezes_the_service_and_warns(own):
    done = own.kekctl("cluster", "freeze")
    assert "frozen" in out(done) and "Kubernetes" in done.stderr.decode()
    assert "FROZEN" in out(own.kekctl("status")) and "FROZEN" in out(own.kekctl("cluster", "show"))
    assert "wraps again" in out(own.kekctl("cluster", "unfreeze"))
    assert "FROZEN" not in out(own.kekctl("status"))


def test_what_a_key_does_while_the_metadata_is_too_old_can_be_set(admin, server):
    assert admin.create_key("strict").json["when_stale"] == "unwrap"
    server.kekctl("key", "set", "strict", "--when-stale", "refuse")
    assert admin.key("strict")["when_stale"] == "refuse"
    assert re.search("When stale +refuse\n", out(server.kekctl("key", "show", "strict")))
    assert "when_stale: refuse" in out(server.kekctl("export", "--keys"))
    assert patch(admin, "strict", {"when_stale": "serve"}).json["when_stale"] == "serve"
    assert patch(admin, "strict", {"when_stale": "never"}, status=400).code == "invalid_request"
    patch(admin, "strict", {"when_stale": "unwrap"})
    assert "when_stale" not in out(server.kekctl("export", "--keys"))
