# SPDX-License-Identifier: Apache-2.0
"""The lab of a pair: all that it shows succeeds, and what it says of a node's end holds."""

import os
import re

import pytest

from etcd import PRESENT
from kekd import alive, free_port
from lab import call, down, lab  # noqa: F401

pytestmark = pytest.mark.skipif(not PRESENT, reason="no etcd here")


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
    return call("quickstart", lab, "--pair", *options)


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
