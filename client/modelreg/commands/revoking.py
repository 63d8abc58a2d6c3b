"""trust revoke: what is distrusted from now on, and what that would withdraw."""

import argparse
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from modelreg import revocations, wire
from modelreg.commands import now, output_of, settings_of
from modelreg.commands.distributing import sign_and_refresh
from modelreg.commands.session import connect
from modelreg.digests import Digest
from modelreg.errors import Invalid, Misconfigured
from modelreg.revocations import RevocationList
from modelreg.trust import RevokedSigner

FINDINGS = 40
UNPROVABLE = "unprovable"
_KINDS = ("key:", "email:", "uri:", "dns:", "subject:", "*")  # another word would revoke nobody, without a sign of it
_COLUMNS = ("repository", "artifact", "tags", "published_by", "published_at", "identity", "signed_at")


def run_signer(options: argparse.Namespace) -> int:
    """`modelreg trust revoke signer IDENTITY|KEYID [--from T] [--reason …] (--plan | --repo DIR)`."""
    since = parse_time(options.since) if options.since else None
    key = _digest_or_none(options.signer)
    if key is None and not options.signer.startswith(_KINDS):
        raise Invalid(
            f"{options.signer[:80]!r} is no signer; write an identity with its kind ({' '.join(_KINDS)}), such as "
            "email:al@acme.example, or the sha256:… of a key or certificate",
            field="signer",
        )
    if options.plan:
        rows = connect(settings_of(options)).signatures(identity=None if key else options.signer, key=key)
        return _plan(options, [row for row in rows if not _survives(row, since)])
    revoked = RevokedSigner(None if key else options.signer, key, since, options.reason or "")
    return _revoke(options, revoked, f"revoked {options.signer}")


def run_artifact(options: argparse.Namespace) -> int:
    """`modelreg trust revoke artifact DIGEST (--plan | --repo DIR)`."""
    digest = Digest.parse(options.digest)
    if options.plan:
        return _plan(options, list(connect(settings_of(options)).signatures(artifact=digest)))
    return _revoke(options, digest, f"revoked {digest}")


def run_renew(options: argparse.Namespace) -> int:
    """`modelreg trust revoke renew --repo DIR`: the same list said again today, before it reaches its maximum age."""
    return _revoke(options, None, "renewed the revocation list")


def parse_time(text: str) -> datetime:
    """Read `2026-11-01T00:00:00Z`, or any ISO 8601 time with an offset.

    Raises:
        Invalid: anything else.
    """
    try:
        value = datetime.fromisoformat(text)
        if value.tzinfo is None:
            raise ValueError("no offset")
        return value.astimezone(UTC)
    except (ValueError, OverflowError):
        raise Invalid(f"{text[:60]!r} is no time with an offset; write 2026-11-01T00:00:00Z", field="from") from None


def _survives(row: wire.SignatureRow, since: datetime | None) -> bool:
    """Whether a trusted time shows that the signature is older than what is revoked; without one nothing shows it."""
    return since is not None and row.trusted_time is not None and row.trusted_time < since


def _plan(options: argparse.Namespace, rows: list[wire.SignatureRow]) -> int:
    output = output_of(options)
    shown: list[dict[str, Any]] = [{**row.model_dump(), "signed_at": row.trusted_time or UNPROVABLE} for row in rows]
    output.table(shown, _COLUMNS, "withdraws")
    artifacts = len({row.artifact for row in rows})
    output.note(f"would withdraw {len(rows)} signatures on {artifacts} artifacts; nothing was changed")
    return FINDINGS if rows else 0


def _revoke(options: argparse.Namespace, addition: RevokedSigner | Digest | None, done: str) -> int:
    if options.directory is None:
        raise Invalid(
            "say what to change: --repo DIR, the folder of `modelreg trust repo`; or only look with --plan",
            field="repo",
        )
    stage(options, lambda listed: revocations.revoke(listed, addition, now()), done)
    return sign_and_refresh(options)


def stage(options: argparse.Namespace, change: Callable[[RevocationList], bytes], done: str) -> None:
    """Stage the next version of the revocation list in the operator's folder; nothing is signed yet.

    Raises:
        Misconfigured: the folder distributes none.
    """
    from modelreg import trust_repository  # noqa: PLC0415  # python-tuf, only where it is used
    from modelreg.trust_metadata import REVOCATIONS  # noqa: PLC0415

    folder: Path = options.directory
    raw = trust_repository.target_files(folder).get(REVOCATIONS)
    if raw is None:
        raise Misconfigured(
            f"{folder} distributes no {REVOCATIONS}; add a policy that takes one (`modelreg trust init --distributed`): "
            f"modelreg trust repo add {folder} trust.toml",
            path=str(folder),
        )
    changed = change(revocations.parse(raw))
    trust_repository.stage_targets(folder, {REVOCATIONS: changed}, now())
    output_of(options).note(
        f"{done} in version {revocations.parse(changed).version} of {folder / 'targets' / REVOCATIONS}"
    )


def _digest_or_none(text: str) -> Digest | None:
    return Digest.parse(text) if text.startswith(("sha256:", "blake3:")) else None
