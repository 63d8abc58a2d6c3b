"""An evidence file: what a registry recorded of one artifact, for others to check without it (docs/spec/evidence.md).

It is one canonical JSON object (RFC 8785 and a line end): the manifest, every signature, every log entry about the artifact
with its proof against one checkpoint, who stands behind the entries as far as that was not erased, derivations and recalls.
`verify` takes bytes, a trust policy and `now`; it needs no network and no local store.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from modelreg import checkpoints, manifests, merkle, notes, receipts, verification
from modelreg.canonical import canonical_json, strict_json
from modelreg.checkpoints import Checkpoint
from modelreg.digests import Digest, sha256_of
from modelreg.errors import (
    DigestMismatch,
    Invalid,
    LogNotIntact,
    ModelregError,
    Refused,
    SignatureMissing,
    TooLarge,
)
from modelreg.trust import Revocations, TrustPolicy
from modelreg.wire import ArtifactDigest, Wire
from modelreg.wire_evidence import (
    EvidenceDerivation,
    EvidenceEvent,
    EvidenceOpening,
    EvidencePublication,
    EvidenceRecall,
    EvidenceTrust,
    ShortText,
)

SCHEMA = "modelreg/evidence/v1"
REPORT_SCHEMA = "modelreg/evidence-report/v1"
MAX_FILE_BYTES = 256 * 1024 * 1024
MAX_EVENTS = 100_000
MAX_VALUES = 16_000_000  # commas and brackets, those in texts as well: what a parsed file costs in memory
_TRUST_PUBLISHED = "trust.published"
_RECALLED = {"quarantine": "artifact.quarantined", "revocation": "artifact.revoked"}
_LIFTED = frozenset({"artifact.released", "artifact.revoked"})  # a revocation takes the place of a quarantine
_SECOND = timedelta(seconds=1)
_SIGNED = frozenset({"artifact.published", "artifact.signed"})

State = Literal["verified", "recorded", "missing", "unprovable", "failed"]


class EvidenceFile(Wire):
    """The file's members. `events_cut`: there were more entries than a file takes, and the newest are not in it."""

    model_config = ConfigDict(populate_by_name=True)

    schema_: Annotated[Literal["modelreg/evidence/v1"], Field(alias="schema")]
    artifact: ArtifactDigest
    created_at: datetime
    tool: ShortText
    registry: ShortText
    manifest: str
    publications: list[EvidencePublication]
    checkpoint: Annotated[str, Field(max_length=notes.MAX_NOTE_BYTES)]
    events: Annotated[list[EvidenceEvent], Field(max_length=MAX_EVENTS)]
    events_cut: bool
    openings: Annotated[list[EvidenceOpening], Field(max_length=2 * MAX_EVENTS)]
    derivations: list[EvidenceDerivation]
    recalls: list[EvidenceRecall]
    trust: EvidenceTrust | None


@dataclass(frozen=True)
class Part:
    """One thing that was looked at.

    `verified`: shown by this process. `recorded`: the registry's word. `missing`: not in the file. `unprovable`: no file could
    show it. `failed`: it should hold and does not; `exit_code` says of which kind.
    """

    name: str
    state: State
    text: str
    exit_code: int = 0


@dataclass
class Report:
    """What `verify` found, in order."""

    artifact: Digest
    file: EvidenceFile
    parts: list[Part] = field(default_factory=list)
    log_verified: bool = False

    @property
    def exit_code(self) -> int:
        """That of the first part that failed, else 0."""
        return next((part.exit_code for part in self.parts if part.state == "failed"), 0)

    def add(self, name: str, state: State, text: str) -> None:
        """Note a part that did not fail."""
        self.parts.append(Part(name, state, text))

    def add_from_log(self, name: str, text: str) -> None:
        """Note what the entries show: no more than the checkpoint that they lead to."""
        self.add(name, "verified" if self.log_verified else "recorded", text)

    def fail(self, name: str, error: ModelregError) -> None:
        """Note a part that failed."""
        self.parts.append(Part(name, "failed", f"{error.title}: {error.detail}", error.exit_code))


