import {MoonshineClient} from "./moonshine-client.js";

const SERVER = new URL("..", import.meta.url).href.replace(/\/$/, ""); // also below a path of a proxy

const $ = (id) => document.getElementById(id);
const HELD_SECONDS = 30; // of sound, while the server cannot be reached
const MOST_EVENTS = 200;
const LOOK_MS = 1000;
const SOUNDLESS_MS = 5000; // without sound from the browser: something is wrong with it

// What has been said: the text of streams that have ended, and of the one that is under way.
const transcript = {
  ended: "",
  segments: [], // with times on this page's own clock, in milliseconds
  shown: "", // stable text that is on the page
  client: null,

  get stable() {
    return joined(this.ended, this.client?.stableText ?? "");
  },
  get moving() {
    return this.client?.movingText ?? "";
  },
  get text() {
    return this.stable + (this.client?.stable ? "" : this.ended && this.moving ? " " : "") + this.moving;
  },
  show() {
    const box = $("transcript");
    const isAtEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
    const {stable} = this;
    if (stable.startsWith(this.shown)) $("stable").append(stable.slice(this.shown.length));
    else $("stable").textContent = stable; // a segment that was open when the connection was lost is heard again
    this.shown = stable;
    $("moving").textContent = this.text.slice(this.stable.length);
    $("hint").hidden = Boolean(this.text);
    if (isAtEnd) box.scrollTop = box.scrollHeight;
  },
  // The stream is over, or lost: what it had is kept.
  keep() {
    if (!this.client) return;
    const {text, segments, beganAt} = this.client;
    this.ended = joined(this.ended, text);
    this.segments.push(...segments.map((segment) => moved(segment, beganAt)));
    this.client = null;
    this.show();
  },
  add(text, segments = []) {
    this.ended = joined(this.ended, text);
    this.segments.push(...segments);
    this.show();
  },
  clear() {
    Object.assign(this, {ended: "", segments: [], shown: ""});
    $("stable").textContent = "";
    this.show();
  },
};

function joined(first, second) {
  return first && second ? `${first} ${second}` : first || second;
}

function moved(segment, by) {
  const shift = (each) => ({...each, start_ms: each.start_ms + by, end_ms: each.end_ms + by});
  return {...shift(segment), words: segment.words?.map(shift)};
}

// Sound in

let source = null; // what is being listened to
let spoken = 0; // milliseconds of it, over all streams

async function listen(open, button) {
  if (source) return stop();
  hush();
  try {
    const media = await open();
    if (!media.getAudioTracks().length) throw new Error("no sound is shared: tick “share tab audio” in the browser's dialog");
    const context = new AudioContext();
    await context.audioWorklet.addModule(new URL("capture.js", import.meta.url));
    const capture = new AudioWorkletNode(context, "capture");
    const opened = {media, context, capture, button, held: [], heldSamples: 0, isOver: false, rate: context.sampleRate};
    source = opened;
    capture.port.onmessage = ({data}) => hear(opened, data);
    context.createMediaStreamSource(media).connect(capture);
    const [track] = media.getAudioTracks();
    track.onended = () => stop("The microphone was unplugged, or its use was ended.");
    track.onmute = () => warn(opened, "The microphone is muted by the system or by a switch on it.");
    track.onunmute = () => warn(opened, "");
    context.onstatechange = () => watchContext(opened);
    opened.receivedAt = performance.now();
    opened.watching = setInterval(() => watchContext(opened), LOOK_MS);
  } catch (error) {
    source = null;
    return tell(reason(error));
  }
  press(button, true);
  keepAwake();
  stayConnected(source);
}

// A call, the lock screen or another program may take the sound away: browsers suspend the context and say nothing.
async function watchContext(from) {
  if (from.isOver) return;
  if (from.context.state !== "running") {
    await from.context.resume().catch(() => {});
    if (from.context.state !== "running") return warn(from, "The browser has paused the sound. Touch the page to go on.");
  }
  const isSilent = performance.now() - from.receivedAt > SOUNDLESS_MS;
  if (isSilent) warn(from, "No sound comes from the browser. Is another program using the microphone?");
  else if (from.warning && !from.media.getAudioTracks()[0].muted) warn(from, "");
}

