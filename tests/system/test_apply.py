# SPDX-License-Identifier: Apache-2.0
"""kekctl apply, diff and export: a server made as files say, and files written as a server is."""

import json
import os
import subprocess

import pytest

from kekd import BUILD, in_threads
from pki import spiffe

DRIFT, USAGE, REFUSED, CONFLICT, UNAVAILABLE, PENDING = 1, 2, 3, 5, 7, 8

KEYS = """\
# what the payments team has
kind: key
name: gitops-pay
labels:
  - name: team
    value: payments
  - name: since
    value: "2026"
---
kind: key
name: gitops-mail
token: main
algorithm: aes256-gcm
labels: []
"""

CLIENT = f"""\
kind: client
name: gitops-app
identities:
  - uri:{spiffe("gitops-app")}
addresses:
  - 10.0.0.0/8
grants:
  - keys: gitops-*
    operations: [wrap, unwrap]
limits:
  in_flight: 5
"""


@pytest.fixture
def files(tmp_path):
    """A directory that is to be read in the order of its names."""
    (tmp_path / "10-keys.yaml").write_text(KEYS)
    (tmp_path / "20-clients.yml").write_text(CLIENT)
    (tmp_path / "README.md").write_text("no resource: kind: nonsense")
    return tmp_path


@pytest.fixture
def fresh(make_server):
    """Running, with nothing but its administrators."""
    return make_server().init().start()


def out(done):
    return done.stdout.decode()


def err(done):
    return done.stderr.decode()


def lines(done):
    return [" ".join(line.split()) for line in out(done).splitlines()]


def put(directory, name, text):
    path = directory / name
    path.write_text(text)
    return str(path)


def test_a_directory_makes_what_it_says_and_a_second_time_changes_nothing(fresh, files):
    done = fresh.kekctl("apply", "-f", str(files))
    assert lines(done) == [
        "key gitops-pay created", "key gitops-mail created", "client gitops-app created",
        "3 done, 0 pending, 0 failed, 0 not done, 0 as they should be"]
    with fresh.http("admin-1") as admin:
        assert admin.key("gitops-pay")["labels"] == {"team": "payments", "since": "2026"}
        client = admin.ok("GET", "/v1/clients/gitops-app").json
        assert client["addresses"] == ["10.0.0.0/8"]
        assert client["grants"] == [{"keys": "gitops-*", "operations": ["wrap", "unwrap"]}]
        assert client["limits"] == {"requests_per_s": 0, "in_flight": 5}
    before = len(fresh.audit_records(type="intent"))
    assert lines(fresh.kekctl("apply", "-f", str(files))) == [
        "nothing to change (3 resources compared)"]
    assert before == len(fresh.audit_records(type="intent")) >= 3
    fresh.kekctl("diff", "-f", str(files))


def test_a_dry_run_and_diff_show_what_differs_and_change_nothing(fresh, files):
    done = fresh.kekctl("apply", "--dry-run", "-f", str(files))
    assert "+ key gitops-pay" in lines(done)
    assert "+ labels.team payments" in lines(done)
    assert "+ grants.gitops-* unwrap wrap" in lines(done)
    with fresh.http("admin-1") as admin:
        assert admin.get("/v1/keys/gitops-pay").status == 404
    fresh.kekctl("apply", "-f", str(files))
    fresh.kekctl("key", "label", "gitops-pay", "team=other", "by-hand=yes", "since-")
    done = fresh.kekctl("diff", "-f", str(files), status=DRIFT)
    assert lines(done)[1:] == [
        "~ key gitops-pay", "- labels.by-hand yes", "~ labels.team other payments",
        "+ labels.since 2026", "0 to create, 1 to change, 2 as they should be"]
    changes = json.loads(fresh.kekctl("diff", "-o", "json", "-f", str(files), status=DRIFT).stdout)
    assert [(c["kind"], c["name"], c["action"]) for c in changes] == [
        ("key", "gitops-pay", "update")]
    assert {"change": "~", "member": "labels", "item": "team", "from": "other",
            "to": "payments"} in changes[0]["changes"]
    fresh.kekctl("apply", "-f", str(files))
    fresh.kekctl("diff", "-f", str(files))


