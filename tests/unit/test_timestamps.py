"""Step 4 at a trusted time: which time stamps hold, which say nothing, which refuse; and what follows for a signer."""

import dataclasses
import hashlib

import pytest
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.x509.oid import ExtendedKeyUsageOID

from modelreg import bundles, pki, signing, timestamps, trust
from modelreg.errors import Misconfigured, Revoked, SignatureInvalid
from modelreg.trust import TimeAuthority, key_id_of
from modelreg_server.timestamping import TimeStampingAuthority
from support import keys, stamps
from support.fuzzing import bounded, given, mutations, st
from support.keys import ALICE, NOW, P256_ORDER
from support.policies import certificate_authority, key_authority, policy, policy_toml, time_authority
from support.signed import changed_bundle, replaced, sign, verify
from support.stamps import days, make_tsa, odd_tsa, stamp

SIGNATURE = b"a signature, any bytes"
TIME_CHAIN = keys.make_chain("time", NOW - days(400))
TSA = make_tsa(TIME_CHAIN, NOW - days(200))
BELIEVED = {"tsa": TimeAuthority((TIME_CHAIN.root.certificate,))}


def asn1(certificate):
    return asn1_x509.Certificate.load(certificate.public_bytes(serialization.Encoding.DER))


def prove(raw, signature=SIGNATURE, authorities=BELIEVED, now=NOW):
    return timestamps.prove(raw, signature, authorities, now)


def refused(raw, match, **changes):
    with pytest.raises(SignatureInvalid, match=match):
        prove(raw, **changes)


# What holds


@pytest.mark.parametrize("curve", keys.CURVES)
def test_a_stamp_of_a_believed_authority_gives_its_time(curve):
    tsa = odd_tsa(TIME_CHAIN, key=keys.make_key(curve).private_key, start=NOW - days(9))
    found = prove(stamp(tsa, SIGNATURE, NOW - days(3)))

    assert (found.authority, found.at) == ("tsa", NOW - days(3) + stamps.timedelta(seconds=1))
    assert found.chain == (*tsa.chain, TIME_CHAIN.root.certificate)


@pytest.mark.parametrize("algorithm", stamps.SHA2)
def test_every_sha_2_imprint_is_accepted(algorithm):
    assert prove(stamp(TSA, SIGNATURE, algorithm=algorithm)).at == NOW


def test_the_accuracy_a_stamp_states_is_added_because_it_bounds_from_above():
    exact = NOW - days(1)
    for accuracy, seconds in ((None, 0), (("seconds", 30), 30), (("millis", 500), 0.5), (("micros", 7), 7e-6)):
        found = prove(stamp(TSA, SIGNATURE, exact, accuracy=accuracy))
        assert found.at == exact + stamps.timedelta(seconds=seconds)


def test_a_time_is_never_later_than_now():
    assert prove(stamp(TSA, SIGNATURE, NOW + stamps.timedelta(minutes=4))).at == NOW
    assert prove(stamp(TSA, SIGNATURE, NOW - days(1), accuracy=("seconds", 10**9))).at == NOW
    refused(stamp(TSA, SIGNATURE, NOW - days(1), accuracy=("seconds", 10**30)), "malformed")


def test_a_stamp_outlives_the_certificate_of_its_authority():
    short = odd_tsa(TIME_CHAIN, start=NOW - days(30), end=NOW - days(20))

    assert prove(stamp(short, SIGNATURE, NOW - days(25)))
    assert prove(stamp(short, SIGNATURE, NOW - days(25)), now=NOW + days(3000))


def test_certificates_that_have_nothing_to_do_with_it_may_be_enclosed():
    stranger = asn1(keys.make_chain("stranger").root.certificate)

    assert prove(stamps.changed(stamp(TSA, SIGNATURE), lambda signed: signed["certificates"].append(stranger)))


