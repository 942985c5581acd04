# SPDX-License-Identifier: Apache-2.0
"""No answer without its record on disk, in a chain that shows every change."""

import hashlib
import json
import os
import shutil
import signal
import stat

import pytest

from kekd import b64, kill, wait_for
from pki import spiffe


def chain_holds(lines, cluster="test", node="node-1"):
    """The chain, checked without kekd."""
    previous = None
    for number, line in enumerate(lines):
        body, _, tail = line.rpartition(b',"hash":')
        record = json.loads(line)
        assert tail == b'"' + record["hash"].encode() + b'"}', number
        assert hashlib.sha256(body).hexdigest() == record["hash"], number
        if previous is not None:
            assert record["prev"] == previous["hash"], number
            assert record["seq"] == previous["seq"] + 1, number
        previous = record
    return previous


def verify(server, directory, status):
    return server.kekctl("audit", "verify", str(directory), status=status)


@pytest.fixture
def written(server, app, admin, tmp_path):
    """A copy of a log with something in it."""
    for n in range(10):
        app.unwrap(app.wrap(bytes([n]), context={"row": str(n)}), context={"row": str(n)})
    copy = tmp_path / "audit"
    shutil.copytree(server.audit_dir, copy)
    file = sorted(copy.glob("*.jsonl"))[0]
    return copy, file, file.read_bytes().split(b"\n")[:-1]


def test_every_operation_has_its_record_before_its_answer(server, app):
    blob = app.wrap(b"plaintext-marker", context={"tenant": "blue"})
    record = server.audit_records(operation="wrap")[-1]
    assert record["client"] == "app" and record["identity"] == "uri:" + spiffe("app")
    assert record["key"] == "demo" and record["result"] == "ok"
    assert record["address"].startswith("127.0.0.1")
    assert record["type"] == "request" and record["node"] == "node-1"
    version, = record["versions"]
    assert version["version"] == 1 and version["wrapped"] == 1
    app.unwrap(blob, context={"tenant": "blue"})
    record = server.audit_records(operation="unwrap")[-1]
    assert record["versions"][0]["unwrapped"] == 1
    assert record["blobs"] == [hashlib.sha256(blob).hexdigest()[:16]]
    assert "blue" in json.dumps(record)


def test_the_request_id_leads_from_the_answer_to_the_record(server, app):
    reply = app.try_unwrap(b"foreign")
    record = server.audit_records(request_id=reply.json["request_id"])[-1]
    assert record["type"] == "refused" and record["code"] == "unwrap_failed"


def test_a_trace_goes_along(server, app):
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    app.ok("POST", "/v1/keys/demo/wrap", {"plaintext": "eA=="}, headers={"traceparent": trace})
    assert server.audit_records(traceparent=trace)


def test_a_change_has_an_intent_before_and_an_outcome_after(server, admin):
    admin.create_key("audited")
    records = server.audit_records(operation="key.create")[-2:]
    assert [r["type"] for r in records] == ["intent", "outcome"]
    assert records[0]["request_id"] == records[1]["request_id"]
    assert records[1]["key"] == "audited" and records[1]["result"] == "ok"


def test_a_change_that_failed_has_an_outcome_that_says_so(server, admin):
    reply = admin.call("POST", "/v1/keys", {"name": "demo"}, create=True)
    record = server.audit_records(request_id=reply.json["request_id"])[-1]
    assert record["type"] == "outcome" and record["code"] == "precondition_failed"


def test_who_may_create_no_key_announces_none(server, app):
    reply = app.call("POST", "/v1/keys", {"name": "mine"}, create=True)
    assert reply.code == "forbidden"
    records = server.audit_records(request_id=reply.json["request_id"])
    assert [r["type"] for r in records] in ([], ["refused"])


def test_no_plaintext_and_no_ciphertext_is_written(server, app):
    secret = b"a-very-secret-data-key-of-32byte"
    blob = app.wrap(secret)
    app.unwrap(blob)
    text = b"\n".join(server.audit_lines())
    assert secret not in text and b64(secret).encode() not in text
    assert b64(blob).encode() not in text
    assert b64(blob)[40:80].encode() not in text


