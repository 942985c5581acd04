# SPDX-License-Identifier: Apache-2.0
"""Rotation: by its period, in two steps, as a dry run, given up; and what fails leaves the old
primary."""

import json
import time

import pytest

from kekd import FAULTY_MODULE, Faults, wait_for

DAY = "30d"


def out(done):
    return done.stdout.decode()


def states(key):
    return [v["state"] for v in key["versions"]]


def patch(admin, name, body, status=200):
    etag = admin.ok("GET", f"/v1/keys/{name}").etag
    return admin.ok("PATCH", f"/v1/keys/{name}", body, etag=etag, status=status)


def by_itself(server):
    return server.audit_records(operation="key.rotate", client="kekd")


# ---- by its period ----

def test_a_key_rotates_by_itself_when_its_period_is_over(own):
    with own.http("admin-1") as admin, own.http("app") as app:
        key = admin.create_key("often", rotate_every="2s").json
        assert key["rotate_every"] == "2s" and key["next_rotation"] > key["created"]
        blob = app.wrap(b"old", "often")
        wait_for(lambda: admin.key("often")["primary"] == 2, "the key rotates", 10, 0.2)
        assert app.unwrap(blob, "often") == b"old"
        assert admin.status()["rotations"]["by_period"] >= 1
        ended = patch(admin, "often", {"rotate_every": None}).json
        assert ended["rotate_every"] is None and ended["next_rotation"] is None
        time.sleep(2.5)
        assert admin.key("often")["primary"] == ended["primary"]
    intent, outcome = by_itself(own)[:2]
    assert (intent["type"], outcome["type"]) == ("intent", "outcome")
    assert intent["request_id"] == outcome["request_id"] and outcome["key"] == "often"
    assert intent["detail"] == {"reason": "period"}
    assert outcome["detail"]["reason"] == "period" and outcome["detail"]["version"] == 2


def test_periods_that_were_missed_are_made_up_for_once(own):
    with own.http("admin-1") as admin:
        admin.create_key("missed", rotate_every="3s")
    own.stop()
    time.sleep(10)
    own.start()
    with own.http("admin-1") as admin:
        wait_for(lambda: admin.key("missed")["primary"] == 2, "the missed rotation", 10, 0.1)
        time.sleep(1.5)
        assert admin.key("missed")["primary"] == 2
        wait_for(lambda: admin.key("missed")["primary"] == 3, "the next rotation", 10, 0.1)


def test_the_same_period_again_puts_nothing_off(admin):
    before = admin.create_key("steady", rotate_every=DAY).json
    time.sleep(0.01)
    assert patch(admin, "steady", {"rotate_every": "720h"}).json == before
    other = patch(admin, "steady", {"rotate_every": "31d"}).json
    assert other["next_rotation"] > before["next_rotation"]


def test_a_rotation_by_hand_begins_the_period_anew(admin):
    before = admin.create_key("byhand", rotate_every="2d").json
    time.sleep(1.1)
    after = admin.rotate("byhand")
    assert after["next_rotation"] != before["next_rotation"] and after["rotate_every"] == "2d"
    back = admin.change("byhand", "versions/1/primary").json
    assert back["next_rotation"] is not None and back["primary"] == 1


def test_keys_made_in_one_go_do_not_rotate_in_one_go(admin):
    names = [f"spread{n}" for n in range(8)]
    for name in names:
        admin.create_key(name, rotate_every="10d")
    times = {admin.key(name)["next_rotation"][:16] for name in names}
    assert len(times) >= 6


@pytest.mark.parametrize("every", ["", "0s", "0d", "1", "1w", "-1d", "1.5h", "1h30m", "01h", 3600,
                                   True, {}, [], "36526d", "99999999999999999999d", " 1h"])
