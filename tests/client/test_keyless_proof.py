"""Bundles of a real (local) Sigstore through our verification: what holds, and every way it does not."""

import base64
import copy
import dataclasses
import hashlib
import json
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from modelreg import bundles, keyless, signing, trust
from modelreg.errors import Misconfigured, Revoked, SignatureInvalid, SignerNotAllowed, Untrusted
from support import keys, signed
from support.policies import certificate_authority, key_authority, policy, policy_toml, sigstore_authority
from support.sigstore_ca import ISSUER_OID, ISSUER_V2_OID, CtLog, b64, issuer_extensions, make_authority, spki
from support.sigstore_local import running_sigstore

SIGNER = "email:al@acme.example"


@pytest.fixture(scope="module")
def sigstore(tmp_path_factory):
    with running_sigstore(tmp_path_factory.mktemp("sigstore")) as running:
        yield running


@pytest.fixture(scope="module")
def other_sigstore(tmp_path_factory):
    with running_sigstore(tmp_path_factory.mktemp("other")) as running:
        yield running


def sign(sigstore, payload=signed.PAYLOAD, **claims):
    token = sigstore.oidc.token(**(claims or {"email": "al@acme.example"}))
    signer = keyless.load_keyless(sigstore.trust_config, None, {keyless.TOKEN_VARIABLE: token})
    return signing.sign(payload, signer)


@pytest.fixture(scope="module")
def raw(sigstore):
    return sign(sigstore)


def trusting(sigstore, *identities, root=None, issuer=None, **more):
    """A policy of today that allows these signers of this Sigstore (or with another root or issuer)."""
    now = datetime.now(UTC)
    authority = sigstore_authority("private", root or sigstore.trusted_root, issuer or sigstore.issuer)
    arguments = {
        "allow": {"private": identities or [SIGNER]},
        "expires": now + timedelta(days=4000),
        "updated_at": now - timedelta(days=1),
        "max_age_seconds": 3000 * 86400,
    }
    return policy(authority, **(arguments | more))


def verify(raw_bundle, trusted, **changes):
    return signed.verify(raw_bundle, trusted, **({"now": datetime.now(UTC)} | changes))


def certificate_of(raw_bundle):
    return x509.load_der_x509_certificate(bundles.parse(raw_bundle).certificates[0])


def entry_of(bundle):
    return bundle["verificationMaterial"]["tlogEntries"][0]


# What holds


def test_a_keyless_signature_holds_with_its_signer(sigstore, raw):
    verified = verify(raw, trusting(sigstore))

    assert (verified.signer.authority, verified.signer.identity) == ("private", SIGNER)
    assert bundles.parse(raw).payload == signed.PAYLOAD
    assert verified.signer.key_ids[0] == trust.key_id_of(certificate_of(raw).public_key())


def test_a_workload_is_a_uri_and_matches_a_glob(sigstore):
    raw = sign(sigstore, subject="spiffe://acme.example/ns/train/sa/llama")

    assert verify(raw, trusting(sigstore, "uri:spiffe://acme.example/ns/train/sa/*")).signer.identity == (
        "uri:spiffe://acme.example/ns/train/sa/llama"
    )
    with pytest.raises(SignerNotAllowed):
        verify(raw, trusting(sigstore, "uri:spiffe://acme.example/*"))  # a star ends at a slash


def test_a_leaf_of_ten_minutes_still_holds_years_later(sigstore, raw):
    later = datetime.now(UTC) + timedelta(days=2000)
    assert certificate_of(raw).not_valid_after_utc < later - timedelta(days=1999)

    assert verify(raw, trusting(sigstore), now=later).signer.identity == SIGNER


def test_two_sigstores_and_a_pki_stand_side_by_side(sigstore, other_sigstore, raw):
    chain = keys.make_chain(now=datetime.now(UTC))
    now = datetime.now(UTC)
    trusted = policy(
        sigstore_authority("one", sigstore.trusted_root, sigstore.issuer),
        sigstore_authority("two", other_sigstore.trusted_root, other_sigstore.issuer),
        certificate_authority("pki", chain),
        allow={"pki": ["email:*@acme.example"], "one": [SIGNER], "two": [SIGNER]},
        expires=now + timedelta(days=1),
        updated_at=now,
    )

    assert verify(raw, trusted).signer.authority == "one"
    assert verify(sign(other_sigstore), trusted).signer.authority == "two"


