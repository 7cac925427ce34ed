// A stream of speech to a moonshine-asr server, from any browser. No dependencies.
//
//   import {MoonshineClient} from "/web/moonshine-client.js";
//   const client = new MoonshineClient({sampleRate: 48000});
//   client.addEventListener("text", () => show(client.stableText, client.movingText));
//   await client.connect();
//   client.send(samples);               // Int16Array, mono, as often as there is some
//   const final = await client.close();
//
// Where the connection or the server is lost, another session begins with the audio since the last closed segment, on this server or
// the next of `server`: no word is lost, none is told twice.
//
// Events: "text" (the text or its stable part has changed), "message" (detail: any message of the server), "trouble" (detail: an Error;
// it tries again), "resumed", "lost" (detail: an Error; it is over).
// docs/protocol.md of the server describes the messages.

const WEBRTC_WAIT_MS = 3000;
const GATHERING_WAIT_MS = 1500;
const SOCKET_WAIT_MS = 5000;
const BEGIN_WAIT_MS = 15000; // for one try, over either way
const SILENT_MS = 4000; // without a word of a server that says pulse: it is lost
const LOOK_MS = 250;
export const SOONEST_MS = 250;
export const LATEST_MS = 5000; // between two tries to go on
export const MOST_VAIN = 5; // sessions in a row that closed nothing
const MOST_SAMPLES = 16000; // in one message: a third of a second at 48 kHz
const MOST_AHEAD_MS = 60000; // of audio that the server has not received: half of what it lets wait
const MOST_UNSENT_BYTES = 256 * 1024;
export const PASSING = ["bad_answer", "connect_timeout", "connection_lost", "engine_failed", "shutting_down", "internal_error", "server_full", "warming_up", "too_many_sessions", "rate_limit_exceeded"];

export class ServerError extends Error {
  constructor(reason, message, retryAfterMs = 0) {
    super(message);
    this.reason = reason;
    this.retryAfterMs = retryAfterMs;
  }
}

const lost = (message) => new ServerError("connection_lost", message);

// The transcript of a stream, put together over all the sessions that it took.
export class Transcript {
  closedText = ""; // of the sessions before
  closedSegments = [];
  openText = ""; // of this one
  openStable = 0;
  openSegments = [];
  closedMs = 0; // up to there all is in closed segments, or silence: a new session begins there
  receivedMs = 0; // up to there the server has received the audio

  get text() {
    return joined(this.closedText, this.openText);
  }

  get stableText() {
    return joined(this.closedText, this.openText.slice(0, this.openStable));
  }

  get segments() {
    return [...this.closedSegments, ...this.openSegments];
  }

  // A new session begins where the closed segments end; the audio of the open one is sent again.
  goOn() {
    this.closedText = joined(this.closedText, ...this.openSegments.map(({text}) => text));
    this.closedSegments.push(...this.openSegments);
    Object.assign(this, {openText: "", openStable: 0, openSegments: [], receivedMs: this.closedMs});
  }

  // True if the message has text.
  take(message) {
    this.receivedMs = Math.max(this.receivedMs, message.audio_ms ?? 0);
    if (message.op === "pulse") this.closedMs = Math.max(this.closedMs, message.audio_ms);
    if (message.op === "pulse" || message.text === undefined) return false;
    this.openText = this.openText.slice(0, message.offset ?? 0) + message.text;
    this.openStable = message.stable ?? this.openText.length;
    this.openSegments.push(...(message.segments ?? []));
    const last = ["final", "flushed"].includes(message.op) ? message.audio_ms : this.openSegments.at(-1)?.end_ms;
    this.closedMs = Math.max(this.closedMs, last ?? 0);
    return true;
  }
}

// The audio that the server may still need. Positions are in samples of the whole stream.
class ResendBuffer {
  blocks = [];
  start = 0;
  end = 0;

  append(samples) {
    this.blocks.push(samples);
    this.end += samples.length;
  }

