# SPDX-License-Identifier: Apache-2.0
"""kekd migrate: a single node's metadata goes to etcd and back, whole or not at all, and what was
wrapped before is unwrapped after."""

import contextlib
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import time

import pytest

from etcd import PRESENT
from kekd import BUILD, PATIENCE, alive, children, kill, wait_for
from pki import spiffe

pytestmark = pytest.mark.skipif(not PRESENT, reason="etcd is not installed")


def with_engine(node, etcd):
    """The node's configuration, and nothing else of it, is for this engine."""
    store = node.store_settings() if etcd else None
    if etcd:
        node.settings["store"] = {**store, **node.pair.store}
    else:
        node.settings.pop("store", None)
    node.write_config()
    return node


@pytest.fixture
def pair(make_pair):
    """An empty etcd, and a first node that runs on SQLite."""
    pair = make_pair()
    node = with_engine(pair.nodes[0], etcd=False)
    node.init().start().populate()
    return pair


def migrate(node, to, status=0, timeout=90):
    done = node.run("migrate", "--to", to, timeout=timeout)
    assert done.returncode == status, done.stdout
    return done.stdout


def revision(node):
    with node.http("app") as h:
        return int(h.get("/v1/whoami").headers["Kekd-Revision"])


def state(node):
    return sorted(n for n in os.listdir(node.path("state")) if not n.endswith(("-wal", "-shm")))


def many_clients(node, count):
    with node.http("admin-1") as h:
        for n in range(count):
            h.put_client(f"c{n:03}", ["uri:" + spiffe(f"c{n:03}")], [])


def clients(node):
    with node.http("admin-1") as h:
        return {r["name"] for r in h.ok("GET", "/v1/clients?limit=1000").json["clients"]}


def test_a_single_nodes_metadata_goes_to_etcd_and_back_and_every_data_key_with_it(pair):
    node = pair.nodes[0]
    with node.http("admin-1") as admin, node.http("app") as app:
        blobs = [app.wrap(b"first")]
        admin.rotate()
        blobs.append(app.wrap(b"second"))
        usage = admin.ok("GET", "/v1/keys/demo/usage").json
    before = revision(node)
    node.stop()

    with_engine(node, etcd=True)
    told = migrate(node, "etcd")
    kept = re.search(r"kept as (\S+)/(metadata\.db\.sqlite-\d{8}T\d{6}Z);", told)[2]
    assert kept in state(node) and "migrate.new" not in state(node)
    assert f"revision {before}" in told
    assert pair.etcd.json("cluster")["body"]["members"] == ["node-1"]
    assert "nodes/node-1" not in pair.etcd.all()
    node.start()
    pair.active()
    assert node.status()["role"] == "active"
    assert revision(node) == before
    with node.http("admin-1") as admin, node.http("app") as app:
        assert [app.unwrap(b) for b in blobs] == [b"first", b"second"]
        now = admin.ok("GET", "/v1/keys/demo/usage").json
        assert [v["totals"]["wrapped"] for v in now["versions"]] == [
            v["totals"]["wrapped"] for v in usage["versions"]]
        admin.rotate()
        blobs.append(app.wrap(b"third"))
    grown = revision(node)
    assert grown > before
    node.stop()

    told = migrate(node, "sqlite")
    assert f"revision {grown}" in told and "store.engine: sqlite" in told
    with_engine(node, etcd=False)
    node.start()
    assert node.status()["role"] == "single"
    assert revision(node) == grown
    with node.http("admin-1") as admin, node.http("app") as app:
        assert [app.unwrap(b) for b in blobs] == [b"first", b"second", b"third"]
        admin.rotate()
        assert admin.key()["primary"] == 4
    node.kekctl("audit", "verify", node.audit_dir)
    for kind in ("intent", "outcome"):
        records = node.audit_records(operation="cluster.migrate", type=kind)
        assert [r["detail"]["to"] for r in records] == ["etcd", "sqlite"]


