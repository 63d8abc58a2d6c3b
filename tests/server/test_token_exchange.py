"""Exchanging an issuer's token: every rule of the verification has a token that breaks just that one, and its reason."""

import base64
import hashlib
import hmac
import ipaddress
import json
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import UTC, datetime, timedelta

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from sqlmodel import select

from modelreg import providers, wire
from modelreg.errors import TOKEN_REASONS, Misconfigured, TokenRefused, Unreachable
from modelreg_server import exchange, sweeping
from modelreg_server.identity import jwks, tokens
from modelreg_server.identity.federation import Federation
from modelreg_server.tables import Token, UsedToken
from support.hosts import grant
from support.issuer import AUDIENCE, REMOVED, as_json, loopback_issuer, segment
from support.registry import running_registry

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def identities(issuer, more="", rules=None):
    rules = (
        rules
        or f"""
[[issuers.rules]]
claims = {{ repository = "acme/train", ref = "refs/heads/main" }}
principal = "workload:ci/{{repository}}"
scopes = ["pull:acme/*"]

[[issuers.rules]]
claims = {{ iss = "{issuer.url}" }}
principal = "workload:any/{{sub}}"
"""
    )
    return f"""
[[issuers]]
name = "ci"
url = "{issuer.url}"
kind = "workload"
audience = "{AUDIENCE}"
{more}
{rules}
"""


@pytest.fixture(scope="module")
def issuer():
    with loopback_issuer() as running:
        yield running


@pytest.fixture(autouse=True)
def honest_again(request):
    """Whatever a test made the shared issuer do, the next test finds it well."""
    yield
    if "issuer" in request.fixturenames:
        issuer = request.getfixturevalue("issuer")
        issuer.answers.clear()
        issuer.published = ["rsa-1", "ec-1"]


