"""What the tools that make data and checkpoints propose: launchers that take it, commands that run."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers_hints import check, proposals, run
from tests.tiny_bert import TinyBert, run_task
from utils import data_augmentation, make_corpus, pregenerate_training_data, quantize, save_data, tool_steps
from utils.embedded import __main__ as embedded
from utils.embedded import bert as embedded_bert
from utils.export import __main__ as export
from utils.hints import ROOT, next_lines

pytestmark = pytest.mark.usefixtures("single_thread")


@pytest.fixture(autouse=True)
def at_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where commands are printed for."""
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyBert:
    """A model and data whose folders have names that a shell would take apart."""
    return TinyBert(tmp_path_factory.mktemp("it's a place"))


@pytest.fixture(scope="module")
def tuned(tiny: TinyBert) -> Path:
    """A fine-tuned run beside them."""
    output = tiny.root / "my run"
    words = ["--task_name", "sst2", "--data_dir", str(tiny.glue), "--output_dir", str(output), "--mode", "finetune"]
    run_task([*words, "--teacher_model", str(tiny.model), "--max_seq_length", "32", "--num_train_epochs", "1"])
    return output


def plan_of(words: list[str]) -> str:
    """What a launcher would do."""
    environment = {"PATH": "/usr/bin:/bin", "TOOLKIT_PYTHON": sys.executable}
    done = subprocess.run([*words, "--dry-run"], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def told(capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    """What was proposed since, with at least one command."""
    found = proposals(capsys.readouterr().out)
    assert found
    return found


@pytest.mark.parametrize(
    ("names", "script"),
    [(["mnli", "mrpc"], "glue/glue.sh base mrpc"), (["cola"], "minidisc/finetuning.sh bert-base-uncased cola")],
)
@pytest.mark.parametrize("folder", ["data", "my data"])
def test_saved_tasks_are_fine_tuned_on_where_they_lie(names: list[str], script: str, folder: str) -> None:
    saved = [(name, save_data.target_of(name, Path(folder))) for name in names]
    (words,) = proposals(next_lines(tool_steps.after_save_data(saved, Path(folder))))
    assert " ".join(words).startswith(f"bash scripts/{script}")
    done = plan_of(words)
    assert "my\\ data/glue" in done or folder == "data"


@pytest.mark.parametrize("folder", ["checkpoints/plugins", "my plugins"])
def test_published_plugins_are_adapted_from_where_they_were_put(folder: str) -> None:
    lines = next_lines(tool_steps.after_plugins("large", Path(folder) / "plugin-t5_large-mux_4.pkl"), "then")
    *_, tune, adapt = proposals(lines)
    assert tune[1:] == ["scripts/glue/glue.sh", "large", "mrpc"] and "--dataset mrpc" in plan_of(tune)
    assert "my\\ plugins" in plan_of(adapt) or folder != "my plugins"


def test_a_corpus_and_a_bert_are_taken_by_their_launchers(tiny: TinyBert) -> None:
    assert "data/wikicorpus_128" in plan_of(
        *proposals(next_lines(tool_steps.after_corpus(Path("data/wikicorpus_128"))))
    )
    assert "my\\ text" in plan_of(*proposals(next_lines(tool_steps.after_corpus(Path("my text")))))
    *_, tune = proposals(next_lines(tool_steps.after_bert(tiny.model), "then"))
    assert "--mode finetune" in plan_of(tune)


def test_own_text_is_trained_on_once_text_to_validate_on_lies_beside_it(tmp_path: Path, monkeypatch, capsys) -> None:
    text = tmp_path / "text.txt"
    text.write_text("A line of words that are many enough.\n" * 40)
    for name in ("train.txt", "valid.txt"):
        monkeypatch.setattr(sys, "argv", ["make_corpus", str(text), "--output", str(tmp_path / "my corpus" / name)])
        make_corpus.main()
        if name == "train.txt":
            assert "its folder needs a text file" in capsys.readouterr().out
    (words,) = told(capsys)
    check(words)


def test_pregenerated_text_teaches_a_student_with_ranks_of_this_model(tiny: TinyBert, tmp_path: Path, capsys) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(["it is a good film\nthis is not a bad film\nthe plot is dull"] * 8) + "\n")
    place = ["--train_corpus", text, "--bert_model", tiny.model, "--output_dir", tmp_path / "my text"]
    more = ["--max_seq_len", 16, "--epochs_to_generate", 1, "--num_workers", 1, "--line_filter", "off"]
    pregenerate_training_data.main([*map(str, place), *map(str, more)])
    (words,) = told(capsys)
    check(words)
    assert words[words.index("--rank_dim") + 1] == "16" and words[words.index("--max_seq_length") + 1] == "16"
    run(words)


def test_augmented_rows_are_fine_tuned_on(tiny: TinyBert, tmp_path: Path, capsys) -> None:
    place = ["--pretrained_bert_model", tiny.model, "--glue_dir", tiny.glue, "--task_name", "MRPC", "--N", "1"]
    data_augmentation.main([*map(str, place)])
    (words,) = told(capsys)
    check(words)
    assert "--aug_train" in words and words[words.index("--task_name") + 1] == "mrpc"
    (tiny.glue / "MRPC" / "train_aug.tsv").unlink()
    data_augmentation.main([*map(str, place), "--output", str(tmp_path / "elsewhere.tsv")])
    assert not proposals(capsys.readouterr().out)  # nothing reads them there


def test_a_rounded_model_is_measured_at_a_length_that_it_has(tuned: Path, tmp_path: Path, capsys) -> None:
    quantize.main(["--model", str(tuned), "--output", str(tmp_path / "small one")])
    (words,) = told(capsys)
    check(words)
    assert words[-2:] == ["--length", "48"]
    run([*words, "--repeats", "1"])


@pytest.mark.parametrize("form", ["onnx", "torch"])
def test_the_look_at_an_exported_file_is_python_that_names_it(form: str, tmp_path: Path) -> None:
    made = tmp_path / 'it\'s "a" file'
    (words,) = proposals(next_lines(tool_steps.after_export(form, made)))
    constants = [node.value for node in ast.walk(ast.parse(words[2])) if isinstance(node, ast.Constant)]
    assert words[1] == "-c" and str(made) in constants


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "torch", "standalone"])
def test_an_exported_model_is_looked_at_by_the_command_that_is_told(
    form: str, tuned: Path, tmp_path: Path, capsys
) -> None:
    made = tmp_path / ("it's a model" if form == "standalone" else {"onnx": "a b.onnx", "torch": "a b.pt2"}[form])
    export.main(["--model", str(tuned), "--format", form, "--output", str(made), "--repeats", "0"])
    (words,) = told(capsys)
    words[0] = sys.executable if words[0] != "cat" else "cat"
    seen = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert ("input_ids" in seen and "logits" in seen) or form != "onnx"
    assert seen.strip()


