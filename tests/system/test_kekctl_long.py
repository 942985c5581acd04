# SPDX-License-Identifier: Apache-2.0
"""kekctl's long work: a file of ciphertexts rewrapped, an audit log followed, and a terminal."""

import fcntl
import json
import os
import subprocess

import pytest

from kekd import BUILD, PATIENCE, TOP, b64, unb64, wait_for

FAILED, USAGE, UNAVAILABLE = 1, 2, 7
LINES = 2500


@pytest.fixture
def ctl(server):
    def run(*arguments, **options):
        return server.kekctl(*arguments, name="app", **options)
    return run


def wrapped(app, key, count):
    deks = [os.urandom(32) for _ in range(count)]
    blobs = []
    for start in range(0, count, 1000):
        items = [{"plaintext": b64(d)} for d in deks[start:start + 1000]]
        reply = app.ok("POST", f"/v1/keys/{key}/wrap", {"items": items})
        blobs += [item["ciphertext"] for item in reply.json["items"]]
    return deks, blobs


def unwrapped(app, key, blobs):
    out = []
    for start in range(0, len(blobs), 1000):
        items = [{"ciphertext": b} for b in blobs[start:start + 1000]]
        reply = app.ok("POST", f"/v1/keys/{key}/unwrap", {"items": items})
        out += [(unb64(i["plaintext"]), i["version"]) for i in reply.json["items"]]
    return out


@pytest.fixture
def job(server, admin, app, tmp_path, request):
    """A key with two versions, and a file of ciphertexts under the first."""
    key = f"lines-{abs(hash(request.node.name)) % 10**9}"
    admin.create_key(key)
    deks, blobs = wrapped(app, key, LINES)
    admin.rotate(key)
    source = tmp_path / "in"
    source.write_text("".join(b + "\n" for b in blobs), encoding="ascii")
    return key, deks, blobs, source, tmp_path / "out"


def rewrap(key, source, target, *more):
    return ("rewrap", key, "--lines", "--in", str(source), "--out", str(target), *more)


def test_a_file_of_ciphertexts_moves_to_the_primary_version_line_by_line(ctl, app, job):
    key, deks, _, source, target = job
    done = ctl(*rewrap(key, source, target, "-o", "json"))
    assert json.loads(done.stdout) == {"lines": LINES, "rewrapped": LINES, "already_primary": 0,
                                       "failed": 0, "resumed_at": 0}
    moved = target.read_text(encoding="ascii").splitlines()
    assert unwrapped(app, key, moved) == [(d, 2) for d in deks]
    assert not os.path.exists(f"{target}.partial") and not os.path.exists(f"{target}.progress")
    assert ctl(*rewrap(key, source, target), status=USAGE)  # it exists
    again = ctl(*rewrap(key, target, f"{target}-2"))
    assert f"{LINES} were under it already" in again.stdout.decode()


def test_what_was_broken_off_goes_on_where_it_was(server, ctl, app, job):
    key, deks, _, source, target = job
    with subprocess.Popen(
            [os.path.join(BUILD, "kekctl"), "--config", server.kekctl_config("app"),
             *rewrap(key, source, target)], stderr=subprocess.PIPE) as p:
        wait_for(lambda: os.path.exists(f"{target}.partial")
                 and os.path.getsize(f"{target}.partial") > 0, "the first lines are written")
        p.kill()
    # As a crash leaves it: what counts is less than what was written.
    blobs = source.read_text(encoding="ascii").splitlines()
    first = ctl(*rewrap(key, write(target.parent / "some", blobs[:150] + ["broken"]),
                        target, "--force"), status=FAILED)
    assert b"the same command goes on" in first.stderr
    progress = json.loads(open(f"{target}.progress", encoding="utf-8").read())
    assert progress["lines"] == 150
    with open(f"{target}.partial", "a", encoding="ascii") as f:
        f.write("torn li")
    done = ctl(*rewrap(key, source, target, "-o", "json"))
    assert json.loads(done.stdout)["resumed_at"] == 150
    moved = target.read_text(encoding="ascii").splitlines()
    assert unwrapped(app, key, moved) == [(d, 2) for d in deks]


def write(path, lines):
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def test_going_on_with_another_input_or_context_is_refused(ctl, job):
    key, _, blobs, source, target = job
    ctl(*rewrap(key, write(source, blobs[:120] + ["broken"]), target), status=FAILED)
    other = ctl(*rewrap(key, source, target, "--context", "a=b"), status=USAGE)
    assert b"another key or context" in other.stderr and b"rm " in other.stderr
    changed = ctl(*rewrap(key, write(source, blobs[1:]), target), status=USAGE)
    assert b"have changed in the input" in changed.stderr
    assert not target.exists()


def test_going_on_without_what_was_done_is_refused(ctl, job):
    key, _, blobs, source, target = job
    ctl(*rewrap(key, write(source, blobs[:120] + ["broken"]), target), status=FAILED)
    os.unlink(f"{target}.partial")
    lost = ctl(*rewrap(key, write(source, blobs[:130]), target), status=USAGE)
    assert b"not all there any more" in lost.stderr and b"rm " in lost.stderr
    assert not target.exists()


def test_two_at_once_do_not_write_over_each_other(ctl, job):
    key, _, _, source, target = job
    with open(f"{target}.partial", "wb") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        f.write(b"another's\n")
        f.flush()
        done = ctl(*rewrap(key, source, target), status=FAILED)
        assert b"another kekctl" in done.stderr
        assert read(f"{target}.partial") == b"another's\n"
    ctl(*rewrap(key, source, target))


def read(path):
    with open(path, "rb") as f:
        return f.read()


