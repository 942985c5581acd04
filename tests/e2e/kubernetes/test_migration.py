# SPDX-License-Identifier: Apache-2.0
"""From aescbc to kekd and back, on two API servers that are restarted for each step as an operator
does it: no Secret is ever unreadable, and none is left behind."""

import base64
import secrets

import pytest

from cluster import IDENTITY, PREFIX
from kekd import in_threads

AESCBC_PREFIX = b"k8s:enc:aescbc:v1:old:"
COUNT = 40


@pytest.fixture(scope="module")
def aescbc():
    return {"aescbc": {"keys": [{"name": "old",
                                 "secret": base64.b64encode(secrets.token_bytes(32)).decode()}]}}


@pytest.fixture(scope="module")
def cluster(make_cluster, aescbc):
    return make_cluster(providers=(aescbc, IDENTITY))


def step(cluster, made, *providers):
    """providers of a server, in their order. Each must read all before the next step."""
    for server in cluster.servers:
        server.configure(*(p if isinstance(p, dict) else p(server) for p in providers))
    cluster.restart()
    for found in in_threads(2, lambda n: cluster.servers[n].values()):
        assert found == made


def rewrite(cluster):
    for name in cluster.servers[0].values():
        cluster.servers[0].touch(name)


def kekd(server):
    return server.kekd


def test_from_aescbc_to_kekd_and_back_every_secret_is_readable_at_every_step(cluster, aescbc):
    made = cluster.servers[0].fill(COUNT)
    assert all(v.startswith(AESCBC_PREFIX) for v in cluster.all_values().values())
    step(cluster, made, aescbc, kekd, IDENTITY)  # all can read it before one writes it
    step(cluster, made, kekd, aescbc, IDENTITY)
    rewrite(cluster)
    assert all(v.startswith(PREFIX) for v in cluster.all_values().values())
    step(cluster, made, kekd, IDENTITY)
    step(cluster, made, kekd, aescbc, IDENTITY)
    step(cluster, made, aescbc, kekd, IDENTITY)
    rewrite(cluster)
    assert all(v.startswith(AESCBC_PREFIX) for v in cluster.all_values().values())
    step(cluster, made, aescbc, IDENTITY)
