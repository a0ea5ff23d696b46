"""Keys, runs, files and artifacts over plain HTTP: what no client shows by itself."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import pytest

from wandb_spool.syncer.rehearsal import Account, RehearsalServer

from .clients import gql, make_run, post, rows, send, stream

CREATE_FILES = """mutation($n: String!, $f: [String!]!) {
  createRunFiles(input: {entityName: "rehearsal", projectName: "p", runName: $n, files: $f}) {
    runID uploadHeaders files { name uploadUrl } } }"""
LIST_FILES = """query($n: String!, $first: Int, $after: String) {
  project(name: "p", entityName: "rehearsal") { run(name: $n) { fileCount
    files(first: $first, after: $after) {
      edges { node { name sizeBytes md5 url directUrl } } pageInfo { endCursor hasNextPage } } } } }"""


def _upload(server: RehearsalServer, run_id: str, name: str, content: bytes) -> str:
    (file,) = gql(server, CREATE_FILES, n=run_id, f=[name])["createRunFiles"]["files"]
    assert send("PUT", file["uploadUrl"], content).status == 200
    return str(file["uploadUrl"])


# ---- keys ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["x" * 40, ""])
def test_a_wrong_key_is_answered_401_and_stores_nothing(rehearsal: RehearsalServer, key: str) -> None:
    answer = make_run(rehearsal, "r", key=key or "-")
    assert answer.status == 401
    assert answer.body["errors"][0]["message"] == "user is not logged in"
    assert rehearsal.report().runs == {}


def test_the_key_outlives_the_server_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    with RehearsalServer(tmp_path / "d") as server:
        key = server.api_key
    with RehearsalServer(tmp_path / "d") as server:
        assert server.api_key == key
    assert (tmp_path / "d" / "key").stat().st_mode & 0o777 == 0o600


def test_a_key_writes_to_its_own_entity_and_its_teams_only(tmp_path: Path) -> None:
    key = "k" * 40
    with RehearsalServer(tmp_path, accounts=[Account(key, "ann", teams=("lab",))]) as server:
        assert gql(server, "{viewer{entity teams{edges{node{name}}}}}", key=key)["viewer"] == {
            "entity": "ann",
            "teams": {"edges": [{"node": {"name": "lab"}}]},
        }
        assert make_run(server, "mine", key=key).status == 200
        assert make_run(server, "ours", entity="lab", key=key).status == 200
        refused = make_run(server, "theirs", entity="bob", key=key)
        assert (refused.status, refused.body["errors"][0]["message"]) == (403, "permission denied")
        assert {run[0] for run in server.report().runs} == {"ann", "lab"}
        make_run(server, "hidden", entity="bob")
        hidden = gql(server, 'query { project(name: "p", entityName: "bob") { name } }', key=key)
        assert hidden["project"] is None
        body = {"files": {"wandb-history.jsonl": {"offset": 0, "content": ["{}"]}}}
        assert post(server, "/files/bob/p/hidden/file_stream", body, key=key).status == 403


def test_the_entity_of_the_default_key_can_be_chosen(rehearsal: RehearsalServer) -> None:
    rehearsal.set_behaviour(entity="lab")
    assert gql(rehearsal, "{viewer{entity}}")["viewer"]["entity"] == "lab"


# ---- runs --------------------------------------------------------------------------------------------------


def test_a_deleted_run_is_refused_with_409_and_stays_so_after_a_restart(rehearsal: RehearsalServer) -> None:
    make_run(rehearsal, "r")
    rehearsal.delete_run("rehearsal", "p", "r")
    rehearsal.restart()
    answer = make_run(rehearsal, "r")
    assert answer.status == 409
    assert "previously created and deleted" in answer.body["errors"][0]["message"]
    assert stream(rehearsal, "r", 0, rows(0, 1)).status == 409
    assert rehearsal.report().run("r").deleted


def test_a_run_that_was_never_created_takes_no_lines(rehearsal: RehearsalServer) -> None:
    assert stream(rehearsal, "nobody", 0, rows(0, 1)).status == 404


def test_a_resumed_run_is_told_where_it_ended(rehearsal: RehearsalServer) -> None:
    query = """query($n: String!) { model(name: "p", entityName: "rehearsal") { bucket(name: $n, missingOk: true) {
      historyLineCount eventsLineCount logLineCount historyTail eventsTail summaryMetrics config wandbConfig } } }"""
    make_run(rehearsal, "r")
    stream(rehearsal, "r", 0, rows(0, 7))
    bucket = gql(rehearsal, query, n="r")["model"]["bucket"]
    assert (bucket["historyLineCount"], bucket["eventsLineCount"], bucket["logLineCount"]) == (7, 0, 0)
    (tail,) = json.loads(bucket["historyTail"])
    assert json.loads(tail)["_step"] == 6
    assert json.loads(bucket["eventsTail"]) == []
    assert gql(rehearsal, query, n="other")["model"]["bucket"] is None


def test_runs_are_filtered_ordered_and_paged(rehearsal: RehearsalServer) -> None:
    upsert = """mutation($n: String, $c: JSONString, $t: [String!]) {
      upsertBucket(input: {modelName: "p", name: $n, config: $c, tags: $t}) { inserted } }"""
    for i in range(5):
        config = json.dumps({"lr": {"value": i}})
        gql(rehearsal, upsert, n=f"r{i}", c=config, t=["even"] if i % 2 == 0 else [])
    query = """query($f: JSONString, $o: String, $a: String) { project(name: "p") { runCount(filters: $f)
      runs(filters: $f, order: $o, first: 2, after: $a) {
        edges { node { name } } pageInfo { endCursor hasNextPage } } } }"""

    def names(filters: object, order: str) -> list[str]:
        found: list[str] = []
        cursor = None
        while True:
            project = gql(rehearsal, query, f=json.dumps(filters), o=order, a=cursor)["project"]
            found += [edge["node"]["name"] for edge in project["runs"]["edges"]]
            cursor = project["runs"]["pageInfo"]["endCursor"]
            if not project["runs"]["pageInfo"]["hasNextPage"]:
                assert project["runCount"] == len(found)
                return found

    assert names({}, "+created_at") == ["r0", "r1", "r2", "r3", "r4"]
    assert names({"tags": "even"}, "-config.lr.value") == ["r4", "r2", "r0"]
    assert names({"$or": [{"config.lr.value": {"$gt": 3}}, {"name": {"$in": ["r1"]}}]}, "+created_at") == ["r1", "r4"]


# ---- files -------------------------------------------------------------------------------------------------


def test_upload_addresses_follow_the_host_header_and_end_in_the_files_name(rehearsal: RehearsalServer) -> None:
    make_run(rehearsal, "r")
    body = {"query": CREATE_FILES, "variables": {"n": "r", "f": ["media/a b#1.png"]}}
    url = f"{rehearsal.base_url}/graphql"
    headers = {"Host": "login-node:7777"}
    answer = send("POST", url, json.dumps(body).encode(), key=rehearsal.api_key, **headers)
    (file,) = json.loads(answer.body)["data"]["createRunFiles"]["files"]
    assert file["uploadUrl"].startswith("http://login-node:7777/")
    assert file["uploadUrl"].endswith("/media/a%20b%231.png")


@pytest.mark.parametrize("name", ["a.txt", "media/images/a b#1%.png", "../../../etc/x", "ünï/ço∂é.bin", "empty"])
def test_a_file_is_listed_with_size_and_md5_and_comes_back_byte_for_byte(rehearsal: RehearsalServer, name: str) -> None:
    make_run(rehearsal, "r")
    content = b"" if name == "empty" else name.encode() * 5000
    _upload(rehearsal, "r", name, content)
    (edge,) = gql(rehearsal, LIST_FILES, n="r")["project"]["run"]["files"]["edges"]
    node = edge["node"]
    md5 = base64.b64encode(hashlib.md5(content).digest()).decode()
    assert (node["name"], node["sizeBytes"], node["md5"]) == (name, len(content), md5)
    assert send("GET", node["url"]).body == content
    assert rehearsal.report().run("r").files[name] == (len(content), hashlib.sha256(content).hexdigest())
    rehearsal.set_behaviour(file_md5=False)
    (edge,) = gql(rehearsal, LIST_FILES, n="r")["project"]["run"]["files"]["edges"]
    assert edge["node"]["md5"] is None


def test_the_newest_upload_of_a_file_counts_and_files_come_in_pages(rehearsal: RehearsalServer) -> None:
    make_run(rehearsal, "r")
    for i in range(5):
        _upload(rehearsal, "r", f"f{i}", b"old")
    _upload(rehearsal, "r", "f3", b"newer")
    found, cursor = [], None
    while True:
        page = gql(rehearsal, LIST_FILES, n="r", first=2, after=cursor)["project"]["run"]["files"]
        found += [(edge["node"]["name"], edge["node"]["sizeBytes"]) for edge in page["edges"]]
        cursor = page["pageInfo"]["endCursor"]
        if not page["pageInfo"]["hasNextPage"]:
            break
    assert found == [("f0", 3), ("f1", 3), ("f2", 3), ("f3", 5), ("f4", 3)]
    assert rehearsal.report().run("r").uploads["f3"] == 2


def test_an_address_that_the_server_did_not_make_is_refused(rehearsal: RehearsalServer) -> None:
    make_run(rehearsal, "r")
    url = _upload(rehearsal, "r", "mine", b"1")
    assert send("PUT", url.replace("/mine", "/theirs"), b"2").status == 403
    assert list(rehearsal.report().run("r").files) == ["mine"]


def test_files_show_up_late_when_told_to(rehearsal: RehearsalServer) -> None:
    make_run(rehearsal, "r")
    _upload(rehearsal, "r", "f", b"1")
    rehearsal.set_behaviour(late_s=3600)
    run = gql(rehearsal, LIST_FILES, n="r")["project"]["run"]
    assert (run["fileCount"], run["files"]["edges"]) == (0, [])
    assert "f" in rehearsal.report().run("r").files


# ---- artifacts -----------------------------------------------------------------------------------------------

CREATE = """mutation($i: CreateArtifactInput!) { createArtifact(input: $i) {
  artifact { id state versionIndex artifactSequence { latestArtifact { id } } } } }"""
FILES = """mutation($i: CreateArtifactFilesInput!) { createArtifactFiles(input: $i) { files { edges { node {
  storagePath uploadUrl uploadHeaders artifact { id }
  uploadMultipartUrls { uploadID uploadUrlParts { partNumber uploadUrl } } } } } } }"""
MANIFEST = """mutation($i: CreateArtifactManifestInput!) { createArtifactManifest(input: $i) {
  artifactManifest { id file { uploadUrl } } } }"""
COMMIT = "mutation($i: CommitArtifactInput!) { commitArtifact(input: $i) { artifact { state } } }"
COMPLETE = """mutation($i: CompleteMultipartUploadArtifactInput!) {
  completeMultipartUploadArtifact(input: $i) { digest } }"""
OUTPUTS = """query($n: String!) { project(name: "p") { run(name: $n) { outputArtifacts { edges { node {
  state digest size fileCount } } } } } }"""


def _md5(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content).digest()).decode()


def _create(server: RehearsalServer, run_id: str, digest: str, client: str) -> dict[str, str]:
    wanted = {
        "entityName": "rehearsal",
        "projectName": "p",
        "runName": run_id,
        "artifactTypeName": "model",
        "artifactCollectionName": "weights",
        "digest": digest,
        "clientID": client,
        "enableDigestDeduplication": True,
        "aliases": [{"artifactCollectionName": "weights", "alias": "best"}],
    }
    created: dict[str, str] = gql(server, CREATE, i=wanted)["createArtifact"]["artifact"]
    return created


def _announce(server: RehearsalServer, artifact_id: str, content: bytes, **extra: object) -> dict[str, object]:
    spec = {"artifactID": artifact_id, "name": "w.bin", "md5": _md5(content), **extra}
    (edge,) = gql(server, FILES, i={"artifactFiles": [spec]})["createArtifactFiles"]["files"]["edges"]
    node: dict[str, object] = edge["node"]
    return node


def _put_manifest(server: RehearsalServer, artifact_id: str, content: bytes) -> None:
    entry = {"digest": _md5(content), "size": len(content), "birthArtifactID": artifact_id}
    manifest = json.dumps({"version": 1, "contents": {"w.bin": entry}}).encode()
    names = {"entityName": "rehearsal", "projectName": "p", "runName": "r", "name": "wandb_manifest.json"}
    made = gql(server, MANIFEST, i={**names, "artifactID": artifact_id, "digest": _md5(manifest)})
    url = made["createArtifactManifest"]["artifactManifest"]["file"]["uploadUrl"]
    assert send("PUT", url, manifest).status == 200


def _commit(server: RehearsalServer, artifact_id: str) -> tuple[int, object]:
    answer = post(server, "/graphql", {"query": COMMIT, "variables": {"i": {"artifactID": artifact_id}}})
    return answer.status, answer.body


def test_an_artifact_is_pending_until_all_its_files_and_its_manifest_are_there(
    rehearsal: RehearsalServer,
) -> None:
    make_run(rehearsal, "r")
    content = b"weights" * 100
    artifact = _create(rehearsal, "r", "d1", "c1")
    assert artifact["state"] == "PENDING"
    assert _commit(rehearsal, artifact["id"])[0] == 400  # no manifest yet
    _put_manifest(rehearsal, artifact["id"], content)
    assert _commit(rehearsal, artifact["id"])[0] == 400  # a file is missing
    assert gql(rehearsal, OUTPUTS, n="r")["project"]["run"]["outputArtifacts"]["edges"] == []
    node = _announce(rehearsal, artifact["id"], content)
    assert send("PUT", str(node["uploadUrl"]), b"other bytes").status == 400
    assert send("PUT", str(node["uploadUrl"]), content).status == 200
    assert _commit(rehearsal, artifact["id"])[0] == 200
    assert _commit(rehearsal, artifact["id"])[0] == 200  # said twice
    (edge,) = gql(rehearsal, OUTPUTS, n="r")["project"]["run"]["outputArtifacts"]["edges"]
    assert edge["node"] == {"state": "COMMITTED", "digest": "d1", "size": len(content), "fileCount": 1}
    rehearsal.restart()
    (stored,) = rehearsal.report().run("r").artifacts
    assert (stored.name, stored.version, stored.aliases) == ("weights", 0, ("best", "latest"))
    assert stored.files == {"w.bin": (len(content), hashlib.sha256(content).hexdigest())}


def test_known_content_makes_no_new_version_and_a_lost_answer_no_second_one(rehearsal: RehearsalServer) -> None:
    make_run(rehearsal, "r")
    make_run(rehearsal, "s")
    first = _create(rehearsal, "r", "d1", "c1")
    assert _create(rehearsal, "r", "d1", "c1")["id"] == first["id"]  # the answer was lost, asked again
    content = b"x"
    send("PUT", str(_announce(rehearsal, first["id"], content)["uploadUrl"]), content)
    _put_manifest(rehearsal, first["id"], content)
    _commit(rehearsal, first["id"])
    again = _create(rehearsal, "s", "d1", "c2")
    assert (again["id"], again["state"]) == (first["id"], "COMMITTED")
    assert len(rehearsal.report().run("s").artifacts) == 1
    second = _create(rehearsal, "s", "d2", "c3")
    assert second["id"] != first["id"]
    known = _announce(rehearsal, second["id"], content)
    assert known["uploadUrl"] is None  # the bytes are there, from the version before
    assert known["artifact"] == {"id": first["id"]}


def test_a_version_with_known_content_is_an_output_of_the_later_run_only_if_told_so(
    rehearsal: RehearsalServer,
) -> None:
    make_run(rehearsal, "r")
    make_run(rehearsal, "s")
    rehearsal.set_behaviour(deduplicated_outputs=False)
    _create(rehearsal, "r", "d1", "c1")
    _create(rehearsal, "s", "d1", "c2")
    assert len(rehearsal.report().run("r").artifacts) == 1
    assert rehearsal.report().run("s").artifacts == ()


def test_a_multipart_upload_becomes_one_file_when_all_parts_are_there(rehearsal: RehearsalServer) -> None:
    make_run(rehearsal, "r")
    parts = [b"a" * 5000, b"b" * 5000, b"c" * 17]
    content = b"".join(parts)
    artifact = _create(rehearsal, "r", "d1", "c1")
    announced = [{"partNumber": i, "hexMD5": hashlib.md5(p).hexdigest()} for i, p in enumerate(parts, 1)]
    node = _announce(rehearsal, artifact["id"], content, uploadPartsInput=announced)
    upload = node["uploadMultipartUrls"]
    assert isinstance(upload, dict)
    urls = [part["uploadUrl"] for part in upload["uploadUrlParts"]]
    tags = [send("PUT", url, part).headers["etag"] for url, part in zip(urls[:2], parts[:2], strict=True)]
    complete = {
        "completeMultipartAction": "Complete",
        "completedParts": [{"partNumber": i, "hexMD5": tag} for i, tag in enumerate([*tags, "z"], 1)],
        "artifactID": artifact["id"],
        "storagePath": node["storagePath"],
        "uploadID": upload["uploadID"],
    }
    refused = post(rehearsal, "/graphql", {"query": COMPLETE, "variables": {"i": complete}})
    assert refused.status == 400  # the third part is not there
    send("PUT", urls[2], parts[2])
    assert gql(rehearsal, COMPLETE, i=complete)["completeMultipartUploadArtifact"]["digest"] == _md5(content)
    _put_manifest(rehearsal, artifact["id"], content)
    assert _commit(rehearsal, artifact["id"])[0] == 200
    (stored,) = rehearsal.report().run("r").artifacts
    assert stored.files["w.bin"].sha256 == hashlib.sha256(content).hexdigest()


# ---- GraphQL ---------------------------------------------------------------------------------------------------


def test_an_unknown_field_or_operation_is_a_clear_error_and_is_told_in_the_report(
    rehearsal: RehearsalServer,
) -> None:
    for query in ("{ viewer { shoeSize } }", "mutation { launchRocket { success } }", "{"):
        assert post(rehearsal, "/graphql", {"query": query}).status == 400
    told = rehearsal.report().misunderstood
    assert "shoeSize" in told[0] and "launchRocket" in told[1] and "Syntax Error" in told[2]


def test_the_schema_can_be_asked_for(rehearsal: RehearsalServer) -> None:
    fields = gql(rehearsal, '{ __type(name: "Run") { fields { name } } }')["__type"]["fields"]
    assert "historyLineCount" in {field["name"] for field in fields}


def test_what_a_read_back_needs_comes_in_one_request(rehearsal: RehearsalServer) -> None:
    make_run(rehearsal, "r")
    stream(rehearsal, "r", 0, rows(0, 3))
    _upload(rehearsal, "r", "f", b"1")
    query = """{ project(name: "p", entityName: "rehearsal") { run(name: "r") {
      state config summaryMetrics historyLineCount historyKeys
      files { edges { node { name sizeBytes md5 } } }
      outputArtifacts { edges { node { state digest size fileCount } } } } } }"""
    run = gql(rehearsal, query)["project"]["run"]
    assert run["historyLineCount"] == 3
    assert run["historyKeys"]["lastStep"] == 2
    assert [edge["node"]["name"] for edge in run["files"]["edges"]] == ["f"]
