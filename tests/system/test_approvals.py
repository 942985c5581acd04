# SPDX-License-Identifier: Apache-2.0
"""What takes a second administrator: who may approve, and what an approval binds."""

import json
import uuid

import pytest

from kekd import wait_for
from pki import spiffe
from test_destroy import destroy, evidence, old_version, state, version

ADMIN = ["approve", "client.write", "client.read", "key.destroy", "key.state", "key.read",
         "cluster.write", "status.read"]


def set_policy(h, status=200, **policy):
    etag = h.ok("GET", "/v1/cluster").etag
    return h.ok("PATCH", "/v1/cluster", {"policy": policy}, etag=etag, status=status).json


def grants(*operations):
    return [{"keys": "*", "operations": list(operations or ADMIN)}]


def approve(h, asked, shown=None):
    return h.call("POST", f"/v1/approvals/{asked['id']}/approve",
                  {"evidence": shown or asked["evidence"]})


def approval(h, asked):
    return h.ok("GET", f"/v1/approvals/{asked['id']}").json


def put_privileged(h, name, operations=("approve",), status=202):
    body = {"identities": [f"dns:{name}.test"], "grants": grants(*operations)}
    return h.ok("PUT", f"/v1/clients/{name}", body, create=True, status=status).json


@pytest.fixture(scope="module")
def pair(make_shared_server):
    """Two administrators of `kekd init`, and it takes both."""
    server = make_shared_server()
    server.settings["policy"] = {"approvals": 2}
    server.write_config()
    return server.init().start().populate()


@pytest.fixture
def one(pair):
    with pair.http("admin-1") as h:
        yield h


@pytest.fixture
def two(pair):
    with pair.http("admin-2") as h:
        yield h


def test_a_destroy_waits_for_another_administrator(pair, one, two):
    old_version(one, "both")
    reply = destroy(one, 1, "both")
    asked = reply.json
    assert reply.status == 202 and asked["state"] == "pending" and asked["needed"] == 2
    assert asked["kind"] == "version.destroy" and asked["target"] == "both/1"
    assert asked["change"]["usage"]["unwrapped"] == 0
    assert asked["evidence"] == evidence(one, 1, "both")
    assert state(one, "both") == "disabled"
    # Nobody approves what they asked for, however often.
    for _ in range(2):
        reply = approve(one, asked)
        assert (reply.status, reply.code) == (403, "approver_not_eligible")
    assert state(one, "both") == "disabled"
    # Nor anything but what was shown.
    assert approve(two, asked, "0" * 64).code == "evidence_changed"
    assert approve(two, asked).json["state"] == "done"
    v = version(one, 1, "both")
    assert v["state"] == "scheduled" and v["destroy"]["approval"] == asked["id"]
    assert v["destroy"]["wait"] == "7d" and v["destroy"]["requested_by"] == "admin-1"
    reply = approve(two, asked)
    assert (reply.status, reply.code) == (409, "approval_not_pending")
    records = pair.audit_records(operation="approval.approve", type="outcome")
    assert any(r.get("detail", {}).get("approval") == asked["id"] for r in records)


def test_asking_twice_is_asking_once(one):
    old_version(one, "twice")
    first, second = destroy(one, 1, "twice").json, destroy(one, 1, "twice").json
    assert first["id"] == second["id"] and second["approved_by"] == []


def test_a_request_of_another_administrator_takes_the_place_of_the_first(one, two):
    old_version(one, "mine")
    first, second = destroy(one, 1, "mine").json, destroy(two, 1, "mine").json
    assert first["id"] != second["id"]
    assert approval(one, first)["state"] == "stale"
    assert approve(two, first).code == "approval_not_pending"
    assert approve(one, second).json["state"] == "done"