def test_a_leaf_older_than_its_issuer_s_certificate_stamps_as_soon_as_both_are_valid():
    # An issuer whose certificate was renewed.
    renewed = keys.make_chain("renewed", NOW - days(10))
    tsa = odd_tsa(renewed, start=NOW - days(30))
    believed = {"tsa": TimeAuthority((renewed.root.certificate,))}

    assert prove(stamp(tsa, SIGNATURE, NOW - days(9)), authorities=believed)
    assert prove(stamp(tsa, SIGNATURE, NOW - days(20)), authorities=believed) is None


# What says nothing: as if it were not there


def test_a_stamp_of_an_unknown_authority_says_nothing():
    strange = make_tsa(keys.make_chain("time", NOW - days(400)))

    assert prove(stamp(strange, SIGNATURE)) is None
    assert prove(stamp(strange, b"another signature")) is None


def test_a_stamp_outside_the_window_of_its_authority_says_nothing():
    root = TIME_CHAIN.root.certificate
    raw = stamp(TSA, SIGNATURE, NOW - days(5))

    for window in ({"not_before": NOW - days(4)}, {"not_after": NOW - days(5)}):
        assert prove(raw, authorities={"tsa": TimeAuthority((root,), **window)}) is None
    inside = TimeAuthority((root,), NOW - days(5), NOW - days(4))
    assert prove(raw, authorities={"tsa": inside})
    # One root under two windows: the one it falls into counts.
    assert (
        prove(raw, authorities={"old": TimeAuthority((root,), not_after=NOW - days(9)), "new": inside}).authority
        == "new"
    )


def test_without_an_authority_to_believe_nothing_is_parsed():
    assert timestamps.held([b"garbage"], SIGNATURE, {}, NOW) == []


# What refuses


def test_a_stamp_over_another_signature_refuses():
    refused(stamp(TSA, b"another signature"), "over another signature")
    refused(stamp(TSA, SIGNATURE, imprint=hashlib.sha256(b"x").digest()), "over another signature")


def test_a_stamp_from_the_future_refuses():
    refused(stamp(TSA, SIGNATURE, NOW + stamps.timedelta(minutes=6)), "from the future")
    far = odd_tsa(TIME_CHAIN, start=NOW - days(1), end=NOW + days(1000))
    refused(stamp(far, SIGNATURE, NOW + days(900)), "from the future")
    refused(stamp(TSA, SIGNATURE, NOW + days(9000)), "was not valid when")


@pytest.mark.parametrize(
    "odd",
    [
        {"purposes": None},
        {"critical": False},
        {"purposes": [ExtendedKeyUsageOID.CODE_SIGNING]},
        {"purposes": [ExtendedKeyUsageOID.TIME_STAMPING, ExtendedKeyUsageOID.CODE_SIGNING]},
        {"purposes": [ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]},
        {"purposes": [ExtendedKeyUsageOID.TIME_STAMPING, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]},
    ],
    ids=["none", "not critical", "code signing", "both", "any", "with any"],
)
def test_a_leaf_that_is_not_for_time_stamps_alone_refuses(odd):
    refused(stamp(odd_tsa(TIME_CHAIN, **odd), SIGNATURE), "not for time stamps")


def test_a_leaf_that_may_not_sign_refuses():
    refused(stamp(odd_tsa(TIME_CHAIN, digital_signature=False), SIGNATURE), "does not hold")


@pytest.mark.parametrize("at", [NOW - days(31), NOW - days(19)], ids=["before", "after"])
def test_a_leaf_that_was_not_valid_at_the_time_refuses(at):
    refused(stamp(odd_tsa(TIME_CHAIN, start=NOW - days(30), end=NOW - days(20)), SIGNATURE, at), "was not valid when")