@pytest.fixture(scope="module")
def registry(issuer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("registry")
    (folder / "identities.toml").write_text(identities(issuer))
    with running_registry(folder, identities=folder / "identities.toml") as running:
        yield running


@pytest.fixture
def federation(issuer, tmp_path):
    """A registry's verification without the registry, with nothing remembered."""
    path = tmp_path / "identities.toml"
    path.write_text(identities(issuer))
    return Federation(path)


@pytest.fixture
def exchanged(http_):
    return lambda token, **more: http_("POST", "/v1/token-exchange", json={"token": token, **more})


def refusal(federation, token, name=None):
    with pytest.raises(TokenRefused) as caught:
        federation.verify(token, name, datetime.now(UTC))
    assert caught.value.facts["reason"] in TOKEN_REASONS
    assert token not in str(caught.value)
    return caught.value.facts["reason"]


def test_a_good_token_becomes_a_session_that_ends_soon(registry, issuer, exchanged, http_):
    answer = exchanged(issuer.token(repository="acme/train", ref="refs/heads/main"))

    assert answer.status == 201, answer
    token = answer.json["token"]
    assert token.startswith("mrg_session_")
    assert tokens.is_well_formed(token)
    assert answer.json["principal"] == "workload:ci/acme/train"
    who = http_("GET", "/v1/whoami", token).json
    assert (who["principal"], who["scopes"]) == ("workload:ci/acme/train", ["pull:acme/*"])
    left = datetime.fromisoformat(who["expires_at"]) - datetime.now(UTC)
    assert timedelta(minutes=14) < left <= timedelta(minutes=15)


def test_an_elliptic_key_works_as_well(issuer, exchanged):
    assert exchanged(issuer.token("ec-1")).status == 201


def test_the_event_names_issuer_subject_and_exactly_the_claims_used(registry, issuer, exchanged, http_):
    raw = issuer.token(repository="acme/train", ref="refs/heads/main", actor="mallory", email="secret@acme.example")
    session = exchanged(raw).json["token"]
    identity = {
        "issuer": issuer.url,
        "subject": "repo:acme/train",
        "claims": {"repository": "acme/train", "ref": "refs/heads/main"},
    }

    event = [event for event in registry.whole_log() if event.type == "token.exchanged"][-1]
    assert (event.type, event.principal, event.identity) == ("token.exchanged", "workload:ci/acme/train", identity)
    jti = jwt.decode(raw, options={"verify_signature": False})["jti"]
    assert event.detail["used_token"] == hashlib.sha256(f"jti:{jti}".encode()).hexdigest()

    # Whatever is done with the session later says the same, in the row and in the entry.
    refused = http_("POST", "/v1/repositories/demo/m/grants", session,
                    json={"artifact": "sha256:" + "0" * 64, "purpose": "pull", "host": "h"})  # fmt: skip
    assert refused.status == 404
    later = [event for event in registry.whole_log() if event.type != "token.issued"][-1]
    assert later.type == "artifact.refused"
    assert later.identity == identity
    from modelreg_server import custody_identities
    from modelreg_server.custody import CustodyEvent

    with registry.parts.database.reading() as opened:
        row = opened.get(CustodyEvent, later.index)
        assert custody_identities.opened(opened, [row.actor])[row.actor].body["identity"] == identity
        assert json.loads(row.entry)["actor"] == row.actor


def test_an_event_by_an_api_token_has_no_identity(registry):
    registry.api().whoami()
    api = registry.api()
    api.issue_token(wire.TokenRequest(principal="person:x", scopes=["pull:a/b"], expires_in_seconds=60))
    assert registry.whole_log()[-1].identity is None


def test_who_moved_a_tag_is_told_to_readers_and_their_claims_and_address_to_auditors_only(
    issuer, tmp_path, publishing_to
):
    path = tmp_path / "identities.toml"
    path.write_text(
        identities(issuer).replace('scopes = ["pull:acme/*"]', 'scopes = ["pull:demo/*", "push:demo/*", "tag:demo/*"]')
    )
    with running_registry(tmp_path / "registry", identities=path) as running:
        pushed = publishing_to(running).push({"a": b"1"})
        request = wire.ExchangeRequest(token=issuer.token(repository="acme/train", ref="refs/heads/main"))
        session = running.api("mrg_none").exchange(request).token
        running.api(session).move_tag("demo/m", "v1", wire.TagRequest(artifact=pushed.published.artifact))

        def seen_with(*scopes):
            return running.api(running.token("person:looks", *scopes)).tag_history("demo/m", "v1")[0]

        told = seen_with("read-metadata:demo/*")
        assert (told.principal, told.artifact) == ("workload:ci/acme/train", pushed.published.artifact)
        assert (told.identity, told.token_id, told.client_address, told.user_agent) == (None, None, None, None)
        told = seen_with("read-metadata:demo/*", "audit:demo/*")
        assert told.identity["claims"] == {"repository": "acme/train", "ref": "refs/heads/main"}
        assert told.client_address == "127.0.0.1"


@pytest.mark.parametrize(
    "ref",
    ["refs/heads/" + "x" * 400, "refs/heads/\ud800", "refs/heads/\x1b[2J", "refs/heads/\x00"],
    ids=["long", "half a character", "an escape sequence", "NUL"],
)
def test_claims_that_do_not_fit_into_every_event_make_no_session(issuer, tmp_path, http_to, ref):
    """Else whoever chooses their own claims would be denied without a record: the event would be too large."""
    names = [f"claim{n}" for n in range(15)]
    path = tmp_path / "identities.toml"
    path.write_text(
        identities(
            issuer,
            rules=f"""
[[issuers.rules]]
claims = {{ repository = "acme/train", {", ".join(f'{name} = "refs/heads/*"' for name in names)} }}
principal = "workload:ci/{{repository}}"
""",
        )
    )
    with running_registry(tmp_path / "registry", identities=path) as running:
        token = issuer.token(repository="acme/train", **dict.fromkeys(names, ref))
        answer = http_to(running.url)("POST", "/v1/token-exchange", json={"token": token})
        assert (answer.status, answer.code) == (401, "token-refused")
        assert "token.exchanged" not in {event.type for event in running.whole_log()}


def test_a_rule_without_scopes_gives_a_session_with_the_grants_of_its_principal(registry, issuer, exchanged, http_):
    session = exchanged(issuer.token(repository="acme/other")).json
    assert session["principal"] == "workload:any/repo:acme/train"
    assert http_("GET", "/v1/whoami", session["token"]).json["scopes"] == []
    audit = "/v1/events?repository=acme%2Fm"
    assert http_("GET", audit, session["token"]).status == 403
    grant_id = grant(registry, "workload:any/repo:acme/*", "audit", "acme/*")
    grant(registry, "workload:any/*", "audit", "*/*")  # names no subject with another /
    assert http_("GET", audit, session["token"]).status == 200
    assert http_("GET", "/v1/events", session["token"]).status == 403
    registry.api().revoke_access(grant_id)
    assert http_("GET", audit, session["token"]).status == 403


def test_a_session_can_be_revoked_at_once(registry, issuer, exchanged, http_):
    session = exchanged(issuer.token()).json["token"]
    token_id = http_("GET", "/v1/whoami", session).json["token_id"]
    listed = {row.id: row.kind for row in registry.api().tokens()}
    assert listed[token_id] == "session"

    registry.api().revoke_token(token_id)

    assert http_("GET", "/v1/whoami", session).status == 401


# --- once only


def test_a_replayed_token_is_refused(issuer, exchanged):
    token = issuer.token()
    assert exchanged(token).status == 201
    again = exchanged(token)
    assert (again.status, again.code, again.json["reason"]) == (401, "token-refused", "replayed")


def test_a_replayed_jti_is_refused_also_in_a_newly_signed_token(issuer, exchanged):
    assert exchanged(issuer.token(jti="the-same")).status == 201
    again = exchanged(issuer.token("ec-1", jti="the-same", sub="another"))
    assert again.json["reason"] == "replayed"


def test_a_token_without_jti_is_good_once(issuer, exchanged):
    token = issuer.token(jti=REMOVED)
    assert exchanged(token).status == 201
    assert exchanged(token).json["reason"] == "replayed"


def test_a_respelled_signature_does_not_make_a_new_token(issuer, exchanged):
    """For an ECDSA signature (r, s) also (r, n - s) holds, and anybody can compute it."""
    token = issuer.token("ec-1", jti=REMOVED)
    head, _, signature = token.rpartition(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    r, s = int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")
    respelled = f"{head}.{segment(r.to_bytes(32, 'big') + (P256_ORDER - s).to_bytes(32, 'big'))}"
    assert respelled != token
    issuer.keys["ec-1"].public_key().verify(
        encode_dss_signature(r, P256_ORDER - s), head.encode(), ec.ECDSA(hashes.SHA256())
    )

    assert exchanged(token).status == 201
    assert exchanged(respelled).json["reason"] == "replayed"


def test_of_many_at_once_one_gets_the_session(either_database, issuer, tmp_path):
    (tmp_path / "identities.toml").write_text(identities(issuer))
    with running_registry(tmp_path / "r", identities=tmp_path / "identities.toml", **either_database) as registry:
        token, parts = issuer.token(repository="acme/train", ref="refs/heads/main"), registry.parts
        start = threading.Barrier(8)

        def one(_n):
            start.wait()
            try:
                made = exchange.exchange(
                    parts.database, parts.federation, token, None, client_address=None, user_agent="t",
                    now=datetime.now(UTC),
                )  # fmt: skip
                return made.row.principal
            except TokenRefused as error:
                return error.facts["reason"]

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(one, range(8)))

        assert sorted(answers) == ["replayed"] * 7 + ["workload:ci/acme/train"]
        events = [event for event in registry.whole_log() if event.type == "token.exchanged"]
        assert len(events) == 1
        assert events[0].identity["claims"] == {"repository": "acme/train", "ref": "refs/heads/main"}


def test_used_tokens_are_remembered_until_they_could_not_be_accepted_any_more(registry, issuer, exchanged):
    token = issuer.token(jti="swept")
    assert exchanged(token).status == 201
    once = hashlib.sha256(b"jti:swept").hexdigest()

    def remembered():
        with registry.parts.database.reading() as session:
            return session.get(UsedToken, (issuer.url, once)) is not None

    now = datetime.now(UTC)
    sweeping.sweep_sessions(registry.parts.database, now + timedelta(seconds=331))  # exp + leeway is past
    assert remembered()
    sweeping.sweep_sessions(registry.parts.database, now + timedelta(minutes=16))
    assert not remembered()


def test_sessions_that_ended_long_ago_are_swept_and_api_tokens_are_not(own_registry):
    database, now = own_registry.parts.database, datetime.now(UTC)
    own_registry.token("person:kept")
    with database.writing() as session, session.begin():
        for name, at in (("old", now - timedelta(days=31)), ("new", now)):
            tokens.make_session(
                session, principal=f"workload:{name}", scopes=[], identity={}, lifetime=timedelta(minutes=15), now=at
            )

    sweeping.sweep_sessions(database, now)

    with database.reading() as session:
        assert sorted(row.principal for row in session.exec(select(Token))) == ["person:kept", "workload:new"]


# --- hostile tokens: each breaks one rule


def with_header(issuer, header, kid="rsa-1"):
    """Signed properly with RS256, under whatever header."""
    signing_input = f"{segment(header)}.{segment(issuer.claims())}"
    signature = jwt.get_algorithm_by_name("RS256").sign(signing_input.encode(), issuer.keys[kid])
    return f"{signing_input}.{segment(signature)}"


def unsigned(issuer, header):
    return f"{segment(header)}.{segment(issuer.claims())}."


def hs256_with_public_key(issuer):
    """The classic: the public key, which everybody has, as a shared secret."""
    pem = issuer.keys["rsa-1"].public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )  # fmt: skip
    signing_input = f"{segment({'alg': 'HS256', 'kid': 'rsa-1'})}.{segment(issuer.claims())}"
    return f"{signing_input}.{segment(hmac.digest(pem, signing_input.encode(), 'sha256'))}"


