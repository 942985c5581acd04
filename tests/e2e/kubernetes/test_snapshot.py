# SPDX-License-Identifier: Apache-2.0
"""A snapshot of Kubernetes' etcd: what kekctl says of it holds for the API server that is started
on what was restored from it."""

import json

import pytest

from cluster import KEY, NAME, PROVIDER


@pytest.fixture(scope="module")
def cluster(make_cluster):
    return make_cluster()


def test_a_snapshot_that_kekctl_calls_restorable_is_read_whole_by_a_new_api_server(cluster):
    a = cluster.servers[0]
    made = a.fill(60, "first")
    cluster.rotate()
    made.update(a.fill(60, "second"))
    for n in range(10):
        a.touch(f"first-{n:05}")
    snapshot = cluster.etcd.snapshot()
    done = cluster.pair.kekctl("etcd-snapshot", "--verify", "-o", "json", snapshot)
    report = json.loads(done.stdout)
    assert report["restorable"] is True and report["complete"] is True
    assert report["cluster"] == NAME
    of_secrets = next(r for r in report["resources"] if r["resource"] == "secrets")
    live = of_secrets["live"]
    assert (live["kekd"], live["plaintext"], live["other"]) == (len(cluster.all_values()), 0, 0)
    # What the ten were before, and what the probes of a rotation were.
    assert of_secrets["superseded"]["kekd"] >= 10 and of_secrets["superseded"]["plaintext"] == 0
    assert {p["provider"] for p in of_secrets["providers"]} == {PROVIDER}
    key = next(k for k in report["keys"] if k["key"] == KEY)
    assert len(key["versions"]) == 2 and {v["verify"] for v in key["versions"]} == {"ok"}
    # All of the old control plane is gone.
    for server in cluster.servers:
        server.stop()
    cluster.etcd.stop()
    restored = cluster.make_etcd()
    restored.restore(snapshot)
    fresh = cluster.add_server(etcd=restored)
    fresh.start()
    assert fresh.values() == made
    fresh.create("after")
    assert cluster.sealed("after", etcd=restored).key_id == cluster.key()["kms_key_id"]
