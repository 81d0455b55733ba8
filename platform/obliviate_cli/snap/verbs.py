"""`obliviate snap`: the rows, then the training, each a run that is made once."""

from pathlib import Path

from rich.console import Console

from obliviate import storage
from obliviate.config import load
from obliviate_cli.console import open_console
from obliviate_cli.snap.spec import SnapRun
from obliviate_cli.verbs import show


def main(path: Path, overrides: list[str], dry_run: bool) -> None:
    config, console = load(SnapRun, path, overrides), open_console()
    if dry_run:
        texts = sum(map(len, config.entity.read()))
        sources = ", ".join(source.type for source in config.questions)
        lines = [
            f"ask about {config.entity.name} ({texts} characters of text) and {len(config.neighbours)} neighbours: "
            f"{sources}; replies: {config.replies.type}",
            f"then unlearn with {config.label}",
        ]
        show(config, lines, console)
    else:
        snap(config, console)


def snap(config: SnapRun, console: Console) -> Path:
    """The folder of the model that has forgotten."""
    from obliviate_cli import stages
    from obliviate_cli.snap.data import make_data

    data = make_data(config, console)
    folder = stages.unlearn(config.unlearning(data), console)
    console.print(f"model: {storage.name(folder)}")
    return folder
