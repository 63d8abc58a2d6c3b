"""Names of keys outside this machine's files: what is understood, what is refused, and that no secret is repeated."""

from pathlib import Path

import pytest

from modelreg import key_uris
from modelreg.errors import Misconfigured
from modelreg.key_uris import KmsUri, Pkcs11Uri
from support.fuzzing import assert_value_or_refusal, bounded, given, mutations, st

FULL = "pkcs11:token=my%20token;serial=00ff;object=release%3bkey;id=%01%FF;type=private?module-path=/usr/lib/p%2C11.so&pin-source=file:/run/pin"
SHORT = "pkcs11:token=t;id=%01?module-path=/m.so"
ARN = "arn:aws:kms:eu-central-1:123456789012:key/mrk-0123"


def test_every_attribute_is_decoded():
    assert key_uris.parse(FULL) == Pkcs11Uri(
        FULL, Path("/usr/lib/p,11.so"), "my token", "00ff", "release;key", b"\x01\xff", Path("/run/pin")
    )
    assert str(key_uris.parse(FULL)) == FULL


def test_what_is_not_said_is_none():
    assert key_uris.parse(SHORT) == Pkcs11Uri(SHORT, Path("/m.so"), "t", None, None, b"\x01", None)
    assert key_uris.parse("PKCS11:serial=1;object=é?module-path=/m.so".replace("é", "%C3%A9")).object == "é"


@pytest.mark.parametrize("text", ["signer.pem", "/a/b", "./pkcs11:token=x", "C:key", "pkcs11", "a b", "file:///x", ""])
def test_anything_else_is_a_file(text):
    assert key_uris.parse(text) == Path(text)


def test_a_home_folder_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/al")
    assert key_uris.parse("~/signer.pem") == Path("/home/al/signer.pem")


REFUSED = {
    "names no token": ["pkcs11:?module-path=/m.so", "pkcs11:id=%01?module-path=/m.so", "pkcs11:object=a;type=private?module-path=/m.so"],
    "names no key": ["pkcs11:token=t?module-path=/m.so", "pkcs11:serial=1?module-path=/m.so"],
    "names no PKCS#11 library": ["pkcs11:token=t;id=%01", "pkcs11:token=t;id=%01?", "pkcs11:token=t;id=%01?pin-source=/x"],
    "another type": [SHORT.replace(";id", ";type=public;id"), SHORT.replace(";id", ";type=Private;id")],
    "is none of": [
        SHORT.replace(";id", ";x-vendor=1;id"), SHORT + "&x-pin=1", SHORT + "&module-name=m", SHORT + "&",
        SHORT.replace(";id", ";;id"), SHORT.replace("token", "Token"), SHORT.replace("token=t", "slot-id=1;token=t"),
        SHORT.replace(";id", ";manufacturer=x;id"), SHORT.replace(":token", ":module-path=/m.so;token"), SHORT + "&token=t", "pkcs11://token=t;id=%01",
    ],
    "twice": [SHORT.replace(";id", ";token=u;id"), SHORT + "&module-path=/n.so", SHORT.replace(";id", ";id=%02;id")],
    "percent-encoded": [
        SHORT.replace("=t", "="), SHORT.replace("=t", ""), SHORT.replace("=t", "=a b"), SHORT.replace("=t", "=%"), SHORT.replace("=t", "=%4"),
        SHORT.replace("=t", "=%zz"), SHORT.replace("=t", "=é"), SHORT.replace("=t", "=a#b"), SHORT.replace("=t", "=a/b"), SHORT.replace("=t", "=a\n"), SHORT + "#x=1",
    ],
    "not UTF-8": [SHORT.replace("=t", "=%ff"), SHORT.replace("/m.so", "/%ff")],
    "control characters": [SHORT.replace("=t", "=%00"), SHORT.replace("/m.so", "/m%0a"), SHORT.replace("=t", "=%1b%5b2J")],
    "absolute path": [SHORT.replace("/m.so", "m.so"), SHORT.replace("/m.so", "../m.so"), SHORT + "&pin-source=pin", SHORT + "&pin-source=|/bin/sh",
                      SHORT + "&pin-source=https:/x", SHORT + "&pin-source=~/pin"],
    "the limit is": ["pkcs11:token=" + "t" * 3000, "awskms:///" + "k" * 3000],
    "is not awskms:///KEY": ["awskms:", "awskms:key", "awskms://host/key", "awskms://user:pw@host/key", "awskms:///key#x", "awskms:///ké"],
    "names no key; write": ["awskms:///", "awskms:///alias/", "awskms:///a%20b", "awskms:///arn:aws:s3:::bucket", "awskms:///arn:aws:kms:x:1:key/a", "awskms:////"],
    "one region and one endpoint": ["awskms:///k?secret=x", "awskms:///k?region=a&region=b", "awskms:///k?x", "awskms:///k?region=a&"],
    "region that is none": ["awskms:///k?region=", "awskms:///k?region=A", "awskms:///k?region=a/b", f"awskms:///{ARN}?region=us-east-1"],
    "endpoint that is": [f"awskms:///k?endpoint={url}" for url in ["", "x", "http://kms.example", "ftp://127.0.0.1", "https://", "https://a/b", "https://u:p@a",
                                                                  "https://a:b", "https://a:70000", "https://[::1", "http://127.0.0.1.evil.example", "https://a%2f"]],
}  # fmt: skip


