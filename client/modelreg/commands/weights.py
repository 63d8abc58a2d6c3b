"""push, pull, launch."""

import argparse
import getpass
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from modelreg import (
    connections,
    declaring,
    keyless,
    kms_signer,
    launch,
    pinned,
    pkcs11_signer,
    provenance,
    pull,
    push,
    reports,
    sidecar,
    signing,
    stamping,
)
from modelreg.api import Api
from modelreg.cache import Cache
from modelreg.classification import parse_classification
from modelreg.commands import Output, now, output_of, receipt_line, settings_of, signer_json, size_text
from modelreg.commands.session import connect
from modelreg.digests import Digest
from modelreg.durable import replace_file
from modelreg.errors import Invalid, Misconfigured, NotFound, Unreachable
from modelreg.key_uris import KeySource, KmsUri, Pkcs11Uri
from modelreg.manifests import Manifest
from modelreg.permits import Permit
from modelreg.progress import Bars
from modelreg.references import parse_reference, parse_tag
from modelreg.settings import Settings
from modelreg.trust import TrustPolicy

PASSWORD_VARIABLE = "MODELREG_KEY_PASSWORD"  # noqa: S105  # the variable's name
PIN_VARIABLE = "MODELREG_PKCS11_PIN"


def run_push(options: argparse.Namespace) -> int:
    """`modelreg push PATH REF [--tag …] [--base …] [--dataset …] [--class …]`."""
    settings, output = settings_of(options), output_of(options)
    reference = parse_reference(options.reference)
    if reference.digest is not None:
        raise Invalid("push takes namespace/name[:tag]; the digest is what push finds out", field="reference")
    tags = dict.fromkeys([reference.tag_or_default if not options.tag or reference.tag else None, *options.tag])
    tags.pop(None, None)
    api = connect(settings)
    # A Sigstore stamps for itself.
    stamp = None if options.no_timestamp or options.sign == "keyless" else stamp_of(settings, api, output)
    signer, made = signer_of(settings, options.sign), derivation_of(api, options)

    def attest(manifest: Manifest) -> list[bytes]:
        if made is None:
            return []
        return [declaring.derivation(manifest, reference.repository, made, signer, stamp, now())]

    with Bars(quiet=output.quiet or output.as_json) as bars:
        pushed = push.push(
            api,
            options.path,
            reference,
            signer,
            tags=[parse_tag(tag) for tag in tags if tag],
            connections_at_once=settings.connections,
            meter=bars.meter,
            stamp=stamp,
            attest=attest,
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
    """`modelreg pull REF [--output DIR] [--receipt FILE]`."""
    settings, output = settings_of(options), output_of(options)
    policy, machine, api = pinned.policy_of(settings, output.note), reports.machine_of(settings), connect(settings)
    with Bars(quiet=output.quiet or output.as_json) as bars:
        pulled = pull.pull(
            api,
            Cache(settings.cache_dir),
            policy,
            parse_reference(options.reference),
            purpose="pull",
            host=machine.host,
            now=now(),
            connections_at_once=settings.connections,
            meter=bars.meter,
            state_dir=machine.state_dir,
            outbox=machine.outbox,
            environment=options.environment,
        )
        folder = pulled.folder
        if options.output is not None:
            folder = options.output.absolute()
            pull.export(pulled, folder, bars.meter("copying", pulled.verified.manifest.total_bytes))
    if options.receipt is not None:
        replace_file(options.receipt.absolute(), pulled.grant.receipt.encode())
    _deliver(api, policy, machine, output)
    manifest, permit = pulled.verified.manifest, pulled.permit
    output.result(
        {
            "repository": pulled.verified.repository,
            "artifact": str(manifest.digest),
            "path": str(folder),
            "verified": True,
            "signer": signer_json(pulled.verified.signer),
            "event": pulled.grant.event,
            "receipt": "recorded" if pulled.entry is None else "verified",
            "size_bytes": manifest.total_bytes,
            "transferred_bytes": pulled.transferred_bytes,
            **({"environment": options.environment, "permit_until": permit.expires_at} if permit else {}),
        },
        f"verified {pulled.verified.repository}@{manifest.digest}",
        f"  signed by {pulled.verified.signer.identity} ({pulled.verified.signer.authority}), {len(manifest.files)} files, "
        f"{size_text(manifest.total_bytes)}, received {size_text(pulled.transferred_bytes)}",
        f"  {receipt_line(pulled.entry, pulled.grant.event)}",
        *([f"  {permit_line(permit)}"] if permit else []),
        str(folder),
    )
    return 0


def run_launch(options: argparse.Namespace) -> int:
    """`modelreg launch REF [--adapter REF] [--env ENV] -- CMD … {model} …`; does not return when the command starts."""
    command = _typed_command(options)
    settings, output = settings_of(options), output_of(options)
    policy, machine = pinned.policy_of(settings, output.note), reports.machine_of(settings)
    with Bars(quiet=output.quiet or output.as_json) as bars:
        prepared = launch.prepare(
            lambda: connect(settings),
            Cache(settings.cache_dir),
            policy,
            parse_reference(options.reference),
            command,
            machine=machine,
            now=now(),
            connections_at_once=settings.connections,
            meter=bars.meter,
            environment=os.environ,
            heartbeat_seconds=options.heartbeat,
            ask=not options.offline,
            serve_in=options.environment,
            adapter=parse_reference(options.adapter) if options.adapter is not None else None,
        )
    if prepared.loadable.api is not None and prepared.event is not None:
        _deliver(prepared.loadable.api, policy, machine, output)
    for load in prepared.loads:
        _tell_launch(load, output)
        if options.heartbeat is not None:
            _watch(load, settings, options.heartbeat, output)
    sys.stdout.flush()
    sys.stderr.flush()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and what is ignored stays so across exec
    try:
        os.execvpe(prepared.arguments[0], prepared.arguments, prepared.environment)  # noqa: S606  # no shell wanted
    except OSError as error:
        raise NotFound(f"{prepared.arguments[0]} cannot be started: {error.strerror}") from None


def _typed_command(options: argparse.Namespace) -> list[str]:
    """The words to start. Options may stand behind REF too, before `--`: argparse takes all that follows for the command."""
    typed: list[str] = options.command
    if typed and typed[0].startswith("-"):
        at = typed.index("--") if "--" in typed else len(typed)
        options.late.parse_args(typed[:at], namespace=options)
        typed = typed[at:]
    command = typed[1:] if typed[:1] == ["--"] else typed
    if not command:
        raise Invalid("say what to start: modelreg launch REF -- CMD … {model} …", field="command")
    return command


def permit_line(permit: Permit) -> str:
    """What a verified permit allows."""
    return f"permit: verified, for {permit.environment} until {permit.expires_at:%Y-%m-%d %H:%M:%S}Z"


def _deliver(api: Api, policy: TrustPolicy, machine: reports.Machine, output: Output) -> None:
    """Tell the registry what waits for it. What does not get through waits on: it must not hold up this command."""
    if not len(machine.outbox):
        return
    delivered = reports.deliver(api, policy, machine)
    output.note(f"told the registry what it had missed: {delivered.sent} reports")
    if delivered.rejected or delivered.left:
        output.note(
            f"note: {delivered.left} reports still wait, {delivered.rejected} were refused and set aside; "
            f"see `modelreg report`{f' ({delivered.stopped})' if delivered.stopped else ''}"
        )


def _tell_launch(prepared: launch.Prepared, output: Output) -> None:
    loadable = prepared.loadable
    verified = loadable.verified
    if loadable.why is not None:
        assert loadable.entry is not None
        output.note(
            f"note: without the registry, by the receipt of {loadable.entry.time:%Y-%m-%d %H:%M}Z "
            f"(event {loadable.entry.index}): {loadable.why}"
        )
    recorded = f"load recorded as event {prepared.event}"
    if prepared.event is None:
        recorded = "load queued on this machine; the registry hears of it when it answers again"
    output.note(f"verified {verified.repository}@{verified.manifest.digest}, {recorded}")
    output.note(receipt_line(loadable.entry, None))
    if loadable.permit is not None:
        output.note(permit_line(loadable.permit))


def _watch(prepared: launch.Prepared, settings: Settings, heartbeat_seconds: int, output: Output) -> None:
    """Start what says that the runtime runs, and that it ended."""
    given = {name: getattr(settings, name) for name, origin in settings.origins.items() if origin == "flag"}
    job = {
        "load": prepared.load,
        "heartbeat_seconds": heartbeat_seconds,
        "settings": {
            name: str(value.absolute()) if isinstance(value, Path) else str(value) for name, value in given.items()
        },
        "told": asdict(prepared.told),
    }
    if not sidecar.start(job, os.environ):
        output.note("note: the process that sends heartbeats did not start; the load will be shown as stale")
    elif os.getpid() == 1:
        output.note(
            "note: this is the first process of its container, which ends every other with it: nobody will report that the "
            "runtime ended, and the load will be shown as stale; start the container with an init process (--init)"
        )


def derivation_of(api: Api, options: argparse.Namespace) -> provenance.Derivation | None:
    """What push's flags say of how it was made, with references resolved to digests; None where they say nothing."""
    if not (options.base or options.dataset or options.training_run or options.classification):
        return None
    relation = options.relation or (provenance.RELATIONS[0] if options.base else provenance.ORIGINAL)
    made = provenance.Derivation(
        relation=relation,
        parents=tuple(dict.fromkeys(_base(api, text) for text in options.base)),
        datasets=tuple(dict.fromkeys(_dataset(api, text) for text in options.dataset)),
        training_run=options.training_run,
        classification=parse_classification(options.classification) if options.classification else None,
    )
    provenance.predicate_of(made, version="", started_at=now(), finished_at=now())  # refuses before anything is hashed
    return made


def _base(api: Api, text: str) -> provenance.Input:
    if text.startswith(("sha256:", "blake3:")):
        return provenance.Input(_sha256(text), text)
    reference = parse_reference(text)
    return provenance.Input(pull.resolve(api, reference), reference.repository)


def _dataset(api: Api, text: str) -> provenance.Input:
    if text.startswith(("sha256:", "blake3:")):
        return provenance.Input(_sha256(text), text)
    reference = parse_reference(text)
    if reference.tag is not None:
        raise Invalid("a dataset has no tags: write namespace/name, or namespace/name@sha256:…", field="dataset")
    if reference.digest is not None:
        return provenance.Input(reference.digest, reference.repository)
    records = api.dataset(reference.repository)
    if not records or records[0].name != reference.repository:
        raise Unreachable(f"{api.registry} answered about another dataset than {reference.repository}")
    return provenance.Input(Digest.parse(records[0].digest), reference.repository)


def _sha256(text: str) -> Digest:
    digest = Digest.parse(text)
    if digest.algorithm != "sha256":
        raise Invalid(f"{text[:90]} names a blob; an artifact or a dataset is named by its sha256", field="digest")
    return digest


def stamp_of(settings: Settings, api: Api, output: Output) -> Callable[[bytes], bytes | None] | None:
    """How this push gets its time stamp; None where nobody on this machine could verify one."""
    authorities = {}
    if pinned.takes_pinned(settings) or settings.trust_policy.exists():
        authorities = dict(pinned.policy_of(settings, output.note).time_authorities)
    if not authorities:
        why = "the trust policy pins no time authority to verify a time stamp with"
        if settings.timestamp_url is not None:
            raise Misconfigured(f"{why}; add [time_authorities.…] to {settings.trust_policy}", setting="timestamp_url")
        output.note(f"no time stamp: {why}; the signature ends with the signer's certificate")
        return None

    def stamp(signature: bytes) -> bytes | None:
        if settings.timestamp_url is not None:
            pool = connections.make_pool(settings.ca_file, 1)
            return stamping.stamp(signature, stamping.ask_url(pool, settings.timestamp_url), authorities, now)
        try:
            return stamping.stamp(signature, api.time_stamp, authorities, now)
        except NotFound:
            # The trust policy decides whether a signature without one will do (`require_timestamp`).
            output.note("no time stamp: the registry runs no time-stamping authority")
            return None

    return stamp


def signer_of(settings: Settings, method: str | None) -> signing.Signer:
    """What signs, by the settings and the method that was asked for.

    Raises:
        Misconfigured: there is no key or no certificate.
    """
    if method == "keyless":
        return keyless.load_keyless(settings.sigstore_config, settings.sigstore_token_file, os.environ)
    if settings.key is None:
        raise Misconfigured(
            "nothing to sign with: give --key (and --certificate), or set `key` in the configuration; "
            "`modelreg trust issue` makes a pair; or --sign keyless",
            setting="key",
        )
    if method == "certificate" and settings.certificate is None:
        raise Misconfigured("no certificate to sign with: give --certificate, or --sign key", setting="certificate")
    key = _private_key(settings.key)
    if method == "key" or settings.certificate is None:
        return signing.KeySigner(key)
    return signing.with_certificate(key, _read(settings.certificate))


def _private_key(source: KeySource) -> signing.PrivateKey:
    match source:
        case Pkcs11Uri():
            return pkcs11_signer.open_key(source, _pin(source))
        case KmsUri():
            return kms_signer.open_key(source)
        case Path():
            password = os.environ.get(PASSWORD_VARIABLE, "").encode() or None
            return signing.load_private_key(_read(source), password)


def _pin(uri: Pkcs11Uri) -> str:
    """From the URI's file, else from the environment, else from who sits here; asked for once."""
    if uri.pin_source is not None:
        return pkcs11_signer.read_pin(uri.pin_source)
    if given := os.environ.get(PIN_VARIABLE):
        return pkcs11_signer.checked_pin(os.fsencode(given), PIN_VARIABLE)
    if not sys.stdin.isatty():
        raise Misconfigured(
            f"no PIN for the token: add pin-source=FILE to the key's URI, or set {PIN_VARIABLE}", setting="key"
        )
    return pkcs11_signer.checked_pin(getpass.getpass("PIN of the token (one try): ").encode(), "what you typed")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Misconfigured(f"{path}: {error.strerror}", path=str(path)) from None
