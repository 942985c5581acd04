# SPDX-License-Identifier: Apache-2.0
"""contrib/kubernetes/reencrypt against an API server that is slow, fails and forgets."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time

import pytest

from apiserver import ApiServer

TOP = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
PROGRAM = os.path.join(TOP, "contrib", "kubernetes", "reencrypt")


@pytest.fixture
def api(pki):
    server = ApiServer(pki)
    yield server
    server.close()
    assert not server.unfit, server.unfit


@pytest.fixture
def reencrypt(pki, api, tmp_path):
    """Runs it, or with start=True starts it."""
    started = []

    def run(*arguments, start=False, rate=2000, url=None, timeout=60):
        who = pki.clients["admin-1"]
        command = [sys.executable, "-B", PROGRAM, "--server", url or api.url, "--ca", pki.ca.pem,
                   "--cert", who.pem, "--key", who.key, "--rate", str(rate), "--pause", "0.2",
                   "-o", "json", *arguments]
        p = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True)
        started.append(p)
        return p if start else finish(p, timeout)

    yield run
    for p in started:
        if p.poll() is None:
            p.kill()
        p.communicate()


class Done:
    def __init__(self, status, out, err):
        self.status, self.err = status, err
        self.out = json.loads(out) if out else None

    def counts(self, at=0):
        found = self.out["resources"][at]
        return {k: found[k] for k in ("written", "current", "gone", "conflicts", "failed")
                if found[k]}


def finish(p, timeout=60):
    out, err = p.communicate(timeout=timeout)
    return Done(p.returncode, out, err)


def until(what, seconds=20):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)


def test_every_object_is_written_once_and_a_second_run_finds_them_current(api, reencrypt):
    api.secrets(30)
    api.secrets(5, "shop")
    api.secrets(4, "shop", "configmaps")
    done = reencrypt("--resources", "secrets,configmaps")
    assert done.status == 0, done.err
    assert (done.counts(0), done.counts(1)) == ({"written": 35}, {"written": 4})
    assert [r["total"] for r in done.out["resources"]] == [35, 4]
    assert done.out["complete"] and not api.stale() and not api.stale("shop", "configmaps")
    assert len(api.patches()) == 39
    again = reencrypt("--resources", "secrets,configmaps")
    assert (again.counts(0), again.counts(1)) == ({"current": 35}, {"current": 4})
    assert "secrets: 35 objects: 0 written anew, 35 were current" in again.err


def test_many_pages_are_walked_in_order(api, reencrypt):
    api.page = 7
    api.secrets(40)
    done = reencrypt()
    assert done.counts() == {"written": 40}
    names = [path.rpartition("/")[2] for _, path in api.patches()]
    assert names == sorted(api.of())


def test_a_dry_run_counts_and_writes_nothing(api, reencrypt, tmp_path):
    api.secrets(12)
    done = reencrypt("--dry-run")
    assert done.status == 0 and done.out == {"dry_run": True, "totals": {"secrets": 12}}
    assert "secrets: 12 objects would be written" in done.err
    assert not api.patches() and not os.listdir(tmp_path)


@pytest.mark.parametrize("word", ["orders.shop.example", "shop.example/orders"])
def test_any_resource_is_found_in_its_preferred_version(api, reencrypt, word):
    api.add("/apis/shop.example/v2/orders", "first")
    done = reencrypt("--resources", word)
    assert done.status == 0, done.err
    assert api.patches()[0][1] == "/apis/shop.example/v2/orders/first"


def test_one_namespace_alone(api, reencrypt):
    api.secrets(3)
    api.secrets(2, "shop")
    assert reencrypt("-n", "shop").counts() == {"written": 2}
    assert len(api.stale()) == 3


def test_a_namespace_that_is_not_there_is_named(api, reencrypt):
    """Its list would be empty, as if all were done."""
    done = reencrypt("-n", "shopp")
    assert done.status == 4 and "there is no namespace shopp" in done.err


def test_a_namespace_and_a_resource_that_has_none_are_wrong_use(api, reencrypt):
    done = reencrypt("-n", "shop", "--resources", "orders.shop.example")
    assert done.status == 2 and "orders.shop.example is in no namespace" in done.err


@pytest.mark.parametrize("status, wanted", [(403, 3), (500, 7), (503, 7)])
def test_a_server_that_does_not_tell_its_resources_is_not_taken_for_one_without_them(
        api, reencrypt, status, wanted):
    api.before = lambda method, path: status if path == "/api/v1" else None
    done = reencrypt()
    assert done.status == wanted and str(status) in done.err and "has no" not in done.err


def test_an_answer_that_is_no_table_is_not_taken_for_an_empty_one(api, reencrypt):
    api.secrets(3)
    api.table = lambda *_, **__: (200, {"kind": "SecretList", "items": []})
    done = reencrypt()
    assert done.status == 3 and "no table" in done.err


def test_a_resource_that_is_not_there_is_named(api, reencrypt):
    for word in ("sekrets", "orders.nowhere.example", "bindings"):
        done = reencrypt("--resources", word)
        assert done.status == 4 and word.split(".", 1)[-1] in done.err


def test_who_may_not_patch_is_told_before_anything_is_done(api, reencrypt):
    api.secrets(3)
    api.forbidden = {"patch"}
    done = reencrypt()
    assert done.status == 3 and "no right to patch secrets" in done.err
    assert not api.patches()


def test_what_was_deleted_or_changed_meanwhile_is_no_failure(api, reencrypt):
    api.secrets(6)
    api.answers = {"s0001": [404], "s0003": [409]}
    done = reencrypt()
    assert done.status == 0
    assert done.counts() == {"written": 4, "gone": 1, "conflicts": 1}


def test_what_cannot_be_written_is_named_and_the_rest_is_done(api, reencrypt):
    api.secrets(6)
    api.answers = {"s0002": [403], "s0004": [500] * 99}
    done = reencrypt()
    assert done.status == 1
    assert done.counts() == {"written": 4, "failed": 2}
    assert [(f["namespace"], f["name"], f["status"]) for f in done.out["failed"]] == [
        ("default", "s0002", 403), ("default", "s0004", 500)]
    assert "default/s0004: set aside until the end" in done.err


def test_it_ends_when_object_after_object_is_refused(api, reencrypt):
    api.secrets(60)
    api.before = lambda method, path: 422 if method == "PATCH" else None
    done = reencrypt()
    assert done.status == 3 and "20 objects failed one after the other" in done.err
    assert len(api.patches()) == 20


def test_a_terminal_has_a_bar_that_grows_and_is_gone_at_the_end(api, pki, tmp_path):
    api.secrets(100)
    who = pki.clients["admin-1"]
    ours, its = pty.openpty()
    with subprocess.Popen([sys.executable, "-B", PROGRAM, "--server", api.url, "--ca", pki.ca.pem,
                           "--cert", who.pem, "--key", who.key, "--rate", "100"], cwd=tmp_path,
                          stderr=its) as p:
        os.close(its)
        shown = b""
        with contextlib.suppress(OSError):  # its end, for a terminal
            while part := os.read(ours, 4096):
                shown += part
        assert p.wait(30) == 0
    os.close(ours)
    drawn = shown.split(b"\r\033[K")
    bars = [line.count(b"#") for line in drawn if line.startswith(b"[")]
    assert len(bars) > 2 and bars == sorted(bars) and bars[0] < bars[-1]
    assert b" of 100, " in shown and b" left" in shown
    assert drawn[-1].startswith(b"secrets: 100 objects: 100 written anew")


def test_the_rate_is_kept(api, reencrypt):
    api.secrets(40)
    assert reencrypt(rate=50).status == 0
    times = [when for when, _ in api.patches()]
    assert times[-1] - times[0] > 39 / 50 * 0.95


def test_an_interrupted_run_goes_on_where_it_was(api, reencrypt, tmp_path):
    api.page = 16
    api.secrets(100)
    p = reencrypt(start=True, rate=100)
    until(lambda: len(api.patches()) >= 40)
    p.send_signal(signal.SIGINT)
    first = finish(p)
    assert first.status == 130 and not first.out["complete"]
    assert "reencrypt.state has where it was broken off" in first.err
    made = len(api.patches())
    second = reencrypt()
    assert second.status == 0 and second.out["resumed"]
    assert second.out["started"] == first.out["started"]
    assert sum(second.counts().values()) == 100 and not api.stale()
    assert len(api.patches()) - made <= 100 - made + 1
    assert "goes on with the run of" in second.err
    assert not os.listdir(tmp_path)


def test_a_killed_run_goes_on_too(api, reencrypt):
    api.secrets(400)
    p = reencrypt(start=True, rate=100)
    until(lambda: len(api.patches()) >= 250)
    p.kill()
    p.communicate()
    made = len(api.patches())
    done = reencrypt()
    assert done.status == 0 and done.out["resumed"] and not api.stale()
    assert sum(done.counts().values()) == 400
    # What was done since the state was saved, at most some seconds ago, is asked for again.
    assert len(api.patches()) < made + 400
    assert max(o.patches for o in api.of().values()) <= 2


def test_restart_begins_anew(api, reencrypt):
    api.secrets(50)
    p = reencrypt(start=True, rate=50)
    until(lambda: len(api.patches()) >= 10)
    p.send_signal(signal.SIGTERM)
    assert finish(p).status == 130
    done = reencrypt("--restart")
    assert not done.out["resumed"] and sum(done.counts().values()) == 50
    assert done.counts()["current"] >= 10


def test_a_state_of_another_run_is_not_gone_on_with(api, reencrypt, tmp_path):
    api.secrets(50)
    p = reencrypt(start=True, rate=50)
    until(lambda: len(api.patches()) >= 5)
    p.send_signal(signal.SIGINT)
    finish(p)
    done = reencrypt("--resources", "configmaps")
    assert done.status == 2 and "its resources differs" in done.err
    path = tmp_path / "reencrypt.state"
    path.write_text(path.read_text().replace("7a7b", "another"))
    done = reencrypt()
    assert done.status == 2 and "its cluster differs" in done.err
    for text in ("{", "", "[]", '{"format": 1, "cluster": "7a7b", "resources": ["secrets"], '
                 '"namespace": null, "index": "x"}'):
        path.write_text(text)
        done = reencrypt()
        assert done.status == 2 and "--restart" in done.err and "Traceback" not in done.err


def test_a_server_that_fails_as_a_run_goes_on_is_waited_for(api, reencrypt):
    """What it cannot tell is not taken for another cluster's."""
    api.secrets(50)
    p = reencrypt(start=True, rate=50)
    until(lambda: len(api.patches()) >= 5)
    p.send_signal(signal.SIGINT)
    finish(p)
    failures = [500, 500]
    api.before = lambda method, path: failures.pop() if failures and \
        path.endswith("/kube-system") else None
    done = reencrypt()
    assert done.status == 0 and done.out["resumed"] and not api.stale()


