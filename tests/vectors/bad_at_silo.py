"""What silo 0 refuses, step by step: each message is bad in one way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from streams import inner
from vectors.forgery import AGGREGATORS, NOBODY, Forgery, either, silo_is
from vectors.story import Story
from vectors.world import AGGREGATOR, draw

from fedit_secure.secagg import checks
from fedit_secure.secagg import messages as m
from fedit_secure.secagg.envelope import Letter, seal

Json = dict[str, Any]
A = AGGREGATOR
OTHER = draw("something else", 32)
LOW = bytes(32)


def cases(story: Story, messages: dict[str, Json]) -> list[tuple[str, Json]]:
    """(file, case) of all of them."""
    forgery = Forgery(story, messages, 0)
    for step in (offers, adverts, dealers, letters, survivors, quorums, sums, order):
        step(forgery)
    return forgery.made


def offers(f: Forgery) -> None:
    offer = f.get("offer")

    def bad(name: str, comment: str, new: m.Offer, because: str) -> None:
        f.bad(f"advertise_bad_{name}", comment, "offer", new, AGGREGATORS, because)

    bad(
        "offer_signature",
        "The signature is off by a bit.",
        f.flipped(offer),
        "signature",
    )
    bad("offer_by_a_silo", "A silo signed it, not the aggregator.", f.sign(2, offer),
        "signature")  # fmt: skip
    for field, value in (
        ("charter", OTHER), ("round", 4), ("attempt", 1), ("state_digest", OTHER),
    ):  # fmt: skip
        what = f"The offer is of another {field.replace('_', ' ')}."
        new = f.sign(A, offer, **{field: value})
        bad(
            f"offer_other_{field}",
            what,
            new,
            "another charter, round, attempt or model",
        )


def adverts(f: Forgery) -> None:
    u1 = f.get("u1")
    each = u1.adverts

    def shown(*adverts: m.Advert) -> m.AdvertSet:
        return f.sign(A, u1, adverts=adverts)

    def with_(silo: int, **changes: Any) -> m.AdvertSet:
        new = f.sign(silo, each[silo], **changes)
        return shown(*each[:silo], new, *each[silo + 1 :])

    def bad(
        name: str, comment: str, new: Any, because: str, fault: Any = AGGREGATORS
    ) -> None:
        f.bad(f"share_bad_{name}", comment, "u1", new, fault, because)

    bad("u1_signature", "The signature is off by a bit.", f.flipped(u1), "signature")
    bad("u1_other_attempt", "The set names another ctx.", f.sign(A, u1, ctx=OTHER),
        "another attempt")  # fmt: skip
    bad("u1_unsorted", "Adverts 2 and 3 stand in the wrong order.",
        shown(*each[:2], each[3], each[2], *each[4:]), "unsorted or has a twin")  # fmt: skip
    bad("u1_twin", "Advert 5 stands twice.", shown(*each, each[5]), "a twin")
    bad("u1_small", "Three adverts, where four are the minimum.", shown(*each[:3]),
        "below the minimum of 4")  # fmt: skip
    bad("u1_unrostered", "A seventh silo, which the charter doesn't know.",
        shown(*each, f.sign(5, each[5], silo=6)), "no silo has number 6")  # fmt: skip
    bad("u1_forged_entry", "The aggregator replaced silo 2's mask key and signed for it.",
        shown(*each[:2], f.sign(A, each[2], mask_key=each[2].mask_key[::-1]), *each[3:]),
        "a wrong signature on Advert")  # fmt: skip
    bad("u1_replayed_entry", "Silo 2's advert of another attempt, well signed.",
        with_(2, ctx=OTHER), "an entry of another attempt")  # fmt: skip
    bad("u1_own_altered", "Another advert in this silo's name, with its own signature.",
        with_(0, group_commitment=OTHER), "altered this silo's own Advert")  # fmt: skip
    bad("u1_without_us", "This silo was left out; that proves nothing.",
        shown(*each[1:]), "left out of U1", ("AttemptFailed", None))  # fmt: skip
    bad("u1_key_twice", "Silo 2 advertises silo 3's mask key, and the aggregator took it.",
        with_(2, mask_key=each[3].mask_key), "stands twice")  # fmt: skip
    bad("u1_low_order", "Silo 2 signed a mask key of low order.", with_(2, mask_key=LOW),
        "low order", silo_is(2))  # fmt: skip
    twin = each[2].envelope_key[:31] + bytes([each[2].envelope_key[31] | 0x80])
    bad("u1_twin_key", "Silo 2 signed an envelope key with bit 255 set.",
        with_(2, envelope_key=twin), "below 2^255 - 19", silo_is(2))  # fmt: skip
    head = each[2].ledger_head  # the very head that was seen last
    for name, comment, because, change in (
        ("back", "Silo 2's ledger lost an entry.", "went back",
         {"sequence": head.sequence - 1}),
        ("fork", "Silo 2's ledger has another entry in the place of its last one.",
         "forked", {"hash": OTHER}),
        ("population", "The ledger of other people.", "another population",
         {"population": "patients of silo-3", "sequence": head.sequence + 1}),
    ):  # fmt: skip
        new = with_(2, ledger_head=replace(head, **change))
        bad(f"ledger_{name}", comment, new, because, silo_is(2))


def dealers(f: Forgery) -> None:
    u2 = f.get("u2 to 0")
    said, mail = u2.statements, u2.envelopes

    def shown(statements: Any = said, envelopes: Any = mail, **rest: Any) -> m.ShareSet:
        return f.sign(A, u2, statements=statements, envelopes=envelopes, **rest)

    def with_(silo: int, **changes: Any) -> m.ShareSet:
        new = f.sign(silo, said[silo], **changes)
        return shown((*said[:silo], new, *said[silo + 1 :]))

    def bad(
        name: str, comment: str, new: Any, because: str, fault: Any = AGGREGATORS
    ) -> None:
        f.bad(f"mask_bad_{name}", comment, "u2 to 0", new, fault, because)

    bad("u2_signature", "The signature is off by a bit.", f.flipped(u2), "signature")
    bad("u2_other_key_set", "The set names another K.", shown(key_set=OTHER),
        "for other silos")  # fmt: skip
    unsorted = (*mail[:1], mail[2], mail[1], *mail[3:])
    bad("u2_unsorted", "Silos 2 and 3 stand in the wrong order.",
        shown((*said[:2], said[3], said[2], *said[4:]), unsorted), "unsorted")  # fmt: skip
    bad("u2_small", "Three statements and their two envelopes: below the minimum.",
        shown(said[:3], mail[:2]), "below the minimum of 4")  # fmt: skip
    bad("u2_without_us", "This silo was left out; that proves nothing.",
        shown(said[1:]), "left out of U2", ("AttemptFailed", None))  # fmt: skip
    bad("statement_signature", "Silo 2's statement is signed by silo 3.",
        shown((*said[:2], f.sign(3, said[2]), *said[3:])), "a wrong signature")  # fmt: skip
    bad("statement_own_altered", "Another statement in our name, with our signature.",
        with_(0, self_commitments=said[0].self_commitments[::-1]),
        "altered this silo's own ShareStatement")  # fmt: skip
    bad("statement_other_key_set", "Silo 2 dealt under another K: it was shown another"
        " U1, or it lies.", with_(2, key_set=OTHER), "for other silos", either(2))  # fmt: skip
    fewer: dict[str, Any] = {
        name: getattr(said[2], name)[:5]
        for name in (
            "holders",
            "envelope_hashes",
            "self_commitments",
            "key_commitments",
        )
    }
    bad("statement_other_holders", "Silo 2 dealt to all but silo 5.", with_(2, **fewer),
        "dealt to others than U1", either(2))  # fmt: skip
    bad("statement_short", "A commitment is missing.",
        with_(2, key_commitments=said[2].key_commitments[:5]),
        "dealt to others than U1", either(2))  # fmt: skip
    bad("envelope_withheld", "That of silo 2 is missing.",
        shown(said, (mail[0], *mail[2:])), "withheld or doubled")  # fmt: skip
    bad("envelope_doubled", "That of silo 5 stands twice.", shown(said, (*mail, mail[4])),
        "withheld or doubled")  # fmt: skip
    flipped = bytes([mail[1][1][0] ^ 1]) + mail[1][1][1:]
    bad("envelope_altered", "A bit of silo 2's envelope is flipped.",
        shown(said, (mail[0], (2, flipped), *mail[2:])), "an altered envelope")  # fmt: skip
    bad("envelope_truncated", "A byte of silo 2's envelope is missing.",
        shown(said, (mail[0], (2, mail[1][1][:-1]), *mail[2:])),
        "an altered envelope")  # fmt: skip
    swapped = (mail[0], (2, mail[2][1]), (3, mail[1][1]), *mail[3:])
    bad("envelopes_swapped", "Those of silos 2 and 3 are exchanged.",
        shown(said, swapped), "an altered envelope")  # fmt: skip
    redirected = f.get("bundle 2").envelopes[1][1]
    bad("envelope_redirected", "Silo 2's envelope to silo 1.",
        shown(said, (mail[0], (2, redirected), *mail[2:])), "an altered envelope")  # fmt: skip


def letters(f: Forgery) -> None:
    """Envelopes that match what silo 2 signed of them, yet aren't what they must be."""
    u2 = f.get("u2 to 0")
    said, mail, adverts = u2.statements, u2.envelopes, f.get("u1").adverts
    right = f.story.step(0, "u2 to 0").after.letters[2]
    own = f.story.step(2, "u1").before.secrets.envelope_key
    bound = f.world.session.bound(u2.key_set)

    def shown(sealed: bytes) -> m.ShareSet:
        hashes = (checks.envelope_hash(sealed), *said[2].envelope_hashes[1:])
        dealt = f.sign(2, said[2], envelope_hashes=hashes)
        statements = (*said[:2], dealt, *said[3:])
        envelopes = (mail[0], (2, sealed), *mail[2:])
        return f.sign(A, u2, statements=statements, envelopes=envelopes)

    def letter(name: str, comment: str, of: Letter, because: str, to: int = 0) -> None:
        sealed = seal(own, bound, 2, to, adverts[0].envelope_key, of)
        new = shown(sealed)
        f.bad(f"mask_bad_{name}", comment, "u2 to 0", new, silo_is(2), because)

    broken = shown(bytes([mail[1][1][0] ^ 1]) + mail[1][1][1:])
    f.bad("mask_bad_letter_sealed_wrong", "Silo 2 signed the hash of a broken envelope.",
          "u2 to 0", broken, silo_is(2), "doesn't open")  # fmt: skip
    letter("letter_to_another", "Sealed with silo 0's key, under the index of silo 1.",
           right, "doesn't open", 1)  # fmt: skip
    parts = (right.self_share, right.key_share, right.group_contribution)
    letter("letter_short", "97 bytes.", Letter(*parts[:2], parts[2][:31]), "98 bytes")
    letter("letter_self_share", "The self-mask seed's share isn't that committed to.",
           Letter(bytes([parts[0][0] ^ 1]) + parts[0][1:], *parts[1:]),
           "misses the dealer's commitment")  # fmt: skip
    letter("letter_key_share", "The mask key's share isn't that committed to.",
           Letter(parts[0], bytes([parts[1][0] ^ 1]) + parts[1][1:], parts[2]),
           "misses the dealer's commitment")  # fmt: skip
    letter("letter_contribution", "Another group contribution than was advertised.",
           Letter(*parts[:2], OTHER), "group contribution misses")  # fmt: skip


