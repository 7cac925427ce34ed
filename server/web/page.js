// The page: buttons, states and what it says of itself. The parts are transcript, live, files, captions, developers and settings.

import {setUpCaptions, showCaptions} from "./captions.js";
import {$, copyText, element} from "./dom.js";
import {segmentsOf, transcribeFile} from "./files.js";
import {LiveSession} from "./live.js";
import {MoonshineClient, tokenFor} from "./moonshine-client.js";
import {authorization, key, listDevices, loadDraft, loadLast, loadSettings, openMicrophone, saveDraft, setKey, termsIn} from "./settings.js";
import {levelOf, MediaSource, reasonOf, SampleSource} from "./sound.js";
import {Block, clock, Transcript} from "./transcript.js";

const SERVER = new URL("..", import.meta.url).href.replace(/\/$/, ""); // also below a path of a proxy
const SAVE_MS = 2000;
const LOOK_MS = 5000; // between two looks at the server's places
const LATE_MS = 2000; // text later than this means that the server is busy
const WATCH_AGAIN_MS = 2000;
const UNDO_MS = 20000;
const NOTICE_MS = 3000;
const DOUBLE_PRESS_MS = 600;
const STATES = {ready: "Ready", connecting: "Connecting…", listening: "Listening", reconnecting: "Reconnecting… Your text is safe.", finishing: "Finishing…", working: "Transcribing", reading: "Reading", ended: "Stopped"};

// What the page says

function become(state, text = STATES[state]) {
  document.body.dataset.state = state;
  $("status").textContent = text;
  const isOn = ["connecting", "listening", "reconnecting"].includes(state);
  document.title = isOn ? "● Listening" : state === "finishing" ? "● Finishing" : "Speech to text";
  $("microphone").querySelector("span").textContent = isOn ? "Stop" : state === "finishing" ? "Finishing…" : "Start microphone";
  $("microphone").disabled = state === "finishing" || (!isOn && !hasMicrophone);
  $("sample").disabled = $("tab").disabled = state === "finishing";
  if (!isOn) $("level").value = -60;
  if (state === "listening") return;
  $("delay").textContent = "";
  document.body.classList.remove("late");
}

function tell(trouble) {
  $("trouble").textContent = trouble;
  $("trouble").hidden = !trouble;
}

// A short word about what was done. undo: a function that takes it back.
function notice(text, undo) {
  const button = element("button", {textContent: "Undo"});
  $("notice").replaceChildren(text, ...(undo ? [button] : []));
  $("notice").hidden = false;
  const hide = () => ($("notice").hidden = true);
  clearTimeout(notice.timer);
  notice.timer = setTimeout(hide, undo ? UNDO_MS : NOTICE_MS);
  button.onclick = () => {
    hide();
    undo();
  };
}

function showDelay(ms) {
  const isLate = ms > LATE_MS;
  $("delay").textContent = `${(ms / 1000).toFixed(1)} s${isLate ? ": the server is busy" : ""}`;
  $("delay").title = "How long after its audio the newest text came";
  document.body.classList.toggle("late", isLate);
}

let served = null; // the entry of /v1/models

async function showServer() {
  const {data} = await (await fetch(`${SERVER}/v1/models`, {headers: authorization()})).json().catch(() => ({}));
  if (!data?.length) return;
  const [{id, language, precision}] = data;
  const words = id.split("/").pop().split(/[-_]/).map((word) => word[0].toUpperCase() + word.slice(1));
  $("model").textContent = [words.join(" "), language && new Intl.DisplayNames(["en"], {type: "language"}).of(language), precision].filter(Boolean).join(" · ");
  [served] = data;
  panel?.showModel(served);
}

async function showPlaces() {
  if (document.hidden) return;
  try {
    const {sessions, max_sessions} = await (await fetch(`${SERVER}/acceptz`)).json();
    $("places").textContent = `${sessions} of ${max_sessions} sessions`;
  } catch {
    $("places").textContent = "not reachable";
  }
}

// The text

const transcript = new Transcript($("blocks"), {
  onCopy: (text) => copy(text, "The paragraph is copied."),
  onChange(added) {
    document.body.classList.toggle("empty", transcript.blocks.length === 0);
    $("welcome").hidden = transcript.blocks.length > 0;
    $("actions").hidden = !transcript.hasText;
    if (added) $("announced").textContent = added;
    follow();
    saveLater();
  },
});

// The newest words stay in sight, unless somebody has scrolled up to read.
let isFollowing = true;

function follow() {
  const box = $("transcript");
  if (isFollowing) box.scrollTop = box.scrollHeight;
}

