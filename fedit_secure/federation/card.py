"""A party's public card: what it hands to the coordinator, signed by its identity."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fedit_secure.errors import ConfigError
from fedit_secure.federation.certificates import check_issuer
from fedit_secure.federation.document import (
    Document,
    Hex32,
    Hex64,
    Line,
    Name,
    absent_if_none,
    canonical,
)
from fedit_secure.secagg.keys import BadSignature, SigningKey, verify
from fedit_secure.secagg.transcript import digest

Role = Literal["silo", "aggregator"]


class Card(Document):
    """Public facts about one party.

    `identity` is its Ed25519 public key, `issuer_certificate` the PEM certificate that
    its TLS leaves descend from, `population` names the people or records that a silo's
    privacy ledger speaks of, `records` is the number of records if the operator chose to
    tell it, `persons` that of the persons whom they are about. `names_persons` is true
    where the data has a column that says whom each record is about, told or not how
    many they are.
    """

    name: Name
    role: Role
    identity: Hex32
    issuer_certificate: str
    population: Line | None
    records: Annotated[int, Field(ge=1)] | None
    expires: date
    contact: Line
    signature: Hex64
    persons: Annotated[int, Field(ge=1)] | None = absent_if_none()
    names_persons: Literal[True] | None = absent_if_none()

    @model_validator(mode="after")
    def _role_fits(self) -> Self:
        if self.role == "silo" and self.population is None:
            raise ValueError("a silo's card needs a population")
        if self.role == "aggregator" and (self.population or self.records):
            raise ValueError("an aggregator has no population and no records")
        if self.role == "aggregator" and (self.persons or self.names_persons):
            raise ValueError("an aggregator has no persons")
        if self.persons and not self.names_persons:
            raise ValueError("persons can be counted only where the data names them")
        if self.persons and self.records and self.persons > self.records:
            raise ValueError("there can't be more persons than records")
        return self

    @property
    def public_key(self) -> bytes:
        """The 32-byte Ed25519 identity."""
        return bytes.fromhex(self.identity)

    def signed_digest(self) -> bytes:
        """The 32 bytes that the signature covers: every field but itself."""
        content = self.model_dump(mode="json", exclude={"signature"})
        return digest("fedit/card/v1", canonical(content))

    def check(self, today: date | None = None) -> None:
        """Raises ConfigError if the signature, the issuer or (given today) the date is
        bad.
        """
        try:
            verify(self.public_key, self.signed_digest(), bytes.fromhex(self.signature))
        except BadSignature as error:
            raise ConfigError(
                f"the card of {self.role} {self.name!r} isn't signed by its identity"
            ) from error
        try:
            check_issuer(self.issuer_certificate)
        except ConfigError as error:
            raise ConfigError(
                f"the card of {self.role} {self.name!r} is unusable: {error}"
            ) from error
        if today is not None and self.expires < today:
            raise ConfigError(
                f"the card of {self.role} {self.name!r} expired on {self.expires}"
            )


def sign_card(
    key: SigningKey,
    *,
    name: str,
    role: Role,
    issuer_certificate: str,
    population: str | None,
    records: int | None,
    expires: date,
    contact: str,
    persons: int | None = None,
    names_persons: bool = False,
) -> Card:
    """A card signed by its own identity. Raises pydantic's ValidationError on a bad
    field.
    """
    draft = Card(
        name=name,
        role=role,
        identity=key.public.hex(),
        issuer_certificate=issuer_certificate,
        population=population,
        records=records,
        expires=expires,
        contact=contact,
        persons=persons,
        names_persons=names_persons or persons is not None or None,
        signature="00" * 64,
    )
    return draft.model_copy(update={"signature": key.sign(draft.signed_digest()).hex()})
