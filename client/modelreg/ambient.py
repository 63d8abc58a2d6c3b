"""The identity token that a workload finds around it: a file, a variable, or the CI system's own service.

Tried in this order, the first that is there decides:
1. the file that `--identity-token-file` or `MODELREG_IDENTITY_TOKEN_FILE` names, read anew each time;
2. `MODELREG_IDENTITY_TOKEN`;
3. GitHub Actions: `ACTIONS_ID_TOKEN_REQUEST_URL` and `…_TOKEN` (the job needs `permissions: id-token: write`);
4. GitLab CI: `MODELREG_ID_TOKEN`, declared in the job's `id_tokens` with the registry as `aud`;
5. Kubernetes: the projected service account token at `/var/run/secrets/tokens/modelreg`.

The audience is this registry's address, or what the *user* sets: a registry never names it, or it could ask for a token
that is good elsewhere.
"""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from modelreg import providers
from modelreg.errors import Misconfigured, Unauthenticated, Unreachable

MAX_TOKEN_BYTES = 16 * 1024
PROJECTED = Path("/var/run/secrets/tokens/modelreg")
TOKEN_VARIABLE = "MODELREG_IDENTITY_TOKEN"  # noqa: S105  # names of variables
GITHUB_URL_VARIABLE = "ACTIONS_ID_TOKEN_REQUEST_URL"
GITHUB_TOKEN_VARIABLE = "ACTIONS_ID_TOKEN_REQUEST_TOKEN"  # noqa: S105
GITLAB_VARIABLE = "MODELREG_ID_TOKEN"


@dataclass(frozen=True)
class AmbientToken:
    """A token and where it was found; `repr` does not show it."""

    text: str
    origin: str

    def __repr__(self) -> str:
        return f"AmbientToken(origin={self.origin!r})"


def find(
    environment: Mapping[str, str], file: Path | None, audience: str, tls: ssl.SSLContext, projected: Path = PROJECTED
) -> AmbientToken:
    """The ambient token, see above.

    Raises:
        Unauthenticated: there is none, or what is there is no token.
        Misconfigured: a file that was named cannot be read.
        Unreachable: the CI system's service does not answer.
    """
    if file is not None:
        return _from_file(file)
    if environment.get(TOKEN_VARIABLE):
        return _checked(environment[TOKEN_VARIABLE], TOKEN_VARIABLE)
    if environment.get(GITHUB_URL_VARIABLE) and environment.get(GITHUB_TOKEN_VARIABLE):
        return _from_github(environment[GITHUB_URL_VARIABLE], environment[GITHUB_TOKEN_VARIABLE], audience, tls)
    if environment.get(GITLAB_VARIABLE):
        return _checked(environment[GITLAB_VARIABLE], GITLAB_VARIABLE)
    if projected.exists():
        return _from_file(projected)
    raise Unauthenticated(
        f"no identity token is around: name a file (--identity-token-file), set {TOKEN_VARIABLE}, give the GitHub job "
        f"`id-token: write`, the GitLab job an id token {GITLAB_VARIABLE}, or the pod a projected token at {projected}"
    )


def _from_file(path: Path) -> AmbientToken:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_TOKEN_BYTES + 1)
        return _checked(raw.decode("ascii"), str(path))
    except OSError as error:
        raise Misconfigured(f"the identity token cannot be read: {error}", path=str(path)) from None
    except UnicodeDecodeError:
        raise Unauthenticated(f"{path} holds no token") from None


def _from_github(url: str, bearer: str, audience: str, tls: ssl.SSLContext) -> AmbientToken:
    separator = "&" if "?" in url else "?"
    if not bearer.isascii() or not bearer.isprintable():
        raise Unauthenticated(f"{GITHUB_TOKEN_VARIABLE} holds no token")
    status, answer = providers.ask(
        f"{url}{separator}audience={quote(audience, safe='')}", tls, headers={"Authorization": f"Bearer {bearer}"}
    )
    value = answer.get("value")
    if status != 200 or not isinstance(value, str):
        raise Unreachable(
            f"the job's token service gave no token (answer {status}); see `permissions: id-token: write`"
        )
    return _checked(value, "GitHub Actions")


def _checked(untrusted_text: str, origin: str) -> AmbientToken:
    text = untrusted_text.strip()
    if (
        len(text) > MAX_TOKEN_BYTES
        or text.count(".") != 2
        or not text.isascii()
        or not text.isprintable()
        or " " in text
    ):
        raise Unauthenticated(f"what {origin} holds is no identity token (a JWT)")
    return AmbientToken(text, origin)