def test_a_line_that_fails_is_named_and_left_alone_on_demand(ctl, app, job):
    key, deks, blobs, source, target = job
    bad = unb64(blobs[1])
    bad = b64(bad[:-1] + bytes([bad[-1] ^ 1]))
    write(source, [blobs[0], bad, "", "no base64 é", blobs[2]])
    done = ctl(*rewrap(key, source, target), status=FAILED)
    assert b"line 2: " in done.stderr and b"unwrap_failed" in done.stderr
    assert not target.exists()
    done = ctl(*rewrap(key, source, target, "--keep-going", "-o", "json"), status=FAILED)
    assert json.loads(done.stdout)["failed"] == 2
    lines = target.read_text(encoding="utf-8").split("\n")
    assert lines[1:4] == [bad, "", "no base64 é"] and lines[5:] == [""]
    assert unwrapped(app, key, [lines[0], lines[4]]) == [(deks[0], 2), (deks[2], 2)]


def test_lines_need_files(ctl):
    done = ctl("rewrap", "demo", "--lines", stdin=b"x", status=USAGE)
    assert b"--in FILE and --out FILE" in done.stderr


def test_the_newest_records_are_shown_and_followed(server, app):
    app.wrap(b"x" * 32)
    done = server.kekctl("audit", "tail", server.audit_dir, "--last", "1", "-o", "json")
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [r["operation"] for r in records] == ["wrap"]
    with subprocess.Popen([os.path.join(BUILD, "kekctl"), "audit", "tail", server.audit_dir,
                           "--follow", "--last", "1"], stdout=subprocess.PIPE) as p:
        try:
            p.stdout.readline()  # it has found the end
            blob = app.wrap(b"y" * 32)
            app.unwrap(blob)
            app.try_unwrap(blob, context={"not": "this"})
            lines = [p.stdout.readline().decode() for _ in range(3)]
        finally:
            p.kill()
    assert [line.split()[3:5] for line in lines] == [["app", "wrap"], ["app", "unwrap"],
                                                     ["app", "unwrap"]]
    assert "v1 1 wrapped" in lines[0] and "unwrap_failed" in lines[2]
    missing = server.kekctl("audit", "tail", "/nonexistent", status=FAILED)
    assert b"audit section" in missing.stderr


def test_following_goes_on_over_a_new_file(make_server):
    server = make_server(audit={"max_bytes": "64KiB"}).init().start().populate()
    with server.http("app") as app, subprocess.Popen(
            [os.path.join(BUILD, "kekctl"), "audit", "tail", server.audit_dir, "--follow",
             "--last", "1", "-o", "json"], stdout=subprocess.PIPE) as p:
        try:
            last = json.loads(p.stdout.readline())["seq"]
            for _ in range(400):
                app.wrap(b"z" * 32)
            assert len(server.audit_files()) > 1
            seen = [json.loads(p.stdout.readline())["seq"] for _ in range(400)]
        finally:
            p.kill()
    assert seen == list(range(last + 1, last + 401))


def test_colours_are_for_terminals_alone(server, ctl):
    def shown(**environment):
        status, text = server.on_a_terminal(*command, **environment)
        assert status == 0, text
        return text

    command = "audit", "verify", server.audit_dir
    assert b"\x1b[" in shown()
    assert b"\x1b[" not in shown(NO_COLOR="1")
    assert b"\x1b[" not in shown(TERM="dumb")
    assert b"\x1b[" not in ctl(*command).stdout


def test_long_work_shows_how_far_it_is_on_a_terminal_alone(server, ctl, job):
    key, _, _, source, target = job
    status, shown = server.on_a_terminal(*rewrap(key, source, target))
    assert status == 0, shown
    assert b" lines" in shown and b"#" in shown and b" % " in shown
    assert ctl(*rewrap(key, source, f"{target}-2")).stderr == b""


# ---- completion ----

def complete_in_bash(server, *words, name="app"):
    """What bash offers for the last word."""
    script = os.path.join(TOP, "contrib", "completion", "kekctl.bash")
    done = subprocess.run(
        ["bash", "--norc", "-c",
         'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _kekctl; '
         'printf "%s\\n" "${COMPREPLY[@]}"', "bash", script, os.path.join(BUILD, "kekctl"),
         "--config", server.kekctl_config(name), *words],
        capture_output=True, check=True, timeout=PATIENCE)
    assert done.stderr == b"", done.stderr
    return done.stdout.decode().split()


def test_every_command_and_every_option_can_be_completed(server, ctl):
    commands = [line[2:].split("  ")[0].strip()
                for line in ctl("help").stdout.decode().split("\nOptions:")[0].splitlines()
                if line.startswith("  ")]
    assert len(commands) > 20
    for command in commands:
        words = command.split()
        for i, word in enumerate(words):
            assert word in complete_in_bash(server, *words[:i], word[:1]), command
        shown = ctl("help", *words).stdout.decode()
        options = [w for line in shown.splitlines() if line.startswith("  ")
                   for w in line.split()[:2] if w.startswith("--")]
        offered = complete_in_bash(server, *words, "--")
        assert set(options) <= set(offered) and "--config" in offered, command


def test_names_and_files_are_completed(server, tmp_path):
    (tmp_path / "a-file").write_bytes(b"")
    assert complete_in_bash(server, "wrap", "de", name="admin-1") == ["demo"]
    assert "app" in complete_in_bash(server, "client", "show", "", name="admin-1")
    assert complete_in_bash(server, "wrap", "demo", "--in", f"{tmp_path}/a") == [
        f"{tmp_path}/a-file"]
    assert complete_in_bash(server, "-o", "j") == ["json"]