def own_key_in_header(issuer, **members):
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    jwk = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key()))
    shown = {name: jwk if value == "JWK" else value for name, value in members.items()}
    signing_input = f"{segment({'alg': 'RS256', 'kid': 'rsa-1', **shown})}.{segment(issuer.claims())}"
    signature = jwt.get_algorithm_by_name("RS256").sign(signing_input.encode(), key)
    return f"{signing_input}.{segment(signature)}"


def signed_by_stranger(issuer):
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return jwt.encode(issuer.claims(), key, algorithm="RS256", headers={"kid": "rsa-1"})


def tampered(issuer):
    header, _claims, signature = issuer.token().split(".")
    return f"{header}.{segment(issuer.claims(sub='root'))}.{signature}"


NOW = int(time.time())
HOSTILE = {
    "alg none": ("algorithm", lambda i: unsigned(i, {"alg": "none", "kid": "rsa-1"})),
    "alg None": ("algorithm", lambda i: unsigned(i, {"alg": "None", "kid": "rsa-1"})),
    "alg missing": ("algorithm", lambda i: unsigned(i, {"kid": "rsa-1"})),
    "alg a list": ("algorithm", lambda i: unsigned(i, {"alg": ["RS256"], "kid": "rsa-1"})),
    "HS256 with the public key": ("algorithm", hs256_with_public_key),
    "RS512, not configured": ("algorithm", lambda i: i.token(alg="RS512")),
    "ES256 header over an RSA key": ("algorithm", lambda i: with_header(i, {"alg": "ES256", "kid": "rsa-1"})),
    "RS256 header over an EC key": ("algorithm", lambda i: with_header(i, {"alg": "RS256", "kid": "ec-1"})),
    "no kid": ("header", lambda i: with_header(i, {"alg": "RS256"})),
    "kid a number": ("header", lambda i: with_header(i, {"alg": "RS256", "kid": 1})),
    "kid empty": ("header", lambda i: with_header(i, {"alg": "RS256", "kid": ""})),
    "kid unknown": ("unknown-key", lambda i: with_header(i, {"alg": "RS256", "kid": "other"})),
    "kid traversal": ("unknown-key", lambda i: with_header(i, {"alg": "RS256", "kid": "../../../../etc/passwd"})),
    "kid a URL": ("unknown-key", lambda i: with_header(i, {"alg": "RS256", "kid": "http://127.0.0.1:1/key"})),
    "kid SQL": ("unknown-key", lambda i: with_header(i, {"alg": "RS256", "kid": "' OR 1=1 --"})),
    "jwk header": ("header", lambda i: own_key_in_header(i, jwk="JWK")),
    "jku header": ("header", lambda i: own_key_in_header(i, jku="https://evil.example/jwks")),
    "x5u header": ("header", lambda i: own_key_in_header(i, x5u="https://evil.example/x")),
    "x5c header": ("header", lambda i: own_key_in_header(i, x5c=["MIIB"])),
    "crit header": ("header", lambda i: with_header(i, {"alg": "RS256", "kid": "rsa-1", "crit": ["b64"], "b64": False})),
    "crit empty": ("header", lambda i: with_header(i, {"alg": "RS256", "kid": "rsa-1", "crit": []})),
    "unknown header": ("header", lambda i: with_header(i, {"alg": "RS256", "kid": "rsa-1", "zip": "DEF"})),
    "logout token": ("header", lambda i: with_header(i, {"alg": "RS256", "kid": "rsa-1", "typ": "logout+jwt"})),
    "events claim": ("header", lambda i: i.token(events={"http://schemas.openid.net/event/backchannel-logout": {}})),
    "another key": ("signature", signed_by_stranger),
    "other claims under the signature": ("signature", tampered),
    "signature cut off": ("signature", lambda i: i.token().rpartition(".")[0] + "."),
    "issuer unknown": ("issuer", lambda i: i.token(iss="https://other.example")),
    "issuer with a slash": ("issuer", lambda i: i.token(iss=i.url + "/")),
    "issuer's prefix": ("issuer", lambda i: i.token(iss=i.url[:-1])),
    "issuer in capitals": ("issuer", lambda i: i.token(iss=i.url.upper())),
    "issuer a list": ("issuer", lambda i: jwt.api_jws.encode(json.dumps(i.claims(iss=[i.url])).encode(), i.keys["rsa-1"], "RS256", {"kid": "rsa-1"})),
    "no issuer": ("issuer", lambda i: i.token(iss=REMOVED)),
    "another audience": ("audience", lambda i: i.token(aud="https://other.test")),
    "audience with a slash": ("audience", lambda i: i.token(aud=AUDIENCE + "/")),
    "two audiences": ("audience", lambda i: i.token(aud=[AUDIENCE, "https://other.test"])),
    "the audience twice": ("audience", lambda i: i.token(aud=[AUDIENCE, AUDIENCE])),
    "no audience in the list": ("audience", lambda i: i.token(aud=[])),
    "no audience": ("missing-claim", lambda i: i.token(aud=REMOVED)),
    "no subject": ("missing-claim", lambda i: i.token(sub=REMOVED)),
    "no iat": ("missing-claim", lambda i: i.token(iat=REMOVED)),
    "no exp": ("missing-claim", lambda i: i.token(exp=REMOVED)),
    "expired": ("expired", lambda i: i.token(iat=NOW - 400, exp=NOW - 40)),
    "issued in the future": ("not-yet-valid", lambda i: i.token(iat=NOW + 600, exp=NOW + 900)),
    "not before later": ("not-yet-valid", lambda i: i.token(nbf=NOW + 600)),
    "two days": ("lifetime", lambda i: i.token(exp=NOW + 2 * 86400)),
    "for ever": ("lifetime", lambda i: i.token(exp=2**36)),
    "exp beyond any year": ("malformed", lambda i: i.token(exp=2**62)),
    "exp a text": ("malformed", lambda i: jwt.api_jws.encode(json.dumps(i.claims(exp="tomorrow")).encode(), i.keys["rsa-1"], "RS256", {"kid": "rsa-1"})),
    "exp true": ("malformed", lambda i: i.token(exp=True)),
    "exp NaN": ("malformed", lambda i: jwt.api_jws.encode(json.dumps(i.claims(exp=float("nan"))).encode(), i.keys["rsa-1"], "RS256", {"kid": "rsa-1"})),
    "iat negative": ("malformed", lambda i: i.token(iat=-1)),
    "subject empty": ("malformed", lambda i: i.token(sub="")),
    "subject long": ("malformed", lambda i: i.token(sub="s" * 256)),
    "subject with a line feed": ("malformed", lambda i: i.token(sub="a\nb")),
    "jti a number": ("malformed", lambda i: jwt.api_jws.encode(json.dumps(i.claims(jti=7)).encode(), i.keys["rsa-1"], "RS256", {"kid": "rsa-1"})),
    "a claim twice": ("malformed", lambda i: jwt.api_jws.encode(json.dumps(i.claims()).replace("{", '{"sub": "root", ', 1).encode(), i.keys["rsa-1"], "RS256", {"kid": "rsa-1"})),
    "claims a list": ("malformed", lambda i: jwt.api_jws.encode(b"[]", i.keys["rsa-1"], "RS256", {"kid": "rsa-1"})),
    "claims no JSON": ("malformed", lambda i: jwt.api_jws.encode(b"hello", i.keys["rsa-1"], "RS256", {"kid": "rsa-1"})),
    "two segments": ("malformed", lambda i: "a.b"),
    "five segments": ("malformed", lambda i: ".".join(["e30"] * 5)),
    "no dots": ("malformed", lambda i: "token"),
    "padding": ("malformed", lambda i: i.token().replace(".", "=.", 1)),
    "deep JSON": ("malformed", lambda i: f"{segment(b'[' * 5000)}.{segment(b'[' * 5000)}.x"),
    "our own token": ("malformed", lambda i: "mrg_api_" + "A" * 43 + "_000000"),
    "name with its separator": ("principal", lambda i: i.token(sub="a b")),
}  # fmt: skip