def test_health_and_status_are_not_audited(server, app, admin):
    app.wrap(b"x")
    before = len(server.audit_records(type="request"))
    for _ in range(5):
        server.health()
        admin.status()
        app.get("/v1/whoami")
    assert len(server.audit_records(type="request")) == before


def test_the_log_is_for_its_owner_alone(server):
    for path in server.audit_files():
        assert stat.S_IMODE(os.stat(path).st_mode) & 0o077 == 0


def test_refusals_are_bounded_and_then_counted(own):
    with own.http("other") as stranger:
        for _ in range(300):
            assert stranger.get("/v1/keys").code == "unknown_client"
    refused = own.audit_records(type="refused", code="unknown_client")
    assert 1 <= len(refused) <= 20
    own.stop()
    total = len(refused)
    for record in own.audit_records(type="refusals"):
        text = json.dumps(record)
        assert "unknown_client" in text or "count" in text
        total += max([v for v in numbers(record, "count")], default=0)
    assert total == 300


def numbers(value, name):
    if isinstance(value, dict):
        for k, v in value.items():
            if k == name and isinstance(v, int):
                yield v
            yield from numbers(v, name)
    if isinstance(value, list):
        for v in value:
            yield from numbers(v, name)


def test_the_first_refused_use_of_a_disabled_version_is_always_recorded(own):
    with own.http("admin-1") as admin, own.http("app") as app:
        blob = app.wrap(b"x")
        admin.rotate()
        admin.change("demo", "versions/1/disable")
        for _ in range(30):
            app.try_unwrap(b"rubbish")
        reply = app.try_unwrap(blob)
        assert reply.code == "version_not_enabled"
    records = own.audit_records(request_id=reply.json["request_id"])
    assert [r["versions"][0]["refused"] for r in records] == [1]


def test_the_chain_holds_over_restarts(own):
    for n in range(3):
        with own.http("app") as app:
            app.wrap(bytes([n]))
        if n == 1:
            own.kill_all()
        else:
            own.stop()
        own.start()
    last = chain_holds(own.audit_lines())
    assert last["seq"] >= 10
    verify(own, own.audit_dir, 0)


def test_the_chain_begins_with_cluster_and_node(own):
    first = json.loads(own.audit_lines()[0])
    assert first["seq"] == 1
    known = [hashlib.sha256(t).hexdigest() for t in (
        b"testnode-1", b"test\0node-1", b"test\nnode-1", b"test/node-1", b"test node-1")]
    assert first["prev"] in known


def test_with_hashed_contexts_no_context_is_in_the_log(make_server):
    server = make_server(audit={"context": "hash"}).init().start().populate()
    with server.http("app") as app:
        app.wrap(b"x", context={"patient": "confidential-name"})
    assert b"confidential-name" not in b"\n".join(server.audit_lines())
    assert b"context" in server.audit_lines()[-1]


def test_a_new_file_is_started_past_the_size_and_the_chain_runs_on(make_server):
    server = make_server(audit={"max_bytes": 65536}).init().start().populate()
    with server.http("app") as app:
        for n in range(300):
            app.wrap(bytes([n % 256]))
    files = server.audit_files()
    assert len(files) >= 2
    for path in files:
        assert os.stat(path).st_size < 65536 + 8192
    chain_holds(server.audit_lines())
    verify(server, server.audit_dir, 0)


def test_an_untouched_log_verifies(server, written):
    directory, _, lines = written
    chain_holds(lines)
    verify(server, directory, 0)


def replace(file, lines):
    file.chmod(0o600)
    file.write_bytes(b"".join(line + b"\n" for line in lines))


def says(done, line):
    text = (done.stdout + done.stderr).decode()
    assert f":{line}" in text or f"line {line}" in text, text


