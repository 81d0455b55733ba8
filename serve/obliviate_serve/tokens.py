"""vLLM's tokenize and detokenize: what a model reads of a text, and the text of tokens. Benchmarks ask for them."""

from fastapi import APIRouter, Request

from obliviate_serve.api import Detokenized, Tokenized
from obliviate_serve.engine import Bare, Prompt, Rendered, Sampling
from obliviate_serve.openai import ERRORS, chat
from obliviate_serve.openai_api import DetokenizeRequest, TokenizeChat, TokenizeText
from obliviate_serve.server import Server


def routes(server: Server) -> APIRouter:
    router = APIRouter(responses=ERRORS)

    @router.post("/tokenize")
    async def tokenize(asked: TokenizeText | TokenizeChat, http: Request) -> Tokenized:
        """Token ids of a text, or of messages as the model's template lays them out."""
        prompt: Prompt
        if isinstance(asked, TokenizeChat):
            prompt = chat(asked)
            text: object = prompt.messages
        else:
            prompt = asked.prompt if asked.add_special_tokens else Bare(asked.prompt)
            text = asked.prompt
        server.journal.asked(http.state.record, [asked.model], [text])
        found = await _rendered(server, asked.model, prompt)
        return Tokenized(count=len(found.ids), max_model_len=found.context, tokens=list(found.ids))

    @router.post("/detokenize")
    async def detokenize(asked: DetokenizeRequest, http: Request) -> Detokenized:
        server.journal.asked(http.state.record, [asked.model], [asked.tokens])
        return Detokenized(prompt=(await _rendered(server, asked.model, tuple(asked.tokens))).text)

    return router


async def _rendered(server: Server, model: str, prompt: Prompt) -> Rendered:
    (found,) = await server.complete(server.names.target(model), prompt, Sampling(max_tokens=0))
    assert isinstance(found, Rendered)
    return found
