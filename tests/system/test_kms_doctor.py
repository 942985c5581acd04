# SPDX-License-Identifier: Apache-2.0
"""kekd-kms doctor: each fault that it names is made, and found; whatever is down, it comes to an
end, with the next step for each line that is not well."""

import contextlib
import datetime
import glob
import http.server
import json
import os
import pty
import shutil
import socket
import subprocess
import threading
from concurrent import futures

import pytest

from kekd import FAULTY_MODULE, PATIENCE, TOOLS, USER, Faults, free_port, suspended, wait_for
from kms import GRANTS, PROVIDER, SERVICE, TYPES, grpc
from pki import Authority, replace, spiffe
from test_store_seal import edited_key

WELL = {"configuration", "state_dir", "announced", "socket", "socket-mode", "status", "metrics",
        "certificate", "certificate-expiry", "ca"}
ENDPOINT = {"connection", "clock", "identity", "node", "key", "wrap", "unwrap"}


@pytest.fixture(scope="module")
def running(server, make_shared_plugin):
    """For tests that do it no harm."""
    return make_shared_plugin(server).start()


@pytest.fixture
def stopped(server, make_plugin):
    """For tests that change its files: not started."""
    return make_plugin(server, metrics=False)


def doctor(plugin, *options, environment=None, status=None):
    """Its answer; the exit status is held against it."""
    if environment:
        plugin.environment = {**plugin.environment, **environment}
    got, text = plugin.run("doctor", "-o", "json", *options)
    answer = json.loads(text)
    levels = [c["level"] for c in answer["checks"]]
    assert answer["faults"] == levels.count("fault"), answer
    assert answer["warnings"] == levels.count("warning"), answer
    assert got == (1 if answer["faults"] else 3 if answer["warnings"] else 0), text
    for check in answer["checks"]:
        assert check["text"] and "\n" not in check["text"], check
        assert check["level"] == "ok" or check["remedy"], check
    return answer


def calm(plugin, *options):
    """Its answer without a word against anything, once this host is not slow."""
    def answer():
        found = doctor(plugin, *options)
        return None if found["faults"] or found["warnings"] else found
    return wait_for(answer, "all is well")


def found(answer, name, level="fault"):
    """The text and the remedy of the one line that it is about."""
    lines = [c for c in answer["checks"] if c["check"] == name and c["level"] == level]
    assert lines, f"no {level} {name} in " + json.dumps(answer, indent=1)
    return lines[0]["text"] + " | " + (lines[0]["remedy"] or "")


def well(answer):
    return {c["check"] for c in answer["checks"] if c["level"] == "ok"}


def without_settings(plugin, **settings):
    plugin.settings.update(settings)
    plugin.write_config()


# ---- all is well ----

def test_where_all_is_well_every_line_says_so(running):
    answer = calm(running)
    assert well(answer) == WELL | ENDPOINT | {"grants"}
    endpoints = {c["endpoint"] for c in answer["checks"] if c["check"] in ENDPOINT}
    assert endpoints == {f"https://127.0.0.1:{running.at.port}"}
    assert spiffe(running.name) in found(answer, "identity", "ok")
    assert running.stub().key_id() in found(answer, "status", "ok")


def test_people_get_a_line_for_each_check_and_the_end(running):
    status, text = wait_for(lambda: (run := running.run("doctor"))[0] == 0 and run, "all is well")
    assert status == 0 and text.endswith("\nAll is well.\n")
    assert all(len(line) <= 96 for line in text.splitlines() if "://" not in line)
    assert f"\nhttps://127.0.0.1:{running.at.port}\n" in text
    assert text.count("\nok ") + text.count("  ok ") >= 17


def test_both_nodes_of_a_pair_are_asked_and_read_each_other(make_pair, make_plugin):
    pair = make_pair().start()
    plugin = make_plugin(pair).start()
    answer = doctor(plugin)
    assert answer["faults"] == 0, answer
    texts = [c["text"] for c in answer["checks"] if c["check"] == "node"]
    assert sorted(t.startswith("ready, and active") for t in texts) == [False, True], texts
    assert "another endpoint" in found(answer, "unwrap-other", "ok")
    pair.nodes[1].stop()
    answer = doctor(plugin)
    assert answer["faults"] == 1, answer
    assert "other endpoints" in found(answer, "connection")
    assert pair.nodes[1].url in {c["endpoint"] for c in answer["checks"]
                                 if c["level"] == "fault"}