def test_a_period_that_is_none_is_refused(admin, every):
    body = {"name": "never-made", "rotate_every": every}
    reply = admin.call("POST", "/v1/keys", body, create=True)
    assert (reply.status, reply.code) == (400, "invalid_request")
    assert admin.call("GET", "/v1/keys/never-made").status == 404
    etag = admin.ok("GET", "/v1/keys/demo").etag
    reply = admin.call("PATCH", "/v1/keys/demo", {"rotate_every": every}, etag=etag)
    assert (reply.status, reply.code) == (400, "invalid_request")


def test_where_two_administrators_are_asked_for_no_key_rotates_every_minute(make_server):
    own = make_server(policy={"approvals": 2, "destroy_wait": "7d"}).init().start().populate()
    with own.http("admin-1") as admin:
        body = {"name": "brisk", "rotate_every": "59m"}
        reply = admin.call("POST", "/v1/keys", body, create=True)
        assert (reply.status, reply.code) == (400, "invalid_request")
        assert '"1h"' in reply.json["detail"]
        assert admin.create_key("brisk", rotate_every="1h").json["rotate_every"] == "1h"


@pytest.mark.parametrize(("body", "code"), [
    ({}, "invalid_request"), ({"rotate": "1d"}, "unknown_member"),
    ({"frozen": None}, "invalid_request"), ({"frozen": "yes"}, "invalid_request"),
    ({"labels": None}, "invalid_request"), ({"labels": {}, "name": "x"}, "unknown_member")])
def test_a_patch_that_is_none_is_refused(admin, body, code):
    etag = admin.ok("GET", "/v1/keys/demo").etag
    reply = admin.call("PATCH", "/v1/keys/demo", body, etag=etag)
    assert (reply.status, reply.code) == (400, code)
    assert admin.ok("GET", "/v1/keys/demo").etag == etag


def test_a_rotation_that_fails_leaves_the_old_primary_and_is_tried_again(make_server, tmp_path):
    faults = Faults(str(tmp_path))
    own = make_server(module=FAULTY_MODULE, environment=faults.environment)
    own.init().start().populate()
    with own.http("admin-1") as admin, own.http("app") as app:
        admin.create_key("stuck", rotate_every="1s")
        faults.set("C_GenerateKey answer CKR_DEVICE_MEMORY")
        failing = wait_for(lambda: admin.status()["rotations"]["failing"], "it fails", 20, 0.2)[0]
        assert failing["key"] == "stuck" and failing["reason"] == "period"
        assert failing["detail"] and failing["again"] > failing["since"]
        key = admin.key("stuck")
        assert key["versions"][key["primary"] - 1]["state"] == "enabled"
        app.wrap(b"x", "stuck")
        assert "FAILED" in out(own.kekctl("status"))
        faults.set()
        wait_for(lambda: admin.key("stuck")["primary"] > key["primary"], "it rotates", 40, 0.2)
        assert admin.status()["rotations"]["failing"] == []
    assert "did not rotate" in own.log()
    assert any(r.get("code") for r in by_itself(own) if r["type"] == "outcome")


def test_kekctl_sets_shows_and_ends_the_period(server, admin):
    server.kekctl("key", "create", "policed", "--rotate-every", "90d")
    assert "every 90d" in out(server.kekctl("key", "show", "policed"))
    assert "7d" in out(server.kekctl("key", "set", "policed", "--rotate-every", "7d"))
    assert admin.key("policed")["rotate_every"] == "7d"
    assert admin.key("policed")["next_rotation"][:10] in out(server.kekctl("key", "list"))
    server.kekctl("key", "set", "policed", "--rotate-every", "never")
    assert "not by itself" in out(server.kekctl("key", "show", "policed"))
    assert server.kekctl("key", "set", "policed", "--rotate-every", "soon", status=1)


# ---- a dry run ----