def exchanges(registry):
    return [event.index for event in registry.whole_log() if event.type == "token.exchanged"]


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_token_is_refused_with_its_reason(registry, issuer, exchanged, caplog, case):
    reason, make = HOSTILE[case]
    token = make(issuer)
    before = exchanges(registry)

    answer = exchanged(token)

    assert (answer.status, answer.code) == (401, "token-refused"), answer
    assert answer.json["reason"] == reason, answer
    assert answer.json["reason"] in TOKEN_REASONS
    assert exchanges(registry) == before
    if len(token) > 20:
        assert token not in answer.body.decode()
        assert token not in caplog.text


def test_an_id_token_given_to_another_client_is_refused(issuer, tmp_path):
    path = tmp_path / "identities.toml"
    source = identities(
        issuer, rules=f'[[issuers.rules]]\nclaims = {{ iss = "{issuer.url}" }}\nprincipal = "person:x"\n'
    )
    path.write_text(source.replace('kind = "workload"', 'kind = "person"').replace("audience", "client_id"))
    federation = Federation(path)
    now = datetime.now(UTC)
    assert federation.verify(issuer.token(), None, now)
    assert federation.verify(issuer.token(azp=AUDIENCE), None, now)
    assert refusal(federation, issuer.token(azp="other-client")) == "audience"
    assert refusal(federation, issuer.token(headers={"typ": "at+jwt"})) == "header"


