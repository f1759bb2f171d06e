from __future__ import annotations

import pytest

from registry.addresses import counted_as


@pytest.mark.parametrize(
    ("remote", "name"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2::5", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::5", "2001:db8:1:3::/64"),
        ("", ""),
        (None, ""),
        ("unix", "unix"),
    ],
)
def test_whom_an_address_counts_as(remote: str | None, name: str) -> None:
    assert counted_as(remote) == name
