# SPDX-License-Identifier: Apache-2.0
"""Keys: creation, rotation, states, preconditions, what the token holds and the metadata says."""

import os
import re
import uuid

import pytest

from kekd import LOGGING_MODULE, MODULE, b64, wait_for


def test_a_created_key_has_one_proven_enabled_primary_version(admin):
    reply = admin.create_key("fresh", labels={"team": "storage"})
    key = reply.json
    assert reply.status == 201 and reply.etag == f'"{key["revision"]}"'
    assert key["name"] == "fresh" and key["algorithm"] == "aes256-gcm"
    assert key["labels"] == {"team": "storage"}
    assert key["primary"] == 1 and key["activation"] == 1
    version, = key["versions"]
    assert version["version"] == 1 and version["state"] == "enabled"
    assert version["proven"] is True and version["token"] == "main"
    assert key["kms_key_id"] == version["id"] + ".1"
    assert admin.key("fresh") == key


def test_a_creation_needs_its_condition_and_happens_once(admin):
    assert admin.call("POST", "/v1/keys", {"name": "once"}).code == "precondition_required"
    admin.create_key("once")
    again = admin.call("POST", "/v1/keys", {"name": "once"}, create=True)
    assert (again.status, again.code) == (412, "precondition_failed")
    assert len(admin.key("once")["versions"]) == 1


@pytest.mark.parametrize("name", ["", "A", "-a", "a-", ".a", "a/b", "a b", "ä", "a" * 65, "a\n"])
def test_names_outside_the_pattern_are_refused(admin, name):
    reply = admin.call("POST", "/v1/keys", {"name": name}, create=True)
    assert (reply.status, reply.code) == (400, "invalid_name")


@pytest.mark.parametrize("name", ["a", "0", "a.b_c-d", "a" * 64])
def test_names_inside_the_pattern_are_taken(admin, name):
    assert admin.create_key(name).json["name"] == name


def test_the_list_is_sorted_and_paged(admin):
    for n in range(7):
        admin.create_key(f"page{n}")
    names, after = [], ""
    while after is not None:
        page = admin.ok("GET", f"/v1/keys?limit=3&after={after}").json
        assert len(page["keys"]) <= 3
        names += [k["name"] for k in page["keys"]]
        after = page["next"]
    assert names == sorted(set(names))
    assert {f"page{n}" for n in range(7)} <= set(names)


def test_labels_can_be_changed(admin):
    etag = admin.create_key("labelled").etag
    reply = admin.ok("PATCH", "/v1/keys/labelled", {"labels": {"a": "b"}}, etag=etag)
    assert reply.json["labels"] == {"a": "b"}
    stale = admin.call("PATCH", "/v1/keys/labelled", {"labels": {}}, etag=etag)
    assert stale.code == "precondition_failed"


def test_a_retried_rotation_rotates_once(admin):
    etag = admin.create_key("retry").etag
    admin.ok("POST", "/v1/keys/retry/rotate", {}, etag=etag)
    again = admin.call("POST", "/v1/keys/retry/rotate", {}, etag=etag)
    assert (again.status, again.code) == (412, "precondition_failed")
    assert len(admin.key("retry")["versions"]) == 2
    assert admin.call("POST", "/v1/keys/retry/rotate", {}).code == "precondition_required"


def test_the_primary_cannot_be_disabled(admin):
    etag = admin.create_key("only").etag
    reply = admin.call("POST", "/v1/keys/only/versions/1/disable", {}, etag=etag)
    assert (reply.status, reply.code) == (409, "invalid_state")


def test_a_disabled_version_refuses_in_every_worker_until_it_is_enabled_again(admin, app):
    admin.create_key("brown")
    blob = app.wrap(b"x", "brown")
    admin.rotate("brown")
    for _ in range(8):
        assert app.unwrap(blob, "brown") == b"x"
    assert admin.change("brown", "versions/1/disable").json["versions"][0]["state"] == "disabled"
    for _ in range(8):
        reply = app.try_unwrap(blob, "brown")
        assert (reply.status, reply.code) == (409, "version_not_enabled")
        body = {"ciphertext": b64(blob)}
        assert app.call("POST", "/v1/keys/brown/rewrap", body).code == "version_not_enabled"
    assert admin.change("brown", "versions/1/enable").json["versions"][0]["state"] == "enabled"
    assert app.unwrap(blob, "brown") == b"x"


def test_an_older_version_can_be_made_primary_with_a_new_activation(admin, app):
    first = admin.create_key("back").json
    second = admin.rotate("back")
    third = admin.change("back", "versions/1/primary").json
    assert third["primary"] == 1 and third["activation"] == 3
    ids = [k["kms_key_id"] for k in (first, second, third)]
    assert len(set(ids)) == 3
    assert ids[2] == first["versions"][0]["id"] + ".3"
    blob = app.wrap(b"x", "back")
    assert str(uuid.UUID(bytes=blob[4:20])) == first["versions"][0]["id"]


