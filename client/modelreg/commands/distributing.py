"""trust pin; trust repo …: the operator's folder of keys and TUF metadata."""

import argparse
import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelreg import connections, pinned, wire
from modelreg.commands import now, output_of, settings_of
from modelreg.commands.session import connect
from modelreg.commands.weights import PASSWORD_VARIABLE
from modelreg.digests import Digest, sha256_of
from modelreg.errors import Invalid, Misconfigured

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner

    from modelreg.trust_repository import Progress


def run_pin(options: argparse.Namespace) -> int:
    """`modelreg trust pin [--root FILE] [--sha256 DIGEST] | --trust-on-first-use`."""
    from modelreg import distribution  # noqa: PLC0415  # python-tuf, only where it is used

    settings, output = settings_of(options), output_of(options)
    expected = Digest.parse(options.sha256) if options.sha256 else None
    pool = connections.make_pool(settings.ca_file, 2)
    if options.root is not None:
        raw_root = _read(options.root)
        if expected is not None and sha256_of(raw_root) != expected:
            raise Invalid(f"{options.root} has {sha256_of(raw_root)}, not {expected}", field="sha256")
    elif expected is None and not options.trust_on_first_use:
        raise Invalid(
            "say which root to trust: --root FILE or --sha256 DIGEST, as your operator gave it to you by another way than "
            "this registry; --trust-on-first-use takes what the registry serves now",
            field="root",
        )
    else:
        raw_root = distribution.fetch_first_root(settings.registry, pool, expected)
        if expected is None:
            output.note(
                f"warning: trusting the root that {settings.registry} serves, {sha256_of(raw_root)}; compare it with what "
                "your operator has"
            )
    folder = pinned.folder_of(settings)
    found = distribution.pin(settings.registry, folder, raw_root, pool)
    if settings.origins.get("trust_policy") != "default":
        output.note(f"note: {settings.trust_policy} is set explicitly and still wins; unset it to use what is pinned")
    output.result(
        {
            "registry": settings.registry,
            "root": str(sha256_of(raw_root)),
            "root_version": found.root_version,
            "policy_version": found.policy.version,
            "directory": str(folder),
        },
        f"pinned {settings.registry}: {sha256_of(raw_root)}, now at root version {found.root_version}",
        f"  trust policy version {found.policy.version}; revocations of "
        f"{found.policy.revocations.updated_at:%Y-%m-%d %H:%M}Z",
    )
    found.policy.require_fresh(now())
    return 0


def run_init(options: argparse.Namespace) -> int:
    """`modelreg trust repo init DIR`."""
    from modelreg import trust_repository  # noqa: PLC0415

    keys = trust_repository.init(
        options.directory,
        now(),
        root_keys=options.root_keys,
        root_threshold=options.root_threshold,
        targets_keys=options.targets_keys,
        targets_threshold=options.targets_threshold,
        password=_password(),
    )
    root = options.directory / "metadata" / "1.root.json"
    digest = sha256_of(root.read_bytes())
    output_of(options).result(
        {"directory": str(options.directory), "root": str(digest), "keys": [str(path) for path in keys]},
        f"made {len(keys)} keys in {options.directory / 'keys'} and {root}",
        "  move the root and targets keys to separate offline places; only online-1 stays for `refresh`",
        f"  give every user this digest to pin: modelreg trust pin --sha256 {digest}",
    )
    return 0


def run_add(options: argparse.Namespace) -> int:
    """`modelreg trust repo add DIR FILE…`."""
    from modelreg import trust_repository  # noqa: PLC0415

    at = now()
    trust_repository.add(options.directory, options.files, at, timedelta(days=options.days), options.max_age_days)
    return sign_and_refresh(options)


def run_sign(options: argparse.Namespace) -> int:
    """`modelreg trust repo sign DIR [--key K]…`."""
    return sign_and_refresh(options)


def run_rotate(options: argparse.Namespace) -> int:
    """`modelreg trust repo rotate-root DIR --role … [--new-key NAME] [--add-key PUB] [--remove KEYID] [--threshold N]`."""
    from modelreg import trust_repository  # noqa: PLC0415

    folder = options.directory
    made = [
        trust_repository.make_key(folder / "keys" / f"{_plain_name(name)}.key.pem", _password()).public_key
        for name in options.new_key
    ]
    trust_repository.rotate(
        folder,
        options.role,
        now(),
        add_keys=[*made, *(trust_repository.load_public_key(path) for path in options.add_key)],
        remove=options.remove,
        threshold=options.threshold,
        lifetime=timedelta(days=options.days),
    )
    return sign_and_refresh(options)


