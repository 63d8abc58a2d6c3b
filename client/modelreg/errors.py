"""Every error modelreg raises on purpose.

    ModelregError                       exit  1
     ├─ Untrusted                             do not use these bytes
     │   ├─ SignatureMissing                 10
     │   ├─ SignerNotAllowed                 12
     │   ├─ SignatureInvalid                 13   signature, certificate, statement
     │   ├─ StaleTrust                       14   trust policy, revocation list
     │   ├─ ManifestInvalid                  20
     │   ├─ DigestMismatch                   20
     │   ├─ BlobMissing                      20   the store lost bytes that were acknowledged
     │   └─ LogNotIntact                     32   a checkpoint, receipt or proof of the custody log
     │       ├─ LogRolledBack                32
     │       ├─ LogForked                    32
     │       ├─ LogUnwitnessed               32
     │       ├─ ReceiptMissing               32
     │       └─ ReceiptMismatch              32
     ├─ Refused                               the bytes may be fine, the answer is no
     │   ├─ Quarantined                      21
     │   ├─ Revoked                          21
     │   ├─ PolicyRefused                    22
     │   ├─ Unauthenticated                  30
     │   │   └─ TokenRefused                 30   an issuer's token, with its reason
     │   └─ Forbidden                        30
     ├─ NotFound                             11
     ├─ Conflict                              1
     ├─ Invalid                               2   what the caller typed or sent
     ├─ TooLarge                              2
     ├─ Unreachable                          31
     │   └─ StorageUnavailable               31
     ├─ RecordUnavailable                    32   the custody log cannot be written
     └─ Misconfigured                         1

On the wire an error is RFC 9457 problem details whose `type` is `urn:modelreg:problem:<code>`; `wire` maps both ways.
Facts are JSON values that say what, where and which; the message (`detail`) is a sentence for people, ending in what to
do next where there is something to do.
"""

from typing import Any, ClassVar


class ModelregError(Exception):
    """Base of the tree. `facts` are JSON values; they travel in the problem body beside the message."""

    code: ClassVar[str] = "error"
    title: ClassVar[str] = "The operation failed"
    exit_code: ClassVar[int] = 1
    status: ClassVar[int] = 500

    def __init__(self, detail: str, /, **facts: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.facts = facts

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.detail, self.facts)


def _rebuild(kind: type[ModelregError], detail: str, facts: dict[str, Any]) -> ModelregError:
    return kind(detail, **facts)


class Untrusted(ModelregError):
    """What was received must not be used."""

    code = "untrusted"
    title = "The data cannot be trusted"
    exit_code = 13
    status = 422


class SignatureMissing(Untrusted):
    """There is no signature where the trust policy demands one."""

    code = "signature-missing"
    title = "No signature"
    exit_code = 10


class SignerNotAllowed(Untrusted):
    """The signature is good, but no rule of the trust policy allows this signer for this repository."""

    code = "signer-not-allowed"
    title = "The signer is not allowed"
    exit_code = 12


class SignatureInvalid(Untrusted):
    """The bundle, its signature, certificate chain or statement does not hold."""

    code = "signature-invalid"
    title = "The signature does not hold"


class StaleTrust(Untrusted):
    """The trust policy or its revocation list is too old, or older than one this machine has already seen."""

    code = "trust-stale"
    title = "Trust data is stale"
    exit_code = 14


class ManifestInvalid(Untrusted):
    """Bytes that are not a canonical manifest v1."""

    code = "manifest-invalid"
    title = "The manifest is not valid"
    exit_code = 20


class DigestMismatch(Untrusted):
    """Bytes differ from the digest they were promised under. Facts: `path`, `expected`, `measured`, maybe `chunk`."""

    code = "digest-mismatch"
    title = "The bytes are not what the manifest says"
    exit_code = 20


class BlobMissing(Untrusted):
    """Permanent: the store has no bytes, or too few, under the key the database names."""

    code = "blob-missing"
    title = "The blob store lost a blob"
    exit_code = 20
    status = 502


class LogNotIntact(Untrusted):
    """A checkpoint, receipt or proof of the custody log does not hold, or the log's own record contradicts itself."""

    code = "log-not-intact"
    title = "The custody log is not intact"
    exit_code = 32
    status = 503


class LogRolledBack(LogNotIntact):
    """The log is shorter than it was when this machine looked before."""

    code = "log-rolled-back"
    title = "The custody log was rolled back"


class LogForked(LogNotIntact):
    """The log does not continue the one this machine has seen: entries were changed, removed or put in between."""

    code = "log-forked"
    title = "The custody log was forked"