// Says what keeps the sound away, or that it has come back.
function warn(from, warning) {
  if (from.isOver || from.warning === warning) return;
  from.warning = warning;
  if (warning) tell(warning);
  else if (transcript.client?.isReady) sayListening(transcript.client);
}

for (const name of ["visibilitychange", "pointerdown", "keydown"]) {
  document.addEventListener(name, () => {
    if (!source || document.hidden) return;
    watchContext(source);
    if (name === "visibilitychange") keepAwake(); // the browser has let the screen go when the page was hidden
  });
}

function reason(error) {
  if (error.name === "NotAllowedError") return "The microphone was refused. Allow it for this page in the browser's settings, then press the button again.";
  if (error.name === "NotFoundError") return "There is no microphone. Choose a file, or connect one and press the button again.";
  return `The sound cannot be had: ${error.message}`;
}

function hear(from, samples) {
  if (from.isOver) return;
  from.receivedAt = performance.now();
  spoken += (1000 * samples.length) / from.rate;
  showLevel(samples);
  const {client} = transcript;
  if (client?.isReady && !client.isEnded) return client.send(samples);
  from.held.push(samples);
  from.heldSamples += samples.length;
  while (from.heldSamples > HELD_SECONDS * from.rate) from.heldSamples -= from.held.shift().length;
}

function showLevel(samples) {
  let sum = 0;
  for (const sample of samples) sum += sample * sample;
  $("level").value = 10 * Math.log10(sum / samples.length / 32768 ** 2 + 1e-9);
}

async function stayConnected(from) {
  for (let tries = 0; from === source && !from.isOver; tries++) {
    try {
      await connect(from);
      tries = 0;
      await transcript.client.final;
      return;
    } catch (error) {
      transcript.keep();
      if (from.isOver) return say("Stopped.");
      if (error.reason === "invalid_api_key") return refuse(from, error);
      const seconds = Math.min(5, 0.5 * 2 ** tries) * (0.75 + Math.random() / 2);
      tell(`${error.message}. The text so far is kept; trying again in ${seconds.toFixed(0) || 1} s.`);
      await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
    }
  }
}

// Trying again would not help.
function refuse(from, error) {
  stop();
  tell(`${error.message}. Enter the key under “API key”, then press the button again.`);
  $("access").open = true;
}

async function connect(from) {
  say("Connecting…");
  const client = new MoonshineClient({server: SERVER, sampleRate: from.rate, transport: $("transport").value, token: key});
  client.beganAt = Math.round(spoken - (1000 * from.heldSamples) / from.rate);
  client.addEventListener("text", () => transcript.client === client && transcript.show());
  client.addEventListener("message", ({detail}) => log(detail));
  client.addEventListener("trouble", ({detail}) => tell(`${detail.message}. The text so far is kept; trying again.`));
  client.addEventListener("resumed", () => sayListening(client));
  await client.connect();
  transcript.client = client;
  client.isReady = true;
  for (const samples of from.held) client.send(samples);
  Object.assign(from, {held: [], heldSamples: 0});
  sayListening(client);
}

function sayListening({via}) {
  hush();
  say(`Listening, over ${via === "webrtc" ? "WebRTC" : "a WebSocket"}.`);
}

async function stop(why) {
  const from = source;
  if (!from) return;
  source = null;
  from.isOver = true;
  clearInterval(from.watching);
  from.media.getTracks().forEach((track) => track.stop());
  press(from.button, false);
  $("level").value = -60;
  try {
    await transcript.client?.close();
    typeof why === "string" ? tell(why) : say("Stopped.");
  } catch (error) {
    tell(`The last words may be missing: ${error.message}.`);
  }
  transcript.keep();
  await from.context.close();
}

function press(button, isPressed) {
  button.setAttribute("aria-pressed", isPressed);
  if (button.id === "microphone") button.textContent = isPressed ? "Stop" : "Start microphone";
  document.body.classList.toggle("listening", isPressed);
}

async function keepAwake() {
  try {
    await navigator.wakeLock?.request("screen");
  } catch {} // a screen that goes dark is no reason to stop
}

