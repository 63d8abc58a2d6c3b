"""A registry with a promotion policy, people who sign, and a clock that the test sets.

`chat` is a fine-tune of `base`, by signed provenance; in production it needs a scan and two approvals, in staging nothing.
"""

import uuid
from collections.abc import Callable
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlmodel import select

from modelreg import attestations, pki, promoting, provenance, push, signing, wire
from modelreg import wire_promotions as models
from modelreg.attestations import Kind
from modelreg.digests import Digest
from modelreg.references import parse_reference
from modelreg.trust import LogTrust
from modelreg_server import attestations as recorded
from modelreg_server import custody, log_keys
from modelreg_server.callers import Caller
from modelreg_server.custody import Actor, Event, EventType
from modelreg_server.identity import Principal
from modelreg_server.tables import PromotionDecision
from support.registry import QUIET, Registry, Trust, running_registry

POLICY = """
schema = "modelreg/promotion-policy/v1"
version = 1

[[environments.production]]
repositories = ["demo/*"]
off = {source = "t", format = "t", licence = "t", classification = "t", datasets = "t"}
scan = {max_age_days = 30, rules_version = "2026-11-24"}
lineage = {datasets_for = ["adapter"]}
approvals = {count = 2, by = ["person:*"], max_age_days = 90}
waivers = [{rules = ["scan", "approvals"], by = ["person:risk"], max_days = 10}]

[[environments.staging]]
repositories = ["demo/*"]
off = {source = "t", format = "t", licence = "t", classification = "t", datasets = "t", scan = "t", lineage = "t", approvals = "t"}
"""
_RULES = """
[[rules]]
repositories = ["demo/*"]
attests = ["approval", "waiver", "dataset", "declassification"]
allow = [{authority = "pki", identities = ["email:*@demo.example"]}]
"""


