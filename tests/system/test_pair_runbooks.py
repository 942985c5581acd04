# SPDX-License-Identifier: Apache-2.0
"""The runbooks of doc/operations.md for a pair, as somebody would go through them."""

import os
import re

import pytest

from etcd import PRESENT
from kekd import TOP, wait_for
from manual import check_kekctl, commands, told
from pair_load import Load
from pki import spiffe

OPERATIONS = os.path.join(TOP, "doc", "operations.md")
needs_etcd = pytest.mark.skipif(not PRESENT, reason="etcd is not installed")


def manual():
    with open(OPERATIONS, encoding="utf-8") as f:
        return f.read()


def test_every_command_of_the_manual_exists_with_its_options():
    found = commands(manual(), "kekctl")
    assert len(found) > 40
    for command in found:
        check_kekctl(command)
    text = told("kekd", "--help")[1]
    for command in commands(manual(), "kekd"):
        for word in re.findall(r"(?<= )(?:--[a-z-]+|[a-z-]+\b)", command):
            assert word in text, command


def test_every_metric_and_code_that_the_manual_names_exists():
    with open(os.path.join(TOP, "doc", "metrics.md"), encoding="utf-8") as f:
        known = set(re.findall(r"`(kekd_\w+)`", f.read()))
    for name in re.findall(r"`(kekd_[a-z_]+[a-z])[`{]", manual()):
        assert name in known or any(k.startswith(name) for k in known), name


def status(node):
    """kekctl cluster status, as rows by name."""
    shown = node.kekctl("cluster", "status").stdout.decode()
    rows = [line.split() for line in shown.splitlines() if line.startswith("node-")]
    return {row[0]: row for row in rows}


def ready(node, name):
    return status(node).get(name, [""] * 3)[2] == "ready"


def all_ready(pair):
    names = [n.name for n in pair.running()]
    wait_for(lambda: all(ready(pair.active(), name) for name in names), "all are ready", every=0.2)


@needs_etcd
def test_a_node_that_is_lost_is_forgotten_and_another_takes_its_place(make_pair):
    pair = make_pair().start()
    one, two = pair.roles()
    all_ready(pair)
    two.kill_all()
    wait_for(lambda: status(one)[two.name][1] == "ABSENT", "it is seen to be away", 15, 0.2)
    failed = one.kekctl("key", "rotate", "demo", status=5)
    assert two.name.encode() in failed.stderr and b"member_unproven" in failed.stderr
    one.kekctl("cluster", "forget", two.name, "--yes")
    one.kekctl("key", "rotate", "demo")
    three = pair.make_node()
    one.kekctl("cluster", "members", "add", three.name)
    three.joined()
    three.start()
    all_ready(pair)
    one.kekctl("key", "rotate", "demo")
    assert two.run().returncode == 78  # it was forgotten, and says so


@needs_etcd
def test_a_node_that_lost_its_state_alone_keeps_its_name(make_pair):
    pair = make_pair().start()
    one, two = pair.roles()
    two.stop()
    for name in os.listdir(two.path("state")):
        os.unlink(two.path("state", name))
    two.joined()
    two.start()
    all_ready(pair)
    one.kekctl("key", "rotate", "demo")
    two.kekctl("audit", "verify", two.audit_dir)


@needs_etcd
def test_an_etcd_that_is_lost_for_good_is_made_anew_while_a_node_serves_on(make_pair):
    pair = make_pair().start()
    all_ready(pair)
    one, two = pair.roles()
    with Load(pair, rotate=None) as load:
        two.etcd.refuse()
        pair.etcd.lose()
        pair.etcd.start()
        one.stop()
        done = one.run("migrate", "--to", "etcd", "--from-replica")
        assert done.returncode == 0, done.stdout
        one.start()
        pair.active()
        two.stop()
        two.etcd.heal()
        for name in os.listdir(two.path("state")):
            if name.startswith("metadata.db"):
                os.unlink(two.path("state", name))
        two.joined()
        two.start()
        all_ready(pair)
        load.computes()
    pair.active().kekctl("key", "rotate", "demo")


@needs_etcd
def test_a_node_that_was_cut_off_catches_up_by_itself(make_pair):
    pair = make_pair().start()
    all_ready(pair)
    one, two = pair.roles()
    with two.http("app") as app:
        app.wrap(b"so that it has IVs")
    two.etcd.cut()
    two.etcd.refuse()
    wait_for(lambda: status(one)[two.name][1] == "ABSENT", "it is seen to be cut off", 20, 0.2)
    with one.http("admin-1") as admin:
        admin.put_client("later", ["uri:" + spiffe("later")], [])
    with two.http("app") as app:
        app.wrap(b"served on")
    two.etcd.heal()
    all_ready(pair)
    wait_for(lambda: status(one)[two.name][8] == "0", "it has caught up", every=0.2)


@needs_etcd
def test_both_nodes_are_upgraded_in_turn_and_no_request_fails(make_pair):
    pair = make_pair().start()
    all_ready(pair)
    with Load(pair) as load:
        for _ in range(2):
            active, standby = pair.roles()
            standby.stop()
            standby.start()
            all_ready(pair)
            active.kekctl("cluster", "step-down")
            assert pair.active(but=active) is standby
            load.rotates()
    pair.active().kekctl("cluster", "level", "1", status=None)