class LogUnwitnessed(LogNotIntact):
    """Fewer witnesses vouch for the checkpoint than the trust policy demands."""

    code = "log-unwitnessed"
    title = "Too few witnesses"


class ReceiptMissing(LogNotIntact):
    """The trust policy pins a custody log, and there is no receipt of it."""

    code = "receipt-missing"
    title = "No receipt"


class ReceiptMismatch(LogNotIntact):
    """The receipt is genuine, and about something else than was asked for. Facts: `member`, `expected`, `found`."""

    code = "receipt-mismatch"
    title = "The receipt is for something else"


class Refused(ModelregError):
    """Understood, and the answer is no."""

    code = "refused"
    title = "Refused"
    exit_code = 22
    status = 403


class Quarantined(Refused):
    """The artifact is temporarily not served."""

    code = "quarantined"
    title = "The artifact is quarantined"
    exit_code = 21


class Revoked(Refused):
    """The artifact, its signer, key or certificate is permanently distrusted."""

    code = "revoked"
    title = "Revoked"
    exit_code = 21


class PolicyRefused(Refused):
    """A policy decided against the operation; facts carry every reason."""

    code = "policy-refused"
    title = "The policy refused"


class Unauthenticated(Refused):
    """No credential, or one that is malformed, unknown, expired or revoked (deliberately not told apart)."""

    code = "unauthenticated"
    title = "Not authenticated"
    exit_code = 30
    status = 401


class TokenRefused(Unauthenticated):
    """The registry does not exchange this issuer's token. Fact: `reason`, one word of `TOKEN_REASONS`.

    Whoever asks holds the token and can read it, so saying what is wrong with it gives nothing away.
    """

    code = "token-refused"
    title = "The token is refused"


TOKEN_REASONS = frozenset(
    {
        "malformed",  # not a signed JWT within its limits, or a claim of a wrong type
        "issuer",  # no configured issuer, or not the one asked for
        "algorithm",  # not one that the registry's configuration lists for this issuer
        "header",  # a header member that could steer the verification: jwk, jku, x5u, crit …
        "unknown-key",  # the issuer publishes no key under this id
        "signature",
        "audience",  # not exactly the one audience
        "missing-claim",
        "lifetime",  # valid for longer than the registry accepts
        "not-yet-valid",
        "expired",
        "no-rule",  # nobody said that the holder of these claims may come in
        "principal",  # a rule admits it, but its claims make no name
        "replayed",  # exchanged before
    }
)


class Forbidden(Refused):
    """The principal may know that the thing exists, but may not do this to it."""

    code = "forbidden"
    title = "Not allowed"
    exit_code = 30


class NotFound(ModelregError):
    """Absent, or hidden from this principal: the two answer alike."""

    code = "not-found"
    title = "Not found"
    exit_code = 11
    status = 404


class Conflict(ModelregError):
    """The present state forbids the change."""

    code = "conflict"
    title = "Conflict"
    status = 409


class Invalid(ModelregError):
    """What the caller typed or sent is malformed. Facts: `field`, `value` (at most 200 characters)."""

    code = "invalid"
    title = "Malformed input"
    exit_code = 2
    status = 422


class TooLarge(ModelregError):
    """A named limit is exceeded. Facts: `limit`, `value`."""

    code = "too-large"
    title = "Too large"
    exit_code = 2
    status = 413


class Unreachable(ModelregError):
    """The registry or its storage did not answer usefully; trying again later may help."""

    code = "unreachable"
    title = "Not reachable"
    exit_code = 31
    status = 503


class StorageUnavailable(Unreachable):
    """The blob store did not answer, or answered with a fault that may pass. Trying again is safe."""

    code = "storage-unavailable"
    title = "The blob store is unavailable"


class RecordUnavailable(ModelregError):
    """The custody log cannot be written or is not intact; nothing is served without it."""

    code = "record-unavailable"
    title = "The custody log is unavailable"
    exit_code = 32
    status = 503


class Misconfigured(ModelregError):
    """A setting, file or installation on this machine is wrong. Facts: `setting` or `path`."""

    code = "misconfigured"
    title = "Misconfigured"


def all_errors() -> tuple[type[ModelregError], ...]:
    """Every class of the tree above, parents before children; what other modules derive keeps to itself."""
    found: list[type[ModelregError]] = []
    todo: list[type[ModelregError]] = [ModelregError]
    while todo:
        kind = todo.pop(0)
        if kind.__module__ == __name__:
            found.append(kind)
            todo.extend(kind.__subclasses__())
    return tuple(found)
