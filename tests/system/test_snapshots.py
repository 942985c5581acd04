# SPDX-License-Identifier: Apache-2.0
"""Registered backups of etcd: what they need is not destroyed before they end, and what none of the
newest has is said to be clean."""

import datetime
import hashlib
import json
import os
import sqlite3
import time

import pytest

from disk import fill, limited
from etcd import PRESENT
from kekd import in_threads, wait_for
from kubernetes_values import CLUSTER, PREFIX, Seed, plaintext
from pki import spiffe
from test_destroy import destroy, evidence, old_version, set_wait, state, wait_for_state
from test_restore import backup, confirm, empty_store, restore
from test_kekctl_long import complete_in_bash
from test_metrics import clock, scrape
from test_usage import usage
from test_usage import version as used

DAY = 24 * 3600


def at(seconds=0):
    t = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)
    return t.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def entry(admin, key, number=1, live=3, superseded=2):
    return {"key": key, "version_id": admin.key(key)["versions"][number - 1]["id"], "live": live,
            "superseded": superseded}


def body(*entries, cluster="prod", taken=-60, until=90 * DAY, **more):
    return {"cluster": cluster, "taken": at(taken), "needed_until": at(until),
            "sha256": hashlib.sha256(cluster.encode()).hexdigest(),
            "etcd_revision": int(time.time() + taken),
            "complete": True, "plaintext": 0, "versions": list(entries), **more}


def put(h, name, record, etag=None):
    return h.call("PUT", f"/v1/snapshots/{name}", record, etag=etag, create=etag is None)


def register(h, name, *entries, **more):
    reply = put(h, name, body(*entries, **more))
    assert reply.status == 201, reply
    return reply.json


def forget(h, name):
    etag = h.ok("GET", f"/v1/snapshots/{name}").etag
    return h.call("DELETE", f"/v1/snapshots/{name}", etag=etag)


def client(server, admin, name, *operations):
    admin.put_client(name, ["uri:" + spiffe(name)], [{"keys": "*", "operations": operations}])
    return server.http(certificate=server.pki.client(name))


def test_a_registered_snapshot_is_told_as_it_was_given(admin):
    admin.create_key("told")
    admin.rotate("told")
    record = body(entry(admin, "told", 2, 7, 0), entry(admin, "told", 1, 0, 9), plaintext=5)
    made = put(admin, "told-1", record)
    assert made.status == 201 and made.etag == f'"{made.json["revision"]}"'
    found = admin.ok("GET", "/v1/snapshots/told-1")
    assert found.json == made.json and found.etag == made.etag
    for member, value in record.items():
        if member != "versions":
            assert found.json[member] == value
    assert {(v["version"], v["state"], v["live"], v["superseded"])
            for v in found.json["versions"]} == {(1, "enabled", 0, 9), (2, "enabled", 7, 0)}
    assert found.json["needed"] and found.json["changed_by"] == "admin-1"
    assert 89 * DAY < found.json["uncounted_s"] <= 90 * DAY
    listed = admin.ok("GET", "/v1/snapshots?limit=1").json
    assert len(listed["snapshots"]) == 1 and "versions" not in listed["snapshots"][0]
    assert admin.get("/v1/snapshots/nothing").code == "snapshot_not_found"


def test_a_change_needs_to_know_what_it_changes(admin):
    admin.create_key("known")
    record = body(entry(admin, "known"))
    bare = admin.call("PUT", "/v1/snapshots/known-1", record)
    assert (bare.status, bare.code) == (428, "precondition_required")
    assert put(admin, "known-1", record, etag='"1"').code == "snapshot_not_found"
    made = put(admin, "known-1", record)
    assert put(admin, "known-1", record).code == "precondition_failed"
    record["needed_until"] = at(100 * DAY)
    changed = put(admin, "known-1", record, etag=made.etag)
    assert changed.status == 200 and changed.json["needed_until"] == record["needed_until"]
    assert put(admin, "known-1", record, etag=made.etag).status == 412
    bare = admin.call("DELETE", "/v1/snapshots/known-1")
    assert bare.status == 428
    assert admin.call("DELETE", "/v1/snapshots/known-1", etag=made.etag).status == 412
    gone = admin.call("DELETE", "/v1/snapshots/known-1", etag=changed.etag)
    assert gone.status == 200 and [v["version"] for v in gone.json["lifted"]] == [1]
    assert admin.get("/v1/snapshots/known-1").status == 404


def without(member):
    return lambda r: r.pop(member)


def having(**more):
    return lambda r: r.update(more)


def version_having(**more):
    return lambda r: r["versions"][0].update(more)


