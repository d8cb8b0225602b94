"""`fedit run list`, `watch` and `stop`, on folders that daemons left."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest
from watch.sample_snapshots import a_silo, an_aggregator

from fedit_secure.aggregator.run_folder import RunFolder
from fedit_secure.cli import run_watch
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.update import GridState
from fedit_secure.storage.progress import Progress
from fedit_secure.storage.stop_order import StopOrder, stop_path
from fedit_secure.watch.status_file import write_status


@pytest.fixture
def hub(federation):
    """An aggregator whose run has one round behind it; its config's path."""
    path = federation / "hub" / "aggregator.yaml"
    text = path.read_text().replace("charter: charter.json", "charter: ../charter.json")
    text = text.replace("initial-state.bin", "../given.bin")
    path.write_text(text)
    charter = Charter.load(federation / "charter.json")
    initial = GridState.from_bytes((federation / "given.bin").read_bytes())
    state = path.parent / "state"
    folder = RunFolder(state / charter.digest().hex()[:16], charter, initial)
    folder.enter(Progress(round=2, certified=1))
    return path


def charter_of(hub):
    return Charter.load(hub.parents[1] / "charter.json").digest().hex()


def status(hub, state="running", at=None):
    """The daemon says this of itself."""
    now = an_aggregator()
    daemon = replace(now.daemon, state=state, at=time.time() if at is None else at)
    run = replace(now.run, charter=charter_of(hub), rounds=3, certified=1)
    write_status(hub.parent / "state", replace(now, daemon=daemon, run=run))


@pytest.mark.parametrize("format", ["json", "csv", "table"])
def test_an_aggregators_runs_are_listed(fedit, hub, format):
    done = fedit("run", "list", hub, "--format", format)
    assert done.status == 0
    row = {
        "charter": charter_of(hub)[:16],
        "federation": "north",
        "run": "first",
        "epoch": 1,
        "certified": 1,
        "rounds": 3,
        "state": "not running",
    }
    if format == "json":
        assert done.json == {"runs": [row]}
    elif format == "csv":
        lines = done.out.splitlines()
        assert lines[0] == ",".join(row)
        assert lines[1] == ",".join(map(str, row.values()))
    else:
        assert "not running" in done.out


def state_of(fedit, config):
    (row,) = fedit("run", "list", config, "--format", "json").json["runs"]
    return row["state"]


def test_a_run_is_what_its_daemon_says_while_that_lives(fedit, hub):
    status(hub)
    assert state_of(fedit, hub) == "running"
    status(hub, at=time.time() - 3600)  # killed: it couldn't say so
    assert state_of(fedit, hub) == "not running"
    status(hub, state="failed")
    assert state_of(fedit, hub) == "not running"
    Progress(round=4, certified=3).save(hub.parent / "state" / charter_of(hub)[:16])
    assert state_of(fedit, hub) == "ended"


def test_a_silos_run_is_listed_before_its_first_charge(fedit, federation):
    config = federation / "clinic-a" / "silo.yaml"
    (row,) = fedit("run", "list", config, "--format", "json").json["runs"]
    assert (row["run"], row["certified"], row["rounds"]) == ("first", 0, 3)
    assert row["state"] == "not running"


def test_a_stop_is_an_order_that_lasts_until_it_is_withdrawn(fedit, hub):
    status(hub)
    done = fedit(
        "run", "stop", hub, "--reason", "the  study is over", "--format", "json"
    )
    assert done.status == 0
    assert done.json["stops"] == "after round 2"
    path = stop_path(hub.parent / "state", charter_of(hub))
    order = StopOrder.load(path)
    assert (order.reason, order.at_once) == ("the study is over", False)
    status(hub, state="stopped")
    assert state_of(fedit, hub) == "stopped"
    again = fedit("aggregator", "serve", hub)
    assert again.status == 6
    assert "this run was stopped on" in again.err
    assert "(the study is over); `fedit run stop --withdraw` lets it go on" in again.err
    assert fedit("run", "stop", hub, "--withdraw").status == 0
    assert StopOrder.load(path) is None
    assert state_of(fedit, hub) == "not running"
    twice = fedit("run", "stop", hub, "--withdraw")
    assert (twice.status, "isn't stopped" in twice.err) == (4, True)


def test_at_once_is_said_in_the_order(fedit, hub):
    done = fedit("run", "stop", hub, "--now", "--reason", "x", "--format", "json")
    assert done.json["stops"] == "it isn't running, and won't go on"
    assert StopOrder.load(stop_path(hub.parent / "state", charter_of(hub))).at_once