# ---- this host ----

def test_a_faulty_configuration_is_all_that_can_be_told(stopped):
    stopped.write_config("provider: kekd\nendpoints: [http://x]\n")
    answer = doctor(stopped)
    assert {c["check"] for c in answer["checks"]} == {"configuration"}
    assert "kekd-kms.yaml:" in found(answer, "configuration")
    assert any("cluster is missing" in c["text"] for c in answer["checks"])


def test_a_state_dir_that_is_missing_or_open_is_found(stopped):
    os.chmod(stopped.path("state"), 0o777)
    assert "0700" in found(doctor(stopped), "state_dir", "warning")
    os.rmdir(stopped.path("state"))
    assert "StateDirectory" in found(doctor(stopped), "state_dir")


def test_a_state_dir_that_its_user_cannot_write_is_found(stopped, root):
    """Also by root, who can."""
    shutil.chown(stopped.path("state"), USER, USER)
    os.chmod(stopped.path("state"), 0o500)
    text = found(doctor(stopped), "state_dir")
    assert f"its owner, {USER}, cannot write" in text and "0700" in text
    os.chmod(stopped.path("state"), 0o700)
    assert "state_dir" in well(doctor(stopped))


def test_a_state_dir_that_another_user_owns_is_found(stopped, root):
    os.chmod(stopped.dir, 0o755)
    for name in ("client.pem", "client.key", "ca.pem"):
        shutil.chown(stopped.path(name), USER, USER)
    stopped.wrapper = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
    os.mkdir(stopped.path("gcov"))  # where a build for gcov can write its data as that user
    shutil.chown(stopped.path("gcov"), USER, USER)
    text = found(doctor(stopped, environment={"GCOV_PREFIX": stopped.path("gcov")}), "state_dir")
    assert "cannot be written" in text and "Give it to the plugin's user" in text


def test_a_damaged_announced_file_is_found(stopped):
    with open(stopped.path("state", "announced"), "w", encoding="ascii") as f:
        f.write("{}")
    assert "announced" in found(doctor(stopped), "announced")


def test_a_socket_that_is_missing_stale_or_none_is_told_apart(stopped):
    assert "systemctl start" in found(doctor(stopped), "socket")
    stopped.start()
    stopped.kill()
    text = found(doctor(stopped), "socket")
    assert "nobody listens" in text and "left it behind" in text
    os.unlink(stopped.socket)
    with open(stopped.socket, "w", encoding="ascii"):
        pass
    assert "is no socket" in found(doctor(stopped), "socket")


def test_a_socket_that_others_can_take_is_found(stopped):
    stopped.start()
    os.chmod(stopped.socket, 0o666)
    assert "everybody may connect" in found(doctor(stopped), "socket-mode")
    os.chmod(stopped.socket, 0o660)
    assert "0660" in found(doctor(stopped), "socket-mode", "warning")
    os.chmod(stopped.dir, 0o777)
    assert "put a socket of their own" in found(doctor(stopped), "socket-directory")


def test_a_socket_of_another_user_than_is_configured_is_found(stopped, root):
    stopped.start()
    without_settings(stopped, socket={"path": stopped.socket, "owner": "root"})
    shutil.chown(stopped.socket, USER, USER)
    text = found(doctor(stopped), "socket-mode", "warning")
    assert f"of {USER}:{USER}, other than" in text and "kekd-kms.socket" in text


def test_a_process_of_somebody_else_at_the_socket_is_named(stopped):
    with stopped.listen():
        text = found(doctor(stopped), "socket", "warning")
    assert f"(pid {os.getpid()}, user " in text and "neither kekd-kms nor systemd" in text
    assert f"ls -l /proc/{os.getpid()}/exe" in text


