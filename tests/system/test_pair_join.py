# SPDX-License-Identifier: Apache-2.0
"""kekd join: a further node is told what it lacks, one thing after the other, before it is
started."""

import glob
import json
import os
import re
import shutil
import time

import pytest

from etcd import PRESENT
from kekd import BUILD, HSM_USER, USER, wait_for

pytestmark = pytest.mark.skipif(not PRESENT, reason="etcd is not installed")

CHECKS = ["configuration", "certificates", "etcd", "clock", "cluster", "name", "tokens", "seal",
          "membership"]


def report(node, status=None):
    """{check: row} and the whole."""
    done = node.joined("-o", "json", status=status)
    whole = json.loads(done.stdout)
    assert whole["ok"] == (done.returncode == 0)
    assert [r["check"] for r in whole["checks"]] == CHECKS
    return {r["check"]: r for r in whole["checks"]}


def states(rows):
    return {name: row["state"] for name, row in rows.items() if row["state"] != "ok"}


def accepted(node):
    path = node.path("state", "accepted")
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8") as f:
        return json.load(f)


@pytest.fixture
def first(make_pair):
    """A pair whose second node knows nothing of the first yet."""
    pair = make_pair()
    pair.nodes[0].init().start()
    pair.active()
    pair.nodes[0].populate()
    return pair


def add(pair):
    pair.active().kekctl("cluster", "members", "add", pair.nodes[1].name)


def test_a_node_that_lacks_nothing_is_told_so_and_then_serves(first):
    one, two = first.nodes
    add(first)
    shown = two.joined().stdout
    assert [line.split()[0] for line in shown.splitlines()[:len(CHECKS)]] == CHECKS
    assert {line.split()[1] for line in shown.splitlines()[:len(CHECKS)]} == {"ok"}
    assert shown.splitlines()[-1] == "Node node-2 is ready: start kekd."
    seen = accepted(two)
    assert seen["generation"] == accepted(one)["generation"]
    two.start()
    with one.http("app") as a, two.http("app") as b:
        assert b.unwrap(a.wrap(b"secret")) == b"secret"
    assert two.audit_records(operation="cluster.join", type="intent")
    outcome = two.audit_records(operation="cluster.join", type="outcome")
    assert outcome[0]["detail"]["generation"] == seen["generation"]


def test_to_join_again_is_harmless_also_while_the_node_runs(first):
    _, two = first.nodes
    add(first)
    two.joined()
    before = accepted(two)
    two.joined()
    assert accepted(two)["generation"] == before["generation"]
    two.start()
    pid = two.net()
    shown = two.joined().stdout
    assert shown.splitlines()[-1] == "Node node-2 has joined cluster test, and is running."
    assert two.net() == pid and two.health()[0] == 200
    two.kekctl("status")
    two.kekctl("audit", "verify", two.audit_dir)


def test_a_node_that_is_no_member_is_told_the_command(first):
    rows = report(first.nodes[1], status=78)
    assert states(rows) == {"membership": "missing"}
    assert rows["membership"]["next"] == (
        f"at the active, {first.nodes[0].url}: kekctl cluster members add node-2")
    shown = first.nodes[1].joined(status=78)
    assert "Node node-2 is not ready" in shown.stdout
    assert "ended with status" not in shown.stderr


def test_a_token_without_the_seal_key_is_told_of_and_nothing_is_accepted(make_pair):
    pair = make_pair(shared_token=False)
    one, two = pair.nodes
    one.init().start()
    add(pair)
    rows = report(two)
    assert states(rows) == {"seal": "missing"}
    assert "cloned" in rows["seal"]["next"]
    assert accepted(two) is None
    two.clone_token(one)
    assert not states(report(two))


def test_a_record_that_was_changed_in_etcd_is_not_accepted(first):
    add(first)
    text = first.etcd.get("clients/app")
    first.etcd.put("clients/app", text.replace(b'"app"', b'"bad"'))
    rows = report(first.nodes[1])
    assert states(rows) == {"seal": "missing"}
    assert "clients/app" in rows["seal"]["text"]
    assert accepted(first.nodes[1]) is None
    first.etcd.put("clients/app", text)
    assert not states(report(first.nodes[1]))


def test_a_wrong_pin_is_one_row_and_is_tried_once(first):
    _, two = first.nodes
    add(first)
    two.write_pin("0000")
    rows = report(two)
    assert states(rows) == {"tokens": "missing", "seal": "-"}
    assert "PIN" in rows["tokens"]["text"]


def test_an_etcd_that_is_away_leaves_what_depends_on_it_unchecked(first):
    first.nodes[0].stop()
    first.etcd.stop()
    rows = report(first.nodes[1])
    assert states(rows) == {"etcd": "missing", "clock": "-", "cluster": "-", "name": "-",
                            "seal": "-", "membership": "-"}
    assert rows["clock"]["text"] == "after etcd"
    assert "store.endpoints" in rows["etcd"]["next"]


def test_an_etcd_without_a_cluster_is_told_of(make_pair):
    rows = report(make_pair().nodes[1])
    assert rows["cluster"]["state"] == "missing"
    assert "kekd init" in rows["cluster"]["next"] and "kekd migrate" in rows["cluster"]["next"]


