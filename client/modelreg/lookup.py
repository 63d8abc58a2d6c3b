"""The questions of an incident, one function each.

Signatures are verified here, or said to be recorded only; everything else in an answer is the registry's word.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from modelreg import answers, formats, hashing, manifests, statements, trees, verification
from modelreg.answers import Answer, Checked, Found, LocalFile, RecordedSignature
from modelreg.api import Api
from modelreg.digests import Digest
from modelreg.errors import Invalid, ModelregError, NotFound, Unreachable
from modelreg.hashing import Progress
from modelreg.manifests import Manifest
from modelreg.references import parse_reference
from modelreg.trust import TrustPolicy

A = TypeVar("A", bound=Answer)

PAGE = 1000  # the registry's own limit
MAX_ROWS = 100_000
_HERE = ("/", "./", "../")  # what begins so is on this machine, whatever else it could be


@dataclass(frozen=True)
class Question:
    """A digest of anything, or a tag of a repository; a repository alone only for `timeline`."""

    digest: str | None = None
    repository: str | None = None
    tag: str | None = None


@dataclass(frozen=True)
class Judge:
    """What signatures are verified by; without a policy nothing is, and `why_not` says why there is none."""

    policy: TrustPolicy | None
    now: datetime
    why_not: str = "no trust policy was given"


def question_of(text: str, *, progress: Progress | None = None) -> tuple[Question, LocalFile | None]:
    """Read DIGEST, FILE or REF; a file (or folder) is measured here, and asked for by its SHA-256 (its artifact digest).

    A digest is a digest; the name of a file that is here wins over a reference. A folder is taken for one only if it is
    written as a path (`./model`), for its name may well be a repository's.

    Raises:
        Invalid: none of the three.
        NotFound: written as a path, and not there.
    """
    if text.startswith(("sha256:", "blake3:")):
        return Question(digest=str(Digest.parse(text))), None
    path = Path(text)
    if path.is_file():
        local = _measured_file(path, progress)
        return Question(digest=local.sha256), local
    if text.startswith(_HERE) or text in {".", ".."}:
        if not path.is_dir():
            raise NotFound(f"{text} does not exist", path=text[:200])
        local = _measured_folder(path, progress)
        return Question(digest=local.sha256), local
    reference = parse_reference(text)
    if reference.digest is not None:
        return Question(digest=str(reference.digest), repository=reference.repository, tag=reference.tag), None
    return Question(repository=reference.repository, tag=reference.tag), None


def trace(
    api: Api,
    question: Question,
    judge: Judge | None = None,
    *,
    local: LocalFile | None = None,
    at: datetime | None = None,
) -> answers.TraceAnswer:
    """What is it? With a judge, signatures are verified; without one they are what the registry recorded."""
    found = _ask(api, "trace", question, answers.TraceAnswer, at)
    signed = signatures(api, question, judge, at=at).signatures if judge is not None and found.artifacts else None
    traced = []
    for artifact in found.artifacts:
        rows = artifact.signatures if signed is None else [s for s in signed if s.artifact == artifact.found.artifact]
        traced.append(
            artifact.model_copy(update={"signatures": [_unchecked(row) if signed is None else row for row in rows]})
        )
    return found.model_copy(update={"artifacts": traced, "local": local})


def signatures(
    api: Api, question: Question, judge: Judge | None, *, at: datetime | None = None
) -> answers.SignaturesAnswer:
    """Who signed it, and does it hold? Each signature is verified on its own, by the policy and the time of now."""
    found = _ask(api, "signatures", question, answers.SignaturesAnswer, at)
    raw = {row.artifact: row.manifest for row in found.manifests}
    ways: dict[str, list[Found]] = {}
    for way in found.found:
        ways.setdefault(way.artifact, []).append(way)
    checked = [
        row.model_copy(
            update={
                "checked": None if judge is None else _check(row, raw.get(row.artifact), ways, question, judge),
                "bundle": None,
            }
        )
        for row in found.signatures
    ]
    return found.model_copy(update={"signatures": checked, "manifests": []})


def pulls(
    api: Api, question: Question, *, since: datetime | None = None, at: datetime | None = None, limit: int = 100
) -> answers.PullsAnswer:
    """Who pulled it? The newest decisions, newest first."""
    more = {"since": since.isoformat()} if since is not None else {}
    first: answers.PullsAnswer | None = None
    rows: list[answers.PullRow] = []
    unknown = 0
    before: int | None = None
    while first is None or before is not None:
        here = {"before": str(before)} if before is not None else {}
        wanted = min(PAGE, _bounded(limit) - len(rows))
        page = _ask(api, "pulls", question, answers.PullsAnswer, at, {**more, **here, "limit": str(wanted)})
        first = first or page
        rows += page.pulls
        unknown += sum(row.count for row in page.unknown)
        before = _further(api, before, page.next_before) if len(rows) < limit else None
    left_out = first.granted + first.refused > len(rows)
    told = [row.model_copy(update={"count": unknown}) for row in page.unknown or first.unknown]
    return first.model_copy(
        update={
            "pulls": rows,
            "truncated": left_out or page.truncated,
            "next_before": page.next_before,
            "unknown": told,
        }
    )


def loaded(
    api: Api, question: Question, *, at: datetime | None = None, ended: bool = False, limit: int = PAGE
) -> answers.LoadedAnswer:
    """Where is it loaded, now or at a time?"""
    more = {"ended": "true"} if ended else {}
    more["limit"] = str(min(_bounded(limit), PAGE))
    return _ask(api, "loaded", question, answers.LoadedAnswer, at, more)


def lineage(
    api: Api, question: Question, *, up: bool = True, down: bool = True, at: datetime | None = None
) -> answers.LineageAnswer:
    """What was it made from, and what was made of it?"""
    more = {"up": str(up).lower(), "down": str(down).lower(), "limit": str(PAGE)}
    return _ask(api, "lineage", question, answers.LineageAnswer, at, more)


def blast_radius(
    api: Api,
    question: Question | None = None,
    *,
    signer: str | None = None,
    principal: str | None = None,
    host: str | None = None,
    at: datetime | None = None,
    limit: int = PAGE,
) -> answers.BlastRadiusAnswer:
    """What does it reach: descendants, pulls, hosts, live loads, and whom to call. Ask about one thing."""
    given = {"signer": signer, "principal": principal, "host": host}
    more = {name: value for name, value in given.items() if value is not None}
    more["limit"] = str(min(_bounded(limit), PAGE))
    return _ask(api, "blast-radius", question or Question(), answers.BlastRadiusAnswer, at, more)


def timeline(api: Api, question: Question, *, at: datetime | None = None, limit: int = 100) -> answers.TimelineAnswer:
    """What happened to it? The newest events, in order; of a repository alone, everything in it."""
    pages: list[answers.TimelineAnswer] = []
    count = 0
    before: int | None = None
    while not pages or before is not None:
        here = {"before": str(before)} if before is not None else {}
        here["limit"] = str(min(PAGE, _bounded(limit) - count))
        page = _ask(api, "timeline", question, answers.TimelineAnswer, at, here, alone=True)
        pages.append(page)
        count += len(page.events)
        before = _further(api, before, page.next_before) if count < limit else None
    events = [event for page in reversed(pages) for event in page.events]
    last = pages[-1]
    update = {"events": events, "truncated": last.truncated, "next_before": last.next_before}
    return pages[0].model_copy(update=update)


def _ask(
    api: Api,
    name: str,
    question: Question,
    model: type[A],
    at: datetime | None,
    more: Mapping[str, str] | None = None,
    *,
    alone: bool = False,
) -> A:
    """Send a question; a repository without tag or digest means its `latest`, unless it may stand alone."""
    tag = question.tag
    if question.repository is not None and tag is None and question.digest is None and not alone:
        tag = parse_reference(question.repository).tag_or_default
    asked = {"digest": question.digest, "repository": question.repository, "tag": tag}
    query = [(key, value) for key, value in asked.items() if value is not None]
    query += [("at", at.isoformat())] if at is not None else []
    answer = api.look_up(name, [*query, *(more or {}).items()], model)
    for found in answer.found:
        if question.digest is not None and found.by == "artifact" and found.artifact != question.digest:
            raise Unreachable(f"{api.registry} answered about {found.artifact}, not about {question.digest}")
    return answer


def _check(
    row: RecordedSignature, raw_manifest: str | None, ways: dict[str, list[Found]], question: Question, judge: Judge
) -> Checked:
    if judge.policy is None:
        return Checked(verified=False, code="no-trust-policy", why_not=judge.why_not)
    if row.bundle is None or raw_manifest is None:
        why = "too large for one answer; `modelreg pull` and `modelreg verify` look at it"
        return Checked(verified=False, code="too-large", why_not=why)
    try:
        verified = verification.verify_any(
            [row.bundle.encode()],
            raw_manifest.encode(),
            policy=judge.policy,
            repository=row.repository,
            now=judge.now,
            artifact=Digest.parse(row.artifact),
        )
    except ModelregError as error:
        return Checked(verified=False, code=error.code, why_not=error.detail)
    if not any(_leads_to(verified.manifest, way, question.digest) for way in ways.get(row.artifact, ())):
        why = "the signature holds, and the signed files are not what was asked for: the registry answered wrongly"
        return Checked(verified=False, code="digest-mismatch", why_not=why)
    signer = verified.signer
    return Checked(verified=True, identity=signer.identity, authority=signer.authority, signed_at=signer.signed_at)


def _leads_to(manifest: Manifest, way: Found, asked: str | None) -> bool:
    """Whether a verified manifest holds what was asked for, in the way that the registry says it does."""
    match way.by:
        case "artifact":
            return str(manifest.digest) == asked
        case "file":
            digests = ((e.path, f"sha256:{e.sha256}", f"blake3:{e.blake3}") for e in manifest.files)
            return any(path == way.path and asked in {sha256, blake3} for path, sha256, blake3 in digests)
        case "root":
            return str(statements.root_digest(entry.sha256 for entry in manifest.files)) == asked
        case "reference" | "dataset":
            return True  # where a tag points, and what a dataset was used for, is the registry's word


def _unchecked(row: RecordedSignature) -> RecordedSignature:
    return row.model_copy(update={"checked": None})


def _further(api: Api, before: int | None, following: int | None) -> int | None:
    if before is not None and following is not None and following >= before:
        raise Unreachable(f"{api.registry} answers in a circle")
    return following


def _bounded(limit: int) -> int:
    if not 1 <= limit <= MAX_ROWS:
        raise Invalid(f"ask for 1 to {MAX_ROWS} rows, not {limit}", field="limit")
    return limit


def _measured_file(path: Path, progress: Progress | None) -> LocalFile:
    entry = hashing.hash_file(path, progress=progress)
    name, detail = formats.describe(path)
    return LocalFile(
        path=_unicode(path),
        size_bytes=entry.size,
        sha256=f"sha256:{entry.sha256}",
        blake3=f"blake3:{entry.blake3}",
        format=name,
        detail=detail,
    )


def _unicode(path: Path) -> str:
    return str(path).encode("utf-8", "replace").decode()  # a name on disk need not be any text


def _measured_folder(path: Path, progress: Progress | None) -> LocalFile:
    manifest = manifests.build(hashing.hash_tree(path, left_out=trees.LEFT_OUT, progress=progress))
    return LocalFile(
        path=_unicode(path),
        size_bytes=manifest.total_bytes,
        sha256=str(manifest.digest),
        blake3=None,
        format="folder",
        detail={"files": len(manifest.files), "root": str(_root(manifest.files))},
    )


def _root(entries: Iterable[manifests.FileEntry]) -> Digest:
    return statements.root_digest(entry.sha256 for entry in entries)
