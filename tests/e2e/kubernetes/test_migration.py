# SPDX-License-Identifier: Apache-2.0
"""From aescbc to kekd and back, by the steps of kekd-kms migrate-plan, on two API servers that are
restarted for each file as an operator does it: no Secret is unreadable, none is left behind."""

import base64
import json
import re
import secrets
import subprocess

import pytest

from cluster import IDENTITY, PREFIX
from kekd import in_threads
from kms import PROGRAM
from reencryption import reencrypt

SECRET = base64.b64encode(secrets.token_bytes(32)).decode()
AESCBC = {"aescbc": {"keys": [{"name": "old", "secret": SECRET}]}}
COUNT = 40


@pytest.fixture(scope="module")
def cluster(make_cluster):
    return make_cluster(providers=(AESCBC, IDENTITY))


def plan(server, to):
    """Its steps for this API server's file: {code, file, …}."""
    done = subprocess.run(
        [PROGRAM, "migrate-plan", "--config", server.plugin.config_path, "--to", to, "-o", "json",
         server.encryption], check=False, text=True, capture_output=True)
    # 3: warnings, such as that ConfigMaps are left out.
    assert done.returncode in (0, 3), done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert not [f for f in found["findings"] if f["level"] == "fault"], found
    return found["plan"]["steps"]


def load(cluster, made, files):
    """One API server after the other. With each of them all must be readable everywhere."""
    for server, text in zip(cluster.servers, files):
        # A plan names no secret: "<as before>", "<new, …>".
        server.configure_text(re.sub(r"<.*>", SECRET, text))
        server.restart()
        server.create(f"late-{len(made)}", b"of a step")
        made[f"late-{len(made)}"] = b"of a step"
        for found in in_threads(2, lambda n: cluster.servers[n].values()):
            assert found == made


def inventory(cluster):
    """What a snapshot has of Secrets, after etcd's compaction."""
    cluster.etcd.compact()
    done = cluster.pair.kekctl("etcd-snapshot", "-o", "json", cluster.etcd.snapshot())
    return next(r for r in json.loads(done.stdout)["resources"] if r["resource"] == "secrets")


def migrate(cluster, made, to):
    """The codes of the steps that were taken."""
    plans = [plan(server, to) for server in cluster.servers]
    for steps in zip(*plans):
        if steps[0]["file"]:
            load(cluster, made, [s["file"] for s in steps])
        elif steps[0]["code"] == "reencrypt":
            summary = reencrypt(cluster, cluster.servers[0], "--rate", "500")
            assert summary["complete"]
        elif steps[0]["code"] == "verify":
            found = inventory(cluster)
            count = found["live"]["kekd" if to == "kekd" else "other"]
            assert count == len(made) == sum(found["live"].values())
            assert sum(found["superseded"].values()) == 0
    return [s["code"] for s in plans[0]]


def begins(cluster, prefix):
    found = cluster.all_values().values()
    return len(found) >= COUNT and all(v.startswith(prefix) for v in found)


def test_by_its_plan_a_cluster_moves_from_aescbc_to_kekd_and_back_and_reads_all_at_each_step(
        cluster):
    made = cluster.servers[0].fill(COUNT)
    assert begins(cluster, b"k8s:enc:aescbc:v1:old:")
    steps = ["readable", "writes", "reencrypt", "verify", "remove"]
    assert [s for s in migrate(cluster, made, "kekd") if s in steps] == steps
    assert begins(cluster, PREFIX)
    assert [s for s in migrate(cluster, made, "aescbc") if s in steps] == steps
    assert begins(cluster, b"k8s:enc:aescbc:v1:key1:")
