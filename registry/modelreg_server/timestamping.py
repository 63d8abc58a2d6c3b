"""The registry's time-stamping authority: RFC 3161 replies over digests, with the clock of the request.

A stamp says only "I saw this digest at this time", whoever shows it; it is no custody event, because it is bound to no
artifact, repository or decision: an event of it would say nothing that the artifact's own events do not say better.

asn1crypto writes and reads the ASN.1 (docs/adr/0006-time-stamps.md). Profile: RFC 3161, RFC 5816 (ESSCertIDv2), RFC 5652.
"""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from asn1crypto import algos, cms, core, tsp  # type: ignore[import-untyped]
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from modelreg.errors import Invalid, Misconfigured, ModelregError
from modelreg.signing import load_private_key, with_certificate

MAX_QUERY_BYTES = 4096  # a query with everything this authority accepts has about 120
ACCURACY_SECONDS = 1  # the time is cut to whole seconds
_MAX_NONCE_BITS = 256
_SERIAL_BITS = 159  # RFC 3161: serial numbers may have 160 bits, and are never given twice
_IMPRINT_BYTES = {"sha256": 32, "sha384": 48, "sha512": 64}
_HASH_OF_CURVE = {"secp256r1": "sha256", "secp384r1": "sha384", "secp521r1": "sha512"}
_UNREADABLE = (ValueError, TypeError, KeyError, OverflowError, RecursionError)


@dataclass(frozen=True)
class TimeStampingAuthority:
    """A key, its certificate chain (leaf first) and the OID of the policy it stamps under."""

    private_key: ec.EllipticCurvePrivateKey
    chain: tuple[x509.Certificate, ...]
    policy: str


def load(key: Path, certificate: Path, policy: str, password: bytes | None = None) -> TimeStampingAuthority:
    """Read the authority's key and chain.

    Raises:
        Misconfigured: unreadable, not of one pair, or a certificate that no verifier would take for a TSA's.
    """
    try:
        private_key = load_private_key(key.read_bytes(), password)
        chain = with_certificate(private_key, certificate.read_bytes()).chain
        x509.ObjectIdentifier(policy)
    except (OSError, ValueError) as error:
        raise Misconfigured(
            f"the time-stamping authority cannot be set up: {error}", setting="MODELREG_TSA_KEY"
        ) from None
    except ModelregError as error:
        raise Misconfigured(f"the time-stamping authority: {error.detail}", setting="MODELREG_TSA_KEY") from None
    try:
        purposes = chain[0].extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    except x509.ExtensionNotFound:
        purposes = None
    if purposes is None or not purposes.critical or list(purposes.value) != [ExtendedKeyUsageOID.TIME_STAMPING]:
        raise Misconfigured(
            f"{certificate}: the first certificate is not for time stamps alone (critical extended key usage "
            "timeStamping); make one with `modelreg trust issue-tsa`",
            setting="MODELREG_TSA_CERTIFICATE",
        )
    return TimeStampingAuthority(private_key, chain, policy)


def reply(authority: TimeStampingAuthority, untrusted_query: bytes, now: datetime) -> bytes:
    """Stamp the digest of a query (DER `TimeStampReq`) with `now`; returns a DER `TimeStampResp`, always granted.

    Raises:
        Invalid: not such a query, or one that this authority does not answer.
        Misconfigured: the authority's own certificate is not valid now, so nobody would believe the stamp.
    """
    leaf = authority.chain[0]
    if not leaf.not_valid_before_utc <= now <= leaf.not_valid_after_utc:
        raise Misconfigured(
            f"the certificate of the time-stamping authority ended at {leaf.not_valid_after_utc:%Y-%m-%d %H:%M}Z; the "
            "operator must issue another (`modelreg trust issue-tsa`)",
            setting="MODELREG_TSA_CERTIFICATE",
        )
    query = _parse(untrusted_query, authority.policy)
    info = tsp.TSTInfo(
        {
            "version": "v1",
            "policy": authority.policy,
            "message_imprint": query["message_imprint"],
            "serial_number": secrets.randbits(_SERIAL_BITS),
            "gen_time": now.replace(microsecond=0),
            "accuracy": {"seconds": ACCURACY_SECONDS},
        }
    )
    if query["nonce"].native is not None:
        info["nonce"] = query["nonce"].native
    token = cms.ContentInfo(
        {"content_type": "signed_data", "content": _signed(authority, info, query["cert_req"].native)}
    )
    return bytes(tsp.TimeStampResp({"status": {"status": "granted"}, "time_stamp_token": token}).dump())