async function listDevices() {
  const devices = (await navigator.mediaDevices?.enumerateDevices()) ?? [];
  const inputs = devices.filter((device) => device.kind === "audioinput" && device.deviceId);
  $("device").replaceChildren(new Option("the usual one", ""), ...inputs.map((each) => new Option(each.label || "a microphone", each.deviceId)));
}

async function openMicrophone() {
  const chosen = $("device").value;
  const audio = {channelCount: 1, ...(chosen && {deviceId: {exact: chosen}})};
  for (const name of ["echoCancellation", "noiseSuppression", "autoGainControl"]) audio[name] = $(name).checked;
  const media = await navigator.mediaDevices.getUserMedia({audio});
  listDevices(); // their names are known from now on
  return media;
}

// Files

async function transcribe(file) {
  hush();
  say(`Sending ${file.name}…`);
  const form = new FormData();
  for (const [name, value] of [["model", "default"], ["response_format", "verbose_json"], ["timestamp_granularities[]", "word"], ["timestamp_granularities[]", "segment"], ["stream", "true"]]) form.append(name, value);
  form.append("file", file);
  try {
    const response = await fetch(`${SERVER}/v1/audio/transcriptions`, {method: "POST", body: form, headers: authorization()});
    if (!response.ok) throw new Error((await response.json()).error.message);
    say(`Transcribing ${file.name}…`);
    await follow(response);
    say(`${file.name} is transcribed.`);
  } catch (error) {
    tell(`${file.name}: ${error.message}`);
  }
}

// OpenAI's events: text and times as they come.
async function follow(response) {
  let rest = "";
  for await (const chunk of chunks(response.body.pipeThrough(new TextDecoderStream()))) {
    const lines = (rest + chunk).split("\n\n");
    rest = lines.pop();
    for (const line of lines) {
      const event = JSON.parse(line.slice("data: ".length));
      log(event);
      if (event.error) throw new Error(event.error.message);
      if (event.type === "transcript.text.delta") transcript.add(event.delta.trim(), timed(event));
    }
  }
}

async function* chunks(stream) {
  const reader = stream.getReader();
  for (let {done, value} = await reader.read(); !done; {done, value} = await reader.read()) yield value;
}

function timed({segments, words}) {
  const ms = (seconds) => Math.round(1000 * seconds);
  return segments.map(({text, start, end}) => ({
    text, start_ms: ms(start), end_ms: ms(end),
    words: words.filter((word) => word.start >= start && word.start < end).map((word) => ({w: word.word, start_ms: ms(word.start), end_ms: ms(word.end)})),
  }));
}

// Somebody else's sound: who sends by WHIP to a channel is read here, for captions in OBS or on a second screen.

async function watch(channel, over = "") {
  const source = new EventSource(`${SERVER}/whip/${encodeURIComponent(channel)}/events${await tokenQuery()}`);
  source.onopen = () => {
    transcript.client = null; // who reads anew is told the text so far anew
    say(`Reading ${channel}.`);
  };
  source.onmessage = ({data}) => {
    const message = JSON.parse(data);
    if (message.sid === over) return;
    transcript.client ??= Object.assign(new MoonshineClient(), {beganAt: 0, resolveFinal() {}, rejectFinal() {}});
    transcript.client.take(data);
    transcript.show();
    log(message);
    if (!transcript.client.isEnded) return;
    over = message.sid;
    transcript.keep();
  };
  source.onerror = () => {
    say(`Nobody sends on ${channel} now.`);
    if (source.readyState === EventSource.CLOSED) setTimeout(() => watch(channel, over), 2000);
  };
}

// The key is kept for as long as this tab is open.

function key() {
  return sessionStorage.getItem("key") ?? "";
}

function authorization() {
  return key() ? {Authorization: `Bearer ${key()}`} : {};
}

async function tokenQuery() {
  if (!key()) return "";
  const response = await fetch(`${SERVER}/v1/tokens`, {method: "POST", headers: authorization()});
  return response.ok ? `?token=${(await response.json()).token}` : "";
}

// Text out

