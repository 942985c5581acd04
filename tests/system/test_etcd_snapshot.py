# SPDX-License-Identifier: Apache-2.0
"""What a snapshot of Kubernetes' etcd holds, which keys it needs, and whether they are there."""

import datetime
import fcntl
import hashlib
import json
import os
import re
import resource
import shutil
import sqlite3
import subprocess
import uuid

import pytest

from etcd import PRESENT
from kekd import BUILD, FAULTY_MODULE, LONG, TOOLS, b64, wait_for
from kubernetes_values import (CLUSTER, PREFIX, Seed, encrypted_object, kms_v2, lease, other,
                               plaintext)
from pki import spiffe
from test_destroy import destroy, wait_for_state
from test_hostile_server import Liar

FAILED, USAGE, REFUSED, NOT_FOUND, CONFLICT, UNVERIFIED, UNAVAILABLE = 1, 2, 3, 4, 5, 6, 7
PLAINTEXT, NOT_RESTORABLE = 9, 10

pytestmark = pytest.mark.skipif(not PRESENT, reason="no etcd here")


def kekctl(*arguments, status=0, preexec=None, timeout=60):
    """Without a server, and without a configuration that could name one."""
    done = subprocess.run([os.path.join(BUILD, "kekctl"), "etcd-snapshot", *map(str, arguments)],
                          capture_output=True, check=False, timeout=timeout, preexec_fn=preexec,
                          env=dict(os.environ, LC_ALL="C.UTF-8", HOME="/nonexistent"))
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    return done


def report(*arguments, status=0):
    return json.loads(kekctl(*arguments, "-o", "json", status=status).stdout)


def resource_of(told, name):
    return next(r for r in told["resources"] if r["resource"] == name)


@pytest.fixture
def etcd(make_etcd):
    return make_etcd().start()


def put(etcd, path, value):
    return etcd.put(PREFIX + path, value)


def with_key(server, key):
    with server.http("admin-1") as admin:
        admin.create_key(key)
    return key


def seed_of(server, key):
    with server.http("app") as app, server.http("admin-1") as admin:
        return Seed(app, admin, key)


def rotate(server, key):
    with server.http("admin-1") as admin:
        admin.rotate(key)


def verify(server, snapshot, *arguments, status=0, name="admin-1"):
    done = server.kekctl("etcd-snapshot", snapshot, "--verify", *arguments, status=status,
                         name=name)
    return done.stdout.decode()


def verified(server, snapshot, status=0, name="admin-1"):
    return json.loads(verify(server, snapshot, "-o", "json", status=status, name=name))


def test_every_value_is_counted_by_resource_provider_and_age(server, etcd):
    seed = seed_of(server, with_key(server, "counted"))
    put(etcd, "secrets/default/one", seed.value())
    put(etcd, "secrets/default/two", seed.value())
    put(etcd, "secrets/default/two", seed.value())
    put(etcd, "secrets/kube-system/old", other("aescbc"))
    put(etcd, "secrets/kube-system/new", other("secretbox", "key2"))
    put(etcd, "secrets/kube-system/gone", plaintext("Secret", "gone"))
    etcd.delete(PREFIX + "secrets/kube-system/gone")
    put(etcd, "configmaps/default/c", plaintext("ConfigMap", "c"))
    put(etcd, "deployments/default/d", plaintext("Deployment", "d"))
    put(etcd, "services/specs/default/s", plaintext("Service", "s"))
    put(etcd, "example.org/widgets/default/w", b'{"kind":"Widget"}')
    last = etcd.put("compact_rev_key", b"1")
    told = report(etcd.snapshot(), status=PLAINTEXT)
    secrets = resource_of(told, "secrets")
    assert secrets["live"] == {"kekd": 2, "plaintext": 0, "other": 2}
    assert secrets["superseded"] == {"kekd": 1, "plaintext": 1, "other": 0}
    rows = {(p["provider"], p["kind"], p["key_id"]): (p["live"], p["superseded"])
            for p in secrets["providers"]}
    assert rows == {("kekd", "kms-v2", seed.key_id): (2, 1), ("key1", "aescbc", None): (1, 0),
                    ("key2", "secretbox", None): (1, 0), ("identity", "plaintext", None): (0, 1)}
    assert [(r["resource"], r["group"]) for r in told["resources"]] == [
        ("configmaps", ""), ("deployments", "apps"), ("secrets", ""), ("services", ""),
        ("widgets", "example.org")]
    assert told["etcd_revision"] == last and told["complete"] is told["hashed"] is True
    assert told["cluster"] == CLUSTER and told["restorable"] is None
    assert set(told) == {"file", "sha256", "hashed", "size", "etcd_revision", "cluster", "complete",
                         "taken", "resources", "keys", "restorable"}
    version, = told["keys"][0]["versions"]
    assert told["keys"][0]["key"] == "counted"
    assert version == {"version_id": seed.version_id, "version": 1, "key_ids": [seed.key_id],
                       "seeds": 1, "live": 2, "superseded": 1}


