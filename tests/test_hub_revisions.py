"""What comes from the hub is of a commit that is recorded, and the same the next time; no test leaves this machine."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dataset import DataError, get_task, read_glue, read_squad
from tests.tiny_bert import save_bert
from utils import save_data
from utils.arguments.reading import Reading
from utils.engine.same_run import differences, models_in
from utils.errors import UserError
from utils.fetching import Limits
from utils.opening import places
from utils.opening.places import hub_directory, is_hub_id, model_directory

COMMIT, OTHER = "a" * 40, "b" * 40


# --- models ----------------------------------------------------------------------------------------------------------


class Hub:
    """Repositories in a cache of the hub's layout: a commit for each revision, and files of a size."""

    def __init__(self, root: Path, model: Path) -> None:
        self.commits = {None: COMMIT, "main": COMMIT, "v1": OTHER, COMMIT: COMMIT, OTHER: OTHER}
        self.size, self.is_there, self.asked, self.root, self.model = 10, True, list[Any](), root, model

    def model_info(self, name: str, revision: str | None = None, **_: Any) -> Any:
        """As `HfApi`'s."""
        self.asked.append((name, revision))
        if not self.is_there:
            raise OSError("Name or service not known")
        files = [SimpleNamespace(rfilename=file.name, size=self.size) for file in self.model.iterdir()]
        return SimpleNamespace(sha=self.commits[revision], siblings=files)

    def snapshot_download(self, name: str, revision: str | None = None, **more: Any) -> str:
        """As the library's."""
        folder = self.root / f"models--{name.replace('/', '--')}" / "snapshots" / str(self.commits[revision])
        if more.get("local_files_only") and not folder.is_dir():
            raise OSError("not there")
        folder.mkdir(parents=True, exist_ok=True)
        for file in self.model.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        return str(folder)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one BERT by every name."""
    made = Hub(tmp_path / "hub", save_bert(tmp_path / "model"))
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda _, *words, **more: made.model_info(*words, **more))
    monkeypatch.setattr("huggingface_hub.snapshot_download", made.snapshot_download)
    monkeypatch.setattr(places, "_FOUND", {})
    hub_directory.cache_clear()
    yield made
    hub_directory.cache_clear()


@pytest.mark.parametrize(
    ("name", "commit"),
    [("some/bert", COMMIT), ("some/bert@v1", OTHER), (f"some/bert@{OTHER}", OTHER), ("bert@main", COMMIT)],
)
def test_a_run_records_the_commit_of_its_model(hub: Hub, name: str, commit: str) -> None:
    """And what is in it; a model that was not opened has no record."""
    assert is_hub_id(name) and models_in({"teacher_model": name}) == {}
    folder = model_directory(name)
    assert Path(folder).name == commit and hub.asked == [(name.partition("@")[0], name.partition("@")[2] or None)]
    record = models_in({"teacher_model": name})["teacher_model"]
    assert record["revision"] == commit and "model.safetensors" in record["contents"]


def test_a_resumed_run_notices_another_commit(hub: Hub) -> None:
    """The branch has moved since: the flag is the same, and the weights are others."""
    given = {"teacher_model": "some/bert"}
    model_directory("some/bert")
    before = models_in(given)
    assert not list(differences(given, given, before, models_in(given), False))
    hub.commits[None] = OTHER
    save_bert(hub.model, seed=1)
    hub_directory.cache_clear()
    model_directory("some/bert")
    (found,) = differences(given, given, before, models_in(given), False)
    assert not found.may_be and "holds other weights now" in found.text


def test_a_commit_is_the_one_that_was_asked_for(hub: Hub) -> None:
    """A hub, or a mirror, that gives another is not believed; nor is one whose model is larger than any."""
    hub.commits[COMMIT] = OTHER
    with pytest.raises(UserError, match=f"gives the commit {OTHER}, which is not the one asked for"):
        model_directory(f"some/bert@{COMMIT}")
    hub.size = 10**11
    with pytest.raises(UserError, match=r"has \d+ GB on the hub, at most 64 are downloaded"):
        model_directory("some/bert")
    assert not hub.root.exists()


def test_without_a_connection_the_revision_counts_too(hub: Hub) -> None:
    """What was downloaded of it before is taken, and of no other."""
    folder = model_directory("some/bert@v1")
    hub.is_there = False
    hub_directory.cache_clear()
    assert model_directory("some/bert@v1") == folder
    with pytest.raises(UserError, match="has not given a model of that name"):
        model_directory("some/bert@main")


@pytest.mark.parametrize("name", ["some/bert@", "@main", "some/bert@../x y", "a/b/c@main", "some/bert@-x"])
def test_other_texts_are_no_names(name: str) -> None:
    """They are paths that are not there."""
    assert not is_hub_id(name)


# --- data sets -------------------------------------------------------------------------------------------------------


class Stored:
    """What a loader gives: writes what it was asked for."""

    def __init__(self, *asked: object) -> None:
        self.asked = asked

    def save_to_disk(self, path: str) -> None:
        """As `datasets`'."""
        (Path(path) / "train").mkdir(parents=True)
        (Path(path) / "train" / "data.arrow").write_text(repr(self.asked))


