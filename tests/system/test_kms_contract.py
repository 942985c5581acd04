# SPDX-License-Identifier: Apache-2.0
"""kekd-kms to an API server: the three calls as the contract has them, and what is refused, without
asking kekd where that cannot help."""

import os
import re
import socket
import uuid

import pytest

from kekd import TOOLS, b64, in_threads, proc_status, unb64, wait_for
from kms import CLUSTER, PROVIDER, SERVICE, Code, Failed, Quiet, grpc
from pki import spiffe
from protobuf import field

KEY_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.[1-9][0-9]{0,19}")
FQDN = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+")
CIPHERTEXT_MAX, ANNOTATIONS_MAX, MESSAGE_MAX = 1024, 32768, 65536


@pytest.fixture(scope="module")
def plugin(server, make_shared_plugin):
    """Its next probe comes after these tests: what reaches kekd are the tests' own calls."""
    return make_shared_plugin(server, probe="60s").start()


@pytest.fixture
def api(plugin):
    with plugin.stub(kept=False) as stub:
        yield stub


@pytest.fixture
def sealed(api):
    return api.encrypt()


def refused(plugin, api, sealed, code=Code.INVALID_ARGUMENT):
    """Decrypt refuses it and kekd is not asked."""
    with Quiet(plugin):
        return api.refuses(code, "decrypt", sealed)


# ---- Status, Encrypt, Decrypt ----

def test_status_announces_the_key_records_key_id(plugin, api, admin):
    answer = api.status()
    assert (answer.version, answer.healthz) == ("v2", "ok")
    assert answer.key_id == admin.key(plugin.key)["kms_key_id"]
    assert KEY_ID.fullmatch(answer.key_id) and len(answer.key_id) <= 1024


def test_what_was_encrypted_is_decrypted(api):
    for _ in range(3):
        sealed = api.encrypt()
        assert api.decrypt(sealed) == sealed.seed and len(sealed.seed) == 32


def test_encrypt_is_under_the_key_id_that_status_announced(api, sealed):
    assert sealed.key_id == api.key_id()
    assert sealed.version_id == sealed.key_id.partition(".")[0]


def test_an_answer_to_encrypt_is_within_the_contracts_bounds(sealed):
    assert sealed.ciphertext[:4] == b"kek\1" and len(sealed.ciphertext) <= CIPHERTEXT_MAX
    assert all(FQDN.fullmatch(name) and len(name) <= 253 for name in sealed.annotations)
    size = sum(len(k) + len(v) for k, v in sealed.annotations.items())
    assert 0 < size <= ANNOTATIONS_MAX


def test_the_annotations_lead_to_the_audit_record(plugin, server, admin, sealed):
    told = {k.removesuffix(".kms.kekd"): v.decode() for k, v in sealed.annotations.items()}
    assert told["cluster"] == CLUSTER and told["provider"] == PROVIDER
    assert told["key"] == plugin.key
    assert int(told["version"]) == admin.key(plugin.key)["primary"]
    record = server.audit_records(request_id=told["request"])[0]
    assert (record["client"], record["operation"]) == (plugin.name, "wrap")
    assert record["context"] == {"kubernetes-cluster": CLUSTER, "provider": PROVIDER}


def test_the_blob_is_kekds_own(plugin, server, sealed):
    """So an administrator can verify it without the plugin."""
    with server.http("app") as app:
        context = {"kubernetes-cluster": CLUSTER, "provider": PROVIDER}
        assert app.unwrap(sealed.ciphertext, plugin.key, context) == sealed.seed
        assert app.try_unwrap(sealed.ciphertext, plugin.key).status == 400


@pytest.mark.parametrize("size", [32, 33, 64, 512, 960])
def test_a_seed_of_any_fitting_size_is_encrypted(api, size):
    assert api.opens(api.encrypt(os.urandom(size)))


@pytest.mark.parametrize("size", [0, 1, 31, 961, 1024, 4096, 4097, 60000])
def test_a_seed_that_an_api_server_would_not_take_back_is_refused(plugin, api, size):
    """From Decrypt it takes 32 bytes or more, from Encrypt 1,024 at most."""
    with Quiet(plugin):
        assert api.refuses(Code.INVALID_ARGUMENT, "encrypt", os.urandom(size))


@pytest.mark.parametrize("uid", ["", "x" * 1024, "näher", "a\nb\x1b[31m"])
def test_any_uid_is_served_and_logged_on_one_line(plugin, api, uid):
    assert api.decrypt(api.encrypt(uid=uid), uid=uid)
    assert "\x1b" not in plugin.log()


