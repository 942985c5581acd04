# SPDX-License-Identifier: Apache-2.0
"""openapi.yaml says all that the server answers: every route and every status that it lists is seen
here, and kekd.py holds each answer of every system test against it (openapi.py)."""

import email.message
import json
import os

import load
import openapi
import pytest
from kekd import Http, b64, kill, wait_for
from openapi import Description, Violation
from pki import spiffe

GRANTS = [{"keys": "*", "operations": ["wrap"]}]


def test_the_description_is_served_as_it_is_in_the_sources(server):
    with server.http() as h:
        reply = h.get("/v1/openapi.yaml")
    with open(openapi.PATH, "rb") as f:
        assert reply.status == 200 and reply.body == f.read()
    assert reply.headers["Content-Type"] == "application/yaml"


def walk_keys(admin, app):
    blob = app.wrap(b"secret", context={"a": "b"})
    data = {"ciphertext": b64(blob), "context": {"a": "b"}}
    for operation, one in (("wrap", {"plaintext": b64(b"x")}), ("unwrap", data), ("generate", {}),
                           ("rewrap", data)):
        path = f"/v1/keys/demo/{operation}"
        app.ok("POST", path, one)
        answers = app.ok("POST", path, {"items": [one, {**one, "context": {"": ""}}]}).json
        assert [("error" in item) for item in answers["items"]] == [False, True]
    admin.create_key("walked", labels={"a": "b"})
    admin.ok("GET", "/v1/keys?limit=1")
    etag = admin.ok("GET", "/v1/keys/walked").etag
    admin.ok("PATCH", "/v1/keys/walked", {"labels": {"c": "d"}}, etag=etag)
    admin.rotate("walked")
    admin.ok("GET", "/v1/keys/demo/usage")
    for change in ("disable", "enable", "primary"):
        admin.change("walked", f"versions/1/{change}")
    admin.change("walked", "rotate", {"stage_only": True})
    admin.change("walked", "rotate", {"dry_run": True})
    admin.change("walked", "activate", {"version": 3})
    admin.change("walked", "rotate", {"stage_only": True})
    admin.change("walked", "versions/4/abandon")


def walk_clients(admin):
    etag = admin.put_client("walked", ["uri:" + spiffe("walked")], GRANTS).etag
    admin.ok("GET", "/v1/clients?after=a")
    assert admin.ok("GET", "/v1/clients/walked").etag == etag
    body = {"identities": ["dns:walked.test"], "grants": GRANTS, "addresses": ["127.0.0.0/8"]}
    etag = admin.ok("PUT", "/v1/clients/walked", body, status=200, etag=etag).etag
    admin.ok("DELETE", "/v1/clients/walked", etag=etag)


def set_policy(admin, status, **policy):
    etag = admin.ok("GET", "/v1/cluster").etag
    return admin.ok("PATCH", "/v1/cluster", {"policy": policy}, etag=etag, status=status).json


def walk_snapshots(admin):
    entry = {"key": "demo", "version_id": admin.key()["versions"][0]["id"], "live": 1,
             "superseded": 0}
    body = {"cluster": "prod", "taken": "2026-01-31T04:05:06Z", "complete": True, "plaintext": 0,
            "needed_until": "2099-01-01T00:00:00Z", "sha256": "0" * 64, "etcd_revision": 1,
            "versions": [entry]}
    path = "/v1/snapshots/walked"
    etag = admin.ok("PUT", path, body, create=True, status=201).etag
    admin.ok("PUT", path, body, etag=etag, status=200)
    admin.ok("GET", "/v1/snapshots")
    admin.ok("GET", "/v1/keys/demo/usage")
    admin.ok("DELETE", path, etag=admin.ok("GET", path).etag)


def walk_ends(admin):
    """A version is spared, and one is destroyed."""
    admin.create_key("ending")
    admin.rotate("ending")
    admin.rotate("ending")
    admin.change("ending", "versions/1/disable")
    usage = admin.ok("GET", "/v1/keys/ending/usage").json["versions"][0]
    set_policy(admin, 200, destroy_wait="1h")
    admin.change("ending", "versions/1/destroy", {"evidence": usage["evidence"]})
    admin.change("ending", "versions/1/cancel")
    return {"evidence": usage["evidence"]}