def survivors(f: Forgery) -> None:
    ack, u3 = f.get("ack to 0"), f.get("u3")
    each = u3.headers  # of 0, 1, 2, 3 and 5

    def shown(*headers: m.UploadHeader) -> m.SurvivorSet:
        return f.sign(A, u3, headers=headers)

    def with_(silo: int, **changes: Any) -> m.SurvivorSet:
        new = f.sign(silo, each[silo], **changes)
        return shown(*each[:silo], new, *each[silo + 1 :])

    def bad(
        name: str, comment: str, new: Any, because: str, fault: Any = AGGREGATORS
    ) -> None:
        f.bad(f"agree_bad_{name}", comment, "u3", new, fault, because)

    f.bad("acknowledge_bad_header", "It acknowledges another header.", "ack to 0",
          f.sign(A, ack, header_digest=OTHER), AGGREGATORS, "never sent")  # fmt: skip
    f.bad("acknowledge_bad_silo", "It is addressed to silo 2.", "ack to 0",
          f.sign(A, ack, silo=2), AGGREGATORS, "never sent")  # fmt: skip
    f.bad("acknowledge_bad_signature", "The signature is off by a bit.", "ack to 0",
          f.flipped(ack), AGGREGATORS, "signature")  # fmt: skip
    f.bad("acknowledge_bad_second", "The same again.", "ack to 0", None, NOBODY,
          "acknowledged before", takes=[*f.takes("ack to 0"), "ack to 0"])  # fmt: skip
    bad("u3_signature", "The signature is off by a bit.", f.flipped(u3), "signature")
    bad("u3_unsorted", "Headers 2 and 3 stand in the wrong order.",
        shown(*each[:2], each[3], each[2], *each[4:]), "unsorted")  # fmt: skip
    bad("u3_twin", "Silo 5's header stands twice.", shown(*each, each[4]), "a twin")
    bad("u3_small", "Three survivors, where four are the minimum.", shown(*each[:3]),
        "below the minimum of 4")  # fmt: skip
    bad("u3_acked_but_unlisted", "The acknowledged upload of this silo is left out.",
        shown(*each[1:]), "left out an acknowledged upload")  # fmt: skip
    forged = f.sign(A, each[2], payload_digest=OTHER)
    bad("header_signature", "Silo 2's header, changed and signed by the aggregator.",
        shown(*each[:2], forged, *each[3:]), "a wrong signature")  # fmt: skip
    bad("header_own_altered", "Another header in our name, with our signature.",
        with_(0, payload_digest=OTHER), "altered this silo's own UploadHeader")  # fmt: skip
    bad("header_replayed", "Silo 2's header of another attempt.", with_(2, ctx=OTHER),
        "an entry of another attempt")  # fmt: skip
    bad("header_other_key_set", "Silo 2 masked under another K.",
        with_(2, key_set=OTHER), "for other silos", either(2))  # fmt: skip
    bad("header_other_dealers", "Silo 2 masked over another U2.",
        with_(2, dealers_digest=m.silo_set((0, 1, 2, 3))), "for other silos",
        either(2))  # fmt: skip
    bad("header_length", "Silo 2's upload is 32 bits wide.", with_(2, length=26 * 4 + 8),
        "another length", either(2))  # fmt: skip


