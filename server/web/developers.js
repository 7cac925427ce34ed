// The developers' panel: choose an API, speak or play the sample, read the events, copy the very call.

import {$, copyText, element} from "./dom.js";
import {MoonshineClient} from "./moonshine-client.js";
import {AudioSession} from "./session.js";
import {authorization, key, termsIn} from "./settings.js";
import {deepgramStream, snippets, textOptions} from "./snippets.js";

const MOST_EVENTS = 500;

const TEXT = ["numerals", "redact", "profanity", "fillers"]; // options of the text
const APIS = {
  native: {title: "Native: WebRTC or WebSocket", options: ["silence", "terms", "words", ...TEXT], note: "JSON over a data channel or a WebSocket. docs/protocol.md describes the messages.", open: openNative},
  realtime: {title: "OpenAI Realtime", options: ["model", "language", "silence", "terms"], note: "A transcription session. Deltas come while the speaker speaks.", open: openRealtime},
  deepgram: {title: "Deepgram", options: ["model", "language", "silence", "interims", "terms", ...TEXT, "channels"], note: "Live over a WebSocket; recordings by POST.", open: openDeepgram},
  rest: {title: "OpenAI REST (recordings)", options: ["model", "language", "terms", "words", "channels"], note: "The recording is sent when the audio ends or you press Stop.", open: openRest},
};
const OPTIONS = ["model", "language", "silence", "interims", "terms", "words", ...TEXT, "channels"];

let chosenTab = "Python";
let server = "";

// model: an entry of /v1/models, or null where a key is needed first.
export function show(areShown, origin, model) {
  server = origin;
  showModel(model);
  $("developers").hidden = !areShown;
  $("show-developers").setAttribute("aria-expanded", areShown);
  document.body.classList.toggle("developing", areShown);
  history.replaceState(null, "", location.pathname + location.search + (areShown ? "#developers" : ""));
}

export function showModel(model) {
  const {id = "default", language} = model ?? {};
  $("api-model").replaceChildren(new Option(id), new Option("whisper-1"));
  $("api-language").replaceChildren(new Option("not named", ""), ...(language ? [new Option(language)] : []));
  showSnippet();
}

function showSnippet() {
  const api = $("api").value || "native", {options, note} = APIS[api], languages = Object.keys(snippets[api]);
  for (const name of OPTIONS) $(`${name}-option`).hidden = !options.includes(name);
  $("api-note").textContent = note;
  if (!languages.includes(chosenTab)) chosenTab = "Python";
  $("tabs").replaceChildren(...languages.map(tabOf));
  $("snippet").textContent = snippets[api][chosenTab](asked());
}

function tabOf(language) {
  const tab = element("button", {textContent: language, role: "tab", id: `tab-${language}`, tabIndex: language === chosenTab ? 0 : -1});
  tab.setAttribute("aria-selected", language === chosenTab);
  tab.setAttribute("aria-controls", "snippet");
  tab.onclick = () => choose(language);
  tab.onkeydown = ({key: pressed}) => {
    const step = {ArrowRight: 1, ArrowLeft: -1}[pressed];
    if (!step) return;
    const all = [...$("tabs").children].map((each) => each.textContent);
    choose(all.at((all.indexOf(language) + step) % all.length));
  };
  return tab;
}

function choose(language) {
  chosenTab = language;
  showSnippet();
  $(`tab-${language}`).focus();
}

function asked() {
  const value = (name) => ($(`${name}-option`).hidden ? "" : $(`api-${name}`)[$(`api-${name}`).type === "checkbox" ? "checked" : "value"]);
  return {server, socket: server.replace(/^http/, "ws"), key: key(), ...Object.fromEntries(OPTIONS.map((name) => [name, value(name)])), model: value("model") || "default", terms: termsIn(value("terms"))};
}

$("api").replaceChildren(...Object.entries(APIS).map(([name, {title}]) => new Option(title, name)));
// "change" would come with the press of a tab, and take the tab away from under it.
for (const id of ["api", ...OPTIONS.map((name) => `api-${name}`)]) $(id).addEventListener("input", showSnippet);
$("copy-snippet").onclick = async () => {
  await copyText($("snippet").textContent);
  $("copy-snippet").textContent = "Copied";
  setTimeout(() => ($("copy-snippet").textContent = "Copy"), 1500);
};

// Events as they came

const events = [];
let drawing = 0;

export function logEvent(message) {
  events.push(typeof message === "string" ? message : JSON.stringify(message));
  if (events.length > MOST_EVENTS) events.shift();
  drawing ||= requestAnimationFrame(() => {
    drawing = 0;
    const box = $("events"), isAtEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
    box.textContent = events.join("\n");
    if (isAtEnd) box.scrollTop = box.scrollHeight;
  });
}

export function clearEvents() {
  events.length = 0;
  $("events").textContent = "";
}

// Runs

export function runApi(source) {
  return new ApiSession(source, APIS[$("api").value], asked());
}

// The API that is chosen, with events in place of text.
class ApiSession extends AudioSession {
  constructor(source, api, options) {
    super(source);
    Object.assign(this, {api, options});
  }

  async start() {
    clearEvents();
    await super.start();
  }

