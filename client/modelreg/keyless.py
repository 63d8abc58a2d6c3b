"""Signing without a key of one's own: the `sigstore` method.

An OIDC token becomes a certificate of ten minutes for a key that is thrown away; the signature is time-stamped and logged.
Which Sigstore that is says a `ClientTrustConfig` file; without one it is the public instance. sigstore-python does it, and
is imported when it is asked to.

The token is a secret: it is sent to the certificate authority and to nobody else, and stands in no message.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from urllib3.exceptions import HTTPError

from modelreg import bundles
from modelreg.errors import Misconfigured, ModelregError, Unauthenticated, Unreachable

if TYPE_CHECKING:
    from sigstore.models import ClientTrustConfig
    from sigstore.oidc import IdentityToken

TOKEN_VARIABLE = "MODELREG_SIGSTORE_TOKEN"  # noqa: S105  # the variable's name
MAX_TOKEN_BYTES = 64 * 1024
MAX_CONFIG_BYTES = 1024 * 1024
SIGNING_TIMEOUT_SECONDS = 120.0  # for certificate, timestamp and log together; the library waits for ever

_GIVE_ONE = (
    f"give --sigstore-token-file or {TOKEN_VARIABLE}: an OIDC token for the audience `sigstore`, in Kubernetes a projected "
    "service-account token"
)


@dataclass(frozen=True)
class KeylessSigner:
    """The `sigstore` method. `read_token` is asked once for each signature: hashing may outlive a token."""

    config: "ClientTrustConfig"
    read_token: Callable[[], "IdentityToken"]

    def bundle(self, payload: bytes) -> bundles.Bundle:
        """Sign exactly these bytes, have the signature stamped and logged.

        Raises:
            Unauthenticated: the certificate authority does not take the token.
            Unreachable: one of the services does not answer, or answers with something else.
        """
        token = self.read_token()
        signed = bundles.parse(_within(SIGNING_TIMEOUT_SECONDS, lambda: _sign(self.config, token, payload)))
        if signed.kind != "certificate" or signed.payload != payload:
            raise Unreachable("the Sigstore library signed something else than what it was given")
        return signed


def load_keyless(config_file: Path | None, token_file: Path | None, environment: Mapping[str, str]) -> KeylessSigner:
    """A signer for the Sigstore of this configuration, with the token of this file, this environment or this machine.

    Token and configuration are read now, so that what is missing is known before a terabyte is hashed.

    Args:
        config_file: JSON of a `ClientTrustConfig`; None is the public instance, whose configuration is fetched (TUF).
        token_file: read anew for each signature, as whoever renews it writes it anew.
        environment: `os.environ`; where there is no file, the token is in `MODELREG_SIGSTORE_TOKEN` or ambient.

    Raises:
        Misconfigured: no token, or one that is no token; a configuration that is none, or not safe to send a token to.
        Unreachable: the public instance's configuration cannot be fetched.
    """

    def read_token() -> "IdentityToken":
        return _token(token_file, environment)

    read_token()
    return KeylessSigner(_config(config_file), read_token)


def _token(file: Path | None, environment: Mapping[str, str]) -> "IdentityToken":
    from sigstore.oidc import IdentityError, IdentityToken, detect_credential  # noqa: PLC0415

    if file is not None:
        text, origin = _read(file, MAX_TOKEN_BYTES, "sigstore_token_file"), str(file)
    elif environment.get(TOKEN_VARIABLE):
        text, origin = environment[TOKEN_VARIABLE], TOKEN_VARIABLE
    else:
        try:
            detected = detect_credential()
        except (IdentityError, HTTPError, OSError) as error:
            what = str(error).partition(" (")[0][:200]  # what a service answered stands in brackets
            raise Misconfigured(f"this machine's identity token cannot be had: {what}; {_GIVE_ONE}") from None
        if detected is None:
            raise Misconfigured(
                "there is no identity token to sign with, and this machine offers none (as GitHub, GitLab, Google Cloud, "
                f"Buildkite and CircleCI do); {_GIVE_ONE}",
                setting="sigstore_token_file",
            )
        text, origin = detected, "this machine's environment"
    try:
        return IdentityToken(text.strip())
    except IdentityError:
        raise Misconfigured(
            f"what {origin} holds is no OIDC token that is valid now and for the audience `sigstore`; fetch a new one",
            setting="sigstore_token_file",
        ) from None


def _config(file: Path | None) -> "ClientTrustConfig":
    from sigstore.errors import Error  # noqa: PLC0415
    from sigstore.models import ClientTrustConfig  # noqa: PLC0415

    if file is None:
        try:
            return ClientTrustConfig.production()
        except Exception as error:  # noqa: BLE001  # whatever TUF, HTTP or a cache folder raise
            raise Unreachable(
                f"the configuration of the public Sigstore cannot be fetched: {type(error).__name__}; try again, or name a "
                "private one with --sigstore-config"
            ) from None
    try:
        config = ClientTrustConfig.from_json(_read(file, MAX_CONFIG_BYTES, "sigstore_config"))
        services = config.signing_config
        config.trusted_root.get_fulcio_certs()
        url = urlsplit(services.get_fulcio().url)
    except (Error, ValueError) as error:
        raise Misconfigured(f"{file} is no Sigstore client trust configuration: {error}", path=str(file)) from None
    # A token over plain http is a token for everybody on the way.
    if url.scheme != "https" and url.hostname not in {"127.0.0.1", "::1", "localhost"}:
        raise Misconfigured(f"{file}: the certificate authority is at {url.scheme}://{url.hostname}; use https")
    return config


def _sign(config: "ClientTrustConfig", token: "IdentityToken", payload: bytes) -> bytes:
    from sigstore.dsse import Statement  # noqa: PLC0415
    from sigstore.sign import SigningContext  # noqa: PLC0415

    with SigningContext.from_trust_config(config).signer(token) as signer:
        return signer.sign_dsse(Statement(payload)).to_json().encode()


def _within(seconds: float, work: Callable[[], bytes]) -> bytes:
    """The result of `work`, or an error of ours. The library's requests have no timeouts, so a thread is left behind."""
    outcome: list[bytes | Exception] = []

    def run() -> None:
        try:
            outcome.append(work())
        except Exception as error:  # noqa: BLE001  # carried to the caller's thread and judged there
            outcome.append(error)

    thread = threading.Thread(target=run, name="sigstore", daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise Unreachable(f"the Sigstore did not answer within {seconds:.0f} seconds; try again")
    if isinstance(outcome[0], bytes):
        return outcome[0]
    raise _explained(outcome[0])


def _explained(error: Exception) -> ModelregError:
    """Which service failed, without what it said: a reply may repeat the token."""
    kind = type(error).__name__
    told = (error, error.__cause__, error.__context__)
    behind = next((one for one in told if getattr(one, "request", None) is not None), error)
    response, request = getattr(behind, "response", None), getattr(behind, "request", None)
    service = f" at {urlsplit(str(request.url)).netloc}" if request is not None else ""
    status = getattr(response, "status_code", None)
    if kind == "FulcioClientError" and status is not None and 400 <= status < 500:
        return Unauthenticated(
            f"the Sigstore certificate authority{service} does not take the identity token (HTTP {status}): it must know "
            "the issuer, the audience must be `sigstore`, and the token must not have expired"
        )
    if kind in {"ExpiredIdentity", "ExpiredCertificate"}:
        return Unauthenticated(
            "the identity token expired before the signature was made; fetch a new one and push again"
        )
    answer = f"HTTP {status}" if status is not None else type(behind).__name__
    return Unreachable(f"signing with the Sigstore{service} failed ({answer}); nothing was published, try again")


def _read(path: Path, limit: int, setting: str) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(limit + 1)
        if len(raw) > limit:
            raise Misconfigured(f"{path} has more than {limit} bytes", setting=setting)
        return raw.decode("utf-8")
    except OSError as error:
        raise Misconfigured(f"{path}: {error.strerror}", setting=setting) from None
    except UnicodeDecodeError:
        raise Misconfigured(f"{path} is not text", setting=setting) from None