def test_a_second_node_joins_what_was_a_single_nodes(pair):
    one, two = pair.nodes
    with one.http("app") as app:
        blob = app.wrap(b"from before")
    one.stop()
    migrate(with_engine(one, etcd=True), "etcd")
    one.start()
    pair.join(two)
    with two.http("app") as app:
        assert app.unwrap(blob) == b"from before"
    one.stop()
    pair.active(but=one)
    two.kekctl("key", "rotate", "demo", status=None)
    with two.http("app") as app:
        assert app.unwrap(blob) == b"from before"


def test_etcd_is_not_left_while_another_member_is_listed(pair):
    one, two = pair.nodes
    one.stop()
    migrate(with_engine(one, etcd=True), "etcd")
    one.start()
    pair.join(two)
    two.stop()
    one.stop()
    told = migrate(one, "sqlite", status=1)
    assert "node node-2 is a member" in told and "cluster forget node-2" in told
    one.start()
    pair.active()
    one.kekctl("cluster", "forget", "node-2", "--yes")
    one.stop()
    migrate(one, "sqlite")
    with_engine(one, etcd=False).start()
    assert one.status()["role"] == "single"


def test_a_prefix_that_has_other_records_is_refused_and_nothing_is_changed(pair):
    node = pair.nodes[0]
    node.stop()
    pair.etcd.put("keys/other", "something")
    with_engine(node, etcd=True)
    told = migrate(node, "etcd", status=1)
    assert "keys/other" in told and "empty it first" in told
    assert list(pair.etcd.all()) == ["keys/other"]
    with_engine(node, etcd=False).start()
    node.stop()
    pair.etcd.delete_all()
    with_engine(node, etcd=True)
    migrate(node, "etcd")
    node.start()


def test_a_node_that_runs_is_not_migrated_under_its_feet(pair):
    node = pair.nodes[0]
    with_engine(node, etcd=True)
    told = migrate(node, "etcd", status=78)
    assert "stop it first" in told
    assert not pair.etcd.all()
    with node.http("app") as app:
        app.wrap(b"it serves on")


def test_metadata_that_was_changed_outside_of_kekd_is_not_migrated(pair):
    node = pair.nodes[0]
    node.stop()
    with contextlib.closing(sqlite3.connect(node.path("state", "metadata.db"))) as db:
        db.execute("update records set body = replace(body, 'test.example', 'best.example') "
                   "where path = 'clients/app'")
        db.commit()
    with_engine(node, etcd=True)
    told = migrate(node, "etcd", status=1)
    assert "this node's metadata" in told
    assert not any(k.startswith("clients/") for k in pair.etcd.all())


def test_without_etcd_in_the_configuration_it_says_what_is_missing(pair):
    node = pair.nodes[0]
    node.stop()
    assert "store.engine: etcd" in migrate(node, "etcd", status=78)
    assert node.run("migrate").returncode == 2
    assert node.run("migrate", "--to", "oracle").returncode == 2
    node.start()


def test_to_migrate_twice_is_harmless(pair):
    node = pair.nodes[0]
    node.stop()
    with_engine(node, etcd=True)
    migrate(node, "etcd")
    before = state(node)
    assert "already" in migrate(node, "etcd")
    assert state(node) == before
    migrate(node, "sqlite")
    assert "already" in migrate(node, "sqlite")
    with_engine(node, etcd=False).start()


def test_the_former_metadata_cannot_be_taken_up_again_by_mistake(pair):
    node = pair.nodes[0]
    node.stop()
    with_engine(node, etcd=True)
    migrate(node, "etcd")
    node.start()
    pair.active()
    node.kekctl("key", "create", "later")
    node.stop()
    kept = next(n for n in state(node) if n.startswith("metadata.db.sqlite-"))
    os.rename(node.path("state", "metadata.db"), node.path("replica"))
    shutil.copy(node.path("state", kept), node.path("state", "metadata.db"))
    with_engine(node, etcd=False).start(ready=False)
    wait_for(lambda: node.health()[0] == 503, "it is held")
    wait_for(lambda: "held" in str(node.health()[1]), "it says so")