def test_a_bundle_we_wrote_anew_is_the_same_bundle(raw):
    assert bundles.serialise(bundles.parse(raw)) == raw


# Who signed


def test_a_wrong_identity_is_not_allowed(sigstore, raw):
    with pytest.raises(SignerNotAllowed, match=r"signed by email:al@acme\.example"):
        verify(raw, trusting(sigstore, "email:bo@acme.example", "uri:al@acme.example", "dns:al@acme.example"))


@pytest.mark.parametrize("wrong", ["https://oidc.elsewhere.example", "prefix", "suffix"])
def test_a_wrong_issuer_is_not_allowed(sigstore, raw, wrong):
    issuer = {"prefix": sigstore.issuer[:-1], "suffix": sigstore.issuer + "/"}.get(wrong, wrong)

    with pytest.raises(SignerNotAllowed, match="takes those of"):
        verify(raw, trusting(sigstore, issuer=issuer))


@pytest.mark.parametrize(
    "stated",
    [
        lambda url: [],
        lambda url: [(ISSUER_OID, b"https://elsewhere.example"), issuer_extensions(url)[1]],
        lambda url: [issuer_extensions(url)[0], (ISSUER_V2_OID, keys.der_element(0x0C, b"https://elsewhere.example"))],
    ],
    ids=["no issuer", "another in the old extension", "another in the new extension"],
)
def test_a_certificate_that_does_not_name_one_issuer_is_not_allowed(sigstore, monkeypatch, stated):
    monkeypatch.setattr(sigstore.fulcio, "extensions", stated)

    with pytest.raises(SignerNotAllowed):
        verify(sign(sigstore), trusting(sigstore))


def test_an_issuer_extension_that_is_no_text_is_invalid(sigstore, monkeypatch):
    monkeypatch.setattr(sigstore.fulcio, "extensions", lambda url: [(ISSUER_V2_OID, b"\x0c\x80\xff")])

    with pytest.raises(SignatureInvalid):
        verify(sign(sigstore), trusting(sigstore))


@pytest.mark.parametrize("at", [0, 1])
def test_either_issuer_extension_is_enough(sigstore, monkeypatch, at):
    monkeypatch.setattr(sigstore.fulcio, "extensions", lambda url: [issuer_extensions(url)[at]])

    assert verify(sign(sigstore), trusting(sigstore)).signer.identity == SIGNER


# Tampering


def change_text(text):
    """Another base64 text of the same length."""
    return ("B" if text[0] == "A" else "A") + text[1:]


def tampered_payload(bundle):
    envelope = bundle["dsseEnvelope"]
    envelope["payload"] = b64(signed.changed_payload(lambda members: members["subject"][0].update(name="other")))


def tampered_checkpoint(bundle):
    checkpoint = entry_of(bundle)["inclusionProof"]["checkpoint"]
    head, _, note = checkpoint["envelope"].partition("\n\n")
    origin, size, root = head.split("\n")
    checkpoint["envelope"] = "\n".join([origin, str(int(size) + 1), root]) + "\n\n" + note


def tampered_body(bundle):
    entry = entry_of(bundle)
    entry["canonicalizedBody"] = change_text(entry["canonicalizedBody"])


def changed_root(bundle):
    proof = entry_of(bundle)["inclusionProof"]
    proof["rootHash"] = change_text(proof["rootHash"])


def material(change):
    return lambda bundle: change(bundle["verificationMaterial"])