@pytest.mark.parametrize("spoil, status, code", [
    *((without(m), 400, "invalid_request") for m in
      ("cluster", "taken", "needed_until", "sha256", "etcd_revision", "complete", "plaintext",
       "versions")),
    (having(surprise=1), 400, "unknown_member"),
    (having(changed=at()), 400, "unknown_member"),
    (having(seen_s=0), 400, "unknown_member"),
    (having(count_s=0), 400, "unknown_member"),
    (having(id="another"), 400, "invalid_request"),
    (having(cluster=""), 400, "invalid_request"),
    (having(cluster="a b"), 400, "invalid_request"),
    (having(cluster="x" * 254), 400, "invalid_request"),
    (having(cluster=7), 400, "invalid_request"),
    (having(taken="yesterday"), 400, "invalid_request"),
    (having(taken=at(3600)), 400, "invalid_request"),
    (having(needed_until=at(-3600)), 400, "invalid_request"),
    (having(needed_until="2999-01-01T00:00:00Z"), 400, "invalid_request"),
    (having(sha256="AB" * 32), 400, "invalid_request"),
    (having(sha256="ab"), 400, "invalid_request"),
    (having(etcd_revision=0), 400, "invalid_request"),
    (having(etcd_revision=-1), 400, "invalid_request"),
    (having(complete="yes"), 400, "invalid_request"),
    (having(plaintext=-1), 400, "invalid_request"),
    (having(versions={}), 400, "invalid_request"),
    (having(versions=[7]), 400, "invalid_request"),
    (version_having(live=0, superseded=0), 400, "invalid_request"),
    (version_having(live=-1), 400, "invalid_request"),
    (version_having(live=1.5), 400, "invalid_request"),
    (version_having(key="BAD"), 400, "invalid_request"),
    (version_having(key=None), 400, "invalid_request"),
    (version_having(version_id="7"), 400, "invalid_request"),
    (version_having(surprise=1), 400, "unknown_member"),
    (version_having(key="no-such-key"), 404, "key_not_found"),
    (version_having(version_id="0190a0b0-c0d0-4e00-8f00-000000000001"), 404, "version_not_found"),
    (lambda r: r["versions"].append(dict(r["versions"][0])), 400, "invalid_request"),
    (lambda r: r.update(versions=[r["versions"][0]] * 2001), 400, "invalid_request"),
])
def test_what_is_no_inventory_is_refused(admin, spoil, status, code):
    record = body(entry(admin, "demo"))
    spoil(record)
    reply = put(admin, "spoilt", record)
    assert (reply.status, reply.code) == (status, code), reply
    assert admin.get("/v1/snapshots/spoilt").status == 404


def test_an_id_is_a_name(admin):
    reply = put(admin, "NoName", body(entry(admin, "demo")))
    assert (reply.status, reply.code) == (400, "invalid_name")
    assert admin.get("/v1/snapshots/NoName").status == 404


def test_a_snapshot_without_versions_is_an_inventory_too(admin):
    made = register(admin, "empty-1", cluster="without-kekd")
    assert made["versions"] == [] and made["versions_count"] == 0
    assert forget(admin, "empty-1").status == 200


def test_who_registers_does_not_give_up_what_is_protected(server, admin):
    admin.create_key("kept")
    admin.rotate("kept")
    with client(server, admin, "backup-job", "backup") as job, \
            client(server, admin, "watcher", "status.read") as watcher, \
            client(server, admin, "stranger", "key.read") as stranger:
        record = body(entry(admin, "kept", 1), entry(admin, "kept", 2))
        for h in (stranger, watcher):
            assert put(h, "kept-1", record).code == "forbidden"
        made = put(job, "kept-1", record)
        assert made.status == 201, made
        for h in (job, watcher):
            assert h.ok("GET", "/v1/snapshots/kept-1").json["cluster"] == "prod"
            h.ok("GET", "/v1/snapshots")
        assert stranger.get("/v1/snapshots/kept-1").code == "forbidden"
        assert stranger.get("/v1/snapshots").code == "forbidden"
        reply = forget(job, "kept-1")
        assert (reply.status, reply.code) == (403, "forbidden")
        assert "cluster.write" in reply.json["detail"] and "needed until" in reply.json["detail"]
        less = dict(record, versions=record["versions"][:1])
        assert put(job, "kept-1", less, etag=made.etag).code == "forbidden"
        sooner = dict(record, needed_until=at(DAY))
        assert put(job, "kept-1", sooner, etag=made.etag).code == "forbidden"
        longer = dict(record, needed_until=at(120 * DAY))
        assert put(job, "kept-1", longer, etag=made.etag).status == 200
        assert forget(watcher, "kept-1").code == "forbidden"
        assert forget(admin, "kept-1").status == 200
        outcome = server.audit_records(operation="snapshot.delete", type="outcome",
                                       result="ok")[-1]
        assert outcome["detail"]["snapshot"] == "kept-1" and outcome["detail"]["needed"]
        assert {(v["key"], v["version"]) for v in outcome["detail"]["lifted"]} == {
            ("kept", 1), ("kept", 2)}
        # One whose time has passed is anybody's to forget who keeps the list.
        put(job, "kept-2", body(entry(admin, "kept"), until=1))
        wait_for(lambda: not job.ok("GET", "/v1/snapshots/kept-2").json["needed"], "it ends")
        gone = forget(job, "kept-2")
        assert gone.status == 200 and gone.json["lifted"] == []


