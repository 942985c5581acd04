# SPDX-License-Identifier: Apache-2.0
"""Fixtures: the certificates of the run, clusters that are gone after their file."""

import os
import shutil
import sys
import tempfile

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "..", "system")]

import openapi  # noqa: E402
from cluster import PROGRAMS, Cluster  # noqa: E402
from pki import Pki  # noqa: E402


def pytest_collection_modifyitems(items):
    if not PROGRAMS:
        for item in items:
            item.add_marker(pytest.mark.skip(
                reason="no kube-apiserver: run tests/e2e/kubernetes/run, which builds it"))


@pytest.fixture(scope="session")
def pki():
    directory = tempfile.mkdtemp(prefix="kekd-pki-")
    os.chmod(directory, 0o755)
    yield Pki(directory)
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def make_cluster(pki):
    """A function that makes a Cluster, which runs and is gone after the file."""
    made = []

    def make(**options):
        made.append(Cluster(pki, **options))
        return made[-1]

    yield make
    faults = []
    for cluster in reversed(made):
        try:
            cluster.remove()
        except AssertionError as e:
            faults.append(str(e))
    assert not faults, "\n".join(faults)


@pytest.fixture(autouse=True)
def as_described():
    """No answer of kekd during the test that the API's description lacks."""
    openapi.violations.clear()
    yield
    found = openapi.violations[:]
    openapi.violations.clear()
    assert not found, "\n".join(found[:20])