def test_a_reader_of_the_summary_that_is_gone_is_no_matter(api, reencrypt):
    api.secrets(3)
    p = reencrypt(start=True)
    p.stdout.close()
    assert p.wait(60) == 0 and "Traceback" not in p.stderr.read()


@pytest.mark.parametrize("token", [True, False])
def test_an_expired_list_is_gone_on_with(api, reencrypt, token):
    api.page = 10
    api.secrets(45)
    api.expire, api.give_token = 2, token
    done = reencrypt()
    assert done.status == 0 and done.counts() == {"written": 45}
    assert len(api.patches()) == 45


def test_a_resumed_run_whose_token_expired_repeats_nothing(api, reencrypt):
    api.page = 10
    api.secrets(60)
    p = reencrypt(start=True, rate=100)
    until(lambda: len(api.patches()) >= 25)
    p.send_signal(signal.SIGINT)
    finish(p)
    made = len(api.patches())
    api.expire, api.give_token = 1, False
    done = reencrypt()
    assert done.status == 0 and not api.stale()
    assert len(api.patches()) - made <= 60 - made + 1


def test_it_pauses_while_the_server_is_slow_and_goes_on_by_itself(api, reencrypt):
    api.secrets(300)
    p = reencrypt(start=True, rate=200)
    until(lambda: len(api.patches()) >= 80)
    api.latency = 0.3
    until(lambda: len(api.patches()) >= 100)
    before = len(api.patches())
    time.sleep(3)
    crept = len(api.patches()) - before
    api.latency = 0
    done = finish(p)
    assert done.status == 0 and done.counts() == {"written": 300}
    assert "paused: the API server takes" in done.err
    assert "goes on: the API server is as it was" in done.err
    assert done.out["pauses"] >= 1 and done.out["paused_seconds"] > 0
    assert crept < 12


