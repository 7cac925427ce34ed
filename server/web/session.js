// One run of a source of audio, until it ends or somebody presses Stop. Subclasses connect() to whoever gets the audio, and close().
// Events: "state" (detail: {state, error}; connecting, listening, reconnecting, finishing or ended), "message" (detail), "level"
// (detail: samples), "warning" (detail: a sentence or ""), "failed" (detail: an Error with its reason).
export class AudioSession extends EventTarget {
  state = "connecting";
  receiver = null; // has send(samples)
  early = []; // audio from before there was a receiver

  constructor(source) {
    super();
    this.source = source;
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
      await this.connect();
      if (this.isOn) this.become("listening");
    } catch (error) {
      this.fail(error);
    }
  }

  get isOn() {
    return ["connecting", "listening", "reconnecting"].includes(this.state);
  }

  sendTo(receiver) {
    this.receiver = receiver;
    for (const samples of this.early.splice(0)) receiver.send(samples);
  }

  send(samples) {
    if (this.receiver) this.receiver.send(samples);
    else this.early.push(samples);
    this.say("level", samples);
  }

  // Resolves when the last words have come, or failed to.
  stop() {
    return (this.stopping ??= this.finish());
  }

  async finish() {
    if (!this.isOn) return;
    this.become("finishing");
    this.source.stop();
    try {
      if (this.receiver) await this.close();
      this.become("ended");
    } catch (error) {
      this.fail(error);
    }
  }

  fail(error) {
    if (this.state === "ended") return;
    this.source.stop();
    this.receiver?.leave?.();
    this.say("failed", error);
    this.become("ended");
  }

  become(state, error) {
    this.state = state;
    this.say("state", {state, error});
  }

  say(name, detail) {
    this.dispatchEvent(new CustomEvent(name, {detail}));
  }
}
