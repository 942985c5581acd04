# SPDX-License-Identifier: Apache-2.0
"""What a real API server makes of kekd-kms: what lies in etcd, what a restart costs, and what
rotations and rollbacks rewrite."""

import os
import subprocess

import pytest

from cluster import NAME, PREFIX, PROGRAMS, PROVIDER, sealed
from kekd import b64, in_threads
from kms import PROGRAM

PLAINTEXT = b"nobody may find this in etcd"


@pytest.fixture(scope="module")
def cluster(make_cluster):
    return make_cluster()


def servers(cluster):
    return cluster.servers


def test_a_secret_lies_in_etcd_under_the_providers_prefix_and_not_in_plaintext(cluster):
    a, b = servers(cluster)
    a.create("hidden", PLAINTEXT)
    value = cluster.entry("hidden")["value"]
    assert value.startswith(PREFIX)
    assert PLAINTEXT not in value and b64(PLAINTEXT).encode() not in value
    found = sealed(value)
    assert found.key_id == cluster.key()["kms_key_id"]
    assert found.annotations["cluster.kms.kekd"] == NAME.encode()
    assert found.annotations["provider.kms.kekd"] == PROVIDER.encode()
    assert a.value("hidden") == b.value("hidden") == PLAINTEXT


def test_doctor_finds_nothing_at_a_plugin_that_serves_an_api_server(cluster):
    for server in servers(cluster):
        done = subprocess.run(
            [PROGRAM, "doctor", "--config", server.plugin.config_path, "-o", "json"],
            check=False, text=True, capture_output=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_kubectl_writes_and_reads_a_secret(cluster):
    def kubectl(server, *arguments):
        done = subprocess.run(
            [os.path.join(PROGRAMS, "kubectl"), "--server", f"https://127.0.0.1:{server.port}",
             "--certificate-authority", server.ca, "--client-certificate", cluster.admin.pem,
             "--client-key", cluster.admin.key, "--cache-dir", cluster.path("kubectl"),
             *arguments], check=False, text=True, capture_output=True,
            env={"PATH": os.environ["PATH"], "HOME": cluster.dir})
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout
    a, b = servers(cluster)
    kubectl(a, "create", "secret", "generic", "by-kubectl", "--from-literal=value=of a person")
    assert kubectl(b, "get", "secret", "by-kubectl", "-o", "jsonpath={.data.value}") == b64(
        b"of a person")
    assert cluster.entry("by-kubectl")["value"].startswith(PREFIX)


def decrypts(server):
    """What its plugin counted."""
    return server.plugin.metric("kekd_kms_calls_total", method="Decrypt")


def test_a_restart_reads_everything_back_with_one_decrypt_for_each_seed(cluster):
    made = servers(cluster)[0].fill(100)
    servers(cluster)[1].create("of-the-other")  # under a seed of its own
    assert len(cluster.seeds()) >= 2
    for server in servers(cluster):
        seeds = cluster.seeds()
        server.stop()
        before = decrypts(server)
        server.start()
        found = server.values()
        assert made.items() <= found.items()
        assert server.kms_calls("Decrypt") == len(seeds)
        assert decrypts(server) - before == len(seeds)
        assert server.kms_calls("Encrypt") == 1
        asked = server.kms_calls("Decrypt")
        assert server.values() == found
        assert server.kms_calls("Decrypt") == asked


def test_a_rotation_rewrites_on_the_next_write_that_changes_nothing_once_from_either(cluster):
    a, b = servers(cluster)
    a.create("rewritten-by-a")
    b.create("rewritten-by-b")
    before = cluster.key()["kms_key_id"]
    after = cluster.rotate()
    assert after != before
    for name, first, second in (("rewritten-by-a", a, b), ("rewritten-by-b", b, a)):
        assert cluster.sealed(name).key_id == before
        begin = cluster.revision(name)
        first.touch(name)
        written = cluster.revision(name)
        assert written > begin and cluster.sealed(name).key_id == after
        for server in (first, second, first):
            server.touch(name)
            assert cluster.revision(name) == written


def test_old_secrets_are_readable_after_rotations_a_rollback_and_a_restart(cluster):
    a, b = servers(cluster)
    kept = a.fill(10, "first")
    seen = [cluster.key()["kms_key_id"]]
    first = cluster.key()["primary"]
    seen.append(cluster.rotate())
    kept.update(b.fill(10, "second"))
    seen.append(cluster.make_primary(first))
    kept.update(a.fill(10, "third"))
    # The version is the old one, its key_id is not: nothing is taken for what it was before.
    assert len(set(seen)) == 3
    assert seen[0].split(".")[0] == seen[2].split(".")[0]
    assert {cluster.sealed(n).key_id for n in kept} == set(seen)
    for server in servers(cluster):
        assert kept.items() <= server.values().items()
    cluster.restart()
    assert all(kept.items() <= found.items()
               for found in in_threads(2, lambda n: servers(cluster)[n].values()))
    # A list may come from what it holds in memory; a single one is read from etcd.
    for server in servers(cluster):
        assert {name: server.value(name) for name in kept} == kept
    a.touch("first-00000")
    assert cluster.sealed("first-00000").key_id == seen[2]
