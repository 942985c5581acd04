# SPDX-License-Identifier: Apache-2.0
"""Whom a certificate lets in: revocation lists, the deny list, what the handshake says."""

import datetime
import os
import subprocess

import pytest
from kekd import DATA, PATIENCE, Http, wait_for
from pki import FIRST, LAST, Authority, Certificate, replace, spiffe

HOUR = datetime.timedelta(hours=1)


def read(path):
    with open(path, "rb") as f:
        return f.read()


def wrap(h):
    return h.call("POST", "/v1/keys/demo/wrap", {"plaintext": "AAAA"})


def code(server, certificate):
    """None: the client is let in."""
    with server.http(certificate=certificate) as h:
        reply = wrap(h)
        assert (reply.status == 200) == (reply.code is None), reply
        return reply.code


class Site:
    """A server, and a CA of the test's own that it trusts as well, with a CRL of both CAs."""

    def __init__(self, server, tmp_path, **crl):
        self.server = server
        self.ca = Authority(str(tmp_path / "ca"), "Own CA")
        self.crl_path = server.path("clients.crl")
        server.settings["crl"] = {"file": self.crl_path, **crl}
        server.write_config()
        self.write_ca(self.ca)
        self.server_crl = server.pki.ca.path("for-" + os.path.basename(server.dir))
        server.pki.ca.crl(self.server_crl)
        self.write_crl()

    def write_ca(self, *authorities):
        server = self.server
        replace(server.path("ca.pem"), b"".join(
            read(a.pem) for a in (server.pki.ca, *authorities)))

    def write_crl(self, **options):
        self.ca.crl(self.crl_path + ".own", **options)
        replace(self.crl_path, read(self.server_crl) + read(self.crl_path + ".own"))

    def start(self):
        self.server.init().start().populate()
        return self

    def client(self, name, **options):
        return self.ca.issue(name, "URI:" + spiffe("app"), **options)


@pytest.fixture
def site(make_server, tmp_path):
    return Site(make_server(), tmp_path)


def test_a_revoked_certificate_is_refused_and_the_ca_s_others_are_not(site):
    good, bad = site.client("good"), site.client("bad")
    site.ca.revoke(bad.pem)
    site.write_crl()
    site.start()
    assert code(site.server, good) is None
    assert code(site.server, bad) == "certificate_revoked"
    with site.server.http(certificate=bad) as h:
        reply = wrap(h)
        assert reply.status == 401 and "CRL" in reply.json["detail"]
    refused = site.server.audit_records(code="certificate_revoked")
    assert refused and refused[0]["identity"] == "unverified:uri:" + spiffe("app")


def test_every_ca_of_a_chain_needs_its_crl_and_can_be_revoked(site, tmp_path):
    middle = Authority(str(tmp_path / "middle"), "Middle CA", parent=site.ca)
    leaf = middle.issue("leaf", "URI:" + spiffe("app"))
    chained = Certificate(str(tmp_path / "chained.pem"), leaf.key)
    replace(chained.pem, read(leaf.pem) + read(middle.pem))
    site.start()
    assert code(site.server, site.client("direct")) is None
    assert code(site.server, chained) == "certificate_crl_missing"
    with site.server.http(certificate=chained) as h:
        assert "every CA in the chain needs its CRL" in wrap(h).json["detail"]
    site.write_crl(others=[middle])
    wait_for(lambda: code(site.server, chained) is None, "the middle CA's CRL is taken")
    site.ca.revoke(middle.pem)
    site.write_crl(others=[middle])
    wait_for(lambda: code(site.server, chained) == "certificate_revoked", "the CA is revoked")
    assert code(site.server, site.client("direct-2")) is None


def test_a_trusted_ca_needs_no_crl_of_its_issuer(site, tmp_path):
    middle = Authority(str(tmp_path / "middle"), "Middle CA", parent=site.ca)
    leaf = middle.issue("leaf", "URI:" + spiffe("app"))
    site.write_ca(middle)
    middle.crl(site.crl_path + ".middle")
    replace(site.crl_path, read(site.server_crl) + read(site.crl_path + ".middle"))
    site.start()
    assert code(site.server, leaf) is None
    assert code(site.server, site.client("of-an-unlisted-ca")) == "certificate_untrusted"


def test_a_crl_that_another_ca_signed_counts_for_nothing(site, tmp_path):
    stranger = Authority(str(tmp_path / "stranger"), "Own CA")
    app = site.client("app")
    stranger.crl(site.crl_path + ".stranger")
    replace(site.crl_path, read(site.server_crl) + read(site.crl_path + ".stranger"))
    site.start()
    assert code(site.server, app) == "certificate_crl_missing"


def test_an_expired_crl_refuses_its_ca_s_clients(site):
    app = site.client("app")
    site.write_crl(first=-3 * HOUR, last=-HOUR)
    site.start()
    assert code(site.server, app) == "certificate_crl_expired"
    with site.server.http("app") as other:  # the other CA's list is good
        assert wrap(other).status == 200
    site.write_crl()
    wait_for(lambda: code(site.server, app) is None, "the new CRL is taken")


