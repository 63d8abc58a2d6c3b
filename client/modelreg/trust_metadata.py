"""TUF metadata as modelreg uses it: names, limits, and what is refused beyond TUF's own rules.

Both sides use this: the registry before it serves, the client before it believes. python-tuf counts signatures by key
*id*; here a root that lists one public key under two ids is refused, so that a threshold is always of distinct keys.
(docs/spec/trust-distribution.md)
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, cast

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from securesystemslib.exceptions import Error as SecuresystemslibError
from securesystemslib.signer import Key
from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    RepositoryError,
)
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from modelreg import revocations, trust
from modelreg.errors import SignatureInvalid, StaleTrust, Unreachable

POLICY, REVOCATIONS = "trust.toml", "revocations.toml"
TARGETS = (POLICY, REVOCATIONS)
METADATA_NAME = r"(?:timestamp|[1-9][0-9]{0,8}\.(?:root|snapshot|targets))\.json"
TARGET_NAME = r"[0-9a-f]{64}\.(?:trust|revocations)\.toml"
MAX_METADATA_BYTES: Mapping[str, int] = {
    "root": 128 * 1024,
    "timestamp": 16 * 1024,
    "snapshot": 64 * 1024,
    "targets": 128 * 1024,
}
MAX_TARGET_BYTES = max(trust.MAX_POLICY_BYTES, revocations.MAX_LIST_BYTES)
MAX_ROOT_ROTATIONS = 256  # in one refresh
MAX_KEYS = 64
MAX_VERSION = 999_999_999  # what a name has room for

Kind = type[Root] | type[Timestamp] | type[Snapshot] | type[Targets]


@contextmanager
def told(where: str) -> Iterator[None]:
    """Turn what python-tuf and the libraries below it raise into our errors; `where` begins the sentence.

    Raises:
        StaleTrust: expired, or an older version than was seen.
        SignatureInvalid: signatures, digests, length or form do not hold.
        Unreachable: it was not delivered.
    """
    try:
        yield
    except ExpiredMetadataError as error:
        raise StaleTrust(f"{where}: {_plain(error)}; the operator must refresh it (`modelreg trust repo`)") from None
    except BadVersionNumberError as error:
        raise StaleTrust(f"{where}: an older or skipped version is offered: {_plain(error)}") from None
    except DownloadLengthMismatchError as error:
        raise SignatureInvalid(f"{where}: more bytes than such a file may have: {_plain(error)}") from None
    except DownloadError as error:
        raise Unreachable(f"{where}: {_plain(error)}") from None
    except RepositoryError as error:
        raise SignatureInvalid(f"{where}: {_plain(error)}") from None
    except (SecuresystemslibError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise SignatureInvalid(f"{where}: malformed metadata ({type(error).__name__}: {_plain(error)})") from None


def matches(pattern: str, untrusted_name: str) -> bool:
    """Whether a name is of this grammar (`METADATA_NAME`, `TARGET_NAME`) from end to end."""
    return re.fullmatch(pattern, untrusted_name, re.ASCII) is not None


def _plain(error: Exception) -> str:
    return ascii(str(error))[1:-1][:300]


def parse(raw: bytes, kind: Kind) -> Metadata[Any]:
    """Read untrusted metadata of one role; its signatures are not looked at.

    Raises:
        SignatureInvalid: too long, not of that role, an unbelievable version, delegations; for a root see `check_root`.
    """
    role = kind.type
    if len(raw) > MAX_METADATA_BYTES[role]:
        raise SignatureInvalid(f"{role} metadata has {len(raw)} bytes; the limit is {MAX_METADATA_BYTES[role]}")
    with told(f"the {role} metadata"):
        metadata: Metadata[Any] = Metadata.from_bytes(raw)
        if not isinstance(metadata.signed, kind):
            raise RepositoryError(f"it is of the role {metadata.signed.type}")
        if metadata.signed.version > MAX_VERSION:
            raise RepositoryError(f"version {metadata.signed.version} is above {MAX_VERSION}")
        if isinstance(metadata.signed, Targets) and metadata.signed.delegations is not None:
            raise RepositoryError("it delegates, which this repository does not do")
        if isinstance(metadata.signed, Root):
            check_root(metadata.signed)
    return metadata


def check_root(root: Root) -> None:
    """Refuse a root whose thresholds do not count distinct keys.

    Raises:
        SignatureInvalid: one public key under two ids, a key type other than Ed25519 and ECDSA, a threshold that its
            role's keys cannot meet, no consistent snapshots.
    """
    if not root.consistent_snapshot:
        raise SignatureInvalid("the root metadata does not ask for consistent snapshots")
    if len(root.keys) > MAX_KEYS:
        raise SignatureInvalid(f"the root metadata lists {len(root.keys)} keys; the limit is {MAX_KEYS}")
    ids: dict[bytes, str] = {}
    for key_id, key in root.keys.items():
        other = ids.setdefault(public_der(key), key_id)
        if other != key_id:
            raise SignatureInvalid(
                f"the root metadata lists one public key under two ids, {ascii(other)[:80]} and {ascii(key_id)[:80]}; "
                "it would count twice"
            )
    for name, role in root.roles.items():
        if not 1 <= role.threshold <= len(set(role.keyids) & root.keys.keys()):
            raise SignatureInvalid(f"the root metadata wants {role.threshold} signatures of {name} from fewer keys")


def public_der(key: Key) -> bytes:
    """A public key's one DER form, however its text is written.

    Raises:
        SignatureInvalid: not an Ed25519 or ECDSA key.
    """
    try:
        text = key.keyval["public"]
        public: Any
        if key.keytype == "ed25519":
            public = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(text))
        elif key.keytype == "ecdsa" and isinstance(text, str):
            public = serialization.load_pem_public_key(text.encode())
            if not isinstance(public, ec.EllipticCurvePublicKey):
                raise TypeError("not ECDSA")
        else:
            raise TypeError(f"key type {key.keytype}")
    except (KeyError, TypeError, ValueError, UnsupportedAlgorithm) as error:
        raise SignatureInvalid(f"the root metadata holds a key that cannot be used: {_plain(error)}") from None
    return cast(
        "bytes", public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


def require_signed(metadata: Metadata[Any], root: Metadata[Root], now: datetime | None = None) -> None:
    """Require the threshold of signatures that `root` sets for this role, and with `now` that it has not expired.

    Raises:
        SignatureInvalid: too few.
        StaleTrust: expired.
    """
    role = metadata.signed.type
    with told(f"the {role} metadata, version {metadata.signed.version}"):
        root.signed.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
        if now is not None and metadata.signed.is_expired(now):
            raise ExpiredMetadataError(f"it expired at {metadata.signed.expires:%Y-%m-%d %H:%M}Z")


def require_successor(new: Metadata[Root], old: Metadata[Root]) -> None:
    """Require that a root follows directly from another: the next version, signed by both thresholds.

    Raises:
        SignatureInvalid, StaleTrust: it does not.
    """
    with told(f"the root metadata, version {new.signed.version}"):
        if new.signed.version != old.signed.version + 1:
            raise BadVersionNumberError(f"version {old.signed.version + 1} comes next")
    require_signed(new, old)
    require_signed(new, new)


def parse_pinned_root(raw: bytes) -> Metadata[Root]:
    """Read a root that somebody is about to pin, or has pinned: it must at least satisfy itself.

    Raises:
        SignatureInvalid: it does not.
    """
    root = parse(raw, Root)
    require_signed(root, root)
    return root


def read_pair(files: Mapping[str, bytes]) -> trust.TrustPolicy | None:
    """The policy among distributed files, with the revocation list beside it; None where there is no policy.

    Raises:
        Misconfigured: one does not parse, or the policy has a list of its own and another is there.
    """
    listed = revocations.parse(files[REVOCATIONS]) if REVOCATIONS in files else None
    if POLICY not in files:
        return None
    policy = trust.parse(files[POLICY])
    return policy if listed is None else policy.with_revocations(listed.revocations)


def version_of(name: str, raw: bytes) -> int:
    """The version a distributed file states of itself; raises as `read_pair`."""
    return trust.parse(raw).version if name == POLICY else revocations.parse(raw).version
