# SPDX-License-Identifier: Apache-2.0
"""The wall clock jumps: what counts durations does not notice, and what tells the time follows."""

import contextlib
import datetime
import glob
import os
import shlex
import time

import pytest

from kekd import BUILD, DATA, TOOLS, Kekd, kill, wait_for
from pki import Authority, Pki, spiffe
from test_crash import Load, all_unwrap, all_workers_ready
from test_destroy import destroy, set_wait, version

LIBRARY = next(iter(glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")), None)
HOUR = 3600
DAY = 24 * HOUR

pytestmark = [
    pytest.mark.stress,
    pytest.mark.skipif(LIBRARY is None, reason="needs faketime"),
    pytest.mark.skipif(TOOLS, reason="libasan and libfaketime both want to be the first"),
]


@contextlib.contextmanager
def environment(**variables):
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


class LongLived(Pki):
    """Certificates that outlive the jumps, and were there before them."""

    def __init__(self, directory):
        with environment(LD_PRELOAD=LIBRARY, FAKETIME="-20d"):
            self.ca = Authority(directory, days=60)
        self.server = self.ca.issue("server", "DNS:localhost,IP:127.0.0.1,IP:::1",
                                    eku="serverAuth", **self.span(20))
        self.clients = {n: self.client(n, **self.span(20)) for n in ("admin-1", "admin-2", "app")}

    @staticmethod
    def span(days):
        return {"first": datetime.timedelta(days=-15), "last": datetime.timedelta(days=days)}


class Clockwork(Kekd):
    """A kekd whose processes have a wall clock of their own; the clocks for durations are real.

    kekd cleans kekd-net's environment, so its children are started by scripts that set it.
    """

    def __init__(self, pki, **options):
        super().__init__(pki, **options)
        self.set_clock(0)
        os.mkdir(self.path("bin"))
        fake = {"LD_PRELOAD": LIBRARY, "FAKETIME_TIMESTAMP_FILE": self.path("clock"),
                "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                "DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1"}
        for name in ("kekd-net", "kekd-hsm"):
            with open(self.path("bin", name), "w", encoding="utf-8") as f:
                sets = "".join(f"export {k}={shlex.quote(v)}\n" for k, v in fake.items())
                f.write(f"#!/bin/sh\n{sets}exec {shlex.quote(os.path.join(BUILD, name))}\n")
            os.chmod(self.path("bin", name), 0o755)
        self.environment.update(fake, KEKD_LIBEXECDIR=self.path("bin"))

    def set_clock(self, seconds):
        with open(self.path("clock.new"), "w", encoding="ascii") as f:
            f.write(f"{seconds:+d}s\n")
        os.chmod(self.path("clock.new"), 0o644)
        os.rename(self.path("clock.new"), self.path("clock"))
        self.offset = seconds

    def wall(self):
        return time.time() + self.offset


@pytest.fixture(scope="module")
def long_lived(tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("pki") / "ca")
    return LongLived(directory)


@pytest.fixture
def clockwork(long_lived):
    server = Clockwork(long_lived, hsm={"deadline": "5s", "hang": "10s"})
    try:
        yield server.init().start().populate()
    finally:
        server.remove()


def seconds(text):
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def last_wrap_at(server):
    return seconds(server.audit_records(operation="wrap")[-1]["time"])


@pytest.mark.parametrize("jumps", [
    (HOUR, 0, -HOUR, 0),
    (3 * DAY, 0, -3 * DAY, 12 * DAY, -10 * DAY, 0),
], ids=["by an hour", "by days"])
def test_a_jump_of_the_clock_fails_no_request_and_kills_no_worker(clockwork, jumps):
    all_workers_ready(clockwork)
    family = clockwork.family()
    with Load(clockwork) as load:
        load.goes_on()
        for offset in jumps:
            clockwork.set_clock(offset)
            time.sleep(0.3)
            load.goes_on()
            at = last_wrap_at(clockwork)
            assert abs(at - clockwork.wall()) < 60, "the audit log follows the wall clock"
            assert clockwork.health()[0] == 200
        load.goes_on()
    assert not load.wrong, load.wrong[:3]
    assert not load.refused, load.refused[:3]
    assert clockwork.family() == family, "all processes are those that they were"
    with clockwork.http("admin-1") as admin:
        status = admin.status()
        workers = status["tokens"][0]["workers"]
        assert [w["state"] for w in workers] == ["ready", "ready"]
        assert sum(w["missed_deadlines"] + w["hang_kills"] + w["restarts"] for w in workers) == 0
        assert status["tokens"][0]["timeouts"] == 0
        assert 0 <= status["uptime_s"] < HOUR / 2, "it is not older than it is"
        primary = admin.rotate()["primary"]
        assert primary == 2
    all_unwrap(clockwork, load.blobs)
    assert "hangs" not in clockwork.log()


def test_an_audit_log_whose_times_go_back_still_verifies(clockwork):
    """Order is the sequence and the chain; a time is what the clock said."""
    for offset in (0, DAY, -DAY, HOUR):
        clockwork.set_clock(offset)
        with clockwork.http("app") as app:
            app.unwrap(app.wrap(b"x"))
    records = clockwork.audit_records(operation="wrap")
    times = [seconds(r["time"]) for r in records]
    assert times != sorted(times)
    sequence = [r["seq"] for r in clockwork.audit_records()]
    assert sequence == list(range(sequence[0], sequence[0] + len(sequence)))
    clockwork.kekctl("audit", "verify", clockwork.audit_dir)
    clockwork.stop()
    clockwork.set_clock(-3 * DAY)
    clockwork.start()
    with clockwork.http("app") as app:
        assert app.unwrap(app.wrap(b"x")) == b"x"
    clockwork.kekctl("audit", "verify", clockwork.audit_dir)


def test_a_jump_past_a_certificates_end_ends_its_connection_and_no_other(clockwork, long_lived):
    short = long_lived.ca.issue("short", "URI:" + spiffe("short"),
                                first=datetime.timedelta(hours=-1),
                                last=datetime.timedelta(hours=1))
    with clockwork.http("admin-1") as admin:
        admin.put_client("short", ["uri:" + spiffe("short")],
                         [{"keys": "*", "operations": DATA}])
    with clockwork.http("app") as app, clockwork.http(certificate=short) as h:
        blob = h.wrap(b"x")
        app.wrap(b"x")
        clockwork.set_clock(2 * HOUR)
        reply = h.try_unwrap(blob)
        assert (reply.status, reply.code) == (401, "certificate_expired"), reply
        assert h.connection is None, "it is closed"
        assert app.unwrap(blob) == b"x", "the others go on"
        with clockwork.http(certificate=short) as again:
            assert again.get("/v1/whoami").code == "certificate_expired"
        clockwork.set_clock(0)
        assert h.unwrap(blob) == b"x", "the clock was wrong, not the certificate"


def test_a_clock_that_jumps_keeps_kekd_from_neither_stopping_nor_starting(clockwork):
    """It drains and restarts by durations, also while the clock jumps."""
    with Load(clockwork) as load:
        load.goes_on()
        clockwork.set_clock(5 * DAY)
        assert clockwork.stop() == 0
        clockwork.set_clock(-5 * DAY)
        clockwork.start()
        load.goes_on()
    assert not load.wrong, load.wrong[:3]
    all_unwrap(clockwork, load.blobs)
    old = clockwork.workers()
    clockwork.set_clock(9 * DAY)
    kill(old[0])
    wait_for(lambda: len(clockwork.workers()) == 2 and old[0] not in clockwork.workers(),
             "a worker comes back by its back-off")
    all_workers_ready(clockwork)


def test_no_clock_that_is_moved_ends_a_version_early(clockwork):
    """What counts is the time that kekd saw pass."""
    with clockwork.http("admin-1") as admin:
        admin.rotate()
        admin.rotate()
        admin.change("demo", "versions/1/disable")
        set_wait(admin, "1h")
        assert destroy(admin).status == 200
        for offset in (DAY, 12 * DAY, -DAY, 0):
            clockwork.set_clock(offset)
            time.sleep(1)
            assert version(admin)["state"] == "scheduled", offset
    clockwork.set_clock(3 * DAY)
    clockwork.stop()
    clockwork.start()
    time.sleep(1)
    with clockwork.http("admin-1") as admin:
        v = version(admin)
        assert v["state"] == "scheduled" and int(v["destroy"]["waited"][:-1]) < 60
        # Nor does it keep one from its end.
        admin.change("demo", "versions/1/cancel")
        set_wait(admin, "2s")
        assert destroy(admin).status == 200
        clockwork.set_clock(-3 * DAY)
        wait_for(lambda: version(admin)["state"] == "destroyed", "it is destroyed")


def test_a_request_for_approval_expires(clockwork):
    with clockwork.http("admin-1") as admin, clockwork.http("admin-2") as other:
        etag = admin.ok("GET", "/v1/cluster").etag
        admin.ok("PATCH", "/v1/cluster", {"policy": {"approvals": 2, "destroy_wait": "24h"}},
                 etag=etag)
        etag = admin.ok("GET", "/v1/cluster").etag
        asked = admin.ok("PATCH", "/v1/cluster", {"policy": {"approvals": 1}}, etag=etag,
                         status=202).json
        clockwork.set_clock(DAY + HOUR)
        path = f"/v1/approvals/{asked['id']}"
        assert other.ok("GET", path).json["state"] == "expired"
        reply = other.call("POST", f"{path}/approve", {"evidence": asked["evidence"]})
        assert (reply.status, reply.code) == (409, "approval_not_pending")
