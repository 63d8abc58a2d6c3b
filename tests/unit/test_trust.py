from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from modelreg import notes, trust
from modelreg.digests import Digest, sha256_of
from modelreg.errors import Misconfigured, StaleTrust
from support import keys
from support.fuzzing import assert_value_or_refusal, bounded, given, mutations, st
from support.keys import NOW
from support.policies import certificate_authority, key_authority, policy, policy_toml, rule
from support.sigstore_local import LocalSigstore

KEY = keys.make_key()
OTHER_KEY = keys.make_key("p384")
CHAIN = keys.make_chain()
HEX = "ab" * 32

OPS = key_authority("ops", {"ops-1": KEY})
PKI = certificate_authority("pki", CHAIN)
VALID = policy_toml(OPS, PKI, allow={"ops": ["key:ops-1"], "pki": ["email:*@acme.example"]})


def changed(*pairs, text=VALID):
    for old, new in pairs:
        assert text.count(old) == 1, (old, text.count(old))
        text = text.replace(old, new)
    return text


def refusal(text):
    with pytest.raises(Misconfigured) as caught:
        trust.parse(text if isinstance(text, bytes) else text.encode())
    return caught.value.detail


# What is read


def test_a_policy_is_read_with_its_digest():
    parsed = trust.parse(VALID.encode())

    assert (parsed.version, parsed.expires, parsed.digest) == (1, NOW + timedelta(days=365), sha256_of(VALID.encode()))
    assert set(parsed.authorities) == {"ops", "pki"}


def test_a_key_authority_holds_keys_by_name():
    end = NOW + timedelta(days=9)
    parsed = policy(
        key_authority("ops", {"a": KEY, "b": OTHER_KEY}, not_after={"b": end}, legacy=True), allow={"ops": ["key:a"]}
    )

    authority = parsed.authorities["ops"]

    assert [(key.name, key.not_after) for key in authority.keys] == [("a", None), ("b", end)]
    assert authority.keys[0].public_key == KEY.private_key.public_key()
    assert authority.keys[0].key_id == trust.key_id_of(KEY.private_key.public_key())
    assert authority.legacy_0_2 is True


def test_a_certificate_authority_holds_roots_and_a_usage():
    parsed = policy(
        certificate_authority("pki", CHAIN, CHAIN.intermediate, usage="digitalSignature", legacy=False),
        allow={"pki": ["email:a@b"]},
    )

    authority = parsed.authorities["pki"]

    assert authority.roots == (CHAIN.root.certificate, CHAIN.intermediate.certificate)
    assert (authority.usage, authority.legacy_0_2) == ("digitalSignature", False)


def test_the_example_in_the_module_is_a_policy_but_for_its_keys(tmp_path):
    text = trust.__doc__.split("\n\n", 1)[1].rsplit("\n\nThis module", 1)[0]
    text = text.replace("'''-----BEGIN CERTIFICATE-----…'''", f"'''{CHAIN.root_pem}'''")
    text = text.replace('{"mediaType": …}', LocalSigstore("http://127.0.0.1:1", tmp_path).trusted_root)
    text = text.replace("'''-----BEGIN PUBLIC KEY-----…'''", '"""' + keys.public_pem(KEY).replace("\n", "\\n") + '"""')
    log = notes.key_of("registry.acme.example/log", notes.ED25519, Ed25519PrivateKey.generate().public_key())
    text = text.replace("registry.acme.example/log+…", str(log))
    witness = notes.key_of("witness.example", notes.COSIGNATURE, Ed25519PrivateKey.generate().public_key())
    text = text.replace("witness.example+…", str(witness))

    parsed = trust.parse(text.encode())

    assert parsed.version == 3
    assert (parsed.log.origin, parsed.log.keys, parsed.log.witnesses) == (log.name, (log,), (witness,))


def test_times_with_an_offset_are_utc():
    parsed = trust.parse(changed(("2027-11-23T12:00:00+00:00", "2027-11-23T12:00:00+09:00")).encode())

    assert parsed.expires == datetime(2027, 11, 23, 3, tzinfo=UTC)
    assert parsed.expires.tzinfo is UTC


