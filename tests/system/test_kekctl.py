# SPDX-License-Identifier: Apache-2.0
"""kekctl as a person and a script meet it: commands, tables, JSON, exit codes, remedies."""

import base64
import json
import os
import stat
import subprocess

import pytest

from kekd import BUILD
from pki import spiffe

USAGE, REFUSED, NOT_FOUND, CONFLICT, UNVERIFIED, UNAVAILABLE = 2, 3, 4, 5, 6, 7


@pytest.fixture
def ctl(server):
    def run(*arguments, **options):
        return server.kekctl(*arguments, **options)
    return run


def out(done):
    return done.stdout.decode()


def err(done):
    return done.stderr.decode()


def js(done):
    return json.loads(done.stdout)


def test_the_whole_job_on_the_command_line(server, ctl, tmp_path):
    plain, blob, back = tmp_path / "dek", tmp_path / "dek.wrapped", tmp_path / "dek.back"
    plain.write_bytes(os.urandom(32))
    ctl("key", "create", "cli")
    ctl("wrap", "cli", "--in", str(plain), "--out", str(blob), "--context", "a=b", name="app")
    ctl("unwrap", "cli", "--in", str(blob), "--out", str(back), "--context", "a=b", name="app")
    assert back.read_bytes() == plain.read_bytes()
    assert stat.S_IMODE(back.stat().st_mode) == 0o600
    ctl("key", "rotate", "cli")
    moved = tmp_path / "dek.moved"
    ctl("rewrap", "cli", "--in", str(blob), "--out", str(moved), "--context", "a=b", name="app")
    back.unlink()
    ctl("unwrap", "cli", "--in", str(moved), "--out", str(back), "--context", "a=b", name="app")
    assert back.read_bytes() == plain.read_bytes()
    assert moved.read_bytes() != blob.read_bytes()


def test_pipes_carry_what_files_do(ctl):
    wrapped = ctl("wrap", "demo", stdin=b"a data key", name="app").stdout
    assert base64.b64decode(wrapped.strip(), validate=True)[:4] == b"kek\x01"
    assert ctl("unwrap", "demo", stdin=wrapped, name="app").stdout == b"a data key"


def test_generate_keeps_the_plaintext_inside_unless_it_is_asked_for(ctl, tmp_path):
    blob, plain = tmp_path / "blob", tmp_path / "plain"
    ctl("generate", "demo", "--out", str(blob), name="app")
    assert len(ctl("unwrap", "demo", "--in", str(blob), name="app").stdout) == 32
    ctl("generate", "demo", "--bytes", "16", "--out", str(tmp_path / "b2"),
        "--plaintext-out", str(plain), name="app")
    assert len(plain.read_bytes()) == 16
    assert stat.S_IMODE(plain.stat().st_mode) == 0o600
    assert ctl("unwrap", "demo", "--in", str(tmp_path / "b2"),
               name="app").stdout == plain.read_bytes()


def test_a_plaintext_goes_to_a_terminal_only_by_force(server, ctl):
    wrapped = ctl("wrap", "demo", stdin=b"secret-bytes", name="app").stdout
    status, shown = server.on_a_terminal("unwrap", "demo", stdin=wrapped)
    assert status == USAGE and b"secret-bytes" not in shown
    assert b"--force" in shown
    status, shown = server.on_a_terminal("unwrap", "demo", "--force", stdin=wrapped)
    assert status == 0 and b"secret-bytes" in shown


def test_keys_are_shown_as_aligned_tables_and_as_json(ctl):
    ctl("key", "create", "table-a", "--label", "team=red")
    ctl("key", "create", "table-longer-name")
    ctl("key", "rotate", "table-a")
    lines = out(ctl("key", "list")).splitlines()
    assert lines[0].split()[0] == "NAME"
    assert [line for line in lines if line.startswith("table-a ")]
    shown = out(ctl("key", "show", "table-a"))
    assert "team" in shown and "red" in shown
    key = js(ctl("-o", "json", "key", "show", "table-a"))
    assert key["primary"] == 2 and key["labels"] == {"team": "red"}
    names = [k["name"] for k in js(ctl("key", "list", "-o", "json"))["keys"]]
    assert "table-a" in names and names == sorted(names)


