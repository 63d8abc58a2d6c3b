"""The client's side of trust distribution: policy and revocations from the registry, believed only through a pinned root.

    $STATE/trust/<registry>/pinned.root.json    what `modelreg trust pin` was given; everything starts here
                            metadata/, targets/ python-tuf's cache: the newest verified copy, for when there is no network
                            seen.json           newest version of each file seen, beside TUF's own memory
                            lock                one refresh at a time

The registry is asked each time, for a bounded time. If it cannot be reached, the cached copy is verified again and used until
its metadata expires; if it answers with what does not verify, that is not hidden behind the cache.
"""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import urllib3
from tuf.api import exceptions
from tuf.api.metadata import Root, Snapshot, Targets, Timestamp
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from modelreg import pinning, trust
from modelreg.connections import USER_AGENT
from modelreg.digests import Digest, sha256_of
from modelreg.durable import make_folder, replace_file
from modelreg.errors import Conflict, DigestMismatch, Misconfigured, StaleTrust, Unreachable
from modelreg.trust_metadata import (
    MAX_METADATA_BYTES,
    MAX_ROOT_ROTATIONS,
    MAX_TARGET_BYTES,
    METADATA_NAME,
    POLICY,
    TARGET_NAME,
    TARGETS,
    Kind,
    matches,
    parse,
    parse_pinned_root,
    read_pair,
    told,
    version_of,
)

REFRESH_SECONDS = 20.0  # for everything a refresh asks for
_STEP_SECONDS = 5.0  # for a connection, and for each read
_BLOCK_BYTES = 64 * 1024
_LOCK_SECONDS = 60.0
PINNED_ROOT = "pinned.root.json"
_KINDS: dict[str, Kind] = {"root": Root, "timestamp": Timestamp, "snapshot": Snapshot, "targets": Targets}


@dataclass(frozen=True)
class Distributed:
    """The verified policy with its revocations. `offline` says why the registry did not confirm it just now."""

    policy: trust.TrustPolicy
    root_version: int
    offline: str | None


def load(registry: str, folder: Path, pool: urllib3.PoolManager) -> Distributed:
    """The pinned registry's trust policy and revocations, as new as can be had.

    Args:
        registry: its address.
        folder: of `pinned.folder_of`, with a pinned root in it.
        pool: to ask the registry with.

    Raises:
        StaleTrust: what is offered is older than what was seen; or there is no network and the cached copy has expired.
        SignatureInvalid: what the registry serves does not verify.
        Misconfigured: nothing is pinned, or what is published does not parse.
    """
    with _alone(folder):
        try:
            return _load(folder, _Online(registry, pool), None)
        except Unreachable as error:
            try:
                return _load(folder, _Cached(folder / "metadata"), error.detail)
            except Unreachable:
                raise StaleTrust(
                    f"{error.detail}, and this machine has no complete copy of the trust policy yet; try again when the "
                    "registry can be reached"
                ) from None
            except StaleTrust as stale:
                raise StaleTrust(f"{error.detail}; the copy on this machine cannot be used: {stale.detail}") from None


def load_kept(folder: Path) -> Distributed:
    """The copy of trust policy and revocations that this machine last verified; asks nobody.

    Raises:
        StaleTrust: it has expired.
        ModelregError: there is none that can be used.
    """
    with _alone(folder):
        return _load(folder, _Cached(folder / "metadata"), "not asked")


def pin(registry: str, folder: Path, raw_root: bytes, pool: urllib3.PoolManager) -> Distributed:
    """Pin a root that the caller vouches for, and refresh from it; a root that leads to nothing is not kept.

    Raises:
        Conflict: another root is pinned for this registry.
        Untrusted: the root does not satisfy itself, or what the registry serves does not follow from it.
        Unreachable: the registry does not answer, so that nothing shows the root to be the right one.
    """
    parse_pinned_root(raw_root)
    path = folder / PINNED_ROOT
    make_folder(folder)
    with _alone(folder):
        new = not path.exists()
        if not new and path.read_bytes() != raw_root:
            raise Conflict(f"another root is pinned for {registry}; if it is to be given up, remove {folder}")
        replace_file(path, raw_root, mode=0o600)
        try:
            return _load(folder, _Online(registry, pool), None)
        except BaseException:
            if new:
                path.unlink()
                shutil.rmtree(folder / "metadata", ignore_errors=True)
            raise


def fetch_first_root(registry: str, pool: urllib3.PoolManager, expected: Digest | None) -> bytes:
    """Fetch `1.root.json`; without an expected digest the caller trusts the registry, this once.

    Raises:
        DigestMismatch: it is another one.
        Unreachable: the registry does not answer, or has none.
    """
    with told(registry):
        fetcher = _Online(registry, pool)
        raw = fetcher.download_bytes(f"{fetcher.metadata_url}1.root.json", MAX_METADATA_BYTES["root"])
    if expected is not None and sha256_of(raw) != expected:
        raise DigestMismatch(
            f"{registry} serves a first root with {sha256_of(raw)}; {expected} was asked for",
            expected=str(expected),
            measured=str(sha256_of(raw)),
        )
    return raw