def _parse(untrusted_query: bytes, policy: str) -> tsp.TimeStampReq:
    if len(untrusted_query) > MAX_QUERY_BYTES:
        raise Invalid(f"the query has {len(untrusted_query)} bytes; the limit is {MAX_QUERY_BYTES}", field="body")
    try:
        query = tsp.TimeStampReq.load(untrusted_query, strict=True)
        version, imprint, nonce = query["version"].native, query["message_imprint"].native, query["nonce"].native
        asked, extensions = query["req_policy"].native, query["extensions"].native
        canonical = tsp.TimeStampReq.load(untrusted_query, strict=True).dump(force=True) == untrusted_query
    except _UNREADABLE as error:
        raise Invalid(f"this is not an RFC 3161 query: {str(error)[:200]}", field="body") from None
    if version != "v1" or not canonical:
        raise Invalid("this is not an RFC 3161 query of version 1 in DER form", field="body")
    algorithm, parameters = imprint["hash_algorithm"]["algorithm"], imprint["hash_algorithm"]["parameters"]
    if _IMPRINT_BYTES.get(algorithm) != len(imprint["hashed_message"]) or parameters is not None:
        raise Invalid(
            f"a digest of {str(algorithm)[:40]} is not stamped here; send one of {', '.join(_IMPRINT_BYTES)}",
            field="body",
        )
    if asked is not None and asked != policy:
        raise Invalid(f"stamps are made under the policy {policy} only, not {str(asked)[:100]}", field="body")
    if extensions is not None:
        raise Invalid("no extension of a query is understood here", field="body")
    if nonce is not None and not 0 <= nonce < 2**_MAX_NONCE_BITS:
        raise Invalid(f"the nonce is not a number from 0 of at most {_MAX_NONCE_BITS} bits", field="body")
    return query


def _signed(authority: TimeStampingAuthority, info: tsp.TSTInfo, enclose: bool) -> cms.SignedData:
    content = info.dump()
    chain = [asn1_x509.Certificate.load(cert.public_bytes(serialization.Encoding.DER)) for cert in authority.chain]
    name = _HASH_OF_CURVE[authority.private_key.curve.name]
    hashing = hashes.Hash(_hash(name))
    hashing.update(content)
    # RFC 5816: without the certificate's own digest under the signature, another of the same key could stand for it.
    certificate_id = tsp.ESSCertIDv2(
        {
            "cert_hash": hashlib.sha256(chain[0].dump()).digest(),
            "issuer_serial": {
                "issuer": [asn1_x509.GeneralName(name="directory_name", value=chain[0].issuer)],
                "serial_number": chain[0].serial_number,
            },
        }
    )
    attributes = cms.CMSAttributes(
        [
            cms.CMSAttribute({"type": "content_type", "values": ["tst_info"]}),
            cms.CMSAttribute({"type": "message_digest", "values": [hashing.finalize()]}),
            cms.CMSAttribute({"type": "signing_certificate_v2", "values": [{"certs": [certificate_id]}]}),
        ]
    )
    digest_algorithm = algos.DigestAlgorithm({"algorithm": name})
    signer = cms.SignerInfo(
        {
            "version": "v1",
            "sid": cms.SignerIdentifier(
                name="issuer_and_serial_number",
                value={"issuer": chain[0].issuer, "serial_number": chain[0].serial_number},
            ),
            "digest_algorithm": digest_algorithm,
            "signed_attrs": attributes,
            "signature_algorithm": {"algorithm": f"{name}_ecdsa"},
            "signature": authority.private_key.sign(attributes.dump(), ec.ECDSA(_hash(name))),
        }
    )
    return cms.SignedData(
        {
            "version": "v3",
            "digest_algorithms": [digest_algorithm],
            "encap_content_info": {"content_type": "tst_info", "content": core.ParsableOctetString(content)},
            "certificates": chain if enclose else None,
            "signer_infos": [signer],
        }
    )


def _hash(name: str) -> hashes.HashAlgorithm:
    return {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}[name]
