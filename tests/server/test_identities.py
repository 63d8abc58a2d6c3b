"""`identities.toml`: what it may say, and which claims a rule takes for which principal."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelreg.errors import Misconfigured, TokenRefused
from modelreg_server.identity import claims, issuers, parse_scope
from support.fuzzing import bounded

GOOD = """
[[issuers]]
name = "ci"
url = "https://ci.example"
kind = "workload"
audience = "https://models.example"
{issuer}
[[issuers.rules]]
claims = {{ {claims} }}
principal = '{principal}'
{rule}
"""


def text(issuer="", claims='repository = "acme/train"', principal="workload:ci/{repository}", rule="", **replaced):
    made = GOOD.format(issuer=issuer, claims=claims, principal=principal, rule=rule)
    for name, value in replaced.items():
        old = next(line for line in made.splitlines() if line.startswith(f"{name} = "))
        made = made.replace(old, f"{name} = {value}" if value else "", 1)
    return made


def person(issuer="", client='client_id = "modelreg"'):
    made = text(issuer=issuer, kind='"person"', principal="person:{email}")
    return made.replace('audience = "https://models.example"', client)


def parse(source):
    return issuers.parse(source.encode(), Path("/etc/modelreg"))


def test_a_file_says_what_it_says():
    (ci,) = parse(text(issuer='jwks_file = "keys.json"\nca_file = "/etc/ca.pem"\nlifetime_seconds = 300'))
    assert (ci.name, ci.url, ci.kind, ci.audience) == ("ci", "https://ci.example", "workload", "https://models.example")
    assert ci.algorithms == {"RS256", "ES256"}
    assert (ci.jwks_file, ci.ca_file) == (Path("/etc/modelreg/keys.json"), Path("/etc/ca.pem"))
    assert ci.lifetime_seconds == 300
    assert parse(text())[0].lifetime_seconds == 900
    (people,) = parse(person())
    assert (people.audience, people.client_id, people.lifetime_seconds) == ("modelreg", "modelreg", 3600)
    assert people.scopes == ("openid", "offline_access")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("", "issuers"),
        ("issuers = 1", "issuers"),
        ("issuers = []", "issuers"),
        ("x = [", "TOML"),
        (text() + "\n[more]\nx = 1", "more"),
        (text(issuer="unknown = 1"), "unknown"),
        (text(rule="unknown = 1"), "unknown"),
        (text(name='"CI"'), "name"),
        (text(name='""'), "name"),
        (text(url='"http://ci.example"'), "https"),
        (text(url='"https://user@ci.example"'), "https"),
        (text(url='"https://ci.example#x"'), "URL"),
        (text(url='"ftp://ci.example"'), "https"),
        (text(url='"file:///etc/keys"'), "https"),
        (text(url="7"), "url"),
        (text(kind='"host"'), "kind"),
        (text(audience=""), "audience"),
        (text(audience='["a", "b"]'), "audience"),
        (text(issuer='algorithms = ["none"]'), "none"),
        (text(issuer='algorithms = ["RS256", "HS256"]'), "HS256"),
        (text(issuer='algorithms = ["rs256"]'), "rs256"),
        (text(issuer="algorithms = []"), "algorithms"),
        (text(issuer="lifetime_seconds = 901"), "900"),
        (text(issuer="lifetime_seconds = 10"), "lifetime_seconds"),
        (text(issuer='lifetime_seconds = "900"'), "lifetime_seconds"),
        (text(issuer='client_id = "x"'), "client_id"),
        (text(issuer='jwks_url = "http://models.example/jwks"'), "https"),
        (text(issuer='jwks_url = "https://a.example"\njwks_file = "x"'), "not both"),
        (text(claims=""), "claims"),
        (text(claims='repository = "*"'), "everybody"),
        (text(claims='repository = "*/*", ref = "*"'), "everybody"),
        (text(claims='repository = ""'), "repository"),
        (text(claims='repository = ["a"]'), "repository"),
        (text(claims="repository = 1.5"), "repository"),
        (text(claims='repository = "a*b*c*d*e*"'), "repository"),
        (text(claims=", ".join(f'c{n} = "x"' for n in range(17))), "claims"),
        (text(principal="person:{sub}"), "workload:"),
        (text(principal="workload:"), "workload:"),
        (text(principal="{sub}"), "workload:"),
        (text(principal="workload:{sub} x"), "may hold"),
        (text(principal="workload:{sub"), "may hold"),
        (text(principal="workload:{}"), "may hold"),
        (text(principal="workload:{a}{b}"), "separator"),
        (text(principal="workload:x" + "y" * 200), "principal"),
        (text(rule='scopes = ["fly:acme/*"]'), "scope"),
        (text(rule='scopes = ["push:*"]'), "scope"),
        (text(rule="scopes = 1"), "scopes"),
        (text(rule="scopes = []"), "scopes"),  # would read as no rights and mean the principal's grants
        (text().split("[[issuers.rules]]", maxsplit=1)[0], "rules"),
        (text() + text(), "one name"),
        (text() + text(name='"other"'), "one audience"),
        (person(client='audience = "modelreg"'), "client_id"),
        (person(issuer='audience = "other"'), "audience"),
        (person(issuer='scopes = ["email"]'), "openid"),
        (person(issuer="lifetime_seconds = 50000"), "43200"),
    ],
    ids=lambda value: value[-60:].replace("\n", " ") if isinstance(value, str) else None,
)
def test_anything_else_is_refused_and_says_where(source, says):
    with pytest.raises(Misconfigured, match="identities file") as caught:
        parse(source)
    assert says in caught.value.detail


def test_a_file_that_is_too_large_or_not_there_is_refused(tmp_path):
    with pytest.raises(Misconfigured):
        issuers.read(tmp_path / "nowhere.toml")
    with pytest.raises(Misconfigured, match="larger"):
        parse("#" * (issuers.MAX_FILE_BYTES + 1))


GITHUB = {
    "iss": "https://token.actions.example", "sub": "repo:acme/train:environment:production", "repository": "acme/train",
    "repository_id": "1234", "repository_owner": "acme", "ref": "refs/heads/main", "ref_type": "branch",
    "environment": "production", "event_name": "push", "workflow_ref": "acme/train/.github/workflows/train.yml@refs/heads/main",
    "job_workflow_ref": "acme/shared/.github/workflows/train.yml@refs/tags/v1", "run_id": "77",
}  # fmt: skip
GITLAB = {
    "iss": "https://gitlab.example", "sub": "project_path:acme/train:ref_type:branch:ref:main", "project_path": "acme/train",
    "project_id": "22", "namespace_path": "acme", "ref": "main", "ref_type": "branch", "ref_protected": "true",
    "environment_protected": "true", "pipeline_source": "push",
}  # fmt: skip
KUBERNETES = {
    "iss": "https://kubernetes.default.svc.cluster.local", "sub": "system:serviceaccount:serving:vllm",
    "kubernetes.io": {
        "namespace": "serving", "serviceaccount": {"name": "vllm", "uid": "7c5f"},
        "pod": {"name": "vllm-0", "uid": "a1b2"}, "node": {"name": "gpu-1"},
    },
}  # fmt: skip
PERSON = {"iss": "https://idp.example", "sub": "00u1", "email": "al@acme.example", "email_verified": True,
          "groups": ["staff", "ml-release"], "level": 3}  # fmt: skip


def matched(expected, principal, scopes=(), **token):
    pairs = tuple((name, claims.parse_expected(name, value)) for name, value in expected.items())
    kind = principal.partition(":")[0]
    rule = claims.Rule(pairs, claims.parse_template(principal, kind), tuple(map(parse_scope, scopes)))
    return claims.match((rule,), token)


@pytest.mark.parametrize(
    ("token", "expected", "principal", "becomes", "used"),
    [
        (GITHUB, {"repository": "acme/train", "ref": "refs/heads/main"}, "workload:ci/{repository}",
         "workload:ci/acme/train", {"repository": "acme/train", "ref": "refs/heads/main"}),
        (GITHUB, {"repository_id": "1234", "environment": "production", "event_name": "push",
                  "job_workflow_ref": "acme/shared/.github/workflows/*@refs/tags/*"},
         "workload:ci/{repository}#{environment}", "workload:ci/acme/train#production",
         {"repository_id": "1234", "environment": "production", "event_name": "push", "repository": "acme/train",
          "job_workflow_ref": "acme/shared/.github/workflows/train.yml@refs/tags/v1"}),
        (GITLAB, {"project_path": "acme/*", "ref_protected": "true"}, "workload:gitlab/{project_path}",
         "workload:gitlab/acme/train", {"project_path": "acme/train", "ref_protected": "true"}),
        (KUBERNETES, {"/kubernetes.io/namespace": "serving", "/kubernetes.io/serviceaccount/name": "vllm"},
         "workload:k8s/{/kubernetes.io/namespace}/{/kubernetes.io/pod/name}", "workload:k8s/serving/vllm-0",
         {"/kubernetes.io/namespace": "serving", "/kubernetes.io/serviceaccount/name": "vllm",
          "/kubernetes.io/pod/name": "vllm-0"}),
        (PERSON, {"email": "*@acme.example", "email_verified": True, "groups": "ml-*", "level": 3}, "person:{email}",
         "person:al@acme.example", {"email": "al@acme.example", "email_verified": True, "groups": "ml-release", "level": 3}),
        (PERSON, {"groups": "ml-release"}, "person:by-group/{groups}", "person:by-group/ml-release", {"groups": "ml-release"}),
        (PERSON, {"level": 3}, "person:{level}", "person:3", {"level": 3}),
    ],
)  # fmt: skip
def test_a_rule_makes_a_principal_and_names_the_claims_it_used(token, expected, principal, becomes, used):
    found = matched(expected, principal, ["pull:acme/*"], **token)
    assert (found.principal, found.claims_used) == (becomes, used)
    assert [str(scope) for scope in found.scopes] == ["pull:acme/*"]


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        (GITHUB, {"repository": "acme/trai"}),
        (GITHUB, {"repository": "acme/train "}),
        (GITHUB, {"repository": "ACME/train"}),
        (GITHUB, {"repository": "*"}),  # does not cross the slash
        (GITHUB, {"repository": "acme/train", "ref": "main"}),
        (GITHUB, {"repository_id": 1234}),
        (GITHUB, {"absent": "x"}),
        (GITHUB, {"ref": "refs/heads/m.in"}),
        (GITLAB, {"ref_protected": True}),
        (PERSON, {"email_verified": "true"}),
        (PERSON, {"email_verified": 1}),
        (PERSON, {"level": True}),
        (PERSON, {"level": "3"}),
        (PERSON, {"groups": "ml"}),
        ({**PERSON, "email": "al@acme.example.evil"}, {"email": "*@acme.example"}),
        ({**PERSON, "email": "a" * 500 + "@acme.example"}, {"email": "*@acme.example"}),
        ({**PERSON, "groups": {"ml-release": True}}, {"groups": "ml-release"}),
        ({**PERSON, "groups": [["ml-release"]]}, {"groups": "ml-release"}),
        ({**PERSON, "groups": None}, {"groups": "ml-release"}),
        (KUBERNETES, {"kubernetes.io/namespace": "serving"}),  # a name, not a pointer
        ({"kubernetes.io/namespace": "serving"}, {"/kubernetes.io/namespace": "serving"}),
        (KUBERNETES, {"/kubernetes.io": "serving"}),
        (KUBERNETES, {"/kubernetes.io/namespace/x": "serving"}),
        ({"kubernetes.io": [{"namespace": "serving"}]}, {"/kubernetes.io/0/namespace": "serving"}),
    ],
)
def test_a_claim_that_is_not_as_expected_does_not_match(token, expected):
    with pytest.raises(TokenRefused) as caught:
        matched(expected, "workload:x", **token)
    assert caught.value.facts["reason"] == "no-rule"


def test_the_first_rule_that_matches_decides():
    (ci,) = parse(text() + '[[issuers.rules]]\nclaims = { repository = "acme/*" }\nprincipal = "workload:second"\n')
    assert claims.match(ci.rules, {"repository": "acme/train"}).principal == "workload:ci/acme/train"
    assert claims.match(ci.rules, {"repository": "acme/other"}).principal == "workload:second"


@pytest.mark.parametrize(
    "value", ["", " ", "a b", "a\nb", "é", "a{b}", "-x", "/x", "#x", "a#b", "a" * 200, "a" * 501, None, True, 1.5, [], {}, ["x"]],
)  # fmt: skip
def test_a_claim_that_cannot_stand_in_a_name_makes_no_principal(value):
    with pytest.raises(TokenRefused) as caught:
        matched({"iss": "i"}, "workload:x/{sub}", iss="i", sub=value)
    assert caught.value.facts["reason"] == "principal"


def test_a_pointer_escapes_slash_and_tilde():
    token = {"https://acme.example/roles": {"a~b": "yes"}}
    assert matched(
        {"https://acme.example/roles": "x", "x": "y"}, "workload:x", x="y", **{"https://acme.example/roles": "x"}
    )
    assert matched({"/https:~1~1acme.example~1roles/a~0b": "yes"}, "workload:x", **token).principal == "workload:x"


def test_a_value_does_not_hold_the_separator_behind_its_placeholder():
    template = claims.parse_template("workload:{x}/{y}", "workload")
    assert template.fill({"x": "a", "y": "b/c"}) == "workload:a/b/c"
    assert template.fill({"x": "a/b", "y": "c"}) is None


_part = st.text("ab/:#-.", min_size=1, max_size=6)


@given(first=st.tuples(_part, _part), second=st.tuples(_part, _part), separator=st.sampled_from("/:#-."))
@bounded
def test_two_different_pairs_of_claims_never_make_one_name(first, second, separator):
    template = claims.parse_template(f"workload:{{x}}{separator}{{y}}", "workload")
    made = [template.fill({"x": x, "y": y}) for x, y in (first, second)]
    if first != second and None not in made:
        assert made[0] != made[1]


@given(st.text(max_size=300))
@bounded
def test_a_principal_is_always_one_printable_word(value):
    made = claims.parse_template("workload:x/{v}", "workload").fill({"v": value})
    if made is not None:
        assert made.isascii()
        assert made.isprintable()
        assert " " not in made
        assert len(made) <= 200


def test_the_examples_of_the_manual_are_files_that_are_read():
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "identities.md").read_text()
    blocks = [block.partition("```")[0] for block in page.split("```toml\n")[1:]]
    whole = [parse(block) for block in blocks if "[[issuers]]" in block]
    assert [[issuer.name for issuer in found] for found in whole] == [["github"], ["cluster"], ["company"]]
    rules = [line.partition("   #")[0] for block in blocks if "[[issuers]]" not in block for line in block.splitlines()]
    assert len(rules) == 3
    for line in rules:
        assert parse(text(claims=line.removeprefix("claims = {").removesuffix("}"), principal="workload:x"))


def test_every_reason_is_explained_in_the_manual():
    from modelreg.errors import TOKEN_REASONS

    page = (Path(__file__).parents[2] / "docs" / "how-to" / "identities.md").read_text()
    assert {reason for reason in TOKEN_REASONS if f"`{reason}`" not in page} == set()
