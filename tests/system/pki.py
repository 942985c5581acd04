# SPDX-License-Identifier: Apache-2.0
"""A certification authority and the certificates of the tests, made by the openssl command line."""

import datetime
import hashlib
import os
import subprocess
from dataclasses import dataclass

CONFIG = """
[req]
distinguished_name = name
prompt = no
[name]
CN = ${ENV::CN}
[ca]
default_ca = this
[this]
dir = ${ENV::DIR}
database = $dir/index
new_certs_dir = $dir/issued
certificate = $dir/ca.pem
private_key = $dir/ca.key
serial = $dir/serial
default_md = sha256
policy = any
crl_extensions = list
unique_subject = no
copy_extensions = none
[any]
commonName = supplied
[nameless]
organizationName = supplied
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[list]
authorityKeyIdentifier = keyid
[leaf]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = ${ENV::EKU}
authorityKeyIdentifier = keyid
subjectAltName = ${ENV::SAN}
[self]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = clientAuth
subjectAltName = ${ENV::SAN}
[bare]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = ${ENV::EKU}
"""

FIRST = datetime.timedelta(hours=-1)
LAST = datetime.timedelta(days=2)


@dataclass
class Certificate:
    pem: str
    key: str

    def spki(self):
        der = subprocess.run(
            ["openssl", "x509", "-in", self.pem, "-noout", "-pubkey"],
            check=True, capture_output=True).stdout
        der = subprocess.run(["openssl", "pkey", "-pubin", "-outform", "DER"], input=der,
                             check=True, capture_output=True).stdout
        return "spki:" + hashlib.sha256(der).hexdigest()


class Authority:
    """A CA in a directory of its own."""

    def __init__(self, directory, name="Test CA", parent=None, days=2):
        """parent: the CA that issues this one; else it signs itself."""
        self.dir = directory
        os.makedirs(os.path.join(directory, "issued"))
        self.config = self.path("openssl.cnf")
        self.pem = self.path("ca.pem")
        self.write("openssl.cnf", CONFIG)
        self.write("index", "")
        self.write("serial", "1000\n")
        if parent:
            parent.issue_authority(name, self)
            return
        self.openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
                     "-nodes", "-keyout", self.path("ca.key"), "-out", self.pem, "-days",
                     str(days), "-extensions", "authority", CN=name)

    def path(self, name):
        return os.path.join(self.dir, name)

    def write(self, name, text):
        with open(self.path(name), "w", encoding="utf-8") as f:
            f.write(text)

    def openssl(self, command, *arguments, CN="x", SAN="DNS:x", EKU="clientAuth"):
        environment = dict(os.environ, DIR=self.dir, CN=CN, SAN=SAN, EKU=EKU)
        subprocess.run(["openssl", command, "-config", self.config, *arguments], check=True,
                       env=environment, capture_output=True)

    def issue(self, name, san, eku="clientAuth", first=FIRST, last=LAST, nameless=False):
        """first and last: from now. san None: no subjectAltName; nameless: no common name."""
        now = datetime.datetime.now(datetime.timezone.utc)
        certificate = Certificate(self.path(name + ".pem"), self.path(name + ".key"))
        request = self.path(name + ".csr")
        self.openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
                     "-nodes", "-keyout", certificate.key, "-out", request, CN=name)
        stamps = [(now + t).strftime("%Y%m%d%H%M%SZ") for t in (first, last)]
        self.openssl("ca", "-batch", "-notext", "-in", request, "-out", certificate.pem,
                     "-startdate", stamps[0], "-enddate", stamps[1],
                     "-extensions", "leaf" if san else "bare",
                     *(["-policy", "nameless", "-subj", "/O=" + name] if nameless else []),
                     CN=name, SAN=san or "DNS:x", EKU=eku)
        return certificate

    def issue_authority(self, name, child):
        request = child.path("ca.csr")
        child.openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
                      "-nodes", "-keyout", child.path("ca.key"), "-out", request, CN=name)
        self.openssl("ca", "-batch", "-notext", "-in", request, "-out", child.pem, "-days", "2",
                     "-extensions", "authority", CN=name)

    def revoke(self, pem):
        self.openssl("ca", "-revoke", pem)

    def crl(self, path, first=FIRST, last=LAST, others=()):
        """Writes the CRL, and those of other CAs behind it; first and last: from now."""
        now = datetime.datetime.now(datetime.timezone.utc)
        stamps = [(now + t).strftime("%Y%m%d%H%M%SZ") for t in (first, last)]
        lists = b""
        for ca in (self, *others):
            ca.openssl("ca", "-gencrl", "-out", ca.path("crl.pem"), "-crl_lastupdate", stamps[0],
                       "-crl_nextupdate", stamps[1])
            with open(ca.path("crl.pem"), "rb") as f:
                lists += f.read()
        replace(path, lists)

    def self_signed(self, name, san):
        certificate = Certificate(self.path(name + "-self.pem"), self.path(name + "-self.key"))
        self.openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
                     "-nodes", "-keyout", certificate.key, "-out", certificate.pem, "-days", "2",
                     "-extensions", "self", CN=name, SAN=san)
        return certificate


def replace(path, content):
    """A whole new file in the place of the old one."""
    with open(path + ".new", "wb") as f:
        f.write(content)
    if os.path.exists(path):
        status = os.stat(path)
        os.chmod(path + ".new", status.st_mode & 0o777)
        os.chown(path + ".new", status.st_uid, status.st_gid)
    else:
        os.chmod(path + ".new", 0o644)
    os.rename(path + ".new", path)


def spiffe(name):
    return f"spiffe://test.example/{name}"


class Pki:
    """What every server of one test run uses; more is issued where a test needs it."""

    def __init__(self, directory):
        self.ca = Authority(directory)
        self.server = self.ca.issue(
            "server", "DNS:localhost,IP:127.0.0.1,IP:::1", eku="serverAuth")
        names = ("admin-1", "admin-2", "admin-3", "app", "other")
        self.clients = {n: self.client(n) for n in names}

    def client(self, name, **options):
        return self.ca.issue(name, "URI:" + spiffe(name), **options)