def test_revocations_are_read():
    since = NOW - timedelta(days=1)
    parsed = policy(
        OPS,
        allow={"ops": ["key:ops-1"]},
        revoked_artifacts=[f"sha256:{HEX}"],
        revoked_signers=[{"identity": "email:x@y", "from": since}, {"key": f"sha256:{HEX}"}],
    )

    assert parsed.revocations.artifacts == {Digest("sha256", HEX)}
    assert parsed.revocations.signers == (
        trust.RevokedSigner("email:x@y", None, since),
        trust.RevokedSigner(None, Digest("sha256", HEX), None),
    )


@pytest.mark.parametrize(
    ("revoked", "identities", "names"),
    [
        ("email:a@b", ["subject:CN=x", "email:a@b"], True),
        ("email:a@b", ["email:a@bb"], False),
        ("email:*@b", ["email:a@b"], True),
        ("dns:*.b", ["dns:*.b"], True),
        ("email:a@b", [], False),
    ],
)
def test_a_revoked_identity_is_a_glob_as_an_allowed_one_is(revoked, identities, names):
    # Once: compared letter by letter, so that revoking `email:*@b` revoked nobody.
    assert trust.RevokedSigner(revoked, None, None).names(identities, ()) is names


def test_a_revoked_key_is_compared_with_keys_only():
    revoked = trust.RevokedSigner(None, Digest("sha256", HEX), None)

    assert revoked.names(["x"], [Digest("sha256", HEX)])
    assert not revoked.names([HEX, f"sha256:{HEX}", "None"], [Digest("sha256", "cd" * 32)])


# What is refused

KEY_PEM_TOML = keys.public_pem(KEY).replace("\n", "\\n")
ROOT_PEM_TOML = CHAIN.root_pem.replace("\n", "\\n")
SERVER_ERRORS = "12:00:00+00:00"

