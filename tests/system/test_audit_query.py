# SPDX-License-Identifier: Apache-2.0
"""Who used this key, and when: the log is searched and reported on, over the API and from files."""

import csv
import hashlib
import io
import json
import os
import resource
import shutil
import subprocess
from pathlib import Path

import pytest

from kekd import BUILD, TOOLS, b64, in_threads

UNVERIFIED, REFUSED, USAGE = 6, 3, 2


def records(server, *arguments, name="admin-1"):
    done = server.kekctl("audit", "query", "-o", "json", *arguments, name=name)
    return [json.loads(line) for line in done.stdout.splitlines()]


def report(server, *arguments, name="admin-1", status=0):
    return server.kekctl("audit", "report", *arguments, name=name, status=status).stdout.decode()


@pytest.fixture(params=["server", "files"])
def source(request, server):
    """Where the records are read from: a function like records()."""
    options = ["--dir", server.audit_dir] if request.param == "files" else []
    return lambda *arguments: records(server, *options, *arguments)


def test_whoever_unwrapped_this_very_blob_is_found(server, app, source, tmp_path):
    blob, other = app.wrap(b"asked for"), app.wrap(b"another")
    for b in (blob, other, blob):
        app.unwrap(b)
    (tmp_path / "text").write_bytes(b64(blob).encode() + b"\n")
    (tmp_path / "bytes").write_bytes(blob)
    for file in ("text", "bytes"):
        found = source("--blob", str(tmp_path / file))
        assert [r["operation"] for r in found] == ["unwrap", "unwrap"]
        assert {r["client"] for r in found} == {"app"}
        assert all(hashlib.sha256(blob).hexdigest()[:16] in r["blobs"] for r in found)


