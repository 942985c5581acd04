#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A module includes only what stands above it: the table below is the order, and says which header
is whose. Its neighbours it sees through include/kekd/ alone; a header in a module's own directory
is for that directory."""

import os
import re

from files import finish, text, tree

# In order: each module may use what stands before it, and itself.
MODULES = {
    "base": "buf clock err file json log metrics process random sandbox secret signature str uuid",
    "yaml": "settings_file",
    "backup": "backup",
    "config": "config control etcd_settings policy",
    "hsm": "frames hsm",
    "store": "etcd store seal",
    "crypto": "blob",
    "keyring": "keyring lifecycle nonce",
    "access": "access",
    "audit": "audit usage",
    "cluster": "approvals cluster inventory leader snapshots",
    "http": "http traffic",
    "api": "",
    "net": "net",
    "parent": "",
    "client": "client",
    "ctl": "",
    "kms": "",
}
ORDER = list(MODULES)
OWNER = {f"kekd/{h}.h": m for m, names in MODULES.items() for h in names.split()}

# Below the daemons: programs that know the server only through its interface.
ONLY = {
    "client": {"base", "audit", "client"},
    "ctl": {"base", "backup", "crypto", "audit", "client"},
    "kms": {"base", "yaml", "crypto", "client", "kms"},
}
# The handlers are given everything that they work with as struct node, so
# net.h is open to them although net/ wires them up. The canary works on a key's version, and its
# two functions are declared with the rest of what proves versions.
ALSO = {
    "api": {"kekd/net.h"},
    "crypto": {"kekd/lifecycle.h"},
}

INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"')


def module_of(name):
    if name.startswith("include/kekd/"):
        return OWNER.get(name[len("include/"):])
    return name.split("/")[1]


def allowed(module, header):
    owner = OWNER.get(header)
    if owner is None:
        return False
    if module in ONLY:
        return owner in ONLY[module]
    return ORDER.index(owner) <= ORDER.index(module) or header in ALSO.get(module, ())


def check(name, names, findings):
    module = module_of(name)
    if module not in MODULES:
        findings.append(f"{name}: belongs to no module of the table in tests/lint/layers.py")
        return
    for number, line in enumerate(text(name).splitlines(), 1):
        found = INCLUDE.match(line)
        if not found or found[1] == "config.h":
            continue
        header = found[1]
        if header.startswith("kekd/"):
            if not allowed(module, header):
                whose = OWNER.get(header, "no module")
                findings.append(f"{name}:{number}: {module} may not include {header} ({whose})")
            continue
        beside = os.path.normpath(os.path.join(os.path.dirname(name), header))
        if beside not in names or beside.split("/")[1] != module:
            findings.append(f"{name}:{number}: {header} is not in this module's own directory")


def main():
    names = set(tree())
    findings = []
    for name in sorted(names):
        if name.startswith(("src/", "include/kekd/")) and name.endswith((".c", ".h")):
            check(name, names, findings)
    finish(findings, "layers")


main()
