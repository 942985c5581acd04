# SPDX-License-Identifier: Apache-2.0
"""kekd-kms between a pair's nodes: an API server with its deadlines of 3 s sees no failure while
one of them goes or hangs; what is asked is bounded, and what is asked twice at once is asked
once."""

import collections
import datetime
import os
import shutil
import time

import pytest

from etcd import PRESENT
from kekd import wait_for
from kms import DEADLINE, GRANTS, Beside, Code, Load
from pki import replace, spiffe
from protobuf import field
from proxy import Proxy

needs_etcd = pytest.mark.skipif(not PRESENT, reason="no etcd here")
# More than all calls that it holds at once.
FLOOD = 4000


@pytest.fixture(scope="module")
def pair(make_shared_pair):
    return make_shared_pair().start().all_ready()


@pytest.fixture
def whole(pair):
    """Whoever a test stopped is back for the next one."""
    yield pair
    for node in pair.nodes:
        node.resume()
        if node.process is None:
            node.start()
    pair.active()
    pair.all_ready()


@pytest.fixture
def plugin(whole, make_plugin):
    return make_plugin(whole).start()


@needs_etcd
@pytest.mark.parametrize("who", ["active", "standby"])
@pytest.mark.parametrize("how", ["kill_all", "stop"])
def test_no_call_fails_while_a_node_goes(whole, plugin, who, how):
    node = whole.active() if who == "active" else whole.standby()
    with Load(plugin) as load:
        getattr(node, how)()
        time.sleep(4)
        assert plugin.stub().key_id()
    assert load.slowest["Encrypt"] < DEADLINE and load.slowest["Decrypt"] < DEADLINE


@needs_etcd
def test_no_call_fails_when_the_active_steps_down(whole, plugin):
    active = whole.active()
    with Load(plugin) as load:
        active.kekctl("cluster", "step-down", "--pause", "2s")
        whole.active(but=active)
        time.sleep(1)
        assert plugin.stub().key_id()
    assert load.slowest["Encrypt"] < DEADLINE and load.slowest["Decrypt"] < DEADLINE


@needs_etcd
@pytest.mark.parametrize("who", ["active", "standby"])
def test_no_call_fails_while_a_node_hangs(whole, plugin, who):
    """Nothing refuses the connection: it is time alone that tells."""
    node = whole.active() if who == "active" else whole.standby()
    with Load(plugin) as load:
        node.suspend()
        time.sleep(6)
        node.resume()
        time.sleep(1)
    assert load.slowest["Encrypt"] < DEADLINE and load.slowest["Decrypt"] < DEADLINE


@needs_etcd
def test_a_decrypt_at_a_node_that_hangs_is_hedged(whole, plugin):
    """Whichever of the two is asked first, and long before its time is over."""
    api = plugin.stub()
    seals = [api.encrypt() for _ in range(10)]
    before = plugin.metric("kekd_kms_hedges_total")
    for node in whole.roles():
        node.suspend()
        for sealed in seals:
            begin = time.monotonic()
            assert api.opens(sealed)
            assert time.monotonic() - begin < 2
        node.resume()
    assert plugin.metric("kekd_kms_hedges_total") > before


@needs_etcd
def test_nodes_one_after_the_other_are_followed(whole, plugin):
    api = plugin.stub()
    sealed = api.encrypt()
    for node in list(whole.nodes):
        node.kill_all()
        assert api.opens(sealed) and api.opens(api.encrypt())
        node.start()
        whole.active()
        whole.all_ready()
    assert plugin.metric("kekd_kms_failovers_total") >= 1


@needs_etcd
def test_with_every_node_gone_calls_end_in_time_and_all_recovers(whole, plugin):
    api = plugin.stub()
    sealed = api.encrypt()
    for node in whole.nodes:
        node.kill_all()
    for method, arguments in (("decrypt", (sealed,)), ("encrypt", ())):
        begin = time.monotonic()
        api.refuses(Code.UNAVAILABLE, method, *arguments, timeout=10)
        assert time.monotonic() - begin < DEADLINE
    plugin.wait_sick()
    for node in whole.nodes:
        node.start(ready=False)
    for node in whole.nodes:
        node.wait_ready()
    plugin.wait_ready()
    assert api.opens(sealed) and api.opens(api.encrypt())


