import base64
import json

import pytest

from modelreg import bundles
from modelreg.bundles import Bundle
from modelreg.errors import SignatureInvalid
from support.fuzzing import assert_value_or_refusal, bounded, given, json_texts, mutations, st

KEY_BUNDLE = Bundle("publicKey", b'{"payload":1}', b"signature", hint="ab" * 32)
CHAIN_BUNDLE = Bundle("x509CertificateChain", b"payload", b"signature", certificates=(b"leaf", b"intermediate"))
VALID = bundles.serialise(KEY_BUNDLE)
CHAIN = bundles.serialise(CHAIN_BUNDLE)


def b64(data):
    return base64.b64encode(data).decode()


def changed(change, raw=VALID):
    members = json.loads(raw)
    change(members)
    return json.dumps(members).encode()


def test_a_key_bundle_reads_back_as_it_was_written():
    assert bundles.parse(VALID) == KEY_BUNDLE


def test_a_certificate_bundle_reads_back_as_it_was_written():
    assert bundles.parse(CHAIN) == CHAIN_BUNDLE


def test_a_bundle_is_written_like_this():
    assert json.loads(VALID) == {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": "ab" * 32}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": b64(b'{"payload":1}'),
            "payloadType": "application/vnd.in-toto+json",
            "signatures": [{"sig": b64(b"signature"), "keyid": ""}],
        },
    }


def test_the_pre_authentication_encoding_is_that_of_dsse():
    assert bundles.pae(b"hello world") == b"DSSEv1 28 application/vnd.in-toto+json 11 hello world"


def test_the_payload_is_returned_byte_for_byte():
    payload = bytes(range(256))

    assert bundles.parse(bundles.serialise(Bundle("publicKey", payload, b"s", hint="x"))).payload == payload


@pytest.mark.parametrize(
    "change",
    [
        lambda it: it["verificationMaterial"].pop("tlogEntries"),
        lambda it: it["verificationMaterial"].update(tlogEntries=[{"anything": "goes"}]),
        lambda it: it["verificationMaterial"].update(timestampVerificationData={"rfc3161Timestamps": []}),
        lambda it: it["dsseEnvelope"]["signatures"][0].pop("keyid"),
        lambda it: it["dsseEnvelope"]["signatures"][0].update(keyid=None),
        lambda it: it["dsseEnvelope"]["signatures"][0].update(keyid="whoever"),
    ],
)
def test_what_nothing_is_believed_of_may_be_there_or_not(change):
    assert bundles.parse(changed(change)) == KEY_BUNDLE


def test_an_older_bundle_carries_the_key_itself_for_comparison():
    raw = changed(
        lambda it: it["verificationMaterial"].update(publicKey={"rawBytes": b64(b"PEM"), "keyDetails": "PKIX"})
    )

    parsed = bundles.parse(raw)

    assert (parsed.hint, parsed.raw_key) == (None, b"PEM")


def test_a_sigstore_bundle_is_read_and_told_apart():
    parsed = bundles.parse(
        changed(
            lambda it: it.update(verificationMaterial={"certificate": {"rawBytes": b64(b"leaf")}, "tlogEntries": [{}]})
        )
    )

    assert (parsed.kind, parsed.certificates) == ("certificate", (b"leaf",))
    assert parsed.log_entries == ({},)


def test_what_lies_beside_a_key_or_certificate_is_written_as_it_was_read():
    proofs = {
        "tlogEntries": [{"logIndex": "1"}],
        "timestampVerificationData": {"rfc3161Timestamps": [{"signedTimestamp": b64(b"stamp")}]},
    }
    for material in ({"publicKey": {"hint": "a"}}, {"certificate": {"rawBytes": b64(b"leaf")}}):
        raw = changed(lambda it, members={**material, **proofs}: it.update(verificationMaterial=members))

        again = json.loads(bundles.serialise(bundles.parse(raw)))

        assert again["verificationMaterial"] == {**material, **proofs}