def test_a_crl_not_yet_valid_is_none(site):
    app = site.client("app")
    site.write_crl(first=HOUR, last=3 * HOUR)
    site.start()
    assert code(site.server, app) == "certificate_crl_missing"


def test_an_expired_crl_can_be_told_instead_and_still_revokes(make_server, tmp_path):
    site = Site(make_server(), tmp_path, on_expired="warn")
    good, bad = site.client("good"), site.client("bad")
    site.ca.revoke(bad.pem)
    site.write_crl(first=-3 * HOUR, last=-HOUR)
    site.start()
    assert code(site.server, good) is None
    assert code(site.server, bad) == "certificate_revoked"
    wait_for(lambda: "a CRL of crl.file has expired" in site.server.log(), "the log tells")
    assert any("CRL" in w for w in site.server.health()[1]["warnings"])
    with site.server.http("admin-1") as admin:  # of the other CA, whose list is good
        status = admin.status()["certificates"]
    assert status["crl"]["state"] == "expired" and status["crl_on_expired"] == "warn"
    assert status["accepted_on_expired_crl"] == 1
    assert b"EXPIRED, when expired: warn" in site.server.kekctl("status").stdout
    told = site.server.kekctl("metrics", "kekd_crl").stdout
    assert b"\nkekd_crl_expired_accepted_total 1\n" in told


def test_a_crl_that_expires_ends_the_verdict_on_an_open_connection(site):
    app = site.client("app")
    site.start()
    site.write_crl(last=datetime.timedelta(seconds=8))
    with site.server.http(certificate=app) as h:
        assert wrap(h).status == 200
        wait_for(lambda: "crl.file has changed" in site.server.log(), "the short CRL is taken")
        reply = wait_for(lambda: (r := wrap(h)).status != 200 and r, "the CRL has expired",
                         every=0.2)
        assert reply.code == "certificate_crl_expired"


def test_the_deny_list_refuses_an_identity_whatever_its_record_says(make_server):
    server = make_server()
    listed = ["uri:" + spiffe("app"), server.pki.clients["other"].spki(), "dns:Shut.Example"]
    server.settings["deny"] = listed
    server.write_config()
    server.init().start()
    with server.http("admin-1") as admin:
        admin.create_key("demo")
        for name, identity in (("app", listed[0]), ("other", "uri:" + spiffe("other")),
                               ("shut", "dns:shut.example"), ("open", "dns:open.example")):
            admin.put_client(name, [identity], [{"keys": "*", "operations": DATA}])
    assert code(server, server.pki.clients["app"]) == "identity_denied"
    assert code(server, server.pki.clients["other"]) == "identity_denied"
    assert code(server, server.pki.ca.issue("shut", "DNS:shut.example")) == "identity_denied"
    assert code(server, server.pki.ca.issue("open", "DNS:open.example")) is None
    refused = server.audit_records(code="identity_denied", identity=listed[0])
    assert refused and refused[0]["type"] == "refused" and refused[0]["status"] == 403


def s_client(server, *arguments):
    done = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", "-CAfile",
         server.pki.ca.pem, *arguments], stdin=subprocess.DEVNULL, check=False, text=True,
        timeout=PATIENCE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.stdout


def test_the_handshake_asks_for_a_certificate_and_names_no_ca(server):
    said = s_client(server)
    assert "No client certificate CA names sent" in said
    assert "Requested Signature Algorithms" in said  # it was asked for
    app = server.pki.clients["app"]
    said = s_client(server, "-cert", app.pem, "-key", app.key)
    assert "No client certificate CA names sent" in said
    assert "Verify return code: 0 (ok)" in said


@pytest.mark.parametrize("version", ["-tls1_1", "-tls1_2"])
def test_older_tls_is_refused(server, version):
    assert "Cipher is (NONE)" in s_client(server, version)
    assert "TLSv1.3" in s_client(server)


def test_a_bad_certificate_completes_the_handshake_and_is_answered(server, tmp_path):
    stranger = Authority(str(tmp_path / "ca"), "Strange CA")
    app = "URI:" + spiffe("app")
    ca = server.pki.ca
    for certificate, wanted in (
            (None, "certificate_required"),
            (stranger.issue("app", app), "certificate_untrusted"),
            (stranger.self_signed("app", app), "certificate_untrusted"),
            (ca.issue("old", app, first=FIRST, last=-HOUR / 2), "certificate_expired"),
            (ca.issue("early", app, first=HOUR, last=LAST), "certificate_not_yet_valid"),
            (ca.issue("srv", app, eku="serverAuth"), "certificate_purpose"),
            (ca.issue("bare", None), "certificate_identity")):
        with Http(server, certificate) as h:
            reply = wrap(h)
            assert (reply.status, reply.code) == (401, wanted)
            assert reply.headers["Connection"].lower() == "close"
