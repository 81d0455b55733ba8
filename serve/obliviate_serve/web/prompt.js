// What a model was sent, to the letter: asked of the server when the reader wants to see it.

import { ApiError, send } from "./api.js";
import { $, plural } from "./dom.js";

const OF_THE_QUESTION = ["question", "context", "system", "history", "paraphrased_question", "translations"];

/** Of one model under one attack; `request` as it was probed. */
export async function showPrompt(request, { model, attack }) {
  const question = Object.fromEntries(OF_THE_QUESTION.map((key) => [key, request[key]]).filter(([, value]) => value != null));
  const attacks = [attack.startsWith("translated_") ? "translated" : attack];
  $("prompt-about").textContent = `${model}, ${attack}`;
  $("prompt-text").textContent = "…";
  $("prompt").showModal();
  try {
    const { data } = await send("v1/render", { ...question, models: [model], attacks });
    const found = data.find((each) => each.attack === attack);
    if (found.error) throw new ApiError(0, found.error);
    $("prompt-about").textContent = `${model}, ${attack}, ${plural(found.tokens, "token")}`;
    $("prompt-text").textContent = found.prompt;
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    $("prompt-text").textContent = error.message;
  }
}
