#!/usr/bin/env python3
"""What the Python package sev-snp-measure says of the inputs that snp/tests/oracles writes: random.json, on standard output.

Usage: answer.py DIRECTORY > random.json
"""

import json
import pathlib
import sys

from sevsnpmeasure import guest
from sevsnpmeasure.sev_mode import SevMode
from sevsnpmeasure.vcpu_types import CPU_SIGS
from sevsnpmeasure.vmm_types import VMMType


def answer(number, path):
    asked = json.loads(path.read_text())

    def file(what):
        return str(path.with_suffix("." + what)) if asked[what] else None

    said = {"number": number, "input": asked["input"]}
    try:
        digest = guest.calc_launch_digest(
            SevMode.SEV_SNP,
            asked["vcpus"],
            CPU_SIGS[asked["vcpu_type"]],
            str(path.with_suffix(".fd")),
            file("kernel"),
            file("initrd"),
            asked["cmdline"],
            asked["guest_features"],
            vmm_type=VMMType[asked["vmm"]],
        )
        return said | {"launch_digest": digest.hex()}
    except RuntimeError as error:
        return said | {"error": str(error)}


def main():
    paths = sorted(pathlib.Path(sys.argv[1]).glob("*.json"))
    answers = (json.dumps(answer(number, path)) for number, path in enumerate(paths))
    print("[\n" + ",\n".join(answers) + "\n]")


main()
