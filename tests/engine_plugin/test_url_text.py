"""What logs and status pages show of URLs."""

import pytest

from engine_plugin.failures import FailureTeller
from engine_plugin.playback.hybrid import HybridDriver, HybridPolicy
from engine_plugin.url_text import hide_queries

SECRET = "https://me:pw@cdn.example/film.ts?token=s3cret&x=1#f"
SHOWN = "https://cdn.example/film.ts?…"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (SECRET, SHOWN),
        (
            f"Client error '404' for url '{SECRET}' (tried)",
            f"Client error '404' for url '{SHOWN}' (tried)",
        ),
        ("http://cdn.example:80/a%20b", "http://cdn.example:80/a%20b"),
        ("what? nothing", "what? nothing"),
        (f"{SECRET}; {SECRET}", f"{SHOWN} {SHOWN}"),
    ],
)
def test_credentials_and_what_follows_the_path_are_hidden(text: str, shown: str) -> None:
    assert hide_queries(text) == shown


def test_told_failure_shows_no_query() -> None:
    told: list[str] = []
    teller = FailureTeller(lambda _name, /, **fields: told.append(fields["detail"]))
    teller.tell("cdn", f"{SECRET}: host is not in the terms")
    assert told == [f"{SHOWN} host is not in the terms"]


def test_cdns_state_and_log_show_no_query(capsys: pytest.CaptureFixture[str]) -> None:
    class Content:
        def add_web_seed(self, url: str) -> None:
            assert url == SECRET

        def remove_web_seed(self, url: str) -> None:
            assert url == SECRET

        def web_seed_bytes(self) -> int:
            return 0

        def take_web_seed_failures(self) -> list[str]:
            return []

    driver = HybridDriver(
        Content(), [SECRET], policy=HybridPolicy(patience_s=0), next_due_s=lambda: 0.0
    )
    driver.tick(0.0)
    [row] = driver.describe(0.0)
    assert (row["url"], row["state"]) == (SHOWN, "active")
    driver.tick(10.0)
    output = capsys.readouterr()
    assert "cdn_failed" in output.out + output.err
    assert "s3cret" not in output.out + output.err
