"""The trust policy: who may sign for which repository, and how that is proven (docs/spec/trust-policy.md).

    schema = "modelreg/trust-policy/v1"
    version = 3                             # only ever raised; a lower one than seen before is refused
    expires = 2027-05-01T00:00:00Z

    [authorities.corp-pki]
    method = "certificate"                  # fixed here, never by a bundle
    usage = "codeSigning"                   # what the leaf must be for; or "digitalSignature"
    roots = ['''-----BEGIN CERTIFICATE-----…''']
    timestamps = ["registry-tsa"]           # whose time stamps it believes; none by default
    require_timestamp = false               # true: without one of them nothing verifies

    [authorities.ops]
    method = "key"
    keys = [{name = "ops-2026", pem = '''-----BEGIN PUBLIC KEY-----…''', not_after = 2027-01-01T00:00:00Z}]

    [time_authorities.registry-tsa]         # optional; who may say when a signature was made
    roots = ['''-----BEGIN CERTIFICATE-----…''']
    not_after = 2030-01-01T00:00:00Z        # optional, as not_before: stamps outside are not believed

    [authorities.private-sigstore]
    method = "sigstore"
    issuer = "https://oidc.acme.example"    # exactly this one
    trusted_root = '''{"mediaType": …}'''  # JSON of a Sigstore trusted root

    [[rules]]                               # the first rule that names the repository decides; no rule, no trust
    repositories = ["acme/*"]
    allow = [{authority = "corp-pki", identities = ["email:*@acme.example"]}]

    [[rules]]                               # who may attest what beside artifacts; `attests` makes it such a rule
    repositories = ["acme/*"]
    attests = ["approval", "waiver"]        # provenance, dataset and source-check, unless named, follow the rule above
    allow = [{authority = "corp-pki", identities = ["email:risk@acme.example"]}]

    [log]                                   # optional: the custody log whose receipts every grant must come with
    origin = "registry.acme.example/log"
    keys = ["registry.acme.example/log+…"]  # `modelreg-server log key` prints it; two while a key is rotated
    witnesses = ["witness.example+…"]       # optional, and how many of them must vouch (distinct keys)
    required_witnesses = 0
    max_offline_seconds = 86400             # how old the newest receipt may be when launching without the registry

    [revocations]                           # must be there, may be empty; or `revocations = "distributed"` at the top
    updated_at = 2026-11-23T00:00:00Z
    max_age_seconds = 31536000
    artifacts = []                          # sha256:…
    quarantined = []                        # optional: {artifact = "sha256:…", reason = "…"}
    signers = []                            # {identity = "email:…"} or {key = "sha256:…"}, optional from = time, reason

This module is the value; reading the file and remembering the version is `pinning`'s work.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from modelreg.digests import Digest, sha256_of
from modelreg.errors import Misconfigured, ModelregError, Quarantined, Revoked, StaleTrust
from modelreg.notes import COSIGNATURE, ED25519, VerifierKey, parse_key
from modelreg.references import glob_matches
from modelreg.trusted_root import TrustedRoot, parse_trusted_root

SCHEMA = "modelreg/trust-policy/v1"
MAX_POLICY_BYTES = 1024 * 1024
MAX_CLOCK_SKEW = timedelta(minutes=5)
MAX_REASON_CHARS = 200
DISTRIBUTED = "distributed"
DEFAULT_MAX_OFFLINE = timedelta(days=1)

Usage = Literal["codeSigning", "digitalSignature"]
# What statements can be about beside an artifact's files; `attestations` has their predicate types.
ATTESTABLE = frozenset({"provenance", "dataset", "source-check", "scan", "approval", "waiver", "declassification"})
_PRODUCERS = frozenset({"provenance", "dataset", "source-check"})  # whoever signs artifacts says these of them as well

_TIMES = ("timestamps", "require_timestamp")

# What the library raises for keys and certificates it cannot read; not all of it is a ValueError.
MALFORMED: tuple[type[Exception], ...] = (
    ValueError,
    KeyError,  # a name whose text is of no known type
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.UnsupportedGeneralNameType,
)


@dataclass(frozen=True)
class KeyAuthority:
    """Public keys by name; the signer identity is `key:<name>`. `timestamps` names the time authorities it believes."""

    keys: tuple["PinnedKey", ...]
    legacy_0_2: bool = False
    timestamps: tuple[str, ...] = ()
    require_timestamp: bool = False


@dataclass(frozen=True)
class PinnedKey:
    """One public key. `key_id` is the SHA-256 of its DER form (SubjectPublicKeyInfo)."""

    name: str
    public_key: ec.EllipticCurvePublicKey
    key_id: Digest
    not_after: datetime | None


@dataclass(frozen=True)
class CertificateAuthority:
    """Pinned roots; identities come from the leaf: `email:`, `uri:`, `dns:` (SAN) or `subject:` (RFC 4514)."""

    roots: tuple[x509.Certificate, ...]
    usage: Usage
    legacy_0_2: bool = False
    timestamps: tuple[str, ...] = ()
    require_timestamp: bool = False


@dataclass(frozen=True)
class SigstoreAuthority:
    """A Sigstore, pinned by its trusted root; identities are those its Fulcio certifies for `issuer`, and only for it."""

    trusted_root: TrustedRoot
    issuer: str


Authority = KeyAuthority | CertificateAuthority | SigstoreAuthority


@dataclass(frozen=True)
class TimeAuthority:
    """Pinned roots of a time-stamping authority, believed from `not_before` and before `not_after`."""

    roots: tuple[x509.Certificate, ...]
    not_before: datetime | None = None
    not_after: datetime | None = None

    def believed_at(self, at: datetime) -> bool:
        """Whether stamps of this time are believed."""
        return (self.not_before is None or at >= self.not_before) and (self.not_after is None or at < self.not_after)


@dataclass(frozen=True)
class Allowed:
    """One way to be trusted: this authority says who it is, and one of these patterns names them."""

    authority: str
    identities: tuple[str, ...]

    def names(self, identity: str) -> bool:
        """Whether a pattern matches; an empty list matches nobody."""
        return any(glob_matches(pattern, identity) for pattern in self.identities)


@dataclass(frozen=True)
class Rule:
    """Repositories by anchored glob, and who may sign for them: artifacts, or with `attests` statements of those kinds."""

    repositories: tuple[str, ...]
    allow: tuple[Allowed, ...]
    attests: frozenset[str] = frozenset()

    def names(self, repository: str) -> bool:
        """Whether a pattern matches."""
        return any(glob_matches(pattern, repository) for pattern in self.repositories)


@dataclass(frozen=True)
class RevokedSigner:
    """An identity, key or certificate that is not believed for signatures made at `since` or later (None: ever)."""

    identity: str | None
    key_id: Digest | None
    since: datetime | None
    reason: str = ""

    def names(self, identities: Sequence[str], key_ids: Sequence[Digest]) -> bool:
        """Whether this is about one of these; an identity is a glob here as it is in a rule."""
        if self.identity is None:
            return self.key_id in key_ids
        return any(glob_matches(self.identity, identity) for identity in identities)


@dataclass(frozen=True)
class Revocations:
    """The list of what is distrusted, with the age after which the list itself is.

    `quarantined` holds a reason for each artifact. What stands in `artifacts` as well is revoked.
    """

    updated_at: datetime
    max_age: timedelta
    artifacts: frozenset[Digest]
    signers: tuple[RevokedSigner, ...]
    quarantined: Mapping[Digest, str] = field(default_factory=dict)


@dataclass(frozen=True)
class LogTrust:
    """The pinned custody log: its name and keys, and the witnesses of which `required_witnesses` must vouch."""

    origin: str
    keys: tuple[VerifierKey, ...]
    witnesses: tuple[VerifierKey, ...] = ()
    required_witnesses: int = 0
    max_offline: timedelta = DEFAULT_MAX_OFFLINE


# The list of a policy that takes it from the registry, until it is given one: older than any age, so nothing verifies.
NOT_GIVEN = Revocations(datetime.min.replace(tzinfo=UTC), timedelta(0), frozenset(), ())


@dataclass(frozen=True)
class TrustPolicy:
    """A parsed policy. `digest` is the SHA-256 of its bytes."""

    version: int
    expires: datetime
    authorities: Mapping[str, Authority]
    rules: tuple[Rule, ...]
    revocations: Revocations
    digest: Digest
    time_authorities: Mapping[str, TimeAuthority] = field(default_factory=dict)
    distributed: bool = False
    log: LogTrust | None = None

    def with_revocations(self, given: Revocations) -> "TrustPolicy":
        """This policy with the distributed list it asks for.

        Raises:
            Misconfigured: it has a list of its own, which the distributed one would silently replace.
        """
        if not self.distributed:
            raise Misconfigured(
                "the trust policy has a [revocations] table of its own, and a revocation list is distributed as well; "
                f'write `revocations = "{DISTRIBUTED}"` in the policy'
            )
        return replace(self, revocations=given)

    def refusal(self, artifact: Digest) -> ModelregError | None:
        """Why an artifact must not be used, whoever signed it: `Revoked`, `Quarantined`, or None."""
        by = f"by the trust policy (version {self.version})"
        if artifact in self.revocations.artifacts:
            return Revoked(f"the artifact {artifact} is revoked {by}", artifact=str(artifact))
        reason = self.revocations.quarantined.get(artifact)
        if reason is not None:
            return Quarantined(
                f"the artifact {artifact} is quarantined {by}: {reason}", artifact=str(artifact), reason=reason
            )
        return None

    def allowed_for(self, repository: str) -> tuple[Allowed, ...]:
        """Who may sign artifacts of a repository by the first rule that names it; nobody when none does."""
        return next((rule.allow for rule in self.rules if not rule.attests and rule.names(repository)), ())

    def allowed_to_attest(self, kind: str, repository: str) -> tuple[Allowed, ...]:
        """Who may make statements of a kind (`ATTESTABLE`) by the first rule that names it and the repository.

        Without one, whoever signs the artifacts may say where they come from; to approve, waive, declassify or scan takes
        a rule.
        """
        for rule in self.rules:
            if kind in rule.attests and rule.names(repository):
                return rule.allow
        return self.allowed_for(repository) if kind in _PRODUCERS else ()

    def require_fresh(self, now: datetime) -> None:
        """Refuse a policy that has expired and a revocation list that is too old or from the future.

        Raises:
            StaleTrust: which of the two, and since when.
        """
        if now >= self.expires:
            raise StaleTrust(
                f"the trust policy expired at {self.expires:%Y-%m-%d %H:%M}Z; fetch or write a newer version"
            )
        if self.revocations is NOT_GIVEN:
            raise StaleTrust(
                "the trust policy takes its revocation list from the registry, and there is none here; pin the registry's "
                "trust root with `modelreg trust pin`, or have the list published"
            )
        oldest = now - self.revocations.max_age
        if self.revocations.updated_at < oldest:
            raise StaleTrust(
                f"the revocation list is from {self.revocations.updated_at:%Y-%m-%d %H:%M}Z and may be at most "
                f"{int(self.revocations.max_age.total_seconds())} seconds old; fetch a newer trust policy"
            )
        if self.revocations.updated_at > now + MAX_CLOCK_SKEW:
            raise StaleTrust("the revocation list is dated in the future; check this machine's clock")


def parse(raw: bytes) -> TrustPolicy:
    """Read a trust policy (TOML). The bytes come from the operator, but a wrong one must not be half understood.

    Raises:
        Misconfigured: any unknown, missing or malformed member, an empty list that would match nothing or everything.
    """
    if len(raw) > MAX_POLICY_BYTES:
        raise Misconfigured(f"the trust policy has {len(raw)} bytes; the limit is {MAX_POLICY_BYTES}")
    try:
        document = tomllib.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise Misconfigured(f"the trust policy is not TOML: {error}") from None
    members = _table(
        document,
        "trust policy",
        *("schema", "version", "expires", "authorities", "rules", "revocations"),
        optional=("time_authorities", "log"),
    )
    if members["schema"] != SCHEMA:
        raise Misconfigured(f"the trust policy's schema is {members['schema']!r}, not {SCHEMA!r}")
    version = members["version"]
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise Misconfigured(f"the trust policy's version is {version!r}, not a whole number from 1")
    time_authorities = {
        name: _time_authority(table, f"time_authorities.{name}")
        for name, table in _table(members.get("time_authorities", {}), "time_authorities").items()
    }
    authorities = {
        name: _authority(table, f"authorities.{name}")
        for name, table in _table(members["authorities"], "authorities").items()
    }
    for name, authority in authorities.items():
        for believed in () if isinstance(authority, SigstoreAuthority) else authority.timestamps:
            if believed not in time_authorities:
                raise Misconfigured(
                    f"authorities.{name}.timestamps names the time authority {believed!r}, which is not defined"
                )
    rules = tuple(_rule(item, f"rules[{at}]", authorities) for at, item in enumerate(_list(members["rules"], "rules")))
    distributed = members["revocations"] == DISTRIBUTED
    return TrustPolicy(
        version=version,
        expires=_time(members["expires"], "expires"),
        authorities=authorities,
        rules=rules,
        revocations=NOT_GIVEN if distributed else read_revocations(members["revocations"]),
        digest=sha256_of(raw),
        time_authorities=time_authorities,
        distributed=distributed,
        log=_log(members["log"]) if "log" in members else None,
    )


def _log(untrusted: Any) -> LogTrust:
    optional = ("witnesses", "required_witnesses", "max_offline_seconds")
    members = _table(untrusted, "log", "origin", "keys", optional=optional)
    origin = _text(members["origin"], "log.origin")
    keys = tuple(parse_key(key, "log.keys", ED25519) for key in _texts(members["keys"], "log.keys"))
    if any(key.name != origin for key in keys):
        raise Misconfigured(f"log.keys holds a key that is not named after the log, {ascii(origin)[:200]}")
    names = _texts(members["witnesses"], "log.witnesses") if "witnesses" in members else ()
    witnesses = tuple(parse_key(key, "log.witnesses", COSIGNATURE) for key in names)
    if {witness.raw for witness in witnesses} & {key.raw for key in keys}:
        raise Misconfigured("log.witnesses holds the log's own key; a log cannot witness itself")
    required, seconds = members.get("required_witnesses", 0), members.get("max_offline_seconds", 86400)
    for name, value in (("required_witnesses", required), ("max_offline_seconds", seconds)):
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 366 * 86400:
            raise Misconfigured(f"log.{name} is {value!r}, not a number from 0")
    if required > (count := len({witness.raw for witness in witnesses})):
        raise Misconfigured(f"log.required_witnesses is {required}, and {count} distinct keys are listed")
    return LogTrust(origin, keys, witnesses, required, timedelta(seconds=seconds))


def _authority(untrusted: Any, where: str) -> Authority:
    if not isinstance(untrusted, dict):
        raise Misconfigured(f"{where} is not a table")
    method = untrusted.get("method")
    if method == "key":
        members = _table(untrusted, where, "method", "keys", optional=("legacy_oms_0_2", *_TIMES))
        keys = tuple(
            _key(item, f"{where}.keys[{at}]") for at, item in enumerate(_list(members["keys"], f"{where}.keys"))
        )
        # A name is an identity: two keys under one name, or one key under two, would let the order of lines decide.
        if len({key.name for key in keys}) < len(keys) or len({key.key_id for key in keys}) < len(keys):
            raise Misconfigured(f"{where}.keys names a key twice")
        return KeyAuthority(keys, _flag(members, where), *_believed_times(members, where))
    if method == "certificate":
        members = _table(untrusted, where, "method", "roots", "usage", optional=("legacy_oms_0_2", *_TIMES))
        if members["usage"] not in ("codeSigning", "digitalSignature"):
            raise Misconfigured(f"{where}.usage is {members['usage']!r}; write codeSigning or digitalSignature")
        roots = tuple(_certificate(pem, f"{where}.roots") for pem in _list(members["roots"], f"{where}.roots"))
        return CertificateAuthority(roots, members["usage"], _flag(members, where), *_believed_times(members, where))
    if method == "sigstore":
        members = _table(untrusted, where, "method", "trusted_root", "issuer")
        issuer = _text(members["issuer"], f"{where}.issuer")
        if not issuer.startswith(("https://", "http://")) or not issuer.isascii() or not issuer.isprintable():
            raise Misconfigured(f"{where}.issuer is {issuer!r}; write the issuer's URL as it stands in its tokens")
        trusted_root = _text(members["trusted_root"], f"{where}.trusted_root")
        return SigstoreAuthority(parse_trusted_root(trusted_root, f"{where}.trusted_root"), issuer)
    raise Misconfigured(f"{where}.method is {method!r}; this version knows key, certificate and sigstore")


def _time_authority(untrusted: Any, where: str) -> TimeAuthority:
    members = _table(untrusted, where, "roots", optional=("not_before", "not_after"))
    roots = tuple(_certificate(pem, f"{where}.roots") for pem in _list(members["roots"], f"{where}.roots"))
    start, end = (
        _time(members[name], f"{where}.{name}") if name in members else None for name in ("not_before", "not_after")
    )
    if start is not None and end is not None and start >= end:
        raise Misconfigured(f"{where} ends before it begins; nothing would be believed")
    return TimeAuthority(roots, start, end)


def _believed_times(members: dict[str, Any], where: str) -> tuple[tuple[str, ...], bool]:
    names = _texts(members["timestamps"], f"{where}.timestamps") if "timestamps" in members else ()
    required = _flag(members, where, "require_timestamp")
    if required and not names:
        raise Misconfigured(
            f"{where} requires a time stamp and believes nobody's; name time authorities in `timestamps`"
        )
    return names, required


def _key(untrusted: Any, where: str) -> PinnedKey:
    members = _table(untrusted, where, "name", "pem", optional=("not_after",))
    try:
        key = serialization.load_pem_public_key(_text(members["pem"], f"{where}.pem").encode())
    except MALFORMED as error:
        raise Misconfigured(f"{where}.pem is not a public key in PEM form: {error}") from None
    not_after = _time(members["not_after"], f"{where}.not_after") if "not_after" in members else None
    return PinnedKey(_text(members["name"], f"{where}.name"), require_curve(key, where), key_id_of(key), not_after)


def require_curve(key: object, where: str) -> ec.EllipticCurvePublicKey:
    """Return the key if it is ECDSA on P-256, P-384 or P-521, the curves OMS v1.0 names.

    Raises:
        Misconfigured: any other key.
    """
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in {"secp256r1", "secp384r1", "secp521r1"}:
        return key
    raise Misconfigured(f"{where}: only ECDSA keys on P-256, P-384 and P-521 sign artifacts")


def key_id_of(key: Any) -> Digest:
    """SHA-256 of a public key's DER form (SubjectPublicKeyInfo): one key has one id, however its text is wrapped."""
    return sha256_of(key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo))