def test_required_claims_are_required(issuer, tmp_path):
    path = tmp_path / "identities.toml"
    path.write_text(identities(issuer, more='required_claims = ["environment"]'))
    federation = Federation(path)
    assert refusal(federation, issuer.token()) == "missing-claim"
    assert federation.verify(issuer.token(environment="production"), None, datetime.now(UTC)).subject


def test_a_token_that_no_rule_admits_is_refused(issuer, tmp_path, own_registry):
    path = tmp_path / "identities.toml"
    rules = '[[issuers.rules]]\nclaims = { repository = "acme/*" }\nprincipal = "workload:ci/{repository}"\n'
    path.write_text(identities(issuer, rules=rules))
    federation, database = Federation(path), own_registry.parts.database

    def run(token):
        return exchange.exchange(
            database, federation, token, None, client_address=None, user_agent=None, now=datetime.now(UTC)
        )

    for claims in (
        {},
        {"repository": "evil/acme"},
        {"repository": "acme/a/b"},
        {"repository": "xacme/a"},
        {"repository": 7},
    ):
        with pytest.raises(TokenRefused) as caught:
            run(issuer.token(**claims))
        assert caught.value.facts["reason"] == "no-rule", claims
    assert run(issuer.token(repository="acme/a")).row.principal == "workload:ci/acme/a"


def test_an_issuer_that_was_asked_for_by_name_must_be_that_one(federation, issuer):
    now = datetime.now(UTC)
    assert federation.verify(issuer.token(), "ci", now).issuer.name == "ci"
    assert refusal(federation, issuer.token(), "people") == "issuer"


