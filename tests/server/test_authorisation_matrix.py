"""Every route of the OpenAPI document, for every role, on what is its own, another's and absent. The table is written here.

A role has one verb on `demo/*` and nothing else, once by the scopes of its token and once by access grants. `nobody` has
a token and no right, `everywhere-…` a right on all repositories, `machine` is a host without a token that may pull.
"""

import uuid
from dataclasses import dataclass
from typing import Any

import pytest

from modelreg import declaring, wire, wire_datasets, wire_recalls
from modelreg.classification import Classification
from modelreg.datasets import Dataset
from modelreg.digests import Digest
from modelreg_server.access import Verb
from support.hosts import enrol, grant, invite, token_without_scopes

OWN, OTHER, ABSENT = "demo/m", "other/m", "other/x"
NO_DIGEST = "sha256:" + "0" * 64
NO_BLOB = "0" * 64
VERBS = [verb.value for verb in Verb]
EVERYWHERE = ["everywhere-admin", "everywhere-audit"]
ROLES = [*VERBS, *EVERYWHERE, "nobody", "machine"]
READERS = {"read-metadata", "pull", "machine"}  # `pull` includes `read-metadata`; the machine may pull
REPOSITORY = "/v1/repositories/{namespace}/{name}"
PUBLICATION, GRANT = "/v1/publications/{publication_id}", "/v1/grants/{grant_id}"
LOAD = "/v1/loads/{load_id}"


@dataclass(frozen=True)
class Rule:
    """Who passes on a repository of their own, and with which answer; what everybody else hears.

    `scope` says what the route is about: a `repository` in its path or query, an `id` that belongs to one principal,
    `everywhere` (the registry as a whole), any repository `somewhere`, `anybody`, a `recall` of an artifact, or what the
    `asker` names itself.
    """

    passes: frozenset[str]
    answer: int
    scope: str = "repository"
    hides: bool = False  # who may not know hears "absent"


def rule(*passes: str, answer: int = 200, scope: str = "repository", hides: bool = False) -> Rule:
    return Rule(frozenset(passes), answer, scope, hides)


