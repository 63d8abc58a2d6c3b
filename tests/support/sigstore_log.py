"""The part of a local Sigstore that says that and when: a Merkle tree, a Rekor v2 log and a TSA. See `sigstore_local`."""

import base64
import binascii
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import rfc8785
from asn1crypto import algos, cms, core, tsp
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed


class Malformed(Exception):
    """What the caller sent cannot be logged or stamped."""


@dataclass
class MerkleTree:
    """RFC 6962, kept whole in memory; an append costs the whole tree, which tests do not notice."""

    leaves: list[bytes] = field(default_factory=list)

    def append(self, entry: bytes) -> int:
        self.leaves.append(hashlib.sha256(b"\0" + entry).digest())
        return len(self.leaves) - 1

    def root(self) -> bytes:
        return _root(self.leaves)

    def path(self, index: int) -> list[bytes]:
        return _path(index, self.leaves)


def _split(leaves: list[bytes]) -> int:
    return 1 << ((len(leaves) - 1).bit_length() - 1)


def _root(leaves: list[bytes]) -> bytes:
    if len(leaves) == 1:
        return leaves[0]
    at = _split(leaves)
    return hashlib.sha256(b"\1" + _root(leaves[:at]) + _root(leaves[at:])).digest()


def _path(index: int, leaves: list[bytes]) -> list[bytes]:
    if len(leaves) == 1:
        return []
    at = _split(leaves)
    if index < at:
        return [*_path(index, leaves[:at]), _root(leaves[at:])]
    return [*_path(index - at, leaves[at:]), _root(leaves[:at])]


_KINDS = {"secp256r1": ("PKIX_ECDSA_P256_SHA_256", "SHA2_256", hashes.SHA256())}


@dataclass
class Rekor:
    """A log of `hashedrekord` 0.0.2 entries: checked, appended, and proven with a signed checkpoint."""

    origin: str
    key: ed25519.Ed25519PrivateKey = field(default_factory=ed25519.Ed25519PrivateKey.generate)
    tree: MerkleTree = field(default_factory=MerkleTree)

    @property
    def raw_public_key(self) -> bytes:
        return self.key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)

    @property
    def id(self) -> bytes:
        """The key id of a signed note: it names the log, not only its key."""
        return hashlib.sha256(self.origin.encode() + b"\n\1" + self.raw_public_key).digest()

    def add(self, request: Any) -> dict[str, Any]:
        """Log a request of the v2 API; the answer is a `TransparencyLogEntry` in JSON form."""
        body = rfc8785.dumps(self._entry(request))
        index = self.tree.append(body)
        size, root = len(self.tree.leaves), self.tree.root()
        return {
            "logIndex": str(index),
            "logId": {"keyId": _b64(self.id)},
            "kindVersion": {"kind": "hashedrekord", "version": "0.0.2"},
            "inclusionProof": {
                "logIndex": str(index),
                "rootHash": _b64(root),
                "treeSize": str(size),
                "hashes": [_b64(node) for node in self.tree.path(index)],
                "checkpoint": {"envelope": self.checkpoint()},
            },
            "canonicalizedBody": _b64(body),
        }

    def checkpoint(self) -> str:
        """The signed note over the tree as it is (C2SP tlog-checkpoint)."""
        text = f"{self.origin}\n{len(self.tree.leaves)}\n{_b64(self.tree.root())}\n"
        signature = _b64(self.id[:4] + self.key.sign(text.encode()))
        return f"{text}\n\u2014 {self.origin} {signature}\n"

    def _entry(self, request: Any) -> dict[str, Any]:
        """The entry, if the signature in it holds; whose certificate that is a log does not ask."""
        try:
            record = request["hashedRekordRequestV002"]
            digest = base64.b64decode(record["digest"], validate=True)
            content = record["signature"]["content"]
            verifier = record["signature"]["verifier"]
            raw_certificate = verifier["x509Certificate"]["rawBytes"]
            key = x509.load_der_x509_certificate(base64.b64decode(raw_certificate, validate=True)).public_key()
            details, algorithm, hash_algorithm = _KINDS[key.curve.name]  # type: ignore[union-attr]
            assert isinstance(key, ec.EllipticCurvePublicKey)
            key.verify(base64.b64decode(content, validate=True), digest, ec.ECDSA(Prehashed(hash_algorithm)))
        except (KeyError, TypeError, ValueError, AttributeError, binascii.Error) as error:
            raise Malformed(f"not a hashedrekord request: {error!r}") from None
        except InvalidSignature:
            raise Malformed("the signature is not over this digest by this certificate") from None
        if verifier.get("keyDetails") != details:
            raise Malformed(f"key details are {verifier.get('keyDetails')!r}, not {details}")
        logged = {"keyDetails": details, "x509Certificate": {"rawBytes": raw_certificate}}
        return {
            "apiVersion": "0.0.2",
            "kind": "hashedrekord",
            "spec": {
                "hashedRekordV002": {
                    "data": {"algorithm": algorithm, "digest": record["digest"]},
                    "signature": {"content": content, "verifier": logged},
                }
            },
        }


