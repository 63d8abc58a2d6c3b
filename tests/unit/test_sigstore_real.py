"""The four real bundles of the public Sigstore, verified offline with its pinned trusted root."""

import base64
import json
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives import hashes

from modelreg import bundles, sigstore_proof, verification
from modelreg.errors import DigestMismatch, Revoked, SignatureInvalid, SignerNotAllowed
from modelreg.verify import verify_folder
from support import keys, shared, signed
from support.policies import certificate_authority, policy, sigstore_authority

REAL = shared.SIGNATURES / "oms-real"
ROOT = REAL / "keys" / "sigstore-public-good-trusted_root.json"
SIGNER = "email:stefanb@us.ibm.com"
ISSUER = "https://sigstore.verify.ibm.com/oauth2"
# The times of the log; v1.1.0 is stamped as well.
SIGNED_AT = {"v0.3.1": 1746234602, "v1.0.0": 1746236086, "v1.0.1": 1759851228, "v1.1.0": 1760062340}
VERSIONS = sorted(SIGNED_AT)


@pytest.fixture(params=VERSIONS)
def version(request):
    return request.param


def folder_of(version):
    return shared.need(REAL / f"{version}-sigstore")


def trusting(*identities, issuer=ISSUER, **more):
    authority = sigstore_authority("public", shared.need(ROOT).read_text(), issuer)
    return policy(authority, allow={"public": identities or [SIGNER]}, **more)


def verify(version, trusted, signature=None, ignored=frozenset({"ignore-me"})):
    model = folder_of(version)
    return verify_folder(
        model,
        signature or model / "model.sig",
        trusted,
        repository=signed.REPOSITORY,
        now=keys.NOW,
        ignored=ignored | {"model.sig"},
    )


def test_a_real_signature_verifies_with_its_files(version):
    verified = verify(version, trusting())

    assert verified.signer.identity == SIGNER
    assert {file.path for file in verified.statement.files} == {"signme-1", "signme-2"}


@pytest.mark.parametrize("version", ["v1.0.1", "v1.1.0"])
def test_a_file_that_only_the_signature_leaves_out_is_extra(version):
    with pytest.raises(DigestMismatch, match="ignore-me: not part of the artifact"):
        verify(version, trusting(), ignored=frozenset())


@pytest.mark.parametrize("identity", ["email:stefanb@ibm.com", "email:*@example.org", "uri:stefanb@us.ibm.com"])
def test_a_wrong_identity_is_not_allowed(version, identity):
    with pytest.raises(SignerNotAllowed, match=r"signed by email:stefanb@us\.ibm\.com"):
        verify(version, trusting(identity))


def test_a_wrong_issuer_is_not_allowed(version):
    with pytest.raises(SignerNotAllowed, match="takes those of https://accounts"):
        verify(version, trusting("*", issuer="https://accounts.google.com"))


def test_the_method_is_the_policys(version):
    trusted = policy(certificate_authority("pki", keys.make_chain()), allow={"pki": ["*"]})

    with pytest.raises(SignatureInvalid, match="carries a certificate; the trust policy does not use that"):
        verify(version, trusted)


def test_the_time_is_the_latest_that_is_proven(version):
    bundle = bundles.parse((folder_of(version) / "model.sig").read_bytes())
    proven = sigstore_proof.prove(bundle, trusting().authorities["public"], "public", lambda _: False)

    logged = datetime.fromtimestamp(SIGNED_AT[version], UTC)
    assert logged <= proven.signed_at <= logged + timedelta(seconds=10)
    assert len(proven.chain) == 3  # leaf, intermediate, root: all of them can be revoked


@pytest.mark.parametrize("name", ["leaf", "intermediate", "root"])
def test_a_revoked_certificate_is_revoked(version, name):
    bundle = bundles.parse((folder_of(version) / "model.sig").read_bytes())
    chain = sigstore_proof.prove(bundle, trusting().authorities["public"], "public", lambda _: False).chain
    certificate = chain[["leaf", "intermediate", "root"].index(name)]
    entry = {"key": f"sha256:{certificate.fingerprint(hashes.SHA256()).hex()}"}

    with pytest.raises(Revoked):
        verify(version, trusting(revoked_signers=[entry]))


def test_a_signer_revoked_later_keeps_older_signatures(version):
    logged = datetime.fromtimestamp(SIGNED_AT[version], UTC)
    later, earlier = logged + timedelta(minutes=1), logged - timedelta(minutes=1)

    assert verify(version, trusting(revoked_signers=[{"identity": SIGNER, "from": later}]))
    with pytest.raises(Revoked):
        verify(version, trusting(revoked_signers=[{"identity": SIGNER, "from": earlier}]))


@pytest.mark.parametrize("name", ["payload", "rootHash", "canonicalizedBody", "integratedTime", "signedEntryTimestamp"])
def test_a_tampered_real_signature_is_invalid(version, name, tmp_path):
    def change(bundle):
        entry = bundle["verificationMaterial"]["tlogEntries"][0]
        holder = {
            "payload": bundle["dsseEnvelope"],
            "rootHash": entry["inclusionProof"],
            "signedEntryTimestamp": entry["inclusionPromise"],
        }.get(name, entry)
        text = holder[name]
        if name == "payload":
            holder[name] = signed.b64(base64.b64decode(text).replace(b"signme-1", b"signme-3"))
        elif name == "integratedTime":
            holder[name] = str(int(text) + 1)
        else:
            holder[name] = ("A" if text[8] != "A" else "B").join([text[:8], text[9:]])

    changed = tmp_path / "changed.sig"
    changed.write_bytes(signed.changed_bundle((folder_of(version) / "model.sig").read_bytes(), change))

    with pytest.raises(SignatureInvalid):
        verify(version, trusting(), signature=changed)


def test_the_vector_of_the_specification_verifies():
    raw = shared.need(shared.SIGNATURES / "oms-spec" / "valid" / "sigstore.bundle.json").read_bytes()

    verified = verification.verify_statement(raw, policy=trusting(), repository=signed.REPOSITORY, now=keys.NOW)

    assert verified.signer.identity == SIGNER


def test_the_statements_are_real_ones(version):
    payload = bundles.parse((folder_of(version) / "model.sig").read_bytes()).payload

    assert json.loads(payload)["predicateType"] == "https://model_signing/signature/v1.0"
