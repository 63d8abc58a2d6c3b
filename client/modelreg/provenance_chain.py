"""Where an artifact came from, as far as it can be shown: signatures, statements, parents and datasets, entries of the log.

`verify` takes a provenance file, a trust policy and `now`; no network. It follows only what a signature holds up that the
policy allows: a parent is one because a verified derivation names its digest. Everything else is printed as what it is.

    verified    shown by this process          claimed     somebody's word, unsigned or not believed
    recorded    the registry's word            unknown     nobody said, or not here for this caller to see
    failed      it should hold and does not

A chain is complete when every artifact in it carries a good signature and a verified import or derivation, down to imports or
datasets, and every dataset a verified statement of its own. What is missing is named in `gaps`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

from modelreg import attestations, bundles, checkpoints, manifests, merkle, notes, provenance, receipts, verification
from modelreg.attestations import Kind, VerifiedAttestation
from modelreg.classification import Classification
from modelreg.digests import Digest, sha256_of
from modelreg.errors import (
    DigestMismatch,
    LogNotIntact,
    ModelregError,
    Refused,
    SignatureMissing,
    SignerNotAllowed,
)
from modelreg.manifests import Manifest
from modelreg.provenance import Derivation, Import
from modelreg.provenance_file import MAX_ARTIFACTS, CollectedArtifact, CollectedDataset, ProvenanceFile
from modelreg.trust import Revocations, TrustPolicy
from modelreg.verification import SignerIdentity
from modelreg.wire_attestations import AttestationInfo

SCHEMA = "modelreg/provenance/v1"
INCOMPLETE = 23  # the exit code (DESIGN §5)
MAX_DEPTH = 32
_PUBLISHED = frozenset({"artifact.published", "artifact.imported"})
_MAX_SHOWN = 200  # characters of a text that a statement holds

State = Literal["verified", "recorded", "claimed", "unknown", "failed"]


@dataclass(frozen=True)
class Line:
    """One thing that was looked at; `about` is the artifact or dataset, `depth` counts derivations from what was asked."""

    state: State
    what: str
    about: str
    depth: int
    text: str
    error: ModelregError | None = None  # of what failed


@dataclass(frozen=True)
class Stated:
    """A statement that holds: who made it, and what it says."""

    verified: VerifiedAttestation
    said: Import | Derivation | None  # of a provenance

    @property
    def digest(self) -> Digest:
        """Of its payload."""
        return self.verified.attestation.digest

    @property
    def kind(self) -> Kind:
        """What it is about."""
        return self.verified.attestation.kind

    @property
    def predicate(self) -> dict[str, Any]:
        """As it was signed."""
        return self.verified.attestation.predicate


@dataclass
class Node:
    """An artifact of the chain. `manifest` is None of an unknown one; signatures and statements are the verified ones."""

    digest: Digest
    name: str
    depth: int
    collected: CollectedArtifact | None = None
    manifest: Manifest | None = None
    signatures: list[tuple[SignerIdentity, Digest]] = field(default_factory=list)  # with the digest of the bundle
    statements: list[Stated] = field(default_factory=list)

    @property
    def imports(self) -> list[tuple[Import, Stated]]:
        """Verified statements about a source."""
        return [(one.said, one) for one in self.statements if isinstance(one.said, Import)]

    @property
    def derivations(self) -> list[tuple[Derivation, Stated]]:
        """Verified statements about parents and datasets."""
        return [(one.said, one) for one in self.statements if isinstance(one.said, Derivation)]

    @property
    def licences(self) -> list[str]:
        """What verified statements about this artifact say, each once."""
        return list(dict.fromkeys(said.licence for said, _ in self.imports if said.licence))

    @property
    def classification(self) -> Classification | None:
        """The highest that verified provenance declares."""
        declared = [one.said.classification for one in self.statements if one.said and one.said.classification]
        return max(declared, key=lambda one: one.rank, default=None)


@dataclass
class DatasetNode:
    """A dataset that a verified derivation names, with its own verified statement if there is one."""

    digest: Digest
    name: str
    statement: Stated | None = None


@dataclass
class Chain:
    """What `verify` found. `artifacts` are in the order they were reached, the one that was asked about first."""

    file: ProvenanceFile
    lines: list[Line] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    artifacts: dict[str, Node] = field(default_factory=dict)
    datasets: dict[str, DatasetNode] = field(default_factory=dict)

    @property
    def root(self) -> Node:
        """The artifact that was asked about."""
        return self.artifacts[self.file.artifact]

    @property
    def complete(self) -> bool:
        """Whether nothing failed and nothing is missing."""
        return self.exit_code == 0

    @property
    def error(self) -> ModelregError | None:
        """The first failure, if there is any."""
        return next((line.error for line in self.lines if line.error is not None), None)

    @property
    def exit_code(self) -> int:
        """That of the first failure; else 23 if something is missing, else 0."""
        if self.error is not None:
            return self.error.exit_code
        return INCOMPLETE if self.gaps else 0


def verify(file: ProvenanceFile, policy: TrustPolicy, now: datetime) -> Chain:
    """Check everything in a file that can be checked, and say of the rest what it is.

    Args:
        file: untrusted.
        policy: pinned; its `[log]` keys are those that the registry's own statements and the entries must lead to.
        now: for the freshness of the policy and the validity of certificates.
    """
    return _Walk(file, policy, now).walk()


class _Walk:
    def __init__(self, file: ProvenanceFile, policy: TrustPolicy, now: datetime) -> None:
        self._policy = policy
        self._now = now
        self._chain = Chain(file)
        self._collected = {item.artifact: item for item in reversed(file.artifacts)}  # the first of one digest counts
        self._datasets = {item.digest: item for item in reversed(file.datasets)}

    def walk(self) -> Chain:
        file, chain = self._chain.file, self._chain
        entries = self._entries()
        todo: list[tuple[Digest, str, int]] = [(Digest.parse(file.artifact), file.repository, 0)]
        while todo:
            digest, name, depth = todo.pop()
            if (seen := chain.artifacts.get(str(digest))) is not None:
                state: State = "verified" if seen.manifest is not None else "unknown"
                self._add(state, "artifact", digest, depth, f"{_short(name)} {digest}, as above")
                continue
            if len(chain.artifacts) >= MAX_ARTIFACTS:
                self._gap(f"more than {MAX_ARTIFACTS} artifacts")
                break
            node = chain.artifacts[str(digest)] = Node(digest, name, depth)
            following = self._artifact(node, entries)
            if following and depth >= MAX_DEPTH:
                self._gap(f"{digest} has parents that are more than {MAX_DEPTH} derivations away")
                continue
            todo += reversed(following)
        if cycle := _cycle(chain):
            self._gap(f"the statements go in a circle: {' <- '.join(cycle)}")
            self._add("unknown", "circle", chain.root.digest, 0, "an artifact cannot be made from itself")
        for text in file.cut:
            self._gap(f"left out: {_short(text)}")
        for text in file.unread:
            self._add("unknown", "not read", chain.root.digest, 0, _short(text))
        return chain

    def _artifact(self, node: Node, entries: dict[int, dict[str, Any]]) -> list[tuple[Digest, str, int]]:
        """Look at one artifact; returns its parents by verified derivations."""
        item = self._collected.get(str(node.digest))
        if item is not None and not node.depth and item.repository != self._chain.file.repository:
            item = None  # whose rules apply to what was asked about is not the registry's to say
        node.collected = item
        if item is None or item.manifest is None or item.repository is None:
            why = item.absent if item is not None and item.absent else "not in this registry for you to see"
            self._line("unknown", "artifact", node, f"{_short(node.name)} {node.digest}: {_short(why)}")
            self._gap(f"the artifact {node.digest} ({_short(node.name)}) is unknown: {_short(why)}")
            return []
        self._manifest(node, item)
        self._signatures(node, item, item.repository)
        if item.recall is not None:
            text = f"{item.recall.kind.upper()} since {_time(item.recall.created_at)}: {_short(item.recall.reason)}"
            self._line("recorded", "recall", node, text)
        if item.published_at is not None:
            tags = f"; tags: {', '.join(item.tags)}" if item.tags else ""
            self._line(
                "recorded", "published", node, f"{_time(item.published_at)} by {_short(item.published_by or '?')}{tags}"
            )
        if item.classification is not None:
            self._line("recorded", "class", node, item.classification.value)
        self._log(node, entries)
        for statement in item.statements:
            self._statement(node, item.repository, statement)
        if not any(one.kind is Kind.PROVENANCE for one in node.statements):
            self._line("unknown", "origin", node, "no verified statement says where it came from")
            self._gap(f"no verified import or derivation of {node.digest} ({_short(node.name)})")
        following = self._derivations(node)
        attested = {str(digest) for digest, _, _ in following}
        for parent in item.claimed:
            if parent.artifact not in attested:
                self._line(
                    "claimed", "parent", node, f"{_short(parent.relation)} of {parent.artifact} (event {parent.event})"
                )
        return following

    def _manifest(self, node: Node, item: CollectedArtifact) -> None:
        raw = (item.manifest or "").encode()
        try:
            if (measured := sha256_of(raw)) != node.digest:
                raise DigestMismatch(f"the manifest in the file is {measured}, not {node.digest}")
            node.manifest = manifests.parse(raw)
        except ModelregError as error:
            self._fail("artifact", node, error)
            return
        count = len(node.manifest.files)
        size = f"{count} files, {node.manifest.total_bytes} bytes"
        self._line(
            "verified", "artifact", node, f"{item.repository}@{node.digest}: {size}; the manifest's digest is its own"
        )

    def _signatures(self, node: Node, item: CollectedArtifact, repository: str) -> None:
        """One signature must hold; others may be of signers that this policy does not know."""
        if node.manifest is None:
            return
        refused: list[ModelregError] = []
        for row in item.signatures:
            raw = row.bundle.encode()
            try:
                signer, recalled = self._signer(raw, node.manifest, repository)
            except ModelregError as error:
                refused.append(error)
                continue
            node.signatures.append((signer, sha256_of(raw)))
            self._line("verified", "signature", node, f"{_by(signer)}, {_made(signer)}{recalled}")
        if not node.signatures:
            missing = SignatureMissing(f"{repository}@{node.digest} has no signature in the file")
            self._fail("signature", node, refused[0] if refused else missing)
            return
        for refusal in refused:
            self._line("recorded", "signature", node, f"another is not believed by this trust policy: {refusal.detail}")

    def _signer(self, raw: bytes, manifest: Manifest, repository: str) -> tuple[SignerIdentity, str]:
        """Who signed. What is recalled today was signed all the same: this says where it came from, not whether to use it."""

        def check(by: TrustPolicy) -> SignerIdentity:
            return verification.verify(
                raw, manifest.raw, policy=by, repository=repository, now=self._now, artifact=manifest.digest
            ).signer

        try:
            return check(self._policy), ""
        except Refused as refusal:
            if refusal.facts.get("artifact") != str(manifest.digest):
                raise  # a signer or key that is distrusted says nothing
            listed = self._policy.revocations
            without = Revocations(listed.updated_at, listed.max_age, frozenset(), listed.signers)
            return check(replace(self._policy, revocations=without)), f"; TODAY IT IS REFUSED: {refusal.detail}"

    def _statement(self, node: Node, repository: str, info: AttestationInfo) -> None:
        try:
            stated = self._stated(info, repository, node.digest)
        except ModelregError as error:
            text = f"{_short(info.kind)} by {_short(info.identity)}, not believed here: {error.detail}"
            self._line("recorded", "statement", node, text)
            return
        node.statements.append(stated)
        signer = stated.verified.signer
        self._line("verified", _word(stated), node, f"{words_of(stated)}; stated by {_by(signer)} as {stated.digest}")

    def _stated(self, info: AttestationInfo, repository: str, subject: Digest) -> Stated:
        raw = info.bundle.encode()
        kind = attestations.parse(bundles.parse(raw).payload).kind
        if info.authority == attestations.REGISTRY or kind in {Kind.VERDICT, Kind.PERMIT}:
            if self._policy.log is None:
                raise SignerNotAllowed("the trust policy pins no custody log, whose key the registry signs with")
            verified = attestations.verify_registrys(
                raw, log=self._policy.log, repository=repository, now=self._now, kind=kind, subject=subject
            )
        else:
            verified = attestations.verify(
                raw, policy=self._policy, repository=repository, now=self._now, subject=subject
            )
        said = verified.attestation
        return Stated(verified, provenance.read(said.predicate) if said.kind is Kind.PROVENANCE else None)

    def _derivations(self, node: Node) -> list[tuple[Digest, str, int]]:
        following: dict[Digest, str] = {}
        for said, _ in node.derivations:
            for parent in said.parents:
                following.setdefault(parent.digest, parent.name)
            for dataset in said.datasets:
                self._dataset(node, dataset)
        return [(digest, name, node.depth + 1) for digest, name in following.items()]

    def _dataset(self, node: Node, named: provenance.Input) -> None:
        where = node.depth + 1
        text = f"{_short(named.name)} {named.digest}"
        if str(named.digest) in self._chain.datasets:
            self._add("verified", "dataset", named.digest, where, f"{text}, as above")
            return
        dataset = self._chain.datasets[str(named.digest)] = DatasetNode(named.digest, named.name)
        refused = ""
        item = self._datasets.get(str(named.digest), CollectedDataset(digest=str(named.digest), name=named.name))
        for info in item.statements:
            try:
                stated = self._stated(info, named.name, named.digest)
                if stated.kind is not Kind.DATASET:
                    continue
            except ModelregError as error:
                refused = f" ({error.detail})"
                continue
            dataset.statement = stated  # the newest one that holds
        if dataset.statement is None:
            self._add(
                "recorded", "dataset", named.digest, where, f"{text}: no statement of its own is verified{refused}"
            )
            self._gap(f"the dataset {text} has no verified statement of its own")
            return
        by = _by(dataset.statement.verified.signer)
        self._add("verified", "dataset", named.digest, where, f"{text}: {words_of(dataset.statement)}; stated by {by}")

    def _entries(self) -> dict[int, dict[str, Any]]:
        """The entries that lead to a checkpoint of the pinned log, by index."""
        file, root = self._chain.file, Digest.parse(self._chain.file.artifact)
        if file.checkpoint is None or not file.entries:
            return {}
        if self._policy.log is None:
            self._add("recorded", "log", root, 0, "the trust policy pins no custody log, so entries prove nothing here")
            return {}
        found: dict[int, dict[str, Any]] = {}
        try:
            head = checkpoints.verify(file.checkpoint.encode(), self._policy.log)
            for event in file.entries:
                raw = event.entry.encode()
                path = notes.decode_hashes(event.path, merkle.MAX_PROOF_HASHES)
                merkle.verify_inclusion(merkle.leaf_hash(raw), event.index, head.size, path, head.root)
                found[event.index] = receipts.members_of(raw)
        except ModelregError as error:
            self._chain.lines.append(Line("failed", "log", str(root), 0, f"{error.title}: {error.detail}", error))
            return {}
        self._add(
            "verified", "log", root, 0, f"checkpoint of {head.origin}, {head.size} entries; {len(found)} shown below"
        )
        return found

    def _log(self, node: Node, entries: dict[int, dict[str, Any]]) -> None:
        """What the log says of this artifact; what the file says beside it must not contradict it."""
        item = node.collected
        assert item is not None
        told = {row.event: row for row in item.statements}
        for index, members in sorted(entries.items()):
            if members.get("artifact") != str(node.digest) or members.get("repository") != item.repository:
                continue
            kind, detail = str(members["type"]), members.get("detail")
            named_as = "verdict" if kind.startswith("promotion.") else "statement"
            said = detail.get(named_as) if isinstance(detail, dict) else None
            row = told.get(index)
            if row is not None and kind not in _PUBLISHED and said != row.statement:
                self._fail("log", node, LogNotIntact(f"entry {index} does not record the statement {row.statement}"))
                continue
            statement = f", {_short(said)}" if isinstance(said, str) else ""
            at = _time(datetime.fromisoformat(members["time"]))
            self._line("verified", "log", node, f"entry {index}: {kind} at {at}{statement}")

    def _line(self, state: State, what: str, node: Node, text: str) -> None:
        self._add(state, what, node.digest, node.depth, text)

    def _add(self, state: State, what: str, about: Digest, depth: int, text: str) -> None:
        self._chain.lines.append(Line(state, what, str(about), depth, text))

    def _fail(self, what: str, node: Node, error: ModelregError) -> None:
        """Of the artifact that was asked about a failure; of an ancestor, one more thing that is not shown."""
        text = f"{error.title}: {error.detail}"
        if node.depth and not isinstance(error, LogNotIntact):
            self._line("claimed", what, node, text)
            self._gap(f"{what} of {node.digest} ({_short(node.name)}): {error.detail}")
            return
        self._chain.lines.append(Line("failed", what, str(node.digest), node.depth, text, error))

    def _gap(self, text: str) -> None:
        self._chain.gaps.append(text)


def _cycle(chain: Chain) -> list[str]:
    """A way from an artifact back to itself, by verified derivations; O(edges)."""
    parents = {
        name: [str(parent.digest) for said, _ in node.derivations for parent in said.parents]
        for name, node in chain.artifacts.items()
    }
    done: set[str] = set()
    for start in parents:
        path: list[str] = []
        open_: list[Iterator[str]] = [iter([start])]
        while open_:
            name = next(open_[-1], None)
            if name is None:
                open_.pop()
                if path:
                    done.add(path.pop())
            elif name in path:
                return [*path[path.index(name) :], name]
            elif name not in done:
                path.append(name)
                open_.append(iter(parents.get(name, ())))
    return []


def _word(stated: Stated) -> str:
    match stated.said:
        case Import():
            return "import"
        case Derivation():
            return "derivation"
        case _:
            return stated.kind.value


def words_of(stated: Stated) -> str:
    """What a statement says, for people; its texts are the signer's."""
    match stated.said:
        case Import() as said:
            return _imported(said)
        case Derivation() as said:
            run = f", training run {_short(said.training_run)}" if said.training_run else ""
            declared = f", declared {said.classification}" if said.classification else ""
            return (
                f"{said.relation} of {_count(said.parents, 'parent')} and {_count(said.datasets, 'dataset')}"
                f"{run}{declared}"
            )
        case _:
            return _SAYS.get(stated.kind, _nothing)(stated.predicate)