@pytest.mark.parametrize("reason", ["", "   ", "a" * 401, "bell \x07"])
def test_a_stop_needs_a_reason_that_can_be_told(fedit, hub, reason):
    done = fedit("run", "stop", hub, "--reason", reason)
    assert done.status == 4
    assert "the silos are told why" in done.err
    assert not list((hub.parent / "state").glob("*.stop"))


def test_what_cant_be_stopped_is_refused(fedit, hub):
    silo = hub.parents[1] / "clinic-a" / "silo.yaml"
    done = fedit("run", "stop", silo, "--reason", "x")
    assert (done.status, "a silo's" in done.err) == (4, True)
    Progress(round=4, certified=3).save(hub.parent / "state" / charter_of(hub)[:16])
    done = fedit("run", "stop", hub, "--reason", "x")
    assert (done.status, "has ended already" in done.err) == (4, True)


def test_a_damaged_order_is_named_and_isnt_taken_for_none(fedit, hub):
    path = stop_path(hub.parent / "state", charter_of(hub))
    path.write_text("{}")
    done = fedit("aggregator", "serve", hub)
    assert done.status == 1
    assert f"{path} is damaged" in done.err


# --------------------------------------------------------------------------------- watch


def test_before_any_daemon_there_is_nothing_to_watch(fedit, hub):
    done = fedit("run", "watch", hub)
    assert (done.status, "no daemon has run here yet" in done.err) == (4, True)


def test_a_pipe_gets_a_line_a_change_until_the_daemon_ends(fedit, hub, monkeypatch):
    told = [("running", 3), ("running", 3), ("running", 4), ("ended", 4)]
    folder = hub.parent / "state"

    def turn(*_):
        state, number = told.pop(0)
        now = an_aggregator()
        daemon = replace(now.daemon, state=state, at=time.time())
        here = replace(now.now, round=number)
        write_status(folder, replace(now, daemon=daemon, now=here))

    turn()
    monkeypatch.setattr(run_watch.time, "sleep", turn)
    done = fedit("run", "watch", hub)
    assert done.status == 0
    assert [line.split(":")[0] for line in done.out.splitlines()] == [
        "Round 3 of 5",
        "Round 4 of 5",
        "The run has ended.",
    ]
    assert "1 of 3 ready: clinic-a tuned, clinic-b tuning" in done.out


def test_a_silos_line_says_how_much_epsilon_is_left(fedit, federation):
    config = federation / "clinic-a" / "silo.yaml"
    now = a_silo()
    daemon = replace(now.daemon, at=time.time())
    (config.parent / "state").mkdir(exist_ok=True)
    write_status(config.parent / "state", replace(now, daemon=daemon))
    done = fedit("run", "watch", config, "--once")
    assert done.out == (
        "Round 3 of 5: tuning, step 3 of 8. connected; epsilon left 0.1\n"
    )


def test_json_is_the_snapshot(fedit, hub):
    status(hub)
    done = fedit("run", "watch", hub, "--once", "--format", "json")
    assert json.loads(done.out)["silos"][0]["name"] == "clinic-a"


def test_a_daemon_that_was_killed_is_no_reason_to_wait(fedit, hub):
    status(hub, at=time.time() - 3600)
    done = fedit("run", "watch", hub)
    assert done.status == 0
    assert "has fallen silent" in done.err


@pytest.mark.parametrize("snapshot", [an_aggregator(), a_silo()])
def test_a_terminal_gets_a_table(snapshot):
    from io import StringIO

    from rich.console import Console

    out = StringIO()
    console = Console(file=out, width=100, force_terminal=True)
    console.print(run_watch.table(snapshot))
    shown = out.getvalue()
    for words in ("spring of north, epoch 3", "2 of 5", "clinic-a", "tuning"):
        assert words in shown
    assert ("epsilon left" in shown) == (snapshot.role == "silo")


def test_a_terminal_is_told_the_last_figure_of_held_out_records():
    from io import StringIO

    from rich.console import Console

    hub = an_aggregator()
    rounds = (replace(hub.rounds[0], nll=3.14159, nll_deviation=0.1), *hub.rounds[1:])
    out = StringIO()
    console = Console(file=out, width=100, force_terminal=True)
    console.print(run_watch.table(replace(hub, rounds=rounds)))
    assert "3.142 ± 0.196 before round 1" in out.getvalue()
    console.print(run_watch.table(hub))
    assert out.getvalue().count("held-out NLL") == 1