def test_the_report_names_the_very_file(server, etcd):
    put(etcd, "secrets/a/b", seed_of(server, with_key(server, "file")).value())
    snapshot = etcd.snapshot()
    os.utime(snapshot, (1769860800, 1769860800))
    told = report(snapshot)
    with open(snapshot, "rb") as f:
        content = f.read()
    assert told["sha256"] == hashlib.sha256(content).hexdigest()
    assert told["size"] == len(content) and told["file"] == snapshot
    assert told["taken"] == "2026-01-31T12:00:00.000000Z"
    assert report(snapshot, "--taken", "2026-01-30T01:02:03Z")["taken"].startswith(
        "2026-01-30T01:02:03")
    kekctl(snapshot, "--taken", "yesterday", status=USAGE)


def test_a_copy_is_not_taken_to_be_newer_than_what_it_holds(etcd):
    taken = 1769860800
    for name, at in (("a", taken - 20), ("b", taken - 10), ("a", taken - 9000)):
        put(etcd, f"leases/kube-node-lease/{name}", lease(name, at))
    put(etcd, "leases/kube-node-lease/c", b"k8s\0no lease")
    put(etcd, "leases/kube-node-lease/d", other("aescbc"))
    snapshot = etcd.snapshot()
    for file_time, told in ((taken, taken), (taken + 500, taken + 500), (taken - 50, taken - 50),
                            (taken + 900, taken - 9.5), (taken + 9000000, taken - 9.5)):
        os.utime(snapshot, (file_time, file_time))
        text = datetime.datetime.fromtimestamp(told, datetime.timezone.utc)
        assert report(snapshot)["taken"] == text.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    assert b"newest Lease" in kekctl(snapshot).stdout
    given = report(snapshot, "--taken", "2026-02-02T00:00:00Z")["taken"]
    assert given == "2026-02-02T00:00:00.000000Z"


def test_plaintext_secrets_have_an_exit_status_of_their_own(server, etcd):
    seed = seed_of(server, with_key(server, "plain"))
    put(etcd, "secrets/a/b", seed.value())
    put(etcd, "configmaps/a/b", plaintext("ConfigMap", "b"))
    put(etcd, "events/a/b", plaintext("Event", "b"))
    put(etcd, "example.org/widgets/a/b", b'{"kind":"Widget"}')
    snapshot = etcd.snapshot()
    assert b"PLAINTEXT" not in kekctl(snapshot).stdout
    for wanted, status in (("secrets", 0), ("secrets,configmaps", PLAINTEXT),
                           ("widgets.example.org", PLAINTEXT), ("*.example.org", PLAINTEXT),
                           ("widgets", 0), ("*.*", PLAINTEXT), ("events", PLAINTEXT)):
        kekctl(snapshot, "--resources", wanted, status=status)
    put(etcd, "secrets/a/open", plaintext("Secret", "open", password=b"hidden-word"))
    done = kekctl(etcd.snapshot(), status=PLAINTEXT)
    assert b"1 live, 0 superseded" in done.stdout and b"PLAINTEXT" in done.stdout
    put(etcd, "secrets/a/open", seed.value())
    done = kekctl(etcd.snapshot(), status=PLAINTEXT)
    assert b"0 live, 1 superseded" in done.stdout
    etcd.compact()
    done = kekctl(etcd.snapshot())
    assert b"PLAINTEXT" not in done.stdout and b"compacted to" in done.stdout
    assert b"hidden-word" not in done.stdout


def test_a_backup_whose_versions_are_all_there_is_restorable(server, etcd):
    key = with_key(server, "present")
    for n in range(3):
        seed = seed_of(server, key)
        for i in range(4):
            put(etcd, f"secrets/ns{n}/s{i}", seed.value())
        rotate(server, key)
    snapshot = etcd.snapshot()
    text = verify(server, snapshot)
    assert "This backup is restorable: 3 versions, all present and enabled." in text
    told = verified(server, snapshot)
    assert told["restorable"] is True
    assert [(v["version"], v["verify"], v["live"]) for v in told["keys"][0]["versions"]] == [
        (1, "ok", 4), (2, "ok", 4), (3, "ok", 4)]


def test_no_seed_is_ever_sent_back(server, etcd):
    seed = seed_of(server, with_key(server, "unseen"))
    put(etcd, "secrets/a/b", seed.value())
    with server.http("admin-1") as admin:
        admin.put_client("other", ["uri:" + spiffe("other")],
                         [{"keys": "unseen", "operations": ["verify"]}])
    told = verified(server, etcd.snapshot(), name="other")
    assert told["restorable"] is True
    asked = server.audit_records(client="other", operation="unwrap")
    assert asked and all(r["result"] == "ok" for r in asked)
    assert any(hashlib.sha256(seed.blob).hexdigest()[:16] in r["blobs"] for r in asked)


