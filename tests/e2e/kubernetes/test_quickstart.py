# SPDX-License-Identifier: Apache-2.0
"""The lab with Kubernetes: what it shows holds, and nothing of it is left once it is down."""

import re

from kekd import alive, free_port
from lab import call, down, lab  # noqa: F401

NAMES = {"kekd": 2, "etcd": 4, "kekd-kms": 1, "kube-apiserver": 1}


def quickstart(lab, *options):
    done = call("quickstart", lab, "--kubernetes", *options)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    return done.stdout


def part(said, heading):
    """What follows a step's heading."""
    return re.search(rf"^== {heading}[^\n]*\n(.*?)(?=^== |\Z)", said, re.M | re.S)[1]


def test_the_lab_with_kubernetes_shows_a_secret_encrypted_and_read_back_and_ends(lab):
    said = quickstart(lab, "--port", str(free_port()))
    assert re.search(r"readyz/kms-providers\nok$", said, re.M)
    password = re.search(r"--from-literal=password=(\w+)", part(said, "A Secret"))[1]
    stored = part(said, "What lies in its etcd")
    assert "k8s:enc:kms:v2:kekd:" in stored and password not in stored
    assert f"\n{password}\n" in part(said, "And read back")
    stopped = re.findall(r"^([\w-]+) \(process (\d+)\) has stopped", down(lab), re.M)
    names = [name for name, _ in stopped]
    assert {name: names.count(name) for name in NAMES} == NAMES
    assert not any(alive(int(pid)) for _, pid in stopped)