def test_a_service_manager_of_any_name_may_hold_the_socket(server, make_plugin):
    plugin = make_plugin(server, metrics=False)
    with plugin.listen() as listener:
        plugin.listener = listener
        plugin.start()
        plugin.listener = None  # for the doctor, who is given none
        assert "socket" in well(doctor(plugin))


def test_a_listener_that_never_answers_does_not_hold_it_up(stopped):
    with stopped.listen():
        text = found(doctor(stopped), "status")
        assert "gRPC status 4" in text or "no answer" in text, text


@contextlib.contextmanager
def answering(plugin, status):
    """Another program at the socket, that answers Status with these bytes."""
    handler = grpc.unary_unary_rpc_method_handler(lambda request, context: status)
    server = grpc.server(futures.ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE, {"Status": handler}),))
    assert server.add_insecure_port("unix:" + plugin.socket)
    server.start()
    try:
        yield
    finally:
        server.stop(None).wait()


def test_what_is_no_answer_to_status_is_told_from_one_that_is_not_well(stopped):
    with answering(stopped, b"\xff\xff"):
        assert "the answer is no StatusResponse" in found(doctor(stopped), "status")
    for fields in ({"version": "v1beta1", "healthz": "ok"}, {"version": "v2", "healthz": "no"},
                   {"version": "v2" * 200, "healthz": "ok"}, {}):
        answer = TYPES["StatusResponse"](key_id="x", **fields).SerializeToString()
        with answering(stopped, answer):
            text = found(doctor(stopped), "status")
        assert 'version "' + fields.get("version", "")[:8] in text, text
        assert "Is it kekd-kms that listens there?" in text


def test_what_speaks_no_grpc_is_told(stopped):
    with stopped.listen() as listener:
        def hang_up():
            with contextlib.suppress(OSError):
                while True:
                    listener.accept()[0].close()
        threading.Thread(target=hang_up, daemon=True).start()
        text = found(doctor(stopped), "status")
        listener.shutdown(socket.SHUT_RDWR)
    assert "Status is an error: " in text and "gRPC status 14" in text


def test_an_error_of_status_is_told_with_its_reason(server, make_plugin):
    plugin = make_plugin(server).start()
    plugin.grant("wrap", "key.read")
    plugin.wait_sick()
    answer = doctor(plugin)
    assert "Decrypt: kekd refuses" in found(answer, "status")
    assert f"may not unwrap on key {plugin.key}" in found(answer, "grants")
    assert "forbidden" in found(answer, "unwrap")


def test_a_plugin_with_another_state_dir_is_found(stopped):
    stopped.start()
    announced = json.loads(open(stopped.path("state", "announced"), encoding="ascii").read())
    os.mkdir(stopped.path("other"), 0o700)
    announced["key_id"] = announced["key_id"].rpartition(".")[0] + ".99"
    with open(stopped.path("other", "announced"), "w", encoding="ascii") as f:
        json.dump(announced, f)
    without_settings(stopped, state_dir=stopped.path("other"))
    answer = doctor(stopped)
    assert "another state_dir" in found(answer, "status", "warning")
    assert ".99 was announced" in found(answer, "key-id", "warning")


def test_metrics_of_nobody_and_of_somebody_else_are_found(stopped):
    port = free_port()
    without_settings(stopped, metrics=f"127.0.0.1:{port}")
    assert "does the plugin run" in found(doctor(stopped), "metrics", "warning").lower()
    other = http.server.HTTPServer(("127.0.0.1", port), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=other.serve_forever, daemon=True).start()
    try:
        assert "Another program" in found(doctor(stopped), "metrics", "warning")
    finally:
        other.shutdown()
        other.server_close()


def test_metrics_on_a_unix_socket_are_asked_there(stopped):
    without_settings(stopped, metrics="unix:" + stopped.path("metrics.sock"))
    assert stopped.path("metrics.sock") in found(doctor(stopped), "metrics", "warning")
    stopped.start()
    assert "metrics.sock answers" in found(doctor(stopped), "metrics", "ok")


