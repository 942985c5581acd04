# SPDX-License-Identifier: Apache-2.0
"""The end of a version: what must be true before, the waiting period, and that nothing is left but
its record."""

import json
import os
import time

import pytest

from kekd import FAULTY_MODULE, Faults, kill, wait_for
from test_audit import chain_holds


def version(h, number=1, key="demo"):
    return next(v for v in h.key(key)["versions"] if v["version"] == number)


def evidence(h, number=1, key="demo"):
    usage = h.ok("GET", f"/v1/keys/{key}/usage").json
    return next(v["evidence"] for v in usage["versions"] if v["version"] == number)


def destroy(h, number=1, key="demo", shown=None, etag=None):
    etag = etag or h.ok("GET", f"/v1/keys/{key}").etag
    body = {"evidence": shown or evidence(h, number, key)}
    return h.call("POST", f"/v1/keys/{key}/versions/{number}/destroy", body, etag=etag)


def set_wait(h, wait):
    etag = h.ok("GET", "/v1/cluster").etag
    h.ok("PATCH", "/v1/cluster", {"policy": {"destroy_wait": wait}}, etag=etag)


def old_version(admin, key):
    """A key whose version 1 is disabled, and neither the primary nor the one before it."""
    admin.create_key(key)
    admin.rotate(key)
    admin.rotate(key)
    admin.change(key, "versions/1/disable")
    return key


def state(h, key, number=1):
    return version(h, number, key)["state"]


def wait_for_state(h, key, wanted, number=1, seconds=20):
    wait_for(lambda: state(h, key, number) == wanted, f"{key}/{number} is {wanted}", seconds)


def objects(server):
    return server.pkcs11_tool("--list-objects", "--type", "secrkey")


def test_a_destroyed_version_is_gone_from_the_token_and_its_record_stays(server):
    with server.http("admin-1") as admin, server.http("app") as app:
        admin.create_key("gone")
        blob = app.wrap(b"secret", key="gone")
        for _ in range(20):  # every worker has a copy of it
            assert app.unwrap(blob, key="gone") == b"secret"
        admin.rotate("gone")
        admin.rotate("gone")
        admin.change("gone", "versions/1/disable")
        assert app.try_unwrap(blob, key="gone").code == "version_not_enabled"
        before = version(admin, 1, "gone")
        assert "kekd:test:gone:v1" in objects(server)
        reply = destroy(admin, 1, "gone")
        assert reply.status == 200, reply
        wait_for_state(admin, "gone", "destroyed")
        after = version(admin, 1, "gone")
        assert "kekd:test:gone:v1" not in objects(server)
        assert "kekd:test:gone:v2" in objects(server)
        assert after["id"] == before["id"] and after["object_id"] == before["object_id"]
        assert after["destroy"]["requested_by"] == "admin-1"
        assert after["destroy"]["confirmed"] == ["node-1"]
        for _ in range(20):
            reply = app.try_unwrap(blob, key="gone")
            assert (reply.status, reply.code) == (410, "version_destroyed")
        for change in ("enable", "disable", "primary", "cancel", "destroy"):
            body = {"evidence": evidence(admin, 1, "gone")} if change == "destroy" else {}
            reply = admin.change("gone", f"versions/1/{change}", body, status=409)
            assert reply.code == "invalid_state"
    server.stop()
    server.start()
    with server.http("admin-1") as admin, server.http("app") as app:
        assert state(admin, "gone") == "destroyed"
        assert app.try_unwrap(blob, key="gone").code == "version_destroyed"
        assert not [o for o in admin.status().get("unknown_objects", []) if "gone:v1" in str(o)]
    told = [r for r in server.audit_records(operation="version.destroy", key="gone")
            if r.get("client") == "kekd"]
    assert [r["type"] for r in told] == ["intent", "outcome"]
    chain_holds(server.audit_lines())


def test_what_still_works_is_not_destroyed(server):
    with server.http("admin-1") as admin:
        admin.create_key("works")
        admin.rotate("works")
        reply = destroy(admin, 2, "works")
        assert (reply.status, reply.code) == (409, "invalid_state")
        assert "primary" in reply.json["detail"]
        reply = destroy(admin, 1, "works")
        assert (reply.status, reply.code) == (409, "invalid_state")
        assert "enabled" in reply.json["detail"]
        admin.change("works", "versions/1/disable")
        reply = destroy(admin, 1, "works")
        assert (reply.status, reply.code) == (409, "invalid_state")
        assert "ten minutes" in reply.json["detail"]
        assert state(admin, "works") == "disabled"


