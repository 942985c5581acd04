# SPDX-License-Identifier: Apache-2.0
"""kekd-kms and certificates, as it sees them: its own revoked, denied or out of its time while it
runs, and a kekd that is not the one that the CA names."""

import contextlib
import datetime
import os
import shutil
import socket
import ssl
import subprocess
import threading

import pytest

from kekd import wait_for
from kms import Code
from pki import Authority, replace, spiffe
from test_reload import hang_up

SOON = 20
HOUR = datetime.timedelta(hours=1)


def another(plugin):
    """A new certificate for the same client."""
    return plugin.pki.ca.issue(plugin.name + "-new", "URI:" + spiffe(plugin.name))


def is_told(plugin, code):
    """By Status, in the log and by the service's health; and no call is answered with a secret."""
    plugin.wait_sick(SOON, about=code)
    text = plugin.wait_sick(SOON, about="wrap and unwrap fail: ")
    assert code in text
    wait_for(lambda: f"probe: {text[:40]}" in plugin.log(), "the log says so")
    assert plugin.metric("kekd_kms_healthy") == 0
    plugin.stub().refuses((Code.UNAUTHENTICATED, Code.PERMISSION_DENIED), "encrypt")


def recovers(plugin, sealed, certificate):
    plugin.install(certificate)
    plugin.wait_ready(SOON)
    api = plugin.stub()
    assert api.opens(sealed) and api.opens(api.encrypt())


def test_its_certificate_revoked_while_it_runs_is_told_and_a_new_one_is_taken(
        make_server, make_plugin):
    server = make_server()
    crl, ca = server.path("clients.crl"), server.pki.ca
    server.settings["crl"] = {"file": crl}
    server.write_config()
    ca.crl(crl)
    plugin = make_plugin(server.init().start().populate()).start()
    sealed = plugin.stub().encrypt()
    ca.revoke(plugin.certificate.pem)
    ca.crl(crl)
    is_told(plugin, "certificate_revoked")
    recovers(plugin, sealed, another(plugin))


def test_its_certificate_denied_while_it_runs_is_told_and_a_new_one_is_taken(own, make_plugin):
    plugin = make_plugin(own).start()
    sealed = plugin.stub().encrypt()
    own.settings["deny"] = [plugin.certificate.spki()]
    own.write_config()
    assert hang_up(own)["taken"]
    is_told(plugin, "identity_denied")
    recovers(plugin, sealed, another(plugin))


@pytest.mark.parametrize(("code", "times"), [
    ("certificate_expired", {"first": -2 * HOUR, "last": -HOUR}),
    ("certificate_not_yet_valid", {"first": HOUR, "last": 2 * HOUR})])
def test_its_certificate_out_of_its_time_is_told_and_a_new_one_is_taken(
        server, make_plugin, code, times):
    plugin = make_plugin(server).start()
    sealed = plugin.stub().encrypt()
    plugin.install(plugin.pki.ca.issue(plugin.name + "-then", "URI:" + spiffe(plugin.name),
                                       **times))
    is_told(plugin, code)
    recovers(plugin, sealed, another(plugin))


@pytest.mark.parametrize(("name", "content", "fault"), [
    ("client.pem", b"nothing", "the certificate's file holds none"),
    ("client.key", b"nothing", "the key's file holds none, or one with a password"),
    ("client.key", "passphrase", "the key's file holds none, or one with a password"),
    ("client.key", "another's", "certificate and key do not belong together"),
    ("ca.pem", b"", "the CA certificate's file holds none"),
    ("client.pem", None, "one of the files cannot be read")])
def test_what_cannot_be_used_is_not_taken_and_the_one_before_stays_in_use(
        server, make_plugin, name, content, fault):
    plugin = make_plugin(server).start()
    api = plugin.stub()
    path = plugin.path(name)
    with open(path, "rb") as f:
        before = f.read()
    if content == "passphrase":
        content = subprocess.run(["openssl", "pkey", "-in", path, "-aes256", "-passout",
                                  "pass:of-the-test"], check=True, capture_output=True).stdout
    elif content == "another's":
        with open(plugin.pki.clients["app"].key, "rb") as f:
            content = f.read()
    os.unlink(path)
    if content is not None:
        replace(path, content)
    wait_for(lambda: f"is not taken: {fault}. The one before stays in use" in plugin.log(),
             "it is told", SOON)
    assert api.opens(api.encrypt()) and plugin.metric("kekd_kms_healthy") == 1
    replace(path, before)
    wait_for(lambda: "certificate has changed, and is in use" in plugin.log(), "it is taken", SOON)
    assert api.opens(api.encrypt())


class Impostor:
    """Listens in kekd's place with a certificate of its own, and keeps what it is sent in a
    connection that it was taken for kekd on."""

    def __init__(self, port, certificate):
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate.pem, certificate.key)
        self.listener = socket.create_server(("127.0.0.1", port))
        self.asked, self.heard = 0, []
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self):
        with contextlib.suppress(OSError):
            while True:
                connection = self.listener.accept()[0]
                connection.settimeout(5)
                with connection, contextlib.suppress(OSError):
                    self.asked += 1
                    with self.context.wrap_socket(connection, server_side=True) as tls:
                        self.heard.append(tls.recv(65536))

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join()


@pytest.fixture(params=["of another CA", "with another name", "of a client"])
def strange(request, pki, tmp_path):
    if request.param == "of another CA":
        return Authority(str(tmp_path / "ca"), "Strange CA").issue(
            "server", "DNS:localhost,IP:127.0.0.1", eku="serverAuth")
    if request.param == "with another name":
        return pki.ca.issue("elsewhere", "DNS:elsewhere.example", eku="serverAuth")
    return pki.ca.issue("no-server", "DNS:localhost,IP:127.0.0.1", eku="clientAuth")


def test_who_is_not_kekd_is_told_and_is_sent_nothing(own, make_plugin, strange):
    plugin = make_plugin(own).start()
    api = plugin.stub()
    sealed = api.encrypt()
    own.stop()
    with Impostor(own.port, strange) as impostor:
        text = plugin.wait_sick(SOON, about="the server's certificate is not accepted")
        assert f"https://127.0.0.1:{own.port}: " in text and "it must name this host" in text
        for method, *arguments in (("encrypt",), ("decrypt", sealed)):
            assert "certificate is not accepted" in api.refuses(
                Code.UNAVAILABLE, method, *arguments)
        assert impostor.asked > 0 and not any(impostor.heard)
    own.start()
    plugin.wait_ready(SOON)
    assert api.opens(sealed)


def test_a_ca_that_was_changed_is_taken_with_the_certificate(own, make_plugin, tmp_path):
    """A plugin that trusts another CA than kekd's sends it nothing, and says why."""
    plugin = make_plugin(own).start()
    sealed = plugin.stub().encrypt()
    stranger = Authority(str(tmp_path / "ca"), "Strange CA")
    shutil.copy(stranger.pem, plugin.path("ca.pem"))
    plugin.wait_sick(SOON, about="the server's certificate is not accepted")
    shutil.copy(own.pki.ca.pem, plugin.path("ca.pem"))
    plugin.wait_ready(SOON)
    assert plugin.stub().opens(sealed)
