"""`decide`: what each part of a grant means, and what holds for every request and every set of grants."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import assume

from modelreg_server.access import AccessGrant, AccessRequest, HostClass, HostFacts, Verb, decide
from modelreg_server.identity import Principal, parse_scope
from support.fuzzing import bounded, given, st

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
SERVER = HostFacts("gpu-1", HostClass.SERVER, "eu-1")
WORKSTATION = HostFacts("desk-1", HostClass.WORKSTATION, "eu-1")
GRANT = AccessGrant("person:al", Verb.PULL, "demo/*")


def request(**changed):
    return replace(AccessRequest("person:al", Verb.PULL, "demo/m", NOW), **changed)


def allowed(grant, **changed):
    return decide(request(**changed), [grant]).allowed


def test_nothing_is_allowed_without_a_grant():
    assert decide(request(), []).allowed is False
    assert decide(request(), []).reasons == ()


@pytest.mark.parametrize("granted", Verb)
@pytest.mark.parametrize("asked", Verb)
def test_pull_includes_read_metadata_and_nothing_else_includes_anything(granted, asked):
    included = granted is asked or (granted, asked) == (Verb.PULL, Verb.READ_METADATA)
    assert allowed(replace(GRANT, verb=granted), verb=asked) is included


@pytest.mark.parametrize(
    ("pattern", "subject", "named"),
    [
        ("person:al", "person:al", True), ("person:al", "person:alice", False), ("person:*", "person:al", True),
        ("person:*", "workload:al", False), ("*", "person:al", True), ("host:gpu-*", "host:gpu-17", True),
        ("host:gpu-*", "host:xgpu-1", False), ("workload:ci/*", "workload:ci/main", True),
        ("workload:*", "workload:ci/main", False), ("person:a.", "person:al", False), ("", "person:al", False),
    ],
)  # fmt: skip
def test_a_subject_is_named_by_an_anchored_glob(pattern, subject, named):
    found = decide(request(subject=subject), [replace(GRANT, subject=pattern)])
    assert found.allowed is named
    assert bool(found.reasons) is named


@pytest.mark.parametrize(
    ("pattern", "repository", "covered"),
    [
        ("demo/*", "demo/m", True), ("demo/*", "demo2/m", False), ("demo/m", "demo/mm", False), ("*/*", "demo/m", True),
        ("*/m", "any/m", True), ("*/*", "*/*", True), ("demo/*", "*/*", False), ("*/m", "*/*", False), ("*x/*", "*/*", False),
    ],
)  # fmt: skip
def test_a_repository_is_covered_by_an_anchored_glob_and_everywhere_only_by_everywhere(pattern, repository, covered):
    assert allowed(replace(GRANT, repository=pattern), repository=repository) is covered


def test_a_grant_ends_at_its_instant():
    grant = replace(GRANT, not_after=NOW)
    assert allowed(grant, now=NOW - timedelta(microseconds=1))
    assert not allowed(grant, now=NOW)
    assert "ended" in decide(request(), [grant]).reasons[0].text


@pytest.mark.parametrize(
    ("grant", "facts"),
    [
        (replace(GRANT, environment="production"), {"environment": "production"}),
        (replace(GRANT, host_class=HostClass.SERVER), {"host": SERVER}),
        (replace(GRANT, zone="eu-1"), {"host": SERVER}),
    ],
)
def test_a_condition_is_met_by_its_fact_and_by_nothing_else(grant, facts):
    assert allowed(grant, **facts)
    assert not allowed(grant)
    assert not allowed(grant, environment="staging", host=HostFacts("ci-1", HostClass.CI, "us-1"))


@pytest.mark.parametrize("verb", Verb)
def test_sensitivity_restricts_the_bytes_and_nothing_else(verb):
    grant = replace(GRANT, verb=verb)
    assert allowed(grant, verb=verb, sensitive=True) is (verb is not Verb.PULL)


@pytest.mark.parametrize(
    ("host", "host_class", "may"),
    [
        (None, None, False), (SERVER, None, True), (WORKSTATION, None, False), (WORKSTATION, HostClass.WORKSTATION, True),
        (WORKSTATION, HostClass.SERVER, False), (None, HostClass.WORKSTATION, False), (SERVER, HostClass.SERVER, True),
        (HostFacts("ci-1", HostClass.CI, "eu-1"), None, True), (SERVER, HostClass.WORKSTATION, False),
    ],
)  # fmt: skip
def test_bytes_of_a_sensitive_repository_need_a_host_that_is_no_workstation_or_a_grant_that_says_so(
    host, host_class, may
):
    assert allowed(replace(GRANT, host_class=host_class), host=host, sensitive=True) is may


def test_an_exception_for_workstations_does_not_carry_over_to_another_grant():
    exception = replace(GRANT, host_class=HostClass.WORKSTATION, repository="demo/other")
    assert not decide(request(host=WORKSTATION, sensitive=True), [exception, GRANT]).allowed


def test_every_grant_that_names_the_subject_says_why_it_applies_or_not():
    grants = [
        GRANT,
        replace(GRANT, verb=Verb.PUSH),
        replace(GRANT, repository="other/*"),
        replace(GRANT, not_after=NOW),
        replace(GRANT, environment="production"),
        replace(GRANT, host_class=HostClass.SERVER),
        replace(GRANT, zone="eu-1"),
        replace(GRANT, subject="person:bo"),
    ]
    found = decide(request(), grants)
    assert [reason.grant for reason in found.reasons] == grants[:-1]
    assert [reason.applies for reason in found.reasons] == [True, *[False] * 6]
    assert len({reason.text for reason in found.reasons}) == 7


# What holds for every request and every set of grants. Few names, so that they meet often.
SUBJECTS = ["person:al", "person:bo", "host:gpu-1", "workload:ci/x"]
REPOSITORIES = ["demo/m", "demo/n", "other/m"]
PLACES = st.sampled_from([None, "eu-1", "us-1"])
TIMES = st.sampled_from([None, NOW - timedelta(days=1), NOW, NOW + timedelta(days=1)])
CLASSES = st.sampled_from([None, *HostClass])
HOSTS = st.none() | st.builds(
    HostFacts, st.sampled_from(["h1", "h2"]), st.sampled_from(HostClass), st.sampled_from(["eu-1", "us-1"])
)
GRANTS = st.builds(
    AccessGrant,
    subject=st.sampled_from([*SUBJECTS, "person:*", "host:*", "*", "workload:*"]),
    verb=st.sampled_from(Verb),
    repository=st.sampled_from([*REPOSITORIES, "demo/*", "*/m", "*/*"]),
    environment=PLACES,
    host_class=CLASSES,
    zone=PLACES,
    not_after=TIMES,
)
REQUESTS = st.builds(
    AccessRequest,
    subject=st.sampled_from(SUBJECTS),
    verb=st.sampled_from(Verb),
    repository=st.sampled_from([*REPOSITORIES, "*/*"]),
    now=st.just(NOW),
    environment=PLACES,
    host=HOSTS,
    sensitive=st.booleans(),
)
SOME = st.lists(GRANTS, max_size=6)


@given(REQUESTS, SOME, GRANTS)
@bounded
def test_adding_a_grant_never_narrows_and_removing_one_never_widens(asked, grants, more):
    without, with_it = decide(asked, grants).allowed, decide(asked, [*grants, more]).allowed
    assert with_it or not without
    assert decide(asked, [more, *grants]).allowed is with_it  # nor does the order matter


@given(REQUESTS, SOME, GRANTS)
@bounded
def test_a_grant_of_somebody_else_never_widens_anyone(asked, grants, more):
    foreign = replace(more, subject="person:nobody-else")
    assert decide(asked, [*grants, foreign]) == decide(asked, grants)


@given(REQUESTS, SOME, GRANTS)
@bounded
def test_a_grant_on_another_repository_or_for_another_verb_never_widens_anyone(asked, grants, more):
    for unrelated in (
        replace(more, repository="unrelated/x"),
        replace(more, verb=Verb.ADMIN if asked.verb is not Verb.ADMIN else Verb.TAG),
    ):
        assert decide(asked, [*grants, unrelated]).allowed is decide(asked, grants).allowed


@given(REQUESTS, SOME)
@bounded
def test_expired_grants_never_apply(asked, grants):
    expired = [replace(grant, not_after=NOW - timedelta(seconds=n)) for n, grant in enumerate(grants)]
    assert decide(asked, expired).allowed is False


@given(REQUESTS, SOME)
@bounded
def test_without_facts_only_grants_without_conditions_apply(asked, grants):
    bare = replace(asked, host=None, environment=None)
    free = [g for g in grants if (g.environment, g.host_class, g.zone) == (None, None, None)]
    assert decide(bare, grants).allowed is decide(bare, free).allowed


@given(REQUESTS, SOME, HOSTS)
@bounded
def test_a_host_never_takes_away_what_holds_without_one_unless_the_repository_is_sensitive(asked, grants, host):
    assume(not asked.sensitive)
    if decide(replace(asked, host=None), grants).allowed:
        assert decide(replace(asked, host=host), grants).allowed


@given(REQUESTS, SOME)
@bounded
def test_sensitivity_only_ever_narrows_and_only_pull(asked, grants):
    plain, sensitive = (decide(replace(asked, sensitive=value), grants).allowed for value in (False, True))
    assert plain or not sensitive
    assert plain is sensitive or asked.verb is Verb.PULL


@given(REQUESTS, SOME)
@bounded
def test_allowed_means_that_one_grant_alone_allows_it(asked, grants):
    assert decide(asked, grants).allowed is any(decide(asked, [grant]).allowed for grant in grants)


@given(REQUESTS, SOME)
@bounded
def test_an_answer_has_a_reason_for_each_grant_that_names_the_subject(asked, grants):
    found = decide(asked, grants)
    assert found.allowed is any(reason.applies for reason in found.reasons)
    assert all(reason.text for reason in found.reasons)
    assert decide(asked, grants) == found


# The rule that ties it to tokens.
def principal(*scopes, grants=(), **more):
    return Principal("person:al", "t", tuple(map(parse_scope, scopes)), NOW, grants=grants, at=NOW, **more)


def test_a_credential_with_scopes_has_those_rights_and_no_grants():
    found = principal("pull:demo/m", grants=(replace(GRANT, repository="*/*"),))
    assert found.may(Verb.PULL, "demo/m")
    assert not found.may(Verb.PULL, "demo/n")


def test_a_credential_without_scopes_has_the_grants():
    found = principal(grants=(GRANT,))
    assert found.may(Verb.PULL, "demo/n")
    assert not found.may_everywhere(Verb.PULL)
    assert not principal().may(Verb.READ_METADATA, "demo/m")


def test_a_principal_without_an_instant_has_no_grant_that_ends():
    ends = replace(GRANT, not_after=NOW + timedelta(days=10_000))
    assert principal(grants=(ends,)).may(Verb.PULL, "demo/m")
    assert not Principal("person:al", "t", (), NOW, grants=(ends,)).may(Verb.PULL, "demo/m")


def test_scopes_obey_sensitivity_as_grants_do():
    assert not principal("pull:demo/*").may(Verb.PULL, "demo/m", sensitive=True)
    assert principal("pull:demo/*", host=SERVER).may(Verb.PULL, "demo/m", sensitive=True)
    assert not principal("pull:demo/*", host=WORKSTATION).may(Verb.PULL, "demo/m", sensitive=True)
