# SPDX-License-Identifier: Apache-2.0
"""Registered backups of etcd and the time: a clock that is ahead frees nothing early, and a version
is clean ten minutes after its last value can have come to lie in etcd."""

import time

import pytest

from kekd import TOOLS
from test_clock import (DAY, HOUR, LIBRARY, clockwork,  # noqa: F401  fixtures
                        long_lived)
from test_destroy import destroy, old_version, state, wait_for_state
from test_snapshots import body, entry, put, register
from test_usage import version as used

pytestmark = [
    pytest.mark.stress,
    pytest.mark.skipif(LIBRARY is None, reason="needs faketime"),
    pytest.mark.skipif(TOOLS, reason="libasan and libfaketime both want to be the first"),
]


def test_a_clock_that_is_ahead_frees_no_version(clockwork):  # noqa: F811
    with clockwork.http("admin-1") as admin:
        key = old_version(admin, "ahead")
        register(admin, "ahead-1", entry(admin, key), until=12)
        clockwork.set_clock(DAY)
        reply = destroy(admin, 1, key)
        assert reply.code == "needed_by_backup", reply
        assert "by the time that kekd saw pass" in reply.json["detail"]
        # Nor does whoever registers the same once more.
        before = admin.ok("GET", "/v1/snapshots/ahead-1")
        again = {m: before.json[m] for m in body()} | {"versions": [entry(admin, key)]}
        assert put(admin, "ahead-1", again, etag=before.etag).status == 200
        found = admin.ok("GET", "/v1/snapshots/ahead-1").json
        assert found["needed"] and 0 < found["uncounted_s"] <= 12
    # Nor does a start on the wrong clock.
    clockwork.stop()
    clockwork.start()
    with clockwork.http("admin-1") as admin:
        assert admin.ok("GET", "/v1/snapshots/ahead-1").json["needed"]
        assert state(admin, key) == "disabled"
        # Back again, it takes as long as it was to take, and no longer.
        clockwork.set_clock(0)
        time.sleep(13)
        assert not admin.ok("GET", "/v1/snapshots/ahead-1").json["needed"]
        assert destroy(admin, 1, key).status == 200
        wait_for_state(admin, key, "destroyed")


def test_a_version_is_clean_when_each_clusters_newest_snapshot_says_so(clockwork):  # noqa: F811
    def why():
        found = used(admin, 1, "clean")
        assert found["inventory"]["clean"] == (found["verdict"] == "inventory clean")
        return found["inventory"]["reason"]

    with clockwork.http("admin-1") as admin, clockwork.http("app") as app:
        admin.create_key("clean")
        app.wrap(b"seed", key="clean")
        old = entry(admin, "clean", 1)
        register(admin, "east-1", dict(old), cluster="east")
        admin.rotate("clean")
        admin.change("clean", "versions/1/disable")
        new = entry(admin, "clean", 2)
        assert "live and 2 superseded values" in why()
        # Rewritten, and the snapshot is taken at once: too soon to tell.
        register(admin, "east-2", dict(new), cluster="east", taken=0)
        assert "taken after that" in why()
        clockwork.set_clock(HOUR)
        assert "taken after that" in why(), "it is not the snapshot that is older now"
        register(admin, "east-3", dict(new), cluster="east", taken=HOUR - 60)
        found = used(admin, 1, "clean")
        assert found["verdict"] == "inventory clean" and found["inventory"]["reason"] is None
        told = clockwork.kekctl("key", "usage", "clean", "1").stdout.decode()
        assert "inventory clean" in told and "no registered cluster has it" in told
        # A backup from before is still to be restored.
        assert found["needed_by"] == "east-1"
        assert destroy(admin, 1, "clean").code == "needed_by_backup"
        # Another cluster has not told yet; then it has, and is clean too.
        register(admin, "west-1", dict(old, live=0), cluster="west", taken=HOUR - 60)
        assert "west" in why() and "0 live" in why()
        register(admin, "west-2", dict(new), cluster="west", taken=HOUR - 50, complete=False)
        assert "not complete" in why()
        register(admin, "west-3", dict(new), cluster="west", taken=HOUR - 40)
        assert why() is None
        clockwork.set_clock(0)
        assert "clock was set back" in why()
        clockwork.set_clock(HOUR)
        assert why() is None
        assert used(admin, 2, "clean")["inventory"]["reason"] == "it is the primary"
        # An old file that was copied: it looks young, and says nothing of what lies there now.
        register(admin, "west-4", dict(new), cluster="west", taken=HOUR - 30, etcd_revision=17)
        assert "no further" in why() and "west-" in why()
        admin.change("clean", "versions/1/enable")
        admin.ok("DELETE", "/v1/snapshots/west-4",
                 etag=admin.ok("GET", "/v1/snapshots/west-4").etag)
        told = clockwork.kekctl("key", "usage", "clean", "1").stdout.decode()
        assert "in use" in told and "once it is disabled" in told
        admin.change("clean", "versions/1/disable")
        clockwork.set_clock(8 * DAY)
        assert "7 days" in why()
        again = body(dict(new), cluster="west", taken=8 * DAY - 60)
        assert put(admin, "west-5", again).status == 201
        assert "east" in why(), "of the other one nothing is known now"
