"""dataset register | show | list, declassify."""

import argparse
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from modelreg import (
    attestations,
    croissant,
    datasets,
    declaring,
    hashing,
    manifests,
    pinned,
    pull,
    signing,
    trees,
    wire,
    wire_datasets,
)
from modelreg.api import Api
from modelreg.attestations import Kind
from modelreg.classification import Classification
from modelreg.commands import now, output_of, settings_of
from modelreg.commands.revoking import parse_time
from modelreg.commands.session import connect
from modelreg.commands.weights import signer_of, stamp_of
from modelreg.croissant import Croissant
from modelreg.datasets import Dataset
from modelreg.declassification import Declassification
from modelreg.digests import Digest
from modelreg.errors import DigestMismatch, Invalid, Misconfigured, ModelregError, NotFound
from modelreg.manifests import Manifest
from modelreg.progress import Bars
from modelreg.references import parse_reference, parse_repository
from modelreg.settings import Settings
from modelreg.trust import TrustPolicy
from modelreg.wire_attestations import AttestationRequest
from modelreg.wire_datasets import DatasetInfo

_COLUMNS = ("name", "classification", "owner", "lawful_basis", "retention_until", "digest")


def run_register(options: argparse.Namespace) -> int:
    """`modelreg dataset register NAME (PATH | --digest D) --class C --lawful-basis B …`."""
    settings, output = settings_of(options), output_of(options)
    name = parse_repository(options.name)
    if (options.path is None) == (options.digest is None):
        raise Invalid("say which dataset: its folder PATH, or --digest sha256:…, one of them", field="digest")
    described = croissant.parse(_read(options.croissant)) if options.croissant is not None else None
    manifest = None
    if options.path is not None:
        with Bars(quiet=output.quiet or output.as_json) as bars:
            manifest = _measured(options.path, bars.meter)
    matched = _matched(described, manifest)
    record = _record(options, name, described, manifest)
    api = connect(settings)
    signer, stamp = _with(options, settings, api)
    request = wire.request(wire_datasets.DatasetRequest, bundle=declaring.dataset(record, signer, stamp).decode())
    made = api.register_dataset(name, request)
    output.result(
        {**made.model_dump(exclude={"bundle"}), "croissant_files_matched": matched},
        f"registered {made.name}@{made.digest} as {made.classification} (event {made.event})",
        *([f"  {matched} files are as the Croissant file says"] if matched else []),
    )
    return 0


def run_show(options: argparse.Namespace) -> int:
    """`modelreg dataset show NAME`: every record; those that hold now are verified here."""
    settings, output = settings_of(options), output_of(options)
    rows = connect(settings).dataset(parse_repository(options.name))
    policy, why = _policy(settings, output.note)
    shown: list[dict[str, Any]] = []
    lines = []
    for row in rows:
        verdict = _verdict(row, options.name, policy, why)
        shown.append({**row.model_dump(exclude={"bundle"}), "checked": verdict})
        lines += [
            f"{row.name}@{row.digest}{'' if row.current else ' (replaced)'}",
            f"  class        {row.classification}",
            f"  owner        {row.owner}",
            f"  basis        {row.lawful_basis}",
            f"  residency    {', '.join(row.residency) or 'not said'}",
            f"  retain until {f'{row.retention_until:%Y-%m-%d %H:%M}Z' if row.retention_until else 'not said'}",
            f"  source       {row.source or 'not said'}",
            f"  statement    {row.statement} by {row.identity}, event {row.event}; {verdict}",
        ]
    output.result({"datasets": shown}, *lines)
    return 0


def run_list(options: argparse.Namespace) -> int:
    """`modelreg dataset list`."""
    rows = [row.model_dump() for row in connect(settings_of(options)).datasets()]
    output_of(options).table(rows, _COLUMNS, "datasets")
    return 0


def run_declassify(options: argparse.Namespace) -> int:
    """`modelreg declassify (REF | --dataset NAME) --to CLASS --reason TEXT`."""
    settings, output = settings_of(options), output_of(options)
    api = connect(settings)
    name, digest, present = _dataset_now(api, options.dataset) if options.dataset else _artifact_now(api, options)
    if present is None:
        raise NotFound(f"nobody knows how sensitive {name}@{digest} is, so that there is nothing to lower")
    said = Declassification(digest, present, Classification(options.to), options.reason, tuple(options.approved_by))
    signer, stamp = _with(options, settings, api)
    bundle = declaring.declassification(said, name, signer, stamp).decode()
    if options.dataset:
        row = api.declassify_dataset(name, digest, wire.request(wire_datasets.DatasetRequest, bundle=bundle))
        effect = f"its owner may register it as {said.to} now"
    else:
        row = api.attest(name, digest, wire.request(AttestationRequest, bundle=bundle))
        found = api.artifact(name, digest).classification
        effect = (
            f"it is {found} now" if found == said.to else f"it is still {found}: another repository holds it as well"
        )
    output.result(
        {
            "name": name,
            "digest": str(digest),
            "from": said.was.value,
            "to": said.to.value,
            "statement": row.statement,
            "event": row.event,
        },
        f"declassified {name}@{digest} from {said.was} to {said.to} (event {row.event}); {effect}",
    )
    return 0