def run_refresh(options: argparse.Namespace) -> int:
    """`modelreg trust repo refresh DIR [--key K]`: a new timestamp, for cron; `--publish` sends it as well."""
    from modelreg import trust_repository  # noqa: PLC0415

    snapshot, timestamp = trust_repository.refresh(
        options.directory, _signers(options), now(), timedelta(days=options.days)
    )
    if options.publish:
        return run_publish(options)
    output_of(options).result(
        {"snapshot": snapshot, "timestamp": timestamp},
        f"signed timestamp {timestamp} (snapshot {snapshot}) for {options.days} days; publish it with "
        f"`modelreg trust repo publish {options.directory}`",
    )
    return 0


def run_publish(options: argparse.Namespace) -> int:
    """`modelreg trust repo publish DIR`: the registry checks that it follows from what it serves, then serves it."""
    published = publish(options)
    versions = ", ".join(f"{name} {version}" for name, version in sorted(published.versions.items()))
    output_of(options).result(published.model_dump(), f"published as event {published.event}: {versions}")
    return 0


def publish(options: argparse.Namespace) -> wire.TrustPublished:
    """Send the folder's trust repository to the registry."""
    from modelreg import trust_repository  # noqa: PLC0415

    current = trust_repository.current(options.directory)
    return connect(settings_of(options)).publish_trust(
        wire.request(
            wire.TrustPublication,
            roots=[raw.decode() for raw in current.roots],
            timestamp=current.timestamp.decode(),
            snapshot=current.snapshot.decode(),
            targets=current.targets.decode(),
            files={name: raw.decode() for name, raw in current.files.items()},
        )
    )


def run_status(options: argparse.Namespace) -> int:
    """`modelreg trust repo status DIR`."""
    from modelreg import trust_repository  # noqa: PLC0415

    status = trust_repository.status(options.directory)
    lines = [
        f"{name:10} version {version}, expires {status['expires'][name]:%Y-%m-%d %H:%M}Z"
        for name, version in status["versions"].items()
    ]
    for name, role in status["roles"].items():
        lines.append(f"{name:10} {role['threshold']} of {len(role['keys'])} keys")
        lines += [f"           {key}" for key in role["keys"]]
    lines += [f"staged     {line}" for line in status["staged"]]
    output_of(options).result(status, *lines)
    return 0


def sign_and_refresh(options: argparse.Namespace) -> int:
    """Sign what is staged with the keys at hand, and the online metadata when that completes it."""
    value, lines = signed(options)
    output_of(options).result(value, *lines)
    return 0


def signed(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """What `sign_and_refresh` does, and what to print of it: for programs, and for people."""
    from modelreg import trust_repository  # noqa: PLC0415

    signers = _signers(options)
    stands = trust_repository.sign(options.directory, signers)
    complete = all(progress.missing == 0 for progress in stands)
    refreshed = complete and trust_repository.can_refresh(options.directory, signers)
    if refreshed:
        trust_repository.refresh(options.directory, signers, now())
    lines = [_stand(progress) for progress in stands]
    if refreshed:
        lines.append(f"ready: modelreg trust repo publish {options.directory}")
    elif complete:
        lines.append(f"next, where the online key is: modelreg trust repo refresh {options.directory}")
    else:
        lines.append(f"next, with another key: modelreg trust repo sign {options.directory} --key KEY")
    value = [
        {"role": progress.role, "version": progress.version, "signed": progress.signed, "missing": progress.missing}
        for progress in stands
    ]
    return {"staged": value, "complete": complete, "ready": refreshed}, lines


def _stand(progress: "Progress") -> str:
    state = "complete" if progress.missing == 0 else f"signatures missing: {progress.missing}"
    return f"{progress.role} version {progress.version}: {progress.signed} signatures, {state}"


def _signers(options: argparse.Namespace) -> "list[CryptoSigner]":
    from modelreg import trust_repository  # noqa: PLC0415

    at_hand = trust_repository.keys_at_hand(options.directory, _password())
    return [*at_hand, *(trust_repository.load_key(path, _password()) for path in options.sign_with)]


def _plain_name(text: str) -> str:
    if not text.replace("-", "").replace("_", "").isalnum() or not text.isascii() or len(text) > 60:
        raise Invalid(f"{text[:80]!r} cannot name a key; write letters, digits, - and _", field="new-key")
    return text


def _password() -> bytes | None:
    return os.environ.get(PASSWORD_VARIABLE, "").encode() or None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Misconfigured(f"{path}: {error.strerror}", path=str(path)) from None
