#!/usr/bin/env python3
"""Reads a result of an appraisal (EAR), as JWT or CWT, written from RFCs 7515, 8949, 9052 and 9053 alone.

It shares nothing with what it is a test of: signatures are checked by the package `cryptography`, CBOR is read here, in
any well-formed way, and of the claims' numbers only those are known that the draft has.

    ear_reader.py KEY.pem TOKEN

KEY.pem is the private key that signed; only its public half is used. Claims go to standard output as JSON, with the
draft's names, whatever the form. Exit code 77: the package is missing.
"""

import base64
import json
import sys

try:
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
except ImportError as error:
    print(f"not run: {error}", file=sys.stderr)
    sys.exit(77)

NAMES = {
    4: "exp",
    6: "iat",
    10: "eat_nonce",
    265: "eat_profile",
    266: "submods",
    1000: "ear_status",
    1001: "ear_trustworthiness_vector",
    1003: "ear_appraisal_policy_ids",
    1004: "ear_verifier_id",
    1005: "ear_attester_claims",
    # Not the draft's, as docs/attestation.md tells.
    -80003: "tenure_tier",
}
VECTOR = [
    "instance-identity",
    "configuration",
    "executables",
    "file-system",
    "hardware",
    "runtime-opaque",
    "storage-opaque",
    "sourced-data",
]
TIERS = {0: "none", 2: "affirming", 32: "warning", 96: "contraindicated"}


class Tagged:
    def __init__(self, tag, value):
        self.tag, self.value = tag, value


def item(data, at):
    """A data item, and where it ends."""
    major, short = data[at] >> 5, data[at] & 31
    at += 1
    if short < 24:
        argument = short
    else:
        length = {24: 1, 25: 2, 26: 4, 27: 8}[short]
        argument = int.from_bytes(data[at : at + length], "big")
        at += length
    if major == 0:
        return argument, at
    if major == 1:
        return -1 - argument, at
    if major in (2, 3):
        text = data[at : at + argument]
        assert len(text) == argument, "truncated"
        return (text if major == 2 else text.decode()), at + argument
    if major == 4:
        values = []
        for _ in range(argument):
            value, at = item(data, at)
            values.append(value)
        return values, at
    if major == 5:
        pairs = {}
        for _ in range(argument):
            key, at = item(data, at)
            value, at = item(data, at)
            assert key not in pairs, "a key twice"
            pairs[key] = value
        return pairs, at
    if major == 6:
        value, at = item(data, at)
        return Tagged(argument, value), at
    return {20: False, 21: True, 22: None}[argument], at


def whole(data):
    value, end = item(data, 0)
    assert end == len(data), "something follows"
    return value


def head(major, length):
    if length < 24:
        return bytes([major << 5 | length])
    for code, size in ((24, 1), (25, 2), (26, 4)):
        if length < 256**size:
            return bytes([major << 5 | code]) + length.to_bytes(size, "big")
    raise ValueError(length)


def text(data):
    return head(2, len(data)) + data


def check(key, signature, signed):
    assert len(signature) == 96, "not a signature of ES384"
    r, s = (int.from_bytes(half, "big") for half in (signature[:48], signature[48:]))
    key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(hashes.SHA384()))


def decode(data):
    return base64.urlsafe_b64decode(data + "=" * (-len(data) % 4))


def jwt(key, token):
    signed, signature = token.rsplit(".", 1)
    header, claims = signed.split(".")
    assert json.loads(decode(header))["alg"] == "ES384"
    check(key, decode(signature), signed.encode())
    return json.loads(decode(claims))


def cwt(key, token):
    message = whole(token)
    assert message.tag == 18, "not COSE_Sign1"
    protected, _, claims, signature = message.value
    assert whole(protected) == {1: -35}, "not ES384"
    signed = head(4, 4) + head(3, 10) + b"Signature1" + text(protected) + text(b"") + text(claims)
    check(key, signature, signed)
    ear = {NAMES.get(name, name): value for name, value in whole(claims).items()}
    ear["eat_nonce"] = base64.urlsafe_b64encode(ear["eat_nonce"]).decode().rstrip("=")
    verifier = ear["ear_verifier_id"]
    ear["ear_verifier_id"] = {"developer": verifier[0], "build": verifier[1]}
    for name, submodule in ear["submods"].items():
        named = {NAMES.get(key, key): value for key, value in submodule.items()}
        named["ear_status"] = TIERS[named["ear_status"]]
        vector = named["ear_trustworthiness_vector"]
        named["ear_trustworthiness_vector"] = {VECTOR[number]: value for number, value in vector.items()}
        ear["submods"][name] = named
    return ear


def main():
    path, token = sys.argv[1:]
    with open(path, "rb") as file:
        key = serialization.load_pem_private_key(file.read(), None).public_key()
    with open(token, "rb") as file:
        token = file.read()
    ear = jwt(key, token.decode().strip()) if token.startswith(b"ey") else cwt(key, token)
    json.dump(ear, sys.stdout)


main()