def _material(**members):
    return lambda it: it.update(verificationMaterial=members)


def _envelope(**members):
    return lambda it: it["dsseEnvelope"].update(members)


def _signature(**members):
    return lambda it: it["dsseEnvelope"]["signatures"][0].update(members)


_CHAIN = {"certificates": [{"rawBytes": b64(b"leaf")}]}
_KEY = {"hint": "x"}

WRONG = {
    "media type absent": lambda it: it.pop("mediaType"),
    "media type 0.2": lambda it: it.update(mediaType="application/vnd.dev.sigstore.bundle+json;version=0.2"),
    "media type null": lambda it: it.update(mediaType=None),
    "material absent": lambda it: it.pop("verificationMaterial"),
    "envelope absent": lambda it: it.pop("dsseEnvelope"),
    "a message signature beside the envelope": lambda it: it.update(messageSignature={}),
    "unknown member": lambda it: it.update(trusted=True),
    "material empty": _material(),
    "material of log entries only": _material(tlogEntries=[{}]),
    "material a list": lambda it: it.update(verificationMaterial=[]),
    "material with an unknown member": _material(publicKey=_KEY, trust="me"),
    "two kinds of material, key and chain": _material(publicKey=_KEY, x509CertificateChain=_CHAIN),
    "two kinds of material, key and leaf": _material(publicKey=_KEY, certificate={"rawBytes": b64(b"leaf")}),
    "two kinds of material, chain and leaf": _material(
        x509CertificateChain=_CHAIN, certificate={"rawBytes": b64(b"l")}
    ),
    "key null": _material(publicKey=None),
    "key with an unknown member": _material(publicKey={"hint": "x", "pem": "y"}),
    "hint empty": _material(publicKey={"hint": ""}),
    "hint a number": _material(publicKey={"hint": 1}),
    "raw key not base64": _material(publicKey={"rawBytes": "%%%"}),
    "raw key empty": _material(publicKey={"rawBytes": ""}),
    "raw key null": _material(publicKey={"rawBytes": None}),
    "chain empty": _material(x509CertificateChain={"certificates": []}),
    "chain absent": _material(x509CertificateChain={}),
    "chain an object": _material(x509CertificateChain={"certificates": {"0": {}}}),
    "chain too long": _material(x509CertificateChain={"certificates": [{"rawBytes": b64(b"leaf")}] * 9}),
    "chain with an unknown member": _material(x509CertificateChain={**_CHAIN, "roots": []}),
    "certificate with an unknown member": _material(
        x509CertificateChain={"certificates": [{"rawBytes": b64(b"leaf"), "trusted": True}]}
    ),
    "certificate not base64": _material(x509CertificateChain={"certificates": [{"rawBytes": "x"}]}),
    "certificate a string": _material(x509CertificateChain={"certificates": [b64(b"leaf")]}),
    "payload absent": lambda it: it["dsseEnvelope"].pop("payload"),
    "payload empty": _envelope(payload=""),
    "payload not base64": _envelope(payload="{}"),
    "payload url-safe base64": _envelope(payload="-_-_"),
    "payload with line breaks": _envelope(payload="YWJj\nYWJj"),
    "payload not ASCII": _envelope(payload="é"),
    "payload without padding": _envelope(payload="YQ"),
    "payload an object": _envelope(payload={}),
    "payload type other": _envelope(payloadType="text/plain"),
    "payload type upper case": _envelope(payloadType="application/vnd.in-toto+JSON"),
    "payload type null": _envelope(payloadType=None),
    "envelope with an unknown member": _envelope(extra=1),
    "envelope a string": lambda it: it.update(dsseEnvelope="x"),
    "no signature": _envelope(signatures=[]),
    "signatures absent": lambda it: it["dsseEnvelope"].pop("signatures"),
    "signatures an object": _envelope(signatures={"0": {"sig": "eA=="}}),
    "signatures null": _envelope(signatures=None),
    "signature a string": _envelope(signatures=["eA=="]),
    "signature empty": _signature(sig=""),
    "signature not base64": _signature(sig="%"),
    "signature absent": lambda it: it["dsseEnvelope"]["signatures"][0].pop("sig"),
    "signature with a certificate of its own": _signature(cert="-----BEGIN CERTIFICATE-----"),
}