def test_every_change_is_audited_and_a_lesser_one_names_what_it_lifts(server, admin):
    admin.create_key("lifted")
    made = register(admin, "lifted-1", entry(admin, "lifted"))
    put(admin, "lifted-1", body(entry(admin, "lifted"), until=DAY), f'"{made["revision"]}"')
    types = [(r["type"], r.get("detail", {}).get("lifted"))
             for r in server.audit_records(operation="snapshot.write")
             if r["type"] == "intent" or r.get("detail", {}).get("snapshot") == "lifted-1"]
    assert types[-4] == ("intent", None) and types[-3] == ("outcome", [])
    assert types[-2] == ("intent", None) and types[-1][0] == "outcome"
    assert [v["key"] for v in types[-1][1]] == ["lifted"]
    forget(admin, "lifted-1")


def test_what_a_backup_needs_is_not_destroyed_before_the_backup_ends(admin):
    key = old_version(admin, "needed")
    register(admin, "needed-1", entry(admin, key), until=4)
    register(admin, "needed-2", entry(admin, key, 2), until=90 * DAY)
    found = used(admin, 1, key)
    assert found["needed_by"] == "needed-1" and found["backups_count"] == 1
    assert [b["id"] for b in found["backups"]] == ["needed-1"]
    reply = destroy(admin, 1, key)
    assert (reply.status, reply.code) == (409, "needed_by_backup")
    assert "needed-1" in reply.json["detail"] and found["needed_until"][:19] in reply.json["detail"]
    assert "snapshot forget" in reply.json["detail"]
    assert state(admin, key) == "disabled"
    wait_for(lambda: used(admin, 1, key)["needed_by"] is None, "the backup ends", 20)
    assert destroy(admin, 1, key).status == 200
    wait_for_state(admin, key, "destroyed")
    # That backup is still told of, and that it cannot be restored any more.
    assert admin.ok("GET", "/v1/snapshots/needed-1").json["versions"][0]["state"] == "destroyed"
    forget(admin, "needed-1")
    forget(admin, "needed-2")


def test_a_backup_that_is_given_up_frees_the_version(admin):
    key = old_version(admin, "freed")
    register(admin, "freed-1", entry(admin, key))
    assert destroy(admin, 1, key).code == "needed_by_backup"
    assert forget(admin, "freed-1").status == 200
    assert destroy(admin, 1, key).status == 200
    wait_for_state(admin, key, "destroyed")


def test_a_backup_registered_during_the_wait_holds_the_end_up(server, admin):
    key = old_version(admin, "late")
    set_wait(admin, "2s")
    try:
        assert destroy(admin, 1, key).status == 200
        register(admin, "late-1", entry(admin, key), until=6)
        time.sleep(4)
        assert state(admin, key) == "scheduled"
        assert 'backup "late-1" needs it' in server.log()
        wait_for_state(admin, key, "destroyed", seconds=20)
    finally:
        set_wait(admin, "0s")
    forget(admin, "late-1")


def test_a_new_backup_changes_the_evidence_that_was_shown(admin):
    key = old_version(admin, "shown")
    shown = evidence(admin, 1, key)
    register(admin, "shown-0", entry(admin, key, 2))
    assert evidence(admin, 1, key) == shown, "it does not have that version"
    made = register(admin, "shown-1", entry(admin, key))
    assert evidence(admin, 1, key) != shown
    reply = destroy(admin, 1, key, shown=shown)
    assert (reply.status, reply.code) == (409, "evidence_changed")
    before = evidence(admin, 1, key)
    longer = body(entry(admin, key), until=100 * DAY)
    assert put(admin, "shown-1", longer, f'"{made["revision"]}"').status == 200
    assert evidence(admin, 1, key) != before, "it is needed for longer"
    forget(admin, "shown-1")
    forget(admin, "shown-0")
    assert evidence(admin, 1, key) == shown