def test_two_encryptions_of_one_seed_differ(api):
    seed = os.urandom(32)
    assert api.encrypt(seed).ciphertext != api.encrypt(seed).ciphertext


# ---- what is no message ----

MALFORMED = {
    "a tag alone": b"\x0a",
    "a length beyond the end": b"\x0a\x20short",
    "a length that never ends": b"\x0a" + b"\xff" * 11,
    "a length of 2^63": b"\x0a" + b"\xff" * 8 + b"\x7f",
    "a varint that never ends": b"\x80" * 12,
    "an end without a group": b"\x0c",
    "field number 0": b"\x02\x01x",
    "an unknown wire type": b"\x0f\x01x",
    "a fixed64 cut off": b"\x79\x01\x02",
    "text": b"Bearer of good news",
}


@pytest.mark.parametrize("what", MALFORMED)
@pytest.mark.parametrize("method", ["Status", "Encrypt", "Decrypt"])
def test_malformed_protobuf_is_refused_whatever_the_call(plugin, api, method, what):
    with Quiet(plugin):
        assert api.refuses(Code.INVALID_ARGUMENT, "raw", method, MALFORMED[what])
    assert api.key_id()


def test_a_message_cut_off_anywhere_is_refused(plugin, api, sealed):
    data = (field(1, sealed.ciphertext) + field(2, b"uid") + field(3, sealed.key_id.encode()) +
            b"".join(field(4, field(1, k.encode()) + field(2, v))
                     for k, v in sealed.annotations.items()))
    assert api.raw("Decrypt", data) == field(1, sealed.seed)
    with Quiet(plugin):
        for end in range(0, len(data) - 1, 7):
            cut = data[:end]
            if end < len(data) - 90:  # else it may be whole without the last annotations
                api.refuses(Code.INVALID_ARGUMENT, "raw", "Decrypt", cut)


@pytest.mark.parametrize("method", ["Encrypt", "Decrypt"])
def test_an_empty_message_is_refused(plugin, api, method):
    with Quiet(plugin):
        assert api.refuses(Code.INVALID_ARGUMENT, "raw", method, b"")


def test_fields_of_a_later_release_are_passed_over(api):
    later = field(99, b"new") + field(100, 7, wire=0)
    assert api.raw("Status", later)
    assert api.raw("Encrypt", field(1, os.urandom(32)) + later)


def test_the_last_of_a_field_given_twice_counts(api, sealed):
    data = (field(1, b"no blob") + field(3, b"no key_id") + field(1, sealed.ciphertext) +
            field(3, sealed.key_id.encode()) + b"".join(
                field(4, field(1, k.encode()) + field(2, v))
                for k, v in sealed.annotations.items()))
    assert api.raw("Decrypt", data) == field(1, sealed.seed)


@pytest.mark.parametrize("method", [
    f"/{SERVICE}/Nope", f"/{SERVICE}/status", f"/{SERVICE}/",
    "/v1beta1.KeyManagementService/Encrypt", "/KeyManagementService/Status",
    "/grpc.health.v1.Health/Check", "/",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", f"/{SERVICE}/Status/",
    f"//{SERVICE}/Status", "/" + "x" * 4000])
def test_an_unknown_method_is_unimplemented(plugin, api, method):
    with Quiet(plugin):
        api.refuses(Code.UNIMPLEMENTED, "raw", method, b"")
    assert api.key_id()


# ---- sizes ----

@pytest.mark.parametrize("size", [MESSAGE_MAX + 1, 1 << 20, 8 << 20])
@pytest.mark.parametrize("method", ["Status", "Encrypt", "Decrypt"])
def test_an_oversize_message_is_refused(plugin, api, method, size):
    with Quiet(plugin):
        api.refuses(Code.RESOURCE_EXHAUSTED, "raw", method, field(1, bytes(size)), timeout=10)
    assert api.key_id()


def test_a_decompression_bomb_costs_no_memory(plugin, api):
    bomb = field(1, bytes(96 << 20))
    with pytest.raises(Failed):
        api.raw("Encrypt", bomb, timeout=30, compression=grpc.Compression.Gzip)
    del bomb
    assert api.key_id()
    peak = int(proc_status(plugin.pid)["VmHWM"].split()[0])
    assert peak < (200 if TOOLS else 80) << 10, f"{peak} KiB"


def test_the_largest_annotations_of_the_contract_fit(api, sealed):
    used = sum(len(k) + len(v) for k, v in sealed.annotations.items())
    room = ANNOTATIONS_MAX - used - len("filler.example.org")
    assert api.opens(sealed.but(annotations={**sealed.annotations,
                                             "filler.example.org": bytes(room)}))