def test_each_version_that_would_not_unwrap_is_named_with_its_reason(own, etcd):
    server, key = own, with_key(own, "lost")
    seeds = []
    for n in range(5):
        seeds.append(seed_of(server, key))
        put(etcd, f"secrets/a/v{n + 1}", seeds[-1].value())
        rotate(server, key)
    snapshot = etcd.snapshot()
    assert verified(server, snapshot)["restorable"] is True
    with server.http("admin-1") as admin:
        for n in (1, 2):
            admin.change(key, f"versions/{n}/disable")
        assert destroy(admin, 1, key).status == 200
        wait_for_state(admin, key, "destroyed")
        etag = admin.ok("GET", "/v1/cluster").etag
        admin.ok("PATCH", "/v1/cluster", {"policy": {"destroy_wait": "1h"}}, etag=etag)
        admin.change(key, "versions/3/disable")
        assert destroy(admin, 3, key).status in (200, 202)
    told = verified(server, snapshot, status=NOT_RESTORABLE)
    states = {v["version"]: v["verify"] for v in told["keys"][0]["versions"]}
    assert states == {1: "destroyed", 2: "disabled", 3: "scheduled", 4: "ok", 5: "ok"}
    assert told["restorable"] is False
    text = verify(server, snapshot, status=NOT_RESTORABLE)
    assert "NOT restorable" in text
    for n, word in ((1, "was destroyed"), (2, "is disabled"), (3, "waits to be destroyed")):
        assert f"lost v{n} {word}" in text
    assert "v4 " not in text.split("NOT restorable")[1]


def test_a_version_or_key_that_kekd_lacks_is_missing(server, etcd):
    seed = seed_of(server, with_key(server, "lacks"))
    stranger = bytearray(seed.blob)
    stranger[4:20] = bytes(range(16))
    key_id = "00010203-0405-0607-0809-0a0b0c0d0e0f.1"
    put(etcd, "secrets/a/version", kms_v2(key_id, bytes(stranger), seed.annotations))
    put(etcd, "secrets/a/key", kms_v2(seed.key_id, seed.blob,
                                      {**seed.annotations, "key.kms.kekd": "nowhere"}))
    told = verified(server, etcd.snapshot(), status=NOT_RESTORABLE)
    assert {(k["key"], v["verify"]) for k in told["keys"] for v in k["versions"]} == {
        ("lacks", "missing"), ("nowhere", "missing")}


def test_a_seed_of_another_cluster_or_an_altered_one_does_not_verify(server, etcd):
    seed = seed_of(server, with_key(server, "altered"))
    put(etcd, "secrets/a/a", seed.value())
    put(etcd, "secrets/a/b", kms_v2(seed.key_id, seed.blob,
                                    {**seed.annotations, "cluster.kms.kekd": "prod-2"}))
    snapshot = etcd.snapshot()
    told = verified(server, snapshot, status=NOT_RESTORABLE)
    version, = told["keys"][0]["versions"]
    assert (version["verify"], version["seeds"], told["cluster"]) == ("failed", 2, None)
    etcd.delete(PREFIX + "secrets/a/b")
    etcd.compact()
    assert verified(server, etcd.snapshot())["restorable"] is True
    spoiled = seed.blob[:-1] + bytes([seed.blob[-1] ^ 1])
    put(etcd, "secrets/a/b", kms_v2(seed.key_id, spoiled, seed.annotations))
    assert verified(server, etcd.snapshot(), status=NOT_RESTORABLE)["restorable"] is False
    put(etcd, "secrets/a/b", kms_v2(seed.key_id, seed.blob, {}))
    etcd.compact()
    told = verified(server, etcd.snapshot(), status=NOT_RESTORABLE)
    assert [k["key"] for k in told["keys"]] == ["altered", None]


def test_without_the_grant_the_answer_is_that_it_could_not_be_asked(server, etcd):
    put(etcd, "secrets/a/a", seed_of(server, with_key(server, "granted")).value())
    with server.http("admin-1") as admin:
        admin.put_client("admin-3", ["uri:" + spiffe("admin-3")],
                         [{"keys": "demo", "operations": ["verify"]}])
    told = verified(server, etcd.snapshot(), status=REFUSED, name="admin-3")
    assert told["keys"][0]["versions"][0]["verify"] == "refused"
    assert told["restorable"] is None
    text = verify(server, etcd.path("snapshot.db"), status=REFUSED, name="admin-3")
    assert "not known" in text and "needs the grant verify" in text


def test_many_seeds_are_asked_for_in_batches(server, etcd):
    key = with_key(server, "many")
    with server.http("app") as app, server.http("admin-1") as admin:
        seeds = [Seed(app, admin, key) for _ in range(250)]
    for n, seed in enumerate(seeds):
        put(etcd, f"secrets/a/s{n}", seed.value())
    before = len(server.audit_records(client="admin-1", operation="unwrap"))
    version, = verified(server, etcd.snapshot())["keys"][0]["versions"]
    assert (version["seeds"], version["live"], version["verify"]) == (250, 250, "ok")
    assert len(server.audit_records(client="admin-1", operation="unwrap")) == before + 3
    status, shown = server.on_a_terminal("etcd-snapshot", etcd.path("snapshot.db"), "--verify",
                                         name="admin-1")
    assert status == 0 and b"restorable: 1 version," in shown


