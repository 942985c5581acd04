# SPDX-License-Identifier: Apache-2.0
"""Certificates and settings change while connections are open and requests are under way."""

import datetime
import http.client
import os
import shutil
import signal
import socket
import ssl
import threading
import time

import pytest
from kekd import LONG, descriptors, kill, suspended, wait_for
from pki import FIRST, Authority, replace, spiffe
from test_certificates import code, read, wrap

SAN = "DNS:localhost,IP:127.0.0.1"
DAY = datetime.timedelta(days=1)


def hang_up(server):
    """SIGHUP, and what the server's status says of it."""
    before = server.http("admin-1").status()["reload"]
    kill(server.process.pid, signal.SIGHUP)

    def answered():
        with server.http("admin-1") as admin:
            now = admin.status()["reload"]
        return now if now != before else None

    return wait_for(answered, "the reload is answered")


def serial(server):
    """Of the certificate that a new connection gets."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(server.pki.ca.pem)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw:
        with context.wrap_socket(raw, server_hostname="localhost") as tls:
            return tls.getpeercert()["serialNumber"]


def new_server_certificate(server, **options):
    name = "server-" + os.urandom(4).hex()
    return server.pki.ca.issue(name, SAN, eku="serverAuth", **options)


def put(server, certificate):
    replace(server.path("server.pem"), read(certificate.pem))
    replace(server.path("server.key"), read(certificate.key))


class Load:
    """One client that wraps over one connection without a pause, and counts."""

    def __init__(self, server):
        self.server = server
        self.done = 0
        self.faults = []
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        with self.server.http("app") as h:
            h.connect().connect()
            sock = h.connection.sock
            while not self.stop.is_set():
                try:
                    reply = wrap(h)
                except (OSError, http.client.HTTPException) as e:
                    self.faults.append(repr(e))
                    return
                if reply.status != 200 or h.connection is None or h.connection.sock is not sock:
                    self.faults.append(repr(reply))
                self.done += 1

    def __enter__(self):
        self.thread.start()
        wait_for(lambda: self.done > 5 or self.faults, "the load runs")
        return self

    def __exit__(self, *exc):
        done = self.done
        wait_for(lambda: self.done > done + 5 or self.faults, "the load goes on")
        self.stop.set()
        self.thread.join()
        assert not self.faults, self.faults[:3]


# ---- files that change ----

def test_a_new_server_certificate_is_taken_without_dropping_a_connection(own):
    old = serial(own)
    with Load(own):
        for _ in range(3):
            put(own, new_server_certificate(own))
            wait_for(lambda: serial(own) != old, "new connections get the new certificate")
            old = serial(own)


def test_a_kubernetes_secret_is_followed_when_its_link_is_swapped(make_server):
    server = make_server()
    names = {"tls.crt": "server.pem", "tls.key": "server.key", "ca.crt": "ca.pem"}

    def version(name, certificate=None):
        os.mkdir(server.path(name))
        os.chmod(server.path(name), 0o755)
        for link, file in names.items():
            shutil.copy(server.path(file), server.path(name, link))
        if certificate:
            shutil.copy(certificate.pem, server.path(name, "tls.crt"))
            shutil.copy(certificate.key, server.path(name, "tls.key"))
            os.chmod(server.path(name, "tls.key"), 0o600)
        os.symlink(name, server.path("..data_tmp"))
        os.rename(server.path("..data_tmp"), server.path("..data"))

    version("..2026_01")
    for link in names:
        os.symlink(os.path.join("..data", link), server.path(link))
    server.settings["tls"] = {"certificate": server.path("tls.crt"),
                              "key": server.path("tls.key"), "client_ca": server.path("ca.crt")}
    server.write_config()
    server.init().start().populate()
    old = serial(server)
    with Load(server):
        version("..2026_02", new_server_certificate(server))
        wait_for(lambda: serial(server) != old, "the new secret is in force")


def test_a_half_written_certificate_and_a_foreign_key_are_not_taken(own):
    old = serial(own)
    new = new_server_certificate(own)
    with Load(own):
        with open(own.path("server.pem"), "wb") as f:
            f.write(read(new.pem)[:300])
        wait_for(lambda: "cannot be used" in own.log(), "it is told")
        assert serial(own) == old
        replace(own.path("server.pem"), read(new.pem))
        wait_for(lambda: "is not the key of" in own.log(), "it is told")
        assert serial(own) == old
        with own.http("admin-1") as admin:
            faults = admin.status()["certificates"]["faults"]
        assert len(faults) == 1 and "is not the key of" in faults[0]
        assert any("cannot be used" in w for w in own.health()[1]["warnings"])
        assert b"NOT TAKEN" in own.kekctl("status").stdout
        told = own.log().count("is not the key of")
        replace(own.path("server.key"), read(new.key))
        wait_for(lambda: serial(own) != old, "the pair is whole")
    assert own.log().count("is not the key of") == told == 1
    with own.http("admin-1") as admin:
        assert admin.status()["certificates"]["faults"] == []


def test_a_broken_crl_keeps_no_new_certificate_out(make_server):
    server = make_server()
    server.pki.ca.crl(server.path("clients.crl"))
    server.settings["crl"] = {"file": server.path("clients.crl")}
    server.write_config()
    server.init().start().populate()
    old = serial(server)
    replace(server.path("clients.crl"), b"-----BEGIN X509 CRL-----\nnonsense\n")
    wait_for(lambda: "crl.file has changed and cannot be used" in server.log(), "it is told")
    put(server, new_server_certificate(server))
    wait_for(lambda: serial(server) != old, "the certificate is taken")
    assert code(server, server.pki.clients["app"]) is None  # the last good CRL is in force


def test_open_connections_are_checked_against_a_new_crl(make_server, tmp_path):
    server = make_server()
    ca = Authority(str(tmp_path / "ca"), "Own CA")
    replace(server.path("ca.pem"), read(server.pki.ca.pem) + read(ca.pem))
    crl = server.path("clients.crl")
    server.pki.ca.crl(crl, others=[ca])
    server.settings["crl"] = {"file": crl}
    server.write_config()
    server.init().start().populate()
    app = ca.issue("app", "URI:" + spiffe("app"))
    with Load(server), server.http(certificate=app) as busy, server.http(certificate=app) as idle:
        assert wrap(busy).status == 200 and wrap(idle).status == 200
        ca.revoke(app.pem)
        server.pki.ca.crl(crl, others=[ca])
        reply = wait_for(lambda: (r := wrap(busy)).status != 200 and r, "the client is out",
                         every=0.2)
        assert (reply.status, reply.code) == (401, "certificate_revoked")
        assert reply.headers["Connection"].lower() == "close"
        sock = idle.connection.sock
        assert wrap(idle).code == "certificate_revoked"
        assert sock.fileno() == -1 or sock.recv(1) == b""


def test_a_ca_is_rolled_over_without_an_outage(own, tmp_path):
    new = Authority(str(tmp_path / "new"), "New CA")
    app = new.issue("app", "URI:" + spiffe("app"))
    admin = new.issue("admin-1", "URI:" + spiffe("admin-1"))
    old = own.pki.clients["app"]
    assert code(own, app) == "certificate_untrusted"
    with Load(own):
        replace(own.path("ca.pem"), read(own.path("ca.pem")) + read(new.pem))
        wait_for(lambda: code(own, app) is None, "the new CA is trusted")
        assert code(own, old) is None
    with own.http("app") as h, own.http(certificate=app) as moved:
        assert wrap(h).status == 200 and wrap(moved).status == 200
        replace(own.path("ca.pem"), read(new.pem))
        reply = wait_for(lambda: (r := wrap(h)).status != 200 and r, "the old CA is gone",
                         every=0.2)
        assert reply.code == "certificate_untrusted"
        assert wrap(moved).status == 200
    with own.http(certificate=admin) as h:
        assert h.get("/v1/status").status == 200


# ---- SIGHUP ----

def test_the_deny_list_comes_into_force_on_sighup_also_on_open_connections(own):
    with own.http("app") as app, own.http("admin-1") as admin:
        assert wrap(app).status == 200
        own.settings["deny"] = ["uri:" + spiffe("app")]
        own.write_config()
        assert wrap(app).status == 200  # not before
        assert hang_up(own)["taken"]
        reply = wrap(app)
        assert (reply.status, reply.code) == (403, "identity_denied")
        assert own.audit_records(code="identity_denied", type="refused")
        assert admin.get("/v1/whoami").status == 200
        del own.settings["deny"]
        own.write_config()
        assert hang_up(own)["taken"]
        assert wrap(app).status == 200


def test_the_deny_list_works_while_the_control_thread_waits_for_the_token(own):
    """No store and no token is asked."""
    with suspended(*own.workers()):
        with own.http("admin-2") as changer, own.http("admin-1") as admin:
            changer.connect().request("POST", "/v1/keys", b'{"name": "waits"}', {
                "If-None-Match": "*", "Content-Type": "application/json"})
            own.settings["deny"] = ["uri:" + spiffe("app")]
            own.write_config()
            assert hang_up(own)["taken"]
            assert code(own, own.pki.clients["app"]) == "identity_denied"
            assert admin.get("/v1/status").status == 200


def test_sighup_takes_other_files_at_once_and_names_what_needs_a_restart(own):
    new = new_server_certificate(own)
    shutil.copy(new.pem, own.path("other.pem"))
    replace(own.path("other.key"), read(new.key))
    os.chmod(own.path("other.key"), 0o600)
    own.settings["tls"].update(certificate=own.path("other.pem"), key=own.path("other.key"))
    own.settings["hsm"]["deadline"] = "9s"
    own.settings["listen"] = [f"127.0.0.1:{own.port}", "127.0.0.2:" + str(own.port)]
    own.settings["admins"][0]["name"] = "somebody-else"
    own.write_config()
    old = serial(own)
    with Load(own):
        assert hang_up(own)["taken"]
        assert serial(own) != old
    log = own.log()
    assert "in force: tls.certificate, tls.key\n" in log
    assert "in force only after a restart: listen, hsm.deadline\n" in log
    assert "read by `kekd init` alone: admins\n" in log


@pytest.mark.parametrize("fault", ["yaml", "key", "crl"])
def test_a_bad_configuration_changes_nothing_and_is_told_with_its_line(own, fault):
    own.settings["deny"] = ["uri:" + spiffe("app")]
    if fault == "yaml":
        own.settings["nonsense"] = "x"
        wanted = "\"nonsense\" is not known"
    elif fault == "key":
        replace(own.path("foreign.key"), read(new_server_certificate(own).key))
        os.chmod(own.path("foreign.key"), 0o600)
        own.settings["tls"]["key"] = own.path("foreign.key")
        wanted = "is not the key of the certificate"
    else:
        own.settings["crl"] = {"file": own.path("missing.crl")}
        wanted = "missing.crl cannot be read"
    own.write_config()
    old = serial(own)
    with Load(own):
        status = hang_up(own)
        assert status["taken"] is False and wanted in status["fault"]
        assert "kekd.yaml:" in status["fault"]  # file and line
        assert serial(own) == old
        assert code(own, own.pki.clients["app"]) is None
    assert wanted in own.log() and "everything stays as it was" in own.log()
    assert any("reload was refused" in w for w in own.health()[1]["warnings"])
    assert b"REFUSED" in own.kekctl("status").stdout


def test_what_was_reloaded_is_in_force_when_kekd_net_starts_again(own):
    own.settings["deny"] = ["uri:" + spiffe("app")]
    own.settings["hsm"]["workers"] = 1  # not before a restart
    own.write_config()
    assert hang_up(own)["taken"]
    net = own.net()
    kill(net)
    wait_for(lambda: own.net() not in (None, net) and own.health()[0] == 200, "it is back")
    assert code(own, own.pki.clients["app"]) == "identity_denied"
    wait_for(lambda: len(own.workers()) == 2, "as many workers as before")


def test_a_kekd_net_that_dies_over_a_reload_does_not_get_it_again(own):
    own.settings["deny"] = ["uri:" + spiffe("app")]
    own.write_config()
    net = own.net()
    kill(net, signal.SIGSTOP)
    kill(own.process.pid, signal.SIGHUP)
    time.sleep(0.5)
    kill(net)
    wait_for(lambda: own.net() not in (None, net) and own.health()[0] == 200, "it is back")
    assert "kekd-net ended before it answered" in own.log()
    assert code(own, own.pki.clients["app"]) is None
    assert hang_up(own)["taken"]
    assert code(own, own.pki.clients["app"]) == "identity_denied"


def test_a_kekd_net_that_starts_while_a_certificate_is_replaced_waits_for_it(own):
    new = new_server_certificate(own)
    replace(own.path("server.pem"), read(new.pem))
    net = own.net()
    kill(net)
    wait_for(lambda: "is not the key of" in own.log(), "it does not start")
    assert own.process.poll() is None
    replace(own.path("server.key"), read(new.key))
    own.wait_ready()
    assert code(own, own.pki.clients["app"]) is None


def test_sighup_many_times_under_load_disturbs_nobody(own):
    def open_files():
        hang_up(own)
        return [len(descriptors(pid)) for pid in (own.process.pid, own.net())]

    with Load(own), Load(own):
        before = open_files() if os.getuid() == 0 else None
        for i in range(200 if LONG else 20):
            own.settings["deny"] = [f"dns:nobody-{i}.example"]
            own.write_config()
            kill(own.process.pid, signal.SIGHUP)
            time.sleep(0.02)
        hang_up(own)
        if before:
            wait_for(lambda: open_files() <= before, "all descriptors are closed again")
    assert own.process.poll() is None and own.net() is not None


def test_a_request_under_way_is_answered_through_a_reload(own):
    body = b'{"plaintext": "' + b"A" * 1000 + b'"}'
    with own.http("app") as h:
        connection = h.connect()
        connection.putrequest("POST", "/v1/keys/demo/wrap")
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body[:100])
        own.settings["deny"] = ["uri:" + spiffe("app")]
        own.write_config()
        assert hang_up(own)["taken"]
        connection.send(body[100:])
        assert connection.getresponse().status == 200
        connection.close()
    assert code(own, own.pki.clients["app"]) == "identity_denied"


def test_kekd_net_reloads_under_a_user_of_its_own(root, make_server):
    server = make_server(user=20001, hsm_user=20002).init().start().populate()
    put(server, new_server_certificate(server))
    old = serial(server)
    wait_for(lambda: serial(server) != old, "the certificate is taken")
    # A key that the user cannot read is refused before anything changes.
    new = new_server_certificate(server)
    replace(server.path("other.pem"), read(new.pem))
    replace(server.path("other.key"), read(new.key))
    os.chmod(server.path("other.key"), 0o600)
    server.settings["tls"].update(
        certificate=server.path("other.pem"), key=server.path("other.key"))
    server.write_config()
    old = serial(server)
    status = hang_up(server)
    assert not status["taken"] and "user 20001 cannot read" in status["fault"]
    assert serial(server) == old
    done = server.run("--check")
    assert done.returncode == 78 and "tls.key: user 20001 cannot read" in done.stdout
    os.chown(server.path("other.key"), 20001, 20001)
    assert server.run("--check").returncode == 0
    assert hang_up(server)["taken"]
    assert serial(server) != old


# ---- expiry ----

def test_what_ends_soon_is_told_in_log_health_and_status(own):
    put(own, new_server_certificate(own, first=-30 * DAY, last=5 * DAY))
    wait_for(lambda: "the server's certificate expires in 4 days" in own.log(), "the log tells")
    assert any("the server's certificate expires at" in w for w in own.health()[1]["warnings"])
    with own.http("admin-1") as admin:
        status = admin.status()["certificates"]
    assert status["server"]["state"] == "ends_in_a_week"
    assert status["client_ca"]["state"] == "valid" and status["crl"] is None
    assert b"SOON" in own.kekctl("status").stdout
    put(own, new_server_certificate(own, first=-30 * DAY, last=-DAY))
    wait_for(lambda: "the server's certificate has expired" in own.log(), "the log tells")
    assert own.log().count("the server's certificate expires in") == 1


def test_check_tells_of_an_expired_certificate_and_of_a_foreign_key(make_server):
    server = make_server()
    assert server.run("--check").returncode == 0
    put(server, new_server_certificate(server, first=FIRST, last=FIRST / 2))
    done = server.run("--check")
    assert done.returncode == 0
    assert "warning: tls.certificate: the certificate" in done.stdout
    assert "has expired" in done.stdout
    replace(server.path("server.key"), read(new_server_certificate(server).key))
    done = server.run("--check")
    assert done.returncode == 78 and "is not the key of the certificate" in done.stdout
    line = next(i for i, text in enumerate(read(server.config_path).decode().split("\n"), 1)
                if "  key:" in text)
    assert f"kekd.yaml:{line}: tls.key" in done.stdout