def render(file: EvidenceFile) -> bytes:
    """The file's one form.

    Raises:
        TooLarge: more bytes than a reader takes.
    """
    raw = canonical_json(file.model_dump(mode="json", by_alias=True)) + b"\n"
    if len(raw) > MAX_FILE_BYTES:
        raise TooLarge(f"the evidence has {len(raw)} bytes; the limit is {MAX_FILE_BYTES}", limit=MAX_FILE_BYTES)
    return raw


def parse(raw: bytes) -> EvidenceFile:
    """Read an untrusted evidence file; accepts exactly what `render` writes.

    Raises:
        Invalid: it is none; the message says where.
    """
    if len(raw) > MAX_FILE_BYTES:
        raise Invalid(
            f"the file is larger than the {MAX_FILE_BYTES} bytes that an evidence file may have", field="file"
        )
    if sum(raw.count(mark) for mark in (b"{", b"[", b",")) > MAX_VALUES:
        raise Invalid(f"not an evidence file: it holds more than {MAX_VALUES} values", field="file")
    try:
        document = strict_json(raw)
        file = EvidenceFile.model_validate(document)
        same = render(file) == raw
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = "/".join(str(part) for part in first["loc"])
        raise Invalid(f"not an evidence file: {ascii(where)[1:-1][:200]}: {first['msg']}", field="file") from None
    except (ValueError, RecursionError) as error:
        raise Invalid(f"not an evidence file: {str(error)[:200]}", field="file") from None
    if not same:
        raise Invalid("not an evidence file: not in canonical form (RFC 8785 and a line end)", field="file")
    return file


def verify(file: EvidenceFile, policy: TrustPolicy, now: datetime) -> Report:
    """Check everything in a file that can be checked, and say of the rest what it is.

    Args:
        file: untrusted.
        policy: pinned; its `[log]` table names the log, its witnesses and how many of them are demanded.
        now: for the freshness of the policy and the validity of certificates.

    What fails stands in the report, and the rest is looked at all the same.
    """
    report = Report(Digest.parse(file.artifact), file)
    _verify_manifest(report)
    for publication in file.publications:
        _verify_publication(report, publication, policy, now)
    if not file.publications:
        report.fail("signature", SignatureMissing("the file holds no publication and no signature"))
    checkpoint = _verify_checkpoint(report, policy)
    entries = _verify_events(report, checkpoint)
    if entries is not None:
        _compare_with_log(report, entries)
        _verify_identities(report, entries)
    _describe_records(report, entries or {}, policy)
    return report


def _verify_manifest(report: Report) -> None:
    raw = report.file.manifest.encode()
    try:
        if (measured := sha256_of(raw)) != report.artifact:
            raise DigestMismatch(f"the manifest in the file is {measured}, the file is about {report.artifact}")
        manifest = manifests.parse(raw)
    except ModelregError as error:
        report.fail("manifest", error)
        return
    report.add(
        "manifest",
        "verified",
        f"{len(manifest.files)} files, {manifest.total_bytes} bytes; its digest is the artifact's",
    )


def _verify_publication(report: Report, publication: EvidencePublication, policy: TrustPolicy, now: datetime) -> None:
    """One signature must hold by the rules for the repository; others may be of signers that this policy does not know."""
    name = f"signature {publication.repository}"
    good: list[str] = []
    bad: list[ModelregError] = []
    for signature in publication.signatures:
        try:
            good.append(_verify_signature(report, signature.bundle.encode(), policy, publication.repository, now))
        except ModelregError as error:
            bad.append(error)
    for text in good:
        report.add(name, "verified", text)
    if good:
        for refusal in bad:
            report.add(name, "recorded", f"another signature is not verified by this trust policy: {refusal.detail}")
    else:
        report.fail(name, bad[0] if bad else SignatureMissing(f"{publication.repository} has no signature in the file"))