READ = rule(*READERS, hides=True)
SEES = {*READERS, "audit", "quarantine", "admin", *EVERYWHERE}
RECALL = "/v1/recalls/{recall_id}"
DATASET = "/v1/datasets/{namespace}/{name}"
ATTESTATIONS = f"{REPOSITORY}/artifacts/{{artifact}}/attestations"
LOOKUPS = ("trace", "pulls", "loaded", "lineage", "blast-radius", "signatures", "timeline")
BY_PUSHER = {"push"}
BY_PULLER = {"pull", "machine"}
TABLE = {
    "GET /health": rule(*ROLES, scope="anybody"),
    "GET /v1/whoami": rule(*ROLES, scope="anybody"),
    "GET /v1/repositories": rule(*ROLES, scope="anybody"),
    "GET /v1/inventory": rule(*ROLES, scope="anybody"),  # of what each may read: test_inventory
    "POST /v1/tokens": rule("everywhere-admin", answer=201, scope="everywhere"),
    "GET /v1/tokens": rule("everywhere-admin", scope="everywhere"),
    "DELETE /v1/tokens/{token_id}": rule("everywhere-admin", scope="everywhere"),
    "POST /v1/access/grants": rule("everywhere-admin", answer=201, scope="everywhere"),
    "GET /v1/access/grants": rule("everywhere-admin", scope="everywhere"),
    "DELETE /v1/access/grants/{grant_id}": rule("everywhere-admin", scope="everywhere"),
    "GET /v1/access/decision": rule("audit", "admin", *EVERYWHERE),
    "POST /v1/hosts": rule(answer=401, scope="invitation"),
    "POST /v1/hosts/invitations": rule("everywhere-admin", answer=201, scope="everywhere"),
    "GET /v1/hosts": rule("everywhere-admin", scope="everywhere"),
    "GET /v1/hosts/{name}": rule("everywhere-admin", scope="everywhere"),
    "DELETE /v1/hosts/{name}": rule("everywhere-admin", scope="everywhere"),
    f"PATCH {REPOSITORY}": rule("admin", "everywhere-admin"),
    f"GET {REPOSITORY}/artifacts": READ,
    f"GET {REPOSITORY}/artifacts/{{artifact}}": READ,
    f"GET {REPOSITORY}/tags": READ,
    f"GET {REPOSITORY}/tags/{{tag}}": READ,
    f"PUT {REPOSITORY}/tags/{{tag}}": rule("tag"),
    f"GET {REPOSITORY}/tags/{{tag}}/history": READ,
    f"POST {REPOSITORY}/publications": rule("push", "sign", answer=422),  # the empty bundle
    f"POST {PUBLICATION}/uploads": rule(*BY_PUSHER, scope="id"),
    f"POST {PUBLICATION}/part-requests": rule(*BY_PUSHER, scope="id"),
    f"PUT {PUBLICATION}/blobs/{{blake3}}/parts/{{number}}": rule(*BY_PUSHER, answer=204, scope="id"),
    f"POST {PUBLICATION}/blobs/{{blake3}}/measurement": rule(*BY_PUSHER, answer=409, scope="id"),  # no part is written
    f"POST {PUBLICATION}/finish": rule(*BY_PUSHER, answer=409, scope="id"),  # nothing is measured
    f"POST {REPOSITORY}/grants": rule(*BY_PULLER, answer=201, hides=True),
    f"POST {GRANT}/read-requests": rule(*BY_PULLER, scope="id"),
    f"GET {GRANT}/blobs/{{blake3}}": rule(*BY_PULLER, scope="id"),
    f"POST {GRANT}/receipts": rule(*BY_PULLER, answer=201, scope="id"),
    f"POST {GRANT}/loads": rule(*BY_PULLER, answer=201, scope="id"),
    f"POST {LOAD}/heartbeat": rule(*BY_PULLER, scope="id"),
    f"POST {LOAD}/end": rule(*BY_PULLER, answer=201, scope="id"),
    "GET /v1/events": rule("audit", "everywhere-audit"),
    "GET /v1/login-options": rule(*ROLES, scope="anybody"),
    "POST /v1/token-exchange": rule(answer=401, scope="token"),
    "POST /v1/timestamps": rule("push", "sign", "approve", answer=422, scope="somewhere"),  # the empty query
    "GET /v1/signatures": rule("everywhere-audit", scope="everywhere"),
    "GET /v1/log/checkpoint": rule(*ROLES, scope="anybody"),
    "GET /v1/log/proof": rule(*ROLES, scope="anybody"),
    "GET /v1/log/consistency": rule(*ROLES, scope="anybody"),
    "GET /v1/log/entries": rule("everywhere-audit", scope="everywhere"),
    "GET /v1/log/tile/{path}": rule(*ROLES, scope="anybody"),  # of hashes; for entries see test_log_routes
    "GET /v1/evidence": rule("everywhere-audit", answer=404, scope="everywhere"),  # of what was never published
    "GET /v1/evidence/events": rule("everywhere-audit", scope="everywhere"),
    **{f"GET /v1/lookups/{name}": rule("audit", "everywhere-audit") for name in LOOKUPS},
    "PUT /v1/trust": rule("everywhere-admin", answer=422, scope="everywhere"),  # the empty root
    f"POST {REPOSITORY}/artifacts/{{artifact}}/scans": rule("push", "approve", answer=201),
    f"POST {REPOSITORY}/artifacts/{{artifact}}/recall": rule("quarantine", "admin", "everywhere-admin"),
    f"POST {REPOSITORY}/artifacts/{{artifact}}/release": rule(
        "quarantine",
        "admin",
        "everywhere-admin",
        answer=409,  # nothing is quarantined
    ),
    f"POST {ATTESTATIONS}": rule("push", "approve", answer=422),  # the empty bundle
    f"GET {ATTESTATIONS}": READ,
    "GET /v1/datasets": rule(*ROLES, scope="anybody"),
    f"POST {DATASET}": rule("push", answer=422),  # the empty bundle
    f"GET {DATASET}": READ,
    f"POST {DATASET}/{{artifact}}/declassification": rule("approve", answer=422),  # the empty bundle
    "GET /v1/recalls": rule(*ROLES, scope="anybody"),
    "POST /v1/recalls/check": rule(*ROLES, scope="asker"),
    f"POST {RECALL}/confirmations": rule(*SEES, answer=201, scope="recall"),
    f"GET {RECALL}/status": rule("audit", "quarantine", "admin", *EVERYWHERE, scope="recall"),
    "POST /v1/alterations": rule(*READERS, answer=201, scope="recall"),
    f"POST {REPOSITORY}/artifacts/{{artifact}}/promotions": rule("promote", answer=500),  # there is no promotion policy
    f"POST {REPOSITORY}/artifacts/{{artifact}}/demotions": rule("promote"),  # nothing is promoted
    "GET /v1/promotions": rule(*ROLES, scope="anybody"),
    "GET /v1/promotions/{decision}": rule(*ROLES, answer=404, scope="anybody"),  # see test_promotion
    "GET /v1/trust/metadata/{name}": rule(*ROLES, answer=404, scope="anybody"),  # nothing is published
    "GET /v1/trust/targets/{name}": rule(*ROLES, answer=404, scope="anybody"),
}
# What `everywhere-…` roles may do on repositories that are not theirs is the same as on any other.
WITHOUT_LIMITS = set(EVERYWHERE)