def test_no_approval_goes_past_a_backup_that_came_meanwhile(make_server):
    server = make_server()
    server.settings["policy"] = {"approvals": 2}
    server.write_config()
    server.init().start()
    with server.http("admin-1") as one, server.http("admin-2") as two:
        key = old_version(one, "agreed")
        asked = destroy(one, 1, key)
        assert asked.status == 202, asked
        register(one, "agreed-1", entry(one, key))
        reply = two.call("POST", f"/v1/approvals/{asked.json['id']}/approve",
                         {"evidence": asked.json["evidence"]})
        assert (reply.status, reply.code) == (409, "evidence_changed"), reply
        assert state(one, key) == "disabled"


def test_the_usage_says_why_a_version_is_not_clean(admin):
    key = old_version(admin, "unclean")
    found = used(admin, 1, key)
    assert not found["inventory"]["clean"] and found["verdict"].startswith("none seen since")
    register(admin, "unclean-1", entry(admin, key, 1, 4, 8), cluster="u")
    reason = used(admin, 1, key)["inventory"]["reason"]
    assert "4 live and 8 superseded values" in reason or "cluster" in reason
    forget(admin, "unclean-1")
    assert used(admin, 3, key)["inventory"]["reason"] == "it is the primary"


def test_of_two_that_register_at_once_one_wins(server, admin):
    record = body(entry(admin, "demo"))

    def work(n):
        with server.http(f"admin-{n % 2 + 1}") as h:
            return put(h, "raced", dict(record, etcd_revision=n + 1)).status

    statuses = in_threads(4, work)
    assert sorted(statuses) == [201, 412, 412, 412]
    etag = admin.ok("GET", "/v1/snapshots/raced").etag

    def change(n):
        with server.http(f"admin-{n % 2 + 1}") as h:
            if n % 2:
                return h.call("DELETE", "/v1/snapshots/raced", etag=etag).status
            return put(h, "raced", dict(record, etcd_revision=n + 1), etag).status

    statuses = in_threads(4, change)
    assert statuses.count(200) == 1 and set(statuses) <= {200, 412, 404}, statuses
    if admin.get("/v1/snapshots/raced").status == 200:
        forget(admin, "raced")


def test_a_page_ends_where_the_next_begins(admin):
    for n in range(5):
        register(admin, f"page-{n}", entry(admin, "demo"))
    first = admin.ok("GET", "/v1/snapshots?limit=2&after=page").json
    assert [s["id"] for s in first["snapshots"]] == ["page-0", "page-1"]
    rest = admin.ok("GET", f"/v1/snapshots?after={first['next']}").json
    assert [s["id"] for s in rest["snapshots"]][:3] == ["page-2", "page-3", "page-4"]
    assert rest["next"] is None
    for n in range(5):
        forget(admin, f"page-{n}")


def test_a_start_and_a_restore_keep_what_is_registered(own, tmp_path):
    with own.http("admin-1") as admin:
        key = old_version(admin, "stays")
        made = register(admin, "stays-1", entry(admin, key))
    own.stop()
    own.start()
    with own.http("admin-1") as admin:
        wait_for(lambda: usage(admin, key), "the log is read")
        assert admin.ok("GET", "/v1/snapshots/stays-1").json["revision"] == made["revision"]
        assert destroy(admin, 1, key).code == "needed_by_backup"
    saved = backup(own, tmp_path / "saved")
    own.stop()
    empty_store(own)
    restore(own, saved)
    own.start()
    confirm(own)
    with own.http("admin-1") as admin:
        found = admin.ok("GET", "/v1/snapshots/stays-1").json
        assert found["needed_until"] == made["needed_until"] and found["needed"]
        assert used(admin, 1, key)["needed_by"] == "stays-1"


def test_a_record_that_nobody_can_read_lets_nothing_be_destroyed(own):
    with own.http("admin-1") as admin:
        key = old_version(admin, "doubted")
        register(admin, "doubted-1", entry(admin, "demo"))
        with sqlite3.connect(own.path("state", "metadata.db")) as db:
            raw, = db.execute("SELECT body FROM records "
                              "WHERE path='snapshots/doubted-1'").fetchone()
            text = raw if isinstance(raw, str) else raw.decode()
            forged = text.replace('"prod"', '"dorp"')
            assert forged != text
            db.execute("UPDATE records SET body=? WHERE path='snapshots/doubted-1'",
                       (forged if isinstance(raw, str) else forged.encode(),))
        wait_for(lambda: admin.ok("GET", "/v1/snapshots/doubted-1").json["refused"],
                 "the change is noticed")
        assert admin.ok("GET", "/v1/snapshots/doubted-1").json["cluster"] == "prod"
        reply = destroy(admin, 1, key)
        assert (reply.status, reply.code) == (503, "record_refused"), reply
        assert "snapshots/doubted-1" in reply.json["detail"]
        assert forget(admin, "doubted-1").code == "record_refused"
        assert not used(admin, 1, key)["inventory"]["clean"]


