# SPDX-License-Identifier: Apache-2.0
"""A pair on an etcd that asks for everything: TLS, client certificates, users."""

import shutil

import pytest

from etcd import PRESENT
from kekd import wait_for

pytestmark = pytest.mark.skipif(not PRESENT, reason="no etcd here")


def test_a_pair_works_on_three_members_with_tls_client_certificates_and_users(make_pair):
    pair = make_pair(members=3, tls=True, client_certificates=True, auth=True).start()
    with pair.http("app") as app:
        blob = app.wrap(b"x")
    pair.etcd.leader().kill()
    pair.active().stop()
    pair.active()
    with pair.http("app") as app, pair.http("admin-1") as admin:
        assert app.unwrap(blob) == b"x"
        admin.put_client("other", ["uri:spiffe://test.example/other"],
                         [{"keys": "*", "operations": ["wrap"]}])


def test_a_client_certificate_that_etcd_refuses_for_its_common_name_is_told_as_that(make_pair, pki):
    node = make_pair(nodes=1, tls=True, client_certificates=True, auth=True).nodes[0]
    node.init().start().stop()
    named = pki.client("named")
    shutil.copy(named.pem, node.path("etcd-client.pem"))
    shutil.copy(named.key, node.path("etcd-client.key"))
    node.start(ready=False)
    wait_for(lambda: "must have no common name" in node.log(), "the log says why")