def test_an_approver_made_for_the_purpose_cannot_approve(make_server):
    server = make_server().init().start().populate()
    with server.http("admin-1") as one, server.http("admin-2") as two:
        old_version(one, "prey")
        for name in ("admin-3", "other"):  # one administrator is enough still
            maker = one if name == "admin-3" else two
            body = {"identities": ["uri:" + spiffe(name)], "grants": grants()}
            maker.ok("PUT", f"/v1/clients/{name}", body, create=True, status=201)
        set_policy(one, approvals=2, destroy_wait="24h")
        asked = destroy(one, 1, "prey").json
        # admin-3 was made by who asks; long before makes no difference.
        with server.http("admin-3") as made:
            reply = approve(made, asked)
            assert (reply.status, reply.code) == (403, "approver_not_eligible")
            assert "by who asks" in reply.json["detail"]
        # other's record was changed after the request.
        etag = one.ok("GET", "/v1/clients/other").etag
        body = {"identities": ["uri:" + spiffe("other")], "grants": grants(*ADMIN, "backup")}
        change = two.ok("PUT", "/v1/clients/other", body, etag=etag, status=202).json
        assert approve(one, change).json["state"] == "done"
        with server.http("other") as changed:
            reply = approve(changed, asked)
            assert (reply.status, reply.code) == (403, "approver_not_eligible")
            assert "after the request" in reply.json["detail"]
        assert state(one, "prey") == "disabled"
        # A new client that another administrator made and approved after the request: neither.
        with server.http("app") as app:
            assert approve(app, asked).code == "forbidden"
        assert approve(two, asked).json["state"] == "done"


def test_evidence_that_changed_after_the_request_voids_it(pair, one, two):
    one.create_key("used")
    with pair.http("app") as app:
        blob = app.wrap(b"secret", key="used")
        one.rotate("used")
        one.rotate("used")
        one.change("used", "versions/1/disable")
        asked = destroy(one, 1, "used").json
        assert app.try_unwrap(blob, key="used").code == "version_not_enabled"
    wait_for(lambda: evidence(one, 1, "used") != asked["evidence"], "the refused use shows")
    reply = approve(two, asked)
    assert (reply.status, reply.code) == (409, "evidence_changed")
    assert approval(one, asked)["state"] == "stale" and approval(one, asked)["reason"]
    assert state(one, "used") == "disabled"


def test_a_key_that_changed_after_the_request_voids_it(one, two):
    old_version(one, "moved")
    asked = destroy(one, 1, "moved").json
    one.rotate("moved")
    reply = approve(two, asked)
    assert (reply.status, reply.code) == (412, "precondition_failed")
    assert str(one.key("moved")["revision"]) in reply.json["detail"]
    assert approval(one, asked)["state"] == "stale"
    assert state(one, "moved") == "disabled"


def test_a_rejected_request_is_over(one, two):
    old_version(one, "no")
    asked = destroy(one, 1, "no").json
    path = f"/v1/approvals/{asked['id']}/reject"
    assert two.ok("POST", path, {}).json["ended_by"] == "admin-2"
    assert two.call("POST", path, {}).code == "approval_not_pending"
    assert approve(two, asked).code == "approval_not_pending"
    asked = destroy(one, 1, "no").json  # who asked may think better of it
    assert one.ok("POST", f"/v1/approvals/{asked['id']}/reject", {}).json["state"] == "rejected"


def test_handing_out_approve_or_client_write_takes_both(one, two):
    for operation in ("approve", "client.write"):
        name = operation.replace(".", "-")
        asked = put_privileged(one, name, (operation,))
        assert asked["kind"] == "client.write" and asked["revision"] == 0
        assert one.get(f"/v1/clients/{name}").status == 404
        assert approve(two, asked).json["state"] == "done"
        made = two.ok("GET", f"/v1/clients/{name}").json
        assert made["changed_by"] == "admin-1" and made["changed"]


def test_an_administrators_record_is_changed_and_removed_by_two(one, two):
    made = put_privileged(one, "boss")
    approve(two, made)
    reply = one.ok("GET", "/v1/clients/boss")
    body = {"identities": ["dns:thief.test"], "grants": grants("approve")}
    asked = one.ok("PUT", "/v1/clients/boss", body, etag=reply.etag, status=202).json
    assert one.get("/v1/clients/boss").json["identities"] == ["dns:boss.test"]
    other = two.ok("DELETE", "/v1/clients/boss", etag=reply.etag, status=202).json
    assert approve(two, asked).json["state"] == "done"
    assert one.get("/v1/clients/boss").json["identities"] == ["dns:thief.test"]
    reply = approve(one, other)  # it was about the record as it was before
    assert (reply.status, reply.code) == (412, "precondition_failed")
    etag = one.ok("GET", "/v1/clients/boss").etag
    asked = two.ok("DELETE", "/v1/clients/boss", etag=etag, status=202).json
    assert approve(one, asked).json["state"] == "done"
    assert one.get("/v1/clients/boss").status == 404


