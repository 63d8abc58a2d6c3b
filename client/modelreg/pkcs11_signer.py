"""A signing key in a PKCS#11 token (HSM, smart card, SoftHSM), behind the port `signing.DigestSigner`.

    key = open_key(key_uris.parse("pkcs11:token=…;object=…?module-path=…"), pin)
    raw_bundle = signing.sign(payload, signing.KeySigner(key))

Needs the extra `pkcs11`; imported when a key is opened. The PIN is tried once and never again, because tokens lock after
a few wrong ones. No message holds it: of a failed call only the name of its error is told.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from modelreg.errors import Misconfigured, NotFound, SignatureInvalid
from modelreg.key_uris import Pkcs11Uri

if TYPE_CHECKING:
    import pkcs11

MAX_PIN_BYTES = 255
MAX_OBJECTS = 64  # under one name; more is a mistake, and each is asked for its attributes

# CKA_EC_PARAMS: the curve's object identifier in DER.
_CURVES: dict[bytes, ec.EllipticCurve] = {
    bytes.fromhex("06082a8648ce3d030107"): ec.SECP256R1(),
    bytes.fromhex("06052b81040022"): ec.SECP384R1(),
    bytes.fromhex("06052b81040023"): ec.SECP521R1(),
}


@dataclass(frozen=True, eq=False)
class Pkcs11Key:
    """A private key in a token, with the session that may use it; ends with the process, or with `close`."""

    public_key: ec.EllipticCurvePublicKey
    _key: Any = field(repr=False)
    _session: "pkcs11.Session" = field(repr=False)
    _pin_for_each: str | None = field(repr=False)

    def sign_digest(self, digest: bytes) -> bytes:
        """Sign with CKM_ECDSA, which takes the digest as it is; the token's r and s become DER."""
        import pkcs11  # noqa: PLC0415

        with _told("the token does not sign"):
            raw: bytes = self._key.sign(digest, mechanism=pkcs11.Mechanism.ECDSA, pin=self._pin_for_each)
        size = (self.public_key.curve.key_size + 7) // 8
        if len(raw) != 2 * size:
            raise SignatureInvalid(
                f"the token's signature has {len(raw)} bytes where the curve's has {2 * size}; nothing was signed"
            )
        return encode_dss_signature(int.from_bytes(raw[:size]), int.from_bytes(raw[size:]))

    def close(self) -> None:
        """Log out of the token, and all other sessions of this process with it (PKCS#11 knows one login)."""
        with _told("the session does not end"):
            self._session.close()


def open_key(uri: Pkcs11Uri, pin: str) -> Pkcs11Key:
    """Log in to the token once and find the key.

    Raises:
        Misconfigured: no library, a wrong or locked PIN, several tokens or keys that match, a key that cannot sign here.
        NotFound: no such token, no such key, or no public half beside it.
    """
    try:
        import pkcs11  # noqa: PLC0415
    except ImportError:
        raise Misconfigured(
            "a key in a PKCS#11 token needs python-pkcs11: pip install 'modelreg[pkcs11]'", setting="key"
        ) from None
    token = _token(uri)
    session = _log_in(token, uri, pin)
    with _told("the token does not answer"):
        key = _private_key(session, uri)
        public_key = _public_key(session, key)
        try:
            always_authenticate = bool(key[pkcs11.Attribute.ALWAYS_AUTHENTICATE])
        except pkcs11.PKCS11Error:
            always_authenticate = False  # older tokens do not know the attribute
    return Pkcs11Key(public_key, key, session, pin if always_authenticate else None)