TAMPERING = {
    "tampered payload": tampered_payload,
    "tampered signature": lambda bundle: bundle["dsseEnvelope"]["signatures"][0].update(sig=b64(b"0\6\2\1\1\2\1\1")),
    "stripped timestamp": material(lambda members: members.pop("timestampVerificationData")),
    "no stamp in the list": material(lambda members: members.update(timestampVerificationData={})),
    "the same stamp twice": material(
        lambda members: members["timestampVerificationData"].update(
            rfc3161Timestamps=members["timestampVerificationData"]["rfc3161Timestamps"] * 2
        )
    ),
    "changed root hash": changed_root,
    "changed checkpoint": tampered_checkpoint,
    "changed body": tampered_body,
    "no inclusion proof": lambda bundle: entry_of(bundle).pop("inclusionProof"),
    "no checkpoint": lambda bundle: entry_of(bundle)["inclusionProof"].pop("checkpoint"),
    "no log entry": material(lambda members: members.update(tlogEntries=[])),
    "no list of log entries": material(lambda members: members.pop("tlogEntries")),
    "two log entries": material(lambda members: members.update(tlogEntries=members["tlogEntries"] * 2)),
    "a time the log did not sign": lambda bundle: entry_of(bundle).update(
        integratedTime="1", inclusionPromise={"signedEntryTimestamp": b64(b"0" * 70)}
    ),
    "another index": lambda bundle: entry_of(bundle)["inclusionProof"].update(logIndex="99999"),
    "another kind of entry": lambda bundle: entry_of(bundle).update(kindVersion={"kind": "dsse", "version": "0.0.1"}),
    "unknown member of the entry": lambda bundle: entry_of(bundle).update(also="this"),
    "a second signature": lambda bundle: bundle["dsseEnvelope"]["signatures"].append(
        dict(bundle["dsseEnvelope"]["signatures"][0])
    ),
    "another payload type": lambda bundle: bundle["dsseEnvelope"].update(payloadType="text/plain"),
    "another media type": lambda bundle: bundle.update(mediaType="application/vnd.dev.sigstore.bundle+json;version=0.1"),
    "a key beside the certificate": material(lambda members: members.update(publicKey={"hint": "a"})),
    "a message beside the envelope": lambda bundle: bundle.update(messageSignature={"signature": "AAAA"}),
}  # fmt: skip


@pytest.mark.parametrize("name", TAMPERING)
def test_a_tampered_bundle_is_invalid(sigstore, raw, name):
    with pytest.raises(SignatureInvalid):
        verify(signed.changed_bundle(raw, TAMPERING[name]), trusting(sigstore))


def test_the_log_entry_of_another_signature_is_invalid(sigstore, raw):
    another = json.loads(sign(sigstore))

    with pytest.raises(SignatureInvalid):
        verify(
            signed.changed_bundle(
                raw, material(lambda members: members.update(tlogEntries=[entry_of(another)]))
            ),
            trusting(sigstore),
        )  # fmt: skip


def test_the_stamp_of_another_signature_is_invalid(sigstore, raw):
    another = json.loads(sign(sigstore))["verificationMaterial"]["timestampVerificationData"]

    with pytest.raises(SignatureInvalid):
        verify(
            signed.changed_bundle(raw, material(lambda members: members.update(timestampVerificationData=another))),
            trusting(sigstore),
        )


def test_a_stamp_of_somebody_else_alone_is_invalid(sigstore, other_sigstore, raw):
    both = stamped_again(raw, other_sigstore, datetime.now(UTC))
    assert verify(both, trusting(sigstore)).signer.identity == SIGNER

    def only_the_other(members):
        del members["timestampVerificationData"]["rfc3161Timestamps"][0]

    with pytest.raises(SignatureInvalid):
        verify(signed.changed_bundle(both, material(only_the_other)), trusting(sigstore))


def paths_of(value, prefix=()):
    yield prefix
    if isinstance(value, dict):
        for name, item in value.items():
            yield from paths_of(item, (*prefix, name))
    if isinstance(value, list):
        for at, item in enumerate(value):
            yield from paths_of(item, (*prefix, at))


def test_nothing_but_our_errors_comes_out_whatever_stands_in_the_proofs(sigstore):
    # The library lets ValueError, TypeError, KeyError … through; each of these would be a traceback.
    sign(sigstore)  # so that there is a path in the tree
    whole = json.loads(sign(sigstore))
    trusted = trusting(sigstore)
    tried = 0
    for path in paths_of(whole):
        if path[-1:] == ("keyid",):
            continue  # nobody reads it
        for junk in (None, 0, -1, True, 1e300, "", "%", "Ünïcode", "9" * 5000, [], {}, [None], "AAAA", "\u2014\n\n"):
            bundle = {"": copy.deepcopy(whole)}
            holder, *steps = bundle, "", *path
            for step in steps[:-1]:
                holder = holder[step]
            holder[steps[-1]] = junk
            with pytest.raises(Untrusted):
                verify(json.dumps(bundle[""]).encode(), trusted)
            tried += 1
    assert tried > 300


