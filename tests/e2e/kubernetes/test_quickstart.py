# SPDX-License-Identifier: Apache-2.0
"""The lab with Kubernetes: what it shows holds, and nothing of it is left once it is down."""

import os
import re
import subprocess

import pytest

from kekd import BUILD, TOP, alive, free_port

LAB = os.path.join(TOP, "contrib", "lab")
NAMES = {"kekd": 2, "etcd": 4, "kekd-kms": 1, "kube-apiserver": 1}


def down(lab, *options):
    return subprocess.run([os.path.join(LAB, "down"), "--dir", lab, *options], check=True,
                          text=True, capture_output=True, timeout=120).stdout


@pytest.fixture
def lab(tmp_path):
    directory = str(tmp_path / "lab-pair")
    yield directory
    down(directory, "--delete")
    assert not os.path.exists(directory)


def quickstart(lab, *options):
    done = subprocess.run(
        [os.path.join(LAB, "quickstart"), "--kubernetes", "--dir", lab, "--no-install", *options],
        env=dict(os.environ, KEKD_BUILD=BUILD), text=True, check=False, capture_output=True,
        stdin=subprocess.DEVNULL, timeout=300)
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
