# SPDX-License-Identifier: Apache-2.0
"""The API's description as the measure of every answer: Http in kekd.py gives each request and its
answer to check(). What the description lacks is a violation: raised, and kept for the fixture that
fails the test even where the exception was swallowed."""

import base64
import binascii
import json
import os
import re

import yaml
from jsonschema import Draft202012Validator, RefResolver

TOP = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
PATH = os.path.join(TOP, "src", "api", "openapi.yaml")
METHODS = {"get", "put", "post", "delete", "patch"}
# HTTP's own, which need no word in the description of an answer.
HTTP_HEADERS = {"content-type", "content-length", "cache-control", "connection", "date"}
PROBLEM = "application/problem+json"
SEEN_MAX = 20000


class Violation(AssertionError):
    """The server answered what its description lacks, or took what it forbids."""


def load():
    with open(PATH, encoding="utf-8") as f:
        return yaml.safe_load(f)


# ---- shapes: answers that differ in nothing that a schema looks at are validated once ----

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z\Z")
BASE64 = re.compile(r"[A-Za-z0-9+/]{12,}={0,2}\Z")


def text_shape(text):
    for kind, pattern in (("uuid", UUID), ("time", TIME)):
        if pattern.match(text):
            return kind
    if len(text) % 4 == 0 and BASE64.match(text):
        return "base64"
    return text


def shape(value):
    if isinstance(value, dict):
        return tuple((k, shape(v)) for k, v in value.items())
    if isinstance(value, list):
        return len(value) > 1000, len(value) == 0, frozenset(shape(v) for v in value)
    if isinstance(value, str):
        return text_shape(value)
    if isinstance(value, int) and not isinstance(value, bool) and value > 99:
        return "number"
    return type(value).__name__, value


# ---- schemas ----

def granted_request(data, answer):
    """What of a request's body was granted: of a batch the items without an error; None: nothing
    that can be looked at."""
    if not isinstance(data, (bytes, str)) or not data:
        return None
    value = json.loads(data)
    if not isinstance(value, dict) or not isinstance(value.get("items"), list):
        return value
    items = [item for item, result in zip(value["items"], answer["items"], strict=True)
             if "error" not in result]
    return {**value, "items": items} if items else None


def is_base64(_validator, encoding, value, _schema):
    """RFC 4648 section 4, which JSON Schema only takes note of."""
    from jsonschema import ValidationError
    if encoding != "base64" or not isinstance(value, str):
        return
    try:
        base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        yield ValidationError(f"{value[:80]!r} is not padded base64")


