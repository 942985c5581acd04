# SPDX-License-Identifier: Apache-2.0
"""Fixtures: the certificates of the run, servers that are gone after the test."""

import os
import shutil
import subprocess
import sys
import tempfile

import pytest

sys.path.insert(0, os.path.dirname(__file__))

import openapi  # noqa: E402
from etcd import PRESENT, Etcd  # noqa: E402
from kekd import HSM_USER, USER, Kekd  # noqa: E402
from pair import Pair  # noqa: E402
from pki import Pki  # noqa: E402


# Promises with a time in them: alone on the machine.
STRESS = ("test_kms_failover", "test_pair_network", "test_pair_takeover")
# Mostly waiting for what a fault makes a pair do. Its code is under sanitizers in the other files.
FAULTS = ("test_pair_commits", "test_pair_etcd", "test_pair_runbooks", "test_pair_suspended",
          "test_pair_upgrade", "test_lab_pair")


def pytest_configure(config):
    config.addinivalue_line("markers", "stress: measures times; not run under sanitizers")
    config.addinivalue_line("markers", "faults: waits long; not run under sanitizers")


def pytest_collection_modifyitems(items):
    for item in items:
        if item.module.__name__ in FAULTS:
            item.add_marker("faults")
        if item.module.__name__ in STRESS:
            item.add_marker("stress")


@pytest.fixture(scope="session")
def pki():
    directory = tempfile.mkdtemp(prefix="kekd-pki-")
    os.chmod(directory, 0o755)
    yield Pki(directory)
    shutil.rmtree(directory, ignore_errors=True)


def maker(pki, kind=Kekd):
    made = []

    def make(*arguments, **options):
        if kind in (Pair, Etcd) and not PRESENT:
            pytest.skip("no etcd here")
        made.append(kind(pki, *arguments, **options))
        return made[-1]

    yield make
    faults = []
    for server in reversed(made):
        try:
            server.remove()
        except AssertionError as e:
            faults.append(str(e))
    assert not faults, "\n".join(faults)


@pytest.fixture
def make_server(pki):
    """A function that makes a Kekd: not initialised, not started, gone after the test."""
    yield from maker(pki)


@pytest.fixture
def make_pair(pki):
    """A function that makes a Pair: not started, gone after the test, its etcd too."""
    yield from maker(pki, Pair)


def plugin_maker(pki):
    """Gone before the servers that the plugins are at."""
    kms = pytest.importorskip("kms", reason="python3-grpcio is not installed")
    if not kms.PRESENT:
        pytest.skip("kekd-kms was not built: no gRPC here")
    yield from maker(pki, kms.Plugin)


@pytest.fixture
def make_plugin(pki, make_server, make_pair):
    """A function that makes a kms.Plugin at a Kekd or Pair that runs: not started."""
    yield from plugin_maker(pki)


@pytest.fixture(scope="module")
def make_shared_plugin(pki, make_shared_server, make_shared_pair):
    yield from plugin_maker(pki)


@pytest.fixture
def make_etcd(pki):
    yield from maker(pki, Etcd)


@pytest.fixture(scope="module")
def make_shared_pair(pki):
    yield from maker(pki, Pair)


@pytest.fixture(scope="module")
def make_shared_server(pki):
    yield from maker(pki)


@pytest.fixture(scope="module")
def server(make_shared_server):
    """One for all tests of a file: running, with key "demo" and client "app"."""
    return make_shared_server().init().start().populate()


@pytest.fixture(scope="module")
def separate(make_shared_server, root):
    """As in production: root starts it, the children have users of their own."""
    return make_shared_server(user=USER, hsm_user=HSM_USER).init().start().populate()


@pytest.fixture
def own(make_server):
    """The same for one test alone, which may do it harm."""
    return make_server().init().start().populate()


@pytest.fixture
def small_disk(make_server, root):
    """One whose audit directory has one MiB in all."""
    server = make_server()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs",
                           server.audit_dir], check=False, capture_output=True)
    if done.returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        yield server.init().start().populate()
    finally:
        server.stop()
        subprocess.run(["umount", "-l", server.audit_dir], check=True)


@pytest.fixture
def admin(server):
    with server.http("admin-1") as h:
        yield h


@pytest.fixture
def app(server):
    with server.http("app") as h:
        yield h


@pytest.fixture(autouse=True)
def as_described():
    """No answer during the test that the API's description lacks, seen or swallowed."""
    openapi.violations.clear()
    yield
    found = openapi.violations[:]
    openapi.violations.clear()
    assert not found, "\n".join(found[:20])


@pytest.fixture(scope="session")
def root():
    if os.getuid() != 0:
        pytest.skip("needs root")