def test_what_is_registered_is_told_to_prometheus(own):
    with own.http("admin-1") as admin:
        before = scrape(admin)
        assert before.get("kekd_snapshots_registered") == 0
        register(admin, "a-old", entry(admin, "demo"), cluster="a", taken=-7200, until=-3600)
        new = register(admin, "a-new", entry(admin, "demo"), cluster="a")
        other = register(admin, "b-1", cluster="b", taken=-600)
        now = scrape(admin)
        assert now.get("kekd_snapshots_registered") == 3
        assert now.get("kekd_snapshots_needed") == 2
        for cluster, made in (("a", new), ("b", other)):
            taken = now.get("kekd_snapshot_newest_taken_timestamp_seconds",
                            kubernetes_cluster=cluster)
            assert abs(taken - clock(made["taken"])) < 0.01


def test_of_a_thousand_the_one_that_ended_first_makes_room(own):
    with own.http("admin-1") as admin:
        for n in range(998):
            register(admin, f"full-{n:04}", cluster="full")
        version = entry(admin, "demo")
        for n in range(2):
            register(admin, f"over-{n}", version, cluster="full", taken=-7200, until=n - 3600)
        made = register(admin, "one-more", cluster="full", taken=-1)
        assert admin.get("/v1/snapshots/over-0").status == 404
        assert admin.get("/v1/snapshots/over-1").status == 200
        outcome = own.audit_records(operation="snapshot.write", type="outcome")[-1]
        assert outcome["detail"]["made_room"] == "over-0"
        assert made["id"] == "one-more"
        register(admin, "and-more", cluster="full", taken=-1)
        reply = put(admin, "too-many", body(cluster="full"))
        assert (reply.status, reply.code) == (409, "snapshots_full"), reply
        assert "forget some" in reply.json["detail"]
        assert "needed_until" in reply.json["detail"]
        assert len(json.loads(own.kekctl("snapshot", "list", "-o", "json").stdout)
                   ["snapshots"]) == 1000


# -- kekctl

def report(admin, *entries, cluster="prod", **more):
    keys = {}
    for e in entries:
        keys.setdefault(e.pop("key"), []).append(dict(e, version=None, key_ids=[], seeds=1))
    zero = {"kekd": 0, "plaintext": 0, "other": 0}
    return json.dumps({
        "file": "snap.db", "sha256": hashlib.sha256(b"snap").hexdigest(), "size": 4096,
        "etcd_revision": 99, "cluster": cluster, "complete": True,
        "hashed": True, "taken": "2026-01-31T04:05:06.000000Z",
        "resources": [{"resource": "secrets", "group": "", "live": dict(zero, plaintext=2),
                       "superseded": dict(zero, plaintext=1), "providers": []}],
        "keys": [{"key": k, "versions": v} for k, v in keys.items()], "restorable": None,
        **more}).encode()


def test_kekctl_registers_lists_and_forgets(server, admin, tmp_path):
    admin.create_key("ctl")
    admin.rotate("ctl")
    path = tmp_path / "report.json"
    path.write_bytes(report(admin, entry(admin, "ctl", 1), entry(admin, "ctl", 2)))
    until = at(30 * DAY)
    done = server.kekctl("snapshot", "register", str(path), "--needed-until", until)
    assert b"prod-20260131-040506: registered: 2 versions" in done.stdout
    found = admin.ok("GET", "/v1/snapshots/prod-20260131-040506").json
    assert found["plaintext"] == 3 and found["complete"] and found["needed_until"] == until
    # Again, as a job that is repeated; from a pipe; and what another file has as its id.
    later = at(60 * DAY)
    server.kekctl("snapshot", "register", "-", "--needed-until", later, stdin=path.read_bytes())
    assert admin.ok("GET", "/v1/snapshots/prod-20260131-040506").json["needed_until"] == later
    other = report(admin, entry(admin, "ctl", 1), sha256="0" * 64)
    done = server.kekctl("snapshot", "register", "-", "--keep", "900d", stdin=other, status=5)
    assert b"--id" in done.stderr
    listed = server.kekctl("snapshot", "list").stdout.decode()
    assert "prod-20260131-040506" in listed and "NEEDED UNTIL" in listed
    shown = server.kekctl("snapshot", "show", "prod-20260131-040506").stdout.decode()
    assert "ctl" in shown and "v2" in shown and "SUPERSEDED" in shown
    assert json.loads(server.kekctl("snapshot", "list", "-o", "json").stdout)["snapshots"]
    told = server.kekctl("key", "usage", "ctl").stdout.decode()
    assert "backup prod-20260131-040506 of cluster prod needs it until" in told
    done = server.kekctl("snapshot", "forget", "prod-20260131-040506", status=5)
    assert b"needed until" in done.stderr and b"ctl v1, ctl v2" in done.stderr.replace(
        b"ctl v2, ctl v1", b"ctl v1, ctl v2")
    done = server.kekctl("snapshot", "forget", "prod-20260131-040506", "--force")
    assert b"does not protect" in done.stdout
    server.kekctl("snapshot", "forget", "prod-20260131-040506", status=4)


