"""verify: hold what is on this machine against a signature, with no server."""

from datetime import datetime
from pathlib import Path

from modelreg import hashing, log_proof, log_state, verification
from modelreg.bundles import MAX_BUNDLE_BYTES
from modelreg.cache import Cache
from modelreg.digests import Digest
from modelreg.errors import Misconfigured, NotFound, SignatureMissing
from modelreg.hashing import Progress
from modelreg.manifests import FileEntry
from modelreg.receipts import VerifiedEntry
from modelreg.statements import Statement
from modelreg.trust import TrustPolicy
from modelreg.verification import VerifiedManifest, VerifiedStatement


def verify_folder(
    root: Path,
    signature: Path,
    policy: TrustPolicy,
    *,
    repository: str,
    now: datetime,
    ignored: frozenset[str] = frozenset(),
    progress: Progress | None = None,
) -> VerifiedStatement:
    """Verify a folder with its OMS signature, ours or anybody's.

    Args:
        root: untrusted.
        signature: path of the bundle, usually `model.sig` in the folder.
        repository: whose rules of the trust policy apply.
        ignored: names at the top that *the caller* chooses to leave out; what a signature asks to ignore does not count.
        progress: told the bytes measured.

    Raises:
        SignatureMissing: no such file.
        Untrusted: signature, signer, trust data; a file differs, is missing or extra.
    """
    try:
        with signature.open("rb") as file:
            raw_bundle = file.read(MAX_BUNDLE_BYTES + 1)
    except FileNotFoundError:
        raise SignatureMissing(f"there is no signature at {signature}; name one with --signature") from None
    except OSError as error:
        raise Misconfigured(f"{signature}: {error.strerror}", path=str(signature)) from None
    verified = verification.verify_statement(raw_bundle, policy=policy, repository=repository, now=now)
    left_out = set(ignored)
    if signature.resolve().parent == root.resolve():
        left_out.add(signature.name)
    hashing.check_files(root, signed_entries(verified.statement), left_out=frozenset(left_out), progress=progress)
    return verified


def verify_kept(
    cache: Cache,
    artifact: Digest,
    policy: TrustPolicy,
    *,
    repository: str,
    now: datetime,
    progress: Progress | None = None,
    state_dir: Path | None = None,
) -> tuple[VerifiedManifest, Path, VerifiedEntry | None]:
    """Verify an artifact in the local store again: signature, policy, receipt and every byte of its folder.

    The receipt is that of the grant which brought it here; None where the trust policy pins no log to believe it by.

    Raises:
        NotFound: it was never pulled to this machine.
        Untrusted: as in `pull`; changed files are moved to `rejected/`.
    """
    kept = cache.kept(artifact)
    if kept is None:
        raise NotFound(f"{artifact} is not in the local store; pull it first")
    verified = verification.verify(
        kept.raw_bundle, kept.raw_manifest, policy=policy, repository=repository, now=now, artifact=artifact
    )
    entry = None
    if policy.log is not None:
        newest = log_state.newest(state_dir, policy.log) if state_dir is not None else None
        entry = log_proof.verify_kept(
            kept.raw_receipt, policy.log, repository=repository, artifact=artifact, newest=newest
        )
    return verified, cache.check(verified, progress), entry


def signed_entries(statement: Statement) -> list[FileEntry]:
    """The files of a statement as `hashing.check_files` takes them: no chunk digests, size -1 where none was signed."""
    return [
        FileEntry(file.path, -1 if file.size is None else file.size, file.sha256, file.blake3 or "")
        for file in statement.files
    ]
