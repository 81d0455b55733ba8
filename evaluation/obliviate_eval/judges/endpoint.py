"""A language model behind any OpenAI-compatible endpoint as the judge: does the answer reveal the reference?

Its replies lie on disk, one file each, by all that was asked: a second run asks nothing. What it does not answer, after
every retry, has no verdict: it counts as unscored, never as "no leak".
"""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from obliviate import storage
from obliviate.endpoint import api_key, client, first_choice, shown
from obliviate.errors import UserError
from obliviate.runs import content_hash, read_part, write_part
from obliviate_eval.judges.prompt import Case, filled, read_prompt, verdict
from obliviate_eval.spec import JudgeSpec

TRIAL: Case = ("What is the capital of France?", "The capital of France is Paris.", "It is Paris.")
NOTHING_SAID = "no reply with a text"
CUT = "a reply cut at max_tokens"
UNCLEAR = "neither yes nor no, or both, on a reply's last line"


class EndpointJudge:
    """(Question, reference, answer) -> whether the judge says yes; None where it gave no verdict.

    `unanswered` counts those by cause. The API key is read from the environment and goes to the endpoint alone.
    """

    def __init__(self, spec: JudgeSpec, cache: Path) -> None:
        """Asks one trial question, so that a wrong key, model or parameter is told before an hour of generation.

        Raises UserError.
        """
        self._spec, self._cache, self._prompt = spec, cache, read_prompt(spec.prompt)
        self._key = api_key(spec, "evaluation.judge")
        self._client = client(spec, self._key)
        self.unanswered: Counter[str] = Counter()
        said, why = self._verdict(TRIAL)
        if said is None:
            raise UserError(
                f"evaluation.judge: {spec.model} at {spec.base_url}: no verdict on a trial question ({why}); mend the "
                "key that this is about (base_url, model, api_key_env, prompt, max_tokens), or set judge: null"
            )

    def __call__(self, cases: Sequence[Case]) -> list[bool | None]:
        """Each distinct case is asked once, `concurrency` of them at a time."""
        distinct = list(dict.fromkeys(cases))
        with ThreadPoolExecutor(max_workers=self._spec.concurrency) as pool:
            found = dict(zip(distinct, pool.map(self._verdict, distinct), strict=True))
        self.unanswered = Counter(why for case in cases if (why := found[case][1]) is not None)
        return [found[case][0] for case in cases]

    def _verdict(self, case: Case) -> tuple[bool | None, str | None]:
        """And why there is none."""
        request = self._request(case)
        path = self._cache / f"{content_hash([self._spec.base_url, request])}.json"
        if (kept := read_part(storage.fetch(path))) is None:
            reply, why = self._ask(request)
            if reply is None:
                return None, why
            kept = {"base_url": self._spec.base_url, "request": request, "reply": reply}
            write_part(path, kept)
        reply = kept["reply"]
        said = verdict(reply)
        return said, UNCLEAR if said is None else None

    def _request(self, case: Case) -> dict[str, Any]:
        """The body, without the keys that are null: some endpoints refuse them."""
        given = {"temperature": self._spec.temperature, "max_tokens": self._spec.max_tokens}
        return {
            "model": self._spec.model,
            "messages": [{"role": "user", "content": filled(self._prompt, case)}],
            **{key: value for key, value in given.items() if value is not None},
        }

    def _ask(self, request: dict[str, Any]) -> tuple[str | None, str]:
        """The reply's text, or why there is none. The client itself tries again, and waits longer each time."""
        import openai

        try:
            completion = self._client.chat.completions.create(**request)
        except (openai.APIError, ValueError) as error:  # refused, no connection, too late, or no JSON
            return None, shown(error, self._key)
        said = first_choice(completion)
        if said is None or said.message is None or not said.message.content:
            return None, NOTHING_SAID
        return (None, CUT) if said.finish_reason == "length" else (said.message.content, "")
