"""Who gets what: every route with every kind of credential, and nothing learnt from a refusal."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from fastapi.routing import APIRoute

from modelreg import wire
from modelreg.errors import NotFound
from modelreg_server.custody import Actor
from modelreg_server.identity import parse_scope, tokens

ABSENT = "sha256:" + "0" * 64
NOBODY = "0" * 64
SOME_ID = str(uuid.uuid4())


@pytest.fixture(scope="module")
def published(publishing):
    return publishing.push({"a": b"authorised bytes", "b": b"more"}, tags=("v1",))


def cases(published):
    """One well-formed request for each route, and the scope that lets it through."""
    artifact = published.published.artifact
    repository = "/v1/repositories/demo/m"
    publication, grant = f"/v1/publications/{SOME_ID}", f"/v1/grants/{SOME_ID}"
    loaded = {"command": "x", "pid": 1, "boot_id": "", "client_version": "1"}
    return {
        ("GET", "/v1/whoami"): ("/v1/whoami", None, "read-metadata:demo/none"),
        ("POST", "/v1/tokens"): (
            "/v1/tokens",
            {"principal": "person:x", "scopes": ["pull:a/b"], "expires_in_seconds": 60},
            "admin:*/*",
        ),
        ("GET", "/v1/tokens"): ("/v1/tokens", None, "admin:*/*"),
        ("DELETE", "/v1/tokens/{token_id}"): (f"/v1/tokens/{SOME_ID}", None, "admin:*/*"),
        ("POST", "/v1/access/grants"): (
            "/v1/access/grants",
            {"subject": "person:x", "verb": "pull", "repository": "a/b"},
            "admin:*/*",
        ),
        ("GET", "/v1/access/grants"): ("/v1/access/grants", None, "admin:*/*"),
        ("DELETE", "/v1/access/grants/{grant_id}"): (f"/v1/access/grants/{SOME_ID}", None, "admin:*/*"),
        ("GET", "/v1/access/decision"): (
            "/v1/access/decision?subject=person:x&verb=pull&repository=demo%2Fm",
            None,
            "audit:demo/m",
        ),
        ("POST", "/v1/hosts/invitations"): (
            "/v1/hosts/invitations",
            {"name": f"new-{SOME_ID}", "host_class": "server", "zone": "z"},
            "admin:*/*",
        ),
        ("GET", "/v1/hosts"): ("/v1/hosts", None, "admin:*/*"),
        ("GET", "/v1/hosts/{name}"): ("/v1/hosts/nobody", None, "admin:*/*"),
        ("DELETE", "/v1/hosts/{name}"): ("/v1/hosts/nobody", None, "admin:*/*"),
        ("PATCH", "/v1/repositories/{namespace}/{name}"): (repository, {"sensitive": False}, "admin:demo/m"),
        ("GET", "/v1/repositories"): ("/v1/repositories", None, "read-metadata:demo/*"),
        ("GET", "/v1/repositories/{namespace}/{name}/artifacts"): (f"{repository}/artifacts", None, "pull:demo/*"),
        ("GET", "/v1/repositories/{namespace}/{name}/artifacts/{artifact}"): (
            f"{repository}/artifacts/{artifact}",
            None,
            "read-metadata:demo/m",
        ),
        ("GET", "/v1/repositories/{namespace}/{name}/tags"): (f"{repository}/tags", None, "pull:demo/m"),
        ("GET", "/v1/repositories/{namespace}/{name}/tags/{tag}"): (f"{repository}/tags/v1", None, "pull:demo/*"),
        ("PUT", "/v1/repositories/{namespace}/{name}/tags/{tag}"): (
            f"{repository}/tags/v2",
            {"artifact": artifact},
            "tag:demo/m",
        ),
        ("GET", "/v1/repositories/{namespace}/{name}/tags/{tag}/history"): (
            f"{repository}/tags/v1/history",
            None,
            "pull:demo/*",
        ),
        ("POST", "/v1/repositories/{namespace}/{name}/publications"): (
            f"{repository}/publications",
            {"manifest": published.manifest.raw.decode(), "bundle": "{}"},
            "push:demo/*",
        ),
        ("POST", "/v1/publications/{publication_id}/uploads"): (
            f"{publication}/uploads",
            {"blobs": [NOBODY]},
            "push:demo/*",
        ),
        ("POST", "/v1/publications/{publication_id}/part-requests"): (
            f"{publication}/part-requests",
            {"parts": [{"blake3": NOBODY, "number": 1}]},
            "push:demo/*",
        ),
        ("PUT", "/v1/publications/{publication_id}/blobs/{blake3}/parts/{number}"): (
            f"{publication}/blobs/{NOBODY}/parts/1",
            {"any": "bytes"},
            "push:demo/*",
        ),
        ("POST", "/v1/publications/{publication_id}/blobs/{blake3}/measurement"): (
            f"{publication}/blobs/{NOBODY}/measurement",
            None,
            "push:demo/*",
        ),
        ("POST", "/v1/publications/{publication_id}/finish"): (f"{publication}/finish", None, "push:demo/*"),
        ("POST", "/v1/repositories/{namespace}/{name}/grants"): (
            f"{repository}/grants",
            {"artifact": artifact, "purpose": "pull", "host": "h"},
            "pull:demo/m",
        ),
        ("POST", "/v1/grants/{grant_id}/read-requests"): (f"{grant}/read-requests", {"blobs": [NOBODY]}, "pull:demo/m"),
        ("GET", "/v1/grants/{grant_id}/blobs/{blake3}"): (f"{grant}/blobs/{NOBODY}", None, "pull:demo/m"),
        ("POST", "/v1/grants/{grant_id}/receipts"): (f"{grant}/receipts", {"transferred_bytes": 1}, "pull:demo/m"),
        ("POST", "/v1/grants/{grant_id}/loads"): (f"{grant}/loads", loaded, "pull:demo/m"),
        ("POST", "/v1/loads/{load_id}/heartbeat"): (f"/v1/loads/{SOME_ID}/heartbeat", None, "pull:demo/m"),
        ("POST", "/v1/loads/{load_id}/end"): (f"/v1/loads/{SOME_ID}/end", {"reason": "ended"}, "pull:demo/m"),
        ("GET", "/v1/events"): ("/v1/events", None, "audit:*/*"),
        ("POST", "/v1/timestamps"): ("/v1/timestamps", None, "push:demo/m"),
        ("GET", "/v1/signatures"): ("/v1/signatures", None, "audit:*/*"),
        ("GET", "/v1/log/checkpoint"): ("/v1/log/checkpoint", None, "read-metadata:demo/none"),
        ("GET", "/v1/log/proof"): ("/v1/log/proof?index=0&size=1", None, "read-metadata:demo/none"),
        ("GET", "/v1/log/consistency"): ("/v1/log/consistency?old=1&new=2", None, "read-metadata:demo/none"),
        ("GET", "/v1/log/entries"): ("/v1/log/entries?start=0&end=1", None, "audit:*/*"),
        ("GET", "/v1/log/tile/{path}"): ("/v1/log/tile/0/000.p/1", None, "read-metadata:demo/none"),
        ("GET", "/v1/evidence"): (f"/v1/evidence?artifact={artifact}", None, "audit:*/*"),
        ("GET", "/v1/evidence/events"): (f"/v1/evidence/events?artifact={artifact}&size=1", None, "audit:*/*"),
        ("POST", "/v1/repositories/{namespace}/{name}/artifacts/{artifact}/scans"): (
            f"{repository}/artifacts/{artifact}/scans",
            None,
            "push:demo/*",
        ),
        ("POST", "/v1/repositories/{namespace}/{name}/artifacts/{artifact}/recall"): (
            f"{repository}/artifacts/{artifact}/recall",
            {"kind": "quarantine", "reason": "r", "dry_run": True},
            "quarantine:demo/m",
        ),
        ("POST", "/v1/repositories/{namespace}/{name}/artifacts/{artifact}/release"): (
            f"{repository}/artifacts/{artifact}/release",
            {"reason": "r"},
            "quarantine:demo/*",
        ),
        ("POST", "/v1/repositories/{namespace}/{name}/artifacts/{artifact}/attestations"): (
            f"{repository}/artifacts/{artifact}/attestations",
            {"bundle": "{}"},
            "push:demo/m",
        ),
        ("GET", "/v1/repositories/{namespace}/{name}/artifacts/{artifact}/attestations"): (
            f"{repository}/artifacts/{artifact}/attestations",
            None,
            "pull:demo/m",
        ),
        ("GET", "/v1/datasets"): ("/v1/datasets", None, "read-metadata:demo/*"),
        ("POST", "/v1/datasets/{namespace}/{name}"): ("/v1/datasets/demo/m", {"bundle": "{}"}, "push:demo/m"),
        ("GET", "/v1/datasets/{namespace}/{name}"): ("/v1/datasets/demo/m", None, "pull:demo/m"),
        ("POST", "/v1/datasets/{namespace}/{name}/{artifact}/declassification"): (
            f"/v1/datasets/demo/m/{artifact}/declassification",
            {"bundle": "{}"},
            "approve:demo/m",
        ),
        ("POST", "/v1/repositories/{namespace}/{name}/artifacts/{artifact}/promotions"): (
            f"{repository}/artifacts/{artifact}/promotions",
            {"environment": "production"},
            "promote:demo/m",
        ),
        ("POST", "/v1/repositories/{namespace}/{name}/artifacts/{artifact}/demotions"): (
            f"{repository}/artifacts/{artifact}/demotions",
            {"environment": "production", "reason": "r"},
            "promote:demo/*",
        ),
        ("GET", "/v1/inventory"): ("/v1/inventory", None, "read-metadata:demo/*"),
        ("GET", "/v1/promotions"): ("/v1/promotions", None, "pull:demo/*"),
        ("GET", "/v1/promotions/{decision}"): ("/v1/promotions/1", None, "audit:demo/*"),
        ("GET", "/v1/recalls"): ("/v1/recalls", None, "pull:demo/*"),
        ("POST", "/v1/recalls/check"): ("/v1/recalls/check", {"artifacts": [artifact]}, "pull:demo/*"),
        ("POST", "/v1/recalls/{recall_id}/confirmations"): (
            f"/v1/recalls/{SOME_ID}/confirmations",
            {"state": "absent", "host": "h"},
            "pull:demo/*",
        ),
        ("GET", "/v1/recalls/{recall_id}/status"): (f"/v1/recalls/{SOME_ID}/status", None, "audit:*/*"),
        ("POST", "/v1/alterations"): (
            "/v1/alterations",
            {
                "artifact": artifact,
                "repository": "demo/m",
                "host": "h",
                "where": "file",
                "what": "changed",
                "path": "a",
            },
            "pull:demo/m",
        ),
        **{
            ("GET", f"/v1/lookups/{question}"): (
                f"/v1/lookups/{question}?repository=demo%2Fm&digest={artifact}",
                None,
                "audit:demo/m",
            )
            for question in ("trace", "pulls", "loaded", "lineage", "blast-radius", "signatures", "timeline")
        },
        ("PUT", "/v1/trust"): (
            "/v1/trust",
            {"roots": ["{}"], "timestamp": "{}", "snapshot": "{}", "targets": "{}", "files": {}},
            "admin:*/*",
        ),
    }


ROUTES = sorted(cases(type("P", (), {"published": type("A", (), {"artifact": ABSENT}), "manifest": type("M", (), {"raw": b""})})))  # fmt: skip
# Without a repository in the path the operation decides, after it has found none of the caller's: absent.
BY_ID = {
    route for route in ROUTES if "{publication_id}" in route[1] or "{grant_id}" in route[1] or "{load_id}" in route[1]
}
BY_ID = {route for route in ROUTES if "_id}" in route[1] and "/tokens/" not in route[1] and "/access/" not in route[1]}
WITH_A_PUSH_SCOPE_ANYWHERE = {("POST", "/v1/timestamps")}
FOR_EVERYBODY = {
    ("GET", "/v1/whoami"),
    ("GET", "/v1/repositories"),
    ("GET", "/v1/datasets"),
    ("GET", "/v1/log/checkpoint"),
    ("GET", "/v1/log/proof"),
    ("GET", "/v1/log/consistency"),
    ("GET", "/v1/log/tile/{path}"),  # of hashes; for entries see test_log_routes
    ("GET", "/v1/recalls"),
    ("GET", "/v1/inventory"),
    ("GET", "/v1/promotions"),
    ("POST", "/v1/recalls/check"),
}
# What the right scope gets for the request above; 200 where not named.
WITH_RIGHTS = {
    ("POST", "/v1/tokens"): 201,
    ("POST", "/v1/access/grants"): 201,
    ("DELETE", "/v1/access/grants/{grant_id}"): 404,
    ("POST", "/v1/hosts/invitations"): 201,
    ("POST", "/v1/repositories/{namespace}/{name}/artifacts/{artifact}/scans"): 201,
    ("GET", "/v1/hosts/{name}"): 404,
    ("DELETE", "/v1/hosts/{name}"): 404,
    ("POST", "/v1/repositories/{namespace}/{name}/grants"): 201,
    ("POST", "/v1/repositories/{namespace}/{name}/publications"): 422,  # the empty bundle
    ("POST", "/v1/repositories/{namespace}/{name}/artifacts/{artifact}/attestations"): 422,  # the empty bundle
    ("POST", "/v1/datasets/{namespace}/{name}"): 422,
    ("POST", "/v1/datasets/{namespace}/{name}/{artifact}/declassification"): 422,
    ("GET", "/v1/datasets/{namespace}/{name}"): 404,  # there is no dataset of this name
    ("DELETE", "/v1/tokens/{token_id}"): 404,
    ("POST", "/v1/timestamps"): 422,  # no query
    ("PUT", "/v1/trust"): 422,  # the empty root
    ("POST", "/v1/repositories/{namespace}/{name}/artifacts/{artifact}/release"): 409,  # it is not quarantined
    ("POST", "/v1/alterations"): 201,
    (
        "POST",
        "/v1/repositories/{namespace}/{name}/artifacts/{artifact}/promotions",
    ): 500,  # there is no promotion policy
    ("GET", "/v1/promotions/{decision}"): 404,  # nothing was decided
    **dict.fromkeys(BY_ID, 404),
}


def names(route):
    return f"{route[0]} {route[1]}"


@pytest.fixture(scope="module")
def credentials(registry):
    database = registry.parts.database
    now = datetime.now(UTC)
    good = registry.token("person:good")

    def issued(at):
        with database.writing() as session, session.begin():
            text, row = tokens.issue(
                session, Actor("test", None), principal="person:gone", scopes=[parse_scope("pull:*/*")],
                lifetime=timedelta(minutes=10), now=at,
            )  # fmt: skip
            return text, row.id

    expired, _ = issued(now - timedelta(hours=1))
    revoked, revoked_id = issued(now)
    with database.writing() as session, session.begin():
        tokens.revoke(session, Actor("test", None), revoked_id, now)
    unknown = "mrg_api_" + "A" * 43
    unknown += "_" + tokens._checksum("A" * 43)
    return {
        "none": {},
        "empty": {"Authorization": ""},
        "no credential": {"Authorization": "Bearer "},
        "basic": {"Authorization": "Basic cGVyc29uOng="},
        "malformed": {"Authorization": "Bearer mrg_api_nonsense"},
        "wrong checksum": {"Authorization": f"Bearer {good[:-1]}{'0' if good[-1] != '0' else '1'}"},
        "unknown": {"Authorization": f"Bearer {unknown}"},
        "with a space": {"Authorization": f"Bearer {good} {good}"},
        "not ASCII": {"Authorization": f"Bearer {good[:-1]}\xe9"},
        "expired": {"Authorization": f"Bearer {expired}"},
        "revoked": {"Authorization": f"Bearer {revoked}"},
    }


def test_the_matrix_has_every_route(registry):
    from starlette.routing import Route

    def walk(routes):
        for route in routes:
            if getattr(route, "original_router", None) is not None:
                yield from walk(route.original_router.routes)
            elif isinstance(route, Route):
                yield route

    served = {
        (method, route.path_format)
        for route in walk(registry.app.routes)
        if isinstance(route, APIRoute)
        for method in route.methods
    }
    public = {
        ("GET", "/health"),
        ("GET", "/v1/login-options"),
        ("POST", "/v1/token-exchange"),
        ("GET", "/v1/trust/metadata/{name}"),
        ("GET", "/v1/trust/targets/{name}"),
    }
    # Enrolment takes an invitation instead of a token: see test_hosts.
    assert served - public - {("POST", "/v1/hosts")} == set(ROUTES)


@pytest.mark.parametrize("route", ROUTES, ids=names)
def test_a_credential_that_does_not_hold_is_refused_before_anything_else(http_, published, credentials, route):
    path, json, _scope = cases(published)[route]
    for kind, headers in credentials.items():
        answer = http_(route[0], path, json=json, headers=headers)
        assert answer.status == 401, (kind, answer)
        assert answer.code == "unauthenticated", kind
        assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("kind", ["malformed", "unknown", "expired", "revoked"])
def test_the_reason_why_a_token_does_not_hold_is_not_told(http_, credentials, kind):
    answer = http_("GET", "/v1/whoami", headers=credentials[kind])
    assert answer.same_for_all == http_("GET", "/v1/whoami", headers=credentials["wrong checksum"]).same_for_all


@pytest.mark.parametrize("route", ROUTES, ids=names)
def test_a_token_without_the_scope_is_refused(registry, http_, published, route):
    path, json, _scope = cases(published)[route]
    token = registry.token("person:other", "pull:other/*", "push:other/*", "tag:other/*", "admin:a/*", "audit:a/*")
    answer = http_(route[0], path, token, json=json)
    if route in FOR_EVERYBODY:
        assert answer.status == 200
    elif route in WITH_A_PUSH_SCOPE_ANYWHERE:
        assert answer.status == 422
        assert http_(route[0], path, registry.token("person:reader", "pull:*/*", "tag:*/*"), json=json).status == 403
    else:
        assert (answer.status, answer.code) in {(403, "forbidden"), (404, "not-found")}


@pytest.mark.parametrize("route", ROUTES, ids=names)
def test_the_right_scope_is_enough(registry, http_, published, route):
    path, json, scope = cases(published)[route]
    answer = http_(route[0], path, registry.token("person:right", scope), json=json)
    assert answer.status == WITH_RIGHTS.get(route, 200), answer


@pytest.mark.parametrize("route", [route for route in ROUTES if "{namespace}" in route[1]], ids=names)
def test_a_hidden_repository_answers_as_an_absent_one(registry, http_, published, route):
    """With and without artifacts in it, for somebody who may do nothing there."""
    path, json, _scope = cases(published)[route]
    token = registry.token("person:curious", "pull:other/*")
    hidden = http_(route[0], path, token, json=json).same_for_all
    absent = http_(route[0], path.replace("demo/m", "demo/x"), token, json=json).same_for_all

    assert hidden[0] in {403, 404}
    assert (hidden[0], str(hidden[1]).replace("demo/m", "demo/x")) == (absent[0], str(absent[1]))


def test_a_hidden_artifact_answers_as_an_absent_one(registry, http_, published):
    token = registry.token("person:curious", "pull:other/*")
    for method, path, json in (
        ("GET", "/v1/repositories/demo/m/artifacts/{}", None),
        ("POST", "/v1/repositories/demo/m/grants", {"artifact": "{}", "purpose": "pull", "host": "h"}),
    ):
        answers = []
        for artifact in (published.published.artifact, ABSENT):
            body = {**json, "artifact": artifact} if json else None
            answer = http_(method, path.format(artifact), token, json=body)
            answers.append((answer.status, str(answer.same_for_all).replace(artifact, "")))
        assert answers[0] == answers[1]
        assert answers[0][0] == 404


def test_reading_rights_do_not_push_and_pushing_rights_do_not_read(registry, http_, published):
    reader, pusher = registry.token("person:r", "pull:demo/*"), registry.token("person:p", "push:demo/*")
    body = {"manifest": "{}", "bundle": "{}"}
    for repository in ("demo/m", "demo/absent"):
        assert http_("POST", f"/v1/repositories/{repository}/publications", reader, json=body).status == 403
    assert http_("GET", "/v1/repositories/demo/m/artifacts", pusher).status == 404
    metadata = registry.token("person:meta", "read-metadata:demo/*")
    request = {"artifact": published.published.artifact, "purpose": "pull", "host": "h"}
    assert http_("POST", "/v1/repositories/demo/m/grants", metadata, json=request).status == 403


def test_the_list_of_repositories_shows_only_what_the_principal_may_see(registry, publishing):
    publishing.push({"a": b"1"}, "demo/seen")
    publishing.push({"a": b"2"}, "demo/unseen")
    api = registry.api(registry.token("person:some", "read-metadata:demo/seen"))
    assert [row.repository for row in api.repositories()] == ["demo/seen"]


def test_events_of_one_repository_need_audit_there_and_all_events_need_it_everywhere(registry, http_, published):
    some = registry.token("person:auditor", "audit:demo/*")
    assert http_("GET", "/v1/events?repository=demo/m", some).status == 200
    assert http_("GET", "/v1/events?repository=other/m", some).status == 403
    assert http_("GET", "/v1/events", some).status == 403
    assert http_("GET", f"/v1/events?artifact={published.published.artifact}", some).status == 403
    assert {e["repository"] for e in http_("GET", "/v1/events?repository=demo/m", some).json["events"]} == {"demo/m"}


def test_a_blob_of_somebody_else_is_missing_unless_the_caller_may_pull_it(registry, publishing):
    secret = b"bytes of another team"
    publishing.push({"secret": secret}, "demo/secret")
    manifest = publishing.manifest({"mine": secret})
    request = publishing.request(manifest)
    unknown = publishing.manifest({"mine": b"bytes nobody has"})

    outsider = registry.api(registry.token("person:outsider", "push:demo/mine", "pull:demo/mine"))
    insider = registry.api(registry.token("person:insider", "push:demo/mine", "pull:demo/secret"))

    assert outsider.begin_publication("demo/mine", request).missing == [manifest.files[0].blake3]
    assert outsider.begin_publication("demo/mine", publishing.request(unknown)).missing == [unknown.files[0].blake3]
    assert insider.begin_publication("demo/mine", request).missing == []


def test_naming_a_digest_does_not_publish_bytes_one_does_not_have(registry, publishing, http_):
    publishing.push({"secret": b"not theirs"}, "demo/secret")
    token = registry.token("person:thief", "push:demo/theft", "pull:demo/theft")
    api = registry.api(token)
    state = api.begin_publication("demo/theft", publishing.request(publishing.manifest({"x": b"not theirs"})))

    assert http_("POST", f"/v1/publications/{state.id}/finish", token).status == 409
    blob = state.missing[0]
    assert http_("POST", f"/v1/publications/{state.id}/blobs/{blob}/measurement", token).status == 404


def test_sending_the_bytes_anew_does_not_disturb_the_stored_blob(registry, publishing):
    files = {"x": b"sent by two who do not know each other"}
    publishing.push(files, "demo/first")
    api = registry.api(registry.token("person:second", "push:demo/second"))
    pushed = publishing.push(files, "demo/second", api=api)

    assert pushed.transferred_bytes == len(files["x"])
    for repository in ("demo/first", "demo/second"):
        assert fetched(registry, repository, pushed.manifest)["x"] == files["x"]


def fetched(registry, repository, manifest):
    api = registry.api()
    grant = api.request_grant(repository, wire.GrantRequest(artifact=str(manifest.digest), purpose="pull", host="h"))
    requests = api.read_requests(grant.id, [entry.blake3 for entry in manifest.files])
    return {
        entry.path: api.open_direct(request, {}).read() for entry, request in zip(manifest.files, requests, strict=True)
    }


def test_a_grant_opens_its_own_artifact_only(registry, publishing, http_, published):
    other = publishing.push({"o": b"of another artifact"}, "demo/n")
    token = registry.token("person:puller", "pull:demo/*")
    grant = registry.api(token).request_grant(
        "demo/m", wire.GrantRequest(artifact=published.published.artifact, purpose="pull", host="h")
    )
    foreign = other.manifest.files[0].blake3
    own = published.manifest.files[0].blake3
    path = f"/v1/grants/{grant.id}"

    assert http_("GET", f"{path}/blobs/{own}", token).status == 200
    refusals = [http_("GET", f"{path}/blobs/{blob}", token) for blob in (foreign, NOBODY)]
    assert [answer.status for answer in refusals] == [404, 404]
    assert str(refusals[0].same_for_all).replace(foreign, "") == str(refusals[1].same_for_all).replace(NOBODY, "")
    assert http_("POST", f"{path}/read-requests", token, json={"blobs": [own, foreign]}).status == 404
    assert http_("POST", f"{path}/read-requests", token, json={"blobs": [own]}).status == 200


def test_another_principals_grant_is_absent(registry, http_, published):
    token, other = registry.token("person:owner", "pull:demo/*"), registry.token("person:other", "pull:*/*")
    grant = registry.api(token).request_grant(
        "demo/m", wire.GrantRequest(artifact=published.published.artifact, purpose="pull", host="h")
    )
    blob = published.manifest.files[0].blake3
    loaded = {"command": "x", "pid": 1, "boot_id": "", "client_version": "1"}
    for method, tail, json in (
        ("POST", "read-requests", {"blobs": [blob]}),
        ("GET", f"blobs/{blob}", None),
        ("POST", "receipts", {"transferred_bytes": 1}),
        ("POST", "loads", loaded),
    ):
        answers = [http_(method, f"/v1/grants/{id_}/{tail}", other, json=json) for id_ in (grant.id, SOME_ID)]
        assert [answer.code for answer in answers] == ["not-found", "not-found"]
        assert str(answers[0].same_for_all).replace(grant.id, "") == str(answers[1].same_for_all).replace(SOME_ID, "")


def test_another_principals_publication_is_absent(registry, publishing, http_):
    token, other = registry.token("person:owner", "push:demo/*"), registry.token("person:other", "push:*/*")
    manifest = publishing.manifest({"a": b"an open publication"})
    state = registry.api(token).begin_publication("demo/m", publishing.request(manifest))
    blob = manifest.files[0].blake3
    for method, tail, json in (
        ("POST", "uploads", {"blobs": [blob]}),
        ("POST", "part-requests", {"parts": [{"blake3": blob, "number": 1}]}),
        ("PUT", f"blobs/{blob}/parts/1", {"a": 1}),
        ("POST", f"blobs/{blob}/measurement", None),
        ("POST", "finish", None),
    ):
        assert http_(method, f"/v1/publications/{state.id}/{tail}", other, json=json).code == "not-found", tail


def test_a_right_to_pull_that_ended_ends_its_grants(registry, published):
    owner = registry.api(registry.token("person:leaving", "pull:demo/*"))
    grant = owner.request_grant(
        "demo/m", wire.GrantRequest(artifact=published.published.artifact, purpose="pull", host="h")
    )
    narrowed = registry.api(registry.token("person:leaving", "pull:other/*"))
    with pytest.raises(NotFound):
        narrowed.read_requests(grant.id, [published.manifest.files[0].blake3])


def test_a_refused_grant_is_recorded_with_its_reason(registry, http_, published):
    token = registry.token("person:refused", "read-metadata:demo/*")
    request = {"artifact": published.published.artifact, "purpose": "launch", "host": "gpu-1", "tag": "v1"}
    assert http_("POST", "/v1/repositories/demo/m/grants", token, json=request).code == "forbidden"
    hidden = registry.token("person:blind", "pull:other/*")
    assert http_("POST", "/v1/repositories/demo/m/grants", hidden, json=request).code == "not-found"

    first, second = [event for event in registry.whole_log() if event.type == "artifact.refused"][-2:]
    assert (first.type, first.principal, first.detail["reason"]) == ("artifact.refused", "person:refused", "forbidden")
    assert (first.repository, first.artifact, first.tag) == ("demo/m", request["artifact"], "v1")
    assert (first.host, first.purpose, first.client_address) == ("gpu-1", "launch", "127.0.0.1")
    assert (second.type, second.principal, second.detail["reason"]) == ("artifact.refused", "person:blind", "not-found")


def test_an_artifact_the_servers_policy_revokes_is_not_granted(own_registry, publishing_to, http_to):
    publishing = publishing_to(own_registry)
    artifact = publishing.push({"a": b"revoked later"}).published.artifact
    path = own_registry.trust.policy_path
    path.write_text(path.read_text().replace("artifacts = []", f'artifacts = ["{artifact}"]'))

    answer = http_to(own_registry.url)(
        "POST", "/v1/repositories/demo/m/grants", own_registry.token(),
        json={"artifact": artifact, "purpose": "pull", "host": "h"},
    )  # fmt: skip

    assert (answer.status, answer.code) == (403, "revoked")
    refused = [event for event in own_registry.whole_log() if event.type == "artifact.refused"]
    assert [event.detail["reason"] for event in refused] == ["revoked"]


def test_a_grant_expires(own_registry, publishing_to, tmp_path):
    from modelreg_server.callers import Caller
    from modelreg_server.identity import Principal
    from modelreg_server.retrieval import open_grant

    publishing = publishing_to(own_registry)
    artifact = publishing.push({"a": b"expires"}).published.artifact
    scopes = (parse_scope("pull:demo/*"),)
    grant = own_registry.api(own_registry.token("person:late", "pull:demo/*")).request_grant(
        "demo/m", wire.GrantRequest(artifact=artifact, purpose="pull", host="h")
    )
    principal = Principal("person:late", "t", scopes, grant.expires_at)
    with own_registry.parts.database.reading() as session:
        in_time = Caller(principal, Actor("person:late", None), grant.expires_at - timedelta(seconds=1))
        assert open_grant(session, in_time, grant.id).id == grant.id
        too_late = Caller(principal, Actor("person:late", None), grant.expires_at)
        with pytest.raises(NotFound):
            open_grant(session, too_late, grant.id)