def _imported(said: Import) -> str:
    declared = sum(bool(file.upstream) for file in said.files)
    differing = [
        file.path for file in said.files if "sha256" in file.upstream and file.upstream["sha256"] != file.sha256
    ]
    upstream = f"upstream declares digests of {declared}"
    if differing:
        upstream += f", and {len(differing)} differ"
    licence = f", licence {_short(said.licence)}" if said.licence else ""
    signature = ""
    if said.upstream_signature is not None:
        signature = f", upstream signature {_short(str(said.upstream_signature.get('verdict')))}"
    return (
        f"from {_short(said.source)} at {_short(said.revision)}, {len(said.files)} files ({upstream}), fetched by "
        f"{_short(said.fetched_by)}{licence}{signature}"
    )


def _scanned(predicate: dict[str, Any]) -> str:
    findings = predicate.get("findings")
    count = len(findings) if isinstance(findings, list) else "?"
    blocking = (
        sum(isinstance(one, dict) and one.get("severity") == "block" for one in findings)
        if isinstance(findings, list)
        else "?"
    )
    whole = "everything was understood" if predicate.get("complete") is True else "not everything was understood"
    tool, rules = _member(predicate, "tool"), _member(predicate, "rules_version")
    return f"{count} findings ({blocking} blocking), {whole}; {tool} with rules {rules} at {_member(predicate, 'scanned_at')}"


