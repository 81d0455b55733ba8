"""The data that requests are about, as the verbs load it."""

from rich.console import Console

from obliviate.data.rows import Role
from obliviate_recipes.requests.knowledge import Knowledge
from obliviate_recipes.requests.spec import RequestsRun


def knowledge_of(config: RequestsRun, console: Console) -> Knowledge:
    """Checked against the policy, so that a wrong name is found before a request is taken."""
    corpus = config.data.load()
    for warning in corpus.warnings:
        console.print(f"warning: {warning}", style="yellow")
    kept = [(each.name, each.role) for each in corpus.evaluation if each.role is not Role.FORGET]
    config.policy.check(config.evaluation, kept, [attack.label for attack in config.attacks])
    return Knowledge.of(corpus)
