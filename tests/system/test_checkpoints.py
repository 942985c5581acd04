# SPDX-License-Identifier: Apache-2.0
"""The audit log's head is signed in the token: who can write the files cannot write them anew."""

import base64
import hashlib
import json
import shutil
import signal
import subprocess
import time

import pytest

from kekd import FAULTY_MODULE, Faults, kill, wait_for

UNVERIFIED = 6
CURVE = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]


def checkpoints(server):
    return server.audit_records(type="checkpoint")


def wait_for_key(server):
    with server.http("admin-1") as admin:
        wait_for(lambda: admin.status()["audit"]["signing"]["state"] == "ready", "the key")


@pytest.fixture(scope="module")
def signed(make_shared_server, tmp_path_factory):
    """A log of several files and runs, its copy, and the key that an auditor has pinned."""
    server = make_shared_server().init().start().populate()
    with server.http("app") as app:
        for n in range(5):
            app.wrap(bytes([n]))
        wait_for(lambda: checkpoints(server), "a first checkpoint", 30)
        kill(server.process.pid, signal.SIGHUP)
        wait_for(lambda: len(server.audit_files()) == 2, "a second file")
        app.wrap(b"more")
    server.stop()
    server.start()
    wait_for_key(server)
    key = tmp_path_factory.mktemp("pinned") / "node-1.pem"
    key.write_bytes(server.kekctl("audit", "keys").stdout)
    return server, key


@pytest.fixture
def copy(signed, tmp_path):
    directory = tmp_path / "audit"
    shutil.copytree(signed[0].audit_dir, directory)
    return directory


def verify(server, directory, *more, status=0):
    return server.kekctl("audit", "verify", str(directory), *more, status=status)


def rechain(directory, change, files="*.jsonl"):
    """Every record changed as somebody who can write the files would: the chain is right."""
    previous = None
    for path in sorted(directory.glob(files)):
        lines = []
        for line in path.read_bytes().split(b"\n")[:-1]:
            record = json.loads(line)
            del record["hash"]
            if previous:
                record["prev"] = previous
            change(record)
            body = json.dumps(record, separators=(",", ":")).encode()[:-1]
            previous = hashlib.sha256(body).hexdigest()
            lines.append(body + b',"hash":"' + previous.encode() + b'"}\n')
        path.write_bytes(b"".join(lines))


def test_a_checkpoint_names_a_record_before_it_and_its_signature_verifies_by_hand(signed, tmp_path):
    server, key = signed
    records = {r["seq"]: r for r in server.audit_records()}
    found = checkpoints(server)
    assert len(found) >= 2
    for record in found:
        assert record["at"] < record["seq"]
        assert records[record["at"]]["hash"] == record["head"]
        text = tmp_path / "text"
        text.write_text(f"kekd audit checkpoint 1\ntest\nnode-1\n{record['at']}\n"
                        f"{record['head']}\n", encoding="ascii")
        raw = base64.b64decode(record["signature"])
        assert len(raw) == 64
        config = tmp_path / "sig.cnf"
        config.write_text("asn1=SEQUENCE:s\n[s]\n"
                          f"r=INTEGER:0x{raw[:32].hex()}\ns=INTEGER:0x{raw[32:].hex()}\n")
        der = tmp_path / "sig.der"
        subprocess.run(["openssl", "asn1parse", "-genconf", config, "-out", der, "-noout"],
                       check=True, capture_output=True)
        done = subprocess.run(["openssl", "dgst", "-sha256", "-verify", key, "-signature", der,
                               text], check=False, capture_output=True, text=True)
        assert done.stdout == "Verified OK\n"


def test_the_key_is_in_the_token_and_cannot_leave_it(signed):
    shown = signed[0].pkcs11_tool("--list-objects", "--type", "privkey")
    assert "kekd:test:audit:node-1" in shown
    access = [line for line in shown.splitlines() if "Access:" in line]
    assert access and "sensitive" in access[0] and "never extractable" in access[0]