def test_the_same_file_is_not_registered_as_taken_later(server, admin):
    def told(taken):
        return server.kekctl("snapshot", "register", "-", "--keep", "90d", "--id", "copied",
                             stdin=report(admin, entry(admin, "demo"), taken=taken))
    first, later = at(-3600), at(-60)
    assert not told(first).stderr
    assert b"that stays" in told(later).stderr
    assert admin.ok("GET", "/v1/snapshots/copied").json["taken"] == first
    earlier = at(-7200)
    told(earlier)
    assert admin.ok("GET", "/v1/snapshots/copied").json["taken"] == earlier
    forget(admin, "copied")


def test_kekctl_warns_of_a_backup_that_cannot_be_restored_or_protects_nothing(own, tmp_path):
    with own.http("admin-1") as admin:
        set_wait(admin, "0s")
        admin.create_key("lost")
        for _ in range(7):
            admin.rotate("lost")
        admin.change("lost", "versions/1/disable")
        assert destroy(admin, 1, "lost").status == 200
        wait_for_state(admin, "lost", "destroyed")
        path = tmp_path / "report.json"
        path.write_bytes(report(admin, *(entry(admin, "lost", n + 1) for n in range(8)),
                                complete=False))
        done = own.kekctl("snapshot", "register", str(path), "--keep", "900d", "--id", "lost-1")
        assert b"lost v1, destroyed: what is wrapped under it cannot be read" in done.stderr
        assert b"lost v2" not in done.stderr and b"is not complete" in done.stderr
        told = json.loads(own.kekctl("snapshot", "register", str(path), "--keep", "900d", "--id",
                                     "lost-1", "-o", "json").stdout)
        assert told == admin.ok("GET", "/v1/snapshots/lost-1").json
        assert told == json.loads(own.kekctl("snapshot", "show", "lost-1", "-o", "json").stdout)
        done = own.kekctl("snapshot", "forget", "lost-1", status=5)
        assert b" and 3 more from being destroyed" in done.stderr, done.stderr
        done = own.kekctl("snapshot", "forget", "lost-1", "--force", "-o", "json")
        told = json.loads(done.stdout)
        assert told["deleted"] is True and len(told["lifted"]) == 8
        path.write_bytes(report(admin, entry(admin, "lost", 2)))
        done = own.kekctl("snapshot", "register", str(path), "--needed-until", "2026-02-01",
                          "--id", "over")
        assert b"its time is over by the server's clock: nothing is kept for it" in done.stderr
        assert b"(over)" in own.kekctl("snapshot", "show", "over").stdout
        assert own.kekctl("snapshot", "forget", "over").stdout == b"over: forgotten\n"


@pytest.mark.parametrize("arguments, status", [
    (("show", "nothing"), 4), (("show", "Bad Id"), 2), (("forget", "nothing"), 4), (("forget",), 2),
    (("forget", "one", "--expired"), 2), (("forget", "Bad Id"), 2), (("show",), 2)])
def test_kekctl_says_which_snapshot_is_wanted_or_that_there_is_none(server, arguments, status):
    done = server.kekctl("snapshot", *arguments, status=status)
    assert done.stderr.startswith(b"kekctl: ") and not done.stdout


def test_a_backup_without_versions_is_shown_without_a_table(server, admin):
    register(admin, "bare")
    shown = server.kekctl("snapshot", "show", "bare").stdout
    assert b"SHA-256" in shown and b"SUPERSEDED" not in shown
    assert server.kekctl("snapshot", "forget", "bare").stdout == b"bare: forgotten\n"


def test_ids_are_completed(server, admin):
    register(admin, "completed-1", entry(admin, "demo"))
    assert complete_in_bash(server, "snapshot", "show", "comp", name="admin-1") == ["completed-1"]
    assert complete_in_bash(server, "snapshot", "f") == ["forget"]
    forget(admin, "completed-1")


