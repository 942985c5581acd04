# SPDX-License-Identifier: Apache-2.0
"""kekd and kekd-kms as an operator installs them: users, directories and units are those of
make install, the token is SoftHSM's, and systemd starts what runs. Only inside of the container
that tests/systemd/run makes: it writes to /etc and /var."""

import os
import pathlib
import pwd
import shutil
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "system"))

from kekd import yaml  # noqa: E402
from pki import Pki, spiffe  # noqa: E402

ETC = pathlib.Path("/etc/kekd")
SOCKET = "/run/kekd-kms/kms.sock"
PIN = os.urandom(8).hex()
URL = "https://127.0.0.1:7373"


def sh(command, **options):
    """What it said; it must succeed."""
    done = subprocess.run(["sh", "-c", command], check=False, text=True, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}"
    return done.stdout.strip()


def place(source, target, owner="root", mode=0o644):
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)
    os.chmod(target, mode)
    shutil.chown(target, owner, owner)


def write(target, settings):
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(yaml(settings), encoding="utf-8")


def make_token():
    """As doc/operations.md says: the workers' user reaches the token, and root alone the PIN."""
    sh("usermod --append --groups softhsm kekd-hsm")
    sh(f"runuser -u kekd-hsm -- softhsm2-util --init-token --free --label kekd --pin {PIN} "
       f"--so-pin {PIN}")
    (ETC / "pin").write_text(PIN + "\n", encoding="utf-8")
    os.chmod(ETC / "pin", 0o600)


def configure_kekd(pki):
    place(pki.server.pem, ETC / "tls/server.pem")
    place(pki.server.key, ETC / "tls/server.key", "kekd", 0o600)
    place(pki.ca.pem, ETC / "tls/client-ca.pem")
    write(ETC / "kekd.yaml", {
        "state_dir": "/var/lib/kekd",
        "listen": ["127.0.0.1:7373"],
        "tls": {"certificate": "tls/server.pem", "key": "tls/server.key",
                "client_ca": "tls/client-ca.pem"},
        "tokens": [{"name": "main", "uri": "pkcs11:token=kekd", "pin-source": "pin",
                    "module": "/usr/lib/softhsm/libsofthsm2.so"}],
        "audit": {"dir": "/var/log/kekd"},
        "admins": [{"name": "admin-1", "identities": ["uri:" + spiffe("admin-1")]}],
    })


def configure_kekctl(pki):
    admin = pki.clients["admin-1"]
    write(ETC / "kekctl.yaml", {"endpoints": [URL], "ca": pki.ca.pem, "certificate": admin.pem,
                                "key": admin.key})
    os.environ["KEKCTL_CONFIG"] = str(ETC / "kekctl.yaml")


def configure_kms(pki):
    client = pki.client("plugin")
    place(pki.ca.pem, ETC / "kms/ca.pem")
    place(client.pem, ETC / "kms/client.pem")
    place(client.key, ETC / "kms/client.key", "kekd-kms", 0o600)
    write(ETC / "kekd-kms.yaml", {
        "provider": "kekd", "cluster": "prod-1", "key": "kubernetes-prod-1", "endpoints": [URL],
        "ca": "kms/ca.pem", "certificate": "kms/client.pem",
        "certificate_key": "kms/client.key", "probe": "1s", "metrics": "127.0.0.1:7374"})


@pytest.fixture(scope="session")
def kekd(tmp_path_factory):
    """kekd.service runs; kekctl is its administrator's."""
    assert os.path.isdir("/stage"), "only in the container of tests/systemd/run"
    pki = Pki(str(tmp_path_factory.mktemp("pki") / "ca"))
    sh("systemd-sysusers && systemd-tmpfiles --create && systemctl daemon-reload")
    shutil.rmtree(ETC, ignore_errors=True)  # the machine's own, as the overlay shows it
    ETC.mkdir(mode=0o755)
    make_token()
    configure_kekd(pki)
    sh("kekd --check && kekd init")
    sh("systemctl start kekd.service")
    configure_kekctl(pki)
    sh("kekctl key create kubernetes-prod-1")
    sh(f"kekctl client add kubernetes-prod-1 --identity uri:{spiffe('plugin')} "
       "--grant kubernetes-prod-1:wrap,unwrap,key.read")
    return pki


@pytest.fixture(scope="session")
def plugin(kekd):
    """kekd-kms.socket listens; its service starts with the first call."""
    configure_kms(kekd)
    sh("systemctl start kekd-kms.socket")
    return SOCKET


def show(unit, name):
    return sh(f"systemctl show --property={name} --value {unit}")


def user_of(pid):
    return pwd.getpwuid(os.stat(f"/proc/{pid}").st_uid).pw_name