class Description:
    def __init__(self, api):
        from jsonschema import validators
        self.api = api
        self.validator = validators.extend(Draft202012Validator, {"contentEncoding": is_base64})
        self.resolver = RefResolver("", api)
        self.seen = set()  # shapes that were good
        self.answered = set()  # (method, path, status)
        self.paths = []
        for path, item in api["paths"].items():
            pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path)
            self.paths.append((re.compile(pattern + r"\Z"), path, item))

    def resolve(self, node):
        while isinstance(node, dict) and "$ref" in node and node["$ref"].startswith("#/"):
            target = self.api
            for part in node["$ref"][2:].split("/"):
                target = target[part]
            node = target
        return node

    def validate(self, what, schema, value):
        checker = self.validator(schema, resolver=self.resolver)
        for error in checker.iter_errors(value):
            where = "/".join(str(p) for p in error.absolute_path)
            raise Violation(f"{what}: {where or 'the body'}: {error.message[:400]}")

    def operation(self, method, url):
        """(path, its item, the operation or None, its parameters in the path)."""
        path = url.partition("?")[0]
        for pattern, name, item in self.paths:
            found = pattern.match(path)
            if found:
                return name, item, item.get(method.lower()), found.groupdict()
        return None, {}, None, {}

    def response(self, operation, status):
        """What is said of an answer with this status; None: nothing."""
        if operation is None:
            default = {"$ref": "#/components/responses/Problem"}
            return self.resolve(default) if status >= 400 else None
        responses = operation["responses"]
        if str(status) in responses:
            return self.resolve(responses[str(status)])
        return self.resolve(responses.get("default")) if status >= 400 else None

    # -- the answer

    def check_headers(self, what, said, status, headers, known_client):
        listed = {name.lower() for name in said.get("headers", {})}
        present = {name.lower() for name in headers}
        for name in sorted(present - listed - HTTP_HEADERS):
            raise Violation(f"{what}: header {name} is not described")
        problem = headers.get("Content-Type", "") == PROBLEM
        wanted = listed - {"retry-after"} if status < 300 and known_client else set()
        if problem and status in (429, 503):
            wanted.add("retry-after")
        for name in sorted(wanted - present):
            raise Violation(f"{what}: header {name} is missing")
        for name in listed & present:
            schema = self.resolve(
                {k.lower(): v for k, v in said["headers"].items()}[name])["schema"]
            value = headers[name]
            if schema.get("type") == "integer":
                if not value.isdigit():
                    raise Violation(f"{what}: header {name} is {value!r}")
                value = int(value)
            self.validate(f"{what}: header {name}", schema, value)

    def check_body(self, what, said, status, headers, body):
        kind = headers.get("Content-Type", "").partition(";")[0]
        content = said.get("content", {})
        if kind not in content:
            raise Violation(f"{what}: a body of {kind!r} is not described")
        schema = content[kind]["schema"]
        value = json.loads(body) if kind.endswith("json") else body.decode()
        self.validate(what, schema, value)
        if kind == PROBLEM and value["status"] != status:
            raise Violation(f"{what}: the problem's status is {value['status']}")

    # -- the request that was granted

    def check_request(self, what, item, operation, params, headers, granted):
        body = operation.get("requestBody")
        if body is not None and granted is not None:
            schema = self.resolve(body)["content"]["application/json"]["schema"]
            self.validate(what + ": the request", schema, granted)
        given = {name.lower(): value for name, value in headers.items()}
        for parameter in [*item.get("parameters", ()), *operation.get("parameters", ())]:
            parameter = self.resolve(parameter)
            name = parameter["name"]
            value = {"path": params.get(name), "header": given.get(name.lower())}.get(
                parameter["in"])
            if value is None and parameter.get("required"):
                raise Violation(f"{what}: was taken without {name}")
            if value is not None:
                if parameter["schema"].get("type") == "integer" and value.isdigit():
                    value = int(value)
                self.validate(f"{what}: {name}", parameter["schema"], value)

    def look(self, method, url, headers, data, status, answer_headers, body):
        path, item, operation, params = self.operation(method, url)
        what = f"{method} {url[:120]} → {status}"
        kind = answer_headers.get("Content-Type", "")
        value = json.loads(body) if kind.endswith("json") and body else None
        granted = granted_request(data, value) if status < 300 else None
        key = (method, path, status, kind, tuple(sorted(answer_headers.keys())), shape(value),
               shape(granted), tuple(sorted(params.values())))
        if key in self.seen:
            return
        said = self.response(operation, status)
        if said is None:
            raise Violation(f"{what}: is not described")
        open_path = operation is not None and operation.get("security") == []
        self.check_headers(what, said, status, answer_headers, not open_path)
        if method != "HEAD":
            self.check_body(what, said, status, answer_headers, body)
        if status < 300 and operation is not None:
            self.check_request(what, item, operation, params, headers, granted)
        if path and operation is not None:
            self.answered.add((method, path, status))
        if len(self.seen) < SEEN_MAX:
            self.seen.add(key)

    def described(self):
        """(method, path, status) of every answer that is told with its status."""
        return {(method.upper(), path, int(status))
                for path, item in self.api["paths"].items()
                for method in METHODS & set(item)
                for status in item[method]["responses"] if status != "default"}


description = Description(load())
violations = []


def check(method, url, headers, data, status, answer_headers, body):
    """Of one request and its answer; a Violation is raised, and kept."""
    try:
        description.look(method, url, headers, data, status, answer_headers, body)
    except Violation as e:
        violations.append(str(e))
        raise
