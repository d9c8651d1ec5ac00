"""Data sets by name: each kind of file, a directory, and what cannot be read said with its name."""

import gzip
import json

import pytest
from datasets import Dataset, DatasetDict

from forget_callback.probes.data_sets import read_splits, rows_of

ROWS = [{"text": f"row {i}", "n": i} for i in range(3)]


@pytest.fixture
def write(tmp_path):
    """write(name) -> the rows in a file or directory of that kind."""

    def make(name):
        path, lines = tmp_path / name, "".join(json.dumps(row) + "\n" for row in ROWS)
        if name.casefold().endswith((".jsonl", ".json")):
            path.write_text(lines)
        elif name.endswith(".gz"):
            path.write_bytes(gzip.compress(lines.encode()))
        elif name.endswith(".csv"):
            Dataset.from_list(ROWS).to_csv(path)
        elif name.endswith(".parquet"):
            Dataset.from_list(ROWS).to_parquet(path)
        elif name == "saved":
            Dataset.from_list(ROWS).save_to_disk(path)
        elif name == "several":
            DatasetDict({"train": Dataset.from_list(ROWS)}).save_to_disk(path)
        else:
            path.mkdir()
            (path / "train.jsonl").write_text(lines)
        return str(path)

    return make


@pytest.mark.parametrize(
    "name", ["a.jsonl", "A.JSONL", "a.json", "a.csv", "a.parquet", "a.jsonl.gz", "saved", "several", "directory"]
)
def test_every_kind_has_the_same_rows(write, name):
    splits = read_splits(write(name), argument="data")
    assert list(splits) == ["train"] and rows_of(splits, "train", argument="data", name=name).to_list() == ROWS


def test_the_rows_of_a_file_are_the_split_that_is_asked_for(write):
    assert list(read_splits(write("a.csv"), argument="data", split="sft")) == ["sft"]
    assert len(read_splits(write("directory"), argument="data", alone=True)["train"]) == 3


@pytest.mark.parametrize(
    "name, text, problem",
    [
        ("gone.jsonl", None, "no such file"),
        ("gone.csv.gz", None, "no such file"),
        ("a.txt", "a", "cannot be read: expected a file in .jsonl, .json, .csv, .parquet"),
        ("empty.jsonl", "", "cannot be read: the file is empty"),
        ("bad.jsonl", '{"text": \n', "cannot be read: "),
    ],
)
def test_what_cannot_be_read_is_said_with_its_name(tmp_path, name, text, problem):
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=r"^--data '") as error:
        read_splits(str(path), argument="--data")
    assert problem in str(error.value) and name in str(error.value) and "\n" not in str(error.value)


def test_no_name_is_none():
    with pytest.raises(ValueError, match="expected a file, a directory or a hub id"):
        read_splits("", argument="data")


def test_a_split_that_is_not_there_or_empty_is_said(write):
    splits = {**read_splits(write("a.jsonl"), argument="data"), "none": Dataset.from_list([])}
    for split, problem in (
        ("test", "there is no split 'test', but 'train', 'none'"),
        ("none", "split 'none' is empty"),
    ):
        with pytest.raises(ValueError, match=problem):
            rows_of(splits, split, argument="data", name="a")