class World:
    """A registry with two repositories, and one credential a role."""

    def __init__(self, registry, publishing, http, by):
        self.registry, self.publishing, self.http, self.by = registry, publishing, http, by
        self.artifacts = {
            name: publishing.push({"a": f"bytes of {name}".encode()}, name, tags=("v1",)) for name in (OWN, OTHER)
        }
        for name in (OWN, OTHER):  # a dataset may have a repository's name
            record = Dataset(name, Digest("sha256", "d" * 64), "o", Classification.PUBLIC, "b")
            bundle = declaring.dataset(record, registry.trust.signer, None).decode()
            registry.api().register_dataset(name, wire_datasets.DatasetRequest(bundle=bundle))
        self.machine = enrol(registry, f"machine-{by}")
        grant(registry, f"host:machine-{by}", "pull", "demo/*")
        self.tokens = {role: self._token(role) for role in ROLES if role != "machine"}

    def _token(self, role):
        principal = f"person:{role}-{self.by}"
        if role == "nobody":
            return token_without_scopes(self.registry, principal)
        verb, pattern = (role.removeprefix("everywhere-"), "*/*") if role in EVERYWHERE else (role, "demo/*")
        if self.by == "scopes":
            return self.registry.token(principal, f"{verb}:{pattern}")
        grant(self.registry, principal, verb, pattern)
        return token_without_scopes(self.registry, principal)

    def api(self, role):
        return self.machine.api() if role == "machine" else self.registry.api(self.tokens[role])

    def ask(self, role, method, path, json):
        if role != "machine":
            return self.http(method, path, self.tokens[role], json=json)
        body = None if json is None else wire_bytes(json)
        return self.http(method, path, body=body, headers=self.machine.headers(method, path, body=body))

    def publication(self, role):
        """An open publication of the role's own, with one upload; its id and blob. Only `push` can have one."""
        files = {"p": uuid.uuid4().bytes}
        manifest = self.publishing.manifest(files)
        state = self.api(role).begin_publication(OWN, self.publishing.request(manifest))
        self.api(role).uploads(state.id, state.missing)
        return state.id, state.missing[0], files["p"]

    def pulled(self, role):
        pushed = self.artifacts[OWN]
        request = wire.GrantRequest(artifact=pushed.published.artifact, purpose="pull", host="h")
        return self.api(role).request_grant(OWN, request).id, pushed.manifest.files[0].blake3

    def loaded(self, role):
        """A load that the role reported."""
        load = str(uuid.uuid4())
        report = wire.LoadedReport(command="x", pid=1, boot_id="", client_version="1", load=load)
        self.api(role).report_loaded(self.pulled(role)[0], report)
        return load