@needs_etcd
def test_it_starts_with_one_of_two_nodes(whole, make_plugin):
    for node in (whole.nodes[0], whole.nodes[1]):
        plugin = make_plugin(whole)
        node.kill_all()
        assert plugin.start().stub().encrypt()
        node.start()
        whole.active()
        whole.all_ready()


@pytest.fixture
def two_ways(server, make_plugin):
    """(a plugin, two proxies to one kekd, which it takes for two nodes)."""
    with Proxy(server.port) as first, Proxy(server.port) as second:
        plugin = make_plugin(server, probe="60s", endpoints=[
            f"https://127.0.0.1:{p.port}" for p in (first, second)])
        yield plugin.start(), (first, second)
        for proxy in (first, second):
            proxy.heal()
        plugin.stop()


def test_where_every_node_is_slow_few_decrypts_are_sent_twice(two_ways):
    """Else kekd would have twice the work just when it can bear it least."""
    plugin, proxies = two_ways
    api = plugin.stub()
    seals = [api.encrypt() for _ in range(100)]
    before = plugin.crypto_requests()
    for proxy in proxies:
        proxy.delay(0.6)
    for n in range(0, len(seals), 8):
        futures = [(s, api.start_decrypt(s)) for s in seals[n:n + 8]]
        assert all(s.seed in f.result() for s, f in futures)
    sent = plugin.metric("kekd_kms_hedges_total")
    assert 1 <= sent <= 10 + len(seals) / 10 + 1
    assert plugin.metric("kekd_kms_hedges_refused_total") > len(seals) / 2
    assert plugin.crypto_requests() - before <= len(seals) + sent


def test_the_answer_of_a_hedge_that_was_faster_is_counted(two_ways):
    plugin, (first, second) = two_ways
    api = plugin.stub()
    seals = [api.encrypt() for _ in range(4)]
    for proxy in (first, second):
        proxy.delay(1.5)
        for sealed in seals:
            begin = time.monotonic()
            assert api.opens(sealed)
            assert time.monotonic() - begin < 1.4
        proxy.heal()
    assert plugin.metric("kekd_kms_hedges_won_total") >= 1


# ---- one node, behind what makes it slow ----

@pytest.fixture
def slow(server, make_plugin):
    """(a plugin, the proxy between it and kekd)."""
    with Proxy(server.port) as proxy:
        plugin = make_plugin(server, endpoints=[f"https://127.0.0.1:{proxy.port}"], probe="60s")
        yield plugin.start(), proxy
        proxy.heal()
        plugin.stop()


def in_flight(plugin):
    """Calls without an answer."""
    return plugin.metric("kekd_kms_grpc_calls_in_flight")


def test_two_hundred_streams_of_one_connection_wait_at_once_and_all_are_answered(slow):
    plugin, proxy = slow
    api = plugin.stub()
    seals = [api.encrypt() for _ in range(200)]
    proxy.stall()
    futures = [api.start_decrypt(s, timeout=30) for s in seals]
    wait_for(lambda: in_flight(plugin) == len(seals), "all are in the plugin", DEADLINE)
    assert not any(f.done() for f in futures)
    proxy.heal()
    for sealed, future in zip(seals, futures):
        assert future.result() == field(1, sealed.seed)


def test_identical_decrypts_at_once_are_one_at_kekd(slow):
    plugin, proxy = slow
    api = plugin.stub()
    sealed, other = api.encrypt(), api.encrypt()
    before = len(plugin.asked("unwrap"))
    proxy.delay(0.5)
    futures = [plugin.stub().start_decrypt(sealed) for _ in range(10)]
    futures += [api.start_decrypt(sealed) for _ in range(30)]
    one = api.start_decrypt(other)
    assert all(sealed.seed in f.result() for f in futures)
    assert other.seed in one.result()
    assert len(plugin.asked("unwrap")) == before + 2


def test_one_that_is_cancelled_takes_none_of_the_others_with_it(slow):
    plugin, proxy = slow
    first, second = plugin.stub(), plugin.stub()
    sealed = first.encrypt()
    proxy.delay(0.5)
    gone = first.start_decrypt(sealed)
    time.sleep(0.1)
    stays = second.start_decrypt(sealed)
    time.sleep(0.1)
    gone.cancel()
    assert sealed.seed in stays.result()


