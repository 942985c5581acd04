# SPDX-License-Identifier: Apache-2.0
"""The nodes of a cluster, where there is one: who becomes a member, who is none any more, the
level, and that a node alone has nothing to hand over. A pair: test_pair.py."""

import json
import os
import subprocess

import pytest

from kekd import BUILD, wait_for

ROUTES = (("forget", {"node": "node-2"}), ("level", {"level": 1}), ("step-down", {}),
          ("promote", {}))


def post(http, what, body, **options):
    if what in ("forget", "level") and not options:
        options = {"etag": http.get("/v1/cluster").etag}
    return http.call("POST", f"/v1/cluster/{what}", body, **options)


def names(http):
    return [m["node"] for m in http.get("/v1/cluster").json["members"]]


def set_members(http, members):
    etag = http.get("/v1/cluster").etag
    return http.call("PATCH", "/v1/cluster", {"members": members}, etag=etag)


def test_a_node_alone_is_the_member_that_makes_the_changes(server, admin):
    row = wait_for(lambda: next((m for m in admin.get("/v1/cluster").json["members"]
                                 if m["ready"]), None), "the node is ready")
    assert (row["node"], row["present"], row["role"], row["ready"]) == (
        "node-1", True, "single", True)
    assert row["level"] == 1 and row["release"] and row["reason"] is None
    assert row["revision"] == admin.status()["revision"]
    status = admin.status()
    assert (status["role"], status["epoch"], status["leader"]) == ("single", None, None)
    assert server.health("active")[0] == 200


def test_a_member_is_added_once_and_forgotten_for_ever(own):
    with own.http("admin-1") as admin:
        assert set_members(admin, ["node-1", "node-2"]).status == 200
        assert names(admin) == ["node-1", "node-2"]
        row = admin.get("/v1/cluster").json["members"][1]
        assert row["present"] is False and row["role"] is None and row["level"] is None
        assert post(admin, "forget", {"node": "node-2"}).status == 200
        cluster = admin.get("/v1/cluster").json
        assert cluster["forgotten"] == ["node-2"] and names(admin) == ["node-1"]
        reply = set_members(admin, ["node-1", "node-2"])
        assert reply.status == 400 and "forgotten" in reply.json["detail"]
    own.stop()
    own.start()
    with own.http("admin-1") as admin:
        assert admin.get("/v1/cluster").json["forgotten"] == ["node-2"]
    done = [r for r in own.audit_records(operation="cluster.forget") if r["type"] == "outcome"]
    assert done[0]["detail"]["forgotten"] == "node-2" and "code" not in done[0]


@pytest.mark.parametrize("members, finding", [
    ([], "must list"), (["node-2"], "must list"), (["node-1", "Node"], "name"),
    (["node-1", 7], "name"), (["node-1", *(f"n{i}" for i in range(16))], "16"),
])
def test_a_list_of_members_that_cannot_be_is_refused(server, admin, members, finding):
    reply = set_members(admin, members)
    assert (reply.status, reply.code) == (400, "invalid_request")
    assert finding in reply.json["detail"]
    assert names(admin) == ["node-1"]


def test_the_policy_and_the_members_are_changed_one_at_a_time(server, admin):
    etag = admin.get("/v1/cluster").etag
    body = {"members": ["node-1"], "policy": {"approvals": 1}}
    assert admin.call("PATCH", "/v1/cluster", body, etag=etag).code == "invalid_request"


def test_the_last_member_and_the_one_that_is_asked_are_not_forgotten(own):
    with own.http("admin-1") as admin:
        assert post(admin, "forget", {"node": "node-1"}).code == "invalid_state"
        assert post(admin, "forget", {"node": "node-9"}).code == "invalid_request"
        assert set_members(admin, ["node-1", "node-2"]).status == 200
        assert post(admin, "forget", {"node": "node-1"}).code == "invalid_state"