def test_an_issuer_that_was_not_valid_at_the_time_refuses():
    between = keys.make_certificate(
        TIME_CHAIN.root, ca=True, digital_signature=False, purposes=None, names=None, common_name="short",
        start=NOW - days(30), end=NOW - days(20),
    )  # fmt: skip
    tsa = odd_tsa(keys.Chain(TIME_CHAIN.root, between), start=NOW - days(30))

    assert prove(stamp(tsa, SIGNATURE, NOW - days(25)))
    refused(stamp(tsa, SIGNATURE, NOW - days(15)), "was not valid when")


def test_an_issuer_for_another_purpose_does_not_make_authorities():
    extra = [(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), False)]
    between = keys.make_certificate(
        TIME_CHAIN.root, ca=True, digital_signature=False, purposes=None, names=None, common_name="code", extra=extra
    )

    assert prove(stamp(odd_tsa(keys.Chain(TIME_CHAIN.root, between)), SIGNATURE)) is None


@pytest.mark.parametrize("algorithm", ["sha1", "sha224", "sha3_256", "md5"])
def test_another_imprint_algorithm_refuses(algorithm):
    raw = stamp(TSA, SIGNATURE, algorithm=algorithm, imprint=stamps.digest(SIGNATURE, "sha1"))
    refused(raw, "not SHA-256, SHA-384 or SHA-512")


def test_an_imprint_under_the_name_of_another_algorithm_refuses():
    refused(stamp(TSA, SIGNATURE, algorithm="sha512", imprint=stamps.digest(SIGNATURE)), "another signature")


def test_a_weak_digest_under_the_signature_refuses():
    raw = stamps.changed(stamp(TSA, SIGNATURE), lambda it: it["digest_algorithms"].append({"algorithm": "sha1"}))
    refused(raw, "signed over a digest")


def _resigned(algorithm):
    """The stamp signed anew by its authority, under this digest; only the list of digests still says SHA-256."""

    def change(signed):
        signer = signed["signer_infos"][0]
        attributes = stamps.cms.CMSAttributes([item.copy() for item in signer["signed_attrs"]])
        for item in attributes:
            if item["type"].native == "message_digest":
                item["values"] = [stamps.digest(signed["encap_content_info"]["content"].contents, algorithm)]
        signer["digest_algorithm"] = {"algorithm": algorithm}
        signer["signature_algorithm"] = {"algorithm": f"{algorithm}_ecdsa"}
        signer["signed_attrs"] = attributes
        made = TSA.private_key.sign(
            attributes.dump(force=True), ec.ECDSA(stamps.SHA2.get(algorithm, stamps.hashes.SHA1()))
        )
        signer["signature"] = made

    return stamps.changed(stamp(TSA, SIGNATURE), change)


def test_the_digest_of_the_signer_must_be_one_of_those_listed():
    assert prove(_resigned("sha256"))
    for algorithm in ("sha1", "sha512"):
        refused(_resigned(algorithm), "does not hold")


@pytest.mark.parametrize("status", ["granted_with_mods", "rejection", "waiting", "revocation_warning"])
def test_only_granted_is_granted(status):
    reply = stamps.tsp.TimeStampResp.load(stamp(TSA, SIGNATURE))
    refused(stamps.response(reply["time_stamp_token"]["content"], status), "did not grant")


def test_a_reply_without_a_token_refuses():
    refused(bytes.fromhex("30053003020100"), "malformed")


def test_two_certificates_under_the_name_and_number_of_the_signer_refuse():
    # CVE-2026-33753 and its kin: one is looked at for its purpose, the other for the signature.
    leaf = TSA.chain[0]
    key = keys.make_key().private_key
    twin = (
        x509.CertificateBuilder()
        .subject_name(leaf.subject)
        .issuer_name(leaf.issuer)
        .serial_number(leaf.serial_number)
        .public_key(key.public_key())
        .not_valid_before(leaf.not_valid_before_utc)
        .not_valid_after(leaf.not_valid_after_utc)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), critical=True)
        .sign(key, stamps.hashes.SHA256())
    )
    raw = stamps.changed(stamp(TSA, SIGNATURE), lambda it: it["certificates"].append(asn1(twin)))
    refused(raw, "encloses 2 certificates of its signer")


