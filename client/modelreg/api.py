"""The registry's HTTP API, one method an endpoint: validated answers, and the server's own errors raised again."""

import secrets
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, urlencode

import urllib3
from pydantic import BaseModel, ValidationError
from urllib3.exceptions import HTTPError

from modelreg import (
    connections,
    host_signing,
    problem_details,
    wire,
    wire_attestations,
    wire_datasets,
    wire_evidence,
    wire_inventory,
    wire_log,
    wire_promotions,
    wire_recalls,
    wire_scans,
)
from modelreg.connections import Transient
from modelreg.digests import Digest
from modelreg.errors import ModelregError, StorageUnavailable, Unreachable
from modelreg.settings import stays_private

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

M = TypeVar("M", bound=BaseModel)

# A grant carries a manifest and up to 16 bundles; everything else is small.
_MAX_ANSWER_BYTES = 256 * 1024 * 1024
_MAX_ATTESTATIONS = 10_000  # of one artifact


class Api:
    """A registry and who asks: a token or what gives the present one, a host key, both, or None for what is public.

    Thread-safe.
    """

    def __init__(
        self,
        registry: str,
        token: str | Callable[[], str] | None,
        pool: urllib3.PoolManager,
        host_key: "Ed25519PrivateKey | None" = None,
    ) -> None:
        self.registry = registry
        self._token = token
        self._pool = pool
        self._host_key = host_key

    @property
    def host_key(self) -> "Ed25519PrivateKey | None":
        """What signs this machine's requests, if it is a host of this registry."""
        return self._host_key

    def whoami(self) -> wire.Whoami:
        """The principal behind the token."""
        return self._get("/v1/whoami", wire.Whoami)

    def login_options(self) -> wire.LoginOptions:
        """Where people log in; needs no credential."""
        return self._get("/v1/login-options", wire.LoginOptions)

    def exchange(self, request: wire.ExchangeRequest) -> wire.Exchanged:
        """Exchange an issuer's token. Not repeated by itself: a token is good for one exchange."""
        return self._once("POST", "/v1/token-exchange", wire.Exchanged, request)

    def issue_token(self, request: wire.TokenRequest) -> wire.TokenIssued:
        """Issue a token (admin). Not repeated by itself: a lost answer would leave a token nobody knows."""
        return self._once("POST", "/v1/tokens", wire.TokenIssued, request)

    def tokens(self) -> list[wire.TokenInfo]:
        """All tokens (admin)."""
        return self._get("/v1/tokens", wire.TokenList).tokens

    def revoke_token(self, token_id: str) -> wire.TokenInfo:
        """End a token (admin)."""
        return self._call("DELETE", f"/v1/tokens/{quote(token_id, safe='')}", wire.TokenInfo)

    def grant_access(self, request: wire.AccessGrantRequest) -> wire.AccessGrantInfo:
        """Give a subject a verb (admin). Not repeated by itself: a lost answer would leave two."""
        return self._once("POST", "/v1/access/grants", wire.AccessGrantInfo, request)

    def access_grants(self, subject: str | None) -> list[wire.AccessGrantInfo]:
        """Access grants, newest first; with a subject, those that name it (admin)."""
        query = "?" + urlencode({"subject": subject}) if subject else ""
        return self._get(f"/v1/access/grants{query}", wire.AccessGrantList).grants

    def revoke_access(self, grant_id: str) -> wire.AccessGrantInfo:
        """End an access grant (admin)."""
        return self._call("DELETE", f"/v1/access/grants/{quote(grant_id, safe='')}", wire.AccessGrantInfo)

    def explain_access(self, **asked: str | None) -> wire.AccessExplanation:
        """Whether somebody may, and why (audit or admin)."""
        query = urlencode({name: value for name, value in asked.items() if value is not None})
        return self._get(f"/v1/access/decision?{query}", wire.AccessExplanation)

    def change_repository(self, repository: str, request: wire.RepositoryChange) -> wire.RepositorySettings:
        """Change what is set for a repository (admin)."""
        return self._call("PATCH", _path(repository), wire.RepositorySettings, request)

    def invite_host(self, request: wire.HostInvitationRequest) -> wire.HostInvited:
        """Invite a machine (admin). Not repeated by itself: a lost answer would leave a token nobody knows."""
        return self._once("POST", "/v1/hosts/invitations", wire.HostInvited, request)

    def enroll_host(self, request: wire.HostEnrolment) -> wire.HostInfo:
        """Become a host; this connection's token is the invitation's and its host key the new one."""
        return self._call("POST", "/v1/hosts", wire.HostInfo, request)

    def hosts(self) -> wire.HostList:
        """Hosts and open invitations (admin)."""
        return self._get("/v1/hosts", wire.HostList)

    def host(self, name: str) -> wire.HostInfo:
        """One host (admin)."""
        return self._get(f"/v1/hosts/{quote(name, safe='')}", wire.HostInfo)

    def revoke_host(self, name: str) -> wire.HostRevoked:
        """End a host (admin)."""
        return self._call("DELETE", f"/v1/hosts/{quote(name, safe='')}", wire.HostRevoked)

    def repositories(self) -> Iterable[wire.RepositoryInfo]:
        """Every repository the principal may see, page by page."""
        after: str | None = ""
        while after is not None:
            page = self._get("/v1/repositories?" + urlencode({"after": after}), wire.Repositories)
            yield from page.repositories
            if page.next_after is not None and page.next_after <= after:
                raise Unreachable(f"{self.registry} lists repositories in a circle")
            after = page.next_after

    def artifacts(self, repository: str) -> Iterable[wire.ArtifactInfo]:
        """Every artifact of a repository, newest first, page by page."""
        before: int | None = None
        while True:
            query = "" if before is None else f"?before={before}"
            page = self._get(f"{_path(repository)}/artifacts{query}", wire.Artifacts)
            yield from page.artifacts
            if page.next_before is None:
                return
            if before is not None and page.next_before >= before:
                raise Unreachable(f"{self.registry} lists artifacts in a circle")
            before = page.next_before

    def artifact(self, repository: str, digest: Digest) -> wire.ArtifactDetail:
        """What is recorded about one artifact."""
        return self._get(f"{_path(repository)}/artifacts/{digest}", wire.ArtifactDetail)

    def tags(self, repository: str) -> list[wire.TagInfo]:
        """All tags of a repository."""
        return self._get(f"{_path(repository)}/tags", wire.Tags).tags

    def resolve(self, repository: str, tag: str) -> wire.TagInfo:
        """Where a tag points; the registry records that it was asked."""
        return self._get(f"{_path(repository)}/tags/{quote(tag, safe='')}", wire.TagInfo)

    def move_tag(self, repository: str, tag: str, request: wire.TagRequest) -> wire.TagInfo:
        """Point a tag at an artifact."""
        return self._call("PUT", f"{_path(repository)}/tags/{quote(tag, safe='')}", wire.TagInfo, request)

    def tag_history(self, repository: str, tag: str) -> list[wire.EventInfo]:
        """The last moves of a tag, oldest first."""
        return self._get(f"{_path(repository)}/tags/{quote(tag, safe='')}/history", wire.Events).events

    def begin_publication(self, repository: str, request: wire.PublicationRequest) -> wire.PublicationState:
        """Open a publication, or find the open one for the same artifact."""
        return self._call("POST", f"{_path(repository)}/publications", wire.PublicationState, request)

    def uploads(self, publication: str, blobs: Sequence[str]) -> list[wire.BlobToUpload]:
        """Open uploads for blobs, or see which parts are written."""
        names = wire.BlobNames(blobs=list(blobs))
        return self._call("POST", f"/v1/publications/{publication}/uploads", wire.Uploads, names).uploads

    def part_requests(self, publication: str, parts: Sequence[wire.PartName]) -> list[wire.DirectRequest]:
        """How to send parts."""
        path = f"/v1/publications/{publication}/part-requests"
        return self._call("POST", path, wire.DirectRequests, wire.PartNames(parts=list(parts))).requests

    def measure(self, publication: str, blake3: str) -> wire.Measurement:
        """Have an uploaded blob measured; `measuring` means ask again."""
        return self._call("POST", f"/v1/publications/{publication}/blobs/{blake3}/measurement", wire.Measurement)

    def finish_publication(self, publication: str) -> wire.Published:
        """Make the artifact exist."""
        return self._call("POST", f"/v1/publications/{publication}/finish", wire.Published)

    def request_grant(self, repository: str, request: wire.GrantRequest) -> wire.Grant:
        """Ask to fetch an artifact; the registry records it before it answers."""
        return self._call("POST", f"{_path(repository)}/grants", wire.Grant, request)

    def read_requests(self, grant: str, blobs: Sequence[str]) -> list[wire.DirectRequest]:
        """How to fetch blobs."""
        names = wire.BlobNames(blobs=list(blobs))
        return self._call("POST", f"/v1/grants/{grant}/read-requests", wire.DirectRequests, names).requests

    def report_received(self, grant: str, report: wire.ReceivedReport) -> wire.Recorded:
        """Say that every byte arrived and was verified."""
        return self._call("POST", f"/v1/grants/{grant}/receipts", wire.Recorded, report)

    def report_loaded(self, grant: str, report: wire.LoadedReport) -> wire.Recorded:
        """Say that the files are handed to a runtime."""
        return self._call("POST", f"/v1/grants/{grant}/loads", wire.Recorded, report)

    def report_heartbeat(self, load: str) -> wire.LoadState:
        """Say that the runtime still runs."""
        return self._call("POST", f"/v1/loads/{load}/heartbeat", wire.LoadState)

    def report_unloaded(self, load: str, report: wire.UnloadedReport) -> wire.Recorded:
        """Say that the runtime has ended."""
        return self._call("POST", f"/v1/loads/{load}/end", wire.Recorded, report)

    def attest(
        self, repository: str, artifact: Digest, request: wire_attestations.AttestationRequest
    ) -> wire_attestations.AttestationInfo:
        """Record a signed statement about an artifact. Sending the same again is safe."""
        path = f"{_path(repository)}/artifacts/{artifact}/attestations"
        return self._call("POST", path, wire_attestations.AttestationInfo, request)

    def attestations(
        self, repository: str, artifact: Digest, kind: str | None = None
    ) -> wire_attestations.Attestations:
        """Signed statements about an artifact, oldest first; whoever relies on one verifies its bundle."""
        found: list[wire_attestations.AttestationInfo] = []
        query = {"kind": kind} if kind is not None else {}
        after: int | None = 0
        while after is not None:
            asked = urlencode({**query, "after": after})
            path = f"{_path(repository)}/artifacts/{artifact}/attestations?{asked}"
            page = self._get(path, wire_attestations.Attestations)
            if page.artifact != str(artifact):
                raise Unreachable(f"{self.registry} answered about {page.artifact}, not about {artifact}")
            found += page.attestations
            if len(found) > _MAX_ATTESTATIONS:
                raise Unreachable(f"{self.registry} lists more than {_MAX_ATTESTATIONS} attestations of {artifact}")
            if page.next_after is not None and page.next_after <= after:
                raise Unreachable(f"{self.registry} lists attestations in a circle")
            after = page.next_after
        return wire_attestations.Attestations(artifact=str(artifact), attestations=found)

    def register_dataset(self, name: str, request: wire_datasets.DatasetRequest) -> wire_datasets.DatasetInfo:
        """Record a signed dataset statement. Sending the same again is safe."""
        return self._call("POST", f"/v1/datasets/{name}", wire_datasets.DatasetInfo, request)

    def declassify_dataset(
        self, name: str, digest: Digest, request: wire_datasets.DatasetRequest
    ) -> wire_attestations.AttestationInfo:
        """Record a signed declassification of a dataset. Sending the same again is safe."""
        path = f"/v1/datasets/{name}/{digest}/declassification"
        return self._call("POST", path, wire_attestations.AttestationInfo, request)

    def dataset(self, name: str) -> list[wire_datasets.DatasetInfo]:
        """All records of a dataset, newest first; whoever relies on one verifies its bundle."""
        return self._get(f"/v1/datasets/{name}", wire_datasets.Datasets).datasets

    def datasets(self) -> Iterable[wire_datasets.DatasetInfo]:
        """The newest record of every dataset that the principal may see, page by page."""
        after: str | None = ""
        while after is not None:
            page = self._get("/v1/datasets?" + urlencode({"after": after}), wire_datasets.Datasets)
            yield from page.datasets
            if page.next_after is not None and page.next_after <= after:
                raise Unreachable(f"{self.registry} lists datasets in a circle")
            after = page.next_after

    def promote(
        self, repository: str, artifact: Digest, request: wire_promotions.PromotionRequest
    ) -> wire_promotions.PromotionAnswer:
        """Have it decided whether an artifact may serve; a no is an answer. Asking again decides again."""
        path = f"{_path(repository)}/artifacts/{artifact}/promotions"
        return self._call("POST", path, wire_promotions.PromotionAnswer, request)

    def demote(
        self, repository: str, artifact: Digest, request: wire_promotions.DemotionRequest
    ) -> wire_promotions.Demoted:
        """Withdraw what allows it. Sending the same again is safe."""
        return self._call(
            "POST", f"{_path(repository)}/artifacts/{artifact}/demotions", wire_promotions.Demoted, request
        )

    def promotions(self, limit: int, **asked: str | None) -> list[wire_promotions.PromotionInfo]:
        """The newest decisions that match, by `repository`, `artifact`, `environment` and `live` (`true`)."""
        given = {name: value for name, value in asked.items() if value is not None}
        query = urlencode({"limit": str(limit), **given})
        return self._get(f"/v1/promotions?{query}", wire_promotions.Promotions).promotions

    def promotion(self, decision: int) -> wire_promotions.PromotionAnswer:
        """A decision with its facts and its signed verdict, untrusted: `verdicts.verify` reads them."""
        return self._get(f"/v1/promotions/{decision}", wire_promotions.PromotionAnswer)

    def scan_again(self, repository: str, artifact: Digest) -> wire_scans.ScanRecorded:
        """Have the registry scan an artifact with its rules of today. Sending it again scans once more."""
        return self._once("POST", f"{_path(repository)}/artifacts/{artifact}/scans", wire_scans.ScanRecorded)

    def recall(self, repository: str, artifact: Digest, request: wire_recalls.RecallRequest) -> wire_recalls.Recalled:
        """Quarantine or revoke an artifact in every repository. Sending the same again is safe."""
        return self._call("POST", f"{_path(repository)}/artifacts/{artifact}/recall", wire_recalls.Recalled, request)

    def release(self, repository: str, artifact: Digest, request: wire_recalls.ReleaseRequest) -> wire_recalls.Released:
        """Lift a quarantine. Sending the same again is safe."""
        return self._call("POST", f"{_path(repository)}/artifacts/{artifact}/release", wire_recalls.Released, request)

    def recalls(self) -> Iterable[wire_recalls.RecallInfo]:
        """Open recalls of what the principal may see, page by page."""
        after: int | None = -1
        while after is not None:
            page = self._get("/v1/recalls?" + urlencode({"after": after}), wire_recalls.Recalls)
            yield from page.recalls
            if page.next_after is not None and page.next_after <= after:
                raise Unreachable(f"{self.registry} lists recalls in a circle")
            after = page.next_after

    def check_recalls(self, artifacts: Sequence[Digest], host: str | None = None) -> wire_recalls.RecallAnswer:
        """What is recalled among these (at most `wire_recalls.MAX_CHECKED`), and what this host is waited for."""
        request = wire_recalls.RecallCheck(artifacts=[str(artifact) for artifact in artifacts], host=host)
        return self._call("POST", "/v1/recalls/check", wire_recalls.RecallAnswer, request)

    def confirm_recall(self, recall_id: str, request: wire_recalls.ConfirmationRequest) -> wire.Recorded:
        """Say what this host did with a recalled artifact."""
        return self._call("POST", f"/v1/recalls/{recall_id}/confirmations", wire.Recorded, request)

    def recall_status(self, recall_id: str) -> wire_recalls.RecallStatus:
        """Which hosts have confirmed (audit or quarantine in every repository that holds the artifact)."""
        return self._get(f"/v1/recalls/{quote(recall_id, safe='')}/status", wire_recalls.RecallStatus)

    def report_alteration(self, report: wire_recalls.AlterationReport) -> wire.Recorded:
        """Say that files changed on this host."""
        return self._call("POST", "/v1/alterations", wire.Recorded, report)

    def time_stamp(self, raw_query: bytes) -> bytes:
        """Have the registry's time-stamping authority answer an RFC 3161 query (DER in, DER out, untrusted)."""
        headers = {"Content-Type": "application/timestamp-query"}
        return connections.with_retries(lambda: self._read(self._send("POST", "/v1/timestamps", headers, raw_query)))

    def events(
        self,
        *,
        repository: str | None = None,
        artifact: Digest | None = None,
        types: Sequence[str] = (),
        limit: int = 100,
    ) -> list[wire.EventInfo]:
        """The newest custody events that match, oldest first."""
        query: list[tuple[str, str]] = [("newest", "true"), ("limit", str(limit))]
        query += [("repository", repository)] if repository else []
        query += [("artifact", str(artifact))] if artifact else []
        query += [("type", kind) for kind in types]
        return self._get("/v1/events?" + urlencode(query), wire.Events).events

    def log_checkpoint(self) -> bytes:
        """The signed head of the custody log (a note, untrusted: `checkpoints.verify` reads it)."""
        return self._bytes("/v1/log/checkpoint")

    def log_proof(self, index: int, size: int) -> wire_log.InclusionProof:
        """The audit path of an entry in the log of `size` entries, untrusted."""
        return self._get(f"/v1/log/proof?index={index}&size={size}", wire_log.InclusionProof)

    def log_consistency(self, old: int, new: int) -> wire_log.ConsistencyProof:
        """The consistency proof between two sizes of the log, untrusted."""
        return self._get(f"/v1/log/consistency?old={old}&new={new}", wire_log.ConsistencyProof)

    def log_entries(self, start: int, end: int) -> wire_log.LogEntries:
        """Entries of the log with who stands behind them (audit everywhere); at most 256, untrusted."""
        return self._get(f"/v1/log/entries?start={start}&end={end}", wire_log.LogEntries)

    def log_tile(self, path: str) -> bytes:
        """A tile or entry bundle of the log, by `tiles.Tile.path`, untrusted."""
        return self._bytes(f"/v1/log/tile/{path}")

    def evidence(self, artifact: Digest) -> wire_evidence.EvidenceDossier:
        """What is recorded of an artifact, and a checkpoint to prove its entries against (audit everywhere); untrusted."""
        return self._get(f"/v1/evidence?artifact={artifact}", wire_evidence.EvidenceDossier)

    def evidence_events(self, artifact: Digest, size: int) -> Iterable[wire_evidence.EvidenceEvents]:
        """The entries about an artifact in the log of `size` entries, page by page, untrusted."""
        after: int | None = -1
        while after is not None:
            query = urlencode({"artifact": str(artifact), "size": size, "after": after})
            page = self._get(f"/v1/evidence/events?{query}", wire_evidence.EvidenceEvents)
            yield page
            if page.next_after is not None and page.next_after <= after:
                raise Unreachable(f"{self.registry} lists events in a circle")
            after = page.next_after

    def inventory(
        self, *, owner: str | None = None, classification: str | None = None, environment: str | None = None
    ) -> Iterable[wire_inventory.InventoryRow]:
        """Every artifact in every repository that the principal may read, page by page."""
        asked = {"owner": owner, "class": classification, "environment": environment}
        query = {name: str(value) for name, value in asked.items() if value is not None}
        after: int | None = 0
        while after is not None:
            page = self._get("/v1/inventory?" + urlencode({**query, "after": after}), wire_inventory.Inventory)
            yield from page.rows
            if page.next_after is not None and page.next_after <= after:
                raise Unreachable(f"{self.registry} lists its inventory in a circle")
            after = page.next_after

    def look_up(self, question: str, query: Sequence[tuple[str, str]], model: type[M]) -> M:
        """The answer to a question of an incident (`lookup` asks them); `query` names what it is about."""
        return self._get(f"/v1/lookups/{question}?" + urlencode(query), model)

    def publish_trust(self, publication: wire.TrustPublication) -> wire.TrustPublished:
        """Publish a trust repository (admin). Sending the same again is safe."""
        return self._call("PUT", "/v1/trust", wire.TrustPublished, publication)

    def signatures(
        self, *, identity: str | None = None, key: Digest | None = None, artifact: Digest | None = None
    ) -> Iterable[wire.SignatureRow]:
        """Every recorded signature that matches (audit everywhere), page by page."""
        asked = {"identity": identity, "key": key, "artifact": artifact}
        query = {name: str(value) for name, value in asked.items() if value is not None}
        after: int | None = 0
        while after is not None:
            page = self._get("/v1/signatures?" + urlencode({**query, "after": after}), wire.Signatures)
            yield from page.signatures
            if page.next_after is not None and page.next_after <= after:
                raise Unreachable(f"{self.registry} lists signatures in a circle")
            after = page.next_after

    def open_direct(
        self, request: wire.DirectRequest, headers: dict[str, str], body: object = None
    ) -> urllib3.BaseHTTPResponse:
        """Make a request the registry handed out: on the store without our credential, or on the registry with it.

        Raises:
            Transient: worth a retry, perhaps with a fresh request (an expired URL answers 403 or 400).
            ModelregError: the registry's own error.
        """
        if request.url.startswith("/"):
            return self._send(request.method, request.url, {**request.headers, **headers}, body)
        if not request.url.startswith(("https://", "http://")):
            raise Unreachable(f"{self.registry} handed out a request that cannot be sent")
        if not stays_private(request.url):
            raise Unreachable(
                f"{self.registry} handed out a request over plain http, which anybody on the way could use; its operators "
                "must give the store an https address, or send bytes through the server"
            )
        response = connections.send(
            self._pool,
            request.method,
            request.url,
            headers={**request.headers, **headers},
            body=body,
            where="the blob store",
        )
        if response.status not in {200, 201, 204, 206}:
            status = response.status
            response.close()
            raise Transient(f"the blob store answered {status}")
        return response

    def _get(self, path: str, model: type[M]) -> M:
        return self._call("GET", path, model)

    def _bytes(self, path: str) -> bytes:
        return connections.with_retries(lambda: self._raw("GET", path, None))

    def _call(self, method: str, path: str, model: type[M], body: BaseModel | None = None) -> M:
        return connections.with_retries(lambda: self._once(method, path, model, body))

    def _once(self, method: str, path: str, model: type[M], body: BaseModel | None = None) -> M:
        return _parsed(model, self._raw(method, path, body), self.registry)

    def _raw(self, method: str, path: str, body: BaseModel | None) -> bytes:
        headers = {"Content-Type": "application/json"} if body else {}
        response = self._send(method, path, headers, body.model_dump_json().encode() if body else None)
        return self._read(response)

    def _send(self, method: str, path: str, headers: dict[str, str], body: object) -> urllib3.BaseHTTPResponse:
        response = connections.send(
            self._pool,
            method,
            self.registry + path,
            headers={**headers, **self._credentials(method, path, body), "Accept": "application/json"},
            body=body,
            where=self.registry,
        )
        if response.status >= 300:
            raise self._error(response.status, self._read(response))
        return response

    def _credentials(self, method: str, path: str, body: object) -> dict[str, str]:
        """Who sends this, made anew for every try: a host signature holds once."""
        token = self._token() if callable(self._token) else self._token
        authorization = None if token is None else f"Bearer {token}"
        headers = {} if authorization is None else {"Authorization": authorization}
        if self._host_key is not None:
            # A part of a blob is streamed; the registry measures it against the manifest instead.
            digest = host_signing.content_digest(body) if isinstance(body, bytes) else None
            headers |= {} if digest is None else {"Content-Digest": digest}
            message = host_signing.message_to(method, self.registry + path, authorization, digest)
            headers |= host_signing.sign(message, self._host_key, datetime.now(UTC), secrets.token_urlsafe(18))
        return headers

    def _read(self, response: urllib3.BaseHTTPResponse) -> bytes:
        try:
            with connections.within(response, connections.ANSWER_SECONDS):
                raw = response.read(_MAX_ANSWER_BYTES + 1)
        except HTTPError as error:
            response.close()
            raise Transient(f"{self.registry} broke off its answer ({type(error).__name__})") from None
        if len(raw) > _MAX_ANSWER_BYTES:
            response.close()  # what follows on this connection is the rest of it
            raise Unreachable(f"{self.registry} answered with more than {_MAX_ANSWER_BYTES} bytes")
        response.release_conn()
        return raw

    def _error(self, status: int, raw: bytes) -> ModelregError:
        try:
            error = problem_details.error_of(problem_details.Problem.model_validate_json(raw))
        except ValidationError:
            return Unreachable(f"{self.registry} answered {status}, not like a modelreg registry; check the address")
        if isinstance(error, StorageUnavailable):
            # A fact of this name would be taken for the parameter.
            return Transient(error.detail, **{k: v for k, v in error.facts.items() if k != "wait_seconds"})
        return error


def _path(repository: str) -> str:
    return f"/v1/repositories/{repository}"


def _parsed(model: type[M], raw: bytes, registry: str) -> M:
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = "/".join(str(part) for part in first["loc"])
        raise Unreachable(f"{registry} answered in a way this client does not know ({where}: {first['msg']})") from None
