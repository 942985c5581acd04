# SPDX-License-Identifier: Apache-2.0
"""Objects that no metadata knows are taken in: every version after lost metadata, and keys that
others made."""

import json
import os
import shutil

import pytest
from kekd import DATA, wait_for
from pki import spiffe

NAMES = ("demo", "second", "third.key")


def signs(server):
    """It makes no object any more: SoftHSM loses sight of what another program makes just then."""
    with server.http("admin-1") as admin:
        wait_for(lambda: admin.status()["audit"]["signing"]["state"] == "ready", "it signs")


def lose_metadata(server):
    server.stop()
    for name in os.listdir(server.path("state")):
        path = server.path("state", name)
        if os.path.isdir(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)


def init_adopt(server):
    done = server.run("init", "--adopt")
    assert done.returncode == 0, done.stdout
    server.start()
    with server.http("admin-1") as admin:
        admin.put_client("app", ["uri:" + spiffe("app")],
                         [{"keys": "*", "operations": DATA}])


@pytest.fixture
def lost(own):
    """Three keys of several versions, blobs under each of them, and no metadata any more."""
    blobs = []
    with own.http("admin-1") as admin, own.http("app") as app:
        for name in NAMES[1:]:
            admin.create_key(name)
        for name, rotations in zip(NAMES, (2, 1, 0)):
            for n in range(rotations + 1):
                blobs.append((name, n + 1, app.wrap(f"{name} {n}".encode(), key=name,
                                                    context={"n": str(n)})))
                if n < rotations:
                    admin.rotate(name)
        before = {name: admin.key(name) for name in NAMES}
    lose_metadata(own)
    return own, blobs, before


def unwrap_all(server, blobs):
    with server.http("app") as app:
        for name, version, blob in blobs:
            plaintext = app.unwrap(blob, key=name, context={"n": str(version - 1)})
            assert plaintext == f"{name} {version - 1}".encode()


def test_init_refuses_a_token_with_keys_of_its_cluster_unless_they_are_to_be_adopted(lost):
    server, _, _ = lost
    done = server.run("init")
    assert done.returncode != 0
    assert "kekd init --adopt" in done.stdout and "kekd restore" in done.stdout


def test_init_refuses_to_adopt_what_another_cluster_made(lost):
    server, _, _ = lost
    server.settings["cluster"] = "other"
    server.write_config()
    shutil.rmtree(server.audit_dir)
    os.mkdir(server.audit_dir, 0o700)
    done = server.run("init", "--adopt")
    assert done.returncode != 0
    assert "kekd:test:" in done.stdout and "--adopt" not in done.stdout


def test_every_version_comes_back_from_the_token_alone(lost):
    server, blobs, before = lost
    init_adopt(server)
    listed = json.loads(server.kekctl("hsm", "objects", "-o", "json").stdout)
    assert len(listed) == 6
    shown = server.kekctl("key", "adopt", "--all").stdout.decode()
    assert all(f"{name}: has " in shown for name in NAMES)
    unwrap_all(server, blobs)
    with server.http("admin-1") as admin, server.http("app") as app:
        for name in NAMES:
            key = admin.key(name)
            old = {v["version"]: v for v in before[name]["versions"]}
            assert key["primary"] == max(old) + 1
            assert key["activation"] > 2**20
            for version in key["versions"][:-1]:
                was = old[version["version"]]
                assert version["id"] == was["id"] and version["object_id"] == was["object_id"]
                assert version["state"] == "enabled" and version["proven"]
                assert version["attributes"] == was["attributes"]
                assert version["adopted"]["by"] == "admin-1"
            assert key["versions"][-1]["adopted"] is None
            app.wrap(b"fresh", key=name)
        assert admin.status()["unknown_objects"] == []
    server.stop()
    server.start()
    unwrap_all(server, blobs)
    assert server.kekctl("key", "adopt", "--all").returncode == 0


def test_an_adopted_version_wraps_only_with_a_known_number_of_ivs(lost):
    server, _, _ = lost
    init_adopt(server)
    with server.http("admin-1") as admin, server.http("app") as app:
        # demo: history unknown. A version that was adopted so cannot wrap again.
        admin.ok("POST", "/v1/keys/demo/adopt", {}, create=True, status=201)
        etag = admin.ok("GET", "/v1/keys/demo").etag
        reply = admin.call("POST", "/v1/keys/demo/versions/2/primary", {}, etag=etag)
        assert (reply.status, reply.code) == (409, "nonce_budget_exhausted")
        # third.key: known. Its one version is primary and wraps.
        key = admin.ok("POST", "/v1/keys/third.key/adopt", {"ivs_used": 1000}, create=True,
                       status=201).json
        assert key["primary"] == 1 and len(key["versions"]) == 1
        app.wrap(b"x", key="third.key")
    assert server.audit_records(operation="key.adopt", type="outcome")


