"""The server: its predictions are the model's own at every ratio, and nothing that a client sends breaks it."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from transformers import BertForSequenceClassification, BertForTokenClassification

from dataset import Collator, GlueExample, encode_classification, get_task, sentinel_id, verbalizer_ids
from dataset.classification import PairCollator, encode_pairs
from dataset.tokens import TaggedSentence, encode_tagged
from model import PluginConfig, apply_edit, use_ratio
from model.delta import load_delta, save_delta
from model.distillation import classify
from model.heads import VerbalizerHead
from model.plugin.surgery import plugin_layers
from serving.app import AppSettings
from serving.arguments import parse_arguments
from serving.controller import ControllerSettings, RatioController
from serving.engine import EngineSettings
from serving.guard import GuardSettings
from serving.loading import load_predictor, parse_plugins
from serving.predictor import Predictor
from serving.server import bind
from tests.tiny import backbone
from tests.tiny_bert import bert_config, tiny_word_pieces
from tests.tiny_server import Server, body_of, predict
from utils.errors import user_errors
from utils.loading import Loaded, load_t5, write_task_file

RATIOS = (2, 4)
TEXTS = (
    "a good film",
    "it is a bad film and this is bad",
    "good",
    "is this a question of a good or bad film or of each",
)
LONG = "a good film and " * 60
MAX_LENGTH = 160
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A T5 in `t5`, and plugins that show in `sst2` and `rte`."""
    root = tmp_path_factory.mktemp("serving")
    backbone(root / "t5")
    for seed, name in enumerate(("sst2", "rte")):
        model = load_t5(str(root / "t5"), None).model
        apply_edit(model, PluginConfig(RATIOS, 6, 10.0))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in (p for ffn in plugin_layers(model) for p in ffn.bank.parameters()):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        (root / name).mkdir()
        save_delta(model, "plugin", root / name)
        write_task_file(root / name, name, 0, "hf")
    return root


def predictor_of(folder: Path, *plugins: str) -> Predictor:
    given = [plugin.replace("@", str(folder)) for plugin in plugins]
    flags = ["--model", str(folder / "t5"), "--device", "cpu", "--max-length", str(MAX_LENGTH), "--precision", "fp32"]
    return load_predictor(parse_arguments([*flags, "--plugins", *given]))


