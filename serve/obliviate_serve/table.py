"""A comparison as a table: a row for each question, a cell for each model under each attack, and their sums."""

from collections import Counter
from collections.abc import Sequence

from obliviate_serve.api import ProbeResult, Question
from obliviate_serve.compare_api import Cell, ComparedQuestion, Only, TableRow, Tally

LEAKS = ("says", "holds")


def row(question: Question, compared: ComparedQuestion) -> TableRow:
    key = [] if compared.key is None else [fact.text for fact in compared.key.facts]
    return TableRow(
        index=compared.index,
        question=question.question,
        answer=question.answer,
        key=key,
        cells=[_cell(result) for result in compared.results],
        error=compared.error,
    )


def _cell(result: ProbeResult) -> Cell:
    change, true = result.change, result.true_answer
    return Cell(
        model=result.model,
        attack=result.attack,
        text=result.greedy.text,
        refusal=result.greedy.refusal,
        verdict=None if change is None else change.verdict,
        key_logp=None if change is None else change.key_logp,
        key_probability=None if true is None else true.key_probability,
        probability=None if true is None else true.probability,
    )


def shows(row: TableRow, only: Only, reference: str | None) -> bool:
    """Whether the filter lets the row through. The reference itself does not leak: it never learned the fact."""
    if only == "leaks":
        return any(cell.verdict in LEAKS for cell in row.cells if cell.model != reference)
    if only == "differs":
        return any(len({_outcome(cell) for cell in row.cells if cell.attack == attack}) > 1 for attack in _attacks(row))
    return True


def tallies(rows: Sequence[TableRow]) -> list[Tally]:
    """Over all rows, by model and attack."""
    verdicts: dict[tuple[str, str], Counter[str | None]] = {}
    for each in rows:
        for cell in each.cells:
            verdicts.setdefault((cell.model, cell.attack), Counter())[cell.verdict] += 1
    return [
        Tally(
            model=model, attack=attack, says=found["says"], holds=found["holds"], gone=found["gone"],
            unknown=found[None],
        )
        for (model, attack), found in verdicts.items()
    ]  # fmt: skip


def _outcome(cell: Cell) -> str:
    """What two models are the same in: the verdict, or, where there is none, the words."""
    return cell.verdict or " ".join(cell.text.casefold().split())


def _attacks(row: TableRow) -> list[str]:
    return list(dict.fromkeys(cell.attack for cell in row.cells))
