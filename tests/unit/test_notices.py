"""Messages to the registry: in order, durable, bounded."""

import pytest

from modelreg import notices
from modelreg.errors import TooLarge
from modelreg.notices import Notices


def bodies(box):
    return [message.body["n"] for message in box.waiting()]


def test_messages_come_out_in_order_and_stay_until_they_are_removed(tmp_path):
    box = Notices(tmp_path / "o")
    for n in range(12):
        box.put("k", {"n": n})
    again = Notices(tmp_path / "o")
    assert bodies(again) == list(range(12))
    for message in again.waiting():
        if message.body["n"] < 5:
            message.remove()
    again.put("k", {"n": 99})
    assert bodies(Notices(tmp_path / "o")) == [*range(5, 12), 99]
    assert len(again) == 8


def test_a_message_that_cannot_be_read_is_put_aside_and_holds_nothing_up(tmp_path):
    box = Notices(tmp_path / "o")
    for n in range(3):
        box.put("k", {"n": n})
    (tmp_path / "o" / "000000000001.json").write_text("{")
    assert bodies(box) == [0, 2]
    assert [path.name for path in (tmp_path / "o").glob("*.unreadable")] == ["000000000001.unreadable"]


def test_there_is_room_for_so_many(tmp_path, monkeypatch):
    monkeypatch.setattr(notices, "MAX_WAITING", 2)
    box = Notices(tmp_path / "o")
    box.put("k", {})
    box.put("k", {})
    with pytest.raises(TooLarge):
        box.put("k", {})
