"""What the aggregator refuses, step by step, and what anybody refuses of a certificate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from vectors.forgery import AGGREGATORS, NOBODY, Forgery, silo_is
from vectors.story import Story
from vectors.world import AGGREGATOR, draw

from fedit_secure.secagg import checks
from fedit_secure.secagg import messages as m
from fedit_secure.secagg import states as s
from fedit_secure.secagg.keys import ExchangeKey
from fedit_secure.secagg.keystream import TAG_PRIME

Json = dict[str, Any]
OTHER = draw("something else", 32)


def cases(story: Story, messages: dict[str, Json]) -> list[tuple[str, Json]]:
    """(file, case) of all of them."""
    forgery = Forgery(story, messages, AGGREGATOR)
    for step in (adverts, bundles, uploads, answers, recovery, certificates):
        step(forgery)
    return forgery.made


def adverts(f: Forgery) -> None:
    advert, first = f.get("advert 2"), f.get("advert 0")

    def bad(
        name: str, comment: str, because: str, new: Any = None, **changes: Any
    ) -> None:
        fault = silo_is(2) if new is None else NOBODY
        new = f.sign(2, advert, **changes) if new is None else new
        f.bad(f"advertise_bad_{name}", comment, "advert 2", new, fault, because)

    bad("signature", "The signature is off by a bit.", "a wrong signature",
        f.flipped(advert))  # fmt: skip
    bad("in_the_name_of_another", "Silo 2 signed for silo 3.", "a wrong signature",
        f.sign(2, advert, silo=3))  # fmt: skip
    bad("unrostered", "A seventh silo.", "no silo has number 6",
        f.sign(2, advert, silo=6))  # fmt: skip
    bad("mask_key_low_order", "The mask key is the point 1.", "low order",
        mask_key=(1).to_bytes(32, "little"))  # fmt: skip
    bad("envelope_key_low_order", "The envelope key is the point 0.", "low order",
        envelope_key=bytes(32))  # fmt: skip
    twin = advert.mask_key[:31] + bytes([advert.mask_key[31] | 0x80])
    bad("twin_key", "The mask key has bit 255 set.", "below 2^255 - 19", mask_key=twin)
    bad("key_of_another", "Silo 0 has advertised that mask key.", "stands twice",
        mask_key=first.mask_key)  # fmt: skip
    bad("key_twice", "The same key for masks and envelopes.", "stands twice",
        envelope_key=advert.mask_key)  # fmt: skip


def bundles(f: Forgery) -> None:
    bundle = f.get("bundle 2")
    dealt, mail = bundle.statement, bundle.envelopes
    misses = "aren't those of its statement"

    def bad(
        name: str, comment: str, because: str, mail: Any = mail, **changes: Any
    ) -> None:
        statement = f.sign(2, dealt, **changes) if changes else dealt
        new = m.ShareBundle(statement, mail)
        f.bad(f"share_bad_{name}", comment, "bundle 2", new, silo_is(2), because)

    unsigned = replace(bundle, statement=f.flipped(dealt))
    f.bad("share_bad_signature", "The signature is off by a bit.", "bundle 2", unsigned,
          NOBODY, "a wrong signature")  # fmt: skip
    bad("other_key_set", "It deals under another K.", "for other silos", key_set=OTHER)
    fewer = {
        name: getattr(dealt, name)[:5]
        for name in (
            "holders",
            "envelope_hashes",
            "self_commitments",
            "key_commitments",
        )
    }
    bad(
        "other_holders",
        "It deals to all but silo 5.",
        "others than U1",
        mail[:4],
        **fewer,
    )
    flipped = bytes([mail[0][1][0] ^ 1]) + mail[0][1][1:]
    bad("envelope_altered", "A bit of the envelope to silo 0 is flipped.", misses,
        ((0, flipped), *mail[1:]))  # fmt: skip
    bad("envelope_missing", "The envelope to silo 5 is missing.", misses, mail[:-1])
    bad("envelope_to_itself", "An envelope to the dealer, of which nothing is said.",
        misses, (*mail, (2, mail[0][1])))  # fmt: skip


def uploads(f: Forgery) -> None:
    upload = f.get("upload 2")
    header, payload = upload.header, bytes(upload.payload)

    def bad(
        name: str, comment: str, because: str, payload: bytes = payload, **changes: Any
    ) -> None:
        signed = f.sign(2, header, **changes) if changes else header
        new = m.MaskedUpload(signed, payload)
        f.bad(f"mask_bad_{name}", comment, "upload 2", new, silo_is(2), because)

    unsigned = replace(upload, header=f.flipped(header))
    f.bad("mask_bad_header_signature", "The signature is off by a bit.", "upload 2",
          unsigned, NOBODY, "a wrong signature")  # fmt: skip
    bad("other_key_set", "It is masked under another K.", "other silos", key_set=OTHER)
    bad("other_dealers", "It is masked over another U2.", "other silos",
        dealers_digest=m.silo_set((0, 1, 2, 3)))  # fmt: skip
    wide = payload + bytes(26)
    bad("length", "Four bytes a coordinate in a ring of 24 bits.", "another length", wide,
        length=len(wide), payload_digest=checks.payload_digest(wide))  # fmt: skip
    cut = "isn't what its header says"
    flipped = bytes([payload[0] ^ 1]) + payload[1:]
    bad("payload_altered", "A bit of the first coordinate is flipped.", cut, flipped)
    bad("payload_truncated", "The last byte is missing.", cut, payload[:-1])
    wrong = payload[:-8] + TAG_PRIME.to_bytes(8, "little")
    bad("tag_not_reduced", "The masked tag is p itself.", "no residue", wrong,
        payload_digest=checks.payload_digest(wrong))  # fmt: skip


def answers(f: Forgery) -> None:
    agreement, reveal = f.get("agreement 2"), f.get("reveal 2")

    def bad(name: str, comment: str, **changes: Any) -> None:
        new = f.sign(2, reveal, **changes)
        because = changes.pop("because", "other shares than agreed")
        f.bad(f"reveal_bad_{name}", comment, "reveal 2", new, silo_is(2), because)

    f.bad("agree_bad_signature", "The signature is off by a bit.", "agreement 2",
          f.flipped(agreement), NOBODY, "a wrong signature")  # fmt: skip
    split = f.sign(2, agreement, survivors_digest=m.silo_set((0, 1, 2, 3)))
    f.bad("agree_bad_other_survivors", "It agrees to survivors that weren't shown.",
          "agreement 2", split, silo_is(2), "other survivors")  # fmt: skip
    f.bad("reveal_bad_signature", "The signature is off by a bit.", "reveal 2",
          f.flipped(reveal), NOBODY, "a wrong signature")  # fmt: skip
    state = f.story.step(2, "quorum").before.masked
    selves, keys = reveal.self_shares, reveal.key_shares
    of_5, of_4 = state.letters[5], state.letters[4]
    bad("both_shares", "Both shares of silo 5, which survived.",
        key_shares=(*keys, (5, of_5.key_share)))  # fmt: skip
    bad("wrong_kind", "The share of silo 4's self-mask seed, which isn't in the sum.",
        self_shares=(*selves[:4], (4, of_4.self_share), selves[4]), key_shares=())  # fmt: skip
    bad("own_key", "The share of its own mask key.",
        key_shares=((2, state.letters[2].key_share), *keys))  # fmt: skip
    bad("fewer", "The share of silo 5 is missing.", self_shares=selves[:-1])
    altered = bytes([selves[1][1][0] ^ 1]) + selves[1][1][1:]
    new = f.sign(2, reveal, self_shares=(selves[0], (1, altered), *selves[2:]))
    f.bad("reveal_bad_share", "The share of silo 1's seed isn't the one committed to.",
          "reveal 2", new, silo_is(2), "misses the dealer's commitment")  # fmt: skip


def recovery(f: Forgery) -> None:
    """What shows only when t shares are combined: other messages led to it."""

    def dealing(silo: int, **secrets: Any) -> Story:
        """The dealer shares another secret than it uses, and commits to those shares."""
        true: list[s.Secrets] = []

        def before(party: int, name: str, state: Any) -> Any:
            if (party, name) != (silo, "u1"):
                return state
            true.append(state.secrets)
            return replace(state, secrets=replace(state.secrets, **secrets))

        def after(party: int, name: str, state: Any) -> Any:
            dealt = (party, name) == (silo, "u1")
            return replace(state, secrets=true[0]) if dealt else state

        return Story(f.world, before=before, after=after)

    def beyond(party: int, name: str, state: Any) -> Any:
        if (party, name) != (2, "u2 to 2"):
            return state
        one = np.eye(1, f.world.params.length, dtype=np.int32)[0]
        update = state.start.update + one
        return replace(state, start=replace(state.start, update=update))

    f.variant("release_bad_dealer_of_a_seed", "Silo 3 shared another seed than it"
              " advertised; its shares match what it committed to.",
              dealing(3, self_seed=OTHER), silo_is(3),
              "don't open its self-mask seed")  # fmt: skip
    f.variant("release_bad_dealer_of_a_key", "Silo 4 shared another mask key.",
              dealing(4, mask_key=ExchangeKey.from_bytes(OTHER)), silo_is(4),
              "don't open its mask key")  # fmt: skip
    f.variant("release_bad_contributor", "Silo 2's first coordinate is M + 1, so that the"
              " sum is beyond 5 M.", Story(f.world, before=beyond),
              ("FaultySiloOrAggregator", "any contributor"), "beyond")  # fmt: skip


def certificates(f: Forgery) -> None:
    word = f.get("confirmation 2")
    for name, comment, new, because in (
        ("signature", "The signature is off by a bit.", f.flipped(word), "signature"),
        ("unrostered", "A seventh silo.", f.sign(2, word, silo=6), "number 6"),
    ):
        last = "confirmation 2"
        f.bad(f"confirm_bad_{name}", comment, last, new, NOBODY, because)
    of_round, of_void = f.get("certificate of 4"), f.get("void certificate")
    said, closed = of_round.confirmations, of_void.statements
    last = said[3]

    def bad(name: str, comment: str, because: str, *words: Any) -> None:
        """One of a round, whose words are these."""
        new = replace(of_round, confirmations=words)
        what = (comment, "certificate of 4", new, AGGREGATORS, because)
        at = ["certificate of 4"]
        f.bad(f"confirm_bad_certificate_{name}", *what, takes=at, anybody=True)

    bad("small", "Three words of four.", "no quorum", *said[:3])
    bad("twin", "Silo 5 counts twice.", "no quorum", *said[:2], last, last)
    bad("two_states", "Silo 5 states another state.", "no quorum", *said[:3],
        f.sign(5, last, state_digest=OTHER))  # fmt: skip
    bad("two_sums", "Silo 5 states another sum that gives the same state.", "no quorum",
        *said[:3], f.sign(5, last, release_digest=OTHER))  # fmt: skip
    bad("applied_and_skipped", "Silo 5 states that the round was skipped.", "no quorum",
        *said[:3], f.sign(5, last, release_digest=b""))  # fmt: skip
    bad("other_round", "Silo 5's word of another round.", "another charter or round",
        *said[:3], f.sign(5, last, round=2))  # fmt: skip
    bad("other_charter", "Silo 5's word under another charter.",
        "another charter or round", *said[:3], f.sign(5, last, charter=OTHER))  # fmt: skip
    bad("forged", "The aggregator signed for silo 1.", "signature", *said[:3],
        f.sign(AGGREGATOR, last, silo=1))  # fmt: skip

    def void(name: str, comment: str, because: str, *words: Any) -> None:
        new = replace(of_void, statements=words)
        what = (comment, "void certificate", new, AGGREGATORS, because)
        at = ["void certificate"]
        f.bad(f"void_bad_certificate_{name}", *what, takes=at, anybody=True)

    last_void = closed[3]
    void("small", "Three words of four.", "too few signers", *closed[:3])
    void("twin", "Silo 5 counts twice.", "too few signers", *closed[:2], last_void,
         last_void)  # fmt: skip
    void("two_attempts", "Silo 5 closed another attempt.", "of two attempts", *closed[:3],
         f.sign(5, last_void, ctx=OTHER))  # fmt: skip
    void("forged", "The aggregator signed for silo 1.", "signature", *closed[:3],
         f.sign(AGGREGATOR, last_void, silo=1))  # fmt: skip
