# SPDX-License-Identifier: Apache-2.0
"""Several listen addresses, of both families, and what is said of one that cannot be had."""

import ctypes
import errno
import socket

import pytest

from kekd import b64, free_port, kill, wait_for
from pki import spiffe
from test_processes import listening


@pytest.fixture(scope="module", autouse=True)
def ipv6():
    try:
        with socket.socket(socket.AF_INET6) as s:
            s.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 here")


def http(server, address, name="app"):
    h = server.http(name)
    h.address = address
    return h


def works(server, address):
    with http(server, address) as h:
        return h.unwrap(h.wrap(b"x")) == b"x"


def test_ipv4_and_ipv6_are_both_served(make_server):
    server = make_server()
    other = free_port()
    server.settings["listen"] = [f"127.0.0.1:{server.port}", f"[::1]:{server.port}",
                                 f"127.0.0.1:{other}"]
    server.write_config()
    server.init().start().populate()
    assert len(listening(server.net())) == 3
    for address in (("127.0.0.1", server.port), ("::1", server.port), ("127.0.0.1", other)):
        assert works(server, address), address
    for address in server.settings["listen"]:
        assert f"listening on {address}" in server.log()


def test_all_addresses_of_both_families_share_a_port(make_server):
    """Two sockets, so that a client keeps its own address: no IPv4 dressed up as IPv6."""
    server = make_server()
    server.settings["listen"] = [f"[::]:{server.port}", f"0.0.0.0:{server.port}"]
    server.write_config()
    server.init().start().populate()
    assert works(server, ("127.0.0.1", server.port))
    assert works(server, ("::1", server.port))
    addresses = [r["address"] for r in server.audit_records(operation="wrap")]
    assert {a.rpartition(":")[0].strip("[]") for a in addresses} == {"127.0.0.1", "::1"}


def test_an_address_of_one_family_does_not_take_the_other_one_along(make_server):
    server = make_server()
    server.settings["listen"] = [f"[::]:{server.port}"]
    server.write_config()
    server.init().start(ready=False)
    with http(server, ("::1", server.port), None) as h:
        def up():
            try:
                return h.get("/health/live").status == 200
            except OSError:
                return False
        wait_for(up, "it serves IPv6")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port), 5)


def test_all_listen_sockets_survive_kekd_nets_end(make_server):
    server = make_server()
    server.settings["listen"].append(f"[::1]:{server.port}")
    server.write_config()
    server.init().start().populate()
    old = server.net()
    kill(old)
    wait_for(lambda: server.net() not in (None, old), "it is started again")
    server.wait_ready()
    assert works(server, ("::1", server.port)) and works(server, ("127.0.0.1", server.port))


def test_a_limit_to_addresses_holds_in_both_families(make_server):
    server = make_server()
    server.settings["listen"].append(f"[::1]:{server.port}")
    server.write_config()
    server.init().start().populate()
    with server.http("admin-1") as admin:
        admin.put_client("other", ["uri:" + spiffe("other")],
                         [{"keys": "*", "operations": ["wrap"]}], addresses=["::1"])
    body = {"plaintext": b64(b"x")}
    with http(server, ("::1", server.port), "other") as h:
        assert h.call("POST", "/v1/keys/demo/wrap", body).status == 200
    with http(server, ("127.0.0.1", server.port), "other") as h:
        assert h.call("POST", "/v1/keys/demo/wrap", body).code == "address_not_allowed"


class Argument(ctypes.Structure):
    """libseccomp's struct scmp_arg_cmp."""

    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64),
                ("b", ctypes.c_uint64)]


def without_ipv6():
    """For the process that calls it: as on a kernel that has no IPv6."""
    allow, fail, equal = 0x7FFF0000, 0x00050000 | errno.EAFNOSUPPORT, 4
    lib = ctypes.CDLL("libseccomp.so.2")
    lib.seccomp_init.restype = ctypes.c_void_p
    lib.seccomp_rule_add_array.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int,
                                           ctypes.c_uint, ctypes.POINTER(Argument)]
    lib.seccomp_load.argtypes = [ctypes.c_void_p]
    context = lib.seccomp_init(allow)
    number = lib.seccomp_syscall_resolve_name(b"socket")
    family = Argument(0, equal, socket.AF_INET6, 0)
    assert lib.seccomp_rule_add_array(context, fail, number, 1, ctypes.byref(family)) == 0
    assert lib.seccomp_load(context) == 0


def test_a_family_that_the_host_does_not_have_is_named_with_its_remedy(make_server):
    try:
        ctypes.CDLL("libseccomp.so.2")
    except OSError:
        pytest.skip("no libseccomp here")
    server = make_server().init()
    server.settings["listen"].append(f"[::1]:{server.port}")
    server.write_config()
    done = server.run(before=without_ipv6)
    assert done.returncode == 1
    assert (f"cannot listen on [::1]:{server.port}: this host does not have this kind of address: "
            "take the address out of listen") in done.stdout


@pytest.mark.parametrize("address,words", [
    ("[2001:db8::1]", "this host has no such address: change listen"),
    ("192.0.2.1", "this host has no such address: change listen"),
])
def test_an_address_that_the_host_does_not_have_is_named_too(make_server, address, words):
    server = make_server().init()
    server.settings["listen"].append(f"{address}:{server.port}")
    server.write_config()
    done = server.run()
    assert done.returncode == 1
    assert f"cannot listen on {address}:{server.port}: {words}" in done.stdout
