# SPDX-License-Identifier: Apache-2.0
"""Nobody gets in: identities, grants, deny by default."""

import contextlib
import datetime
import http.client
import time

import pytest

from kekd import DATA, b64
from pki import spiffe


@pytest.fixture
def client(server, admin):
    """Makes a client record for a fresh certificate; gives its connection."""
    with contextlib.ExitStack() as stack:
        def make(name, grants, san=None, **more):
            certificate = server.pki.ca.issue(name, san or "URI:" + spiffe(name))
            kind, _, value = (san or "URI:" + spiffe(name)).partition(":")
            admin.put_client(name, [f"{kind.lower()}:{value}"], grants, **more)
            return stack.enter_context(server.http(certificate=certificate))
        yield make


def grant(keys, *operations):
    return [{"keys": keys, "operations": list(operations)}]


def wrap(h, key):
    return h.call("POST", f"/v1/keys/{key}/wrap", {"plaintext": b64(b"x")})


def test_an_identity_without_a_record_is_denied_everywhere(server):
    with server.http("other") as h:
        for method, path in (("GET", "/v1/keys"), ("GET", "/v1/whoami"), ("GET", "/v1/status"),
                             ("GET", "/v1/keys/demo"), ("GET", "/v1/nothing")):
            reply = h.call(method, path)
            assert (reply.status, reply.code) == (403, "unknown_client"), path
        assert wrap(h, "demo").code == "unknown_client"


def test_a_grant_covers_its_keys_and_its_operations_alone(client, admin):
    admin.create_key("red-1")
    h = client("red", grant("red-*", "wrap"))
    reply = wrap(h, "red-1")
    assert reply.status == 200
    assert h.try_unwrap(b"x", "red-1").code == "forbidden"
    assert h.get("/v1/keys/red-1").code == "forbidden"
    assert wrap(h, "demo").code == "forbidden"


def test_an_uncovered_key_is_forbidden_whether_it_exists_or_not(client):
    h = client("blind", grant("blind-*", "wrap"))
    exists, absent = wrap(h, "demo"), wrap(h, "no-such-key")
    for reply in exists, absent:
        assert (reply.status, reply.code) == (403, "forbidden")
    assert {k: v for k, v in exists.json.items() if k not in ("request_id", "detail")} == {
        k: v for k, v in absent.json.items() if k not in ("request_id", "detail")}
    assert exists.json["detail"].replace("demo", "K") == absent.json["detail"].replace(
        "no-such-key", "K")


def test_a_covered_key_that_does_not_exist_is_not_found(client):
    reply = wrap(client("seeing", grant("see-*", "wrap")), "see-nothing")
    assert (reply.status, reply.code) == (404, "key_not_found")


def test_an_administrator_can_neither_wrap_nor_unwrap(admin):
    assert wrap(admin, "demo").code == "forbidden"
    assert admin.try_unwrap(b"x").code == "forbidden"
    for path in ("generate", "rewrap"):
        assert admin.call("POST", f"/v1/keys/demo/{path}", {}).code == "forbidden"


def test_an_application_cannot_administer(app):
    assert app.get("/v1/keys").code == "forbidden"
    assert app.call("POST", "/v1/keys", {"name": "mine"}, create=True).code == "forbidden"
    assert app.call("POST", "/v1/keys/demo/rotate", {}, etag="*").code == "forbidden"
    assert app.get("/v1/clients").code == "forbidden"
    assert app.get("/v1/status").code == "forbidden"
    body = {"identities": ["uri:" + spiffe("friend")], "grants": grant("*", "unwrap")}
    assert app.call("PUT", "/v1/clients/friend", body, create=True).code == "forbidden"


def test_whoami_tells_how_the_server_sees_the_caller(app):
    me = app.ok("GET", "/v1/whoami").json
    assert me["client"] == "app" and me["identity"] == "uri:" + spiffe("app")
    assert sorted(me["grants"][0]["operations"]) == sorted(DATA)


def test_verify_tells_that_a_blob_unwraps_without_the_plaintext(client, app):
    h = client("checker", grant("demo", "verify"))
    blob = app.wrap(b"secret")
    reply = h.try_unwrap(blob, plaintext=False)
    assert reply.status == 200 and "plaintext" not in reply.json
    assert h.try_unwrap(blob).code == "forbidden"


def test_a_dns_name_identifies_where_there_is_no_uri(client):
    h = client("by-name", grant("*", "wrap"), san="DNS:node-7.test.example")
    assert h.ok("GET", "/v1/whoami").json["identity"] == "dns:node-7.test.example"
    assert wrap(h, "demo").status == 200


