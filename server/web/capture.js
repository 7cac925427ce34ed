// Runs beside the page's audio: passes on what the microphone hears as 16-bit samples, 20 ms or so at a time.
class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.size = Math.round(sampleRate / 50);
    this.begin();
  }

  begin() {
    this.samples = new Int16Array(this.size);
    this.count = 0;
  }

  process([channels]) {
    if (!channels.length) return true;
    for (let index = 0; index < channels[0].length; index++) {
      let sum = 0;
      for (const channel of channels) sum += channel[index];
      const level = Math.max(-1, Math.min(1, sum / channels.length));
      this.samples[this.count++] = Math.round(level * 32767);
      if (this.count === this.size) {
        this.port.postMessage(this.samples, [this.samples.buffer]);
        this.begin();
      }
    }
    return true;
  }
}

registerProcessor("capture", Capture);
