"""docs/attacks.md is held against the tests: every attack has a row, every row its tests."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
from named_tests import ROOT, file_of, known_in

from fedit_secure import errors

PAGE = (ROOT / "docs" / "attacks.md").read_text(encoding="utf-8")
COLUMNS = ["attack", "mounted by", "how", "what stops it", "error, suspect", "tests"]

ATTACKS = """
small_cohort stacked_cohort survivors_below_minimum unrostered_silo sybil two_views
picked_cohort replayed_cohort
downgraded_threshold downgraded_minimum downgraded_ring downgraded_charter old_charter
substituted_card tls_cross_impersonation
swapped_keys resigned_keys low_order_keys twin_keys duplicated_keys replayed_keys
envelope_redirected envelope_reordered envelope_bit_flipped envelope_truncated
envelope_withheld bad_dealer inconsistent_contribution
both_shares self_listed_dead duplicate_ids unknown_ids non_u2_ids acked_but_unlisted
late_upload split_survivors missing_agreements foreign_agreements duplicate_agreements
replayed_agreements cross_session_agreements second_reveal second_reveal_after_restart
framing
chunk_reordered chunk_duplicated chunk_truncated oversized_length ring_overflow forged_sum
scaled_sum zero_sum forged_contributors lying_tag
different_model crafted_model forged_history replayed_round old_attempt
exclude_then_retry update_reused void_then_reveal void_after_sitting_out two_certificates
epsilon_burn ledger_fork ledger_rollback
lost_ledger old_backup invented_past restore_shortens restored_silo_acts_again cheap_loss
fresh_budget inheritance_forged key_thief rotated_elsewhere old_key two_daemons
unknown_certificate expired_certificate role_swapped wrong_charter other_wire_version
plain_text tls_broken_open proxy_password connection_flood half_open_handshakes
many_calls giant_message compression_bomb slow_messages http2_floods path_traversal
crash_of_a_silo crash_of_the_aggregator killed_process power_cut failing_disk
restored_backup damaged_journal wrong_clock masked_vectors secrets_in_texts
""".split()  # noqa: SIM905 - a list to read


@dataclass(frozen=True)
class Row:
    attack: str
    by: str
    how: str
    stops: str
    error: str
    tests: str


def rows() -> list[Row]:
    """Of all tables of the page."""
    found, inside = [], False
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            inside = False
        elif cells == COLUMNS:
            inside = True
        elif inside and set(line) - set("|-"):
            assert len(cells) == len(COLUMNS), line
            found.append(Row(cells[0].strip("`"), *cells[1:]))
    return found


ROWS = {row.attack: row for row in rows()}


def test_every_attack_has_one_row() -> None:
    assert len(rows()) == len(ROWS), "two rows for one attack"
    assert sorted(ROWS) == sorted(ATTACKS)


@pytest.mark.parametrize("attack", ATTACKS)
def test_row(attack: str) -> None:
    """Its tests exist, and the errors that it names are there and asserted in them."""
    row = ROWS[attack]
    assert all((row.by, row.how, row.stops, row.error))
    named = [test.strip("`") for test in row.tests.split("<br>")]
    assert named
    texts = ""
    for test in named:
        texts += file_of(test).read_text(encoding="utf-8")
    for error in re.findall(r"`(\w+)`", row.error):
        assert issubclass(getattr(errors, error), errors.FeditError)
        assert error in texts, f"no test of {attack} mentions {error}"
    if not re.findall(r"`\w+`", row.error):
        assert row.error.startswith("none"), "neither an error nor none"


def test_a_test_that_is_not_there_would_be_noticed() -> None:
    here = "tests/attacks/test_share_attacks.py"
    assert "redirected" in known_in(here)["test_envelope"]
    assert "redirect" not in known_in(here)["test_envelope"]
    assert "test_no_such_attack" not in known_in(here)
