"""Deciding whether bytes may be used (docs/spec/verification.md). No IO: bundle, manifest, policy and `now` come in.

`verify` performs, in this order of meaning; the numbers stand at the code:

1. Parse within limits; exactly one signature; bundle, payload and predicate types as expected.
2. The trust policy picks the method (key, certificate, sigstore); a bundle never does.
3. Signature over the exact payload bytes.
4. Certificate chain to pinned roots, usage, validity at a trusted time: the earliest RFC 3161 time stamp over the
   signature by a time authority that the signer's authority believes (`timestamps`); without one, now. A sigstore bundle
   carries its own time, with the proof that it was logged (`sigstore_proof`).
5. Signer identity allowed for this repository by an exact or anchored-glob rule; no rule refuses.
6. Not revoked (artifact, signer, key, certificate; from a time on), not quarantined; list and policy not stale.
7. Statement ↔ manifest: same names, sizes and digests; the artifact digest is the one asked for.
8. Log: the receipt shows the grant in the pinned custody log, which continues the newest checkpoint this machine has
   seen. Performed by `log_proof`, which `grants` calls before a byte is asked for; `verify_kept` for what is kept. Here it
   would need what a machine remembers; a caller that was not granted anything (a folder, a foreign bundle) has no step 8.
9. Bytes: every chunk equals its digest, nothing missing, nothing extra. The **caller must** do this, with
   `hashing.check_files` or `transfer`, before a byte is used; both take what this module returns.

A refusal is an exception; there is no boolean to forget. `VerifiedManifest`, `VerifiedStatement`,
`VerifiedPayload` are made nowhere else.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.x509 import verification as x509_verification
from cryptography.x509.oid import ExtendedKeyUsageOID

from modelreg import bundles, manifests, sigstore_proof, statements, timestamps
from modelreg.digests import Digest, sha256_of
from modelreg.errors import (
    ManifestInvalid,
    Misconfigured,
    ModelregError,
    Quarantined,
    Revoked,
    SignatureInvalid,
    SignatureMissing,
    SignerNotAllowed,
)
from modelreg.signing import HASH_OF_CURVE, hint_of
from modelreg.trust import (
    MALFORMED,
    Allowed,
    Authority,
    CertificateAuthority,
    KeyAuthority,
    PinnedKey,
    SigstoreAuthority,
    TrustPolicy,
    Usage,
    key_id_of,
    require_curve,
)

MAX_CHAIN_DEPTH = 4  # certificates between leaf and root
_MATERIAL: dict[type[Authority], bundles.MaterialKind] = {
    KeyAuthority: "publicKey",
    CertificateAuthority: "x509CertificateChain",
    SigstoreAuthority: "certificate",
}


@dataclass(frozen=True)
class SignerIdentity:
    """Who signed, as proven: `identities` are all names of the credential, `identity` the one that was allowed.

    The signature was made at `signed_at` or before, by a trusted time; None where nothing proves when.
    """

    authority: str
    identity: str
    identities: tuple[str, ...]
    key_ids: tuple[Digest, ...]
    signed_at: datetime | None = None


@dataclass(frozen=True)
class VerifiedPayload:
    """Steps 1 to 6b hold for these bytes: an allowed signer's, whatever they say. Made by `verify_payload` only."""

    payload: bytes
    signer: SignerIdentity
    legacy_0_2: bool


@dataclass(frozen=True)
class VerifiedStatement:
    """Steps 1 to 6 hold for this statement, for this repository, at this time."""

    statement: statements.Statement
    signer: SignerIdentity
    repository: str
    verified_at: datetime


@dataclass(frozen=True)
class VerifiedManifest:
    """Steps 1 to 7 hold. `raw_bundle` is the signature that was believed."""

    manifest: manifests.Manifest
    signer: SignerIdentity
    repository: str
    verified_at: datetime
    raw_bundle: bytes


@dataclass(frozen=True)
class _Credential:
    """Steps 3 and 4 hold: these names and keys made the signature. `signed_at` is None without a trusted time."""

    identities: tuple[str, ...]
    key_ids: tuple[Digest, ...]
    legacy_0_2: bool
    signed_at: datetime | None = None