@pytest.fixture(scope="module")
def sst2(folder: Path) -> Predictor:
    return predictor_of(folder, "@/sst2")


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Makes servers, and stops them afterwards."""
    made: list[Server] = []

    def make(
        predictor: Predictor,
        ratio: int = 1,
        start: bool = True,
        queue_rows: int = 64,
        controller: RatioController | None = None,
        **limits: Any,
    ) -> Server:
        chosen = controller or RatioController(ControllerSettings(100.0), {ratio: 1e-6})
        settings = EngineSettings(queue_rows, max_batch=3, max_wait_s=0.001)
        server = Server(predictor, settings, AppSettings(**limits), chosen)
        made.append(server)
        if start:
            server.engine.start()
        return server

    yield make
    for server in made:
        server.engine.stop(10.0)


@functools.cache
def with_plugins(folder: Path, plugins: str) -> Loaded:
    """The model and the tokenizer, loaded without the server."""
    loaded = load_t5(str(folder / "t5"), None)
    load_delta(loaded.model, "plugin", folder / plugins)
    return loaded


def offline(folder: Path, plugins: str, ratio: int, *texts: str) -> list[list[float]]:
    """Class probabilities of rows that go through the model alone, as `train_t5.py --mode valid` has them."""
    loaded, task = with_plugins(folder, plugins), get_task("sst2")
    head = VerbalizerHead(verbalizer_ids(task, loaded.tokenizer), sentinel_id(loaded.tokenizer, 0))
    rows = []
    for feature in encode_classification(task, [GlueExample(0, t) for t in texts], loaded.tokenizer, MAX_LENGTH):
        with torch.no_grad(), use_ratio(loaded.model.eval(), ratio):
            rows.append(head(loaded.model, Collator(0)([feature])).scores.softmax(-1)[0].tolist())
    return rows


def scores_in(response: httpx.Response) -> list[list[float]]:
    assert response.status_code == 200, response.text
    return [list(row["scores"].values()) for row in response.json()["predictions"]]


# --- predictions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [1, *RATIOS])
def test_answers_are_the_models_own_at_every_ratio(
    folder: Path, sst2: Predictor, serve: Callable[..., Server], ratio: int
) -> None:
    """Rows of several lengths and batches, together and alone: labels and scores are those of offline evaluation."""
    server, expected = serve(sst2, ratio), offline(folder, "sst2", ratio, *TEXTS)
    together = server.post(body_of(*TEXTS))
    alone = [scores_in(server.post(body_of(text, task="sst2")))[0] for text in TEXTS]
    for found in (scores_in(together), alone):
        for row, wanted in zip(found, expected, strict=True):
            assert row == pytest.approx(wanted, abs=4e-5)
    for row in together.json()["predictions"]:
        assert row["ratio"] == ratio and not row["truncated"]
        assert row["label"] == max(row["scores"], key=row["scores"].get) and list(row["scores"]) == [
            "negative",
            "positive",
        ]
    assert together.json()["queue_ms"] >= 0 and together.json()["compute_ms"] > 0


def test_ratios_differ_and_the_answer_says_which(folder: Path, sst2: Predictor, serve: Callable[..., Server]) -> None:
    """A controller that is late at once serves with the next ratio; the answer is that ratio's, and says so."""
    hurried = RatioController(ControllerSettings(1.0), {1: 1.0, 2: 0.5, 4: 0.25})
    server = serve(sst2, controller=hurried)
    answer = server.post(body_of(TEXTS[1]))
    dense, second = (offline(folder, "sst2", ratio, TEXTS[1])[0] for ratio in (1, 2))
    assert dense != pytest.approx(second, abs=1e-3)  # or this test could not fail
    assert answer.json()["predictions"][0]["ratio"] == 2
    assert scores_in(answer)[0] == pytest.approx(second, abs=4e-5)
    assert b"serving_ratio_changes_total 1.0" in server.metrics.text()


def test_each_task_has_its_own_plugins(folder: Path, serve: Callable[..., Server]) -> None:
    """Two tasks on one backbone: each is answered by the plugins of its directory; a request has to name one."""
    server = serve(predictor_of(folder, "sst2=@/sst2", "rte=@/rte"), ratio=2)
    found = scores_in(server.post(body_of(*TEXTS, task="sst2")))
    for row, wanted in zip(found, offline(folder, "sst2", 2, *TEXTS), strict=True):
        assert row == pytest.approx(wanted, abs=4e-5)
    swapped = serve(predictor_of(folder, "sst2=@/rte", "rte=@/sst2"), ratio=2)
    assert scores_in(swapped.post(body_of(TEXTS[1], task="sst2")))[0] != pytest.approx(found[1], abs=1e-3)
    pair = {"task": "rte", "rows": [{"sentence1": "a film", "sentence2": "a good film"}]}
    assert list(server.post(pair).json()["predictions"][0]["scores"]) == ["entailment", "not_entailment"]
    assert server.post(body_of("a")).json()["detail"][0]["loc"] == ["body", "task"]


def test_a_long_text_is_cut_as_in_training_and_the_answer_says_so(
    folder: Path, sst2: Predictor, serve: Callable[..., Server]
) -> None:
    """Cut before the answer slot; other rows of the request are whole."""
    answer = serve(sst2, 2).post(body_of(TEXTS[0], LONG))
    assert [row["truncated"] for row in answer.json()["predictions"]] == [False, True]
    assert scores_in(answer)[1] == pytest.approx(offline(folder, "sst2", 2, LONG)[0], abs=4e-5)