def test_audit_keys_gives_one_key_that_stays_over_a_restart(signed):
    server, key = signed
    value = json.loads(server.kekctl("audit", "keys", "-o", "json").stdout)
    assert value["state"] == "ready" and value["node"] == "node-1"
    der = base64.b64decode(value["public"])
    assert hashlib.sha256(der).hexdigest() == value["key"]
    assert value["key"].encode() in key.read_bytes()
    assert server.kekctl("audit", "keys", "-q").stdout.decode().strip() == value["key"]
    assert {r["key"] for r in checkpoints(server)} == {value["key"]}


def test_a_whole_log_verifies_with_the_pinned_key_and_says_what_is_behind_it(signed, copy):
    server, key = signed
    value = json.loads(verify(server, copy, "--key", str(key), "-o", "json").stdout)
    assert value["ok"] and value["signatures"] == "good"
    assert value["checkpoints"] >= 2
    assert value["behind"] == value["last_sequence"] - value["signed_through"]
    assert b"good, by the keys" in verify(server, copy, "--key", str(key)).stdout


def test_without_a_key_it_says_that_signatures_were_not_checked(signed, copy):
    value = json.loads(verify(signed[0], copy, "-o", "json").stdout)
    assert value["ok"] and value["signatures"] == "not_checked"
    assert b"not checked" in verify(signed[0], copy).stdout


def test_a_log_written_anew_with_a_right_chain_is_found_by_its_signatures(signed, copy):
    server, key = signed

    def forge(record):
        if record.get("client") == "app":
            record["client"] = "nobody"

    rechain(copy, forge)
    done = verify(server, copy, status=UNVERIFIED)
    assert b"does not fit to the chain" in done.stderr

    heads = {}

    def forge_marks(record):
        heads[record["seq"] - 1] = record["prev"]
        if record["type"] == "checkpoint":
            record["head"] = heads[record["at"]]

    rechain(copy, forge_marks)
    assert verify(server, copy).returncode == 0
    done = verify(server, copy, "--key", str(key), status=UNVERIFIED)
    assert b"signature of this checkpoint is wrong" in done.stderr


def test_a_log_that_is_signed_by_another_key_or_by_none_is_refused(signed, copy, tmp_path):
    server, key = signed
    other, public = tmp_path / "other.key", tmp_path / "other.pem"
    subprocess.run(["openssl", "genpkey", *CURVE, "-out", other], check=True, capture_output=True)
    subprocess.run(["openssl", "pkey", "-in", other, "-pubout", "-out", public], check=True)
    done = verify(server, copy, "--key", str(public), status=UNVERIFIED)
    assert b"signed with a key that was not given" in done.stderr
    verify(server, copy, "--key", str(public), "--key", str(key))

    def unsign(record):
        if record["type"] == "checkpoint":
            for name in ("at", "head", "key", "signature"):
                del record[name]
            record["type"] = "close"

    rechain(copy, unsign)
    verify(server, copy)
    done = verify(server, copy, "--key", str(key), status=UNVERIFIED)
    assert b"nothing here is signed" in done.stderr


def test_a_file_that_holds_no_key_is_refused(signed, copy, tmp_path):
    server = signed[0]
    for text, what in ((b"", b"no public key"), (b"-----BEGIN PUBLIC KEY-----\nx\n", b"no public")):
        path = tmp_path / "bad.pem"
        path.write_bytes(text)
        assert what in verify(server, copy, "--key", str(path), status=2).stderr
    verify(server, copy, "--key", str(tmp_path / "missing.pem"), status=2)
    rsa = tmp_path / "rsa.pem"
    made = subprocess.run(["openssl", "genrsa", "2048"], check=True, capture_output=True).stdout
    subprocess.run(["openssl", "rsa", "-pubout", "-out", rsa], input=made, check=True,
                   capture_output=True)
    assert b"P-256" in verify(server, copy, "--key", str(rsa), status=2).stderr


def test_a_cut_off_end_shows_against_the_live_head(signed, copy):
    server, key = signed
    url = f"https://localhost:{server.port}"
    verify(server, server.audit_dir, "--against", url, "--key", str(key))
    path = sorted(copy.glob("*.jsonl"))[-1]
    lines = path.read_bytes().split(b"\n")[:-1]
    path.write_bytes(b"\n".join(lines[:-1]) + b"\n")
    verify(server, copy)
    done = verify(server, copy, "--against", url, status=UNVERIFIED)
    assert b"the end was cut off" in done.stderr