class Clock:
    """Says what it was told; the real time until then."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


def trust_text(trusted: Trust) -> str:
    """The trust policy with a rule for who approves and waives."""
    return trusted.policy_path.read_text().replace("[revocations]", f"{_RULES}\n[revocations]", 1)


class World:
    """What the tests do with it."""

    def __init__(self, registry: Registry, folder: Any, clock: Clock, policy_path: Any) -> None:
        self.registry, self.folder, self.clock, self.policy_path = registry, folder, clock, policy_path
        self._signers: dict[str, signing.Signer] = {}

    def signer(self, name: str) -> signing.Signer:
        """Of email:NAME@demo.example."""
        if name not in self._signers:
            trusted = self.registry.trust
            leaf = pki.issue_signer(f"email:{name}@demo.example", trusted.intermediate, trusted.made_at, 90)
            chain = (leaf.certificate, trusted.intermediate.certificate)
            self._signers[name] = signing.CertificateSigner(leaf.private_key, chain)
        return self._signers[name]

    def api(self, principal: str, *scopes: str) -> Any:
        token = self.registry.token(principal, *scopes, minutes=365 * 24 * 60)
        return self.registry.api(token)

    @property
    def admin(self) -> Any:
        return self.api("person:admin")

    @property
    def log(self) -> LogTrust:
        signer = self.registry.parts.database.log_signer
        return LogTrust(signer.origin, (log_keys.verifier_of(signer),))

    def push(self, *parents: Digest, by: str = "al", repository: str = "demo/m", data: bytes | None = None) -> Digest:
        """A new artifact, signed by `by`; with parents a fine-tune by signed provenance, and by recorded edges."""
        root = self.folder / uuid.uuid4().hex
        root.mkdir(parents=True)
        (root / "weights.bin").write_bytes(data or uuid.uuid4().bytes)

        def attest(manifest: Any) -> list[bytes]:
            inputs = tuple(provenance.Input(parent, "demo/base") for parent in parents)
            made = provenance.Derivation("finetune", inputs, ())
            at = self.clock()
            predicate = provenance.predicate_of(made, version="0", started_at=at, finished_at=at)
            payload = attestations.build(Kind.PROVENANCE, repository, manifest.digest, predicate)
            return [signing.sign(payload, self.signer(by))]

        pushed = push.push(
            self.api(f"person:{by}"), root, parse_reference(repository), self.signer(by), tags=(), connections_at_once=2,
            meter=QUIET, attest=attest if parents else None,
            parents=[wire.Parent(artifact=str(parent), relation="finetune") for parent in parents],
        )  # fmt: skip
        return pushed.manifest.digest

    def chat(self) -> tuple[Digest, Digest]:
        """A base, and a fine-tune of it that only lacks approvals."""
        base = self.push()
        chat = self.push(base)
        self.scan(chat)
        return base, chat

    def approved(self) -> tuple[Digest, Digest]:
        base, chat = self.chat()
        for name in ("bo", "cy"):
            self.approve(chat, name)
        return base, chat

    def approve(self, artifact: Digest, name: str, environment: str = "production", *, by: str | None = None) -> Any:
        api = self.api(f"person:{by or name}", "approve:demo/*")
        return promoting.approve(api, "demo/m", artifact, environment, self.signer(name), None, self.clock())

    def waive(
        self, artifact: Digest, rule: str, environment: str = "production", *, days: int = 5, name: str = "risk"
    ) -> Any:
        api = self.api(f"person:{name}", "approve:demo/*")
        return promoting.waive(
            api, "demo/m", artifact, environment, rule, reason="needed today", days=days, signer=self.signer(name),
            stamp=None, at=self.clock(),
        )  # fmt: skip

    def scan(
        self, artifact: Digest, *findings: dict[str, str], at: datetime | None = None, complete: bool = True
    ) -> None:
        """A scan that the registry itself signed."""
        now, signer = at or self.clock(), self.registry.parts.database.log_signer
        predicate = {
            "tool": "modelreg-gate",
            "tool_version": "1",
            "rules_version": "2026-11-24",
            "scanned_at": now.isoformat(),
            "complete": complete,
            "formats": {"weights.bin": "safetensors"},
            "findings": list(findings),
        }
        payload = attestations.build(Kind.SCAN, "demo/m", artifact, predicate)
        bundle = attestations.sign_as_registry(payload, signer.key, signer.origin)
        verified = attestations.verify_registrys(
            bundle, log=self.log, repository="demo/m", now=now, kind=Kind.SCAN, subject=artifact
        )
        caller = Caller(Principal("server:gate", None, (), None), Actor("server:gate", None), now)
        with self.registry.parts.database.writing() as session, session.begin():
            recorded.record(session, caller, "demo/m", verified)
            custody.append(
                session, caller.actor, Event(EventType.ARTIFACT_SCANNED, "demo/m", str(artifact)), self.clock()
            )

    def promote(self, artifact: Digest, environment: str = "production", **more: Any) -> promoting.Answered:
        policy = self.registry.trust.policy
        return promoting.ask(
            more.pop("api", None) or self.admin, policy, "demo/m", artifact, environment,
            dry_run=more.pop("dry_run", False), now=self.clock,
        )  # fmt: skip

    def grant(self, artifact: Digest, environment: str | None = "production", api: Any = None) -> wire.Grant:
        request = wire.GrantRequest(artifact=str(artifact), purpose="launch", host="gpu-1", environment=environment)
        return (api or self.admin).request_grant("demo/m", request)

    def demote(self, artifact: Digest, environment: str = "production") -> models.Demoted:
        return self.admin.demote("demo/m", artifact, models.DemotionRequest(environment=environment, reason="over"))

    def quarantine(self, artifact: Digest) -> None:
        from modelreg import wire_recalls

        self.admin.recall("demo/m", artifact, wire_recalls.RecallRequest(kind="quarantine", reason="odd answers"))

    def revoke_signer(self, identity: str) -> None:
        """In the trust policy of the registry and of everybody here."""
        path = self.registry.trust.policy_path
        text = path.read_text()
        found = text.index("signers = [") + len("signers = [")
        comma = "" if text[found] == "]" else ", "
        path.write_text(text[:found] + f'{{identity = "{identity}"}}{comma}' + text[found:])

    def events(self, artifact: Digest, *types: str) -> list[wire.EventInfo]:
        wanted = types or ("promotion.granted", "promotion.refused", "promotion.withdrawn")
        return [e for e in self.registry.whole_log() if e.artifact == str(artifact) and e.type in wanted]

    def rows(self, artifact: Digest) -> list[PromotionDecision]:
        with self.registry.parts.database.reading() as session:
            query = select(PromotionDecision).where(PromotionDecision.artifact_digest == str(artifact))
            return list(session.exec(query.order_by(PromotionDecision.id)))  # type: ignore[arg-type]


def outcome(answered: promoting.Answered, rule: str) -> Any:
    return next(one for one in answered.decision.outcomes if one.rule == rule)


def blocking(answered: promoting.Answered) -> set[str]:
    return {one.rule for one in answered.decision.outcomes if one.status in {"fail", "missing"}}


@contextmanager
def promoting_registry(folder: Any, *, trust_policy: Callable[[Trust], str] = trust_text, **settings: Any) -> Any:
    """A running registry whose promotion policy is `POLICY`."""
    folder.mkdir(parents=True, exist_ok=True)
    path, clock = folder / "promotion.toml", Clock()
    path.write_text(POLICY)
    with running_registry(folder, clock=clock, policy=trust_policy, promotion_policy=path, **settings) as running:
        yield World(running, folder / "models", clock, path)