def test_it_waits_as_long_as_a_busy_server_says(api, reencrypt):
    api.secrets(20)
    busy = [(429, {"Retry-After": "2"})]
    api.before = lambda method, path: busy.pop() if method == "PATCH" and busy and \
        path.endswith("s0010") else None
    done = reencrypt()
    assert done.status == 0 and done.counts() == {"written": 20}
    times = [when for when, path in api.patches() if path.endswith("s0010")]
    assert len(times) == 2 and times[1] - times[0] >= 2
    assert "the API server answers 429: told to; asks again in 2 s" in done.err


@pytest.mark.parametrize("fault", [503, 500, "drop"])
def test_it_waits_for_a_server_that_fails_and_loses_nothing(api, reencrypt, fault):
    api.secrets(60)
    p = reencrypt(start=True, rate=100)
    until(lambda: len(api.patches()) >= 20)
    api.before = lambda method, path: fault
    time.sleep(2.5)
    api.before = None
    done = finish(p)
    assert done.status == 0, done.err
    assert done.counts() == {"written": 60} and not api.stale()
    assert "paused: " in done.err


def test_it_gives_up_in_the_end_and_leaves_a_state_to_go_on_from(api, reencrypt):
    api.secrets(60)
    p = reencrypt("--give-up", "1", start=True, rate=100)
    until(lambda: len(api.patches()) >= 20)
    api.before = lambda method, path: 503
    gone = finish(p)
    assert gone.status == 7 and "given up" in gone.err
    api.before = None
    done = reencrypt()
    assert done.status == 0 and sum(done.counts().values()) == 60 and not api.stale()