def test_the_order_and_writing_of_lists_is_no_difference(fresh, files):
    fresh.kekctl("apply", "-f", str(files))
    path = put(files, "20-clients.yml", CLIENT.replace("[wrap, unwrap]", "[unwrap]")
               + "---\n# nothing here\n")
    put(files, "30.yaml", "")
    os.unlink(files / "30.yaml")
    text = CLIENT.replace("  - keys: gitops-*\n    operations: [wrap, unwrap]",
                          "  - {keys: gitops-*, operations: [unwrap]}\n"
                          "  - {keys: gitops-*, operations: [wrap]}")
    assert text != CLIENT
    put(files, "20-clients.yml", text)
    fresh.kekctl("diff", "-f", path)


def test_what_is_exported_changes_nothing_and_makes_the_same_elsewhere(fresh, make_server, files):
    fresh.kekctl("apply", "-f", str(files))
    fresh.kekctl("key", "create", "odd", "--label", "a=true", "--label", 'b="quoted" \\ é',
                 "--label", "c=: - #", "--label", "d=", "--label", "e=0x7f\x7f\n2")
    text = fresh.kekctl("export").stdout
    assert b"kind: key" in text and b"kind: client" in text
    assert lines(fresh.kekctl("apply", "-f", "-", stdin=text))[0].startswith("nothing to change")
    assert fresh.kekctl("diff", "-f", "-", stdin=text)
    other = make_server().init().start()
    other.kekctl("apply", "-f", "-", stdin=text)
    assert other.kekctl("export").stdout == text
    with other.http("admin-1") as admin:
        assert admin.key("odd")["labels"] == {
            "a": "true", "b": '"quoted" \\ é', "c": ": - #", "d": "", "e": "0x7f\x7f\n2"}


def test_a_key_rotates_and_freezes_as_its_file_says(fresh, make_server, tmp_path):
    path = put(tmp_path, "k.yaml", "kind: key\nname: k\nrotate_every: 2160h\nfrozen: true\n")
    fresh.kekctl("apply", "-f", path)
    with fresh.http("admin-1") as admin:
        key = admin.key("k")
        assert (key["rotate_every"], key["frozen"]) == ("90d", True)
        next_rotation = key["next_rotation"]
        fresh.kekctl("diff", "-f", path)
        text = fresh.kekctl("export", "--keys").stdout
        assert b"rotate_every: 90d\n" in text and b"frozen: true\n" in text
        other = make_server().init().start()
        other.kekctl("apply", "-f", "-", stdin=text)
        assert other.kekctl("export", "--keys").stdout == text
        put(tmp_path, "k.yaml", "kind: key\nname: k\nfrozen: false\n")
        assert "~ frozen true false" in lines(fresh.kekctl("diff", "-f", path, status=DRIFT))
        fresh.kekctl("apply", "-f", path)
        key = admin.key("k")
        assert (key["frozen"], key["rotate_every"]) == (False, "90d")
        assert key["next_rotation"] == next_rotation
        put(tmp_path, "k.yaml", "kind: key\nname: k\nrotate_every: never\n")
        fresh.kekctl("apply", "-f", path)
        assert admin.key("k")["rotate_every"] is None
        fresh.kekctl("apply", "-f", "-", stdin=fresh.kekctl("export").stdout)


def test_the_policy_is_as_its_document_says(fresh, tmp_path):
    path = put(tmp_path, "p.yaml", "kind: policy\ndestroy_wait: 120m\napproval_ttl: 86400s\n")
    assert lines(fresh.kekctl("diff", "-f", path, status=DRIFT))[1:] == [
        "~ policy", "~ destroy_wait 0s 2h", "0 to create, 1 to change, 0 as they should be"]
    assert "policy changed" in lines(fresh.kekctl("apply", "-f", path))
    with fresh.http("admin-1") as admin:
        assert admin.ok("GET", "/v1/cluster").json["policy"] == {
            "approvals": 1, "destroy_wait": "2h", "approval_ttl": "1d"}
    fresh.kekctl("diff", "-f", path)
    text = fresh.kekctl("export", "--policy").stdout
    assert text == (b"---\nkind: policy\napprovals: 1\ndestroy_wait: 2h\napproval_ttl: 1d\n")
    fresh.kekctl("diff", "-f", "-", stdin=text)


