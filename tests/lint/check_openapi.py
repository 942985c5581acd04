#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The API's description tells of every route, error code and operation that the sources have, of
no other, and all its references lead somewhere."""

import os
import re
import sys

from files import TOP, finish, text

try:
    import yaml
except ImportError:
    print("PyYAML is not installed: not checked")
    sys.exit(77)

METHODS = {"get", "put", "post", "delete", "patch"}
DESCRIPTION = "src/api/openapi.yaml"
# Headers and shared answers that tell the revision.
REVISION_TOLD = ("Revision", "/Key", "/Client", "/Cluster", "/Approval", "/Snapshot")


def routes():
    """(method, path) of each row of the table of routes."""
    source = re.sub(r"#define(?:.*\\\n)*.*\n", "", text("src/api/routes.c"))
    table = source[source.index("http_routes[]"):]
    found = set()
    for kind, method, path in re.findall(r'\b([A-Z]+)\(\s*(?:"([A-Z]+)",\s*)?"(/[^"]*)"', table):
        found.add((method or {"DATA": "POST"}.get(kind, "GET"), path))
    for method, path in re.findall(r'\{\s*"([A-Z]+)",\s*"(/[^"]*)"', table):
        found.add((method, path))
    return found


def described(api):
    return {(method.upper(), path) for path, item in api["paths"].items()
            for method in item if method in METHODS}


def codes():
    return set(re.findall(r'X\(KEKD_E\w+, "(\w+)"', text("include/kekd/err.h")))


def operations():
    return set(re.findall(r'X\(ACCESS_\w+, "([\w.]+)"', text("include/kekd/access.h")))


def compare(what, sources, description, findings):
    for missing in sorted(sources - description):
        findings.append(f"{DESCRIPTION}: {what} {missing} is missing")
    for left_over in sorted(description - sources):
        findings.append(f"{DESCRIPTION}: {what} {left_over} is not in the sources")


def references(node):
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def resolves(api, reference):
    node = api
    for part in reference.removeprefix("#/").split("/"):
        node = node.get(part) if isinstance(node, dict) else None
    return node is not None


def check_references(api, findings):
    used = set(references(api))
    for reference in sorted(used):
        if not resolves(api, reference):
            findings.append(f"{DESCRIPTION}: {reference} leads nowhere")
    for kind, entries in api["components"].items():
        for name in entries:
            if kind != "securitySchemes" and f"#/components/{kind}/{name}" not in used:
                findings.append(f"{DESCRIPTION}: {kind}/{name} is not used")


def check_parameters(api, findings):
    """What a path has in braces, it describes; and the other way round."""
    for path, item in api["paths"].items():
        names = {reference.rsplit("/", 1)[1] for reference in references(item.get("parameters"))}
        if names != set(re.findall(r"\{(\w+)\}", path)):
            findings.append(f"{DESCRIPTION}: {path} describes the parameters {sorted(names)}")


def check_operation_ids(api, findings):
    seen = set()
    for path, item in api["paths"].items():
        for method in METHODS & set(item):
            name = item[method].get("operationId")
            if not name or name in seen:
                findings.append(f"{DESCRIPTION}: {method} {path} has no operationId of its own")
            seen.add(name)


def loose(node, where):
    """Objects that tell their members, but not that there are no others."""
    if isinstance(node, dict):
        if node.get("type") == "object" and "properties" in node \
                and "additionalProperties" not in node:
            yield where
        for name, value in node.items():
            yield from loose(value, f"{where}/{name}")
    elif isinstance(node, list):
        for value in node:
            yield from loose(value, where)


def check_answers(api, findings):
    """Each operation tells of refusals, and of the revision that a known client gets."""
    for path, item in api["paths"].items():
        for method in METHODS & set(item):
            operation = item[method]
            for status, answer in operation["responses"].items():
                headers = list(references(answer)) + list(answer.get("headers", ()))
                if status < "3" and operation.get("security") != [] and not any(
                        h.endswith(REVISION_TOLD) for h in headers):
                    findings.append(f"{DESCRIPTION}: {method} {path} {status}: no Kekd-Revision")
            if "default" not in operation["responses"]:
                findings.append(f"{DESCRIPTION}: {method} {path} tells of no refusals")


def main():
    with open(os.path.join(TOP, DESCRIPTION), encoding="utf-8") as f:
        api = yaml.safe_load(f)
    schemas = api["components"]["schemas"]
    findings = []
    compare("route", routes(), described(api), findings)
    compare("code", codes(), set(schemas["Code"]["enum"]), findings)
    compare("operation", operations(), set(schemas["Operation"]["enum"]), findings)
    check_references(api, findings)
    check_parameters(api, findings)
    check_operation_ids(api, findings)
    check_answers(api, findings)
    for where in loose(api, ""):
        findings.append(f"{DESCRIPTION}: {where} allows members that it does not tell")
    finish(findings, "openapi")


main()
