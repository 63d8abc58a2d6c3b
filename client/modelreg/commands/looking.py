"""ls, show, tag, log, config, completion."""

import argparse
import sys

from modelreg import cards, manifests, pull, wire
from modelreg.commands import carding, output_of, settings_of, size_text
from modelreg.commands.session import connect
from modelreg.digests import Digest
from modelreg.errors import Invalid, ManifestInvalid
from modelreg.references import parse_reference, parse_repository, parse_tag
from modelreg.settings import Settings


def run_ls(options: argparse.Namespace) -> int:
    """`modelreg ls [REPOSITORY]`."""
    api, output = connect(settings_of(options)), output_of(options)
    if options.repository is None:
        rows = [row.model_dump() for row in api.repositories()]
        output.table(rows, ("repository", "artifacts", "sensitive", "created_at"), "repositories")
        return 0
    repository = parse_repository(options.repository)
    found = [row.model_dump() for row in api.artifacts(repository)]
    for row in found:
        row["size"] = size_text(row["size_bytes"])
    output.table(found, ("artifact", "tags", "size", "files", "published_at", "published_by"), "artifacts")
    return 0


def run_show(options: argparse.Namespace) -> int:
    """`modelreg show REF`: what is recorded; nothing of it is verified here, `pull` and `verify` do that."""
    api, output = connect(settings_of(options)), output_of(options)
    reference = parse_reference(options.reference)
    detail = api.artifact(reference.repository, pull.resolve(api, reference))
    manifest = manifests.parse(detail.manifest.encode())
    if str(manifest.digest) != detail.info.artifact:
        raise ManifestInvalid(f"the registry showed another manifest than that of {detail.info.artifact}")
    signatures = [
        {"identity": row.identity, "authority": row.authority, "added_at": row.added_at, "added_by": row.added_by}
        for row in detail.signatures
    ]
    card = cards.find(manifest.files)
    text = carding.card_text(options, api, reference, manifest, card) if options.card and card is not None else None
    licence = cards.claimed_licence(text) if text is not None else None
    lines = [
        f"artifact    {detail.repository}@{detail.info.artifact}",
        f"tags        {', '.join(detail.info.tags) or '-'}",
        f"size        {size_text(detail.info.size_bytes)} in {detail.info.files} files",
        f"class       {detail.classification or 'not recorded'}",
        f"published   {detail.info.published_at:%Y-%m-%d %H:%M:%S}Z by {detail.info.published_by}",
        *[f"signature   {row['identity']} ({row['authority']}), as the registry recorded it" for row in signatures],
        *([f"licence     {licence}, as {card.path} claims"] if licence is not None and card is not None else []),
        *[f"  {size_text(entry.size):>12}  sha256:{entry.sha256}  {entry.path}" for entry in manifest.files],
        *(carding.lines_of(card, text) if card is not None else []),
    ]
    value = {
        **detail.info.model_dump(),
        "repository": detail.repository,
        "sensitive": detail.sensitive,
        "classification": detail.classification,
        "signatures": signatures,
        "card": {"path": card.path, "text": text, "claimed_licence": licence} if card is not None else None,
        "files": [{"path": e.path, "size": e.size, "sha256": e.sha256, "blake3": e.blake3} for e in manifest.files],
    }
    output.result(value, *lines)
    return 0


def run_tag(options: argparse.Namespace) -> int:
    """`modelreg tag REF NEW` moves; `modelreg tag REPOSITORY[:TAG]` lists, with a tag its history."""
    api, output = connect(settings_of(options)), output_of(options)
    reference = parse_reference(options.reference)
    if options.new is not None:
        request = wire.TagRequest(artifact=str(pull.resolve(api, reference)))
        moved = api.move_tag(reference.repository, parse_tag(options.new), request)
        output.result(
            moved.model_dump(), f"{reference.repository}:{moved.tag} -> {moved.artifact} (event {moved.version})"
        )
    elif reference.tag is not None:
        history = [event.model_dump() for event in api.tag_history(reference.repository, reference.tag)]
        output.table(history, ("index", "recorded_at", "artifact", "principal"), "history")
    else:
        rows = [row.model_dump() for row in api.tags(reference.repository)]
        output.table(rows, ("tag", "artifact", "version", "moved_at", "moved_by"), "tags")
    return 0


def run_log(options: argparse.Namespace) -> int:
    """`modelreg log [REF]`: custody events, oldest first; `modelreg log verify` is another command."""
    if options.reference == "verify":  # no repository is called so: they have two parts
        from modelreg.commands import auditing  # noqa: PLC0415

        return auditing.run_log_verify(options)
    api, output = connect(settings_of(options)), output_of(options)
    repository: str | None = None
    artifact: Digest | None = None
    if options.reference is not None:
        try:
            artifact = Digest.parse(options.reference)
        except Invalid:
            reference = parse_reference(options.reference)
            repository, artifact = reference.repository, reference.digest
            if reference.tag is not None and artifact is None:
                artifact = pull.resolve(api, reference)
    found = api.events(repository=repository, artifact=artifact, types=options.type, limit=options.limit)
    rows = [event.model_dump() for event in found]
    output.table(
        rows,
        ("index", "recorded_at", "type", "principal", "repository", "artifact", "tag", "host", "verified_host"),
        "events",
    )
    return 0


def run_config(options: argparse.Namespace) -> int:
    """`modelreg config show [--origin]`."""
    settings, output = settings_of(options), output_of(options)
    names = [name for name in Settings.__dataclass_fields__ if name != "origins"]
    rows = [{"setting": name, "value": getattr(settings, name), "origin": settings.origins[name]} for name in names]
    columns = ("setting", "value", "origin") if options.origin else ("setting", "value")
    output.table([{column: row[column] for column in columns} for row in rows], columns, "settings")
    return 0


def run_completion(options: argparse.Namespace) -> int:
    """`modelreg completion bash|zsh|tcsh`: a script for the shell to source."""
    import shtab  # noqa: PLC0415  # only this command needs it

    sys.stdout.write(shtab.complete(options.parser, shell=options.shell))
    return 0