def test_a_report_that_cannot_be_written_is_a_failure(running):
    """As on a full disk."""
    calm(running)
    for words in (("doctor",), ("doctor", "-o", "json"), ("--help",), ("--version",)):
        with open("/dev/full", "w", encoding="ascii") as full:
            done = subprocess.run(running.command(*words), check=False, stdout=full,
                                  stderr=subprocess.PIPE, text=True, timeout=PATIENCE)
        assert done.returncode == 1, (words, done)
        assert done.stderr.endswith("kekd-kms: cannot write to standard output: make room there, "
                                    "or give another place\n"), (words, done)


# ---- certificates ----

def hours(n):
    return datetime.timedelta(hours=n)


def test_a_certificate_that_is_no_good_is_found_before_kekd_refuses_it(stopped, pki):
    def installed(name, **options):
        stopped.install(pki.client(f"{stopped.name}-{name}", **options))
        return doctor(stopped)

    answer = installed("old", first=hours(-9), last=hours(-1))
    assert "it expired at" in found(answer, "certificate-expiry")
    assert "certificate_expired" in found(answer, "identity")
    answer = installed("new", first=hours(1), last=hours(9))
    assert "not valid before" in found(answer, "certificate-expiry")
    answer = installed("soon", first=hours(-90), last=hours(2))
    assert "it expires at" in found(answer, "certificate-expiry", "warning")
    answer = installed("server", eku="serverAuth")
    assert "clientAuth" in found(answer, "certificate-purpose")
    assert "certificate_purpose" in found(answer, "identity")


def test_a_certificate_that_was_revoked_is_found(make_server, make_plugin, pki, tmp_path):
    ca = Authority(str(tmp_path / "ca"), "Own CA")
    server = make_server()
    server.settings["crl"] = {"file": server.path("clients.crl")}
    server.write_config()
    with open(ca.pem, "rb") as own, open(pki.ca.pem, "rb") as usual:
        replace(server.path("ca.pem"), usual.read() + own.read())
    plugin_certificate = ca.issue("plugin", "URI:" + spiffe("revoked"))
    ca.revoke(plugin_certificate.pem)
    pki.ca.crl(server.path("clients.crl"), others=(ca,))
    server.init().start().populate()
    plugin = make_plugin(server, metrics=False, name="revoked")
    plugin.install(plugin_certificate)
    text = found(doctor(plugin), "identity")
    assert "certificate_revoked" in text and "Have another one issued" in text


def test_a_node_whose_certificate_lacks_its_name_is_found(own, make_plugin, pki):
    plugin = make_plugin(own, metrics=False)
    other = pki.ca.issue("elsewhere", "DNS:elsewhere.example.org", eku="serverAuth")
    own.stop()
    for source, name in ((other.pem, "server.pem"), (other.key, "server.key")):
        with open(source, "rb") as f:
            replace(own.path(name), f.read())
    own.start(ready=False)
    wait_for(lambda: "connection" in {
        c["check"] for c in doctor(plugin)["checks"] if "name" in c["text"]}, "it serves", 30)
    text = found(doctor(plugin), "connection")
    assert "'127.0.0.1'" in text and "it must name this host" in text, text


def test_files_that_do_not_belong_together_or_hold_nothing_are_found(stopped, pki):
    shutil.copy(pki.clients["other"].key, stopped.path("client.key"))
    os.chmod(stopped.path("client.key"), 0o600)
    answer = doctor(stopped)
    assert "is not the key of" in found(answer, "certificate")
    assert found(answer, "connection")
    with open(stopped.path("client.pem"), "w", encoding="ascii") as f:
        f.write("nothing\n")
    assert "holds no certificate" in found(doctor(stopped), "certificate")
    stopped.install(stopped.certificate)
    with open(stopped.path("client.key"), "w", encoding="ascii") as f:
        f.write("nothing\n")
    assert "holds no key" in found(doctor(stopped), "certificate")
    stopped.install(stopped.certificate)
    with open(stopped.path("ca.pem"), "w", encoding="ascii") as f:
        f.write("nothing\n")
    assert "holds no certificate" in found(doctor(stopped), "ca")


def with_passphrase(key):
    """No secret of anybody's."""
    subprocess.run(["openssl", "pkey", "-in", key, "-aes256", "-passout", "pass:of-the-test",
                    "-out", key + ".new"], check=True, capture_output=True)
    os.chmod(key + ".new", 0o600)
    os.rename(key + ".new", key)