function segmentsSoFar() {
  const {client} = transcript;
  return [...transcript.segments, ...(client ? client.segments.map((segment) => moved(segment, client.beganAt)) : [])];
}

const forms = {
  txt: () => `${transcript.text}\n`,
  srt: () => subtitles("srt"),
  vtt: () => subtitles("vtt"),
  json: () => JSON.stringify({text: transcript.text, segments: segmentsSoFar()}, null, 2),
};

// The server writes them, as for its other clients.
async function subtitles(kind) {
  const headers = {"Content-Type": "application/json", ...authorization()};
  const response = await fetch(`${SERVER}/v1/subtitles/${kind}`, {method: "POST", headers, body: JSON.stringify({segments: segmentsSoFar()})});
  if (!response.ok) throw new Error(`The server did not write the subtitles (HTTP ${response.status}).`);
  return response.text();
}

async function download(kind) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([await forms[kind]()], {type: "text/plain"}));
  link.download = `transcript.${kind}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// What the page says of itself

function say(text) {
  $("status").textContent = text;
}

function tell(trouble) {
  $("trouble").textContent = trouble;
  $("trouble").hidden = false;
  say("Not listening.");
}

function hush() {
  $("trouble").hidden = true;
}

const events = [];

function log(message) {
  events.push(JSON.stringify(message));
  if (events.length > MOST_EVENTS) events.shift();
  $("events").textContent = events.join("\n");
  if (message.latency_ms !== undefined) $("delays").textContent = `text ${Math.round(message.latency_ms)} ms behind the sound`;
}

function showSnippets() {
  const {origin, host} = location;
  $("curl").textContent = `curl -F file=@recording.wav -F model=default ${origin}/v1/audio/transcriptions`;
  $("openai").textContent = `from openai import OpenAI\n\nclient = OpenAI(base_url="${origin}/v1", api_key="any")\nwith open("recording.wav", "rb") as file:\n    print(client.audio.transcriptions.create(file=file, model="default").text)`;
  $("python").textContent = `from moonshine_client import StreamingClient\n\nasync with StreamingClient("${host}") as client:\n    await client.send(pcm)  # PCM16, 16 kHz, mono, as often as there is some\n    final = await client.close()`;
  $("javascript").textContent = `import {MoonshineClient} from "${origin}/web/moonshine-client.js";\n\nconst client = new MoonshineClient({server: "${origin}", sampleRate: 48000});\nclient.addEventListener("text", () => console.log(client.stableText, client.movingText));\nawait client.connect();\nclient.send(samples); // Int16Array, as often as there is some\nconst final = await client.close();`;
}

$("microphone").onclick = () => listen(openMicrophone, $("microphone"));
$("tab").onclick = () => listen(() => navigator.mediaDevices.getDisplayMedia({audio: true, video: true}), $("tab"));
$("file").onchange = ({target}) => {
  for (const file of target.files) transcribe(file);
  target.value = "";
};
$("copy").onclick = async () => {
  await navigator.clipboard?.writeText(transcript.text);
  say("Copied.");
};
$("download").onchange = ({target}) => {
  if (target.value) download(target.value).catch((error) => ($("status").textContent = error.message));
  target.value = "";
};
$("clear").onclick = () => transcript.client ? tell("Stop listening first, then clear.") : transcript.clear();
for (const name of ["dragover", "dragleave", "drop"]) {
  addEventListener(name, (event) => {
    event.preventDefault();
    document.body.classList.toggle("dropping", name === "dragover");
    if (name === "drop") for (const file of event.dataTransfer.files) transcribe(file);
  });
}
$("key").value = key();
$("key").onchange = ({target}) => sessionStorage.setItem("key", target.value.trim());
if (!isSecureContext || !navigator.mediaDevices) {
  $("insecure").hidden = false;
  $("microphone").disabled = $("tab").disabled = true;
}
if (!navigator.mediaDevices?.getDisplayMedia) $("tab").hidden = true;
const asked = new URLSearchParams(location.search);
if (asked.has("captions")) document.body.classList.add("captions");
if (asked.has("channel")) watch(asked.get("channel"));
showSnippets();
listDevices();
