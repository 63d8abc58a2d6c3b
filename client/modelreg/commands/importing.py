"""import, source check."""

import argparse
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from modelreg import attestations, importing, pinned, pull, signing, source_checking, trust, wire_attestations
from modelreg.api import Api
from modelreg.attestations import Kind
from modelreg.bucket import Bucket
from modelreg.classification import Classification
from modelreg.commands import Output, now, output_of, printable, settings_of, size_text
from modelreg.commands.revoking import FINDINGS
from modelreg.commands.session import connect
from modelreg.commands.weights import signer_of, stamp_of
from modelreg.digests import Digest
from modelreg.errors import Invalid, Misconfigured, ModelregError, NotFound, Unreachable
from modelreg.hub import ENDPOINT, Hub, endpoint_of
from modelreg.importing import Imported, Importer
from modelreg.outside import Outside, require_token
from modelreg.outside_files import FileUrl
from modelreg.outside_urls import Rules, parse
from modelreg.progress import Bars
from modelreg.references import parse_reference, parse_tag
from modelreg.settings import Settings
from modelreg.source_checking import Checked, Result
from modelreg.sources import BucketSource, FolderSource, HubSource, Source, Upstream, UrlSource, parse_source

TOKEN_VARIABLE = "MODELREG_SOURCE_TOKEN"  # noqa: S105  # the variable's name
HUB_TOKEN_VARIABLE = "HF_TOKEN"  # noqa: S105
Stamp = Callable[[bytes], bytes | None] | None


def run_import(options: argparse.Namespace) -> int:
    """`modelreg import SOURCE REF [--tag …]`."""
    settings, output = settings_of(options), output_of(options)
    source = parse_source(options.source)
    reference = parse_reference(options.reference)
    if reference.digest is not None:
        raise Invalid("import takes namespace/name[:tag]; the digest is what it finds out", field="reference")
    tags = dict.fromkeys([reference.tag_or_default if not options.tag or reference.tag else None, *options.tag])
    upstream = None if isinstance(source, FolderSource) else _upstream(options, settings, source)
    upstream_trust = _upstream_trust(options.upstream_trust)
    api = connect(settings)
    with Bars(quiet=output.quiet or output.as_json) as bars:
        importer = Importer(
            api=api,
            reference=reference,
            tags=[parse_tag(tag) for tag in tags if tag],
            signer=signer_of(settings, options.sign),
            fetched_by=api.whoami().principal,
            clock=now,
            meter=bars.meter,
            connections_at_once=settings.connections,
            stamp=_stamp_of(options, settings, api, output),
            classification=Classification(options.classification) if options.classification else None,
            upstream_trust=upstream_trust,
        )
        if isinstance(source, FolderSource):
            imported = importing.from_folder(importer, source)
        else:
            assert upstream is not None
            imported = importing.from_upstream(importer, upstream, settings.cache_dir)
    if imported.left_out:
        output.note(f"left out: {', '.join(imported.left_out)}")
    _tell(output, imported)
    return 0


def run_source_check(options: argparse.Namespace) -> int:
    """`modelreg source check REF|--all`."""
    settings, output = settings_of(options), output_of(options)
    if (options.reference is None) != options.all:
        raise Invalid("say what to check: REF, or --all", field="reference")
    policy, api = pinned.policy_of(settings, output.note), connect(settings)
    signer = None if options.no_record else signer_of(settings, options.sign)
    stamp = None if options.no_record else _stamp_of(options, settings, api, output)
    rules = _rules(options)
    endpoint = endpoint_of(options.from_endpoint, rules)
    outside = _outside(options, settings, endpoint)
    rows: list[dict[str, Any]] = []
    lines: list[str] = []
    for repository, artifact in _asked(api, options):
        try:
            imports = source_checking.imports_of(api, policy, repository, artifact, now())
        except ModelregError as error:
            if not options.all:
                raise
            rows.append(
                {"repository": repository, "artifact": str(artifact), "result": "unverified", "why": error.detail}
            )
            lines.append(f"unverified  {repository}@{artifact}: {printable(error.detail)}")
            continue
        if not imports and not options.all:
            raise NotFound(f"no statement says that {repository}@{artifact} was imported")
        for made in imports:
            checked = source_checking.check(made, outside, endpoint)
            if signer is not None:
                _record(api, signer, stamp, repository, artifact, checked)
            rows.append({"repository": repository, "artifact": str(artifact), **_row(checked)})
            lines += _lines(repository, artifact, checked)
    output.result({"checked": rows}, *(lines or ["nothing here was imported"]))
    results = {row["result"] for row in rows}
    if results & {Result.DRIFT.value, Result.GONE.value, "unverified"}:
        return FINDINGS
    return Unreachable.exit_code if Result.UNREACHABLE.value in results else 0


def _upstream(options: argparse.Namespace, settings: Settings, source: Source) -> Upstream:
    rules = _rules(options)
    if options.from_endpoint is not None and not isinstance(source, HubSource):
        raise Invalid("--from-endpoint is for hf:// sources", field="from_endpoint")
    match source:
        case HubSource():
            endpoint = endpoint_of(options.from_endpoint, rules)
            return Hub(_outside(options, settings, endpoint), endpoint, source)
        case UrlSource():
            return FileUrl(_outside(options, settings, source.url), source)
        case BucketSource():
            return Bucket(source, settings.connections)
        case FolderSource():
            raise AssertionError


