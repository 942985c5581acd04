# SPDX-License-Identifier: Apache-2.0
"""The second sink is told what the log has, and can be as bad as it likes."""

import json
import os
import re
import socket
import threading
import time

import pytest

from kekd import wait_for


class Receiver:
    """A datagram socket at a path, which somebody may read."""

    def __init__(self, path, room=None):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        if room:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        self.socket.bind(path)
        os.chmod(path, 0o666)
        self.socket.settimeout(10)
        self.path = path

    def read(self):
        return self.socket.recv(1 << 20)

    def until(self, wanted):
        """What comes up to a record that matches."""
        read = [self.read()]
        while not wanted(read[-1]):
            read.append(self.read())
        return read

    def close(self):
        self.socket.close()
        if os.path.exists(self.path):
            os.unlink(self.path)


@pytest.fixture
def with_sink(make_server, tmp_path):
    """A function: a server whose sink is in this format, and its receiver."""
    os.chmod(tmp_path, 0o755)
    receivers = []

    def make(form, listening=True, **options):
        path = f"/tmp/kekd-sink-{os.getpid()}-{len(receivers)}"
        if listening:
            receivers.append(Receiver(path, **options))
        server = make_server(audit={"sink": f"{form}:{path}"}).init()
        return server.start().populate(), (receivers[-1] if listening else path)
    yield make
    for r in receivers:
        r.close()


def sink(server):
    with server.http("admin-1") as admin:
        return admin.status()["audit"]["sink"]


def wrap(server, n=1):
    with server.http("app") as app:
        for _ in range(n):
            app.wrap(b"told")


def is_wrap(data):
    return b'"operation":"wrap"' in data


def test_the_lines_come_as_they_stand_in_the_log(with_sink):
    server, receiver = with_sink("json")
    wrap(server)
    told = receiver.until(is_wrap)
    log = [line.rstrip(b"\n") for line in server.audit_lines()]
    assert set(told) <= set(log)
    assert json.loads(told[-1])["client"] == "app"
    assert sink(server)["ok"] and sink(server)["lost"] == 0
    assert sink(server)["sent"] >= len([t for t in told if b'"key"' in t])


def test_syslog_gets_rfc_5424(with_sink):
    server, receiver = with_sink("syslog")
    wrap(server)
    message = receiver.until(is_wrap)[-1].decode()
    head = re.match(r"<110>1 (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z) \S+ kekd \d+ audit - (\{.*)",
                    message)
    assert head, message
    assert json.loads(head.group(2))["time"] == head.group(1)


def test_the_journal_gets_its_own_protocol(with_sink):
    server, receiver = with_sink("journal")
    wrap(server)
    fields = dict(line.split("=", 1) for line in
                  receiver.until(is_wrap)[-1].decode().rstrip("\n").split("\n"))
    assert fields["SYSLOG_IDENTIFIER"] == "kekd-audit" and fields["PRIORITY"] == "6"
    assert json.loads(fields["MESSAGE"])["operation"] == "wrap"


def test_a_receiver_that_does_not_read_loses_records_and_delays_nobody(with_sink):
    server, receiver = with_sink("json", room=4096)
    begin = time.monotonic()
    wrap(server, 300)
    assert time.monotonic() - begin < 20
    wait_for(lambda: sink(server)["lost"] > 0, "lost records are counted")
    state = sink(server)
    assert not state["ok"] and state["reason"], (state, server.log())
    assert len(server.audit_records(operation="wrap")) == 300
    assert server.log().count("records are lost there") == 1
    server.kekctl("audit", "verify", server.audit_dir)

    def drained():  # who reads again is told again
        receiver.socket.setblocking(False)
        try:
            while True:
                receiver.read()
        except BlockingIOError:
            pass
        wrap(server)
        return sink(server)["ok"]
    wait_for(drained, "the sink takes records again", every=0.3)


def test_a_receiver_that_reads_too_slowly_is_told_of_once(with_sink):
    server, receiver = with_sink("json", room=4096)
    done = threading.Event()

    def read():
        receiver.socket.settimeout(0.2)
        while not done.wait(0.05):
            try:
                receiver.read()
            except TimeoutError:
                pass
    reader = threading.Thread(target=read)
    reader.start()
    try:
        items = [{"plaintext": "AAAA", "context": {"k": "v" * 3000 + str(n)}} for n in range(10)]
        with server.http("app") as app:
            for _ in range(500):  # some 15 MB, of which the queue has 8
                app.ok("POST", "/v1/keys/demo/wrap", {"items": items})
        state = sink(server)
        assert state["lost"] > 0 and not state["ok"] and "slow" in state["reason"], state
        wait_for(lambda: "records are lost there" in server.log(), "the log tells of it")
        assert server.log().count("records are lost there") == 1
        assert len(server.audit_records(operation="wrap")) == 500
    finally:
        done.set()
        reader.join()


def test_a_receiver_that_is_not_there_yet_is_told_once_it_is(with_sink):
    server, path = with_sink("syslog", listening=False)
    wrap(server)
    wait_for(lambda: sink(server)["lost"] > 0, "lost records are counted")
    receiver = Receiver(path)
    try:
        def told():
            wrap(server)
            return sink(server)["sent"] > 0
        wait_for(told, "the receiver is found", every=0.3)
        receiver.until(is_wrap)
    finally:
        receiver.close()
    assert server.stop() == 0


def test_the_metrics_tell_of_it(with_sink):
    server, receiver = with_sink("json")
    wrap(server)
    receiver.until(is_wrap)
    with server.http("admin-1") as admin:
        text = admin.ok("GET", "/metrics").body.decode()
    assert "kekd_audit_sink_up 1" in text and "kekd_audit_sink_lost_total 0" in text


@pytest.mark.parametrize("spec", ["syslogd", "json", "json:", "json:relative", "syslog:",
                                  "journal:" + "/long" * 30])
def test_a_sink_that_cannot_be_is_a_finding(make_server, spec):
    server = make_server(audit={"sink": spec})
    done = server.run("--check")
    assert done.returncode == 78 and "audit.sink" in done.stdout
