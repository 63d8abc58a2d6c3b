"""verify. Imports no HTTP and no models of the wire: most of a small verification would be spent on them."""

import argparse
from pathlib import Path

from modelreg import pinned, trees, verify
from modelreg.cache import Cache
from modelreg.commands import now, output_of, settings_of, signer_json
from modelreg.digests import Digest
from modelreg.errors import Invalid, NotFound
from modelreg.progress import Bars
from modelreg.references import Reference, parse_reference, parse_repository
from modelreg.settings import Settings


def run_verify(options: argparse.Namespace) -> int:
    """`modelreg verify DIR|REF`."""
    target = Path(options.target)
    if target.is_dir():
        return _verify_folder(options, target)
    try:
        reference = parse_reference(options.target)
    except Invalid:
        if "/" in options.target.strip("/") and not options.target.startswith((".", "/")):
            raise
        raise NotFound(f"{options.target} is neither a folder nor a reference", path=options.target[:200]) from None
    return _verify_kept(options, reference)


def _verify_folder(options: argparse.Namespace, root: Path) -> int:
    settings, output = settings_of(options), output_of(options)
    policy = pinned.policy_of(settings, output.note)
    signature = options.signature or root / trees.SIGNATURE_FILE
    if options.repository is None:
        raise Invalid(
            "name the repository whose rules of the trust policy apply: --repository namespace/name", field="repository"
        )
    with Bars(quiet=output.quiet or output.as_json) as bars:
        verified = verify.verify_folder(
            root,
            signature,
            policy,
            repository=parse_repository(options.repository),
            now=now(),
            ignored=frozenset(options.ignore),
            progress=bars.meter("verifying", _size_below(root) if bars.shown else 0),
        )
    statement = verified.statement
    output.result(
        {
            "verified": True,
            "path": str(root),
            "artifact": str(statement.artifact) if statement.artifact else None,
            "files": len(statement.files),
            "signer": signer_json(verified.signer),
        },
        f"verified {root}: {len(statement.files)} files, signed by {verified.signer.identity} "
        f"({verified.signer.authority})" + (f", {statement.artifact}" if statement.artifact else ""),
    )
    return 0


def _verify_kept(options: argparse.Namespace, reference: Reference) -> int:
    settings, output = settings_of(options), output_of(options)
    policy = pinned.policy_of(settings, output.note)
    artifact = reference.digest or _resolve(settings, reference)
    with Bars(quiet=output.quiet or output.as_json) as bars:
        verified, folder, entry = verify.verify_kept(
            Cache(settings.cache_dir),
            artifact,
            policy,
            repository=reference.repository,
            now=now(),
            progress=bars.meter("verifying", 0),
            state_dir=settings.state_dir,
        )
    output.result(
        {
            "verified": True,
            "path": str(folder),
            "artifact": str(artifact),
            "files": len(verified.manifest.files),
            "signer": signer_json(verified.signer),
            "receipt": "verified" if entry is not None else "not checked",
        },
        f"verified {reference.repository}@{artifact}: {len(verified.manifest.files)} files, signed by "
        f"{verified.signer.identity} ({verified.signer.authority})",
        f"  receipt: verified, event {entry.index} of {entry.checkpoint.origin}"
        if entry is not None
        else "  receipt: not checked, the trust policy pins no custody log",
        str(folder),
    )
    return 0


def _resolve(settings: Settings, reference: Reference) -> Digest:
    """A tag is the registry's word, so only a tag needs the registry."""
    from modelreg import pull  # noqa: PLC0415  # see the top
    from modelreg.commands.session import connect  # noqa: PLC0415

    return pull.resolve(connect(settings), reference)


def _size_below(root: Path) -> int:
    return sum((root / path).lstat().st_size for path in trees.list_files(root))