def test_a_dry_run_says_what_would_happen_and_changes_nothing(server, admin):
    before = admin.create_key("maybe", rotate_every=DAY).json
    last = server.audit_records()[-1]["seq"]
    plan = admin.change("maybe", "rotate", {"dry_run": True}).json
    assert plan["version"] == 2 and plan["token"] == "main" and plan["proven_by"] == ["node-1"]
    assert plan["primary"] == 1 and plan["unwraps"] == [1] and plan["activates"] is True
    assert plan["kms_key_id"] == before["kms_key_id"] and plan["activation"] == 2
    assert plan["nonces"]["left"] < 2**32 and plan["token_ready"] is True
    assert admin.key("maybe") == before
    records = [r for r in server.audit_records(operation="key.rotate", key="maybe")
               if r["seq"] > last]
    assert [r["type"] for r in records] == ["request"]
    assert records[0]["detail"] == {"dry_run": True}
    after = admin.rotate("maybe")
    assert after["primary"] == plan["version"] and after["activation"] == plan["activation"]


def test_a_dry_run_of_a_staged_version_knows_its_id(admin):
    admin.create_key("known")
    admin.change("known", "rotate", {"stage_only": True})
    plan = admin.change("known", "rotate", {"dry_run": True}).json
    assert plan["already_staged"] is True and plan["version"] == 2
    assert admin.rotate("known")["kms_key_id"] == plan["next_kms_key_id"]


@pytest.mark.parametrize(("body", "status", "code"), [
    ({"dry_run": True, "token": "none"}, 400, "invalid_request"),
    ({"dry_run": "yes"}, 400, "invalid_request"),
    ({"dry_run": True, "x": 1}, 400, "unknown_member"),
    ({"stage_only": 1}, 400, "invalid_request"), ({"token": "none"}, 400, "invalid_request")])
def test_a_rotation_that_is_none_is_refused(admin, body, status, code):
    etag = admin.ok("GET", "/v1/keys/demo").etag
    reply = admin.call("POST", "/v1/keys/demo/rotate", body, etag=etag)
    assert (reply.status, reply.code) == (status, code)
    assert admin.ok("GET", "/v1/keys/demo").etag == etag


def test_a_dry_run_needs_its_condition_and_its_grant(admin, app):
    body = {"dry_run": True}
    assert admin.call("POST", "/v1/keys/demo/rotate", body).code == "precondition_required"
    stale = admin.call("POST", "/v1/keys/demo/rotate", body, etag='"1"')
    assert (stale.status, stale.code) == (412, "precondition_failed")
    assert app.call("POST", "/v1/keys/demo/rotate", body, etag='"1"').code == "forbidden"


def test_kekctl_shows_a_dry_run(server):
    server.kekctl("key", "create", "shown")
    text = out(server.kekctl("key", "rotate", "shown", "--dry-run"))
    assert "v2 of shown in token main" in text and "dry run" in text and "node-1" in text
    plan = json.loads(out(server.kekctl("key", "rotate", "shown", "--dry-run", "-o", "json")))
    assert plan["dry_run"] is True


# ---- in two steps ----

def test_a_staged_version_is_made_and_proven_and_wraps_once_it_is_activated(admin, app):
    first = admin.create_key("slow").json
    staged = admin.change("slow", "rotate", {"stage_only": True}).json
    assert states(staged) == ["enabled", "staged"] and staged["versions"][1]["proven"] is True
    assert staged["primary"] == 1 and staged["kms_key_id"] == first["kms_key_id"]
    blob = app.wrap(b"x", "slow")
    again = admin.change("slow", "rotate", {"stage_only": True}).json
    assert len(again["versions"]) == 2 and again["versions"][1]["id"] == staged["versions"][1]["id"]
    key = admin.change("slow", "activate").json
    assert key["primary"] == 2 and states(key) == ["enabled", "enabled"]
    assert key["activation"] == 2 and app.unwrap(blob, "slow") == b"x"
    assert app.wrap(b"y", "slow")[4:20].hex() == staged["versions"][1]["id"].replace("-", "")