def on_a_terminal(plugin, *words):
    """What it shows on a terminal that is its own, where nobody types: (exit status, text)."""
    pid, terminal = pty.fork()
    if pid == 0:
        try:
            os.execv(plugin.command()[0], plugin.command(*words))
        finally:
            os._exit(127)
    watchdog = threading.Timer(PATIENCE, os.kill, (pid, 9))
    watchdog.start()
    shown = b""
    try:
        with contextlib.suppress(OSError):  # EIO: it ended
            while piece := os.read(terminal, 65536):
                shown += piece
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown.decode()
    finally:
        watchdog.cancel()
        os.close(terminal)


def test_a_key_with_a_passphrase_is_found_and_nobody_is_asked_for_it(stopped):
    with_passphrase(stopped.path("client.key"))
    answer = doctor(stopped)
    text = found(answer, "certificate")
    assert "client.key holds no key that can be used" in text and "without a passphrase" in text
    assert "unable to set private key file" in found(answer, "connection")
    status, shown = on_a_terminal(stopped, "doctor")
    assert status == 1 and "pass phrase" not in shown and "3 faults, 0 warnings." in shown, shown


def test_a_plugin_whose_key_has_a_passphrase_says_so_and_takes_one_without(stopped):
    with_passphrase(stopped.path("client.key"))
    stopped.start(ready=False)
    text = stopped.wait_sick(about="certificate or key")
    assert "cannot be used" in text
    assert "connection" in {c["check"] for c in doctor(stopped)["checks"]}
    stopped.install(stopped.certificate)
    stopped.wait_ready()


def test_a_certificate_that_names_nobody_is_a_warning_and_a_dns_name_is_somebody(stopped, pki):
    for san in (None, "email:plugin@example.org"):
        stopped.install(pki.ca.issue(f"{stopped.name}-{bool(san)}", san))
        answer = doctor(stopped)
        text = found(answer, "certificate", "warning")
        assert "names nobody" in text and "one URI or DNS name" in text
        assert "certificate_identity" in found(answer, "identity")
    stopped.install(pki.ca.issue(stopped.name + "-dns", "email:x@example.org,DNS:kms.example.org"))
    assert "dns:kms.example.org" in found(doctor(stopped), "certificate", "ok")


def test_a_ca_that_has_expired_is_found_and_beside_a_good_one_is_a_warning(stopped, pki):
    old = pki.ca.issue(stopped.name + "-old-ca", "DNS:x", first=hours(-9), last=hours(-1))
    with open(old.pem, "rb") as f, open(pki.ca.pem, "rb") as good:
        expired, both = f.read(), good.read()
    replace(stopped.path("ca.pem"), expired)
    text = found(doctor(stopped), "ca")
    assert "1 of 1 certificates" in text and "Put the CA's new certificate there" in text
    replace(stopped.path("ca.pem"), both + expired)
    answer = doctor(stopped)
    assert "1 of 2 certificates" in found(answer, "ca", "warning")
    assert "connection" in well(answer)


def test_a_ca_that_did_not_issue_kekds_certificate_is_found(stopped, tmp_path):
    other = Authority(str(tmp_path / "ca"), "Another CA")
    shutil.copy(other.pem, stopped.path("ca.pem"))
    text = found(doctor(stopped), "connection")
    assert "certificate is not accepted" in text and '"ca" must hold' in text


def test_files_that_the_plugins_user_cannot_read_are_found(stopped, root):
    shutil.chown(stopped.path("state"), USER, USER)
    os.chmod(stopped.dir, 0o755)
    os.chmod(stopped.path("client.pem"), 0o644)
    text = found(doctor(stopped), "readable")
    assert f"client.key cannot be read by user {USER}" in text and "chgrp" in text
    shutil.chown(stopped.path("client.key"), "root", USER)
    os.chmod(stopped.path("client.key"), 0o640)
    assert "readable" not in {c["check"] for c in doctor(stopped)["checks"]}
    # What lies in a directory that is closed to it.
    os.mkdir(stopped.path("kms"), 0o700)
    for name in ("ca.pem", "client.pem"):
        shutil.copy(stopped.path(name), stopped.path("kms", name))
    without_settings(stopped, certificate=stopped.path("kms", "client.pem"))
    text = found(doctor(stopped), "readable")
    assert "kms/client.pem cannot be read" in text and "directories above it" in text


