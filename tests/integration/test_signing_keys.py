"""Keys that never leave their token or KMS sign real pushes: real CLI, real registry, SoftHSM 2, KMS over HTTP."""

import json
import os
import shlex
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from contract.signer_suite import issue_for
from modelreg import cli as modelreg_cli
from modelreg import key_uris, kms_signer, pkcs11_signer, pki, signing
from modelreg.errors import Forbidden, Misconfigured, NotFound, SignatureInvalid, Unauthenticated, Unreachable
from support import kms as kms_support
from support import signed, softhsm
from support.keys import CURVES, public_pem
from support.policies import certificate_authority, key_authority, policy_toml, rule
from support.registry import cli, running_registry

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    with running_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def trust_key(registry):
    """Have the registry, and whoever pulls, trust this public key for `demo/*`, beside the PKI's certificates."""

    def trust(public_key):
        pem = public_pem(public_key)
        authorities = certificate_authority("pki", registry.trust.root), key_authority("ops", {"hsm": pem})
        allow = rule(["demo/*"], {"pki": ["email:*@demo.example"], "ops": ["key:hsm"]})
        text = policy_toml(
            *authorities, rules=[allow], expires=NOW + timedelta(days=9), updated_at=NOW - timedelta(days=1)
        )
        registry.trust.policy_path.write_text(text)
        return pem

    return trust


@pytest.fixture
def certify(registry, tmp_path):
    """A chain file for a public key, issued by the registry's PKI."""

    def certify(public_key):
        from cryptography import x509

        names = [x509.RFC822Name("release@demo.example")]
        # The reference checks a chain at the time its leaf begins: it may not begin before its issuers.
        start = registry.trust.intermediate.certificate.not_valid_before_utc
        leaf = issue_for(public_key, registry.trust.intermediate, names=names, start=start, end=NOW + timedelta(days=9))
        path = tmp_path / "chain.pem"
        path.write_bytes(pki.certificate_pem(leaf) + pki.certificate_pem(registry.trust.intermediate.certificate))
        return path

    return certify


@pytest.fixture
def user(registry, tmp_path, softhsm):
    """Runs the real CLI with a new home and without a key of its own."""
    env = {**registry.environment(tmp_path / "home"), **softhsm.environment, **kms_support.credentials()}
    del env["MODELREG_KEY"], env["MODELREG_CERTIFICATE"]

    def run(*arguments, expect=0, **changes):
        done = cli(*arguments, env={**env, **changes}, stdin=subprocess.DEVNULL)
        assert done.returncode == expect, (arguments, done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        assert softhsm_pin() not in done.stdout + done.stderr
        return done

    return run


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "weights.bin").write_bytes(os.urandom(100_000))
    return folder


def softhsm_pin():
    return softhsm.PIN