def walk_approvals(admin, other):
    seen = walk_ends(admin)
    set_policy(admin, 200, approvals=2, destroy_wait="24h")
    admin.change("ending", "versions/1/destroy", seen, status=202)
    body = {"identities": ["dns:boss.test"], "grants": [{"keys": "*", "operations": ["approve"]}]}
    asked = admin.ok("PUT", "/v1/clients/boss", body, create=True, status=202).json
    other.ok("GET", f"/v1/approvals/{asked['id']}")
    other.ok("POST", f"/v1/approvals/{asked['id']}/approve", {"evidence": asked["evidence"]})
    etag = admin.ok("GET", "/v1/clients/boss").etag
    asked = admin.ok("DELETE", "/v1/clients/boss", etag=etag, status=202).json
    other.ok("POST", f"/v1/approvals/{asked['id']}/reject", {})
    assert len(other.ok("GET", "/v1/approvals").json["approvals"]) == 3
    asked = set_policy(admin, 202, approvals=1)
    other.ok("POST", f"/v1/approvals/{asked['id']}/approve", {"evidence": asked["evidence"]})


def walk_server(admin, anybody):
    for frozen in (True, False):
        etag = admin.ok("GET", "/v1/cluster").etag
        admin.ok("POST", "/v1/cluster/freeze", {"frozen": frozen}, etag=etag)
    etag = admin.ok("GET", "/v1/cluster").etag
    admin.ok("PATCH", "/v1/cluster", {"policy": {"approval_ttl": "2d"}}, etag=etag)
    etag = admin.ok("GET", "/v1/cluster").etag
    admin.ok("POST", "/v1/cluster/level", {"level": 1}, etag=etag)
    admin.ok("PATCH", "/v1/cluster", {"members": ["node-1", "node-2"]}, etag=etag)
    etag = admin.ok("GET", "/v1/cluster").etag
    admin.ok("POST", "/v1/cluster/forget", {"node": "node-2"}, etag=etag)
    etag = admin.ok("GET", "/v1/cluster").etag
    admin.ok("POST", "/v1/cluster/reseal", {"token": "main"}, etag=etag)
    for path in ("/v1/whoami", "/v1/status", "/v1/audit?limit=1", "/metrics"):
        admin.ok("GET", path)
    for path in ("/v1/openapi.yaml", "/health/live", "/health/ready", "/health/active"):
        anybody.ok("GET", path)


def walk_adoption(server, admin):
    for name in ("ad", "ae"):
        server.pkcs11_tool("--keygen", "--key-type", "AES:32", "--label", "x", "--id", name)
    admin.ok("POST", "/v1/keys/adopted/adopt", {"object_id": "ad"}, create=True, status=201)
    etag = admin.ok("GET", "/v1/keys/adopted").etag
    admin.ok("POST", "/v1/keys/adopted/adopt", {"object_id": "ae"}, etag=etag, status=200)


def walk_restore(server):
    """A backup, and the store that comes of it."""
    path = server.path("walked.backup")
    with server.http("admin-1") as admin, open(path, "wb") as f:
        f.write(admin.ok("POST", "/v1/backup", {}).body)
    server.stop()
    for name in os.listdir(server.path("state")):
        os.unlink(server.path("state", name))
    assert server.run("restore", path).returncode == 0
    server.start()
    with server.http("admin-1") as admin:
        generation = admin.status()["generation"]
        admin.ok("POST", "/v1/cluster/confirm", {"generation": generation})
        now = "2026-01-01T00:00:00.000000Z"
        admin.ok("POST", "/v1/backup/drills", {
            "time": now, "ok": True, "backup": now, "generation": generation, "revision": 1,
            "proven": 1, "failed": 0, "not_covered": 0, "tokens": ["x"], "sha256": "0" * 64})


def walk_refused_pin(server):
    """One worker is logged in and lets the administrator in, the other one is refused."""
    server.write_pin("wrong")
    kill(server.workers()[0])
    with server.http("admin-1") as admin:
        wait_for(lambda: "pin_refused" in
                 [w["state"] for w in admin.status()["tokens"][0]["workers"]],
                 "the new worker's PIN is refused")
        assert admin.ok("POST", "/v1/hsm/retry-pin", {"token": "main"}).json["tokens"] == ["main"]


def walk_unready(server):
    """Health of a server whose token takes no login."""
    server.start(ready=False)
    wait_for(lambda: server.health()[0] == 503, "the server says that it is not ready")
    for name in ("ready", "active"):
        assert server.health(name)[0] == 503


def test_every_route_answers_with_every_status_that_is_described(own, make_server, monkeypatch):
    fresh = Description(openapi.load())
    monkeypatch.setattr(openapi, "description", fresh)
    with own.http("admin-1") as admin, own.http("app") as app, own.http() as anybody:
        walk_keys(admin, app)
        walk_clients(admin)
        walk_snapshots(admin)
        with own.http("admin-2") as other:
            walk_approvals(admin, other)
        walk_server(admin, anybody)
        walk_adoption(own, admin)
    walk_restore(own)
    walk_refused_pin(own)
    refused = make_server().init()
    refused.write_pin("wrong")
    walk_unready(refused)
    # It takes a pair to send a change on, to step down and to be promoted: test_pair.py.
    described = {(m, path, status) for m, path, status in fresh.described()
                 if status != 307 and not path.endswith(("/step-down", "/promote"))}
    assert described - fresh.answered == set()
    assert described <= fresh.answered and len(described) > 20