def verify(
    raw_bundle: bytes,
    raw_manifest: bytes,
    *,
    policy: TrustPolicy,
    repository: str,
    now: datetime,
    artifact: Digest | None = None,
) -> VerifiedManifest:
    """Verify a signed manifest for a repository (steps 1 to 7).

    Args:
        raw_bundle: untrusted.
        raw_manifest: untrusted.
        policy: pinned by the operator.
        repository: the repository the caller asked for; its rules apply.
        now: one instant, aware, used for every check.
        artifact: the artifact digest asked for; None only where the manifest was made on this machine a moment ago.

    Raises:
        SignatureInvalid, SignerNotAllowed, StaleTrust, Revoked, Quarantined, ManifestInvalid: as DESIGN §6 numbers them.
    """
    verified = verify_statement(raw_bundle, policy=policy, repository=repository, now=now)
    # 7. The artifact that was asked for and signed. Before the bytes are parsed: only the signer gets to choose those.
    measured = sha256_of(raw_manifest)
    if artifact is not None and measured != artifact:
        raise ManifestInvalid(
            f"the manifest received is {measured}, asked for was {artifact}",
            expected=str(artifact),
            measured=str(measured),
        )
    if verified.statement.artifact != measured:
        raise SignatureInvalid(
            f"the signed statement is of the artifact {verified.statement.artifact}, the manifest is {measured}"
        )
    manifest = manifests.parse(raw_manifest)
    _require_same_files(verified.statement, manifest)
    return VerifiedManifest(manifest, verified.signer, repository, verified.verified_at, raw_bundle)


def verify_any(
    raw_bundles: list[bytes],
    raw_manifest: bytes,
    *,
    policy: TrustPolicy,
    repository: str,
    now: datetime,
    artifact: Digest,
) -> VerifiedManifest:
    """Verify with the first of several bundles (countersignatures) that holds.

    Raises:
        SignatureMissing: there is no bundle at all.
        Revoked, Quarantined: the artifact is recalled; no signature brings it back.
        ModelregError: none holds; the error of the first one that failed, with the others' in facts.
    """
    refusals: list[ModelregError] = []
    for raw_bundle in raw_bundles:
        try:
            return verify(raw_bundle, raw_manifest, policy=policy, repository=repository, now=now, artifact=artifact)
        except ModelregError as error:
            # Recalled whoever signs it. A revoked signer's bundle, or one of another artifact, is only one that fails.
            if isinstance(error, Revoked | Quarantined) and error.facts.get("artifact") == str(artifact):
                raise
            refusals.append(error)
    if not refusals:
        raise SignatureMissing(f"{repository}@{artifact} has no signature; sign it with `modelreg push --key …`")
    refusals[0].facts["refusals"] = [f"{error.code}: {error.detail}" for error in refusals]
    raise refusals[0]


def verify_statement(raw_bundle: bytes, *, policy: TrustPolicy, repository: str, now: datetime) -> VerifiedStatement:
    """Verify a bundle alone (steps 1 to 6), for a directory that has a signature and no manifest.

    Raises:
        SignatureInvalid, SignerNotAllowed, StaleTrust, Revoked, Quarantined: as in `verify`.
    """
    believed = verify_payload(
        raw_bundle, policy=policy, allowed=policy.allowed_for(repository), repository=repository, now=now
    )
    # 1. Payload and predicate types, now that the bytes are known to be the signer's.
    statement = statements.parse(believed.payload, legacy_0_2=believed.legacy_0_2)
    # 6c. `verify` holds the manifest against this digest, so that a revoked artifact has no other name.
    if statement.artifact is not None and (refusal := policy.refusal(statement.artifact)) is not None:
        raise refusal
    return VerifiedStatement(statement, believed.signer, repository, now)


def verify_payload(
    raw_bundle: bytes, *, policy: TrustPolicy, allowed: Sequence[Allowed], repository: str, now: datetime
) -> VerifiedPayload:
    """Verify who signed a bundle (steps 1 to 6b), whatever its payload says; `attestations` reads other statements with it.

    Args:
        raw_bundle: untrusted.
        allowed: who may have signed it, by the policy.

    Raises:
        SignatureInvalid, SignerNotAllowed, StaleTrust, Revoked: as in `verify`.
    """
    # 1. Shape and limits of the container; the payload is parsed only after its signature holds.
    bundle = bundles.parse(raw_bundle)
    # 6a. A stale list cannot say what is revoked.
    policy.require_fresh(now)
    if not allowed:
        raise SignerNotAllowed(f"no rule of the trust policy names {repository}; nobody may sign for it")
    # 2. The method is the authority's; a bundle of another kind does not even get looked at.
    fitting = [entry for entry in allowed if _MATERIAL[type(policy.authorities[entry.authority])] == bundle.kind]
    if not fitting:
        raise SignatureInvalid(
            f"the bundle carries a {bundle.kind}; the trust policy does not use that for {repository}"
        )
    refusals: list[ModelregError] = []
    for entry in fitting:
        try:
            credential = _prove(bundle, policy, entry.authority, now)
            signer = _require_allowed(credential, policy, entry, repository)
        except (SignatureInvalid, SignerNotAllowed) as error:
            refusals.append(error)
            continue
        # 6b. Checked outside the alternatives: what one entry revokes another cannot allow.
        _require_not_revoked(credential, policy)
        return VerifiedPayload(bundle.payload, signer, credential.legacy_0_2)
    # A good signature by the wrong person says more than a signature that was tried against the wrong authority.
    raise next((error for error in refusals if isinstance(error, SignerNotAllowed)), refusals[0])