def read_pin(path: Path) -> str:
    """The PIN in a file, without the end of its line.

    Raises:
        Misconfigured: not a file, readable for everybody, empty, too long or not text.
    """
    try:
        # O_NONBLOCK: a pipe without a writer would hold us here.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123  # a descriptor
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise Misconfigured(f"the PIN file {path} is not a file", path=str(path))
            # The group may read it: that is how Kubernetes hands secrets to a user that is not root.
            if status.st_mode & 0o007:
                raise Misconfigured(f"the PIN file {path} is open to everybody; run: chmod o= {path}", path=str(path))
            raw = file.read(MAX_PIN_BYTES + 3).rstrip(b"\r\n")
    except OSError as error:
        raise Misconfigured(f"the PIN file {path} cannot be read: {error.strerror}", path=str(path)) from None
    return checked_pin(raw, f"the PIN file {path}")


def checked_pin(raw: bytes, where: str) -> str:
    """A PIN that a token may be asked with; an impossible one never uses up a try.

    Raises:
        Misconfigured: empty, too long or not text.
    """
    try:
        pin = raw.decode()
    except UnicodeDecodeError:
        raise Misconfigured(f"{where} holds bytes that are not UTF-8 text") from None
    if not pin or len(raw) > MAX_PIN_BYTES or not pin.isprintable():
        raise Misconfigured(f"{where} holds no PIN: it is one line of 1 to {MAX_PIN_BYTES} bytes")
    return pin


def _token(uri: Pkcs11Uri) -> "pkcs11.Token":
    import pkcs11  # noqa: PLC0415

    if not uri.module_path.is_file():
        raise Misconfigured(
            f"there is no PKCS#11 library at {uri.module_path}; module-path of the key's URI names the file that the "
            "token's maker installs, such as …/libsofthsm2.so",
            path=str(uri.module_path),
        )
    with _told(f"the PKCS#11 library {uri.module_path} cannot be used"):
        tokens = [slot.get_token() for slot in pkcs11.lib(str(uri.module_path)).get_slots(token_present=True)]
        tokens = [token for token in tokens if pkcs11.TokenFlag.TOKEN_INITIALIZED in token.flags]
    found = [
        token
        for token in tokens
        if uri.token in {None, token.label} and uri.serial in {None, token.serial.decode("utf-8", "replace").strip()}
    ]
    if not found:
        names = ", ".join(repr(token.label) for token in tokens) or "none"
        raise NotFound(f"the key's URI names a token that is not there; the tokens of {uri.module_path} are: {names}")
    if len(found) > 1:
        raise Misconfigured(f"{len(found)} tokens match the key's URI; add serial=NUMBER to say which", setting="key")
    return found[0]


def _log_in(token: "pkcs11.Token", uri: Pkcs11Uri, pin: str) -> "pkcs11.Session":
    import pkcs11  # noqa: PLC0415

    name = repr(token.label)
    refuse_last_try(name, locked=pkcs11.TokenFlag.USER_PIN_LOCKED in token.flags,
                    last_try=pkcs11.TokenFlag.USER_PIN_FINAL_TRY in token.flags)  # fmt: skip
    with _told(f"no login to the token {name}"):
        try:
            return token.open(user_pin=pin)
        except pkcs11.exceptions.UserAlreadyLoggedIn:
            return token.open()  # by another key of this process; the login is the process's
        except (pkcs11.exceptions.PinIncorrect, pkcs11.exceptions.PinInvalid, pkcs11.exceptions.PinLenRange):
            raise Misconfigured(
                f"the PIN for the token {name} is wrong. It was tried once and is not tried again, because a token locks "
                f"after a few wrong ones; check {uri.pin_source or 'what you typed, or MODELREG_PKCS11_PIN'} first",
                setting="key",
            ) from None
        except pkcs11.exceptions.PinLocked:
            raise _locked(name) from None


def refuse_last_try(name: str, *, locked: bool, last_try: bool) -> None:
    """Leave a token alone that is locked, or that the next wrong PIN would lock.

    Raises:
        Misconfigured: it is in either state.
    """
    if locked:
        raise _locked(name)
    if last_try:
        raise Misconfigured(
            f"the token {name} locks with the next wrong PIN, so it is not tried here; log in once with the tool of the "
            "token's maker, which sets the count back, and sign again",
            setting="key",
        )