def _verify_signature(report: Report, raw_bundle: bytes, policy: TrustPolicy, repository: str, now: datetime) -> str:
    """What holds of a bundle. What is recalled today was signed all the same: evidence is about what happened."""
    raw_manifest = report.file.manifest.encode()

    def check(by: TrustPolicy) -> verification.VerifiedManifest:
        return verification.verify(
            raw_bundle, raw_manifest, policy=by, repository=repository, now=now, artifact=report.artifact
        )

    recalled = ""
    try:
        verified = check(policy)
    except Refused as refusal:
        listed = policy.revocations
        verified = check(replace(policy, revocations=Revocations(listed.updated_at, listed.max_age, frozenset(), ())))
        recalled = f"; TODAY IT IS REFUSED: {refusal.detail}"
    signer = verified.signer
    at = f", made by {signer.signed_at:%Y-%m-%d %H:%M:%S}Z" if signer.signed_at else ", at an unproven time"
    return f"by {signer.identity} ({signer.authority}){at}, over this manifest{recalled}"


def _verify_checkpoint(report: Report, policy: TrustPolicy) -> Checkpoint | None:
    """The checkpoint if it can be read at all; whether it is believed stands in the report."""
    note = report.file.checkpoint.encode()
    try:
        claimed = checkpoints.parse(note)
        if policy.log is None:
            raise LogNotIntact(
                f"the trust policy pins no custody log, so that nothing shows whose log {claimed.origin[:200]} is; add its "
                "key in a [log] table"
            )
    except ModelregError as error:
        report.fail("log", error)
        return None
    try:
        checkpoint = checkpoints.verify(note, policy.log)
    except ModelregError as error:
        report.fail("log", error)
        return claimed
    report.log_verified = True
    count = len(checkpoint.witnessed_at)
    by = f"{count} of {len(policy.log.witnesses)} known witnesses ({policy.log.required_witnesses} demanded)"
    report.add(
        "log", "verified", f"checkpoint of {checkpoint.origin}, {checkpoint.size} entries, signed by its key and {by}"
    )
    return checkpoint


def _verify_events(report: Report, checkpoint: Checkpoint | None) -> dict[int, dict[str, Any]] | None:
    """The entries by index, if every one leads to the checkpoint."""
    events, entries = report.file.events, {}
    if checkpoint is None:
        report.add("events", "recorded", f"{len(events)} entries, which nothing connects to a log")
        return None
    last = -1
    try:
        for event in events:
            if event.index <= last:
                raise LogNotIntact(f"entry {event.index} does not stand after entry {last}")
            last, raw = event.index, event.entry.encode()
            path = notes.decode_hashes(event.path, merkle.MAX_PROOF_HASHES)
            merkle.verify_inclusion(merkle.leaf_hash(raw), event.index, checkpoint.size, path, checkpoint.root)
            members = receipts.members_of(raw)
            if members.get("artifact") != str(report.artifact) and members["type"] != _TRUST_PUBLISHED:
                raise LogNotIntact(f"entry {event.index} is about something else")
            entries[event.index] = members
    except ModelregError as error:
        report.fail("events", error)
        return None
    report.add_from_log("events", f"all {len(events)} entries are in the log of that checkpoint")
    return entries


def _compare_with_log(report: Report, entries: Mapping[int, Mapping[str, Any]]) -> None:
    """What the file says beside the log must not contradict it."""
    named: dict[str, set[str]] = {}
    for members in entries.values():
        detail = members.get("detail")
        if members["type"] in _SIGNED and isinstance(detail, dict):
            named.setdefault(str(members.get("repository")), set()).add(str(detail.get("bundle")))
    for publication in report.file.publications:
        entry = entries.get(publication.event)
        name = f"publication {publication.repository}"
        if entry is None or entry["type"] != "artifact.published" or entry.get("repository") != publication.repository:
            report.fail(name, LogNotIntact(f"entry {publication.event} does not say that it was published there"))
            continue
        bundles = {str(sha256_of(signature.bundle.encode())) for signature in publication.signatures}
        known = len(bundles & named.get(publication.repository, set()))
        report.add_from_log(
            name,
            f"entry {publication.event}, {entry['time']}; the log names {known} of the {len(bundles)} signatures in the file",
        )