def test_a_bert_classifier_is_served(tmp_path: Path, serve: Callable[..., Server]) -> None:
    """Pairs of sentences; without plugins there is one ratio."""
    torch.manual_seed(0)
    model = BertForSequenceClassification(bert_config(num_labels=2, initializer_range=0.5)).eval()
    model.save_pretrained(tmp_path)
    tokenizer = tiny_word_pieces()
    tokenizer.save_pretrained(tmp_path)
    flags = ["--model", str(tmp_path), "--task", "MRPC", "--max-length", "32", "--device", "cpu", "--precision", "fp32"]
    server = serve(load_predictor(parse_arguments(flags)))
    rows = [
        {"sentence2": "the plot is dull", "sentence1": "a good film"},
        {"sentence1": "bad", "sentence2": "it is bad"},
    ]
    found = scores_in(server.post({"rows": rows}))
    for row, given in zip(found, rows, strict=True):
        example = GlueExample(0, given["sentence1"], given["sentence2"])
        batch = PairCollator(Collator(0))(list(encode_pairs([example], tokenizer, 32)))
        with torch.no_grad():
            assert row == pytest.approx(classify(model, batch).softmax(-1)[0].tolist(), abs=4e-5)
    assert server.talk(lambda client: client.get("/v1/model")).json()["tasks"]["mrpc"]["ratios"] == [1]


def test_words_are_tagged_one_by_one(tmp_path: Path, serve: Callable[..., Server]) -> None:
    """The tag of a word is that of its first piece; what is cut off is O, and the answer says that text was cut."""
    torch.manual_seed(0)
    task, tokenizer = get_task("wnut17"), tiny_word_pieces()
    model = BertForTokenClassification(bert_config(num_labels=len(task.labels), initializer_range=0.5)).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    flags = ["--model", str(tmp_path), "--task", "wnut17", "--max-length", "16", "--device", "cpu"]
    flags += ["--precision", "fp32"]
    server = serve(load_predictor(parse_arguments(flags)))
    texts = ("it is  bad", "a good film " * 9, "")
    answer = server.post({"rows": [{"tokens": text} for text in texts]}).json()["predictions"]
    assert [row["truncated"] for row in answer] == [False, True, False]
    for row, text in zip(answer, texts, strict=True):
        (feature,) = encode_tagged([TaggedSentence(0, tuple(text.split()), None, ())], tokenizer, 16)
        with torch.no_grad():
            scores = classify(model, PairCollator(Collator(0))([feature])).softmax(-1)[0]
        assert (row["label"], row["scores"], len(row["tags"])) == (None, {}, len(text.split()))
        for tag, start in zip(row["tags"], feature.starts, strict=True):
            score, at = scores[start].max(-1) if start >= 0 else (1.0, 0)
            assert tag == {"label": task.labels[int(at)], "score": pytest.approx(float(score), abs=4e-5)}
    assert {tag["label"] for tag in answer[1]["tags"][-5:]} == {"O"}
    assert any(tag["label"] != "O" for row in answer for tag in row["tags"])


# --- what clients do wrong ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"rows": []}, ["rows"]),
        (body_of("a", "b", "c", "d", "e"), ["rows"]),
        ({"rows": [{"sentence": "a"}, {"text": "a"}]}, ["rows", 1, "sentence"]),
        ({"rows": [{"sentence": "a", "label": "1"}]}, ["rows", 0, "label"]),
        ({"rows": [{"sentence": "a" * 2000}]}, ["rows", 0, "sentence"]),
        ({"rows": [{"sentence": 3}]}, ["rows", 0, "sentence"]),
        (body_of("a", task="mrpc"), ["task"]),
        (body_of("a", path="/etc/passwd"), ["path"]),
        ({"task": "sst2"}, ["rows"]),
        (b'{"rows": [{"sentence": "\\ud800"}]}', []),
        (b'{"rows": [{"\\udfff": "a"}]}', []),
        (b'{"rows": ', []),
    ],
)
def test_a_bad_request_is_refused_with_the_place(
    sst2: Predictor, serve: Callable[..., Server], body: Any, place: list[Any]
) -> None:
    """Status 422, where the mistake is, and nothing of what was sent but names."""
    server = serve(sst2, start=False, max_rows=4, max_chars=1999)
    answer = server.post(body)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", *place]
    assert len(answer.content) < 1000
    assert b'serving_requests_total{status="422"} 1.0' in server.metrics.text()