def test_a_server_with_another_ca_is_not_spoken_to(api, pki, reencrypt, tmp_path):
    api.secrets(3)
    done = reencrypt("--ca", pki.clients["app"].pem)
    assert done.status == 3 and "its certificate is not accepted" in done.err
    assert not api.seen


def test_without_tls_only_on_loopback(reencrypt):
    done = reencrypt(url="http://192.0.2.1:8001")
    assert done.status == 2 and "without TLS on loopback alone" in done.err


@pytest.mark.parametrize("arguments", [
    ("--rate", "0"), ("--resources", ","), ("--resources", "*.*"), ("--rate", "x"),
    ("--nonsense",)])
def test_wrong_use_is_told(reencrypt, arguments):
    assert reencrypt(*arguments).status == 2


def test_a_kubeconfig_is_read_through_kubectl(api, pki, tmp_path):
    """A kubectl of ours that prints what kubectl config view --raw prints."""
    import base64

    def data(path):
        with open(path, "rb") as f:
            return base64.b64encode(f.read()).decode()

    api.secrets(3)
    who = pki.clients["admin-1"]
    view = {"clusters": [{"name": "c", "cluster": {
                "server": api.url.replace("127.0.0.1", "localhost"),
                "certificate-authority-data": data(pki.ca.pem), "tls-server-name": "localhost"}}],
            "users": [{"name": "u", "user": {"client-certificate-data": data(who.pem),
                                             "client-key-data": data(who.key)}}]}
    (tmp_path / "view.json").write_text(json.dumps(view))
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(f"#!/bin/sh\necho \"$@\" >{tmp_path}/asked\ncat {tmp_path}/view.json\n")
    kubectl.chmod(0o755)
    environment = dict(os.environ, PATH=f"{tmp_path}:{os.environ['PATH']}")

    def run():
        return subprocess.run(
            [sys.executable, "-B", PROGRAM, "--context", "lab", "--rate", "1000"],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False)

    done = run()
    assert done.returncode == 0, done.stderr
    assert not api.stale()
    asked = (tmp_path / "asked").read_text()
    assert "config view --raw" in asked and "--context=lab" in asked
    for user in ({"exec": {"command": "x"}}, {"token": "x", "as": "somebody-with-fewer-rights"}):
        view["users"][0]["user"] = user
        (tmp_path / "view.json").write_text(json.dumps(view))
        done = run()
        assert done.returncode == 2 and "kubectl proxy" in done.stderr
