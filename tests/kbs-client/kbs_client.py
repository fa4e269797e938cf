#!/usr/bin/env python3
"""A guest's side of the KBS protocol, written from the published protocol and RFCs alone, in another language.

It shares nothing with what it is a test of: HTTP and JSON are Python's, cryptography is the package `cryptography`.
Evidence comes from a Unix socket: 64 bytes out, a u32 (little-endian) and so many bytes of JSON back.

    kbs_client.py URL EVIDENCE_SOCKET REPOSITORY/TYPE/TAG [snp|tdx]

The secret goes to standard output, everything else to standard error. Exit code 77: the package is missing.
"""

import base64
import hashlib
import http.client
import json
import socket
import struct
import sys
import urllib.parse

try:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.keywrap import aes_key_unwrap
except ImportError as error:
    print(f"not run: {error}", file=sys.stderr)
    sys.exit(77)


def encode(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def canonical(value):
    """RFC 8785, for objects and strings of ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def evidence_of(path, report_data):
    with socket.socket(socket.AF_UNIX) as device:
        device.connect(path)
        device.sendall(report_data)
        stream = device.makefile("rb")
        (length,) = struct.unpack("<I", stream.read(4))
        return json.loads(stream.read(length))


def concat_kdf(shared, algorithm, bits):
    """RFC 7518, 4.6.2, for one block of SHA-256, without names of parties."""
    name = algorithm.encode()
    other = struct.pack(">I", len(name)) + name + struct.pack(">III", 0, 0, bits)
    return hashlib.sha256(struct.pack(">I", 1) + shared + other).digest()


def open_jwe(key, jwe):
    header = json.loads(decode(jwe["protected"]))
    if (header["alg"], header["enc"]) != ("ECDH-ES+A256KW", "A256GCM"):
        sys.exit(f"unexpected header {header}")
    x, y = (int.from_bytes(decode(header["epk"][name]), "big") for name in "xy")
    theirs = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    wrapping = concat_kdf(key.exchange(ec.ECDH(), theirs), header["alg"], 256)
    content = aes_key_unwrap(wrapping, decode(jwe["encrypted_key"]))
    sealed = decode(jwe["ciphertext"]) + decode(jwe["tag"])
    return AESGCM(content).decrypt(decode(jwe["iv"]), sealed, jwe["protected"].encode())


def main(url, device, resource, tee="snp"):
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=30)

    def ask(method, path, body=None, cookie=None):
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if cookie:
            headers["Cookie"] = cookie
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        answer = connection.getresponse()
        said = json.loads(answer.read())
        if answer.status != 200:
            print(f"{answer.status}: {said['type']}: {said['detail']}", file=sys.stderr)
            sys.exit(5)
        return said, answer.getheader("Set-Cookie")

    hashes = {"supported-hash-algorithms": ["sha256", "sha384", "sha512", "sm3"]}
    challenge, cookie = ask("POST", "/kbs/v0/auth", {"version": "0.4.0", "tee": tee, "extra-params": hashes})
    cookie = cookie.split(";")[0]

    key = ec.generate_private_key(ec.SECP256R1())
    point = key.public_key().public_numbers()
    public = {
        "kty": "EC",
        "crv": "P-256",
        "alg": "ECDH-ES+A256KW",
        "x": encode(point.x.to_bytes(32, "big")),
        "y": encode(point.y.to_bytes(32, "big")),
    }
    runtime = {"nonce": challenge["nonce"], "tee-pubkey": public}
    algorithm = challenge["extra-params"]["selected-hash-algorithm"]
    digest = hashlib.new(algorithm, canonical({**runtime, "additional-evidence": ""})).digest()
    evidence = evidence_of(device, digest.ljust(64, b"\0"))
    composite = {"primary_evidence": evidence, "additional_evidence": ""}
    token, _ = ask("POST", "/kbs/v0/attest", {"runtime-data": runtime, "tee-evidence": composite}, cookie)
    claims = json.loads(decode(token["token"].split(".")[1]))
    print(f"tier {claims['submods']['cpu0']['tenure_tier']}", file=sys.stderr)

    jwe, _ = ask("GET", f"/kbs/v0/resource/{resource}", cookie=cookie)
    sys.stdout.buffer.write(open_jwe(key, jwe))


if __name__ == "__main__":
    main(*sys.argv[1:])
