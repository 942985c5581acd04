# SPDX-License-Identifier: Apache-2.0
"""The audit log keeps as many files as it is told to, and shows that no others are missing."""

import json
import os
import shutil

import pytest

from kekd import wait_for


@pytest.fixture
def full(make_server):
    """A log of more files than it is to keep, by a server that does not know yet."""
    server = make_server()
    server.settings["audit"]["max_bytes"] = "4KiB"
    server.write_config()
    server.init().start().populate()
    with server.http("app") as app:
        for n in range(80):
            app.wrap(b"x", context={"n": str(n)})
    assert len(server.audit_files()) > 6
    wait_for(lambda: server.kekctl("audit", "keys", status=None).returncode == 0, "the key")
    return server


def keep(server, files):
    server.stop()
    server.settings["audit"]["keep"] = files
    server.write_config()
    server.start()


def anchors(server):
    return [(r["at"], r["head"]) for r in server.audit_records(type="anchor")]


def test_by_default_every_file_is_kept(full):
    first = full.audit_files()[0]
    full.stop()
    full.start()
    assert full.audit_files()[0] == first and not anchors(full)


def test_older_files_go_behind_a_signed_anchor_and_the_rest_verifies(full, tmp_path):
    removed = {}
    for path in full.audit_files():
        with open(path, "rb") as f:
            removed[os.path.basename(path)] = [json.loads(line) for line in f]
    keep(full, 3)
    wait_for(lambda: len(full.audit_files()) <= 3, "the oldest files are removed", 60)
    left = [os.path.basename(path) for path in full.audit_files()]
    for name, records in removed.items():
        if name in left:
            continue
        wait_for(lambda n=name: f"{n} is removed" in full.log(), f"{name} is told of")
        assert (records[-1]["seq"], records[-1]["hash"]) in anchors(full)
    begin = full.audit_records()[0]["seq"]
    assert begin > 1
    shown = full.kekctl("audit", "verify", str(full.audit_dir), "-o", "json")
    assert json.loads(shown.stdout)["first_sequence"] == begin
    # Signed, all of it, and an anchor that somebody made is not.
    key = tmp_path / "node-1.pem"
    wait_for(lambda: full.kekctl("audit", "keys", status=None).returncode == 0, "the key is there")
    key.write_bytes(full.kekctl("audit", "keys").stdout)
    full.kekctl("audit", "verify", str(full.audit_dir), "--key", str(key))
    # One more is missing than the anchor tells of.
    copy = tmp_path / "copy"
    shutil.copytree(full.audit_dir, copy)
    (copy / left[0]).unlink()
    done = full.kekctl("audit", "verify", str(copy), status=6)
    assert b"no anchor record" in done.stderr


def test_removed_files_take_no_usage_evidence_along(full):
    keep(full, 2)
    wait_for(lambda: len(full.audit_files()) <= 2, "the oldest files are removed", 60)
    full.stop()
    full.start()
    with full.http("admin-1") as admin:
        usage = admin.get("/v1/keys/demo/usage").json
    assert [m["incomplete_since"] for m in usage["members"]] == [None]
    assert usage["versions"][0]["clients"][0]["wrapped"]["count"] == 80
    assert "incomplete since" not in full.log()


def test_without_the_key_for_signatures_nothing_is_removed(full):
    before = full.audit_files()
    full.stop()
    for kind in ("privkey", "pubkey"):
        for line in full.pkcs11_tool("--list-objects", "--type", kind).splitlines():
            if line.strip().startswith("ID:"):
                full.pkcs11_tool("--delete-object", "--type", kind, "--id", line.split()[1])
    keep_while_stopped(full, 3)
    wait_for(lambda: "the oldest file stays" in full.log(), "the log says why they stay", 60)
    assert full.audit_files()[:len(before)] == before
    assert full.health()[0] == 200


def keep_while_stopped(server, files):
    server.settings["audit"]["keep"] = files
    server.write_config()
    server.start()