# ---- endpoints ----

def test_names_that_nobody_knows_and_ports_where_nobody_listens_are_told_apart(stopped):
    good = stopped.settings["endpoints"][0]
    nobody = f"https://127.0.0.1:{free_port()}"
    without_settings(stopped, endpoints=["https://nowhere.invalid:7373", nobody, good])
    answer = doctor(stopped)
    assert "nowhere.invalid" in found(answer, "name")
    assert "cannot connect" in found(answer, "connection")
    assert ENDPOINT <= {c["check"] for c in answer["checks"]
                        if c["endpoint"] == good and c["level"] == "ok"}
    named = good.replace("127.0.0.1", "localhost")
    without_settings(stopped, endpoints=[named])
    assert "127.0.0.1" in found(doctor(stopped), "name", "ok")


def test_a_kekd_that_hangs_costs_a_timeout_and_no_more(own, make_plugin):
    plugin = make_plugin(own, timeout="500ms")
    with suspended(*own.family()):
        assert "no answer in time" in found(doctor(plugin), "connection")


def test_a_node_that_is_not_ready_is_told_with_its_reasons(own, make_plugin):
    plugin = make_plugin(own, metrics=False)
    with suspended(*own.workers()):
        wait_for(lambda: any(c["check"] == "node" and c["level"] == "warning"
                             for c in doctor(plugin)["checks"]), "the node is not ready", 60)
        assert "not ready: " in found(doctor(plugin), "node", "warning")


def test_a_certificate_of_a_ca_that_kekd_does_not_know_is_found(stopped, tmp_path):
    other = Authority(str(tmp_path / "ca"), "Another CA")
    stopped.install(other.issue(stopped.name, "URI:" + spiffe(stopped.name)))
    text = found(doctor(stopped), "identity")
    assert "certificate_untrusted" in text and "tls.client_ca" in text


def test_what_is_no_kekd_is_found(stopped):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()

        def answer_plainly():
            with contextlib.suppress(OSError):
                while True:
                    c, _ = s.accept()
                    c.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                    c.close()
        threading.Thread(target=answer_plainly, daemon=True).start()
        without_settings(stopped, endpoints=[f"https://127.0.0.1:{s.getsockname()[1]}"])
        assert "is it kekd" in found(doctor(stopped), "connection").lower()


def test_a_client_that_kekd_does_not_know_is_told_what_to_add(server, make_plugin):
    plugin = make_plugin(server, record=False, metrics=False)
    text = found(doctor(plugin), "identity")
    assert "unknown_client" in text and "kekctl client add" in text


@pytest.mark.parametrize("missing", GRANTS)
def test_a_grant_that_is_missing_is_named_with_the_command(stopped, missing):
    stopped.grant(*(g for g in GRANTS if g != missing))
    text = found(doctor(stopped), "grants")
    assert f"may not {missing} on key" in text
    command, _, _ = text.partition("kekctl ")[2].partition(" gives ")
    stopped.at.kekctl(*command.split())
    assert "grants" in well(doctor(stopped))


def test_grants_beyond_the_three_are_a_warning(server, make_plugin):
    plugin = make_plugin(server, metrics=False)
    plugin.grant(*GRANTS, "generate", "key.rotate")
    text = found(doctor(plugin), "grants", "warning")
    assert "generate,key.rotate" in text or "key.rotate,generate" in text
    with server.http("admin-1") as admin:
        etag = admin.ok("GET", f"/v1/clients/{plugin.name}").etag
        admin.ok("PUT", f"/v1/clients/{plugin.name}",
                 {"identities": ["uri:" + spiffe(plugin.name)],
                  "grants": [{"keys": "*", "operations": list(GRANTS)}]}, etag=etag)
    assert "*:" in found(doctor(plugin), "grants", "warning")


