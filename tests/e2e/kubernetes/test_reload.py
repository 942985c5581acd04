# SPDX-License-Identifier: Apache-2.0
"""Encryption is enabled on an API server that runs, by its file alone, as on a cluster that one
does not want to restart (--encryption-provider-config-automatic-reload)."""

import pytest

from cluster import IDENTITY, PREFIX
from kekd import wait_for

LOADED = "apiserver_encryption_config_controller_automatic_reloads_total"
SECONDS = 150  # it looks once a minute


@pytest.fixture(scope="module")
def cluster(make_cluster):
    return make_cluster(providers=(IDENTITY,), servers=1,
                        flags=("--encryption-provider-config-automatic-reload=true",))


def test_an_api_server_that_runs_begins_to_encrypt_when_its_file_names_kekd(cluster):
    server, = cluster.servers
    server.create("before", b"in plaintext")
    assert b"in plaintext" in cluster.entry("before")["value"]
    server.configure(server.kekd, IDENTITY)
    pid = server.process.pid

    def loaded():
        return any(k.startswith(LOADED) and 'status="success"' in k and v >= 1
                   for k, v in server.metrics().items())
    wait_for(loaded, "the file is loaded", SECONDS, every=1)
    server.create("after", b"not in plaintext")
    assert cluster.entry("after")["value"].startswith(PREFIX)
    assert server.value("before") == b"in plaintext"
    server.touch("before")
    assert cluster.entry("before")["value"].startswith(PREFIX)
    assert server.kms_health()[0] == 200 and server.process.pid == pid
