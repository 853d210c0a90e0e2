"""Several processes find what one finds."""

import json
from pathlib import Path

import pytest
from simulated_operator import Operator, make_entitlement, make_payee_bundle, make_receipt, seed

from ledger.audit.case import check_bundles_in_turn
from ledger.audit.command import FileSource, run
from ledger.audit.file import build_audit_file, parse_audit_file
from ledger.audit.parallel import ParallelChecker
from ledger.audit.trust import format_trust
from ledger.audit.verify import verify_audit_file


@pytest.fixture
def scene(tmp_path: Path) -> tuple[Operator, Path]:
    operator = Operator()
    operator.set_up(10**12)
    ann = make_entitlement(operator, "ann")
    forged = make_receipt(ann, "mallory", "seeder", 0, 5, nonce=1)
    bundles = [
        make_payee_bundle("seeder", 0, [ann], [make_receipt(ann, "ann", "seeder", 0, 7), forged]),
        *(
            make_payee_bundle(name, 0, [ann], [make_receipt(ann, "ann", name, 0, 9)])
            for name in ("bob", "cat", "dan", "eve", "fay")
        ),
    ]
    path = tmp_path / "epoch-0.audit"
    path.write_bytes(operator.close(bundles))
    (tmp_path / "trust.json").write_text(format_trust(operator.trust))
    return operator, path


def test_report_is_the_same_with_any_number_of_processes(
    scene: tuple[Operator, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    _, path = scene
    reports = []
    for jobs in ("1", "2", "3"):
        arguments = [str(path), "--trust", str(path.parent / "trust.json"), "--jobs", jobs]
        assert run([*arguments, "--json"], prog="verify") == 0
        reports.append(json.loads(capsys.readouterr().out))
    assert reports[0] == reports[1] == reports[2]
    assert "1 refused" in reports[0][0]["steps"][7]["detail"]


def test_bundle_that_is_spoiled_is_found_by_another_process(scene: tuple[Operator, Path]) -> None:
    operator, path = scene
    contents = parse_audit_file(path.read_bytes()).contents
    for spoiled in (bytes(64) + contents.bundles[3][64:], b"no bundle at all"):
        bundles = (*contents.bundles[:3], spoiled, *contents.bundles[4:])
        changed = type(contents)(
            **{name: getattr(contents, name) for name in contents.__slots__} | {"bundles": bundles}
        )
        path.write_bytes(build_audit_file(changed, seed("log")))
        with path.open("rb") as file:
            found = verify_audit_file(FileSource(file), operator.trust, ParallelChecker(path, 2))
            alone = verify_audit_file(FileSource(file), operator.trust)
        assert found == alone
        assert found.failed_step is not None
        assert found.failed_step.name == "bundles"


def test_bundles_in_memory_are_checked_in_this_process(scene: tuple[Operator, Path]) -> None:
    operator, path = scene
    bundles = tuple(parse_audit_file(path.read_bytes()).contents.bundles)
    facts = (bundles, operator.signed_terms, 0, 9)
    assert list(ParallelChecker(path, 2)(*facts)) == list(check_bundles_in_turn(*facts))


@pytest.mark.parametrize("jobs", ["0", "-1", "257", "two"])
def test_number_of_processes_is_checked(jobs: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(["file", "--jobs", jobs], prog="verify")
    assert ended.value.code == 2
    assert "want 1 to 256" in capsys.readouterr().err