  forgetBefore(position) {
    while (this.blocks.length && this.start + this.blocks[0].length <= position) this.start += this.blocks.shift().length;
    if (this.blocks.length && this.start < position) {
      this.blocks[0] = this.blocks[0].subarray(position - this.start);
      this.start = position;
    }
  }

  // From a position that is held: at most so many samples.
  read(position, most) {
    const samples = new Int16Array(Math.min(most, this.end - position));
    let first = this.start;
    for (const block of this.blocks) {
      const from = Math.max(position, first), until = Math.min(position + samples.length, first + block.length);
      if (from < until) samples.set(block.subarray(from - first, until - first), from - position);
      first += block.length;
    }
    return samples;
  }
}

export class MoonshineClient extends EventTarget {
  // server: its origin, or several to try in turn. transport: "auto" tries WebRTC first, for no lost packet holds up what follows.
  // token: a function that gets a token for each connection, from your own backend; a page must not know a key. key: for tools of
  // your own. resumeMs: how long to try to go on where a session is lost. refusedMs: how long to try to connect to a server that is
  // full or not ready. silenceMs: the longest silence within a turn; turnThreshold: the probability that ends one before. keyterms: names and phrases that will be said, as texts or {term, boost}. textOptions: by their names in the
  // protocol, {numerals, redact, profanity_filter, filler_words, replace}.
  constructor({server = globalThis.location?.origin, sampleRate = 16000, words = true, silenceMs, turnThreshold, keyterms, textOptions, transport = "auto", token, key, resumeMs = 60000, refusedMs = 10000} = {}) {
    super();
    this.servers = [server].flat();
    this.transport = transport;
    this.credentials = token ?? (() => key ?? "");
    this.resumeMs = resumeMs;
    this.refusedMs = refusedMs;
    this.via = ""; // "webrtc" or "websocket", once connected
    this.init = {op: "init", sr: sampleRate, words, tail: true, pulse: true, moving: true, ...(silenceMs && {silence_ms: silenceMs}), ...(turnThreshold && {turn_threshold: turnThreshold}), ...(keyterms?.length && {keyterms}), ...textOptions};
    this.transcript = new Transcript();
    this.audio = new ResendBuffer();
    this.sent = 0;
    this.isClosing = false;
    this.flushAt = null; // where it was asked for, and is not done yet
    this.pumping = null;
    this.isEnded = false;
    this.session = null;
  }

  get text() {
    return this.transcript.text;
  }

  get stable() {
    return this.stableText.length;
  }

  get segments() {
    return this.transcript.segments;
  }

  get stableText() {
    return this.transcript.stableText;
  }

  get movingText() {
    return this.text.slice(this.stable);
  }

  // Resolves when audio may be sent. Throws where the server cannot be reached or refuses.
  async connect() {
    this.final = new Promise((resolve, reject) => Object.assign(this, {resolveFinal: resolve, rejectFinal: reject}));
    this.final.catch(() => {}); // whoever closes is told; nobody else need be
    await this.begin().catch(async (refused) => {
      if (!(refused instanceof ServerError) || !(await this.goOn(refused, this.refusedMs))) throw refused;
    });
    this.keepGoing();
  }

  begin() {
    const session = new Session(this);
    return within(BEGIN_WAIT_MS, this.beginWith(session), "connecting").catch((error) => {
      session.stop(lost(error.message));
      throw error;
    });
  }

  async beginWith(session) {
    session.wire = await this.openWire(session);
    if (session.isStopped) return session.wire.close(); // it came too late
    this.takeOver(session);
    session.keyterms = this.init.keyterms;
    await session.begin({...this.init, from_ms: this.transcript.closedMs});
    this.via = session.wire.name;
    this.pump();
  }