def test_a_changed_byte_is_found_and_located(server, written):
    directory, file, lines = written
    at = len(lines) - 5
    lines[at] = lines[at].replace(b'"client":"app"', b'"client":"apq"')
    replace(file, lines)
    says(verify(server, directory, 6), at + 1)


def test_a_changed_hash_is_found_and_located(server, written):
    directory, file, lines = written
    at = len(lines) - 5
    digit = lines[at][-3:-2]
    lines[at] = lines[at][:-3] + (b"0" if digit != b"0" else b"1") + lines[at][-2:]
    replace(file, lines)
    says(verify(server, directory, 6), at + 1)


def test_a_removed_record_is_found_and_located(server, written):
    directory, file, lines = written
    at = len(lines) - 5
    del lines[at]
    replace(file, lines)
    says(verify(server, directory, 6), at + 1)


def test_an_inserted_record_is_found_and_located(server, written):
    """Even with a hash of its own."""
    directory, file, lines = written
    at = len(lines) - 5
    forged = lines[at].rpartition(b',"hash":')[0].replace(b'"client":"app"', b'"client":"eve"')
    lines.insert(at, forged + b',"hash":"' + hashlib.sha256(forged).hexdigest().encode() + b'"}')
    replace(file, lines)
    says(verify(server, directory, 6), at + 2)


def test_a_swapped_pair_is_found_and_located(server, written):
    directory, file, lines = written
    at = len(lines) - 5
    lines[at], lines[at + 1] = lines[at + 1], lines[at]
    replace(file, lines)
    says(verify(server, directory, 6), at + 1)


def test_a_missing_file_in_between_is_found(make_server, tmp_path):
    server = make_server(audit={"max_bytes": 65536}).init().start().populate()
    with server.http("app") as app:
        for n in range(500):
            app.wrap(bytes([n % 256]))
    copy = tmp_path / "audit"
    shutil.copytree(server.audit_dir, copy)
    files = sorted(copy.glob("*.jsonl"))
    assert len(files) >= 3
    files[1].unlink()
    verify(server, copy, 6)


def test_a_torn_last_line_is_recorded_and_not_fatal(own):
    with own.http("app") as app:
        app.wrap(b"x")
    own.kill_all()
    with open(own.audit_files()[-1], "ab") as f:
        f.write(b'{"seq":999,"time":"20')
    own.start()
    with own.http("app") as app:
        app.wrap(b"y")
    done = verify(own, own.audit_dir, 0)
    assert b"torn" in done.stdout + done.stderr


def test_a_file_cut_inside_is_found(server, written):
    directory, file, lines = written
    file.chmod(0o600)
    data = file.read_bytes()
    at = len(data) - 3000
    file.write_bytes(data[:at] + data[at + 10:])
    verify(server, directory, 6)


def test_a_foreign_log_is_not_continued(make_server, server):
    other = make_server(cluster="elsewhere")
    for path in server.audit_files():
        shutil.copy(path, other.audit_dir)
    other.run("init")
    other.start(ready=False)
    wait_for(lambda: other.process.poll() is not None or other.health()[0] == 503,
             "it refuses to serve")
    assert "audit" in other.log()
    if other.process.poll() is not None:
        other.process = None


def test_sighup_begins_a_new_file_and_the_chain_runs_on(own):
    with own.http("app") as app:
        for n in range(3):
            app.wrap(bytes([n]))
            files = len(own.audit_files())
            kill(own.process.pid, signal.SIGHUP)
            wait_for(lambda: len(own.audit_files()) == files + 1, "a new file begins")
        app.wrap(b"last")
    own.write_config("nonsense: true\n")
    files = own.audit_files()
    kill(own.process.pid, signal.SIGHUP)
    wait_for(lambda: len(own.audit_files()) == len(files) + 1,
             "a faulty configuration does not keep a new file away")
    chain_holds(own.audit_lines())
    verify(own, own.audit_dir, 0)
    for path in own.audit_files()[1:]:
        with open(path, "rb") as f:
            first = json.loads(f.readline())
        assert first["type"] == "open" and first["reason"] == "next_file"