def _prove(bundle: bundles.Bundle, policy: TrustPolicy, name: str, now: datetime) -> _Credential:
    """Steps 3 and 4 against one authority."""
    authority = policy.authorities[name]
    match authority:
        case KeyAuthority():
            signed_at = _trusted_time(bundle, authority, policy, name, now)
            return replace(_prove_key(bundle, authority, name, signed_at or now), signed_at=signed_at)
        case CertificateAuthority():
            signed_at = _trusted_time(bundle, authority, policy, name, now)
            return replace(_prove_certificate(bundle, authority, name, signed_at or now), signed_at=signed_at)
        case SigstoreAuthority():
            return _prove_sigstore(bundle, authority, policy, name)


def _trusted_time(
    bundle: bundles.Bundle,
    authority: KeyAuthority | CertificateAuthority,
    policy: TrustPolicy,
    name: str,
    now: datetime,
) -> datetime | None:
    """Step 4: when the signature existed at the latest, by the time authorities that this authority believes."""
    believed = {time: policy.time_authorities[time] for time in authority.timestamps}
    held = timestamps.held(bundle.timestamps, bundle.signature, believed, now)
    # A stamp that is not believed is as good as none; to refuse it would only punish signatures that need no time.
    times = [stamp.at for stamp in held if not _disbelieved(stamp.chain, policy)]
    if not times and authority.require_timestamp:
        raise SignatureInvalid(
            f"{name} demands a time stamp of {', '.join(believed)}, and the bundle has none that is believed; push again"
        )
    return min(times, default=None)


def _disbelieved(chain: Sequence[x509.Certificate], policy: TrustPolicy) -> bool:
    """Whether a TSA's chain holds a revoked key or certificate.

    Whoever holds a stolen key of a TSA sets its clock back at will, so `from` cannot save any of its stamps.
    """
    key_ids = _key_ids(chain)
    return any(revoked.names((), key_ids) for revoked in policy.revocations.signers)


def _prove_key(bundle: bundles.Bundle, authority: KeyAuthority, name: str, at: datetime) -> _Credential:
    for key in authority.keys:
        if not _names_key(bundle, key):
            continue
        # 4. The key's own end, at the trusted time, else now.
        if key.not_after is not None and at >= key.not_after:
            raise SignatureInvalid(f"the key {key.name} of {name} ended at {key.not_after:%Y-%m-%d %H:%M}Z")
        legacy = _require_signature(bundle, key.public_key, authority.legacy_0_2)  # 3.
        return _Credential((f"key:{key.name}",), (key.key_id,), legacy)
    raise SignatureInvalid(f"the bundle was not made with a key of {name} (its hint: {ascii(bundle.hint)[:80]})")


def _names_key(bundle: bundles.Bundle, key: PinnedKey) -> bool:
    """Whether the bundle's claims agree with this pinned key; a key inside the bundle is compared, never used."""
    if bundle.hint is not None and bundle.hint != hint_of(key.public_key):
        return False
    if bundle.raw_key is not None:
        pem = key.public_key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        return bundle.raw_key == pem
    return bundle.hint is not None


def _prove_certificate(bundle: bundles.Bundle, authority: CertificateAuthority, name: str, at: datetime) -> _Credential:
    try:
        chain = [x509.load_der_x509_certificate(der) for der in bundle.certificates]
        return _prove_chain(bundle, chain, authority, name, at)
    except MALFORMED as error:
        # The library reads a certificate's parts as they are asked for, so a malformed one may show anywhere below.
        raise SignatureInvalid(f"the bundle's chain holds a malformed certificate: {error}") from None