def test_the_leeway_is_thirty_seconds_and_no_more(federation, issuer):
    now = datetime.now(UTC)
    token = issuer.token(iat=int(now.timestamp()), exp=int(now.timestamp()) + 60)
    end = now.replace(microsecond=0) + timedelta(seconds=60)
    assert federation.verify(token, None, end + timedelta(seconds=29))
    for late in (30, 31, 3600):
        with pytest.raises(TokenRefused, match="expired"):
            federation.verify(token, None, end + timedelta(seconds=late))
    with pytest.raises(TokenRefused, match="not valid yet"):
        federation.verify(token, None, now.replace(microsecond=0) - timedelta(seconds=31))


def test_without_a_file_nothing_is_exchanged(own_registry, http_to, issuer):
    answer = http_to(own_registry.url)("POST", "/v1/token-exchange", json={"token": issuer.token()})
    assert (answer.status, answer.json["reason"]) == (401, "issuer")
    assert http_to(own_registry.url)("GET", "/v1/login-options").json == {"issuers": []}


@pytest.mark.parametrize(
    "body", [{}, {"token": ""}, {"token": "a" * 16385}, {"token": "a b"}, {"token": 1}, {"token": "a\nb"},
             {"token": "a.b.c", "issuer": ""}, {"token": "a.b.c", "more": 1}, [], None],
)  # fmt: skip
def test_what_is_no_request_is_malformed(http_, body):
    answer = http_(
        "POST", "/v1/token-exchange", body=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )
    assert (answer.status, answer.code) == (422, "invalid")


# --- keys: rotation, trouble, restraint


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def key_set(federation, clock):
    return jwks.KeySet(federation.issuers()[0], clock)


def rotate(issuer, old, new):
    issuer.keys[new] = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    issuer.published = [kid for kid in issuer.published if kid != old] + [new]


def test_a_new_key_is_found_at_once_and_a_withdrawn_one_ends_with_the_cache(key_set, issuer, clock):
    key_set.find("rsa-1", "RS256")
    rotate(issuer, "rsa-1", "rsa-2")
    assert key_set.find("rsa-2", "RS256").key_size == 2048
    with pytest.raises(TokenRefused, match="no key"):
        key_set.find("rsa-1", "RS256")


def test_keys_are_kept_ten_minutes_and_unknown_ones_asked_for_once_a_minute(key_set, issuer, clock):
    asked = issuer.asked["/jwks"]
    for _ in range(5):
        key_set.find("rsa-1", "RS256")
    assert issuer.asked["/jwks"] == asked + 1
    for n in range(20):
        with pytest.raises(TokenRefused):
            key_set.find(f"unknown-{n}", "RS256")
    assert issuer.asked["/jwks"] == asked + 2
    clock.now += 61
    with pytest.raises(TokenRefused):
        key_set.find("unknown", "RS256")
    assert issuer.asked["/jwks"] == asked + 3
    clock.now += 601
    key_set.find("rsa-1", "RS256")
    assert issuer.asked["/jwks"] == asked + 4


@pytest.fixture
def own_issuer():
    with loopback_issuer() as running:
        yield running


def test_when_the_provider_is_down_known_keys_serve_an_hour_and_unknown_ones_are_unreachable(
    own_issuer, tmp_path, clock
):
    (tmp_path / "identities.toml").write_text(identities(own_issuer))
    key_set = jwks.KeySet(Federation(tmp_path / "identities.toml").issuers()[0], clock)
    key_set.find("rsa-1", "RS256")
    own_issuer.stop()

    clock.now += jwks.FRESH_SECONDS + 1
    assert key_set.find("rsa-1", "RS256")
    with pytest.raises(TokenRefused):
        key_set.find("other", "RS256")
    clock.now += jwks.STALE_SECONDS
    with pytest.raises(Unreachable):
        key_set.find("rsa-1", "RS256")

    own_issuer.start()
    with pytest.raises(Unreachable):  # left alone for a moment
        key_set.find("rsa-1", "RS256")
    clock.now += jwks.FAILURE_SECONDS
    assert key_set.find("rsa-1", "RS256")


def test_a_provider_that_is_down_from_the_start_is_unreachable_with_its_code(own_issuer, tmp_path, http_to):
    (tmp_path / "identities.toml").write_text(identities(own_issuer))
    token = own_issuer.token()
    own_issuer.stop()
    with running_registry(tmp_path / "r", identities=tmp_path / "identities.toml") as registry:
        answer = http_to(registry.url)("POST", "/v1/token-exchange", json={"token": token})
        assert (answer.status, answer.code, answer.json["issuer"]) == (503, "unreachable", "ci")


def slow_body():
    time.sleep(3)
    return as_json({"keys": []})


BAD_KEYS = {
    "too big": lambda: (200, {}, b'{"keys": [' + b" " * providers.MAX_ANSWER_BYTES + b"]}"),
    "redirect": lambda: (302, {"Location": "http://127.0.0.1:1/jwks"}, b""),
    "permanent redirect": lambda: (308, {"Location": "/elsewhere"}, b""),
    "not JSON": lambda: (200, {}, b"<html>"),
    "a list": lambda: as_json([]),
    "no keys": lambda: as_json({"hello": 1}),
    "keys an object": lambda: as_json({"keys": {}}),
    "too many keys": lambda: as_json({"keys": [{}] * 101}),
    "an error": lambda: (500, {}, b"{}"),
    "not found": lambda: (404, {}, b"{}"),
    "cut off": lambda: (200, {"Content-Length": "1000"}, b'{"keys": []}'),
    "slow": slow_body,
    "deep": lambda: (200, {}, b"[" * 100_000),
}


