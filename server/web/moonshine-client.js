// A stream of speech to a moonshine-asr server, from any browser. No dependencies.
//
//   import {MoonshineClient} from "/web/moonshine-client.js";
//   const client = new MoonshineClient({sampleRate: 48000});
//   client.addEventListener("text", () => show(client.stableText, client.movingText));
//   await client.connect();
//   client.send(samples);               // Int16Array, mono, as often as there is some
//   const final = await client.close();
//
// Events: "text" (the text or its stable part has changed), "message" (detail: any message of the server), "lost" (detail: an Error).
// docs/protocol.md of the server describes the messages.

const WEBRTC_WAIT_MS = 3000;
const GATHERING_WAIT_MS = 1500;
const SOCKET_WAIT_MS = 5000;
const MOST_SAMPLES = 16000; // in one message: a third of a second at 48 kHz

export class ServerError extends Error {
  constructor(reason, message) {
    super(message);
    this.reason = reason;
  }
}

export class MoonshineClient extends EventTarget {
  // server: its origin; transport: "auto" tries WebRTC first, for no lost packet holds up what follows.
  constructor({server = location.origin, sampleRate = 16000, words = true, silenceMs = undefined, transport = "auto"} = {}) {
    super();
    this.server = server;
    this.transport = transport;
    this.via = ""; // "webrtc" or "websocket", once connected
    this.text = "";
    this.stable = 0;
    this.segments = [];
    this.init = {op: "init", sr: sampleRate, words, tail: true, ...(silenceMs && {silence_ms: silenceMs})};
    this.isEnded = false;
  }

  get stableText() {
    return this.text.slice(0, this.stable);
  }

  get movingText() {
    return this.text.slice(this.stable);
  }

  // Resolves when audio may be sent. Throws where the server cannot be reached or refuses.
  async connect() {
    this.final = new Promise((resolve, reject) => Object.assign(this, {resolveFinal: resolve, rejectFinal: reject}));
    this.final.catch(() => {}); // whoever closes is told; nobody else need be
    this.wire = await this.openWire();
    this.via = this.wire.name;
    const ready = new Promise((resolve) => (this.onReady = resolve));
    this.wire.send(JSON.stringify(this.init));
    await Promise.race([ready, this.final]);
  }

  async openWire() {
    if (this.transport !== "websocket") {
      try {
        return await openDataChannel(this.server, this);
      } catch (error) {
        if (this.transport === "webrtc" || error instanceof ServerError) throw error;
      }
    }
    return openSocket(this.server, this);
  }

  // samples: Int16Array, mono, at the client's rate.
  send(samples) {
    for (let start = 0; start < samples.length && !this.isEnded; start += MOST_SAMPLES) {
      this.wire.send(samples.slice(start, start + MOST_SAMPLES));
    }
  }

  // What was said so far is closed: its text comes at once and will not change.
  flush() {
    this.wire.send('{"op":"flush"}');
  }

  // The audio has ended. Resolves to the final message.
  close() {
    if (!this.isEnded) this.wire.send('{"op":"close"}');
    return this.final;
  }

  take(data) {
    const message = JSON.parse(data);
    if (message.op === "ready") this.onReady();
    if (message.text !== undefined) {
      this.text = this.text.slice(0, message.offset ?? 0) + message.text;
      this.stable = message.stable ?? this.text.length;
      this.segments.push(...(message.segments ?? []));
      this.dispatchEvent(new Event("text"));
    }
    this.dispatchEvent(new CustomEvent("message", {detail: message}));
    if (message.op === "final") this.end(() => this.resolveFinal(message));
    if (message.op === "error") this.lose(new ServerError(message.reason, message.message));
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
    this.wire?.close();
  }
}

function within(milliseconds, promise, what) {
  let timer;
  const late = new Promise((_, reject) => (timer = setTimeout(() => reject(new Error(`${what} took too long`)), milliseconds)));
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

async function openDataChannel(server, client) {
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
    await within(WEBRTC_WAIT_MS, answered(server, connection).then(() => opened), "WebRTC");
    channel.onmessage = ({data}) => client.take(data);
    channel.onclose = () => client.lose(new Error("the connection was lost"));
    connection.onconnectionstatechange = () => {
      if (["failed", "closed"].includes(connection.connectionState)) client.lose(new Error("the connection was lost"));
    };
    return {name: "webrtc", send: (data) => channel.readyState === "open" && channel.send(data), close: () => setTimeout(() => connection.close(), 500)};
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

async function answered(server, connection) {
  const {sdp, type} = connection.localDescription;
  const headers = {"Content-Type": "application/json"};
  const response = await fetch(`${server}/webrtc`, {method: "POST", headers, body: JSON.stringify({sdp, type})});
  const answer = await response.json();
  if (!response.ok) throw new ServerError(answer.reason, answer.message);
  await connection.setRemoteDescription(answer);
}

async function openSocket(server, client) {
  const socket = new WebSocket(`${server.replace(/^http/, "ws")}/ws`);
  socket.binaryType = "arraybuffer";
  const opened = new Promise((resolve, reject) => {
    socket.onopen = resolve;
    socket.onerror = () => reject(new Error("the server cannot be reached, or has no room"));
  });
  try {
    await within(SOCKET_WAIT_MS, opened, "the WebSocket");
  } catch (error) {
    socket.close();
    throw error;
  }
  socket.onmessage = ({data}) => client.take(data);
  socket.onerror = null;
  socket.onclose = () => client.lose(new Error("the connection was lost"));
  return {name: "websocket", send: (data) => socket.readyState === 1 && socket.send(data), close: () => socket.close()};
}