FRIEND = f"""\
kind: client
name: friend
identities: ["uri:{spiffe("friend")}"]
grants:
  - {{keys: "*", operations: [approve]}}
"""


def test_what_takes_two_administrators_is_pending_and_the_rest_is_done(fresh, tmp_path):
    fresh.kekctl("cluster", "set", "--approvals", "2", "--destroy-wait", "24h")
    path = put(tmp_path, "f.yaml", "kind: policy\napprovals: 3\n---\n" + FRIEND
               + "---\nkind: key\nname: k\n")
    done = fresh.kekctl("apply", "-o", "json", "-f", path, status=PENDING)
    results = {r["kind"]: r for r in json.loads(done.stdout)}
    assert {k: r["result"] for k, r in results.items()} == {
        "key": "done", "client": "pending", "policy": "pending"}
    assert "key k" not in out(fresh.kekctl("diff", "-f", path, status=DRIFT))
    again = json.loads(fresh.kekctl("apply", "-o", "json", "-f", path, status=PENDING).stdout)
    assert {r["approval"] for r in again} == {r["approval"] for k, r in results.items()
                                              if k != "key"}
    text = out(fresh.kekctl("apply", "-f", path, status=PENDING))
    ids = [results["client"]["approval"], results["policy"]["approval"]]
    assert all(f"kekctl approve {i}" in text for i in ids)
    for i in ids:
        fresh.kekctl("approve", i, "--yes", name="admin-2")
    fresh.kekctl("diff", "-f", path)
    assert "nothing to change" in out(fresh.kekctl("apply", "-f", path))


def test_export_writes_the_parts_that_it_is_asked_for(fresh, files, tmp_path):
    fresh.kekctl("apply", "-f", str(files))
    keys = out(fresh.kekctl("export", "--keys"))
    clients = out(fresh.kekctl("export", "--clients"))
    assert "kind: key" in keys and "kind: client" not in keys
    assert "kind: client" in clients and "kind: key" not in clients
    path = str(tmp_path / "export.yaml")
    fresh.kekctl("export", "--keys", "--out", path)
    assert open(path, encoding="utf-8").read() == keys
    fresh.kekctl("export", "--keys", "--out", path, status=USAGE)


