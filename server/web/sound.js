// Sources of live audio. Each gives Int16Array pieces, mono, at its rate, until it is stopped or ends by itself.

const LOOK_MS = 1000;
const SILENT_MS = 5000; // without audio from the browser: something is wrong with it
const PACE_MS = 40;

// A microphone or a tab. Events: "samples" (detail), "warning" (detail: a sentence, or "" when all is well again), "ended".
export class MediaSource extends EventTarget {
  warning = "";
  isStopped = false;

  // open: resolves to a MediaStream. refused, ended: sentences for a person who said no, and for a stream that ends by itself.
  constructor(open, {name, refused, ended}) {
    super();
    Object.assign(this, {open, name, refused, ended});
  }

  async start() {
    const media = await this.opened();
    this.context = new AudioContext();
    this.rate = this.context.sampleRate;
    await this.context.audioWorklet.addModule(new URL("capture.js", import.meta.url));
    if (this.isStopped) {
      stopTracks(media);
      return this.context.close();
    }
    this.capture = new AudioWorkletNode(this.context, "capture");
    this.capture.port.onmessage = ({data}) => this.pass(data);
    this.receivedAt = performance.now();
    this.context.onstatechange = () => this.look();
    this.watching = setInterval(() => this.look(), LOOK_MS);
    this.use(media);
  }

  // The person may have pressed Stop before the browser's question was answered.
  async opened() {
    const media = await this.open().catch((error) => {
      throw error.name === "NotAllowedError" ? new Error(this.refused) : error;
    });
    if (this.isStopped || !media.getAudioTracks().length) {
      stopTracks(media);
      throw new Error(this.isStopped ? "Stopped." : "No audio is shared: tick “Share tab audio” in the browser's dialog.");
    }
    return media;
  }

  // Another device or other settings, while it runs.
  async change() {
    const media = await this.opened();
    this.node.disconnect();
    stopTracks(this.media);
    this.use(media);
  }

  use(media) {
    this.media = media;
    this.node = this.context.createMediaStreamSource(media);
    this.node.connect(this.capture);
    const [track] = media.getAudioTracks();
    track.onended = () => this.dispatchEvent(new CustomEvent("ended", {detail: this.ended}));
    track.onmute = () => this.warn("The microphone is muted by the system or by a switch on it.");
    track.onunmute = () => this.warn("");
  }

  pass(samples) {
    if (this.isStopped) return;
    this.receivedAt = performance.now();
    this.dispatchEvent(new CustomEvent("samples", {detail: samples}));
  }

  // A call, the lock screen or another program may take the audio away: browsers suspend the context and report nothing.
  look() {
    if (this.isStopped || !this.context) return;
    if (this.context.state !== "running") {
      this.context.resume().catch(() => {}); // Firefox answers only when it runs again
      return this.warn("The browser has paused the audio. Touch the page to go on.");
    }
    const isSilent = performance.now() - this.receivedAt > SILENT_MS;
    if (isSilent) this.warn("No audio comes from the browser. Is another program using the microphone?");
    else if (this.warning && !this.media?.getAudioTracks()[0].muted) this.warn("");
  }

  warn(warning) {
    if (this.isStopped || this.warning === warning) return;
    this.warning = warning;
    this.dispatchEvent(new CustomEvent("warning", {detail: warning}));
  }

  stop() {
    if (this.isStopped) return;
    this.isStopped = true;
    clearInterval(this.watching);
    if (this.media) stopTracks(this.media);
    this.context?.close();
  }
}

function stopTracks(media) {
  for (const track of media.getTracks()) track.stop();
}

// The sample, played aloud and passed on as fast as it plays. Browsers give pages over plain http no worklet: a timer does without.
export class SampleSource extends EventTarget {
  rate = 16000;
  name = "Sample: A Tale of Two Cities";
  isStopped = false;

  async start() {
    const url = new URL("sample.flac", import.meta.url);
    this.samples = pcmOf(await decoded(await (await fetch(url)).arrayBuffer(), this.rate));
    if (this.isStopped) return;
    this.player = new Audio(url);
    this.player.play().catch(() => {}); // a machine without loudspeakers transcribes it all the same
    this.startedAt = performance.now();
    this.sent = 0;
    this.pacing = setInterval(() => this.pass(), PACE_MS);
  }

  pass() {
    const until = Math.min(this.samples.length, Math.round(((performance.now() - this.startedAt) / 1000) * this.rate));
    if (until > this.sent) this.dispatchEvent(new CustomEvent("samples", {detail: this.samples.slice(this.sent, until)}));
    this.sent = until;
    if (until < this.samples.length) return;
    clearInterval(this.pacing);
    this.dispatchEvent(new Event("ended"));
  }

  look() {}

  stop() {
    this.isStopped = true;
    clearInterval(this.pacing);
    this.player?.pause();
  }
}

async function decoded(data, rate) {
  return new OfflineAudioContext(1, rate, rate).decodeAudioData(data);
}

function pcmOf(buffer) {
  return Int16Array.from(buffer.getChannelData(0), (level) => Math.round(Math.max(-1, Math.min(1, level)) * 32767));
}

export function levelOf(samples) {
  let sum = 0;
  for (const sample of samples) sum += sample * sample;
  return 10 * Math.log10(sum / samples.length / 32768 ** 2 + 1e-9);
}

// A sentence for what getUserMedia answered.
export function reasonOf(error) {
  if (error.name === "NotFoundError") return "There is no microphone. Connect one and press the button again, or play the sample.";
  if (error.name === "NotReadableError") return "The microphone is in use by another program. Close that program, then press the button again.";
  return error.message;
}
