# SPDX-License-Identifier: Apache-2.0
"""kekd init over etcd: it is patient with one that has only just begun, and says what it lacks."""

import threading
import time

import pytest

from etcd import PRESENT

pytestmark = pytest.mark.skipif(not PRESENT, reason="no etcd here")


def test_init_waits_for_an_etcd_that_answers_late(make_pair):
    node = make_pair(nodes=1).nodes[0]
    held = node.etcd.all[0].hold(3)
    late = threading.Thread(target=lambda: (held.caught.wait(20), time.sleep(3), held.drop()))
    late.start()
    node.init()
    late.join()
    assert held.caught.is_set()


def test_init_without_an_answer_of_etcd_makes_nothing_and_says_so(make_pair):
    pair = make_pair(nodes=1)
    node = pair.nodes[0]
    node.etcd.stall()
    done = node.run("init", timeout=60)
    assert done.returncode != 0 and "etcd" in done.stdout
    assert not pair.etcd.all()
    node.etcd.heal()
    node.init().start()
