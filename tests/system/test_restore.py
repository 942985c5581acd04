# SPDX-License-Identifier: Apache-2.0
"""kekd restore: a backup becomes a new generation in an empty store, held until it is confirmed."""

import json
import os
import shutil
import signal

import pytest
from kekd import DATA, wait_for
from pki import spiffe
from test_destroy import destroy, set_wait, version


def empty_store(server, keep=()):
    for name in os.listdir(server.path("state")):
        if name not in keep:
            path = server.path("state", name)
            shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)


def backup(server, name="one.backup"):
    path = server.path(name)
    server.kekctl("backup", "create", path, "--force")
    os.chmod(path, 0o644)
    return path


def restore(server, path, good=True):
    done = server.run("restore", path)
    assert (done.returncode == 0) == good, done.stdout
    return done.stdout


def confirm(server):
    return server.kekctl("cluster", "confirm")


@pytest.fixture
def saved(own):
    """(server, backup, blobs made before it)."""
    with own.http("admin-1") as admin, own.http("app") as app:
        first = app.wrap(b"one")
        admin.rotate()
        second = app.wrap(b"two")
        path = backup(own)
        before = admin.key()
    return own, path, [first, second], before


def test_a_restored_store_serves_and_changes_nothing_before_it_is_confirmed(saved):
    server, path, blobs, before = saved
    old = load(path)
    server.stop()
    empty_store(server)
    told = restore(server, path)
    assert "kekctl cluster confirm" in told and "has no change since then" in told
    assert sorted(os.listdir(server.path("state"))) == ["accepted", "metadata.db"]
    server.start()
    with server.http("admin-1") as admin, server.http("app") as app:
        assert [app.unwrap(b) for b in blobs] == [b"one", b"two"]
        app.wrap(b"more")
        status = admin.status()
        assert status["generation"] not in (old["generation"], "")
        assert status["revision"] > old["revision"]
        assert status["confirm"]["backup"] == old["created"]
        for name, path, body in (("POST", "/v1/keys/demo/rotate", {}),
                                 ("PATCH", "/v1/keys/demo", {"labels": {}})):
            reply = admin.call(name, path, body, etag=admin.ok("GET", "/v1/keys/demo").etag)
            assert (reply.status, reply.code) == (409, "confirm_required"), reply
        reply = admin.call("POST", "/v1/keys", {"name": "new"}, create=True)
        assert (reply.status, reply.code) == (409, "confirm_required")
        admin.ok("POST", "/v1/backup", {})
        key = admin.key()
        assert key["activation"] == before["activation"] + 2**20
        assert key["kms_key_id"] != before["kms_key_id"]
        reply = admin.call("POST", "/v1/cluster/confirm", {"generation": old["generation"]})
        assert (reply.status, reply.code) == (412, "precondition_failed")
    confirm(server)
    with server.http("admin-1") as admin, server.http("app") as app:
        admin.rotate()
        assert admin.status()["confirm"] is None
        assert app.unwrap(blobs[0]) == b"one"
        reply = admin.call("POST", "/v1/cluster/confirm", {"generation": status["generation"]})
        assert (reply.status, reply.code) == (409, "invalid_state")
    server.stop()
    server.start()
    with server.http("admin-1") as admin:
        admin.rotate()


def load(path):
    with open(path, encoding="utf-8") as f:
        return json.load(f)


def test_what_changed_since_the_backup_is_listed_from_the_audit_log(saved):
    server, path, blobs, _ = saved
    with server.http("admin-1") as admin, server.http("app") as app:
        admin.create_key("later")
        admin.put_client("newcomer", ["uri:" + spiffe("newcomer")],
                         [{"keys": "x", "operations": DATA}])
        for _ in range(25):
            app.wrap(b"x")
    server.stop()
    empty_store(server)
    told = restore(server, path)
    assert "key.create later by admin-1" in told
    assert "client.write /v1/clients/newcomer by admin-1" in told
    assert "the audit log has 2 changes since then" in told
    server.start()
    record, = server.audit_records(operation="cluster.restore", type="outcome")
    assert record["result"] == "ok"
    # As many IVs as the log tells, and a margin, and no fewer.
    with server.http("admin-1") as admin:
        document = admin.ok("POST", "/v1/backup", {}).json
        version = admin.key()["versions"][-1]["id"]
    was = {r["path"]: r["body"] for r in load(path)["records"]}[f"nonces/{version}"]["reserved"]
    now = {r["path"]: r["body"] for r in document["records"]}[f"nonces/{version}"]["reserved"]
    assert was + 25 + 2**24 <= now < was + 2**25