$("transcript").addEventListener("scroll", ({target}) => {
  isFollowing = target.scrollHeight - target.scrollTop - target.clientHeight < 60;
});
addEventListener("resize", follow);

let saving = 0, keepsDraft = false;

function saveLater() {
  if (keepsDraft) saving ||= setTimeout(save, SAVE_MS);
}

function save() {
  saving = 0;
  const isSaved = saveDraft(transcript.saved);
  if (!isSaved) tell("The browser has no more room to keep the text over a reload. Download it before you leave.");
}

addEventListener("pagehide", () => {
  if (saving) save();
  live?.client?.leave();
});
addEventListener("beforeunload", (event) => live && event.preventDefault());

// Live audio

let live = null; // the session that is under way
const hasMicrophone = isSecureContext && Boolean(navigator.mediaDevices);

function listen(name) {
  tell("");
  const source = sources[name]();
  const session = developersAreShown() ? panel.runApi(source) : new LiveSession(source, {server: SERVER, transport: $("transport").value, keyterms: termsIn($("keyterms").value), token: key});
  live = Object.assign(session, {name});
  become("connecting");
  if (session.block) transcript.add(session.block);
  isFollowing = true;
  const handlers = {
    state: (detail) => changeState(session, detail),
    text: () => transcript.show(),
    message: take,
    level: (samples) => ($("level").value = levelOf(samples)),
    warning: tell,
    failed: (error) => refuse(error, () => press(name)),
  };
  for (const [event, handle] of Object.entries(handlers)) session.addEventListener(event, ({detail}) => session === live && handle(detail));
  keepAwake();
  session.start();
}

function changeState(session, {state, error}) {
  if (state === "listening") tell(session.source.warning ?? "");
  if (error) tell(`${sentenceOf(error)} Trying again…`);
  become(state, state === "listening" && session.client?.via ? `Listening over ${session.client.via === "webrtc" ? "WebRTC" : "WebSocket"}` : undefined);
  if (state !== "ended") return;
  live = null;
  letSleep();
  if (session.block && !session.block.text) transcript.remove(session.block);
  transcript.show();
  if (uploading) become("working", `Transcribing ${uploading.file.name}`);
  nextFile();
}

// Why it cannot go on, and what to do.
function refuse(error, again) {
  if ((error.reason ?? error.code) === "invalid_api_key") return askForKey(again);
  tell(sentenceOf(error));
}

function sentenceOf(error) {
  if (error.reason === "server_full") return "The server is full.";
  if (error.reason === "connection_lost" || error instanceof TypeError) return "Cannot reach the server. Your text is safe.";
  const reason = reasonOf(error);
  return reason[0].toUpperCase() + reason.slice(1) + (/[.!?]$/.test(reason) ? "" : ".");
}

function askForKey(again) {
  $("asked-key").value = "";
  $("wrong-key").hidden = !key();
  $("key-dialog").showModal();
  $("key-form").onsubmit = () => {
    setKey($("asked-key").value);
    $("key").value = key();
    showServer();
    setTimeout(again); // after the dialog has closed
  };
}

function take(message) {
  panel?.logEvent(message);
  if (message.latency_ms !== undefined && message.op === "interim") showDelay(message.latency_ms);
}

let wakeLock = null;

async function keepAwake() {
  try {
    wakeLock = await navigator.wakeLock?.request("screen");
    if (!live) letSleep();
  } catch {} // a screen that goes dark is no reason to stop
}

function letSleep() {
  wakeLock?.release().catch(() => {});
  wakeLock = null;
}

for (const name of ["visibilitychange", "pointerdown", "keydown"]) {
  document.addEventListener(name, () => {
    if (!live || document.hidden) return;
    live.source.look();
    if (name === "visibilitychange") keepAwake(); // the browser lets the screen go when the page is hidden
  });
}

// Recordings wait for each other, and for live audio

const waiting = [];
let uploading = null;

function addFiles(files) {
  if (!live) tell("");
  for (const file of files) {
    const block = new Block({name: file.name}), view = transcript.add(block);
    const line = element("p", {className: "progress"}), bar = element("progress", {max: 1, value: 0}), text = element("span", {textContent: "Waiting"});
    bar.setAttribute("aria-label", `Progress of ${file.name}`);
    const stop = element("button", {textContent: "Stop"});
    line.append(bar, text, stop);
    view.element.append(line);
    const job = {file, block, line, bar, text};
    stop.onclick = () => (job === uploading ? job.work.stop() : drop(job));
    waiting.push(job);
  }
  isFollowing = true;
  follow();
  nextFile();
}

function drop(job) {
  waiting.splice(waiting.indexOf(job), 1);
  transcript.remove(job.block);
}