WRONG = {
    "schema other": [('schema = "modelreg/trust-policy/v1"', 'schema = "modelreg/trust-policy/v2"')],
    "schema a list": [('schema = "modelreg/trust-policy/v1"', "schema = []")],
    "schema absent": [('schema = "modelreg/trust-policy/v1"', "")],
    "version absent": [("version = 1", "")],
    "version zero": [("version = 1", "version = 0")],
    "version negative": [("version = 1", "version = -1")],
    "version a fraction": [("version = 1", "version = 1.0")],
    "version true": [("version = 1", "version = true")],
    "version text": [("version = 1", 'version = "1"')],
    "expires absent": [("expires = 2027-11-23T12:00:00+00:00", "")],
    "expires without an offset": [("expires = 2027-11-23T12:00:00+00:00", "expires = 2027-11-23T12:00:00")],
    "expires a date": [("expires = 2027-11-23T12:00:00+00:00", "expires = 2027-11-23")],
    "expires a time": [("expires = 2027-11-23T12:00:00+00:00", "expires = 12:00:00")],
    "expires text": [("expires = 2027-11-23T12:00:00+00:00", 'expires = "2027-11-23T12:00:00Z"')],
    "expires a number": [("expires = 2027-11-23T12:00:00+00:00", "expires = 1795435200")],
    "expires beyond year 9999": [("expires = 2027-11-23T12:00:00+00:00", "expires = 9999-12-31T23:59:59-23:59")],
    "expires before year 1": [("expires = 2027-11-23T12:00:00+00:00", "expires = 0001-01-01T00:00:00+23:59")],
    "unknown member": [("version = 1", "version = 1\ntrust_everyone = true")],
    "method absent": [('method = "key"\n', "")],
    "method none": [('method = "key"', 'method = "none"')],
    "method sigstore": [('method = "key"', 'method = "sigstore"')],
    "method a list": [('method = "key"', 'method = ["key"]')],
    "method of the other kind": [('method = "key"', 'method = "certificate"')],
    "an authority that is no table": [('[authorities."ops"]', "[authorities]\nnone = 1\n[authorities.ops]")],
    "keys empty": [(f'keys = [{{name = "ops-1", pem = "{KEY_PEM_TOML}"}}]', "keys = []")],
    "keys a table": [(f'keys = [{{name = "ops-1", pem = "{KEY_PEM_TOML}"}}]', "keys = {}")],
    "keys of text": [(f'keys = [{{name = "ops-1", pem = "{KEY_PEM_TOML}"}}]', 'keys = ["x"]')],
    "key name empty": [('name = "ops-1"', 'name = ""')],
    "key name a number": [('name = "ops-1"', "name = 1")],
    "key with an unknown member": [('name = "ops-1"', 'name = "ops-1", trusted = true')],
    "key not PEM": [(KEY_PEM_TOML, "x")],
    "key cut short": [(KEY_PEM_TOML, KEY_PEM_TOML[:-60] + "\\n-----END PUBLIC KEY-----\\n")],
    "key a certificate": [(KEY_PEM_TOML, ROOT_PEM_TOML)],
    "key of RSA": [(KEY_PEM_TOML, keys.public_pem(keys.rsa_key()).replace("\n", "\\n"))],
    "key of Ed25519": [(KEY_PEM_TOML, keys.public_pem(keys.ed25519_key()).replace("\n", "\\n"))],
    "not_after text": [('name = "ops-1"', 'name = "ops-1", not_after = "2027"')],
    "roots empty": [(f'roots = ["{ROOT_PEM_TOML}"]', "roots = []")],
    "roots absent, which would mean the web's": [(f'roots = ["{ROOT_PEM_TOML}"]', "")],
    "roots not PEM": [(ROOT_PEM_TOML, "x")],
    "roots a number": [(f'roots = ["{ROOT_PEM_TOML}"]', "roots = [1]")],
    "roots a key": [(ROOT_PEM_TOML, KEY_PEM_TOML)],
    "usage absent": [('usage = "codeSigning"', "")],
    "usage any": [('usage = "codeSigning"', 'usage = "any"')],
    "usage a list": [('usage = "codeSigning"', 'usage = ["codeSigning"]')],
    "authority with an unknown member": [('usage = "codeSigning"', 'usage = "codeSigning"\ncheck_expiry = false')],
    "legacy flag text": [('usage = "codeSigning"', 'usage = "codeSigning"\nlegacy_oms_0_2 = "no"')],
    "authorities a list": [('[authorities."ops"]', "[[authorities]]"), ('[authorities."pki"]', "[[authorities]]")],
    "rule without repositories": [('repositories = ["acme/*"]', "")],
    "rule for no repository": [('repositories = ["acme/*"]', "repositories = []")],
    "rule for a repository of no name": [('repositories = ["acme/*"]', 'repositories = [""]')],
    "rule for text": [('repositories = ["acme/*"]', 'repositories = "acme/*"')],
    "rule allowing nobody": [("allow = [", "allow = []\nnobody = [")],
    "rule with an unknown member": [('repositories = ["acme/*"]', 'repositories = ["acme/*"]\nunless = "friday"')],
    "authority not defined": [('{authority = "ops"', '{authority = "nobody"')],
    "authority a list": [('{authority = "ops"', '{authority = ["ops"]')],
    "authority a table": [('{authority = "ops"', "{authority = {}")],
    "identities absent": [(', identities = ["key:ops-1"]', "")],
    "identities empty": [('identities = ["key:ops-1"]', "identities = []")],
    "identities of no name": [('identities = ["key:ops-1"]', 'identities = [""]')],
    "identities text": [('identities = ["key:ops-1"]', 'identities = "key:ops-1"')],
    "revocations absent": [("[revocations]", "[revocation]")],
    "updated_at absent": [("updated_at = 2026-11-22T12:00:00+00:00", "")],
    "updated_at without an offset": [("updated_at = 2026-11-22T12:00:00+00:00", "updated_at = 2026-11-22T12:00:00")],
    "max age absent": [("max_age_seconds = 2592000", "")],
    "max age zero": [("max_age_seconds = 2592000", "max_age_seconds = 0")],
    "max age beyond ten years": [("max_age_seconds = 2592000", "max_age_seconds = 316224001")],
    "max age infinite": [("max_age_seconds = 2592000", "max_age_seconds = inf")],
    "max age true": [("max_age_seconds = 2592000", "max_age_seconds = true")],
    "artifacts text": [("artifacts = []", f'artifacts = "sha256:{HEX}"')],
    "artifacts of a malformed digest": [("artifacts = []", f'artifacts = ["{HEX}"]')],
    "artifacts of a number": [("artifacts = []", "artifacts = [1]")],
    "artifacts by blake3, which would match nothing": [("artifacts = []", f'artifacts = ["blake3:{HEX}"]')],
    "signers a table": [("signers = []", "signers = {}")],
    "signer of text": [("signers = []", 'signers = ["email:a@b"]')],
    "signer of nothing": [("signers = []", "signers = [{}]")],
    "signer by both": [("signers = []", f'signers = [{{identity = "email:a@b", key = "sha256:{HEX}"}}]')],
    "signer with an unknown member": [("signers = []", 'signers = [{identity = "email:a@b", until = "never"}]')],
    "signer by a blake3 key": [("signers = []", f'signers = [{{key = "blake3:{HEX}"}}]')],
    "signer by an empty identity": [("signers = []", 'signers = [{identity = ""}]')],
    "signer from text": [("signers = []", 'signers = [{identity = "email:a@b", from = "2026"}]')],
}


