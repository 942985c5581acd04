# SPDX-License-Identifier: Apache-2.0
"""kekctl drill: would a backup restore, and is every version in that token?"""

import glob
import json
import os
import re
import shutil

import pytest
from kekd import BUILD, MODULE, PIN


def drill(server, *arguments, status=0, name="admin-1"):
    return server.kekctl("drill", server.path("one.backup"), "--kekd-config", server.config_path,
                         *arguments, status=status, name=name)


def report(server, *arguments, status=0):
    return json.loads(drill(server, "-o", "json", *arguments, status=status).stdout)


def metric(server):
    with server.http("admin-1") as admin:
        text = admin.get("/metrics").body.decode()
    found = re.search(r"^kekd_drill_last_good_timestamp_seconds (\S+)$", text, re.M)
    return float(found[1]) if found else None


@pytest.fixture(autouse=True)
def a_build_that_is_not_installed(monkeypatch):
    monkeypatch.setenv("KEKD_LIBEXECDIR", BUILD)


@pytest.fixture
def saved(own, monkeypatch):
    """Keys of several states, and a backup of them."""
    monkeypatch.setenv("SOFTHSM2_CONF", own.path("softhsm2.conf"))
    with own.http("admin-1") as admin, own.http("app") as app:
        app.wrap(b"x")
        admin.rotate()
        admin.change("demo", "versions/1/disable")
        admin.create_key("second")
    own.kekctl("backup", "create", own.path("one.backup"))
    return own


def test_a_drill_proves_every_version_and_its_age_is_a_metric(saved):
    assert metric(saved) is None
    revision = saved.http("admin-1").status()["store"]["records"]
    told = report(saved)
    assert told["ok"] and told["restored"]
    assert told["counts"] == {"proven": 3, "failed": 0, "not_covered": 0}
    assert {(v["key"], v["version"], v["result"]) for v in told["versions"]} == {
        ("demo", 1, "proven"), ("demo", 2, "proven"), ("second", 1, "proven")}
    assert told["tokens"][0]["label"] == "main" and told["tokens"][0]["serial"]
    assert told["not_covered"]
    assert len(told["signature"]["value"]) == 88
    assert told["statement"]["reported_by"] == "admin-1" and told["statement"]["proven"] == 3
    first = metric(saved)
    assert first > 1.7e9
    shown = drill(saved).stdout.decode()
    assert "GOOD" in shown and "Not covered" in shown
    saved.stop()
    saved.start()
    assert metric(saved) >= first
    assert saved.http("admin-1").status()["store"]["records"] >= revision


def test_nothing_of_the_running_cluster_is_touched_and_no_scratch_stays(saved, monkeypatch):
    os.mkdir(saved.path("tmp"))
    monkeypatch.setenv("TMPDIR", saved.path("tmp"))
    before = saved.pkcs11_tool("--list-objects", "--type", "secrkey")
    files = len(saved.audit_files())
    report(saved, "--offline")
    assert os.listdir(saved.path("tmp")) == []
    assert saved.pkcs11_tool("--list-objects", "--type", "secrkey") == before
    assert len(saved.audit_files()) == files
    assert not saved.audit_records(operation="cluster.restore")
    with saved.http("admin-1") as admin:
        admin.rotate()


def test_a_clone_is_drilled_by_its_uri_and_what_it_lacks_is_named(saved, monkeypatch):
    """A clone: a copy of SoftHSM's directory, made before the last version."""
    with saved.http("admin-1") as admin:
        shutil.copytree(saved.path("tokens"), saved.path("clone"))
        admin.rotate("second")
    saved.kekctl("backup", "create", saved.path("one.backup"), "--force")
    with open(saved.path("clone.conf"), "w", encoding="utf-8") as f:
        f.write(f"directories.tokendir = {saved.path('clone')}\n"
                "objectstore.backend = file\nlog.level = ERROR\n")
    with open(saved.path("clone-pin"), "w", encoding="utf-8") as f:
        f.write(PIN + "\n")
    os.chmod(saved.path("clone-pin"), 0o600)
    monkeypatch.setenv("SOFTHSM2_CONF", saved.path("clone.conf"))
    told = report(saved, "--token", "pkcs11:token=main", "--module", MODULE, "--pin-source",
                  saved.path("clone-pin"), status=6)
    assert not told["ok"] and told["restored"]
    assert told["counts"]["failed"] == 1
    missing, = [v for v in told["versions"] if v["result"] != "proven"]
    assert (missing["key"], missing["version"], missing["result"]) == ("second", 2, "missing")
    assert metric(saved) is None
    shown = drill(saved, status=6).stdout.decode()
    assert "NOT GOOD" in shown and "missing" in shown