# Other roots


def test_another_sigstore_is_invalid(sigstore, other_sigstore, raw):
    with pytest.raises(SignatureInvalid):
        verify(raw, trusting(sigstore, root=other_sigstore.trusted_root))


def changed_root_of(sigstore, change):
    root = sigstore.trusted_root_json()
    change(root)
    return json.dumps(root)


def swap(name):
    def change(sigstore, other):
        return changed_root_of(sigstore, lambda root: root.update({name: other.trusted_root_json()[name]}))

    return change


@pytest.mark.parametrize("name", ["ctlogs", "tlogs", "timestampAuthorities", "certificateAuthorities"])
def test_a_root_with_one_foreign_part_is_invalid(sigstore, other_sigstore, raw, name):
    with pytest.raises(SignatureInvalid):
        verify(raw, trusting(sigstore, root=swap(name)(sigstore, other_sigstore)))


def test_a_certificate_that_another_ct_log_promised_is_invalid(sigstore, monkeypatch):
    ours = trusting(sigstore)
    foreign = CtLog(sigstore.clock)
    monkeypatch.setattr(sigstore.fulcio, "ct", foreign)
    key = {"rawBytes": b64(spki(foreign.key)), "keyDetails": "PKIX_ECDSA_P256_SHA_256"}
    config = json.loads(sigstore.trust_config.read_text())
    config["trustedRoot"]["ctlogs"][0]["publicKey"].update(key)  # so that signing goes through
    file = sigstore.folder / "foreign.json"
    file.write_text(json.dumps(config))
    token = sigstore.oidc.token(email="al@acme.example")
    raw = signing.sign(signed.PAYLOAD, keyless.load_keyless(file, None, {keyless.TOKEN_VARIABLE: token}))

    assert verify(raw, trusting(sigstore, root=json.dumps(config["trustedRoot"])))
    with pytest.raises(SignatureInvalid, match="SCT"):
        verify(raw, ours)


