#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""doc/operations.md has every setting of src/config/settings.c, with what a change of it takes."""

import re

from files import finish, text

EFFECTS = {"RELOAD": "reload", "RESTART": "restart", "INIT": "kekd init"}


def main():
    rows = {name: EFFECTS[effect] for name, effect in re.findall(
        r'^\t\{ "([\w.]+)", CONFIG_(\w+),', text("src/config/settings.c"), re.MULTILINE)}
    told = {}
    for names, effect in re.findall(
            r"^\| (`[^|]+`) \| (reload|restart|kekd init) \|", text("doc/operations.md"),
            re.MULTILINE):
        told.update({name: effect for name in re.findall(r"`([\w.]+)`", names)})
    findings = [f"doc/operations.md: {name} needs a row in \"Changing the configuration\": {effect}"
                for name, effect in rows.items() if told.get(name) != effect]
    findings += [f"doc/operations.md: {name} is no setting" for name in told.keys() - rows]
    finish(findings, f"{len(rows)} settings")


main()