def test_a_changed_backup_fails_its_drill(saved):
    path = saved.path("one.backup")
    with open(path, encoding="utf-8") as f:
        document = json.load(f)
    document["revision"] += 1
    with open(path, "w", encoding="utf-8") as f:
        json.dump(document, f)
    done = drill(saved, status=6)
    assert b"was changed since it was made" in done.stderr
    assert metric(saved) is None


def test_a_report_is_written_to_a_file_for_the_auditor(saved):
    out = saved.path("report.json")
    drill(saved, "--out", out)
    with open(out, encoding="utf-8") as f:
        written = json.load(f)
    assert written["ok"] and "signature" in written
    drill(saved, "--offline", "--out", out, status=2)


GOOD = {"time": "2026-01-01T00:00:00.000000Z", "ok": True, "backup": "2026-01-01T00:00:00.000000Z",
        "generation": "00000000-0000-4000-8000-000000000000", "revision": 1, "proven": 1,
        "failed": 0, "not_covered": 0, "tokens": ["x"], "sha256": "0" * 64}


def test_bad_reports_are_refused(server):
    with server.http("admin-1") as admin, server.http("app") as app:
        def post(by=admin, **changes):
            reply = by.call("POST", "/v1/backup/drills", {**GOOD, **changes})
            return reply.status, reply.code

        assert post(more=1) == (400, "unknown_member")
        for changes in ({"time": "yesterday"}, {"ok": 1}, {"generation": "x"}, {"proven": -1},
                        {"tokens": []}, {"tokens": [1]}, {"tokens": ["x" * 300]},
                        {"sha256": "0"}, {"failed": 1}, {"backup": None}):
            assert post(**changes) == (400, "invalid_request"), changes
        assert post(by=app) == (403, "forbidden")
        assert post() == (200, None)
        assert post(ok=False, failed=1) == (200, None)


def test_a_drill_needs_a_backup_and_a_kekd(server):
    server.kekctl("drill", server.path("none"), status=1)
    server.kekctl("backup", "create", server.path("one.backup"), "--force")
    done = server.kekctl("drill", server.path("one.backup"), "--kekd-config",
                         server.path("none.yaml"), status=6)
    assert b"none.yaml" in done.stderr


def test_a_report_that_has_no_place_is_refused_before_the_work(saved, tmp_path):
    taken = tmp_path / "report.json"
    taken.write_text("mine")
    done = drill(saved, "--out", str(taken), status=2)
    assert b"exists" in done.stderr and done.stdout == b"" and metric(saved) is None
    assert taken.read_text() == "mine"


def test_a_report_on_standard_output_is_all_that_stands_there(saved):
    for more in ([], ["-o", "json"]):
        assert json.loads(drill(saved, "--out", "-", *more).stdout)["ok"]


def test_a_drill_needs_a_file(saved):
    done = saved.kekctl("drill", "-", stdin=b"{}", status=2)
    assert b"give a file" in done.stderr


def test_a_token_whose_label_is_no_text_is_in_the_report_all_the_same(saved):
    serial = report(saved)["tokens"][0]["serial"]
    path, = glob.glob(saved.path("tokens", "*", "token.object"))
    with open(path, "rb") as f:
        data = f.read()
    assert data.count(b"main" + b" " * 28) == 1
    with open(path, "wb") as f:
        f.write(data.replace(b"main" + b" " * 28, b"ma\xefn" + b" " * 28))
    told = report(saved, "--token", f"pkcs11:serial={serial}")
    assert told["ok"] and told["tokens"] == [
        {"name": "main", "label": None, "serial": serial, "manufacturer": "SoftHSM project"}]
    assert told["signature"] and len(told["statement"]["tokens"]) == 1
