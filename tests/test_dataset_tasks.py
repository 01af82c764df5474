"""The task table."""

import string

import pytest

from dataset import TASKS, DataError, get_task


def test_labels_verbalizers_and_templates_agree():
    """A prompted classification task has a word per label, and its template uses each column once."""
    for task in TASKS.values():
        if task.prompt is None:
            assert task.verbalizer == ()
            continue
        fields = [field for _, field, _, _ in string.Formatter().parse(task.prompt) if field]
        assert fields == list(task.columns)
        assert task.prompt.count("<extra_id_0>") == 1
        assert len(task.verbalizer) == len(task.labels) == len(task.file_labels)


def test_selection_metrics():
    """Models are selected by F1 on MRPC, exact match on SQuAD, and accuracy on the paper's other tasks."""
    chosen = {name: task.selection_metric for name, task in TASKS.items() if task.prompt}
    assert chosen.pop("mrpc") == "f1"
    assert chosen.pop("squad") == "exact_match"
    assert set(chosen.values()) == {"accuracy"}


def test_mnlimm_is_the_second_development_set_of_mnli():
    """It differs from MNLI in its development and test sets alone."""
    mnli, other = get_task("mnli"), get_task("mnlimm")
    assert other.split_file("train") == mnli.split_file("train")
    assert other.split_file("valid") == "dev_mismatched.tsv"
    assert (other.prompt, other.labels, other.hub_name) == (mnli.prompt, mnli.labels, "mnli")


@pytest.mark.parametrize("spelling", ["sst2", "SST-2", "sst_2"])
def test_folder_spelling_is_understood(spelling):
    """The GLUE folder's name finds the task."""
    assert get_task(spelling).name == "sst2"


def test_unknown_task_proposes_near_names():
    """A slip gives an error that names the task that was meant."""
    with pytest.raises(DataError, match="did you mean mrpc"):
        get_task("mprc")