WRONG = [
    ("kind: key\nname: a\nname: b\n", 3, '"name" is given twice: first in line 2'),
    ("kind: key\nkind: key\nname: a\n", 2, '"kind" is given twice'),
    ("kind: key\nname: a\nowner: me\n", 3, 'a key has no member "owner"'),
    ("kind: key\nname: a\nversions: []\n", 3, 'a key has no member "versions"'),
    ("kind: key\nname: Not A Name\n", 2, "must be 1 to 64 of a-z"),
    ("kind: key\nlabels: []\n", 1, 'a key needs "name"'),
    ("kind: secret\nname: a\n", 1, "kind must be key, client or policy"),
    ("name: a\n", 1, "a document needs a kind"),
    ("- kind: key\n", 1, "a document must be a mapping"),
    ("kind: key\nname: a\nlabels:\n  team: x\n", 4, "labels must be a list"),
    ("kind: key\nname: a\nlabels:\n  - name: t\n", 4, 'a label needs "value"'),
    ("kind: key\nname: a\nlabels:\n  - {name: t, value: 1}\n  - {name: t, value: 2}\n", 4,
     'label "t" is given twice'),
    ("kind: key\nname: a\nlabels:\n  - {name: t, value: 1, colour: red}\n", 4,
     'a label has no member "colour"'),
    ("kind: key\nname: a\nalgorithm: rot13\n", 3, 'algorithm "rot13" is not known'),
    ("kind: key\nname: a\nfrozen: maybe\n", 3, "frozen must be true or false"),
    ("kind: key\nname: a\nrotate_every: 90\n", 3, "must be a time such as 90d"),
    ("kind: key\nname: [a]\n", 2, "name must be a text"),
    ("kind: key\nname:\n", 2, "name has no value"),
    ("kind: key\nname: a\n---\nkind: key\nname: a\n", 4, "key a is in"),
    ("kind: client\nname: c\ngrants: []\n", 1, 'a client needs "identities"'),
    ("kind: client\nname: c\nidentities: []\ngrants: []\n", 3, "at least one identity"),
    ("kind: client\nname: c\nidentities: [me]\ngrants: []\n", 3, 'identity "me" must be'),
    ("kind: client\nname: c\nidentities: ['dns:a', 'dns:a']\ngrants: []\n", 3, "twice"),
    ("kind: client\nname: c\nidentities: ['dns:a']\naddresses: [everywhere]\ngrants: []\n", 4,
     "neither an address nor a network"),
    ("kind: client\nname: c\nidentities: ['dns:a']\ngrants:\n- {keys: a, operations: [fly]}\n", 5,
     '"fly" is not an operation'),
    ("kind: client\nname: c\nidentities: ['dns:a']\ngrants:\n- {keys: A, operations: [wrap]}\n", 5,
     "characters of a key's name"),
    ("kind: client\nname: c\nidentities: ['dns:a']\ngrants: []\nlimits: {in_flight: -1}\n", 5,
     "in_flight must be a number"),
    ("kind: client\nname: c\nidentities: ['dns:a']\ngrants: []\nlimits: {speed: 1}\n", 5,
     'limits has no member "speed"'),
    ("kind: policy\napprovals: 0\n", 2, "approvals must be a number from 1"),
    ("kind: policy\n---\nkind: policy\n", 3, "policy is in"),
    ("kind: key\nname: &n a\ntoken: *n\n", 2, "there is an alias to this"),
    ("kind: key\nname: *missing\n", 2, "this is not YAML"),
    ("kind: key\n name: a\n  b: c\n", 2, "this is not YAML"),
    ("kind: key\nname: a\n\tb: c\n", 3, "this is not YAML"),
]


@pytest.mark.parametrize("text,line,what", WRONG, ids=range(len(WRONG)))
def test_a_mistake_is_told_with_its_file_and_line(server, tmp_path, text, line, what):
    path = put(tmp_path, "wrong.yaml", text)
    done = server.kekctl("apply", "-f", path, status=USAGE)
    assert f"{path}:{line}: " in err(done), err(done)
    assert what in err(done)
    assert "nothing was changed" in err(done)


def test_all_files_are_checked_before_the_first_change(fresh, files):
    bad = put(files, "30-bad.yaml", "kind: key\nname: late\ncolour: red\nshape: round\n")
    done = fresh.kekctl("apply", "-f", str(files), status=USAGE)
    assert f"{bad}:3: " in err(done) and f"{bad}:4: " in err(done)
    with fresh.http("admin-1") as admin:
        assert admin.get("/v1/keys/gitops-pay").status == 404


def test_a_resource_that_two_files_have_is_refused(server, files):
    twice = put(files, "40-twice.yaml", "kind: key\nname: gitops-pay\n")
    done = server.kekctl("diff", "-f", str(files), status=USAGE)
    first = str(files / "10-keys.yaml")
    assert f"{twice}:1: key gitops-pay is in {first}:2 already" in err(done)


def test_another_token_or_algorithm_is_refused_with_the_next_step(fresh, files):
    fresh.kekctl("apply", "-f", str(files))
    path = put(files, "10-keys.yaml", KEYS.replace("token: main", "token: other"))
    done = fresh.kekctl("apply", "-f", str(files), status=USAGE)
    assert f"{path}:12: " in err(done)
    assert "kekctl key rotate gitops-mail --token other" in err(done)
    assert "nothing was changed" in err(done)