def test_annotations_beyond_the_contract_are_refused(plugin, api, sealed):
    more = {**sealed.annotations, "filler.example.org": bytes(ANNOTATIONS_MAX)}
    assert refused(plugin, api, sealed.but(annotations=more))


def test_thousands_of_annotations_are_refused_or_served_and_harm_nothing(api, sealed):
    many = {**sealed.annotations, **{f"a{n}.x": b"" for n in range(4000)}}
    try:
        assert api.decrypt(sealed.but(annotations=many)) == sealed.seed
    except Failed as e:
        assert e.code in (Code.INVALID_ARGUMENT, Code.RESOURCE_EXHAUSTED)
    assert api.opens(sealed)


# ---- the connection ----

def test_two_hundred_streams_at_once_are_all_answered(api):
    seals = [api.encrypt() for _ in range(200)]
    opened = [api.start_decrypt(s, timeout=30) for s in seals]
    asked = [api.start("Status", timeout=30) for _ in range(200)]
    for sealed, future in zip(seals, opened):
        assert future.result() == field(1, sealed.seed)
    assert len({f.result() for f in asked}) == 1


def test_many_api_servers_are_served_at_once(plugin):
    def serve(_):
        with plugin.stub(kept=False) as stub:
            return all(stub.opens(stub.encrypt()) for _ in range(5))

    assert all(in_threads(24, serve))


@pytest.mark.parametrize("form", ["localhost", "path", "percent", "host", "odd"])
def test_any_authority_is_served(plugin, form):
    authority = {"localhost": "localhost", "path": plugin.socket, "host": "kms.example:443",
                 "percent": plugin.socket.replace("/", "%2F"), "odd": "@"}[form]
    with plugin.stub(kept=False, authority=authority) as stub:
        assert stub.key_id()
        assert stub.opens(stub.encrypt())


@pytest.mark.parametrize("metadata", [
    (("hasleader", "true"),), (("x-bytes-bin", bytes(range(256))),),
    (("authorization", "Bearer x"), ("cookie", "a=b")),
    tuple((f"x-{n}", "y" * 50) for n in range(40))])
def test_foreign_metadata_changes_nothing(api, sealed, metadata):
    assert api.opens(sealed, options={"metadata": metadata})


def test_what_is_no_http2_harms_nobody(plugin, api):
    for junk in (b"GET / HTTP/1.1\r\n\r\n", b"\0" * 64, os.urandom(4096),
                 b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 128):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
            s.settimeout(5)
            s.connect(plugin.socket)
            try:
                s.sendall(junk)
                s.recv(4096)
            except (ConnectionError, TimeoutError):
                pass
        assert api.key_id()


# ---- what is not ours ----

def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1:]


# The first 22 bytes are the header: magic, version, algorithm, length of the IV.
HEADER = {"magic": 0, "format": 3, "version": 4, "version's end": 19, "algorithm": 20,
          "IV length": 21}
BODY = {"IV": 22, "IV's end": 33, "ciphertext": 34, "ciphertext's end": -17, "tag": -16,
        "tag's end": -1}


@pytest.mark.parametrize("part", HEADER)
def test_a_tampered_header_is_refused_without_a_call(plugin, api, sealed, part):
    bad = sealed.but(ciphertext=flipped(sealed.ciphertext, HEADER[part]))
    assert refused(plugin, api, bad)


@pytest.mark.parametrize("part", BODY)
def test_a_tampered_ciphertext_is_an_error(api, sealed, part):
    at = BODY[part] % len(sealed.ciphertext)
    api.refuses(Code.INVALID_ARGUMENT, "decrypt",
                sealed.but(ciphertext=flipped(sealed.ciphertext, at)))
    assert api.opens(sealed)


def test_a_ciphertext_of_any_other_length_is_refused(plugin, api, sealed):
    whole = sealed.ciphertext
    for end in (0, 1, 21, 22, 34, 50):
        assert refused(plugin, api, sealed.but(ciphertext=whole[:end])), end
    assert refused(plugin, api, sealed.but(ciphertext=whole + bytes(1025)))
    for other in (whole[:-1], whole + b"\0"):
        api.refuses(Code.INVALID_ARGUMENT, "decrypt", sealed.but(ciphertext=other))


