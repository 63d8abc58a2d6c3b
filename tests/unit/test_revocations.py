"""The distributed revocation list: read whole or not at all, and only ever added to."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelreg import revocations, trust
from modelreg.digests import Digest
from modelreg.errors import Invalid, Misconfigured, Quarantined, Revoked, StaleTrust
from modelreg.trust import Revocations, RevokedSigner
from support import keys, policies
from support.keys import NOW

HEX = "ab" * 32
EMPTY = Revocations(NOW, timedelta(days=30), frozenset(), ())
FULL = Revocations(
    NOW,
    timedelta(days=30),
    frozenset({Digest("sha256", HEX), Digest("sha256", "00" * 32)}),
    (
        RevokedSigner("email:al@acme.example", None, NOW - timedelta(days=3), 'laptop "stolen"'),
        RevokedSigner(None, Digest("sha256", HEX), None),
    ),
    {Digest("sha256", "11" * 32): "odd answers", Digest("sha256", "10" * 32): 'said "so"'},
)


@pytest.mark.parametrize("listed", [EMPTY, FULL])
def test_a_list_reads_as_it_was_written(listed):
    raw = revocations.render(7, listed)
    parsed = revocations.parse(raw)

    assert (parsed.version, parsed.revocations) == (7, listed)
    assert revocations.render(7, parsed.revocations) == raw


@given(st.text(min_size=1, max_size=50))
def test_whatever_the_reason_it_is_written_right_or_refused(reason):
    signer = RevokedSigner("email:x@y", None, None, reason)
    try:
        raw = revocations.render(1, Revocations(NOW, timedelta(days=1), frozenset(), (signer,)))
    except Invalid:
        assert not reason.isprintable()
    else:
        assert revocations.parse(raw).revocations.signers == (signer,)


GOOD = revocations.render(7, FULL).decode()
MALFORMED = {
    "another schema": ("revocations/v1", "revocations/v2"),
    "version 0": ("version = 7", "version = 0"),
    "version true": ("version = 7", "version = true"),
    "version a text": ("version = 7", 'version = "7"'),
    "no version": ("version = 7\n", ""),
    "no updated_at": ("updated_at", "updated"),
    "no max age": ("max_age_seconds = 2592000\n", ""),
    "max age 0": ("= 2592000", "= 0"),
    "a local time": ("12:00:00Z\nmax", "12:00:00\nmax"),
    "an unknown member": ("version = 7", "version = 7\nallow = []"),
    "an unknown member of a signer": ("reason =", "because ="),
    "identity and key": ('{key = "sha', '{identity = "email:x@y", key = "sha'),
    "a blake3": ('key = "sha256:', 'key = "blake3:'),
    "a reason of two lines": ('laptop \\"stolen\\"', "laptop\\nstolen"),
    "a quarantine without a reason": (', reason = "odd answers"', ""),
    "a quarantine with an empty reason": ('"odd answers"', '""'),
    "a quarantine with a reason of two lines": ("odd answers", "odd\\nanswers"),
    "a quarantine with a long reason": ("odd answers", "x" * 201),
    "a quarantine of a blake3": ('artifact = "sha256:11', 'artifact = "blake3:11'),
    "a quarantine with an unknown member": ('reason = "odd answers"', 'reason = "odd answers", until = 2027-01-01'),
    "two quarantines of one artifact": ("10" * 32, "11" * 32),
    "quarantined a table": ("quarantined = [", "quarantined = {} #["),
    "a long reason": ('laptop \\"stolen\\"', "x" * 201),
    "not TOML": ("schema =", "schema"),
    "nothing": (GOOD, ""),
    "too long": ("# What", "#" * revocations.MAX_LIST_BYTES + " What"),
}


@pytest.mark.parametrize(("old", "new"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_list_is_refused_whole(old, new):
    assert old in GOOD
    with pytest.raises(Misconfigured):
        revocations.parse(GOOD.replace(old, new, 1).encode())


def test_revoking_adds_one_and_raises_the_version():
    listed = revocations.parse(GOOD.encode())
    later = NOW + timedelta(days=1, microseconds=5)
    digest = Digest("sha256", "cd" * 32)

    after = revocations.parse(revocations.revoke(listed, digest, later))
    assert after.version == 8
    assert after.revocations.artifacts == {*FULL.artifacts, digest}
    assert after.revocations.signers == FULL.signers
    assert after.revocations.updated_at == NOW + timedelta(days=1)

    again = revocations.parse(revocations.revoke(after, RevokedSigner("email:bo@acme.example", None, None), later))
    assert again.version == 9
    assert len(again.revocations.signers) == 3

    renewed = revocations.parse(revocations.revoke(again, None, later + timedelta(days=1)))
    assert (renewed.version, renewed.revocations.signers) == (10, again.revocations.signers)
    assert renewed.revocations.updated_at == NOW + timedelta(days=2)


def test_a_list_without_quarantines_is_what_it_was_before_there_were_any():
    """Clients from before refuse a member that they do not know."""
    raw = revocations.render(7, replace(FULL, quarantined={}))
    assert b"quarantined" not in raw
    assert revocations.parse(raw).revocations.quarantined == {}
    assert b"quarantined" in GOOD.encode()


ONE, TWO, THREE = (Digest("sha256", text * 32) for text in ("21", "22", "23"))


def recalled(listed, **what):
    return revocations.parse(revocations.recall(listed, NOW + timedelta(days=1), **what))


def test_a_quarantine_comes_and_goes_and_a_revocation_stays():
    listed = revocations.parse(revocations.render(1, EMPTY))
    listed = recalled(listed, quarantine=[ONE, TWO], reason="odd")
    assert (listed.version, listed.revocations.quarantined) == (2, {ONE: "odd", TWO: "odd"})
    assert listed.revocations.updated_at == NOW + timedelta(days=1)

    listed = recalled(listed, quarantine=[ONE], reason="odder")
    assert listed.revocations.quarantined == {ONE: "odder", TWO: "odd"}
    listed = recalled(listed, revoke=[ONE])
    assert (listed.revocations.artifacts, listed.revocations.quarantined) == ({ONE}, {TWO: "odd"})
    for nothing in ({"quarantine": [ONE], "reason": "r"}, {"release": [ONE]}, {"release": [THREE]}):
        listed = recalled(listed, **nothing)
        assert (listed.revocations.artifacts, listed.revocations.quarantined) == ({ONE}, {TWO: "odd"})
    listed = recalled(listed, release=[TWO])
    assert (listed.revocations.artifacts, listed.revocations.quarantined) == ({ONE}, {})


def test_revoking_an_artifact_or_a_signer_keeps_the_other_quarantines():
    listed = revocations.parse(GOOD.encode())
    after = revocations.parse(revocations.revoke(listed, RevokedSigner("email:bo@acme.example", None, None), NOW))
    assert after.revocations.quarantined == FULL.quarantined
    digest = Digest("sha256", "11" * 32)
    after = revocations.parse(revocations.revoke(listed, digest, NOW))
    assert digest in after.revocations.artifacts
    assert set(after.revocations.quarantined) == {Digest("sha256", "10" * 32)}


def test_what_is_revoked_and_quarantined_is_revoked():
    listed = replace(FULL, quarantined={ONE: "odd"}, artifacts=frozenset({ONE, TWO}))
    policy = distributed().with_revocations(listed)
    assert isinstance(policy.refusal(ONE), Revoked)
    assert isinstance(policy.refusal(TWO), Revoked)
    assert policy.refusal(THREE) is None
    quarantined = distributed().with_revocations(replace(FULL, quarantined={ONE: "odd"})).refusal(ONE)
    assert isinstance(quarantined, Quarantined)
    assert (quarantined.exit_code, quarantined.facts) == (21, {"artifact": str(ONE), "reason": "odd"})


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [(-3, -5, -5), (-3, -1, -3), (-3, None, None), (None, -1, None)],
)
def test_revoking_a_signer_again_never_gives_trust_back(first, second, kept):
    def at(days):
        return None if days is None else NOW + timedelta(days=days)

    def signer(days):
        return RevokedSigner("email:al@acme.example", None, at(days))

    listed = revocations.parse(
        revocations.render(1, Revocations(NOW, timedelta(days=1), frozenset(), (signer(first),)))
    )
    after = revocations.parse(revocations.revoke(listed, signer(second), NOW))

    assert after.revocations.signers == (signer(kept),)


def distributed():
    text = policies.policy_toml(policies.key_authority("ops", {"k": keys.make_key()}), allow={"ops": ["key:k"]})
    head, _, _ = text.partition("[revocations]")
    return trust.parse(('revocations = "distributed"\n' + head).encode())


def test_a_policy_that_takes_the_distributed_list_verifies_nothing_without_one():
    with pytest.raises(StaleTrust, match="trust pin"):
        distributed().require_fresh(NOW)


def test_a_distributed_list_counts_as_the_policys_own():
    policy = distributed().with_revocations(FULL)
    policy.require_fresh(NOW)

    assert policy.revocations == FULL
    with pytest.raises(StaleTrust, match="revocation list"):
        policy.require_fresh(NOW + timedelta(days=31))


def test_a_policy_with_a_list_of_its_own_takes_no_other():
    policy = policies.policy(policies.key_authority("ops", {"k": keys.make_key()}), allow={"ops": ["key:k"]})
    with pytest.raises(Misconfigured, match="distributed"):
        policy.with_revocations(FULL)


@pytest.mark.parametrize("word", ['"distribute"', '""', "true", "[]"])
def test_any_other_word_than_distributed_is_refused(word):
    text = policies.policy_toml(policies.key_authority("ops", {"k": keys.make_key()}), allow={"ops": ["key:k"]})
    head, _, _ = text.partition("[revocations]")
    with pytest.raises(Misconfigured):
        trust.parse((f"revocations = {word}\n" + head).encode())


def test_times_are_written_in_utc():
    listed = Revocations(datetime(2026, 1, 1, tzinfo=UTC), timedelta(days=1), frozenset(), ())
    assert b"updated_at = 2026-01-01T00:00:00Z" in revocations.render(1, listed)