def test_evidence_that_changed_since_it_was_shown_destroys_nothing(server):
    with server.http("admin-1") as admin, server.http("app") as app:
        admin.create_key("seen")
        blob = app.wrap(b"secret", key="seen")
        admin.rotate("seen")
        admin.rotate("seen")
        admin.change("seen", "versions/1/disable")
        shown = evidence(admin, 1, "seen")
        assert app.try_unwrap(blob, key="seen").code == "version_not_enabled"
        wait_for(lambda: evidence(admin, 1, "seen") != shown, "the refused use shows")
        reply = destroy(admin, 1, "seen", shown=shown)
        assert (reply.status, reply.code) == (409, "evidence_changed")
        assert state(admin, "seen") == "disabled"


def test_a_version_waits_and_a_refused_use_begins_the_wait_anew(server):
    with server.http("admin-1") as admin, server.http("app") as app:
        admin.create_key("asked")
        blob = app.wrap(b"secret", key="asked")
        admin.rotate("asked")
        admin.rotate("asked")
        admin.change("asked", "versions/1/disable")
        set_wait(admin, "6s")
        try:
            begun = time.monotonic()
            assert destroy(admin, 1, "asked").status == 200
            time.sleep(3)
            assert state(admin, "asked") == "scheduled"
            assert app.try_unwrap(blob, key="asked").code == "version_not_enabled"
            wait_for(lambda: version(admin, 1, "asked")["destroy"]["restarts"] == 1,
                     "the wait begins anew")
            anew = time.monotonic()
            assert version(admin, 1, "asked")["destroy"]["restarted"]
            wait_for_state(admin, "asked", "destroyed")
            assert time.monotonic() - anew > 5 and time.monotonic() - begun > 8
        finally:
            set_wait(admin, "0s")


def test_a_refused_use_shortly_before_a_crash_begins_the_wait_anew(own):
    with own.http("admin-1") as admin, own.http("app") as app:
        blob = app.wrap(b"secret")
        admin.rotate()
        admin.rotate()
        admin.change("demo", "versions/1/disable")
        set_wait(admin, "30s")
        assert destroy(admin).status == 200
        assert app.try_unwrap(blob).code == "version_not_enabled"
        own.kill_all()
    own.start()
    with own.http("admin-1") as admin:
        wait_for(lambda: version(admin)["destroy"]["restarts"] == 1, "the wait begins anew")
        assert state(admin, "demo") == "scheduled"


def test_the_wait_goes_on_where_it_was_after_a_stop(own):
    with own.http("admin-1") as admin:
        admin.rotate()
        admin.rotate()
        admin.change("demo", "versions/1/disable")
        set_wait(admin, "1h")
        assert destroy(admin).status == 200
        assert version(admin)["destroy"]["wait"] == "1h"
        time.sleep(3)
    own.stop()
    time.sleep(3)
    own.start()
    with own.http("admin-1") as admin:
        v = version(admin)
        assert v["state"] == "scheduled" and 2 <= int(v["destroy"]["waited"][:-1]) <= 5
        assert v["destroy"]["restarts"] == 0


def test_a_version_that_waits_can_be_spared(server):
    with server.http("admin-1") as admin, server.http("app") as app:
        admin.create_key("spared")
        blob = app.wrap(b"secret", key="spared")
        admin.rotate("spared")
        admin.rotate("spared")
        admin.change("spared", "versions/1/disable")
        set_wait(admin, "1h")
        try:
            assert destroy(admin, 1, "spared").status == 200
            for change in ("enable", "disable", "primary"):
                reply = admin.change("spared", f"versions/1/{change}", status=409)
                assert reply.code == "invalid_state"
            admin.change("spared", "versions/1/cancel")
            assert version(admin, 1, "spared")["destroy"] is None
            assert admin.change("spared", "versions/1/cancel", status=409).code == "invalid_state"
            admin.change("spared", "versions/1/enable")
            assert app.unwrap(blob, key="spared") == b"secret"
        finally:
            set_wait(admin, "0s")


def test_of_two_administrators_one_wins_and_the_other_reads_again(server):
    with server.http("admin-1") as one, server.http("admin-2") as two:
        old_version(one, "race")
        etag = one.ok("GET", "/v1/keys/race").etag
        set_wait(one, "1h")
        try:
            assert destroy(one, 1, "race", etag=etag).status == 200
            reply = two.call("POST", "/v1/keys/race/versions/1/enable", {}, etag=etag)
            assert (reply.status, reply.code) == (412, "precondition_failed")
            assert str(one.key("race")["revision"]) in reply.json["detail"]
            reply = destroy(two, 1, "race", etag=etag)
            assert (reply.status, reply.code) == (412, "precondition_failed")
            assert str(one.key("race")["revision"]) in reply.json["detail"]
        finally:
            set_wait(one, "0s")


