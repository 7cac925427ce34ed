// One time at the microphone, in a tab's audio or through the sample: audio goes to the server, text into a block of the transcript.

import {MoonshineClient} from "./moonshine-client.js";
import {Block} from "./transcript.js";

const RESUME_MS = 10 * 60 * 1000; // for so long the audio is held while the server cannot be reached
const CLOSE_WAIT_MS = 20000;

// Events: "state" (detail: connecting, listening, reconnecting, finishing or ended), "text", "message" (detail), "level" (detail: samples),
// "warning" (detail: a sentence or ""), "failed" (detail: an Error with its reason).
export class LiveSession extends EventTarget {
  state = "connecting";

  constructor(source, options) {
    super();
    this.source = source;
    this.options = options;
    this.block = new Block({name: source.name});
  }

  async start() {
    this.source.addEventListener("samples", ({detail}) => this.send(detail));
    this.source.addEventListener("warning", ({detail}) => this.say("warning", detail));
    this.source.addEventListener("ended", ({detail}) => {
      if (detail) this.say("warning", detail);
      this.stop();
    });
    try {
      await this.source.start();
      if (this.state !== "connecting") return; // Stop was pressed meanwhile
      this.client = new MoonshineClient({...this.options, sampleRate: this.source.rate, resumeMs: RESUME_MS});
      this.listenTo(this.client);
      for (const samples of this.early ?? []) this.client.send(samples);
      await this.client.connect();
      this.hasConnected = true;
      if (this.isOn) this.become("listening");
    } catch (error) {
      this.fail(error);
    }
  }

  listenTo(client) {
    client.addEventListener("text", () => this.update());
    client.addEventListener("message", ({detail}) => this.say("message", detail));
    client.addEventListener("trouble", ({detail}) => {
      this.isCatchingUp = true;
      if (this.isOn) this.become(this.hasConnected ? "reconnecting" : "connecting", detail);
    });
    client.addEventListener("resumed", () => this.isOn && this.become("listening"));
    client.addEventListener("lost", ({detail}) => this.fail(detail));
  }

  send(samples) {
    if (this.client) this.client.send(samples);
    else (this.early ??= []).push(samples);
    this.say("level", samples);
  }

  // After a lost connection the open segment is transcribed again: what was on the page stays until as much has come.
  update() {
    const {text, stable, segments, transcript} = this.client;
    const isBehind = text.length < this.block.text.length && segments.length <= this.block.segments.length;
    if (this.isCatchingUp && isBehind && !this.client.isEnded) return;
    this.isCatchingUp = false;
    this.block.update(text, stable, segments, transcript.closedMs);
    this.say("text");
  }

  get isOn() {
    return ["connecting", "listening", "reconnecting"].includes(this.state);
  }

  // Resolves when the last words have come, or failed to.
  stop() {
    return (this.stopping ??= this.finish());
  }

  async finish() {
    if (!this.isOn) return;
    this.become("finishing");
    this.source.stop();
    const late = new Promise((_, reject) => setTimeout(() => reject(new Error("the server did not answer in time")), CLOSE_WAIT_MS));
    try {
      await Promise.race([this.client?.close(), late]);
      if (this.client) this.update();
      this.become("ended");
    } catch (error) {
      this.fail(new Error(`The last words may be missing: ${error.message}.`));
    }
  }

  fail(error) {
    if (this.state === "ended") return;
    this.source.stop();
    this.client?.leave();
    this.say("failed", error);
    this.become("ended");
  }

  become(state, detail) {
    this.state = state;
    this.dispatchEvent(new CustomEvent("state", {detail: {state, error: detail}}));
  }

  say(name, detail) {
    this.dispatchEvent(new CustomEvent(name, {detail}));
  }
}