def model_signing(*arguments):
    command = [Path(sys.executable).with_name("model_signing"), "verify", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout


def pulled_and_verified(user, tmp_path, reference):
    """The folder after `pull` and `verify`, with the signature in it."""
    out = tmp_path / "out"
    user("pull", reference, "--output", out)
    user("verify", out, "--repository", reference.partition(":")[0])
    return out


def public_key_of(uri):
    key = pkcs11_signer.open_key(key_uris.parse(uri), softhsm_pin())
    key.close()
    return key.public_key


@pytest.fixture
def pin_file(tmp_path):
    path = tmp_path / "pin"
    path.touch(0o600)
    path.write_text(softhsm_pin() + "\n")
    return path


def published(registry):
    return [event.artifact for event in registry.whole_log() if event.type == "artifact.published"]


# A PKCS#11 token


@pytest.mark.parametrize("curve", CURVES)
def test_a_key_in_a_token_signs_a_push_by_the_key_method(user, softhsm, trust_key, model, tmp_path, pin_file, curve):
    uri = softhsm.make_key(curve)
    public = tmp_path / "public.pem"
    public.write_text(trust_key(public_key_of(uri)))

    user("push", model, "demo/token:v1", "--key", f"{uri}&pin-source={pin_file}")

    out = pulled_and_verified(user, tmp_path, "demo/token:v1")
    model_signing("key", out, "--signature", out / "model.sig", "--public_key", public)


@pytest.mark.parametrize("curve", ["p256", "p384"])
def test_a_key_in_a_token_signs_a_push_by_the_certificate_method(user, softhsm, trust_key, certify, registry, model, tmp_path, curve):  # fmt: skip
    uri = softhsm.make_key(curve)
    public_key = public_key_of(uri)
    trust_key(public_key)
    root = tmp_path / "root.pem"
    root.write_bytes(pki.certificate_pem(registry.trust.root.certificate))

    user(
        "push",
        model,
        "demo/token:v1",
        "--key",
        uri,
        "--certificate",
        certify(public_key),
        MODELREG_PKCS11_PIN=softhsm_pin(),
    )

    out = pulled_and_verified(user, tmp_path, "demo/token:v1")
    model_signing("certificate", out, "--signature", out / "model.sig", "--certificate_chain", root)
    shown = json.loads(user("show", "demo/token:v1", "--json").stdout)
    assert [row["identity"] for row in shown["signatures"]] == ["email:release@demo.example"]


def test_the_key_can_be_named_in_the_environment_and_is_shown_as_typed(user, softhsm, trust_key, model, pin_file):
    uri = f"{softhsm.make_key()}&pin-source={pin_file}"
    trust_key(public_key_of(uri))

    user("push", model, "demo/token:v2", MODELREG_KEY=uri)

    assert uri in user("config", "show", MODELREG_KEY=uri).stdout


def test_a_wrong_pin_is_tried_exactly_once(user, softhsm, model, tmp_path):
    """pkcs11-spy stands between and writes down every call."""
    uri = softhsm.make_key()
    spied = uri.replace(str(softhsm.module), str(softhsm.spy))
    calls = tmp_path / "calls"
    spy = {"PKCS11SPY": str(softhsm.module), "PKCS11SPY_OUTPUT": str(calls)}

    done = user("push", model, "demo/token:v3", "--key", spied, MODELREG_PKCS11_PIN="0000-wrong", expect=1, **spy)

    assert "the PIN for the token 'release keys; 50%' is wrong. It was tried once" in done.stderr
    assert "0000-wrong" not in done.stdout + done.stderr
    assert calls.read_text().count("C_Login\n") == 1
    # The token still opens with the right one.
    assert public_key_of(uri)


def test_a_right_pin_is_given_exactly_once(user, softhsm, trust_key, model, tmp_path):
    uri = softhsm.make_key()
    trust_key(public_key_of(uri))
    calls = tmp_path / "calls"
    spy = {"PKCS11SPY": str(softhsm.module), "PKCS11SPY_OUTPUT": str(calls)}

    user("push", model, "demo/token:v3", "--key", uri.replace(str(softhsm.module), str(softhsm.spy)), MODELREG_PKCS11_PIN=softhsm_pin(), **spy)  # fmt: skip

    text = calls.read_text()
    assert (text.count("C_Login\n"), text.count("C_Sign\n")) == (1, 2)  # C_Sign twice: its first call asks for the size


def test_without_a_pin_and_without_a_terminal_the_token_is_not_touched(user, softhsm, model):
    done = user("push", model, "demo/token:v4", "--key", softhsm.make_key(), expect=1)
    assert "no PIN for the token: add pin-source=FILE" in done.stderr


def test_at_a_terminal_the_pin_is_asked_for_and_not_shown(registry, softhsm, trust_key, model, tmp_path):
    """`script` gives the real CLI a terminal of its own."""
    uri = softhsm.make_key()
    trust_key(public_key_of(uri))
    command = [sys.executable, "-m", "modelreg.cli", "push", str(model), "demo/token:v5", "--key", uri]
    env = {**registry.environment(tmp_path / "home"), **softhsm.environment}
    del env["MODELREG_KEY"], env["MODELREG_CERTIFICATE"]
    terminal = subprocess.Popen(
        ["script", "-qec", shlex.join(command), "/dev/null"], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    shown = b""
    while b"(one try): " not in shown:
        block = os.read(terminal.stdout.fileno(), 1000)
        assert block, shown
        shown += block
    rest, _ = terminal.communicate(softhsm_pin().encode() + b"\n", timeout=120)

    assert terminal.returncode == 0, shown + rest
    assert b"published demo/token@sha256:" in rest
    assert softhsm_pin().encode() not in shown + rest


def test_a_pin_in_the_uri_is_refused_before_anything_else(user, softhsm, model):
    done = user("push", model, "demo/token:v4", "--key", f"{softhsm.make_key()}&pin-value={softhsm_pin()}", expect=1)
    assert "histories" in done.stderr
    user("config", "show", MODELREG_KEY=f"{softhsm.make_key()}&pin-value={softhsm_pin()}", expect=1)


def test_a_certificate_of_another_key_signs_nothing(user, softhsm, certify, model):
    chain = certify(ec.generate_private_key(ec.SECP256R1()).public_key())
    done = user("push", model, "demo/token:v4", "--key", softhsm.make_key(), "--certificate", chain, expect=1, MODELREG_PKCS11_PIN=softhsm_pin())  # fmt: skip
    assert "is not the signing key's" in done.stderr


def test_a_token_with_another_keys_public_half_makes_no_bundle(user, softhsm, model, registry):
    uri, other = softhsm.make_key(label="mixed up"), softhsm.make_key()
    softhsm.replace_public_half(uri, other)
    before = published(registry)

    done = user("push", model, "demo/token:v4", "--key", uri, MODELREG_PKCS11_PIN=softhsm_pin(), expect=13)

    assert "does not confirm; nothing was signed" in done.stderr
    assert published(registry) == before


def open_here(uri):
    return pkcs11_signer.open_key(key_uris.parse(uri), softhsm_pin())


def test_of_two_keys_with_one_label_none_is_guessed(softhsm):
    first, second = (
        softhsm.make_key(label="twins", key_id=b"\x0a\x01"),
        softhsm.make_key(label="twins", key_id=b"\x0a\x02"),
    )
    with pytest.raises(Misconfigured, match="2 private keys") as refused:
        open_here(softhsm.uri(object="twins"))
    assert "id=%0a%01, id=%0a%02" in refused.value.detail
    points = {open_here(uri).public_key.public_numbers().x for uri in (first, second)}
    assert len(points) == 2
    assert open_here(softhsm.uri(id=b"\x0a\x02")).public_key == open_here(second).public_key


def test_a_key_is_found_by_its_label_or_its_id_alone_and_its_token_by_serial(softhsm):
    import pkcs11

    uri = softhsm.make_key(label="one name", key_id=b"\x0b")
    slots = pkcs11.lib(str(softhsm.module)).get_slots(token_present=True)
    serial = next(slot.get_token().serial for slot in slots if slot.get_token().label == softhsm_token()).decode()
    same = [softhsm.uri(object="one name"), softhsm.uri(id=b"\x0b"), softhsm.uri(id=b"\x0b", serial=serial)]
    assert {open_here(each).public_key.public_numbers().x for each in [uri, *same]} == {
        open_here(uri).public_key.public_numbers().x
    }


def softhsm_token():
    return softhsm.TOKEN


@pytest.mark.parametrize(
    ("make", "kind", "sentence"),
    [
        (lambda hsm: hsm.uri(object="nobody"), NotFound, "no private key of the label and id"),
        (lambda hsm: hsm.uri(id=b"\xff\xff"), NotFound, "no private key of the label and id"),
        (lambda hsm: hsm.uri(token="absent", object="x"), NotFound, r"the tokens of .* are: .*'release keys; 50%'"),
        (lambda hsm: hsm.uri(serial="1", object="x"), NotFound, "a token that is not there"),
        (lambda hsm: hsm.uri(token=softhsm.TWIN, object="x"), Misconfigured, "2 tokens match the key's URI; add serial"),
        (lambda hsm: hsm.uri(module=Path("/no/such.so"), object="x"), Misconfigured, "there is no PKCS#11 library at"),
        (lambda hsm: hsm.uri(module=hsm.configuration, object="x"), Misconfigured, "cannot be used: PKCS11Error"),
        (lambda hsm: hsm.make_rsa_key("rsa"), Misconfigured, "the key in the token is RSA; only ECDSA"),
        (lambda hsm: hsm.make_key("secp256k1"), Misconfigured, "on another curve"),
        (lambda hsm: hsm.make_key(SIGN=False, DERIVE=True), Misconfigured, "CKA_SIGN is false"),
        (lambda hsm: hsm.make_key(public=False), NotFound, "no public keys beside the private one"),
    ],
)  # fmt: skip
def test_a_token_or_key_that_does_not_fit_is_said_with_its_reason(softhsm, make, kind, sentence):
    with pytest.raises(kind, match=sentence) as refused:
        open_here(make(softhsm))
    assert softhsm_pin() not in str(refused.value)


def test_neither_pin_nor_session_is_shown_by_an_open_key(softhsm):
    key = open_here(softhsm.make_key(ALWAYS_AUTHENTICATE=True))
    assert softhsm_pin() not in repr(key)


@pytest.mark.parametrize(
    ("locked", "last_try", "sentence"), [(True, False, "is locked"), (False, True, "locks with the next")]
)
def test_a_token_that_would_lock_is_left_alone(locked, last_try, sentence):
    with pytest.raises(Misconfigured, match=sentence):
        pkcs11_signer.refuse_last_try("'t'", locked=locked, last_try=last_try)
    pkcs11_signer.refuse_last_try("'t'", locked=False, last_try=False)


@pytest.mark.parametrize("raw", [b"", b"\n", b"\r\n", b"a\nb", b"x" * 256, b"x" * 5000, b"\xff", b"a\0b"])
def test_a_pin_file_that_holds_no_pin_uses_up_no_try(tmp_path, raw):
    path = tmp_path / "pin"
    path.write_bytes(raw)
    path.chmod(0o600)
    with pytest.raises(Misconfigured) as refused:
        pkcs11_signer.read_pin(path)
    assert str(path) in refused.value.detail


def test_a_pin_file_is_for_its_owner_and_group(tmp_path, pin_file):
    assert pkcs11_signer.read_pin(pin_file) == softhsm_pin()
    pin_file.chmod(0o440)
    assert pkcs11_signer.read_pin(pin_file) == softhsm_pin()
    for mode in (0o644, 0o604, 0o602, 0o601):
        pin_file.chmod(mode)
        with pytest.raises(Misconfigured, match="chmod o="):
            pkcs11_signer.read_pin(pin_file)
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path, reason in (
        (tmp_path, "is not a file|Is a directory"),
        (tmp_path / "pipe", "is not a file"),
        (tmp_path / "no", "No such file"),
    ):
        with pytest.raises(Misconfigured, match=reason):
            pkcs11_signer.read_pin(path)


# A KMS


@pytest.fixture
def own_kms(monkeypatch):
    for name, value in kms_support.credentials().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(kms_signer, "READ_SECONDS", 1)
    monkeypatch.setattr(kms_signer, "TRIES", 1)
    with kms_support.own_kms() as server:
        yield server


def test_a_key_in_a_kms_signs_pushes_by_both_methods(user, own_kms, trust_key, certify, model, tmp_path):
    arn = own_kms.make_key("p384")
    own_kms.aliases["alias/release"] = arn
    uri = own_kms.uri("alias/release")
    public_key = own_kms.keys[arn].private_key.public_key()
    public = tmp_path / "public.pem"
    public.write_text(trust_key(public_key))

    user("push", model, "demo/kms:v1", "--key", uri)
    out = pulled_and_verified(user, tmp_path, "demo/kms:v1")
    model_signing("key", out, "--signature", out / "model.sig", "--public_key", public)
    user("push", model, "demo/certified:v1", "--key", uri, "--certificate", certify(public_key))

    shown = [
        json.loads(user("show", name, "--json").stdout)["signatures"] for name in ("demo/kms:v1", "demo/certified:v1")
    ]
    assert [[row["identity"] for row in rows] for rows in shown] == [["key:hsm"], ["email:release@demo.example"]]
    assert [name for name, _ in own_kms.operations] == ["GetPublicKey", "Sign"] * 2


def test_the_key_itself_signs_even_if_its_alias_moves_meanwhile(own_kms):
    arn = own_kms.make_key()
    own_kms.aliases["alias/release"] = arn
    key = kms_signer.open_key(key_uris.parse(own_kms.uri("alias/release")))
    own_kms.aliases["alias/release"] = own_kms.make_key()

    signed.sign(signing.KeySigner(key))

    assert own_kms.operations[-1][1]["KeyId"] == arn


def test_a_kms_that_hashes_the_digest_again_makes_no_bundle(own_kms):
    key = kms_signer.open_key(
        key_uris.parse(own_kms.uri(own_kms.make_key(quirks={"Sign": kms_support.Quirk.HASHES_AGAIN})))
    )
    with pytest.raises(SignatureInvalid, match="signs a digest as it is"):
        signed.sign(signing.KeySigner(key))


REFUSALS = [
    ((400, "NotFoundException"), NotFound, "no such key"),
    ((400, "AccessDeniedException"), Forbidden, "kms:GetPublicKey and kms:Sign"),
    ((400, "ExpiredTokenException"), Unauthenticated, "expired"),
    ((400, "DisabledException"), Misconfigured, "disabled"),
    ((400, "KMSInvalidStateException"), Misconfigured, "before its deletion"),
    ((400, "ThrottlingException"), Unreachable, "ThrottlingException"),
    ((500, "KMSInternalException"), Unreachable, "KMSInternalException"),
    ((500, "DependencyTimeoutException"), Unreachable, "DependencyTimeoutException"),
]


@pytest.mark.parametrize(("refusal", "kind", "sentence"), REFUSALS, ids=lambda v: str(v)[:40])
@pytest.mark.parametrize("operation", ["GetPublicKey", "Sign"])
def test_a_refusal_of_the_kms_is_said_with_its_reason(own_kms, operation, refusal, kind, sentence):
    uri = key_uris.parse(own_kms.uri(own_kms.make_key(refusals={operation: refusal})))
    with pytest.raises(kind, match=sentence):
        signed.sign(signing.KeySigner(kms_signer.open_key(uri)))


@pytest.mark.parametrize("quirk", [kms_support.Quirk.SILENT, kms_support.Quirk.GARBAGE, kms_support.Quirk.EMPTY])
@pytest.mark.parametrize("operation", ["GetPublicKey", "Sign"])
def test_a_kms_without_a_useful_answer_is_unreachable(own_kms, operation, quirk):
    uri = key_uris.parse(own_kms.uri(own_kms.make_key(quirks={operation: quirk})))
    with pytest.raises(Unreachable, match="does not answer usefully"):
        signed.sign(signing.KeySigner(kms_signer.open_key(uri)))


def test_a_kms_that_is_not_there_is_unreachable(own_kms):
    with pytest.raises(Unreachable):
        kms_signer.open_key(key_uris.parse("awskms:///k?region=eu-central-1&endpoint=http://127.0.0.1:1"))


def test_a_kms_key_that_does_not_sign_is_refused(own_kms):
    for more, sentence in (
        ({"usage": "KEY_AGREEMENT"}, "not for signing"),
        ({"private_key": rsa.generate_private_key(65537, 2048)}, "only ECDSA"),
        ({"private_key": ec.generate_private_key(ec.SECP256K1())}, "only ECDSA"),
    ):
        with pytest.raises(Misconfigured, match=sentence):
            kms_signer.open_key(key_uris.parse(own_kms.uri(own_kms.make_key(**more))))


def test_credentials_and_region_are_asked_for_by_name(own_kms, monkeypatch):
    uri = own_kms.uri(own_kms.make_key())
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(Misconfigured, match=r"add \?region="):
        kms_signer.open_key(key_uris.parse(f"awskms:///some-id?endpoint={own_kms.endpoint}"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAANOTHER")
    with pytest.raises(Unauthenticated, match="does not know these credentials"):
        kms_signer.open_key(key_uris.parse(uri))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(Unauthenticated, match="there are no credentials"):
        kms_signer.open_key(key_uris.parse(uri))


# Without the extras


@pytest.mark.parametrize(
    ("package", "uri", "extra"),
    [
        ("pkcs11", "pkcs11:token=t;id=%01?module-path=/m.so", "modelreg[pkcs11]"),
        ("boto3", "awskms:///k?region=eu-central-1", "modelreg[kms]"),
    ],
)
def test_a_missing_extra_is_named(monkeypatch, capsys, model, tmp_path, package, uri, extra):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setenv("MODELREG_PKCS11_PIN", softhsm_pin())
    monkeypatch.setenv("MODELREG_TOKEN", "mrg_api_x")
    code = modelreg_cli.main(["push", str(model), "demo/m", "--key", uri, "--registry", "http://127.0.0.1:1"])
    assert (code, f"pip install '{extra}'" in capsys.readouterr().err) == (1, True)
