"""push, pull, launch."""

import argparse
import os
import signal
import sys
from pathlib import Path

from modelreg import launch, pinned, pull, push, signing
from modelreg.cache import Cache
from modelreg.commands import now, output_of, settings_of, signer_json, size_text
from modelreg.commands.session import connect
from modelreg.errors import Invalid, Misconfigured, NotFound
from modelreg.progress import Bars
from modelreg.references import parse_reference, parse_tag
from modelreg.settings import Settings

PASSWORD_VARIABLE = "MODELREG_KEY_PASSWORD"  # noqa: S105  # the variable's name


def run_push(options: argparse.Namespace) -> int:
    """`modelreg push PATH REF [--tag …]`."""
    settings, output = settings_of(options), output_of(options)
    reference = parse_reference(options.reference)
    if reference.digest is not None:
        raise Invalid("push takes namespace/name[:tag]; the digest is what push finds out", field="reference")
    tags = dict.fromkeys([reference.tag_or_default if not options.tag or reference.tag else None, *options.tag])
    tags.pop(None, None)
    with Bars(quiet=output.quiet or output.as_json) as bars:
        pushed = push.push(
            connect(settings),
            options.path,
            reference,
            _signer(settings),
            tags=[parse_tag(tag) for tag in tags if tag],
            connections_at_once=settings.connections,
            meter=bars.meter,
        )
    if pushed.left_out:
        output.note(f"left out: {', '.join(pushed.left_out)}")
    published = pushed.published
    output.result(
        {
            "repository": published.repository,
            "artifact": published.artifact,
            "tags": published.tags,
            "created": published.created,
            "event": published.event,
            "files": len(pushed.manifest.files),
            "size_bytes": pushed.manifest.total_bytes,
            "transferred_bytes": pushed.transferred_bytes,
        },
        f"{'published' if published.created else 'already published'} {published.repository}@{published.artifact}",
        f"  {len(pushed.manifest.files)} files, {size_text(pushed.manifest.total_bytes)}, "
        f"sent {size_text(pushed.transferred_bytes)}; tags: {', '.join(published.tags) or 'none'}",
    )
    return 0


def run_pull(options: argparse.Namespace) -> int:
    """`modelreg pull REF [--output DIR]`."""
    settings, output = settings_of(options), output_of(options)
    policy = pinned.policy_of(settings, output.note)
    with Bars(quiet=output.quiet or output.as_json) as bars:
        pulled = pull.pull(
            connect(settings),
            Cache(settings.cache_dir),
            policy,
            parse_reference(options.reference),
            purpose="pull",
            host=settings.host_name,
            now=now(),
            connections_at_once=settings.connections,
            meter=bars.meter,
        )
        folder = pulled.folder
        if options.output is not None:
            folder = options.output.absolute()
            pull.export(pulled, folder, bars.meter("copying", pulled.verified.manifest.total_bytes))
    manifest = pulled.verified.manifest
    output.result(
        {
            "repository": pulled.verified.repository,
            "artifact": str(manifest.digest),
            "path": str(folder),
            "verified": True,
            "signer": signer_json(pulled.verified.signer),
            "event": pulled.grant.event,
            "size_bytes": manifest.total_bytes,
            "transferred_bytes": pulled.transferred_bytes,
        },
        f"verified {pulled.verified.repository}@{manifest.digest}",
        f"  signed by {pulled.verified.signer.identity} ({pulled.verified.signer.authority}), {len(manifest.files)} files, "
        f"{size_text(manifest.total_bytes)}, received {size_text(pulled.transferred_bytes)}",
        str(folder),
    )
    return 0


def run_launch(options: argparse.Namespace) -> int:
    """`modelreg launch REF -- CMD … {model} …`; does not return when the command starts."""
    settings, output = settings_of(options), output_of(options)
    policy = pinned.policy_of(settings, output.note)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        raise Invalid("say what to start: modelreg launch REF -- CMD … {model} …", field="command")
    with Bars(quiet=output.quiet or output.as_json) as bars:
        prepared = launch.prepare(
            connect(settings),
            Cache(settings.cache_dir),
            policy,
            parse_reference(options.reference),
            command,
            host=settings.host_name,
            now=now(),
            connections_at_once=settings.connections,
            meter=bars.meter,
            environment=os.environ,
        )
    verified = prepared.pulled.verified
    output.note(f"verified {verified.repository}@{verified.manifest.digest}, load recorded as event {prepared.event}")
    sys.stdout.flush()
    sys.stderr.flush()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and what is ignored stays so across exec
    try:
        os.execvpe(prepared.arguments[0], prepared.arguments, prepared.environment)  # noqa: S606  # no shell wanted
    except OSError as error:
        raise NotFound(f"{prepared.arguments[0]} cannot be started: {error.strerror}") from None


def _signer(settings: Settings) -> signing.Signer:
    if settings.key is None:
        raise Misconfigured(
            "nothing to sign with: give --key (and --certificate), or set `key` in the configuration; "
            "`modelreg trust issue` makes a pair",
            setting="key",
        )
    password = os.environ.get(PASSWORD_VARIABLE, "").encode() or None
    key_pem = _read(settings.key)
    if settings.certificate is None:
        return signing.load_key(key_pem, password)
    return signing.load_certificate(key_pem, _read(settings.certificate), password)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Misconfigured(f"{path}: {error.strerror}", path=str(path)) from None