def test_each_filter_leaves_what_it_says(server, app, source):
    app.unwrap(app.wrap(b"one"))
    assert app.try_unwrap(b"no blob at all", key="demo").status >= 400
    everything = source()
    assert [r["seq"] for r in everything] == sorted(r["seq"] for r in everything)
    assert {r["client"] for r in source("--client", "app")} == {"app"}
    assert {r["key"] for r in source("--key", "demo")} == {"demo"}
    assert {r["operation"] for r in source("--op", "wrap")} == {"wrap"}
    denied = source("--denied", "--client", "app")
    assert denied and all(r["result"] == "error" for r in denied)
    one = everything[-1]
    if "request_id" in one:
        assert one["seq"] in [r["seq"] for r in source("--request-id", one["request_id"])]
    middle = everything[len(everything) // 2]
    since = source("--since", middle["time"])
    assert since[0]["time"] >= middle["time"] and middle["seq"] in [r["seq"] for r in since]
    before = source("--until", middle["time"])
    assert before and all(r["time"] < middle["time"] for r in before)
    assert source("--since", "1h")[-1]["seq"] >= one["seq"]
    assert len(source("--limit", "2")) == 2


def test_a_client_sees_its_own_records_and_no_others(server, app):
    app.wrap(b"mine")
    found = records(server, name="app")
    assert found and {r["client"] for r in found} == {"app"}
    reply = app.get("/v1/audit?client=admin-1")
    assert (reply.status, reply.code) == (403, "forbidden")
    server.kekctl("audit", "query", "--client", "admin-1", name="app", status=REFUSED)


def test_pages_follow_one_another_to_the_end_without_a_gap(server, app, admin):
    for n in range(12):
        app.wrap(bytes([n]))
    pages, after = [], ""
    while True:
        page = admin.ok("GET", f"/v1/audit?client=app&op=wrap&limit=5{after}").json
        pages.append(page["records"])
        if page["next"] is None:
            break
        after = "&after=" + page["next"]
    assert all(len(p) <= 5 for p in pages) and len(pages) >= 3
    paged = [r["seq"] for p in pages for r in p]
    assert paged == [r["seq"] for r in server.audit_records(client="app", operation="wrap")]


def test_reading_the_log_is_itself_in_the_log(server, admin):
    before = len(server.audit_records(operation="audit.read"))
    admin.ok("GET", "/v1/audit?limit=1")
    assert len(server.audit_records(operation="audit.read")) == before + 1


@pytest.mark.parametrize("query", [
    "limit=0", "limit=1001", "limit=x", "since=yesterday", "until=1", "denied=maybe", "blob=zz",
    "blob=00", "after=1", "after=0-0", "after=1-", "after=-1-2", "after=99999999999999999999-1",
    "after=1-3", "after=77-0"])
def test_a_bad_question_is_refused_and_says_what_is_wrong(admin, query):
    reply = admin.get("/v1/audit?" + query)
    assert (reply.status, reply.code) == (400, "invalid_request"), reply
    assert query.split("=")[0] in json.dumps(reply.json)


def test_the_report_says_who_used_which_key_how_often(own):
    server = own
    with server.http("app") as app:
        blobs = [app.wrap(bytes([n])) for n in range(7)]
        for blob in blobs[:3]:
            app.unwrap(blob)
    with server.http("admin-1") as admin:
        admin.rotate()
    for options in ([], ["--dir", server.audit_dir]):
        rows = json.loads(report(server, *options, "--format", "json"))["rows"]
        counts = {(r["client"], r["key"], r["version"], r["use"]): r["count"] for r in rows}
        assert counts["app", "demo", 1, "wrap"] == 7
        assert counts["app", "demo", 1, "unwrap"] == 3
        assert counts["admin-1", "demo", None, "key.rotate"] == 1
        text = report(server, *options, "--client", "app")
        line = next(x for x in text.splitlines() if x.startswith("app") and " unwrap " in x)
        assert line.split()[:5] == ["app", "demo", "1", "unwrap", "3"]
        table = list(csv.DictReader(io.StringIO(report(server, *options, "--format", "csv"))))
        wraps = next(r for r in table if r["use"] == "wrap")
        assert [wraps[c] for c in ("client", "key", "version")] == ["app", "demo", "1"]
        assert wraps["count"] == "7"


def test_a_report_from_files_says_whether_the_chain_is_whole(server, app, tmp_path):
    app.wrap(b"x")
    copy = tmp_path / "audit"
    shutil.copytree(server.audit_dir, copy)
    value = json.loads(report(server, "--dir", str(copy), "--format", "json"))
    assert value["verified"] is True and len(value["head"]) == 64
    file = sorted(copy.glob("*.jsonl"))[0]
    lines = file.read_bytes().splitlines(keepends=True)
    lines[-2] = lines[-2].replace(b'"node-1"', b'"node-2"')
    file.write_bytes(b"".join(lines))
    text = report(server, "--dir", str(copy), status=UNVERIFIED)
    assert "NOT WHOLE" in text


def test_wrong_usage_is_told_before_anything_is_read(server, tmp_path):
    server.kekctl("audit", "query", "--since", "soon", status=USAGE)
    server.kekctl("audit", "report", "--format", "xml", status=USAGE)
    server.kekctl("audit", "query", "--limit", "0", status=USAGE)
    (tmp_path / "blob").write_text("no base64!")
    server.kekctl("audit", "query", "--blob", str(tmp_path / "blob"), status=1)
    server.kekctl("audit", "query", "--dir", str(tmp_path / "absent"), status=1)


def chain(directory, count, client="app-{}"):
    """A log of so many wraps, as the format says it."""
    previous = hashlib.sha256(b"test\0node-1").hexdigest()
    with open(directory / f"audit-{1:020}.jsonl", "wb") as f:
        for n in range(1, count + 1):
            who = json.dumps(client.format(n % 50))
            what = ('"type":"open","cluster":"test","reason":"start","version":"0","pid":1'
                    if n == 1 else
                    f'"type":"request","client":{who},"operation":"wrap","key":"demo",'
                    '"versions":[{"version":1,"id":"7c0d7a58-9d3c-4c89-b9fd-5f3f2a0c7a11",'
                    '"wrapped":1}],"result":"ok","status":200,"us":300,"revision":9')
            body = (f'{{"v":1,"seq":{n},"time":"2026-01-31T12:00:00.{n % 1000000:06}Z",'
                    f'"node":"node-1",{what},"prev":"{previous}"').encode()
            previous = hashlib.sha256(body).hexdigest()
            f.write(body + b',"hash":"' + previous.encode() + b'"}\n')


@pytest.mark.parametrize("sign", "=+-@\t\r")
def test_no_cell_of_a_csv_report_is_a_formula(server, tmp_path, sign):
    for name in (sign + "cmd|x!A1", sign + 'HYPERLINK("x", 1)'):
        chain(tmp_path, 2, client=name)
        text = report(server, "--dir", str(tmp_path), "--format", "csv")
        row, = csv.DictReader(io.StringIO(text, newline=""))
        assert row["client"] == "'" + name
        value = json.loads(report(server, "--dir", str(tmp_path), "--format", "json"))
        assert value["rows"][0]["client"] == name


@pytest.mark.skipif(TOOLS, reason="sanitizers reserve more than that")
def test_a_line_longer_than_any_record_is_told_of_in_bounded_memory(server, tmp_path):
    chain(tmp_path, 3)
    file, = tmp_path.iterdir()
    first, second, third = file.read_bytes().splitlines(keepends=True)
    with open(file, "wb") as f:
        f.write(first + second)
        f.seek(400 << 20, os.SEEK_CUR)
        f.write(b"\n" + third)

    def limit():
        resource.setrlimit(resource.RLIMIT_DATA, (200 << 20, 200 << 20))
    kekctl = os.path.join(BUILD, "kekctl")
    for command, told, status in ((["audit", "query", "--dir"], 3, 0),
                                  (["audit", "tail", "--last", "10"], 3, UNVERIFIED),
                                  (["audit", "verify"], 0, UNVERIFIED)):
        done = subprocess.run([kekctl, *command, str(tmp_path), "-o", "json"], preexec_fn=limit,
                              capture_output=True, timeout=120, check=False)
        assert done.returncode == status, (command, done)
        assert b"longer than any record" in done.stderr + done.stdout, done
        assert done.stdout.count(b'"seq":') == told or not told, done.stdout


def test_a_client_reads_the_log_once_at_a_time_and_keeps_nobody_from_it(make_server):
    server = make_server().init()
    chain(Path(server.audit_dir), 100000)
    server.start().populate()
    seen = []

    def read(n):
        # all but the first as "app", over and over
        with server.http("app" if n else "admin-1") as client:
            for _ in range(5):
                seen.append((n > 0, client.get("/v1/audit?client=nobody" if not n
                                               else "/v1/audit?op=none")))
    in_threads(9, read)
    assert {r.status for own, r in seen if not own} == {200}
    refused = [r for own, r in seen if r.status != 200]
    assert refused and {(r.status, r.code) for r in refused} == {(429, "rate_limited")}
    assert all(int(r.headers["Retry-After"]) >= 1 for r in refused)
    assert sum(own and r.status == 200 for own, r in seen) > 0


def test_searches_of_one_client_wait_for_one_another(make_server):
    server = make_server().init()
    chain(Path(server.audit_dir), 100000)
    server.start().populate()
    in_threads(3, lambda n: records(server, "--client", "nobody"))


def test_what_the_server_shows_are_the_lines_of_its_log(server, app):
    app.wrap(b"x", context={"z": "\u00e9/\"\\", "a": "\u2028"})
    shown = server.kekctl("audit", "query", "-o", "json", "--client", "app").stdout.splitlines()
    assert shown and set(shown) <= {line.rstrip(b"\n") for line in server.audit_lines()}


@pytest.mark.parametrize("command", [["query", "--client", "app-7", "--limit", "1"],
                                     ["query", "--client", "nobody"], ["report"]])
def test_a_long_log_is_read_in_one_pass_and_bounded_memory(tmp_path, command):
    chain(tmp_path, 100000)  # some 40 MB

    def bound():
        if not TOOLS:
            resource.setrlimit(resource.RLIMIT_DATA, (64 << 20, 64 << 20))
    kekctl = os.path.join(BUILD, "kekctl")
    done = subprocess.run([kekctl, "audit", *command, "--dir", str(tmp_path)],
                          capture_output=True, text=True, check=True, timeout=120,
                          preexec_fn=bound)
    if command == ["report"]:
        assert "whole" in done.stdout and done.stdout.count("\napp-") == 50
    else:
        assert "records a second" in done.stderr
