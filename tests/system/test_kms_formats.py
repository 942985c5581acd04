# SPDX-License-Identifier: Apache-2.0
"""What kekd-kms leaves in etcd and on disk can be read without it (doc/formats/kubernetes.md)."""

import json
import os

import pytest

from kekd import b64
from kms import KEY, PRESENT, PROVIDER, Plugin

pytestmark = pytest.mark.skipif(not PRESENT, reason="built without kekd-kms")


@pytest.fixture
def plugin(pki, server):
    plugin = Plugin(pki, server).start()
    yield plugin
    plugin.remove()


def contexts(plugin):
    return [a for pair in (f"kubernetes-cluster={plugin.cluster}", f"provider={PROVIDER}")
            for a in ("--context", pair)]


def test_a_seed_is_unwrapped_by_hand(server, plugin, tmp_path):
    sealed = plugin.stub().encrypt()
    (tmp_path / "blob").write_text(b64(sealed.ciphertext))
    with server.http("admin-1") as admin:
        admin.put_client(plugin.name + "-hand", ["uri:spiffe://test.example/other"],
                         [{"keys": KEY, "operations": ["unwrap"]}])
    done = server.kekctl("unwrap", KEY, "--in", str(tmp_path / "blob"), *contexts(plugin),
                         name="other")
    assert done.stdout == sealed.seed
    server.kekctl("unwrap", KEY, "--in", str(tmp_path / "blob"), name="other", status=1)


def test_what_was_announced_is_on_disk_before_it_is_told(plugin):
    key_id = plugin.stub().key_id()
    path = os.path.join(plugin.path("state"), "announced")
    with open(path, encoding="utf-8") as f:
        assert json.load(f) == {"cluster": plugin.cluster, "key": KEY, "key_id": key_id,
                                "provider": PROVIDER}
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert os.listdir(plugin.path("state")) == ["announced"]