@pytest.mark.parametrize("body, status, code", [
    ({}, 400, "invalid_request"),
    ({"evidence": 1}, 400, "invalid_request"),
    ({"evidence": "x", "surprise": 1}, 400, "unknown_member"),
    ({"evidence": ""}, 409, "evidence_changed"),
    ({"evidence": "0" * 64}, 409, "evidence_changed"),
])
def test_a_bad_request_destroys_nothing(server, body, status, code):
    with server.http("admin-1") as admin:
        if "bad" not in [k["name"] for k in admin.get("/v1/keys").json["keys"]]:
            old_version(admin, "bad")
        path = "/v1/keys/bad/versions/1/destroy"
        etag = admin.ok("GET", "/v1/keys/bad").etag
        reply = admin.call("POST", path, body, etag=etag)
        assert (reply.status, reply.code) == (status, code)
        assert admin.call("POST", path, body).code == "precondition_required"
        assert admin.call("POST", path, body, etag='"1"').status in (400, 412)
        assert state(admin, "bad") == "disabled"
        for wrong in ("0", "9", "x", "-1"):
            path = f"/v1/keys/bad/versions/{wrong}/destroy"
            assert admin.call("POST", path, {"evidence": "x"}, etag=etag).status == 404
    with server.http("app") as app:
        for what in ("destroy", "cancel"):
            reply = app.call("POST", f"/v1/keys/bad/versions/1/{what}", body, etag=etag)
            assert reply.code == "forbidden"


def test_kill_9_at_any_moment_of_the_end_brings_it_to_its_end(own):
    with own.http("admin-1") as admin:
        for i in range(6):
            old_version(admin, f"k{i}")
    for i in range(6):
        with own.http("admin-1") as admin:
            destroy(admin, 1, f"k{i}")
            time.sleep(0.05 * i)
        if i % 2:
            own.kill_all()
            own.start()
        else:
            kill(own.net())
            wait_for(lambda: own.health()[0] == 200, "kekd serves again")
        with own.http("admin-1") as admin:
            if state(admin, f"k{i}") == "disabled":
                destroy(admin, 1, f"k{i}")
            wait_for_state(admin, f"k{i}", "destroyed")
    assert all(f"kekd:test:k{i}:v1" not in objects(own) for i in range(6))
    assert all(f"kekd:test:k{i}:v2" in objects(own) for i in range(6))
    chain_holds(own.audit_lines())


def test_the_end_of_a_version_is_told_once_the_log_can_be_written_again(make_server, tmp_path):
    faults = Faults(str(tmp_path))
    server = make_server(module=FAULTY_MODULE, environment=faults.environment, workers=1)
    server.init().start().populate()

    def told(kind):
        return [r for r in server.audit_records(operation="version.destroy", key="late", type=kind)
                if r.get("client") == "kekd"]
    with server.http("admin-1") as admin:
        old_version(admin, "late")
        faults.set("C_DestroyObject delay 3000")
        faults.forget()
        assert destroy(admin, 1, "late").status == 200
    wait_for(lambda: told("intent"), "it begins")
    wait_for(lambda: faults.calls("C_DestroyObject"), "the token is asked")
    # The log's file is gone, and where the next one would be is something else.
    last = server.audit_records()[-1]["seq"]
    in_the_way = [os.path.join(server.audit_dir, f"audit-{last + n:020}.jsonl")
                  for n in range(1, 10)]
    for name in os.listdir(server.audit_dir):
        os.unlink(os.path.join(server.audit_dir, name))
    for path in in_the_way:
        os.mkdir(path)
    wait_for(lambda: "does not tell yet that version 1 is destroyed" in server.log(),
             "it is destroyed, and the log cannot be told")
    for path in in_the_way:
        os.rmdir(path)
    wait_for(lambda: told("outcome"), "the log is told")
    assert told("outcome")[0]["detail"]["step"] == "destroyed"
    with server.http("admin-1") as admin:
        assert state(admin, "late") == "destroyed"
    assert len(told("outcome")) == 1


def test_kekctl_shows_the_usage_and_asks_before_it_destroys(server):
    with server.http("admin-1") as admin:
        old_version(admin, "by-hand")
    asked = server.kekctl("key", "destroy", "by-hand", "1", status=2)
    assert b"Verdict" in asked.stdout and b"--yes" in asked.stderr
    with server.http("admin-1") as admin:
        assert state(admin, "by-hand") == "disabled"
    done = server.kekctl("key", "destroy", "by-hand", "1", "--yes")
    assert b"spares it" in done.stdout
    with server.http("admin-1") as admin:
        wait_for_state(admin, "by-hand", "destroyed")
    assert b"destroyed" in server.kekctl("key", "show", "by-hand").stdout
    assert server.kekctl("key", "cancel", "by-hand", "1", status=5).stderr
    shown = json.loads(server.kekctl("key", "show", "by-hand", "-o", "json").stdout)
    assert shown["versions"][0]["destroy"]["confirmed"] == ["node-1"]