def killed(node, to, when):
    """kekd migrate, and kill -9 of all its processes once `when` is true: was it still at it?"""
    process = subprocess.Popen(
        [os.path.join(BUILD, "kekd"), "migrate", "--to", to, "--config", node.config_path],
        env=node.environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: process.poll() is not None or when(), "it gets there", every=0.002)
    finally:
        family = [process.pid, *children(process.pid)]
        for pid in family:
            kill(pid)
        status = process.wait(PATIENCE)
    wait_for(lambda: not any(alive(p) for p in family), "no process is left", 5)
    return status == -signal.SIGKILL


def after(seconds):
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


def copied_to_etcd(pair, count):
    return lambda: len(pair.etcd.all()) >= count


def copied_to_sqlite(node, count):
    """By a look at the file, in the way of nobody."""
    def there():
        path = node.path("state", "migrate.new", "metadata.db")
        try:
            with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
                return db.execute("select count(*) from records").fetchone()[0] >= count
        except sqlite3.Error:
            return False
    return there


@pytest.fixture
def full(pair):
    """A node with more records than go over at once; what it has."""
    node = pair.nodes[0]
    many_clients(node, 250)
    with node.http("app") as app:
        blob = app.wrap(b"secret")
    found = clients(node), revision(node), blob
    node.stop()
    with_engine(node, etcd=True)
    return found


def check_whole(node, found):
    names, number, blob = found
    assert clients(node) == names and revision(node) == number
    with node.http("app") as app:
        assert app.unwrap(blob) == b"secret"
    node.kekctl("audit", "verify", node.audit_dir)
    assert "migrate.new" not in state(node)


def test_a_migration_to_etcd_that_is_killed_at_any_moment_is_gone_on_with(pair, full):
    node = pair.nodes[0]
    node.etcd.delay(0.02)
    for seconds in (0.1, 0.4):
        assert killed(node, "etcd", after(seconds))
    for count in (1, 90, 180):
        assert killed(node, "etcd", copied_to_etcd(pair, count))
        assert pair.etcd.get("commit") is None, "it is no whole state yet"
    node.etcd.heal()
    migrate(node, "etcd")
    node.start()
    pair.active()
    check_whole(node, full)


def test_a_node_does_not_serve_from_a_copy_that_is_not_whole(pair, full):
    one, two = pair.nodes
    one.etcd.delay(0.02)
    assert killed(one, "etcd", copied_to_etcd(pair, 90))
    rows = two.joined(status=78).stdout
    assert "seal" in rows and "missing" in rows
    one.etcd.heal()
    assert one.run().returncode == 78  # its own metadata is a single node's still
    migrate(one, "etcd")
    one.start()
    pair.active()
    check_whole(one, full)


def test_a_migration_to_sqlite_that_is_killed_at_any_moment_is_gone_on_with(pair, full):
    node = pair.nodes[0]
    migrate(node, "etcd")
    for when in (after(0.1), after(0.4), copied_to_sqlite(node, 1), copied_to_sqlite(node, 150)):
        assert killed(node, "sqlite", when)
    migrate(node, "sqlite")
    with_engine(node, etcd=False).start()
    check_whole(node, full)


@pytest.mark.parametrize("at", ["first", "between"])
def test_killed_around_the_renames_the_copy_still_takes_its_place(pair, at):
    """As kill -9 leaves the files before the first, and between the two."""
    node = pair.nodes[0]
    with node.http("app") as app:
        blob = app.wrap(b"secret")
    node.stop()
    with_engine(node, etcd=True)
    migrate(node, "etcd")
    kept = next(n for n in state(node) if n.startswith("metadata.db.sqlite-"))
    os.mkdir(node.path("state", "migrate.new"), 0o700)
    os.rename(node.path("state", "metadata.db"),
              node.path("state", "migrate.new", "metadata.db"))
    if at == "first":
        os.rename(node.path("state", kept), node.path("state", "metadata.db"))
    migrate(node, "etcd")
    node.start()
    with node.http("app") as app:
        assert app.unwrap(blob) == b"secret"
    assert "migrate.new" not in state(node)