def _load(folder: Path, fetcher: "_Fetcher", offline: str | None) -> Distributed:
    where = "the cached trust repository" if offline else "the registry's trust repository"
    try:
        raw_root = (folder / PINNED_ROOT).read_bytes()
    except OSError as error:
        raise Misconfigured(f"{folder / PINNED_ROOT}: {error.strerror}; pin again with `modelreg trust pin`") from None
    parse_pinned_root(raw_root)
    for name in ("metadata", "targets"):
        make_folder(folder / name)
    files: dict[str, bytes] = {}
    with told(where):
        updater = Updater(
            str(folder / "metadata"),
            fetcher.metadata_url,
            str(folder / "targets"),
            fetcher.targets_url,
            fetcher,
            UpdaterConfig(
                max_root_rotations=MAX_ROOT_ROTATIONS,
                max_delegations=1,
                root_max_length=MAX_METADATA_BYTES["root"],
                timestamp_max_length=MAX_METADATA_BYTES["timestamp"],
                snapshot_max_length=MAX_METADATA_BYTES["snapshot"],
                targets_max_length=MAX_METADATA_BYTES["targets"],
            ),
            bootstrap=raw_root,
        )
        updater.refresh()
        for name in TARGETS:
            about = updater.get_targetinfo(name)
            if about is None:
                continue
            if about.length > MAX_TARGET_BYTES:
                raise exceptions.RepositoryError(f"{name} is to have {about.length} bytes, above {MAX_TARGET_BYTES}")
            path = updater.find_cached_target(about) or updater.download_target(about)
            files[name] = Path(path).read_bytes()
            about.verify_length_and_hashes(files[name])
    policy = read_pair(files)
    if policy is None:
        raise Misconfigured(f"{where} holds no {POLICY}; the operator adds one with `modelreg trust repo add`")
    for name, raw in files.items():
        pinning.require_not_older(folder / "seen.json", name, version_of(name, raw), str(sha256_of(raw)))
    newest = max(int(path.name.split(".", 1)[0]) for path in (folder / "metadata" / "root_history").iterdir())
    return Distributed(policy, newest, offline)


class _Fetcher(FetcherInterface):
    """Fetches only names that our repository can have, and looks at metadata before python-tuf does."""

    metadata_url: str
    targets_url: str

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """Metadata; parsed by our rules first, of which the one on distinct keys is not python-tuf's."""
        name = url.rpartition("/")[2]
        if not matches(METADATA_NAME, name):
            raise exceptions.DownloadError(f"{name[:100]} is not a name of this repository")
        raw = super().download_bytes(url, max_length)
        parse(raw, _KINDS[name.split(".")[-2]])
        return raw


class _Online(_Fetcher):
    def __init__(self, registry: str, pool: urllib3.PoolManager) -> None:
        parts = urlsplit(registry)
        if parts.scheme != "https" and parts.hostname not in {"127.0.0.1", "::1", "localhost"}:
            raise Misconfigured(f"{registry} is neither https nor on this machine", setting="registry")
        self.metadata_url, self.targets_url = f"{registry}/v1/trust/metadata/", f"{registry}/v1/trust/targets/"
        self._registry = registry
        self._pool = pool
        self._deadline = time.monotonic() + REFRESH_SECONDS

    def _fetch(self, url: str) -> Iterator[bytes]:
        """No credential, no redirect, no compression, no retry; the whole refresh shares one deadline."""
        name = url.rpartition("/")[2]
        if not matches(METADATA_NAME, name) and not matches(TARGET_NAME, name):
            raise exceptions.DownloadError(f"{name[:100]} is not a name of this repository")
        try:
            response = self._pool.request(
                "GET",
                url,
                headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
                preload_content=False,
                redirect=False,
                retries=False,
                decode_content=False,
                timeout=urllib3.Timeout(connect=self._left(), read=self._left()),
            )
        except urllib3.exceptions.HTTPError as error:
            raise exceptions.DownloadError(f"{self._registry} does not answer ({type(error).__name__})") from None
        if response.status != 200:
            response.close()
            raise exceptions.DownloadHTTPError(
                f"{self._registry} answered {response.status} for {name}", response.status
            )
        return self._blocks(response)

    def _blocks(self, response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
        try:
            # One read of the socket at a time: a trickle is seen at the deadline, not when a block is full.
            while block := response.read1(_BLOCK_BYTES):
                yield block
                self._left()
            response.release_conn()
        except urllib3.exceptions.HTTPError as error:
            raise exceptions.DownloadError(f"{self._registry} broke off ({type(error).__name__})") from None
        finally:
            response.close()

    def _left(self) -> float:
        left = min(_STEP_SECONDS, self._deadline - time.monotonic())
        if left <= 0:
            raise exceptions.SlowRetrievalError(f"{self._registry} took longer than {REFRESH_SECONDS:.0f} seconds")
        return left


class _Cached(_Fetcher):
    """The registry's part played by the cache: the newest verified metadata under whatever version is asked for."""

    metadata_url, targets_url = "cache:/metadata/", "cache:/targets/"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = url.rpartition("/")[2]
        role = name.split(".")[-2]
        if role == "root" or matches(TARGET_NAME, name):
            raise exceptions.DownloadHTTPError(f"there is no copy of {name} on this machine", 404)
        try:
            return iter([(self._folder / f"{role}.json").read_bytes()])
        except OSError:
            raise exceptions.DownloadHTTPError(f"there is no copy of {name} on this machine", 404) from None


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder: python-tuf's cache is for one process at a time.

    Raises:
        Misconfigured: nothing is pinned in it.
        Unreachable: another process does not let go.
    """
    try:
        fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        raise Misconfigured(f"nothing is pinned in {folder}; use `modelreg trust pin`", path=str(folder)) from None
    try:
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Unreachable(f"another process holds {folder / 'lock'}; try again") from None
                time.sleep(0.05)
        yield
    finally:
        os.close(fd)