def test_a_joined_decrypt_keeps_its_own_deadline(slow):
    plugin, proxy = slow
    api = plugin.stub()
    sealed = api.encrypt()
    proxy.delay(1)
    patient = api.start_decrypt(sealed, timeout=3)
    time.sleep(0.1)
    begin = time.monotonic()
    api.refuses(Code.DEADLINE_EXCEEDED, "decrypt", sealed, timeout=0.3)
    assert time.monotonic() - begin < 0.8
    assert sealed.seed in patient.result()


def test_who_joined_late_is_tried_for_anew_when_the_first_has_no_time_left(server, make_plugin):
    with Proxy(server.port) as proxy:
        plugin = make_plugin(server, endpoints=[f"https://127.0.0.1:{proxy.port}"], probe="60s",
                             timeout="20s").start()
        hasty, patient = plugin.stub(), plugin.stub()
        sealed = hasty.encrypt()
        proxy.stall()
        first = hasty.start_decrypt(sealed, timeout=2)
        wait_for(lambda: plugin.metric("kekd_kms_requests_in_flight") == 1, "it is asked for")
        late = patient.start_decrypt(sealed, timeout=60)
        wait_for(lambda: plugin.metric("kekd_kms_decrypts_joined_total") == 1, "it has joined")
        assert first.exception().code() == Code.DEADLINE_EXCEEDED
        wait_for(lambda: plugin.metric("kekd_kms_requests_in_flight") == 1, "it is asked for anew")
        proxy.heal()
        assert sealed.seed in late.result()


def test_what_is_not_identical_is_not_joined(slow):
    """The same blob under another key_id or other annotations has an answer of its own."""
    plugin, proxy = slow
    api = plugin.stub()
    sealed = api.encrypt()
    proxy.delay(0.5)
    good = api.start_decrypt(sealed)
    time.sleep(0.1)
    api.refuses(Code.INVALID_ARGUMENT, "decrypt", sealed.annotated(cluster=b"prod-2"))
    api.refuses(Code.INVALID_ARGUMENT, "decrypt", sealed.but(key_id=sealed.key_id + "\0"))
    assert sealed.seed in good.result()


@pytest.mark.parametrize("method", ["encrypt", "decrypt"])
@pytest.mark.parametrize("timeout", [0.2, 1])
def test_a_deadline_is_kept(slow, method, timeout):
    plugin, proxy = slow
    api = plugin.stub()
    sealed = api.encrypt()
    proxy.stall()
    begin = time.monotonic()
    api.refuses((Code.DEADLINE_EXCEEDED, Code.UNAVAILABLE), method,
                *((sealed,) if method == "decrypt" else ()), timeout=timeout)
    assert time.monotonic() - begin < timeout + 0.5


@pytest.mark.parametrize("method", ["encrypt", "decrypt"])
def test_without_a_deadline_a_call_ends_by_the_plugins_own(slow, method):
    plugin, proxy = slow
    api = plugin.stub()
    sealed = api.encrypt()
    proxy.stall()
    begin = time.monotonic()
    text = api.refuses((Code.DEADLINE_EXCEEDED, Code.UNAVAILABLE), method,
                       *((sealed,) if method == "decrypt" else ()), timeout=None)
    assert time.monotonic() - begin < DEADLINE + 0.5 and text


def test_cancelled_calls_harm_nothing(slow):
    plugin, proxy = slow
    api = plugin.stub()
    seals = [api.encrypt() for _ in range(20)]
    before = plugin.crypto_requests()
    proxy.stall()
    for _ in range(5):
        futures = [api.start_decrypt(s) for s in seals]
        futures += [api.start("Encrypt", plaintext=os.urandom(32), uid="") for _ in range(20)]
        wait_for(lambda: in_flight(plugin), "they are there", DEADLINE)
        for future in futures:
            future.cancel()
        assert all(f.cancelled() for f in futures)
        wait_for(lambda: not in_flight(plugin), "they are gone", DEADLINE)
    proxy.heal()
    assert all(api.opens(s) for s in seals)
    # What no thread had in hand when it was cancelled is never sent.
    assert plugin.crypto_requests() - before - len(seals) < 5 * 40 / 2


def test_a_channel_that_goes_in_the_middle_of_calls_harms_nothing(slow):
    plugin, proxy = slow
    api = plugin.stub()
    sealed = api.encrypt()
    proxy.stall()
    for _ in range(5):
        with plugin.stub(kept=False) as stub:
            # A call that nobody holds is cancelled by gRPC itself.
            futures = [stub.start_decrypt(sealed) for _ in range(10)]
            wait_for(lambda: in_flight(plugin) >= len(futures), "they are there", DEADLINE)
    proxy.heal()
    wait_for(lambda: not in_flight(plugin), "nobody is waited for")
    assert api.opens(sealed)


