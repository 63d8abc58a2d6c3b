"""A real PKCS#11 token for tests: SoftHSM 2 (Debian package `softhsm2`), its tokens in a temporary folder.

SoftHSM reads `SOFTHSM2_CONF` when its library is loaded, once a process; so the tokens are made before, and a session's
tests share them. Keys are made inside the token and cannot leave it.
"""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

PIN = "4711-correct-horse"  # of tokens that live as long as a test run
SO_PIN = "security-officer"
TOKEN, TWIN = "release keys; 50%", "twin"
CURVES = {"p256": "secp256r1", "p384": "secp384r1", "p521": "secp521r1"}

_LIBRARIES = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
]
_SPIES = [
    "/usr/lib/x86_64-linux-gnu/pkcs11-spy.so",
    "/usr/lib/aarch64-linux-gnu/pkcs11-spy.so",
    "/usr/lib64/pkcs11-spy.so",
]


def _first(paths: list[str]) -> Path | None:
    return next((Path(path) for path in paths if Path(path).exists()), None)


def why_not() -> str | None:
    """Why there is no SoftHSM on this machine, or None."""
    if shutil.which("softhsm2-util") is None or _first(_LIBRARIES) is None:
        return "no SoftHSM 2; as root: apt-get install softhsm2 opensc-pkcs11 (scripts/test does)"
    if _first(_SPIES) is None:
        return "no pkcs11-spy.so; as root: apt-get install opensc-pkcs11 (scripts/test does)"
    return None


class SoftHsm:
    """The tokens, and keys made in them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.module = _first(_LIBRARIES)
        self.spy = _first(_SPIES)
        self.configuration = folder / "softhsm2.conf"
        (folder / "tokens").mkdir()
        self.configuration.write_text(
            f"directories.tokendir = {folder}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n"
        )
        self._made = 0

    @property
    def environment(self) -> dict[str, str]:
        """What another process needs in order to see the tokens."""
        return {"SOFTHSM2_CONF": str(self.configuration)}

    def make_token(self, label: str) -> None:
        """Only before the library is loaded here."""
        command = ["softhsm2-util", "--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", SO_PIN]
        subprocess.run(command, env={**os.environ, **self.environment}, check=True, capture_output=True)

    def make_key(
        self, curve: str = "p256", *, label: str | None = None, key_id: bytes | None = None, **template
    ) -> str:
        """Make an EC key pair in the token; returns its URI without a PIN.

        `template` are attributes of the private key, by their PKCS#11 name; `public=False` leaves the public half out.
        """
        from pkcs11 import Attribute, KeyType
        from pkcs11.util.ec import encode_named_curve_parameters

        public = template.pop("public", True)
        label, key_id = self._names(label, key_id)
        with self._session() as session:
            parameters = session.create_domain_parameters(
                KeyType.EC, {Attribute.EC_PARAMS: encode_named_curve_parameters(CURVES.get(curve, curve))}, local=True
            )
            half, _key = parameters.generate_keypair(
                store=True, label=label, id=key_id, private_template={Attribute[name]: value for name, value in template.items()}
            )  # fmt: skip
            if not public:
                half.destroy()
        return self.uri(object=label, id=key_id)

    def make_rsa_key(self, label: str) -> str:
        """An RSA key pair."""
        from pkcs11 import KeyType

        label, key_id = self._names(label, None)
        with self._session() as session:
            session.generate_keypair(KeyType.RSA, 2048, store=True, label=label, id=key_id)
        return self.uri(object=label)

    def replace_public_half(self, uri_of: str, uri_from: str) -> None:
        """Put another key's public half beside a private key: a token that is set up wrong."""
        from pkcs11 import Attribute, ObjectClass

        from modelreg import key_uris

        of, other = key_uris.parse(uri_of), key_uris.parse(uri_from)
        with self._session() as session:
            (old,) = session.get_objects({Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.ID: of.id})
            (new,) = session.get_objects({Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.ID: other.id})
            old.destroy()
            new.copy({Attribute.ID: of.id, Attribute.LABEL: of.object, Attribute.TOKEN: True})

    def uri(self, *, module: Path | None = None, token: str = TOKEN, pin_source: Path | None = None, **named) -> str:
        """A `pkcs11:` URI with everything percent-encoded."""
        parts = {"token": token, **named}
        path = ";".join(f"{name}={quote(value, safe='')}" for name, value in parts.items())
        query = f"module-path={quote(str(module or self.module))}"
        return f"pkcs11:{path}?{query}" + (f"&pin-source={quote(str(pin_source))}" if pin_source else "")

    def _names(self, label: str | None, key_id: bytes | None) -> tuple[str, bytes]:
        self._made += 1
        return label or f"key {self._made}", key_id or self._made.to_bytes(2)

    @contextlib.contextmanager
    def _session(self):
        import pkcs11

        library = pkcs11.lib(str(self.module))
        token = next(
            slot.get_token() for slot in library.get_slots(token_present=True) if slot.get_token().label == TOKEN
        )
        # The login is the process's; a test that has a key open has logged in already.
        try:
            session = token.open(rw=True, user_pin=PIN)
        except pkcs11.exceptions.UserAlreadyLoggedIn:
            yield token.open(rw=True)  # not closed: that would log the test out
            return
        with session:
            yield session


@contextlib.contextmanager
def tokens() -> Iterator[SoftHsm]:
    """SoftHSM with three tokens, two of them under one label, for this process and (`environment`) for others."""
    with tempfile.TemporaryDirectory(prefix="modelreg-softhsm-") as name:
        made = SoftHsm(Path(name))
        for label in (TOKEN, TWIN, TWIN):
            made.make_token(label)
        os.environ.update(made.environment)
        try:
            yield made
        finally:
            del os.environ["SOFTHSM2_CONF"]