MALFORMED_KEY_IDS = {
    "empty": lambda k: "", "no number": lambda k: k.partition(".")[0],
    "no number after the dot": lambda k: k.partition(".")[0] + ".",
    "number 0": lambda k: k.partition(".")[0] + ".0",
    "a leading zero": lambda k: k.replace(".", ".0"),
    "a sign": lambda k: k.replace(".", ".+"), "negative": lambda k: k.replace(".", ".-"),
    "a space before": lambda k: " " + k, "a space behind": lambda k: k + " ",
    "a newline behind": lambda k: k + "\n", "two dots": lambda k: k + ".1",
    "upper case": lambda k: k.partition(".")[0].upper() + "." + k.partition(".")[2],
    "braces": lambda k: "{" + k + "}", "hex number": lambda k: k.replace(".", ".0x"),
    "a number beyond 64 bits": lambda k: k.partition(".")[0] + ".18446744073709551616",
    "a very long number": lambda k: k.partition(".")[0] + "." + "9" * 900,
    "no hyphens": lambda k: k.replace("-", ""), "1,024 bytes": lambda k: "k" * 1024,
    "1,025 bytes": lambda k: "k" * 1025, "NUL and junk": lambda k: k + "\0junk",
    "NUL": lambda k: k + "\0", "NUL alone": lambda k: "\0", "a path": lambda k: "../" + k,
    "a wildcard": lambda k: "*", "a letter in the number": lambda k: k + "a",
    "another script's digit": lambda k: k.partition(".")[0] + ".\u0661",
}


@pytest.mark.parametrize("what", MALFORMED_KEY_IDS)
def test_a_malformed_key_id_is_refused_without_a_call(plugin, api, sealed, what):
    key_id = MALFORMED_KEY_IDS[what](sealed.key_id)
    if key_id == sealed.key_id:  # upper case of digits alone
        return
    assert refused(plugin, api, sealed.but(key_id=key_id))


@pytest.mark.parametrize("junk", [b"\xff\xfe", b"\xc0\x80", b"\xed\xa0\x80"])
def test_a_key_id_that_is_no_utf8_is_refused(plugin, api, sealed, junk):
    data = field(1, sealed.ciphertext) + field(3, sealed.key_id.encode() + junk)
    with Quiet(plugin):
        api.refuses(Code.INVALID_ARGUMENT, "raw", "Decrypt", data)


def test_a_key_id_of_another_version_than_the_blobs_is_refused(plugin, api, sealed):
    other = f"{uuid.uuid4()}.1"
    assert refused(plugin, api, sealed.but(key_id=other))


@pytest.mark.parametrize("what", ["version", "activation"])
def test_an_unknown_key_id_is_looked_up_before_it_is_refused(plugin, api, sealed, what):
    version = str(uuid.uuid4()) if what == "version" else sealed.version_id
    unknown = version + (".1" if what == "version" else ".999")
    before = plugin.metric("kekd_kms_key_lookups_total")
    with Quiet(plugin):
        text = api.refuses(Code.NOT_FOUND, "decrypt",
                           sealed.of_version(version).but(key_id=unknown))
    assert unknown in text
    assert plugin.metric("kekd_kms_key_lookups_total") == before + 1


@pytest.mark.parametrize("changes", [
    {"cluster": None}, {"provider": None}, {"cluster": b""}, {"provider": b""},
    {"cluster": b"prod-2"}, {"provider": b"other"}, {"cluster": CLUSTER.encode() + b"\0"},
    {"provider": PROVIDER.encode() + b"\0x"}, {"cluster": CLUSTER.upper().encode()},
    {"cluster": None, "provider": None}, {"cluster": b"\xff\x1b[31m\0\n"},
    {"provider": b"%s%n" * 4000}])
def test_annotations_that_differ_from_this_plugins_are_refused_without_a_call(
        plugin, api, sealed, changes):
    assert refused(plugin, api, sealed.annotated(**changes))


def test_no_annotations_at_all_are_refused_without_a_call(plugin, api, sealed):
    assert refused(plugin, api, sealed.but(annotations={}))


def test_an_annotation_given_twice_with_two_values_is_refused(plugin, api, sealed):
    def entry(name, value):
        return field(4, field(1, name.encode()) + field(2, value))

    data = field(1, sealed.ciphertext) + field(3, sealed.key_id.encode()) + b"".join(
        entry(k, v) for k, v in sealed.annotations.items())
    assert api.raw("Decrypt", data) == field(1, sealed.seed)
    for twice in (data + entry("cluster.kms.kekd", b"prod-2"),
                  data + entry("provider.kms.kekd", b"")):
        with Quiet(plugin):
            api.refuses(Code.INVALID_ARGUMENT, "raw", "Decrypt", twice)