def _certificate(pem: Any, where: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(_text(pem, where).encode())
    except MALFORMED as error:
        raise Misconfigured(f"{where} holds no certificate in PEM form: {error}") from None


def _rule(untrusted: Any, where: str, authorities: Mapping[str, Authority]) -> Rule:
    members = _table(untrusted, where, "repositories", "allow", optional=("attests",))
    attests = frozenset(_texts(members["attests"], f"{where}.attests")) if "attests" in members else frozenset()
    if unknown := attests - ATTESTABLE:
        raise Misconfigured(f"{where}.attests names {min(unknown)!r}; known are {', '.join(sorted(ATTESTABLE))}")
    allow = []
    for at, item in enumerate(_list(members["allow"], f"{where}.allow")):
        entry = _table(item, f"{where}.allow[{at}]", "authority", "identities")
        authority = _text(entry["authority"], f"{where}.allow[{at}].authority")
        if authority not in authorities:
            raise Misconfigured(f"{where}.allow[{at}] names the authority {authority!r}, which is not defined")
        allow.append(Allowed(authority, _texts(entry["identities"], f"{where}.allow[{at}].identities")))
    return Rule(_texts(members["repositories"], f"{where}.repositories"), tuple(allow), attests)


def read_revocations(untrusted: Any) -> Revocations:
    """Read the members of a revocation list, in a policy or in a list of its own (`revocations`).

    Raises:
        Misconfigured: any unknown, missing or malformed member.
    """
    members = _table(
        untrusted,
        "revocations",
        *("updated_at", "max_age_seconds"),
        optional=("artifacts", "signers", "quarantined"),
    )
    seconds = members["max_age_seconds"]
    if not isinstance(seconds, int) or isinstance(seconds, bool) or not 0 < seconds <= 10 * 366 * 86400:
        raise Misconfigured(f"revocations.max_age_seconds is {seconds!r}, not a number of seconds up to ten years")
    signers = [_revoked_signer(item, at) for at, item in enumerate(_maybe_list(members, "signers"))]
    return Revocations(
        updated_at=_time(members["updated_at"], "revocations.updated_at"),
        max_age=timedelta(seconds=seconds),
        artifacts=frozenset(_digest(item, "revocations.artifacts") for item in _maybe_list(members, "artifacts")),
        signers=tuple(signers),
        quarantined=_quarantined(_maybe_list(members, "quarantined")),
    )


def _quarantined(untrusted: list[Any]) -> dict[Digest, str]:
    found: dict[Digest, str] = {}
    for at, item in enumerate(untrusted):
        where = f"revocations.quarantined[{at}]"
        members = _table(item, where, "artifact", "reason")
        artifact = _digest(members["artifact"], f"{where}.artifact")
        if artifact in found:
            raise Misconfigured(f"{where} names {artifact} a second time")
        found[artifact] = _reason(members["reason"], where)
    return found


def _revoked_signer(untrusted: Any, at: int) -> RevokedSigner:
    where = f"revocations.signers[{at}]"
    members = _table(untrusted, where, optional=("identity", "key", "from", "reason"))
    if ("identity" in members) == ("key" in members):
        raise Misconfigured(f"{where} names an identity or a key (the sha256 of a key or certificate), one of them")
    return RevokedSigner(
        identity=_text(members["identity"], f"{where}.identity") if "identity" in members else None,
        key_id=_digest(members["key"], f"{where}.key") if "key" in members else None,
        since=_time(members["from"], f"{where}.from") if "from" in members else None,
        reason=_reason(members["reason"], where) if "reason" in members else "",
    )


def _reason(untrusted: Any, where: str) -> str:
    reason = _text(untrusted, f"{where}.reason")
    if len(reason) > MAX_REASON_CHARS or not reason.isprintable():
        raise Misconfigured(f"{where}.reason is not one line of at most {MAX_REASON_CHARS} characters")
    return reason


def _table(untrusted: Any, where: str, *required: str, optional: tuple[str, ...] = ()) -> dict[str, Any]:
    """The members of a table; with names given, exactly those. An unknown word is refused, not skipped."""
    if not isinstance(untrusted, dict):
        raise Misconfigured(f"{where} is not a table")
    if missing := [name for name in required if name not in untrusted]:
        raise Misconfigured(f"{where} lacks {', '.join(missing)}")
    if (required or optional) and (unknown := untrusted.keys() - {*required, *optional}):
        raise Misconfigured(f"{where} has the unknown member {', '.join(sorted(unknown))}")
    return untrusted


def _list(untrusted: Any, where: str) -> list[Any]:
    # Vacuous truth is never what the author meant: every list that grants trust has something in it.
    if not isinstance(untrusted, list) or not untrusted:
        raise Misconfigured(f"{where} is not a list with at least one entry")
    return untrusted


def _maybe_list(members: dict[str, Any], name: str) -> list[Any]:
    value = members.get(name, [])
    if not isinstance(value, list):
        raise Misconfigured(f"revocations.{name} is not a list")
    return value


def _texts(untrusted: Any, where: str) -> tuple[str, ...]:
    return tuple(_text(item, where) for item in _list(untrusted, where))


def _text(untrusted: Any, where: str) -> str:
    if not isinstance(untrusted, str) or not untrusted:
        raise Misconfigured(f"{where} is not a text")
    return untrusted


def _flag(members: dict[str, Any], where: str, name: str = "legacy_oms_0_2") -> bool:
    value = members.get(name, False)
    if not isinstance(value, bool):
        raise Misconfigured(f"{where}.{name} is not true or false")
    return value


def _time(untrusted: Any, where: str) -> datetime:
    if not isinstance(untrusted, datetime) or untrusted.tzinfo is None:
        raise Misconfigured(f"{where} is not a time with an offset, such as 2027-05-01T00:00:00Z")
    try:
        return untrusted.astimezone(UTC)
    except OverflowError:
        raise Misconfigured(f"{where} is outside the years 1 to 9999 in UTC") from None


def _digest(untrusted: Any, where: str) -> Digest:
    try:
        digest = Digest.parse(_text(untrusted, where))
    except ModelregError as error:
        raise Misconfigured(f"{where}: {error.detail}") from None
    if digest.algorithm != "sha256":
        raise Misconfigured(f"{where}: artifacts, keys and certificates have a sha256; {digest} would match nothing")
    return digest