def quorums(f: Forgery) -> None:
    quorum = f.get("quorum")
    each = quorum.agreements  # of 0, 2, 3 and 5

    def bad(name: str, comment: str, *agreements: m.Agreement, because: str) -> None:
        new = replace(quorum, agreements=agreements)
        f.bad(f"reveal_bad_{name}", comment, "quorum", new, AGGREGATORS, because)

    def with_(**changes: Any) -> m.Agreement:
        return f.sign(3, each[2], **changes)

    bad("quorum_small", "Three of four signatures.", *each[:3], because="3 of 4")
    bad("quorum_twin", "Silo 5 stands twice.", *each, each[3], because="a twin")
    forged = f.sign(A, each[2], silo=1)
    bad("quorum_forged", "The aggregator signed for silo 1.", each[0], forged, *each[2:],
        because="a wrong signature")  # fmt: skip
    bad("quorum_unrostered", "A seventh silo.", *each, f.sign(5, each[3], silo=6),
        because="no silo has number 6")  # fmt: skip
    comment = "Silo 3 agreed to"
    bad("quorum_other_attempt", f"{comment} it in another attempt.", *each[:2],
        with_(ctx=OTHER), each[3], because="agreed to others")  # fmt: skip
    split = m.silo_set((0, 1, 2, 3))
    bad("quorum_other_survivors", f"{comment} survivors without silo 5.", *each[:2],
        with_(survivors_digest=split), each[3], because="agreed to others")  # fmt: skip
    bad("quorum_other_headers", f"{comment} other uploads of the same survivors.",
        *each[:2], with_(headers_digest=OTHER), each[3],
        because="agreed to others")  # fmt: skip