def test_annotations_for_people_are_not_looked_at(api, sealed):
    assert api.opens(sealed.annotated(request=None, version=None, key=None))
    assert api.opens(sealed.annotated(request=b"\xff\0", version=b"no number"))
    assert api.opens(sealed.but(annotations={**sealed.annotations, "x.example.org": b"y"}))


def test_another_clusters_seed_is_not_opened_whatever_the_annotations_say(
        server, plugin, api, make_plugin):
    """It is bound to its cluster and provider by what is authenticated."""
    for changes in ({"cluster": "prod-2"}, {"provider": "kekd-2"}):
        other = make_plugin(server, key=plugin.key, probe="60s", **changes).start()
        foreign = other.stub().encrypt()
        assert refused(plugin, api, foreign)
        forged = foreign.annotated(cluster=CLUSTER.encode(), provider=PROVIDER.encode())
        api.refuses(Code.INVALID_ARGUMENT, "decrypt", forged)


def test_two_plugins_of_one_cluster_open_each_others_seeds(server, plugin, api, make_plugin):
    other = make_plugin(server, key=plugin.key).start().stub()
    assert other.key_id() == api.key_id()
    assert other.opens(api.encrypt()) and api.opens(other.encrypt())


def test_a_seed_of_another_key_is_not_opened(server, plugin, api, make_plugin):
    foreign = make_plugin(server, key="kubernetes-2").start().stub().encrypt()
    api.refuses(Code.NOT_FOUND, "decrypt", foreign)


def test_what_is_too_short_for_a_seed_is_not_handed_to_an_api_server(server, plugin, api, sealed):
    """Wrapped for this very cluster and provider, by somebody else."""
    context = {"kubernetes-cluster": CLUSTER, "provider": PROVIDER}
    with server.http("admin-1") as admin:
        admin.put_client("short", ["uri:" + spiffe("short")],
                         [{"keys": plugin.key, "operations": ["wrap"]}])
    with server.http(certificate=plugin.pki.client("short")) as other:
        for n in (1, 31, 32):
            blob = other.ok("POST", f"/v1/keys/{plugin.key}/wrap",
                            {"plaintext": b64(os.urandom(n)), "context": context}).json
            wrapped = sealed.but(ciphertext=unb64(blob["ciphertext"]))
            if n == 32:
                assert len(api.decrypt(wrapped)) == 32
                continue
            text = api.refuses(Code.FAILED_PRECONDITION, "decrypt", wrapped)
            assert f"has {n} bytes, and an API server needs 32" in text


def test_an_unknown_key_id_while_no_kekd_answers_is_not_said_to_be_none(own, make_plugin):
    plugin = make_plugin(own).start()
    api = plugin.stub()
    sealed = api.encrypt()
    own.stop()
    version = str(uuid.uuid4())
    wait_for(lambda: "no kekd could be asked" in api.refuses(
        Code.UNAVAILABLE, "decrypt", sealed.of_version(version).but(key_id=f"{version}.1")),
        "it is told")
    own.start()
    plugin.wait_ready()
    assert api.opens(sealed)
    assert version in api.refuses(Code.NOT_FOUND, "decrypt",
                                  sealed.of_version(version).but(key_id=f"{version}.1"))


def test_an_error_says_what_kekd_said_and_under_which_request(server, plugin, make_plugin):
    """A client's first refusal has a record of its own, whatever comes later."""
    other = make_plugin(server, key=plugin.key).start()
    stub = other.stub()
    sealed = stub.encrypt()
    bad = sealed.but(ciphertext=flipped(sealed.ciphertext, len(sealed.ciphertext) - 1))
    text = stub.refuses(Code.INVALID_ARGUMENT, "decrypt", bad)
    record = next(r for r in other.asked("unwrap") if r["result"] == "error")
    assert record["request_id"] in text and "unwrap_failed" in text


def test_bytes_of_a_foreign_annotation_are_told_as_text(api):
    sealed = api.encrypt().annotated(cluster=b"\xff\x1b[31mother")
    text = api.refuses(Code.INVALID_ARGUMENT, "decrypt", sealed)
    assert '"??[31mother"' in text, text


def test_no_error_and_no_log_line_holds_a_seed(plugin, api):
    seed = b"do-not-print-this-seed-anywhere!"
    sealed = api.encrypt(seed)
    api.decrypt(sealed)
    said = api.refuses(Code.INVALID_ARGUMENT, "encrypt", seed * 40)
    said += api.refuses(Code.INVALID_ARGUMENT, "raw", "Encrypt", field(1, seed) + b"\x0f" + seed)
    said += plugin.log()
    for form in (seed.decode(), seed.hex(), b64(seed)[:40]):
        assert form not in said