def test_a_user_that_may_not_touch_the_prefix_is_told_of(make_pair):
    pair = make_pair(tls=True, auth=True)
    one, two = pair.nodes
    one.init().start()
    add(pair)
    pair.etcd.call("auth/user/revoke", {"name": "node-2", "role": "kekd"})
    rows = report(two)
    assert rows["etcd"]["state"] == "missing" and "permission" in rows["etcd"]["text"]
    assert "/kekd/test/" in rows["etcd"]["next"]
    pair.etcd.call("auth/user/grant", {"user": "node-2", "role": "kekd"})
    assert not states(report(two))


def test_a_certificate_for_another_host_or_that_has_expired_is_told_of(first, pki):
    _, two = first.nodes
    add(first)
    good = two.settings["tls"]["certificate"], two.settings["tls"]["key"]

    def with_certificate(c):
        for source, path in zip((c.pem, c.key), good):
            shutil.copy(source, path)
        two.own(good[1], two.uid, 0o600)
        return report(two)

    rows = with_certificate(pki.ca.issue("elsewhere", "DNS:elsewhere.example", eku="serverAuth"))
    assert states(rows) == {"certificates": "missing"}
    assert "127.0.0.1" in rows["certificates"]["next"]
    rows = with_certificate(pki.ca.issue("no-server", "IP:127.0.0.1", eku="clientAuth"))
    assert states(rows) == {"certificates": "missing"}
    assert "serverAuth" in rows["certificates"]["next"]


def test_a_name_that_another_node_uses_or_that_was_forgotten_is_refused(first):
    one, two = first.nodes
    add(first)
    two.settings["node"] = "node-1"
    two.write_config()
    rows = report(two)
    assert rows["name"]["state"] == "missing" and rows["seal"]["state"] == "-"
    assert "another kekd is running as node node-1" in rows["name"]["text"]
    two.settings["node"] = "node-2"
    two.write_config()
    one.kekctl("cluster", "forget", "node-2", "--yes")
    wait_for(lambda: states(report(two)).get("name") == "missing", "it is forgotten")
    assert "another name" in report(two)["name"]["next"]


def test_a_node_that_was_killed_waits_for_its_own_lease(first):
    _, two = first.nodes
    add(first)
    two.joined()
    two.start()
    two.kill_all()
    begin = time.monotonic()
    assert not states(report(two))
    assert time.monotonic() - begin < 15


def test_faults_of_the_configuration_are_the_first_row(first):
    _, two = first.nodes
    del two.settings["url"]
    two.write_config()
    done = two.joined(status=78)
    assert done.stdout.split()[:2] == ["configuration", "missing"]
    assert "url is missing" in done.stderr
    whole = json.loads(two.joined("-o", "json", status=78).stdout)
    assert not whole["ok"] and "url is missing" in whole["checks"][0]["text"]


def test_a_single_node_is_told_what_a_pair_takes(make_server):
    server = make_server()
    done = server.run("join", "-o", "json")
    assert done.returncode == 78
    shown = next(line for line in done.stdout.splitlines() if line.startswith("{"))
    rows = {r["check"]: r for r in json.loads(shown)["checks"]}
    assert "store.engine: etcd" in rows["configuration"]["next"]


def with_wrong_clock(node, offset):
    """kekd-net gets no LD_PRELOAD from outside: a program of its name puts it in."""
    library = next(iter(glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")), None)
    if not library:
        pytest.skip("libfaketime is not installed (package faketime)")
    os.mkdir(node.path("libexec"))
    os.symlink(os.path.join(BUILD, "kekd-hsm"), node.path("libexec", "kekd-hsm"))
    with open(node.path("libexec", "kekd-net"), "w", encoding="utf-8") as f:
        f.write("#!/bin/sh\nASAN_OPTIONS=verify_asan_link_order=0 FAKETIME_DONT_FAKE_MONOTONIC=1 "
                f"DONT_FAKE_MONOTONIC=1 LD_PRELOAD={library} FAKETIME={offset} "
                f"exec {BUILD}/kekd-net\n")
    os.chmod(node.path("libexec", "kekd-net"), 0o755)
    node.environment["KEKD_LIBEXECDIR"] = node.path("libexec")


@pytest.mark.parametrize(("offset", "words"), [("+90s", "ahead of"), ("-90s", "behind")])
def test_a_clock_that_is_wrong_is_told_of_with_how_far(first, offset, words):
    _, two = first.nodes
    add(first)
    with_wrong_clock(two, offset)
    rows = report(two)
    assert states(rows) == {"clock": "missing"}
    assert words in rows["clock"]["text"]
    assert 85 <= int(re.search(r"is (\d+) s ", rows["clock"]["text"])[1]) <= 95
    assert "NTP" in rows["clock"]["next"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for users of its own")
def test_a_node_with_users_of_its_own_joins_over_tls_and_with_etcds_users(make_pair):
    pair = make_pair(members=3, tls=True, client_certificates=True, auth=True,
                     user=USER, hsm_user=HSM_USER)
    one, two = pair.nodes
    one.init().start()
    pair.active()
    one.populate()
    add(pair)
    rows = report(two, status=0)
    assert "as user node-2" in rows["etcd"]["text"]
    assert os.stat(two.path("state", "accepted")).st_uid == USER
    two.start()
    with one.http("app") as a, two.http("app") as b:
        assert b.unwrap(a.wrap(b"secret")) == b"secret"