def test_kekctl_finds_the_key_of_a_version_that_the_report_does_not_name(server, admin):
    admin.create_key("nameless")
    named = entry(admin, "nameless")
    text = json.loads(report(admin, dict(named, key="x")))
    text["keys"][0]["key"] = None
    server.kekctl("snapshot", "register", "-", "--keep", "900d", "--id", "nameless-1",
                  stdin=json.dumps(text).encode())
    found = admin.ok("GET", "/v1/snapshots/nameless-1").json
    assert found["versions"][0]["key"] == "nameless"
    forget(admin, "nameless-1")
    text["keys"][0]["versions"].append(
        {"version_id": "0190a0b0-c0d0-4e00-8f00-000000000001", "live": 1, "superseded": 0})
    done = server.kekctl("snapshot", "register", "-", "--keep", "900d", "--id", "nameless-2",
                         stdin=json.dumps(text).encode(), status=4)
    assert b"not in this kekd" in done.stderr
    server.kekctl("snapshot", "register", "-", "--keep", "900d", "--id", "nameless-2", "--force",
                  stdin=json.dumps(text).encode())
    assert not admin.ok("GET", "/v1/snapshots/nameless-2").json["complete"]
    forget(admin, "nameless-2")


def test_force_leaves_out_what_kekd_lacks_though_the_report_names_its_key(server, admin):
    admin.create_key("partly")
    ours = entry(admin, "partly")
    lost = "0190a0b0-c0d0-4e00-8f00-000000000001"
    text = report(admin, dict(ours), dict(ours, version_id=lost), dict(ours, key="nowhere"),
                  dict(ours, key="No/Name", version_id=lost))
    register_it = ("snapshot", "register", "-", "--keep", "900d", "--id", "partly-1")
    done = server.kekctl(*register_it, stdin=text, status=4)
    assert b"--force leaves out" in done.stderr
    server.kekctl(*register_it, "--force", stdin=text)
    found = admin.ok("GET", "/v1/snapshots/partly-1").json
    assert [v["version_id"] for v in found["versions"]] == [ours["version_id"]]
    assert not found["complete"]
    forget(admin, "partly-1")
    # Who may not see the keys leaves nothing out that may be there.
    client(server, admin, "backup-force", "backup").close()
    server.pki.clients["backup-force"] = server.pki.client("backup-force")
    server.kekctl(*register_it, "--force", stdin=report(admin, dict(ours)), name="backup-force")
    assert admin.ok("GET", "/v1/snapshots/partly-1").json["versions_count"] == 1
    done = server.kekctl(*register_it, "--force", stdin=text, name="backup-force", status=4)
    assert b"takes key.read" in done.stderr
    forget(admin, "partly-1")


def of_version(**more):
    return lambda r: r["keys"][0]["versions"][0].update(more)


@pytest.mark.parametrize("spoil", [
    of_version(live="3", superseded="2"), of_version(live=None, superseded=None),
    of_version(live=-3, superseded=-2), of_version(version_id=7),
    lambda r: r["keys"][0].update(versions={}), lambda r: r["keys"][0].pop("versions"),
    lambda r: r["keys"][0].update(key=7), having(keys=[None]), having(keys={}),
    having(resources=[{"resource": "secrets"}]), having(complete="yes"), without("complete"),
    without("hashed"),
    without("etcd_revision"), without("sha256"), having(taken="yesterday"), without("taken"),
])
def test_a_report_that_was_edited_is_not_taken_to_need_less(server, admin, spoil):
    text = json.loads(report(admin, entry(admin, "demo")))
    spoil(text)
    done = server.kekctl("snapshot", "register", "-", "--keep", "900d", "--id", "edited",
                         stdin=json.dumps(text).encode(), status=2)
    assert b"no report" in done.stderr
    assert admin.get("/v1/snapshots/edited").status == 404


@pytest.mark.parametrize("arguments, stdin, status", [
    (("-",), b"{}", 2),
    (("-", "--keep", "90d"), b"{}", 2),
    (("-", "--keep", "90d"), b"no report", 2),
    (("-", "--keep", "soon"), None, 2),
    (("-", "--needed-until", "never"), None, 2),
    (("-", "--keep", "90d", "--needed-until", "2099-01-01"), None, 2),
    (("-", "--keep", "900d", "--id", "Bad Id"), None, 2),
    (("-", "--keep", "900d", "--taken", "2026-01-01T00:00:00Z"), None, 2),
    (("-", "--keep", "900d", "--prefix", "/other"), None, 2),
    (("-", "--keep", "900d", "--cluster", b"\xff"), None, 2),
], ids=range(10))
def test_kekctl_refuses_what_it_cannot_register(server, admin, arguments, stdin, status):
    stdin = report(admin, entry(admin, "demo")) if stdin is None else stdin
    done = server.kekctl("snapshot", "register", *arguments, stdin=stdin, status=status)
    assert done.stderr.startswith(b"kekctl: ") and not done.stdout