def _locked(name: str) -> Misconfigured:
    return Misconfigured(
        f"the token {name} is locked after too many wrong PINs; its security officer sets a new PIN", setting="key"
    )


def _private_key(session: "pkcs11.Session", uri: Pkcs11Uri) -> Any:
    from pkcs11 import Attribute, KeyType, ObjectClass  # noqa: PLC0415

    found = _objects(session, ObjectClass.PRIVATE_KEY, uri.object, uri.id)
    if not found:
        raise NotFound(
            "the token has no private key of the label and id in the key's URI; `pkcs11-tool --login --list-objects` "
            "shows what it has"
        )
    if len(found) > 1:
        raw_ids = sorted(bytes(key[Attribute.ID]) for key in found)  # a token lists its keys in any order
        ids = ", ".join("id=" + "".join(f"%{byte:02x}" for byte in raw_id) for raw_id in raw_ids)
        raise Misconfigured(
            f"{len(found)} private keys of the token match the key's URI; add one of {ids}, or object=LABEL",
            setting="key",
        )
    key = found[0]
    kind = key[Attribute.KEY_TYPE]
    if kind != KeyType.EC:
        raise Misconfigured(
            f"the key in the token is {getattr(kind, 'name', 'of another kind')}; only ECDSA keys on P-256, P-384 and P-521 "
            "sign artifacts",
            setting="key",
        )
    if not key[Attribute.SIGN]:
        raise Misconfigured("the key in the token is not for signing (CKA_SIGN is false)", setting="key")
    return key


def _public_key(session: "pkcs11.Session", key: Any) -> ec.EllipticCurvePublicKey:
    """The public half: the object of the same id, or of the same label where the key has no id."""
    from pkcs11 import Attribute, ObjectClass  # noqa: PLC0415

    curve = _CURVES.get(bytes(key[Attribute.EC_PARAMS]))
    if curve is None:
        raise Misconfigured(
            "the key in the token is on another curve; only P-256, P-384 and P-521 sign artifacts", setting="key"
        )
    key_id, label = bytes(key[Attribute.ID]), key[Attribute.LABEL]
    halves = _objects(session, ObjectClass.PUBLIC_KEY, None if key_id else label, key_id or None)
    points = {bytes(half[Attribute.EC_POINT]) for half in halves}
    if len(points) != 1:
        raise NotFound(
            f"the token has {len(points) or 'no'} public keys beside the private one (same id); store exactly one there"
        )
    point, size = points.pop(), (curve.key_size + 7) // 8
    if len(point) != 2 * size + 1:  # a DER octet string, as the standard says; some tokens give the bare point
        point = point[-(2 * size + 1) :]
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(curve, point)
    except ValueError:
        raise Misconfigured("the public key in the token is not a point of its curve", setting="key") from None


def _objects(
    session: "pkcs11.Session", kind: "pkcs11.ObjectClass", label: str | None, key_id: bytes | None
) -> list[Any]:
    from pkcs11 import Attribute  # noqa: PLC0415

    wanted: dict[Attribute, Any] = {Attribute.CLASS: kind}
    if label is not None:
        wanted[Attribute.LABEL] = label
    if key_id is not None:
        wanted[Attribute.ID] = key_id
    found = list(session.get_objects(wanted))
    if len(found) > MAX_OBJECTS:
        raise Misconfigured(f"more than {MAX_OBJECTS} keys of the token match the key's URI; say which", setting="key")
    return found


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Say a library's failure with one of our sentences: its name and nothing that was handed in."""
    import pkcs11  # noqa: PLC0415

    try:
        yield
    except pkcs11.PKCS11Error as error:
        raise Misconfigured(f"{what}: {type(error).__name__} (PKCS#11)", setting="key") from None