def test_a_client_without_such_grants_is_one_administrators_to_change(one):
    body = {"identities": ["dns:plain.test"], "grants": grants("wrap")}
    one.ok("PUT", "/v1/clients/plain", body, create=True, status=201)
    etag = one.ok("GET", "/v1/clients/plain").etag
    one.ok("DELETE", "/v1/clients/plain", etag=etag)


def test_the_server_says_who_changed_a_record_and_nobody_else_does(one):
    body = {"identities": ["dns:liar.test"], "grants": grants("wrap"), "changed_by": "admin-2"}
    reply = one.raw("PUT", "/v1/clients/liar", json.dumps(body).encode(),
                    {"Content-Type": "application/json", "If-None-Match": "*"})
    assert (reply.status, reply.code) == (400, "unknown_member")


def test_the_policy_is_changed_by_two(one, two):
    asked = set_policy(one, 202, approval_ttl="2h")
    assert one.get("/v1/cluster").json["policy"]["approval_ttl"] == "1d"
    assert approve(one, asked).code == "approver_not_eligible"
    assert approve(two, asked).json["state"] == "done"
    assert one.get("/v1/cluster").json["policy"]["approval_ttl"] == "2h"
    # Two requests for the same revision: the second is void once the first is done.
    first, second = set_policy(one, 202, approval_ttl="3h"), set_policy(two, 202, destroy_wait="9d")
    assert approval(one, first)["state"] == "stale"
    assert approve(one, second).json["state"] == "done"


def test_three_administrators_when_the_policy_says_three(make_server):
    server = make_server()
    server.settings["admins"].append(
        {"name": "admin-3", "identities": ["uri:" + spiffe("admin-3")]})
    server.settings["policy"] = {"approvals": 3}
    server.write_config()
    server.init().start()
    with server.http("admin-1") as one, server.http("admin-2") as two, \
            server.http("admin-3") as three:
        old_version(one, "three")
        asked = destroy(one, 1, "three").json
        assert approve(two, asked).json["state"] == "pending"
        reply = approve(two, asked)
        assert (reply.status, reply.code) == (403, "approver_not_eligible")
        server.stop()
        server.start()
        with server.http("admin-3") as three:
            assert approve(three, asked).json["state"] == "done"
            assert state(three, "three") == "scheduled"


def start_with(server, approvals, more):
    server.settings["admins"] += [{"name": name, "identities": ["uri:" + spiffe(name)]}
                                  for name in more]
    server.settings["policy"] = {"approvals": approvals}
    server.write_config()
    server.init().start()
    return [server.http(name) for name in ("admin-1", "admin-2", *more)]


@pytest.mark.parametrize("fate", ["deleted", "changed", "lost approve"])
def test_an_earlier_approver_who_could_not_approve_any_more_does_not_count(make_server, fate):
    server = make_server()
    one, two, three, four, five = start_with(server, 3, ("admin-3", "app", "other"))
    old_version(one, "prey")
    asked = destroy(one, 1, "prey").json
    assert approve(two, asked).json["state"] == "pending"
    # Others take admin-2 out, or change its record.
    etag = three.ok("GET", "/v1/clients/admin-2").etag
    if fate == "deleted":
        change = three.ok("DELETE", "/v1/clients/admin-2", etag=etag, status=202).json
    else:
        body = three.ok("GET", "/v1/clients/admin-2").json
        body = {m: body[m] for m in ("identities", "grants")}
        body["grants"] = grants(*ADMIN, "backup") if fate == "changed" else grants("key.read")
        change = three.ok("PUT", "/v1/clients/admin-2", body, etag=etag, status=202).json
    for h in (four, five):
        assert approve(h, change).status == 200
    assert approval(three, change)["state"] == "done"
    shown = approval(three, asked)
    assert shown["approved_by"] == [] and shown["state"] == "pending"
    # It would have been the third administrator.
    told = approve(three, asked).json
    assert told["state"] == "pending" and state(one, "prey") == "disabled"
    assert [a["client"] for a in told["approved_by"]] == ["admin-3"]
    assert '"admin-2" does not count any more' in told["reason"]
    looked = server.kekctl("approve", asked["id"], status=2, name="app").stdout
    assert b"does not count any more" in looked and b"2 of 3" in looked
    record = server.audit_records(operation="approval.approve", type="outcome")[-1]
    assert "admin-2" in record["detail"]["reason"]
    assert approve(four, asked).json["state"] == "done"
    assert state(one, "prey") == "scheduled"