def _artifact_now(api: Api, options: argparse.Namespace) -> tuple[str, Digest, Classification | None]:
    reference = parse_reference(options.reference)
    digest = pull.resolve(api, reference)
    found = api.artifact(reference.repository, digest).classification
    return reference.repository, digest, Classification(found) if found is not None else None


def _dataset_now(api: Api, text: str) -> tuple[str, Digest, Classification | None]:
    reference = parse_reference(text)
    for row in api.dataset(reference.repository):
        if reference.digest is None or row.digest == str(reference.digest):
            return reference.repository, Digest.parse(row.digest), Classification(row.classification)
    raise NotFound(f"{reference.repository} has no record of {reference.digest}")


def _with(
    options: argparse.Namespace, settings: Settings, api: Api
) -> tuple[signing.Signer, Callable[[bytes], bytes | None] | None]:
    stamp = None if options.no_timestamp or options.sign == "keyless" else stamp_of(settings, api, output_of(options))
    return signer_of(settings, options.sign), stamp


def _record(options: argparse.Namespace, name: str, described: Croissant | None, manifest: Manifest | None) -> Dataset:
    owner = options.owner or (described.creator if described is not None else None)
    if owner is None:
        raise Invalid("say who answers for it: --owner", field="owner")
    source = options.source
    if source is None and described is not None:
        source = described.url or f"croissant:sha256:{described.sha256}"
    return Dataset(
        name=name,
        digest=manifest.digest if manifest is not None else Digest.parse(options.digest),
        owner=owner,
        classification=Classification(options.classification),
        lawful_basis=options.lawful_basis,
        residency=tuple(options.residency),
        retention_until=_time(options.retain_until) if options.retain_until is not None else None,
        source=source,
        stated_at=now(),
    )


def _matched(described: Croissant | None, manifest: Manifest | None) -> int:
    """How many files of the folder the Croissant file names, with the digests that they have.

    Raises:
        DigestMismatch: one has another.
    """
    if described is None or manifest is None:
        return 0
    named = [entry for entry in manifest.files if entry.path in described.files]
    for entry in named:
        if described.files[entry.path] != entry.sha256:
            raise DigestMismatch(
                f"{entry.path} is not the file that the Croissant file describes",
                path=entry.path,
                expected=f"sha256:{described.files[entry.path]}",
                measured=f"sha256:{entry.sha256}",
            )
    return len(named)


def _measured(path: Path, meter: Callable[[str, int], hashing.Progress]) -> Manifest:
    present = trees.list_files(path)
    total = sum((path / name).lstat().st_size for name in present if name.split("/")[0] not in trees.LEFT_OUT)
    return manifests.build(hashing.hash_tree(path, left_out=trees.LEFT_OUT, progress=meter("hashing", total)))


def _policy(settings: Settings, note: Callable[[str], None]) -> tuple[TrustPolicy | None, str]:
    try:
        return pinned.policy_of(settings, note), ""
    except ModelregError as error:
        return None, error.detail


def _verdict(row: DatasetInfo, name: str, policy: TrustPolicy | None, why: str) -> str:
    """What this machine finds when it verifies a record itself."""
    if row.bundle is None:
        return "recorded"
    if policy is None:
        return f"recorded; not verified: {why}"
    try:
        said = attestations.verify(
            row.bundle.encode(),
            policy=policy,
            repository=name,
            now=now(),
            subject=Digest.parse(row.digest),
            kind=Kind.DATASET,
        )
        record = datasets.read(said.attestation.subjects[0], said.attestation.predicate)
    except ModelregError as error:
        return f"recorded; not verified: {error.detail}"
    same = (record.name, record.classification, record.owner, record.lawful_basis, list(record.residency))
    if same != (row.name, row.classification, row.owner, row.lawful_basis, row.residency):
        return "NOT WHAT WAS SIGNED: the registry shows another record than its statement"
    return f"verified ({said.signer.identity})"


def _time(text: str) -> datetime:
    """A day means its first instant, in UTC."""
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        return parse_time(text)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(croissant.MAX_CROISSANT_BYTES + 1)
    except OSError as error:
        raise Misconfigured(f"{path}: {error.strerror}", path=str(path)) from None
