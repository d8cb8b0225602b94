from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from fedit_secure.errors import ConfigError, ConnectError, StorageError
from fedit_secure.federation import identity as identity_module
from fedit_secure.federation.card import Card
from fedit_secure.federation.certificates import (
    check_issuer,
    check_leaf,
    leaf_end,
    leaf_name,
)
from fedit_secure.federation.identity import create_identity, issue_leaf, load_identity

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def clinic(tmp_path):
    return create_identity(
        tmp_path / "clinic", "clinic-a", "silo", "it@clinic-a.example", now=NOW
    )


@pytest.fixture
def other(tmp_path):
    return create_identity(
        tmp_path / "other", "clinic-b", "silo", "it@clinic-b.example", now=NOW
    )


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_keys_are_private_and_the_card_is_public(clinic):
    assert mode(clinic.folder) == 0o700
    assert mode(clinic.folder / "identity.key") == 0o600
    assert mode(clinic.folder / "issuer.key") == 0o600
    secret = (clinic.folder / "identity.key").read_text().splitlines()[1]
    for name in ("issuer.crt", "clinic-a.card"):
        assert secret not in (clinic.folder / name).read_text()
        assert "PRIVATE" not in (clinic.folder / name).read_text()
    assert len(list(clinic.folder.iterdir())) == 4


def test_loading_gives_the_same_identity(clinic):
    again = load_identity(clinic.folder)
    assert again.card == clinic.card
    assert again.signing.public == clinic.card.public_key
    assert secret_free(repr(again), clinic)


def secret_free(text, identity):
    return identity.signing.seed().hex() not in text and "PrivateKey" not in text


def test_an_identity_is_never_overwritten(clinic):
    before = (clinic.folder / "identity.key").read_text()
    with pytest.raises(ConfigError, match="never overwritten"):
        create_identity(clinic.folder, "clinic-a", "silo", "x", now=NOW)
    assert (clinic.folder / "identity.key").read_text() == before


def test_a_failure_leaves_nothing_half_written(tmp_path, monkeypatch):
    def full_disk(path, data, **options):
        if path.name == "issuer.crt":
            raise StorageError("the disk is full")
        original(path, data, **options)

    original = identity_module.write_durably
    monkeypatch.setattr(identity_module, "write_durably", full_disk)
    with pytest.raises(StorageError, match="full"):
        create_identity(tmp_path / "a", "a", "silo", "x", now=NOW)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["Clinic", "a_b", "", "-a", "a-", "a" * 64, "a\n"])
def test_bad_names_are_refused_before_anything_is_written(tmp_path, name):
    with pytest.raises(ConfigError, match="name"):
        create_identity(tmp_path / "a", name, "silo", "x", now=NOW)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["identity.key", "issuer.key"])
@pytest.mark.parametrize("bits", [0o640, 0o604, 0o620])
def test_a_key_that_others_can_read_is_refused(clinic, key, bits):
    (clinic.folder / key).chmod(bits)
    with pytest.raises(ConfigError, match=rf"{key} has mode 0{bits:o}.*chmod 600"):
        load_identity(clinic.folder)


def test_a_folder_that_others_can_write_is_refused(clinic):
    clinic.folder.chmod(0o770)
    with pytest.raises(ConfigError, match="chmod 700"):
        load_identity(clinic.folder)


def test_keys_of_another_party_are_refused(clinic, other):
    for key in ("identity.key", "issuer.key"):
        mine = (clinic.folder / key).read_bytes()
        (clinic.folder / key).write_bytes((other.folder / key).read_bytes())
        with pytest.raises(ConfigError, match=r"aren't those of clinic-a\.card"):
            load_identity(clinic.folder)
        (clinic.folder / key).write_bytes(mine)
    load_identity(clinic.folder)


@pytest.mark.parametrize("key", ["identity.key", "issuer.key"])
def test_a_damaged_key_is_refused_without_quoting_it(clinic, key):
    (clinic.folder / key).write_text("zz-not-a-key\n")
    with pytest.raises(ConfigError, match=key) as caught:
        load_identity(clinic.folder)
    assert "zz-not-a-key" not in str(caught.value)


def test_missing_parts_are_named(clinic, tmp_path):
    with pytest.raises(ConfigError, match="no identity folder"):
        load_identity(tmp_path / "nowhere")
    (clinic.folder / "identity.key").unlink()
    with pytest.raises(ConfigError, match=r"identity\.key can't be read"):
        load_identity(clinic.folder)
    (clinic.folder / "clinic-a.card").unlink()
    with pytest.raises(ConfigError, match="0 cards"):
        load_identity(clinic.folder)


# ------------------------------------------------------------------------------- cards


def test_card_round_trip(clinic):
    card = Card.load(clinic.card_path)
    card.check(NOW.date())
    assert card == clinic.card
    assert (card.population, card.records) == ("clinic-a", None)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "clinic-c"),
        ("contact", "evil@example"),
        ("population", "others"),
        ("records", 7),
    ],
)
def test_substituted_card(clinic, field, value):
    forged = clinic.card.model_copy(update={field: value})
    with pytest.raises(ConfigError, match="isn't signed by its identity"):
        forged.check()