def test_a_server_that_is_away_is_no_verdict_on_the_backup(make_server, etcd):
    server = make_server().init().start().populate()
    put(etcd, "secrets/a/a", seed_of(server, with_key(server, "away")).value())
    server.stop()
    done = server.kekctl("etcd-snapshot", etcd.snapshot(), "--verify", "-o", "json",
                         "--timeout", "2", status=UNAVAILABLE)
    told = json.loads(done.stdout)
    assert told["restorable"] is None and done.stderr
    assert "verify" not in told["keys"][0]["versions"][0]
    text = server.kekctl("etcd-snapshot", etcd.path("snapshot.db"), "--verify", "--timeout", "2",
                         status=UNAVAILABLE).stdout
    assert b"is not known" in text


def test_a_server_that_goes_midway_has_said_nothing_of_the_seeds_that_were_left(make_server, etcd):
    server = make_server().init().start().populate()
    key = with_key(server, "midway")
    with server.http("app") as app, server.http("admin-1") as admin:
        for n in range(250):
            put(etcd, f"secrets/a/s{n}", Seed(app, admin, key).value())
        # After a batch of 100 it waits for seconds until the next is taken.
        admin.put_client("slow", ["uri:" + spiffe("slow")],
                         [{"keys": key, "operations": ["verify"]}],
                         limits={"requests_per_s": 20})
    server.pki.clients["slow"] = server.pki.client("slow")
    with subprocess.Popen(
            [os.path.join(BUILD, "kekctl"), "--config", server.kekctl_config("slow"),
             "etcd-snapshot", etcd.snapshot(), "--verify", "-o", "json", "--timeout", "2"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        wait_for(lambda: server.audit_records(client="slow", operation="unwrap", result="ok"),
                 "the first batch")
        server.kill_all()
        out, err = process.communicate(timeout=120)
    told = json.loads(out)
    assert process.returncode == UNAVAILABLE and err
    assert told["restorable"] is None
    assert "verify" not in told["keys"][0]["versions"][0]


def test_what_is_not_known_of_a_backup_is_not_called_restorable(server, etcd):
    def told(status=0):
        snapshot = etcd.snapshot()
        return (verified(server, snapshot, status=status)["restorable"],
                verify(server, snapshot, status=status).split("\n\n")[-1])
    put(etcd, "secrets/a/ours", seed_of(server, with_key(server, "partly")).value())
    put(etcd, "secrets/a/theirs", kms_v2("theirs", os.urandom(80), {}, provider="vault"))
    restorable, text = told()
    assert restorable is None and "What hangs on kekd's keys is restorable: 1 version," in text
    assert "1 value hangs on other providers' keys" in text
    put(etcd, "secrets/a/odd", b"k8s:enc:new:v9:x:abc")
    restorable, text = told(status=UNVERIFIED)
    assert restorable is None and "is not known: not all of it was understood" in text
    assert "restorable:" not in text


def test_a_token_that_fails_is_no_verdict_on_the_backup(make_server, etcd, faults):
    server = make_server(module=FAULTY_MODULE, environment=faults.environment)
    server.init().start().populate()
    put(etcd, "secrets/a/a", seed_of(server, with_key(server, "token")).value())
    snapshot = etcd.snapshot()
    faults.set("C_Decrypt* return CKR_DEVICE_ERROR")
    done = server.kekctl("etcd-snapshot", snapshot, "--verify", "-o", "json", status=UNAVAILABLE,
                         name="admin-1")
    assert json.loads(done.stdout)["restorable"] is None
    assert done.stderr.startswith(b"kekctl: ") and b"code " in done.stderr, done.stderr
    assert "is not known" in verify(server, snapshot, status=UNAVAILABLE)
    faults.set()
    wait_for(lambda: server.kekctl("etcd-snapshot", snapshot, "--verify", "-q", status=None,
                                   name="admin-1").returncode == 0, "the token is back")


def test_what_is_no_answer_of_kekds_is_no_verdict_on_the_backup(server, etcd):
    put(etcd, "secrets/a/a", seed_of(server, with_key(server, "liar")).value())
    snapshot = etcd.snapshot()
    liar = Liar(server)
    try:
        for status, answer in ((200, {"items": []}), (200, {"items": [{}]}), (200, {}), (200, []),
                               (200, {"items": [{"version": "1"}]}), (200, b"<html>"),
                               (200, {"items": [{"version": 1}, {"version": 1}]}),
                               (200, {"items": [{"error": "no"}]}), (200, {"items": [None]}),
                               (500, b""), (404, b"<html>"), (403, {"detail": "who are you"})):
            liar.say("/v1/keys/liar/unwrap", answer, status=status)
            done = liar.kekctl("etcd-snapshot", snapshot, "--verify", "-o", "json")
            assert done.returncode not in (0, NOT_RESTORABLE), (answer, done)
            told = json.loads(done.stdout)
            assert told["restorable"] is None and done.stderr, (answer, done)
            assert told["keys"][0]["versions"][0].get("verify") != "ok", (answer, done)
        liar.say("/v1/keys/liar/unwrap", {"items": [{"version": 1}]})
        assert liar.kekctl("etcd-snapshot", snapshot, "--verify").returncode == 0
    finally:
        liar.close()


def test_a_backup_that_needs_nothing_of_kekds_says_so(server, etcd):
    put(etcd, "configmaps/a/a", plaintext("ConfigMap", "a"))
    snapshot = etcd.snapshot()
    assert "No version of kekd is needed to restore it." in verify(server, snapshot)
    assert verified(server, snapshot)["restorable"] is True
    text = kekctl(snapshot).stdout.decode()
    assert "There is no value of secrets, and no encrypted one." in text
    assert "Besides, 1 resource not expected to be encrypted: 1 live, 0 superseded" in text


def test_what_a_key_is_called_cannot_reach_the_terminal(server, etcd):
    """A key of etcd's may hold any byte."""
    value = seed_of(server, with_key(server, "called")).value()
    for name in ("\x1b[35mred", "two\nlines", "\u009b35m", "ünï"):
        put(etcd, f"secrets/a/{name}", value)
    put(etcd, "secrets/a/open\x1b[2J", plaintext("Secret", "x"))
    put(etcd, "secrets/a/odd\x1b[2J", b"k8s:enc:new\x1b[2J:v9:x:abc")
    snapshot = etcd.snapshot()
    shown = server.on_a_terminal("etcd-snapshot", snapshot, "--values", name="admin-1")[1]
    lines = [n for n in shown.decode().replace("\r", "").split("\n") if "secrets" in n]
    assert len(lines) == 6, shown
    for output in (shown, kekctl(snapshot, "--values").stdout,
                   kekctl(snapshot, "--values", "-q").stdout,
                   kekctl(snapshot, status=UNVERIFIED).stdout):
        assert not re.search("\x1b\\[(35m|2J)|\u009b", output.decode()), output
    values = [json.loads(n) for n in kekctl(snapshot, "--values", "-o", "json").stdout.splitlines()]
    assert {v["object"] for v in values} >= {"a/\x1b[35mred", "a/two\nlines", "a/ünï"}


def test_values_are_chosen_by_their_resource(server, etcd):
    value = seed_of(server, with_key(server, "chosen")).value()
    put(etcd, "secrets/a/s", value)
    put(etcd, "configmaps/a/c", value)
    put(etcd, "example.org/widgets/a/w", value)
    put(etcd, "pods/a/p", plaintext("Pod", "p"))
    snapshot = etcd.snapshot()

    def told(*arguments):
        return kekctl(snapshot, "--values", "-q", *arguments).stdout.decode().split()
    assert set(told()) == {"secrets/a/s", "configmaps/a/c", "widgets.example.org/a/w"}
    assert told("--resources", "configmaps,pods") == ["configmaps/a/c", "pods/a/p"]
    assert told("--resources", "widgets.example.org") == ["widgets.example.org/a/w"]


def test_a_report_that_cannot_be_written_is_a_failure(server, etcd):
    """As on a full disk."""
    put(etcd, "secrets/a/a", seed_of(server, with_key(server, "full")).value())
    snapshot = etcd.snapshot()
    for arguments in ((), ("-o", "json"), ("--values",), ("--values", "-o", "json")):
        with open("/dev/full", "w", encoding="ascii") as full:
            done = subprocess.run([os.path.join(BUILD, "kekctl"), "etcd-snapshot", snapshot,
                                   *arguments], check=False, stdout=full, stderr=subprocess.PIPE)
        assert done.returncode == FAILED and b"cannot write" in done.stderr, (arguments, done)


def test_values_and_the_audit_log_tell_together_what_a_thief_took(server, etcd, tmp_path):
    key = with_key(server, "thief")
    mine, his = seed_of(server, key), seed_of(server, key)
    put(etcd, "secrets/a/kept", mine.value())
    put(etcd, "secrets/a/taken", his.value())
    put(etcd, "secrets/b/taken", his.value())
    put(etcd, "secrets/b/taken", mine.value())
    snapshot = etcd.snapshot()
    with server.http("app") as app:
        app.unwrap(his.blob, key=key, context=his.context)
    record = server.audit_records(client="app", operation="unwrap", key=key)[-1]
    digits, = record["blobs"]
    done = kekctl(snapshot, "--values", "--seed", digits, "-o", "json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {(v["object"], v["state"]) for v in lines} == {("a/taken", "live"),
                                                          ("b/taken", "superseded")}
    assert {v["seed"] for v in lines} == {digits} and {v["resource"] for v in lines} == {"secrets"}
    (tmp_path / "blob").write_bytes(his.blob)
    for blob in (str(tmp_path / "blob"), digits, hashlib.sha256(his.blob).hexdigest()):
        found = server.kekctl("audit", "query", "--blob", blob, "-o", "json")
        assert [json.loads(line)["client"] for line in found.stdout.splitlines()] == ["app"]
    everything = kekctl(snapshot, "--values").stdout.decode().splitlines()
    assert len(everything) == 5 and everything[0].startswith("SEED")
    assert sum(digits in line for line in everything) == 2
    kekctl(snapshot, "--values", "--seed", "0" * 16, status=NOT_FOUND)
    kekctl(snapshot, "--values", "--seed", "xyz", status=USAGE)
    kekctl(snapshot, "--seed", "0" * 16, status=USAGE)


def test_more_versions_than_a_cluster_has_are_not_said_to_be_all(server, etcd):
    """What is counted is bounded, and what was not counted is told."""
    seed = seed_of(server, with_key(server, "beyond"))

    def stranger(n):
        version = uuid.UUID(int=n + 1)
        blob = seed.blob[:4] + version.bytes + seed.blob[20:]
        return kms_v2(f"{version}.1", blob, seed.annotations)

    def put_all(numbers):
        etcd.call("kv/txn", {"success": [{"request_put": {
            "key": b64(f"{PREFIX}secrets/a/s{n}".encode()), "value": b64(stranger(n))}}
            for n in numbers]})
    for first in range(0, 4096, 128):
        put_all(range(first, first + 128))
    told = report(etcd.snapshot())
    assert told["complete"] is True and len(told["keys"][0]["versions"]) == 4096
    put_all([4096])
    snapshot = etcd.snapshot()
    told = report(snapshot, status=UNVERIFIED)
    assert told["complete"] is False and len(told["keys"][0]["versions"]) == 4096
    assert resource_of(told, "secrets")["live"]["kekd"] == 4097
    assert b"there is more in it than is counted" in kekctl(snapshot, status=UNVERIFIED).stdout


def test_a_key_that_was_deleted_and_made_again_is_live_once(server, etcd):
    seed = seed_of(server, with_key(server, "again"))
    for _ in range(3):
        put(etcd, "secrets/a/a", seed.value())
        etcd.delete(PREFIX + "secrets/a/a")
    put(etcd, "secrets/a/a", seed.value())
    put(etcd, "secrets/a/b", seed.value())
    etcd.delete(PREFIX + "secrets/a/b")
    secrets = resource_of(report(etcd.snapshot()), "secrets")
    assert (secrets["live"]["kekd"], secrets["superseded"]["kekd"]) == (1, 4)


def test_values_that_make_no_sense_are_told_of_and_are_no_clean_answer(server, etcd):
    seed = seed_of(server, with_key(server, "sense"))
    bad = [b"k8s:enc:kms:v2:kekd:\xff\xff\xff", b"k8s:enc:kms:v2:kekd:", b"k8s:enc:new:v9:x:abc",
           b"k8s:enc:kms:v2:", kms_v2("wrong.1", seed.blob, seed.annotations),
           kms_v2(seed.key_id, seed.blob[:30], seed.annotations),
           kms_v2(seed.key_id, b"", seed.annotations),
           kms_v2("", seed.blob, seed.annotations),
           b"k8s:enc:kms:v2:kekd:" + encrypted_object(seed.key_id, seed.blob, {})[:-60]]
    for n, value in enumerate(bad):
        put(etcd, f"secrets/a/bad{n}", value)
        done = kekctl(etcd.snapshot(), "-o", "json", status=UNVERIFIED)
        assert json.loads(done.stdout)["complete"] is False, (n, done.stdout)
        text = kekctl(etcd.path("snapshot.db"), status=UNVERIFIED).stdout
        assert b"not understood" in text, (n, text)
        etcd.delete(PREFIX + f"secrets/a/bad{n}")
        etcd.compact()
    put(etcd, "secrets/a/foreign", kms_v2("theirs", os.urandom(80), {}, provider="vault"))
    told = report(etcd.snapshot())
    assert told["complete"] and told["keys"] == []
    assert resource_of(told, "secrets")["live"] == {"kekd": 0, "plaintext": 0, "other": 1}


def test_another_prefix_is_named_and_taken(server, etcd):
    seed = seed_of(server, with_key(server, "prefix"))
    etcd.put("/kubernetes.io/secrets/a/b", seed.value())
    snapshot = etcd.snapshot()
    done = kekctl(snapshot, status=UNVERIFIED)
    assert b"/kubernetes.io" in done.stderr and b"--prefix" in done.stderr
    for prefix in ("/kubernetes.io", "/kubernetes.io/"):
        assert resource_of(report(snapshot, "--prefix", prefix), "secrets")["live"]["kekd"] == 1
    kekctl(snapshot, "--prefix", "registry", status=USAGE)


def test_an_etcd_of_others_is_no_kubernetes_and_an_empty_one_is_neither(etcd):
    for _ in range(2):
        done = kekctl(etcd.snapshot(), status=UNVERIFIED)
        assert b"nothing of Kubernetes" in done.stderr
        etcd.put("/other/thing", b"x")


def test_a_members_own_database_is_read_when_it_is_stopped(server, etcd):
    put(etcd, "secrets/a/b", seed_of(server, with_key(server, "bare")).value())
    member = etcd.members[0]
    database = os.path.join(member.data, "member", "snap", "db")
    done = kekctl(database, status=CONFLICT)
    assert b"etcdctl snapshot save" in done.stderr
    member.stop()
    with open(database, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        kekctl(database, status=CONFLICT)
    done = kekctl(database)
    assert b"none: not from" in done.stdout and b"kms-v2" in done.stdout
    for path, status in ((member.data, USAGE),):
        assert b"member/snap/db" in kekctl(path, status=status).stderr
    wal = os.path.join(member.data, "member", "wal")
    log = next(os.path.join(wal, n) for n in sorted(os.listdir(wal)) if n.endswith(".wal"))
    assert b"write-ahead log" in kekctl(log, status=UNVERIFIED).stderr


def test_a_copy_of_a_running_members_database_is_not_relied_on(server, etcd, tmp_path):
    """It may lack values, and nothing in it tells."""
    put(etcd, "secrets/a/b", seed_of(server, with_key(server, "copied")).value())
    copies = tmp_path / "copy", tmp_path / "cut"

    def copy_has_it():
        shutil.copyfile(os.path.join(etcd.members[0].data, "member", "snap", "db"), copies[0])
        return b"secrets/a/b" in copies[0].read_bytes()
    wait_for(copy_has_it, "etcd wrote it")
    with open(etcd.snapshot(), "rb") as f:
        copies[1].write_bytes(f.read()[:-32])
    for copy in copies:
        assert report(copy)["hashed"] is False
        assert verified(server, copy, status=UNVERIFIED)["restorable"] is None
        text = verify(server, copy, status=UNVERIFIED)
        assert "is not known: it has no hash" in text and "restorable:" not in text
        done = server.kekctl("snapshot", "register", copy, "--id", copy.name, "--keep", "1d")
        assert b"not complete" in done.stderr
        with server.http("admin-1") as admin:
            told = admin.get(f"/v1/snapshots/{copy.name}").json
            assert told["complete"] is False and len(told["versions"]) == 1
            admin.ok("DELETE", f"/v1/snapshots/{copy.name}", etag=f'"{told["revision"]}"')


def test_what_is_no_snapshot_is_said_to_be_what_it_is(tmp_path):
    def told(name, content):
        (tmp_path / name).write_bytes(content)
        done = kekctl(tmp_path / name, status=UNVERIFIED)
        assert done.stderr.count(b"hint:") == 1, done.stderr
        return done.stderr
    database = sqlite3.connect(tmp_path / "kine.db")
    database.execute("create table kine (id integer)")
    database.commit()
    database.close()
    assert b"SQLite" in kekctl(tmp_path / "kine.db", status=UNVERIFIED).stderr
    assert b"gunzip" in told("a.gz", b"\x1f\x8b\x08\0" + os.urandom(9000))
    assert b"zstd -d" in told("a.zst", b"\x28\xb5\x2f\xfd" + os.urandom(9000))
    assert b"it is text" in told("a.txt", b"no snapshot\n" * 1000)
    assert b"zeros" in told("zeros", bytes(1 << 16))
    assert b"is empty" in told("empty", b"")
    assert b"no snapshot of etcd" in told("noise", os.urandom(1 << 16))
    assert b"no snapshot of etcd" in told("short", b"\0")
    assert b"kekd itself" in told("backup", b'{"kekd_backup":1,"cluster":"x"}')
    os.mkfifo(tmp_path / "pipe")
    assert b"save it first" in kekctl(tmp_path / "pipe", status=USAGE).stderr
    assert b"directory" in kekctl(tmp_path, status=USAGE).stderr
    assert b"cannot open" in kekctl(tmp_path / "absent", status=FAILED).stderr
    assert b"save it first" in kekctl("/dev/null", status=USAGE).stderr


def test_every_kind_of_damage_is_named_and_none_passes(server, etcd, tmp_path):
    seed = seed_of(server, with_key(server, "damage"))
    for n in range(200):
        put(etcd, f"secrets/a/s{n}", seed.value())
    with open(etcd.snapshot(), "rb") as f:
        whole = f.read()
    file = tmp_path / "damaged"

    def refused(content, *words):
        file.write_bytes(content)
        error = kekctl(file, status=UNVERIFIED).stderr
        assert b"hint:" in error and all(w in error for w in words), error
    for cut in (1, 31, 33, 4096, len(whole) // 2, len(whole) - 8192 - 32):
        refused(whole[:-cut])
    refused(whole[:len(whole) // 2], b"cut off")
    refused(whole + b"x")
    for at in (5000, 20000, len(whole) - 20, len(whole) - 5000):
        refused(whole[:at] + bytes([whole[at] ^ 0x40]) + whole[at + 1:], b"SHA-256")
    # Without the hash: the structure alone tells. No byte of it makes kekctl fall over.
    bare = whole[:-32]
    file.write_bytes(bare)
    kekctl(file)
    refused(bytes(32) + bare[32:4096] + bytes(4096) + bare[8192:])
    for page in range(2, len(bare) // 4096):
        at = 4096 * page
        if bare[at + 8] in (1, 2):
            refused(bare[:at + 8] + b"\x07" + bare[at + 9:])
            break
    else:
        raise AssertionError("no page found")


def test_a_database_of_somebody_elses_is_said_to_be_none_of_etcds(server, etcd, tmp_path):
    """bbolt is used by others as well."""
    put(etcd, "secrets/a/b", b"x")
    with open(etcd.snapshot(), "rb") as f:
        bare = f.read()[:-32]
    # The root page of the newer of the two meta pages has the buckets' names.
    meta = max((bare[at:at + 64] for at in (16, 4096 + 16)),
               key=lambda m: int.from_bytes(m[48:56], "little"))
    root = 4096 * int.from_bytes(meta[16:24], "little")
    for bucket in (b"key", b"meta"):
        page = bare[root:root + 4096]
        assert page.count(bucket) == 1
        changed = page.replace(bucket, b"X" * len(bucket))
        (tmp_path / "f").write_bytes(bare[:root] + changed + bare[root + 4096:])
        error = kekctl(tmp_path / "f", status=UNVERIFIED).stderr
        assert b"but not etcd's: bucket" in error, error


def test_one_damaged_meta_page_is_what_the_other_is_for(server, etcd, tmp_path):
    put(etcd, "secrets/a/b", seed_of(server, with_key(server, "meta")).value())
    with open(etcd.snapshot(), "rb") as f:
        bare = f.read()[:-32]
    for at in (16 + 40, 4096 + 16 + 40):
        (tmp_path / "f").write_bytes(bare[:at] + b"\xff" + bare[at + 1:])
        assert resource_of(report(tmp_path / "f"), "secrets")["live"]["kekd"] == 1


@pytest.mark.skipif(TOOLS, reason="sanitizers reserve more than that")
def test_memory_grows_with_the_live_keys_and_not_with_the_file(server, etcd, tmp_path):
    seed = seed_of(server, with_key(server, "large"))
    for n in range(60):  # as many MB of revisions of three objects
        put(etcd, f"secrets/a/s{n % 3}", seed.value(data=os.urandom(1 << 20)))
    snapshot = etcd.snapshot()
    assert os.path.getsize(snapshot) > 60 << 20

    def limit():
        resource.setrlimit(resource.RLIMIT_DATA, (16 << 20, 16 << 20))
    for arguments in ((), ("--values",)):
        done = kekctl(snapshot, *arguments, "-o", "json", preexec=limit)
    told = json.loads(kekctl(snapshot, "-o", "json", preexec=limit).stdout)
    secrets = resource_of(told, "secrets")
    assert (secrets["live"]["kekd"], secrets["superseded"]["kekd"]) == (3, 57)
    assert len(done.stdout.splitlines()) == 60
    # Of several GB, as a database is that was never defragmented: a hole behind what is used.
    etcd.members[0].stop()
    large = tmp_path / "large"
    shutil.copyfile(os.path.join(etcd.members[0].data, "member", "snap", "db"), large)
    size = (5 if LONG else 2) * (1 << 30) + (1 << 28)
    os.truncate(large, size)
    told = json.loads(kekctl(large, "-o", "json", preexec=limit, timeout=600).stdout)
    assert resource_of(told, "secrets")["live"]["kekd"] == 3 and told["size"] == size


def test_the_shells_complete_it():
    def told(*words):
        return subprocess.run([os.path.join(BUILD, "kekctl"), "complete", *words], check=True,
                              capture_output=True, text=True).stdout.splitlines()
    assert any(line.startswith("etcd-snapshot\t") for line in told("etcd"))
    assert told("etcd-snapshot", "") == [":files"]
    options = {line.split("\t")[0] for line in told("etcd-snapshot", "--")}
    assert {"--verify", "--values", "--seed", "--resources", "--prefix", "--taken"} <= options


def test_wrong_usage_is_told_before_anything_is_read(tmp_path):
    kekctl(tmp_path / "absent", "--verify", "--config", "/nonexistent/kekctl.yaml", status=USAGE)
    kekctl(tmp_path / "absent", "--values", "--verify", status=USAGE)
    kekctl(tmp_path / "absent", "--prefix", "/", status=USAGE)
    kekctl(status=USAGE)
