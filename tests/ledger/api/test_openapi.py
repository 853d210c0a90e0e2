"""The OpenAPI document is true: whatever it allows is answered as it says, and nothing is 5xx."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks
from served_app import serve_app
from shard_scene import ShardScene, make_shard_scene
from simulated_operator import address, key, make_entitlement, make_payee_bundle, make_receipt

from ledger.api.app import make_app

pytestmark = pytest.mark.postgres

schemathesis.serializer.alias("application/partial-upload", "application/octet-stream")

EXAMPLES = 200 if os.environ.get("SWARMLEDGER_LONG_TESTS") == "1" else 4
CHECKED = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "missing_required_header",
    "unsupported_method",
)


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> Iterator[ShardScene]:
    with make_shard_scene(database_url, tmp_path) as made:
        made.reach_epoch(1)
        ann = make_entitlement(made.operator, "ann")
        made.promised = made.upload(
            make_payee_bundle("seeder", 1, [ann], [make_receipt(ann, "ann", "seeder", 1, 999_983)])
        )
        yield made


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def ask(case: schemathesis.Case) -> None:
    case.call_and_validate(checks=[CHECKS.get_one(name) for name in CHECKED], timeout=30)


@pytest.mark.timeout(1_800)
def test_every_operation_answers_as_the_document_says(scene):
    load_all_checks()
    app = make_app(scene.api_parts())
    document = app.openapi()
    asked = 0
    with serve_app(app) as client:
        schema = schemathesis.openapi.from_dict(document)
        schema.config.update(base_url=str(client.base_url))
        for result in schema.get_all_operations():
            operation = result.ok()
            given(operation.as_strategy(generation_mode=GenerationMode.POSITIVE))(ask)()
            # What has no parameter but raw bytes cannot be asked wrongly.
            if operation.definition.raw.get("parameters"):
                given(operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))(ask)()
            asked += 1
    assert asked == sum(len(path) for path in document["paths"].values())


def test_what_a_seeder_is_answered_in_an_epochs_life_is_in_the_document(scene):
    load_all_checks()
    app = make_app(scene.api_parts())
    schema = schemathesis.openapi.from_dict(app.openapi())
    ann = make_entitlement(scene.operator, "ann")
    raw = make_payee_bundle("seeder", 1, [ann], [make_receipt(ann, "ann", "seeder", 1, 1_000_003)])
    broadcaster = address("broadcaster")
    with serve_app(app) as client:

        def check(route: str, method: str, **names: str) -> None:
            answer = client.request(method, route.format(**names))
            schema[route][method].validate_response(answer)
            assert answer.status_code == 200

        conflict = client.post("/v1/bundles", content=raw)
        schema["/v1/bundles"]["POST"].validate_response(conflict)
        assert conflict.status_code == 409
        known = scene.promised.value.bundle_digest.hex()
        check("/v1/bundles/{digest}", "GET", digest=known)
        scene.judge_all()
        scene.end_epoch(1)
        scene.advance()
        scene.anchor(1, scene.terms.epoch_end_s(1) + 7)
        check("/v1/bundles/{digest}", "GET", digest=known)
        check("/v1/epochs", "GET")
        check("/v1/epochs/{number}", "GET", number="1")
        check("/v1/coverage", "GET")
        check("/v1/terms", "GET")
        check("/v1/issuing-binding", "GET")
        check("/v1/submitters/{key}/refusals", "GET", key=key("seeder").hex())
        check("/log/{broadcaster}/{path}", "GET", broadcaster=broadcaster, path="checkpoint")
        check("/metrics", "GET")
        check("/readyz", "GET")