def _rules(options: argparse.Namespace) -> Rules:
    return Rules(http=options.allow_http, private_addresses=options.allow_private_address)


def _outside(options: argparse.Namespace, settings: Settings, first: str) -> Outside:
    """The way to a source; its token is for the origin of the first address, and for no other."""
    rules = _rules(options)
    origin = parse(first, rules).origin
    token = _token(options.token_file, origin == ENDPOINT)
    return Outside(rules, settings.ca_file, settings.connections, token, origin)


def _token(file: Path | None, public_hub: bool) -> str | None:
    """The source's token: a file, else the variable; the hub's own variable only for the hub itself, not for a mirror."""
    if file is not None:
        try:
            return require_token(file.read_text("utf-8").strip())
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "is not text"
            raise Misconfigured(f"{file}: {why}", path=str(file)) from None
    given = os.environ.get(TOKEN_VARIABLE) or (os.environ.get(HUB_TOKEN_VARIABLE) if public_hub else None)
    return require_token(given.strip()) if given else None


def _upstream_trust(path: Path | None) -> trust.TrustPolicy | None:
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            return trust.parse(file.read(trust.MAX_POLICY_BYTES + 1))
    except OSError as error:
        raise Misconfigured(f"{path}: {error.strerror}", path=str(path)) from None


def _tell(output: Output, imported: Imported) -> None:
    made, published, manifest = imported.made, imported.pushed.published, imported.pushed.manifest
    signature = made.upstream_signature or {}
    kept = f", {size_text(imported.kept_bytes)} were there" if imported.kept_bytes else ""
    declared = sum(bool(file.upstream.keys() & {"sha256", "git-sha1"}) for file in made.files)
    if declared == len(made.files):
        held = "every digest that the source declares holds"
    else:
        held = f"the source declares the digests of {declared} files"
    who = f" by {signature['identity']}" if "identity" in signature else ""
    why = f" ({signature['why']})" if "why" in signature else ""
    output.result(
        {
            "source": made.source,
            "revision": made.revision,
            "repository": published.repository,
            "artifact": published.artifact,
            "tags": published.tags,
            "created": published.created,
            "event": published.event,
            "files": len(manifest.files),
            "size_bytes": manifest.total_bytes,
            "received_bytes": imported.transferred_bytes,
            "kept_bytes": imported.kept_bytes,
            "sent_bytes": imported.pushed.transferred_bytes,
            "declared_files": declared,
            "licence": made.licence,
            "upstream_signature": dict(signature),
            "statement": str(imported.statement),
            "fetched_by": made.fetched_by,
        },
        f"imported {made.source} at {made.revision}",
        f"{'published' if published.created else 'already published'} {published.repository}@{published.artifact}",
        f"  {len(manifest.files)} files, {size_text(manifest.total_bytes)}, received "
        f"{size_text(imported.transferred_bytes)}{kept}; {held}; tags: {', '.join(published.tags) or 'none'}",
        f"  licence: {f'{made.licence} (the source says so)' if made.licence else 'not stated'}; "
        f"upstream signature: {signature.get('verdict')}{who}{why}",
    )


def _asked(api: Api, options: argparse.Namespace) -> Iterator[tuple[str, Digest]]:
    if options.reference is not None:
        reference = parse_reference(options.reference)
        yield reference.repository, pull.resolve(api, reference)
        return
    for repository in api.repositories():
        for artifact in api.artifacts(repository.repository):
            yield repository.repository, Digest.parse(artifact.artifact)


def _stamp_of(options: argparse.Namespace, settings: Settings, api: Api, output: Output) -> Stamp:
    # A Sigstore stamps for itself.
    return None if options.no_timestamp or options.sign == "keyless" else stamp_of(settings, api, output)


def _record(
    api: Api, signer: signing.Signer, stamp: Stamp, repository: str, artifact: Digest, checked: Checked
) -> None:
    payload = attestations.build(Kind.SOURCE_CHECK, repository, artifact, checked.predicate(now()))
    bundle = signing.sign(payload, signer, stamp)
    api.attest(repository, artifact, wire_attestations.AttestationRequest(bundle=bundle.decode()))


def _row(checked: Checked) -> dict[str, Any]:
    files = [asdict(difference) for difference in checked.differences]
    return {
        "source": checked.source,
        "revision": checked.revision,
        "result": checked.result.value,
        "files": files,
        "why": checked.why,
    }


def _lines(repository: str, artifact: Digest, checked: Checked) -> list[str]:
    lines = [f"{checked.result.value:11} {repository}@{artifact}  {checked.source} at {checked.revision}"]
    lines += [
        f"  {printable(one.path)}: imported {one.imported or 'no such file'}, found {one.found or 'no such file'}"
        for one in checked.differences[: source_checking.MAX_FILES_TOLD]
    ]
    return [*lines, f"  {printable(checked.why)}"] if checked.why else lines