  async openWire(session) {
    const [server] = this.servers;
    if (this.transport !== "websocket") {
      try {
        return await openDataChannel(server, await this.credentials(), session);
      } catch (error) {
        if (this.transport === "webrtc" || (error instanceof ServerError && error.reason !== "connection_lost")) throw error;
      }
    }
    return openSocket(server, await this.credentials(), session);
  }

  // From here on no message of the session before counts; what was open in it is sent again.
  takeOver(session) {
    const before = this.session;
    this.session = session;
    before?.stop(lost("the stream goes on elsewhere"));
    this.transcript.goOn();
    const position = Math.round((this.transcript.closedMs * this.init.sr) / 1000);
    this.audio.forgetBefore(position);
    this.sent = Math.max(this.audio.start, Math.min(position, this.audio.end));
  }

  async keepGoing() {
    let vain = 0, closedMs = 0;
    while (!this.isEnded) {
      const {session} = this;
      const error = await session.ended;
      await this.moving;
      if (this.session !== session) continue; // it has moved
      vain = this.transcript.closedMs > closedMs ? 0 : vain + 1;
      closedMs = this.transcript.closedMs;
      if (!this.isEnded && (vain >= MOST_VAIN || !(await this.goOn(error, this.resumeMs)))) this.lose(error);
    }
  }

  // Begins another session, first at once, then again and again. False where it cannot be done in time.
  async goOn(error, withinMs) {
    const deadline = performance.now() + withinMs;
    for (let pause = 0; !this.isEnded; pause = Math.min(LATEST_MS, 2 * pause || SOONEST_MS)) {
      const wait = pause && Math.max(pause, error.retryAfterMs ?? 0) * (0.75 + Math.random() / 2);
      if (!PASSING.includes(error.reason) || performance.now() + wait >= deadline) return false;
      this.dispatchEvent(new CustomEvent("trouble", {detail: error}));
      await new Promise((resolve) => setTimeout(resolve, wait));
      this.servers.push(this.servers.shift());
      try {
        await this.begin();
        this.dispatchEvent(new Event("resumed"));
        return true;
      } catch (next) {
        error = next instanceof ServerError ? next : lost(next.message);
      }
    }
    return false;
  }

  // samples: Int16Array, mono, at the client's rate.
  send(samples) {
    if (this.isEnded || this.isClosing) return;
    this.audio.append(samples);
    const unsentMs = (1000 * (this.audio.end - this.sent)) / this.init.sr;
    const frameMs = this.session?.frameMs ?? 0;
    if (unsentMs < frameMs) this.pumpLater(frameMs);
    else this.pump();
  }

  pumpLater(milliseconds) {
    this.pumping ??= setTimeout(() => this.pump(), milliseconds);
  }

  pump() {
    const {session} = this;
    clearTimeout(this.pumping);
    this.pumping = null;
    if (!session?.isReady) return; // the next one gets it
    if (session.keyterms !== this.init.keyterms && !session.hasClosed) {
      session.keyterms = this.init.keyterms;
      session.wire.send(JSON.stringify({op: "keyterms", keyterms: session.keyterms ?? []}));
    }
    while (this.sent < this.audio.end) {
      if (session.wire.unsentBytes() > MOST_UNSENT_BYTES) return this.pumpLater(50);
      if (performance.now() - session.receivedAt < SILENT_MS / 2 && (1000 * this.sent) / this.init.sr - this.transcript.receivedMs > MOST_AHEAD_MS) return this.pumpLater(LOOK_MS);
      const piece = this.audio.read(this.sent, MOST_SAMPLES);
      this.sent += piece.length;
      session.wire.send(piece);
    }
    if (this.flushAt !== null && session.flushedAt !== this.flushAt) {
      session.flushedAt = this.flushAt;
      session.wire.send('{"op":"flush"}');
    }
    if (this.isClosing && !session.hasClosed) {
      session.hasClosed = true;
      session.wire.send('{"op":"close"}');
    }
  }