@pytest.mark.parametrize("body, status, code", [
    ({}, 400, "invalid_request"),
    ({"evidence": 1}, 400, "invalid_request"),
    ({"evidence": "x", "surprise": 1}, 400, "unknown_member"),
    ({"evidence": "x"}, 409, "evidence_changed"),
])
def test_a_bad_approval_approves_nothing(one, two, body, status, code):
    asked = set_policy(one, 202, approval_ttl="5h")
    path = f"/v1/approvals/{asked['id']}/approve"
    reply = two.call("POST", path, body)
    assert (reply.status, reply.code) == (status, code)
    assert approval(one, asked)["state"] == "pending"


def test_what_was_never_asked_cannot_be_approved(pair, one):
    unknown = str(uuid.uuid4())
    for method, path in (("GET", ""), ("POST", "/approve"), ("POST", "/reject")):
        body = None if method == "GET" else {"evidence": "x"} if path == "/approve" else {}
        reply = one.call(method, f"/v1/approvals/{unknown}{path}", body)
        assert (reply.status, reply.code) == (404, "approval_not_found")
    with pair.http("app") as app:
        assert app.get("/v1/approvals").code == "forbidden"
        assert app.call("POST", f"/v1/approvals/{unknown}/approve",
                        {"evidence": "x"}).code == "forbidden"


def test_kekctl_asks_shows_and_approves(pair, one, two):
    old_version(one, "by-hand")
    asked = pair.kekctl("key", "destroy", "by-hand", "1", "--yes", status=8)
    assert b"waits for approval" in asked.stdout
    listed = pair.kekctl("approvals", "-q", name="admin-2").stdout.decode().split()
    waiting = json.loads(pair.kekctl("approvals", "-o", "json", name="admin-2").stdout)
    wanted = next(a["id"] for a in waiting["approvals"] if a["target"] == "by-hand/1")
    assert wanted in listed and wanted.encode() in asked.stdout
    assert b"approver_not_eligible" in pair.kekctl("approve", wanted, "--yes", status=3).stderr
    looked = pair.kekctl("approve", wanted, status=2, name="admin-2")
    assert b"by-hand/1" in looked.stdout and b"--yes" in looked.stderr
    assert b"it is done" in pair.kekctl("approve", wanted, "--yes", name="admin-2").stdout
    assert state(one, "by-hand") == "scheduled"
    asked = pair.kekctl("client", "add", "chief", "--identity", "dns:chief.test", "--grant",
                        "*:approve", "-q", status=8).stdout.decode().strip()
    assert b"rejected" in pair.kekctl("reject", asked, name="admin-2").stdout
    assert pair.kekctl("approve", asked, "--yes", status=5, name="admin-2")
    assert pair.kekctl("reject", "x", status=2)


def test_metrics_tell_how_many_requests_wait(one, two):
    def waiting():
        lines = one.get("/metrics").body.decode().splitlines()
        return next(int(v.split()[1]) for v in lines if v.startswith("kekd_approvals_pending "))
    before = waiting()
    asked = put_privileged(one, "counted")
    assert waiting() == before + 1
    two.ok("POST", f"/v1/approvals/{asked['id']}/reject", {})
    assert waiting() == before


def test_a_version_that_waits_voids_no_request_about_another_of_its_key(make_server):
    server = make_server().init().start().populate()
    with server.http("admin-1") as one, server.http("admin-2") as two:
        old_version(one, "many")
        one.rotate("many")
        one.change("many", "versions/2/disable")
        set_policy(one, destroy_wait="60s")
        assert destroy(one, 1, "many").status == 200
        set_policy(one, approvals=2, destroy_wait="24h")
        asked = destroy(one, 2, "many").json
        wait_for(lambda: one.key("many")["revision"] > asked["revision"], "the wait is stored")
        assert approve(two, asked).json["state"] == "done"
        assert state(one, "many", 2) == "scheduled"


def test_of_two_hundred_requests_that_wait_one_must_end_before_the_next(make_server):
    server = make_server()
    server.settings["policy"] = {"approvals": 2}
    server.write_config()
    server.init().start()
    with server.http("admin-1") as one, server.http("admin-2") as two:
        asked = [put_privileged(one, f"new-{n}") for n in range(200)]
        body = {"identities": ["dns:late.test"], "grants": grants("approve")}
        reply = one.call("PUT", "/v1/clients/late", body, headers={"If-None-Match": "*"})
        assert (reply.status, reply.code) == (409, "approvals_full")
        two.ok("POST", f"/v1/approvals/{asked[0]['id']}/reject", {})
        put_privileged(one, "late")