@pytest.mark.parametrize("name", WRONG)
def test_a_policy_is_refused_with(name):
    assert refusal(changed(*WRONG[name]))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"\xff",
        VALID.encode() + b"\xff",
        VALID.encode("utf-16"),
        b"\xef\xbb\xbf" + VALID.encode(),
        VALID + VALID,
        VALID + "\nversion = 2",
        "x = " + "[" * 50_000,
        "x = " + "{a=" * 50_000,
        "version = " + "9" * 5000,
        "expires = 2027-02-30T00:00:00Z",
        "a = 1\na = 2",
    ],
    ids=lambda text: ascii(text[:20]),
)
def test_a_policy_is_refused_that_is_not_toml(text):
    assert refusal(text)


def test_a_policy_without_rules_is_refused():
    assert "rules" in refusal(policy_toml(OPS, rules=[]))
    assert "at least one" in refusal(
        policy_toml(OPS, rules=["rules = []"])
        .replace("[authorities", "rules = []\n[authorities", 1)
        .replace("\nrules = []\n[revocations]", "\n[revocations]")
    )


def test_a_policy_too_big_is_refused_before_it_is_read(monkeypatch):
    monkeypatch.setattr(trust, "MAX_POLICY_BYTES", len(VALID) - 1)

    assert "the limit is" in refusal(VALID)


@pytest.mark.parametrize(
    "pinned", [{"a": KEY, "b": KEY}, {"a": OTHER_KEY, "b": KEY, "c": OTHER_KEY}], ids=["next to it", "apart"]
)
def test_one_key_under_two_names_is_refused(pinned):
    # Otherwise the order of lines would decide which name signs, and which not_after holds.
    assert "twice" in refusal(policy_toml(key_authority("ops", pinned), allow={"ops": ["key:a"]}))


def test_two_keys_under_one_name_are_refused():
    text = policy_toml(key_authority("ops", {"a": KEY, "b": OTHER_KEY}), allow={"ops": ["key:a"]})

    assert "twice" in refusal(text.replace('name = "b"', 'name = "a"'))


def test_a_key_on_a_curve_nobody_knows_is_refused():
    # secp112r1: the library raises UnsupportedAlgorithm, which is no ValueError.
    pem = (
        "-----BEGIN PUBLIC KEY-----\nMDIwEAYHKoZIzj0CAQYFK4EEAAYDHgAE2qbnLwPBH3iBZsXqB1mGTyaAzVPXd2F6\n"
        "3SCBAg==\n-----END PUBLIC KEY-----\n"
    )
    assert "not a public key" in refusal(policy_toml(key_authority("ops", {"a": pem}), allow={"ops": ["key:a"]}))


def test_a_root_of_a_version_that_is_not_is_refused():
    import base64

    version = b"\xa0\x03\x02\x01"
    der = base64.b64decode("".join(CHAIN.root_pem.splitlines()[1:-1])).replace(version + b"\x02", version + b"\x12", 1)
    pem = f"-----BEGIN CERTIFICATE-----\n{base64.b64encode(der).decode()}\n-----END CERTIFICATE-----\n"

    assert "no certificate" in refusal(policy_toml(certificate_authority("pki", pem), allow={"pki": ["email:a@b"]}))