def test_an_etcd_that_is_lost_for_good_is_filled_from_a_nodes_replica(make_pair):
    pair = make_pair().start()
    one, two = pair.roles()
    with one.http("admin-1") as admin, one.http("app") as app:
        admin.rotate()
        blob = app.wrap(b"secret")
        number = int(app.get("/v1/whoami").headers["Kekd-Revision"])
    wait_for(lambda: revision(two) == number, "the standby has it, too")
    one.stop()
    two.stop()
    pair.etcd.lose()
    pair.etcd.start()
    told = migrate(one, "etcd", status=1)
    assert "no cluster test" in told and "--from-replica" in told
    assert not pair.etcd.all()
    done = one.run("migrate", "--to", "etcd", "--from-replica")
    assert done.returncode == 0 and f"revision {number}" in done.stdout, done.stdout
    one.start()
    pair.active()
    assert revision(one) == number
    # The other one knows another etcd, and takes this one up after the same check as at first.
    os.rename(two.path("state", "metadata.db"), two.path("former"))
    two.joined()
    two.start()
    with two.http("app") as app:
        assert app.unwrap(blob) == b"secret"
    wait_for(lambda: one.kekctl("key", "rotate", "demo", status=None).returncode == 0,
             "both are there, and a rotation is proven", every=0.5)


def test_a_replica_is_no_source_where_etcd_has_the_cluster(make_pair):
    pair = make_pair().start()
    one, two = pair.roles()
    two.stop()
    done = two.run("migrate", "--to", "etcd", "--from-replica")
    assert done.returncode == 0 and "already" in done.stdout
    two.start()
    assert two.run("migrate", "--to", "sqlite", "--from-replica").returncode == 2


def test_a_backup_is_restored_into_an_empty_etcd_by_way_of_a_single_node(make_pair):
    pair = make_pair().start()
    one, two = pair.roles()
    with one.http("app") as app:
        blob = app.wrap(b"secret")
    one.kekctl("backup", "create", one.path("b.backup"))
    one.stop()
    two.stop()
    pair.etcd.lose()
    pair.etcd.start()
    os.rename(one.path("state", "metadata.db"), one.path("former"))
    done = with_engine(one, etcd=False).run("restore", one.path("b.backup"))
    assert done.returncode == 0, done.stdout
    migrate(with_engine(one, etcd=True), "etcd")
    one.start()
    pair.active()
    for name in ("metadata.db", "accepted"):
        os.rename(two.path("state", name), two.path("former-" + name))
    two.joined()
    two.start()
    with one.http("app") as a, two.http("app") as b:
        assert a.unwrap(blob) == b.unwrap(blob) == b"secret"
    pair.active().kekctl("cluster", "confirm")
    wait_for(lambda: pair.active().kekctl("key", "rotate", "demo", status=None).returncode == 0,
             "changes are made again", every=0.5)


def test_a_node_that_accepted_more_than_the_replica_does_not_follow_it(make_pair):
    pair = make_pair().start()
    one, two = pair.roles()
    two.stop()
    with one.http("admin-1") as admin:
        admin.put_client("later", ["uri:" + spiffe("later")], [])
    number = revision(one)
    one.stop()
    pair.etcd.lose()
    pair.etcd.start()
    done = two.run("migrate", "--to", "etcd", "--from-replica")
    assert done.returncode == 0, done.stdout
    os.rename(one.path("state", "metadata.db"), one.path("former"))
    told = one.joined(status=78).stdout
    assert "older" in told, told
    # So that one is taken instead.
    os.rename(one.path("former"), one.path("state", "metadata.db"))
    pair.etcd.lose()
    pair.etcd.start()
    done = one.run("migrate", "--to", "etcd", "--from-replica")
    assert done.returncode == 0 and f"revision {number}" in done.stdout, done.stdout
    os.rename(two.path("state", "metadata.db"), two.path("former"))
    two.joined()
    one.start()
    two.start()
    assert revision(two) == number


def test_what_a_copy_into_another_etcd_left_behind_is_in_nobodys_way(pair, full):
    node = pair.nodes[0]
    node.etcd.delay(0.02)
    assert killed(node, "etcd", copied_to_etcd(pair, 90))
    node.etcd.heal()
    pair.etcd.lose()
    pair.etcd.start()
    migrate(node, "etcd")
    node.start()
    pair.active()
    check_whole(node, full)