def quiet(_: str) -> None:
    """Says nothing."""


def test_data_sets_of_a_repository_are_of_one_commit(tmp_path: Path) -> None:
    """That of the first; the record tells it, with checksums, and nothing is asked again."""
    asked: list[tuple[str, str | None]] = []

    def resolve(repository: str, revision: str | None, _: int) -> str:
        asked.append((repository, revision))
        return COMMIT if len(asked) == 1 else OTHER

    save_data.save(["rte"], tmp_path, Stored, quiet, resolve)
    save_data.save(["rte", "mrpc", "squad"], tmp_path, Stored, quiet, resolve)
    assert asked == [("nyu-mll/glue", None), ("rajpurkar/squad", None)]
    files = [save_data.target_of(name, tmp_path) / "hub.json" for name in ("rte", "mrpc", "squad")]
    records = [json.loads(file.read_text()) for file in files]
    assert [record["revision"] for record in records] == [COMMIT, COMMIT, OTHER]
    assert [len(total) for record in records for total in record["sha256"].values()] == [64, 64, 64]
    assert COMMIT in (tmp_path / "glue" / "mrpc" / "train" / "data.arrow").read_text()


@pytest.mark.parametrize("damage", ["changed", "gone", "more", "record"])
def test_data_that_are_not_what_was_saved_are_refused(tmp_path: Path, damage: str) -> None:
    """By name; the caches of `datasets` beside them are nobody's concern."""
    save_data.save(["rte"], tmp_path, Stored, quiet, lambda *_: COMMIT)
    folder = tmp_path / "glue" / "rte"
    (folder / "train" / "cache-123.arrow").write_text("x")
    save_data.save(["rte"], tmp_path, Stored, quiet, lambda *_: COMMIT)
    file = folder / ("hub.json" if damage == "record" else "train/data.arrow")
    if damage == "gone":
        file.unlink()
    elif damage == "more":
        (folder / "more").write_text("x")
    else:
        file.write_text("{")
    with pytest.raises(UserError, match=r"is not what was saved|hub\.json is damaged"):
        save_data.save(["rte"], tmp_path, Stored, quiet, lambda *_: COMMIT)


@pytest.mark.parametrize(("named", "revision"), [("hub", {}), (f"hub@{COMMIT}", {"revision": COMMIT})])
def test_readers_take_a_revision(named: str, revision: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """In the place of a folder, and by every reader that asks the hub."""
    asked: list[Any] = []

    def load(repository: str, *_: Any, split: str, **more: str) -> Any:
        asked.append((repository, more))
        raise ValueError("no connection")

    monkeypatch.setattr("datasets.load_dataset", load)
    for read, told in (
        (lambda: read_glue(get_task("rte"), named, "valid"), "nyu-mll/glue"),
        (lambda: read_squad(named, "valid"), "rajpurkar/squad"),
    ):
        with pytest.raises(DataError, match=f"--data_dir {named}: {told}"):
            read()
    assert asked == [("nyu-mll/glue", revision), ("rajpurkar/squad", revision)]
    assert Reading(words=("hub",)).problem(named) is None
    assert Reading().problem(named) is not None and Reading(words=("hub",)).problem("hubs@x") is not None


def test_a_revision_is_obeyed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of one repository; another one than was saved is refused."""
    words = ["--data_dir", str(tmp_path), "--only", "rte"]
    save_data.main([*words, "--revision", "v1"], Stored, lambda _, revision, __: COMMIT if revision == "v1" else None)
    for revision in (None, "v1", COMMIT):
        more = [] if revision is None else ["--revision", revision]
        save_data.main([*words, *more], Stored, lambda *_: pytest.fail("the hub was asked"))
    with pytest.raises(SystemExit) as stopped:
        save_data.main([*words, "--revision", OTHER], Stored, lambda *_: None)
    assert stopped.value.code == 2 and f"is of the commit {COMMIT}, not {OTHER}" in capsys.readouterr().err
    with pytest.raises(UserError, match="GLUE and SQuAD are two"):
        save_data.save(["rte", "squad"], tmp_path, Stored, quiet, lambda *_: None, "v1")


def test_a_loader_without_end_is_given_up(tmp_path: Path) -> None:
    """Though it takes any error for one that passes."""

    def stubborn(*_: Any) -> Any:
        while True:
            try:
                time.sleep(30)
            except OSError:
                continue

    begun = time.monotonic()
    with pytest.raises(UserError, match=r"rte: nyu-mll/glue takes longer than .* minutes \(--max_minutes\)"):
        save_data.save(["rte"], tmp_path, stubborn, quiet, lambda *_: COMMIT, limits=Limits(seconds=0.2))
    assert time.monotonic() - begun < 30 and not (tmp_path / "glue").exists()


def test_a_repository_above_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its size on the hub, before anything is fetched."""
    info = SimpleNamespace(sha=COMMIT, siblings=[SimpleNamespace(size=7), SimpleNamespace(size=None)])
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_, **__: info)
    assert save_data.resolve_on_hub("a/b", None, 7) == COMMIT
    with pytest.raises(UserError, match="more than --max_gb"):
        save_data.resolve_on_hub("a/b", None, 6)
