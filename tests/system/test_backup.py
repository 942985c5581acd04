# SPDX-License-Identifier: Apache-2.0
"""A backup is one file that says what is in it, has no secret, and shows every change."""

import json
import os
import re
import stat

import pytest
from kekd import wait_for


@pytest.fixture
def backup(server):
    path = server.path("a.backup")
    server.kekctl("backup", "create", path, "--force")
    return path


def load(path):
    with open(path, encoding="utf-8") as f:
        return json.load(f)


def save(path, document):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(document, f, separators=(",", ":"), sort_keys=True)
    return path


def test_a_backup_has_every_record_and_names_time_generation_and_the_logs_end(server, backup):
    document = load(backup)
    with server.http("admin-1") as admin:
        status = admin.status()
    assert document["generation"] == status["generation"]
    assert document["revision"] == status["revision"]
    paths = [r["path"] for r in document["records"]]
    assert paths == sorted(paths)
    for path in ("cluster", "keys/demo", "clients/app", "clients/admin-1"):
        assert path in paths
    assert "commit" not in paths
    lines = server.audit_records()
    head = document["audit"]
    assert any(r["seq"] == head["sequence"] and r["hash"] == head["head"] for r in lines)


def test_its_file_is_for_its_owner_alone_and_never_written_over(server):
    path = server.path("b.backup")
    server.kekctl("backup", "create", path)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    before = load(path)
    done = server.kekctl("backup", "create", path, status=2)
    assert b"exists" in done.stderr
    assert load(path) == before
    server.kekctl("backup", "create", path, "--force")
    assert [n for n in os.listdir(server.dir) if n.startswith("b.backup")] == ["b.backup"]


def test_the_help_of_verify_says_what_its_key_is(server):
    shown = server.kekctl("backup", "verify", "--help").stdout.decode()
    options = shown.split("\nOptions:\n")[1].split("\n\n")[0]
    assert "--key PEM" in options and "public key" in options


def test_verify_prints_what_is_in_it_without_a_server(server, backup):
    shown = server.kekctl("--endpoint", "https://127.0.0.1:1", "backup", "verify",
                          backup).stdout.decode()
    document = load(backup)
    assert "test" in shown and document["generation"] in shown
    assert re.search(r"Keys\s+1 with 1 versions", shown)
    told = json.loads(server.kekctl("backup", "verify", backup, "-o", "json").stdout)
    assert told["counts"]["clients"] == 3
    assert told["audit_sequence"] == document["audit"]["sequence"]


@pytest.mark.parametrize("harm", ["truncate", "empty", "member", "type", "twice", "sort", "format",
                                  "text"])
def test_what_is_no_whole_backup_is_said_to_be_none(server, backup, harm):
    document = load(backup)
    with open(backup, "rb") as f:
        whole = f.read()
    if harm == "truncate":
        text = whole[:-100]
    elif harm == "empty":
        text = b""
    elif harm == "text":
        text = b"no JSON"
    elif harm == "twice":
        text = whole.replace(b'{"audit"', b'{"node":"x","audit"', 1)
    else:
        if harm == "member":
            document["more"] = 1
        elif harm == "type":
            document["records"] = {}
        elif harm == "sort":
            document["records"].reverse()
        else:
            document["kekd_backup"] = 2
        text = json.dumps(document).encode()
    with open(backup, "wb") as f:
        f.write(text)
    done = server.kekctl("backup", "verify", backup, status=1 if harm == "empty" else 6)
    assert harm == "empty" or b"no whole backup" in done.stderr
    done = server.run("restore", backup)
    assert done.returncode != 0


def pem(server, name, der):
    """A public key as an auditor has it pinned."""
    path = server.path(name)
    body = "\n".join(der[i:i + 64] for i in range(0, len(der), 64))
    with open(path, "w", encoding="ascii") as f:
        f.write(f"-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n")
    return path


@pytest.fixture
def signing(server):
    """Once the node's key is in the token, backups are signed."""
    def signs():
        with server.http("admin-1") as admin:
            return "signature" in admin.ok("POST", "/v1/backup", {}).json
    wait_for(signs, "a backup is signed")


def test_the_signature_is_checked_with_a_key_from_elsewhere(server, signing, backup):
    document = load(backup)
    pinned = pem(server, "pinned.pem", document["signature"]["key"])
    shown = server.kekctl("backup", "verify", backup, "--key", pinned).stdout.decode()
    assert "good, by the key that was given" in shown
    assert "proves nothing" in server.kekctl("backup", "verify", backup).stdout.decode()
    document["records"][0]["commit"] += 1
    save(backup, document)
    assert b"was changed" in server.kekctl("backup", "verify", backup, "--key", pinned,
                                           status=6).stderr
    assert b"was changed" in server.kekctl("backup", "verify", backup, status=6).stderr
    del document["signature"]
    save(backup, document)
    assert b"not signed" in server.kekctl("backup", "verify", backup, "--key", pinned,
                                          status=6).stderr


def test_a_signature_by_another_key_is_refused(server, signing, backup, make_server):
    document = load(backup)
    other = make_server().init().start()
    wait_for(lambda: "signature" in other.http("admin-1").ok("POST", "/v1/backup", {}).json,
             "a backup is signed")
    foreign = other.http("admin-1").ok("POST", "/v1/backup", {}).json["signature"]["key"]
    pinned = pem(server, "foreign.pem", foreign)
    server.kekctl("backup", "verify", backup, "--key", pinned, status=6)
    document["signature"]["key"] = foreign
    save(backup, document)
    server.kekctl("backup", "verify", backup, status=6)
    server.kekctl("backup", "verify", backup, "--key", server.path("server.key"), status=2)
    server.kekctl("backup", "verify", backup, "--key", server.path("none"), status=2)


def test_only_who_may_makes_a_backup(server):
    with server.http("app") as app, server.http("admin-1") as admin:
        reply = app.call("POST", "/v1/backup", {})
        assert (reply.status, reply.code) == (403, "forbidden")
        reply = admin.call("POST", "/v1/backup", {"no": 1})
        assert (reply.status, reply.code) == (400, "unknown_member")
        admin.ok("POST", "/v1/backup", {})
    record = server.audit_records(operation="backup.create", type="outcome", result="ok")[-1]
    assert record["detail"]["records"] > 3


def test_a_backup_on_standard_output_is_one_whatever_is_asked_for(server):
    for more in ([], ["-o", "json"]):
        text = server.kekctl(*more, "backup", "create", "-", "--force").stdout
        assert json.loads(text)["kekd_backup"] == 1