@pytest.mark.parametrize("name", ["certificateAuthorities", "timestampAuthorities"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_an_authority_that_was_not_in_use_then_is_invalid(sigstore, other_sigstore, raw, name, when):
    # For Fulcio the library does not look at this.
    hour = timedelta(hours=1)
    times = {
        "before": {"start": _text(datetime.now(UTC) - 2 * hour), "end": _text(datetime.now(UTC) - hour)},
        "after": {"start": _text(datetime.now(UTC) + hour)},
    }

    def change(root):
        root[name][0].update(validFor=times[when])
        root[name] += other_sigstore.trusted_root_json()[name]

    root = changed_root_of(sigstore, change)

    with pytest.raises(SignatureInvalid):
        verify(raw, trusting(sigstore, root=root))


def _text(at):
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


# Methods do not mix


def test_a_sigstore_bundle_is_no_certificate_bundle(sigstore, raw):
    # Its chain leads to this root, and the leaf is valid now: the kind alone refuses it, and so it is not looked at.
    root = certificate_authority("pki", sigstore.fulcio.root.certificate)
    trusted = trusting(sigstore)
    now = datetime.now(UTC)
    by_certificate = policy(root, allow={"pki": ["*"]}, expires=now + timedelta(days=1), updated_at=now)

    with pytest.raises(SignatureInvalid, match="carries a certificate; the trust policy does not use that"):
        verify(raw, by_certificate)
    chain = {"certificates": [{"rawBytes": b64(der)} for der in bundles.parse(raw).certificates]}
    respelled = signed.changed_bundle(
        raw, material(lambda members: members.update(x509CertificateChain=chain, certificate=None))
    )
    for bundle in (respelled, signed.changed_bundle(respelled, material(lambda members: members.pop("certificate")))):
        with pytest.raises(SignatureInvalid):
            verify(bundle, trusted)


def test_a_certificate_or_key_bundle_is_no_sigstore_bundle(sigstore, raw):
    now = datetime.now(UTC)
    leaf = keys.make_certificate(
        keys.make_chain(now=now).intermediate,
        names=[x509.RFC822Name("al@acme.example")],
        start=now - timedelta(minutes=1),
    )
    parsed = bundles.parse(raw)
    proofs = {"log_entries": parsed.log_entries, "timestamps": parsed.timestamps}
    for signer in (keys.certificate_signer(leaf), keys.make_key()):
        for bundle in (signed.sign(signer), signed.replaced(signed.sign(signer), **proofs)):
            with pytest.raises(SignatureInvalid, match="the trust policy does not use that"):
                verify(bundle, trusting(sigstore))
    # Nor under the name of the other kind, with somebody's log entry and stamp beside it.
    smuggled = signed.replaced(signed.sign(keys.certificate_signer(leaf)), kind="certificate", **proofs)
    with pytest.raises(SignatureInvalid):
        verify(smuggled, trusting(sigstore))


def test_a_key_bundle_under_a_mixed_policy_does_not_borrow_the_sigstore(sigstore):
    now = datetime.now(UTC)
    trusted = policy(
        sigstore_authority("private", sigstore.trusted_root, sigstore.issuer),
        key_authority("ops", {"ops-1": keys.make_key()}),
        allow={"private": [SIGNER], "ops": ["key:ops-1"]},
        expires=now + timedelta(days=1),
        updated_at=now,
    )

    with pytest.raises(SignatureInvalid):
        verify(signed.sign(keys.make_key()), trusted)


def test_a_fulcio_leaf_alone_makes_no_signature_without_log_and_stamp(sigstore):
    # Whoever holds the short-lived key and its certificate still has to show them.
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    token = sigstore.oidc.token(email="al@acme.example")
    leaf = sigstore.fulcio.issue(token, request.public_bytes(serialization.Encoding.PEM))[0]
    der = leaf.public_bytes(serialization.Encoding.DER)
    signature = signing.KeySigner(key).bundle(signed.PAYLOAD).signature
    raw = bundles.serialise(bundles.Bundle("certificate", signed.PAYLOAD, signature, certificates=(der,)))

    with pytest.raises(SignatureInvalid, match="exactly one log entry"):
        verify(raw, trusting(sigstore))


# Revocation


def fingerprint(certificate):
    return f"sha256:{hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()}"


@pytest.mark.parametrize("what", ["identity", "glob", "key", "leaf", "intermediate", "root", "key of the root"])
def test_a_revoked_signer_is_revoked(sigstore, raw, what):
    leaf = certificate_of(raw)
    entry = {
        "identity": {"identity": SIGNER},
        "glob": {"identity": "email:*@acme.example"},
        "key": {"key": trust.key_id_of(leaf.public_key())},
        "leaf": {"key": fingerprint(leaf)},
        "intermediate": {"key": fingerprint(sigstore.fulcio.intermediate.certificate)},
        "root": {"key": fingerprint(sigstore.fulcio.root.certificate)},
        "key of the root": {"key": trust.key_id_of(sigstore.fulcio.root.certificate.public_key())},
    }[what]

    with pytest.raises(Revoked):
        verify(raw, trusting(sigstore, revoked_signers=[entry]))


def test_a_signer_revoked_from_a_time_on_keeps_what_is_proven_older(sigstore):
    before = datetime.now(UTC).replace(microsecond=0)
    raw = sign(sigstore)
    after = datetime.now(UTC) + timedelta(seconds=1)

    assert verify(raw, trusting(sigstore, revoked_signers=[{"identity": SIGNER, "from": after}]))
    with pytest.raises(Revoked, match="for signatures from"):
        verify(raw, trusting(sigstore, revoked_signers=[{"identity": SIGNER, "from": before}]))


def stamped_again(raw, authority, at):
    """The bundle with a further stamp of this Sigstore's authority, of another time."""
    from rfc3161_client import TimestampRequestBuilder

    request = TimestampRequestBuilder().data(bundles.parse(raw).signature).build().as_bytes()
    tsa = dataclasses.replace(authority.tsa, clock=lambda: at)
    stamp = {"signedTimestamp": b64(tsa.answer(request))}
    return signed.changed_bundle(
        raw, material(lambda members: members["timestampVerificationData"]["rfc3161Timestamps"].append(stamp))
    )


def test_the_latest_of_two_times_decides_whether_a_signature_is_older_than_a_revocation(sigstore):
    raw, now = sign(sigstore), datetime.now(UTC)
    both = stamped_again(raw, sigstore, now + timedelta(minutes=5))  # in the leaf's ten minutes
    since = [{"identity": SIGNER, "from": now + timedelta(minutes=1)}]

    assert verify(raw, trusting(sigstore, revoked_signers=since))
    assert verify(both, trusting(sigstore))
    with pytest.raises(Revoked):
        verify(both, trusting(sigstore, revoked_signers=since))


@pytest.mark.parametrize("since", [None, timedelta(days=1)], ids=["ever", "from tomorrow on"])
@pytest.mark.parametrize("what", ["leaf", "key", "root"])
def test_a_revoked_time_stamping_authority_of_the_sigstore_proves_no_time(sigstore, raw, what, since):
    """Who holds its key sets its clock back at will: no `from` saves its stamps, and a leaf of minutes needs one."""
    leaf, *_, root = _tsa_chain(sigstore)
    entry = {
        "leaf": {"key": fingerprint(leaf)},
        "key": {"key": trust.key_id_of(leaf.public_key())},
        "root": {"key": fingerprint(root)},
    }[what]
    entry |= {"from": datetime.now(UTC) + since} if since else {}

    with pytest.raises(SignatureInvalid, match="no time"):
        verify(raw, trusting(sigstore, revoked_signers=[entry]))


def test_a_revoked_time_stamping_authority_does_no_harm_beside_one_that_is_believed(sigstore, other_sigstore, raw):
    both = stamped_again(raw, other_sigstore, datetime.now(UTC))
    root = changed_root_of(
        sigstore,
        lambda root: root["timestampAuthorities"].extend(other_sigstore.trusted_root_json()["timestampAuthorities"]),
    )
    revoked = [{"key": fingerprint(_tsa_chain(other_sigstore)[0])}]

    assert verify(both, trusting(sigstore, root=root, revoked_signers=revoked)).signer.identity == SIGNER


def _tsa_chain(sigstore):
    """The pinned certificates of the stamping authority, its own first."""
    (authority,) = sigstore.trusted_root_json()["timestampAuthorities"]
    entries = authority["certChain"]["certificates"]
    return [x509.load_der_x509_certificate(base64.b64decode(entry["rawBytes"])) for entry in entries]


@pytest.mark.parametrize("pinned", [False, True], ids=["not pinned", "not in use any more"])
def test_a_later_stamp_of_an_authority_that_does_not_count_is_no_time(sigstore, other_sigstore, pinned):
    raw, now = sign(sigstore), datetime.now(UTC)
    both = stamped_again(raw, other_sigstore, now + timedelta(minutes=5))
    since = [{"identity": SIGNER, "from": now + timedelta(minutes=1)}]
    over = {"start": _text(now - timedelta(hours=2)), "end": _text(now - timedelta(hours=1))}

    def change(root):
        for authority in other_sigstore.trusted_root_json()["timestampAuthorities"] if pinned else []:
            root["timestampAuthorities"].append({**authority, "validFor": over})

    root = changed_root_of(sigstore, change)
    assert verify(both, trusting(sigstore, root=root, revoked_signers=since)).signer.identity == SIGNER


def test_a_stamp_from_outside_the_leafs_life_is_invalid(sigstore):
    clock, sigstore.tsa.clock = sigstore.tsa.clock, lambda: datetime.now(UTC) + timedelta(minutes=11)
    try:
        raw = sign(sigstore)
    finally:
        sigstore.tsa.clock = clock

    with pytest.raises(SignatureInvalid):
        verify(raw, trusting(sigstore))


def test_a_revoked_leaf_in_another_spelling_is_revoked(sigstore, raw):
    # The twin needs no key, the log takes it, and the stamp is over the signature: all that Sigstore checks holds.
    parsed = bundles.parse(raw)
    leaf = certificate_of(raw)
    twin = keys.respelled(leaf)
    body = json.loads(base64.b64decode(parsed.log_entries[0]["canonicalizedBody"]))
    record = body["spec"]["hashedRekordV002"]
    record["signature"]["verifier"]["x509Certificate"]["rawBytes"] = b64(twin)
    entry = sigstore.rekor.add(
        {"hashedRekordRequestV002": {"digest": record["data"]["digest"], "signature": record["signature"]}}
    )
    respelled = signed.replaced(raw, certificates=(twin,), log_entries=(entry,))

    assert verify(respelled, trusting(sigstore)).signer.identity == SIGNER
    for which in (leaf, x509.load_der_x509_certificate(twin)):
        with pytest.raises(Revoked):
            verify(respelled, trusting(sigstore, revoked_signers=[{"key": fingerprint(which)}]))
        with pytest.raises(Revoked):
            verify(raw, trusting(sigstore, revoked_signers=[{"key": fingerprint(which)}]))


# The authority in the trust policy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("issuer =", "issuers ="), "lacks issuer"),
        (lambda text: text + "roots = []\n", "unknown member roots"),
        (lambda text: text + "legacy_oms_0_2 = true\n", "unknown member legacy_oms_0_2"),
        (lambda text: text.replace('issuer = "http', 'issuer = "ftp'), "issuer is"),
        (lambda text: text.replace("trusted_root =", "trusted_root = 1 #"), "trusted_root is not a text"),
    ],
)
def test_a_sigstore_authority_is_understood_whole_or_not_at_all(sigstore, change, message):
    text = change(sigstore_authority("private", sigstore.trusted_root, sigstore.issuer))

    with pytest.raises(Misconfigured, match=message):
        policy(text, allow={"private": [SIGNER]})