def test_what_no_file_names_stays(fresh, files):
    fresh.kekctl("apply", "-f", str(files))
    put(files, "10-keys.yaml", "kind: key\nname: gitops-pay\n")
    fresh.kekctl("apply", "-f", str(files))
    with fresh.http("admin-1") as admin:
        assert admin.key("gitops-pay")["labels"] == {"team": "payments", "since": "2026"}
        assert admin.get("/v1/keys/gitops-mail").status == 200
    put(files, "20-clients.yml", CLIENT.replace("addresses:\n  - 10.0.0.0/8\n", ""))
    assert "- addresses 10.0.0.0/8" in lines(
        fresh.kekctl("diff", "-f", str(files), status=DRIFT))


def test_a_failure_says_what_was_done_and_what_was_not(fresh, files):
    fresh.kekctl("client", "add", "holder", "--identity", "uri:" + spiffe("gitops-app"),
                 "--grant", "x:wrap")
    put(files, "30-more.yaml", CLIENT.replace("name: gitops-app", "name: later").replace(
        spiffe("gitops-app"), spiffe("later")))
    done = fresh.kekctl("apply", "-f", str(files), status=CONFLICT)
    assert "identity_taken" in err(done)
    assert lines(done) == [
        "key gitops-pay created", "key gitops-mail created", "client gitops-app failed",
        "client later not done", "2 done, 0 pending, 1 failed, 1 not done, 0 as they should be"]
    fresh.kekctl("client", "rm", "holder")
    results = json.loads(fresh.kekctl("apply", "-o", "json", "-f", str(files)).stdout)
    assert [(r["kind"], r["name"], r["result"]) for r in results] == [
        ("client", "gitops-app", "done"), ("client", "later", "done")]


def test_several_who_apply_at_once_do_not_overwrite_each_other(fresh, tmp_path):
    fresh.kekctl("key", "create", "shared")
    paths = [put(tmp_path, f"{n}.yaml", "kind: key\nname: shared\nlabels:\n"
                 f"  - {{name: writer, value: '{n}'}}\n") for n in range(6)]
    before = json.loads(fresh.kekctl("key", "show", "shared", "-o", "json").stdout)["revision"]
    config = fresh.kekctl_config("admin-1")

    def apply(n):
        return subprocess.run([os.path.join(BUILD, "kekctl"), "--config", config, "apply", "-f",
                               paths[n]], check=False, capture_output=True)

    done = in_threads(6, apply)
    written = [n for n in range(6) if done[n].returncode == 0]
    assert written
    assert all("precondition_failed" in err(d) for d in done if d.returncode)
    assert {d.returncode for d in done} <= {0, CONFLICT}
    with fresh.http("admin-1") as admin:
        key = admin.key("shared")
        assert key["revision"] - before == len(written)
        assert int(key["labels"]["writer"]) in written


def test_who_may_not_read_or_change_is_refused(server, files):
    server.kekctl("apply", "-f", str(files), name="app", status=REFUSED)
    server.kekctl("diff", "-f", str(files), name="app", status=REFUSED)
    server.kekctl("export", name="app", status=REFUSED)


def test_diff_keeps_its_1_for_a_difference(own, files, tmp_path):
    own.kekctl("diff", status=USAGE)
    own.kekctl("diff", "-f", str(tmp_path / "none.yaml"), status=USAGE)
    own.kekctl("diff", "-f", "-", stdin=b"\xff\xfe", status=USAGE)
    (tmp_path / "empty").mkdir()
    own.kekctl("diff", "-f", str(tmp_path / "empty"), status=USAGE)
    own.stop()
    own.kekctl("diff", "-f", str(files), status=UNAVAILABLE)


def test_the_sample_in_contrib_is_applied_as_it_stands(fresh):
    top = os.path.join(os.path.dirname(__file__), "..", "..")
    sample = os.path.join(top, "contrib", "gitops")
    fresh.kekctl("apply", "-f", sample)
    fresh.kekctl("diff", "-f", sample)