def test_a_code_signing_leaf_of_the_same_root_cannot_lend_its_key_to_a_stamp():
    # A signer forges a stamp with their own leaf, and encloses the real authority's certificate beside it.
    leaf = pki.issue_signer(ALICE, TIME_CHAIN.intermediate, NOW - days(100), days=365)
    forger = TimeStampingAuthority(leaf.private_key, (leaf.certificate, *TSA.chain), stamps.POLICY)
    refused(stamp(forger, SIGNATURE, NOW - days(50)), "not for time stamps")

    def claim_the_authority(signed):
        real = asn1(TSA.chain[0])
        name = {"issuer": real.issuer, "serial_number": real.serial_number}
        signed["signer_infos"][0]["sid"] = stamps.cms.SignerIdentifier(name="issuer_and_serial_number", value=name)

    refused(stamps.changed(stamp(forger, SIGNATURE, NOW - days(50)), claim_the_authority), "does not hold")


def test_a_stamp_without_certificates_or_with_too_many_refuses():
    refused(stamps.changed(stamp(TSA, SIGNATURE), lambda it: it.__setitem__("certificates", None)), "0 certificates")
    more = [asn1(keys.make_chain(f"n{n}").root.certificate) for n in range(bundles.MAX_CERTIFICATES)]
    raw = stamps.changed(stamp(TSA, SIGNATURE), lambda it: [it["certificates"].append(one) for one in more])
    refused(raw, "signers and 10 certificates")


def test_two_signers_refuse():
    raw = stamps.changed(stamp(TSA, SIGNATURE), lambda it: it["signer_infos"].append(it["signer_infos"][0].copy()))
    refused(raw, "2 signers|malformed")


@pytest.mark.parametrize("raw", [b"", b"garbage", b"\x30\x03\x02\x01\x00", b"\x30\x80" + b"\x00" * 40, b"0" * 65537, b"\xff" * 500])  # fmt: skip
def test_garbage_refuses(raw):
    refused(raw, "time stamp")


def test_trailing_bytes_refuse():
    refused(stamp(TSA, SIGNATURE) + b"\x00", "malformed")


def _outcome(raw):
    try:
        return prove(raw)
    except SignatureInvalid:
        return None


@pytest.mark.filterwarnings("ignore:Parsed a serial number")  # a flipped sign
def test_no_flipped_bit_is_accepted_with_another_meaning():
    raw = stamp(TSA, SIGNATURE, NOW - days(3))
    meant = prove(raw)
    same = refusals = 0
    for at in range(len(raw)):
        for bit in (at % 8, (at + 3) % 8):
            found = _outcome(raw[:at] + bytes([raw[at] ^ 1 << bit]) + raw[at + 1 :])
            if found is None:
                refusals += 1
            else:
                assert (found.at, found.authority, found.chain) == (meant.at, meant.authority, meant.chain)
                same += 1
    assert refusals > 20 * same, (refusals, same)


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_no_mutation_is_accepted_with_another_meaning():
    raw = stamp(TSA, SIGNATURE, NOW - days(3))
    meant = prove(raw)
    for changed in mutations(raw, 400):
        found = _outcome(changed)
        assert found is None or found == meant


@bounded
@given(st.binary(max_size=300))
def test_any_bytes_give_a_stamp_or_a_refusal(raw):
    assert _outcome(raw) is None


def test_a_panic_in_the_parser_is_a_refusal_and_an_interrupt_is_not():
    class PanicException(BaseException):
        """As pyo3 raises it."""

    def fail(error):
        raise error

    with pytest.raises(SignatureInvalid, match="gave up"):
        timestamps._guarded(lambda: fail(PanicException("called `Result::unwrap()` on an `Err` value")))
    with pytest.raises(KeyboardInterrupt):
        timestamps._guarded(lambda: fail(KeyboardInterrupt()))


