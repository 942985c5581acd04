# SPDX-License-Identifier: Apache-2.0
"""Who can write the database still cannot change what is in force: every record is sealed."""

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess

import pytest

from kekd import b64, wait_for


def path(server):
    return server.path("state", "metadata.db")


def sql(server, text):
    """With the sqlite3 tool, as an intruder would."""
    return subprocess.run(["sqlite3", "-cmd", ".timeout 5000", path(server), text], check=True,
                          capture_output=True, text=True).stdout


def table(server):
    """Name of the table of records, and of its columns for path and body."""
    with contextlib.closing(sqlite3.connect(path(server))) as db:
        for name, in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'"):
            columns = [c[1] for c in db.execute(f"PRAGMA table_info({name})")]
            if "path" in columns:
                return name, "path", next(c for c in columns if c in ("body", "value", "data"))
    raise AssertionError("no table of records")


def body(server, record):
    name, key, value = table(server)
    return sql(server, f"SELECT {value} FROM {name} WHERE {key} = '{record}'").rstrip("\n")


def set_body(server, record, text):
    name, key, value = table(server)
    quoted = text.replace("'", "''")
    sql(server, f"UPDATE {name} SET {value} = '{quoted}' WHERE {key} = '{record}'")


def delete(server, record):
    name, key, _ = table(server)
    sql(server, f"DELETE FROM {name} WHERE {key} = '{record}'")


def store(server):
    with server.http("admin-1") as admin:
        return admin.status()["store"]


def wrap(app, key="demo"):
    return app.call("POST", f"/v1/keys/{key}/wrap", {"plaintext": b64(b"x")})


@pytest.fixture
def two_keys(own):
    with own.http("admin-1") as admin:
        admin.create_key("second")
    return own


def test_an_untouched_store_is_accepted(own):
    own.stop()
    own.start()
    state = store(own)
    assert state["hold"] == "none" and state["refused"] == []
    assert state["number"] == state["accepted"]


def edited_key(server):
    text = body(server, "keys/demo")
    assert '"primary"' in text
    record = json.loads(text)
    record["body"]["labels"] = {"evil": "yes"}
    set_body(server, "keys/demo", json.dumps(record, separators=(",", ":"), sort_keys=True))
    return text


def test_a_record_edited_while_stopped_is_refused_alone_and_reported(two_keys):
    two_keys.stop()
    edited_key(two_keys)
    two_keys.start()
    with two_keys.http("app") as app, two_keys.http("admin-1") as admin:
        reply = wrap(app)
        assert (reply.status, reply.code) == (503, "record_refused")
        assert wrap(app, "second").status == 200
        assert admin.get("/v1/keys/demo").code == "record_refused"
    state = store(two_keys)
    assert state["refused"] == ["keys/demo"] and state["hold"] == "none"
    assert "changed outside of kekd: 1" in json.dumps(two_keys.health()[1])
    assert "keys/demo" in two_keys.log()


def test_health_names_no_key_to_strangers(two_keys):
    edited_key(two_keys)
    wait_for(lambda: store(two_keys)["refused"] == ["keys/demo"], "the edit is noticed")
    assert "demo" not in json.dumps(two_keys.health()[1])


def test_a_record_edited_while_running_is_noticed_and_the_last_good_one_stays_in_force(two_keys):
    edited_key(two_keys)
    wait_for(lambda: store(two_keys)["refused"] == ["keys/demo"], "the edit is noticed")
    with two_keys.http("app") as app, two_keys.http("admin-1") as admin:
        assert wrap(app, "second").status == 200
        assert wrap(app).status == 200
        shown = admin.get("/v1/keys/demo")
        assert shown.json["labels"] == {} and shown.json["refused"] is True
        change = admin.call("POST", "/v1/keys/demo/rotate", {}, etag=shown.etag)
        assert (change.status, change.code) == (503, "record_refused")


def test_a_record_put_right_again_is_taken(two_keys):
    original = edited_key(two_keys)
    wait_for(lambda: store(two_keys)["refused"], "the edit is noticed")
    set_body(two_keys, "keys/demo", original)
    wait_for(lambda: not store(two_keys)["refused"], "the repair is noticed")
    with two_keys.http("app") as app:
        assert wrap(app).status == 200