def test_what_is_not_described_gets_a_problem_document(server, admin):
    for method, path, status, code in (
            ("GET", "/v1/nothing", 404, "not_found"), ("GET", "/", 404, "not_found"),
            ("PUT", "/v1/keys", 405, "method_not_allowed"),
            ("OPTIONS", "/v1/keys/demo", 405, "method_not_allowed"),
            ("POST", "/health/live", 405, "method_not_allowed")):
        reply = admin.call(method, path)
        assert (reply.status, reply.code) == (status, code), path
    with server.http() as h:
        assert h.get("/v1/nothing").code == "certificate_required"


# ---- the check itself can fail ----

def headers(kind="application/json", **more):
    message = email.message.Message()
    for name, value in {"Content-Type": kind, **more}.items():
        message[name.replace("_", "-")] = value
    return message


ID = "0190a0b0-c0d0-4e00-8f00-000000000001"
TOLD = {"Kekd_Revision": "7", "Kekd_Request_Id": ID}


def look(body, status=200, answer=None, request=None, path="/v1/keys/demo/unwrap"):
    answer = answer or headers(**TOLD)
    Description(openapi.load()).look(
        "POST", path, {"Content-Type": "application/json"},
        json.dumps(request or {"ciphertext": "AAAA"}).encode(), status, answer,
        json.dumps(body).encode())


GOOD = {"plaintext": "AAAA", "version": 1, "primary": True}
PROBLEM = {"type": "urn:kekd:error:overloaded", "title": "t", "status": 503, "code": "overloaded",
           "request_id": ID}


def test_an_answer_that_is_described_is_taken():
    look(GOOD)
    failed = {"error": {k: v for k, v in PROBLEM.items() if k != "request_id"}}
    look({"items": [GOOD, failed]}, request={"items": [{"ciphertext": "AAAA"}, {"surprise": 1}]})
    look(PROBLEM, 503, headers(openapi.PROBLEM, Retry_After="1"))


@pytest.mark.parametrize("what", [
    {"body": {**GOOD, "surprise": 1}},
    {"body": {"items": [{**GOOD, "surprise": 1}]}},
    {"body": {"version": 1}},
    {"body": {**GOOD, "plaintext": "AAA"}},
    {"body": {**GOOD, "version": "1"}},
    {"body": GOOD, "status": 204},
    {"body": GOOD, "answer": headers("text/plain", **TOLD)},
    {"body": GOOD, "answer": headers(**{**TOLD, "Kekd_Revision": "x"})},
    {"body": GOOD, "answer": headers(**{**TOLD, "Kekd_Request_Id": "x"})},
    {"body": GOOD, "answer": headers(Kekd_Revision="7")},
    {"body": GOOD, "answer": headers(**TOLD, Surprise="1")},
    {"body": GOOD, "request": {"ciphertext": "AAAA", "surprise": 1}},
    {"body": {"items": [GOOD]}, "request": {"items": [{"ciphertext": "AAAA", "surprise": 1}]}},
    {"body": GOOD, "path": "/v1/surprise"},
    {"body": PROBLEM, "status": 503, "answer": headers(openapi.PROBLEM)},
    {"body": PROBLEM, "status": 429, "answer": headers(openapi.PROBLEM, Retry_After="1")},
    {"body": {**PROBLEM, "code": "surprise"}, "status": 503,
     "answer": headers(openapi.PROBLEM, Retry_After="1")},
])
def test_an_answer_that_is_not_described_is_found(what):
    with pytest.raises(Violation):
        look(**what)


def test_an_answer_under_load_is_held_against_the_description_too():
    head = (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nKekd-Revision: 7\r\n"
            b"Kekd-Request-Id: " + ID.encode() + b"\r\nContent-Length: 1")
    good = {"ciphertext": "AAAA", "key": "demo", "version": 1, "version_id": PROBLEM["request_id"]}
    load.check(load.request(), 200, head, json.dumps(good).encode())
    with pytest.raises(Violation):
        load.check(load.request(), 200, head, json.dumps({**good, "surprise": 1}).encode())
    assert len(openapi.violations) == 1
    openapi.violations.clear()


def test_a_violation_that_a_test_swallows_is_kept(server):
    class Other(Http):
        def connect(self):
            class Surprise:
                status, will_close, headers = 200, False, email.message.Message()

                def request(self, *_args, **_more):
                    pass

                def getresponse(self):
                    return self

                def read(self):
                    return b""
            return Surprise()
    with pytest.raises(Violation):
        Other(server).get("/v1/status")
    assert len(openapi.violations) == 1
    openapi.violations.clear()