@pytest.mark.parametrize(
    ("host", "address"),
    [("127.0.0.1", "127.0.0.1:80"), ("0.0.0.0", "127.0.0.1:80"), ("::", "[::1]:80"), ("::1", "[::1]:80")],
)
def test_a_request_to_the_server_names_every_column(host: str, address: str) -> None:
    (words,) = proposals(f"next: {tool_steps.request_to(host, 80, 'qnli', ('question', 'sentence'))}")
    assert words[2] == f"http://{address}/v1/predict"
    assert json.loads(words[-1])["rows"][0].keys() == {"question", "sentence"}


def test_embedded_data_elsewhere_are_used_where_they_lie(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(embedded, "build", lambda *_, **__: None)
    monkeypatch.setattr(embedded_bert, "build_bert", lambda *_, **__: None)
    (tmp_path / "my data" / "glue").mkdir(parents=True)
    for made in (tmp_path / "my models/backbone/tiny/init", tmp_path / "my bert"):
        made.mkdir(parents=True)
    embedded.main(["--output", str(tmp_path / "my data"), "--checkpoints", str(tmp_path / "my models")])
    embedded_bert.main(["--data", str(tmp_path / "my data"), "--output", str(tmp_path / "my bert")])
    for words in told(capsys):
        check(words)
    embedded.main([])
    embedded_bert.main([])
    assert all("tiny" in plan_of(words) for words in told(capsys))