  // What was said so far is closed: its text comes at once and will not change.
  flush() {
    this.flushAt = this.audio.end;
    this.pump();
  }

  // Names and phrases that will be said from now on, in place of those before.
  setKeyterms(keyterms) {
    this.init.keyterms = keyterms;
    this.pump();
  }

  // The audio has ended. Resolves to the final message.
  close() {
    this.isClosing = true;
    this.pump();
    return this.final;
  }

  // The page is left: the server's place is free at once, and no last words come.
  leave() {
    this.isEnded = true;
    this.session?.wire?.leave();
  }

  take(data) {
    this.takeMessage(JSON.parse(data), this.session);
  }

  takeMessage(message, session) {
    if (this.transcript.take(message)) {
      this.audio.forgetBefore(Math.floor((this.transcript.closedMs * this.init.sr) / 1000));
      this.dispatchEvent(new Event("text"));
    }
    if (message.op === "flushed") this.flushAt = null;
    this.dispatchEvent(new CustomEvent("message", {detail: message}));
    if (message.op === "final" && (!session || session.hasClosed)) this.end(() => this.resolveFinal({...message, text: this.text, segments: this.segments}));
    else if (message.op === "final") session.stop(new ServerError("shutting_down", "the server has ended the stream"));
    else if (message.op === "error") session ? session.stop(new ServerError(message.reason, message.message)) : this.lose(new ServerError(message.reason, message.message));
    else if (message.op === "moving") this.moving = this.goOn(new ServerError("shutting_down", "the server is about to end"), 1000 * message.seconds);
  }

  lose(error) {
    this.end(() => {
      this.rejectFinal(error);
      this.dispatchEvent(new CustomEvent("lost", {detail: error}));
    });
  }

  end(tell) {
    if (this.isEnded) return;
    this.isEnded = true;
    tell();
    this.session?.stop(lost("the stream has ended"));
  }
}

// One connection, from its init to its last message.
class Session {
  constructor(client) {
    this.client = client;
    this.isReady = this.hasClosed = this.saysPulse = this.isStopped = false;
    this.receivedAt = performance.now();
    this.ended = new Promise((resolve) => (this.tellEnd = resolve));
    this.ready = new Promise((resolve) => (this.tellReady = resolve));
  }

  async begin(init) {
    this.wire.send(JSON.stringify(init));
    const error = await Promise.race([this.ready, this.ended]);
    if (error) throw error;
    this.isReady = true;
    this.watching = setInterval(() => {
      if (this.saysPulse && performance.now() - this.receivedAt > SILENT_MS) this.stop(lost("the server has fallen silent"));
    }, LOOK_MS);
  }

  take(data) {
    const message = JSON.parse(data);
    this.receivedAt = performance.now();
    this.saysPulse ||= message.op === "pulse";
    if (message.op === "ready") {
      this.frameMs = message.frame_ms ?? 0; // of audio that the server wants in a message
      this.tellReady();
    }
    if (this.client.session === this) this.client.takeMessage(message, this);
  }

  stop(error) {
    clearInterval(this.watching);
    this.isStopped = true;
    this.isReady = false;
    this.tellEnd(error);
    this.wire?.close();
  }
}

function joined(...texts) {
  return texts.filter(Boolean).join(" ");
}