@pytest.mark.parametrize("level, code", [
    (0, "invalid_request"), (-1, "invalid_request"), (2, "invalid_request"),
    (2**40, "invalid_request"), ("1", "invalid_request"), (None, "invalid_request"),
])
def test_a_level_that_this_release_does_not_know_is_refused(server, admin, level, code):
    reply = post(admin, "level", {"level": level})
    assert (reply.status, reply.code) == (400, code)


def test_the_level_is_not_raised_past_a_member_that_is_not_there(own):
    with own.http("admin-1") as admin:
        assert post(admin, "level", {"level": 1}).json["level"] == 1
        set_members(admin, ["node-1", "node-2"])
        reply = post(admin, "level", {"level": 1})
        assert (reply.status, reply.code) == (409, "member_not_ready")
        assert "node-2" in reply.json["detail"]


def test_a_node_alone_does_not_step_down_and_is_not_promoted(server, admin):
    for what, body in (("step-down", {}), ("step-down", {"force": True, "pause": "5m"}),
                       ("promote", {}), ("promote", {"force": True})):
        reply = post(admin, what, body)
        assert (reply.status, reply.code) == (409, "invalid_state"), what


@pytest.mark.parametrize("what, body, code", [
    ("step-down", {"pause": "0s"}, "invalid_request"),
    ("step-down", {"pause": "2h"}, "invalid_request"),
    ("step-down", {"pause": 5}, "invalid_request"),
    ("step-down", {"surprise": 1}, "unknown_member"),
    ("promote", {"force": "yes"}, "invalid_request"),
    ("promote", {"surprise": 1}, "unknown_member"),
    ("forget", {}, "invalid_request"),
    ("forget", {"node": 1}, "invalid_request"),
    ("forget", {"node": "node-2", "surprise": 1}, "unknown_member"),
    ("level", {}, "invalid_request"),
    ("level", {"level": 1, "surprise": 1}, "unknown_member"),
])
def test_a_body_that_cannot_be_is_refused(server, admin, what, body, code):
    reply = post(admin, what, body)
    assert (reply.status, reply.code) == (400, code)


def test_only_who_may_write_the_cluster_may_say_who_leads_and_who_belongs(server, admin):
    with server.http("app") as app:
        for what, body in ROUTES:
            assert post(app, what, body, etag="*").code == "forbidden", what
    for what in ("forget", "level"):
        body = dict(ROUTES)[what]
        assert admin.call("POST", f"/v1/cluster/{what}", body).code == "precondition_required"
        assert post(admin, what, body, etag='"999"').status == 412


def test_kekctl_shows_and_changes_the_members(own):
    shown = own.kekctl("cluster", "status").stdout.decode()
    assert "NODE" in shown and "node-1" in shown and "single" in shown
    own.kekctl("cluster", "members", "add", "node-2")
    assert own.kekctl("cluster", "members").stdout == b"node-1\nnode-2\n"
    assert b"ABSENT" in own.kekctl("cluster", "status").stdout
    assert b"already" in own.kekctl("cluster", "members", "add", "node-2").stderr
    cluster = json.loads(own.kekctl("cluster", "status", "-o", "json").stdout)
    assert [m["present"] for m in cluster["members"]] == [True, False]
    assert own.kekctl("cluster", "status", "-q").stdout == b"node-1\nnode-2\n"
    assert own.kekctl("cluster", "forget", "node-2", status=2).stderr
    own.kekctl("cluster", "forget", "node-2", "--yes")
    assert b"node-2" in own.kekctl("cluster", "status").stdout
    assert b"level 1" in own.kekctl("cluster", "level", "1").stdout
    assert own.kekctl("cluster", "level", "two", status=2).stderr
    assert own.kekctl("cluster", "level", "2", status=1).stderr
    assert own.kekctl("cluster", "promote", status=5).stderr
    assert own.kekctl("cluster", "step-down", "--pause", "1m", status=5).stderr
    assert b"members" in own.kekctl("help", "cluster", "members", "add").stdout


def test_completion_goes_on_where_one_command_begins_with_another():
    done = subprocess.run([os.path.join(BUILD, "kekctl"), "complete", "cluster", "members", ""],
                          check=True, capture_output=True)
    assert done.stdout.startswith(b"add\t")