_IMPRINTS = {"sha256": 32, "sha384": 48, "sha512": 64}  # bytes


@dataclass
class Tsa:
    """A time-stamping authority (RFC 3161) for SHA-2 imprints; it signs with SHA-256."""

    clock: Callable[[], datetime]
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    serial: int = 0

    def answer(self, raw_request: bytes) -> bytes:
        """The DER of a TimeStampResp."""
        try:
            request = tsp.TimeStampReq.load(raw_request, strict=True)
            imprint = request["message_imprint"]
            algorithm = imprint["hash_algorithm"]["algorithm"].native
            size = len(imprint["hashed_message"].native)
        except ValueError as error:
            raise Malformed(f"not a timestamp request: {error}") from None
        if _IMPRINTS.get(algorithm) != size:
            raise Malformed(f"an imprint of {size} bytes by {algorithm} is not stamped")
        self.serial += 1
        stated = {
            "version": "v1",
            "policy": "1.3.6.1.4.1.57264.2",
            "message_imprint": imprint,
            "serial_number": self.serial,
            "gen_time": self.clock().astimezone(UTC).replace(microsecond=0),
        }
        if request["nonce"].native is not None:
            stated["nonce"] = request["nonce"]
        token = self._signed(tsp.TSTInfo(stated).dump(), certificates=bool(request["cert_req"].native))
        return tsp.TimeStampResp({"status": {"status": "granted"}, "time_stamp_token": token}).dump()

    def _signed(self, content: bytes, *, certificates: bool) -> cms.ContentInfo:
        der = self.certificate.public_bytes(serialization.Encoding.DER)
        certificate = asn1_x509.Certificate.load(der)
        sha256 = algos.DigestAlgorithm({"algorithm": "sha256"})
        attributes = cms.CMSAttributes(
            [
                {"type": "content_type", "values": ["tst_info"]},
                {"type": "message_digest", "values": [hashlib.sha256(content).digest()]},
                {
                    "type": "signing_certificate_v2",
                    "values": [tsp.SigningCertificateV2({"certs": [{"cert_hash": hashlib.sha256(der).digest()}]})],
                },
            ]
        )
        signer = {
            "version": "v1",
            "sid": {
                "issuer_and_serial_number": {
                    "issuer": certificate.issuer,
                    "serial_number": certificate.serial_number,
                }
            },
            "digest_algorithm": sha256,
            "signed_attrs": attributes,
            "signature_algorithm": {"algorithm": "sha256_ecdsa"},
            "signature": self.key.sign(attributes.dump(), ec.ECDSA(hashes.SHA256())),
        }
        signed = {
            "version": "v3",
            "digest_algorithms": [sha256],
            "encap_content_info": {"content_type": "tst_info", "content": core.ParsableOctetString(content)},
            "signer_infos": [signer],
        }
        if certificates:
            signed["certificates"] = [certificate]
        return cms.ContentInfo({"content_type": "signed_data", "content": cms.SignedData(signed)})


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