def _prove_chain(
    bundle: bundles.Bundle,
    chain: list[x509.Certificate],
    authority: CertificateAuthority,
    name: str,
    at: datetime,
) -> _Credential:
    leaf = chain[0]
    # 4. Chain to the pinned roots only, every certificate valid at that time. The library knows RFC 5280; usage is ours.
    ca_rules = x509_verification.ExtensionPolicy.webpki_defaults_ca().may_be_present(
        x509.ExtendedKeyUsage, x509_verification.Criticality.AGNOSTIC, _issuer_purposes(authority.usage)
    )
    leaf_rules = x509_verification.ExtensionPolicy.permit_all().require_present(
        x509.KeyUsage, x509_verification.Criticality.AGNOSTIC, None
    )
    verifier = (
        x509_verification.PolicyBuilder()
        .store(x509_verification.Store(list(authority.roots)))
        .time(at.astimezone(UTC))
        .max_chain_depth(MAX_CHAIN_DEPTH)
        .extension_policies(ca_policy=ca_rules, ee_policy=leaf_rules)
        .build_client_verifier()
    )
    try:
        proven = verifier.verify(leaf, chain[1:]).chain
    except x509_verification.VerificationError as error:
        raise SignatureInvalid(_chain_message(leaf, name, at, error)) from None
    _require_usage(leaf, authority.usage)
    try:
        public_key = require_curve(leaf.public_key(), "the signer's certificate")
    except Misconfigured as error:
        raise SignatureInvalid(error.detail) from None
    legacy = _require_signature(bundle, public_key, authority.legacy_0_2)  # 3.
    return _Credential(identities_of(leaf), _key_ids(proven), legacy)


def _prove_sigstore(
    bundle: bundles.Bundle, authority: SigstoreAuthority, policy: TrustPolicy, name: str
) -> _Credential:
    # 3. and 4., both at the trusted time.
    proven = sigstore_proof.prove(bundle, authority, name, lambda chain: _disbelieved(chain, policy))
    try:
        names, key_ids = identities_of(proven.chain[0]), _key_ids(proven.chain)
    except MALFORMED as error:
        raise SignatureInvalid(f"the signer's certificate is malformed: {error}") from None
    return _Credential(names, key_ids, legacy_0_2=False, signed_at=proven.signed_at)