def sums(f: Forgery) -> None:
    out, key = f.get("published"), f.story.step(0, "published").before.tag_key
    either_of_them = ("FaultySiloOrAggregator", "any contributor")
    total, p = out.total, 2**61 - 1

    def bad(
        name: str, comment: str, because: str, fault: Any = either_of_them, **new: Any
    ) -> None:
        forged = f.sign(A, out, **new)
        f.bad(f"release_bad_{name}", comment, "published", forged, fault, because)

    f.bad("release_bad_signature", "The signature is off by a bit.", "published",
          f.flipped(out), AGGREGATORS, "signature")  # fmt: skip
    one = np.eye(1, total.size, 7, dtype=np.int32)[0]
    swapped = total.copy()
    swapped[[5, 6]] = swapped[[6, 5]]
    wrong = "isn't that of this sum"
    bad("forged_sum", "One coordinate is one too large.", wrong, total=total + one)
    bad("swapped_sum", "Coordinates 5 and 6 are exchanged.", wrong, total=swapped)
    bad("scaled_sum", "-X with the tag -T: pads don't scale.", wrong,
        total=-total, tag=-out.tag % p)  # fmt: skip
    bad("zero_sum", "Nothing, with the tag 0.", wrong, total=0 * total, tag=0)
    bad("lying_tag", "The tag is one too large.", wrong, tag=(out.tag + 1) % p)
    beyond = total.copy()
    beyond[0] += (
        1  # every silo's first coordinate is M, so their sum is all there can be
    )
    tag = (inner(key, beyond) + sum(key.pads[u] for u in out.contributors)) % p
    bad("sum_out_of_range", "A coordinate is 5 M + 1; who knows G made the tag fit.",
        "beyond", total=beyond, tag=tag)  # fmt: skip
    bad("other_contributors", "Silo 5 isn't named with the sum.",
        "over others than agreed", AGGREGATORS, contributors=(0, 1, 2, 3))  # fmt: skip
    bad("other_key_set", "The sum names another K.", "over others than agreed",
        AGGREGATORS, key_set=OTHER)  # fmt: skip
    bad("other_attempt", "The sum names another ctx.", "another attempt", AGGREGATORS,
        ctx=OTHER)  # fmt: skip
    bad("shape", "A coordinate is missing.", "another shape", AGGREGATORS,
        total=total[:-1])  # fmt: skip