def test_versions_change_state(ctl):
    ctl("key", "create", "states")
    ctl("key", "rotate", "states")
    ctl("key", "disable", "states", "1")
    assert js(ctl("key", "show", "states", "-o", "json"))["versions"][0]["state"] == "disabled"
    ctl("key", "enable", "states", "1")
    ctl("key", "primary", "states", "1")
    assert js(ctl("key", "show", "states", "-o", "json"))["primary"] == 1


def test_clients_are_added_listed_shown_and_removed(server, ctl):
    server.pki.clients.setdefault("cli-app", server.pki.client("cli-app"))
    ctl("client", "add", "cli-app", "--identity", "uri:" + spiffe("cli-app"),
        "--grant", "demo:wrap,unwrap", "--grant", "cli-*:wrap")
    assert "cli-app" in out(ctl("client", "list"))
    shown = js(ctl("client", "show", "cli-app", "-o", "json"))
    assert shown["grants"] == [{"keys": "demo", "operations": ["wrap", "unwrap"]},
                               {"keys": "cli-*", "operations": ["wrap"]}]
    ctl("wrap", "demo", stdin=b"x", name="cli-app")
    assert "cli-app" in out(ctl("whoami", name="cli-app"))
    ctl("client", "rm", "cli-app")
    ctl("wrap", "demo", stdin=b"x", name="cli-app", status=REFUSED)
    ctl("client", "show", "cli-app", status=NOT_FOUND)


def test_a_clients_limits_are_set_and_taken_away(server, ctl):
    server.pki.clients.setdefault("cli-limit", server.pki.client("cli-limit"))
    ctl("client", "add", "cli-limit", "--identity", "uri:" + spiffe("cli-limit"),
        "--grant", "demo:wrap", "--requests-per-s", "5")
    before = js(ctl("client", "show", "cli-limit", "-o", "json"))
    assert before["limits"] == {"requests_per_s": 5, "in_flight": 0}
    ctl("client", "set", "cli-limit", "--in-flight", "7")
    shown = js(ctl("client", "show", "cli-limit", "-o", "json"))
    assert shown["limits"] == {"requests_per_s": 5, "in_flight": 7}
    assert shown["grants"] == before["grants"] and shown["identities"] == before["identities"]
    ctl("client", "set", "cli-limit", "--requests-per-s", "0")
    assert js(ctl("client", "show", "cli-limit", "-o", "json"))["limits"]["requests_per_s"] == 0
    ctl("client", "set", "cli-limit", status=USAGE)
    ctl("client", "set", "cli-limit", "--in-flight", "-1", status=USAGE)
    ctl("client", "set", "absent", "--in-flight", "1", status=NOT_FOUND)


def test_a_clients_identities_grants_and_addresses_are_replaced_by_what_is_given(server, ctl):
    ctl("client", "add", "cli-set", "--identity", "uri:" + spiffe("cli-set"),
        "--grant", "demo:wrap", "--grant", "other:wrap", "--address", "127.0.0.1")
    before = js(ctl("client", "show", "cli-set", "-o", "json"))
    ctl("client", "set", "cli-set", "--grant", "demo:wrap,unwrap")
    shown = js(ctl("client", "show", "cli-set", "-o", "json"))
    assert shown["grants"] == [{"keys": "demo", "operations": ["wrap", "unwrap"]}]
    assert [shown[m] for m in ("identities", "addresses")] == [
        before[m] for m in ("identities", "addresses")]
    ctl("client", "set", "cli-set", "--identity", "uri:" + spiffe("cli-set"),
        "--identity", "uri:" + spiffe("cli-set-2"), "--address", "192.0.2.0/24")
    shown = js(ctl("client", "show", "cli-set", "-o", "json"))
    assert shown["identities"] == ["uri:" + spiffe("cli-set"), "uri:" + spiffe("cli-set-2")]
    assert shown["addresses"] == ["192.0.2.0/24"]
    assert shown["grants"] == [{"keys": "demo", "operations": ["wrap", "unwrap"]}]
    ctl("client", "set", "cli-set", "--grant", "demo", status=USAGE)


