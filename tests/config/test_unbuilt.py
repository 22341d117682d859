"""What this version refuses, and that it lets everything harmless pass."""

from __future__ import annotations

import pytest

from bifrost_lite.config.convert import convert
from bifrost_lite.config.unbuilt import check, refused
from bifrost_lite.errors import ConfigError


def test_turning_off_is_fine() -> None:
    convert(
        {
            "control": {"ubus": "off"},
            "pac": {"enabled": False, "proxy": ""},
            "mesh": {
                "enabled": False,
                "peer_timeout": "90s",
                "join_token": "",
                "state": "",
                "networks": [],
            },
        }
    )


def test_a_fault_is_told_once() -> None:
    with pytest.raises(ConfigError) as caught:
        convert({"control": {"ubus": "perhaps"}})
    assert len(caught.value.faults) == 1


def test_refused() -> None:
    assert refused(("control", "ubus"), "on")
    assert not refused(("control", "ubus"), "auto")
    assert not refused(("listen", 3, "udp"), True)


@pytest.mark.parametrize("data", [{"listen": 1}, {"listen": [[{"udp": True}]]}, {"mesh": []}])
def test_data_of_any_shape(data: object) -> None:
    assert list(check(data)) == []
