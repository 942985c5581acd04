# SPDX-License-Identifier: Apache-2.0
"""Usage evidence: who used which version. It is the sum over the audit log, whatever happens in
between, and says so where it cannot know."""

import json
import os
import re
import sqlite3
from collections import Counter

import pytest

from disk import fill
from kekd import b64, wait_for
from test_crash import Load
from test_restore import backup, confirm, empty_store, restore

KINDS = ("wrapped", "unwrapped", "refused", "failed")


def usage(http, key="demo"):
    """The answer, once the server has read its log."""
    reply = http.call("GET", f"/v1/keys/{key}/usage")

    def read():
        nonlocal reply
        reply = http.call("GET", f"/v1/keys/{key}/usage")
        return reply.status != 503
    wait_for(read, "the log is read")
    assert reply.status == 200, reply
    return reply.json


def version(http, number=1, key="demo"):
    return usage(http, key)["versions"][number - 1]


def totals(http, number=1, key="demo"):
    return {k: version(http, number, key)["totals"][k] for k in KINDS}


def logged(server, key="demo"):
    """The same from the log's lines, by version."""
    sums, ids = {}, {}
    for record in server.audit_records():
        if record["type"] in ("request", "refused") and record.get("key") == key:
            ids.update((v["id"], v["version"]) for v in record.get("versions", []))
        if record["type"] in ("request", "refused", "refusals"):
            for v in record.get("versions", []):
                if v["id"] in ids:
                    sums.setdefault(v["version"], Counter()).update(
                        {k: v.get(k, 0) for k in KINDS})
    return {n: {k: c[k] for k in KINDS} for n, c in sums.items()}


def stored(server):
    with sqlite3.connect(f"file:{server.path('state', 'metadata.db')}?mode=ro", uri=True) as db:
        return {path: json.loads(body)["body"] for path, body in
                db.execute("SELECT path, body FROM records WHERE path LIKE 'usage/%'")}


def test_each_client_and_version_is_counted_with_its_first_and_last_time(server, admin, app):
    admin.create_key("counted")
    first = app.wrap(b"one", key="counted")
    app.unwrap(first, key="counted")
    admin.rotate("counted")
    app.wrap(b"two", key="counted")
    for _ in range(2):
        app.unwrap(first, key="counted")
    assert app.try_unwrap(first, key="counted", context={"a": "b"}).code == "unwrap_failed"
    answer = usage(admin, "counted")
    assert answer["key"] == "counted" and [m["node"] for m in answer["members"]] == ["node-1"]
    old, new = answer["versions"]
    assert [old["totals"][k] for k in KINDS] == [1, 3, 0, 1]
    assert [new["totals"][k] for k in KINDS] == [1, 0, 0, 0]
    row, = old["clients"]
    assert row["client"] == "app" and row["node"] == "node-1"
    assert row["unwrapped"]["count"] == 3
    assert row["unwrapped"]["first"] < row["unwrapped"]["last"] <= old["totals"]["last"]
    assert row["refused"] == {"count": 0, "first": None, "last": None}
    assert old["complete"] and old["incomplete_since"] is None
    assert not old["primary"] and new["primary"]
    assert old["in_use"] and old["verdict"] == "in use"


def test_a_version_that_nobody_used_is_not_proven_to_be_unused(admin):
    admin.create_key("silent")
    admin.rotate("silent")
    old, new = usage(admin, "silent")["versions"]
    assert new["verdict"] == "in use", "the primary wraps whenever somebody asks"
    assert re.fullmatch(r"none seen since \S+Z \(no proof\)", old["verdict"]) and not old["in_use"]
    assert old["clients"] == [] and old["totals"]["last"] is None


def test_a_refused_use_shows_at_once_however_many_there_are(server, admin, app):
    admin.create_key("brownout")
    blob = app.wrap(b"x", key="brownout")
    admin.rotate("brownout")
    admin.change("brownout", "versions/1/disable")
    assert not version(admin, 1, "brownout")["in_use"]
    last = None
    for n in range(1, 41):
        assert app.try_unwrap(blob, key="brownout").code == "version_not_enabled"
        found = version(admin, 1, "brownout")["totals"]
        assert found["refused"] == n
        assert last is None or found["last_refused"] > last
        last = found["last_refused"]
    assert version(admin, 1, "brownout")["verdict"] == "in use"