def test_a_large_request_is_refused_whatever_it_says(sst2: Predictor, serve: Callable[..., Server]) -> None:
    """By its announced size, and by what comes where none is announced."""
    server = serve(sst2, start=False, guard=GuardSettings(max_body_bytes=1000))

    async def pieces() -> Any:
        for _ in range(20):
            yield b" " * 100

    async def both(client: httpx.AsyncClient) -> list[int]:
        announced = await predict(client, b" " * 2000)
        streamed = await client.post("/v1/predict", content=pieces(), headers={"content-type": "application/json"})
        return [announced.status_code, streamed.status_code]

    assert server.talk(both) == [413, 413]


# --- load and the end ----------------------------------------------------------------------------------------------


async def until_waiting(client: httpx.AsyncClient, rows: int) -> None:
    """Wait until so many rows are in the queue."""
    while f"serving_queue_rows {rows:.1f}\n" not in (await client.get("/metrics")).text:
        await asyncio.sleep(0.005)


def test_a_full_queue_refuses_and_takes_again(sst2: Predictor, serve: Callable[..., Server]) -> None:
    """Rows beyond the queue's room get 429 and a time to come back; what was taken is answered, and room returns."""
    server = serve(sst2, start=False, queue_rows=4)

    async def crowd(client: httpx.AsyncClient) -> list[httpx.Response]:
        first = asyncio.ensure_future(predict(client, body_of(*TEXTS[:3])))
        await until_waiting(client, 3)
        refused = await predict(client, body_of(*TEXTS[:2]))
        server.engine.start()
        return [refused, await first, await predict(client, body_of(*TEXTS))]

    refused, first, again = server.talk(crowd)
    assert [refused.status_code, first.status_code, again.status_code] == [429, 200, 200]
    assert int(refused.headers["retry-after"]) >= 1
    text = server.metrics.text().decode()
    for line in (
        'serving_requests_total{status="200"} 2.0',
        'serving_requests_total{status="429"} 1.0',
        'serving_rows_total{ratio="1",task="sst2"} 7.0',
        "serving_latency_seconds_count 2.0",
        "serving_batch_rows_sum 7.0",
        "serving_queue_rows 0.0",
        "serving_ratio 1.0",
    ):
        assert f"\n{line}\n" in text, line


def test_the_end_answers_what_waits_and_refuses_the_rest(sst2: Predictor, serve: Callable[..., Server]) -> None:
    """Once the signal has come: 503 for new requests and health checks, answers for those that are there."""
    server = serve(sst2, start=False)

    async def ending(client: httpx.AsyncClient) -> Any:
        waiting = [asyncio.ensure_future(predict(client, body_of(text))) for text in TEXTS]
        await until_waiting(client, len(TEXTS))
        server.engine.refuse_more()
        late, health = await predict(client, body_of("a")), await client.get("/healthz")
        server.engine.start()
        done = await asyncio.to_thread(server.engine.stop, 30.0)
        return (
            [late.status_code, health.status_code],
            done,
            [answer.status_code for answer in await asyncio.gather(*waiting)],
        )

    assert server.talk(ending) == ([503, 503], True, [200] * len(TEXTS))


def test_an_end_without_time_says_so(sst2: Predictor, serve: Callable[..., Server]) -> None:
    """Who still waits gets 503, and `stop` tells that not all was done."""
    server = serve(sst2, start=False)

    async def ending(client: httpx.AsyncClient) -> Any:
        waiting = asyncio.ensure_future(predict(client, body_of("a")))
        await until_waiting(client, 1)
        return server.engine.stop(0.0), (await waiting).status_code

    assert server.talk(ending) == (False, 503)