def test_a_card_with_another_certificate_or_identity_is_refused(clinic, other):
    for field in ("issuer_certificate", "identity"):
        forged = clinic.card.model_copy(update={field: getattr(other.card, field)})
        with pytest.raises(ConfigError, match="isn't signed by its identity"):
            forged.check()


def test_an_expired_card_is_refused(clinic):
    with pytest.raises(ConfigError, match="'clinic-a' expired on 2029-02-28"):
        clinic.card.check(NOW.date() + timedelta(days=1200))


def test_an_edited_card_file_is_refused(clinic):
    text = clinic.card_path.read_text()
    for edited, why in [
        (text.replace('"records": null', '"records":null'), "canonical"),
        (
            text.replace('"role": "silo",', '"role": "silo",\n  "role": "silo",'),
            "canon",
        ),
        (
            text.replace('"records"', '"recrods"'),
            "'recrods' is unknown|'records' is miss",
        ),
        (text + "x", "not JSON"),
        (text.replace('"role": "silo"', '"role": "boss"'), "'role'"),
    ]:
        with pytest.raises(ConfigError, match=why):
            Card.from_bytes(edited.encode(), "a.card")


def test_roles_have_their_fields(tmp_path):
    hub = create_identity(tmp_path / "hub", "hub", "aggregator", "x", now=NOW)
    assert hub.card.population is None
    with pytest.raises(ConfigError, match="no population"):
        create_identity(tmp_path / "h", "h", "aggregator", "x", now=NOW, population="p")


# ------------------------------------------------------------------------ certificates


def leaf_of(identity, hosts=(), now=NOW):
    return issue_leaf(identity, hosts, now)


def test_the_issuer_may_sign_leaves_only(clinic):
    certificate = check_issuer(clinic.card.issuer_certificate)
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)


def test_a_leaf_is_what_the_charter_expects(clinic):
    key, chain = leaf_of(clinic, ("localhost", "127.0.0.1", "hub.example.org"))
    leaf, issuer = x509.load_pem_x509_certificates(chain)
    san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert san.get_values_for_type(x509.DNSName) == [
        "silo.clinic-a.fedit",
        "localhost",
        "hub.example.org",
    ]
    assert [str(ip) for ip in san.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    assert leaf.subject != issuer.subject
    assert leaf_end(chain) == NOW + timedelta(days=90)
    assert b"PRIVATE KEY" in key
    assert check_leaf(chain, clinic.card.issuer_certificate, "silo", "clinic-a", NOW)


def test_serials_rise_even_when_the_clock_goes_back(clinic):
    serials = []
    for moment in (NOW, NOW, NOW - timedelta(days=400), NOW + timedelta(days=1)):
        _, chain = leaf_of(clinic, now=moment)
        serials.append(x509.load_pem_x509_certificate(chain).serial_number)
    assert serials == sorted(set(serials))
    assert mode(clinic.folder / "leaf.serial") == 0o600


def test_a_damaged_serial_is_not_guessed(clinic):
    (clinic.folder / "leaf.serial").write_text("banana")
    with pytest.raises(StorageError, match="serial"):
        leaf_of(clinic)


def check(chain, issuer, name="clinic-a", role="silo", now=NOW, lowest=0):
    return check_leaf(chain, issuer.card.issuer_certificate, role, name, now, lowest)


def test_tls_cross_impersonation(clinic, other):
    _, chain = leaf_of(other)
    with pytest.raises(ConnectError, match="'clinic-a' wasn't issued by the issuer"):
        check(chain, clinic)
    # Even an issuer that the charter pins can't speak for another name or role.
    _, named = leaf_of(other, (leaf_name("silo", "clinic-a"),))
    with pytest.raises(ConnectError, match="wasn't issued by"):
        check(named, clinic)
    with pytest.raises(ConnectError, match="names another party"):
        check(chain, other, name="clinic-c")
    with pytest.raises(ConnectError, match="names another party"):
        check(chain, other, name="clinic-b", role="aggregator")


def test_old_and_expired_leaves_are_refused(clinic):
    _, chain = leaf_of(clinic)
    serial = check(chain, clinic)
    with pytest.raises(ConnectError, match="older than one"):
        check(chain, clinic, lowest=serial + 1)
    assert check(chain, clinic, lowest=serial) == serial
    for moment in (NOW + timedelta(days=91), NOW - timedelta(days=1)):
        with pytest.raises(ConnectError, match="valid only from"):
            check(chain, clinic, now=moment)


def test_what_is_no_certificate_is_refused(clinic):
    with pytest.raises(ConnectError, match="wasn't issued"):
        check(b"garbage", clinic)
    with pytest.raises(ConfigError, match="isn't a self-signed"):
        check_issuer("garbage")
    with pytest.raises(ConfigError, match="holds more than itself"):
        check_issuer(clinic.card.issuer_certificate + "# and a note\n")
    _, chain = leaf_of(clinic)
    leaf_pem = chain.decode().split("-----END CERTIFICATE-----")[0]
    with pytest.raises(ConfigError, match="isn't a self-signed"):
        check_issuer(leaf_pem + "-----END CERTIFICATE-----\n")
