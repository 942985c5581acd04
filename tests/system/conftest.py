# SPDX-License-Identifier: Apache-2.0
"""Fixtures: servers that are gone after the test, what a test needs of the machine."""

import os
import shutil
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))

import disk  # noqa: E402
from etcd import Etcd  # noqa: E402
from fixtures import as_described, faults, maker, pki  # noqa: E402, F401
from kekd import HSM_USER, USER  # noqa: E402
from pair import Pair  # noqa: E402


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
    with disk.limited(server.audit_dir, "1m"):
        try:
            yield server.init().start().populate()
        finally:
            server.stop()


@pytest.fixture
def promtool():
    """A function: promtool in this directory, which must find nothing to complain about."""
    path = shutil.which("promtool")
    if not path:
        pytest.skip("promtool is not installed (package prometheus)")

    def run(*arguments, **options):
        done = subprocess.run([path, *arguments], check=False, text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, **options)
        assert done.returncode == 0, done.stdout
        return done.stdout
    return run


@pytest.fixture
def admin(server):
    with server.http("admin-1") as h:
        yield h


@pytest.fixture
def app(server):
    with server.http("app") as h:
        yield h


@pytest.fixture(scope="session")
def root():
    if os.getuid() != 0:
        pytest.skip("needs root")