def distinct(sealed, count):
    """That many that differ in what only the token can tell."""
    return [sealed.but(ciphertext=sealed.ciphertext[:-4] + n.to_bytes(4, "big"))
            for n in range(count)]


def test_a_flood_is_refused_in_part_and_all_recovers(slow):
    plugin, proxy = slow
    api = plugin.stub()
    sealed = api.encrypt()
    stubs = [plugin.stub() for _ in range(20)]
    proxy.stall()
    begin = time.monotonic()
    futures = [stubs[n % len(stubs)].start_decrypt(s, timeout=10)
               for n, s in enumerate(distinct(sealed, FLOOD))]
    assert api.key_id(timeout=5)
    codes = collections.Counter(f.exception().code() for f in futures)
    assert time.monotonic() - begin < 15
    assert codes[Code.RESOURCE_EXHAUSTED] > 0, codes
    assert set(codes) <= {Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED}, codes
    proxy.heal()
    wait_for(lambda: api.opens(sealed), "it recovers")
    for stub in stubs:
        assert stub.opens(sealed)


# ---- the client's certificate ----

def identities(plugin):
    """Of the last requests at kekd, oldest first."""
    return [r["identity"] for r in plugin.asked()]


def test_a_new_certificate_is_used_without_a_restart(server, pki, make_plugin):
    plugin = make_plugin(server).start()
    second = plugin.name + "-second"
    with server.http("admin-1") as admin:
        etag = admin.ok("GET", f"/v1/clients/{plugin.name}").etag
        admin.ok("PUT", f"/v1/clients/{plugin.name}",
                 {"identities": ["uri:" + spiffe(plugin.name), "uri:" + spiffe(second)],
                  "grants": [{"keys": plugin.key, "operations": list(GRANTS)}]}, etag=etag)
    pid = plugin.pid
    with Beside(plugin.stub().encrypt, 0.02):
        plugin.install(pki.client(second))
        wait_for(lambda: identities(plugin)[-1] == "uri:" + spiffe(second), "the new one", 10, 0.2)
        # All connections, the probe's too.
        time.sleep(1.5)
        seen = len(identities(plugin))
        wait_for(lambda: len(identities(plugin)) > seen + 40, "more requests")
    assert set(identities(plugin)[seen:]) == {"uri:" + spiffe(second)}
    assert plugin.pid == pid and plugin.stub().key_id()


def test_a_certificate_that_is_none_leaves_the_old_one_in_use(server, make_plugin):
    plugin = make_plugin(server).start()
    replace(plugin.path("client.pem"), b"not a certificate\n")
    api = plugin.stub()
    for _ in range(30):
        assert api.encrypt()
        time.sleep(0.1)
    assert api.key_id()
    shutil.copy(plugin.certificate.pem, plugin.path("client.pem"))


def test_a_certificate_of_another_authority_is_told_and_mended_it_recovers(
        server, pki, make_plugin, tmp_path):
    plugin = make_plugin(server).start()
    plugin.install(pki.ca.self_signed(plugin.name, "URI:" + spiffe(plugin.name)))
    assert plugin.wait_sick(20)
    plugin.install(plugin.certificate)
    plugin.wait_ready(20)


@pytest.mark.parametrize("when", ["past", "to come"])
def test_a_certificate_that_is_not_valid_now_is_told(server, pki, make_plugin, when):
    plugin = make_plugin(server).start()
    hour = datetime.timedelta(hours=1)
    times = {"first": -2 * hour, "last": -hour} if when == "past" else \
        {"first": hour, "last": 2 * hour}
    plugin.install(pki.ca.issue(f"{plugin.name}-then", "URI:" + spiffe(plugin.name), **times))
    assert "certificate" in plugin.wait_sick(20)
    plugin.install(plugin.certificate)
    plugin.wait_ready(20)


def test_a_refused_request_is_not_sent_to_kekd_again_and_again(server, make_plugin):
    plugin = make_plugin(server, probe="60s").start()
    api = plugin.stub()
    sealed = api.encrypt()
    bad = distinct(sealed, 1)[0]
    before = plugin.crypto_requests()
    api.refuses(Code.INVALID_ARGUMENT, "decrypt", bad)
    assert plugin.crypto_requests() == before + 1