def _judged(predicate: dict[str, Any]) -> str:
    return f"{_member(predicate, 'verificationResult')} for {_member(predicate, 'resourceUri')}"


def _registered(predicate: dict[str, Any]) -> str:
    return f"class {_member(predicate, 'classification')}, owner {_member(predicate, 'owner')}"


def _for_environment(predicate: dict[str, Any]) -> str:
    return f"for {_member(predicate, 'environment')}"


def _waived(predicate: dict[str, Any]) -> str:
    return (
        f"{_member(predicate, 'rule')} for {_member(predicate, 'environment')} until {_member(predicate, 'expires_at')}"
    )


def _nothing(_predicate: dict[str, Any]) -> str:
    return "see the statement"


_SAYS = {
    Kind.SCAN: _scanned,
    Kind.VERDICT: _judged,
    Kind.DATASET: _registered,
    Kind.APPROVAL: _for_environment,
    Kind.WAIVER: _waived,
}


def _member(predicate: dict[str, Any], name: str) -> str:
    value = predicate.get(name)
    return _short(value) if isinstance(value, str) else "?"


def _by(signer: SignerIdentity) -> str:
    return f"{signer.identity} ({signer.authority})"


def _made(signer: SignerIdentity) -> str:
    return f"made by {_time(signer.signed_at)}" if signer.signed_at else "at an unproven time"


def _time(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"


def _count(inputs: Sequence[provenance.Input], word: str) -> str:
    return f"{len(inputs)} {word}{'' if len(inputs) == 1 else 's'}"


def _short(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"