@pytest.mark.parametrize(
    "change",
    [
        lambda root: root.update(also="this"),
        lambda root: root.update(mediaType="application/vnd.dev.sigstore.trustedroot.v0.2+json"),
        lambda root: root.pop("ctlogs"),
        lambda root: root.update(tlogs=[]),
        lambda root: root.update(ctlogs=[]),
        lambda root: root.update(certificateAuthorities=[]),
        lambda root: root.update(tlogs=root["tlogs"] * 65),
        lambda root: root["certificateAuthorities"][0]["certChain"].update(certificates=[]),
        lambda root: root["certificateAuthorities"][0]["certChain"]["certificates"][0].update(rawBytes="AAAA"),
        lambda root: root["timestampAuthorities"][0]["certChain"]["certificates"][1].update(rawBytes="AAAA"),
        lambda root: root["tlogs"][0]["publicKey"].update(rawBytes="AAAA"),
        lambda root: root["ctlogs"][0]["publicKey"].pop("rawBytes"),
        lambda root: root["certificateAuthorities"][0].update(validFor={"start": "2026-11-24T00:00:00"}),
        lambda root: root["certificateAuthorities"][0].pop("validFor"),
    ],
)
def test_a_trusted_root_that_is_not_whole_is_refused_with_the_policy(sigstore, change):
    with pytest.raises(Misconfigured, match=r"authorities\.private\.trusted_root"):
        trusting(sigstore, root=changed_root_of(sigstore, change))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"mediaType": 1, "mediaType": 2}', "[" * 100_000])