  async connect() {
    const onMessage = (message) => this.say("message", message), onLost = (error) => this.fail(error);
    this.sendTo(await this.api.open(this.options, this.source.rate, onMessage, onLost));
  }

  close() {
    return this.receiver.finish();
  }
}

async function openNative({silence, words, terms, ...asked}, rate, onMessage, onLost) {
  const client = new MoonshineClient({server, sampleRate: rate, words, silenceMs: Number(silence) || undefined, keyterms: terms, textOptions: textOptions(asked), token: key});
  client.addEventListener("message", ({detail}) => onMessage(detail));
  client.addEventListener("lost", ({detail}) => onLost(detail));
  await client.connect();
  return {send: (samples) => client.send(samples), finish: () => client.close()};
}

async function openRealtime({socket, model, language, silence, terms}, rate, onMessage, onLost) {
  const awaited = new Set();
  let answers = 0;  // to updates; the first may be refused
  const note = (message) => {
    if (message.type === "session.updated" || message.type === "error") answers++;
    if (message.type === "input_audio_buffer.committed") awaited.add(message.item_id);
    if (/\.(completed|failed)$/.test(message.type)) awaited.delete(message.item_id);
    onMessage(message);
  };
  const connection = await openSocket(`${socket}/v1/realtime?intent=transcription`, ["realtime", ...(key() ? [`openai-insecure-api-key.${key()}`] : [])], note, onLost);
  const input = {format: {type: "audio/pcm", rate}, transcription: {model, keywords: terms, ...(language && {language})}, turn_detection: {type: "server_vad", silence_duration_ms: Number(silence) || 500}};
  connection.send(JSON.stringify({type: "session.update", session: {type: "transcription", audio: {input}}}));
  return {
    send: (samples) => connection.send(JSON.stringify({type: "input_audio_buffer.append", audio: base64(samples)})),
    async finish() {
      // A commit of nothing new has no answer. An update has one, after all that the commit has brought.
      const completed = connection.until(() => answers > 1 && !awaited.size);
      connection.send('{"type":"input_audio_buffer.commit"}');
      connection.send('{"type":"session.update","session":{}}');
      await completed;
      connection.close();
    },
  };
}

async function openDeepgram(options, rate, onMessage, onLost) {
  const connection = await openSocket(deepgramStream(options, rate), key() ? ["token", key()] : [], onMessage, onLost);
  return {
    send: (samples) => connection.send(samples),
    async finish() {
      const told = connection.until(({type}) => type === "Metadata");
      connection.send('{"type":"CloseStream"}');
      await told;
      connection.close();
    },
  };
}

async function openRest({model, language, terms, words, channels}, rate, onMessage) {
  const pieces = [];
  return {
    send: (samples) => pieces.push(samples),
    async finish() {
      const form = new FormData();
      form.append("model", model);
      if (language) form.append("language", language);
      for (const term of terms) form.append("keywords[]", term);
      if (channels) form.append("multichannel", "true");
      if (words) for (const [name, value] of [["response_format", "verbose_json"], ["timestamp_granularities[]", "word"]]) form.append(name, value);
      form.append("file", wavOf(pieces, rate), "recording.wav");
      const response = await fetch(`${server}/v1/audio/transcriptions`, {method: "POST", headers: authorization(), body: form});
      onMessage(await response.json());
    },
  };
}

const UNTIL_MS = 10000;

// Resolves when the connection is open; the server's events are told as they come.
function openSocket(url, protocols, onMessage, onLost) {
  let isFinishing = false;
  const socket = new WebSocket(url, protocols), waiting = [];
  const told = new Promise((resolve, reject) => {
    socket.onopen = () => resolve(call);
    socket.onerror = () => reject(new Error("The WebSocket was refused. Does the server need a key, or is it full?"));
  });
  socket.onmessage = ({data}) => {
    const message = JSON.parse(data);
    onMessage(message);
    for (const wait of waiting) if (wait.holds(message)) wait.resolve();
  };
  socket.onclose = () => {
    for (const {resolve} of waiting) resolve();
    if (!isFinishing) onLost(new Error("The server has closed the connection; the last events say why."));
  };
  const call = {
    send: (data) => socket.readyState === WebSocket.OPEN && socket.send(data),
    close: () => socket.close(),
    until: (holds) => new Promise((resolve) => {
      isFinishing = true;
      waiting.push({holds, resolve});
      setTimeout(resolve, UNTIL_MS);
    }),
  };
  return told;
}

function base64(samples) {
  return btoa(String.fromCharCode(...new Uint8Array(samples.buffer, samples.byteOffset, samples.byteLength)));
}

function wavOf(pieces, rate) {
  const byteCount = pieces.reduce((sum, piece) => sum + piece.byteLength, 0), head = new DataView(new ArrayBuffer(44));
  const text = (at, word) => [...word].forEach((letter, index) => head.setUint8(at + index, letter.charCodeAt(0)));
  text(0, "RIFF"), text(8, "WAVEfmt "), text(36, "data");
  for (const [at, value] of [[4, 36 + byteCount], [16, 16], [24, rate], [28, 2 * rate], [40, byteCount]]) head.setUint32(at, value, true);
  for (const [at, value] of [[20, 1], [22, 1], [32, 2], [34, 16]]) head.setUint16(at, value, true);
  return new Blob([head, ...pieces], {type: "audio/wav"});
}
