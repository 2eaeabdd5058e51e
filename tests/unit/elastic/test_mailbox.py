"""The state of a run's mailbox."""

from __future__ import annotations

from raydc.elastic.mailbox import Mailbox


def test_collect_returns_each_record_once_and_the_newest_progress() -> None:
    mailbox = Mailbox()
    for step in (1, 2):
        mailbox.publish({"kind": "progress", "step": step})
    mailbox.publish({"kind": "epoch", "epoch": 1})
    mailbox.publish({"kind": "progress", "step": 3})
    collected = mailbox.collect()
    assert [record.get("step", record["kind"]) for record in collected] == [2, "epoch", 3]
    assert mailbox.collect() == []


def test_event_of_the_controller_is_marked_as_unwritten() -> None:
    mailbox = Mailbox()
    mailbox.post_event({"kind": "node_lost"})
    assert mailbox.collect() == [{"kind": "node_lost", "unwritten": True}]


def test_numbers_of_attempts_grow_even_if_the_mailbox_is_made_again() -> None:
    mailbox = Mailbox()
    numbers = [mailbox.next_attempt(), mailbox.next_attempt(), Mailbox().next_attempt()]
    assert numbers == sorted(set(numbers))


def test_trials_are_asked_to_stop_and_counted_until_they_have_kept_their_state() -> None:
    mailbox = Mailbox()
    assert mailbox.stop_reason("a") is None
    mailbox.enter("a")
    mailbox.enter("b")
    mailbox.request_stop("interrupt")
    assert (mailbox.stop_reason("a"), mailbox.num_training()) == ("interrupt", 2)
    mailbox.leave("a")
    mailbox.leave("a")
    mailbox.leave("b")
    assert mailbox.num_training() == 0