def test_a_disabled_version_cannot_be_made_primary(admin):
    admin.create_key("nobody")
    admin.rotate("nobody")
    admin.change("nobody", "versions/1/disable")
    etag = admin.ok("GET", "/v1/keys/nobody").etag
    reply = admin.call("POST", "/v1/keys/nobody/versions/1/primary", {}, etag=etag)
    assert reply.status == 409 and reply.code in ("invalid_state", "version_not_enabled")


@pytest.mark.parametrize("version", ["2", "0", "01", "x", "-1", "99999999999999999999"])
def test_a_version_that_is_not_there_is_not_found(admin, version):
    if admin.get("/v1/keys/few").status == 404:
        admin.create_key("few")
    etag = admin.ok("GET", "/v1/keys/few").etag
    reply = admin.call("POST", f"/v1/keys/few/versions/{version}/disable", {}, etag=etag)
    assert (reply.status, reply.code) == (404, "version_not_found")


def test_everything_is_there_after_a_restart(own):
    with own.http("admin-1") as admin, own.http("app") as app:
        blob = app.wrap(b"x")
        admin.rotate()
        admin.change("demo", "versions/1/disable")
        admin.change("demo", "versions/1/enable")
        before = admin.key()
    assert own.stop() == 0
    own.start()
    with own.http("admin-1") as admin, own.http("app") as app:
        assert admin.key() == before
        assert app.unwrap(blob) == b"x"
        wait_for(lambda: admin.status()["versions"] == {"total": 2, "proven": 2, "failed": 0},
                 "all versions are proven again")


def test_objects_that_no_metadata_knows_are_listed_and_left_alone(own):
    own.stop()
    own.pkcs11_tool("--keygen", "--key-type", "AES:32", "--label", "foreign", "--id", "00ff00ff")
    own.start()
    with own.http("admin-1") as admin:
        unknown = wait_for(lambda: admin.status()["unknown_objects"], "the sweep is done")
    assert [(u["token"], u["object_id"], u["label"]) for u in unknown] == [
        ("main", "00ff00ff", "foreign")]
    assert "foreign" in own.pkcs11_tool("--list-objects", "--type", "secrkey")


def test_a_version_whose_object_is_gone_fails_alone_and_is_reported(own):
    with own.http("admin-1") as admin, own.http("app") as app:
        admin.create_key("kept")
        lost = admin.key()["versions"][0]["id"].replace("-", "")
        kept, gone = app.wrap(b"k", "kept"), app.wrap(b"g")
    own.stop()
    own.pkcs11_tool("--delete-object", "--type", "secrkey", "--id", lost)
    own.start()
    with own.http("admin-1") as admin, own.http("app") as app:
        assert app.unwrap(kept, "kept") == b"k"
        reply = app.try_unwrap(gone)
        assert (reply.status, reply.code) == (503, "key_object_missing")
        wait_for(lambda: admin.status()["versions"] == {"total": 2, "proven": 1, "failed": 1},
                 "the missing object is noticed")


def test_two_objects_with_one_id_are_an_error(own):
    with own.http("admin-1") as admin:
        twin = admin.key()["versions"][0]["id"].replace("-", "")
    own.stop()
    own.pkcs11_tool("--keygen", "--key-type", "AES:32", "--label", "twin", "--id", twin)
    own.start()
    with own.http("app") as app:
        reply = app.call("POST", "/v1/keys/demo/wrap", {"plaintext": b64(b"x")})
        assert (reply.status, reply.code) == (409, "duplicate_object")


def test_answers_tell_the_revision_that_they_were_made_at(admin):
    reply = admin.create_key("rev")
    revision = int(reply.headers["Kekd-Revision"])
    assert revision >= reply.json["revision"]
    admin.rotate("rev")
    assert int(admin.get("/v1/keys/rev").headers["Kekd-Revision"]) > revision


def test_the_nonce_budget_is_reserved_in_the_store_before_it_is_used(own):
    with own.http("app") as app:
        app.wrap(b"x")
    own.stop()
    import sqlite3
    db = sqlite3.connect(own.path("state", "metadata.db"))
    dump = "\n".join(db.iterdump())
    assert re.search(r"nonces/[0-9a-f-]{36}", dump)


def test_a_key_that_could_leave_the_token_is_refused_and_never_used(make_server):
    server = make_server(module=LOGGING_MODULE, environment={
        "KEKD_TEST_MODULE": MODULE, "KEKD_TEST_LOG": os.devnull})
    server.init().start().populate()
    server.stop()
    server.environment["KEKD_TEST_EXTRACTABLE"] = "1"
    server.start()
    with server.http("admin-1") as admin, server.http("app") as app:
        reply = admin.call("POST", "/v1/keys", {"name": "leaky"}, create=True)
        assert (reply.status, reply.code) == (409, "key_attributes_refused")
        assert "never_extractable" in reply.json["detail"].replace("-", "_")
        assert not admin.key("leaky")["primary"]
        refused = admin.change("demo", "rotate", status=409)
        assert refused.code == "key_attributes_refused"
        assert admin.key("demo")["primary"] == 1
        assert app.unwrap(app.wrap(b"still the old one")) == b"still the old one"