def test_without_the_log_half_of_every_budget_counts_as_spent(saved):
    server, path, blobs, _ = saved
    server.stop()
    empty_store(server)
    for name in os.listdir(server.audit_dir):
        os.unlink(os.path.join(server.audit_dir, name))
    assert "is not known" in restore(server, path)
    server.start()
    with server.http("admin-1") as admin, server.http("app") as app:
        assert admin.status()["confirm"]["log"] is False
        assert app.unwrap(blobs[1]) == b"two"
        document = admin.ok("POST", "/v1/backup", {}).json
    budgets = [r["body"]["reserved"] for r in document["records"]
               if r["path"].startswith("nonces/")]
    assert budgets and all(b >= 2**31 for b in budgets)


EDITS = {  # the text that tells of it
    "cut": "are missing before this one",
    "spoil": "not a record with the hash that it claims",
    "lower": "not a record with the hash that it claims",  # a smaller number of wraps
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_log_that_lacks_a_record_since_the_backup_counts_as_none(saved, edit):
    server, path, _, _ = saved
    with server.http("app") as app:
        for _ in range(3):
            app.wrap(b"x")
    server.stop()
    empty_store(server)
    name = os.path.join(server.audit_dir, sorted(os.listdir(server.audit_dir))[-1])
    with open(name, "r+b") as f:
        lines = f.readlines()
        at = max(i for i, line in enumerate(lines) if b'"operation":"wrap"' in line)
        lines[at:at + 1] = {"cut": [], "spoil": [lines[at].replace(b"}", b"", 1)],
                            "lower": [lines[at].replace(b'"wrapped":1', b'"wrapped":0')]}[edit]
        f.seek(0)
        f.writelines(lines)
        f.truncate()
    told = restore(server, path)
    assert "is not known" in told and EDITS[edit] in told and os.path.basename(name) in told
    server.start()
    with server.http("admin-1") as admin:
        assert admin.status()["confirm"]["log"] is False


def test_a_log_that_lost_its_newest_records_counts_as_none(saved):
    server, path, _, _ = saved
    with server.http("admin-1") as admin, server.http("app") as app:
        admin.create_key("later")
        app.wrap(b"x")
    server.stop()
    empty_store(server, keep=("accepted",))
    name = os.path.join(server.audit_dir, sorted(os.listdir(server.audit_dir))[-1])
    with open(name, "r+b") as f:
        lines = f.readlines()
        f.truncate(sum(map(len, lines[:next(
            i for i, line in enumerate(lines) if b'"operation":"key.create"' in line
            and b'"key":"later"' in line)])))
    told = restore(server, path)
    assert "its end is missing" in told and "is not known" in told
    server.start()
    with server.http("admin-1") as admin:
        assert admin.status()["confirm"]["log"] is False
        document = admin.ok("POST", "/v1/backup", {}).json
    budgets = [r["body"]["reserved"] for r in document["records"]
               if r["path"].startswith("nonces/")]
    assert budgets and all(b >= 2**31 for b in budgets)


def test_what_the_log_says_of_the_time_before_the_backup_is_not_asked(own):
    with own.http("app") as app:
        app.wrap(b"x")
        os.kill(own.process.pid, signal.SIGHUP)
        wait_for(lambda: len(os.listdir(own.audit_dir)) > 1, "a second file")
        app.wrap(b"y")
    path = backup(own)
    own.stop()
    empty_store(own, keep=("accepted",))
    os.unlink(os.path.join(own.audit_dir, sorted(os.listdir(own.audit_dir))[0]))
    assert "has no change since then" in restore(own, path)


def test_commits_that_no_request_asked_for_do_not_make_the_log_look_short(own):
    with own.http("admin-1") as admin:
        path = backup(own)
        admin.rotate()
        admin.rotate()
        admin.change("demo", "versions/1/disable")
        set_wait(admin, "60s")
        assert destroy(admin).status == 200
        before = admin.key()["revision"]
        wait_for(lambda: admin.key()["revision"] >= before + 2, "the wait is stored", 30)
    own.stop()
    empty_store(own, keep=("accepted",))
    assert "changes since then, which are lost" in restore(own, path)
    # And so once more, without a start in between.
    for name in ("metadata.db", "metadata.db-wal", "metadata.db-shm"):
        if os.path.exists(own.path("state", name)):
            os.unlink(own.path("state", name))
    assert "changes since then, which are lost" in restore(own, path)


def test_a_restore_goes_into_an_empty_store_only(saved):
    server, path, _, _ = saved
    server.stop()
    with open(server.path("state", "metadata.db"), "rb") as f:
        before = f.read()
    assert "move metadata.db away" in restore(server, path, good=False)
    with open(server.path("state", "metadata.db"), "rb") as f:
        assert f.read() == before
    server.start()


def test_the_commit_number_goes_on_above_what_was_accepted(saved):
    server, path, _, _ = saved
    with server.http("admin-1") as admin:
        for n in range(5):
            etag = admin.ok("GET", "/v1/keys/demo").etag
            admin.ok("PATCH", "/v1/keys/demo", {"labels": {"n": str(n)}}, etag=etag)
        before = admin.status()["revision"]
    server.stop()
    empty_store(server, keep=("accepted",))
    assert "has 5 changes since then" in restore(server, path)
    server.start()
    with server.http("admin-1") as admin:
        assert admin.status()["revision"] > before


@pytest.mark.parametrize("edit", ["grant", "seal", "time"])
def test_an_edited_backup_is_refused(saved, edit):
    server, path, _, _ = saved
    document = load(path)
    if edit == "grant":
        record = next(r for r in document["records"] if r["path"] == "clients/app")
        record["body"]["grants"][0]["operations"].append("approve")
    elif edit == "seal":
        document["seal"]["hmac"] = "0" * 64
    else:
        document["created"] = "2020" + document["created"][4:]
    with open(path, "w", encoding="utf-8") as f:
        json.dump(document, f)
    server.stop()
    empty_store(server)
    assert "was changed since it was made" in restore(server, path, good=False)
    assert os.listdir(server.path("state")) == []


def test_a_foreign_backup_is_refused(saved, make_server):
    server, path, _, _ = saved
    same_name = make_server().init().start().populate()
    foreign = backup(same_name)
    server.stop()
    empty_store(server)
    assert "in none of the tokens" in restore(server, foreign, good=False)
    same_name.stop()
    other = make_server(cluster="other")
    assert 'is of cluster "test"' in restore(other, path, good=False)


def test_a_restore_that_was_broken_off_is_done_again(saved):
    server, path, blobs, _ = saved
    server.stop()
    empty_store(server)
    os.mkdir(server.path("state", "restore.new"), 0o700)
    for name in ("metadata.db", "accepted", "metadata.db-wal"):
        with open(server.path("state", "restore.new", name), "wb") as f:
            f.write(b"half")
    restore(server, path)
    server.start()
    with server.http("app") as app:
        assert app.unwrap(blobs[0]) == b"one"


def test_a_destruction_that_was_waiting_is_not_taken_up_again(own):
    with own.http("admin-1") as admin:
        admin.rotate()
        admin.rotate()
        admin.change("demo", "versions/1/disable")
        set_wait(admin, "1h")
        assert destroy(admin).status == 200
        assert version(admin)["state"] == "scheduled"
        path = backup(own)
    own.stop()
    empty_store(own)
    restore(own, path)
    own.start()
    confirm(own)
    with own.http("admin-1") as admin:
        assert version(admin)["state"] == "disabled" and not version(admin).get("destroy")
        reply = destroy(admin)
        assert reply.status == 409  # nobody knows what was used since


def test_restore_takes_one_file_that_can_be_read(own):
    own.stop()
    for arguments in (["restore"], ["restore", "a", "b"], ["restore", own.path("none")]):
        assert own.run(*arguments).returncode == 2