@pytest.mark.parametrize("case", BAD_KEYS)
def test_keys_that_come_badly_are_unreachable(federation, issuer, monkeypatch, case):
    monkeypatch.setattr(providers, "MAX_SECONDS", 0.5)
    issuer.answers["/jwks"] = BAD_KEYS[case]
    asked_elsewhere = issuer.asked["/elsewhere"]
    started = time.monotonic()
    with pytest.raises(Unreachable):
        federation.verify(issuer.token(), None, datetime.now(UTC))
    assert time.monotonic() - started < 2.5
    assert issuer.asked["/elsewhere"] == asked_elsewhere


def test_a_provider_that_drips_is_cut_off(federation, issuer, monkeypatch):
    """Each byte comes in time; all of them would take a minute."""
    import socket

    monkeypatch.setattr(providers, "MAX_SECONDS", 0.6)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip():
            peer, _ = listener.accept()
            with peer:
                peer.recv(4096)
                try:
                    for byte in b"HTTP/1.1 200 OK\r\nX: " + b"y" * 600:
                        peer.send(bytes([byte]))
                        time.sleep(0.1)
                except OSError:
                    return

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        issuer.answers["/.well-known/openid-configuration"] = lambda: as_json(
            {"issuer": issuer.url, "jwks_uri": f"http://127.0.0.1:{listener.getsockname()[1]}/jwks"}
        )
        started = time.monotonic()
        with pytest.raises(Unreachable):
            federation.verify(issuer.token(), None, datetime.now(UTC))
        assert time.monotonic() - started < 3
        thread.join(5)


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"issuer": "https://other.example", "jwks_uri": "{url}/jwks"},
        {"issuer": "{url}/", "jwks_uri": "{url}/jwks"},
        {"issuer": "{url}"},
        {"issuer": "{url}", "jwks_uri": 7},
        {"issuer": "{url}", "jwks_uri": "http://models.example/jwks"},
        {"issuer": "{url}", "jwks_uri": "file:///etc/passwd"},
        {"issuer": "{url}", "jwks_uri": "ftp://127.0.0.1/jwks"},
        {"issuer": "{url}", "jwks_uri": "https://user:secret@models.example/jwks"},
        {"issuer": "{url}", "jwks_uri": "{url}/jwks#x"},
        {"issuer": "{url}", "jwks_uri": "data:application/json,{{}}"},
    ],
    ids=str,
)
def test_a_discovery_document_that_leads_astray_is_not_followed(federation, issuer, document):
    said = {name: v.format(url=issuer.url) if isinstance(v, str) else v for name, v in document.items()}
    issuer.answers["/.well-known/openid-configuration"] = lambda: as_json(said)
    asked = issuer.asked["/jwks"]
    with pytest.raises(Unreachable):
        federation.verify(issuer.token(), None, datetime.now(UTC))
    assert issuer.asked["/jwks"] == asked


def test_a_document_served_over_https_may_not_name_a_loopback_address():
    document = {"jwks_uri": "http://127.0.0.1:8080/admin"}
    with pytest.raises(Unreachable):
        providers.endpoint(document, "jwks_uri", "https://idp.example")
    assert providers.endpoint(document, "jwks_uri", "http://127.0.0.1:1") == document["jwks_uri"]


def published(issuer, *keys):
    issuer.answers["/jwks"] = lambda: as_json({"keys": list(keys)})


def test_a_key_for_something_else_is_not_used(federation, issuer):
    now = datetime.now(UTC)
    good = issuer.jwk("rsa-1")
    for changed, reason in (
        ({**good, "use": "enc"}, "unknown-key"),
        ({**good, "kty": "oct", "k": segment(b"secret")}, "unknown-key"),
        ({**good, "alg": "RS512"}, "algorithm"),
        ({**good, "alg": None}, "algorithm"),
        ({**good, "n": "AQAB"}, "algorithm"),
        ({**good, "n": 7}, "algorithm"),
        ({**good, "kid": 7}, "unknown-key"),
        ({name: value for name, value in good.items() if name != "kid"}, "unknown-key"),
        ({name: value for name, value in good.items() if name != "e"}, "algorithm"),
    ):
        published(issuer, changed)
        fresh = Federation(federation._path)
        assert refusal(fresh, issuer.token()) == reason, changed
    published(issuer, good, {**good, "n": "AQAB"})
    with pytest.raises(Unreachable, match="two keys under one id"):
        Federation(federation._path).verify(issuer.token(), None, now)