@pytest.mark.parametrize("name", WRONG)
def test_step_1_refuses_a_bundle_with(name):
    with pytest.raises(SignatureInvalid) as caught:
        bundles.parse(changed(WRONG[name]))

    assert caught.value.detail.isascii()


@pytest.mark.parametrize("position", ["first", "second"])
def test_step_1_refuses_a_second_signature(position):
    def add(it):
        it["dsseEnvelope"]["signatures"].insert(0 if position == "first" else 1, {"sig": b64(b"junk")})

    with pytest.raises(SignatureInvalid, match="2 signatures"):
        bundles.parse(changed(add))


@pytest.mark.parametrize(
    "raw", [b"", b"null", b"[]", b"{", b"\xff\xfe", VALID + b"x", VALID + VALID, VALID.decode().encode("utf-16")]
)
def test_step_1_refuses_what_is_not_one_json_object(raw):
    with pytest.raises(SignatureInvalid):
        bundles.parse(raw)


def test_step_1_refuses_a_member_named_twice():
    raw = VALID.replace(b'{"mediaType"', b'{"dsseEnvelope":{},"mediaType"')

    with pytest.raises(SignatureInvalid, match="twice"):
        bundles.parse(raw)


def test_step_1_refuses_more_bytes_than_the_limit(monkeypatch):
    monkeypatch.setattr(bundles, "MAX_BUNDLE_BYTES", len(VALID))
    assert bundles.parse(VALID)

    with pytest.raises(SignatureInvalid, match="the limit is"):
        bundles.parse(VALID + b" ")


def test_step_1_refuses_many_small_values_before_they_take_memory():
    # Once: 1.6 GB and 10 s for 64 MiB of empty objects, before any signature was looked at.
    raw = VALID.replace(b'"tlogEntries":[]', b'"tlogEntries":[' + b"{}," * 10_000 + b"{}]")

    with pytest.raises(SignatureInvalid, match="more than 10000 values"):
        bundles.parse(raw)


def test_a_big_payload_is_one_value():
    payload = b"[{,}]" * 100_000

    assert bundles.parse(bundles.serialise(Bundle("publicKey", payload, b"s", hint="x"))).payload == payload


@bounded
@given(st.binary(max_size=300))
def test_any_bytes_are_a_bundle_or_invalid(raw):
    assert_value_or_refusal(bundles.parse, raw)


@bounded
@given(
    st.sampled_from(
        [
            ("mediaType",),
            ("verificationMaterial",),
            ("verificationMaterial", "publicKey"),
            ("verificationMaterial", "publicKey", "hint"),
            ("verificationMaterial", "publicKey", "rawBytes"),
            ("verificationMaterial", "tlogEntries"),
            ("verificationMaterial", "x509CertificateChain"),
            ("dsseEnvelope",),
            ("dsseEnvelope", "payload"),
            ("dsseEnvelope", "payloadType"),
            ("dsseEnvelope", "signatures"),
        ]
    ),
    json_texts(),
)
def test_any_value_of_a_member_is_a_bundle_or_invalid(path, value):
    members = json.loads(VALID)
    at = members
    for name in path[:-1]:
        at = at[name]
    at[path[-1]] = value
    assert_value_or_refusal(bundles.parse, json.dumps(members).encode())


@pytest.mark.parametrize("raw", [VALID, CHAIN], ids=["key", "certificate"])
def test_a_damaged_bundle_is_a_bundle_or_invalid(raw):
    for damaged in mutations(raw):
        assert_value_or_refusal(bundles.parse, damaged)