def test_the_evidence_changes_with_use_and_with_nothing_else(own):
    with own.http("admin-1") as admin, own.http("app") as app:
        blob = app.wrap(b"x")
        before = version(admin)["evidence"]
        admin.key()
        admin.rotate()
        app.wrap(b"under the new version")
        assert version(admin)["evidence"] == before
        app.unwrap(blob)
        after = version(admin)["evidence"]
        assert after != before
    own.stop()
    own.start()
    with own.http("admin-1") as admin:
        assert version(admin)["evidence"] == after


def test_usage_needs_key_read_on_the_key(server, admin, app):
    assert app.call("GET", "/v1/keys/demo/usage").code == "forbidden"
    assert admin.call("GET", "/v1/keys/never-made/usage").code == "key_not_found"
    assert admin.call("POST", "/v1/keys/demo/usage", {}).code == "method_not_allowed"


def test_a_clean_stop_stores_all_and_a_start_reads_nothing_again(own):
    with own.http("admin-1") as admin, own.http("app") as app:
        for _ in range(20):
            app.unwrap(app.wrap(b"x"))
        before = totals(admin)
    assert before == {"wrapped": 20, "unwrapped": 20, "refused": 0, "failed": 0}
    own.stop()
    records = stored(own)
    assert set(records) == {"usage/node-1", "usage/node-1/demo"}
    last = own.audit_records()[-1]
    assert last["type"] == "close"
    assert (records["usage/node-1"]["sequence"], records["usage/node-1"]["hash"]) == (
        last["seq"], last["hash"])
    own.start()
    with own.http("admin-1") as admin, own.http("app") as app:
        assert totals(admin) == before
        app.wrap(b"x")
        assert totals(admin)["wrapped"] == 21


def test_kill_9_under_load_never_loses_or_doubles_a_use(own):
    with Load(own) as load:
        for n in range(4):
            load.goes_on()
            if n == 2:  # so that the next start begins with what is stored
                own.stop()
            else:
                own.kill_all()
            own.start()
            load.goes_on()
    assert not load.wrong, load.wrong[:3]
    with own.http("admin-1") as admin:
        found = totals(admin)
        assert version(admin)["complete"]
    assert found == logged(own)[1]
    assert found["wrapped"] >= len(load.blobs) and found["unwrapped"] >= load.answered > 0


def test_refusals_counted_by_a_server_that_was_killed_are_not_doubled(own):
    with own.http("admin-1") as admin, own.http("app") as app:
        blob = app.wrap(b"x")
        admin.rotate()
        admin.change("demo", "versions/1/disable")
        for _ in range(30):
            app.try_unwrap(blob)
        assert totals(admin)["refused"] == 30
    own.kill_all()
    own.start()
    with own.http("admin-1") as admin:
        found = version(admin)
        assert 1 <= found["totals"]["refused"] <= 30, "what was only counted was lost with it"
        assert found["totals"]["refused"] == logged(own)[1]["refused"]
        assert found["in_use"], "the first one of a minute is always on disk"


def lose(server):
    for path in server.audit_files():
        os.unlink(path)


def cut(server):
    path = server.audit_files()[-1]
    with open(path, "rb") as f:
        lines = f.readlines()
    with open(path, "wb") as f:
        f.writelines(lines[:-5])


def not_stored(admin):
    text = admin.get("/metrics").body.decode()
    return float(re.search(r"^kekd_usage_records_not_stored (\S+)$", text, re.M)[1])


def hole(server):
    path = server.audit_files()[-1]
    with open(path, "rb") as f:
        lines = f.readlines()
    with open(path, "wb") as f:
        f.writelines(lines[:-20] + lines[-15:])


@pytest.mark.parametrize("how", [lose, cut], ids=["lost", "cut off"])
def test_a_log_that_was_lost_makes_the_evidence_incomplete_for_ever(own, how):
    with own.http("admin-1") as admin, own.http("app") as app:
        for _ in range(10):
            app.wrap(b"x")
        assert totals(admin)["wrapped"] == 10
    own.stop()
    stopped = own.audit_records()[-1]["time"]
    how(own)
    for n in range(2):
        own.start()
        with own.http("admin-1") as admin:
            found = version(admin)
            assert found["totals"]["wrapped"] >= 10
            assert not found["complete"] and found["incomplete_since"] >= stopped
            later = f"later{n}"
            admin.create_key(later)
            assert version(admin, 1, later)["complete"], "it was made after the loss"
        own.stop()
    shown = own.start().kekctl("key", "usage", "demo").stdout.decode()
    assert "the evidence is incomplete since" in shown and "cannot be destroyed" in shown