def test_nobody_grants_himself_anything_in_the_database(own):
    own.stop()
    text = body(own, "clients/app")
    record = json.loads(text)
    record["body"]["grants"].append({"keys": "*", "operations": ["key.create"]})
    set_body(own, "clients/app", json.dumps(record, separators=(",", ":"), sort_keys=True))
    own.start()
    with own.http("app") as app:
        assert app.get("/v1/whoami").status in (403, 503)
        reply = app.call("POST", "/v1/keys", {"name": "mine"}, create=True)
        assert reply.status in (403, 503)
    with own.http("admin-1") as admin:
        assert admin.get("/v1/keys/mine").status == 404
        assert admin.status()["store"]["refused"] == ["clients/app"]


def test_an_inserted_record_is_not_believed(own):
    own.stop()
    name, key, value = table(own)
    columns = [c for c in sql(own, f"SELECT name FROM pragma_table_info('{name}')").split()]
    others = ["'clients/eve'" if c == key else c for c in columns]
    sql(own, f"INSERT INTO {name} ({','.join(columns)}) SELECT {','.join(others)} "
             f"FROM {name} WHERE {key} = 'clients/app'")
    own.start(ready=False)
    wait_for(lambda: own.health()[0], "it answers")
    wait_for(lambda: own.health()[0] == 200 or "held" in json.dumps(own.health()[1]),
             "it has read the store")
    with own.http("admin-1") as admin:
        state = admin.ok("GET", "/v1/status").json["store"]
        assert state["hold"] != "none" or state["refused"] == ["clients/eve"]


def held(server, hold):
    """Running, held, and telling so."""
    wait_for(lambda: "held" in json.dumps(server.health()[1]), "the store is held")
    assert server.health()[0] == 503
    assert server.health("live")[0] == 200
    with server.http("app") as app:
        reply = wrap(app)
        assert (reply.status, reply.code) == (503, "store_held")
    state = store(server)
    assert state["hold"] in hold and state["hold_text"]


def test_a_deleted_record_holds_the_store(two_keys):
    two_keys.stop()
    delete(two_keys, "keys/second")
    two_keys.start(ready=False)
    held(two_keys, ["state"])


def test_a_record_deleted_while_running_is_noticed(two_keys):
    delete(two_keys, "keys/second")
    wait_for(lambda: store(two_keys)["hold"] != "none" or store(two_keys)["refused"],
             "the deletion is noticed")
    assert two_keys.health()[0] == 503 or "second" in json.dumps(two_keys.health()[1])


def test_a_record_put_back_holds_the_store(own):
    old = body(own, "keys/demo")
    with own.http("admin-1") as admin:
        admin.rotate()
    own.stop()
    set_body(own, "keys/demo", old)
    own.start(ready=False)
    held(own, ["state"])


def test_an_older_copy_of_the_whole_database_is_held(own):
    own.stop()
    saved = own.path("saved")
    shutil.copytree(own.path("state"), saved)
    own.start()
    with own.http("admin-1") as admin:
        admin.rotate()
    own.stop()
    for name in os.listdir(own.path("state")):
        if name.startswith("metadata"):
            os.unlink(own.path("state", name))
    for name in os.listdir(saved):
        if name.startswith("metadata"):
            shutil.copy(os.path.join(saved, name), own.path("state", name))
    own.start(ready=False)
    held(own, ["behind"])


def test_without_the_file_of_the_last_accepted_number_nothing_is_believed(own):
    own.stop()
    os.unlink(own.path("state", "accepted"))
    own.start(ready=False)
    held(own, ["no_accepted"])


def test_an_edited_commit_record_holds_the_store(own):
    own.stop()
    text = body(own, "commit")
    record = json.loads(text)
    record["body"]["number" if "number" in record["body"] else next(iter(record["body"]))] = 999
    set_body(own, "commit", json.dumps(record, separators=(",", ":"), sort_keys=True))
    own.start(ready=False)
    held(own, ["commit"])


def test_an_empty_store_is_no_reason_to_make_a_second_cluster(own):
    own.stop()
    for name in os.listdir(own.path("state")):
        os.unlink(own.path("state", name))
    own.start(ready=False)
    wait_for(lambda: own.process.poll() is not None, "it stops")
    assert own.process.returncode != 0
    own.process = None
    assert "kekd init" in own.log()
    done = own.run("init")
    assert done.returncode != 0
    assert "token" in done.stdout
    objects = own.pkcs11_tool("--list-objects", "--type", "secrkey")
    assert objects.count("kekd:test:seal:") == 1


def test_a_second_init_of_a_made_cluster_is_refused(own):
    own.stop()
    done = own.run("init")
    assert done.returncode != 0
    own.start()
    with own.http("app") as app:
        assert wrap(app).status == 200