def _issuer_purposes(usage: Usage) -> Callable[[object, x509.Certificate, x509.ExtendedKeyUsage | None], None]:
    """The rule for purposes in an issuer: none, or the one the trust policy demands of the leaf.

    The library's own rule wants clientAuth, the purpose it was built for, and so refuses issuers for code signing.
    """

    def require(_: object, issuer: x509.Certificate, purposes: x509.ExtendedKeyUsage | None) -> None:
        if purposes is None or usage == "digitalSignature":
            return
        if not {ExtendedKeyUsageOID.CODE_SIGNING, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & set(purposes):
            raise ValueError(f"{issuer.subject.rfc4514_string()} may not issue certificates for code signing")

    return require


def _key_ids(proven: Sequence[x509.Certificate]) -> tuple[Digest, ...]:
    """Every key and certificate from leaf to root, by each SHA-256 a revocation may name it."""
    found = [key_id_of(certificate.public_key()) for certificate in proven]
    found += [sha256_of(certificate.public_bytes(serialization.Encoding.DER)) for certificate in proven]
    # The last one is the pinned root, whose bytes are the operator's and have no other spelling.
    for certificate, issuer in pairwise(proven):
        if _spelled(certificate, certificate.signature) != certificate.public_bytes(serialization.Encoding.DER):
            raise SignatureInvalid(
                f"a certificate of the chain is not DER: {certificate.subject.rfc4514_string()[:120]}"
            )
        if isinstance(issuer_key := issuer.public_key(), ec.EllipticCurvePublicKey):
            # (r, order - s) verifies where (r, s) does.
            r, s = decode_dss_signature(certificate.signature)
            twin = encode_dss_signature(r, issuer_key.curve.group_order - s)
            found.append(sha256_of(_spelled(certificate, twin)))
    return tuple(found)


def _spelled(certificate: x509.Certificate, signature: bytes) -> bytes:
    """The one DER form of a certificate with this signature.

    The signature is the part of a certificate that nothing signs: without any key it can be written in other ways that
    verify as well, and then has another fingerprint. So there may be one way only, and its twin is revoked with it.
    """
    der, tbs = certificate.public_bytes(serialization.Encoding.DER), certificate.tbs_certificate_bytes
    algorithm = der[der.index(tbs) + len(tbs) : -len(_tlv(0x03, b"\0" + certificate.signature))]
    return _tlv(0x30, tbs + algorithm + _tlv(0x03, b"\0" + signature))


def _tlv(tag: int, content: bytes) -> bytes:
    """One DER element."""
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    width = (size.bit_length() + 7) // 8
    return bytes([tag, 0x80 | width]) + size.to_bytes(width, "big") + content


def _chain_message(leaf: x509.Certificate, authority: str, at: datetime, error: Exception) -> str:
    start, end = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    if not start <= at <= end:
        return (
            f"the signer's certificate is valid from {start:%Y-%m-%d %H:%M}Z to {end:%Y-%m-%d %H:%M}Z, "
            f"not at {at:%Y-%m-%d %H:%M}Z; push again with a current certificate (`modelreg trust issue`)"
        )
    return f"the certificate chain does not lead to a root of {authority}: {error}"


def _require_usage(leaf: x509.Certificate, usage: Usage) -> None:
    # `leaf_rules` demand that there is a key usage.
    if not leaf.extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature:
        raise SignatureInvalid("the signer's certificate is not for digital signatures")
    try:
        purposes = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        purposes = x509.ExtendedKeyUsage([])
    if usage == "codeSigning" and ExtendedKeyUsageOID.CODE_SIGNING not in purposes:
        raise SignatureInvalid("the signer's certificate is not for code signing, which the trust policy demands")


def identities_of(leaf: x509.Certificate) -> tuple[str, ...]:
    """Every name in the leaf, with its kind in front so that a DNS name never passes for an e-mail address."""
    names = [f"subject:{leaf.subject.rfc4514_string()}"] if leaf.subject else []
    try:
        alternative = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return tuple(names)
    names += [f"email:{value}" for value in alternative.get_values_for_type(x509.RFC822Name)]
    names += [f"uri:{value}" for value in alternative.get_values_for_type(x509.UniformResourceIdentifier)]
    names += [f"dns:{value}" for value in alternative.get_values_for_type(x509.DNSName)]
    return tuple(names)


def _require_signature(bundle: bundles.Bundle, key: ec.EllipticCurvePublicKey, legacy_0_2: bool) -> bool:
    """Step 3. Returns whether the encoding of model-signing 0.2.0 was needed, which the authority must permit."""
    try:
        key.verify(bundle.signature, bundles.pae(bundle.payload), ec.ECDSA(HASH_OF_CURVE[key.curve.name]))
    except InvalidSignature:
        if not legacy_0_2:
            raise SignatureInvalid("the signature is not over these bytes by this key") from None
    else:
        return False
    try:
        # 0.2.0 wrote the wrong version word, the Python repr of the payload, and SHA-256 for every curve.
        kind = bundles.PAYLOAD_TYPE
        encoded = f"DSSEV1 {len(kind)} {kind} {len(bundle.payload)} {bundle.payload!r}".encode()
        key.verify(bundle.signature, encoded, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise SignatureInvalid("the signature is not over these bytes by this key, in either encoding") from None
    return True


def _require_allowed(credential: _Credential, policy: TrustPolicy, entry: Allowed, repository: str) -> SignerIdentity:
    # 5. One of the proven names is allowed.
    for identity in credential.identities:
        if entry.names(identity):
            return SignerIdentity(
                entry.authority, identity, credential.identities, credential.key_ids, credential.signed_at
            )
    raise SignerNotAllowed(
        f"signed by {', '.join(credential.identities) or 'nobody named'}, but for {repository} the trust policy "
        f"(version {policy.version}) allows {', '.join(entry.identities)} of {entry.authority}",
        repository=repository,
        identities=list(credential.identities),
    )


def _require_not_revoked(credential: _Credential, policy: TrustPolicy) -> None:
    # 6. Every name and key of the credential counts, not only the one that was allowed.
    for revoked in policy.revocations.signers:
        if not revoked.names(credential.identities, credential.key_ids):
            continue
        # Only a trusted time can show that the signature is older than the revocation; without one it is not believed.
        if credential.signed_at is None or revoked.since is None or credential.signed_at >= revoked.since:
            raise Revoked(
                f"the signer {revoked.identity or revoked.key_id} is revoked"
                + (f" for signatures from {revoked.since:%Y-%m-%d %H:%M}Z on" if revoked.since else "")
                + (" and nothing proves that this one is older" if revoked.since and not credential.signed_at else "")
                + f" by the trust policy (version {policy.version})"
            )


def _require_same_files(statement: statements.Statement, manifest: manifests.Manifest) -> None:
    # 7. Ours says size and BLAKE3 of every file; a foreign statement cannot stand for a manifest that does.
    signed = {(file.path, file.size, file.sha256, file.blake3) for file in statement.files}
    listed = {(entry.path, entry.size, entry.sha256, entry.blake3) for entry in manifest.files}
    if signed != listed:
        path = min(signed ^ listed, key=lambda item: item[0])[0]
        raise SignatureInvalid(f"the signed statement and the manifest differ at {ascii(path)[:200]}")