def test_what_others_made_is_adopted_by_its_object_id_and_says_so_for_ever(own):
    signs(own)
    own.pkcs11_tool("--keygen", "--key-type", "AES:32", "--label", "ceremony", "--id", "c0ffee",
                    "--extractable")
    own.pkcs11_tool("--keygen", "--key-type", "AES:16", "--label", "short", "--id", "0128")
    own.kekctl("key", "adopt", "foreign", "--object-id", "c0ffee", "--ivs-used", "0")
    with own.http("admin-1") as admin, own.http("app") as app:
        key = admin.key("foreign")
        version, = key["versions"]
        assert version["object_id"] == "c0ffee" and version["adopted"]["by"] == "admin-1"
        assert "not_extractable" not in version["attributes"]
        assert app.unwrap(app.wrap(b"x", key="foreign"), key="foreign") == b"x"
        reply = admin.call("POST", "/v1/keys/short/adopt", {"object_id": "0128"}, create=True)
        assert (reply.status, reply.code) == (409, "key_attributes_refused")
        admin.rotate("foreign")
        again = admin.key("foreign")["versions"][0]
        assert again["adopted"] == version["adopted"]
        assert again["attributes"] == version["attributes"]
    shown = own.kekctl("key", "show", "foreign").stdout.decode()
    assert "adopted" in shown


def test_an_object_that_only_wears_a_label_of_kekd_is_refused(own):
    signs(own)
    own.pkcs11_tool("--keygen", "--key-type", "AES:32", "--label", "kekd:test:planted:v1", "--id",
                    "11" * 16, "--extractable")
    with own.http("admin-1") as admin:
        reply = admin.call("POST", "/v1/keys/planted/adopt", {}, create=True)
        assert (reply.status, reply.code) == (409, "key_attributes_refused"), reply
        assert admin.call("GET", "/v1/keys/planted").status == 404


def test_bad_requests_adopt_nothing(own):
    signs(own)
    own.pkcs11_tool("--keygen", "--key-type", "AES:32", "--label", "x", "--id", "ab")
    with own.http("admin-1") as admin, own.http("app") as app:
        def adopt(body, key="new", by=admin, **how):
            how = how or {"create": True}
            reply = by.call("POST", f"/v1/keys/{key}/adopt", body, **how)
            return reply.status, reply.code

        assert adopt({"no": 1}) == (400, "unknown_member")
        for body in ({"object_id": 1}, {"object_id": "AB"}, {"object_id": "abc"},
                     {"object_id": ""}, {"object_id": "00" * 65}, {"token": "none"},
                     {"token": 1}, {"ivs_used": -1}, {"ivs_used": 2**32}, {"ivs_used": "1"}):
            assert adopt(body) == (400, "invalid_request"), body
        assert adopt({}) == (404, "object_not_found")
        assert adopt({"object_id": "ac"}) == (404, "object_not_found")
        assert adopt({}, headers={"X": "y"}) == (428, "precondition_required")
        assert adopt({"object_id": "ab"}, key="demo") == (412, "precondition_failed")
        assert adopt({"object_id": "ab"}, key="demo", etag='"1"') == (412, "precondition_failed")
        assert adopt({"object_id": "ab"}, by=app) == (403, "forbidden")
        assert admin.call("GET", "/v1/keys/new").status == 404
        # It is as it was, and a good request takes it.
        etag = admin.ok("GET", "/v1/keys/demo").etag
        key = admin.ok("POST", "/v1/keys/demo/adopt", {"object_id": "ab"}, etag=etag).json
        assert [v["version"] for v in key["versions"]] == [1, 2] and key["primary"] == 1
        assert adopt({"object_id": "ab"}) == (404, "object_not_found")
        assert app.unwrap(app.wrap(b"x")) == b"x"
    for arguments in (["demo", "--all"], [], ["--all", "--object-id", "ab"],
                      ["x", "--ivs-used", "many"]):
        own.kekctl("key", "adopt", *arguments, status=2)