# Query and answer


def test_an_answer_is_held_against_its_query():
    query = timestamps.query(SIGNATURE)
    good = stamp(TSA, SIGNATURE, nonce=query.nonce)
    timestamps.require_answer(good, query)

    for raw, match in (
        (stamp(TSA, SIGNATURE, nonce=query.nonce + 1), "nonce"),
        (stamp(TSA, SIGNATURE), "nonce"),
        (stamp(TSA, b"another", nonce=query.nonce), "something else"),
        (b"garbage", "malformed"),
    ):
        with pytest.raises(SignatureInvalid, match=match):
            timestamps.require_answer(raw, query)
    assert timestamps.query(SIGNATURE).nonce != query.nonce


# Bundles


KEY = keys.make_key()
SIGN_CHAIN = keys.make_chain("sign", NOW - days(400))
EXPIRED = pki.issue_signer(ALICE, SIGN_CHAIN.intermediate, NOW - days(100), days=90)
BUNDLE = sign(keys.certificate_signer(EXPIRED, SIGN_CHAIN.intermediate))
KEY_BUNDLE = sign(KEY)


def stamped(raw, *times, tsa=TSA, **changes):
    signature = bundles.parse(raw).signature
    return replaced(raw, timestamps=tuple(stamp(tsa, signature, at, **changes) for at in times))


def test_stamps_survive_writing_and_reading():
    raw = stamped(BUNDLE, NOW - days(50), NOW - days(40))

    assert len(bundles.parse(raw).timestamps) == 2
    assert bundles.serialise(bundles.parse(raw)) == raw
    assert bundles.parse(BUNDLE).timestamps == ()


@pytest.mark.parametrize("value", [None, {}, {"rfc3161Timestamps": []}])
def test_no_stamps_are_no_stamps(value):
    raw = changed_bundle(BUNDLE, lambda it: it["verificationMaterial"].update(timestampVerificationData=value))

    assert bundles.parse(raw).timestamps == ()


