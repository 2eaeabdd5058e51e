// Input of a language model, and its answer as it comes.

import { answered, EndpointError, open } from "./client.js";
import { element } from "./dom.js";

const START = "Once upon a time"; // nothing is known of what the model has read

const PATHS = { text: "v1/completions", chat: "v1/chat/completions" };
const MOST_TOKENS = 128;

// model: the metadata. onSubmit gets { body, type, path } of a stream.
export function createTextInput(model, onSubmit) {
  const isChat = model.parameters.chat;
  const talk = []; // messages so far, each with its answer
  const prompt = element("textarea", { id: "prompt", rows: isChat ? 3 : 6, spellcheck: "false" });
  prompt.value = isChat ? "Hello" : START;
  // Half of what the model takes is left for the prompt.
  const maxTokens = number("max-tokens", Math.max(1, Math.min(MOST_TOKENS, Math.floor(model.parameters.max_tokens / 2))), "1");
  const temperature = number("temperature", 0.8, "any");
  const seed = number("seed", "", "1");
  seed.placeholder = "any";
  const again = element("button", { type: "button", id: "again" }, "New conversation");
  again.addEventListener("click", () => { talk.length = 0; prompt.value = ""; prompt.focus(); });
  const form = element("form", { class: "row", noValidate: true }, [
    element("div", { class: "field" }, [element("label", { for: "prompt" }, isChat ? "Message" : "Beginning of a text"), prompt]),
    element("div", { class: "fields" }, [
      field("Most tokens", maxTokens), field("Temperature", temperature), field("Seed", seed),
    ]),
    element("div", { class: "line" }, [
      element("button", { class: "main", id: "predict" }, isChat ? "Send" : "Continue"),
      ...(isChat ? [again] : []),
      element("span", { class: "quiet" }, "Temperature 0 takes the likeliest token; the same seed gives the same text."),
    ]),
  ]);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const message = { role: "user", content: prompt.value };
    const asked = { model: model.name, ...(isChat ? { messages: [...talk, message] } : { prompt: prompt.value }) };
    for (const [name, control] of Object.entries({ max_tokens: maxTokens, temperature, seed })) {
      // What is no number goes as it is: the endpoint says what is wrong.
      if (control.value.trim()) asked[name] = Number.isFinite(Number(control.value)) ? Number(control.value) : control.value;
    }
    const streamed = { ...asked, stream: true, stream_options: { include_usage: true } };
    const path = isChat ? PATHS.chat : PATHS.text;
    // What was refused or broke off is no part of the conversation.
    const onAnswer = (content) => isChat && talk.push(message, { role: "assistant", content });
    onSubmit({ body: JSON.stringify(streamed), type: "application/json", path, onAnswer, prompt: prompt.value + (isChat ? "\n" : "") });
  });
  return form;
}

function number(id, value, step) {
  return element("input", { id, type: "text", inputmode: step === "1" ? "numeric" : "decimal", autocomplete: "off", value: String(value) });
}

function field(label, control) {
  return element("div", { class: "field" }, [element("label", { for: control.id }, label), control]);
}

// Sends a request and shows the text as it comes; `place` is replaced with the first part.
// Returns the version that answered.
export async function stream(request, place) {
  const started = performance.now();
  const { response, requestId } = await open(request.path, request);
  const answer = element("span", { id: "text" });
  const origin = element("p", { class: "quiet origin" });
  const version = response.headers.get("x-raydc-model-version");
  let firstMs, usage, isDone = false;
  for await (const event of eventsOf(response.body, request.path)) {
    if (event === "[DONE]") {
      isDone = true;
      break;
    }
    const part = JSON.parse(event);
    if (part.error) throw new EndpointError(500, part.error.message, requestId);
    usage = part.usage ?? usage;
    if (firstMs === undefined) {
      firstMs = performance.now() - started;
      place.replaceChildren(element("p", { class: "text" }, [element("span", { class: "quiet" }, request.prompt), answer]), origin);
      place.classList.remove("stale");
    }
    const choice = part.choices[0];
    answer.append(choice?.delta?.content ?? choice?.text ?? "");
  }
  if (!isDone) throw new EndpointError(0, "the answer broke off before its end", requestId);
  request.onAnswer(answer.textContent);
  const seconds = (performance.now() - started - firstMs) / 1000;
  const facts = [["version", `version ${version}`], ["latency", `first token after ${firstMs.toFixed(0)} ms`]];
  if (usage) {
    const rate = usage.completion_tokens > 1 && seconds > 0 ? `, ${((usage.completion_tokens - 1) / seconds).toFixed(0)} a second` : "";
    facts.push(["tokens", `${usage.completion_tokens} tokens${rate}`]);
  }
  origin.append(...facts.map(([id, text]) => element("span", { id }, text)));
  if (requestId) origin.append(element("span", {}, ["request ", element("code", { id: "request-id" }, requestId)]));
  return version;
}

// The data of each server-sent event of a body.
async function* eventsOf(body, path) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await answered(reader.read(), path);
    if (done) return;
    text += value;
    const events = text.split("\n\n");
    text = events.pop();
    for (const event of events) yield event.replace(/^data: /, "");
  }
}