def wire_bytes(value: Any) -> bytes:
    import json

    return json.dumps(value).encode()


@pytest.fixture(scope="module", params=["scopes", "grants"])
def world(request, registry, publishing, http_):
    policy = registry.trust.policy_path
    policy.write_text(policy.read_text().replace('"demo/*"', '"*/*"'))
    return World(registry, publishing, http_, request.param)


def with_repository(name, world):
    """A well-formed request for each route about a repository."""
    known = world.artifacts.get(name)
    artifact = known.published.artifact if known else NO_DIGEST
    query = f"?repository={name.replace('/', '%2F')}"
    path = f"/v1/repositories/{name}"
    return {
        f"PATCH {REPOSITORY}": (path, {"sensitive": False}),
        f"GET {REPOSITORY}/artifacts": (f"{path}/artifacts", None),
        f"GET {REPOSITORY}/artifacts/{{artifact}}": (f"{path}/artifacts/{artifact}", None),
        f"GET {REPOSITORY}/tags": (f"{path}/tags", None),
        f"GET {REPOSITORY}/tags/{{tag}}": (f"{path}/tags/v1", None),
        f"PUT {REPOSITORY}/tags/{{tag}}": (f"{path}/tags/v2", {"artifact": artifact}),
        f"GET {REPOSITORY}/tags/{{tag}}/history": (f"{path}/tags/v1/history", None),
        f"POST {REPOSITORY}/publications": (f"{path}/publications", {"manifest": "{}", "bundle": "{}"}),
        f"POST {REPOSITORY}/artifacts/{{artifact}}/scans": (f"{path}/artifacts/{artifact}/scans", None),
        f"POST {REPOSITORY}/artifacts/{{artifact}}/recall": (
            f"{path}/artifacts/{artifact}/recall",
            {"kind": "quarantine", "reason": "r", "dry_run": True},
        ),
        f"POST {REPOSITORY}/artifacts/{{artifact}}/release": (f"{path}/artifacts/{artifact}/release", {"reason": "r"}),
        f"POST {ATTESTATIONS}": (f"{path}/artifacts/{artifact}/attestations", {"bundle": "{}"}),
        f"GET {ATTESTATIONS}": (f"{path}/artifacts/{artifact}/attestations", None),
        f"POST {DATASET}": (f"/v1/datasets/{name}", {"bundle": "{}"}),
        f"GET {DATASET}": (f"/v1/datasets/{name}", None),
        f"POST {DATASET}/{{artifact}}/declassification": (
            f"/v1/datasets/{name}/{artifact}/declassification",
            {"bundle": "{}"},
        ),
        f"POST {REPOSITORY}/artifacts/{{artifact}}/promotions": (
            f"{path}/artifacts/{artifact}/promotions",
            {"environment": "production"},
        ),
        f"POST {REPOSITORY}/artifacts/{{artifact}}/demotions": (
            f"{path}/artifacts/{artifact}/demotions",
            {"environment": "production", "reason": "r"},
        ),
        f"POST {REPOSITORY}/grants": (f"{path}/grants", {"artifact": artifact, "purpose": "pull", "host": "h"}),
        "GET /v1/access/decision": (f"/v1/access/decision{query}&subject=person:x&verb=pull", None),
        "GET /v1/events": (f"/v1/events{query}&limit=1", None),
        **{f"GET /v1/lookups/{name}": (f"/v1/lookups/{name}{query}&digest={artifact}", None) for name in LOOKUPS},
    }


