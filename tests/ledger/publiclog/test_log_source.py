"""A source on the web that is cut off, or slow, or too long says nothing against the log."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from answering_server import Reply, answering_server
from public_logs import LogMaker, make_trust

from ledger.audit.errors import UndecidableError
from ledger.publiclog.log_keys import keys_of_trust
from ledger.publiclog.mirror import mirror_log
from ledger.publiclog.source import NOTE_BYTES_MAX, WebSource

KEYS = keys_of_trust(make_trust())
BUNDLE = "/tile/entries/000"


class ServedLog:
    """A whole log on the web, with one file that is answered otherwise, some number of times."""

    def __init__(self, folder: Path, **odd: object) -> None:
        self._folder, self._odd = folder, odd
        self.odd_left = 0
        self.asked: list[str] = []

    def answer(self, path: str, _body: bytes) -> Reply:
        self.asked.append(path)
        file = self._folder / path.lstrip("/")
        if not file.is_file():
            return Reply(status=404)
        if path == BUNDLE and self.odd_left:
            self.odd_left -= 1
            return Reply(file.read_bytes(), **self._odd)  # type: ignore[arg-type]
        return Reply(file.read_bytes())

    @contextmanager
    def source(self, **how: float) -> Iterator[WebSource]:
        with answering_server(self.answer) as url, closing(WebSource(url, **how)) as source:
            yield source


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return LogMaker().close(300).write(tmp_path_factory.mktemp("log"))


def test_a_cut_answer_is_asked_for_again(log: Path, tmp_path: Path) -> None:
    served = ServedLog(log, is_cut=True)
    served.odd_left = 2
    with served.source() as source:
        assert mirror_log(source, tmp_path / "mirror", KEYS).new_size == 304
    assert served.asked.count(BUNDLE) == 3


def test_an_answer_that_is_always_cut_says_nothing_of_the_log(log: Path, tmp_path: Path) -> None:
    served = ServedLog(log, is_cut=True)
    served.odd_left = 100
    with served.source() as source:
        with pytest.raises(UndecidableError, match="IncompleteRead"):
            mirror_log(source, tmp_path / "mirror", KEYS)
        served.odd_left = 0
        assert mirror_log(source, tmp_path / "mirror", KEYS).new_size == 304


def test_an_answer_that_drips_is_given_up(log: Path, tmp_path: Path) -> None:
    served = ServedLog(log, drip_s=0.05)
    served.odd_left = 100
    # Each byte comes well before the time is up; the whole would take half an hour.
    with (
        served.source(timeout_s=0.5) as source,
        pytest.raises(UndecidableError, match="TimeoutError"),
    ):
        mirror_log(source, tmp_path / "mirror", KEYS)


def test_no_more_is_read_than_a_file_may_have() -> None:
    with (
        answering_server(lambda _path, _body: Reply(bytes(NOTE_BYTES_MAX + 2))) as url,
        closing(WebSource(url)) as source,
    ):
        with pytest.raises(UndecidableError, match="got over"):
            source.read("checkpoint")
        assert len(source.get("/checkpoint", 10)[1]) == 11
        assert source.get("/checkpoint", NOTE_BYTES_MAX + 2) == (200, bytes(NOTE_BYTES_MAX + 2))