def test_a_short_rsa_key_is_no_key(federation, issuer):
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    jwk = {**json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(weak.public_key())), "kid": "rsa-1"}
    published(issuer, jwk)
    signing_input = f"{segment({'alg': 'RS256', 'kid': 'rsa-1'})}.{segment(issuer.claims())}"
    signature = jwt.get_algorithm_by_name("RS256").sign(signing_input.encode(), weak)
    assert refusal(federation, f"{signing_input}.{segment(signature)}") == "algorithm"


def test_many_that_need_a_slow_provider_do_not_take_every_thread(own_issuer, tmp_path):
    (tmp_path / "identities.toml").write_text(identities(own_issuer))
    key_set = jwks.KeySet(Federation(tmp_path / "identities.toml").issuers()[0])
    go = threading.Event()

    def slow():
        go.wait(10)
        return as_json({"keys": [own_issuer.jwk("rsa-1")]})

    own_issuer.answers["/jwks"] = slow

    def find(_n):
        try:
            return key_set.find("rsa-1", "RS256").key_size
        except Unreachable as error:
            return error.detail

    with ThreadPoolExecutor(20) as pool:
        futures = [pool.submit(find, n) for n in range(20)]
        told, _still_waiting = wait(futures, timeout=jwks.WAIT_SECONDS + 1)
        go.set()
        answers = [future.result(20) for future in futures]
    assert len(told) == 20 - jwks.MAX_WAITING
    assert answers.count(2048) == jwks.MAX_WAITING
    assert all("try again" in future.result() for future in told)
    assert own_issuer.asked["/jwks"] == 1


@pytest.fixture
def server_certificate(tmp_path):
    """A TLS server's certificate of its own authority, for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(hours=1), now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (tmp_path / "ca.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "ca.pem", tmp_path / "key.pem")
    return context


def test_over_https_the_providers_certificate_is_verified(server_certificate, tmp_path):
    path = tmp_path / "identities.toml"
    with loopback_issuer(server_certificate) as issuer:
        now = datetime.now(UTC)
        path.write_text(identities(issuer, more='ca_file = "ca.pem"'))
        assert Federation(path).verify(issuer.token(), None, now).subject
        path.write_text(identities(issuer))
        with pytest.raises(Unreachable, match="SSLCertVerificationError"):
            Federation(path).verify(issuer.token(), None, now)
        path.write_text(identities(issuer, more='ca_file = "key.pem"'))
        with pytest.raises(Misconfigured, match="TLS roots"):
            Federation(path).verify(issuer.token(), None, now)


def test_keys_from_a_file_need_no_network(own_issuer, tmp_path):
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [own_issuer.jwk("rsa-1")]}))
    (tmp_path / "identities.toml").write_text(identities(own_issuer, more='jwks_file = "keys.json"'))
    token = own_issuer.token()
    own_issuer.stop()
    federation = Federation(tmp_path / "identities.toml")
    assert federation.verify(token, None, datetime.now(UTC)).subject == "repo:acme/train"
    for text in ("", "[]", '{"keys": 1}'):
        (tmp_path / "keys.json").write_text(text)
        with pytest.raises(Misconfigured, match=r"keys\.json"):
            federation.verify(token, None, datetime.now(UTC))


def test_keys_from_a_configured_url_need_no_discovery(issuer, tmp_path):
    (tmp_path / "identities.toml").write_text(identities(issuer, more=f'jwks_url = "{issuer.url}/jwks"'))
    asked = issuer.asked["/.well-known/openid-configuration"]
    assert Federation(tmp_path / "identities.toml").verify(issuer.token(), None, datetime.now(UTC))
    assert issuer.asked["/.well-known/openid-configuration"] == asked


def test_an_edit_of_the_file_holds_at_once(federation, issuer):
    now = datetime.now(UTC)
    federation.verify(issuer.token(), None, now)
    federation._path.write_text(identities(issuer, more='algorithms = ["ES256"]'))
    assert refusal(federation, issuer.token()) == "algorithm"
    federation._path.write_text("issuers = 1")
    with pytest.raises(Misconfigured):
        federation.verify(issuer.token(), None, now)


def test_a_file_that_was_broken_meanwhile_is_explained_in_the_log_and_not_to_everybody(
    issuer, tmp_path, http_to, caplog
):
    path = tmp_path / "identities.toml"
    path.write_text(identities(issuer))
    with running_registry(tmp_path / "r", identities=path) as registry:
        path.write_text("[[issuers]]\nname = 'internal-secret-name'\n")
        http = http_to(registry.url)
        for answer in (
            http("GET", "/v1/login-options"),
            http("POST", "/v1/token-exchange", json={"token": issuer.token()}),
        ):
            assert (answer.status, answer.code) == (500, "misconfigured")
            assert "issuers/0" not in answer.body.decode()
        assert "issuers/0" in caplog.text


def test_a_malformed_file_stops_the_server_from_starting(tmp_path):
    (tmp_path / "identities.toml").write_text("[[issuers]]\nname = 'x'\n")
    with (
        pytest.raises(Misconfigured, match="identities file"),
        running_registry(tmp_path / "r", identities=tmp_path / "identities.toml"),
    ):
        raise AssertionError("it started")