def test_an_activation_is_done_once(admin):
    admin.create_key("onceonly")
    etag = admin.change("onceonly", "rotate", {"stage_only": True}).etag
    admin.ok("POST", "/v1/keys/onceonly/activate", {"version": 2}, etag=etag)
    lost = admin.call("POST", "/v1/keys/onceonly/activate", {"version": 2}, etag=etag)
    assert (lost.status, lost.code) == (412, "precondition_failed")
    key = admin.change("onceonly", "activate", {"version": 2}).json
    assert key["activation"] == 2
    reply = admin.change("onceonly", "activate", {"version": 1}, status=409)
    assert reply.code == "invalid_state"
    assert admin.change("onceonly", "activate", status=409).code == "invalid_state"


def test_an_abandoned_version_stays_listed_and_in_the_token(server, admin, app):
    admin.create_key("given-up")
    admin.change("given-up", "rotate", {"stage_only": True})
    reply = admin.change("given-up", "versions/2/abandon")
    version = reply.json["versions"][1]
    assert version["state"] == "abandoned"
    assert admin.change("given-up", "versions/2/abandon").etag == reply.etag
    assert admin.change("given-up", "versions/1/abandon", status=409).code == "invalid_state"
    assert admin.change("given-up", "activate", {"version": 2}, status=409).code == "invalid_state"
    assert version["object_id"] in server.pkcs11_tool("--list-objects").replace(":", "").lower()
    assert admin.rotate("given-up")["primary"] == 3
    outcome = server.audit_records(operation="version.abandon", type="outcome", key="given-up")[0]
    assert outcome["detail"]["state"] == "abandoned" and outcome["detail"]["version"] == 2
    app.wrap(b"x", "given-up")


@pytest.mark.parametrize(("path", "body", "status", "code"), [
    ("activate", {"version": 0}, 400, "invalid_request"),
    ("activate", {"version": -1}, 400, "invalid_request"),
    ("activate", {"version": "2"}, 400, "invalid_request"),
    ("activate", {"version": 99999999999}, 400, "invalid_request"),
    ("activate", {"token": "main"}, 400, "unknown_member"),
    ("activate", {"version": 7}, 404, "version_not_found"),
    ("activate", {}, 409, "invalid_state"),
    ("versions/1/abandon", {"x": 1}, 400, "unknown_member"),
    ("versions/7/abandon", {}, 404, "version_not_found"),
    ("versions/1/abandon", {}, 409, "invalid_state")])
def test_steps_that_cannot_be_done_are_refused(admin, app, path, body, status, code):
    etag = admin.ok("GET", "/v1/keys/demo").etag
    reply = admin.call("POST", f"/v1/keys/demo/{path}", body, etag=etag)
    assert (reply.status, reply.code) == (status, code)
    assert admin.call("POST", f"/v1/keys/demo/{path}", body).code == "precondition_required"
    assert app.call("POST", f"/v1/keys/demo/{path}", body, etag=etag).code == "forbidden"
    assert admin.ok("GET", "/v1/keys/demo").etag == etag


def test_a_staged_version_survives_a_restart(own):
    with own.http("admin-1") as admin:
        staged = admin.change("demo", "rotate", {"stage_only": True}).json
    own.kill_all()
    own.start()
    with own.http("admin-1") as admin:
        key = admin.change("demo", "activate").json
        assert key["versions"][1]["id"] == staged["versions"][1]["id"] and key["primary"] == 2


def test_kekctl_rotates_in_two_steps(server):
    server.kekctl("key", "create", "stepwise")
    assert "v2 is staged" in out(server.kekctl("key", "rotate", "stepwise", "--stage-only"))
    assert "v2 is the primary" in out(server.kekctl("key", "activate", "stepwise"))
    server.kekctl("key", "rotate", "stepwise", "--stage-only")
    assert "abandoned" in out(server.kekctl("key", "abandon", "stepwise", "3"))
    assert "abandoned" in out(server.kekctl("key", "show", "stepwise"))