def with_id(publication, grant_id, blob, data, load=""):
    loaded = {"command": "x", "pid": 1, "boot_id": "", "client_version": "1"}
    opened, fetched = f"/v1/publications/{publication}", f"/v1/grants/{grant_id}"
    return {
        f"POST {PUBLICATION}/uploads": (f"{opened}/uploads", {"blobs": [blob]}),
        f"POST {PUBLICATION}/part-requests": (f"{opened}/part-requests", {"parts": [{"blake3": blob, "number": 1}]}),
        f"PUT {PUBLICATION}/blobs/{{blake3}}/parts/{{number}}": (f"{opened}/blobs/{blob}/parts/1", data),
        f"POST {PUBLICATION}/blobs/{{blake3}}/measurement": (f"{opened}/blobs/{blob}/measurement", None),
        f"POST {PUBLICATION}/finish": (f"{opened}/finish", None),
        f"POST {GRANT}/read-requests": (f"{fetched}/read-requests", {"blobs": [blob]}),
        f"GET {GRANT}/blobs/{{blake3}}": (f"{fetched}/blobs/{blob}", None),
        f"POST {GRANT}/receipts": (f"{fetched}/receipts", {"transferred_bytes": 1}),
        f"POST {GRANT}/loads": (f"{fetched}/loads", loaded),
        f"POST {LOAD}/heartbeat": (f"/v1/loads/{load}/heartbeat", None),
        f"POST {LOAD}/end": (f"/v1/loads/{load}/end", {"reason": "ended"}),
    }


def everywhere(world, route, *, exists):
    """Routes about the registry as a whole; where there is something to name, a thing that exists or not."""
    ids = {"token": str(uuid.uuid4()), "grant": str(uuid.uuid4()), "host": "nobody"}
    if exists and "{token_id}" in route:
        issued = wire.TokenRequest(principal="person:victim", scopes=["pull:a/b"], expires_in_seconds=60)
        ids["token"] = world.registry.api().issue_token(issued).info.id
    elif exists and "{grant_id}" in route:
        ids["grant"] = grant(world.registry, "person:victim", "pull", "a/b")
    elif exists and "{name}" in route:
        ids["host"] = enrol(world.registry, f"victim-{uuid.uuid4().hex[:8]}").name
    return {
        "POST /v1/tokens": (
            "/v1/tokens",
            {"principal": "person:x", "scopes": ["pull:a/b"], "expires_in_seconds": 60},
        ),
        "GET /v1/tokens": ("/v1/tokens", None),
        "DELETE /v1/tokens/{token_id}": (f"/v1/tokens/{ids['token']}", None),
        "POST /v1/access/grants": (
            "/v1/access/grants",
            {"subject": "person:x", "verb": "pull", "repository": "a/b"},
        ),
        "GET /v1/access/grants": ("/v1/access/grants", None),
        "DELETE /v1/access/grants/{grant_id}": (f"/v1/access/grants/{ids['grant']}", None),
        "POST /v1/hosts/invitations": (
            "/v1/hosts/invitations",
            {"name": f"new-{uuid.uuid4().hex[:8]}", "host_class": "server", "zone": "z"},
        ),
        "GET /v1/signatures": ("/v1/signatures?identity=email:x", None),
        "GET /v1/log/entries": ("/v1/log/entries?start=0&end=1", None),
        "GET /v1/evidence": (f"/v1/evidence?artifact={NO_DIGEST}", None),
        "GET /v1/evidence/events": (f"/v1/evidence/events?artifact={NO_DIGEST}&size=1", None),
        "PUT /v1/trust": (
            "/v1/trust",
            {"roots": ["{}"], "timestamp": "{}", "snapshot": "{}", "targets": "{}", "files": {}},
        ),
        "GET /v1/hosts": ("/v1/hosts", None),
        "GET /v1/hosts/{name}": (f"/v1/hosts/{ids['host']}", None),
        "DELETE /v1/hosts/{name}": (f"/v1/hosts/{ids['host']}", None),
    }


