# SPDX-License-Identifier: Apache-2.0
"""The cluster's record and its policy: who may read and change it, and what it may be."""

import json

import pytest

from kekd import spiffe


def test_a_cluster_is_made_with_the_policy_of_the_configuration(server):
    with server.http("admin-1") as admin:
        cluster = admin.get("/v1/cluster").json
    assert cluster["name"] == "test" and [m["node"] for m in cluster["members"]] == ["node-1"]
    assert cluster["policy"] == {"approvals": 1, "destroy_wait": "0s", "approval_ttl": "1d"}


def test_a_cluster_takes_two_administrators_and_a_week_if_nothing_is_said(make_server):
    kekd = make_server()
    del kekd.settings["policy"]
    kekd.write_config()
    kekd.init().start()
    with kekd.http("admin-1") as admin:
        assert admin.get("/v1/cluster").json["policy"] == {
            "approvals": 2, "destroy_wait": "7d", "approval_ttl": "1d"}


@pytest.mark.parametrize("policy, finding", [
    ({"approvals": 0}, "approvals must be a number from 1 to 5"),
    ({"approvals": 6}, "approvals must be a number from 1 to 5"),
    ({"approvals": 2, "destroy_wait": "23h"}, "destroy_wait must be 24h or more"),
    ({"destroy_wait": "soon"}, "is not a duration"),
    ({"approval_ttl": "8d"}, "approval_ttl must be from 1m to 7d"),
    ({"surprise": 1}, "is not known"),
])
def test_a_configuration_with_a_policy_that_cannot_be_is_refused(make_server, policy, finding):
    kekd = make_server()
    kekd.settings["policy"] = policy
    kekd.write_config()
    done = kekd.run("init")
    assert done.returncode != 0 and finding in done.stdout


def test_the_policy_is_changed_under_the_revision_that_was_read(server):
    with server.http("admin-1") as admin:
        etag = admin.get("/v1/cluster").etag
        body = {"policy": {"destroy_wait": "3s"}}
        assert admin.call("PATCH", "/v1/cluster", body).code == "precondition_required"
        reply = admin.call("PATCH", "/v1/cluster", body, etag=etag)
        assert reply.json["policy"]["destroy_wait"] == "3s"
        assert reply.json["policy"]["approvals"] == 1
        stale = admin.call("PATCH", "/v1/cluster", body, etag=etag)
        assert (stale.status, stale.code) == (412, "precondition_failed")
    server.stop()
    server.start()
    with server.http("admin-1") as admin:
        assert admin.get("/v1/cluster").json["policy"]["destroy_wait"] == "3s"


@pytest.mark.parametrize("body, code", [
    ({}, "invalid_request"),
    ({"policy": {}, "surprise": 1}, "unknown_member"),
    ({"policy": {"surprise": 1}}, "unknown_member"),
    ({"policy": {"approvals": "2"}}, "invalid_request"),
    ({"policy": {"approvals": 0}}, "invalid_request"),
    ({"policy": {"approvals": 6}}, "invalid_request"),
    ({"policy": {"approvals": -4294967295}}, "invalid_request"),
    ({"policy": {"approvals": 2}}, "invalid_request"),
    ({"policy": {"approvals": 2, "destroy_wait": "23h"}}, "invalid_request"),
    ({"policy": {"destroy_wait": "1w"}}, "invalid_request"),
    ({"policy": {"destroy_wait": 5}}, "invalid_request"),
    ({"policy": {"approval_ttl": "8d"}}, "invalid_request"),
    ({"policy": {"approval_ttl": "59s"}}, "invalid_request"),
])
def test_a_policy_that_cannot_be_is_refused(server, body, code):
    with server.http("admin-1") as admin:
        etag = admin.get("/v1/cluster").etag
        reply = admin.call("PATCH", "/v1/cluster", body, etag=etag)
        assert (reply.status, reply.code) == (400, code)
        assert admin.get("/v1/cluster").etag == etag


def test_the_cluster_is_for_those_who_may_see_and_change_it(server):
    with server.http("admin-1") as admin:
        admin.put_client("watch", ["uri:" + spiffe("other")],
                         [{"keys": "*", "operations": ["status.read"]}])
    with server.http("app") as app:
        assert app.get("/v1/cluster").code == "forbidden"
    with server.http("other") as watch:
        etag = watch.get("/v1/cluster").etag
        assert watch.call("PATCH", "/v1/cluster", {"policy": {"approvals": 1}},
                          etag=etag).code == "forbidden"


def test_kekctl_shows_and_sets_the_policy(server):
    assert b"Destroy waits" in server.kekctl("cluster", "show").stdout
    server.kekctl("cluster", "set", "--destroy-wait", "30m", "--approval-ttl", "2h")
    shown = json.loads(server.kekctl("cluster", "show", "-o", "json").stdout)
    assert shown["policy"] == {"approvals": 1, "destroy_wait": "30m", "approval_ttl": "2h"}
    assert b"nothing to set" in server.kekctl("cluster", "set", status=2).stderr
    assert server.kekctl("cluster", "set", "--approvals", "2", status=None).returncode != 0
