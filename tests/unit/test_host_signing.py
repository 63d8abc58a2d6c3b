"""Host signatures: the profile, what a signature covers, and another implementation of RFC 9421 as witness."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from modelreg import host_signing
from modelreg.errors import Unauthenticated
from support.fuzzing import bounded, given, st

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
NONCE = "n" * 24
URL = "https://models.example.org/v1/events?limit=1&type=tag.moved"
BODY = b'{"a": 1}'
MESSAGE = host_signing.message_to("POST", URL, "Bearer mrg_api_x", host_signing.content_digest(BODY))


def signed(message=MESSAGE, key=KEY, now=NOW, nonce=NONCE):
    return host_signing.sign(message, key, now, nonce)


def check(headers, message=MESSAGE, key=KEY, now=NOW):
    signature = host_signing.parse(headers["Signature-Input"], headers["Signature"])
    host_signing.verify(signature, message, key.public_key(), now)
    return signature


def test_what_is_signed_is_accepted_and_says_who_and_when():
    signature = check(signed())
    assert signature.key_id == host_signing.key_id(KEY.public_key())
    assert (signature.created, signature.nonce) == (int(NOW.timestamp()), NONCE)


def test_the_signature_base_is_the_one_of_the_specification():
    parameters = (
        '("@method" "@authority" "@path" "@query" "authorization" "content-digest");created=1777896000'
        f';keyid="{host_signing.key_id(KEY.public_key())}";alg="ed25519";nonce="{NONCE}";tag="modelreg-host"'
    )
    base = host_signing._base(MESSAGE, host_signing.parse(signed()["Signature-Input"], signed()["Signature"]))
    assert base.decode() == "\n".join(
        [
            '"@method": POST',
            '"@authority": models.example.org',
            '"@path": /v1/events',
            '"@query": ?limit=1&type=tag.moved',
            '"authorization": Bearer mrg_api_x',
            f'"content-digest": {host_signing.content_digest(BODY)}',
            f'"@signature-params": {parameters}',
        ]
    )
    assert signed()["Signature-Input"] == f"host={parameters}"


@pytest.mark.parametrize(
    "changed",
    [
        {"method": "PUT"}, {"method": "post"}, {"authority": "evil.example.org"}, {"authority": "models.example.org:8443"},
        {"path": "/v1/events/"}, {"path": "/v1/tokens"}, {"query": ""}, {"query": "limit=1&type=tag.moved&x=1"},
        {"query": "type=tag.moved&limit=1"}, {"authorization": "Bearer mrg_api_y"}, {"authorization": None},
        {"content_digest": host_signing.content_digest(b'{"a": 2}')}, {"content_digest": None},
    ],
)  # fmt: skip
def test_another_message_is_refused(changed):
    with pytest.raises(Unauthenticated):
        check(signed(), replace(MESSAGE, **changed))


@pytest.mark.parametrize("name", ["authorization", "content_digest"])
def test_a_part_that_was_added_after_signing_is_refused(name):
    bare = replace(MESSAGE, **{name: None})
    check(signed(bare), bare)
    with pytest.raises(Unauthenticated):
        check(signed(bare), MESSAGE)


def test_another_key_is_refused_even_under_the_same_name():
    other = Ed25519PrivateKey.generate()
    headers = signed(key=other)
    with pytest.raises(Unauthenticated):
        check(headers)
    renamed = headers["Signature-Input"].replace(
        host_signing.key_id(other.public_key()), host_signing.key_id(KEY.public_key())
    )
    with pytest.raises(Unauthenticated):
        check({**headers, "Signature-Input": renamed})


@pytest.mark.parametrize("seconds", [-60, -1, 0, 1, 60])
def test_inside_the_window_it_holds(seconds):
    check(signed(now=NOW + timedelta(seconds=seconds)))


@pytest.mark.parametrize("seconds", [-86400, -61, 61, 86400])
def test_outside_of_the_window_it_does_not(seconds):
    with pytest.raises(Unauthenticated):
        check(signed(now=NOW + timedelta(seconds=seconds)))


@pytest.mark.parametrize("part", ["created=1", 'nonce="nnnn', 'keyid="sha256:', 'alg="ed25519"', 'tag="modelreg-host"'])
def test_every_parameter_is_covered(part):
    headers = signed()
    text = headers["Signature-Input"]
    for changed in (text.replace(part, part[:-1] + ("2" if part[-1] != "2" else "3")), text.replace(f";{part}", ";x")):
        with pytest.raises(Unauthenticated):
            check({**headers, "Signature-Input": changed})


INPUT, VALUE = signed()["Signature-Input"], signed()["Signature"]


@pytest.mark.parametrize(
    ("raw_input", "raw_value"),
    [
        ("", ""), (INPUT, ""), ("", VALUE), (INPUT.replace("host=", "sig1="), VALUE.replace("host=", "sig1=")),
        (INPUT + ', other=("@method")', VALUE), (INPUT, VALUE + ", other=:AAAA:"), (INPUT.replace(";", "; "), VALUE),
        (INPUT.replace('"ed25519"', '"rsa-pss-sha512"'), VALUE), (INPUT.replace(';alg="ed25519"', ""), VALUE),
        (INPUT.replace(f';nonce="{NONCE}"', ""), VALUE), (INPUT.replace(NONCE, "short"), VALUE),
        (INPUT.replace('"@query" ', ""), VALUE), (INPUT.replace('("@method"', '("@method" "@method"'), VALUE),
        (INPUT.replace("modelreg-host", "web-bot-auth"), VALUE), (INPUT + "\n", VALUE), (INPUT, VALUE + "\n"),
        (INPUT + ";expires=9999999999", VALUE), (INPUT.replace("created=", "created=-"), VALUE), (INPUT, VALUE.replace("==:", ":")),
        (INPUT.replace("sha256:", "sha512:"), VALUE), (INPUT.upper(), VALUE), ("host=()", VALUE), (INPUT * 2, VALUE),
    ],
)  # fmt: skip
def test_what_is_not_the_profile_is_refused(raw_input, raw_value):
    with pytest.raises(Unauthenticated):
        check({"Signature-Input": raw_input, "Signature": raw_value})


@given(st.text(max_size=300), st.text(max_size=120))
@bounded
def test_any_text_is_a_refusal_and_no_failure(raw_input, raw_value):
    with pytest.raises(Unauthenticated):
        host_signing.parse(raw_input, raw_value)


@given(st.integers(0, len(INPUT) - 1), st.characters(min_codepoint=32, max_codepoint=126))
@bounded
def test_any_changed_character_of_the_input_is_a_refusal(at, char):
    changed = INPUT[:at] + char + INPUT[at + 1 :]
    if changed == INPUT:
        return
    with pytest.raises(Unauthenticated):
        check({"Signature-Input": changed, "Signature": VALUE})


@pytest.mark.parametrize(
    ("url", "authority"),
    [
        ("https://Models.Example.ORG/x", "models.example.org"), ("https://a.example:443/", "a.example"),
        ("http://127.0.0.1:8470/v1", "127.0.0.1:8470"), ("http://localhost:80", "localhost"),
        ("https://a.example:80/", "a.example:80"), ("http://[::1]:8470/", "[::1]:8470"), ("https://[::1]/", "[::1]"),
    ],
)  # fmt: skip
def test_an_authority_is_lower_case_without_the_schemes_own_port(url, authority):
    assert host_signing.authority_of(url) == authority


def test_every_refusal_says_the_same():
    said = set()
    for headers, message, now in (
        (signed(), replace(MESSAGE, path="/x"), NOW),
        (signed(), MESSAGE, NOW + timedelta(hours=1)),
        ({"Signature-Input": "x", "Signature": "y"}, MESSAGE, NOW),
        (signed(key=Ed25519PrivateKey.generate()), MESSAGE, NOW),
    ):
        with pytest.raises(Unauthenticated) as refused:
            check(headers, message, now=now)
        said.add(refused.value.detail)
    assert len(said) == 1


# Another implementation as witness, in both directions.
@dataclass
class Sent:
    """A request as `http-message-signatures` takes one."""

    method: str = "POST"
    url: str = URL
    headers: dict[str, str] = field(default_factory=dict)


class Keys:
    def resolve_public_key(self, key_id):
        assert key_id == host_signing.key_id(KEY.public_key())
        return KEY.public_key()

    def resolve_private_key(self, _key_id):
        return KEY


def base_headers():
    return {"Authorization": "Bearer mrg_api_x", "Content-Digest": host_signing.content_digest(BODY)}


def test_another_implementation_of_the_rfc_accepts_what_we_sign():
    from http_message_signatures import HTTPMessageVerifier, algorithms

    now = datetime.now(UTC)
    sent = Sent(headers={**base_headers(), **signed(now=now)})
    verifier = HTTPMessageVerifier(signature_algorithm=algorithms.ED25519, key_resolver=Keys())
    found = verifier.verify(sent, expect_tag="modelreg-host", max_age=timedelta(seconds=60), body=BODY)
    assert [result.label for result in found] == ["host"]
    assert found[0].covered_components['"@query"'] == "?limit=1&type=tag.moved"
    assert set(found[0].covered_components) > {
        '"@method"',
        '"@authority"',
        '"@path"',
        '"authorization"',
        '"content-digest"',
    }


def test_another_implementation_of_the_rfc_signs_exactly_as_we_do():
    from http_message_signatures import HTTPMessageSigner, algorithms

    sent = Sent(headers=base_headers())
    HTTPMessageSigner(signature_algorithm=algorithms.ED25519, key_resolver=Keys()).sign(
        sent, key_id=host_signing.key_id(KEY.public_key()), created=NOW, nonce=NONCE, label="host", tag="modelreg-host",
        covered_component_ids=("@method", "@authority", "@path", "@query", "authorization", "content-digest"),
        use_existing_digest=True,
    )  # fmt: skip
    # Ed25519 has one signature for a key and a message: theirs is ours, to the letter.
    assert sent.headers == {**base_headers(), **signed()}
    check(sent.headers)
