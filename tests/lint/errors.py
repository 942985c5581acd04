#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every error code of include/kekd/err.h is explained in doc/operations.md, with its status."""

import re

from files import finish, text


def main():
    header = re.sub(r"\\\n\s*", "", text("include/kekd/err.h"))
    codes = dict(re.findall(r'X\(KEKD_\w+, "(\w+)", (\d+),', header))
    told = dict(re.findall(r"^\| `(\w+)` \| (\d{3}) \|", text("doc/operations.md"), re.MULTILINE))
    findings = [f"doc/operations.md: {code} ({status}) is not explained"
                for code, status in codes.items() if told.get(code) != status]
    findings += [f"doc/operations.md: {code} is no error of kekd" for code in told.keys() - codes]
    finish(findings, f"{len(codes)} errors")


main()