def test_status_and_hsm_tell_how_it_is(ctl):
    assert "serving" in out(ctl("status"))
    status = js(ctl("status", "-o", "json"))
    assert status["phase"] == "serving" and status["node"] == "node-1"
    assert "main" in out(ctl("hsm", "status"))
    ctl("hsm", "objects")
    assert out(ctl("version")).startswith("kekctl 0.")


def test_the_audit_log_verifies_without_a_server(server):
    done = subprocess.run([os.path.join(BUILD, "kekctl"), "audit", "verify", server.audit_dir],
                          check=False, capture_output=True, cwd="/",
                          env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"})
    assert done.returncode == 0, done.stderr
    done = server.kekctl("audit", "verify", server.audit_dir, "-o", "json")
    report = json.loads(done.stdout)
    assert report["ok"] is True and report["records"] == report["last_sequence"]


@pytest.mark.parametrize("arguments, status", [
    (["fly"], USAGE), ([], USAGE), (["key"], USAGE), (["key", "create"], USAGE),
    (["key", "create", "NOT-A-NAME"], USAGE), (["key", "show", "demo", "more"], USAGE),
    (["key", "list", "--no-such-option"], USAGE), (["key", "list", "-o", "xml"], USAGE),
    (["client", "add", "x"], USAGE), (["wrap", "demo", "--context", "nopair"], USAGE),
    (["key", "show", "absent"], NOT_FOUND), (["client", "show", "absent"], NOT_FOUND),
    (["key", "create", "demo"], CONFLICT), (["key", "disable", "demo", "1"], CONFLICT),
    (["key", "disable", "demo", "77"], NOT_FOUND),
    (["wrap", "demo"], REFUSED),
    (["audit", "verify", "/nonexistent"], 1),
])
def test_exit_codes_say_what_kind_of_failure_it_was(ctl, arguments, status):
    done = ctl(*arguments, stdin=b"x", status=status)
    assert err(done).strip(), "nothing was said"
    assert not done.stdout


def test_a_blob_that_does_not_unwrap_fails_and_writes_nothing(ctl, tmp_path):
    target = tmp_path / "out"
    done = ctl("unwrap", "demo", "--out", str(target), stdin=b"AAAA", name="app", status=None)
    assert done.returncode not in (0, USAGE, UNAVAILABLE)
    assert not target.exists()


def test_a_server_that_is_not_there_is_unavailable_and_the_endpoint_is_named(server, make_server):
    absent = make_server()
    done = absent.kekctl("status", status=UNAVAILABLE)
    assert str(absent.port) in err(done)


def test_a_wrong_authority_is_told_as_such(server, tmp_path):
    from pki import Authority
    other = Authority(str(tmp_path / "ca"))
    done = server.kekctl("status", "--ca", other.pem, status=None)
    assert done.returncode != 0
    assert "certificate" in err(done).lower() or "ca" in err(done).lower()


def test_every_command_has_help(ctl):
    general = out(ctl("--help"))
    for command in ("key create", "key list", "key show", "key rotate", "key enable",
                    "key disable", "key primary", "wrap", "unwrap", "generate", "rewrap",
                    "client add", "client set", "client list", "client show", "client rm",
                    "audit verify",
                    "hsm status", "hsm objects", "status", "version"):
        assert command.split()[-1] in general
        text = out(ctl(*command.split(), "--help"))
        assert f"kekctl {command}" in text


def test_errors_name_the_next_step(ctl):
    assert "kekctl" in err(ctl("key", "show", "absent", status=NOT_FOUND))
    assert "grant" in err(ctl("wrap", "demo", stdin=b"x", status=REFUSED))
