"""The local Sigstore says nothing that is not so: each part refuses what it cannot vouch for."""

import hashlib

import pytest
import rfc8785
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from support.sigstore_ca import Denied, b64, make_authority
from support.sigstore_local import LocalSigstore
from support.sigstore_log import Malformed, MerkleTree


@pytest.fixture
def sigstore(tmp_path):
    return LocalSigstore("http://127.0.0.1:1", tmp_path)


def request_pem(key):
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM)


def leaf_and_key(sigstore):
    key = ec.generate_private_key(ec.SECP256R1())
    return sigstore.fulcio.issue(sigstore.oidc.token(email="al@acme.example"), request_pem(key))[0], key


def log_request(leaf, key, message=b"message"):
    digest = hashlib.sha256(message).digest()
    return {
        "hashedRekordRequestV002": {
            "digest": b64(digest),
            "signature": {
                "content": b64(key.sign(digest, ec.ECDSA(Prehashed(hashes.SHA256())))),
                "verifier": {
                    "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                    "x509Certificate": {"rawBytes": b64(leaf.public_bytes(serialization.Encoding.DER))},
                },
            },
        }
    }


def inner(left, right):
    return hashlib.sha256(b"\1" + left + right).digest()


def root_from(leaf, index, size, path):
    """RFC 9162, section 2.1.3.2: another way to the root than the tree's own."""
    fn, sn, root = index, size - 1, leaf
    for node in path:
        assert sn != 0
        if fn & 1 or fn == sn:
            root = inner(node, root)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            root = inner(root, node)
        fn, sn = fn >> 1, sn >> 1
    assert sn == 0
    return root


def test_every_path_leads_to_the_root():
    tree = MerkleTree()
    for size in range(1, 34):
        tree.append(b"entry %d" % size)
        for index in range(size):
            leaf = hashlib.sha256(b"\0entry %d" % (index + 1)).digest()
            assert root_from(leaf, index, size, tree.path(index)) == tree.root()


def test_the_log_takes_what_is_signed_and_nothing_else(sigstore):
    leaf, key = leaf_and_key(sigstore)
    entry = sigstore.rekor.add(log_request(leaf, key))
    assert (entry["logIndex"], entry["inclusionProof"]["treeSize"]) == ("0", "1")
    other = log_request(leaf, ec.generate_private_key(ec.SECP256R1()))
    wrong_details = log_request(leaf, key)
    wrong_details["hashedRekordRequestV002"]["signature"]["verifier"]["keyDetails"] = "PKIX_ED25519"

    for request in (other, wrong_details, {}, [], {"hashedRekordRequestV002": None}, {"dsseRequestV002": {}}):
        with pytest.raises(Malformed):
            sigstore.rekor.add(request)
    assert len(sigstore.rekor.tree.leaves) == 1


def test_what_the_log_signs_is_the_entry_in_canonical_form(sigstore):
    import base64
    import json

    leaf, key = leaf_and_key(sigstore)
    raw = base64.b64decode(sigstore.rekor.add(log_request(leaf, key))["canonicalizedBody"])

    assert rfc8785.dumps(json.loads(raw)) == raw
    head, _, note = sigstore.rekor.checkpoint().partition("\n\n")
    signature = base64.b64decode(note.split(" ")[2])
    sigstore.rekor.key.public_key().verify(signature[4:], f"{head}\n".encode())


def test_fulcio_gives_a_certificate_for_a_good_token_and_a_held_key_only(sigstore):
    key = ec.generate_private_key(ec.SECP256R1())
    pem = request_pem(key)
    good = sigstore.oidc.token(email="al@acme.example")
    der = bytearray(x509.load_pem_x509_csr(pem).public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    forged = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM)
    tokens = [
        sigstore.oidc.token(email="al@acme.example", lifetime_seconds=-10),
        sigstore.oidc.token(email="al@acme.example", aud="elsewhere"),
        sigstore.oidc.token(email="al@acme.example", iss="https://elsewhere.example"),
        sigstore.oidc.token(email="al@acme.example", email_verified=False),
        sigstore.oidc.token(subject="al"),
        good[:-4] + ("AAAA" if good[-4:] != "AAAA" else "BBBB"),
        "",
    ]

    for token in tokens:
        with pytest.raises(Denied):
            sigstore.fulcio.issue(token, pem)
    for request in (forged, b"", b"no request"):
        with pytest.raises(Denied):
            sigstore.fulcio.issue(good, request)
    leaf, intermediate, root = sigstore.fulcio.issue(good, pem)
    leaf.verify_directly_issued_by(intermediate)
    intermediate.verify_directly_issued_by(root)
    assert leaf.public_key() == key.public_key()


def test_the_ct_log_promises_only_certificates_of_its_authority(sigstore):
    leaf, _ = leaf_and_key(sigstore)
    entries = len(sigstore.ct.tree.leaves)
    stranger = make_authority("local-fulcio", None, sigstore.clock())

    with pytest.raises((ValueError, InvalidSignature)):
        sigstore.ct.add(leaf, stranger.certificate)
    assert len(sigstore.ct.tree.leaves) == entries == 1


def test_the_time_is_stamped_on_well_formed_requests_only(sigstore):
    from rfc3161_client import TimestampRequestBuilder, VerifierBuilder, decode_timestamp_response

    request = TimestampRequestBuilder().data(b"signature").build()
    response = decode_timestamp_response(sigstore.tsa.answer(request.as_bytes()))
    verifier = (
        VerifierBuilder.from_request(request)
        .tsa_certificate(sigstore.tsa.certificate)
        .add_root_certificate(sigstore.tsa_root.certificate)
        .build()
    )
    assert verifier.verify_message(response, b"signature")
    assert response.tst_info.nonce == request.nonce
    for junk in (b"", b"\x30\x00", request.as_bytes()[:-1], request.as_bytes() + b"\0"):
        with pytest.raises(Malformed):
            sigstore.tsa.answer(junk)
