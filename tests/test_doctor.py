"""python -m utils.doctor: what is broken is named with its remedy; the exit code tells whether the quickstart works."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from utils import heartbeat
from utils.doctor import __main__ as doctor
from utils.doctor.data import check_glue, check_places
from utils.doctor.findings import Finding, as_text, is_healthy
from utils.doctor.machine import check_bash, check_folder, check_gpus, check_memory, check_python, check_torch
from utils.doctor.packages import check_packages, check_requirements, read_pins
from utils.doctor.recipes import LAUNCHERS, RECIPES, ROOT, Recipe, check_launchers, check_recipes
from utils.installation import installed

SCRIPTS = ("train_t5.py", "general_distill.py", "task_distill.py")


def test_a_missing_package_and_another_version_are_named_with_the_command_that_mends_them():
    """torch 2.13.0+cpu is torch 2.13.0; a name is the same with hyphens, dots and capitals."""
    pins = {"torch": "2.13.0", "numpy": "2.4.6", "scikit-learn": "1.9.1"}
    ok, other, missing = check_packages(pins, {"torch": "2.13.0+cpu", "numpy": "1.0"})
    assert (ok.state, other.state, missing.state) == ("ok", "warning", "missing")
    assert other.found == "1.0, tested with 2.4.6" and "pip install numpy==2.4.6" in other.remedy
    assert "pip install scikit-learn==1.9.1" in missing.remedy
    assert is_healthy([ok, other]) and not is_healthy([ok, missing])


def test_every_pin_of_the_real_requirements_is_looked_at(tmp_path):
    """As many findings as there are pinned lines; a file that is not there is named."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pinned = [line for line in lines if "==" in line and not line.lstrip().startswith("#")]
    assert len(read_pins(ROOT / "requirements.txt")) == len(pinned) > 10
    (tmp_path / "r.txt").write_text("# a==1\nScikit_Learn[all] == 1.9.1  # why\nplain\n", encoding="utf-8")
    assert read_pins(tmp_path / "r.txt") == {"scikit-learn": "1.9.1"}
    assert [finding.state for finding in check_requirements(tmp_path / "none.txt", {})] == ["missing"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    """/proc refuses even the superuser; what is not there yet is judged by what is above it, and stays so."""
    refused = check_folder(Path("/proc/outputs"))
    assert refused.state == "missing" and refused.is_needed and "/proc cannot be written" in refused.found
    fine = check_folder(tmp_path / "a" / "outputs", needed_bytes=1)
    assert fine.state == "ok" and list(tmp_path.iterdir()) == []
    assert check_folder(tmp_path, needed_bytes=1 << 62).state == "warning"


def test_torch_that_cannot_be_imported_is_named(monkeypatch):
    """None in sys.modules is an ImportError; with an NCCL message the sentence says how it is mended."""
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torch", None)
        found = check_torch({}, [])
        assert found.state == "missing" and found.is_needed and "cannot be imported" in found.found
        assert check_gpus()[0].state == "warning"
    needs = ["nvidia-nccl-cu12==2.27.5; platform_system == 'Linux'"]
    conflict = check_torch({"nvidia-nccl-cu12": "2.27.5", "nvidia-nccl-cu11": "2.21.5"}, needs)
    assert conflict.state == "missing" and "pip uninstall -y nvidia-nccl-cu11" in conflict.found


def test_the_machine_is_judged_by_what_it_has():
    assert check_python((3, 10, 1)).state == "missing" and check_python().state == "ok"
    assert check_bash("/nowhere").state == "missing" and check_bash().state == "ok"
    assert check_memory(1 << 20).state == "warning" and check_memory(1 << 40).state == "ok"


def test_a_driver_that_torch_cannot_use_is_a_warning(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert [finding.state for finding in check_gpus(has_driver=True)] == ["warning"]
    assert [finding.state for finding in check_gpus(has_driver=False)] == ["ok"]


def test_data_are_found_where_the_launchers_look_and_the_rest_comes_with_its_command(tmp_path):
    """GLUE's own folder names count too; an empty folder does not."""
    assert check_glue(tmp_path).state == "missing"
    for name in ("mrpc", "SST-2"):
        (tmp_path / "data" / "glue" / name).mkdir(parents=True)
    (tmp_path / "data/glue/SST-2/train.tsv").touch()
    glue = check_glue(tmp_path)
    assert glue.state == "warning" and glue.found.startswith("sst2 in") and "mrpc" in glue.remedy.split()
    (tmp_path / "data/wikicorpus_128").mkdir()
    (tmp_path / "data/wikicorpus_128/train.txt").touch()
    found = {finding.name: finding for finding in check_places(tmp_path)}
    assert found["Wikipedia corpus"].state == "ok"
    assert found["published plugins, base"].remedy == "python -m utils.download plugin --size base"
    assert all(finding.remedy and not finding.is_needed for finding in found.values() if finding.state == "missing")


def test_launchers_are_tried_and_a_broken_one_is_named(tmp_path):
    (tmp_path / "scripts").mkdir()
    for name, text in {"good": 'echo "+ a $1"', "bad": "echo no such thing >&2; exit 3", "mute": ""}.items():
        (tmp_path / "scripts" / f"{name}.sh").write_text(text, encoding="utf-8")
    good, bad, mute = check_launchers(tmp_path, ("good.sh", "bad.sh", "mute.sh"))
    assert good.state == "ok" and good.found == "1 command(s)"
    assert bad.state == "missing" and bad.found == "exit code 3: no such thing" and "scripts/bad.sh" in bad.remedy
    assert mute.state == "missing"


def test_a_recipe_that_fails_is_named_and_what_reads_its_output_is_not_tried(tmp_path):
    """A command that ends well without what it should make has failed too."""
    recipes = (
        Recipe("good", "-m this", "made"),
        Recipe("ends well", "-m this", "nothing"),
        Recipe("fails", "-m json.tool nowhere.json", "made"),
        Recipe("reads it", "-m this", "made", ("fails",)),
        Recipe("and so on", "-m this", "made", ("reads it",)),
    )
    found = list(check_recipes(tmp_path, recipes, lambda folder: (folder / "made").touch()))
    assert [finding.state for finding in found] == ["ok", *["missing"] * 4]
    assert "nowhere.json" in found[2].found and found[2].remedy == "look at it: -m json.tool nowhere.json"
    assert "reads what 'fails' makes" in found[3].found and "reads what 'reads it' makes" in found[4].found


def test_what_cannot_be_made_is_told_instead_of_a_traceback(tmp_path):
    def broken(folder: Path) -> None:
        raise OSError("no room")

    assert [finding.found for finding in check_recipes(tmp_path, (), broken)] == ["OSError: no room"]


def test_the_recipes_name_every_mode_of_the_entry_scripts():
    """A new mode needs a recipe here."""
    from utils.tucker.task_arguments import TaskArguments

    commands = " | ".join(recipe.command for recipe in RECIPES)
    assert all(script in commands for script in SCRIPTS)
    alone = {"evaluate": "--do_eval", "predict": "--do_predict"}
    modes = TaskArguments.__dataclass_fields__["mode"].type
    named = [word for word in str(modes).replace('"', "'").split("'") if word.isalpha() and word != "Literal"]
    assert {"finetune", "minidisc"} <= set(named)
    assert all(f"--mode {mode}" in commands or alone.get(mode, "?") in commands for mode in named)


def test_the_exit_code_and_the_table_tell_of_what_the_quickstart_lacks(tmp_path, monkeypatch, capsys):
    """Missing data are no reason to fail; a missing package is. The JSON holds the same findings."""
    data = Finding("GLUE", "missing", "nothing", "get it")
    package = Finding("numpy", "missing", "not installed", "pip install numpy==2.4.6", True)
    monkeypatch.setattr(doctor, "examine", lambda root, quick: {"data": [data]})
    doctor.main(["--quick"])
    assert "Everything that the quickstart needs is there" in capsys.readouterr().out
    monkeypatch.setattr(doctor, "examine", lambda root, quick: {"data": [data], "packages": [package]})
    with pytest.raises(SystemExit) as stop:
        doctor.main(["--quick", "--json", str(tmp_path / "found.json")])
    assert stop.value.code == 1
    shown = capsys.readouterr().out
    assert shown.strip() == as_text({"data": [data], "packages": [package]}).strip()
    assert "missing  numpy not installed (needed)\n         -> pip install numpy==2.4.6" in shown
    assert "The quickstart lacks: numpy." in shown
    values = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert values["healthy"] is False and [row["name"] for row in values["findings"]] == ["GLUE", "numpy"]


def test_it_starts_without_torch(tmp_path):
    """Where torch is missing the doctor is needed most."""
    (tmp_path / "torch.py").write_text("raise ImportError('libtorch_cuda.so: undefined symbol: ncclCommResume')\n")
    script = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]\n"
    script += "from utils.doctor.machine import check_torch\nprint(check_torch({}, []))\nimport utils.doctor.__main__\n"
    made = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    assert "torch cannot be imported (libtorch_cuda.so: undefined symbol: ncclCommResume)" in made.stdout


def test_this_machine_has_what_the_quickstart_needs(capsys):
    """The quick form as continuous integration runs it: packages are there, launchers say what they would do."""
    groups = doctor.examine(ROOT, quick=True)
    broken = [f for group in groups.values() for f in group if f.is_needed and f.state == "missing"]
    assert not broken, as_text(groups)
    assert len(groups["packages"]) == len(read_pins(ROOT / "requirements.txt")) and installed()
    out, err = capsys.readouterr()
    start, *progress = err.splitlines()
    assert out == "" and start == f"looking at this machine, {len(LAUNCHERS)} dry runs of launchers"
    assert len(progress) == len(LAUNCHERS) and progress[-1].endswith("(12 of 12 dry runs of launchers)")


def test_it_says_what_takes_long_before_it_begins_and_how_far_it_is(tmp_path, monkeypatch, capsys):
    """The start names the runs and the flag that leaves them out; a silence is explained with how many are done."""
    silences = []

    def check_few(folder: Path) -> Iterator[Finding]:
        for name in ("one", "two"):
            silences.append(heartbeat.line(time.monotonic())[0])
            yield Finding(name, "ok", "made")

    monkeypatch.setattr(doctor, "check_launchers", lambda root: [])
    monkeypatch.setattr(doctor, "check_recipes", check_few)
    doctor.examine(tmp_path, quick=False)
    start, *progress = capsys.readouterr().err.splitlines()
    count = len(RECIPES)
    assert f"{count} runs of the entry scripts (a minute or two; --quick leaves them out)" in start
    assert progress == [
        f"ok       {name} ({i} of {count} runs of the entry scripts)" for i, name in ((1, "one"), (2, "two"))
    ]
    assert [line.split(",")[0] for line in silences] == [f"runs of the entry scripts: {i} of {count}" for i in (0, 1)]


#: One of each entry script.
_FEW = ("T5: fine-tune", "BERT: pre-generate text", "BERT: decompose and distil on text", "BERT: fine-tune")


@pytest.mark.parametrize("names", [_FEW, pytest.param([r.name for r in RECIPES], marks=pytest.mark.slow)], ids=len)
def test_recipes_run_on_models_of_two_layers(tmp_path, names):
    """A process per recipe: one of each entry script in every run, each mode of them in the slow ones."""
    found = list(check_recipes(tmp_path, [recipe for recipe in RECIPES if recipe.name in names]))
    assert len(found) == len(names)
    assert [finding for finding in found if finding.state != "ok"] == []