@pytest.mark.parametrize(
    "value",
    [
        [], "x", 7, {"other": []}, {"rfc3161Timestamps": None}, {"rfc3161Timestamps": {}}, {"rfc3161Timestamps": ["x"]},
        {"rfc3161Timestamps": [{}]}, {"rfc3161Timestamps": [{"signedTimestamp": ""}]},
        {"rfc3161Timestamps": [{"signedTimestamp": "*"}]}, {"rfc3161Timestamps": [{"signedTimestamp": "AA==", "x": 1}]},
        {"rfc3161Timestamps": [{"signedTimestamp": "AA=="}] * (bundles.MAX_TIMESTAMPS + 1)},
        {"rfc3161Timestamps": [{"signedTimestamp": "AAAA" * (bundles.MAX_TIMESTAMP_BYTES // 3 + 1)}]},
    ],
)  # fmt: skip
def test_malformed_stamps_refuse_the_bundle(value):
    raw = changed_bundle(BUNDLE, lambda it: it["verificationMaterial"].update(timestampVerificationData=value))

    with pytest.raises(SignatureInvalid, match="timestampVerificationData"):
        bundles.parse(raw)


def test_sign_puts_the_stamp_over_its_own_signature_into_the_bundle():
    raw = signing.sign(b"{}", KEY, lambda signature: stamp(TSA, signature))
    parsed = bundles.parse(raw)

    assert prove(parsed.timestamps[0], parsed.signature)
    assert bundles.parse(signing.sign(b"{}", KEY, lambda _: None)).timestamps == ()


# Verification at the trusted time


def signer_policy(*, timestamps=("tsa",), require=None, times=None, **changes):
    return policy(
        certificate_authority("pki", SIGN_CHAIN, timestamps=timestamps, require_timestamp=require),
        key_authority("ops", {"ops-1": KEY}, not_after={"ops-1": NOW - days(10)}, timestamps=timestamps, require_timestamp=require),
        times or time_authority("tsa", TIME_CHAIN),
        **{"allow": {"pki": ["email:*@acme.example"], "ops": ["key:ops-1"]}, **changes},
    )  # fmt: skip


@pytest.mark.parametrize("raw", [BUNDLE, KEY_BUNDLE], ids=["certificate", "key"])
def test_an_ended_signer_is_believed_for_what_they_signed_before(raw):
    with pytest.raises(SignatureInvalid, match="not at|ended at"):
        verify(raw, signer_policy())
    found = verify(stamped(raw, NOW - days(50)), signer_policy())
    assert found.signer.signed_at == NOW - days(50) + stamps.timedelta(seconds=1)
    # Ten days ago both ended; a stamp made after that proves nothing of before.
    with pytest.raises(SignatureInvalid, match="not at|ended at"):
        verify(stamped(raw, NOW - days(9)), signer_policy())


def test_a_leaf_issued_after_the_stamp_is_refused():
    # ECDSA lets the owner of an old signature make a new key that fits it; its certificate is younger than the stamp.
    with pytest.raises(SignatureInvalid, match="not at"):
        verify(stamped(BUNDLE, NOW - days(101)), signer_policy())


def test_a_stamp_counts_only_where_the_authority_of_the_signer_believes_it():
    for unbelieving in (signer_policy(timestamps=None), signer_policy(timestamps=["other"], times=time_authority("tsa", TIME_CHAIN) + time_authority("other", keys.make_chain()))):  # fmt: skip
        with pytest.raises(SignatureInvalid, match="not at"):
            verify(stamped(BUNDLE, NOW - days(50)), unbelieving)


def test_a_current_signer_needs_no_stamp_unless_the_policy_demands_one():
    current = sign(
        keys.certificate_signer(pki.issue_signer(ALICE, SIGN_CHAIN.intermediate, NOW), SIGN_CHAIN.intermediate)
    )

    assert verify(current, signer_policy()).signer.signed_at is None
    with pytest.raises(SignatureInvalid, match="demands a time stamp of tsa"):
        verify(current, signer_policy(require=True))
    with pytest.raises(SignatureInvalid, match="demands a time stamp of tsa"):
        verify(stamped(current, NOW, tsa=make_tsa(keys.make_chain())), signer_policy(require=True))
    assert verify(stamped(current, NOW), signer_policy(require=True)).signer.signed_at == NOW


def test_the_earliest_of_several_stamps_counts():
    raw = stamped(BUNDLE, NOW - days(5), NOW - days(50), NOW - days(20))

    assert verify(raw, signer_policy()).signer.signed_at == NOW - days(50) + stamps.timedelta(seconds=1)


def test_a_strange_stamp_beside_a_good_one_is_left_out_and_a_broken_one_refuses():
    signature = bundles.parse(BUNDLE).signature
    good = stamp(TSA, signature, NOW - days(50))
    strange = stamp(make_tsa(keys.make_chain()), b"anything")
    broken = stamp(TSA, b"another signature", NOW - days(50))

    assert verify(replaced(BUNDLE, timestamps=(strange, good)), signer_policy())
    for bad in (broken, b"garbage", good[:-1]):
        for pair in ((good, bad), (bad, good)):
            with pytest.raises(SignatureInvalid, match="time stamp"):
                verify(replaced(BUNDLE, timestamps=pair), signer_policy())


def test_a_stamp_moved_to_another_signature_refuses():
    taken = bundles.parse(stamped(BUNDLE, NOW - days(50))).timestamps
    later = sign(keys.certificate_signer(EXPIRED, SIGN_CHAIN.intermediate), b'{"another":"payload"}')

    with pytest.raises(SignatureInvalid, match="over another signature"):
        verify(replaced(later, timestamps=taken), signer_policy())


def test_the_twin_of_a_stamped_signature_has_no_stamp():
    raw = stamped(BUNDLE, NOW - days(50))
    r, s = decode_dss_signature(bundles.parse(raw).signature)

    with pytest.raises(SignatureInvalid, match="over another signature"):
        verify(replaced(raw, signature=encode_dss_signature(r, P256_ORDER - s)), signer_policy())


# Revocation from a time on


def revoked_from(at, **signer):
    return signer_policy(revoked_signers=[{**(signer or {"identity": ALICE}), "from": at}])


STOLEN = NOW - days(40)


def test_what_was_provably_signed_before_the_theft_is_good_and_nothing_else_is():
    for since in (revoked_from(STOLEN), revoked_from(STOLEN, key=key_id_of(EXPIRED.certificate.public_key()))):
        assert verify(stamped(BUNDLE, STOLEN - days(1)), since)
        for raw in (stamped(BUNDLE, STOLEN), stamped(BUNDLE, STOLEN + days(1))):
            with pytest.raises(Revoked, match="is revoked for signatures from"):
                verify(raw, since)


def test_the_accuracy_counts_against_the_signer():
    assert verify(stamped(BUNDLE, STOLEN - stamps.timedelta(seconds=2)), revoked_from(STOLEN))
    with pytest.raises(Revoked):
        verify(stamped(BUNDLE, STOLEN - stamps.timedelta(seconds=1)), revoked_from(STOLEN))


def test_a_signature_that_proves_no_time_is_refused_however_old():
    current = sign(
        keys.certificate_signer(pki.issue_signer(ALICE, SIGN_CHAIN.intermediate, NOW), SIGN_CHAIN.intermediate)
    )
    strange = stamped(current, NOW - days(50), tsa=make_tsa(keys.make_chain(), NOW - days(60)))

    for raw in (current, strange):
        with pytest.raises(Revoked, match="nothing proves that this one is older"):
            verify(raw, revoked_from(NOW + days(1)))


def test_a_revocation_without_a_time_takes_every_signature():
    with pytest.raises(Revoked):
        verify(stamped(BUNDLE, NOW - days(99)), signer_policy(revoked_signers=[{"identity": ALICE}]))


@pytest.mark.parametrize("which", range(3), ids=["leaf", "intermediate", "root"])
def test_no_stamp_of_a_revoked_time_stamping_authority_is_believed(which):
    certificate = (*TSA.chain, TIME_CHAIN.root.certificate)[which]
    fingerprint = "sha256:" + certificate.fingerprint(stamps.hashes.SHA256()).hex()
    raw = stamped(BUNDLE, NOW - days(50))
    for key in (key_id_of(certificate.public_key()), fingerprint):
        # `from` does not help: whoever has the key of a TSA writes any time.
        for entry in ({"key": key}, {"key": key, "from": NOW}):
            with pytest.raises(SignatureInvalid, match="not at"):
                verify(raw, signer_policy(revoked_signers=[entry]))
            with pytest.raises(SignatureInvalid, match="none that is believed"):
                verify(raw, signer_policy(revoked_signers=[entry], require=True))


def test_the_stamp_of_a_second_authority_stands_in_for_that_of_a_revoked_one():
    second_chain = keys.make_chain("second", NOW - days(400))
    second = make_tsa(second_chain, NOW - days(200))
    signature = bundles.parse(BUNDLE).signature
    raw = replaced(BUNDLE, timestamps=(stamp(TSA, signature, NOW - days(60)), stamp(second, signature, NOW - days(50))))
    both = time_authority("tsa", TIME_CHAIN) + time_authority("second", second_chain)
    revoked = [{"key": key_id_of(TSA.chain[0].public_key())}]

    found = verify(raw, signer_policy(timestamps=["tsa", "second"], times=both, revoked_signers=revoked))

    assert found.signer.signed_at == NOW - days(50) + stamps.timedelta(seconds=1)


# The trust policy


def parse(*authorities, **changes):
    return trust.parse(policy_toml(*authorities, allow={"ops": ["key:ops-1"]}, **changes).encode())


def test_a_time_authority_is_read_with_its_window():
    parsed = parse(
        key_authority("ops", {"ops-1": KEY}, timestamps=["tsa"], require_timestamp=True),
        time_authority("tsa", TIME_CHAIN, not_before=NOW, not_after=NOW + days(1)),
    )

    assert parsed.time_authorities == {"tsa": TimeAuthority((TIME_CHAIN.root.certificate,), NOW, NOW + days(1))}
    assert (parsed.authorities["ops"].timestamps, parsed.authorities["ops"].require_timestamp) == (("tsa",), True)


def test_without_them_nobody_is_believed_and_no_stamp_demanded():
    parsed = parse(key_authority("ops", {"ops-1": KEY}))

    assert parsed.time_authorities == {}
    assert (parsed.authorities["ops"].timestamps, parsed.authorities["ops"].require_timestamp) == ((), False)


@pytest.mark.parametrize(
    ("times", "authority", "match"),
    [
        ({"timestamps": ["tsa", "nobody"]}, time_authority("tsa", TIME_CHAIN), "'nobody', which is not defined"),
        ({"timestamps": []}, time_authority("tsa", TIME_CHAIN), "at least one entry"),
        ({"require_timestamp": True}, time_authority("tsa", TIME_CHAIN), "believes nobody's"),
        ({}, "[time_authorities.tsa]\nroots = []\n", "at least one entry"),
        ({}, '[time_authorities.tsa]\nroots = ["x"]\n', "no certificate"),
        ({}, "[time_authorities.tsa]\n", "lacks roots"),
        ({}, time_authority("tsa", TIME_CHAIN) + 'key = "x"\n', "unknown member key"),
        ({}, time_authority("tsa", TIME_CHAIN, not_before=NOW, not_after=NOW), "ends before it begins"),
        ({}, time_authority("tsa", TIME_CHAIN) + "not_after = 2030-01-01T00:00:00\n", "not a time with an offset"),
    ],
)  # fmt: skip
def test_half_a_time_authority_is_refused(times, authority, match):
    with pytest.raises(Misconfigured, match=match):
        parse(key_authority("ops", {"ops-1": KEY}, **times), authority)


@pytest.mark.parametrize("line", ['timestamps = "tsa"', "timestamps = [1]", 'require_timestamp = "yes"', "require_timestamp = 1"])  # fmt: skip
def test_the_members_of_an_authority_have_their_types(line):
    with pytest.raises(Misconfigured):
        parse(key_authority("ops", {"ops-1": KEY}) + line + "\n", time_authority("tsa", TIME_CHAIN))


def test_issue_tsa_makes_a_leaf_for_time_stamps_and_nothing_else():
    leaf = pki.issue_tsa("time", SIGN_CHAIN.intermediate, NOW, 30).certificate
    purposes = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage)

    assert (purposes.critical, list(purposes.value)) == (True, [ExtendedKeyUsageOID.TIME_STAMPING])
    assert leaf.not_valid_after_utc == NOW + days(30)


def test_a_tsa_does_not_sign_artifacts_for_an_authority_that_wants_code_signing():
    leaf = pki.issue_tsa("time", SIGN_CHAIN.intermediate, NOW, 30)
    raw = sign(keys.certificate_signer(leaf, SIGN_CHAIN.intermediate))
    allowed = signer_policy(allow={"pki": ["subject:CN=time"]})

    with pytest.raises(SignatureInvalid, match="not for code signing"):
        verify(raw, allowed)


def test_the_stamp_is_not_part_of_what_is_signed():
    raw = stamped(BUNDLE, NOW - days(50))

    assert dataclasses.replace(bundles.parse(raw), timestamps=()) == bundles.parse(BUNDLE)