async function nextFile() {
  if (uploading || live || !waiting.length) return;
  const job = (uploading = waiting.shift());
  become("working", `Transcribing ${job.file.name}`);
  job.work = transcribeFile(SERVER, authorization(), job.file, termsIn($("keyterms").value), {onProgress: (progress) => showProgress(job, progress), onEvent: (event) => addText(job.block, event)});
  try {
    await job.work.done;
    job.line.remove();
    if (!live) become("ended", job.block.text ? `${job.file.name} is transcribed` : `${job.file.name} has no words`);
  } catch (error) {
    failFile(job, error);
    if (error.code === "invalid_api_key") return askForKey(nextFile);
  } finally {
    uploading = null;
    transcript.show();
  }
  nextFile();
}

function failFile(job, error) {
  if (!live) become("ended");
  if (error.code === "invalid_api_key") {
    job.text.textContent = "Waiting for the API key";
    return waiting.unshift(job);
  }
  const remove = element("button", {textContent: "Remove", onclick: () => transcript.remove(job.block)});
  const isNoAudio = error.code === "invalid_file";
  job.line.replaceChildren(element("span", {textContent: isNoAudio ? "This is not an audio file." : error.message, className: "failed"}), remove);
  job.line.setAttribute("role", "alert");
}

function showProgress({bar, text}, {part, doneMs, totalMs}) {
  if (part < 1) {
    bar.value = part / 4;
    text.textContent = `Uploading, ${Math.round(100 * part)}%`;
  } else if (totalMs) {
    bar.value = 0.25 + (0.75 * doneMs) / totalMs;
    text.textContent = `Transcribing, ${clock(doneMs)} of ${clock(totalMs)}`;
  } else {
    bar.removeAttribute("value");
    text.textContent = `Transcribing, ${clock(doneMs)}`;
  }
}

function addText(block, event) {
  panel?.logEvent(event);
  if (event.type !== "transcript.text.delta") return;
  const text = block.text + event.delta, segments = [...block.segments, ...segmentsOf(event)];
  block.update(text, text.length, segments, segments.at(-1)?.end_ms ?? 0);
  transcript.show();
}

// Somebody else's audio: who sends by WHIP to a channel is read here, for captions in OBS or on a second screen

async function watch(channel, over = "") {
  const token = await tokenFor(SERVER, key()).catch(() => "");
  const events = new EventSource(`${SERVER}/whip/${encodeURIComponent(channel)}/events${token && `?token=${token}`}`);
  const readers = new Map(); // of each channel of the audio: a telephone call may have two
  events.onopen = () => {
    for (const {block} of readers.values()) transcript.remove(block); // a reader that comes again gets all text again
    readers.clear();
    become("reading", `Reading ${channel}`);
  };
  events.onmessage = ({data}) => {
    const message = JSON.parse(data), number = message.channel ?? 0;
    if (message.sid === over) return;
    if (!readers.has(number)) {
      const block = new Block({name: message.channel === undefined ? channel : `${channel}, channel ${number + 1}`});
      readers.set(number, {client: Object.assign(new MoonshineClient(), {resolveFinal() {}, rejectFinal() {}}), block});
      transcript.add(block);
    }
    const {client, block} = readers.get(number);
    client.take(data);
    block.update(client.text, client.stable, client.segments, client.transcript.closedMs);
    transcript.show();
    panel?.logEvent(message);
    if (![...readers.values()].every((reader) => reader.client.isEnded)) return;
    over = message.sid;
    readers.clear();
  };
  events.onerror = () => {
    become("ended", `Nobody sends on ${channel} now`);
    if (events.readyState === EventSource.CLOSED) setTimeout(() => watch(channel, over), WATCH_AGAIN_MS);
  };
}

// Text out

async function copy(text, done) {
  try {
    await copyText(text);
    notice(done);
  } catch {
    tell("The browser did not allow copying. Select the text and copy it with the keyboard.");
  }
}

const forms = {
  txt: () => `${transcript.text}\n`,
  srt: () => subtitles("srt"),
  vtt: () => subtitles("vtt"),
  json: () => JSON.stringify({text: transcript.text, segments: transcript.segments}, null, 2),
};

// The server writes them, as for its other clients.
async function subtitles(kind) {
  const headers = {"Content-Type": "application/json", ...authorization()};
  const response = await fetch(`${SERVER}/v1/subtitles/${kind}`, {method: "POST", headers, body: JSON.stringify({segments: transcript.segments})});
  if (!response.ok) throw new Error(`The server did not write the subtitles (HTTP ${response.status}).`);
  return response.text();
}

