# SPDX-License-Identifier: Apache-2.0
"""The lab of a pair: all that it shows succeeds, and what it says of a node's end holds."""

import os
import re
import subprocess

import pytest

from etcd import PRESENT
from kekd import BUILD, TOP, alive, free_port

LAB = os.path.join(TOP, "contrib", "lab")
pytestmark = pytest.mark.skipif(not PRESENT, reason="no etcd here")


def down(lab, *options):
    return subprocess.run([os.path.join(LAB, "down"), "--dir", lab, *options], check=True,
                          text=True, capture_output=True).stdout


@pytest.fixture
def lab(tmp_path):
    directory = str(tmp_path / "lab-pair")
    yield directory
    down(directory, "--delete")
    assert not os.path.exists(directory)


def processes(lab):
    """Of every pid file below the lab."""
    found = []
    for top, _, names in os.walk(lab):
        for name in names:
            if name.endswith(".pid"):
                with open(os.path.join(top, name), encoding="ascii") as f:
                    found.append(int(f.read()))
    return found


def quickstart(lab, *options):
    return subprocess.run(
        [os.path.join(LAB, "quickstart"), "--pair", "--dir", lab, "--no-install", *options],
        env=dict(os.environ, KEKD_BUILD=BUILD), text=True, check=False, capture_output=True,
        stdin=subprocess.DEVNULL, timeout=300)


def test_a_pair_is_made_loses_its_active_node_and_nothing_else_and_again(lab):
    port = free_port()
    for _ in range(2):
        done = quickstart(lab, "--port", str(port))
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr
        assert re.search(r"wrapped and unwrapped \d+ times; 0 failed", done.stdout)
        assert len(re.findall(r"^Verdict +whole", done.stdout, re.M)) == 2
        assert len(processes(lab)) == 5 and all(alive(p) for p in processes(lab))
    running = processes(lab)
    said = down(lab)
    assert said.count("has stopped") == 5
    assert not any(alive(p) for p in running)
    # From what is left of it, everything comes back.
    done = quickstart(lab)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
