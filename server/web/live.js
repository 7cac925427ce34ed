// One time at the microphone, in a tab's audio or through the sample: audio goes to the server, text into a block of the transcript.

import {MoonshineClient} from "./moonshine-client.js";
import {AudioSession} from "./session.js";
import {Block} from "./transcript.js";

const RESUME_MS = 10 * 60 * 1000; // for so long the audio is held while the server cannot be reached
const CLOSE_WAIT_MS = 20000;

// Beside the events of every session: "text".
export class LiveSession extends AudioSession {
  constructor(source, options) {
    super(source);
    this.options = options;
    this.block = new Block({name: source.name});
  }

  async connect() {
    this.client = new MoonshineClient({...this.options, sampleRate: this.source.rate, resumeMs: RESUME_MS});
    this.listenTo(this.client);
    this.sendTo(this.client);
    await this.client.connect();
    this.hasConnected = true;
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

  // After a lost connection the open segment is transcribed again: what was on the page stays until as much has come.
  update() {
    const {text, stable, segments, transcript} = this.client;
    const isBehind = text.length < this.block.text.length && segments.length <= this.block.segments.length;
    if (this.isCatchingUp && isBehind && !this.client.isEnded) return;
    this.isCatchingUp = false;
    this.block.update(text, stable, segments, transcript.closedMs);
    this.say("text");
  }

  async close() {
    const late = new Promise((_, reject) => setTimeout(() => reject(new Error("the server did not answer in time")), CLOSE_WAIT_MS));
    await Promise.race([this.client.close(), late]).catch((error) => {
      throw new Error(`The last words may be missing: ${error.message}.`);
    });
    this.update();
  }
}