def test_a_batch_that_fails_ends_its_requests_alone(
    folder: Path, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its requests get 500; the next ones are answered."""
    predictor = predictor_of(folder, "@/sst2")
    server, works = serve(predictor), predictor.predict

    def breaks(name: str, ratio: int, features: Any) -> Any:
        return works(name, ratio, features) if len(features[0].input_ids) < 50 else 1 / 0

    monkeypatch.setattr(predictor, "predict", breaks)
    assert server.post(body_of(LONG)).status_code == 500
    assert server.post(body_of("a")).status_code == 200


# --- flags -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ([], "--model is required"),
        (["--model", "d", "--ratio", "fast"], "--ratio is auto or a whole number of at least 1, found 'fast'"),
        (["--model", "d", "--ratio", "2", "--latency_target_ms", "9"], "--latency_target_ms has no effect with"),
        (["--model", "d", "--latency_target_ms", "nan"], "--latency_target_ms: expected a finite number, found .nan."),
        (["--model", "d", "--queue-rows", "9"], "--queue_rows 9 is less than --max_rows 64"),
        (["--model", "d", "--port", "70000"], "--port must be at least 0 and at most 65535, found 70000"),
        (["--model", "d", "--task", "sst"], "unknown dataset 'sst': did you mean sst2"),
    ],
)
def test_bad_flags_are_named(flags: list[str], text: str) -> None:
    with pytest.raises(user_errors(), match="(?s)" + text.replace("'", ".")):
        parse_arguments(flags)


def test_bad_directories_are_named(folder: Path, tmp_path: Path) -> None:
    """No model, no plugins, plugins whose task nobody knows, a taken port."""
    for flags, text in (
        (["--model", str(tmp_path)], "holds no model"),
        (["--model", str(folder / "t5")], "does not say which task it was trained for: name it with --task_name"),
        (["--model", str(folder / "t5"), "--plugins", "sst2=/nowhere"], "/nowhere does not exist"),
        (["--model", str(folder / "t5"), "--plugins", f"{folder}/sst2", f"{folder}/rte"], "names of their tasks"),
        (["--model", str(folder / "t5"), "--task", "squad"], "served for classification with a prompt"),
        (["--model", str(folder / "t5"), "--task", "rte", "--plugins", f"sst2={folder}/sst2"], "names sst2 only"),
    ):
        with pytest.raises(user_errors(), match=text):
            load_predictor(parse_arguments(flags))
    taken = bind("127.0.0.1", 0)
    taken.listen()
    with taken, pytest.raises(user_errors(), match="cannot listen there"):
        bind("127.0.0.1", taken.getsockname()[1])
    given = ["--model", "d", "--plugins", f"sst2={folder}/sst2", "--plugins", f"rte={folder}/rte"]
    assert [one.task for one in parse_plugins(parse_arguments(given).plugins)] == ["sst2", "rte"]


def test_a_model_that_computes_no_numbers_is_refused_at_the_start(folder: Path) -> None:
    """NaN or infinity in a single weight, also one that no batch needs, and finite weights that overflow."""
    poisons: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "shared.weight": lambda weight: weight.index_fill(0, torch.tensor([-1]), torch.nan),  # a row that none needs
        "encoder.final_layer_norm.weight": lambda weight: weight.index_fill(0, torch.tensor([3]), torch.inf),
        "decoder.final_layer_norm.weight": lambda weight: weight * 3e38,
    }
    for name, poison in poisons.items():
        predictor = predictor_of(folder, "@/sst2")
        predictor.check()
        weight = predictor.model.get_parameter(name)
        with torch.no_grad():
            weight.copy_(poison(weight))
        with pytest.raises(user_errors(), match=r"nan|inf"):
            predictor.check()


# --- the real thing ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_real_server_answers_and_ends_at_a_signal(folder: Path) -> None:
    """A process of its own on a free port: an answer, SIGTERM, exit code 0."""
    command = [sys.executable, "-m", "serving", "--model", str(folder / "t5"), "--plugins", str(folder / "sst2")]
    command += ["--port", "0", "--ratio", "2", "--threads", "1", "--precision", "fp32"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = next((line for line in process.stdout if line.startswith("listening on ")), "")
            address = f"http://127.0.0.1:{line.split('port ')[1].split(';')[0]}"
            answer = httpx.post(f"{address}/v1/predict", json=body_of(*TEXTS), timeout=60, trust_env=False)
            assert scores_in(answer)[1] == pytest.approx(offline(folder, "sst2", 2, TEXTS[1])[0], abs=4e-5)
            process.send_signal(signal.SIGTERM)
            assert process.stdout.read().endswith("ended: every request that was taken is answered\n")
            assert process.wait(60) == 0
        finally:
            process.kill()