def test_a_trusted_root_that_is_no_json_object_is_refused(sigstore, text):
    with pytest.raises(Misconfigured):
        trusting(sigstore, root=text or " ")


def test_the_digest_of_a_policy_covers_the_trusted_root(sigstore, other_sigstore):
    texts = [
        policy_toml(
            sigstore_authority("private", running.trusted_root, "https://oidc.example"), allow={"private": ["*"]}
        )
        for running in (sigstore, other_sigstore)
    ]

    assert len({trust.parse(text.encode()).digest for text in texts}) == 2


def test_a_chain_in_the_wrong_order_trusts_nobody(sigstore, raw):
    def reverse(root):
        root["certificateAuthorities"][0]["certChain"]["certificates"].reverse()

    with pytest.raises(SignatureInvalid):
        verify(raw, trusting(sigstore, root=changed_root_of(sigstore, reverse)))


def test_an_authority_of_the_same_name_is_not_the_pinned_one(sigstore, raw):
    impostor = make_authority("local-fulcio", None, datetime.now(UTC))
    der = impostor.certificate.public_bytes(serialization.Encoding.DER)

    def replace(root):
        root["certificateAuthorities"][0]["certChain"]["certificates"] = [{"rawBytes": b64(der)}]

    with pytest.raises(SignatureInvalid):
        verify(raw, trusting(sigstore, root=changed_root_of(sigstore, replace)))