function within(milliseconds, promise, what) {
  let timer;
  const late = new Promise((_, reject) => (timer = setTimeout(() => reject(new Error(`${what} took too long`)), milliseconds)));
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

async function openDataChannel(server, credential, session) {
  if (!globalThis.RTCPeerConnection) throw new Error("this browser has no WebRTC");
  const connection = new RTCPeerConnection();
  try {
    const channel = connection.createDataChannel("audio");
    channel.binaryType = "arraybuffer";
    const opened = new Promise((resolve, reject) => {
      channel.onopen = resolve;
      connection.onconnectionstatechange = () => {
        if (connection.connectionState === "failed") reject(new Error("no way through the network"));
      };
    });
    opened.catch(() => {});
    await connection.setLocalDescription();
    await gathered(connection);
    await within(WEBRTC_WAIT_MS, answered(server, credential, connection).then(() => opened), "WebRTC");
    channel.onmessage = ({data}) => session.take(data);
    channel.onclose = () => session.stop(lost("the connection was lost"));
    connection.onconnectionstatechange = () => {
      if (["failed", "closed"].includes(connection.connectionState)) session.stop(lost("the connection was lost"));
    };
    return {name: "webrtc", unsentBytes: () => channel.bufferedAmount, send: (data) => channel.readyState === "open" && channel.send(data), close: () => setTimeout(() => connection.close(), 500), leave: () => connection.close()};
  } catch (error) {
    connection.close();
    throw error;
  }
}

function gathered(connection) {
  const done = new Promise((resolve) => {
    const look = () => connection.iceGatheringState === "complete" && resolve();
    connection.addEventListener("icegatheringstatechange", look);
    look();
  });
  return within(GATHERING_WAIT_MS, done, "gathering").catch(() => {}); // what was found until then is offered
}

async function answered(server, credential, connection) {
  const {sdp, type} = connection.localDescription;
  const headers = {"Content-Type": "application/json", ...(credential && {Authorization: `Bearer ${credential}`})};
  const response = await fetch(`${server}/webrtc`, {method: "POST", headers, body: JSON.stringify({sdp, type})});
  const answer = await bodyOf(response);
  if (!response.ok) throw refusal(response, answer);
  await connection.setRemoteDescription(answer);
}

// A proxy in between may answer for a server that is away, in a form of its own.
async function bodyOf(response) {
  try {
    return await response.json();
  } catch {
    throw new ServerError("bad_answer", `the answer is no JSON (HTTP ${response.status})`);
  }
}

function refusal(response, {reason, message}) {
  return new ServerError(reason, message, 1000 * (Number(response.headers.get("Retry-After")) || 0));
}

// A WebSocket's address gets into logs: a token goes there, which lets in once, and never a key.
export async function tokenFor(server, credential) {
  if (!credential || credential.startsWith("tk_")) return credential;
  return askForToken(server, credential);
}

async function askForToken(server, credential) {
  const headers = credential ? {Authorization: `Bearer ${credential}`} : {};
  const response = await fetch(`${server}/v1/tokens`, {method: "POST", headers});
  const answer = await bodyOf(response);
  if (!response.ok) throw refusal(response, answer.error ? {reason: answer.error.code, message: answer.error.message} : answer);
  return answer.token;
}

// A browser does not tell why a WebSocket was refused.
async function findOutWhyNot(server, credential) {
  if (!credential.startsWith("tk_")) await askForToken(server, credential);
  const response = await fetch(`${server}/readyz`);
  const {reason, why} = await bodyOf(response);
  if (reason) throw refusal(response, {reason, message: why});
}

async function openSocket(server, credential, session) {
  const token = await tokenFor(server, credential);
  const socket = new WebSocket(`${server.replace(/^http/, "ws")}/ws${token ? `?token=${token}` : ""}`);
  socket.binaryType = "arraybuffer";
  const opened = new Promise((resolve, reject) => {
    socket.onopen = resolve;
    socket.onerror = () => reject(lost("the server cannot be reached by a WebSocket"));
  });
  try {
    await within(SOCKET_WAIT_MS, opened, "the WebSocket");
  } catch (error) {
    socket.close();
    await findOutWhyNot(server, credential);
    throw error;
  }
  socket.onmessage = ({data}) => session.take(data);
  socket.onerror = null;
  socket.onclose = () => session.stop(lost("the connection was lost"));
  return {name: "websocket", unsentBytes: () => socket.bufferedAmount, send: (data) => socket.readyState === 1 && socket.send(data), close: () => socket.close(), leave: () => socket.close()};
}