def order(f: Forgery) -> None:
    """Right messages at the wrong time, and requests to close an attempt."""

    def again(file: str, name: str) -> None:
        comment = f"The same {name} again: no state takes a message twice."
        takes = [*f.takes(name), name]
        f.bad(
            f"{file}_bad_second", comment, name, None, NOBODY, "takes no", takes=takes
        )

    again("advertise", "offer")
    again("share", "u1")
    again("mask", "u2 to 0")
    again("agree", "u3")
    again("reveal", "quorum")
    again("release", "published")
    f.bad("share_bad_early", "U1 before the offer.", "u1", None, NOBODY, "takes no",
          takes=["u1"])  # fmt: skip
    f.bad("release_bad_early", "The sum before the quorum.", "published", None, NOBODY,
          "takes no", takes=[*f.takes("u3"), "published"])  # fmt: skip
    f.bad("void_bad_after_reveal", "Who has revealed can't promise not to.", "void request",
          None, NOBODY, "takes no", takes=[*f.takes("quorum"), "void request"])  # fmt: skip
    f.bad("void_bad_then_agree", "Who has closed the attempt answers nothing more in it.",
          "u3", None, NOBODY, "takes no",
          takes=[*f.takes("ack to 0"), "void request", "u3"])  # fmt: skip
    request, at = f.get("void request"), [*f.takes("ack to 0"), "void request"]
    f.bad("void_bad_request_signature", "The signature is off by a bit.", "void request",
          f.flipped(request), AGGREGATORS, "signature", takes=at)  # fmt: skip
    f.bad("void_bad_request_other_attempt", "It asks to close another attempt.",
          "void request", f.sign(A, request, ctx=OTHER), AGGREGATORS, "another attempt",
          takes=at)  # fmt: skip