def test_the_table_has_exactly_the_routes_of_the_document(http_):
    document = http_("GET", "/openapi.json").json
    documented = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    assert documented == set(TABLE)


def of(scope):
    return sorted(name for name, found in TABLE.items() if found.scope == scope)


@pytest.mark.parametrize("route", of("anybody"))
def test_routes_for_anybody_answer_every_role_alike(world, route):
    method, path = route.split()
    path = path.format(
        name=f"{NO_BLOB}.trust.toml" if "targets" in path else "1.root.json", path="0/000.p/1", decision=1
    )
    path += {"/v1/log/proof": "?index=0&size=1", "/v1/log/consistency": "?old=1&new=2"}.get(path, "")
    for role in ROLES:
        assert world.ask(role, method, path, None).status == TABLE[route].answer, role


@pytest.mark.parametrize("route", of("somewhere"))
def test_a_route_for_a_right_anywhere_admits_who_has_it_on_any_repository(world, route):
    for role in ROLES:
        answer = world.ask(role, *route.split(), None)
        assert answer.status == (TABLE[route].answer if role in TABLE[route].passes else 403), (role, answer)


@pytest.mark.parametrize("route", of("repository"))
def test_a_route_about_a_repository_admits_the_roles_of_the_table_and_no_other(world, route):
    expected, method = TABLE[route], route.split()[0]
    for role in ROLES:
        for name in (OWN, OTHER, ABSENT):
            path, json = with_repository(name, world)[route]
            answer = world.ask(role, method, path, json)
            case = (role, name, answer)
            has_right = role in expected.passes and (name == OWN or role in WITHOUT_LIMITS)
            if has_right:
                # `everywhere-admin` may change or recall what is not there, and finds that it is not.
                finds_nothing = name == ABSENT and (method == "PATCH" or route.endswith(("/recall", "/release")))
                assert answer.status == (404 if finds_nothing else expected.answer), case
            elif expected.hides and not (role in READERS and name == OWN):
                assert (answer.status, answer.code) == (404, "not-found"), case
            else:
                assert (answer.status, answer.code) == (403, "forbidden"), case


@pytest.mark.parametrize("route", of("repository"))
def test_absent_and_forbidden_answer_alike_to_whoever_may_not_know(world, route):
    method = route.split()[0]
    for role in ROLES:
        if role in WITHOUT_LIMITS and role in TABLE[route].passes:
            continue
        seen = []
        for name in (OTHER, ABSENT):
            path, json = with_repository(name, world)[route]
            answer = world.ask(role, method, path, json)
            known = world.artifacts[OTHER].published.artifact
            seen.append(str(answer.same_for_all).replace(name, "REPOSITORY").replace(known, NO_DIGEST))
            headers = {k: v for k, v in answer.headers.items() if k not in {"date", "x-request-id", "content-length"}}
            seen[-1] += str(sorted(headers.items()))
        assert seen[0] == seen[1], role