async function download(kind) {
  try {
    const link = element("a", {href: URL.createObjectURL(new Blob([await forms[kind]()], {type: "text/plain"})), download: `${fileName()}.${kind}`});
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  } catch (error) {
    tell(sentenceOf(error));
  }
}

// Of the only recording, or of the day and the time.
function fileName() {
  const [only, ...others] = transcript.blocks.map(({name}) => name);
  if (!others.length && /\.\w{2,4}$/.test(only)) return only.replace(/\.\w+$/, "");
  const now = new Date(), two = (number) => String(number).padStart(2, "0");
  return `transcript-${now.getFullYear()}-${two(now.getMonth() + 1)}-${two(now.getDate())}-${two(now.getHours())}${two(now.getMinutes())}`;
}

function clear() {
  const unfinished = [live?.block, uploading?.block, ...waiting.map(({block}) => block)];
  const cleared = transcript.blocks.filter((block) => !unfinished.includes(block));
  if (!cleared.length) return notice("The text that is being written can be cleared when it is finished.");
  const removed = cleared.map((block) => transcript.remove(block)).reverse(); // the last one was removed last, and comes back first
  panel?.clearEvents();
  $("transcript").focus();
  notice("The text is cleared.", () => transcript.restore(removed));
}

// The developers' panel is loaded when it is opened

let panel = null;

const developersAreShown = () => Boolean(panel) && !$("developers").hidden;

async function showDevelopers(areShown) {
  if (areShown) panel ??= await import("./developers.js");
  panel?.show(areShown, SERVER, served);
}

// Buttons

const sources = {
  microphone: () => new MediaSource(openMicrophone, {
    name: "Microphone",
    refused: "The microphone is blocked. Allow it for this page in the browser's settings, then press the button again.",
    ended: "The microphone was unplugged, or its use was ended.",
  }),
  tab: () => new MediaSource(() => navigator.mediaDevices.getDisplayMedia({audio: true, video: true}), {name: "Tab audio", refused: "Nothing was shared.", ended: ""}),
  sample: () => new SampleSource(),
};

// The large button stops whatever is listening; another source takes over from the one before.
let isPressing = false, stoppedAt = -Infinity;

async function press(name) {
  if (isPressing) return; // the one before still finishes
  isPressing = true;
  const before = live?.name;
  await live?.stop();
  isPressing = false;
  if (before) stoppedAt = performance.now();
  if (!before || (name !== "microphone" && name !== before)) listen(name);
}

for (const name of Object.keys(sources)) {
  $(name).onclick = () => {
    if (live || performance.now() - stoppedAt > DOUBLE_PRESS_MS) press(name); // a second press on Stop is no wish to start
  };
}
$("file").onchange = ({target}) => {
  addFiles([...target.files]);
  target.value = "";
};
$("copy").onclick = () => copy(transcript.text, "Copied");
$("download").onclick = () => download($("format").value);
$("clear").onclick = clear;
$("show-captions").onclick = () => showCaptions(true);
$("show-developers").onclick = () => showDevelopers(!developersAreShown());
$("show-settings").onclick = () => $("settings").showModal();
$("cancel-key").onclick = () => $("key-dialog").close();
for (const name of ["dragover", "dragleave", "drop"]) {
  addEventListener(name, (event) => {
    event.preventDefault();
    document.body.classList.toggle("dropping", name === "dragover");
    if (name === "drop") addFiles([...event.dataTransfer.files]);
  });
}
$("key").value = key();
$("key").onchange = ({target}) => {
  setKey(target.value);
  showServer();
  nextFile();
};
loadSettings((name) => {
  document.body.style.setProperty("--text", `${$("text-size").value}px`);
  if (live?.name === "microphone" && !["transport", "keyterms", "text-size"].includes(name)) live.source.change().catch((error) => tell(sentenceOf(error)));
});
document.body.style.setProperty("--text", `${$("text-size").value}px`);
$("insecure").hidden = hasMicrophone;
$("tab").hidden = !isSecureContext || !navigator.mediaDevices?.getDisplayMedia;
become("ready");
const asked = new URLSearchParams(location.search);
keepsDraft = !asked.has("channel"); // what somebody else says is not this tab's text
if (keepsDraft) transcript.restore(loadDraft());
transcript.show();
$("last").hidden = transcript.hasText || !keepsDraft || !loadLast().length;
$("last").onclick = () => transcript.restore(loadLast());
setUpCaptions();
if (asked.has("channel")) watch(asked.get("channel"));
showServer().then(() => location.hash === "#developers" && showDevelopers(true));
showPlaces();
setInterval(showPlaces, LOOK_MS);
listDevices();
