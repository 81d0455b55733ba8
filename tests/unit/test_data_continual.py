"""Sequences of forget sets: what is forgotten, kept and measured at each step."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from obliviate.data.continual import ContinualData, FilesTasks, TofuTasks
from obliviate.data.files import EvaluationFile
from obliviate.data.rows import Role, Row, read_rows, write_rows
from obliviate.errors import UserError

SHARED = Path(__file__).parents[3] / "shared" / "data" / "tofu"
Write = Callable[[str, list[Row]], str]


def row(number: int) -> Row:
    return Row(f"Question {number}?", f"Answer {number}.")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, rows: list[Row]) -> str:
        write_rows(tmp_path / name, rows)
        return str(tmp_path / name)

    return write


@pytest.fixture
def three(write: Write) -> FilesTasks:
    """Three tasks of two rows, of which task 2 has one of task 1 again, and three rows that are never forgotten."""
    tasks = ([row(0), row(1)], [row(1), row(2)], [row(3), row(4)])
    forget = tuple(write(f"task{i}.jsonl", rows) for i, rows in enumerate(tasks, 1))
    return FilesTasks(forget=forget, retain=write("retain.jsonl", [row(7), row(8), row(9)]), eval_limit=2)


class TestFiles:
    def test_the_retain_set_shrinks(self, three: FilesTasks) -> None:
        """Row 1 is of task 2 as well, and forgotten from step 1 on."""
        corpora = [ContinualData(sequence=three, step=step).load() for step in (1, 2, 3)]
        assert [[int(each.answer[7]) for each in corpus.forget] for corpus in corpora] == [[0, 1], [1, 2], [3, 4]]
        assert [[int(each.answer[7]) for each in corpus.retain] for corpus in corpora] == [
            [7, 8, 9, 2, 3, 4], [7, 8, 9, 3, 4], [7, 8, 9],
        ]  # fmt: skip
        assert corpora[0].warnings == ("1 of 7 retain rows are also in the forget set: removed from retain",)

    def test_every_step_measures_the_same(self, three: FilesTasks) -> None:
        sequence = three.load_tasks()
        first, *others = (sequence.corpus(step).evaluation for step in (1, 2, 3))
        tasks = [(f"task_{i}", Role.FORGET, 2) for i in (1, 2, 3)]
        assert [(each.name, each.role, len(each.rows)) for each in first] == [*tasks, ("retain", Role.RETAIN, 2)]
        assert all(each == first for each in others)

    @pytest.mark.parametrize("step", [0, 4])
    def test_a_step_that_there_is_not(self, three: FilesTasks, step: int) -> None:
        with pytest.raises(UserError, match=f"data.step: {step}: there are 3 tasks"):
            three.load_tasks().corpus(step)

    def test_a_file_that_is_not_there_is_named_with_its_key(self, three: FilesTasks) -> None:
        first, *_ = three.forget
        with pytest.raises(UserError, match=r"^data\.forget\.1: nowhere\.jsonl: no such file"):
            FilesTasks(forget=(first, "nowhere.jsonl")).load_tasks()

    def test_kept_sets_are_no_forget_sets(self, three: FilesTasks) -> None:
        with pytest.raises(ValueError, match=r"evaluation\.extra\.role: is forget; the tasks are measured anyway"):
            FilesTasks(forget=three.forget, evaluation={"extra": EvaluationFile(path="x", role=Role.FORGET)})


class TestTofu:
    @pytest.fixture
    def folder(self, tmp_path: Path, write: Write) -> Path:
        """Three tasks of one row, a remainder of two of which one is measured."""
        tasks = [Row(f"Q{i}?", f"A{i}.", task_id=str(i)) for i in (1, 2, 3)]
        write("forget01.json", tasks)
        write("forget01_perturbed.json", tasks)
        write("retain90.json", [row(8), row(9)])
        write("retain_perturbed.json", [row(9)])
        for name in ("real_authors", "world_facts"):
            write(f"{name}_perturbed.json", [row(5)])
        return tmp_path

    def test_tasks_that_are_not_asked_for_are_kept(self, folder: Path) -> None:
        """Asked for 3 and 1 in this order: task 2 stays in the retain set to the end."""
        sequence = TofuTasks(source=str(folder), split="forget01", tasks=("3", "1")).load_tasks()
        retained = [[each.answer for each in sequence.corpus(step).retain] for step in (1, 2)]
        assert retained == [["Answer 8.", "Answer 9.", "A2.", "A1."], ["Answer 8.", "Answer 9.", "A2."]]
        assert [each.name for each in sequence.tasks] == ["3", "1"]

    def test_a_slice_of_what_is_kept_holds_what_is_measured(self, folder: Path) -> None:
        sequence = TofuTasks(source=str(folder), split="forget01", tasks=("1",), retain_limit=1).load_tasks()
        assert [each.answer for each in sequence.corpus(1).retain] == ["Answer 9."]

    def test_numbers_are_task_ids(self, folder: Path) -> None:
        made = TofuTasks.model_validate({"source": str(folder), "split": "forget01", "tasks": [2]})
        assert made.tasks == ("2",)

    @pytest.mark.parametrize(
        ("tasks", "message"),
        [
            (("1", "7"), "data.tasks: 7: no such task; the file has 1, 2, 3"),
            (("1", "1"), "data.tasks: 1: is given twice"),
        ],
    )
    def test_wrong_tasks(self, folder: Path, tasks: tuple[str, ...], message: str) -> None:
        with pytest.raises(UserError, match=message):
            TofuTasks(source=str(folder), split="forget01", tasks=tasks).load_tasks()

    def test_tasks_of_tofu_as_published(self, folder: Path, write: Write) -> None:
        """There the smaller forget sets are the last authors of the larger ones; a task has two authors, 40 rows."""
        for kind in ("", "_perturbed"):
            for name, size in (("forget01", 40), ("forget05", 80), ("forget10", 120)):
                write(f"{name}{kind}.json", [row(number) for number in range(120 - size, 120)])
        sequence = TofuTasks(source=str(folder), split="forget01").load_tasks()
        expected = [range(80, 120), range(40, 80), range(40)]
        assert [[each.answer for each in task.forget] for task in sequence.tasks] == [
            [row(number).answer for number in each] for each in expected
        ]
        for task in sequence.tasks:
            assert [each.question for each in task.measured.rows] == [each.question for each in task.forget]
        assert [each.name for each in sequence.tasks] == ["1", "2", "3"]

    @pytest.mark.parametrize("split", ["forget05", "forget10"])
    def test_files_without_tasks(self, folder: Path, write: Write, split: str) -> None:
        for kind in ("", "_perturbed"):
            write(f"{split}{kind}.json", [row(1)])
        with pytest.raises(UserError, match=rf"{split} has no task_id.*set data\.split=forget01, or give the folder"):
            TofuTasks.model_validate({"source": str(folder), "split": split}).load_tasks()


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no {SHARED}: TOFU in the continual cut is not at hand")
def test_tasks_made_of_tofu_as_published_are_those_of_the_cut(tmp_path: Path) -> None:
    """As published, authors stand in one order: those of forget01 last."""
    for kind in ("", "_perturbed"):
        first = [replace(each, task_id=None) for each in read_rows(SHARED / f"forget10{kind}.json")
                 if each.task_id == "1"]  # fmt: skip
        order = [*first[200:], *first[40:200], *first[:40]]
        for split, size in (("forget10", 400), ("forget05", 200), ("forget01", 40)):
            write_rows(tmp_path / f"{split}{kind}.json", order[-size:])
    for name in ("retain90", "retain_perturbed", "real_authors_perturbed", "world_facts_perturbed"):
        (tmp_path / f"{name}.json").symlink_to(SHARED / f"{name}.json")
    made, given = (TofuTasks(source=str(each), split="forget01").load_tasks() for each in (tmp_path, SHARED))
    assert made.tasks == given.tasks
    assert made.corpus(3).retain == given.corpus(3).retain


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no {SHARED}: TOFU in the continual cut is not at hand")
@pytest.mark.parametrize(
    ("split", "tasks", "size", "first", "last"),
    [("forget01", 10, 40, 3960, 3600), ("forget05", 10, 200, 3800, 2000), ("forget10", 9, 400, 3600, 400)],
)
def test_the_published_protocol(split: str, tasks: int, size: int, first: int, last: int) -> None:
    """The sizes of "A Closer Look": from TOFU's own retain set to the remainder, in which the measured rows lie."""
    made = TofuTasks.model_validate({"source": str(SHARED), "split": split})
    sequence = made.load_tasks()
    assert [len(each.forget) for each in sequence.tasks] == [size] * tasks
    # One duplicated row of TOFU lies in a task of forget10 and in the remainder, and is forgotten with the task.
    assert len(sequence.corpus(1).retain) == first
    assert last - 1 <= len(sequence.corpus(tasks).retain) <= last
    (kept, *_) = sequence.kept
    forgotten = {each.key for task in sequence.tasks for each in task.forget}
    assert not [each for each in kept.rows if each.key in forgotten]