def test_after_a_restore_the_evidence_is_incomplete_since_the_backup(own):
    with own.http("admin-1") as admin, own.http("app") as app:
        app.wrap(b"x")
        path = backup(own)
        app.wrap(b"x")
        before = totals(admin)
    own.stop()
    empty_store(own)
    restore(own, path)
    for _ in range(2):
        own.start()
        with own.http("admin-1") as admin:
            found = version(admin)
            assert not found["complete"] and found["incomplete_since"]
            assert totals(admin) == before, "its log is still there"
        own.stop()
    own.start()
    confirm(own)
    with own.http("admin-1") as admin:
        admin.create_key("later")
        assert version(admin, 1, "later")["complete"]
        assert not version(admin)["complete"]


def test_records_missing_behind_what_is_stored_show(own):
    own.stop()
    own.start()
    with own.http("app") as app, own.http("admin-1") as admin:
        wait_for(lambda: not_stored(admin) == 0, "the first round of storing")
        for _ in range(40):
            app.wrap(b"x")
    own.kill_all()
    hole(own)
    own.start()
    with own.http("admin-1") as admin:
        assert not version(admin)["complete"]


def test_a_full_disk_that_refused_requests_is_no_loss(small_disk):
    server = small_disk
    with server.http("app") as app:
        app.wrap(b"x")
        ballast = fill(server.audit_dir)
        wait_for(lambda: app.call("POST", "/v1/keys/demo/wrap",
                                  {"plaintext": b64(b"x")}).status == 503, "the disk is full")
        os.unlink(ballast)
        wait_for(lambda: app.call("POST", "/v1/keys/demo/wrap",
                                  {"plaintext": b64(b"x")}).status == 200, "it goes on")
    server.kill_all()
    server.start()
    with server.http("admin-1") as admin:
        assert version(admin)["complete"]
        assert totals(admin) == logged(server)[1]


def test_stored_records_that_were_removed_are_counted_again_from_the_log(own):
    with own.http("admin-1") as admin, own.http("app") as app:
        for _ in range(7):
            app.wrap(b"x")
    own.stop()
    with sqlite3.connect(own.path("state", "metadata.db")) as db:
        db.execute("DELETE FROM records WHERE path LIKE 'usage/node-1/%'")
    own.start()
    with own.http("admin-1") as admin:
        assert totals(admin)["wrapped"] == 7 and version(admin)["complete"]


def test_usage_that_cannot_be_stored_is_told_of_once(own):
    with own.http("admin-1") as admin, own.http("app") as app:
        for n in range(20):
            admin.create_key(f"k{n}")
            app.wrap(b"x", key=f"k{n}")
    os.rename(own.path("state", "metadata.db"), own.path("state", "elsewhere.db"))
    own.stop()
    assert len(re.findall("usage/.* could not be stored", own.log())) == 1
    os.rename(own.path("state", "elsewhere.db"), own.path("state", "metadata.db"))
    own.start()
    with own.http("admin-1") as admin:
        for n in range(20):
            assert totals(admin, key=f"k{n}")["wrapped"] == 1


def test_kekctl_prints_the_table_and_the_verdict_in_words(own):
    with own.http("admin-1") as admin, own.http("app") as app:
        blob = app.wrap(b"x")
        admin.rotate()
        app.unwrap(blob)
    shown = own.kekctl("key", "usage", "demo").stdout.decode()
    assert re.search(r"^v1 +enabled +app +node-1 +1 +1 +0 +0 +\S+ \S+Z +\S+ \S+Z$", shown, re.M)
    assert re.search(r"^version 1: in use, last unwrapped .* by app; not safe to destroy$", shown,
                     re.M)
    assert re.search(r"^version 2: in use, the primary, never used; not safe", shown, re.M)
    one = own.kekctl("key", "usage", "demo", "v2").stdout.decode()
    assert "version 1" not in one and "version 2" in one
    answer = json.loads(own.kekctl("key", "usage", "demo", "1", "-o", "json").stdout)
    assert [v["version"] for v in answer["versions"]] == [1]
    own.kekctl("key", "usage", "demo", "7", status=4)
    own.kekctl("key", "usage", "demo", "x", status=2)
    own.kekctl("key", "usage", "missing", status=4)
    own.kekctl("key", "usage", "demo", name="app", status=3)
