"""A thousand decisions, stored in a database and made again from it: the same bytes, and each verdict signed."""

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings

from modelreg import promotion_policy, promotion_rules
from modelreg.attestations import LogTrust
from modelreg_server import database, log_keys, migrations, promotion, promotion_replay
from modelreg_server.custody import Actor, EventType
from modelreg_server.promotion import Deciding, Judged
from support import decidable
from support.decidable import near_facts
from support.registry import signed


@pytest.fixture
def opened(either_database):
    opened = signed(database.connect(either_database["database_url"]), Ed25519PrivateKey.generate())
    migrations.migrate(opened.engine)
    yield opened
    opened.dispose()


def test_a_thousand_stored_decisions_are_the_same_when_they_are_made_again(opened):
    deciding = [
        Deciding(promotion_policy.parse(raw), raw, None, opened.log_signer)
        for raw in (decidable.POLICY, decidable.POLICY.replace(b"count = 2", b"count = 1"))
    ]
    found, named = [], decidable.imported()

    @settings(
        deadline=None, max_examples=1000, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(near_facts())
    def collect(facts):
        # A registry stores decisions about what it holds only.
        found.append(
            facts.model_copy(update={name: getattr(named, name) for name in ("artifact", "repository", "environment")})
        )

    collect()
    with opened.writing() as session, session.begin():
        for at, facts in enumerate(found):
            by = deciding[at % 2]
            decision = promotion_rules.evaluate(by.policy, facts)
            kind = EventType.PROMOTION_GRANTED if decision.allowed else EventType.PROMOTION_REFUSED
            judged = Judged(facts, decision, frozenset({decidable.STATEMENT}))
            promotion._record(session, judged, by, kind, Actor("person:op", None), decidable.NOW)

    trusted = LogTrust(opened.log_signer.origin, (log_keys.verifier_of(opened.log_signer),))
    seen, allowed = set(), 0
    with opened.reading() as session:
        for row, raw_policy in promotion_replay.stored(session):
            assert promotion_replay.difference(row, raw_policy) is None
            assert promotion_replay.verdict_difference(row, trusted) is None
            seen.add(hashlib.sha256(row.decision).digest())
            allowed += row.allowed
        newest = [row.id for row, _ in promotion_replay.stored(session, 7)]
    assert len(found) >= 1000
    assert len(seen) > 500
    assert 50 <= allowed <= 950
    assert newest == list(range(len(found) - 6, len(found) + 1))