def test_a_key_on_a_curve_oms_does_not_name_is_refused():
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256K1())

    assert "P-256" in refusal(policy_toml(key_authority("ops", {"a": key}), allow={"ops": ["key:a"]}))


# Rules


def test_the_first_rule_that_names_the_repository_decides():
    parsed = policy(
        OPS,
        PKI,
        rules=[
            rule(["acme/secret"], {"ops": ["key:ops-1"]}),
            rule(["acme/*", "other/x"], {"pki": ["email:a@b"]}),
            rule(["*/*"], {"ops": ["key:ops-1"]}),
        ],
    )

    assert [entry.authority for entry in parsed.allowed_for("acme/secret")] == ["ops"]
    assert [entry.authority for entry in parsed.allowed_for("acme/public")] == ["pki"]
    assert [entry.authority for entry in parsed.allowed_for("other/x")] == ["pki"]
    assert [entry.authority for entry in parsed.allowed_for("other/y")] == ["ops"]


def test_a_repository_no_rule_names_has_nobody():
    parsed = trust.parse(VALID.encode())

    assert parsed.allowed_for("evil/llama") == ()
    assert parsed.allowed_for("acme/llama/x") == ()
    assert parsed.allowed_for("") == ()


def test_no_identity_matches_an_empty_list():
    assert not trust.Allowed("ops", ()).names("key:ops-1")


# Freshness

FRESH = policy(
    OPS,
    allow={"ops": ["key:ops-1"]},
    expires=NOW + timedelta(days=10),
    updated_at=NOW - timedelta(hours=1),
    max_age_seconds=86400,
)


@pytest.mark.parametrize("after", [timedelta(0), timedelta(hours=23), -timedelta(hours=1, minutes=5)])
def test_a_fresh_policy_is_used(after):
    FRESH.require_fresh(NOW + after)


@pytest.mark.parametrize(
    ("after", "says"),
    [
        (timedelta(days=10), "expired"),
        (timedelta(days=3650), "expired"),
        (timedelta(hours=23, seconds=1), "revocation list is from"),
        (-timedelta(hours=1, minutes=5, seconds=1), "future"),
        (-timedelta(days=3650), "future"),
    ],
)
def test_step_6_refuses_a_policy_that_is_not_fresh(after, says):
    with pytest.raises(StaleTrust, match=says):
        FRESH.require_fresh(NOW + after)


# Fuzzing


@bounded
@given(st.binary(max_size=300))
def test_any_bytes_are_a_policy_or_misconfigured(raw):
    assert_value_or_refusal(trust.parse, raw)


TOML_VALUES = st.sampled_from(
    ["1", "-1", "true", "1.5", "inf", "nan", '""', '"x"', "[]", "{}", "[[]]", "[{}]", '[""]', "2026-01-01", "12:00:00",
     "2026-01-01T00:00:00Z", "2026-01-01T00:00:00", "0001-01-01T00:00:00+10:00", "9999-12-31T23:59:59-10:00", "0x10", "'\u00e9'", "{a.b = 1}"]
)  # fmt: skip


@bounded
@given(st.integers(0, 40), TOML_VALUES)
def test_any_value_anywhere_is_a_policy_or_misconfigured(line, value):
    lines = VALID.splitlines()
    assignments = [at for at, text in enumerate(lines) if " = " in text]
    at = assignments[line % len(assignments)]
    lines[at] = lines[at].partition(" = ")[0] + " = " + value
    assert_value_or_refusal(trust.parse, "\n".join(lines).encode())


@bounded
@given(st.sampled_from(["name", "pem", "authority", "identities", "identity", "key", "from"]), TOML_VALUES)
def test_any_value_in_an_inline_table_is_a_policy_or_misconfigured(member, value):
    text = VALID.replace("signers = []", 'signers = [{identity = "x", from = 2026-01-01T00:00:00Z}]')
    start = text.find(f"{member} = ")
    if start >= 0:
        end = min(at for at in (text.find(",", start), text.find("}", start)) if at > 0)
        text = text[:start] + f"{member} = {value}" + text[end:]
    assert_value_or_refusal(trust.parse, text.encode())


def test_a_damaged_policy_is_a_policy_or_misconfigured():
    for raw in mutations(VALID.encode()):
        assert_value_or_refusal(trust.parse, raw)