@pytest.mark.parametrize(
    ("reason", "text"), [(reason, text) for reason, texts in REFUSED.items() for text in texts], ids=lambda v: v[:60]
)
def test_a_malformed_uri_is_refused_with_its_reason(reason, text):
    with pytest.raises(Misconfigured) as refused:
        key_uris.parse(text)
    assert reason in refused.value.detail


@pytest.mark.parametrize(
    "text",
    [SHORT + "&pin-value=s3cret", SHORT.replace("id=", "pin-value=s3cret;id="), SHORT + "&pin-value=", SHORT + "&pin-value"],
)  # fmt: skip
def test_a_pin_in_a_uri_is_refused_with_the_reason_and_not_repeated(text):
    with pytest.raises(Misconfigured, match="histories") as refused:
        key_uris.parse(text)
    assert "s3cret" not in str(refused.value) + repr(refused.value.facts)


@pytest.mark.parametrize("text", [SHORT + "&pinvalue=s3cret", SHORT.replace("=t", "=s3cret é"), SHORT + "&s3cret"])
def test_no_refusal_repeats_a_value(text):
    with pytest.raises(Misconfigured) as refused:
        key_uris.parse(text)
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "key", "region", "endpoint"),
    [
        ("awskms:///alias/signer", "alias/signer", None, None),
        ("awskms:///0a1b-2c?region=eu-central-1", "0a1b-2c", "eu-central-1", None),
        (f"awskms:///{ARN}", ARN, "eu-central-1", None),
        (f"awskms:///{ARN}?region=eu-central-1", ARN, "eu-central-1", None),
        ("awskms:///k?endpoint=https://kms.example:8443&region=x-1", "k", "x-1", "https://kms.example:8443"),
        ("awskms:///k?endpoint=http://127.0.0.1:1", "k", None, "http://127.0.0.1:1"),
        ("awskms:///k?endpoint=http://[::1]:1/", "k", None, "http://[::1]:1/"),
        ("awskms:///k?endpoint=http://localhost", "k", None, "http://localhost"),
    ],
)
def test_a_kms_key_is_an_id_an_alias_or_an_arn(text, key, region, endpoint):
    assert key_uris.parse(text) == KmsUri(text, key, region, endpoint)


def test_mutated_uris_are_a_value_or_a_refusal():
    for text in (FULL, f"awskms:///{ARN}?endpoint=https://kms.example:8443&region=eu-central-1"):
        for raw in mutations(text.encode()):
            assert_value_or_refusal(key_uris.parse, raw.decode("utf-8", "replace"))


@bounded
@given(st.text(max_size=60), st.sampled_from(["pkcs11:", "awskms:///", SHORT, "awskms:///k?endpoint="]))
def test_any_text_behind_a_scheme_is_a_value_or_a_refusal(text, start):
    assert_value_or_refusal(key_uris.parse, start + text)
