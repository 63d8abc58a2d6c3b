"""A signing key in an AWS-compatible KMS, behind the port `signing.DigestSigner`.

    key = open_key(key_uris.parse("awskms:///alias/model-signer?region=eu-central-1"))
    raw_bundle = signing.sign(payload, signing.KeySigner(key))

Needs the extra `kms`; imported when a key is opened. Credentials are those of boto3's own chain (environment, profile,
workload identity), never of ours. The KMS gets the digest only, and each signature is verified against the public key
that was read at the start.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from modelreg.errors import Forbidden, Misconfigured, ModelregError, NotFound, Unauthenticated, Unreachable
from modelreg.key_uris import KmsUri
from modelreg.trust import MALFORMED, require_curve

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient
    from mypy_boto3_kms.literals import SigningAlgorithmSpecType

CONNECT_SECONDS = 10
READ_SECONDS = 30
TRIES = 3

_ALGORITHM_OF_CURVE: dict[str, "SigningAlgorithmSpecType"] = {
    "secp256r1": "ECDSA_SHA_256",
    "secp384r1": "ECDSA_SHA_384",
    "secp521r1": "ECDSA_SHA_512",
}
# Error codes of the service; any other one is worth another try at most.
_CODES: dict[str, tuple[type[ModelregError], str]] = {
    "NotFoundException": (NotFound, "has no such key; check the key, the alias and the region"),
    "InvalidArnException": (NotFound, "has no such key; check the key, the alias and the region"),
    "AccessDeniedException": (Forbidden, "does not let these credentials use the key; needs kms:GetPublicKey and kms:Sign"),
    "UnrecognizedClientException": (Unauthenticated, "does not know these credentials"),
    "InvalidSignatureException": (Unauthenticated, "does not accept these credentials; check the secret and the clock"),
    "ExpiredTokenException": (Unauthenticated, "says that the credentials expired; get new ones"),
    "MissingAuthenticationTokenException": (Unauthenticated, "needs credentials"),
    "DisabledException": (Misconfigured, "says that the key is disabled; enable it or name another"),
    "KMSInvalidStateException": (Misconfigured, "says that the key cannot be used, such as before its deletion"),
    "InvalidKeyUsageException": (Misconfigured, "says that the key is not for signing (KeyUsage SIGN_VERIFY)"),
    "UnsupportedOperationException": (Misconfigured, "says that the key is not one that signs"),
    "ValidationException": (Misconfigured, "does not accept the request; check the key"),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class KmsKey:
    """A private key in a KMS. `arn` is the key itself: an alias that moves meanwhile changes nothing."""

    public_key: ec.EllipticCurvePublicKey
    arn: str
    _client: "KMSClient" = field(repr=False)

    def sign_digest(self, digest: bytes) -> bytes:
        """Have the KMS sign the digest as it is; the answer is DER already."""
        algorithm = _ALGORITHM_OF_CURVE[self.public_key.curve.name]
        with _told("sign"):
            answer = self._client.sign(KeyId=self.arn, Message=digest, MessageType="DIGEST", SigningAlgorithm=algorithm)
            return answer["Signature"]


def open_key(uri: KmsUri) -> KmsKey:
    """Read the public key, once.

    Raises:
        Misconfigured: boto3, the region or the credentials are missing, or the key does not sign on a curve OMS names.
        NotFound: no such key.
        Forbidden: the credentials may not use it.
        Unauthenticated: the credentials are not accepted.
        Unreachable: no answer.
    """
    try:
        import boto3  # noqa: PLC0415
        from botocore.config import Config  # noqa: PLC0415
    except ImportError:
        raise Misconfigured("a key in a KMS needs boto3: pip install 'modelreg[kms]'", setting="key") from None
    retries = {"total_max_attempts": TRIES, "mode": "standard"}
    with _told("be asked"):
        client = boto3.Session().client(  # not the module's: its credentials would stay for the process's life
            "kms",
            region_name=uri.region,
            endpoint_url=uri.endpoint,
            config=Config(connect_timeout=CONNECT_SECONDS, read_timeout=READ_SECONDS, retries=retries),  # type: ignore[arg-type]  # its stub knows fewer keys
        )
        answer = client.get_public_key(KeyId=uri.key)
        usage, der, arn = answer.get("KeyUsage"), answer["PublicKey"], answer["KeyId"]
    if usage != "SIGN_VERIFY":
        raise Misconfigured("the key in the KMS is not for signing (KeyUsage SIGN_VERIFY)", setting="key")
    try:
        public_key = require_curve(serialization.load_der_public_key(der), "the key in the KMS")
    except MALFORMED as error:
        raise Misconfigured(f"the KMS answers with a public key that cannot be read: {error}", setting="key") from None
    return KmsKey(public_key, arn, client)


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Say the library's failures with our errors. Its own texts may name request details, so they are not repeated."""
    from botocore import exceptions  # noqa: PLC0415
    from botocore.parsers import ResponseParserError  # noqa: PLC0415

    try:
        yield
    except exceptions.ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", "unknown"))[:80]
        kind, sentence = _CODES.get(code, (Unreachable, f"could not {what}: {code}"))
        raise kind(f"the KMS {sentence}") from None
    except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError, exceptions.CredentialRetrievalError):
        raise Unauthenticated(
            "there are no credentials for the KMS; give them as for the AWS command line (AWS_PROFILE, AWS_ACCESS_KEY_ID …)"
        ) from None
    except exceptions.NoRegionError:
        raise Misconfigured("the key's URI names no region; add ?region=…, or set AWS_REGION", setting="key") from None
    except (exceptions.HTTPClientError, exceptions.ConnectionError, ResponseParserError, KeyError) as error:
        raise Unreachable(f"the KMS does not answer usefully ({type(error).__name__}); try again later") from None
    except exceptions.BotoCoreError as error:
        raise Misconfigured(f"the KMS cannot {what}: {type(error).__name__}", setting="key") from None