def test_a_log_that_differs_from_the_live_head_shows(signed, copy):
    server = signed[0]
    url = f"https://localhost:{server.port}"
    last = server.http("admin-1").status()["audit"]["sequence"]

    def forge(record):
        if record["seq"] == last:
            record["version" if record["type"] == "open" else "pid"] = 1

    rechain(copy, forge)
    done = verify(server, copy, "--against", url, status=UNVERIFIED)
    assert b"the server says" in done.stderr


def test_the_log_of_another_node_is_not_compared_with_this_one(signed, make_server):
    other = make_server()
    other.settings["node"] = "node-2"
    other.write_config()
    other.init().start()
    done = verify(signed[0], signed[0].audit_dir, "--against", f"https://localhost:{other.port}",
                  status=UNVERIFIED)
    assert b"this is the log of node node-1" in done.stderr


def test_a_clean_stop_and_a_start_leave_signed_ends(own):
    wait_for_key(own)
    with own.http("app") as app:
        app.wrap(b"x")
    own.stop()
    records = own.audit_records()
    last = [r for r in records if r["type"] == "checkpoint"][-1]
    assert records[-1]["type"] == "close" and records[-1]["seq"] - last["at"] <= 3


def test_the_last_checkpoint_is_told_by_the_status(signed):
    server = signed[0]
    wait_for(lambda: server.http("admin-1").status()["audit"]["checkpoint"], "a checkpoint", 30)
    told = server.http("admin-1").status()["audit"]["checkpoint"]
    by_sequence = {r["seq"]: r["hash"] for r in server.audit_records()}
    assert by_sequence[told["sequence"]] == told["head"]


def test_without_the_key_in_the_token_the_service_goes_on_and_says_so(own):
    wait_for_key(own)
    own.stop()
    for kind in ("privkey", "pubkey"):
        for line in own.pkcs11_tool("--list-objects", "--type", kind).splitlines():
            if line.strip().startswith("ID:"):
                own.pkcs11_tool("--delete-object", "--type", kind, "--id", line.split()[1])
    own.start()
    with own.http("app") as app:
        app.unwrap(app.wrap(b"still served"))
    with own.http("admin-1") as admin:
        wait_for(lambda: admin.status()["audit"]["signing"]["state"] == "missing",
                 "the status says so", 30)
        assert "token's backup" in admin.status()["audit"]["signing"]["reason"]
    assert b"NOT SIGNED" in own.kekctl("status").stdout
    assert any("not signed" in w for w in own.health()[1]["warnings"])
    assert "audit checkpoints are not signed" in own.log()
    verify(own, own.audit_dir)


def test_a_new_file_begins_with_a_checkpoint_for_the_end_of_the_one_before(own):
    with own.http("app") as app:
        for n in range(2):
            app.wrap(bytes([n]))
            files = len(own.audit_files())
            kill(own.process.pid, signal.SIGHUP)
            wait_for(lambda: len(own.audit_files()) == files + 1, "a new file")
            first = int(own.audit_files()[-1].rsplit("-", 1)[1].split(".")[0])
            wait_for(lambda: any(r["at"] >= first - 1 for r in checkpoints(own)),
                     "the end of the old file is signed", 5)


@pytest.mark.stress
def test_a_token_that_signs_slowly_holds_up_no_answer(make_server, tmp_path):
    faults = Faults(str(tmp_path))
    server = make_server(module=FAULTY_MODULE, environment=faults.environment)
    server.init().start().populate()
    wait_for_key(server)
    faults.set("C_Sign delay 1500")
    before, slowest, end = len(checkpoints(server)), 0, time.monotonic() + 30
    with server.http("app") as app:
        while len(checkpoints(server)) == before and time.monotonic() < end:
            start = time.monotonic()
            app.wrap(b"x")
            slowest = max(slowest, time.monotonic() - start)
            time.sleep(0.02)
    faults.set()
    assert len(checkpoints(server)) > before
    assert slowest < 1.2, slowest
