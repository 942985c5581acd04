# SPDX-License-Identifier: Apache-2.0
"""Fixtures: those of the system tests, and clusters that are gone after their file."""

import os
import sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "..", "system")]

from cluster import PROGRAMS, Cluster  # noqa: E402
from fixtures import as_described, faults, maker, pki  # noqa: E402, F401


def pytest_collection_modifyitems(items):
    if not PROGRAMS:
        for item in items:
            item.add_marker(pytest.mark.skip(
                reason="no kube-apiserver: run tests/e2e/kubernetes/run, which builds it"))


@pytest.fixture(scope="module")
def make_cluster(pki):
    """A function that makes a Cluster, which runs and is gone after the file."""
    yield from maker(pki, Cluster)