@pytest.mark.parametrize("route", of("recall"))
def test_a_recall_answers_those_who_have_to_do_with_the_artifact(world, route):
    """A recall of what the role may see, of what it may not, and one that there is not: the last two answer alike."""
    expected, method = TABLE[route], route.split()[0]
    api = world.registry.api()
    recall_ids = []
    for name in (OWN, OTHER):
        pushed = world.publishing.push({"r": uuid.uuid4().bytes}, name)
        request = wire_recalls.RecallRequest(kind="quarantine", reason="r")
        recall_ids.append((name, api.recall(name, pushed.manifest.digest, request).artifacts[0].recall))
    for role in ROLES:
        seen = []
        for name, row in (*recall_ids, (ABSENT, None)):
            recall_id, artifact = (row.id, row.artifact) if row else (str(uuid.uuid4()), NO_DIGEST)
            path = route.split()[1].format(recall_id=recall_id)
            json = {"state": "absent", "host": "h"} if "confirmations" in route else None
            if "alterations" in route:
                json = {
                    "artifact": artifact, "repository": name, "host": "h",
                    "where": "file", "what": "changed", "path": "a",
                }  # fmt: skip
            answer = world.ask(role, method, path, json)
            case = (role, name, answer)
            if row and role in expected.passes and (name == OWN or role in WITHOUT_LIMITS):
                assert answer.status == expected.answer, case
            else:
                assert (answer.status, answer.code) == (404, "not-found"), case
                seen.append(str(answer.same_for_all).replace(recall_id, "ID").replace(name, "REPOSITORY"))
        assert len(set(seen)) <= 1, (role, seen)


@pytest.mark.parametrize("route", of("asker"))
def test_who_names_artifacts_hears_of_them_whatever_their_rights(world, route):
    for role in ROLES:
        answer = world.ask(role, *route.split(), {"artifacts": [NO_DIGEST], "host": "h"})
        assert (answer.status, answer.json) == (200, {"recalls": [], "expected": []}), (role, answer)


@pytest.mark.parametrize("route", of("id"))
def test_what_belongs_to_one_principal_is_absent_for_every_other(world, route):
    expected, method = TABLE[route], route.split()[0]
    is_publication = PUBLICATION in route
    owner = "push" if is_publication else "pull"

    def of_role(role):
        if is_publication:
            publication, blob, data = world.publication(role)
            return with_id(publication, "", blob, data)[route]
        if LOAD in route:
            return with_id("", "", "", b"", world.loaded(role))[route]
        grant_id, blob = world.pulled(role)
        return with_id("", grant_id, blob, b"")[route]

    for role in ROLES:
        if role in expected.passes:
            path, json = of_role(role)
            answer = ask_raw(world, role, method, path, json)
            assert answer.status == expected.answer, (role, answer)
        if role == owner:
            continue
        path, json = of_role(owner)
        others = ask_raw(world, role, method, path, json)
        missing = path.split("/")
        missing[3] = str(uuid.uuid4())
        absent = ask_raw(world, role, method, "/".join(missing), json)
        assert (others.status, others.code) == (404, "not-found"), (role, others)
        assert str(others.same_for_all).replace(path.split("/")[3], "ID") == str(absent.same_for_all).replace(
            missing[3], "ID"
        ), role


def ask_raw(world, role, method, path, json):
    if isinstance(json, bytes):
        headers = world.machine.headers(method, path) if role == "machine" else {}
        return world.http(method, path, world.tokens.get(role), body=json, headers=headers)
    return world.ask(role, method, path, json)


@pytest.mark.parametrize("route", of("everywhere"))
def test_a_route_about_the_registry_admits_administrators_of_everything_only(world, route):
    expected, method = TABLE[route], route.split()[0]
    names_something = "{" in route
    for role in ROLES:
        seen = []
        for exists in (True, False):
            path, json = everywhere(world, route, exists=exists)[route]
            answer = world.ask(role, method, path, json)
            if role in expected.passes:
                assert answer.status == (404 if names_something and not exists else expected.answer), (role, answer)
            else:
                assert (answer.status, answer.code) == (403, "forbidden"), (role, answer)
                seen.append(answer.same_for_all)
        assert len(seen) == 0 or seen[0] == seen[1], role


def test_enrolling_takes_an_invitation_and_no_role_has_one(world):
    body = {"public_key": "A" * 59 + "="}
    for role in ROLES:
        assert world.ask(role, "POST", "/v1/hosts", body).status == 401, role
    token = invite(world.registry, f"invited-{world.by}")
    assert world.http("GET", "/v1/whoami", token).status == 401  # nor is an invitation a role