def test_a_clock_that_is_off_is_a_warning(running):
    library = next(iter(glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")), None)
    if library is None or TOOLS:
        pytest.skip("needs faketime, without sanitizers")
    before = running.environment
    try:
        answer = doctor(running, environment={"LD_PRELOAD": library, "FAKETIME": "+90s"})
    finally:
        running.environment = before
    assert "behind this host's" in found(answer, "clock", "warning")


# ---- the key ----

def test_a_key_that_is_not_there_is_found(server, make_plugin):
    plugin = make_plugin(server, metrics=False)
    without_settings(plugin, key="forgotten")
    with server.http("admin-1") as admin:
        etag = admin.ok("GET", f"/v1/clients/{plugin.name}").etag
        admin.ok("PUT", f"/v1/clients/{plugin.name}",
                 {"identities": ["uri:" + spiffe(plugin.name)],
                  "grants": [{"keys": "forgotten", "operations": list(GRANTS)}]}, etag=etag)
    text = found(doctor(plugin), "key")
    assert "key_not_found" in text and "kekctl key create" in text


def test_a_frozen_key_is_found_by_its_record_and_by_wrapping(server, make_plugin):
    plugin = make_plugin(server, key="icy", metrics=False)
    with server.http("admin-1") as admin:
        etag = admin.ok("GET", "/v1/keys/icy").etag
        admin.ok("PATCH", "/v1/keys/icy", {"frozen": True}, etag=etag)
    answer = doctor(plugin)
    assert "frozen" in found(answer, "key") and "unfreeze" in found(answer, "key")
    assert "frozen" in found(answer, "wrap")


def test_a_key_whose_creation_broke_off_is_found(make_server, make_plugin, tmp_path):
    """It has no primary version, and kekd does not show it before it has one."""
    faults = Faults(str(tmp_path))
    server = make_server(module=FAULTY_MODULE, environment=faults.environment)
    server.init().start().populate()
    plugin = make_plugin(server, metrics=False, record=False)
    with server.http("admin-1") as admin:
        faults.set("C_GenerateKey return CKR_DEVICE_MEMORY")
        assert admin.call("POST", "/v1/keys", {"name": plugin.key}).status >= 400
        faults.set()
        admin.put_client(plugin.name, ["uri:" + spiffe(plugin.name)],
                         [{"keys": plugin.key, "operations": list(GRANTS)}])
    text = found(doctor(plugin), "key")
    assert "key_not_found" in text and f"kekctl key create {plugin.key}," in text
    server.kekctl("key", "create", plugin.key)
    assert {"key", "wrap", "unwrap"} <= well(doctor(plugin))


def test_a_token_that_is_slow_is_a_warning_in_either_direction(make_server, make_plugin, tmp_path):
    faults = Faults(str(tmp_path))
    server = make_server(module=FAULTY_MODULE, environment=faults.environment)
    plugin = make_plugin(server.init().start().populate(), metrics=False)
    faults.set("C_EncryptInit,C_DecryptInit delay 200")
    answer = doctor(plugin)
    for check in ("wrap", "unwrap"):
        assert "within 100 ms" in found(answer, check, "warning")


def test_a_record_whose_seal_does_not_verify_is_a_warning(own, make_plugin):
    """The one before stays in force, and both directions work."""
    plugin = make_plugin(own, key="demo", metrics=False)
    edited_key(own)
    with own.http("admin-1") as admin:
        wait_for(lambda: admin.ok("GET", "/v1/keys/demo").json["refused"], "it is noticed")
    answer = doctor(plugin)
    text = found(answer, "key", "warning")
    assert "seal does not verify" in text and "kekctl status" in text
    assert {"wrap", "unwrap"} <= well(answer)


def test_a_primary_version_that_its_token_lacks_is_found(own, make_plugin):
    plugin = make_plugin(own, metrics=False)
    with own.http("admin-1") as admin:
        lost = admin.key(plugin.key)["versions"][0]["id"].replace("-", "")
    own.stop()
    own.pkcs11_tool("--delete-object", "--type", "secrkey", "--id", lost)
    own.start()
    text = found(doctor(plugin), "wrap")
    assert "key_object_missing" in text and f"kekctl key rotate {plugin.key}" in text
    with own.http("admin-1") as admin:
        wait_for(lambda: admin.status()["versions"]["failed"] == 1, "it is noticed")
    assert "ready, but: " in found(doctor(plugin), "node", "warning")


# ---- endpoints that disagree ----

def test_nodes_of_two_clusters_are_found(server, own, make_plugin):
    """Both know the client and a key of this name."""
    plugin = make_plugin(server, metrics=False,
                         endpoints=[f"https://127.0.0.1:{s.port}" for s in (server, own)])
    with own.http("admin-1") as admin:
        admin.create_key(plugin.key)
        admin.put_client(plugin.name, ["uri:" + spiffe(plugin.name)],
                         [{"keys": plugin.key, "operations": list(GRANTS)}])
    answer = doctor(plugin)
    assert "another endpoint" in found(answer, "key-id", "warning")
    assert "two clusters" in found(answer, "key-id", "warning")
    text = found(answer, "unwrap-other")
    assert "unwrap_failed" in text and "name the nodes of one cluster" in text
    assert {c["endpoint"] for c in answer["checks"] if c["endpoint"] and c["level"] != "ok"} == {
        f"https://127.0.0.1:{own.port}"}


def test_a_node_with_an_older_store_than_was_announced_is_found(own, make_plugin):
    """As after a restore of a backup from before the last rotation."""
    plugin = make_plugin(own, metrics=False).start()
    with own.http("admin-1") as admin:
        before = admin.key(plugin.key)["kms_key_id"]
        own.stop()
        shutil.copytree(own.path("state"), own.path("state.before"), dirs_exist_ok=True)
        own.start()
    with own.http("admin-1") as admin:
        admin.rotate(plugin.key)
        after = admin.key(plugin.key)["kms_key_id"]
    with plugin.stub(kept=False) as stub:
        wait_for(lambda: stub.healthy() and stub.key_id() == after, "it is announced")
    own.stop()
    shutil.rmtree(own.path("state"))
    os.rename(own.path("state.before"), own.path("state"))
    own.start()
    text = found(doctor(plugin), "key-id", "warning")
    assert f"it has {before}, and {after} was announced" in text and "kekctl key rotate" in text


# ---- the EncryptionConfiguration ----

def encryption(plugin, name, *resources, first=None):
    kms = {"kms": {"apiVersion": "v2", "name": name, "endpoint": "unix://" + plugin.socket}}
    path = plugin.path("encryption.json")
    with open(path, "w", encoding="ascii") as f:
        json.dump({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration",
                   "resources": [{"resources": list(resources),
                                  "providers": [*([first] if first else []), kms]}]}, f)
    return "--encryption-configuration", path


def test_an_encryption_configuration_is_held_against_the_plugin(running):
    check = "encryption-config"
    answer = calm(running, *encryption(running, PROVIDER, "secrets", "configmaps"))
    assert any("at this socket" in c["text"] for c in answer["checks"] if c["check"] == check)
    answer = doctor(running, *encryption(running, "kekd-2", "secrets", "configmaps"))
    texts = [c["text"] for c in answer["checks"] if c["check"] == check]
    assert any('calls it "kekd-2"' in t for t in texts)
    assert any("no entry has this plugin's provider" in t for t in texts)
    answer = doctor(running, *encryption(running, PROVIDER, "secrets", first={"identity": {}}))
    assert "written in plaintext" in found(answer, check, "warning")
    answer = doctor(running, *encryption(running, PROVIDER))
    assert "names no resources" in found(answer, check)
    answer = doctor(running, "--encryption-configuration", running.path("none"))
    assert "No such file" in found(answer, check)


def test_it_works_with_nothing_there_at_all(server, make_plugin):
    plugin = make_plugin(server, endpoints=[f"https://127.0.0.1:{free_port()}"])
    status, text = plugin.run("doctor")
    assert status == 1 and "\n2 faults, 1 warning.\n" in text, text
    assert "systemctl start" in text and "one endpoint is few" in text