def test_a_public_key_can_identify(server, admin):
    certificate = server.pki.client("pinned")
    admin.put_client("pinned", [certificate.spki()], grant("*", "wrap"))
    with server.http(certificate=certificate) as h:
        assert wrap(h, "demo").status == 200


def test_several_uris_or_no_name_at_all_are_no_identity(server):
    for name, san in (("two", f"URI:{spiffe('app')},URI:{spiffe('admin-1')}"), ("none", None)):
        with server.http(certificate=server.pki.ca.issue(name, san)) as h:
            reply = h.get("/v1/whoami")
            assert (reply.status, reply.code) == (401, "certificate_identity")


def test_a_common_name_does_not_identify_unless_switched_on(server, admin):
    admin.put_client("by-cn", ["cn:by-cn"], grant("*", "wrap"))
    with server.http(certificate=server.pki.ca.issue("by-cn", None)) as h:
        assert h.get("/v1/whoami").code == "certificate_identity"


def test_one_identity_belongs_to_one_client(admin):
    admin.put_client("first", ["uri:spiffe://test.example/shared"], grant("*", "wrap"))
    reply = admin.call("PUT", "/v1/clients/second", {
        "identities": ["uri:spiffe://test.example/shared"], "grants": []}, create=True)
    assert (reply.status, reply.code) == (409, "identity_taken")


def test_addresses_limit_where_a_client_comes_from(client):
    h = client("far", grant("*", "wrap"), addresses=["10.0.0.0/8"])
    assert wrap(h, "demo").code == "address_not_allowed"
    h = client("near", grant("*", "wrap"), addresses=["127.0.0.0/8", "::1"])
    assert wrap(h, "demo").status == 200


def test_changed_and_removed_grants_take_effect_on_open_connections(client, admin):
    h = client("fleeting", grant("*", "wrap"))
    assert wrap(h, "demo").status == 200
    now = admin.ok("GET", "/v1/clients/fleeting")
    body = {"identities": now.json["identities"], "grants": grant("other-*", "wrap")}
    changed = admin.ok("PUT", "/v1/clients/fleeting", body, etag=now.etag)
    assert wrap(h, "demo").code == "forbidden"
    stale = admin.call("DELETE", "/v1/clients/fleeting", etag=now.etag)
    assert stale.code == "precondition_failed"
    admin.ok("DELETE", "/v1/clients/fleeting", etag=changed.etag)
    assert wrap(h, "demo").code == "unknown_client"
    assert admin.get("/v1/clients/fleeting").code == "client_not_found"


def test_clients_are_listed(admin):
    admin.put_client("listed", ["dns:listed.test.example"], grant("l-*", "wrap"))
    names = [c["name"] for c in admin.ok("GET", "/v1/clients").json["clients"]]
    assert names == sorted(names)
    assert {"admin-1", "admin-2", "app", "listed"} <= set(names)


@pytest.mark.parametrize("body", [
    {"grants": []},
    {"identities": [], "grants": []},
    {"identities": ["spiffe://no.prefix"], "grants": []},
    {"identities": ["uri:x"], "grants": [{"keys": "*", "operations": ["fly"]}]},
    {"identities": ["uri:x"], "grants": [{"keys": "*"}]},
    {"identities": ["uri:x"], "grants": [], "admin": True},
    {"identities": ["uri:x"], "grants": [], "addresses": ["10.0.0.0/40"]},
    {"identities": "uri:x", "grants": []},
])
def test_a_record_that_is_not_understood_is_refused(admin, body):
    reply = admin.call("PUT", "/v1/clients/odd", body, create=True)
    assert reply.status == 400 and reply.code in ("invalid_request", "unknown_member")
    assert admin.get("/v1/clients/odd").status == 404


def test_a_connection_ends_with_its_certificate(server, admin):
    certificate = server.pki.client("short", last=datetime.timedelta(seconds=3))
    admin.put_client("short", ["uri:" + spiffe("short")], grant("*", "wrap"))
    with server.http(certificate=certificate) as h:
        assert wrap(h, "demo").status == 200
        end = time.monotonic() + 15
        while time.monotonic() < end:
            try:
                reply = wrap(h, "demo")
            except (OSError, http.client.HTTPException):
                break
            if reply.status == 401:
                assert reply.code == "certificate_expired"
                break
            assert reply.status == 200
            time.sleep(0.2)
        else:
            raise AssertionError("the certificate has expired, the connection goes on")
        assert wrap(h, "demo").code == "certificate_expired"
