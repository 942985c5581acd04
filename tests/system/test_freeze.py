# SPDX-License-Identifier: Apache-2.0
"""Freezing: a key, or the whole service, that unwraps and no longer wraps."""

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