def test_a_report_without_a_cluster_needs_one(server, admin):
    text = report(admin, entry(admin, "demo"), cluster=None)
    done = server.kekctl("snapshot", "register", "-", "--keep", "900d", stdin=text, status=2)
    assert b"--cluster" in done.stderr
    server.kekctl("snapshot", "register", "-", "--keep", "900d", "--cluster", "Prod.West",
                  stdin=text)
    assert admin.ok("GET", "/v1/snapshots/prod.west-20260131-040506").json["cluster"] == "Prod.West"
    forget(admin, "prod.west-20260131-040506")


def test_what_has_expired_is_forgotten_but_for_each_clusters_newest(server, admin):
    none = server.kekctl("snapshot", "forget", "--expired", "-o", "json")
    assert json.loads(none.stdout) == {"snapshots": []}
    for n in range(3):
        register(admin, f"expired-{n}", entry(admin, "demo"), taken=n - 60, until=1, cluster="exp")
    register(admin, "current", entry(admin, "demo"), cluster="cur")
    wait_for(lambda: not any(admin.ok("GET", f"/v1/snapshots/expired-{n}").json["needed"]
                             for n in range(3)), "they end")
    done = server.kekctl("snapshot", "forget", "--expired")
    assert done.stdout.count(b"forgotten") == 2
    left = [s["id"] for s in admin.ok("GET", "/v1/snapshots").json["snapshots"]]
    assert "expired-2" in left and "current" in left and "expired-0" not in left
    forget(admin, "expired-2")
    forget(admin, "current")


def test_on_a_full_disk_nothing_is_registered_or_forgotten_by_half(make_server, root):
    server = make_server()
    state = server.path("state")
    with limited(state, "4m"):
        server.init().start().populate()
        with server.http("admin-1") as admin:
            kept = register(admin, "kept", entry(admin, "demo"))
            ballast = fill(state, 512)
            late = body(entry(admin, "demo"))
            reply = put(admin, "late", late)
            assert reply.status >= 500 and "was not registered" in reply.json["detail"], reply
            assert admin.get("/v1/snapshots/late").status == 404
            reply = forget(admin, "kept")
            assert reply.status >= 500 and "was not forgotten" in reply.json["detail"], reply
            assert admin.ok("GET", "/v1/snapshots/kept").json == kept
            os.unlink(ballast)
            wait_for(lambda: put(admin, "late", late).status == 201, "there is room")
            assert forget(admin, "kept").status == 200
        server.stop()
        server.start()
        with server.http("admin-1") as admin:
            assert [s["id"] for s in admin.ok("GET", "/v1/snapshots").json["snapshots"]] == ["late"]
        server.stop()


@pytest.mark.skipif(not PRESENT, reason="no etcd here")
def test_a_snapshot_of_etcd_is_registered_from_its_file_and_from_its_report(server, admin,
                                                                            make_etcd):
    etcd = make_etcd().start()
    admin.create_key("from-file")
    with server.http("app") as app:
        old = Seed(app, admin, "from-file")
        etcd.put(PREFIX + "secrets/default/one", old.value())
        admin.rotate("from-file")
        new = Seed(app, admin, "from-file")
    etcd.put(PREFIX + "secrets/default/one", new.value())
    etcd.put(PREFIX + "secrets/default/two", new.value())
    etcd.put(PREFIX + "configmaps/default/c", plaintext("ConfigMap", "c"))
    path = str(etcd.snapshot())
    server.kekctl("snapshot", "register", path, "--keep", "90d", "--id", "from-file-1")
    found = admin.ok("GET", "/v1/snapshots/from-file-1").json
    assert found["cluster"] == CLUSTER and found["complete"] and found["plaintext"] == 1
    assert {(v["version"], v["live"], v["superseded"]) for v in found["versions"]} == {
        (1, 0, 1), (2, 2, 0)}
    told = server.kekctl("etcd-snapshot", path, "-o", "json", status=None).stdout
    server.kekctl("snapshot", "register", "-", "--keep", "80d", "--id", "from-file-2", stdin=told)
    again = admin.ok("GET", "/v1/snapshots/from-file-2").json
    same = ("cluster", "taken", "sha256", "etcd_revision", "complete", "plaintext", "versions")
    assert {m: again[m] for m in same} == {m: found[m] for m in same}
    done = server.kekctl("snapshot", "register", "/dev/null", "--keep", "90d", status=1)
    assert b"is empty" in done.stderr
    forget(admin, "from-file-1")
    forget(admin, "from-file-2")