def _verify_identities(report: Report, entries: Mapping[int, Mapping[str, Any]]) -> None:
    """Openings against the commitments in the entries; each opening must have its entry."""
    wanted = {
        value
        for members in entries.values()
        for name in ("actor", "about")
        if isinstance(value := members.get(name), str)
    }
    opened: set[str] = set()
    try:
        for opening in report.file.openings:
            salt = notes.decode_hashes([opening.salt], 1)[0]
            if hashlib.sha256(salt + canonical_json(opening.body)).hexdigest() != opening.commitment:
                raise DigestMismatch(f"what is said to stand behind {opening.commitment} does not")
            if opening.commitment not in wanted or opening.commitment in opened:
                raise DigestMismatch(f"no entry holds {opening.commitment}, or it is opened twice")
            opened.add(opening.commitment)
    except LogNotIntact as error:
        report.fail("identities", DigestMismatch(error.detail))
        return
    except ModelregError as error:
        report.fail("identities", error)
        return
    if opened:
        report.add_from_log(
            "identities", f"{len(opened)} are those that the entries commit to; who they were is the registry's word"
        )
    if missing := len(wanted - opened):
        report.add("identities", "missing", f"{missing} are erased or withheld")


def _describe_recall(report: Report, recall: EvidenceRecall, entries: Mapping[int, Mapping[str, Any]]) -> None:
    """What the file says of a recall is verified only as far as its entries say the same."""
    entry, ended = entries.get(recall.event), -1 if recall.lifted_event is None else recall.lifted_event
    end = entries.get(ended)
    lifted = ""
    if recall.lifted_at is not None:
        lifted = f", lifted by entry {recall.lifted_event} at {recall.lifted_at:%Y-%m-%d %H:%M:%S}Z"
    text = f"{recall.kind} as entry {recall.event}: {recall.reason}{lifted}"
    if entry is None or entry["type"] not in _RECALLED.values():
        report.add("recall", "recorded", text)
        return
    detail = entry.get("detail")
    reason = detail.get("reason") if isinstance(detail, dict) else None
    if entry["type"] != _RECALLED.get(recall.kind) or reason != recall.reason:
        report.fail("recall", LogNotIntact(f"entry {recall.event} is not what the file says of it: {text}"))
    elif recall.lifted_at is None and recall.lifted_event is None:
        report.add_from_log("recall", text)
    elif end is None and report.file.events_cut:
        report.add("recall", "recorded", text)
    elif (
        recall.lifted_at is None
        or end is None
        or end["type"] not in _LIFTED
        or ended <= recall.event
        or abs(datetime.fromisoformat(end["time"]) - recall.lifted_at) >= _SECOND
    ):
        report.fail("recall", LogNotIntact(f"no entry of the file says that this was lifted so: {text}"))
    else:
        report.add_from_log("recall", text)


def _describe_records(report: Report, entries: Mapping[int, Mapping[str, Any]], policy: TrustPolicy) -> None:
    file = report.file
    for recall in file.recalls:
        _describe_recall(report, recall, entries)
    if file.derivations:
        grades = ", ".join(sorted({row.grade for row in file.derivations}))
        report.add("derivations", "recorded", f"{len(file.derivations)} edges ({grades}), as the registry has them")
    if file.trust is None:
        report.add("trust", "missing", "the registry named no trust policy")
    else:
        same = (
            "the one used here"
            if file.trust.policy_digest == str(policy.digest)
            else f"not the one used here, {policy.digest}"
        )
        text = f"the registry went by version {file.trust.policy_version}, {file.trust.policy_digest}, {same}"
        report.add("trust", "recorded", text)
    if file.events_cut:
        report.add("events", "missing", f"the file stops after {len(file.events)} entries; the registry has more")
    report.add(
        "completeness",
        "unprovable",
        "no file can show that the log holds no other entry about this artifact; whoever may read the whole log can look "
        "(`modelreg log verify`)",
    )
    report.add(
        "times",
        "recorded",
        "the times in the entries are the registry's clock; only witnesses and time stamps bound them",
    )
